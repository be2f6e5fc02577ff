"""WebP, by Pillow."""

from __future__ import annotations

from typing import BinaryIO

from PIL import Image

from unjpeg.metadata import Metadata
from unjpeg.output.rows import Rows

__all__ = ["encode"]


def encode(rows: Rows, metadata: Metadata, quality: int | None, file: BinaryIO) -> None:
    """Quality 95 without one; always 4:4:4."""
    Image.fromarray(rows.whole()).save(
        file,
        "WEBP",
        lossless=quality is None,
        quality=80 if quality is None else quality,  # lossless: the encoder's effort
        exact=quality is None,  # keeps the colour of transparent pixels
        exif=metadata.exif or b"",
        icc_profile=metadata.icc_profile or b"",
        xmp=metadata.joined_xmp or b"",
    )
