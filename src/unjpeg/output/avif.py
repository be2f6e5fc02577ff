"""AVIF, by Pillow."""

from __future__ import annotations

from typing import BinaryIO

from PIL import Image

from unjpeg.metadata import ExifBlock, Metadata
from unjpeg.output.rows import Rows

__all__ = ["encode"]

_QUALITY = 90


class _WholeExif(Image.Exif):
    """An EXIF block that Pillow writes as it is, having read how the picture is to be turned: an AVIF says that twice.

    Pillow's own would be written anew, without makers' notes that still make sense.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data_of_file = data
        self.load(data)

    def __bool__(self) -> bool:
        return True

    def tobytes(self, offset: int = 8) -> bytes:  # noqa: ARG002 (nothing moves)
        return self._data_of_file


def encode(rows: Rows, metadata: Metadata, quality: int | None, file: BinaryIO) -> None:
    """Quality 90 without one; colours always 4:4:4."""
    pixels = rows.whole()
    Image.fromarray(pixels).save(
        file,
        "AVIF",
        quality=_QUALITY if quality is None else quality,
        subsampling="4:0:0" if rows.channels == 1 else "4:4:4",
        exif=_WholeExif(metadata.exif) if metadata.exif and _is_exif(metadata.exif) else b"",
        icc_profile=metadata.icc_profile or b"",
        xmp=metadata.joined_xmp or b"",
    )


def _is_exif(data: bytes) -> bool:
    """Whether Pillow and the encoder make something of it."""
    try:
        ExifBlock(data).main()
    except ValueError:
        return False
    return True
