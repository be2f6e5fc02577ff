"""Tiles: cores that are kept, halos that are seen and thrown away, windows for guidance, and the self-ensemble.

::

    ┌─────────────┐
    │    halo     │   The network sees core and halo; the core alone is kept. Away from the picture's edges
    │  ┌───────┐  │   no pixel of a core then differs from what the whole picture at once would have given,
    │  │ core  │  │   but for rounding.
    │  └───────┘  │
    └─────────────┘
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from unjpeg.errors import ModelError
from unjpeg.modelfile import MAX_GUIDE_WINDOWS, Description
from unjpeg.network import Guidance, Model
from unjpeg.runtimes import ChosenPrecision

__all__ = [
    "HALOS",
    "MAX_CORE",
    "WHOLE_ENSEMBLE",
    "TiledNetwork",
    "Tiles",
    "Tiling",
    "guide_windows",
    "to_network",
    "work_ahead",
]

T = TypeVar("T")

Tiles = Iterator[tuple[slice, NDArray[np.float32]]]
"""(columns, float32 pixels 0..255) of the tiles side by side in some rows, from left to right."""

MAX_CORE = 1440
"""Side of the part of a tile that is kept, at most. A multiple of 32: whole blocks at every chroma sampling, whole
strides."""

TILE_MEMORY_BYTES = 570_000_000
"""What the network may hold of one tile, about: wide networks get smaller tiles, down to the smallest core."""

CORE_IN_HALOS = 5
"""Side of the smallest core, in halos: no network, however wide, computes much more than twice the picture. It may
take more than ``TILE_MEMORY_BYTES`` for that: docs/robustness.md."""

HALOS: Mapping[ChosenPrecision, int] = {"full": 96, "bf16": 160, "int8": 192}
"""Pixels around the core that a tile sees and that are thrown away, by the network's precision: rounding makes whole
steps of small differences, and carries them further. Chosen by measurement: docs/research/results.md."""

WHOLE_ENSEMBLE: Final = 8
"""Passes of a whole self-ensemble: all flips and rotations."""

TURNED_MULTIPLE = 32
"""Sides of a tile that is flipped and turned: whole blocks at every chroma sampling, as a core's, so that blocks come
to lie on blocks."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """Sides in pixels. Both are multiples of the network's total stride, and the core of 32.

    Attributes:
        core: of the part of a tile that is kept.
        halo: how far a tile sees beyond its core.
    """

    core: int
    halo: int

    def seen_pixels(self, height: int, width: int) -> int:
        """Pixels that the network sees of such a picture in one pass, halos counted: what its work grows with."""

        def seen(length: int) -> int:
            starts = range(0, length, self.core)
            return sum(min(length, start + self.core + self.halo) - max(0, start - self.halo) for start in starts)

        return seen(height) * seen(width)

    @classmethod
    def suited_to(cls, description: Description, precision: ChosenPrecision) -> Tiling:
        """The largest core that the network's memory allows, and the halo that its precision needs."""
        # A rule of thumb: some six maps of the first scale in float32 at once.
        channels = description.network.get("width", 64) / description.network.get("stem", 1) ** 2
        halo = HALOS[precision]
        side = int((TILE_MEMORY_BYTES / (24 * channels)) ** 0.5) - 2 * halo
        return cls(min(MAX_CORE, max(CORE_IN_HALOS * halo, side) // 96 * 96), halo)

    def computed_share(self, height: int, width: int) -> float:
        """Pixels that the network computes for each of a picture's, 1 or more: halos are computed and thrown away."""
        seen = [
            sum(
                min(size, start + self.core + self.halo) - max(0, start - self.halo)
                for start in range(0, size, self.core)
            )
            for size in (height, width)
        ]
        return seen[0] * seen[1] / (height * width)


class TiledNetwork:
    """A model that restores pictures of any size, tile by tile.

    Args:
        model: the network.
        tiling: None chooses by the network's width and precision.

    Raises:
        ModelError: the model's total stride does not divide the tiling.
    """

    def __init__(self, model: Model, tiling: Tiling | None = None) -> None:
        self.model = model
        self.tiling = tiling or Tiling.suited_to(model.file.description, model.precision)
        if self.tiling.halo % model.total_stride or self.tiling.core % model.total_stride:
            raise ModelError(
                f"{model.file.description.name}: its total stride of {model.total_stride} does not divide the tiles' "
                f"{self.tiling.core} and {self.tiling.halo} pixels"
            )

    def strips(self, height: int) -> Iterator[slice]:
        """The rows of each row of tiles, from top to bottom."""
        core = self.tiling.core
        return (slice(top, min(top + core, height)) for top in range(0, height, core))

    def restore_whole(
        self,
        pixels: NDArray[np.uint8],
        guidance: Guidance,
        passes: int = 1,
        progress: Callable[[float], None] | None = None,
    ) -> NDArray[np.float32]:
        """All of a picture, ``(H, W)`` or ``(H, W, 3)``, range 0..255 but not clipped to it.

        Args:
            passes: as ``restore_ahead`` takes them.
            progress: called with the finished share, 0..1: at the start, and after each tile.
        """
        whole = np.empty(pixels.shape, np.float32)
        done = 0
        if progress:
            progress(0.0)
        for rows in self.strips(pixels.shape[0]):
            for columns, tile in self._restore_strip(pixels, guidance, rows, passes):
                whole[rows, columns] = tile
                done += tile[..., 0].size if tile.ndim == 3 else tile.size
                if progress:
                    progress(done / (pixels.shape[0] * pixels.shape[1]))
        return whole

    def restore_ahead(self, pixels: NDArray[np.uint8], guidance: Guidance, passes: int = 1) -> Callable[[slice], Tiles]:
        """A function from the rows of each of ``strips``, asked for once and in order, to their tiles.

        While a tile is finished and encoded, which takes one core, the network works on the next.

        Args:
            passes: 1, or over how many flips (4), or flips and rotations (8), each tile is the mean.
        """
        (height, width), core = pixels.shape[:2], self.tiling.core
        strips = self.strips(height)
        tiles: Tiles = (tile for rows in strips for tile in self._restore_strip(pixels, guidance, rows, passes))
        if max(height, width) > core:
            tiles = work_ahead(tiles)
        return lambda rows: islice(tiles, -(-width // core))  # noqa: ARG005 (it is the next one's rows)

    def _restore_strip(self, pixels: NDArray[np.uint8], guidance: Guidance, rows: slice, passes: int) -> Tiles:
        width = pixels.shape[1]
        for left in range(0, width, self.tiling.core):
            columns = slice(left, min(left + self.tiling.core, width))
            yield columns, self._restore_tile(pixels, guidance, rows, columns, passes)

    def _restore_tile(
        self, pixels: NDArray[np.uint8], guidance: Guidance, rows: slice, columns: slice, passes: int
    ) -> NDArray[np.float32]:
        """The network's output for one core, seen with its halo."""
        (height, width), halo = pixels.shape[:2], self.tiling.halo
        y0, x0 = max(0, rows.start - halo), max(0, columns.start - halo)
        seen = pixels[y0 : min(height, rows.stop + halo), x0 : min(width, columns.stop + halo)]
        stride = self.model.total_stride
        tile = to_network(_pad_to_multiple(seen, stride if passes == 1 else math.lcm(stride, TURNED_MULTIPLE)))
        whole = self.model.restore(tile, guidance) if passes == 1 else self._self_ensemble(tile, guidance, passes)
        restored = whole[0, :, rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0]
        core = restored.mean(axis=0) if pixels.ndim == 2 else restored.transpose(1, 2, 0)
        return core * np.float32(255)

    def _self_ensemble(self, tile: NDArray[np.float32], guidance: Guidance, passes: int) -> NDArray[np.float32]:
        """The mean over a tile's eight flips and rotations, or over the four that keep rows rows.

        Each is restored and turned back. Shape as ``Model.restore``.
        """
        total = np.zeros_like(tile)
        for step in (1, -1):
            for turns in range(0, 4, WHOLE_ENSEMBLE // passes):
                turned = np.ascontiguousarray(np.rot90(tile[..., ::step], turns, axes=(2, 3)))
                under = guidance.transposed() if turns % 2 else guidance
                total += np.rot90(self.model.restore(turned, under), -turns, axes=(2, 3))[..., ::step]
        total *= np.float32(1 / passes)
        return total


def guide_windows(pixels: NDArray[np.uint8], side: int, most: int = MAX_GUIDE_WINDOWS) -> Iterator[NDArray[np.uint8]]:
    """At most so many windows on the 16x16 grid of 4:2:0's blocks, spread evenly over the picture.

    Shape: ``(H, W)`` or ``(H, W, 3)`` to windows of ``side`` x ``side`` pixels; smaller pictures are mirrored.
    """
    pixels = _mirror_to(pixels, side)
    height, width = pixels.shape[:2]
    across, down = -(-width // side), -(-height // side)
    if across * down > most:
        # As many rows to columns as the picture has, within the budget, and never none.
        down = min(down, most, max(1, int((most * down / across) ** 0.5)))
        across = min(across, most // down)
        down = min(down, most // across)
    for top in _even_starts(height - side, down):
        for left in _even_starts(width - side, across):
            yield pixels[top : top + side, left : left + side]


def to_network(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """``(H, W)`` or ``(H, W, 3)`` uint8 to ``(1, 3, H, W)`` float32, range 0..1."""
    colour = np.broadcast_to(pixels[..., None], (*pixels.shape, 3)) if pixels.ndim == 2 else pixels
    planes = np.ascontiguousarray(colour.transpose(2, 0, 1)[None], np.float32)
    planes *= np.float32(1 / 255)
    return planes


def work_ahead(items: Iterator[T]) -> Generator[T]:
    """The same items, none of them None; a thread makes the next one while one is in use."""
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(next, items, None)
        while (item := waiting.result()) is not None:
            waiting = thread.submit(next, items, None)
            yield item


def _even_starts(last: int, count: int) -> Iterator[int]:
    """``count`` positions from 0 to ``last`` on the 16-pixel grid, evenly; a single one in the middle."""
    for number in range(count):
        position = last * number // (count - 1) if count > 1 else last // 2
        yield position // 16 * 16


def _mirror_to(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Small pictures, mirrored at whole blocks until a window fits: the 8x8 grid goes on across the mirror."""
    height, width = (n if n < 8 else n // 8 * 8 for n in pixels.shape[:2])
    if min(height, width) >= side:
        return pixels
    whole = pixels[:height, :width] if min(height, width) >= 8 else pixels
    pad = [(0, max(0, side - n)) for n in whole.shape[:2]]
    return np.pad(whole, pad + [(0, 0)] * (pixels.ndim - 2), mode="symmetric")


def _pad_to_multiple(pixels: NDArray[np.uint8], multiple: int) -> NDArray[np.uint8]:
    """Grown at the bottom and the right by repeating the edge, as JPEG encoders do."""
    pad = [(0, -n % multiple) for n in pixels.shape[:2]]
    if not any(after for _, after in pad):
        return pixels
    return np.pad(pixels, pad + [(0, 0)] * (pixels.ndim - 2), mode="edge")
