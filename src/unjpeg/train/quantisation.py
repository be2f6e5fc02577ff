"""Quantisation tables as files in the wild have them: not only libjpeg's.

Each style gives a luma and a chroma table, ``(8, 8)``, natural order, entries 1..255. What encoders do beside their
tables (mozjpeg's trellis search, jpegli's adaptive dead zone) is not imitated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unjpeg.tables import standard_table

__all__ = ["STYLES", "Tables"]

Tables = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Of luma and of chroma."""

# N. Robidoux's table for ImageMagick, which mozjpeg's cjpeg takes for luma and chroma unless told otherwise (jcparam.c,
# table 3); scaled by quality as libjpeg scales its own.
_ROBIDOUX: Final = np.array(
    [
        [16, 16, 16, 18, 25, 37, 56, 85],
        [16, 17, 20, 27, 34, 40, 53, 75],
        [16, 20, 24, 31, 43, 62, 91, 135],
        [18, 27, 31, 40, 53, 74, 106, 156],
        [25, 34, 43, 53, 69, 94, 131, 189],
        [37, 40, 62, 74, 94, 124, 169, 238],
        [56, 53, 91, 106, 131, 169, 226, 311],
        [85, 75, 135, 156, 189, 238, 311, 418],
    ]
)

# jpegli (libjxl, lib/jpegli/quant.cc): kBaseQuantMatrixYCbCr for Y and, as for both chroma planes unless they have
# tables of their own, Cr; kExponent. Rounded.
_JPEGLI_LUMA: Final = np.array(
    [
        [1.24, 1.72, 2.92, 2.81, 3.34, 3.46, 3.84, 3.87],
        [1.72, 2.09, 2.85, 2.70, 3.44, 3.17, 4.03, 4.04],
        [2.92, 2.85, 2.96, 3.39, 3.62, 3.90, 3.76, 4.24],
        [2.81, 2.70, 3.39, 3.38, 4.17, 4.81, 4.78, 4.61],
        [3.34, 3.44, 3.62, 4.17, 4.58, 4.92, 5.57, 5.49],
        [3.46, 3.17, 3.90, 4.81, 4.92, 5.44, 5.09, 6.09],
        [3.84, 4.03, 3.76, 4.78, 5.57, 5.09, 5.44, 5.40],
        [3.87, 4.04, 4.24, 4.61, 5.49, 6.09, 5.40, 4.38],
    ]
)
_JPEGLI_CHROMA: Final = np.array(
    [
        [2.92, 4.50, 7.36, 6.58, 8.54, 8.80, 9.19, 9.48],
        [4.50, 6.31, 7.02, 7.16, 8.05, 7.01, 6.71, 8.38],
        [7.36, 7.02, 6.89, 6.88, 8.78, 6.88, 7.89, 8.68],
        [6.58, 7.16, 6.88, 7.00, 7.72, 7.96, 7.47, 8.36],
        [8.54, 8.05, 8.78, 7.72, 6.78, 9.48, 9.04, 8.05],
        [8.80, 7.01, 6.88, 7.96, 9.48, 8.61, 9.92, 64.25],
        [9.19, 6.71, 7.89, 7.47, 9.04, 9.92, 63.18, 83.35],
        [9.48, 8.38, 8.68, 8.36, 8.05, 64.25, 83.35, 114.89],
    ]
)
_JPEGLI_EXPONENT: Final = np.array(
    [
        [1.00, 0.51, 0.67, 0.74, 1.00, 1.00, 1.00, 1.00],
        [0.51, 0.66, 0.69, 0.87, 1.00, 1.00, 1.00, 1.00],
        [0.67, 0.69, 0.84, 0.83, 0.96, 1.00, 1.00, 1.00],
        [0.74, 0.87, 0.83, 1.00, 1.00, 0.91, 0.91, 1.00],
        [1.00, 1.00, 0.96, 1.00, 1.00, 1.00, 1.00, 1.00],
        [1.00, 1.00, 1.00, 0.91, 1.00, 1.00, 1.00, 1.00],
        [1.00, 1.00, 1.00, 0.91, 1.00, 1.00, 1.00, 1.00],
        [1.00, 1.00, 1.00, 1.00, 1.00, 1.00, 1.00, 1.00],
    ]
)
_JPEGLI_SCALE: Final = 1.7397
_JPEGLI_420_SCALE: Final = 1.22
_JPEGLI_420_CHROMA: Final = 1 / 3  # jpegli has a factor per frequency; nearly all lie in 0.27..0.41


def _standard(quality: int, _sampling: str, _rng: np.random.Generator) -> Tables:
    """ITU-T T.81, Annex K, scaled by libjpeg's rule."""
    return standard_table(quality), standard_table(quality, chroma=True)


def _mozjpeg(quality: int, _sampling: str, _rng: np.random.Generator) -> Tables:
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    table = _table((_ROBIDOUX * scale + 50) // 100)
    return table, table


def _jpegli(quality: int, sampling: str, _rng: np.random.Generator) -> Tables:
    """Quality to Butteraugli distance, distance to tables."""
    if quality == 100:
        distance = 0.01
    elif quality >= 30:
        distance = 0.1 + 0.09 * (100 - quality)
    else:
        distance = 53 / 3000 * quality**2 - 23 / 20 * quality + 25
    scale: NDArray[np.float64] = np.full((8, 8), distance)
    if distance >= 1.5:  # from here on low frequencies are quantised less than in proportion
        scale = np.maximum(distance / 2, 1.5 ** (1 - _JPEGLI_EXPONENT) * distance**_JPEGLI_EXPONENT)
    scale = scale * _JPEGLI_SCALE
    chroma = 1.0
    if sampling == "4:2:0":
        scale, chroma = scale * _JPEGLI_420_SCALE, _JPEGLI_420_CHROMA
    return _table(np.rint(scale * _JPEGLI_LUMA)), _table(np.rint(scale * chroma * _JPEGLI_CHROMA))


def _camera(quality: int, _sampling: str, rng: np.random.Generator) -> Tables:
    """Libjpeg's at this quality, steeper or flatter over the frequencies, luma and chroma each scaled by itself.

    Cameras differ in their tables from model to model, many from picture to picture (H. Farid, Digital Image Ballistics
    from JPEG Quantization, TR2006-583, Dartmouth College; J. Kornblum, Using JPEG quantization tables to identify
    imagery processed by software, DFRWS 2008). How they differ is our own guess: a power 0.6..1.2 of each entry around
    the table's geometric mean, a factor 0.7..1.4.
    """
    tables = []
    for chroma in (False, True):
        logarithms = np.log(standard_table(quality, chroma=chroma))
        mean, power, factor = logarithms.mean(), rng.uniform(0.6, 1.2), rng.uniform(np.log(0.7), np.log(1.4))
        tables.append(_table(np.rint(np.exp(mean + power * (logarithms - mean) + factor))))
    return tables[0], tables[1]


def _table(entries: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.int64]:
    return np.clip(entries, 1, 255).astype(np.int64)


STYLES: Final[dict[str, Callable[[int, str, np.random.Generator], Tables]]] = {
    "standard": _standard,
    "camera": _camera,
    "mozjpeg": _mozjpeg,
    "jpegli": _jpegli,
}
"""Who wrote the file: (quality 1..100, chroma sampling, random numbers) to its tables."""
