"""Quantisation cells: what a file says about the picture it was made from.

A JPEG stores ``q = round(c / t)`` for each DCT coefficient c, so c lay in the cell ``[(q - 1/2) t, (q + 1/2) t]``, and
in a wider one where a progressive file ended before it had sent all of q: ``Component.cells``. A
picture whose coefficients all lie in their cells could have produced the file: it is *consistent* with it. ``project``
moves a restored picture into the cells, ``measure_consistency`` checks one. A ``Calibration`` says how far to go
inside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unjpeg.belief import BlockChange, Judge, gather_evidence, sum_windows, weigh_evidence
from unjpeg.dct import (
    BLOCK,
    ROUNDING_BOUND_88,
    blocks_from_plane,
    dct_blocks,
    downsample,
    idct_blocks,
    plane_from_blocks,
    rgb_from_ycc,
    upsample,
    ycc_from_rgb,
)

if TYPE_CHECKING:
    from unjpeg.jpeg import Component  # its decoders are not needed to compute with it

__all__ = [
    "NEAR_END",
    "Calibration",
    "Compared",
    "ComponentConsistency",
    "Consistency",
    "OffsetSums",
    "Trust",
    "compare_blocks",
    "find_outliers",
    "measure_consistency",
    "measure_offsets",
    "project",
    "row_alignment",
    "tile_alignment",
]

WINDOW = 32
"""Side in pixels of the squares in which a file's cells judge what a network did: whole blocks at every usual sampling,
and a divisor of every tile. Where one sample covers three pixels they are 24 pixels long."""

FINE_STEP = 10
"""Step of the blocks' means, in units of the transform, that is hardly more than a level of the pixels, 8. Where it is
coarser a window of one colour may have been a slow change."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How much of what a network adds to the decoded coefficients turns out to be true, on average.

    Attributes:
        qualities: at which it was measured, ascending.
        shares_L22288: for each of them, with chroma subsampled and not, of luma and of chroma, in the inner and in the
            outer half of the cell, ``(len(qualities), 2, 2, 2, 8, 8)``, 0 or more. A coefficient's true offset from its
            cell's middle is about the inner share of the network's offset as far as that lies in the inner half, and
            the outer share of what lies beyond, up to the cell's end. The two add up to 2 at most: the cell holds them.
    """

    qualities: tuple[int, ...]
    shares_L22288: NDArray[np.float32]

    def at(self, quality: int, components: Sequence[Component]) -> NDArray[np.float32]:
        """Shares of luma and chroma of a file, ``(2, 2, 8, 8)``, interpolated; beyond the ends as at the ends."""
        place = float(np.interp(quality, self.qualities, np.arange(len(self.qualities))))
        low = min(int(place), len(self.qualities) - 2)
        weight = np.float32(place - low)
        full = int(len(components) == 3 and all(component.scale == (1, 1) for component in components))
        below, above = self.shares_L22288[low : low + 2, full]
        shares: NDArray[np.float32] = below * (1 - weight) + above * weight
        return shares


class Trust(NamedTuple):
    """What ``project`` needs besides the cells to weigh a network's work.

    Attributes:
        decoded: the decoded pixels, uint8, the same rectangle as the restored ones.
        shares_2288: of luma and chroma, ``(2, 2, 8, 8)``, as ``Calibration.at`` gives them.
        judges: of luma and chroma, or None to believe every block alike.
        caution: how much of the judges' doubt counts, 0..1.
        keeps_even: whether windows that were decoded to one colour keep it, where a step of the blocks' means is about
            a level. For results of 8 bits: the decoded pixels are rounded to these, and fit the cells no closer.
    """

    decoded: NDArray[np.uint8]
    shares_2288: NDArray[np.float32]
    judges: tuple[Judge, Judge] | None = None
    caution: float = 1.0
    keeps_even: bool = False


def tile_alignment(components: Sequence[Component]) -> int:
    """Pixels down and across of which tiles are to be multiples, so that they hold whole blocks and whole windows."""
    return math.lcm(WINDOW, *(BLOCK * scale for component in components for scale in component.scale))


def row_alignment(components: Sequence[Component]) -> int:
    """Pixel rows that hold whole blocks of every component: ``project`` works on strips that start at multiples."""
    return BLOCK * max(component.scale[0] for component in components)


def project(
    pixels: NDArray[np.float32],
    components: Sequence[Component],
    colour_space: str,
    top: int = 0,
    left: int = 0,
    trust: Trust | None = None,
) -> NDArray[np.float32]:
    """The nearest picture, in each component's own resolution, whose coefficients lie in their cells.

    Chroma is averaged down as encoders do, moved into its cells there, and the *change* is repeated up: the detail
    that the picture has beyond the chroma's resolution stays.

    With ``trust`` not the nearest one. Each coefficient goes the calibrated shares of the way from its cell's middle
    to where the nearest picture has it, and of that as much as its block is believed (``belief``; where a file's cells
    are all half a step either way). And of the detail that the network gave chroma beyond its resolution there
    stays, in each square of ``WINDOW`` pixels, the part that the cells leave of the network's change r of the decoded
    coefficients: with m moved into the cells to r + m, ``clip((r + m) . r / r . r, 0, 1)``. A network that takes the
    chroma out of its cells where the file knows it is not believed where the file does not.

    Args:
        pixels: ``(H, W)`` grey or ``(H, W, 3)`` RGB, range 0..255: the picture or a rectangle of it, whose sides are
            multiples of ``row_alignment`` unless they are the picture's own edges.
        components: of the whole picture.
        colour_space: as ``JpegHeader.colour_space``.
        top, left: the rectangle's first row and column in the picture, multiples of ``row_alignment``; with ``trust``
            of ``tile_alignment``, as are its sides.
        trust: how far to follow the network inside the cells.

    Returns:
        Shaped as ``pixels``, not clipped: clipping can leave the cells, and is the caller's.
    """
    planes = _planes(pixels, colour_space)
    decoded = _planes(trust.decoded.astype(np.float32), colour_space) if trust else planes
    for number, (plane, before, component) in enumerate(zip(planes, decoded, components, strict=True)):
        blocks, grown = _blocks_under(plane, component, top, left)
        coefficients = dct_blocks(blocks_from_plane(grown))
        cells = _Cells.of(component, blocks)
        target = np.clip(coefficients, cells.low, cells.high)
        if trust:
            if component.scale != (1, 1):
                plane -= _doubtful_detail(plane - before, target - coefficients, component, top, left)
            kind = _kind(number, colour_space)
            offset = cells.calibrated(target, trust.shares_2288[kind]) - cells.centre
            if trust.judges and component.has_usual_cells:
                evidence = gather_evidence(cells.describe(coefficients, target, component))
                doubt = 1 - weigh_evidence(trust.judges[kind], evidence)[..., None, None]
                offset *= 1 - np.float32(trust.caution) * doubt
            target = cells.centre + offset
        moved = upsample(plane_from_blocks(idct_blocks(target - coefficients)), *component.scale)
        plane += moved[: plane.shape[0], : plane.shape[1]]
    result = _pixels(planes, colour_space)
    if trust and trust.keeps_even and all(component.sent_table_88[0, 0] <= FINE_STEP for component in components):
        even = _find_even(trust.decoded)
        result[even] = trust.decoded[even]
    return result


def _find_even(decoded: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The pixels of windows that are of one colour, ``(H, W)``."""
    height, width = decoded.shape[:2]
    tops, lefts = (np.arange(0, length, WINDOW) for length in (height, width))
    least, most = (by.reduceat(by.reduceat(decoded, tops), lefts, axis=1) for by in (np.minimum, np.maximum))
    even = (least == most).reshape(len(tops), len(lefts), -1).all(axis=-1)
    spread: NDArray[np.bool_] = even.repeat(WINDOW, axis=0)[:height].repeat(WINDOW, axis=1)[:, :width]
    return spread


