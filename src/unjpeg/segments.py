"""A JPEG's segments: where they are, what its scans state, and a plain copy that decoders have nothing to say against.

Decoders complain of much that leaves every coefficient whole: fields that a sequential scan has no use for, numbers of
versions and of a profile's parts, a missing end marker. A plain copy has none of it, so that what they still complain
of is damage.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unjpeg.errors import BadImageError, UnsupportedImageError
from unjpeg.inks import INK_CODINGS

__all__ = [
    "ADOBE",
    "APP0",
    "APP1",
    "APP2",
    "APP14",
    "END_OF_IMAGE",
    "HEIGHT",
    "MAX_STRAY_BYTES",
    "NOTHING_SENT",
    "START_OF_IMAGE",
    "START_OF_SCAN",
    "PlainCopy",
    "ScanFacts",
    "Segment",
    "count_components",
    "is_jpeg",
    "is_metadata",
    "join_profile",
    "read_scan_facts",
    "walk",
]

MAX_SEGMENTS = 20_000
"""Segments that are looked at: a scan needs a few, and 64 MiB of metadata a thousand."""

NOTHING_SENT = 255
"""In ``ScanFacts.unsent_bits``: no scan held the coefficient."""

START_OF_IMAGE = b"\xff\xd8"
APP0, APP1, APP2, APP14, START_OF_SCAN, END_OF_IMAGE, HEIGHT = 0xE0, 0xE1, 0xE2, 0xEE, 0xDA, 0xD9, 0xDC
ADOBE = b"Adobe"
_COMMENT, _TABLES = 0xFE, 0xDB
_PROFILE = b"ICC_PROFILE\0"
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_SEQUENTIAL = frozenset({0xC0, 0xC1})
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_BETWEEN_SCANS = frozenset(
    {*_FRAMES, 0x01, 0xC4, 0xCC, *range(0xD0, 0xD8), *range(0xD9, 0xE0), *range(0xE0, 0xF0), 0xFE}
)
_FILL_BYTES = re.compile(rb"\xff+")
_AFTER_CODED_DATA = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # neither a stuffed byte nor a restart
_MARKER = re.compile(rb"\xff+[^\x00\xff]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")

MAX_STRAY_BYTES = 4
"""Cameras leave a few bytes, or a run of one value, where a marker must be; what is longer damaged data leave over."""

_JFIF_SEGMENT = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
_ADOBE_SEGMENT = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
_OPENINGS = {
    "YCbCr": _JFIF_SEGMENT,
    "RGB": _ADOBE_SEGMENT + b"\0",
    "CMYK": _ADOBE_SEGMENT + b"\0",
    "YCCK": _ADOBE_SEGMENT + b"\2",
}
"""What tells decoders a colour space."""

_ZIGZAG: NDArray[np.int64] = np.array(
    [8 * v + u for v, u in sorted(np.ndindex(8, 8), key=lambda at: (sum(at), at[sum(at) % 2 == 0]))]
)
"""Natural position, 0..63, of each coefficient in the order of the file."""


class Segment(NamedTuple):
    """Marker code, first byte, and one past the last; a scan ends where its coded data do."""

    code: int
    start: int
    end: int


def is_jpeg(data: bytes) -> bool:
    """Whether these bytes start like a JPEG, whatever the file is called."""
    return data[:3] == b"\xff\xd8\xff"


def is_metadata(code: int) -> bool:
    """Whether a segment is an application's or a comment."""
    return 0xE0 <= code <= 0xEF or code == _COMMENT


def count_components(file: BinaryIO) -> int | None:
    """What a JPEG's frame header says, found by skipping what lies before it; None where it is not to be found so."""
    if file.read(2) != START_OF_IMAGE:
        return None
    for _ in range(MAX_SEGMENTS):
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] == START_OF_SCAN:
            return None
        code, size = head[1], int.from_bytes(head[2:])
        if code in _FRAMES:
            frame = file.read(6)
            return frame[5] if len(frame) == 6 else None
        file.seek(max(size - 2, 0), os.SEEK_CUR)
    return None


