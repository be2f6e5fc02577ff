"""Pictures that no codec has touched, drawn here.

They have what photographs do not, and much that looks like a grid to those who look for one.

``draw_all(seed)`` gives the same pictures each time. Thresholds are chosen with one seed and reported with another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from unjpeg.evaluate.pairs import Pixels8

__all__ = ["KINDS", "draw_all"]

SIDE = 384
"""Pixels, of most."""

_WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "1234", "sheets", "wait", "567")


def draw_all(seed: int) -> Iterator[tuple[str, Pixels8]]:
    """Kind and pixels, ``(H, W)`` or ``(H, W, 3)``."""
    for number, (kind, (draw, count)) in enumerate(KINDS.items()):
        for which in range(count):
            yield kind, draw(np.random.default_rng([seed, number, which]), which)


def _flat(rng: np.random.Generator, which: int) -> Pixels8:
    if which == 0:
        return np.full((SIDE, SIDE), 128, np.uint8)
    out: Pixels8 = np.full((SIDE, SIDE, 3), rng.integers(0, 256, 3), np.uint8)
    return out


def _gradient(rng: np.random.Generator, which: int) -> Pixels8:
    """Linear or round, between two colours or greys, some with noise against banding."""
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    if which % 3 == 2:
        along = np.hypot(rows - rng.random(), columns - rng.random())
    else:
        angle = rng.random() * 2 * np.pi if which % 3 else (which % 2) * np.pi / 2
        along = rows * np.sin(angle) + columns * np.cos(angle)
    along = (along - along.min()) / np.ptp(along)
    colours = rng.integers(0, 256, (2, 3))
    out = colours[0] + along[..., None] * (colours[1] - colours[0])
    if which % 4 == 3:
        out += rng.random(out.shape) - 0.5
    pixels: Pixels8 = np.clip(np.rint(out), 0, 255).astype(np.uint8)
    return pixels[..., 1] if which % 5 == 4 else pixels


def _checks(rng: np.random.Generator, which: int) -> Pixels8:
    size = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)[which % 10]
    rows, columns = np.mgrid[:SIDE, :SIDE]
    shift = rng.integers(0, 16, 2)
    colours = rng.integers(0, 256, (2, 3)) if which % 2 else np.array([[0] * 3, [255] * 3])
    out: Pixels8 = colours[((rows + shift[0]) // size + (columns + shift[1]) // size) % 2].astype(np.uint8)
    return out


def _table(rng: np.random.Generator, which: int) -> Pixels8:
    """Ruled, some with letters."""
    image = Image.new("RGB", (SIDE, SIDE), tuple(rng.integers(235, 256, 3).tolist()))
    pen = ImageDraw.Draw(image)
    high, wide = (int(n) for n in rng.integers(9, 40, 2))
    ink = tuple(rng.integers(0, 160, 3).tolist())
    for row in range(int(rng.integers(0, high)), SIDE, high):
        pen.line((0, row, SIDE, row), fill=ink)
    for column in range(int(rng.integers(0, wide)), SIDE, 2 * wide):
        pen.line((column, 0, column, SIDE), fill=ink)
    if which % 2:
        font = ImageFont.load_default(float(max(8, high - 6)))
        for row in range(2, SIDE, high):
            for column in range(3, SIDE, 2 * wide):
                pen.text((column, row), str(int(rng.integers(10, 9999))), fill=(20, 20, 30), font=font)
    return np.asarray(image)


def _code(rng: np.random.Generator, which: int) -> Pixels8:
    """Squares of a QR code's kind."""
    size = 2 + which % 8
    count = SIDE // size - 8
    modules = rng.integers(0, 2, (count, count))
    for row, column in ((0, 0), (0, count - 7), (count - 7, 0)):
        modules[row : row + 7, column : column + 7] = 1
        modules[row + 1 : row + 6, column + 1 : column + 6] = 0
        modules[row + 2 : row + 5, column + 2 : column + 5] = 1
    squares = np.kron(np.pad(modules, 4), np.ones((size, size), np.int64))
    dark, light = (rng.integers(0, 90, 3), rng.integers(200, 256, 3)) if which % 3 == 2 else (np.zeros(3), [255] * 3)
    pixels = np.where(squares[..., None] == 1, dark, light).astype(np.uint8)
    return pixels if which % 3 else pixels[..., 0]


