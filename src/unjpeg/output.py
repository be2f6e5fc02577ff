"""Writing a picture: PNG, JPEG, WebP or TIFF with its metadata, whole or not at all.

`write_image` encodes into a file without a name (or a hidden one, where the system has none such) and puts it in place
in one step, so that a full disk or a kill at any moment leaves no half file. PNG and TIFF are written strip by strip as
the rows come; JPEG and WebP need them all. Metadata goes in as the bytes it came as: image libraries encode the pixels
alone, and the segments, chunks and tags around them are written here, because those re-serialise EXIF and so damage
makers' notes.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
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

__all__ = [
    "FORMATS",
    "Format",
    "Pixels",
    "Rows",
    "check_target",
    "format_of",
    "placed",
    "put_in_place",
    "without_place",
    "write_image",
]

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Rows:
    """A picture whose rows come from top to bottom, and once only.

    Attributes:
        shape: ``(H, W)`` grey, ``(H, W, 2)`` grey and alpha, ``(H, W, 3)`` RGB, ``(H, W, 4)`` RGB and alpha (not
            premultiplied).
        dtype: uint8 or uint16, full range.
        strips: consecutive rows, each of the picture's width and dtype.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.uint8] | np.dtype[np.uint16]
    strips: Iterable[Pixels]

    @classmethod
    def of(cls, pixels: Pixels) -> Rows:
        """A whole picture."""
        return cls(pixels.shape, pixels.dtype, (pixels,))

    @property
    def channels(self) -> int:
        return self.shape[2] if len(self.shape) == 3 else 1

    def whole(self) -> Pixels:
        """All rows as one contiguous array."""
        if isinstance(self.strips, tuple):
            (pixels,) = self.strips
            return np.ascontiguousarray(pixels)
        pixels = np.empty(self.shape, self.dtype)
        top = 0
        for strip in self.strips:
            pixels[top : top + len(strip)] = strip
            top += len(strip)
        return pixels

    def cut(self, rows: int) -> Iterator[Pixels]:
        """The strips, cut so that none but the last of each has more or fewer rows than this."""
        for strip in self.strips:
            for top in range(0, len(strip), rows):
                yield strip[top : top + rows]


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

# Measured with Pillow, share of the raw size and seconds of one core for 12 megapixels of photograph: level 1 37.6 %
# 1.0 s, 4 33.2 % 1.6 s, 6 32.3 % 4.2 s, 9 31.1 % 30 s. From 4 to 6 the time doubles at least, for 3 to 5 % of the size.
_ZLIB_LEVEL = 4
_PNG_ROWS = 16
"""Rows filtered at once: what is in work stays in the processor's cache."""
_JPEG_QUALITY = 95
# Uncompressed. Readers hold one strip in memory; smaller ones cost compression.
_TIFF_STRIP_BYTES = 2**18
_TIFF_MAX_BYTES = 2**32 - 1
_JPEG_SEGMENT_BYTES = 65533
_EXTENDED_XMP_STEP = 65400


def format_of(path: Path) -> str | None:
    """The name in `FORMATS` that the path's suffix stands for, in any case; None if it stands for none."""
    suffix = path.suffix.lower()
    return next((name for name, holds in FORMATS.items() if suffix in holds.suffixes), None)


def without_place(metadata: Metadata, format: str) -> tuple[str, ...]:
    """What the format cannot carry of it, in words. The resolution, which WebP has in its EXIF alone, is not said."""
    if format == "tiff" and metadata.exif:
        try:
            ExifBlock(metadata.exif).main()
        except ValueError:
            return ("its EXIF, which is damaged,",)
    if format != "webp":
        return ()
    carried = {"IPTC and other Photoshop data": metadata.photoshop, "the comment": metadata.comment}
    return tuple(name for name, data in carried.items() if data)


