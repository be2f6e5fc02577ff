"""How decoders bring chroma to a picture's size, and how to undo it.

Libjpeg's default is a *triangle*: each new sample is 3/4 of the nearer old one and 1/4 of the next. Others repeat each
sample, a *box*.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unjpeg.dct import BLOCK, downsample

__all__ = ["Upsampling", "chroma_noise", "frame_blocks", "plane_at_scale", "upsampled", "without_triangle"]

Upsampling = Literal["none", "box", "triangle"]


def frame_blocks(size: tuple[int, ...], pad: tuple[int, int], scale: tuple[int, int]) -> tuple[int, int]:
    """Block rows and columns that a frame needs."""
    rows, columns = (-(-(size[axis] + pad[axis]) // (BLOCK * scale[axis])) for axis in (0, 1))
    return rows, columns


def plane_at_scale(
    plane_HW: NDArray[np.float32], pad: tuple[int, int], scale: tuple[int, int], upsampling: Upsampling
) -> NDArray[np.float32]:
    """A component's samples on a frame, as its file had them: whole blocks, the upsampling undone.

    Args:
        pad: rows and columns of the frame before the plane's first. What is put there repeats the edge.
    """
    rows, columns = frame_blocks(plane_HW.shape, pad, scale)
    height, width = rows * BLOCK * scale[0], columns * BLOCK * scale[1]
    after = (height - pad[0] - plane_HW.shape[0], width - pad[1] - plane_HW.shape[1])
    frame = plane_HW
    if any((*pad, *after)):
        frame = np.pad(plane_HW, ((pad[0], after[0]), (pad[1], after[1])), mode="edge")
    if upsampling != "triangle":
        return downsample(frame, *scale)
    if scale[0] == 2:
        frame = without_triangle(frame)
    if scale[1] == 2:
        frame = np.ascontiguousarray(without_triangle(np.ascontiguousarray(frame.T)).T)
    return frame


_CHUNK = 64
_HALO = 12


@lru_cache
def _triangle_inverse() -> NDArray[np.float32]:
    """Least squares inverse of libjpeg's triangle, ``(_CHUNK, 2 * (_CHUNK + 2 * _HALO))``, its ends cut off."""
    count = _CHUNK + 2 * _HALO
    triangle = np.zeros((2 * count, count))
    for sample in range(count):
        triangle[2 * sample, sample] = triangle[2 * sample + 1, sample] = 0.75
        triangle[2 * sample, max(sample - 1, 0)] += 0.25
        triangle[2 * sample + 1, min(sample + 1, count - 1)] += 0.25
    return np.linalg.pinv(triangle)[_HALO : _HALO + _CHUNK].astype(np.float32)


def without_triangle(plane_HW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples, half as many rows, whose upsampling by libjpeg's triangle is nearest to the plane."""
    inverse = _triangle_inverse()
    height = plane_HW.shape[0] // 2
    out = np.empty((height, plane_HW.shape[1]), np.float32)
    for first in range(0, height, _CHUNK):
        last = min(first + _CHUNK, height)
        wanted = np.arange(2 * (first - _HALO), 2 * (first + _CHUNK + _HALO))
        out[first:last] = (inverse @ plane_HW[np.clip(wanted, 0, len(plane_HW) - 1)])[: last - first]
    return out


def upsampled(samples_HW: NDArray[np.float32], scale: tuple[int, int], upsampling: Upsampling) -> NDArray[np.float32]:
    """Samples at a picture's size, not rounded."""
    out = samples_HW
    for axis in (0, 1):
        if scale[axis] == 1:
            continue
        if upsampling == "triangle":
            pad = ((1, 1), (0, 0)) if axis == 0 else ((0, 0), (1, 1))
            grown = np.pad(out, pad, mode="edge")
            count = out.shape[axis]
            before, here, after = (grown.take(np.arange(i, i + count), axis=axis) for i in range(3))
            here = here * np.float32(0.75)
            pair = np.stack([here + before * np.float32(0.25), here + after * np.float32(0.25)], axis=axis + 1)
            out = pair.reshape([2 * n if i == axis else n for i, n in enumerate(out.shape)])
        else:
            out = out.repeat(scale[axis], axis=axis)
    return out


def chroma_noise(scale: tuple[int, int], upsampling: Upsampling) -> NDArray[np.float32]:
    """Standard deviation of a chroma coefficient's error by rounding, ``(8, 8)``."""
    converted, upsampled, decoded = 0.62**2 / 12, 1 / 12, 1 / 12
    if scale == (1, 1):
        return np.full((BLOCK, BLOCK), np.sqrt(converted + decoded), np.float32)
    gains = []
    for along in scale:
        waves = np.cos(np.pi * np.arange(BLOCK) / BLOCK)
        gain = 1 / (1.25 + 0.75 * waves) if upsampling == "triangle" else np.full(BLOCK, 0.5)
        gains.append(gain if along == 2 else np.ones(BLOCK))
    if upsampling != "triangle":
        upsampled = 0.0
    variance = (converted + upsampled) * np.outer(*gains) + decoded
    return np.sqrt(variance).astype(np.float32)
