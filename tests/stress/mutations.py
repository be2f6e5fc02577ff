"""JPEG files of every kind, and what can be done to them: shared by the quick fuzzing test and the long one."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path

from PIL import Image

from exif_blocks import exif_block, thumbnail_jpeg
from jpegs import SAMPLINGS, encoded, frame_header, picture, saved, with_segment

__all__ = ["mutated", "seeds"]

PHOTO = picture(40, 56)


def seeds() -> dict[str, bytes]:
    """Small files, and the bundled photograph, by name. Some are valid but refused."""
    files = {f"sampling {name}": encoded(PHOTO, name) for name in SAMPLINGS}
    base = files["sampling 4:2:0"]
    scan = base.index(b"\xff\xda")
    quantisation = base.index(b"\xff\xdb")
    flood = b"".join(with_segment(b"", 0xE0 + n % 16, bytes(n % 200), at=0) for n in range(2000))
    progressive = encoded(PHOTO, progressive=True)
    last_scan = progressive.rindex(b"\xff\xda")
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
        "one component a scan": one_component_a_scan(),
        "zero in a table": base[: quantisation + 9] + b"\0" + base[quantisation + 10 :],
        "tables twice": base[:scan] + base[quantisation : frame_header(base)] + base[scan:],
        "frame twice": base[:scan] + base[frame_header(base) : scan] + base[scan:],
        "flood": base[:20] + flood + base[20:],
        "scans": progressive[:-2] + progressive[last_scan:-2] * 300 + progressive[-2:],
        "trailing data": base + bytes(range(256)) * 40,
        "photograph": (Path(__file__).parents[2] / "examples" / "kitten.jpg").read_bytes(),
    }


def one_component_a_scan() -> bytes:
    """A sequential file of three scans: three grey files' scans under one frame header."""
    parts = [saved(Image.fromarray(PHOTO[..., i]), quality=75) for i in range(3)]
    first = parts[0]
    frame = frame_header(first)
    header = first[frame + 4 : frame + 9]  # precision and size
    components = b"".join(bytes((number, 0x11, 0)) for number in (1, 2, 3))
    scans = []
    for number, part in enumerate(parts, 1):
        start = part.index(b"\xff\xda")
        tables = b"".join(segment for code, segment in segments_of(part) if code == 0xC4)
        scans.append(tables + part[start : start + 5] + bytes((number,)) + part[start + 6 : -2])
    quantisation = b"".join(segment for code, segment in segments_of(first) if code == 0xDB)
    frame_segment = b"\xff\xc0" + struct.pack(">H", 8 + 9) + header + b"\3" + components
    return first[:20] + quantisation + frame_segment + b"".join(scans) + b"\xff\xd9"


def segments_of(data: bytes) -> list[tuple[int, bytes]]:
    """Marker and bytes of each segment before the first scan; what is damaged ends the list."""
    found, position = [], 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        end = position + 2 + max(2, int.from_bytes(data[position + 2 : position + 4]))
        found.append((data[position + 1], data[position:end]))
        position = end
    return found


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
)
"""Each takes a file, another one, and what decides; each leaves the first two bytes alone."""
