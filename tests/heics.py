"""HEIC files from samples: HEVC that sends each sample as it is (PCM), so that what a decoder must give is known.

No encoder is needed for that. A slice is one square of 32x32 samples, and what the arithmetic coder says before and
after them is always the same.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

__all__ = ["heic_bytes"]

SIDE = 32

BEFORE_SAMPLES = b"\x86\x80"
"""One block, not parted, and PCM: two decisions of a fresh arithmetic coder, flushed to whole bytes."""

AFTER_SAMPLES = b"\xfe\x80"
"""The slice ends: one decision of a fresh coder, the stop bit, and zeros to the byte's end."""

_VPS, _SPS, _PPS, _IDR = 32, 33, 34, 19


class Bits:
    def __init__(self) -> None:
        self.text = ""

    def u(self, count: int, value: int) -> Bits:
        self.text += f"{value:0{count}b}"
        return self

    def flags(self, text: str) -> Bits:
        self.text += text.replace(" ", "")
        return self

    def ue(self, *values: int) -> Bits:
        """Exponential-Golomb codes."""
        for value in values:
            digits = f"{value + 1:b}"
            self.text += "0" * (len(digits) - 1) + digits
        return self

    def aligned(self) -> bytes:
        """With the stop bit and zeros to the byte's end."""
        text = self.text + "1"
        text += "0" * (-len(text) % 8)
        return int(text, 2).to_bytes(len(text) // 8)


def nal(kind: int, payload: bytes) -> bytes:
    out = bytearray()
    zeros = 0
    for byte in payload:
        if zeros >= 2 and byte <= 3:
            out.append(3)  # nothing inside may look like a start code
            zeros = 0
        out.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return bytes((kind << 1, 1)) + bytes(out)


def profile(bits: Bits, depth: int) -> Bits:
    number = 1 if depth == 8 else 2
    compatible = 0b011 << 29 if depth == 8 else 0b001 << 29
    return bits.u(8, number).u(32, compatible).flags("1001").u(44, 0).u(8, 93)


def parameter_sets(width: int, height: int, padded: tuple[int, int], depth: int) -> list[tuple[int, bytes]]:
    vps = profile(Bits().u(4, 0).flags("11").u(6, 0).u(3, 0).flags("1").u(16, 0xFFFF), depth)
    vps.flags("1").ue(0, 0, 0).u(6, 0).ue(0).flags("00")
    sps = profile(Bits().u(4, 0).u(3, 0).flags("1"), depth).ue(0, 1, padded[1], padded[0])
    sps.flags("1").ue(0, (padded[1] - width) // 2, 0, (padded[0] - height) // 2)  # cut to size, in samples of chroma
    sps.ue(depth - 8, depth - 8, 0).flags("1").ue(0, 0, 0)
    sps.ue(2, 0, 0, 3, 0, 0).flags("000").flags("1")  # blocks of 32; no lists, no asymmetric parts, no offsets; PCM
    sps.u(4, depth - 1).u(4, depth - 1).ue(2, 0).flags("1").ue(0).flags("000 00")
    pps = Bits().ue(0, 0).flags("00 000 00").ue(0, 0, 0).flags("000").ue(0, 0).flags("0 00 0 00 0")
    pps.flags("1 0 1").flags("00").ue(0).flags("00")  # no deblocking
    return [(_VPS, vps.aligned()), (_SPS, sps.aligned()), (_PPS, pps.aligned())]


def packed(samples: NDArray[np.uint16], depth: int) -> bytes:
    if depth == 8:
        return samples.astype(np.uint8).tobytes()
    text = "".join(f"{value:0{depth}b}" for value in samples.ravel().tolist())
    return int(text, 2).to_bytes(len(text) // 8)


def slices(planes: list[NDArray[np.uint16]], depth: int) -> list[bytes]:
    rows, columns = (side // SIDE for side in planes[0].shape)
    width = max(1, (rows * columns - 1).bit_length()) if rows * columns > 1 else 0
    out = []
    for number in range(rows * columns):
        head = Bits().flags("1" if number == 0 else "0").flags("0").ue(0)
        if number:
            head.u(width, number)
        head.ue(2).ue(0)  # intra; the quantiser as it was
        top, left = number // columns * SIDE, number % columns * SIDE
        body = b"".join(
            packed(plane[top // step : (top + SIDE) // step, left // step : (left + SIDE) // step], depth)
            for plane, step in zip(planes, (1, 2, 2), strict=True)
        )
        out.append(nal(_IDR, head.aligned() + BEFORE_SAMPLES + body + AFTER_SAMPLES))
    return out


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", len(body) + 8) + kind + body


def full_box(kind: bytes, *parts: bytes, version: int = 0, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


def heic_bytes(
    luma: NDArray[np.integer],
    blue: NDArray[np.integer],
    red: NDArray[np.integer],
    *,
    depth: int = 8,
    turns: int = 0,
    exif: bytes = b"",
    xmp: bytes = b"",
    icc_profile: bytes = b"",
) -> bytes:
    """A file of one picture: full range, the matrix of JPEG, chroma at half the resolution.

    Args:
        luma: ``(H, W)``, even sides, values of ``depth`` bits (8 or 10).
        blue, red: chroma, ``(H / 2, W / 2)``.
        turns: quarter turns counter-clockwise that a reader has to make.
    """
    height, width = luma.shape
    padded = -(-height // SIDE) * SIDE, -(-width // SIDE) * SIDE
    planes = [
        np.pad(plane, ((0, padded[0] // step - plane.shape[0]), (0, padded[1] // step - plane.shape[1])), mode="edge")
        for plane, step in ((luma, 1), (blue, 2), (red, 2))
    ]
    sets = [(kind, nal(kind, payload)) for kind, payload in parameter_sets(width, height, padded, depth)]
    arrays = b"".join(struct.pack(">BHH", 0x80 | kind, 1, len(unit)) + unit for kind, unit in sets)
    config = bytes((1, 1 if depth == 8 else 2)) + struct.pack(">I", (0b011 if depth == 8 else 0b001) << 29)
    config += b"\x90\0\0\0\0\0" + bytes((93,)) + b"\xf0\0\xfc\xfd" + bytes((0xF8 | depth - 8, 0xF8 | depth - 8))
    config += b"\0\0\x0f" + bytes((len(sets),)) + arrays
    properties = [
        box(b"hvcC", config),
        full_box(b"ispe", struct.pack(">II", width, height)),
        full_box(b"pixi", bytes((3, depth, depth, depth))),
        box(b"colr", b"nclx" + struct.pack(">HHHB", 1, 13, 5, 0x80)),
    ]
    if icc_profile:
        properties.append(box(b"colr", b"prof" + icc_profile))
    if turns:
        properties.append(box(b"irot", bytes((turns,))))
    coded = b"".join(struct.pack(">I", len(unit)) + unit for unit in slices(planes, depth))
    items = [(1, b"hvc1", b"", coded)]
    if exif:
        items.append((2, b"Exif", b"", struct.pack(">I", 6) + b"Exif\0\0" + exif))
    if xmp:
        items.append((3, b"mime", b"application/rdf+xml\0", xmp))
    entries = [
        full_box(b"infe", struct.pack(">HH", number, 0), kind + b"\0", more, version=2)
        for number, kind, more, _ in items
    ]
    links = [box(b"cdsc", struct.pack(">HHH", number, 1, 1)) for number, *_ in items[1:]]
    owned = bytes((len(properties), *(0x80 * (n == 0) | n + 1 for n in range(len(properties)))))
    head = box(b"ftyp", b"heic\0\0\0\0mif1heic")

    def meta(start: int) -> bytes:
        places, position = [], start
        for number, _, _, data in items:
            places.append(struct.pack(">HHHII", number, 0, 1, position, len(data)))
            position += len(data)
        return full_box(
            b"meta",
            full_box(b"hdlr", bytes(4) + b"pict" + bytes(13)),
            full_box(b"pitm", struct.pack(">H", 1)),
            full_box(b"iinf", struct.pack(">H", len(items)), *entries),
            *([full_box(b"iref", *links)] if links else []),
            box(b"iprp", box(b"ipco", *properties), full_box(b"ipma", struct.pack(">IH", 1, 1), owned)),
            full_box(b"iloc", b"\x44\0", struct.pack(">H", len(items)), *places),
        )

    start = len(head) + len(meta(0)) + 8
    return head + meta(start) + box(b"mdat", *(data for *_, data in items))
