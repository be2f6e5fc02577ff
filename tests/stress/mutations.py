"""JPEG files of every kind, and what can be done to them: shared by the quick fuzzing test and the long one."""

from __future__ import annotations

import io
import random
import re
import struct
from pathlib import Path

from PIL import Image

from exif_blocks import exif_block, thumbnail_jpeg
from jpegs import (
    SAMPLINGS,
    encoded,
    frame_header,
    one_component_a_scan,
    picture,
    saved,
    scan_ends,
    segments_of,
    with_segment,
)

__all__ = ["mutated", "seeds"]

PHOTO = picture(40, 56)
SIX, FOUR = ((3, 2), (1, 1), (1, 1)), ((4, 1), (2, 1), (1, 1))
RESTART = re.compile(rb"\xff[\xd0-\xd7]")


def seeds() -> dict[str, bytes]:
    """Small files, and the bundled photograph, by name. Some are valid but refused."""
    files = {f"sampling {name}": encoded(PHOTO, name) for name in SAMPLINGS}
    base = files["sampling 4:2:0"]
    scan = base.index(b"\xff\xda")
    quantisation = base.index(b"\xff\xdb")
    flood = b"".join(with_segment(b"", 0xE0 + n % 16, bytes(n % 200), at=0) for n in range(2000))
    progressive = encoded(PHOTO, progressive=True)
    last_scan = progressive.rindex(b"\xff\xda")
    planes = [PHOTO[..., i] for i in range(3)]
    in_scans = one_component_a_scan(planes)
    ends = scan_ends(progressive)
    stray = progressive[: ends[1]] + b"\0" * 9 + progressive[ends[1] : ends[4]] + b"ab" + progressive[ends[4] :]
    claimed = base[: frame_header(base) + 5] + b"\0\0" + base[frame_header(base) + 7 :]
    mpo = io.BytesIO()
    Image.fromarray(PHOTO).save(mpo, "MPO", save_all=True, append_images=[Image.fromarray(PHOTO[::2, ::2])])
    exif = b"Exif\0\0" + exif_block(thumbnail=thumbnail_jpeg())
    return files | {
        "progressive": progressive,
        "restarts": saved(PHOTO, quality=60, restart_marker_rows=1),
        "metadata": with_segment(
            encoded(PHOTO, exif=exif, icc_profile=bytes(3000), xmp=b"<x/>" * 99, comment=b"x"),
            0xED,
            b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\4abcd",
        ),
        "MPO": mpo.getvalue(),
        "Adobe RGB": with_segment(base[:2] + base[20:], 0xEE, b"Adobe\0\x64\0\0\0\0\0"),
        "Adobe YCCK": with_segment(base[:2] + base[20:], 0xEE, b"Adobe\0\x64\0\0\0\0\2"),
        "CMYK": saved(Image.fromarray(PHOTO).convert("CMYK")),
        "arithmetic": base.replace(b"\xff\xc0", b"\xff\xc9", 1),
        "one component a scan": in_scans,
        "table redefined": one_component_a_scan(planes, qualities=(75, 10, 10)),
        "table after the scan": base[:-2] + with_segment(b"", 0xDB, b"\0" + bytes([1]) * 64, at=0) + base[-2:],
        "chroma unsent": in_scans[: scan_ends(in_scans)[0]] + base[-2:],
        "ended early": progressive[: scan_ends(progressive)[3]] + base[-2:],
        "ended after DC": progressive[: scan_ends(progressive)[0]] + base[-2:],
        "no end marker": base[:-2],
        "no end marker, trailer": base[:-2] + b"trailer\xff\x07" * 30,
        "selection in a scan": base[: scan + 11] + bytes(3) + base[scan + 14 :],
        "JFIF 2": base[:11] + b"\2" + base[12:],
        "Adobe 7": with_segment(base[:2] + base[20:], 0xEE, b"Adobe\0\x64\0\0\0\0\7"),
        "profile in part": with_segment(base, 0xE2, b"ICC_PROFILE\0\1\3" + bytes(300)),
        "profile from 0": with_segment(base, 0xE2, b"ICC_PROFILE\0\0\1" + struct.pack(">I", 300) + bytes(296)),
        "stray bytes": stray,
        "restarts misnumbered": RESTART.sub(b"\xff\xd0", saved(PHOTO, quality=60, restart_marker_rows=1)),
        "height after the scan": claimed[:-2] + b"\xff\xdc\0\4" + PHOTO.shape[0].to_bytes(2) + base[-2:],
        "grey in colour": saved(Image.fromarray(PHOTO[..., 1]).convert("RGB")),
        "sampling 3x2": one_component_a_scan([PHOTO[..., 0], *(PHOTO[::2, ::3, i] for i in (1, 2))], SIX),
        "sampling 4x1 2x1 1x1": one_component_a_scan([PHOTO[:, ::n, i] for i, n in enumerate((1, 2, 4))], FOUR),
        "chroma finer": one_component_a_scan([PHOTO[..., 1]] * 3, ((1, 1), (2, 1), (1, 1))),
        "zero in a table": base[: quantisation + 9] + b"\0" + base[quantisation + 10 :],
        "tables twice": base[:scan] + base[quantisation : frame_header(base)] + base[scan:],
        "frame twice": base[:scan] + base[frame_header(base) : scan] + base[scan:],
        "flood": base[:20] + flood + base[20:],
        "scans": progressive[:-2] + progressive[last_scan:-2] * 300 + progressive[-2:],
        "trailing data": base + bytes(range(256)) * 40,
        "photograph": (Path(__file__).parents[2] / "examples" / "kitten.jpg").read_bytes(),
    }


