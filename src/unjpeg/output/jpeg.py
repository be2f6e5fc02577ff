"""JPEG: Pillow encodes the pixels, a band of rows at a time; the segments around them are written here.

Each band is a file of its own, whose entropy-coded part becomes one restart interval of the whole picture's: decoders
begin anew there, so that bands are encoded beside each other, and written as they come.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

from unjpeg.metadata import Metadata
from unjpeg.output.rows import Pixels, Rows
from unjpeg.parallel import map_ahead

__all__ = ["encode", "encode_within"]

_QUALITY = 95
_SAMPLINGS = ("4:4:4", "4:2:0")
_SEGMENT_BYTES = 65533
_EXTENDED_XMP_STEP = 65400
_DENSITY = 13
"""Where the JFIF segment that Pillow writes first states its unit and densities."""

_BAND_PIXELS = 2**20
"""Of a band, about: of the widest picture too no more blocks than a restart interval can have."""

_BLOCK = 8
_RESTART, _RESTARTS = 0xD0, 8
_FRAME, _SCAN = 0xC0, 0xDA
_END = b"\xff\xd9"


def encode(rows: Rows, metadata: Metadata, quality: int | None, file: BinaryIO) -> None:
    """Quality 95 without one; always 4:4:4. A picture of more than one band has restart markers."""
    segments, level = _segments(metadata), _QUALITY if quality is None else quality

    def encode_band(pixels: Pixels) -> bytearray:
        return _Coder(pixels, metadata, is_cmyk=rows.is_cmyk).encode(level, "4:4:4")

    height, width = rows.shape[:2]
    band_rows = max(1, _BAND_PIXELS // (width * _BLOCK)) * _BLOCK
    bands = map_ahead(encode_band, rows.regroup(band_rows), rows.threads)
    data = next(bands)
    if band_rows < height:
        frame, scan = _find_segment(data, _FRAME), _find_segment(data, _SCAN)
        struct.pack_into(">H", data, frame + 5, height)
        blocks = band_rows // _BLOCK * -(-width // _BLOCK)
        data[scan:scan] = struct.pack(">BBHH", 0xFF, 0xDD, 4, blocks)
    _write(data, segments, file)
    for number, band in enumerate(bands):
        scan = _find_segment(band, _SCAN)
        file.write(bytes((0xFF, _RESTART + number % _RESTARTS)))
        file.write(band[scan + 2 + struct.unpack_from(">H", band, scan + 2)[0] : -2])
    file.write(_END)


def encode_within(rows: Rows, metadata: Metadata, quality: int | None, file: BinaryIO, max_bytes: int) -> str:
    """The best file that is not larger than that, metadata included.

    The highest quality that fits is looked for with chroma at full and at half resolution. Of the two the one counts
    whose pixels are nearer to the given ones.

    Args:
        quality: the highest that is tried, 100 without one.

    Returns:
        What was chosen, in words.

    Raises:
        ValueError: even at quality 1 it would be larger.
    """
    pixels, segments = rows.whole(), _segments(metadata)
    coder = _Coder(pixels, metadata, is_cmyk=rows.is_cmyk)
    samplings = _SAMPLINGS if rows.channels == 3 else _SAMPLINGS[:1]  # of inks none is coarser than the others
    found: list[tuple[float, int, str, bytearray]] = []
    smallest = 0
    for sampling in samplings:
        fits, too_high, data = 0, (100 if quality is None else quality) + 1, bytearray()
        while too_high - fits > 1:
            tried = (fits + too_high) // 2
            attempt = coder.encode(tried, sampling, compact=True)
            if len(attempt) + len(segments) <= max_bytes:
                fits, data = tried, attempt
            else:
                too_high, smallest = tried, len(attempt) + len(segments)
        if data:
            found.append((_distance(data, pixels), fits, sampling, data))
    if not found:
        of_them = f", {len(segments):,} of them metadata" if len(segments) > smallest // 4 else ""
        raise ValueError(f"it has {smallest:,} bytes{of_them} even at quality 1; allow more than {max_bytes:,}")
    _, chosen, sampling, data = min(found)
    _write(data, segments, file)
    file.write(_END)
    kind = f", {sampling}" if len(samplings) > 1 else ""
    return f"quality {chosen}{kind}: {len(data) + len(segments):,} bytes, of at most {max_bytes:,}"


class _Coder:
    """Encodes the same pixels again and again: without metadata, but for the JFIF segment."""

    def __init__(self, pixels: Pixels, metadata: Metadata, *, is_cmyk: bool = False) -> None:
        self._image = Image.fromarray(pixels, mode="CMYK") if is_cmyk else Image.fromarray(pixels)
        self._aspect, self._is_cmyk = metadata.aspect, is_cmyk
        self._dpi = metadata.resolution_below(2**16) or (0, 0)  # 0: not stated

    def encode(self, quality: int, sampling: str, *, compact: bool = False) -> bytearray:
        """As few bytes as the format allows if ``compact``, else as other programs write."""
        buffer = io.BytesIO()
        more = {"optimize": True, "progressive": True} if compact else {}
        self._image.save(buffer, "JPEG", quality=quality, subsampling=sampling, dpi=self._dpi, **more)
        data = bytearray(buffer.getbuffer())
        if self._is_cmyk:
            # Adobe's marker says what the four are. Only JFIF's, which Pillow leaves out there, has the resolution.
            down, across = (round(value) for value in self._dpi)
            unit, *density = (1, down, across) if down else (0, 1, 1)
            data[2:2] = struct.pack(">2H5s3B2H2B", 0xFFE0, 16, b"JFIF\0", 1, 1, unit, *density, 0, 0)
        if self._aspect and self._dpi == (0, 0):
            data[_DENSITY : _DENSITY + 5] = struct.pack(">BHH", 0, *self._aspect)
        return data


def _distance(data: bytearray, pixels: Pixels) -> float:
    """Mean square of the differences."""
    difference = np.asarray(Image.open(io.BytesIO(data))).astype(np.float32)
    difference -= pixels
    return float(np.square(difference, out=difference).mean(dtype=np.float64))


def _write(data: bytearray, segments: bytes, file: BinaryIO) -> None:
    """All of a file but the marker at its end."""
    start = 4 + struct.unpack_from(">H", data, 4)[0]  # after the start of the image and the JFIF segment
    file.write(data[:start])
    file.write(segments)
    file.write(data[start:-2])


def _find_segment(data: bytearray, marker: int) -> int:
    """Where a segment begins in the head of a file of Pillow's."""
    place = 2
    while data[place + 1] != marker:
        place += 2 + int(struct.unpack_from(">H", data, place + 2)[0])
    return place