def write_image(
    target: Path | BinaryIO,
    pixels: Pixels | Rows,
    metadata: Metadata,
    *,
    format: str,
    quality: int | None = None,
    overwrite: bool = False,
    about_to_place: Callable[[], None] | None = None,
) -> None:
    """Write a picture, whole or not at all.

    EXIF, ICC profile, XMP, IPTC, comment and resolution are carried over as they are, where the format has a place for
    them (WebP has none for IPTC, a comment and the resolution). XMP in two parts is joined, but not in a JPEG. The
    orientation tag stays and the pixels are not turned. A TIFF takes the tags of an intact EXIF block as its own,
    without a thumbnail; what they say wins over ``dpi`` and ``comment``.

    Args:
        target: a path, whose folder must exist, or a binary stream, which gets everything in one write.
        pixels: an array, or rows as they come; see `Rows`. The dtype is the bit depth.
        metadata: what to carry over. Its sizes are not corrected here: see `Metadata.with_size`.
        format: a name in `FORMATS`.
        quality: 1..100; JPEG is 95 without it and always 4:4:4, WebP is lossless without it. PNG and TIFF are
            lossless whatever it is.
        overwrite: whether a file at the path may be replaced.
        about_to_place: called when the file is complete, before it appears under its name.

    Raises:
        OutputError: the format cannot hold the picture, the file exists, or it cannot be written.
        ValueError: the array is no picture.
    """
    name = str(target) if isinstance(target, Path) else "output stream"
    rows = pixels if isinstance(pixels, Rows) else Rows.of(pixels)
    _check(name, rows, format, quality)
    if isinstance(target, Path):
        check_target(target, overwrite)  # before the encoding, which may take long
        with placed(target, overwrite, about_to_place) as file:
            _encode(name, rows, metadata, format, quality, file)
        return
    buffer = io.BytesIO()
    _encode(name, rows, metadata, format, quality, buffer)
    with _reported(name):
        target.write(buffer.getbuffer())
        target.flush()


def _encode(name: str, rows: Rows, metadata: Metadata, format: str, quality: int | None, file: BinaryIO) -> None:
    try:
        _ENCODERS[format](rows, metadata, quality, file)
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
    if rows.channels in (2, 4) and not holds.alpha:
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


# Encoders: rows, metadata, quality, and a file that can be sought in. ValueError, or OSError without a number, if the
# format cannot hold that.


def _encode_jpeg(rows: Rows, metadata: Metadata, quality: int | None, file: BinaryIO) -> None:
    buffer = io.BytesIO()
    dpi = _resolution(metadata, 2**16) or (0, 0)  # 0: not stated
    quality = _JPEG_QUALITY if quality is None else quality
    Image.fromarray(rows.whole()).save(buffer, "JPEG", quality=quality, subsampling="4:4:4", dpi=dpi)
    data = buffer.getbuffer()
    segments: list[tuple[int, bytes, str]] = []
    if metadata.exif:
        # More than one segment holds is split the way that readers (Pillow, ExifTool) join it.
        step = _JPEG_SEGMENT_BYTES - 6
        pieces = (metadata.exif[start : start + step] for start in range(0, len(metadata.exif), step))
        segments.extend((0xE1, b"Exif\0\0" + piece, "EXIF") for piece in pieces)
    if metadata.xmp:
        segments.append((0xE1, b"http://ns.adobe.com/xap/1.0/\0" + metadata.xmp, "XMP"))
    if metadata.extended_xmp and metadata.extended_xmp_name:
        packets = _extended_xmp_segments(metadata.extended_xmp, metadata.extended_xmp_name)
        segments.extend((0xE1, packet, "extended XMP") for packet in packets)
    if metadata.photoshop:
        step = _JPEG_SEGMENT_BYTES - 14
        pieces = (metadata.photoshop[start : start + step] for start in range(0, len(metadata.photoshop), step))
        segments.extend((0xED, b"Photoshop 3.0\0" + piece, "IPTC") for piece in pieces)
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
    file.write(data[:start])
    file.write(b"".join(written))
    file.write(data[start:])


def _extended_xmp_segments(packet: bytes, name: bytes) -> Iterator[bytes]:
    """As Adobe's XMP specification, part 3, has it."""
    for start in range(0, len(packet), _EXTENDED_XMP_STEP):
        place = struct.pack(">II", len(packet), start)
        part = packet[start : start + _EXTENDED_XMP_STEP]
        yield b"http://ns.adobe.com/xmp/extension/\0" + name + place + part


