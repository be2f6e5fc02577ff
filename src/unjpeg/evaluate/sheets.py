"""Pictures of pictures: details side by side with their figures, maps of errors, before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from unjpeg.evaluate.metrics import psnr_b_db, psnr_db, ssim
from unjpeg.evaluate.pairs import Pixels8

__all__ = [
    "Panel",
    "draw_before_after",
    "draw_crops",
    "draw_residuals",
    "find_most_changed",
    "fit",
    "map_residuals",
    "set_side_by_side",
    "shorten",
    "stack",
]

ZOOM = 3
"""How much larger a detail is shown, and how much more around it."""

GAP = 6
PAGE = 1560
"""Width in pixels that rows are wrapped at."""

RESIDUAL_WIDTH = (PAGE - 3 * GAP) // 4
"""Of the maps of errors: four stand in a row."""

NARROWEST = 240
"""Lines below a panel are wrapped at its width, or at this if it is narrower."""

TEXT = 13
FRAME = (255, 40, 40)

_RESIDUAL_COLOURS = (np.asarray(colormaps["inferno"](np.arange(256)))[:, :3] * 255).round().astype(np.uint8)

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


@dataclass(frozen=True, slots=True)
class Panel:
    """One version of a picture, with what stands below it."""

    lines: tuple[str, ...]
    image: Image.Image


def draw_crops(original: Pixels8, shown: Mapping[str, Pixels8], side: int) -> Image.Image:
    """The detail that the first version has damaged most, in every version, with the whole pictures' figures below.

    Args:
        original: ``(H, W)`` or ``(H, W, 3)``; the versions have its shape.
        side: of the detail, in pixels; above it, three times as much of the picture is shown.
    """
    first = next(iter(shown.values()))
    corner = find_most_changed(original, first, side)
    panels = [Panel(("original", "PSNR / SSIM / PSNR-B", "of the whole picture"), _draw_detail(original, corner, side))]
    for name, pixels in shown.items():
        figures = f"{psnr_db(pixels, original):.2f} / {ssim(pixels, original):.3f} / {psnr_b_db(pixels, original):.2f}"
        panels.append(Panel((name, figures), _draw_detail(pixels, corner, side)))
    return set_side_by_side(panels)


def draw_residuals(original: Pixels8, shown: Mapping[str, Pixels8]) -> Image.Image:
    """How far each version is from the original: ``map_residuals`` of whole pictures, made smaller, with its scale."""
    errors = {name: np.abs(pixels.astype(np.int64) - original) for name, pixels in shown.items()}
    brightest = float(np.quantile(np.stack(list(errors.values())), 0.999))  # one scale, not set by a single pixel
    panels = []
    for name, pixels in shown.items():
        coloured = _RESIDUAL_COLOURS[map_residuals(pixels, original, brightest)]
        lines = (name, f"mean error {errors[name].mean():.2f} of 255")
        panels.append(Panel(lines, fit(Image.fromarray(coloured), RESIDUAL_WIDTH)))
    return stack([set_side_by_side(panels), _draw_scale(brightest)])


def draw_before_after(pictures: Sequence[tuple[str, Pixels8, Pixels8]], side: int) -> Image.Image:
    """For pictures without originals: name, before, after; the detail is the one that changed most."""
    panels = []
    for name, before, after in pictures:
        corner = find_most_changed(before, after, side)
        both = [
            Panel((word,), _draw_detail(pixels, corner, side))
            for word, pixels in (("before", before), ("after", after))
        ]
        panels.append(Panel((name,), set_side_by_side(both)))
    return set_side_by_side(panels, apart=4 * GAP)


def map_residuals(restored: Pixels8, original: Pixels8, brightest: float) -> Pixels8:
    """``log(|restored - original| + 1)``, mean over channels, ``(H, W)``; ``brightest`` (of 255 levels) is white."""
    error = np.abs(restored.astype(np.float64) - original)
    if error.ndim == 3:
        error = error.mean(axis=2)
    out: Pixels8 = (_scale_brightness(error, brightest) * 255).round().astype(np.uint8)
    return out


def find_most_changed(one: Pixels8, other: Pixels8, side: int) -> tuple[int, int]:
    """Top left corner of the window, on the grid of 8, where two pictures differ most; deterministic."""
    error = np.square(other.astype(np.float64) - one)
    if error.ndim == 3:
        error = error.sum(axis=2)
    total = np.pad(error.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    tops, lefts = (np.arange(0, max(1, n - side + 1), 8) for n in error.shape)
    bottoms, rights = (np.minimum(s + side, n) for s, n in zip((tops, lefts), error.shape, strict=True))
    sums = total[np.ix_(bottoms, rights)] - total[np.ix_(tops, rights)]
    sums += total[np.ix_(tops, lefts)] - total[np.ix_(bottoms, lefts)]
    row, column = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(tops[row]), int(lefts[column])


def set_side_by_side(panels: Sequence[Panel], apart: int = GAP) -> Image.Image:
    """Panels in rows that are no wider than a page, their lines below, wrapped, so many pixels apart."""
    font = ImageFont.load_default(TEXT)
    rows: list[list[tuple[Panel, int]]] = [[]]
    for panel in panels:
        most = max(panel.image.width, NARROWEST)
        lines = tuple(part for line in panel.lines for part in _wrap(line, font, most))
        width = max([panel.image.width, *(int(font.getlength(line)) + 2 for line in lines)])
        if rows[-1] and sum(w + apart for _, w in rows[-1]) + width > PAGE:
            rows.append([])
        rows[-1].append((Panel(lines, panel.image), width))
    return stack([_draw_row(row, font, apart) for row in rows], apart)


def stack(images: Sequence[Image.Image], gap: int = 3 * GAP) -> Image.Image:
    """One below the other."""
    height = sum(image.height for image in images) + gap * (len(images) - 1)
    sheet = Image.new("RGB", (max(image.width for image in images), height), "white")
    top = 0
    for image in images:
        sheet.paste(image.convert("RGB"), (0, top))
        top += image.height + gap
    return sheet


def fit(image: Image.Image, width: int) -> Image.Image:
    """The image, made smaller if it is wider than that."""
    if image.width <= width:
        return image
    return image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)


def shorten(text: str, most: int) -> str:
    """At most so many characters, 5 or more: of longer text its beginning and its end."""
    if len(text) <= most:
        return text
    end = (most - 3) // 2
    return f"{text[: most - 3 - end]}...{text[-end:]}"


def _wrap(text: str, font: Font, width: int) -> list[str]:
    """Lines that are no wider than that, at least one; words that are wider are cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines


