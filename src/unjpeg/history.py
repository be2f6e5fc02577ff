"""What compressed a picture before its last file: where the 8x8 grid lay, with which steps; or nothing.

::

    pixels ─▶ windows ─▶ DCT at all 64 places of a grid ─▶ histograms ─▶ likelihood of each step ─▶ grid and tables
              a sample      a few low frequencies                                               ─▶ blocks that fit

On the grid of an earlier JPEG each DCT coefficient lies near a multiple of that file's step: a *comb*. Elsewhere it
does not. ``read_history`` compares, for each of the 64 places that a grid can have, the likelihood of "a smooth
density, quantised with step q, blurred by what came after" with that of the smooth density alone, which is what the
picture shows at all places together. So a picture is its own yardstick: ruled tables and dither, which show combs
everywhere, gain nothing by it.

Of pixels, what came after is rounding to integers. Of a JPEG it is that file's own quantisation, carried over to the
earlier grid; where both grids are one, the comb is looked for in the file's own coefficients.

How to use it::

    history = read_history(pixels)                # a PNG, an array, ...
    history = read_history(jpeg.pixels, jpeg)     # a JPEG: what came before it
    history.verdict                               # "compressed", "clean" or "undecided"
    for region in history.regions:                # one earlier JPEG each; empty unless "compressed"
        region.earlier                            # grid, tables, sampling
        recover(pixels, region, jpeg)             # unjpeg.recovery: its coefficients, as cells to project to

Letters in names: V and U block rows and columns, 88 the inside of a block, O a grid's place (8 * row + column), F a
frequency, S a step, B a histogram's bin, N windows or blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unjpeg.cleanness import CLEAN, DOUBTFUL, cleanness, drawing_is_clean, is_exactly_drawn, is_white_noise
from unjpeg.dct import BLOCK, RGB_TO_YCC, blocks_from_plane, dct_blocks
from unjpeg.jpeg import Component, JpegImage
from unjpeg.tables import standard_table
from unjpeg.upsampling import Upsampling, chroma_noise, plane_at_scale, upsampled

__all__ = ["Earlier", "History", "Region", "Verdict", "carried_noise", "read_history"]

Verdict = Literal["compressed", "clean", "undecided"]
"""Of what came before: a JPEG whose grid and tables are known; nothing lossy, on positive evidence; or nothing that can
be told, as of a JPEG that was scaled afterwards."""

MIN_SIDE, LEAST_SIDE = 64, 32
"""Pixels. In smaller pictures than the first no grid is looked for; smaller ones than the second stay undecided."""

PIXEL_NOISE = 0.36
"""Standard deviation, in levels, of a coefficient's error after YCbCr and then RGB were rounded to integers."""

_SPAN = 2 * BLOCK - 1
_DIAGONAL = 5
_FREQUENCIES = [(v, u) for v in range(_DIAGONAL + 1) for u in range(_DIAGONAL + 1 - v)]
_FREQUENCIES += [(0, 6), (6, 0), (0, 7), (7, 0)]  # a grid that is a pixel off meets block edges, which show here
_V = np.array([v for v, _ in _FREQUENCIES])
_U = np.array([u for _, u in _FREQUENCIES])

_BINS = 512
"""Histograms of magnitudes in half levels, up to 255; the last bin holds the rest and says nothing."""

_CANDIDATES = 3000
_WINDOWS = 1200
"""Windows that are looked at, and those of them (with something in them) whose grid is looked for."""

_BLOCKS = 6000
"""Blocks, at most, that the tables are read from and the map of a region is made of."""

_MIN_WINDOWS = 24
_FEW_BLOCKS = 8

MAX_STEP = 255

_EARLIER_SHARE = 0.6
"""Prior share of a region's coefficients that follow the comb: some blocks clip, or were painted over."""

FOUND = 0.12
"""Nats per window by which the best place must beat all others; and ``FOUND_NATS`` in total."""

FOUND_IN_JPEG = 0.25
"""The same without proof: screenshots' letters stand on rows and columns that look like a grid, up to 0.21."""

FOUND_NATS = 40.0

TRIED = 300
"""Windows on which all places of a grid are tried where there is proof."""

RICH = 20
"""Levels in a window from which on it counts as part of a photograph."""

LEAST_EXACT = 0.12
MOST_EXACT_OFF = 0.5
"""Share of blocks that a grid must explain to the rounding, and how much of that it may explain off its place."""

MAX_REGIONS = 4


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier JPEG, as far as the picture still shows it.

    Attributes:
        top, left: where its grid starts: rows and columns of the picture before the first whole block, 0..7; 0..15 in a
            direction in which chroma is subsampled.
        luma_88, chroma_88: steps, natural order, as they lie in this picture (so transposed, if it was turned);
            no chroma if the picture is grey. Where the evidence ends, those of the nearest standard tables.
        known_88: of luma, which steps were read from the pixels.
        chroma_scale: (vertical, horizontal): pixels that one chroma sample covers.
        upsampling: how its chroma was brought back to the picture's size.
        quality: of the nearest standard tables, 1..100.
        is_standard: whether they are libjpeg's tables of that quality, as far as is known.
        is_transposed: whether the picture was turned by a quarter, or mirrored along a diagonal, afterwards.
        is_same_grid: whether the last file, a JPEG, has its blocks and chroma sampling where this one had them.
        is_proven: whether its coefficients, decoded again, give the pixels. Never of a JPEG's history.
        noise_88: standard deviation of each luma coefficient's error by what came after, in levels.
        evidence: nats per block in favour of this grid and table; 0.05 is little, above 1 there is no doubt.
    """

    top: int
    left: int
    luma_88: NDArray[np.uint16]
    chroma_88: NDArray[np.uint16] | None
    known_88: NDArray[np.bool_]
    chroma_scale: tuple[int, int]
    upsampling: Upsampling
    quality: int
    is_standard: bool
    is_transposed: bool
    is_same_grid: bool
    is_proven: bool
    noise_88: NDArray[np.float32]
    evidence: float


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of the picture with one earlier JPEG.

    Attributes:
        top, left, height, width: in pixels. Its sides are known to a block or so.
    """

    top: int
    left: int
    height: int
    width: int
    earlier: Earlier


@dataclass(frozen=True, slots=True)
class History:
    """What happened to a picture before its last file.

    Attributes:
        regions: largest first; they do not overlap.
        covers_all: whether the regions leave nothing of the picture out. What they leave out was not compressed by a
            JPEG that can be seen.
        may_be_clean: of undecided pictures, whether nothing speaks clearly against their never having been compressed.
    """

    verdict: Verdict
    regions: tuple[Region, ...] = ()
    covers_all: bool = False
    may_be_clean: bool = False


def read_history(pixels: NDArray[np.uint8], jpeg: JpegImage | None = None) -> History:
    """What compressed a picture before its last file.

    Args:
        pixels: ``(H, W)`` or ``(H, W, 3)``. Of inks, ``(H, W, 4)``, nothing is said: conversion hides what they were.
        jpeg: the last file, if it was a JPEG: ``pixels`` are its own. It counts as no part of its history.
    """
    if pixels.shape[2:] == (4,):
        return History("undecided")
    if min(pixels.shape[:2]) < MIN_SIDE:
        # Too little to find a grid in; but icons are drawings, and show that they are.
        is_icon = jpeg is None and min(pixels.shape[:2]) >= LEAST_SIDE and is_exactly_drawn(pixels)
        return History("clean" if is_icon else "undecided")
    if jpeg is not None and jpeg.header.colour_space == "RGB":
        return History("undecided")
    if jpeg is not None and jpeg.components[0].unsent_bits_88 is not None:
        return History("undecided")  # bits that were never sent leave a comb of their own
    if jpeg is not None:
        same_grid = _same_grid(jpeg)
        if same_grid is not None:
            height, width = pixels.shape[:2]
            return History("compressed", (Region(0, 0, height, width, same_grid),), covers_all=True)
    regions: list[Region] = []
    view = _View(pixels, jpeg)
    for _ in range(MAX_REGIONS):
        region = view.next_region(regions)
        if region is None:
            break
        regions.append(region)
        if _area(regions) >= pixels.shape[0] * pixels.shape[1]:
            break
    if regions:
        regions.sort(key=lambda region: -region.height * region.width)
        return History("compressed", tuple(regions), _area(regions) == pixels.shape[0] * pixels.shape[1])
    if jpeg is not None:
        return History("undecided")
    if drawing_is_clean(pixels):
        return History("clean")
    odds = cleanness(pixels)
    if odds > CLEAN or is_exactly_drawn(pixels) or is_white_noise(pixels):
        return History("clean")
    return History("undecided", may_be_clean=odds > DOUBTFUL)


def _area(regions: Sequence[Region]) -> int:
    return sum(region.height * region.width for region in regions)


