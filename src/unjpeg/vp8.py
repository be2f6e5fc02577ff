"""How hard a lossy WebP was compressed: the quantiser of its one VP8 frame (RFC 6386)."""

from __future__ import annotations

from typing import Final

__all__ = ["webp_quantiser"]

_KEY_FRAME: Final = b"\x9d\x01\x2a"
_HALF: Final = 128


def webp_quantiser(data: bytes) -> float | None:
    """The mean quantiser index of a still, lossy WebP, 0 (finest) to 127; None of any other file.

    The mean is over the macroblocks, as far as the header says how many are in which segment.
    """
    frame = _find_frame(data)
    if frame is None or len(frame) < 10 or frame[0] & 1 or frame[3:6] != _KEY_FRAME:
        return None
    bits = _BoolDecoder(frame[10 : 10 + (int.from_bytes(frame[:3], "little") >> 5)])
    bits.read(2)  # colour space, clamping
    segments, absolute, shares = [0, 0, 0, 0], False, [1.0, 0.0, 0.0, 0.0]
    if bits.read(1):
        has_map, has_values = bits.read(1), bits.read(1)
        if has_values:
            absolute = bool(bits.read(1))
            segments = [bits.read_optional(7) for _ in range(4)]
            for _ in range(4):
                bits.read_optional(6)  # the loop filter's
        if has_map:
            first, left, right = (bits.read(8) / 256 if bits.read(1) else 255 / 256 for _ in range(3))
            shares = [first * left, first * (1 - left), (1 - first) * right, (1 - first) * (1 - right)]
    bits.read(1 + 6 + 3)  # the loop filter
    if bits.read(1) and bits.read(1):
        for _ in range(8):
            bits.read_optional(6)
    bits.read(2)  # partitions
    base = bits.read(7)
    return float(sum(s * min(max(q if absolute else base + q, 0), 127) for s, q in zip(shares, segments, strict=True)))


def _find_frame(data: bytes) -> bytes | None:
    """The one VP8 frame of a WebP file; None if it is lossless, animated, or no such file."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    position = 12
    while position + 8 <= len(data):
        kind, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if kind == b"VP8 ":
            return data[position + 8 : position + 8 + size]
        position += 8 + size + size % 2
    return None


class _BoolDecoder:
    """RFC 6386, section 7. What lies behind the end is zeros."""

    def __init__(self, data: bytes) -> None:
        self._data, self._next, self._range, self._shifts = data, 2, 255, 0
        self._value = int.from_bytes(data[:2].ljust(2, b"\0"))

    def read(self, count: int) -> int:
        """So many bits of even probability, the highest first."""
        value = 0
        for _ in range(count):
            value = 2 * value + self._bit()
        return value

    def read_optional(self, count: int) -> int:
        """A flag, and if it is set a magnitude of so many bits and a sign; else 0."""
        if not self.read(1):
            return 0
        magnitude = self.read(count)
        return -magnitude if self.read(1) else magnitude

    def _bit(self) -> int:
        split = 1 + ((self._range - 1) * _HALF >> 8)
        bit = self._value >= split << 8
        if bit:
            self._range -= split
            self._value -= split << 8
        else:
            self._range = split
        while self._range < 128:
            self._value <<= 1
            self._range <<= 1
            self._shifts += 1
            if self._shifts == 8:
                self._shifts = 0
                self._value |= self._data[self._next] if self._next < len(self._data) else 0
                self._next += 1
        return int(bit)
