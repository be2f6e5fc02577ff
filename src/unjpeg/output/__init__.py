"""Writing a picture: PNG, JPEG, WebP, TIFF or AVIF with its metadata, whole or not at all.

PNG, TIFF and JPEG are written in bands as the rows come, by several threads; the others, and a JPEG that is not to be
larger than so many bytes, need all rows. Metadata goes in as the bytes it came as: image libraries encode the pixels
alone, and the segments, chunks and tags around them are written here, because those re-serialise EXIF and so damage
makers' notes.

A module per format has one function ``encode(rows, metadata, quality, file)``: the file can be sought in. It raises
ValueError, or OSError without a number, if the format cannot hold that.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from unjpeg.errors import OutputError
from unjpeg.files import check_target, place_file, report_errors
from unjpeg.metadata import ExifBlock, Metadata
from unjpeg.output import avif, jpeg, png, tiff, webp
from unjpeg.output.rows import Pixels, Rows

__all__ = [
    "FORMATS",
    "Format",
    "Pixels",
    "Rows",
    "default_format",
    "format_of",
    "is_lossy",
    "list_without_place",
    "profile_fits",
    "write_image",
]


CMYK_WAY_OUT = "choose tiff or jpeg; a TIFF becomes RGB with: vips icc_transform photo.tif photo.png srgb"

_DESCRIPTION = 270
_NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Format:
    """What a file format can hold.

    Attributes:
        suffixes: in lower case with the dot, the one for new files first.
        bit_depths: bits per channel.
        alpha: whether it has transparency.
        cmyk: whether its pixels may be inks.
        max_side: the largest width and height in pixels.
        has_quality: whether it can be compressed with loss, to a quality.
    """

    suffixes: tuple[str, ...]
    bit_depths: tuple[int, ...]
    alpha: bool
    max_side: int
    cmyk: bool = False
    has_quality: bool = False

    @property
    def suffix(self) -> str:
        """The suffix for new files."""
        return self.suffixes[0]


FORMATS: Mapping[str, Format] = {
    "png": Format((".png",), (8, 16), alpha=True, max_side=2**31 - 1),
    # The format could say 65535, libjpeg stops at 65500.
    "jpeg": Format((".jpg", ".jpeg"), (8,), alpha=False, max_side=65500, cmyk=True, has_quality=True),
    "webp": Format((".webp",), (8,), alpha=True, max_side=16383, has_quality=True),
    "tiff": Format((".tif", ".tiff"), (8, 16), alpha=True, max_side=2**31 - 1, cmyk=True),
    "avif": Format((".avif",), (8,), alpha=True, max_side=2**16 - 1, has_quality=True),
}

_ENCODERS: Mapping[str, Callable[[Rows, Metadata, int | None, BinaryIO], None]] = {
    "png": png.encode,
    "jpeg": jpeg.encode,
    "webp": webp.encode,
    "tiff": tiff.encode,
    "avif": avif.encode,
}


def default_format(is_cmyk: bool) -> str:
    """Of new files, where nobody names one: the lossless one that all programs read."""
    return "tiff" if is_cmyk else "png"


def format_of(path: Path) -> str | None:
    """The name in `FORMATS` that the path's suffix stands for, in any case; None if it stands for none."""
    suffix = path.suffix.lower()
    return next((name for name, holds in FORMATS.items() if suffix in holds.suffixes), None)


def is_lossy(format: str, quality: int | None) -> bool:
    """Whether a file of that format and quality holds other pixels than it was given. WebP has none without one."""
    return FORMATS[format].has_quality and (format != "webp" or quality is not None)


def list_without_place(
    metadata: Metadata, format: str, channels: int | None = None, *, is_cmyk: bool = False
) -> tuple[str, ...]:
    """What the format cannot carry of it, in words. The resolution, which WebP has in its EXIF alone, is not said.

    Args:
        channels: 1 to 4, alpha counted: of the pixels, which a colour profile must fit. None leaves that out.
        is_cmyk: whether four channels are inks.
    """
    lost = []
    count = len(metadata.comments)
    comments = "the comment" if count < 2 else f"the {count} comments"
    described = False
    if format in ("tiff", "avif") and metadata.exif:
        try:
            described = any(entry.tag == _DESCRIPTION for entry in ExifBlock(metadata.exif).main()[0])
        except ValueError:
            lost.append("its EXIF, which is damaged,")
    if format == "tiff" and described and metadata.comments:
        lost.append(f"{comments} beside a description")
    if channels is not None and not profile_fits(metadata, format, channels, is_cmyk=is_cmyk):
        pixels = "CMYK" if is_cmyk else "grey" if channels < 3 else "RGB"
        lost.append(f"a colour profile that is not for {pixels} pixels")
    if format in ("webp", "avif"):
        carried = {"IPTC and other Photoshop data": metadata.photoshop, comments: metadata.comments}
        lost += [name for name, data in carried.items() if data]
        if metadata.aspect:
            lost.append("pixels that are not square")
    if format != "png":
        if metadata.colour:
            lost.append(
                f"what the file says of its colours ({', '.join(name.decode() for name, _ in metadata.colour)})"
            )
        if metadata.texts:
            lost.append(f"texts ({_listed(body.partition(bytes(1))[0] for _, body in metadata.texts)})")
    if format != "jpeg" and metadata.segments:
        names = (_name_of(number, content) for number, content in metadata.segments)
        lost.append(f"application data ({_listed(names)})")
    return tuple(lost)


