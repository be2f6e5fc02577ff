"""The boxes that AVIF and HEIC files are made of (ISO/IEC 14496-12)."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["split_boxes"]


def split_boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of the boxes that lie side by side in these bytes; what is damaged ends them."""
    place = 0
    while place + 8 <= len(data):
        size, kind, start = int.from_bytes(data[place : place + 4]), data[place + 4 : place + 8], place + 8
        if size == 1:
            size, start = int.from_bytes(data[start : start + 8]), start + 8
        end = place + size if size else len(data)
        if end < start:
            return
        yield kind, data[start:end]
        place = end
