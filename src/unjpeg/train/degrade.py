"""On-the-fly degradation with the real codec: libjpeg-turbo through Pillow, as people's files are made."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["JpegDegradation", "compress_jpeg"]


def compress_jpeg(pixels: NDArray[np.uint8], quality: int, subsampling: str = "4:2:0") -> NDArray[np.uint8]:
    """Encode and decode once.

    Args:
        pixels: ``(H, W, 3)`` RGB or ``(H, W)`` grey.
        quality: libjpeg's quality factor, 1..100.
        subsampling: chroma subsampling, "4:4:4", "4:2:2" or "4:2:0".

    Returns:
        The decoded pixels, shaped as the input.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(buffer))


@dataclass(frozen=True, slots=True)
class JpegDegradation:
    """One JPEG compression with a random quality factor (section IV-A2).

    Attributes:
        min_quality, max_quality: the range, both ends included.
        skew: 1 draws uniformly, as published; above, low qualities more often: the place in the range is ``r ** skew``
            for a uniform ``r``.
    """

    min_quality: int = 10
    max_quality: int = 95
    skew: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.min_quality <= self.max_quality <= 100:
            raise ValueError(f"quality range must lie in 1..100, got {self.min_quality}..{self.max_quality}")
        if not 0 < self.skew < float("inf"):
            raise ValueError(f"skew must be a positive number, got {self.skew}")

    def apply(self, pixels: NDArray[np.uint8], rng: np.random.Generator) -> tuple[NDArray[np.uint8], int]:
        """Compressed pixels and the quality factor used."""
        place = float(rng.random() ** self.skew)
        quality = self.min_quality + int((self.max_quality + 1 - self.min_quality) * place)
        return compress_jpeg(pixels, quality), quality