class _Cells(NamedTuple):
    """The cells of some blocks of a component, ``(V, U, 8, 8)``.

    Attributes:
        centre: where a decoder puts the coefficients.
        half_88: half a quantisation step.
        is_usual: where the cell is half a step either way of the centre; None if it is so everywhere. Only there does
            a calibration, which was measured in such cells, say anything.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    centre: NDArray[np.float32]
    half_88: NDArray[np.float32]
    is_usual: NDArray[np.bool_] | None

    @classmethod
    def of(cls, component: Component, blocks: tuple[slice, slice]) -> _Cells:
        low, high = component.cells(*blocks)
        centre, half = component.centres(*blocks), component.table_88 * np.float32(0.5)
        usual = None
        if not component.has_usual_cells:
            usual = (low == centre - half) & (high == centre + half)
        return cls(low, high, centre, half, usual)

    def calibrated(self, target_VU88: NDArray[np.float32], shares_288: NDArray[np.float32]) -> NDArray[np.float32]:
        """Coefficients in their cells, moved the inner and the outer share of the way from the middles."""
        inner, outer = shares_288
        near, far = _halves_of_cell(target_VU88 - self.centre, self.half_88)
        moved: NDArray[np.float32] = self.centre + inner * near + outer * far
        return moved if self.is_usual is None else np.where(self.is_usual, moved, target_VU88)

    def describe(
        self, coefficients_VU88: NDArray[np.float32], target_VU88: NDArray[np.float32], component: Component
    ) -> BlockChange:
        """What a network did, for judging it: coefficients as it left them, and moved into the cells."""
        return BlockChange(
            coefficients_VU88 - self.centre, target_VU88 - self.centre, self.centre, self.half_88, _window_of(component)
        )


def _window_of(component: Component) -> tuple[int, int]:
    """Blocks down and across of a window."""
    down, across = (max(1, WINDOW // (BLOCK * scale)) for scale in component.scale)
    return down, across


def _kind(number: int, colour_space: str) -> int:
    """0 for luma and what is quantised like it, 1 for chroma."""
    return int(number > 0 and colour_space == "YCbCr")


def _halves_of_cell(
    offset_VU88: NDArray[np.float32], half_88: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Offsets from the cells' middles, no further than their ends: what lies in the inner half, and what beyond."""
    quarter = half_88 * np.float32(0.5)
    near = np.clip(offset_VU88, -quarter, quarter)
    return near, offset_VU88 - near


