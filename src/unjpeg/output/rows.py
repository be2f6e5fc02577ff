"""A picture's rows, as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unjpeg.machine import allowed_cores

__all__ = ["Pixels", "Rows"]

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Rows:
    """A picture whose rows come from top to bottom, and once only.

    Attributes:
        shape: ``(H, W)`` grey, ``(H, W, 2)`` grey and alpha, ``(H, W, 3)`` RGB, ``(H, W, 4)`` RGB and alpha (not
            premultiplied) or, if ``is_cmyk``, inks.
        dtype: uint8 or uint16, full range.
        strips: consecutive rows, each of the picture's width and dtype.
        threads: that may encode them; all cores unless somebody says otherwise.
        is_cmyk: whether four channels are cyan, magenta, yellow and black, 0 for no ink.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.uint8] | np.dtype[np.uint16]
    strips: Iterable[Pixels]
    threads: int = field(default_factory=allowed_cores)
    is_cmyk: bool = False

    @classmethod
    def of(cls, pixels: Pixels, *, is_cmyk: bool = False) -> Rows:
        """A whole picture."""
        return cls(pixels.shape, pixels.dtype, (pixels,), is_cmyk=is_cmyk)

    @property
    def has_alpha(self) -> bool:
        return self.channels in (2, 4) and not self.is_cmyk

    @property
    def channels(self) -> int:
        return self.shape[2] if len(self.shape) == 3 else 1

    def whole(self) -> Pixels:
        """All rows as one contiguous array."""
        if isinstance(self.strips, tuple):
            (pixels,) = self.strips
            return np.ascontiguousarray(pixels)
        pixels = np.empty(self.shape, self.dtype)
        top = 0
        for strip in self.strips:
            pixels[top : top + len(strip)] = strip
            top += len(strip)
        return pixels

    def cut(self, rows: int) -> Iterator[Pixels]:
        """The strips, cut so that none but the last of each has more or fewer rows than this."""
        for strip in self.strips:
            for top in range(0, len(strip), rows):
                yield strip[top : top + rows]

    def regroup(self, rows: int) -> Iterator[Pixels]:
        """Strips of exactly so many rows, but for the last."""
        held: list[Pixels] = []
        for strip in self.cut(rows):
            held.append(strip)
            joined: Pixels = held[0] if len(held) == 1 else np.concatenate(held, dtype=self.dtype)  # type: ignore[assignment]
            if len(joined) >= rows:
                yield joined[:rows]
                held = [joined[rows:]] if len(joined) > rows else []
            else:
                held = [joined]
        if held:
            yield held[0]