def _pixel_art(rng: np.random.Generator, which: int) -> Pixels8:
    """A few colours in patches, each of its pixels several of the picture's."""
    size = (1, 2, 3, 4, 4, 5, 6, 8, 8, 16)[which % 10]
    count = -(-SIDE // size)
    rows, columns = np.mgrid[:count, :count]
    out = np.full((count, count), 0)
    for _ in range(40):
        row, column, reach = rng.integers(0, count), rng.integers(0, count), rng.integers(1, max(2, count // 6))
        out[(np.abs(rows - row) + np.abs(columns - column) * rng.choice([1, 2])) < reach] = rng.integers(0, 16)
    speckles = rng.random(out.shape) < 0.06
    out[speckles] = rng.integers(0, 16, int(speckles.sum()))
    palette = rng.integers(0, 256, (16, 3))
    return np.kron(palette[out].transpose(2, 0, 1), np.ones((size, size))).transpose(1, 2, 0).astype(np.uint8)


def _dither(rng: np.random.Generator, which: int) -> Pixels8:
    """A scene in black and white, or in few levels."""
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    scene = 0.5 + 0.3 * np.sin(6 * rows + rng.random() * 6) * np.cos(5 * columns) + 0.2 * (columns - rows)
    levels = (2, 2, 4, 6)[which % 4]
    if which % 2:
        threshold = rng.random(scene.shape)
    else:
        bayer = np.zeros((1, 1))
        for _ in range(3):
            bayer = np.block([[4 * bayer, 4 * bayer + 2], [4 * bayer + 3, 4 * bayer + 1]])
        threshold = np.tile((bayer + 0.5) / 64, (SIDE // 8, SIDE // 8))
    steps = np.floor(np.clip(scene, 0, 1) * (levels - 1) + threshold)
    out: Pixels8 = (np.clip(steps, 0, levels - 1) * (255 // (levels - 1))).astype(np.uint8)
    return out


def _comic(rng: np.random.Generator, which: int) -> Pixels8:
    """Flat colours in ink, with smooth edges or without."""
    fine = 4 if which % 2 else 1
    side = SIDE * fine
    image = Image.new("RGB", (side, side), (255, 255, 255))
    pen = ImageDraw.Draw(image)
    for _ in range(26):
        row, column = rng.integers(0, side, 2).tolist()
        reach = int(rng.integers(8, 70)) * fine
        colour = tuple(rng.integers(0, 256, 3).tolist())
        box = (column - reach, row - reach // 2, column + reach, row + reach)
        draw = pen.ellipse if rng.random() < 0.7 else pen.rectangle
        draw(box, fill=colour, outline=(0, 0, 0), width=int(rng.integers(1, 5)) * fine)
    return np.asarray(image.reduce(fine))


def _line_art(rng: np.random.Generator, which: int) -> Pixels8:
    """Smooth lines on white or black."""
    fine = 4
    side = SIDE * fine
    paper, ink = (255, 0) if which % 3 else (16, 240)
    image = Image.new("L", (side, side), paper)
    pen = ImageDraw.Draw(image)
    for _ in range(22):
        path = np.cumsum(rng.normal(scale=60 * fine, size=(6, 2)), axis=0) + rng.integers(0, side, 2)
        t = np.linspace(0, 5, 120)
        smooth = [np.interp(t, range(6), path[:, axis]) for axis in (0, 1)]
        points = list(zip(smooth[0].tolist(), smooth[1].tolist(), strict=True))
        pen.line(points, fill=ink, width=int(rng.integers(1, 4)) * fine, joint="curve")
    grey = np.asarray(image.reduce(fine))
    return grey if which % 2 else np.repeat(grey[..., None], 3, axis=2)


def _manga(rng: np.random.Generator, which: int) -> Pixels8:
    """Ink and screens of dots, smooth."""
    fine = 4
    side = SIDE * fine
    rows, columns = np.mgrid[:side, :side]
    image = Image.fromarray(_line_art_large(rng, side, fine))
    out = np.asarray(image).astype(np.float64)
    for _ in range(4):
        pitch, angle = rng.uniform(5, 11) * fine, rng.uniform(0.2, 1.2)
        first = (rows * np.cos(angle) + columns * np.sin(angle)) / pitch
        second = (columns * np.cos(angle) - rows * np.sin(angle)) / pitch
        dots = np.hypot(first - np.rint(first), second - np.rint(second)) < rng.uniform(0.2, 0.42)
        row, column = rng.integers(0, side, 2)
        where = np.hypot(rows - row, columns - column) < rng.integers(50, 130) * fine
        out[where & dots] = 0
    small = np.rint(out.reshape(SIDE, fine, SIDE, fine).mean(axis=(1, 3))).astype(np.uint8)
    return small if which % 2 else np.repeat(small[..., None], 3, axis=2)


def _line_art_large(rng: np.random.Generator, side: int, fine: int) -> Pixels8:
    image = Image.new("L", (side, side), 255)
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        start = rng.integers(0, side, 2)
        path = np.cumsum(rng.normal(scale=50 * fine, size=(5, 2)), axis=0) + start
        pen.line([tuple(point) for point in path.tolist()], fill=0, width=int(rng.integers(1, 4)) * fine, joint="curve")
    return np.asarray(image)


def _vector_art(rng: np.random.Generator, which: int) -> Pixels8:
    """Smooth-edged shapes, filled flat or with gradients."""
    fine = 4
    side = SIDE * fine
    out = np.empty((side, side, 3), np.float32)
    rows, columns = (axis.astype(np.float32) / side for axis in np.mgrid[:side, :side])
    tints = rng.integers(0, 256, (2, 3)).astype(np.float32)
    out[...] = tints[0] + rows[..., None] * (tints[1] - tints[0]) * (which % 2)
    for _ in range(9):
        mask = Image.new("1", (side, side))
        centre, reach = rng.integers(0, side, 2), rng.integers(15, 110) * fine
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
        corners = centre + reach * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        if rng.random() < 0.5:
            ImageDraw.Draw(mask).ellipse((*(centre - reach).tolist(), *(centre + reach).tolist()), fill=1)
        else:
            ImageDraw.Draw(mask).polygon([tuple(corner) for corner in corners.tolist()], fill=1)
        fill = rng.integers(0, 256, (2, 3)).astype(np.float32)
        along = columns if rng.random() < 0.5 else rows
        if rng.random() < 0.5:
            fill[1] = fill[0]
        where = np.asarray(mask)
        out[where] = fill[0] + along[where][:, None] * (fill[1] - fill[0])
    small = out.reshape(SIDE, fine, SIDE, fine, 3).mean(axis=(1, 3))
    pixels: Pixels8 = np.rint(small).astype(np.uint8)
    return pixels


def _pattern(rng: np.random.Generator, which: int) -> Pixels8:
    """Waves, stripes, hatching, rings."""
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float64)
    period, angle = rng.uniform(2.5, 24), rng.uniform(0, np.pi)
    along = (rows * np.sin(angle) + columns * np.cos(angle)) / period
    match which % 6:
        case 0:
            values = np.sin(2 * np.pi * along)
        case 1:
            values = np.where(along % 1 < 0.4, 1.0, -1.0)
        case 2:
            values = np.sin(2 * np.pi * rows / period) * np.sin(2 * np.pi * columns / period)
        case 3:
            values = np.cos((np.square(rows - SIDE / 2) + np.square(columns - SIDE / 2)) / rng.uniform(60, 400))
        case 4:
            values = np.where((rows // int(period) + columns // int(period + 2)) % 3 == 0, 1.0, -1.0)
        case _:
            values = 2 * (along % 1) - 1
    colours = rng.integers(0, 256, (2, 3)) if which % 2 else np.array([[20] * 3, [235] * 3])
    mixed = colours[0] + (values[..., None] + 1) / 2 * (colours[1] - colours[0])
    pixels: Pixels8 = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return pixels


def _text(rng: np.random.Generator, which: int) -> Pixels8:
    """A page of letters."""
    dark = which % 4 == 3
    image = Image.new("L" if which % 2 else "RGB", (SIDE, SIDE))
    paper, ink = ((30, 30, 34), (225, 225, 220)) if dark else ((255, 255, 255), (0, 0, 0))
    if image.mode == "L":
        paper, ink = paper[:1] * 3, ink[:1] * 3
    fill: Callable[[tuple[int, ...]], int | tuple[int, ...]] = lambda c: c[0] if image.mode == "L" else c  # noqa: E731
    image.paste(fill(paper), (0, 0, SIDE, SIDE))
    pen = ImageDraw.Draw(image)
    size = int(rng.integers(9, 22))
    font = ImageFont.load_default(float(size))
    for row in range(8, SIDE - size, round(size * 1.5)):
        pen.text((10, row), " ".join(rng.choice(_WORDS, 9)), fill=fill(ink), font=font)
    return np.asarray(image)


def _screenshot(rng: np.random.Generator, which: int) -> Pixels8:
    """Windows, bars, buttons, letters; some on a background of two colours that flow into each other."""
    high, wide = 480, 640
    tints = rng.integers(0, 256, (2, 3))
    along = np.linspace(0, 1, high)[:, None, None] * np.ones((1, wide, 1))
    desk = tints[0] + along * (tints[1] - tints[0]) if which % 2 else np.broadcast_to(tints[0], (high, wide, 3))
    image = Image.fromarray(np.rint(desk).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(3):
        left, top = int(rng.integers(0, 300)), int(rng.integers(0, 240))
        right, bottom = left + int(rng.integers(200, 330)), top + int(rng.integers(120, 230))
        face, bar = tuple(rng.integers(215, 256, 3).tolist()), tuple(rng.integers(20, 200, 3).tolist())
        pen.rectangle((left, top, right, bottom), fill=face, outline=(90, 90, 90))
        pen.rectangle((left + 1, top + 1, right - 1, top + 20), fill=bar)
        pen.text((left + 6, top + 3), " ".join(rng.choice(_WORDS, 3)), fill=(255, 255, 255), font=_font(13))
        for row in range(top + 28, bottom - 30, 16):
            pen.text((left + 10, row), " ".join(rng.choice(_WORDS, 4)), fill=(20, 20, 20), font=_font(12))
        for column in range(left + 10, right - 70, 80):
            pen.rounded_rectangle((column, bottom - 24, column + 64, bottom - 6), 4, fill=bar, outline=(60, 60, 60))
        icon = np.kron(rng.integers(0, 2, (8, 8)), np.ones((2, 2)))[..., None] * rng.integers(60, 256, 3)
        image.paste(Image.fromarray(icon.astype(np.uint8)), (right - 20, top + 2))
    return np.asarray(image)


def _plot(rng: np.random.Generator, _which: int) -> Pixels8:
    """Curves over a ruled ground."""
    fine = 4
    image = Image.new("RGB", (SIDE * fine, SIDE * fine), (255, 255, 255))
    pen = ImageDraw.Draw(image)
    for at in range(40 * fine, (SIDE - 10) * fine, 43 * fine):
        pen.line((30 * fine, at, (SIDE - 10) * fine, at), fill=(220, 220, 220), width=fine)
        pen.line((at, 10 * fine, at, (SIDE - 30) * fine), fill=(220, 220, 220), width=fine)
    for _ in range(4):
        heights = np.cumsum(rng.normal(scale=9 * fine, size=60)) + SIDE * fine / 2
        points = list(zip(np.linspace(30 * fine, 370 * fine, 60).tolist(), heights.tolist(), strict=True))
        pen.line(points, fill=tuple(rng.integers(0, 220, 3).tolist()), width=2 * fine, joint="curve")
    image = image.reduce(fine)
    pen = ImageDraw.Draw(image)
    for at in range(40, SIDE - 30, 43):
        pen.text((6, at - 6), str(int(rng.integers(0, 99))), fill=(40, 40, 40), font=_font(11))
    return np.asarray(image)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(float(size))


KINDS: dict[str, tuple[Callable[[np.random.Generator, int], NDArray[np.uint8]], int]] = {
    "flat": (_flat, 6),
    "gradients": (_gradient, 20),
    "checks": (_checks, 10),
    "ruled tables": (_table, 12),
    "QR codes": (_code, 12),
    "pixel art": (_pixel_art, 16),
    "dithers": (_dither, 8),
    "comics": (_comic, 14),
    "line art": (_line_art, 12),
    "manga": (_manga, 10),
    "vector art": (_vector_art, 14),
    "patterns": (_pattern, 18),
    "text": (_text, 12),
    "screenshots": (_screenshot, 14),
    "plots": (_plot, 8),
}
"""How each is drawn, and how many."""