def _doubtful_detail(
    change: NDArray[np.float32],
    correction_VU88: NDArray[np.float32],
    component: Component,
    top: int,
    left: int,
) -> NDArray[np.float32]:
    """What is to be taken back of a network's change of a plane beyond the component's resolution; see ``project``.

    Args:
        correction_VU88: what moves the changed coefficients into their cells.
    """
    _, coarse = _blocks_under(change, component, top, left)
    change_VU88 = dct_blocks(blocks_from_plane(coarse))
    energies = (np.square(change_VU88).sum(axis=(2, 3)), (change_VU88 * correction_VU88).sum(axis=(2, 3)))
    energy, lost = np.moveaxis(sum_windows(np.stack(energies, axis=-1), _window_of(component)), -1, 0)
    kept = energy + lost
    doubt = 1 - np.clip(np.divide(kept, energy, out=np.ones_like(kept), where=energy > 0), 0, 1)
    spread = upsample(doubt, BLOCK * component.scale[0], BLOCK * component.scale[1])
    height, width = change.shape
    detail: NDArray[np.float32] = change - upsample(coarse, *component.scale)[:height, :width]
    detail *= spread[:height, :width]
    return detail


class Compared(NamedTuple):
    """Blocks of a component, ``(V, U, 8, 8)``: what a network did, and offsets from the cells' middles.

    Attributes:
        followed: where the calibration goes.
        truth: the original's.
    """

    change: BlockChange
    followed: NDArray[np.float32]
    truth: NDArray[np.float32]


def compare_blocks(
    restored: NDArray[np.float32],
    original: NDArray[np.uint8],
    components: Sequence[Component],
    colour_space: str,
    shares_2288: NDArray[np.float32] | None,
) -> Iterator[tuple[int, Compared]]:
    """For each component of a usual file: 1 of chroma, else 0, and its blocks.

    Args:
        restored: not projected; ``(H, W)`` or ``(H, W, 3)``, range 0..255, like ``original``.
        shares_2288: as ``Calibration.at`` gives them.
    """
    for kind, component, cells, ours, truth in _compare(restored, original, components, colour_space):
        held = np.clip(ours, cells.low, cells.high)
        followed = held if shares_2288 is None else cells.calibrated(held, shares_2288[kind])
        yield kind, Compared(cells.describe(ours, held, component), followed - cells.centre, truth - cells.centre)


class OffsetSums(NamedTuple):
    """Of one picture: sums over its blocks, of luma and of chroma: normal equations for a ``Calibration``'s shares.

    Attributes:
        products: the true offset from the cell's middle times what of the network's lies in the inner and in the outer
            half of the cell, ``(2, 2, 8, 8)``.
        squares: of these two with each other, ``(2, 2, 2, 8, 8)``.
    """

    products: NDArray[np.float64]
    squares: NDArray[np.float64]


