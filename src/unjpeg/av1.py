"""How hard an AVIF was compressed: the base quantiser index of its first coded frame.

Section numbers are those of the AV1 Bitstream & Decoding Process Specification (2019), boxes those of ISO/IEC 14496-12
and 23008-12. Only still pictures with the short header that encoders write for them are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from unjpeg.isobmff import split_boxes

__all__ = ["avif_quantiser"]

_SEQUENCE_HEADER: Final = 1
_FRAME_HEADER: Final = 3
_FRAME: Final = 6
_BT709, _SRGB, _IDENTITY = 1, 13, 0
_MAX_TILE_WIDTH, _MAX_TILE_AREA, _MAX_TILES = 4096, 4096 * 2304, 64


class _UnreadableError(Exception):
    """A header of a kind that is not read, or that ends too early."""


def avif_quantiser(data: bytes) -> int | None:
    """The base quantiser index of an AVIF, 0 (finest) to 255; None of any other file, and where it cannot be read."""
    if data[4:8] != b"ftyp" or b"avif" not in data[8:64]:
        return None
    try:
        for item in _find_items(data):
            sequence: _Sequence | None = None
            for kind, body in _split_obus(item):
                if kind == _SEQUENCE_HEADER:
                    sequence = _read_sequence(_Bits(body))
                elif kind in (_FRAME, _FRAME_HEADER) and sequence is not None:
                    return _read_base_quantiser(_Bits(body), sequence)
    except _UnreadableError:
        pass
    return None


class _Bits:
    """A bit reader, the highest bit first (4.10.2)."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def read(self, count: int) -> int:
        value = 0
        for _ in range(count):
            byte, bit = divmod(self._place, 8)
            if byte >= len(self._data):
                raise _UnreadableError
            value = 2 * value + (self._data[byte] >> (7 - bit) & 1)
            self._place += 1
        return value


class _Sequence(NamedTuple):
    width: int
    height: int
    large_blocks: bool
    has_superres: bool


def _read_sequence(bits: _Bits) -> _Sequence:
    """``sequence_header_obu`` (5.5.1) of a still picture, as far as a frame header needs it."""
    bits.read(3)  # profile
    if not (bits.read(1) and bits.read(1)):
        raise _UnreadableError  # not a still picture, or with the long header
    bits.read(5)  # level
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    width, height = bits.read(width_bits) + 1, bits.read(height_bits) + 1
    large_blocks = bool(bits.read(1))
    bits.read(2)  # intra tools
    return _Sequence(width, height, large_blocks, bool(bits.read(1)))


def _read_base_quantiser(bits: _Bits, sequence: _Sequence) -> int:
    """``uncompressed_header`` (5.9.2) of a shown key frame, up to ``base_q_idx`` (5.9.12)."""
    disable_cdf_update = bits.read(1)
    del disable_cdf_update  # the short header leaves out what it would decide
    screen_content = bits.read(1)
    if screen_content:
        bits.read(1)  # integer motion vectors
    scaled = bool(sequence.has_superres and bits.read(1))
    width = sequence.width
    if scaled:
        denominator = bits.read(3) + 9
        width = (width * 8 + denominator // 2) // denominator
    if bits.read(1):  # the size to show it at
        bits.read(32)
    if screen_content and not scaled:
        bits.read(1)  # intra block copy
    _skip_tiles(bits, sequence, width)
    return bits.read(8)


def _skip_tiles(bits: _Bits, sequence: _Sequence, width: int) -> None:
    """``tile_info`` (5.9.15)."""
    side = 128 if sequence.large_blocks else 64
    columns, rows = -(-width // side), -(-sequence.height // side)
    if not bits.read(1):
        raise _UnreadableError  # tiles of different sizes
    largest = _MAX_TILE_AREA // side**2
    least_columns = _log2(_MAX_TILE_WIDTH // side, columns)
    columns_log2 = _increase(bits, least_columns, _log2(1, min(columns, _MAX_TILES)))
    least = max(least_columns, _log2(largest, rows * columns))
    rows_log2 = _increase(bits, max(least - columns_log2, 0), _log2(1, min(rows, _MAX_TILES)))
    if columns_log2 or rows_log2:
        bits.read(rows_log2 + columns_log2 + 2)


def _increase(bits: _Bits, value: int, most: int) -> int:
    while value < most and bits.read(1):
        value += 1
    return value


def _log2(block: int, target: int) -> int:
    """The smallest k for which ``block << k`` is at least the target."""
    k = 0
    while block << k < target:
        k += 1
    return k


def _split_obus(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and content of the open bitstream units (5.3)."""
    place = 0
    while place < len(data):
        kind, extended, sized = data[place] >> 3 & 15, data[place] & 4, data[place] & 2
        place += 2 if extended else 1
        size = len(data) - place
        if sized:
            size, shift = 0, 0
            while True:
                if place >= len(data) or shift > 49:
                    raise _UnreadableError
                size |= (data[place] & 127) << shift
                shift, place = shift + 7, place + 1
                if not data[place - 1] & 128:
                    break
        yield kind, data[place : place + size]
        place += size


def _find_items(data: bytes) -> Iterator[bytes]:
    """The coded data of the file's items, the primary one first; a grid's tiles follow in order."""
    meta = next((body[4:] for kind, body in split_boxes(data) if kind == b"meta"), b"")
    boxes = dict(split_boxes(meta))
    primary, locations = boxes.get(b"pitm", b""), boxes.get(b"iloc", b"")
    places = sorted(_read_locations(locations))
    wide = primary[:1] != b"\0"
    wanted = int.from_bytes(primary[4 : 8 if wide else 6])
    for _, offset, length in sorted(places, key=lambda place: place[0] != wanted):
        yield data[offset : offset + length]


def _read_locations(body: bytes) -> Iterator[tuple[int, int, int]]:
    """Number, offset and length of each item that lies in the file in one piece, from ``iloc``."""
    if len(body) < 8:
        return
    version, place = body[0], 6
    offset_size, length_size = body[4] >> 4, body[4] & 15
    base_size, index_size = body[5] >> 4, body[5] & 15 if version else 0
    wide = 4 if version == 2 else 2

    def take(count: int) -> int:
        nonlocal place
        if place + count > len(body):
            raise _UnreadableError
        place += count
        return int.from_bytes(body[place - count : place])

    for _ in range(take(wide)):
        number = take(wide)
        method = take(2) & 15 if version else 0
        take(2)  # where the data is: in this file
        base = take(base_size)
        extents = []
        for _ in range(take(2)):
            take(index_size)
            extents.append((base + take(offset_size), take(length_size)))
        if method == 0 and len(extents) == 1:
            yield number, *extents[0]
