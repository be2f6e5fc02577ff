"""Tiles: cores that are kept, halos that are seen and thrown away, windows for guidance, and the self-ensemble.

::

    ┌─────────────┐
    │    halo     │   The network sees core and halo; the core alone is kept. Away from the picture's edges
    │  ┌───────┐  │   no pixel of a core then differs from what the whole picture at once would have given,
    │  │ core  │  │   but for rounding.
    │  └───────┘  │
    └─────────────┘

All tiles of a picture have one shape, so that one compiled graph serves them; at the picture's edges, where there is no
halo to see, the cores are larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unjpeg.errors import ModelError
from unjpeg.modelfile import MAX_GUIDE_WINDOWS, Description
from unjpeg.network import Guidance, Model
from unjpeg.parallel import work_ahead
from unjpeg.runtimes import ChosenPrecision, holds_halves

__all__ = [
    "HALOS",
    "MAX_CORE",
    "SEAM_GRID",
    "WHOLE_ENSEMBLE",
    "Plan",
    "Span",
    "Strips",
    "TiledNetwork",
    "Tiles",
    "Tiling",
    "guide_windows",
]

Tiles = Iterator[tuple[slice, NDArray[np.float32]]]
"""(columns, float32 pixels 0..255) of the tiles side by side in some rows, from left to right."""

Strips = Iterator[tuple[slice, Tiles]]
"""(rows, their tiles) from top to bottom. The tiles of one strip are taken before the next is asked for."""

SEAM_GRID: Final = 32
"""Cores meet at multiples of this: whole blocks at every usual chroma sampling."""

MAX_CORE = 1920
"""Side of the core of a square tile, at most."""

TILE_MEMORY_BYTES = 700_000_000
"""What the network may hold of one tile, about: wide networks get smaller tiles, down to the smallest core."""

CORE_IN_HALOS = 5
"""Side of the smallest square core, in halos: no network, however wide, computes much more than twice the picture. It
may take more than ``TILE_MEMORY_BYTES`` for that: docs/robustness.md."""

HALOS: Mapping[ChosenPrecision, int] = {"full": 96, "bf16": 160, "int8": 192}
"""Pixels around the core that a tile sees and that are thrown away, at most, by the network's precision: rounding makes
whole steps of small differences, and carries them further. Chosen by measurement, so that no pixel differs by a level
from the whole picture's: docs/research/results.md."""

FELT_SHARES: Mapping[ChosenPrecision, float] = {"full": 0.5, "bf16": 0.8, "int8": 0.85}
"""How far away a pixel is felt by a level, as a share of how far the network reaches at all: small ones need smaller
halos. Measured as the halos were."""

PIXEL_BYTES: Mapping[ChosenPrecision, tuple[float, float]] = {
    "full": (45, 17.5),
    "bf16": (45, 6.5),
    "int8": (45, 15),
}
"""What the engine holds of a tile's pixel, by precision: always, and for each channel that its first scale has a pixel.
Measured with OpenVINO on tiles of a fixed shape."""

HALVES_AND_INTEGERS_BYTES = (36, 7.5)
"""The same of integers beside 16-bit floats."""

WHOLE_ENSEMBLE: Final = 8
"""Passes of a whole self-ensemble: all flips and rotations."""

TURNED_MULTIPLE = 32
"""Sides of a tile that is flipped and turned: whole blocks at every chroma sampling, as a core's, so that blocks come
to lie on blocks."""


class Span(NamedTuple):
    """A tile along one axis: what is kept of it, and what it sees, which may reach beyond the picture."""

    core: slice
    seen: slice


