"""Networks that others have trained and published, as files that ``unjpeg benchmark`` takes.

``python -m studies.peers dncnn3 DnCNN3.mat --out runs/compared/dncnn3.safetensors`` converts DnCNN-3 (Zhang et al.,
2017), grey and blind, ``model/DnCNN3.mat`` of https://github.com/cszn/DnCNN; then::

    unjpeg benchmark classic5 --method jpeg --method runs/compared/dncnn3.safetensors --method default
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn

from unjpeg.console import run_safely
from unjpeg.errors import MeasurementError, SettingError
from unjpeg.models import DnCnnConfig
from unjpeg.models.dncnn import DnCnn
from unjpeg.train.checkpoint import Checkpoint, collect_tensors

__all__ = ["PEERS", "convert_dncnn", "main", "read_convolutions"]

Floats = NDArray[np.float32]

PEERS = ("dncnn3",)


def read_convolutions(path: Path) -> list[tuple[Floats, Floats]]:
    """Weights ``(out, in, 3, 3)`` and biases ``(out,)`` of a plain stack that MatConvNet has saved (MATLAB 7.3).

    Raises:
        SettingError: there is no such file, or h5py is not installed.
        MeasurementError: it holds no convolutions and ReLUs by turns.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise SettingError("h5py is not installed: pip install 'unjpeg[peers]'") from error
    if not path.is_file():
        raise SettingError(f"{path}: no such file")
    try:
        with h5py.File(path) as file:
            layers = [file[reference] for reference in np.ravel(file["net/layers"][()])]
            kinds = ["".join(map(chr, np.ravel(layer["type"][()]))) for layer in layers]
            wanted = [("conv", "relu")[number % 2] for number in range(len(kinds))]
            if not kinds or kinds != wanted or kinds[-1] != "conv":
                raise ValueError(f"convolutions and ReLUs by turns are wanted, these are {', '.join(kinds) or 'none'}")
            found = []
            for layer in layers[::2]:
                weights, biases = (file[reference][()] for reference in np.ravel(layer["weights"][()]))
                # MATLAB's axes are stored backwards, and lack where the last of them are 1: (out, in, column, row).
                weights = weights[None] if weights.ndim == 3 else weights
                found.append((weights.transpose(0, 1, 3, 2).astype(np.float32), np.ravel(biases).astype(np.float32)))
        return found
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise MeasurementError(f"{path}: holds no network as MatConvNet saves one ({error})") from error


def convert_dncnn(path: Path) -> Checkpoint:
    """A DnCNN whose batch norms have become biases, as our own network. Raises as ``read_convolutions``."""
    stack = read_convolutions(path)
    width, channels = stack[0][0].shape[:2]
    shapes = [(width, channels, 3, 3), *[(width, width, 3, 3)] * (len(stack) - 2), (channels, width, 3, 3)]
    if len(stack) < 3 or [weights.shape for weights, _ in stack] != shapes:
        found = ", ".join(str(weights.shape) for weights, _ in stack)
        raise MeasurementError(f"{path}: holds no DnCNN: its convolutions are {found}")
    network = DnCnn(DnCnnConfig(width, len(stack), image_channels=channels))
    with torch.no_grad():
        for layer, (weights, biases) in zip(network.layers, stack, strict=True):
            parts = list(layer.modules())
            convolution = next(part for part in parts if isinstance(part, nn.Conv2d))
            _fill(convolution.weight, weights)
            norm = next((part for part in parts if isinstance(part, nn.BatchNorm2d)), None)
            if norm is None:
                _fill(convolution.bias, biases)
                continue
            # It divides by sqrt(1 + eps), and has the bias that the convolution lacks.
            norm.weight.fill_(math.sqrt(1 + norm.eps))
            _fill(norm.bias, biases)
    config: dict[str, Any] = {"backbone": {"kind": "DnCnnConfig", "width": width, "depth": len(stack)}}
    config["backbone"]["image_channels"] = channels
    source = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return Checkpoint(collect_tensors({"model": network}, {}), 0, config, source)


def _fill(parameter: Tensor | None, values: Floats) -> None:
    assert parameter is not None
    parameter.copy_(torch.from_numpy(np.ascontiguousarray(values)))


def main(
    name: Annotated[str, typer.Argument(metavar="NETWORK", help="dncnn3.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As published.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Checkpoint to write.")],
) -> None:
    """Convert a published network."""
    if name not in PEERS:
        raise SettingError(f"no network {name!r}; there are: {', '.join(PEERS)}")
    convert_dncnn(file).save(out)
    print(f"wrote {out}")


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
