"""JPEG: Pillow encodes the pixels, the segments around them are written here."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO

from PIL import Image

from unjpeg.metadata import Metadata
from unjpeg.output.rows import Rows

__all__ = ["encode"]

_QUALITY = 95
_SEGMENT_BYTES = 65533
_EXTENDED_XMP_STEP = 65400
_DENSITY = 13
"""Where the JFIF segment that Pillow writes first states its unit and densities."""


def encode(rows: Rows, metadata: Metadata, quality: int | None, file: BinaryIO) -> None:
    """Quality 95 without one; always 4:4:4."""
    buffer = io.BytesIO()
    dpi = metadata.resolution_below(2**16) or (0, 0)  # 0: not stated
    quality = _QUALITY if quality is None else quality
    Image.fromarray(rows.whole()).save(buffer, "JPEG", quality=quality, subsampling="4:4:4", dpi=dpi)
    data = buffer.getbuffer()
    if metadata.aspect and dpi == (0, 0):
        data[_DENSITY : _DENSITY + 5] = struct.pack(">BHH", 0, *metadata.aspect)
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