def _scale_brightness(error: NDArray[np.float64], brightest: float) -> NDArray[np.float64]:
    """Of an error in levels of 255, 0..1."""
    share: NDArray[np.float64] = np.clip(np.log1p(error) / np.log1p(max(brightest, 1.0)), 0, 1)
    return share


def _draw_scale(brightest: float) -> Image.Image:
    """The colours of ``map_residuals``, with the errors that they stand for."""
    most = max(brightest, 1.0)
    ramp = np.arange(RESIDUAL_WIDTH) / (RESIDUAL_WIDTH - 1)
    colours = _RESIDUAL_COLOURS[np.tile((ramp * 255).round().astype(np.uint8), (TEXT, 1))]
    font = ImageFont.load_default(TEXT)
    title = "error, levels of 255"
    image = Image.new("RGB", (RESIDUAL_WIDTH + 10 + int(font.getlength(title)), 2 * TEXT + 8), "white")
    image.paste(Image.fromarray(colours), (0, 0))
    draw, free = ImageDraw.Draw(image), 0.0
    draw.text((RESIDUAL_WIDTH + 8, -1), title, fill="black", font=font)
    for level in (*(2**n - 1 for n in range(8) if 2**n - 1 < 0.8 * most), most):
        at = float(_scale_brightness(np.array(float(level)), most)) * (RESIDUAL_WIDTH - 1)
        if at >= free:
            draw.line((at, TEXT, at, TEXT + 3), fill="black")
            text = f"{level:.0f}" if level < most else f"{level:.0f} or more"
            draw.text((at if level < most else at - 20, TEXT + 3), text, fill="black", font=font)
            free = at + font.getlength(text) + 6
    return image


def _draw_row(panels: Sequence[tuple[Panel, int]], font: Font, apart: int) -> Image.Image:
    """Panels, each with its width."""
    height = max(panel.image.height for panel, _ in panels)
    lines = max(len(panel.lines) for panel, _ in panels)
    width = sum(width + apart for _, width in panels) - apart
    sheet = Image.new("RGB", (width, height + lines * (TEXT + 4) + 4), "white")
    draw, left = ImageDraw.Draw(sheet), 0
    for panel, width in panels:
        sheet.paste(panel.image.convert("RGB"), (left, 0))
        for number, line in enumerate(panel.lines):
            draw.text((left, height + 3 + number * (TEXT + 4)), line, fill="black", font=font)
        left += width + apart
    return sheet


def _draw_detail(pixels: Pixels8, corner: tuple[int, int], side: int) -> Image.Image:
    """The detail's surroundings with a frame around it, and the detail enlarged below."""
    around, height, width = ZOOM * side, *pixels.shape[:2]
    top, left = (
        int(np.clip(at + side // 2 - around // 2, 0, max(0, n - around)))
        for at, n in zip(corner, (height, width), strict=True)
    )
    context = Image.fromarray(pixels[top : top + around, left : left + around]).convert("RGB")
    y, x = corner[0] - top, corner[1] - left
    small = Image.fromarray(pixels[corner[0] : corner[0] + side, corner[1] : corner[1] + side]).convert("RGB")
    ImageDraw.Draw(context).rectangle((x, y, x + small.width - 1, y + small.height - 1), outline=FRAME)
    large = small.resize((small.width * ZOOM, small.height * ZOOM), Image.Resampling.NEAREST)
    panel = Image.new("RGB", (around, context.height + GAP + large.height), "white")
    panel.paste(context, (0, 0))
    panel.paste(large, (0, context.height + GAP))
    return panel
