"""Writing a picture: PNG, JPEG, WebP or TIFF with its metadata, whole or not at all.

`write_image` encodes in memory, then puts the file in place in one step, so that a full disk or a kill at any moment
leaves no half file. Metadata goes in as the bytes it came as: Pillow (libvips for 16-bit PNG) encodes the pixels alone,
and the segments, chunks and tags around them are written here, because image libraries re-serialise EXIF and so damage
makers' notes.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unjpeg.errors import OutputError
from unjpeg.metadata import PIXEL_LAYOUT_TAGS, ExifBlock, IfdEntry, Metadata

__all__ = ["FORMATS", "Format", "Pixels", "check_target", "format_of", "put_in_place", "write_image"]

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Format:
    """What a file format can hold.

    Attributes:
        suffixes: in lower case with the dot, the one for new files first.
        bit_depths: bits per channel.
        alpha: whether it has transparency.
        max_side: the largest width and height in pixels.
    """

    suffixes: tuple[str, ...]
    bit_depths: tuple[int, ...]
    alpha: bool
    max_side: int

    @property
    def suffix(self) -> str:
        """The suffix for new files."""
        return self.suffixes[0]


FORMATS: Mapping[str, Format] = {
    "png": Format((".png",), (8, 16), alpha=True, max_side=2**31 - 1),
    # The format could say 65535, libjpeg stops at 65500.
    "jpeg": Format((".jpg", ".jpeg"), (8,), alpha=False, max_side=65500),
    "webp": Format((".webp",), (8,), alpha=True, max_side=16383),
    "tiff": Format((".tif", ".tiff"), (8, 16), alpha=True, max_side=2**31 - 1),
}

# Share of the raw size and seconds of one core for 12 megapixels of photograph: level 1 37.6 % 1.0 s, 3 35.4 % 1.4 s,
# 4 33.2 % 1.6 s, 6 32.3 % 4.2 s, 9 31.1 % 30 s; its decoded JPEG at quality 20: 17.7 % 0.5 s, 16.6 % 0.6 s,
# 15.6 % 0.7 s, 14.8 % 1.3 s, 14.5 % 4.1 s. From 4 to 6 the time doubles at least, for 3 to 5 % of the size.
_ZLIB_LEVEL = 4
_JPEG_QUALITY = 95
# Uncompressed. Readers hold one strip in memory; smaller ones cost compression.
_TIFF_STRIP_BYTES = 2**18
_TIFF_MAX_BYTES = 2**32 - 1
_JPEG_SEGMENT_BYTES = 65533


def format_of(path: Path) -> str | None:
    """The name in `FORMATS` that the path's suffix stands for, in any case; None if it stands for none."""
    suffix = path.suffix.lower()
    return next((name for name, holds in FORMATS.items() if suffix in holds.suffixes), None)


