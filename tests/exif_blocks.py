"""Hand-made EXIF blocks, with what cameras put into them and Pillow does not write."""

from __future__ import annotations

import io
import struct
from typing import Literal

from PIL import Image

__all__ = ["MAKER_SECRET", "exif_block", "thumbnail_jpeg"]

MAKER_SECRET = b"focus distance 1.5 m"
"""What the maker note points to with an offset from the block's start, outside of itself."""


def thumbnail_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 12), "teal").save(buffer, "JPEG")
    return buffer.getvalue()


def exif_block(
    order: Literal["<", ">"] = "<",
    *,
    orientation: int = 6,
    size: tuple[int, int] = (4000, 3000),
    size_type: Literal[3, 4] = 3,
    thumbnail: bytes | None = None,
    resolution: int | None = 300,
) -> bytes:
    """IFD0 (with the picture's size), Exif IFD (with it again, and a maker note), GPS IFD, and IFD1 if a thumbnail."""

    def number(value: int, field_type: Literal[3, 4] = 4) -> bytes:
        return struct.pack(f"{order}{'H2x' if field_type == 3 else 'I'}", value)

    def directory(entries: list[tuple[int, int, int, bytes]], following: int = 0) -> bytes:
        rows = b"".join(struct.pack(f"{order}HHI4s", *entry) for entry in sorted(entries))
        return struct.pack(f"{order}H", len(entries)) + rows + number(following)

    def blocks(at: dict[str, int]) -> dict[str, bytes]:
        main = [
            (0x0100, size_type, 1, number(size[0], size_type)),
            (0x0101, size_type, 1, number(size[1], size_type)),
            (0x010F, 2, 12, number(at["make"])),
            (0x0112, 3, 1, number(orientation, 3)),
            (0x0213, 3, 1, number(1, 3)),
            (0x8769, 4, 1, number(at["exif"])),
            (0x8825, 4, 1, number(at["gps"])),
        ]
        if resolution is not None:
            main += [(tag, 5, 1, number(at["resolution"])) for tag in (0x011A, 0x011B)]
            main.append((0x0128, 3, 1, number(2, 3)))
        exif = [
            (0x829A, 5, 1, number(at["exposure"])),
            (0x927C, 7, 12, number(at["maker"])),
            (0xA002, size_type, 1, number(size[0], size_type)),
            (0xA003, size_type, 1, number(size[1], size_type)),
        ]
        result = {
            "header": (b"II*\0" if order == "<" else b"MM\0*") + number(8),
            "main": directory(main, at["thumbnail"] if thumbnail else 0),
            "make": b"Acme Optics\0",
            "resolution": number(resolution or 0) + number(1),
            "exif": directory(exif),
            "exposure": number(1) + number(250),
            "maker": b"ACME" + number(at["secret"]) + number(len(MAKER_SECRET)),
            "gps": directory([(0, 1, 4, bytes((2, 3, 0, 0)))]),
        }
        if thumbnail:
            result["thumbnail"] = directory(
                [
                    (0x0103, 3, 1, number(6, 3)),
                    (0x0201, 4, 1, number(at["jpeg"])),
                    (0x0202, 4, 1, number(len(thumbnail))),
                ]
            )
            result["jpeg"] = thumbnail
        result["secret"] = MAKER_SECRET
        return result

    # Lengths do not depend on offsets, so a first pass with any offsets tells the true ones.
    names = ("header", "main", "make", "resolution", "exif", "exposure", "maker", "gps", "thumbnail", "jpeg", "secret")
    at, position = {}, 0
    for name, data in blocks(dict.fromkeys(names, 0)).items():
        at[name] = position
        position += len(data)
    return b"".join(blocks(dict.fromkeys(names, 0) | at).values())
