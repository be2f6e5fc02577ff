"""What it gains to restore a picture as the JPEG that it was before.

``python -m studies.earlier ORIGINALS --out results/earlier.json`` makes screenshots of JPEGs, crops, files compressed
twice, scaled ones and other codecs' of each original. Each is restored twice: by its last file alone
(``consistency="strict"``) and by its history (``auto``). Figures are gains over the decode, in dB.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image, ImageDraw, ImageFont

from unjpeg.console import progress_bar, run_safely
from unjpeg.evaluate.metrics import psnr_db, ssimulacra2
from unjpeg.evaluate.pairs import Pixels8, decode, load_images
from unjpeg.evaluate.results import describe_origin, put_results
from unjpeg.picture import read_picture
from unjpeg.restorer import Restorer

__all__ = ["list_cases", "main"]

PAIRS = ((10, 30), (30, 50), (20, 90), (10, 75), (30, 90), (60, 90), (75, 90))
SCALES = (0.5, 0.75, 1.25, 1.5)

Case = tuple[str, bytes, Pixels8, bytes | None]
"""Its name, the file, what its pixels should have been, and where asked the JPEG that a screenshot was made of."""


def list_cases(original: Pixels8) -> Iterator[Case]:
    """Every way that an original, ``(H, W, 3)``, comes to us."""
    for quality in (10, 20, 40, 75, 90):
        for top, left in ((0, 0), (3, 5), (4, 4), (8, 8)):
            data = _compress(original, quality)
            name, shot = f"png of {quality}, cut {top},{left}", _save(_cut(decode(data), top, left), "PNG")
            yield name, shot, _cut(original, top, left), data if top == left == 0 else None
    for subsampling, sampling in ((2, "4:2:0"), (0, "4:4:4")):
        for first, second in PAIRS:
            for top, left in ((0, 0), (4, 4), (1, 6)):
                pixels = _cut(decode(_compress(original, first, subsampling)), top, left)
                name = f"{first} then {second}, cut {top},{left}, {sampling}"
                yield name, _compress(pixels, second, subsampling), _cut(original, top, left), None
    height, width = original.shape[:2]
    for scale in SCALES:
        size = round(width * scale), round(height * scale)
        small = np.asarray(Image.fromarray(decode(_compress(original, 30))).resize(size, Image.Resampling.BICUBIC))
        truth = np.asarray(Image.fromarray(original).resize(size, Image.Resampling.BICUBIC))
        yield f"png of 30, scaled by {scale}", _save(small, "PNG"), truth, None
    for format, quality in (("WEBP", 20), ("AVIF", 30)):
        pixels = decode(_save(original, format, quality=quality))
        yield f"png of {format} {quality}", _save(pixels, "PNG"), original, None
    for name, qualities in (("a photo of 20 in a page", (20,)), ("photos of 20 and 50 in a page", (20, 50))):
        photos = [_compress(original, quality) for quality in qualities]
        page = _page([decode(photo) for photo in photos])
        yield name, _save(page, "PNG"), _page([original] * len(photos)), None
    yield "png of the original", _save(original, "PNG"), original, None


_PART, _MARGIN = (288, 384), 40
"""Pixels: height and width of a page's photographs, and the paper around them."""


def _page(photos: Sequence[Pixels8]) -> Pixels8:
    """Lines of text, and a part of each photograph below the last one's, on a grid of its own."""
    height, width = _MARGIN + len(photos) * (_PART[0] + _MARGIN), _PART[1] + 6 * _MARGIN
    image = Image.new("RGB", (width, height), (255, 255, 255))
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(13.0)
    for line, top in enumerate(range(6, height - 16, 18)):
        pen.text(
            (8, top), f"{line:3d}  The quick brown fox jumps over the lazy dog, and waits. " * 3, (20, 20, 24), font
        )
    page = np.array(image)
    for number, photo in enumerate(photos):
        top, left = _MARGIN + number * (_PART[0] + _MARGIN) + 3, 2 * _MARGIN + 5 * number
        part = photo[11 + number : 11 + number + _PART[0], 6:][:, : _PART[1]]
        page[top - 8 : top + part.shape[0] + 8, left - 8 : left + part.shape[1] + 8] = 255
        page[top : top + part.shape[0], left : left + part.shape[1]] = part
    return page


