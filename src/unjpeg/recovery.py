"""An earlier JPEG's coefficients, as far as the picture still tells them: cells that a restoration can be held to.

::

    pixels ─▶ planes on the earlier grid ─▶ chroma's upsampling undone ─▶ DCT ─▶ whole numbers of steps that fit
                                                                                 one, several, or any

``recover`` takes a region of ``unjpeg.history``. Its *frame* is the region with as many pixels put before it as let the
earlier grid start at the frame's first row and column; blocks that the region does not fill are unbounded. Restore on
the frame, then hold the result to its cells: the encoder's input lay in ``Cells.bounds``.

Letters in names: as ``unjpeg.history``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unjpeg.dct import BLOCK, RGB_TO_YCC, blocks_from_plane, dct_blocks, idct_blocks
from unjpeg.history import PIXEL_NOISE, Earlier, Region
from unjpeg.jpeg import Component, JpegImage
from unjpeg.tables import stated_features
from unjpeg.upsampling import chroma_noise, frame_blocks, plane_at_scale

__all__ = ["Cells", "Recovered", "recover"]

ANY = np.int16(32767)
"""In ``Cells``: minus and plus this bound nothing."""

TOLERANCE = 3.5
"""Standard deviations of a coefficient's error within which a multiple of its step is held possible."""

MISFIT = 2.5
"""Mean square error of a block's coefficients, against what is expected, beyond which it does not follow the comb."""


BAND, MARGIN = 512, 128
"""Rows of a frame that are recovered at once, and how many more are looked at on either side: whole blocks at every
sampling."""

MOST_AROUND = 13.0
"""Of a region in a larger picture: so many of the 24 blocks around one that clips are to follow the comb for it to
count as one of them. At a region's edge there are fewer: what lies there may be the page around it."""


