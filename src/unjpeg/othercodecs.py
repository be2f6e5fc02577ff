"""Files of other lossy codecs: which JPEG one compares to, by how hard its header says that it was compressed.

A network made for JPEGs reads a WebP or an AVIF as far better than it is: their filters hide the block edges that it
looks for. Told the quality of a JPEG that lost as much, it restores more. The tables are the told qualities that gained
most on pictures of the validation split: ``python -m studies.othercodecs``, docs/research/carn-da.md.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from unjpeg.av1 import avif_quantiser
from unjpeg.vp8 import webp_quantiser

__all__ = ["comparable_quality"]

_WEBP: Final = (
    *((4, 98), (8, 95), (19, 88), (27, 80), (32, 75), (38, 69), (44, 61), (51, 53), (60, 46), (73, 34), (84, 28)),
    (127, 15),
)
_AVIF: Final = (
    (0, 98),
    (60, 96),
    (122, 90),
    (148, 81),
    (172, 71),
    (196, 51),
    (216, 32),
    (238, 21),
    (249, 20),
    (255, 18),
)
"""Quantiser index, ascending, and quality."""


def comparable_quality(data: bytes) -> int | None:
    """The quality of the JPEGs that lost about as much as this file, 1..100.

    None of files that lost nothing or are no still WebP or AVIF, and of headers that cannot be read.
    """
    for quantiser, table in ((webp_quantiser(data), _WEBP), (avif_quantiser(data), _AVIF)):
        if quantiser is not None and quantiser > 0:
            indices, qualities = zip(*table, strict=True)
            return round(float(np.interp(quantiser, indices, qualities)))
    return None
