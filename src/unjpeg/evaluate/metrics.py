"""PSNR, SSIM and PSNR-B, calibrated: with these the JPEG row of LIVE1 comes out as the DAGN paper prints it.

All take two pictures of equal shape, uint8, ``(H, W)`` grey or ``(H, W, 3)`` RGB, range 0..255.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

__all__ = ["psnr_b_db", "psnr_db", "ssim"]

BLOCK = 8


def psnr_db(restored: NDArray[np.uint8], original: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB over all channels; infinite for equal pictures."""
    return _ratio_db(_mean_squared_error(restored, original))


def ssim(restored: NDArray[np.uint8], original: NDArray[np.uint8]) -> float:
    """Structural similarity: Gaussian 11x11 window, sigma 1.5, population covariance, mean over the channels."""
    _check(restored, original)
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


def psnr_b_db(restored: NDArray[np.uint8], original: NDArray[np.uint8]) -> float:
    """PSNR with a penalty for visible block edges (Yim and Bovik, 2011), in dB.

    The squared error is over all channels; the blocking factor is of the restored picture's luma in MATLAB's range
    (16..235, rounded), as the published tables have it.
    """
    error = _mean_squared_error(restored, original)
    return _ratio_db(error + _blocking_effect_factor(_matlab_luma(restored)))


def _mean_squared_error(restored: NDArray[np.uint8], original: NDArray[np.uint8]) -> float:
    _check(restored, original)
    return float(np.square(restored.astype(np.float64) - original).mean())


def _ratio_db(squared_error: float) -> float:
    return 10 * math.log10(255**2 / squared_error) if squared_error > 0 else math.inf


def _check(restored: NDArray[np.uint8], original: NDArray[np.uint8]) -> None:
    if restored.shape != original.shape or restored.dtype != np.uint8 or original.dtype != np.uint8:
        raise ValueError(
            f"metrics compare uint8 pictures of equal shape, got {restored.shape} {restored.dtype} "
            f"and {original.shape} {original.dtype}"
        )


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
