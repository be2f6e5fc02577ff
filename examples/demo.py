"""What ``make demo`` runs: restore the bundled JPEG and draw it before and after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import unjpeg

HERE = Path(__file__).parent
SOURCE = HERE / "kitten.jpg"
OUT = HERE / "out"
ZOOM_BOX = (130, 250, 430, 475)
ZOOM = 2


def main() -> None:
    """Restore, save, compare with the original that the JPEG was made from, and say where everything is."""
    OUT.mkdir(exist_ok=True)
    restored = unjpeg.restore(SOURCE)
    restored.save(OUT / "kitten.png", overwrite=True)
    before_after(Image.open(SOURCE), Image.open(OUT / "kitten.png")).save(OUT / "before-after.png")

    original = np.asarray(Image.open(HERE / "kitten-original.webp").convert("RGB"))
    report = restored.report
    print(f"restored      {SOURCE.name}: {report.width}x{report.height}, JPEG quality {report.stated_quality}")
    print(f"result        {OUT / 'kitten.png'}")
    print(f"before/after  {OUT / 'before-after.png'}")
    print(f"PSNR          {psnr_db(np.asarray(Image.open(SOURCE)), original):.2f} dB before", end=", ")
    print(f"{psnr_db(restored.pixels, original):.2f} dB after")
    consistent = unjpeg.verify(SOURCE, restored.pixels).is_consistent
    print(f"consistent    {'yes: the result could have produced the JPEG' if consistent else 'no'}")


def before_after(before: Image.Image, after: Image.Image) -> Image.Image:
    """The same detail of both, enlarged without smoothing, side by side."""
    size = ((ZOOM_BOX[2] - ZOOM_BOX[0]) * ZOOM, (ZOOM_BOX[3] - ZOOM_BOX[1]) * ZOOM)
    sheet = Image.new("RGB", (2 * size[0] + 12, size[1]), "white")
    for left, picture, label in ((0, before, "before"), (size[0] + 12, after, "after")):
        sheet.paste(picture.crop(ZOOM_BOX).resize(size, Image.Resampling.NEAREST), (left, 0))
        draw = ImageDraw.Draw(sheet)
        font = ImageFont.load_default(28)
        draw.text((left + 14, 10), label, fill="white", font=font, stroke_width=3, stroke_fill="black")
    return sheet


def psnr_db(picture: NDArray[np.generic], original: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of RGB pictures, uint8, in dB."""
    return float(10 * np.log10(255**2 / np.square(picture.astype(float) - original).mean()))


if __name__ == "__main__":
    main()