def _encode_png(rows: Rows, metadata: Metadata, quality: int | None, file: BinaryIO) -> None:  # noqa: ARG001 (lossless)
    """Row by row: of the libraries here none takes rows as they come, and Pillow has no 16-bit colour."""
    height, width = rows.shape[:2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[rows.channels]
    header = struct.pack(">IIBBBBB", width, height, rows.dtype.itemsize * 8, kind, 0, 0, 0)
    chunks = []
    if metadata.icc_profile:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc_profile)))
    dpi = _resolution(metadata, 2**24)
    if dpi is not None:
        horizontal, vertical = (round(value / 0.0254) for value in dpi)  # per metre
        chunks.append((b"pHYs", struct.pack(">IIB", horizontal, vertical, 1)))
    if metadata.exif:
        chunks.append((b"eXIf", metadata.exif))
    if metadata.joined_xmp:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.joined_xmp))
    if metadata.photoshop:
        # PNG has no place for IPTC: text as ImageMagick writes and ExifTool reads it.
        text = f"\niptc\n{len(metadata.photoshop):8}\n{metadata.photoshop.hex()}\n".encode()
        chunks.append((b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(text)))
    if metadata.comment:
        chunks.append(_png_comment(metadata.comment))
    file.write(b"\x89PNG\r\n\x1a\n")
    for name, body in ((b"IHDR", header), *chunks):
        _write_chunk(file, name, body)
    compress = zlib.compressobj(_ZLIB_LEVEL)
    sample_bytes = rows.channels * rows.dtype.itemsize
    above = np.zeros(width * sample_bytes, np.uint8)
    for strip in rows.cut(_PNG_ROWS):
        raw = strip.astype(strip.dtype.newbyteorder(">"), copy=False).reshape(len(strip), -1).view(np.uint8)
        packed = compress.compress(_png_filtered(raw, above, sample_bytes).tobytes())
        above = raw[-1]
        if packed:
            _write_chunk(file, b"IDAT", packed)
    _write_chunk(file, b"IDAT", compress.flush())
    _write_chunk(file, b"IEND", b"")


def _write_chunk(file: BinaryIO, kind: bytes, body: bytes) -> None:
    file.write(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind))))


