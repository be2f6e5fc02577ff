"""Torch networks as methods: our ARCNN, DnCNN and RDN, and every image model that spandrel can load.

A network of one channel restores the luma of a colour picture; its chroma stays as decoded, as the papers of ARCNN and
DnCNN have it. A network of three channels is shown a grey picture three times, and the mean of its channels is taken.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unjpeg.dct import rgb_from_ycc, ycc_from_rgb
from unjpeg.errors import MeasurementError, TrainingError, UnjpegError
from unjpeg.evaluate.complexity import SIDE
from unjpeg.evaluate.method import Complexity, Method
from unjpeg.evaluate.pairs import Pixels8, decode
from unjpeg.models import BACKBONES, Backbone, make_backbone
from unjpeg.train.checkpoint import Checkpoint, select
from unjpeg.version import source_hash

__all__ = ["BackboneMethod", "SpandrelMethod", "load_network"]

NETWORKS = (
    *("models.arcnn", "models.autoencoder", "models.backbone", "models.backbones", "models.blocks", "models.dagn"),
    *("models.dncnn", "models.integers", "models.rdn", "models.split_dagn"),
)
"""Modules of this package that our own networks are built of."""

_CONFIGS = {config.__name__: config for config in BACKBONES}


class _NetworkMethod(Method):
    """A network on the CPU, float32.

    Args:
        path: where it came from; its name is the file's.
        module: what is counted.
        channels: 1 or 3.
        code: which version of the program computes it; torch's and this module's are added.
    """

    def __init__(self, path: Path, module: nn.Module, channels: int, code: str) -> None:
        self.name, self.spec = path.stem, str(path)
        weights = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        self.identity = f"{weights} {code} {source_hash('dct', 'evaluate.networks')} torch {torch.__version__}"
        self._module, self._channels = module, channels

    @abstractmethod
    def _apply(self, image: Tensor) -> Tensor:
        """``(1, channels, H, W)``, range 0..1, to the same, not clipped."""

    def restore(self, file: bytes) -> Pixels8:
        decoded = decode(file).astype(np.float32)
        if decoded.ndim == 2:
            planes = self._restore_planes(np.repeat(decoded[None], self._channels, axis=0)).mean(axis=0)
        elif self._channels == 3:
            planes = self._restore_planes(decoded.transpose(2, 0, 1)).transpose(1, 2, 0)
        else:
            ycc = ycc_from_rgb(decoded)
            ycc[..., 0] = self._restore_planes(ycc[None, ..., 0])[0]
            planes = rgb_from_ycc(ycc)
        rounded: Pixels8 = np.rint(np.clip(planes, 0, 255)).astype(np.uint8)
        return rounded

    def count_complexity(self) -> Complexity | None:
        parameters = sum(parameter.numel() for parameter in self._module.parameters())
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            self._apply(torch.zeros(1, self._channels, SIDE, SIDE))
        return Complexity(parameters / 1e6, counter.get_total_flops() / 2e9)

    def _restore_planes(self, planes: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        with torch.no_grad():
            image = torch.from_numpy(np.ascontiguousarray(planes)[None]) / 255
            restored: np.ndarray[Any, np.dtype[np.float32]] = self._apply(image)[0].float().numpy() * np.float32(255)
        return restored


class BackboneMethod(_NetworkMethod):
    """A network that our recipes for CARN-DA or the compared networks have trained. Raises MeasurementError."""

    def __init__(self, path: Path) -> None:
        try:
            checkpoint = Checkpoint.load(path)
            stored = dict(checkpoint.config["backbone"])
            config: Any = _CONFIGS[stored.pop("kind")]
            known = {field.name for field in fields(config)}
            self._network: Backbone = make_backbone(
                config(**{k: tuple(v) if isinstance(v, list) else v for k, v in stored.items() if k in known})
            )
            self._network.load_state_dict(select(checkpoint.tensors, "model"))
        except (TrainingError, KeyError, TypeError, RuntimeError) as error:
            raise MeasurementError(f"{path}: holds no network that can be measured ({error})") from error
        self._network.eval()
        super().__init__(path, self._network, self._network.image_channels, source_hash(*NETWORKS))

    def _apply(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        stride = self._network.total_stride
        padded = nn.functional.pad(image, (0, -width % stride, 0, -height % stride), mode="replicate")
        restored: Tensor = self._network(padded)
        return restored[..., :height, :width]


class SpandrelMethod(_NetworkMethod):
    """A checkpoint that spandrel recognises: FBCNN, SwinIR, GRL, ... It owns padding and value range.

    Raises MeasurementError, if spandrel is not there, does not know the file, or it is no restorer of the same size.
    """

    def __init__(self, path: Path) -> None:
        try:
            import spandrel
        except ImportError as error:
            raise MeasurementError(f"{path}: needs spandrel ({error}): pip install 'unjpeg[spandrel]'") from error
        try:
            self._descriptor: Any = spandrel.ModelLoader(device="cpu").load_from_file(path)
        except Exception as error:  # unknown architectures, damaged files: spandrel's, torch's and pickle's own
            raise MeasurementError(f"{path}: spandrel cannot load it ({error})") from error
        if not isinstance(self._descriptor, spandrel.ImageModelDescriptor) or self._descriptor.scale != 1:
            raise MeasurementError(f"{path}: is no network that restores a picture at its own size")
        channels = self._descriptor.input_channels
        if channels not in (1, 3) or channels != self._descriptor.output_channels:
            raise MeasurementError(f"{path}: takes {channels} channels; only 1 and 3 can be measured")
        self._descriptor.eval()
        code = f"spandrel {getattr(spandrel, '__version__', '')}".rstrip()
        super().__init__(path, self._descriptor.model, channels, code)

    def _apply(self, image: Tensor) -> Tensor:
        try:
            restored: Tensor = self._descriptor(image)
        except RuntimeError as error:
            raise MeasurementError(f"{self.name}: cannot restore {tuple(image.shape)} ({error})") from error
        return restored


def load_network(path: Path) -> Method:
    """Our own checkpoint if it is one, else what spandrel makes of it. Raises MeasurementError."""
    if path.suffix != ".safetensors":  # spandrel would unpickle others
        raise MeasurementError(f"{path}: is no safetensors file; convert it first: no pickle is loaded here")
    try:
        Checkpoint.load(path)
    except UnjpegError:
        return SpandrelMethod(path)
    return BackboneMethod(path)