def _segments(metadata: Metadata) -> bytes:
    """All of the metadata but the resolution."""
    segments: list[tuple[int, bytes, str]] = []
    if metadata.exif:
        # More than one segment holds is split the way that readers (Pillow, ExifTool) join it.
        step = _SEGMENT_BYTES - 6
        pieces = (metadata.exif[start : start + step] for start in range(0, len(metadata.exif), step))
        segments.extend((0xE1, b"Exif\0\0" + piece, "EXIF") for piece in pieces)
    if metadata.xmp:
        segments.append((0xE1, b"http://ns.adobe.com/xap/1.0/\0" + metadata.xmp, "XMP"))
    if metadata.extended_xmp and metadata.extended_xmp_name:
        packets = _extended_xmp_segments(metadata.extended_xmp, metadata.extended_xmp_name)
        segments.extend((0xE1, packet, "extended XMP") for packet in packets)
    if metadata.photoshop:
        step = _SEGMENT_BYTES - 14
        pieces = (metadata.photoshop[start : start + step] for start in range(0, len(metadata.photoshop), step))
        segments.extend((0xED, b"Photoshop 3.0\0" + piece, "IPTC") for piece in pieces)
    if metadata.icc_profile:
        step = _SEGMENT_BYTES - 14
        parts = [metadata.icc_profile[start : start + step] for start in range(0, len(metadata.icc_profile), step)]
        if len(parts) > 255:
            raise ValueError("the ICC profile is too large; choose png, webp or tiff")
        for number, part in enumerate(parts, 1):
            segments.append((0xE2, b"ICC_PROFILE\0" + bytes((number, len(parts))) + part, "ICC profile"))
    segments += [(0xE0 + number, content, f"APP{number} segment") for number, content in metadata.segments]
    segments += [(0xFE, comment, "comment") for comment in metadata.comments]
    written = []
    for marker, payload, what in segments:
        if len(payload) > _SEGMENT_BYTES:
            raise ValueError(f"the {what} is too large; choose png, webp or tiff")
        written.append(struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload)
    return b"".join(written)


def _extended_xmp_segments(packet: bytes, name: bytes) -> Iterator[bytes]:
    """As Adobe's XMP specification, part 3, has it."""
    for start in range(0, len(packet), _EXTENDED_XMP_STEP):
        place = struct.pack(">II", len(packet), start)
        part = packet[start : start + _EXTENDED_XMP_STEP]
        yield b"http://ns.adobe.com/xmp/extension/\0" + name + place + part
