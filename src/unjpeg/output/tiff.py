"""TIFF: the EXIF block, grown into one."""

from __future__ import annotations

import os
import struct
import zlib
from fractions import Fraction
from typing import BinaryIO, Literal

from unjpeg.metadata import PIXEL_LAYOUT_TAGS, ExifBlock, IfdEntry, Metadata
from unjpeg.output.rows import Pixels, Rows
from unjpeg.parallel import map_ahead

__all__ = ["encode"]

_STRIP_BYTES = 2**18
"""Uncompressed. Readers hold one strip in memory; smaller ones cost compression."""

_MAX_BYTES = 2**32 - 1

_ZLIB_LEVEL = 4
"""As PNG's, for the same reason."""


def encode(rows: Rows, metadata: Metadata, quality: int | None, file: BinaryIO) -> None:  # noqa: ARG001 (lossless)
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
    strip_rows = max(1, _STRIP_BYTES // (width * channels * rows.dtype.itemsize))
    for strip in map_ahead(lambda pixels: _tiff_strip(pixels, order), rows.regroup(strip_rows), rows.threads):
        offsets.append(size)
        counts.append(len(strip))
        size += file.write(strip + bytes(len(strip) % 2))
        if size > _MAX_BYTES:
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
        # Photometric interpretation: inks (CMYK unless said), grey (0 is black) or RGB.
        262: shorts(5 if rows.is_cmyk else 1 if channels < 3 else 2),
        277: shorts(channels),
        278: longs(strip_rows),
        284: shorts(1),  # channels interleaved
        317: shorts(2),  # predictor: difference to the pixel on the left
        # Last of the layout, because they need the strips written.
        273: longs(*offsets),
        279: longs(*counts),
    }
    if rows.has_alpha:
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
    if metadata.comments and 270 not in entries:
        description = b"\n".join(metadata.comments) + b"\0"
        values[270] = (2, len(description), description)
    dpi = metadata.resolution_below(2**16)
    if dpi is not None and entries.keys().isdisjoint((282, 283, 296)):
        for tag, value in zip((282, 283), dpi, strict=True):
            ratio = Fraction(value).limit_denominator(10_000)
            values[tag] = (5, 1, struct.pack(f"{order}II", ratio.numerator, ratio.denominator))
        values[296] = shorts(2)  # per inch
    elif metadata.aspect and entries.keys().isdisjoint((282, 283, 296)):
        for tag, number in zip((282, 283), metadata.aspect, strict=True):
            values[tag] = (5, 1, struct.pack(f"{order}II", number, 1))
        values[296] = shorts(1)  # no unit

    for tag, (field_type, count, data) in values.items():
        inside = data
        if len(data) > 4:
            inside = struct.pack(f"{order}I", size)
            size += file.write(data + bytes(len(data) % 2))
        entries[tag] = struct.pack(f"{order}HHI4s", tag, field_type, count, inside)
    # No further picture follows: the block's thumbnail stays unlinked.
    directory = b"".join([struct.pack(f"{order}H", len(entries)), *(entries[tag] for tag in sorted(entries)), bytes(4)])
    if size + len(directory) > _MAX_BYTES:
        raise ValueError("it would be larger than 4 GiB; choose png")
    file.write(directory)
    file.seek(start + 4)
    file.write(struct.pack(f"{order}I", size))
    file.seek(0, os.SEEK_END)


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
