"""PSNR, and the error that it is made of: needs nothing but NumPy, so that trainings measure as the benchmark does."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST_DB", "mean_squared_error", "psnr_db", "ratio_db", "require_alike"]

MOST_DB: Final = 10 * math.log10(255**2 / 1e-4)
"""A bound for means: equal pictures count as differing by a hundredth of a level."""


def psnr_db(restored: NDArray[np.uint8], original: NDArray[np.uint8], most: float = math.inf) -> float:
    """Peak signal-to-noise ratio in dB over all channels; infinite for equal pictures.

    Args:
        restored, original: of equal shape, uint8, ``(H, W)`` grey or ``(H, W, 3)`` RGB.
        most: what is returned instead of anything larger.
    """
    return min(ratio_db(mean_squared_error(restored, original)), most)


def mean_squared_error(restored: NDArray[np.uint8], original: NDArray[np.uint8]) -> float:
    """Over all pixels and channels. Raises ValueError as ``require_alike``."""
    require_alike(restored, original)
    return float(np.square(restored.astype(np.float64) - original).mean())


def ratio_db(squared_error: float) -> float:
    """The PSNR of a mean squared error; infinite for none."""
    return 10 * math.log10(255**2 / squared_error) if squared_error > 0 else math.inf


def require_alike(restored: NDArray[np.uint8], original: NDArray[np.uint8]) -> None:
    """Raises ValueError unless both are uint8 pictures of one shape."""
    if restored.shape != original.shape or restored.dtype != np.uint8 or original.dtype != np.uint8:
        raise ValueError(
            f"metrics compare uint8 pictures of equal shape, got {restored.shape} {restored.dtype} "
            f"and {original.shape} {original.dtype}"
        )
