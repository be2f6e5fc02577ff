"""PSNR, SSIM and PSNR-B, calibrated, and the variants that other papers print, each under a name that says what it is.

With ``psnr_db``, ``ssim`` and ``psnr_b_db`` the JPEG row of LIVE1 comes out as the DAGN paper prints it. All take two
pictures of equal shape, uint8, ``(H, W)`` grey or ``(H, W, 3)`` RGB, range 0..255, restored first. A grey picture is
its own luma. Higher is better for every one of them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter
from skimage.metrics import structural_similarity
from ssimulacra2 import compute_ssimulacra2

from unjpeg.dct import RGB_TO_YCC
from unjpeg.evaluate.psnr import mean_squared_error, psnr_db, ratio_db, require_alike

__all__ = [
    "METRICS",
    "Metric",
    "psnr_b_db",
    "psnr_db",
    "psnr_luma_db",
    "psnr_matlab_luma_db",
    "ssim",
    "ssim_jdec",
    "ssim_matlab_luma",
    "ssimulacra2",
]

BLOCK = 8
SSIM_WINDOW = 11

Metric = Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]


def psnr_luma_db(restored: NDArray[np.uint8], original: NDArray[np.uint8]) -> float:
    """PSNR in dB of JPEG's own luma, BT.601 in full range, not rounded."""
    require_alike(restored, original)
    return ratio_db(float(np.square(_full_luma(restored) - _full_luma(original)).mean()))


def psnr_matlab_luma_db(restored: NDArray[np.uint8], original: NDArray[np.uint8]) -> float:
    """PSNR in dB of the luma of MATLAB's ``rgb2ycbcr``, 16..235, rounded: some 1.3 dB above ``psnr_luma_db``."""
    require_alike(restored, original)
    return ratio_db(float(np.square(_matlab_luma(restored) - _matlab_luma(original)).mean()))


def ssim(restored: NDArray[np.uint8], original: NDArray[np.uint8]) -> float:
    """Structural similarity: Gaussian 11x11 window, sigma 1.5, population covariance, mean over the channels.

    Windows lie inside the picture, as in FBCNN's code: its SSIM is this one. Raises ValueError for pictures without
    room for one.
    """
    require_alike(restored, original)
    return _gaussian_ssim(restored, original)


def ssim_matlab_luma(restored: NDArray[np.uint8], original: NDArray[np.uint8]) -> float:
    """``ssim`` of the luma of MATLAB's ``rgb2ycbcr``, 16..235, rounded; raises as it does."""
    require_alike(restored, original)
    return _gaussian_ssim(_matlab_luma(restored), _matlab_luma(original))


def ssim_jdec(restored: NDArray[np.uint8], original: NDArray[np.uint8]) -> float:
    """SSIM as JDEC and QGAC compute it: plain 8x8 window at every position, population covariance, mean over channels.

    1 for pictures without room for one window.
    """
    require_alike(restored, original)
    if min(restored.shape[:2]) < BLOCK:
        return 1.0
    x, y = (a.astype(np.float64).reshape(*a.shape[:2], -1) for a in (restored, original))

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        inside = slice(BLOCK // 2, -(BLOCK // 2) + 1)
        smooth: NDArray[np.float64] = uniform_filter(values, (BLOCK, BLOCK, 1))[inside, inside]
        return smooth

    mean_x, mean_y = mean(x), mean(y)
    variance = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (variance + c2))
    return float(similarity.mean())


def psnr_b_db(restored: NDArray[np.uint8], original: NDArray[np.uint8]) -> float:
    """PSNR with a penalty for visible block edges (Yim and Bovik, 2011), in dB.

    The squared error is over all channels; the blocking factor is of the restored picture's luma in MATLAB's range
    (16..235, rounded), as the published tables have it.
    """
    error = mean_squared_error(restored, original)
    return ratio_db(error + _blocking_effect_factor(_matlab_luma(restored)))


def ssimulacra2(restored: NDArray[np.uint8], original: NDArray[np.uint8]) -> float:
    """SSIMULACRA 2, a perceptual score: 100 is equal, 90 hardly to be told, 50 medium, below 0 very poor.

    As the package ``ssimulacra2`` computes it; it treats the picture's borders otherwise than the C++ program, so
    compare within a table.
    """
    require_alike(restored, original)
    files = [io.BytesIO(), io.BytesIO()]
    for pixels, file in zip((original, restored), files, strict=True):
        Image.fromarray(pixels).save(file, "BMP")  # it takes files only
        file.seek(0)
    return float(compute_ssimulacra2(*files))


METRICS: dict[str, Metric] = {
    "psnr_db": psnr_db,
    "ssim": ssim,
    "psnr_b_db": psnr_b_db,
    "psnr_luma_db": psnr_luma_db,
    "psnr_matlab_luma_db": psnr_matlab_luma_db,
    "ssim_matlab_luma": ssim_matlab_luma,
    "ssim_jdec": ssim_jdec,
    "ssimulacra2": ssimulacra2,
}
"""Every metric by its name; the three calibrated ones first."""


def _gaussian_ssim(
    restored: NDArray[np.uint8] | NDArray[np.float64], original: NDArray[np.uint8] | NDArray[np.float64]
) -> float:
    height, width = restored.shape[:2]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs {SSIM_WINDOW}x{SSIM_WINDOW} pixels or more, the picture has {width}x{height}")
    return float(
        structural_similarity(  # type: ignore[no-untyped-call]
            restored,
            original,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=2 if restored.ndim == 3 else None,
        )
    )


def _full_luma(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    return pixels.astype(np.float64) if pixels.ndim == 2 else pixels.astype(np.float64) @ RGB_TO_YCC[0]


def _matlab_luma(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    if pixels.ndim == 2:
        return pixels.astype(np.float64)
    return np.rint(pixels.astype(np.float64) @ [65.481, 128.553, 24.966] / 255 + 16)


def _blocking_effect_factor(luma: NDArray[np.float64]) -> float:
    """How much more neighbours differ across block edges than elsewhere; 0 if they do not."""
    across = np.square(np.diff(luma, axis=1))
    down = np.square(np.diff(luma, axis=0))
    edge_columns = np.arange(across.shape[1]) % BLOCK == BLOCK - 1
    edge_rows = np.arange(down.shape[0]) % BLOCK == BLOCK - 1
    on_edge = across[:, edge_columns].sum() + down[edge_rows].sum()
    inside = across[:, ~edge_columns].sum() + down[~edge_rows].sum()
    edge_count = across[:, edge_columns].size + down[edge_rows].size
    inside_count = across.size + down.size - edge_count
    if not edge_count or not inside_count or min(luma.shape) == 1:
        return 0.0
    excess = on_edge / edge_count - inside / inside_count
    return float(max(0.0, excess) * math.log2(BLOCK) / math.log2(min(luma.shape)))