def _cut(pixels: Pixels8, top: int, left: int) -> Pixels8:
    return np.ascontiguousarray(pixels[top:, left:])


def _compress(pixels: Pixels8, quality: int, subsampling: int = 2) -> bytes:
    return _save(pixels, "JPEG", quality=quality, subsampling=subsampling)


def _save(pixels: Pixels8, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format, **options)
    return stream.getvalue()


def main(
    originals: Annotated[Path, typer.Argument(help="Folder of pictures that were never compressed.")],
    out: Annotated[Path, typer.Option(help="The result file.")] = Path("results/earlier.json"),
    model: Annotated[list[str], typer.Option(help="Models.")] = ["fast"],  # noqa: B006
    every: Annotated[int, typer.Option(min=1, help="Take every so many-th picture.")] = 1,
    perceptual: Annotated[int, typer.Option(min=0, help="SSIMULACRA2 of every so many-th of these; 0 none.")] = 0,
) -> None:
    """Measure, and print the mean and the worst gain of each case."""
    origin = describe_origin()  # of the code that is loaded: it may change while this runs
    pictures = [np.asarray(Image.fromarray(p).convert("RGB")) for _, p in load_images(originals)][::every]
    rows: list[dict[str, Any]] = []
    for name in model:
        restorer = Restorer(name)
        gains: dict[str, list[list[float]]] = {}
        with progress_bar(len(pictures), doing=name) as show:
            for number, original in enumerate(pictures):
                looked_at = bool(perceptual) and number % perceptual == 0
                for case, data, truth, jpeg in list_cases(original):
                    gains.setdefault(case, []).append(_measure(restorer, data, truth, jpeg, looked_at))
                show(number + 1)
        for case, figures in gains.items():
            row = _summarise(name, case, np.array(figures))
            rows.append(row)
            print(
                f"{name:8s} {case:32s} by the file {row['file_db']:+.2f}, by the history {row['history_db']:+.2f} dB, "
                f"worst {row['worst_db']:+.2f}, found {row['found']} of {row['pictures']}",
                flush=True,
            )
    put_results(out, {"pictures": len(pictures), "models": list(model), **origin, "rows": rows})


def _measure(restorer: Restorer, data: bytes, truth: Pixels8, jpeg: bytes | None, looked_at: bool) -> list[float]:
    """Figures of one file: ``_summarise`` names them."""
    decoded = read_picture(data).pixels
    by_file = restorer.restore(data, consistency="strict").pixels
    by_history = restorer.restore(data)
    restored = by_history.pixels.astype(np.uint8, copy=False)
    scores = [float("nan")] * 2
    if looked_at:
        before = ssimulacra2(decoded, truth)
        scores = [ssimulacra2(pixels.astype(np.uint8), truth) - before for pixels in (by_file, restored)]
    measure: Callable[[Pixels8], float] = lambda pixels: min(psnr_db(pixels, truth), 100.0)  # noqa: E731
    start = measure(decoded)
    return [
        measure(by_file.astype(np.uint8)) - start,
        measure(restored) - start,
        float(by_history.report.history == "compressed"),
        float(by_history.report.model is None),
        *scores,
        float("nan") if jpeg is None else measure(restorer.restore(jpeg).pixels.astype(np.uint8)) - start,
    ]


def _summarise(model: str, case: str, figures: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
    def mean_score(column: int) -> float | None:
        found = figures[:, column][~np.isnan(figures[:, column])]
        return round(float(found.mean()), 3) if found.size else None

    return {
        "model": model,
        "case": case,
        "pictures": len(figures),
        "file_db": round(float(figures[:, 0].mean()), 3),
        "history_db": round(float(figures[:, 1].mean()), 3),
        "worst_db": round(float(figures[:, 1].min()), 3),
        "found": int(figures[:, 2].sum()),
        "untouched": int(figures[:, 3].sum()),
        "jpeg_itself_db": mean_score(6),
        "file_ssimulacra2": mean_score(4),
        "history_ssimulacra2": mean_score(5),
    }


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
