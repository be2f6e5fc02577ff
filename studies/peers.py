"""Networks that others have trained and published, as files that ``unjpeg benchmark`` takes.

DnCNN-3 (Zhang et al., 2017), grey and blind, is ``model/DnCNN3.mat`` of https://github.com/cszn/DnCNN::

    python -m studies.peers convert dncnn3 DnCNN3.mat --out runs/compared/dncnn3.safetensors
    python -m studies.peers luma ../shared/data/test/live1 runs/live1-luma
    unjpeg benchmark classic5 set12 bsd68 runs/live1-luma --method jpeg \\
        --method runs/compared/dncnn3.safetensors --method fast --method default --out runs/bench/peers
    python -m studies.peers summary runs/bench/peers/results.json

The last one keeps of benchmarks what a table shows, in ``results/peers.json``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from unjpeg.console import run_safely
from unjpeg.datasets import image_files
from unjpeg.errors import MeasurementError, SettingError
from unjpeg.evaluate.pairs import load_image
from unjpeg.evaluate.results import load_results, put_results
from unjpeg.files import place_file
from unjpeg.models import DnCnnConfig
from unjpeg.models.dncnn import DnCnn
from unjpeg.train.checkpoint import Checkpoint, collect_tensors

__all__ = ["PEERS", "app", "convert_dncnn", "read_convolutions", "summarise"]

Floats = NDArray[np.float32]

PEERS = ("dncnn3",)

METRICS = ("psnr_db", "ssim", "psnr_b_db")

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)


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


def summarise(record: Mapping[str, Any]) -> dict[str, Any]:
    """Of a benchmark's record, the means of every method, its gain in PSNR over the first one, and what it costs."""
    out: dict[str, Any] = {}
    for set_name, per_degradation in record["summary"].items():
        for degradation, found in per_degradation.items():
            first = next(iter(found["methods"]))
            for name, means in found["methods"].items():
                figures: dict[str, Any] = {metric: means[metric]["mean"] for metric in METRICS}
                if name != first:
                    gain = found["differences"][f"{name} - {first}"]["psnr_db"]
                    figures["gain"] = {key: gain[key] for key in ("mean", "low", "high", "lower", "pictures")}
                out.setdefault(set_name, {}).setdefault(degradation, {})[name] = figures
    kept = {key: record[key] for key in ("unjpeg", "commit", "machine", "methods", "costs") if key in record}
    return {**kept, "summary": out}


@app.command()
def convert(
    name: Annotated[str, typer.Argument(metavar="NETWORK", help="dncnn3.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As published.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Checkpoint to write.")],
) -> None:
    """Make a file that unjpeg benchmark takes of a published network."""
    if name not in PEERS:
        raise SettingError(f"no network {name!r}; there are: {', '.join(PEERS)}")
    convert_dncnn(file).save(out)
    typer.echo(f"wrote {out}")


@app.command()
def luma(
    pictures: Annotated[Path, typer.Argument(metavar="DIR", help="Colour pictures.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to.")],
) -> None:
    """The luma of colour pictures as grey ones, 16..235 as MATLAB has it: what most papers measure."""
    for file in image_files(pictures):
        pixels = load_image(file)
        if pixels.ndim == 3:
            y = 16 + pixels.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255
            pixels = np.rint(y).astype(np.uint8)
        out.mkdir(parents=True, exist_ok=True)
        with place_file(out / f"{file.stem}.png", overwrite=True) as placed:
            Image.fromarray(pixels).save(placed, "PNG")
    typer.echo(f"wrote {out}")


@app.command()
def summary(
    records: Annotated[list[Path], typer.Argument(metavar="FILE...", help="results.json of benchmarks.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="What the documents' table is made of.")] = Path(
        "results/peers.json"
    ),
) -> None:
    """Keep of a benchmark what a table shows."""
    first, *others = [summarise(load_results(record)) for record in records]
    for other in others:
        if other["methods"] != first["methods"]:
            raise SettingError(f"{records[0]} is of other methods than the rest: measure all with the same ones")
        first["summary"] |= other["summary"]
    put_results(out, first)
    typer.echo(f"wrote {out}")


if __name__ == "__main__":
    run_safely(app)
