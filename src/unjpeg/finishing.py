"""What a user may ask of a restored tile beyond the network's word: fine detail kept, and rounding without bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from unjpeg.dct import BLOCK, RGB_TO_YCC, blocks_from_plane, dct_blocks, idct_blocks, plane_from_blocks
from unjpeg.projection import find_outliers

if TYPE_CHECKING:
    from unjpeg.jpeg import Component

__all__ = ["FINENESS_88", "dither_tile", "keep_detail", "threshold_pattern"]


def _fineness() -> NDArray[np.float32]:
    v, u = np.mgrid[0:BLOCK, 0:BLOCK]
    ramp: NDArray[np.float32] = np.clip((np.hypot(v, u) - 1) / 3, 0, 1).astype(np.float32)
    return ramp


FINENESS_88 = _fineness()
"""How fine each coefficient is: 0 for the mean and the slopes across a block, 1 from two waves across a block on. The
slow ones are where blocks show, so there the network is always followed."""

# The plastic number's two-dimensional sequence: its multiples, modulo 1, fill the unit interval evenly in every
# neighbourhood of the plane. In integers, so that every machine and every tile has the same.
_STEP_ACROSS, _STEP_DOWN = round(2**32 / 1.32471795724474602596), round(2**32 / 1.32471795724474602596**2)
_CHANNEL_STEP = round(2**32 / 3)


def keep_detail(restored: NDArray[np.float32], decoded: NDArray[np.float32], detail: float) -> NDArray[np.float32]:
    """Follow the network's smoothing of fine luma frequencies by this share only.

    Where the network makes a coefficient of the luma smaller than the file has it, that change is scaled by
    ``1 - (1 - detail) * FINENESS_88``. What it adds is kept, and so is all that it does to chroma.

    Args:
        restored, decoded: the same rectangle, ``(H, W)`` or ``(H, W, 3)`` RGB, range 0..255; it begins on the grid of
            the file's blocks.
        detail: 0..1; 1 gives ``restored`` itself.
    """
    if detail == 1:
        return restored
    luma = RGB_TO_YCC[0]
    before, after = (pixels if pixels.ndim == 2 else pixels @ luma for pixels in (decoded, restored))
    old_VU88, new_VU88 = (dct_blocks(blocks_from_plane(_grown(plane))) for plane in (before, after))
    smoothed = np.abs(new_VU88) < np.abs(old_VU88)
    taken_back = np.where(smoothed, (old_VU88 - new_VU88) * (np.float32(1 - detail) * FINENESS_88), np.float32(0))
    change = plane_from_blocks(idct_blocks(taken_back))[: before.shape[0], : before.shape[1]]
    return restored + (change if restored.ndim == 2 else change[..., None])


def _grown(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = plane.shape
    return np.pad(plane, ((0, -height % BLOCK), (0, -width % BLOCK)), mode="edge")


def threshold_pattern(top: int, left: int, shape: tuple[int, ...], *, alike: bool = False) -> NDArray[np.float32]:
    """Offsets between -1/2 and 1/2 to add before rounding: evenly spread, and fixed to the place in the picture.

    Args:
        top, left: the first row and column in the picture.
        shape: ``(H, W)`` or ``(H, W, 3)``.
        alike: the same for all channels, so that what has no colour gets none. Else they take turns: their noise
            partly cancels in the luma.
    """
    rows = np.arange(top, top + shape[0], dtype=np.uint64)[:, None] * np.uint64(_STEP_DOWN)
    columns = np.arange(left, left + shape[1], dtype=np.uint64) * np.uint64(_STEP_ACROSS)
    phase = rows + columns
    if len(shape) == 3:
        step = 0 if alike else _CHANNEL_STEP
        phase = phase[..., None] + np.arange(shape[2], dtype=np.uint64) * np.uint64(step)
    # 24 bits: as many as float32 holds, so that no offset is rounded up to a whole half.
    parts = (phase & np.uint64(0xFFFFFFFF)) >> np.uint64(8)
    offsets: NDArray[np.float32] = (parts.astype(np.float32) + np.float32(0.5)) / np.float32(2**24) - np.float32(0.5)
    return offsets


def dither_tile(
    tile: NDArray[np.float32],
    top: int,
    left: int,
    cells: tuple[Sequence[Component], str] | None,
    *,
    is_neutral: bool = False,
) -> NDArray[np.float32]:
    """Round to whole levels with the ``threshold_pattern``, so that a slow change shows as grain and not as bands.

    Dithering moves a sample by less than one level, rounding by half of one at most, and half is what is allowed for
    where a picture is held against a file. So where a coefficient leaves its cell by more than that, the blocks around
    it are rounded.

    Args:
        tile: ``(H, W)`` or ``(H, W, 3)``, range 0..255, whose sides are multiples of ``row_alignment`` unless they are
            the picture's own edges.
        top, left: its first row and column in the picture.
        cells: components of the whole picture and their colour space, if it is held to a file.
        is_neutral: whether all channels are alike, and stay so.

    Returns:
        Whole numbers in 0..255.
    """
    dithered: NDArray[np.float32] = np.rint(tile + threshold_pattern(top, left, tile.shape, alike=is_neutral))
    np.clip(dithered, 0, 255, out=dithered)
    if cells is not None:
        outliers = find_outliers(dithered, *cells, top, left)
        if outliers.any():
            dithered[outliers] = np.rint(tile[outliers])
    return dithered