def mutated(data: bytes, other: bytes, choice: random.Random) -> bytes:
    """The file with one thing done to it, or a few."""
    for _ in range(choice.choice((1, 1, 1, 2, 4))):
        data = choice.choice(MUTATIONS)(data, other, choice) if len(data) > 4 else data
    return data


def _overwrite(data: bytes, other: bytes, choice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(choice.choice((1, 2, 8, 64))):
        changed[choice.randrange(len(data))] = choice.choice((0, 1, 0x7F, 0x80, 0xFF, choice.randrange(256)))
    return bytes(changed)


def _overwrite_header(data: bytes, other: bytes, choice: random.Random) -> bytes:
    at = choice.randrange(2, max(3, data.find(b"\xff\xda") + 14))
    return data[:at] + choice.randbytes(choice.choice((1, 2, 4))) + data[at + 1 :]


def _cut(data: bytes, other: bytes, choice: random.Random) -> bytes:
    return data[: choice.randrange(2, len(data))]


def _leave_out(data: bytes, other: bytes, choice: random.Random) -> bytes:
    start = choice.randrange(2, len(data))
    return data[:start] + data[start + choice.choice((1, 2, 50, 500)) :]


def _repeat(data: bytes, other: bytes, choice: random.Random) -> bytes:
    start = choice.randrange(2, len(data))
    part = data[start : start + choice.choice((2, 20, 200, 2000))]
    return data[:start] + part * choice.choice((2, 3, 50)) + data[start:]


def _splice(data: bytes, other: bytes, choice: random.Random) -> bytes:
    return data[: choice.randrange(2, len(data))] + other[choice.randrange(len(other)) :]


def _shuffle_segments(data: bytes, other: bytes, choice: random.Random) -> bytes:
    segments = [segment for _, segment in segments_of(data)] + [segment for _, segment in segments_of(other)][:2]
    rest = data[data.find(b"\xff\xda") :] if b"\xff\xda" in data else b""
    choice.shuffle(segments)
    return data[:2] + b"".join(segments[: choice.randint(1, len(segments) or 1)]) + rest


def _restart_markers(data: bytes, other: bytes, choice: random.Random) -> bytes:
    at = choice.randrange(max(2, data.find(b"\xff\xda")), len(data))
    marker = bytes((0xFF, 0xD0 + choice.randrange(8)))
    return data[:at] + marker * choice.choice((1, 1, 20)) + data[at + choice.choice((0, 2)) :]


def _size(data: bytes, other: bytes, choice: random.Random) -> bytes:
    frames = [data.find(bytes((0xFF, code))) for code in (0xC0, 0xC1, 0xC2)]
    at = max(frames)
    sides = [choice.choice((0, 1, 7, 40, 500, 3000, 65535)) for _ in range(2)]
    return data if at < 0 else data[: at + 5] + struct.pack(">HH", *sides) + data[at + 9 :]


def _table(data: bytes, other: bytes, choice: random.Random) -> bytes:
    at = data.find(choice.choice((b"\xff\xdb", b"\xff\xc4")))
    if at < 0:
        return data
    inside = at + 4 + choice.randrange(60)
    return data[:inside] + bytes((choice.choice((0, 1, 255)),)) + data[inside + 1 :]


def _scan_fields(data: bytes, other: bytes, choice: random.Random) -> bytes:
    at = data.rfind(b"\xff\xda", 0, choice.randrange(len(data)) + 1)
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
    fields = bytes(
        (choice.choice((0, 1, 5, 63, 64)), choice.choice((0, 5, 63, 255)), choice.choice((0, 1, 0x21, 0xFF)))
    )
    return data if at < 0 else data[: end - 3] + fields + data[end:]


def _end(data: bytes, other: bytes, choice: random.Random) -> bytes:
    """Cut behind a scan or anywhere, with or without an end marker and something behind it."""
    ends = [match.start() for match in re.finditer(rb"\xff[\xc4\xd9\xda\xdb]", data)]
    cut = choice.choice(ends or [len(data)])
    behind = (b"", b"\xff", bytes(70), b"\xff\xd8\xff\xe0", choice.randbytes(40), other)
    return data[:cut] + choice.choice((b"", b"\xff\xd9")) + choice.choice(behind)


def _factors(data: bytes, other: bytes, choice: random.Random) -> bytes:
    at = max(data.find(bytes((0xFF, code))) for code in (0xC0, 0xC1, 0xC2)) + 11 + 3 * choice.randrange(3)
    factors = choice.choice((0x11, 0x12, 0x21, 0x22, 0x31, 0x13, 0x41, 0x42, 0x24, 0x33))
    return data if at < 13 else data[:at] + bytes((factors,)) + data[at + 1 :]


def _another_table(data: bytes, other: bytes, choice: random.Random) -> bytes:
    markers = [match.start() for match in re.finditer(rb"\xff[\xc0-\xc4\xd9-\xdb]", data)]
    at = choice.choice(markers or [2])
    table = bytes((choice.randrange(3),)) + bytes(choice.choice((1, 16, 255)) for _ in range(64))
    return with_segment(data, 0xDB, table, at=at)


MUTATIONS = (
    _overwrite,
    _overwrite_header,
    _cut,
    _leave_out,
    _repeat,
    _splice,
    _shuffle_segments,
    _restart_markers,
    _size,
    _table,
    _scan_fields,
    _end,
    _factors,
    _another_table,
)
"""Each takes a file, another one, and what decides; each leaves the first two bytes alone."""