def walk(data: bytes, name: str) -> Iterator[Segment]:
    """The segments from the start to the end marker, or to where after a scan no marker follows that can.

    Raises:
        BadImageError: no JPEG, or none where a marker must be.
        UnsupportedImageError: too many.
    """
    if not is_jpeg(data):
        raise BadImageError(f"{name}: is not a JPEG")
    position = 2
    seen_scan = False
    for _ in range(MAX_SEGMENTS):
        if position + 2 > len(data):
            return
        if data[position] != 0xFF:
            following = _MARKER.search(data, position, position + MAX_STRAY_BYTES + 2)
            if following is None:
                if seen_scan:
                    return
                raise BadImageError(f"{name}: is a damaged JPEG (no marker where one must be, at byte {position})")
            position = following.start()
        fill = _FILL_BYTES.match(data, position)
        assert fill is not None  # there is one at least
        position = fill.end() - 1
        if position + 2 > len(data):
            return
        code = data[position + 1]
        if seen_scan and code not in _BETWEEN_SCANS:
            return
        end = position + 2
        if code not in _WITHOUT_LENGTH and code != END_OF_IMAGE:
            end += max(int.from_bytes(data[end : end + 2]), 2)
        if code == START_OF_SCAN:
            seen_scan = True
            marker = _AFTER_CODED_DATA.search(data, end)
            end = marker.start() if marker else len(data)
        yield Segment(code, position, min(end, len(data)))
        if code == END_OF_IMAGE:
            return
        position = end
    raise UnsupportedImageError(f"{name}: has more than {MAX_SEGMENTS:,} segments")


@dataclass(frozen=True, slots=True)
class ScanFacts:
    """What the scans say of each component, in the frame's order.

    Attributes:
        tables: the quantisation table in force at its first scan, ``(8, 8)``, natural order: a later one in the same
            place is of other components. Of a component without a scan the last one in its place.
        unsent_bits: how many low bits of each coefficient no scan held, ``(8, 8)``, and ``NOTHING_SENT`` where none
            held any; None where all were sent.
        scans: how many there are.
    """

    tables: tuple[NDArray[np.uint16], ...]
    unsent_bits: tuple[NDArray[np.uint8] | None, ...]
    scans: int


def read_scan_facts(data: bytes, segments: Sequence[Segment], name: str) -> ScanFacts:
    """Follow the tables and the scans of a file that a decoder has found whole.

    Raises:
        BadImageError: a table or a component that a scan names is not there.
    """
    slots: dict[int, NDArray[np.uint16]] = {}
    components: list[tuple[int, int]] = []  # identifier and slot
    tables: dict[int, NDArray[np.uint16]] = {}
    unsent = np.empty((0, 64), np.uint8)
    scans, sequential = 0, False
    try:
        for code, start, end in segments:
            body = data[start + 4 : end] if code != START_OF_SCAN else data[start + 4 : start + 16]
            if code == _TABLES:
                slots |= _tables_in(body)
            elif code in _FRAMES:
                sequential = code in _SEQUENTIAL
                components = [(body[6 + 3 * i], body[8 + 3 * i]) for i in range(body[5])]
                unsent = np.full((len(components), 64), NOTHING_SENT, np.uint8)
            elif code == START_OF_SCAN:
                scans += 1
                within: list[int] = []
                for i in range(body[0]):
                    number = next(
                        n for n, part in enumerate(components) if part[0] == body[1 + 2 * i] and n not in within
                    )
                    within.append(number)
                    if number not in tables:
                        tables[number] = slots[components[number][1]]
                first, last, bits = body[1 + 2 * body[0] : 4 + 2 * body[0]]
                if sequential:
                    unsent[within] = 0
                else:
                    unsent[within, first : last + 1] = bits & 15
    except (IndexError, KeyError, StopIteration, ValueError) as error:
        raise BadImageError(f"{name}: is a damaged JPEG (a scan names what is not there)") from error
    natural = np.empty_like(unsent)
    natural[:, _ZIGZAG] = unsent
    ones = np.ones((8, 8), np.uint16)
    return ScanFacts(
        tuple(tables[n] if n in tables else slots.get(slot, ones) for n, (_, slot) in enumerate(components)),
        tuple(bits if bits.any() else None for bits in natural.reshape(-1, 8, 8)),
        scans,
    )


def _tables_in(body: bytes) -> dict[int, NDArray[np.uint16]]:
    """The tables of one segment by the place that they go to. Raises ValueError or IndexError where it is cut short."""
    found = {}
    position = 0
    while position < len(body):
        wide, slot = divmod(body[position], 16)
        values = np.frombuffer(body, ">u2" if wide else np.uint8, 64, position + 1)
        table = np.empty(64, np.uint16)
        table[_ZIGZAG] = values
        found[slot] = table.reshape(8, 8)
        position += 1 + 64 * (2 if wide else 1)
    return found