def measure_offsets(
    restored: NDArray[np.float32], original: NDArray[np.uint8], components: Sequence[Component], colour_space: str
) -> OffsetSums:
    """Compare a network's output with the original, coefficient by coefficient.

    Args:
        restored: not projected; ``(H, W)`` or ``(H, W, 3)``, range 0..255, like ``original``.
    """
    sums = OffsetSums(np.zeros((2, 2, BLOCK, BLOCK)), np.zeros((2, 2, 2, BLOCK, BLOCK)))
    for kind, _, cells, ours, truth in _compare(restored, original, components, colour_space):
        half = cells.half_88 if cells.is_usual is None else np.where(cells.is_usual, cells.half_88, np.float32(0))
        halves = _halves_of_cell(np.clip(ours - cells.centre, -half, half), half)
        for i, one in enumerate(halves):
            sums.products[kind, i] += ((truth - cells.centre) * one).sum(axis=(0, 1), dtype=np.float64)
            for j, other in enumerate(halves):
                sums.squares[kind, i, j] += (one * other).sum(axis=(0, 1), dtype=np.float64)
    return sums


def _compare(
    restored: NDArray[np.float32], original: NDArray[np.uint8], components: Sequence[Component], colour_space: str
) -> Iterator[tuple[int, Component, _Cells, NDArray[np.float32], NDArray[np.float32]]]:
    """For each component: its kind, itself, its cells, and the coefficients of both pictures, ``(V, U, 8, 8)``."""
    pairs = zip(_planes(restored, colour_space), _planes(original.astype(np.float32), colour_space), strict=True)
    for number, (planes, component) in enumerate(zip(pairs, components, strict=True)):
        (blocks, ours), (_, truth) = (_blocks_under(plane, component, 0, 0) for plane in planes)
        cells = _Cells.of(component, blocks)
        ours_VU88, truth_VU88 = dct_blocks(blocks_from_plane(ours)), dct_blocks(blocks_from_plane(truth))
        yield _kind(number, colour_space), component, cells, ours_VU88, truth_VU88


NEAR_END = 32
"""A restoration moves pixels by a few levels. Where the decoded one is further than this from black or white, a black
or white pixel is not clipping but another picture."""


@dataclass(frozen=True, slots=True)
class ComponentConsistency:
    """How well one component's coefficients fit their cells.

    Attributes:
        checked, inside: coefficients of blocks that neither clip nor hang over the picture's edge, and how many of
            them lie in their cell within the rounding bound.
        checked_clipped, inside_clipped: the same for blocks with a pixel at an end of the range that the file's own
            decoding comes near to, where clipping can have moved any coefficient.
        blocks_at_edge: blocks that hang over the picture's edge. They are not checked: what the encoder put there is
            not known.
        worst_excess: furthest distance beyond a cell and its tolerance, in quantisation steps; 0 if none.
        worst_block: (row, column) of the block where it is, or None.
    """

    name: str
    checked: int
    inside: int
    checked_clipped: int
    inside_clipped: int
    blocks_at_edge: int
    worst_excess: float
    worst_block: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Consistency:
    """Whether a picture could have produced a file."""

    components: tuple[ComponentConsistency, ...]

    @property
    def is_consistent(self) -> bool:
        """Whether every checked coefficient lies in its cell, and enough could be checked to say so.

        Where it is False, either something ``contradicts`` the file, or nothing can be told (``can_tell``).
        """
        return self.can_tell and not self.contradicts

    @property
    def contradicts(self) -> bool:
        """Whether a checked coefficient lies beyond its cell: the picture cannot have produced the file."""
        return any(c.inside < c.checked for c in self.components)

    @property
    def can_tell(self) -> bool:
        """Whether any block was neither clipped nor at the edge, or the clipped ones fit all the same."""
        whole = any(c.checked for c in self.components)
        clipped = [c for c in self.components if c.checked_clipped]
        return whole or (bool(clipped) and all(c.inside_clipped == c.checked_clipped for c in clipped))

    @property
    def share_inside(self) -> float:
        """Share of checked coefficients that lie in their cells; 1.0 if there was nothing to check."""
        checked = sum(c.checked for c in self.components)
        return sum(c.inside for c in self.components) / checked if checked else 1.0


