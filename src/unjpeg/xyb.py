"""XYB, the colour space of JPEG XL, in a JPEG's three channels: what such files look like.

jpegli writes them under a profile of its own, which not every program keeps. Without it they look green and purple, but
are known by their pixels: nearly all of them are colours that XYB has, and what is not luma hardly varies.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["is_xyb"]

# As jpegli has them: linear RGB to the cones' responses, their bias, and what fits X, Y and B - Y into 0..1.
_CONES_OF_RGB = np.array(
    [[0.3, 0.622, 0.078], [0.23, 0.692, 0.078], [0.24342268924547819, 0.20476744424496821, 0.5518098665095536]]
)
_RGB_OF_CONES = np.linalg.inv(_CONES_OF_RGB)
_BIAS = 0.0037930732552754493
_OFFSETS = np.array([0.015386134, 0, 0.27770459])
_SCALES = np.array([22.995788804, 1.183000077, 1.502141333]) * 255

_MOST_PIXELS = 65_536

_FURTHEST = 1.0
"""Levels from the nearest colour of XYB, on average: such files have at most 0.8, at quality 5."""

_MOST_VARIED = (0.9, 0.75)
"""Standard deviation of X and of B - Y in parts of Y's. Of 100 photographs in XYB all but one or two have less; those
in RGB that lie within XYB's colours have 0.96 and 0.8 at least."""


def is_xyb(pixels: NDArray[np.uint8], profile: bytes | None) -> bool:
    """Whether a file of RGB components holds XYB, by its profile or, without one, by its pixels.

    Args:
        pixels: ``(H, W, 3)``.
    """
    if profile is not None:
        return b"XYB" in _description(profile)
    step = max(1, int((pixels.shape[0] * pixels.shape[1] / _MOST_PIXELS) ** 0.5))
    some = pixels[::step, ::step].reshape(-1, 3).astype(np.float64)
    varied = some.std(axis=0)
    if varied[0] >= _MOST_VARIED[0] * varied[1] or varied[2] >= _MOST_VARIED[1] * varied[1]:
        return False
    return float(np.abs(some - _from_linear(np.clip(_to_linear(some), 0, 1))).mean()) < _FURTHEST


def _to_linear(xyb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear RGB, 0..1 where XYB has the colour."""
    x, y, b = (xyb / _SCALES - _OFFSETS).T
    cones = (np.stack([y + x, y - x, b + y], axis=1) + np.cbrt(_BIAS)) ** 3 - _BIAS
    rgb: NDArray[np.float64] = cones @ _RGB_OF_CONES.T
    return rgb


def _from_linear(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of ``_to_linear``, range 0..255."""
    long, medium, short = (np.cbrt(rgb @ _CONES_OF_RGB.T + _BIAS) - np.cbrt(_BIAS)).T
    y = (long + medium) / 2
    xyb: NDArray[np.float64] = (np.stack([(long - medium) / 2, y, short - y], axis=1) + _OFFSETS) * _SCALES
    return xyb


def _description(profile: bytes) -> bytes:
    """What a colour profile calls itself, ASCII; empty if it does not say."""
    for at in range(132, min(132 + 12 * int.from_bytes(profile[128:132]), len(profile)), 12):
        start, size = int.from_bytes(profile[at + 4 : at + 8]), int.from_bytes(profile[at + 8 : at + 12])
        if profile[at : at + 4] == b"desc":
            return profile[start : start + size].replace(b"\0", b"")  # it may be UTF-16
    return b""