@dataclass(frozen=True, slots=True)
class PlainCopy:
    """The picture's data alone.

    Attributes:
        data: one picture from its start to its end marker, without metadata.
        notes: what the file has that such files do not have, one sentence each.
        added_end: whether the file has no end marker.
    """

    data: bytes
    notes: tuple[str, ...]
    added_end: bool

    @classmethod
    def of(cls, data: bytes, segments: Sequence[Segment], colour_space: str, height: int) -> PlainCopy:
        """Copy a file.

        Args:
            colour_space, height: as ``JpegHeader`` has them; the copy states both as decoders expect it.
        """
        kept = [START_OF_IMAGE, _OPENINGS.get(colour_space, b"")]
        sequential = odd_fields = False
        for code, start, end in segments:
            part = data[start:end]
            if is_metadata(code) or code in (HEIGHT, END_OF_IMAGE):
                continue
            if code in _FRAMES:
                sequential = code in _SEQUENTIAL
                part = part[:5] + height.to_bytes(2) + part[7:]
            elif code == START_OF_SCAN and sequential and len(part) > 4:
                fields = 5 + 2 * part[4]
                odd_fields |= part[fields : fields + 3] != b"\0\x3f\0"
                part = part[:fields] + b"\0\x3f\0" + part[fields + 3 :]
            kept.append(part)
        added_end = not segments or segments[-1].code != END_OF_IMAGE
        notes = list(_odd_metadata(data, segments, colour_space))
        if odd_fields:
            notes.append("its scans state a selection of coefficients, which sequential ones do not have: ignored")
        if added_end:
            notes.append("has no end marker, but all of its data")
        return cls(b"".join((*kept, b"\xff\xd9")), tuple(notes), added_end)

    def scans(self) -> list[tuple[Segment, Segment]]:
        """Each scan, and what follows it."""
        segments = list(walk(self.data, ""))
        return [pair for pair in pairwise(segments) if pair[0].code == START_OF_SCAN]

    def without(self, start: int, end: int) -> PlainCopy:
        """The same without these bytes."""
        return PlainCopy(self.data[:start] + self.data[end:], self.notes, self.added_end)

    def with_restarts_in_order(self) -> PlainCopy:
        """The same with each scan's restart markers numbered as they must be."""
        kept = []
        position = 0
        for code, start, end in walk(self.data, ""):
            if code == START_OF_SCAN:
                kept.append(self.data[position:start])
                kept.append(_with_restarts_in_order(self.data[start:end]))
                position = end
        notes = (*self.notes, "its restart markers are misnumbered, but all there")
        return PlainCopy(b"".join((*kept, self.data[position:])), notes, self.added_end)


def _with_restarts_in_order(scan: bytes) -> bytes:
    """A scan's bytes with its restart markers numbered from 0 on, modulo 8."""
    numbers = count()
    return _RESTART.sub(lambda _: bytes((0xFF, 0xD0 + next(numbers) % 8)), scan)


def _odd_metadata(data: bytes, segments: Sequence[Segment], colour_space: str) -> Iterator[str]:
    """Notes on segments that decoders know no meaning of."""
    for code, start, end in segments:
        body = data[start + 4 : min(end, start + 20)]
        if code == APP0 and body[:5] == b"JFIF\0" and len(body) >= 14 and body[5] != 1:
            yield f"states an unknown version of JFIF ({body[5]}.{body[6]:02}): read as any other"
        if code == APP14 and body[:5] == ADOBE and len(body) >= 12:
            usual, others = ((0, 2), 1) if colour_space in INK_CODINGS else ((0, 1), 2)
            if body[11] not in usual:
                count = "three" if others == 1 else "four"
                kind = f"the colour transform of {count}-component files"
                odd = kind if body[11] == others else "an unknown colour transform"
                yield f"states {odd} ({body[11]}): read as {colour_space}"


def join_profile(data: bytes, segments: Sequence[Segment]) -> tuple[bytes | None, str | None]:
    """The colour profile, and a note where its parts are misnumbered or not all there.

    Returns:
        None for the profile if there is none, or not all of it; None for the note if there is nothing to say.
    """
    parts = [
        data[start + 16 : end]
        for code, start, end in segments
        if code == APP2 and data[start + 4 : start + 16] == _PROFILE and end - start >= 18
    ]
    if not parts:
        return None, None
    total = len(parts)
    if sorted(part[0] for part in parts) == list(range(1, total + 1)) and all(part[1] == total for part in parts):
        return b"".join(part[2:] for part in sorted(parts)), None
    by_number = [part[2:] for part in sorted(set(parts), key=lambda part: part[0])]
    whole = b"".join(by_number)
    if len({part[0] for part in parts}) == len(by_number) and int.from_bytes(whole[:4]) == len(whole) >= 128:
        return whole, "the parts of its colour profile are misnumbered, but all there"
    return None, "its colour profile is incomplete, and not carried over"