def _png_filtered(rows: NDArray[np.uint8], above: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Each row as the difference to its best guess, its filter's number in front.

    The best of the filters sub (1), up (2) and Paeth (4) is the one that leaves the least, as libpng chooses.

    Args:
        rows: bytes, ``(rows, width * step)``.
        above: the row before the first.
        step: bytes from one pixel to the next.
    """
    count, width = rows.shape
    grown = np.zeros(
        (count + 1, step + width), np.uint8
    )  # with the row above and a pixel to the left: neighbours are views
    grown[0, step:], grown[1:, step:] = above, rows
    left, up, corner = grown[1:, :-step], grown[:-1, step:], grown[:-1, :-step]
    to_left = np.subtract(up, corner, dtype=np.int16)
    to_up = np.subtract(left, corner, dtype=np.int16)
    to_corner = to_left + to_up
    for distance in (to_left, to_up, to_corner):
        np.abs(distance, out=distance)
    # of equally near ones the left, then the upper
    paeth = _chosen(np.minimum(to_up, to_corner) < to_left, _chosen(to_corner < to_up, corner, up), left)
    residuals = np.empty((3, count, width), np.uint8)
    for residual, guess in zip(residuals, (left, up, paeth), strict=True):
        np.subtract(rows, guess, out=residual)
    magnitudes = np.abs(residuals.view(np.int8)).view(np.uint8)
    best = magnitudes.sum(axis=2, dtype=np.uint32 if width < 2**24 else np.uint64).argmin(axis=0)
    filtered = np.empty((count, width + 1), np.uint8)
    filtered[:, 0] = np.array([1, 2, 4], np.uint8)[best]
    filtered[:, 1:] = residuals[best, np.arange(count)]
    return filtered


def _chosen(condition: NDArray[np.bool_], yes: NDArray[np.uint8], no: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``np.where`` by bits: its branches cost twenty times as much where nobody can foresee them."""
    mask = -condition.view(np.uint8)
    chosen: NDArray[np.uint8] = no ^ ((no ^ yes) & mask)
    return chosen


def _png_comment(comment: bytes) -> tuple[bytes, bytes]:
    """TEXt is Latin-1 and iTXt UTF-8: whichever shows the comment as it was meant, and gives the same bytes back."""
    try:
        text = comment.decode()
    except UnicodeDecodeError:
        text = ""
    if comment.isascii() or not text:
        return b"tEXt", b"Comment\0" + comment
    return b"iTXt", b"Comment\0\0\0\0\0" + comment


def _encode_webp(rows: Rows, metadata: Metadata, quality: int | None, file: BinaryIO) -> None:
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


def _encode_tiff(rows: Rows, metadata: Metadata, quality: int | None, file: BinaryIO) -> None:  # noqa: ARG001 (lossless)
    """The EXIF block grown into a TIFF: all its bytes stay where they are, so every offset in it stays true.

        EXIF block, its header now pointing to the new IFD0 | strips | values | new IFD0

    The new directory takes over the entries of the block's own, whose values lie in the block.
    """
    base, order, entries = _tiff_base(metadata.exif)
    height, width = rows.shape[:2]
    channels, bits = rows.channels, rows.dtype.itemsize * 8

    start, size = file.tell(), len(base)
    file.write(base)
    offsets, counts = [], []
    strip_rows = max(1, _TIFF_STRIP_BYTES // (width * channels * rows.dtype.itemsize))
    for pixels in _regrouped(rows, strip_rows):
        strip = _tiff_strip(pixels, order)
        offsets.append(size)
        counts.append(len(strip))
        size += file.write(strip + bytes(len(strip) % 2))
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
        278: longs(strip_rows),
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
    xmp, iptc = metadata.joined_xmp, metadata.iptc
    if xmp:
        values[700] = (1, len(xmp), xmp)
    if metadata.photoshop:
        values[34377] = (1, len(metadata.photoshop), metadata.photoshop)
    if iptc:
        values[33723] = (7, len(iptc), iptc)
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
            size += file.write(data + bytes(len(data) % 2))
        entries[tag] = struct.pack(f"{order}HHI4s", tag, field_type, count, inside)
    # No further picture follows: the block's thumbnail stays unlinked.
    directory = b"".join([struct.pack(f"{order}H", len(entries)), *(entries[tag] for tag in sorted(entries)), bytes(4)])
    if size + len(directory) > _TIFF_MAX_BYTES:
        raise ValueError("it would be larger than 4 GiB; choose png")
    file.write(directory)
    file.seek(start + 4)
    file.write(struct.pack(f"{order}I", size))
    file.seek(0, os.SEEK_END)


def _regrouped(rows: Rows, count: int) -> Iterator[Pixels]:
    """Strips of exactly so many rows, but for the last."""
    held: list[Pixels] = []
    for strip in rows.cut(count):
        held.append(strip)
        joined: Pixels = held[0] if len(held) == 1 else np.concatenate(held, dtype=rows.dtype)  # type: ignore[assignment]
        if len(joined) >= count:
            yield joined[:count]
            held = [joined[count:]] if len(joined) > count else []
        else:
            held = [joined]
    if held:
        yield held[0]


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


_ENCODERS: Mapping[str, Callable[[Rows, Metadata, int | None, BinaryIO], None]] = {
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
    with placed(path, overwrite) as file:
        file.write(data)


@contextmanager
def placed(path: Path, overwrite: bool, about_to_place: Callable[[], None] | None = None) -> Iterator[BinaryIO]:
    """A file to write to that appears under its name, whole, when the block ends, and never if the block fails.

    Args:
        path: where it appears.
        overwrite: whether it may replace a file there.
        about_to_place: called before it appears.

    Raises:
        OutputError: it cannot be written, or there is a file already.
    """
    # Without the target's name, which may be as long as names can be.
    temporary = path.with_name(f".unjpeg-{secrets.token_hex(8)}.partial")
    try:
        with _reported(str(path)):
            file = _nameless(path.parent) or _new_file(temporary)
            with file:
                yield file
                _to_disk(file)
                if about_to_place:
                    about_to_place()
                if not os.path.lexists(temporary):
                    if not overwrite and _link_open_file(file, path):
                        return
                    if not _link_open_file(file, temporary):
                        with _new_file(temporary) as copy:
                            file.seek(0)
                            shutil.copyfileobj(file, copy)
                            _to_disk(copy)
            if overwrite:
                os.replace(temporary, path)
            else:
                _link(temporary, path)
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def _nameless(folder: Path) -> BinaryIO | None:
    """A new file of which a kill leaves nothing; None where there are no such files."""
    try:
        return open(os.open(folder, os.O_RDWR | os.O_TMPFILE, 0o666), "w+b")
    except (OSError, AttributeError):  # Linux has them, but not on every file system
        return None


def _new_file(path: Path) -> BinaryIO:
    # The mode is subject to the umask, as for any new file (tempfile would make it the owner's alone).
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    return open(os.open(path, flags, 0o666), "w+b")


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _link_open_file(file: BinaryIO, path: Path) -> bool:
    """Give a nameless file a name. False if the system refuses; raises FileExistsError if the name is taken."""
    try:
        folder = os.open("/proc/self/fd", os.O_RDONLY)
        try:
            # Relative to a folder: without one, Python's link() does not follow links.
            os.link(str(file.fileno()), path, src_dir_fd=folder, follow_symlinks=True)
        finally:
            os.close(folder)
    except FileExistsError:
        raise
    except OSError:
        return False
    return True


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