class Plan(NamedTuple):
    """Where the tiles of a picture lie. All see equally many rows and columns."""

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns that a tile sees."""
        down, across = self.rows[0].seen, self.columns[0].seen
        return down.stop - down.start, across.stop - across.start

    @property
    def computed_pixels(self) -> int:
        """What the network computes, halos included."""
        return math.prod(self.shape) * len(self.rows) * len(self.columns)


@dataclass(frozen=True, slots=True)
class Tiling:
    """How large tiles may be. Sides in pixels; both are multiples of the network's total stride, and the core of 32.

    Attributes:
        core: of the part of a square tile that is kept. Others have no more pixels, halo included.
        halo: how far a tile sees beyond its core.
    """

    core: int
    halo: int

    @classmethod
    def suited_to(cls, description: Description, precision: ChosenPrecision) -> Tiling:
        """The largest core that the network's memory allows, and the halo that its precision needs."""
        channels = description.network.get("width", 64) / description.network.get("stem", 1) ** 2
        felt = FELT_SHARES[precision] * _reach(description)
        halo = min(HALOS[precision], _up_to_multiple(math.ceil(felt), SEAM_GRID))
        halves = precision == "int8" and holds_halves(precision)
        always, each = HALVES_AND_INTEGERS_BYTES if halves else PIXEL_BYTES[precision]
        side = int((TILE_MEMORY_BYTES / (always + each * channels)) ** 0.5) - 2 * halo
        return cls(min(MAX_CORE, max(CORE_IN_HALOS * halo, side) // SEAM_GRID * SEAM_GRID), halo)

    def seen_pixels(self, height: int, width: int) -> int:
        """Pixels that the network sees of such a picture in one pass, halos counted: what its work grows with."""
        return self.plan(height, width, 1).computed_pixels  # what pads a picture to the network's stride is few

    def computed_share(self, height: int, width: int) -> float:
        """Pixels that the network computes for each of a picture's, 1 or more: halos are computed and thrown away."""
        return self.seen_pixels(height, width) / (height * width)

    def plan(self, height: int, width: int, multiple: int, grid: int = SEAM_GRID) -> Plan:
        """The tiles of a picture that make the network compute least.

        Args:
            multiple: of which the tiles' sides and where they start are multiples.
            grid: cores meet at multiples of this.
        """
        most = (self.core + 2 * self.halo) ** 2
        unit = math.lcm(grid, multiple)
        halo = _up_to_multiple(self.halo, unit)  # what a seam costs, wherever between two multiples the halo ends
        smallest = 2 * halo + unit
        bottom, right = _up_to_multiple(height, multiple), _up_to_multiple(width, multiple)

        def side_of(length: int, tiles: int) -> int:
            return min(length, _up_to_multiple(-(-(length + 2 * halo * (tiles - 1)) // tiles), unit))

        best: tuple[int, int, int] | None = None
        for down in count(1):
            side = side_of(bottom, down)
            room = most // side
            across = 1 if right <= room else -(-(right - 2 * halo) // max(1, room // unit * unit - 2 * halo))
            other = side_of(right, max(1, across))
            if (across <= 1 or other >= smallest) and side * other <= most:
                computed = side * other * down * max(1, across)
                if best is None or computed < best[0]:
                    best = computed, side, other
            if side <= smallest:
                break
        _, side, other = best or (0, min(smallest, bottom), min(smallest, right))
        return Plan(tuple(self._spans(height, side, multiple, grid)), tuple(self._spans(width, other, multiple, grid)))

    def _spans(self, length: int, side: int, multiple: int, grid: int) -> Iterator[Span]:
        end, top = _up_to_multiple(length, multiple), 0
        while True:
            start = max(0, top - self.halo) // multiple * multiple
            if start + side >= end:
                # Moved back, not padded: beyond its edge the picture would look another way to the network.
                yield Span(slice(top, length), slice(end - side, end))
                return
            bottom = (start + side - self.halo) // grid * grid
            yield Span(slice(top, bottom), slice(start, start + side))
            top = bottom


def _reach(description: Description) -> int:
    """How far, in pixels, anything can be felt in the output, by the network's 3x3 convolutions."""
    network = description.network
    scales, blocks, stem = (network.get(*default) for default in (("scales", 4), ("blocks", 4), ("stem", 1)))
    sides = [stem * 2**scale for scale in range(scales)]  # of a scale's pixel, in the picture's
    blocks_of_scale = [3 * blocks] * (scales - 1) + [2 * blocks]  # down and twice up again; the last has a bottleneck
    convolutions = sum(2 * count * side for count, side in zip(blocks_of_scale, sides, strict=True)) + 2 * stem
    return int(convolutions) + (12 if network.get("input") == "detail" else 0)  # its means are 8 wide, interpolated


def _up_to_multiple(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


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

    def plan(self, shape: tuple[int, ...], passes: int = 1, grid: int = SEAM_GRID) -> Plan:
        """The tiles of a picture of shape ``(H, W)`` or ``(H, W, C)``."""
        stride = self.model.total_stride
        multiple = stride if passes == 1 else math.lcm(stride, TURNED_MULTIPLE)
        return self.tiling.plan(shape[0], shape[1], multiple, grid)

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
            progress: called with the finished share, 0..1: at the start, and after each pass over each tile.
        """
        whole = np.empty(pixels.shape, np.float32)
        plan = self.plan(pixels.shape, passes)
        parts = len(plan.rows) * len(plan.columns) * passes
        done = -1

        def step() -> None:
            nonlocal done
            done += 1
            if progress:
                progress(done / parts)

        step()
        tiles = self._restore_tiles(pixels, guidance, plan, passes, step)
        for rows in plan.rows:
            for columns, tile in islice(tiles, len(plan.columns)):
                whole[rows.core, columns] = tile
        return whole

    def restore_ahead(
        self, pixels: NDArray[np.uint8], guidance: Guidance, passes: int = 1, grid: int = SEAM_GRID
    ) -> Strips:
        """The picture's strips, each with its tiles.

        While a tile is finished and encoded the network works on the next.

        Args:
            passes: 1, or over how many flips (4), or flips and rotations (8), each tile is the mean.
            grid: tiles meet at multiples of this.
        """
        plan = self.plan(pixels.shape, passes, grid)
        tiles = self._restore_tiles(pixels, guidance, plan, passes)
        if len(plan.rows) * len(plan.columns) > 1:
            tiles = work_ahead(tiles)
        for rows in plan.rows:
            yield rows.core, islice(tiles, len(plan.columns))

    def _restore_tiles(
        self,
        pixels: NDArray[np.uint8],
        guidance: Guidance,
        plan: Plan,
        passes: int,
        after_pass: Callable[[], None] = lambda: None,
    ) -> Tiles:
        shaped = self.model.shaped(plan.shape, plan.computed_pixels * passes)

        def restore(seen: NDArray[np.uint8], under: Guidance) -> NDArray[np.float32]:
            return self.model.restore_pixels(seen, under, shaped)

        for rows in plan.rows:
            for columns in plan.columns:
                seen = _cut_out(pixels, rows.seen, columns.seen)
                if passes == 1:
                    whole = restore(seen, guidance)
                    after_pass()
                else:
                    whole = _self_ensemble(restore, seen, guidance, passes, after_pass)
                core = whole[_within(rows), _within(columns)]
                yield columns.core, core.mean(axis=2) if pixels.ndim == 2 else core


def _within(span: Span) -> slice:
    """Where the core lies in what its tile sees."""
    return slice(span.core.start - span.seen.start, span.core.stop - span.seen.start)


def _self_ensemble(
    restore: Callable[[NDArray[np.uint8], Guidance], NDArray[np.float32]],
    seen: NDArray[np.uint8],
    guidance: Guidance,
    passes: int,
    after_pass: Callable[[], None],
) -> NDArray[np.float32]:
    """The mean over a tile's eight flips and rotations, or over the four that keep rows rows.

    Each is restored and turned back. As ``Model.restore_pixels``.
    """
    total = np.zeros((*seen.shape[:2], 3), np.float32)
    for step in (1, -1):
        for turns in range(0, 4, WHOLE_ENSEMBLE // passes):
            turned = np.ascontiguousarray(np.rot90(seen[:, ::step], turns))
            under = guidance.transposed() if turns % 2 else guidance
            total += np.rot90(restore(turned, under), -turns)[:, ::step]
            after_pass()
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


def _cut_out(pixels: NDArray[np.uint8], rows: slice, columns: slice) -> NDArray[np.uint8]:
    """A rectangle. Beyond the picture its edge goes on, as JPEG encoders repeat it."""
    seen = pixels[rows, columns]
    pad = [(0, rows.stop - rows.start - seen.shape[0]), (0, columns.stop - columns.start - seen.shape[1])]
    return np.pad(seen, pad + [(0, 0)] * (pixels.ndim - 2), mode="edge") if any(after for _, after in pad) else seen
