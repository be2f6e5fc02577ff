"""A PNG file's chunks beside its pixels: what Pillow refuses for its size, or does not know.

A text or a profile of more than 1 MiB makes Pillow refuse the whole picture. Here it counts against our own limit on
metadata, and Pillow gets the file without.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from unjpeg.errors import UnsupportedImageError

__all__ = ["COLOUR_CHUNKS", "PngParts", "is_png", "read_png"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})

COLOUR_CHUNKS = (b"cICP", b"gAMA", b"cHRM", b"sRGB")
"""What gives a PNG's pixels their meaning, beside a profile."""

_MAX_CHUNKS = 20_000
"""Chunks of metadata that are looked at."""

_XMP = b"XML:com.adobe.xmp"
_PROFILES = {b"Raw profile type exif", b"Raw profile type APP1", b"Raw profile type iptc"}


@dataclass
class PngParts:
    """A PNG file taken apart.

    Attributes:
        plain: the file without texts and profile, for Pillow.
        info: what Pillow would have said of them, by its names.
        comments: all that are there, in their order.
        colour: name and content of the `COLOUR_CHUNKS`.
        texts: name and content of the other texts, as they are.
        lost: what is too damaged to be carried over, in words.
    """

    plain: bytes = b""
    info: dict[str, bytes | str] = field(default_factory=dict)
    comments: list[bytes] = field(default_factory=list)
    colour: list[tuple[bytes, bytes]] = field(default_factory=list)
    texts: list[tuple[bytes, bytes]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def is_png(data: bytes) -> bool:
    """Whether these bytes start like a PNG, whatever the file is called."""
    return data.startswith(_SIGNATURE)


def read_png(data: bytes, name: str, most_bytes: int) -> PngParts:
    """Take a PNG apart. What is damaged beyond that is left to the decoder to say.

    Args:
        most_bytes: of metadata, unpacked.

    Raises:
        UnsupportedImageError: it has more metadata.
    """
    parts, kept, room = PngParts(), [_SIGNATURE], most_bytes
    too_much = UnsupportedImageError(f"{name}: has more than the limit of {most_bytes:,} bytes of metadata")
    count = 0
    for kind, start, end in _chunks(data):
        body = data[start + 8 : end - 4]
        if kind == b"iCCP" or kind in _TEXTS or kind in COLOUR_CHUNKS:
            count += 1
            if count > _MAX_CHUNKS:
                raise UnsupportedImageError(f"{name}: has more than {_MAX_CHUNKS:,} chunks of metadata")
        if kind in COLOUR_CHUNKS:
            parts.colour.append((kind, body))
        if kind != b"iCCP" and kind not in _TEXTS:
            kept.append(data[start:end])
            continue
        try:
            keyword, content = _unpacked(kind, body, room + 1)
        except (ValueError, zlib.error):
            parts.lost.append("the colour profile" if kind == b"iCCP" else "a text")
            continue
        room -= max(len(content), len(body))
        if room < 0:
            raise too_much
        _sort_in(parts, kind, keyword, content, body)
    parts.plain = b"".join(kept)
    return parts


def _sort_in(parts: PngParts, kind: bytes, keyword: bytes, content: bytes, body: bytes) -> None:
    if kind == b"iCCP":
        parts.info["icc_profile"] = content
    elif keyword == b"Comment":
        parts.comments.append(content)
    elif keyword == _XMP:
        parts.info["xmp"] = content
    elif keyword in _PROFILES:
        parts.info[keyword.decode("latin-1")] = content.decode("latin-1")
    else:
        parts.texts.append((kind, body))


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, first byte and one past the last of each chunk; the last may be cut short."""
    position = len(_SIGNATURE)
    while position + 8 <= len(data):
        end = min(position + 12 + int.from_bytes(data[position : position + 4]), len(data))
        yield data[position + 4 : position + 8], position, end
        position = end
    if position < len(data):
        yield b"", position, len(data)


def _unpacked(kind: bytes, body: bytes, most: int) -> tuple[bytes, bytes]:
    """Keyword and content, of which no more than ``most`` bytes are unpacked. Raises ValueError or zlib.error."""
    keyword, _, rest = body.partition(b"\0")
    if kind == b"tEXt":
        return keyword, rest
    if kind == b"iTXt":
        packed, method = struct.unpack_from("BB", rest) if len(rest) >= 2 else (0, 0)
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]  # language, translated keyword
        if not packed:
            return keyword, rest
    else:
        method, rest = rest[0] if rest else 255, rest[1:]
    if method != 0:
        raise ValueError("an unknown compression")
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(rest, most)
    if not unpacker.eof and len(content) < most:
        raise ValueError("cut short")
    return keyword, content