def measure_consistency(
    pixels: NDArray[np.uint8] | NDArray[np.uint16],
    components: Sequence[Component],
    colour_space: str,
    decoded: NDArray[np.uint8],
) -> Consistency:
    """Compare a stored picture's coefficients with a file's cells.

    The tolerance of each coefficient is what rounding the picture's samples to integers can have moved it.

    Args:
        pixels: ``(H, W)``, ``(H, W, 3)`` or, of a CMYK file, ``(H, W, 4)``, of the file's size.
        decoded: the file's own pixels, of the same shape. Clipping excuses a block only where these come near the same
            end of the range: else any picture with enough black or white in it would pass.
    """
    maximum = np.iinfo(pixels.dtype).max
    names = _COMPONENT_NAMES[colour_space]
    tolerance = ROUNDING_BOUND_88 * np.float32(255 / maximum) + np.float32(1e-2)  # and this code's own float32
    strip = row_alignment(components) * 64
    tallies = [_Tally(name) for name in names]
    for top in range(0, pixels.shape[0], strip):
        rows = pixels[top : top + strip]
        plain = decoded[top : top + strip]
        at_end = ((rows == 0) & (plain < NEAR_END)) | ((rows == maximum) & (plain > 255 - NEAR_END))
        clips = _clips_of_components(at_end, colour_space)
        scaled = rows.astype(np.float32) * np.float32(255 / maximum)
        for tally, plane, component, clip in zip(
            tallies, _planes(scaled, colour_space), components, clips, strict=True
        ):
            tally.add(_excess(plane, component, tolerance, top, 0), clip, component.scale, top)
    return Consistency(tuple(tally.result() for tally in tallies))


def _clips_of_components(at_end: NDArray[np.bool_], colour_space: str) -> list[NDArray[np.bool_]]:
    """For each component which pixels' clipping moves it, ``(H, W)``: that of any colour, but of no other ink.

    Args:
        at_end: which samples clip, shaped as the pixels.
    """
    if colour_space == "CMYK":
        return list(np.moveaxis(at_end, 2, 0))
    together = at_end if at_end.ndim == 2 else np.any(at_end[..., :3], axis=2, keepdims=True)[..., 0]
    if colour_space == "YCCK":
        return [together, together, together, *np.moveaxis(at_end[..., 3:], 2, 0)]
    return [together] * len(_COMPONENT_NAMES[colour_space])