@dataclass(frozen=True)
class Cells(Component):
    """One component of an earlier JPEG, as far as it is known. Of all of the frame's blocks, also those that hang over.

    Attributes:
        coefficients_VU88: the lowest quantised coefficients that may have been; ``-ANY`` where any may.
        highest_VU88: the highest; the same where only one fits, ``ANY`` where any does.
    """

    highest_VU88: NDArray[np.int16] = field(kw_only=True)

    @property
    def has_usual_cells(self) -> bool:
        return False

    def centres(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Of the coefficients that fit the middle, dequantised; 0 where any does."""
        lowest, highest = self.coefficients_VU88[rows, columns], self.highest_VU88[rows, columns]
        middle: NDArray[np.float32] = (lowest.astype(np.float32) + highest) * np.float32(0.5) * self.table_88
        return middle

    def cells(
        self, rows: slice = slice(None), columns: slice = slice(None)
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Lowest and highest coefficients, in levels as ``dct_blocks`` gives them, of some block rows and columns."""
        half = np.float32(0.5)
        lowest, highest = self.coefficients_VU88[rows, columns], self.highest_VU88[rows, columns]
        low = (lowest.astype(np.float32) - half) * self.table_88
        high = (highest.astype(np.float32) + half) * self.table_88
        low[lowest <= -ANY], high[highest >= ANY] = -np.inf, np.inf
        return low, high


@dataclass(frozen=True, slots=True)
class Recovered:
    """A region's earlier JPEG.

    Attributes:
        region: the region.
        pad_top, pad_left: rows and columns before the region's first, so that the frame starts on the earlier grid.
        components: luma, and Cb and Cr unless the picture is grey.
        fits_VU: for each luma block of the frame, whether it follows the comb; the others are to be left as they are.
            Blocks that clip or hang over the region count as their neighbours.
    """

    region: Region
    pad_top: int
    pad_left: int
    components: tuple[Cells, ...]
    fits_VU: NDArray[np.bool_]

    @property
    def stated(self) -> NDArray[np.float32]:
        """What that file stated of its compression: ``unjpeg.jpeg.stated_features``."""
        earlier = self.region.earlier
        return stated_features(earlier.luma_88, earlier.chroma_88, earlier.chroma_scale)


def recover(pixels: NDArray[np.uint8], region: Region, jpeg: JpegImage | None = None) -> Recovered:
    """Find the coefficients of a region's earlier JPEG.

    Args:
        pixels: of the whole picture, ``(H, W)`` or ``(H, W, 3)``.
        jpeg: the last file, as for ``read_history``.
    """
    earlier = region.earlier
    if jpeg is not None and earlier.is_same_grid:
        return _from_coefficients(region, jpeg)
    unit = (BLOCK * earlier.chroma_scale[0], BLOCK * earlier.chroma_scale[1])
    pad_top, pad_left = (region.top - earlier.top) % unit[0], (region.left - earlier.left) % unit[1]
    crop = pixels[region.top : region.top + region.height, region.left : region.left + region.width]
    rows = pad_top + region.height
    bands = [
        _recover_band(crop, earlier, (pad_top, pad_left), slice(top, min(top + BAND, rows)), jpeg is None)
        for top in range(0, rows, BAND)
    ]
    components = []
    for number in range(1 if crop.ndim == 2 else 3):
        scale = earlier.chroma_scale if number else (1, 1)
        table_88 = earlier.chroma_88 if number else earlier.luma_88
        assert table_88 is not None
        lowest, highest = (np.concatenate([band.cells[number][end] for band in bands]) for end in (0, 1))
        components.append(Cells(lowest, table_88, scale, highest_VU88=highest))
    needed = 0.0 if crop.shape[:2] == pixels.shape[:2] else MOST_AROUND
    misfit, judged = (np.concatenate([getattr(band, name) for band in bands]) for name in ("misfit_VU", "judged_VU"))
    return Recovered(region, pad_top, pad_left, tuple(components), _fitting(misfit, judged, needed))


class _Band(NamedTuple):
    """Some rows of blocks.

    Attributes:
        cells: of each component, lowest and highest, ``(V, U, 8, 8)``.
        misfit_VU, judged_VU: of luma: how badly each block fits the comb, and whether it could be told.
    """

    cells: list[tuple[NDArray[np.int16], NDArray[np.int16]]]
    misfit_VU: NDArray[np.float32]
    judged_VU: NDArray[np.bool_]


def _recover_band(
    crop: NDArray[np.uint8], earlier: Earlier, pad: tuple[int, int], rows: slice, with_chroma: bool
) -> _Band:
    """The cells of some rows of a region's frame: what they take in memory does not grow with the picture.

    Args:
        crop: the region.
        pad: rows and columns of the frame before it.
        rows: of the frame, from a multiple of ``BAND`` on.
        with_chroma: whether its chroma can be told, too.
    """
    # Undoing the triangle looks a little further.
    first, last = max(0, rows.start - MARGIN), rows.stop + MARGIN
    part = crop[max(0, first - pad[0]) : last - pad[0]]
    above = pad[0] if first == 0 else 0
    clipped = _in_any_channel((part == 0) | (part == 255))
    cells: list[tuple[NDArray[np.int16], NDArray[np.int16]]] = []
    misfit_VU, judged_VU = np.zeros((0, 0), np.float32), np.zeros((0, 0), np.bool_)
    for number in range(1 if part.ndim == 2 else 3):
        scale = earlier.chroma_scale if number else (1, 1)
        table_88 = earlier.chroma_88 if number else earlier.luma_88
        assert table_88 is not None
        high = BLOCK * scale[0]
        kept = slice((rows.start - first) // high, -(-(rows.stop - first) // high))
        if number and not with_chroma:  # it was resampled with the last file's grid in between
            shape = frame_blocks(part.shape, (above, pad[1]), scale)
            unknown = np.full((*shape, BLOCK, BLOCK), ANY)[kept]
            cells.append((-unknown, unknown))
            continue
        noise_88 = chroma_noise(earlier.chroma_scale, earlier.upsampling) if number else earlier.noise_88
        plane = _channel(part, number) - np.float32(0 if number else 128)
        samples = plane_at_scale(plane, (above, pad[1]), scale, earlier.upsampling)
        coefficients = dct_blocks(blocks_from_plane(samples))
        usable = _whole_blocks(clipped, (above, pad[1]), scale, coefficients.shape[:2])
        judged = usable
        if number == 0:
            completed = _complete(samples, coefficients, table_88, noise_88, part, (above, pad[1]), usable)
            usable, judged = usable | completed.sure, usable | completed.judged
        lowest, highest, misfit = _cells_of(coefficients, table_88, noise_88, usable)
        cells.append((lowest[kept], highest[kept]))
        if number == 0:
            misfit[completed.judged] = np.where(completed.good, 0, np.inf)[completed.judged]
            misfit_VU, judged_VU = misfit[kept], judged[kept]
    return _Band(cells, misfit_VU, judged_VU)


def _in_any_channel(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """``mask.any(axis=2)`` of a colour picture, in a tenth of the time."""
    return mask if mask.ndim == 2 else mask[..., 0] | mask[..., 1] | mask[..., 2]


def _channel(crop: NDArray[np.uint8], number: int) -> NDArray[np.float32]:
    """Y in 0..255, or Cb or Cr around 0."""
    if crop.ndim == 2:
        return crop.astype(np.float32)
    out: NDArray[np.float32] = crop.astype(np.float32) @ RGB_TO_YCC[number]
    return out


def _whole_blocks(
    clipped_HW: NDArray[np.bool_], pad: tuple[int, int], scale: tuple[int, int], shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Which blocks the region fills, and none of whose pixels clips."""
    height, width = BLOCK * scale[0] * shape[0], BLOCK * scale[1] * shape[1]
    after = (height - pad[0] - clipped_HW.shape[0], width - pad[1] - clipped_HW.shape[1])
    bad = np.pad(clipped_HW, ((pad[0], after[0]), (pad[1], after[1])), constant_values=True)
    blocks = bad.reshape(shape[0], BLOCK * scale[0], shape[1], BLOCK * scale[1])
    clear: NDArray[np.bool_] = np.logical_not(blocks.any(axis=(1, 3)))
    return clear


class _Completed(NamedTuple):
    """Of blocks that clip, ``(V, U)``: which could be judged, which of these follow the comb, and surely so."""

    judged: NDArray[np.bool_]
    good: NDArray[np.bool_]
    sure: NDArray[np.bool_]


_ROUNDS = 6
_FEWEST, _ENOUGH = 12, 40
"""Pixels of a block that do not clip, to judge it by and to know its coefficients by."""


def _complete(
    samples_HW: NDArray[np.float32],
    coefficients_VU88: NDArray[np.float32],
    table_88: NDArray[np.uint16],
    noise_88: NDArray[np.float32],
    crop: NDArray[np.uint8],
    pad: tuple[int, int],
    usable_VU: NDArray[np.bool_],
) -> _Completed:
    """Guess what lay beyond black and white: what makes the rest of the block multiples of the steps.

    The coefficients of blocks in which that succeeds are replaced.
    """
    dark, light = (_in_any_channel(crop == end) for end in (0, 255))
    height, width = samples_HW.shape
    after = (height - pad[0] - crop.shape[0], width - pad[1] - crop.shape[1])
    around = ((pad[0], after[0]), (pad[1], after[1]))
    shape = usable_VU.shape
    whole_VU = ~np.pad(np.zeros(crop.shape[:2], np.bool_), around, constant_values=True).reshape(
        shape[0], BLOCK, shape[1], BLOCK
    ).any(axis=(1, 3))
    dark_N, light_N = (_cut(np.pad(one, around), shape) for one in (dark, light))
    clipped_N = dark_N | light_N
    left = BLOCK * BLOCK - clipped_N.reshape(*shape, -1).sum(axis=2)
    judged = whole_VU & ~usable_VU & (left >= _FEWEST)
    good, sure = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    if not judged.any():
        return _Completed(judged, good, sure)
    seen = _cut(samples_HW, shape)[judged]
    dark_N, light_N, kept_N = dark_N[judged], light_N[judged], ~clipped_N[judged]
    steps = table_88.astype(np.float32)
    guess = seen
    for _ in range(_ROUNDS):
        found = dct_blocks(np.ascontiguousarray(guess))
        again = idct_blocks(np.rint(found / steps) * steps)
        guess = np.where(kept_N, seen, np.where(light_N & ~dark_N, np.maximum(again, seen), again))
        guess = np.where(dark_N & ~light_N, np.minimum(again, seen), guess)
    error = (np.square(again - seen) * kept_N).sum(axis=(1, 2)) / kept_N.sum(axis=(1, 2))
    fits = error <= MISFIT * float(np.square(noise_88).mean())
    good[judged] = fits
    sure[judged] = fits & (kept_N.sum(axis=(1, 2)) >= _ENOUGH)
    replaced = coefficients_VU88[judged]
    replaced[fits] = (np.rint(found / steps) * steps)[fits]
    coefficients_VU88[judged] = replaced
    return _Completed(judged, good, sure)


def _cut(plane_HW: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Into blocks, ``(V, U, 8, 8)``."""
    return plane_HW.reshape(shape[0], BLOCK, shape[1], BLOCK).swapaxes(1, 2)


def _cells_of(
    coefficients_VU88: NDArray[np.float32],
    table_88: NDArray[np.uint16],
    noise_88: NDArray[np.float32],
    usable_VU: NDArray[np.bool_],
) -> tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.float32]]:
    """Lowest and highest whole numbers of steps within each coefficient's noise, and the blocks' mean square misfit."""
    steps = table_88.astype(np.float32)
    nearest = np.rint(coefficients_VU88 / steps)
    off = coefficients_VU88 - nearest * steps
    off /= noise_88
    misfit: NDArray[np.float32] = np.square(off).mean(axis=(2, 3))
    reach = TOLERANCE * noise_88
    lowest = np.minimum(np.ceil((coefficients_VU88 - reach) / steps), nearest)
    highest = np.maximum(np.floor((coefficients_VU88 + reach) / steps), nearest)
    lowest[~usable_VU], highest[~usable_VU] = -ANY, ANY
    return lowest.astype(np.int16), highest.astype(np.int16), misfit


def _fitting(misfit_VU: NDArray[np.float32], usable_VU: NDArray[np.bool_], needed: float = 0) -> NDArray[np.bool_]:
    """Which blocks follow the comb; what cannot be told is as what lies around it.

    Args:
        needed: how many of the 24 blocks around one that cannot be told are to follow it, at least.
    """
    good = (usable_VU & (misfit_VU <= MISFIT)).astype(np.float32)
    bad = (usable_VU & (misfit_VU > MISFIT)).astype(np.float32)
    out: NDArray[np.bool_] = good > 0
    unknown = ~usable_VU
    if unknown.any():
        for_it, against = (_around(one) for one in (good, bad))
        out[unknown] = ((for_it >= against) & (for_it >= needed))[unknown]
    return out


def _around(values_VU: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums over 5x5 entries."""
    grown = np.pad(values_VU, 2)
    rows = np.stack([grown[i : i + values_VU.shape[0]] for i in range(5)]).sum(axis=0)
    out: NDArray[np.float32] = np.stack([rows[:, i : i + values_VU.shape[1]] for i in range(5)]).sum(axis=0)
    return out


def _from_coefficients(region: Region, jpeg: JpegImage) -> Recovered:
    """Where both files share one grid: the last file's cells bound the earlier coefficients themselves."""
    earlier = region.earlier
    components = []
    fits_VU: NDArray[np.bool_] | None = None
    for number, component in enumerate(jpeg.components):
        table_88 = earlier.chroma_88 if number else earlier.luma_88
        assert table_88 is not None
        if number and component.scale != earlier.chroma_scale:
            components.append(
                Cells(
                    np.full(component.coefficients_VU88.shape, -ANY),
                    table_88,
                    component.scale,
                    highest_VU88=np.full(component.coefficients_VU88.shape, ANY),
                )
            )
            continue
        steps = table_88.astype(np.float32)
        own = component.table_88.astype(np.float32)
        reach = own / 2 + np.float32(TOLERANCE * PIXEL_NOISE)
        lowest = np.empty(component.coefficients_VU88.shape, np.int16)
        highest, fitting = np.empty_like(lowest), np.empty(lowest.shape[:2], np.float32)
        for row in range(0, len(lowest), BAND // BLOCK):
            rows = slice(row, row + BAND // BLOCK)
            centre = component.coefficients_VU88[rows] * own
            low, high = np.ceil((centre - reach) / steps), np.floor((centre + reach) / steps)
            fitting[rows] = (low <= high).mean(axis=(2, 3))
            none = low > high
            low[none], high[none] = -ANY, ANY
            lowest[rows], highest[rows] = low, high
        if number == 0:
            fits_VU = fitting > 0.9
        components.append(Cells(lowest, table_88, component.scale, highest_VU88=highest))
    assert fits_VU is not None
    return Recovered(region, 0, 0, tuple(components), fits_VU)
