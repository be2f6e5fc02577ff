"""What quantisation tables say: the quality that they state, and how a network is told it.

libjpeg's tables are Annex K's of ITU-T T.81, scaled by a quality factor of 1 to 100.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["STATED_FEATURES", "QualityEstimate", "standard_table", "stated_features", "transposed_stated"]

# ITU-T T.81, Annex K, natural order.
_LUMA_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMA_TABLE = np.full((8, 8), 99)
_CHROMA_TABLE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]


def standard_table(quality: int, *, chroma: bool = False) -> NDArray[np.int64]:
    """Libjpeg's quantisation table, ``(8, 8)`` in natural order, for a quality factor 1..100."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    base = _CHROMA_TABLE if chroma else _LUMA_TABLE
    table: NDArray[np.int64] = np.clip((base * scale + 50) // 100, 1, 255)
    return table


@cache
def _standard_logarithms(*, chroma: bool) -> NDArray[np.float64]:
    """Of the standard tables of all qualities, 1 first."""
    return np.log(np.stack([standard_table(quality, chroma=chroma) for quality in range(1, 101)]))


@dataclass(frozen=True, slots=True)
class QualityEstimate:
    """The quality factor whose standard tables are nearest to a file's.

    Attributes:
        value: 1..100.
        distance: mean absolute logarithm of the ratio between the tables; 0 means they are the standard ones.
    """

    value: int
    distance: float

    @property
    def is_standard(self) -> bool:
        return self.distance == 0.0

    @classmethod
    def of_tables(cls, luma_88: NDArray[np.integer], chroma_88: NDArray[np.integer] | None) -> QualityEstimate:
        """Nearest quality for the tables in use, ``(8, 8)`` each."""
        stated = [luma_88] if chroma_88 is None else [luma_88, chroma_88]
        distances = np.mean(
            [
                np.abs(np.log(np.maximum(table, 1).astype(np.float64)) - _standard_logarithms(chroma=index > 0)).mean(
                    axis=(1, 2)
                )
                for index, table in enumerate(stated)
            ],
            axis=0,
        )
        best = int(np.argmin(distances))
        return cls(best + 1, float(distances[best]))


STATED_FEATURES = 2 * 64 + 3
"""Length of what ``stated_features`` gives."""


def stated_features(
    luma_88: NDArray[np.integer], chroma_88: NDArray[np.integer] | None, chroma_scale: tuple[int, int] = (1, 1)
) -> NDArray[np.float32]:
    """What a file states of its compression, as a network is told it.

    Args:
        luma_88, chroma_88: quantisation tables, natural order; no chroma if the file is grey.
        chroma_scale: (vertical, horizontal): how many pixels one chroma sample covers.

    Returns:
        ``(STATED_FEATURES,)``: logarithms of the tables' steps, about -1..1; those of the chroma's scale; and 1. All
        zeros is the place of a picture that no file states anything of.
    """
    features = np.zeros(STATED_FEATURES, np.float32)
    features[-1] = 1
    for table_88, start in ((luma_88, 0), (chroma_88, 64)):
        if table_88 is not None:  # in float64: the same to the last bit for tables of any integer type
            features[start : start + 64] = np.log2(np.maximum(table_88, 1).astype(np.float64)).ravel() / 4 - 1
    if chroma_88 is not None:
        features[128:130] = np.log2(chroma_scale)
    return features


def transposed_stated(stated: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the file of the picture with rows and columns exchanged would state. Shape: ``(..., STATED_FEATURES)``."""
    out = stated.copy()
    for start in (0, 64):
        tables_88 = stated[..., start : start + 64].reshape(-1, 8, 8)
        out[..., start : start + 64] = tables_88.swapaxes(1, 2).reshape(*stated.shape[:-1], 64)
    out[..., 128:130] = stated[..., [129, 128]]
    return out
