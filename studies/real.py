"""Pictures as cameras and programs have written them, without originals, before and after: the DAGN paper's Fig. 12.

``python -m studies.real DIR --model default --out runs/real.png`` takes those of DIR whose tables state a quality of 85
or less, some of them spread evenly over the qualities, restores each whole, and draws the detail of each that changed
most, all on one sheet. A line for each says how much of it changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from unjpeg.console import run_safely
from unjpeg.datasets import image_files
from unjpeg.errors import MeasurementError, SettingError, UnjpegError
from unjpeg.evaluate.method import shape_like
from unjpeg.evaluate.methods import UnjpegModel
from unjpeg.evaluate.pairs import decode
from unjpeg.evaluate.sheets import draw_before_after
from unjpeg.files import place_file
from unjpeg.picture import read_picture

__all__ = ["RealFile", "choose_files", "main"]

SIDE = 96
"""Of a detail, in pixels."""

LEAST_SIDE = 3 * SIDE
"""Smaller pictures have no room around a detail."""

SEEN = 4
"""Levels of 255 from which a pixel's change is counted."""


@dataclass(frozen=True, slots=True)
class RealFile:
    """A JPEG, and the quality that its tables state."""

    path: Path
    quality: int


def choose_files(folder: Path, least: int, most: int, count: int, most_megapixels: float) -> list[RealFile]:
    """JPEGs that state a quality in ``least..most``: at most so many, spread evenly over their order by quality.

    Raises:
        TrainingDataError: the folder holds no pictures.
        MeasurementError: none of them is like that.
    """
    found = []
    for path in image_files(folder):
        try:
            picture = read_picture(path.read_bytes())
        except (UnjpegError, OSError):
            continue
        height, width = picture.pixels.shape[:2]
        if picture.jpeg is None or min(height, width) < LEAST_SIDE or height * width > most_megapixels * 1e6:
            continue
        if least <= picture.jpeg.quality.value <= most:
            found.append(RealFile(path, picture.jpeg.quality.value))
    if not found:
        raise MeasurementError(
            f"{folder}: holds no JPEG of quality {least} to {most}, {LEAST_SIDE} pixels or more a side, and at most "
            f"{most_megapixels:g} megapixels: widen --quality or --megapixels"
        )
    found.sort(key=lambda file: (file.quality, file.path.name))
    places = np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)
    return [found[place] for place in places]


def main(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Pictures without originals.")],
    model: Annotated[str, typer.Option(help="As unjpeg restore takes it.")] = "default",
    quality: Annotated[str, typer.Option(metavar="Q-Q", help="That their tables state.")] = "1-85",
    count: Annotated[int, typer.Option(min=1, help="Of pictures.")] = 8,
    megapixels: Annotated[float, typer.Option(help="Larger ones are left out.")] = 4.0,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The sheet, .png or .webp.")] = Path("runs/real.png"),
) -> None:
    """Restore pictures without originals, and show them before and after on one sheet."""
    least, separator, most = quality.partition("-")
    if not (separator and least.isdecimal() and most.isdecimal() and int(least) <= int(most)):
        raise SettingError(f"--quality {quality}: two qualities are wanted, as 19-85")
    if out.suffix not in (".png", ".webp"):
        raise SettingError(f"--out {out}: the sheet ends in .png or .webp")
    method = UnjpegModel(model)
    shown = []
    for file in choose_files(folder, int(least), int(most), count, megapixels):
        data = file.path.read_bytes()
        before = decode(data)
        after = shape_like(method.restore(data), before)
        change = np.abs(after.astype(int) - before)
        share = (change.reshape(*change.shape[:2], -1).max(axis=2) >= SEEN).mean()
        size = f"{before.shape[1]}x{before.shape[0]}"
        shown.append((f"{file.path.name}, {size}, quality {file.quality}", before, after))
        print(
            f"{file.path.name}: {size}, quality {file.quality}, {share:.1%} of the pixels changed by {SEEN} levels or "
            f"more, {change.mean():.2f} levels in the mean"
        )
    sheet = draw_before_after(shown, SIDE)
    out.parent.mkdir(parents=True, exist_ok=True)
    with place_file(out, overwrite=True) as placed:
        sheet.save(placed, out.suffix[1:].upper())
    print(f"wrote {out}")


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
