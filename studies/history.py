"""How often a picture's history is read right, how often it is seen where there is none, and how long it takes.

Run from a checkout: ``python -m studies.history FOLDER... --out results/history.json [--every N]``. Every picture of
the folders, and every drawing of ``studies/drawings.py``, is looked at as it is, never compressed; what is not told so
is restored, to see how far it is from itself then. Every so many-th of each is also compressed in all the ways of the
table. ``--times 0.4,12,100`` measures seconds instead, and leaves the rest of the result file as it is.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from studies.drawings import draw_all
from unjpeg.evaluate.metrics import psnr_db
from unjpeg.evaluate.pairs import Pixels8
from unjpeg.evaluate.results import describe_origin, put_results
from unjpeg.history import History, read_history
from unjpeg.jpeg import JpegImage
from unjpeg.machine import allowed_cores
from unjpeg.restorer import Restorer

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


Counts = dict[str, dict[str, int]]

Truth = tuple[int, int, int] | None
"""Row and column of the grid modulo 8, and the quality; None without an earlier JPEG."""


def list_singles(pixels: Pixels8) -> Iterator[tuple[str, History, Truth]]:
    """What is read of JPEGs that were compressed once."""
    for subsampling in (2, 0):
        for quality in SINGLES:
            yield "single, libjpeg", of_file(encode(pixels, quality, subsampling)), None
            yield "single, mozjpeg's table", of_file(encode(pixels, quality, subsampling, MOZJPEG)), None
            yield "single, flat table", of_file(encode(pixels, quality, subsampling, (16,) * 64)), None


def list_screenshots(pixels: Pixels8) -> Iterator[tuple[str, History, Truth]]:
    """What is read of pictures that were a JPEG before, cropped or not."""
    for subsampling in (2, 0):
        for quality in QUALITIES:
            decoded = JpegImage.decode(encode(pixels, quality, subsampling)).pixels
            for top, left in CROPS:
                yield f"PNG of {quality}", read_history(decoded[top:, left:]), (-top % 8, -left % 8, quality)


def list_twice(pixels: Pixels8) -> Iterator[tuple[str, History, Truth]]:
    """What is read of JPEGs that were another JPEG before."""
    for subsampling in (2, 0):
        for first, second in PAIRS:
            decoded = JpegImage.decode(encode(pixels, first, subsampling)).pixels
            for top, left in SHIFTS:
                again = of_file(encode(decoded[top:, left:], second, subsampling))
                yield f"{first} then {second}, cut {top},{left}", again, (-top % 8, -left % 8, first)


def count_clean(
    readings: Iterable[tuple[str, Pixels8, History]], restorer: Restorer | None = None
) -> dict[str, dict[str, int | float | None]]:
    """Per set: pictures that were never compressed, called clean, restored with care, and taken for JPEGs.

    Args:
        restorer: restores what is not called clean: ``worst_db`` is the least PSNR of a picture to itself, None where
            all came back untouched.
    """
    counts: dict[str, dict[str, int]] = {}
    worst: dict[str, float] = {}
    for name, pixels, history in readings:
        row = counts.setdefault(name, {"of": 0, "clean": 0, "careful": 0, "compressed": 0})
        row["of"] += 1
        row["clean"] += history.verdict == "clean"
        row["careful"] += history.may_be_clean
        row["compressed"] += history.verdict == "compressed"
        if restorer and history.verdict != "clean":
            restored = restorer.restore(pixels).pixels.astype(np.uint8, copy=False)
            worst[name] = min(worst.get(name, 100.0), round(psnr_db(restored, pixels), 2))
    return {name: {**row, "worst_db": worst.get(name)} for name, row in counts.items()}


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


def _count_one(list_: Callable[[Pixels8], Iterator[tuple[str, History, Truth]]], pixels: Pixels8) -> Counts:
    return count_found(list_(pixels))


def count_all(
    pool: ProcessPoolExecutor,
    pictures: Sequence[Pixels8],
    lists: Sequence[Callable[[Pixels8], Iterator[tuple[str, History, Truth]]]],
) -> Counts:
    """``count_found`` of what the lists read of every picture."""
    total: Counts = {}
    for list_ in lists:
        for counts in pool.map(partial(_count_one, list_), pictures):
            for name, row in counts.items():
                so_far = total.setdefault(name, dict.fromkeys(row, 0))
                for what, count in row.items():
                    so_far[what] += count
    return total


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
    parser.add_argument("--seed", type=int, default=0, help="of the drawings; thresholds were chosen with 100 and more")
    parser.add_argument("--workers", type=int, default=allowed_cores())
    parser.add_argument("--times", help="megapixels, with commas between")
    arguments = parser.parse_args()
    origin = describe_origin()  # of the code that is loaded: it may change while this runs
    stored = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    if arguments.times:
        _, first = next(load_pictures(arguments.folders))
        seconds = measure_seconds(Image.fromarray(first), [float(one) for one in arguments.times.split(",")])
        stored["seconds"] = {**origin, "rows": seconds}
    else:
        folders = [list(load_pictures([folder])) for folder in arguments.folders]
        drawings = list(draw_all(arguments.seed))
        pictures = [*(one for some in folders for one in some), *drawings]
        some = [pixels for folder in folders for _, pixels in folder[:: arguments.every]]
        drawn = [pixels for _, pixels in drawings[:: arguments.every]]
        with ProcessPoolExecutor(arguments.workers, get_context("spawn")) as pool:
            histories = pool.map(read_history, [pixels for _, pixels in pictures], chunksize=8)
            readings = [(*one, history) for one, history in zip(pictures, histories, strict=True)]
            stored |= {
                **origin,
                "every": arguments.every,
                "clean": count_clean(readings, Restorer("fast")),
                "photographs": count_all(pool, some, (list_screenshots, list_twice, list_singles)),
                "drawings": count_all(pool, drawn, (list_twice, list_singles)),
            }
    put_results(arguments.out, stored)


if __name__ == "__main__":
    main()
