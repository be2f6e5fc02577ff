"""Pictures that photographs are not: noise, stripes, halftones, text, pixel art.

A network that has only learned from photographs does as it likes with them: one of ours turned a checkerboard into
values hundreds of times the range (docs/research/training-log.md). So a few patches of every batch are drawn here.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from unjpeg.train.degrade import Pixels8

__all__ = ["PATTERNS", "draw_pattern"]

_BAYER: Final = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]) * 16 + 8


def draw_pattern(photo: Pixels8, rng: np.random.Generator) -> Pixels8:
    """One of ``PATTERNS``, drawn afresh or made from a patch of a photograph. Shape: ``(H, W, 3)`` to the same."""
    kinds = list(PATTERNS.values())
    return kinds[int(rng.integers(len(kinds)))](photo, rng)


def _noise(photo: Pixels8, rng: np.random.Generator) -> Pixels8:
    """Independent cells of 1 to 4 pixels, grey or coloured, at any contrast; some with two values only."""
    height, width = photo.shape[:2]
    cell = int(rng.integers(1, 5))
    values = rng.random((-(-height // cell), -(-width // cell), int(rng.choice([1, 3]))))
    if rng.random() < 0.4:
        values = (values < rng.random()).astype(np.float64)
    return _between(values.repeat(cell, 0).repeat(cell, 1)[:height, :width], rng)


def _noisy(photo: Pixels8, rng: np.random.Generator) -> Pixels8:
    """The photograph under strong noise of a sensor."""
    noise = rng.standard_normal((*photo.shape[:2], int(rng.choice([1, 3])))) * rng.uniform(5, 60)
    return (photo + noise).round().clip(0, 255).astype(np.uint8)


def _waves(photo: Pixels8, rng: np.random.Generator) -> Pixels8:
    """Stripes or checks, straight or oblique, soft or hard, 2 to 24 pixels from one to the next."""
    rows, columns = np.mgrid[: photo.shape[0], : photo.shape[1]]
    angle = rng.choice([0, math.pi / 2, rng.uniform(0, math.pi)])
    period = rng.choice([2, 4, 8, math.exp(rng.uniform(math.log(2), math.log(24)))])
    phase = 2 * math.pi * rng.random(2)
    along = (columns * math.cos(angle) + rows * math.sin(angle)) * (2 * math.pi / period) + phase[0]
    across = (rows * math.cos(angle) - columns * math.sin(angle)) * (2 * math.pi / period) + phase[1]
    wave = np.sin(along) * (np.sin(across) if rng.random() < 0.5 else 1)
    if rng.random() < 0.6:
        wave = np.sign(wave + 1e-6)
    return _between((wave[..., None] + 1) / 2, rng)


def _checks(photo: Pixels8, rng: np.random.Generator) -> Pixels8:
    """Checkerboards and bars that lie on the pixels, one period per channel or the same for all."""
    rows, columns = np.mgrid[: photo.shape[0], : photo.shape[1]]
    planes = []
    for _ in range(int(rng.choice([1, 3]))):
        down, right = rng.choice([1, 1, 2, 2, 3, 4, 8, 64], 2) if rng.random() < 0.5 else [rng.integers(1, 6)] * 2
        planes.append((rows // down + columns // right) % 2)
    return _between(np.stack(planes, axis=2).astype(np.float64), rng)


def _halftone(photo: Pixels8, rng: np.random.Generator) -> Pixels8:
    """The photograph in two values per channel: random, ordered or diffused dither, or a screen of dots."""
    grey = rng.random() < 0.5
    tones = photo.mean(axis=2, keepdims=True) if grey else photo.astype(np.float64)
    height, width = photo.shape[:2]
    kind = rng.integers(4)
    if kind == 0:
        bands = [Image.fromarray(tones[..., c].astype(np.uint8)).convert("1") for c in range(tones.shape[2])]
        dots = np.stack([np.asarray(band, np.float64) for band in bands], axis=2)
    elif kind == 1:
        dots = (tones > rng.random(tones.shape) * 255).astype(np.float64)
    elif kind == 2:
        screen = np.tile(_BAYER, (height // 4 + 1, width // 4 + 1))[:height, :width, None]
        dots = (tones > screen).astype(np.float64)
    else:
        rows, columns = np.mgrid[:height, :width]
        period, planes = rng.uniform(3, 10), []
        for c in range(tones.shape[2]):  # every ink has its angle
            angle = rng.uniform(0, math.pi / 2)
            u, v = (
                columns * math.cos(angle) + rows * math.sin(angle),
                rows * math.cos(angle) - columns * math.sin(angle),
            )
            spots = 127.5 + 63.75 * (np.cos(2 * math.pi * u / period) + np.cos(2 * math.pi * v / period))
            planes.append(((tones[..., c] - spots) / 40 + 0.5).clip(0, 1))
        dots = np.stack(planes, axis=2)
    return (dots * 255).astype(np.uint8) if not grey and rng.random() < 0.7 else _between(dots, rng)


def _text(photo: Pixels8, rng: np.random.Generator) -> Pixels8:
    """Lines of letters on a plain colour or on the photograph."""
    paper, ink = rng.integers(0, 256, (2, 3)).tolist()
    if rng.random() < 0.5:
        paper, ink = ([0] * 3, [255] * 3) if rng.random() < 0.5 else ([255] * 3, [0] * 3)
    canvas = Image.fromarray(photo) if rng.random() < 0.3 else Image.new("RGB", photo.shape[1::-1], tuple(paper))
    draw, size = ImageDraw.Draw(canvas), int(rng.integers(7, 33))
    draw.fontmode = str(rng.choice(["1", "L"]))
    font = ImageFont.load_default(size)
    for top in range(-int(rng.integers(size)), photo.shape[0], size + int(rng.integers(1, 6))):
        letters = "".join(rng.choice(list(string.ascii_letters + string.digits + "      .,;-"), 24))
        draw.text((-int(rng.integers(size)), top), letters, fill=tuple(ink), font=font)
    return np.asarray(canvas)


def _pixel_art(photo: Pixels8, rng: np.random.Generator) -> Pixels8:
    """The photograph in few colours, as squares of 1 to 6 pixels."""
    side, small = photo.shape[1::-1], Image.fromarray(photo)
    scale = int(rng.integers(1, 7))
    if scale > 1:
        small = small.reduce(scale)
    dither = Image.Dither.FLOYDSTEINBERG if rng.random() < 0.5 else Image.Dither.NONE
    few = small.convert("P", palette=Image.Palette.ADAPTIVE, colors=int(rng.integers(2, 17)), dither=dither)
    large = few.convert("RGB").resize((few.width * scale, few.height * scale), Image.Resampling.NEAREST)
    return np.asarray(large)[: side[1], : side[0]]


def _between(values: NDArray[np.float64], rng: np.random.Generator) -> Pixels8:
    """Values 0..1, ``(H, W, 1 or 3)``, as colours between two random ones, black and white among them."""
    low, high = (0.0, 255.0) if rng.random() < 0.5 else rng.uniform(0, 255, (2, 3))
    return np.broadcast_to(low + values * (np.asarray(high) - low), (*values.shape[:2], 3)).round().astype(np.uint8)


PATTERNS: Final[dict[str, Callable[[Pixels8, np.random.Generator], Pixels8]]] = {
    "noise": _noise,
    "noisy photograph": _noisy,
    "waves": _waves,
    "checks": _checks,
    "halftone": _halftone,
    "text": _text,
    "pixel art": _pixel_art,
}