# --- The evidence of a grid -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Grid:
    """A grid that stands out.

    Attributes:
        lead: nats per window over the next best place; 0 where there is proof instead.
        tables: which of the standard tables are worth a closer look.
        may_be_own: whether the table may be none of the standard ones.
    """

    row: int
    column: int
    lead: float
    tables: NDArray[np.int64]
    may_be_own: bool


class _View:
    """A picture, sampled."""

    def __init__(self, pixels: NDArray[np.uint8], jpeg: JpegImage | None) -> None:
        self.pixels, self.jpeg = pixels, jpeg
        height, width = pixels.shape[:2]
        tops, lefts = _spread(height, width, _SPAN, _CANDIDATES)
        luma, lowest, highest = _luma_at(pixels, tops, lefts, _SPAN)
        useful = highest.astype(np.int16) - lowest > 3
        unclipped = useful & (lowest > 0) & (highest < 255)
        if unclipped.sum() >= 150:
            useful = unclipped
        # Letters and lines have few levels, and combs of their own: a photograph beside them must be seen.
        rich = useful.copy()
        rich[useful] = _levels(luma[useful]) >= RICH
        if rich.sum() >= 150:
            useful = rich
        self._tops, self._lefts, self._windows = tops[useful], lefts[useful], luma[useful]
        self._error_88 = _quantisation_error(jpeg.components[0]) if jpeg is not None else None

    def noise(self, row: int, column: int) -> NDArray[np.float64]:
        """Standard deviation of the luma coefficients on a grid at this place, ``(8, 8)``."""
        if self._error_88 is None:
            return np.full((BLOCK, BLOCK), PIXEL_NOISE)
        return np.sqrt(carried_noise(self._error_88, row, column) + PIXEL_NOISE**2)

    def next_region(self, known: Sequence[Region]) -> Region | None:
        """The region that stands out most beside those that are known."""
        free = np.ones(len(self._tops), np.bool_)
        for region in known:
            free &= ~_overlaps(self._tops, self._lefts, region)
        free_at = np.flatnonzero(free)
        if len(free_at) < _MIN_WINDOWS:
            return None
        if len(free_at) > _WINDOWS:
            free_at = free_at[np.linspace(0, len(free_at) - 1, _WINDOWS).astype(np.int64)]
        regions = (self._region_on(grid, known) for grid in self._grids_of(self._windows[free_at]))
        return next((region for region in regions if region is not None), None)

    def _grids_of(self, windows_NSS: NDArray[np.float32]) -> list[_Grid]:
        """The place that stands out, if one does; where there is proof, all that may be it, the likeliest first."""
        places = _score_places(windows_NSS, self._mean_noise())
        scores_O = places.scores_O
        if self.jpeg is not None:
            scores_O[0] = scores_O.min()  # its own grid
        order = np.argsort(-scores_O)
        best = int(order[0])
        if self.jpeg is None:
            # There is proof. Of strong compression the combs show everywhere, so some places are tried.
            if scores_O[best] - scores_O.min() < FOUND:
                return []
            few_NSS = windows_NSS[:: -(-len(windows_NSS) // TRIED)]
            tried = [place for place in order.tolist() if scores_O[place] > 0]
            first = {place: np.subtract(*_exact_shares(few_NSS, place, places.steps(place))) for place in tried}
            tried = [_edges_at(windows_NSS), *sorted(tried, key=lambda place: -first[place])[:3]]
            shares = {place: _exact_shares(windows_NSS, place, places.steps(place)) for place in tried}
            tried = sorted(shares, key=lambda place: shares[place][1] - shares[place][0])
            possible = [place for place in tried if _is_exact(*shares[place])]
            if scores_O[best] - scores_O[order[1]] > CLEAR_LEAD and best not in possible:
                possible.insert(0, best)  # of a comic most blocks clip, and are no multiples
            return [places.grid_at(place) for place in possible]
        # Next to the true grid, strong combs still show.
        rows, columns = np.divmod(np.arange(BLOCK * BLOCK), BLOCK)
        far = (_ring(rows - best // BLOCK) > 1) | (_ring(columns - best % BLOCK) > 1)
        far[0] = False
        lead = float(scores_O[best] - scores_O[far].max())
        if lead < FOUND_IN_JPEG or lead * len(windows_NSS) < FOUND_NATS:
            return []
        # Through a second quantisation own tables cannot be told from a misjudged noise.
        return [_Grid(*divmod(best, BLOCK), lead, places.tables(best), False)]

    def _mean_noise(self) -> NDArray[np.float64]:
        """Noise at the frequencies looked at, ``(F,)``: about the same at all places but the file's own."""
        noise_F: NDArray[np.float64] = self.noise(4, 4)[_V, _U]
        return noise_F

    def _region_on(self, grid: _Grid, known: Sequence[Region]) -> Region | None:
        """The region around the blocks that fit, and what its tables are; None if a closer look finds none."""
        lattice = _Lattice(self.pixels, grid, known, self.jpeg is not None)
        noise_88 = self.noise(grid.row, grid.column)
        if not lattice.free.any():
            return None
        reading = lattice.read_table(lattice.free, noise_88)
        fits = lattice.fitting(reading)
        rectangle = lattice.rectangle(fits)
        if rectangle is None:
            return None
        inside = lattice.inside(rectangle) & lattice.free
        if not inside.any():
            return None
        if inside.sum() < lattice.free.sum():
            reading = lattice.read_table(inside, noise_88)
        # Of strong compression few frequencies are left to speak; where the place itself leads so far, they need not.
        least_evidence, least_breadth = EVIDENCE, LEAST_BREADTH
        if self.jpeg is not None:
            least_evidence, least_breadth = (
                (0, CLEAR_BREADTH) if grid.lead >= CLEAR_LEAD else (EVIDENCE_IN_JPEG, LEAST_BREADTH)
            )
        if reading.evidence < least_evidence or reading.evidence * inside.sum() < EVIDENCE_NATS:
            return None
        if self.jpeg is not None and (
            reading.quality < LEAST_QUALITY
            or reading.levels < min(LEAST_LEVELS, 0.8 * inside.sum())
            or reading.breadth < least_breadth
            or inside.mean() < LEAST_SHARE
            or not lattice.agrees(reading, inside)
        ):
            return None
        # Whatever repeats is made of multiples of something.
        if self.jpeg is None and not reading.is_standard and reading.levels < min(LEAST_LEVELS, 0.8 * inside.sum()):
            return None
        is_proven = self.jpeg is None and lattice.proves(reading, inside)
        if self.jpeg is None and not is_proven:
            return None
        chroma = _Chroma((grid.row, grid.column), (1, 1), "none", None)
        if self.pixels.ndim == 3:
            if self.jpeg is None:
                chroma = _read_chroma(self.pixels, rectangle, grid, reading.quality)
            else:  # nothing better is known
                steps_88 = standard_table(reading.quality, chroma=True)
                chroma = _Chroma((grid.row, grid.column), self.jpeg.components[1].scale, "triangle", steps_88)
        earlier = Earlier(
            top=chroma.phase[0],
            left=chroma.phase[1],
            luma_88=reading.steps_88.astype(np.uint16),
            chroma_88=None if chroma.steps_88 is None else chroma.steps_88.astype(np.uint16),
            known_88=reading.known_88,
            chroma_scale=chroma.scale,
            upsampling=chroma.upsampling,
            quality=reading.quality,
            is_standard=reading.is_standard,
            is_transposed=reading.is_transposed,
            is_same_grid=False,
            is_proven=is_proven,
            noise_88=noise_88.astype(np.float32),
            evidence=reading.evidence,
        )
        return Region(*rectangle, earlier)


@dataclass(frozen=True, slots=True)
class _Reading:
    """A luma table, as read from blocks; ``ratios_6B``: of its steps, at each of the 64 frequencies."""

    steps_88: NDArray[np.int64]
    known_88: NDArray[np.bool_]
    quality: int
    is_standard: bool
    is_transposed: bool
    ratios_6B: NDArray[np.float32]
    evidence: float
    levels: int
    breadth: float


class _Lattice:
    """Blocks of a grid, all of a small picture or an even sample of a large one, and their neighbours off the grid."""

    def __init__(self, pixels: NDArray[np.uint8], grid: _Grid, known: Sequence[Region], is_jpeg: bool) -> None:
        self._height, self._width = pixels.shape[:2]
        self._grid = grid
        self._is_jpeg = is_jpeg
        self._off_grid = _off_grid_of(grid.row, grid.column) if is_jpeg else _OFF_GRID
        rows, columns = (self._height - grid.row) // BLOCK, (self._width - grid.column) // BLOCK
        stride = max(1, round((rows * columns / _BLOCKS) ** 0.5))
        self._pitch = stride * BLOCK
        tops = grid.row + np.arange(0, rows, stride) * BLOCK
        lefts = grid.column + np.arange(0, columns, stride) * BLOCK
        self._tops, self._lefts = (side.ravel() for side in np.meshgrid(tops, lefts, indexing="ij"))
        self.shape = (len(tops), len(lefts))
        luma, lowest, highest = _luma_at(pixels, self._tops, self._lefts, BLOCK)
        self.coefficients_N6 = dct_blocks(luma).reshape(-1, BLOCK * BLOCK)
        self._bins_N6 = _bins_of(self.coefficients_N6)
        off = []
        for down, across in self._off_grid:
            off_tops = np.minimum(self._tops + down, self._height - BLOCK)
            off_lefts = np.minimum(self._lefts + across, self._width - BLOCK)
            off.append(dct_blocks(_luma_at(pixels, off_tops, off_lefts, BLOCK)[0]).reshape(-1, BLOCK * BLOCK))
        self._off_N6 = off
        self._off_bins_N6 = [_bins_of(one) for one in off]
        self.clipped = (lowest == 0) | (highest == 255)
        self.flat = highest.astype(np.int16) - lowest <= 1
        self.free = np.ones(len(self._tops), np.bool_)
        for region in known:
            self.free &= ~_overlaps(self._tops, self._lefts, region, BLOCK)

    def read_table(self, among_N: NDArray[np.bool_], noise_88: NDArray[np.float64]) -> _Reading:
        """The table that these blocks show best."""
        among = self._telling(among_N)
        return _read_table(
            self._bins_N6[among],
            [bins[among] for bins in self._off_bins_N6],
            noise_88.ravel(),
            _standard_tables().reshape(-1, BLOCK * BLOCK),
            self._grid.tables,
            self._grid.may_be_own,
        )

    def _telling(self, among_N: NDArray[np.bool_]) -> NDArray[np.bool_]:
        telling = among_N & ~self.flat & ~self.clipped
        return telling if telling.sum() >= _MIN_WINDOWS else among_N

    def agrees(self, reading: _Reading, among_N: NDArray[np.bool_]) -> bool:
        """Whether the table's frequencies, and the blocks one by one, all speak for it.

        Of a drawing some do by far, which is enough in a sum: a few kinds of block, taken over and over, may be
        multiples of something by chance. An earlier file quantised all of them.
        """
        bins_N6 = self._bins_N6[self._telling(among_N)]
        nats_N6 = np.stack([reading.ratios_6B[n].take(bins_N6[:, n]) for n in range(BLOCK * BLOCK)], axis=1)
        agreeing = float((nats_N6.sum(axis=1) > 0).mean())
        gains_6 = nats_N6.sum(axis=0)
        against = -float(np.minimum(gains_6, 0).sum()) / max(float(np.maximum(gains_6, 0).sum()), 1e-9)
        if reading.quality < SURE_QUALITY:
            return agreeing >= MOST_AGREE and against <= NOTHING_AGAINST
        if against <= LITTLE_AGAINST:
            return agreeing >= SOME_AGREE
        mixed = np.random.default_rng(0).integers(1, 2**40, BLOCK * BLOCK) * 2 + 1
        kinds = len(np.unique(bins_N6 @ mixed)) / len(bins_N6)
        return agreeing >= MANY_AGREE and kinds >= MANY_KINDS and against <= MUCH_AGAINST

    def fitting(self, reading: _Reading) -> NDArray[np.int8]:
        """Whether each block's surroundings follow the comb: 1, -1 (not), or 0 (cannot be told); ``shape``."""
        on = self._nats(reading, self._bins_N6)
        off = (self._nats(reading, self._off_bins_N6[0]) + self._nats(reading, self._off_bins_N6[1])) / 2
        gain = on - off
        # What fits no better than it does off the grid, and badly, was not compressed on it.
        against = (gain < DECIDED / 2) & (on < -DECIDED)
        if not self._is_jpeg:
            against |= self._is_inexact(reading)
        return ((gain > DECIDED) & ~against).astype(np.int8) - against.astype(np.int8)

    def _is_inexact(self, reading: _Reading) -> NDArray[np.bool_]:
        """Where hardly any of the blocks are multiples of the table: another JPEG on the same grid may lie there."""
        active = self._active() & self.free
        # Of a few coefficients that are no multiples a block's mean hardly tells.
        exact = active & (np.abs(_off_multiples(self.coefficients_N6, reading)).max(axis=1) < INEXACT)
        out = np.zeros(self.shape, np.bool_)
        for reach in INEXACT_REACHES:  # of what is smooth, such as a sky, what lies further away tells
            near, exact_near = (
                _box_sums(some.astype(np.float32).reshape(self.shape), reach) for some in (active, exact)
            )
            out |= (near >= INEXACT_FEWEST) & (exact_near <= INEXACT_SHARE * near)
        return out

    def _active(self) -> NDArray[np.bool_]:
        """Which blocks have something in them, and do not clip."""
        active: NDArray[np.bool_] = np.square(self.coefficients_N6[:, 1:]).mean(axis=1) > ACTIVE_POWER
        active &= ~self.clipped
        return active

    def _nats(self, reading: _Reading, bins_N6: NDArray[np.int64]) -> NDArray[np.float32]:
        """In favour of the comb, summed over each block's surroundings, ``shape``."""
        each = np.zeros(len(self._tops), np.float32)
        for number in range(BLOCK * BLOCK):
            each += reading.ratios_6B[number].take(bins_N6[:, number])
        each[self.flat | ~self.free] = 0
        return _box_sums(np.clip(each, -20, 20).reshape(self.shape), 1)

    def rectangle(self, fits: NDArray[np.int8]) -> tuple[int, int, int, int] | None:
        """Top, left, height and width of the largest region that fits.

        It grows to the picture's edges where nothing speaks against it, and into no known region.
        """
        taken = ~self.free.reshape(self.shape)
        against = np.count_nonzero(fits < 0)
        if not taken.any() and against <= FEW * np.count_nonzero(fits > 0):
            return self._grown_box(fits > 0) if (fits > 0).any() else None
        found = _largest_patch(np.where(taken, np.int8(-1), fits))
        if found is None:
            return None
        first_row, last_row, first_column, last_column = found

        def may_grow(beyond: NDArray[np.int8], taken_beyond: NDArray[np.bool_]) -> bool:
            return not taken_beyond.any() and bool((beyond < 0).sum() <= 0.1 * (beyond != 0).sum())

        columns = slice(first_column, last_column + 1)
        if may_grow(fits[:first_row], taken[:first_row, columns]):
            first_row = 0
        if may_grow(fits[last_row + 1 :], taken[last_row + 1 :, columns]):
            last_row = fits.shape[0] - 1
        rows, taken = fits[first_row : last_row + 1], taken[first_row : last_row + 1]
        if may_grow(rows[:, :first_column], taken[:, :first_column]):
            first_column = 0
        if may_grow(rows[:, last_column + 1 :], taken[:, last_column + 1 :]):
            last_column = fits.shape[1] - 1
        tops, lefts = self._tops.reshape(self.shape)[:, 0], self._lefts.reshape(self.shape)[0]
        top = 0 if first_row == 0 else int(tops[first_row])
        left = 0 if first_column == 0 else int(lefts[first_column])
        bottom = self._height if last_row == self.shape[0] - 1 else int(tops[last_row]) + self._pitch
        right = self._width if last_column == self.shape[1] - 1 else int(lefts[last_column]) + self._pitch
        return top, left, bottom - top, right - left

    def _grown_box(self, fits: NDArray[np.bool_]) -> tuple[int, int, int, int]:
        """Where something fits and nothing speaks against it: the box around that, to the picture's edges if near.

        What lies further out and tells nothing (a page's white, say) is no part of it.
        """
        sides = []
        for axis, (starts, length) in enumerate(
            ((self._tops.reshape(self.shape)[:, 0], self._height), (self._lefts.reshape(self.shape)[0], self._width))
        ):
            at = np.flatnonzero(fits.any(axis=1 - axis))
            first, last = int(starts[at[0]]), int(starts[at[-1]]) + self._pitch
            near = max(3 * self._pitch, NEAR_EDGE * length)
            sides.append((0 if first <= near else first, length if last >= length - near else last))
        (top, bottom), (left, right) = sides
        return top, left, bottom - top, right - left

    def inside(self, rectangle: tuple[int, int, int, int]) -> NDArray[np.bool_]:
        """Which blocks lie in a rectangle."""
        top, left, height, width = rectangle
        inside: NDArray[np.bool_] = (self._tops >= top) & (self._tops + BLOCK <= top + height)
        inside &= (self._lefts >= left) & (self._lefts + BLOCK <= left + width)
        return inside

    def proves(self, reading: _Reading, among_N: NDArray[np.bool_]) -> bool:
        """Whether coefficients rounded to the table's multiples give the pixels back, and would not elsewhere."""
        among = among_N & self._active()
        # A few blocks are enough where all are multiples of a standard table, and none is off its grid.
        few = among.sum() < _MIN_WINDOWS
        if among.sum() < _FEW_BLOCKS or (few and not reading.is_standard):
            return False
        exact, elsewhere = (
            float((np.square(_off_multiples(some[among], reading)).mean(axis=1) < EXACT_POWER).mean())
            for some in (self.coefficients_N6, self._off_N6[0])
        )
        return exact > 0.9 and elsewhere == 0 if few else exact > 0.6 and elsewhere < 0.6 * exact


def _off_multiples(coefficients_N6: NDArray[np.float32], reading: _Reading) -> NDArray[np.float32]:
    """How far each coefficient lies from the nearest multiple of its step, in levels, ``(N, 64)``."""
    steps = reading.steps_88.ravel().astype(np.float32)
    out: NDArray[np.float32] = coefficients_N6 - steps * np.rint(coefficients_N6 / steps)
    return out


_OFF_GRID = ((4, 4), (3, 5), (5, 2))


def _off_grid_of(row: int, column: int) -> Sequence[tuple[int, int]]:
    """Off a grid that shares rows or columns with the last file's own, these stay shared: they show its comb, too."""
    if row and column:
        return _OFF_GRID
    along = [shift for shift in (4, 3, 5, 2) if (row + column + shift) % BLOCK][:3]
    return [(shift, 0) if row else (0, shift) for shift in along]


NEAR_EDGE = 0.08
"""Of a picture's side: as far from its edge what tells nothing counts as part of a region that reaches that far."""

FEW = 0.02
"""Of the places that fit a region, those beside that may not without its being cut down to the others."""

OWN_TABLE_GAIN = 0.9
EVIDENCE = 1.5
EVIDENCE_IN_JPEG = 2.2
EVIDENCE_NATS = 60.0
"""Nats per block (the second: without proof), and in all, by which a region's table must fit better than it does off
the grid."""

LEAST_QUALITY = 5
"""Of a table that is found without proof: patterns of large squares can look like coarser ones."""

LEAST_SHARE = 0.2
"""Of a JPEG's blocks, those of a region that is found without proof."""

LEAST_BREADTH = 14.0
"""Frequencies, in effect, that speak for a table; of a gradient few do."""

CLEAR_LEAD, CLEAR_BREADTH = 0.8, 5.0
"""Where a place leads by so many nats per window, so many frequencies are enough. Of single JPEGs of photographs none
leads by more than 0.3."""

SURE_QUALITY = 9
"""Below it steps are so large that the squares of a picture made of squares can pass for them."""

SOME_AGREE, MANY_AGREE, MOST_AGREE = 0.7, 0.9, 0.97
"""Share of a JPEG's blocks that must speak for a table: where no frequency speaks against it, where some do, and where
its quality is low."""

NOTHING_AGAINST, LITTLE_AGAINST, MUCH_AGAINST = 0.001, 0.0025, 0.05
"""What frequencies that speak against a table say, of what the others say for it."""

MANY_KINDS = 0.75
"""Share of a JPEG's blocks that are unlike all others, from which on it counts as no drawing."""

LEAST_LEVELS = 1000
"""Pairs of frequency and magnitude that occur in a region, or 0.8 a block: of patterns that repeat there are few."""

DECIDED = 8.0
"""Nats of a block and its neighbours from which on they are counted as compressed, or as not."""
ACTIVE_POWER = 0.3
EXACT_POWER = 0.25

INEXACT = 4 * PIXEL_NOISE
INEXACT_REACHES, INEXACT_FEWEST, INEXACT_SHARE = (1, 4, 12), 4, 0.1
"""Levels off a multiple; blocks around one that are looked at, how many of these must have something in them, and what
share of them, at most, is exact where another picture lies."""


def _read_table(
    bins_N6: NDArray[np.int64],
    off_bins_N6: Sequence[NDArray[np.int64]],
    noise_6: NDArray[np.float64],
    tables_Q6: NDArray[np.int64],
    among: NDArray[np.int64],
    may_be_own: bool,
) -> _Reading:
    """The table that blocks show best.

    Args:
        bins_N6: of the coefficients of blocks on the grid.
        off_bins_N6: of the same places off the grid, some times.
        tables_Q6: the standard tables of qualities 1 to 100, and further hundreds of variants.
        among: which of them may be the one.
        may_be_own: whether it may be none of them.
    """
    on = _histograms(bins_N6)
    off = [_histograms(bins) for bins in off_bins_N6]
    density_6B = _smooth_density(np.sum(off, axis=0))
    excess = on - np.mean(off, axis=0, dtype=np.float32)  # so what is wrong with the model cancels out
    totals = np.zeros(len(among))
    free_steps = np.ones(BLOCK * BLOCK, np.int64)
    free_gain = 0.0
    scores_of: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
    for number in range(BLOCK * BLOCK):
        one = slice(number, number + 1)
        steps, of_table = np.unique(tables_Q6[among, number], return_inverse=True)
        scores = _log_ratios(density_6B[one], steps, noise_6[one], _EARLIER_SHARE)[0] @ excess[number]
        totals += scores[of_table]
        scores_of.append((steps, scores))
        best = int(scores.argmax())
        if may_be_own and scores[best] > 6:
            free_steps[number] = steps[best]
            free_gain += float(scores[best]) - 6
    chosen = int(among[totals.argmax()])
    # Own tables must pay for their freedom; what blurs a comb can favour a wrong step.
    is_standard = not may_be_own or bool(totals.max() >= free_gain * OWN_TABLE_GAIN - 40)
    steps_6 = tables_Q6[chosen].copy()
    known = np.zeros(BLOCK * BLOCK, np.bool_)
    for number, (steps, scores) in enumerate(scores_of):
        filled = on[number, : _BINS - 1].nonzero()[0]
        step = steps_6[number] if is_standard or free_steps[number] == 1 else free_steps[number]
        # That no multiple but 0 is there says only that the step is large.
        place = int(np.searchsorted(steps, step))
        others = np.delete(scores, place).max(initial=0)
        known[number] = len(filled) > 0 and filled[-1] > step and scores[place] > max(6, others + 3)
        if known[number]:
            steps_6[number] = step
    ratios_6B = np.concatenate(
        [
            _log_ratios(density_6B[n : n + 1], steps_6[n : n + 1], noise_6[n : n + 1], _EARLIER_SHARE)[0]
            for n in range(BLOCK * BLOCK)
        ]
    )
    here = float((ratios_6B * on).sum())
    elsewhere = max(float((ratios_6B * one).sum()) for one in off)
    gains_6 = (ratios_6B * on).sum(axis=1) - np.max([(ratios_6B * one).sum(axis=1) for one in off], axis=0)
    return _Reading(
        steps_6.reshape(BLOCK, BLOCK),
        known.reshape(BLOCK, BLOCK),
        chosen % 100 + 1,
        is_standard,
        chosen >= 100,
        ratios_6B,
        (here - elsewhere) / len(bins_N6),
        int((on[:, : _BINS - 1] > 0).sum()),
        _breadth(np.maximum(gains_6, 0)),
    )


def _breadth(gains_6: NDArray[np.floating]) -> float:
    """How many frequencies, in effect, share in gains that are 0 or more."""
    return float(gains_6.sum() ** 2 / max(float(np.square(gains_6).sum()), 1e-9))


def _histograms(bins_N6: NDArray[np.int64]) -> NDArray[np.float32]:
    """``(64, _BINS)``."""
    shifted = bins_N6 + np.arange(BLOCK * BLOCK) * _BINS
    counts = np.bincount(shifted.ravel(), minlength=BLOCK * BLOCK * _BINS)
    return counts.reshape(BLOCK * BLOCK, _BINS).astype(np.float32)


def _box_sums(values: NDArray[np.float32], reach: int) -> NDArray[np.float32]:
    """Sums over the surroundings of each entry, ``2 * reach + 1`` each way, fewer at the edges."""
    for axis in (0, 1):
        sums = np.cumsum(np.insert(values, 0, 0, axis=axis), axis=axis, dtype=np.float64)
        length = values.shape[axis]
        last = np.minimum(np.arange(length) + reach + 1, length)
        first = np.maximum(np.arange(length) - reach, 0)
        values = (sums.take(last, axis=axis) - sums.take(first, axis=axis)).astype(np.float32)
    return values


def _largest_patch(fits: NDArray[np.int8]) -> tuple[int, int, int, int] | None:
    """First and last row and column of the largest connected patch of 1, across gaps of 0."""
    positive = fits > 0
    if not positive.any():
        return None
    passable = fits >= 0
    seen = np.zeros(fits.shape, np.bool_)
    best: tuple[int, tuple[int, int, int, int]] = (0, (0, 0, 0, 0))
    for start in zip(*np.nonzero(positive), strict=True):
        if seen[start]:
            continue
        seen[start] = True
        stack, count = [(int(start[0]), int(start[1]))], 0
        top, bottom, left, right = stack[0][0], stack[0][0], stack[0][1], stack[0][1]
        while stack:
            row, column = stack.pop()
            if positive[row, column]:
                count += 1
                top, bottom = min(top, row), max(bottom, row)
                left, right = min(left, column), max(right, column)
            for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if 0 <= r < fits.shape[0] and 0 <= c < fits.shape[1] and passable[r, c] and not seen[r, c]:
                    seen[r, c] = True
                    stack.append((r, c))
        best = max(best, (count, (top, bottom, left, right)))
    return best[1]


def _edges_at(windows_NSS: NDArray[np.float32]) -> int:
    """The place whose lines show the largest steps, as against those beside them."""
    place = 0
    for axis in (1, 2):
        steps = np.abs(np.diff(windows_NSS, axis=axis)).mean(axis=(0, 3 - axis))
        excess = steps[1:-1] - (steps[:-2] + steps[2:]) / 2  # step i is before row i + 2
        by_line = np.zeros(BLOCK)
        np.add.at(by_line, (np.arange(len(excess)) + 2) % BLOCK, excess)
        by_line /= np.bincount((np.arange(len(excess)) + 2) % BLOCK, minlength=BLOCK)
        place = place * BLOCK + int(by_line.argmax())
    return place


def _ring(distance: NDArray[np.int64]) -> NDArray[np.int64]:
    """Distance modulo 8, 0..4."""
    around = distance % BLOCK
    return np.minimum(around, BLOCK - around)


def _levels(windows_NSS: NDArray[np.float32]) -> NDArray[np.int64]:
    """How many different whole levels each window has."""
    levels = np.sort(windows_NSS.reshape(len(windows_NSS), windows_NSS.shape[1] ** 2).astype(np.int8), axis=1)
    out: NDArray[np.int64] = 1 + np.count_nonzero(np.diff(levels, axis=1), axis=1)
    return out


def _overlaps(
    tops: NDArray[np.int64], lefts: NDArray[np.int64], region: Region, span: int = _SPAN
) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (tops + span > region.top) & (tops < region.top + region.height)
    inside &= (lefts + span > region.left) & (lefts < region.left + region.width)
    return inside


def _spread(height: int, width: int, span: int, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tops and lefts of at most so many squares, multiples of 8, evenly over the picture with a fixed jitter."""
    rows, columns = (height - span) // BLOCK + 1, (width - span) // BLOCK + 1
    total = rows * columns
    picks = np.arange(total)
    if total > most:
        jitter = np.random.default_rng(0).random(most)
        picks = np.minimum(((np.arange(most) + jitter) * (total / most)).astype(np.int64), total - 1)
    return picks // columns * BLOCK, picks % columns * BLOCK


def _luma_at(
    pixels: NDArray[np.uint8], tops: NDArray[np.int64], lefts: NDArray[np.int64], span: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.uint8]]:
    """Luma around 0 of squares, ``(N, span, span)``, and the lowest and the highest value of any channel in each."""
    view = np.lib.stride_tricks.sliding_window_view(pixels, (span, span), axis=(0, 1))
    squares = view[tops, lefts]
    flat = squares.reshape(len(squares), -1)
    return _luma(squares, axis=1), flat.min(axis=1), flat.max(axis=1)


def _luma(values: NDArray[np.uint8], axis: int) -> NDArray[np.float32]:
    """Luma around 0 of grey (three axes) or RGB (four; the channels' axis is given)."""
    if values.ndim == 3:
        return values.astype(np.float32) - np.float32(128)
    red, green, blue = (values.take(i, axis=axis).astype(np.float32) for i in range(3))
    weights = RGB_TO_YCC[0]
    out: NDArray[np.float32] = weights[0] * red + weights[1] * green + weights[2] * blue - np.float32(128)
    return out


def _cosines() -> NDArray[np.float64]:
    """Orthonormal DCT-II: row u holds basis function u."""
    u, x = np.mgrid[0:BLOCK, 0:BLOCK]
    matrix: NDArray[np.float64] = np.sqrt(2 / BLOCK) * np.cos((2 * x + 1) * u * np.pi / (2 * BLOCK))
    matrix[0] /= np.sqrt(2)
    return matrix


@lru_cache
def _sliding_basis() -> NDArray[np.float32]:
    """The basis functions at all eight places in a window, ``(_SPAN, 64)``."""
    out = np.zeros((_SPAN, BLOCK, BLOCK), np.float32)
    for place in range(BLOCK):
        out[place : place + BLOCK, place] = _cosines().T
    return out.reshape(_SPAN, -1)


def _sliding_histograms(windows_NSS: NDArray[np.float32]) -> NDArray[np.float32]:
    """Histograms of the low coefficients' magnitudes at all places, ``(F, 64, _BINS)``."""
    basis, count = _sliding_basis(), len(windows_NSS)
    across = windows_NSS.reshape(-1, _SPAN) @ basis
    across = np.ascontiguousarray(across.reshape(count, _SPAN, -1).swapaxes(1, 2)).reshape(-1, _SPAN)
    both = (across @ basis).reshape(count, BLOCK, BLOCK, BLOCK, BLOCK)  # window, column, u, row, v
    starts = np.arange(BLOCK * BLOCK).reshape(BLOCK, BLOCK).T * _BINS  # column, row
    out = np.empty((len(_FREQUENCIES), BLOCK * BLOCK, _BINS), np.float32)
    for number, (v, u) in enumerate(_FREQUENCIES):
        bins = _bins_of(both[:, :, u, :, v])
        bins += starts
        out[number] = np.bincount(bins.ravel(), minlength=BLOCK * BLOCK * _BINS).reshape(BLOCK * BLOCK, _BINS)
    return out


def _bins_of(coefficients: NDArray[np.floating]) -> NDArray[np.int64]:
    out: NDArray[np.int64] = np.minimum(np.abs(coefficients) * 2 + np.float32(0.5), _BINS - 1).astype(np.int64)
    return out


def _smooth_density(counts_FB: NDArray[np.float32]) -> NDArray[np.float64]:
    """A density without combs, sums 1: averaged over a width in proportion to the magnitude; zero stays apart."""
    bins = np.arange(_BINS)
    low = np.maximum((bins / 1.4).astype(np.int64), 3)
    high = np.clip(np.ceil(bins * 1.4).astype(np.int64) + 1, low + 1, _BINS - 1)
    low = np.minimum(low, high - 1)
    sums = np.zeros((len(counts_FB), _BINS + 1))
    np.cumsum(counts_FB, axis=1, out=sums[:, 1:])
    density: NDArray[np.float64] = (sums[:, high] - sums[:, low] + 0.25) / (high - low)
    density[:, :3] = counts_FB[:, :3] + 0.01
    density[:, -1] = counts_FB[:, -1] + 0.01
    density /= density.sum(axis=1, keepdims=True)
    return density


class _Cells(NamedTuple):
    """Of each step, 0 to ``MAX_STEP``, and magnitude, ``(MAX_STEP + 1, B)``.

    Attributes:
        off: distance from the nearest multiple, in levels.
        first, last: the bins of that multiple's cell; whether it ends within the bins.
        at_zero: whether the multiple is 0 and the magnitude is not.
    """

    off: NDArray[np.float32]
    first: NDArray[np.int32]
    last: NDArray[np.int32]
    whole: NDArray[np.bool_]
    at_zero: NDArray[np.bool_]


@lru_cache
def _cells() -> _Cells:
    magnitude = np.arange(_BINS) / 2
    step = np.maximum(np.arange(MAX_STEP + 1), 1)[:, None].astype(np.float64)
    nearest = np.rint(magnitude / step)
    first = np.clip(np.ceil((nearest - 0.5) * step * 2 - 1e-9), 0, _BINS - 1).astype(np.int32)
    last = np.ceil((nearest + 0.5) * step * 2 - 1e-9).astype(np.int32)
    return _Cells(
        (magnitude - nearest * step).astype(np.float32),
        first,
        np.minimum(last, _BINS - 1),
        last < _BINS - 1,
        (nearest == 0) & (magnitude > 0),
    )


def _comb_shape(steps_S: NDArray[np.int64], noise: float) -> NDArray[np.float32]:
    """Of a magnitude in a cell, how probable it is that noise brought it from the cell's middle, ``(S, B)``."""
    if noise <= 1.5 * PIXEL_NOISE:
        return _pixel_shapes()[steps_S]
    # Most blocks carry less noise than the mean says: what is smooth has lost nothing.
    return _blurred(steps_S, ((noise, 0.7), (noise / 3, 0.3)))


@lru_cache
def _pixel_shapes() -> NDArray[np.float32]:
    """``_comb_shape`` of all steps for pixels."""
    return _blurred(np.arange(MAX_STEP + 1), ((PIXEL_NOISE, 1.0),))


def _blurred(steps_S: NDArray[np.int64], parts: Sequence[tuple[float, float]]) -> NDArray[np.float32]:
    """The density around multiples of the steps of a mixture of normal errors: their widths and shares."""
    off = np.abs(_cells().off[steps_S])
    beside = off - steps_S[:, None].astype(np.float32)  # to the next multiple
    shape = np.zeros(off.shape, np.float32)
    for width, share in parts:
        spread = np.sqrt(width**2 + 0.25 / 12)
        peak, rate = np.float32(share * 0.5 / (spread * np.sqrt(2 * np.pi))), np.float32(-0.5 / spread**2)
        shape += peak * (np.exp(rate * np.square(off)) + np.exp(rate * np.square(beside)))
    shape[_cells().at_zero[steps_S]] *= 2  # both signs
    return shape


def _log_ratios(
    density_FB: NDArray[np.float64], steps_S: NDArray[np.int64], noise_F: NDArray[np.float64], share: float
) -> NDArray[np.float32]:
    """Logarithm of (comb / density), robust: a share of the coefficients follows the comb. ``(F, S, B)``."""
    cells = _cells()
    first, last, partial = cells.first[steps_S], cells.last[steps_S], ~cells.whole[steps_S]
    sums = np.zeros((len(density_FB), _BINS + 1), np.float32)
    np.cumsum(density_FB, axis=1, out=sums[:, 1:])
    inverse = (share / density_FB).astype(np.float32)
    out = np.empty((len(density_FB), len(steps_S), _BINS), np.float32)
    whole_cell_S = np.minimum(steps_S, _BINS - 1)
    for number in range(len(density_FB)):
        mass = sums[number].take(last) - sums[number].take(first)
        mass *= _comb_shape(steps_S, float(noise_F[number]))
        mass *= inverse[number]
        # What is quantised to zero is often exactly zero, as are flat blocks that were not compressed: of the zeros'
        # cell only that nothing lies far from its middle counts.
        if noise_F[number] <= 1.5 * PIXEL_NOISE:
            near = min(int(6 * noise_F[number]) + 2, _BINS - 1)
            middle_S = np.minimum(whole_cell_S, near)
            level_S = share * sums[number, whole_cell_S] / np.maximum(sums[number, middle_S], np.float32(1e-12))
            for place in range(near):
                np.copyto(mass[:, place], level_S, where=place < middle_S)
        mass += np.float32(1 - share)
        if noise_F[number] > 1.5 * PIXEL_NOISE:
            # Where the last grid is near in one direction, smooth blocks are still exactly zero: not against a comb.
            # (Steps that are hardly wider than the noise have no comb to speak for.)
            near = np.arange(_BINS) <= np.minimum(whole_cell_S, 2 * noise_F[number])[:, None]
            near &= (steps_S > 3 * noise_F[number])[:, None]
            np.maximum(mass, 1, out=mass, where=near)
        mass[partial] = 1
        np.log(mass, out=out[number])
    out[..., -1] = 0
    out[:, steps_S <= 1] = 0  # rounding hides these
    return out


@lru_cache
def _standard_tables() -> NDArray[np.int64]:
    """Of all qualities, as they are and transposed, ``(200, 8, 8)``."""
    tables = np.stack([standard_table(quality) for quality in range(1, 101)])
    return np.concatenate([tables, tables.swapaxes(1, 2)])


@lru_cache
def _search_steps() -> NDArray[np.int64]:
    """Steps whose likelihood is computed: all small ones, and those of standard tables at the low frequencies."""
    standard = _standard_tables()[[*range(3, 100), *range(103, 200)]][:, _V, _U]
    steps = np.unique(standard)
    return np.union1d(np.arange(2, 33), steps[(steps > 1) & (steps <= 200)])


class _Places(NamedTuple):
    """What speaks for a grid at each of the 64 places, and with which steps.

    Attributes:
        scores_O: nats per window, of the best of the standard tables and of free steps.
        standard_OQ: nats in all, of the standard tables as in ``_standard_tables``.
        free_O: nats in all, of free steps, less what their freedom costs.
        free_OF: the free steps; 1 where none is better than none.
    """

    scores_O: NDArray[np.float32]
    standard_OQ: NDArray[np.float32]
    free_O: NDArray[np.float32]
    free_OF: NDArray[np.int64]

    def may_be_own(self, place: int) -> bool:
        """Whether free steps fit clearly better than standard ones."""
        return bool(self.free_O[place] * OWN_TABLE_GAIN - 40 > self.standard_OQ[place].max())

    def steps(self, place: int) -> NDArray[np.int64]:
        """The steps that fit best, ``(F,)``."""
        if self.may_be_own(place):
            free_F: NDArray[np.int64] = self.free_OF[place]
            return free_F
        standard_F: NDArray[np.int64] = _standard_tables()[int(self._excess(place).argmax())][_V, _U]
        return standard_F

    def grid_at(self, place: int) -> _Grid:
        """A grid that is to be proven."""
        row, column = divmod(place, BLOCK)
        if self.may_be_own(place):
            return _Grid(row, column, 0.0, np.arange(200), True)
        return _Grid(row, column, 0.0, self.tables(place), False)

    def _excess(self, place: int) -> NDArray[np.float32]:
        """Of each standard table, over what it has at all places: what is wrong with the model cancels out."""
        out: NDArray[np.float32] = self.standard_OQ[place] - self.standard_OQ.mean(axis=0)
        return out

    def tables(self, place: int) -> NDArray[np.int64]:
        """Indices of the standard tables that are worth a closer look."""
        likely = np.argsort(-self._excess(place))[:4]
        beside = [min(max(table % 100 + by, 0), 99) + table // 100 * 100 for table in likely for by in (-1, 0, 1)]
        turned = [(table + 100) % 200 for table in likely[:1]]
        return np.unique([*beside, *turned])


def _score_places(windows_NSS: NDArray[np.float32], noise_F: NDArray[np.float64]) -> _Places:
    counts_FOB = _sliding_histograms(windows_NSS)
    density_FB = _smooth_density(counts_FOB.sum(axis=1))
    steps = _search_steps()
    ratios_FSB = _log_ratios(density_FB, steps, noise_F, _EARLIER_SHARE)
    scores_FOS = np.matmul(counts_FOB, ratios_FSB.swapaxes(1, 2))
    column_QF = np.clip(np.searchsorted(steps, np.maximum(_standard_tables()[:, _V, _U], 2)), 0, len(steps) - 1)
    standard_OQ = np.zeros((BLOCK * BLOCK, len(column_QF)), np.float32)
    for number in range(len(_FREQUENCIES)):
        standard_OQ += scores_FOS[number][:, column_QF[:, number]]
    gains_FO = scores_FOS.max(axis=2) - 6
    free_O = np.maximum(gains_FO, 0).sum(axis=0)
    free_OF = np.where(gains_FO > 0, steps[scores_FOS.argmax(axis=2)], 1).T
    scores_O = np.maximum(standard_OQ.max(axis=1), free_O) / len(windows_NSS)
    return _Places(scores_O, standard_OQ, free_O, free_OF)


def _exact_shares(windows_NSS: NDArray[np.float32], place: int, steps_F: NDArray[np.int64]) -> tuple[float, float]:
    """``_exact_share`` at a place, and half a block away from it."""
    half = BLOCK // 2
    beside = (place // BLOCK + half) % BLOCK * BLOCK + (place + half) % BLOCK
    return _exact_share(windows_NSS, place, steps_F), _exact_share(windows_NSS, beside, steps_F)


def _is_exact(on: float, off: float) -> bool:
    return on >= LEAST_EXACT and off <= MOST_EXACT_OFF * on


def _exact_share(windows_NSS: NDArray[np.float32], place: int, steps_F: NDArray[np.int64]) -> float:
    """Of the blocks with something in them, those whose low coefficients are multiples of the steps."""
    row, column = divmod(place, BLOCK)
    blocks = np.ascontiguousarray(windows_NSS[:, row : row + BLOCK, column : column + BLOCK])
    coefficients_NF = dct_blocks(blocks)[:, _V, _U]
    active = np.square(coefficients_NF[:, 1:]).sum(axis=1) > BLOCK * BLOCK * ACTIVE_POWER
    if active.sum() < _MIN_WINDOWS // 2:
        return 0.0
    steps = steps_F.astype(np.float32)
    off = coefficients_NF[active] - steps * np.rint(coefficients_NF[active] / steps)
    return float((np.square(off).mean(axis=1) < EXACT_POWER).mean())


# --- The noise that a JPEG's quantisation leaves ----------------------------------------------------------------------


def _quantisation_error(component: Component) -> NDArray[np.float64]:
    """Variance of what a file's quantisation changed, of each coefficient on its own grid, ``(8, 8)``."""
    half = component.table_88.astype(np.float64) / 2
    zero = (component.coefficients_VU88 == 0).mean(axis=(0, 1))
    # Coefficients are about Laplacian: the share of zeros tells their scale, and that the error among them.
    scale = -half / np.log(1 - np.clip(zero, 1e-3, 1 - 1e-4))
    within = 2 * scale**2 - np.exp(-half / scale) * (half**2 + 2 * half * scale + 2 * scale**2)
    uniform = half**2 / 3
    out: NDArray[np.float64] = np.minimum(within + (1 - zero) * uniform, uniform)
    return out


def carried_noise(variance_88: NDArray[np.float64], row: int, column: int) -> NDArray[np.float64]:
    """Variance on a grid that starts ``row`` rows and ``column`` columns in, of independent errors on the grid at 0."""
    out = np.zeros((BLOCK, BLOCK))
    for down in _shift_power(row):
        for across in _shift_power(column):
            out += down @ variance_88 @ across.T
    return out


@lru_cache
def _shift_power(shift: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Power that a coefficient of the shifted grid takes from those of the two blocks that it lies on."""
    cosines = _cosines()
    first, second = np.zeros((BLOCK, BLOCK)), np.zeros((BLOCK, BLOCK))
    first[: BLOCK - shift] = cosines[:, shift:].T
    second[BLOCK - shift :] = cosines[:, :shift].T
    return (cosines @ first) ** 2, (cosines @ second) ** 2


_SAME_GRID_BLOCKS = 12000


def _same_grid(jpeg: JpegImage) -> Earlier | None:
    """An earlier JPEG of lower quality on the same grid, from the comb in the file's own coefficients."""
    reading = _aligned_reading(jpeg)
    if reading is None:
        return None
    quality, is_transposed, evidence = reading
    luma_88 = standard_table(quality)
    if is_transposed:
        luma_88 = luma_88.T
    is_colour = len(jpeg.components) == 3
    return Earlier(
        top=0,
        left=0,
        luma_88=luma_88.astype(np.uint16),
        chroma_88=standard_table(quality, chroma=True).astype(np.uint16) if is_colour else None,
        known_88=luma_88 > jpeg.components[0].table_88,
        chroma_scale=jpeg.components[1].scale if is_colour else (1, 1),
        upsampling="triangle" if is_colour and jpeg.components[1].scale != (1, 1) else "none",
        quality=quality,
        is_standard=True,
        is_transposed=is_transposed,
        is_same_grid=True,
        is_proven=False,
        noise_88=np.full((BLOCK, BLOCK), PIXEL_NOISE, np.float32),
        evidence=evidence,
    )


ALIGNED_EVIDENCE = 0.6
_MOST_STEPS = 200
ALIGNED_LEVELS = 20
ALIGNED_BREADTH = 3.0
ALIGNED_AGAINST = 0.15
"""What frequencies that speak against a table may say, of what the others say for it: of true pairs 0.04."""


def _aligned_reading(jpeg: JpegImage) -> tuple[int, bool, float] | None:
    """Quality of the earlier luma table, whether it is transposed, and nats per block."""
    scores_6Q, blocks = _aligned_scores(jpeg.components[0])
    totals = scores_6Q.sum(axis=0)
    best = int(totals.argmax())
    gains_6 = np.maximum(scores_6Q[:, best], 0)
    evidence = float(totals[best]) / max(blocks, 1)
    if evidence < ALIGNED_EVIDENCE or totals[best] < 100:
        return None
    # Of drawings a few levels are taken over and over, and may all be multiples by chance.
    if _breadth(gains_6) < ALIGNED_BREADTH:
        return None
    if -np.minimum(scores_6Q[:, best], 0).sum() > ALIGNED_AGAINST * gains_6.sum():
        return None
    if _occupied_levels(jpeg.components[0], _standard_tables()[best]) < ALIGNED_LEVELS:
        return None
    return best % 100 + 1, best >= 100, evidence


def _level_counts(component: Component) -> tuple[NDArray[np.int64], int]:
    """Histograms of quantised magnitudes, ``(64, _MOST_STEPS + 1)``, and of how many blocks."""
    rows, columns = component.coefficients_VU88.shape[:2]
    stride = max(1, round((rows * columns / _SAME_GRID_BLOCKS) ** 0.5))
    sample = component.coefficients_VU88[::stride, ::stride].reshape(-1, BLOCK * BLOCK)
    magnitudes = np.minimum(np.abs(sample), _MOST_STEPS).astype(np.int64)
    counts = np.bincount(
        (magnitudes + np.arange(BLOCK * BLOCK) * (_MOST_STEPS + 1)).ravel(),
        minlength=BLOCK * BLOCK * (_MOST_STEPS + 1),
    )
    return counts.reshape(BLOCK * BLOCK, -1), len(sample)


def _occupied_levels(component: Component, steps_88: NDArray[np.int64]) -> int:
    """How many pairs of frequency and magnitude occur that multiples of the steps explain."""
    counts_6K, _ = _level_counts(component)
    levels = np.arange(2, _MOST_STEPS)
    occupied = 0
    for counts, own, step in zip(counts_6K, component.table_88.ravel(), steps_88.ravel(), strict=True):
        if step < 1.5 * own or counts[2:_MOST_STEPS].sum() < 20:
            continue
        off = np.abs(levels * float(own) - step * np.rint(levels * own / step)) <= own / 2 + 3 * PIXEL_NOISE
        # A level counts where it is as frequent as its neighbours let expect.
        usual = _unimodal(counts[1:_MOST_STEPS].astype(np.float64))[1:]
        occupied += int((off & (counts[2:_MOST_STEPS] > np.maximum(0.4 * usual, 1.5))).sum())
    return occupied


def _aligned_scores(component: Component) -> tuple[NDArray[np.float64], int]:
    """Nats in favour of each standard table, ``(64, 200)``, and the number of blocks that were looked at."""
    counts_6K, blocks = _level_counts(component)
    own_6 = component.table_88.ravel().astype(np.float64)
    tables = _standard_tables().reshape(-1, BLOCK * BLOCK)
    out = np.zeros((BLOCK * BLOCK, len(tables)))
    for number in range(BLOCK * BLOCK):
        counts = counts_6K[number, :_MOST_STEPS].astype(np.float64)
        if counts[2:].sum() < 20:
            continue
        steps, of_table = np.unique(tables[:, number], return_inverse=True)
        out[number] = _comb_scores(counts[1:], _unimodal(counts[1:]), float(own_6[number]), steps)[of_table]
    return out, blocks


_REACH = 4.0
"""Levels from a multiple beyond which its blur is nothing."""


def _comb_scores(
    counts_K: NDArray[np.float64], smooth_K: NDArray[np.float64], own: float, steps_S: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Nats in favour of coefficients having been multiples of coarser steps before; of those that are not 0, ``(S,)``.

    Args:
        counts_K: of magnitudes 1, 2, ... steps of the file's own.
        smooth_K: the same without combs.
        own: the file's own step.
    """
    scores = np.zeros(len(steps_S))
    coarser = steps_S >= 1.3 * own
    filled = int(counts_K.nonzero()[0][-1]) + 1
    steps = steps_S[coarser].astype(np.float64)
    if not steps.size:
        return scores
    last_S = np.minimum(filled, (20 * steps / own).astype(np.int64))  # twenty multiples say enough
    count = int(last_S.max())
    # Where multiples of the step fall, and how many there are of each: the smooth density says.
    number_S = ((last_S + 0.5) * own / steps).astype(np.int64) + 1
    multiples_SM = np.arange(1, int(number_S.max()) + 1) * steps[:, None]
    weights_SM = np.interp(multiples_SM, np.arange(1, count + 1) * own, smooth_K[:count])
    weights_SM[multiples_SM > (last_S * own)[:, None]] = 0
    # Each is blurred over the file's own levels around it.
    spread = np.sqrt(PIXEL_NOISE**2 + 1 / 12)
    around = np.arange(-int(np.ceil(_REACH / own)), int(np.ceil(_REACH / own)) + 2)
    levels_SMA = np.rint(multiples_SM / own).astype(np.int64)[..., None] + around
    off_SMA = (levels_SMA - 0.5) * own - multiples_SM[..., None]
    share_SMA = np.diff(1 / (1 + np.exp(np.clip(-1.702 / spread * off_SMA, -50, 50))), axis=2)
    share_SMA *= weights_SM[..., None]
    levels_SMA = levels_SMA[..., :-1]
    share_SMA[(levels_SMA < 1) | (levels_SMA > last_S[:, None, None])] = 0
    places = np.arange(len(steps))[:, None, None] * (count + 1) + np.clip(levels_SMA, 0, count)
    expected_SK = np.bincount(places.ravel(), share_SMA.ravel(), len(steps) * (count + 1)).reshape(len(steps), -1)
    expected_SK *= (np.cumsum(smooth_K)[last_S - 1] / np.maximum(expected_SK.sum(axis=1), 1e-9))[:, None]
    found = counts_K[:count].nonzero()[0]
    ratio_SK = 0.85 * expected_SK[:, found + 1] / np.maximum(smooth_K[found], 1e-9) + 0.15
    counted_SK = np.where(found < last_S[:, None], counts_K[found], 0.0)
    scores[coarser] = (counted_SK * np.log(ratio_SK)).sum(axis=1)
    return scores


def _unimodal(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Counts of magnitudes without combs: averaged over neighbours in proportion to the magnitude."""
    levels = np.arange(1, len(counts) + 1)
    reach = np.maximum(levels * 0.5, 2.0)
    sums = np.concatenate([[0.0], np.cumsum(counts)])
    low = np.maximum(np.floor(levels - reach).astype(np.int64), 1)
    high = np.minimum(np.ceil(levels + reach).astype(np.int64), len(counts))
    out: NDArray[np.float64] = (sums[high] - sums[low - 1] + 0.05) / (high - low + 1)
    return out


# --- Chroma -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Chroma:
    """How chroma was stored; ``phase``: where its grid starts, modulo its blocks' size in pixels."""

    phase: tuple[int, int]
    scale: tuple[int, int]
    upsampling: Upsampling
    steps_88: NDArray[np.int64] | None


_PATCH = 144
_PATCHES = 8
_MARGIN = 8
CHROMA_DETAIL = 1.5
UPSAMPLING_ERROR = 0.2
_SAMPLINGS: tuple[tuple[tuple[int, int], Upsampling], ...] = (
    ((2, 2), "triangle"),
    ((2, 2), "box"),
    ((1, 2), "triangle"),
    ((1, 2), "box"),
    ((2, 1), "triangle"),
    ((2, 1), "box"),
)


@lru_cache
def _chroma_tables() -> NDArray[np.int64]:
    """``(100, 64)``."""
    return np.stack([standard_table(quality, chroma=True) for quality in range(1, 101)]).reshape(100, -1)


class _Patch(NamedTuple):
    """Cb or Cr of a square, and where pixels clip nearby."""

    plane: NDArray[np.float32]
    clipped: NDArray[np.bool_]


def _read_chroma(pixels: NDArray[np.uint8], rectangle: tuple[int, int, int, int], grid: _Grid, quality: int) -> _Chroma:
    """Sampling, upsampling, grid and table of a region's chroma, from some patches on the luma grid."""
    first, patches = _chroma_patches(pixels, rectangle, grid)
    if not patches:
        return _Chroma((grid.row, grid.column), (2, 2), "triangle", standard_table(quality, chroma=True))
    likely_88 = standard_table(quality, chroma=True)

    def try_sampling(scale: tuple[int, int], upsampling: Upsampling) -> tuple[float, dict[tuple[int, int], Any], Any]:
        """The least misfit of the likely table, the blocks at each place that the grid can have, and the best place."""
        high, wide = BLOCK * scale[0], BLOCK * scale[1]
        places = [(down, across) for down in range(0, high, BLOCK) for across in range(0, wide, BLOCK)]
        blocks = {place: _chroma_blocks(patches, place, scale, upsampling) for place in places}
        misfits = {place: _misfit(blocks[place], likely_88, chroma_noise(scale, upsampling)) for place in places}
        best = min(places, key=lambda one: misfits[one])
        return misfits[best], blocks, best

    # Where colours are smooth, several samplings give them back: the coarsest, unless the comb is clearer on another.
    possible = _samplings_of(patches[:8])
    (scale, upsampling), (misfit, blocks, phase) = possible[0], try_sampling(*possible[0])
    for other in possible[1:] if misfit > CLEAR_MISFIT else ():
        found = try_sampling(*other)
        if found[0] < CLEARER * misfit:
            (scale, upsampling), (misfit, blocks, phase) = other, found
    noise_88, phases = chroma_noise(scale, upsampling), list(blocks)

    def start(phase: tuple[int, int]) -> tuple[int, int]:
        return (first[0] + phase[0]) % (BLOCK * scale[0]), (first[1] + phase[1]) % (BLOCK * scale[1])

    if misfit <= CHROMA_MISFIT or not blocks[phase].size:
        return _Chroma(start(phase), scale, upsampling, likely_88)
    # Not the table that goes with luma's: the one that they show, on the grid that shows one best.
    best: tuple[float, tuple[int, int], NDArray[np.int64]] | None = None
    for phase in phases:
        off = [_chroma_blocks(patches, phase, scale, upsampling, shift) for shift in _OFF_GRID]
        reading = _read_table(
            _bins_of(blocks[phase]).reshape(-1, 64),
            [_bins_of(one).reshape(-1, 64) for one in off],
            noise_88.ravel().astype(np.float64),
            _chroma_tables(),
            np.arange(100),
            True,
        )
        if best is None or reading.evidence > best[0]:
            best = reading.evidence, phase, reading.steps_88
    assert best is not None
    return _Chroma(start(best[1]), scale, upsampling, best[2] if best[0] > CHROMA_EVIDENCE else None)


def _chroma_blocks(
    patches: Sequence[_Patch],
    phase: tuple[int, int],
    scale: tuple[int, int],
    upsampling: Upsampling,
    shift: tuple[int, int] = (0, 0),
) -> NDArray[np.float32]:
    """Coefficients of blocks away from the patches' edges, ``(N, 8, 8)``; ``shift``: samples off the grid."""
    out = []
    for plane, clipped in patches:
        samples = plane_at_scale(plane[phase[0] :, phase[1] :], (0, 0), scale, upsampling)
        rows, columns = (side // BLOCK - 2 for side in samples.shape)
        part = samples[BLOCK - shift[0] :, BLOCK - shift[1] :][: rows * BLOCK, : columns * BLOCK]
        blocks = dct_blocks(blocks_from_plane(part))
        high, wide = BLOCK * scale[0], BLOCK * scale[1]
        first = phase[0] + high - shift[0] * scale[0], phase[1] + wide - shift[1] * scale[1]
        bad = clipped[first[0] :, first[1] :][: rows * high, : columns * wide]
        out.append(blocks[~bad.reshape(rows, high, columns, wide).any(axis=(1, 3))])
    return np.concatenate(out)


def _misfit(blocks_N88: NDArray[np.float32], steps_88: NDArray[np.int64], noise_88: NDArray[np.float32]) -> float:
    """Mean square distance from multiples of the steps, of what is not near zero: 1 where there is no comb."""
    steps = steps_88.astype(np.float32)
    counted = (np.abs(blocks_N88) > 0.3 * steps) & (steps > 4 * noise_88)
    off = (blocks_N88 / steps - np.rint(blocks_N88 / steps))[counted]
    return 12 * float(np.square(off).mean()) if off.size else 0.0


CHROMA_MISFIT = 0.6
"""Mean square error against the expected, up to which chroma has the table that goes with luma's."""

CLEAR_MISFIT, CLEARER = 0.25, 0.7
"""Below the first a sampling is not doubted; another takes its place with so many times its misfit at most."""

CHROMA_EVIDENCE = 0.05


def _chroma_patches(
    pixels: NDArray[np.uint8], rectangle: tuple[int, int, int, int], grid: _Grid
) -> tuple[tuple[int, int], list[_Patch]]:
    """Where the first of some squares on the luma grid starts, and their Cb and Cr, least clipped first."""
    top, left, height, width = rectangle
    first = (top + (grid.row - top) % BLOCK, left + (grid.column - left) % BLOCK)
    room = (top + height - first[0], left + width - first[1])
    side = min(_PATCH, room[0] // 16 * 16, room[1] // 16 * 16)
    if side < 64:
        return first, []
    across = [np.linspace(0, (room[axis] - side) // 16, 4).astype(int) * 16 for axis in (0, 1)]
    middle = (first[0] + (room[0] - side) / 2, first[1] + (room[1] - side) / 2)
    squares = []
    for row in {first[0] + int(row) for row in across[0]}:
        for column in {first[1] + int(column) for column in across[1]}:
            square = pixels[row : row + side, column : column + side]
            # A region's sides are known to a block: what lies there may not be part of it.
            aside = abs(row - middle[0]) / room[0] + abs(column - middle[1]) / room[1]
            squares.append((float(((square == 0) | (square == 255)).mean()) + 0.3 * aside, row, column, square))
    squares.sort(key=lambda one: one[:3])
    out = []
    for *_, square in squares[:_PATCHES]:
        clipped = ((square == 0) | (square == 255)).any(axis=2)
        near = _box_sums(clipped.astype(np.float32), 3) > 0
        out += [_Patch(square.astype(np.float32) @ RGB_TO_YCC[channel], near) for channel in (1, 2)]
    return first, out


def _samplings_of(patches: Sequence[_Patch]) -> list[tuple[tuple[int, int], Upsampling]]:
    """The samplings whose upsampling gives the patches back, the coarsest first and none at last."""
    inner = slice(_MARGIN, -_MARGIN)
    possible: list[tuple[tuple[int, int], Upsampling]] = []
    for scale, upsampling in _SAMPLINGS:
        total, count = 0.0, 0
        for patch, clipped in patches:
            again = upsampled(plane_at_scale(patch, (0, 0), scale, upsampling), scale, upsampling)
            detail = np.zeros(patch.shape, np.bool_)
            detail[:-1] |= np.abs(np.diff(patch, axis=0)) > CHROMA_DETAIL
            detail[:, :-1] |= np.abs(np.diff(patch, axis=1)) > CHROMA_DETAIL
            detail = (detail & ~clipped)[inner, inner]
            error = np.square(np.clip(again[: patch.shape[0], : patch.shape[1]] - patch, -2, 2))[inner, inner]
            total += float(error[detail].sum())
            count += int(detail.sum())
        if total <= UPSAMPLING_ERROR * count:
            possible.append((scale, upsampling))
    return [*possible, ((1, 1), "none")]
