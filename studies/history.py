"""How often a picture's history is read right, how often it is seen where there is none, and how long it takes.

Run from a checkout: ``python -m studies.history FOLDER... --out results/history.json [--every N]``. Each picture, taken
as never compressed, is compressed in all the ways of the table; ``--times`` measures seconds instead.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from unjpeg.evaluate.pairs import Pixels8
from unjpeg.evaluate.results import put_results
from unjpeg.history import History, read_history
from unjpeg.jpeg import JpegImage

QUALITIES = (10, 20, 40, 75, 90)
CROPS = ((0, 0), (3, 5), (4, 4), (8, 8))
PAIRS = ((10, 30), (30, 50), (20, 90), (10, 75), (30, 90), (60, 90), (75, 90))
SHIFTS = ((0, 0), (4, 4), (1, 6))
SINGLES = (5, 10, 20, 30, 50, 70, 80, 90, 95, 98)
MOZJPEG: tuple[int, ...] = (
    16,
    16,
    16,
    18,
    25,
    37,
    56,
    85,
    16,
    17,
    20,
    27,
    34,
    40,
    53,
    75,
    16,
    20,
    24,
    31,
    43,
    62,
    91,
    135,
    18,
    27,
    31,
)
MOZJPEG += (40, 53, 74, 106, 156, 25, 34, 43, 53, 69, 94, 131, 189, 37, 40, 62, 74, 94, 124, 169, 238, 56, 53, 91, 106)
MOZJPEG += (131, 169, 226, 255, 85, 75, 135, 156, 189, 238, 255, 255)


def encode(pixels: Pixels8, quality: int, subsampling: int, tables: tuple[int, ...] | None = None) -> bytes:
    """A JPEG; own tables are scaled by the quality."""
    stream = io.BytesIO()
    options = {"qtables": [list(tables)] * (1 if pixels.ndim == 2 else 2)} if tables else {}
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling=subsampling, **options)
    return stream.getvalue()


def of_file(data: bytes) -> History:
    """The history of a JPEG file."""
    image = JpegImage.decode(data)
    return read_history(image.pixels, image)


def cases(pixels: Pixels8) -> Iterator[tuple[str, History, tuple[int, int, int] | None]]:
    """Name, what was read, and the truth: row and column of the grid modulo 8, and the quality; None without one."""
    yield "clean", read_history(pixels), None
    for subsampling, name in ((2, "420"), (0, "444")):
        for quality in QUALITIES:
            decoded = JpegImage.decode(encode(pixels, quality, subsampling)).pixels
            for top, left in CROPS:
                truth = (-top % 8, -left % 8, quality)
                yield f"png {name} {quality}", read_history(decoded[top:, left:]), truth
        for first, second in PAIRS:
            decoded = JpegImage.decode(encode(pixels, first, subsampling)).pixels
            for top, left in SHIFTS:
                kind = "shifted" if top or left else "same grid"
                truth = (-top % 8, -left % 8, first)
                yield (
                    f"{kind} {name} {first}-{second}",
                    of_file(encode(decoded[top:, left:], second, subsampling)),
                    truth,
                )
        for quality in SINGLES:
            yield f"single {name}", of_file(encode(pixels, quality, subsampling)), None
            yield f"single mozjpeg {name}", of_file(encode(pixels, quality, subsampling, MOZJPEG)), None
            yield f"single flat {name}", of_file(encode(pixels, quality, subsampling, (16,) * 64)), None


def confusion(pictures: list[Path]) -> dict[str, dict[str, int]]:
    """Per case: pictures, found, of these with the right grid, and quality; called clean."""
    table: dict[str, dict[str, int]] = {}
    for picture in pictures:
        with Image.open(picture) as image:
            pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
        for name, history, truth in cases(pixels):
            row = table.setdefault(name, {"of": 0, "found": 0, "grid": 0, "quality": 0, "clean": 0})
            row["of"] += 1
            row["clean"] += history.verdict == "clean"
            if history.regions:
                earlier = history.regions[0].earlier
                row["found"] += 1
                if truth:
                    row["grid"] += (earlier.top % 8, earlier.left % 8) == truth[:2]
                    row["quality"] += (earlier.top % 8, earlier.left % 8, earlier.quality) == truth
    return table


def seconds(picture: Path) -> dict[str, float]:
    """Least of three, by megapixels and kind."""
    with Image.open(picture) as opened:
        small = opened.convert("RGB")
    out = {}
    for megapixels in (0.4, 12.0):
        side = (round((megapixels * 1e6 * 4 / 3) ** 0.5), round((megapixels * 1e6 * 3 / 4) ** 0.5))
        pixels = np.asarray(small.resize(side, Image.Resampling.LANCZOS))
        image = JpegImage.decode(encode(pixels, 75, 2))
        twice = JpegImage.decode(encode(image.pixels[4:, 4:], 90, 2))
        for kind, what in (
            ("clean", (pixels, None)),
            ("png", (image.pixels[3:, 5:], None)),
            ("single", (image.pixels, image)),
            ("twice", (twice.pixels, twice)),
        ):
            times = []
            for _ in range(3):
                start = time.perf_counter()
                read_history(*what)
                times.append(time.perf_counter() - start)
            out[f"{megapixels} {kind}"] = round(min(times), 3)
    return out


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results/history.json"))
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--times", action="store_true")
    arguments = parser.parse_args()
    suffixes = {".png", ".webp", ".bmp", ".jpg"}
    pictures = [path for folder in arguments.folders for path in sorted(folder.iterdir()) if path.suffix in suffixes]
    pictures = pictures[:: arguments.every]
    stored = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    if arguments.times:
        stored["seconds"] = seconds(pictures[0])
    else:
        stored[" ".join(folder.name for folder in arguments.folders)] = confusion(pictures)
    put_results(arguments.out, stored)


if __name__ == "__main__":
    main()
