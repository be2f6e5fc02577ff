"""A DAGN in torch as a method: what a model file cannot hold is measured as what it can hold is.

A model file's guidance is the mean of windows as large as the training's patches. A softmax over averaged tokens, or a
map of a whole picture, would be something that the network never saw in training: there every feature lies in one
window. So tokens of all windows stand side by side here, and the map is put together of windows edge to edge.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from unjpeg.evaluate.method import Method
from unjpeg.evaluate.pairs import Pixels8
from unjpeg.modelfile import MAX_GUIDE_WINDOWS
from unjpeg.models import Dagn, GuidanceTensors
from unjpeg.models.autoencoder import TOTAL_STRIDE
from unjpeg.picture import read_picture
from unjpeg.tables import STATED_FEATURES
from unjpeg.tiling import guide_windows
from unjpeg.train.run import to_pixels, to_unit_range

__all__ = ["WindowedDagn"]

BATCH = 32
"""Windows that the encoder sees at once."""


class WindowedDagn(Method):
    """A network under the guidance of a picture's windows, as ``Restorer`` gives it. Consistency is off.

    Args:
        network: any DAGN, whatever its guidance is made of.
        window: side of the windows, a multiple of 16: of the patches that it was trained on.
        identity: which weights these are.
    """

    def __init__(self, network: Dagn, window: int, identity: str) -> None:
        if window < TOTAL_STRIDE or window % TOTAL_STRIDE:
            raise ValueError(f"a window is a multiple of {TOTAL_STRIDE} pixels, got {window}")
        self.name = self.spec = "windowed"
        self.identity = identity
        self._network, self._window = network.eval(), window

    @torch.no_grad()
    def restore(self, file: bytes) -> Pixels8:
        picture = read_picture(file)
        pixels = picture.pixels
        stated = picture.jpeg.stated if picture.jpeg else np.zeros(STATED_FEATURES, np.float32)
        colour = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels
        height, width = colour.shape[:2]
        guidance = self._guide(colour)._replace(stated=torch.from_numpy(stated[None].copy()))
        shown = _to_batch([_pad(colour, self._network.config.total_stride)])
        if self._network.config.insensitive_features == "map":
            guidance = guidance._replace(insensitive=self._map(colour, shown))
        restored = self._network.restore(shown, guidance)[0, :, :height, :width]
        return to_pixels(restored) if pixels.ndim == 3 else to_pixels(restored.mean(0, keepdim=True))[..., 0]

    def _guide(self, pixels: Pixels8) -> GuidanceTensors:
        """Of a sample of windows, as a model file's."""
        parts = self._see(list(guide_windows(pixels, self._window, MAX_GUIDE_WINDOWS)))
        sensitive, stated = (part.mean(0, keepdim=True) for part in (parts.sensitive, parts.stated))
        insensitive = parts.insensitive.mean(0, keepdim=True)
        if self._network.config.fusion_kind == "softmax":
            fusion = parts.fusion.transpose(0, 1).flatten(1)[None]
        else:
            fusion = parts.fusion.mean(0, keepdim=True)
        return GuidanceTensors(insensitive, sensitive, fusion, stated)

    def _map(self, pixels: Pixels8, shown: Tensor) -> Tensor:
        """Features of windows edge to edge, as large as the network's input."""
        side, cells = self._window, self._window // TOTAL_STRIDE
        whole = _pad(pixels, side)
        rows, columns = (n // side for n in whole.shape[:2])
        tops, lefts = range(0, side * rows, side), range(0, side * columns, side)
        windows = [whole[top : top + side, left : left + side] for top in tops for left in lefts]
        features = self._see(windows).insensitive
        grid = features.reshape(rows, columns, -1, cells, cells).permute(2, 0, 3, 1, 4)
        joined = grid.reshape(1, -1, rows * cells, columns * cells)
        height, width = (-(-n // TOTAL_STRIDE) for n in shown.shape[2:])
        beyond = (0, max(0, width - joined.shape[3]), 0, max(0, height - joined.shape[2]))
        return functional.pad(joined, beyond, mode="replicate")[..., :height, :width]

    def _see(self, windows: Sequence[NDArray[np.uint8]]) -> GuidanceTensors:
        """Each window's own guidance."""
        batches = [self._network.guide(_to_batch(windows[i : i + BATCH])) for i in range(0, len(windows), BATCH)]
        return GuidanceTensors(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


def _pad(pixels: Pixels8, multiple: int) -> Pixels8:
    """Its edge goes on until both sides are multiples. Shape: ``(H, W, 3)``."""
    return np.pad(pixels, [(0, -n % multiple) for n in pixels.shape[:2]] + [(0, 0)], mode="edge")


def _to_batch(windows: Sequence[NDArray[np.uint8]]) -> Tensor:
    return to_unit_range(torch.from_numpy(np.stack(windows)).permute(0, 3, 1, 2))
