"""JPEG files for the tests, from two encoders, and what their cells allow by scipy's transform."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from unjpeg.jpeg import Component

SAMPLINGS = ("grey", "4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1")
PILLOW_SAMPLINGS = SAMPLINGS[:4]
SCALES = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2), "4:4:0": (2, 1), "4:1:1": (1, 4)}
"""(vertical, horizontal): how many pixels one chroma sample covers."""


def picture(height: int, width: int, seed: int = 0, *, low: int = 0, high: int = 255) -> NDArray[np.uint8]:
    """Soft waves and noise of a random strength, ``(height, width, 3)``, within ``low`` and ``high``."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x * rng.uniform(0, 0.5) + rng.uniform(0, 6)) * np.cos(y * rng.uniform(0, 0.5)) for _ in range(3)]
    mixed = np.stack(waves, axis=2) + rng.normal(0, rng.uniform(0, 0.3), (height, width, 3))
    return ((mixed + 1.5) / 3 * (high - low) + low).round().clip(low, high).astype(np.uint8)


def encoded(pixels: NDArray[np.uint8], sampling: str = "4:2:0", *, quality: int = 75, **options: Any) -> bytes:
    """Pillow's JPEG, or simplejpeg's where Pillow does not know the sampling; "grey" keeps the second channel alone."""
    if sampling == "grey":
        return saved(pixels[..., 1] if pixels.ndim == 3 else pixels, quality=quality, **options)
    if sampling in PILLOW_SAMPLINGS:
        return saved(pixels, quality=quality, subsampling=sampling, **options)
    assert not options
    data: bytes = simplejpeg.encode_jpeg(pixels, quality, colorsubsampling=sampling.replace(":", ""))
    return data


def saved(pixels: NDArray[np.uint8] | Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    """A file by Pillow."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def decoded(data: bytes) -> NDArray[np.uint8]:
    """By Pillow."""
    return np.asarray(opened(data))


def with_segment(data: bytes, code: int, payload: bytes, *, at: int = 2) -> bytes:
    """The file with one more segment, right after its start by default."""
    return data[:at] + struct.pack(">BBH", 0xFF, code, len(payload) + 2) + payload + data[at:]


def without_segments(data: bytes, code: int) -> bytes:
    """The header without the segments of one kind."""
    kept, position = [data[:2]], 2
    while data[position + 1] != 0xDA:
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4])
        if data[position + 1] != code:
            kept.append(data[position:end])
        position = end
    return b"".join(kept) + data[position:]


def frame_header(data: bytes) -> int:
    """Where the frame's marker is, by its code in a file that Pillow or simplejpeg wrote."""
    position = 2
    while data[position + 1] not in (0xC0, 0xC1, 0xC2):
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return position


def claiming(data: bytes, *, width: int, height: int) -> bytes:
    """The file with another size in its header."""
    at = frame_header(data) + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def segments_of(data: bytes) -> list[tuple[int, bytes]]:
    """Marker and bytes of each segment before the first scan; what is damaged ends the list."""
    found, position = [], 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        end = position + 2 + max(2, int.from_bytes(data[position + 2 : position + 4]))
        found.append((data[position + 1], data[position:end]))
        position = end
    return found


def one_component_a_scan(
    planes: Sequence[NDArray[np.uint8]],
    factors: Sequence[tuple[int, int]] = ((1, 1), (1, 1), (1, 1)),
    qualities: Sequence[int] = (75, 75, 75),
) -> bytes:
    """A sequential file of any sampling: grey files' scans under one frame header.

    Args:
        planes: of the components, each at its own resolution, the first one at the picture's.
        factors: (horizontal, vertical).
        qualities: of libjpeg's luma table for each component. All go to the same place, each before its scan.
    """
    parts = [saved(plane, quality=quality) for plane, quality in zip(planes, qualities, strict=True)]
    specs = b"".join(bytes((n, across << 4 | down, 0)) for n, (across, down) in enumerate(factors, 1))
    size = parts[0][frame_header(parts[0]) + 4 : frame_header(parts[0]) + 9]
    kept = [parts[0][:20], b"\xff\xc0" + struct.pack(">H", 8 + len(specs)) + size + bytes((len(parts),)) + specs]
    for number, part in enumerate(parts, 1):
        start = part.index(b"\xff\xda")
        kept += [segment for code, segment in segments_of(part) if code in (0xC4, 0xDB)]
        kept.append(part[start : start + 5] + bytes((number,)) + part[start + 6 : -2])
    return b"".join((*kept, b"\xff\xd9"))


def scan_ends(data: bytes) -> list[int]:
    """Where each scan's coded data end, in a file without markers inside of other segments."""
    first = data.index(b"\xff\xda") + 2
    markers = [(first + found.start(), found[0][1]) for found in re.finditer(rb"\xff[\xc4\xda\xdb\xd9]", data[first:])]
    after_scan = [True, *(code == 0xDA for _, code in markers[:-1])]
    return [at for (at, _), ends in zip(markers, after_scan, strict=True) if ends]


def planes_of(pixels: NDArray[Any], colour_space: str = "YCbCr") -> list[NDArray[np.float64]]:
    """Component planes around zero, by ITU-T T.871's formulas."""
    values = pixels.astype(np.float64)
    if pixels.ndim == 2:
        return [values - 128]
    if colour_space == "RGB":
        return [values[..., i] - 128 for i in range(3)]
    red, green, blue = (values[..., i] for i in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return [luma - 128, (blue - luma) / 1.772, (red - luma) / 1.402]


def beyond_cells(
    pixels: NDArray[Any], components: Sequence[Component], colour_space: str = "YCbCr"
) -> list[NDArray[np.float64]]:
    """How far each coefficient lies outside its cell, ``(V, U, 8, 8)`` per component, whole blocks of pixels only."""
    excess = []
    for plane, component in zip(planes_of(pixels, colour_space), components, strict=True):
        down, across = component.scale
        rows, columns = plane.shape[0] // (8 * down), plane.shape[1] // (8 * across)
        whole = plane[: rows * 8 * down, : columns * 8 * across]
        small = whole.reshape(rows * 8, down, columns * 8, across).mean(axis=(1, 3))
        blocks = small.reshape(rows, 8, columns, 8).swapaxes(1, 2)
        coefficients = dctn(blocks, axes=(2, 3), norm="ortho")
        steps = component.table_88.astype(np.float64)
        cells = component.coefficients_VU88[:rows, :columns] * steps
        excess.append(np.maximum(0, np.abs(coefficients - cells) - steps / 2))
    return excess
