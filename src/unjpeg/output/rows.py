"""A picture's rows, as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Pixels", "Rows"]

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Rows:
    """A picture whose rows come from top to bottom, and once only.

    Attributes:
        shape: ``(H, W)`` grey, ``(H, W, 2)`` grey and alpha, ``(H, W, 3)`` RGB, ``(H, W, 4)`` RGB and alpha (not
            premultiplied).
        dtype: uint8 or uint16, full range.
        strips: consecutive rows, each of the picture's width and dtype.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.uint8] | np.dtype[np.uint16]
    strips: Iterable[Pixels]

    @classmethod
    def of(cls, pixels: Pixels) -> Rows:
        """A whole picture."""
        return cls(pixels.shape, pixels.dtype, (pixels,))

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
