"""The 8x8 DCT, BT.601 full-range colour and chroma resampling: the one place for each.

Letters in names: V and U block rows and columns, 88 the inside of a block, H and W pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BLOCK",
    "RGB_TO_YCC",
    "ROUNDING_BOUND_88",
    "YCC_TO_RGB",
    "blocks_from_plane",
    "dct_blocks",
    "downsample",
    "idct_blocks",
    "plane_from_blocks",
    "rgb_from_ycc",
    "upsample",
    "ycc_from_rgb",
]

BLOCK = 8


def _dct_matrix() -> NDArray[np.float32]:
    """Orthonormal DCT-II: row u holds basis function u."""
    u, x = np.mgrid[0:BLOCK, 0:BLOCK]
    matrix = np.sqrt(2 / BLOCK) * np.cos((2 * x + 1) * u * np.pi / (2 * BLOCK))
    matrix[0] /= np.sqrt(2)
    out: NDArray[np.float32] = matrix.astype(np.float32)
    return out


# Both passes of the two-dimensional transform as one 64x64 matrix: matrix products over many blocks are several times
# faster in numpy than two batches of 8x8 ones.
_BASIS = np.kron(_dct_matrix(), _dct_matrix())

ROUNDING_BOUND_88: NDArray[np.float32] = (0.5 * np.abs(_BASIS).sum(axis=1)).reshape(BLOCK, BLOCK)
"""How far rounding samples to integers can move each coefficient: half the sum of its basis' magnitudes (DC: 4)."""

# JFIF: full range, offset 128 on chroma (ITU-T T.871).
RGB_TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]], np.float32
)
YCC_TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136286, -0.714136286], [1, 1.772, 0]], np.float32)


def dct_blocks(blocks_VU88: NDArray[np.float32]) -> NDArray[np.float32]:
    """Orthonormal forward DCT of each block, as JPEG scales it (samples already shifted by -128)."""
    return _times(blocks_VU88, _BASIS.T)


def idct_blocks(coefficients_VU88: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inverse of ``dct_blocks``."""
    return _times(coefficients_VU88, _BASIS)


def _times(blocks_VU88: NDArray[np.float32], matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each block, as a row of 64 numbers, times a 64x64 matrix."""
    flat = blocks_VU88.reshape(-1, BLOCK * BLOCK)
    out = np.empty(flat.shape, np.float32)
    # 64 rows at a time: BLAS keeps products of that size to one thread. On larger ones its threads wait for each other
    # by spinning, which took 70 times as long where something else used the second core.
    whole = len(flat) // 64 * 64
    np.matmul(flat[:whole].reshape(-1, 64, 64), matrix, out=out[:whole].reshape(-1, 64, 64))
    np.matmul(flat[whole:], matrix, out=out[whole:])
    return out.reshape(blocks_VU88.shape)


def blocks_from_plane(plane_HW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut a plane, sides multiples of 8, into blocks ``(H / 8, W / 8, 8, 8)``."""
    height, width = plane_HW.shape
    blocks = plane_HW.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK).swapaxes(1, 2)
    return np.ascontiguousarray(blocks)


def plane_from_blocks(blocks_VU88: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inverse of ``blocks_from_plane``."""
    rows, columns = blocks_VU88.shape[:2]
    return blocks_VU88.swapaxes(1, 2).reshape(rows * BLOCK, columns * BLOCK)


def ycc_from_rgb(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """RGB, range 0..255, last axis 3, to Y in 0..255 and Cb, Cr in -128..127 (no offset)."""
    out: NDArray[np.float32] = rgb @ RGB_TO_YCC.T
    return out


def rgb_from_ycc(ycc: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inverse of ``ycc_from_rgb``, not clipped."""
    out: NDArray[np.float32] = ycc @ YCC_TO_RGB.T
    return out


def downsample(plane_HW: NDArray[np.float32], vertical: int, horizontal: int) -> NDArray[np.float32]:
    """Mean of ``vertical`` x ``horizontal`` pixels, as libjpeg's encoder does; sides multiples of them."""
    if vertical == horizontal == 1:
        return plane_HW
    # Sums of slices: numpy's mean over two axes of so few takes ten times as long for the same bits.
    across = plane_HW[:, ::horizontal]
    for column in range(1, horizontal):
        across = across + plane_HW[:, column::horizontal]
    out = across[::vertical]
    for row in range(1, vertical):
        out = out + across[row::vertical]
    mean: NDArray[np.float32] = out / np.float32(vertical * horizontal)
    return mean


def upsample(plane_HW: NDArray[np.float32], vertical: int, horizontal: int) -> NDArray[np.float32]:
    """Repeat each sample: ``downsample`` of the result gives the argument back."""
    if vertical == horizontal == 1:
        return plane_HW
    return plane_HW.repeat(vertical, axis=0).repeat(horizontal, axis=1)