def write_image(
    target: Path | BinaryIO,
    pixels: Pixels,
    metadata: Metadata,
    *,
    format: str,
    quality: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write a picture, whole or not at all.

    EXIF, ICC profile, XMP, comment and resolution are carried over as they are, where the format has a place for them
    (WebP has none for a comment and the resolution). The orientation tag stays and the pixels are not turned. A TIFF
    takes the tags of an intact EXIF block as its own, without a thumbnail; what they say wins over ``dpi`` and
    ``comment``.

    Args:
        target: a path, whose folder must exist, or a binary stream, which gets everything in one write.
        pixels: shape ``(H, W)`` grey, ``(H, W, 2)`` grey and alpha, ``(H, W, 3)`` RGB, ``(H, W, 4)`` RGB and alpha
            (not premultiplied); the dtype is the bit depth, full range.
        metadata: what to carry over. Its sizes are not corrected here: see `Metadata.with_size`.
        format: a name in `FORMATS`.
        quality: 1..100; JPEG is 95 without it and always 4:4:4, WebP is lossless without it. PNG and TIFF are
            lossless whatever it is.
        overwrite: whether a file at the path may be replaced.

    Raises:
        OutputError: the format cannot hold the picture, the file exists, or it cannot be written.
        ValueError: the array is no picture.
    """
    name = str(target) if isinstance(target, Path) else "output stream"
    _check(name, pixels, format, quality)
    if isinstance(target, Path):
        check_target(target, overwrite)  # before the encoding, which may take long
    try:
        data = _ENCODERS[format](pixels if pixels.flags.c_contiguous else pixels.copy(), metadata, quality)
    except (OSError, ValueError) as error:
        raise OutputError(f"{name}: cannot be written as {format} ({error})") from error
    if isinstance(target, Path):
        put_in_place(target, data, overwrite)
    else:
        with _reported(name):
            target.write(data)
            target.flush()


def _check(name: str, pixels: Pixels, format: str, quality: int | None) -> None:
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"pixels must be uint8 or uint16, not {pixels.dtype}")
    if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (2, 3, 4))) or pixels.size == 0:
        raise ValueError(f"pixels must have the shape (H, W) or (H, W, 2 to 4), not {pixels.shape}")
    if format not in FORMATS:
        raise OutputError(f"{name}: unknown format '{format}'; choose one of {', '.join(FORMATS)}")
    holds, depth, side = FORMATS[format], pixels.itemsize * 8, max(pixels.shape[:2])
    if depth not in holds.bit_depths:
        raise OutputError(f"{name}: {format} holds no {depth}-bit pixels; choose 8 bits, or png or tiff")
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4) and not holds.alpha:
        raise OutputError(
            f"{name}: {format} holds no transparency; choose png, webp or tiff, or drop the alpha channel"
        )
    if side > holds.max_side:
        raise OutputError(f"{name}: {format} ends at {holds.max_side} pixels a side, not {side}; choose png or tiff")
    if quality is not None and not 1 <= quality <= 100:
        raise OutputError(f"{name}: quality must be from 1 to 100, not {quality}")


def _resolution(metadata: Metadata, limit: int) -> tuple[float, float] | None:
    """The resolution if there is one that a field ending at ``limit`` can state."""
    dpi = metadata.dpi
    return dpi if dpi is not None and all(0 < value < limit - 1 for value in dpi) else None


# Encoders: contiguous pixels, metadata, quality -> the file's bytes. OSError or ValueError, one line, if impossible.


def _encode_jpeg(pixels: Pixels, metadata: Metadata, quality: int | None) -> bytes:
    buffer = io.BytesIO()
    dpi = _resolution(metadata, 2**16) or (0, 0)  # 0: not stated
    quality = _JPEG_QUALITY if quality is None else quality
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling="4:4:4", dpi=dpi)
    data = buffer.getvalue()
    segments: list[tuple[int, bytes, str]] = []
    if metadata.exif:
        # More than one segment holds is split the way that readers (Pillow, ExifTool) join it.
        step = _JPEG_SEGMENT_BYTES - 6
        pieces = (metadata.exif[start : start + step] for start in range(0, len(metadata.exif), step))
        segments.extend((0xE1, b"Exif\0\0" + piece, "EXIF") for piece in pieces)
    if metadata.xmp:
        segments.append((0xE1, b"http://ns.adobe.com/xap/1.0/\0" + metadata.xmp, "XMP"))
    if metadata.icc_profile:
        step = _JPEG_SEGMENT_BYTES - 14
        parts = [metadata.icc_profile[start : start + step] for start in range(0, len(metadata.icc_profile), step)]
        if len(parts) > 255:
            raise ValueError("the ICC profile is too large; choose png, webp or tiff")
        for number, part in enumerate(parts, 1):
            segments.append((0xE2, b"ICC_PROFILE\0" + bytes((number, len(parts))) + part, "ICC profile"))
    if metadata.comment:
        segments.append((0xFE, metadata.comment, "comment"))
    written = []
    for marker, payload, what in segments:
        if len(payload) > _JPEG_SEGMENT_BYTES:
            raise ValueError(f"the {what} is too large; choose png, webp or tiff")
        written.append(struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload)
    start = 4 + struct.unpack_from(">H", data, 4)[0]  # after the start of the image and the JFIF segment
    return b"".join((data[:start], *written, memoryview(data)[start:]))


def _encode_png(pixels: Pixels, metadata: Metadata, quality: int | None) -> bytes:  # noqa: ARG001 (lossless)
    chunks = []
    if metadata.icc_profile:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc_profile)))
    dpi = _resolution(metadata, 2**24)
    if dpi is not None:
        horizontal, vertical = (round(value / 0.0254) for value in dpi)  # per metre
        chunks.append((b"pHYs", struct.pack(">IIB", horizontal, vertical, 1)))
    if metadata.exif:
        chunks.append((b"eXIf", metadata.exif))
    if metadata.xmp:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp))
    if metadata.comment:
        chunks.append(_png_comment(metadata.comment))
    data = _bare_png8(pixels) if pixels.dtype == np.uint8 else _bare_png16(pixels)
    written = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    start = 33  # after the signature and the header
    return b"".join((data[:start], *written, memoryview(data)[start:]))


def _png_comment(comment: bytes) -> tuple[bytes, bytes]:
    """TEXt is Latin-1 and iTXt UTF-8: whichever shows the comment as it was meant, and gives the same bytes back."""
    try:
        text = comment.decode()
    except UnicodeDecodeError:
        text = ""
    if comment.isascii() or not text:
        return b"tEXt", b"Comment\0" + comment
    return b"iTXt", b"Comment\0\0\0\0\0" + comment


def _bare_png8(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=_ZLIB_LEVEL)
    return buffer.getvalue()


def _bare_png16(pixels: Pixels) -> bytes:
    """Pillow has no 16-bit colour."""
    import pyvips  # here because it takes long to load, and only this needs it

    height, width, channels = np.atleast_3d(pixels).shape
    try:
        image = pyvips.Image.new_from_memory(pixels.data, width, height, channels, "ushort")
        image = image.copy(interpretation="rgb16" if channels > 2 else "grey16")
        # On 12 megapixels with noisy low bytes Paeth gives 77 % of the raw size, no filter 98 %, all filters 78 %.
        data: bytes = image.pngsave_buffer(compression=_ZLIB_LEVEL, filter="paeth", bitdepth=16, keep="none")
    except pyvips.Error as error:
        raise OSError(" ".join(str(error).split())) from error
    # libvips states a resolution always: only the header, the pixels and the end are wanted.
    parts, position = [data[:8]], 8
    while position < len(data):
        end = position + 12 + struct.unpack_from(">I", data, position)[0]
        if data[position + 4 : position + 8] in (b"IHDR", b"IDAT", b"IEND"):
            parts.append(data[position:end])
        position = end
    return b"".join(parts)


def _encode_webp(pixels: Pixels, metadata: Metadata, quality: int | None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(
        buffer,
        "WEBP",
        lossless=quality is None,
        quality=80 if quality is None else quality,  # lossless: the encoder's effort
        exact=quality is None,  # keeps the colour of transparent pixels
        exif=metadata.exif or b"",
        icc_profile=metadata.icc_profile or b"",
        xmp=metadata.xmp or b"",
    )
    return buffer.getvalue()


def _encode_tiff(pixels: Pixels, metadata: Metadata, quality: int | None) -> bytes:  # noqa: ARG001 (lossless)
    """The EXIF block grown into a TIFF: all its bytes stay where they are, so every offset in it stays true.

        EXIF block, its header now pointing to the new IFD0 | strips | values | new IFD0

    The new directory takes over the entries of the block's own, whose values lie in the block.
    """
    base, order, entries = _tiff_base(metadata.exif)
    height, width, channels = np.atleast_3d(pixels).shape
    bits = pixels.itemsize * 8

    parts, size = [base], len(base)
    offsets, counts = [], []
    rows = max(1, _TIFF_STRIP_BYTES // (width * channels * pixels.itemsize))
    for top in range(0, height, rows):
        strip = _tiff_strip(pixels[top : top + rows], order)
        offsets.append(size)
        counts.append(len(strip))
        parts.append(strip + bytes(len(strip) % 2))
        size += len(parts[-1])
        if size > _TIFF_MAX_BYTES:
            raise ValueError("it would be larger than 4 GiB; choose png")

    def shorts(*values: int) -> tuple[int, int, bytes]:
        return 3, len(values), struct.pack(f"{order}{len(values)}H", *values)

    def longs(*values: int) -> tuple[int, int, bytes]:
        return 4, len(values), struct.pack(f"{order}{len(values)}I", *values)

    values = {
        256: longs(width),
        257: longs(height),
        258: shorts(*[bits] * channels),
        259: shorts(8),  # compression: deflate
        262: shorts(1 if channels < 3 else 2),  # photometric interpretation: grey (0 is black) or RGB
        277: shorts(channels),
        278: longs(rows),
        284: shorts(1),  # channels interleaved
        317: shorts(2),  # predictor: difference to the pixel on the left
        # Last of the layout, because they need the strips written.
        273: longs(*offsets),
        279: longs(*counts),
    }
    if channels in (2, 4):
        values[338] = shorts(2)  # extra sample: alpha, not premultiplied
    if metadata.icc_profile:
        values[34675] = (7, len(metadata.icc_profile), metadata.icc_profile)
    if metadata.xmp:
        values[700] = (1, len(metadata.xmp), metadata.xmp)
    if metadata.comment and 270 not in entries:
        values[270] = (2, len(metadata.comment) + 1, metadata.comment + b"\0")
    dpi = _resolution(metadata, 2**16)
    if dpi is not None and entries.keys().isdisjoint((282, 283, 296)):
        for tag, value in zip((282, 283), dpi, strict=True):
            ratio = Fraction(value).limit_denominator(10_000)
            values[tag] = (5, 1, struct.pack(f"{order}II", ratio.numerator, ratio.denominator))
        values[296] = shorts(2)  # per inch

    for tag, (field_type, count, data) in values.items():
        inside = data
        if len(data) > 4:
            inside = struct.pack(f"{order}I", size)
            parts.append(data + bytes(len(data) % 2))
            size += len(parts[-1])
        entries[tag] = struct.pack(f"{order}HHI4s", tag, field_type, count, inside)
    parts.append(struct.pack(f"{order}H", len(entries)))
    parts += [entries[tag] for tag in sorted(entries)]
    parts.append(bytes(4))  # no further picture: the block's thumbnail stays unlinked
    if size > _TIFF_MAX_BYTES - 2**20:
        raise ValueError("it would be larger than 4 GiB; choose png")
    parts[0] = base[:4] + struct.pack(f"{order}I", size) + base[8:]
    return b"".join(parts)


def _tiff_base(exif: bytes | None) -> tuple[bytes, Literal["<", ">"], dict[int, bytes]]:
    """What the TIFF begins with, its byte order, and the directory entries (12 bytes each, by tag) to take over."""
    try:
        block = ExifBlock(exif or b"")
        main, _ = block.main()
    except ValueError:
        return b"II*\0\0\0\0\0", "<", {}
    entries: dict[int, bytes] = {}
    for entry in main:
        if entry.tag not in PIXEL_LAYOUT_TAGS and entry.tag not in entries and _is_sound(block, entry):
            entries[entry.tag] = block.data[entry.position : entry.position + 12]
    return block.data + bytes(len(block.data) % 2), block.order, entries


def _is_sound(block: ExifBlock, entry: IfdEntry) -> bool:
    """Whether readers will make something of the entry; in a TIFF a damaged one makes some refuse the whole file."""
    try:
        block.span(entry)
        value = block.integer([entry], entry.tag)
        if entry.tag in (0x8769, 0x8825):  # directories of EXIF and GPS
            return value is not None and bool(block.directory(value))
    except ValueError:
        return False
    return entry.tag != 0x0112 or value in range(1, 9)  # orientation


def _tiff_strip(rows: Pixels, order: Literal["<", ">"]) -> bytes:
    difference = rows.copy()
    difference[:, 1:] -= rows[:, :-1]
    return zlib.compress(difference.astype(difference.dtype.newbyteorder(order), copy=False).tobytes(), _ZLIB_LEVEL)


_ENCODERS: Mapping[str, Callable[[Pixels, Metadata, int | None], bytes]] = {
    "png": _encode_png,
    "jpeg": _encode_jpeg,
    "webp": _encode_webp,
    "tiff": _encode_tiff,
}


@contextmanager
def _reported(name: str) -> Iterator[None]:
    """Turn what the operating system refuses into OutputError."""
    try:
        yield
    except FileExistsError as error:
        raise OutputError(f"{name}: exists already; pass --overwrite to replace it") from error
    except OSError as error:
        raise OutputError(f"{name}: cannot be written ({error.strerror or error})") from error


def check_target(path: Path, overwrite: bool) -> None:
    """Raises OutputError if a file cannot be put there for a reason that is known before it is made."""
    with _reported(str(path)):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if os.path.lexists(path) and not overwrite:
            raise FileExistsError
        if path.exists() and not path.is_file():
            # Replacing would put a file where a device or a pipe was.
            raise OSError(errno.EINVAL, "Not a regular file")


def put_in_place(path: Path, data: bytes, overwrite: bool) -> None:
    """Write a file whole or not at all: a kill or a full disk at any time leaves what was there. Raises OutputError."""
    # Without the target's name, which may be as long as names can be.
    temporary = path.with_name(f".unjpeg-{secrets.token_hex(8)}.partial")
    try:
        with _reported(str(path)):
            # The mode is subject to the umask, as for any new file (tempfile would make it the owner's alone).
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            with open(os.open(temporary, flags, 0o666), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if overwrite:
                os.replace(temporary, path)
            else:
                _link(temporary, path)
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def _link(temporary: Path, path: Path) -> None:
    """Give the file its name unless that is taken. Raises FileExistsError if it is."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        # No hard links here (FAT, some network shares): an empty file, made exclusively, takes the name first.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            os.replace(temporary, path)
        except BaseException:
            os.unlink(path)
            raise