def find_outliers(
    pixels: NDArray[np.float32], components: Sequence[Component], colour_space: str, top: int = 0, left: int = 0
) -> NDArray[np.bool_]:
    """Where whole levels do not fit the cells: blocks that ``measure_consistency`` would count as beyond them.

    Args:
        pixels: ``(H, W)`` or ``(H, W, 3)``, range 0..255, a rectangle as ``project`` takes it.
        components, colour_space, top, left: as of ``project``.

    Returns:
        ``(H, W)``: all pixels of every square of whole blocks of all components that holds such a coefficient.
    """
    down, across = (BLOCK * math.lcm(*(component.scale[axis] for component in components)) for axis in (0, 1))
    height, width = pixels.shape[:2]
    found = np.zeros((-(-height // down), -(-width // across)), np.bool_)
    for plane, component in zip(_planes(pixels, colour_space), components, strict=True):
        beyond = _excess(plane, component, _TOLERANCE_88, top, left).max(axis=(2, 3)) > 0
        rows, columns = down // (BLOCK * component.scale[0]), across // (BLOCK * component.scale[1])
        starts = np.arange(0, beyond.shape[0], rows), np.arange(0, beyond.shape[1], columns)
        found |= np.logical_or.reduceat(np.logical_or.reduceat(beyond, starts[0], axis=0), starts[1], axis=1)
    return found.repeat(down, axis=0).repeat(across, axis=1)[:height, :width]


_TOLERANCE_88 = ROUNDING_BOUND_88 + np.float32(1e-2)
"""Of whole levels, and of this code's own float32."""


def _excess(
    plane: NDArray[np.float32], component: Component, tolerance_88: NDArray[np.float32], top: int, left: int
) -> NDArray[np.float32]:
    """How far each coefficient lies beyond its cell and its tolerance, in steps, ``(V, U, 8, 8)``; 0 or less: inside.

    Arguments as of ``_blocks_under``.
    """
    blocks, grown = _blocks_under(plane, component, top, left)
    low, high = component.cells(*blocks)
    coefficients = dct_blocks(blocks_from_plane(grown))
    beyond: NDArray[np.float32] = np.maximum(low - coefficients, coefficients - high) - tolerance_88
    steps: NDArray[np.float32] = (beyond / component.table_88).astype(np.float32, copy=False)
    return steps


_COMPONENT_NAMES = {
    "grey": ("Y",),
    "YCbCr": ("Y", "Cb", "Cr"),
    "RGB": ("R", "G", "B"),
    "CMYK": ("C", "M", "Y", "K"),
    "YCCK": ("Y", "Cb", "Cr", "K"),
}


class _Tally:
    def __init__(self, name: str) -> None:
        self._name = name
        self._counts = np.zeros(4, np.int64)  # checked, inside, checked clipped, inside clipped
        self._blocks_at_edge = 0
        self._worst, self._where = 0.0, (0, 0)

    def add(
        self, beyond_VU88: NDArray[np.float32], clips_HW: NDArray[np.bool_], scale: tuple[int, int], top: int
    ) -> None:
        across, down = BLOCK * scale[1], BLOCK * scale[0]
        rows, columns = beyond_VU88.shape[:2]
        whole_rows, whole_columns = clips_HW.shape[0] // down, clips_HW.shape[1] // across
        whole = beyond_VU88[: min(rows, whole_rows), : min(columns, whole_columns)]
        self._blocks_at_edge += rows * columns - whole.shape[0] * whole.shape[1]
        if not whole.size:
            return
        area = clips_HW[: whole.shape[0] * down, : whole.shape[1] * across]
        clipped = area.reshape(whole.shape[0], down, whole.shape[1], across).any(axis=(1, 3))
        bounded, inside = np.isfinite(whole), whole <= 0  # of what is unbounded there is nothing to check
        inside &= bounded
        for offset, blocks in ((0, ~clipped), (2, clipped)):
            self._counts[offset] += bounded[blocks].sum()
            self._counts[offset + 1] += inside[blocks].sum()
        excess = np.where(clipped, np.float32(0), whole.max(axis=(2, 3)))
        row, column = np.unravel_index(int(excess.argmax()), excess.shape)
        if excess[row, column] > self._worst:
            self._worst = float(excess[row, column])
            self._where = (int(row) + top // down, int(column))

    def result(self) -> ComponentConsistency:
        checked, inside, checked_clipped, inside_clipped = (int(n) for n in self._counts)
        where = self._where if self._worst > 0 else None
        return ComponentConsistency(
            self._name, checked, inside, checked_clipped, inside_clipped, self._blocks_at_edge, self._worst, where
        )


def _planes(pixels: NDArray[np.float32], colour_space: str) -> list[NDArray[np.float32]]:
    """Component planes around zero, as JPEG transforms them: fresh arrays. Of CMYK, too, which ``_pixels`` lacks."""
    if pixels.ndim == 2:
        return [pixels - np.float32(128)]
    if colour_space == "RGB":
        return [pixels[..., i] - np.float32(128) for i in range(3)]
    if colour_space == "CMYK":  # coded the other way round: see ``unjpeg.inks``
        return [np.float32(127) - pixels[..., i] for i in range(4)]
    if colour_space == "YCCK":
        return [*_planes(pixels[..., :3], "YCbCr"), np.float32(127) - pixels[..., 3]]
    ycc = ycc_from_rgb(pixels)
    return [ycc[..., 0] - np.float32(128), np.ascontiguousarray(ycc[..., 1]), np.ascontiguousarray(ycc[..., 2])]


def _pixels(planes: list[NDArray[np.float32]], colour_space: str) -> NDArray[np.float32]:
    """Inverse of ``_planes``."""
    if len(planes) == 1:
        return planes[0] + np.float32(128)
    if colour_space == "RGB":
        return np.stack(planes, axis=2) + np.float32(128)
    return rgb_from_ycc(np.stack([planes[0] + np.float32(128), planes[1], planes[2]], axis=2))


def _blocks_under(
    plane: NDArray[np.float32], component: Component, top: int, left: int
) -> tuple[tuple[slice, slice], NDArray[np.float32]]:
    """Block rows and columns under a rectangle, and that in the component's resolution, grown to whole blocks.

    Grown as libjpeg's encoder does: the right edge is repeated before chroma is averaged down, the bottom one after.
    """
    vertical, horizontal = component.scale
    rows, columns = -(-plane.shape[0] // (BLOCK * vertical)), -(-plane.shape[1] // (BLOCK * horizontal))
    row, column = top // (BLOCK * vertical), left // (BLOCK * horizontal)
    down = downsample(
        _grown(plane, -(-plane.shape[0] // vertical) * vertical, columns * BLOCK * horizontal), vertical, horizontal
    )
    blocks = slice(row, row + rows), slice(column, column + columns)
    return blocks, _grown(down, rows * BLOCK, columns * BLOCK)


def _grown(plane: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    bottom, right = height - plane.shape[0], width - plane.shape[1]
    return np.pad(plane, ((0, bottom), (0, right)), mode="edge") if bottom or right else plane