def _listed(names: Iterable[bytes]) -> str:
    """Each once, and none of them a surprise on a terminal."""
    shown = ["".join(char if char.isprintable() else "?" for char in name.decode("latin-1"))[:40] for name in names]
    different = list(dict.fromkeys(shown))
    return ", ".join(different[:_NAMES_SHOWN]) + (", ..." if len(different) > _NAMES_SHOWN else "")


def _name_of(number: int, content: bytes) -> bytes:
    """What a JPEG's application segment calls itself."""
    name = content[:32].partition(b"\0")[0]
    return name if len(name) >= 2 and name.isascii() and name.decode().isprintable() else f"APP{number}".encode()


def profile_fits(metadata: Metadata, format: str, channels: int, *, is_cmyk: bool = False) -> bool:
    """Whether the colour profile, if any, is for such pixels. Readers refuse other files, or show them wrong."""
    if is_cmyk:
        return metadata.profile_channels is None
    if channels < 3 and format == "webp":  # it has no grey of its own: the pixels are both
        return True
    return metadata.profile_channels in (None, 1 if channels < 3 else 3)


def write_image(
    target: Path | BinaryIO,
    pixels: Pixels | Rows,
    metadata: Metadata,
    *,
    format: str,
    quality: int | None = None,
    max_bytes: int | None = None,
    overwrite: bool = False,
    about_to_place: Callable[[], None] | None = None,
) -> str | None:
    """Write a picture, whole or not at all.

    EXIF, ICC profile, XMP, IPTC, comments, resolution and what else `Metadata` holds are carried over as they are,
    where the format has a place for them: `without_place` says what has none. XMP in two parts is joined, but not in a
    JPEG. The orientation tag stays and the pixels are not turned. A TIFF takes the tags of an intact EXIF block as its
    own, without a thumbnail; what they say wins over ``dpi`` and ``comment``.

    Args:
        target: a path, whose folder must exist, or a binary stream, which gets everything in one write.
        pixels: an array, or rows as they come; see `Rows`. The dtype is the bit depth.
        metadata: what to carry over. Its sizes are not corrected here: see `Metadata.with_size`.
        format: a name in `FORMATS`.
        quality: 1..100; JPEG is 95 without it and AVIF 90, both always 4:4:4, WebP is lossless without it. PNG and
            TIFF are lossless whatever it is.
        max_bytes: of a JPEG: the best that is not larger, at ``quality`` or below; its chroma may be 4:2:0.
        overwrite: whether a file at the path may be replaced.
        about_to_place: called when the file is complete, before it appears under its name.

    Returns:
        With ``max_bytes``, what was chosen, in words.

    Raises:
        OutputError: the format cannot hold the picture, or say what its colours are (HDR); the file exists, or cannot
            be written.
        ValueError: the array is no picture.
    """
    name = str(target) if isinstance(target, Path) else "output stream"
    rows = pixels if isinstance(pixels, Rows) else Rows.of(pixels)
    _check(name, rows, format, quality)
    if metadata.hdr and format != "png":
        raise OutputError(f"{name}: {format} cannot say that the picture is HDR ({metadata.hdr}); choose png")
    if max_bytes is not None and format != "jpeg":
        raise OutputError(f"{name}: a size can be asked of jpeg only, not of {format}; choose jpeg, or a quality")

    def encode(file: BinaryIO) -> str | None:
        with _reporting(name, format):
            if max_bytes is not None:
                return jpeg.encode_within(rows, metadata, quality, file, max_bytes)
            _ENCODERS[format](rows, metadata, quality, file)
            return None

    if isinstance(target, Path):
        check_target(target, overwrite)  # before the encoding, which may take long
        with place_file(target, overwrite, about_to_place) as file:
            return encode(file)
    buffer = io.BytesIO()
    chosen = encode(buffer)
    with report_errors(name):
        target.write(buffer.getbuffer())
        target.flush()
    return chosen


@contextmanager
def _reporting(name: str, format: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the file, not of the encoder
        raise OutputError(f"{name}: cannot be written as {format} ({error})") from error


def _check(name: str, rows: Rows, format: str, quality: int | None) -> None:
    shape = rows.shape
    if rows.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"pixels must be uint8 or uint16, not {rows.dtype}")
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (2, 3, 4))) or 0 in shape:
        raise ValueError(f"pixels must have the shape (H, W) or (H, W, 2 to 4), not {shape}")
    if format not in FORMATS:
        raise OutputError(f"{name}: unknown format '{format}'; choose one of {', '.join(FORMATS)}")
    holds, depth, side = FORMATS[format], rows.dtype.itemsize * 8, max(shape[:2])
    if depth not in holds.bit_depths:
        raise OutputError(f"{name}: {format} holds no {depth}-bit pixels; choose 8 bits, or png or tiff")
    if rows.is_cmyk and not holds.cmyk:
        raise OutputError(f"{name}: {format} holds no CMYK; {CMYK_WAY_OUT}")
    if rows.has_alpha and not holds.alpha:
        raise OutputError(
            f"{name}: {format} holds no transparency; choose png, webp, tiff or avif, or drop the alpha channel"
        )
    if side > holds.max_side:
        raise OutputError(f"{name}: {format} ends at {holds.max_side} pixels a side, not {side}; choose png or tiff")
    if quality is not None and not 1 <= quality <= 100:
        raise OutputError(f"{name}: quality must be from 1 to 100, not {quality}")
