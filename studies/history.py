"""How often a picture's history is read right, how often it is seen where there is none, and how long it takes.

Run from a checkout: ``python -m studies.history FOLDER... --out results/history.json [--every N]``. Every picture of
the folders, and every drawing of ``studies/drawings.py``, is looked at as it is, never compressed. Every so many-th of
the first folder is also compressed in all the ways of the table, of the drawings once only. ``--times 0.4,12,100``
measures seconds instead.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from studies.drawings import draw_all
from unjpeg.evaluate.pairs import Pixels8
from unjpeg.evaluate.results import describe_origin, put_results
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


Truth = tuple[int, int, int] | None
"""Row and column of the grid modulo 8, and the quality; None without an earlier JPEG."""


def list_singles(pixels: Pixels8) -> Iterator[tuple[str, History, Truth]]:
    """What is read of JPEGs that were compressed once."""
    for subsampling in (2, 0):
        for quality in SINGLES:
            yield "single, libjpeg", of_file(encode(pixels, quality, subsampling)), None
            yield "single, mozjpeg's table", of_file(encode(pixels, quality, subsampling, MOZJPEG)), None
            yield "single, flat table", of_file(encode(pixels, quality, subsampling, (16,) * 64)), None


def list_earlier(pixels: Pixels8) -> Iterator[tuple[str, History, Truth]]:
    """What is read of pictures that were a JPEG before."""
    for subsampling in (2, 0):
        for quality in QUALITIES:
            decoded = JpegImage.decode(encode(pixels, quality, subsampling)).pixels
            for top, left in CROPS:
                yield f"PNG of {quality}", read_history(decoded[top:, left:]), (-top % 8, -left % 8, quality)
        for first, second in PAIRS:
            decoded = JpegImage.decode(encode(pixels, first, subsampling)).pixels
            for top, left in SHIFTS:
                again = of_file(encode(decoded[top:, left:], second, subsampling))
                yield f"{first} then {second}, cut {top},{left}", again, (-top % 8, -left % 8, first)


def count_clean(pictures: Iterable[tuple[str, Pixels8]]) -> dict[str, dict[str, int]]:
    """Per set: pictures that were never compressed, called clean, and taken for JPEGs."""
    table: dict[str, dict[str, int]] = {}
    for name, pixels in pictures:
        row = table.setdefault(name, {"of": 0, "clean": 0, "compressed": 0})
        verdict = read_history(pixels).verdict
        row["of"] += 1
        row["clean"] += verdict == "clean"
        row["compressed"] += verdict == "compressed"
    return table


def count_found(readings: Iterable[tuple[str, History, Truth]]) -> dict[str, dict[str, int]]:
    """Per case: files, found, of these with the right grid, and with the right quality, too; called clean."""
    table: dict[str, dict[str, int]] = {}
    for name, history, truth in readings:
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


def load_pictures(folders: Sequence[Path]) -> Iterator[tuple[str, Pixels8]]:
    """The folder's name and the pixels of each picture."""
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if path.suffix in {".png", ".webp", ".bmp"}:
                with Image.open(path) as image:
                    yield folder.name, np.asarray(image if image.mode == "L" else image.convert("RGB"))


def measure_seconds(small: Image.Image, megapixels: Sequence[float]) -> dict[str, float]:
    """Least of three, by megapixels and kind."""
    out = {}
    for size in megapixels:
        side = (round((size * 1e6 * 4 / 3) ** 0.5), round((size * 1e6 * 3 / 4) ** 0.5))
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
            out[f"{size:g} {kind}"] = round(min(times), 3)
    return out


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results/history.json"))
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the drawings; thresholds were chosen with 100 and 200")
    parser.add_argument("--times", help="megapixels, with commas between")
    arguments = parser.parse_args()
    stored = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    if arguments.times:
        _, first = next(load_pictures(arguments.folders))
        stored["times"] = describe_origin()
        stored["seconds"] = measure_seconds(Image.fromarray(first), [float(one) for one in arguments.times.split(",")])
    else:
        clean = count_clean([*load_pictures(arguments.folders), *draw_all(arguments.seed)])
        some = [pixels for _, pixels in load_pictures(arguments.folders[:1])][:: arguments.every]
        drawn = [pixels for _, pixels in draw_all(arguments.seed)][:: arguments.every]
        photographs = count_found(
            reading for one in some for list_ in (list_earlier, list_singles) for reading in list_(one)
        )
        drawings = count_found(reading for one in drawn for reading in list_singles(one))
        counts = {"every": arguments.every, "clean": clean, "photographs": photographs, "drawings": drawings}
        stored |= describe_origin() | counts
    put_results(arguments.out, stored)


if __name__ == "__main__":
    main()
