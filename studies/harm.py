"""Where restoring has little to gain and much to lose: grain, drawings, patterns, grey files, files of the wild.

``python -m studies.harm fast default`` measures models over the plain decode, all on the same files;
``--against OLD.unjpeg`` adds what each of the files gains over that model, or over the same one as it computes in
another precision: ``default --precision int8 --against default --against-precision full``. To ``results/harm.json``.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from PIL import Image

from studies.drawings import draw_all
from unjpeg.console import run_safely, say
from unjpeg.datasets import resolved
from unjpeg.evaluate.pairs import Pixels8, load_images
from unjpeg.evaluate.psnr import psnr_db
from unjpeg.evaluate.results import describe_origin, put_results
from unjpeg.restorer import Restorer
from unjpeg.runtimes import Precision
from unjpeg.train.degrade import JpegDegradation
from unjpeg.train.patterns import PATTERNS

__all__ = ["Case", "draw_cases", "main"]

MOST_DB: Final = 60.0
"""What is nearer to the original counts as that near: exact pictures would outweigh all others."""

SIDE: Final = 320
"""Pixels, of what is cut from photographs; patterns are smaller."""

SAMPLINGS: Final = {"4:2:0": 2, "4:4:4": 0}
GRAIN_QUALITIES: Final = (50, 75, 90, 95)
DRAWING_QUALITIES: Final = (75, 90, 95)
PATTERN_QUALITIES: Final = (10, 50, 90, 98)
PATTERN_SIDE: Final = 160
EACH: Final = 3
"""Drawings and patterns of each kind."""


@dataclass(frozen=True)
class Case:
    """A file, what it was made from, and the row of the table that it counts in."""

    row: str
    original: Pixels8
    data: bytes | Pixels8


def main(
    models: Annotated[list[str], typer.Argument(help="Names or paths.")],
    data: Annotated[str, typer.Option(help="Data set or folder of photographs.")] = "live1",
    every: Annotated[int, typer.Option(min=1, help="Only every so many-th photograph.")] = 3,
    against: Annotated[str | None, typer.Option(help="A model that each file is compared with.")] = None,
    precision: Annotated[Precision, typer.Option(help="Of the models.")] = "auto",
    against_precision: Annotated[Precision | None, typer.Option(help="Of the other one. [as --precision]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of grain, drawings, patterns, degradations.")] = 7,
    rows: Annotated[str, typer.Option(help="Only rows that begin like this.")] = "",
    out: Annotated[Path, typer.Option(help="Folder of the result file.")] = Path("results"),
    stem: Annotated[str, typer.Option("--name", help="Of the result file.")] = "harm",
) -> None:
    """Measure what models gain over the plain decode."""
    origin = describe_origin()
    photographs = [_cut(pixels, SIDE) for _, pixels in load_images(resolved(data))][::every]
    reference = Restorer(against, precision=against_precision or precision) if against else None
    restorers = {name: Restorer(name, precision=precision) for name in models}
    gains: dict[str, dict[str, list[float]]] = {name: {} for name in models}
    over: dict[str, dict[str, list[float]]] = {name: {} for name in models}
    tints: dict[str, float] = dict.fromkeys(models, 0.0)
    for case in draw_cases(photographs, seed):
        if not case.row.startswith(rows):
            continue
        before = psnr_db(_decode(case.data), case.original, MOST_DB)
        old = psnr_db(_restore(reference, case.data), case.original, MOST_DB) if reference else 0.0
        for name, restorer in restorers.items():
            restored = _restore(restorer, case.data)
            after = psnr_db(restored, case.original, MOST_DB)
            gains[name].setdefault(case.row, []).append(after - before)
            over[name].setdefault(case.row, []).append(after - old)
            if case.row.startswith("grey as colour"):
                tints[name] = max(tints[name], float(np.ptp(restored.astype(np.int16), axis=2).max()))
    measured: dict[str, dict[str, Any]] = {}
    for name in models:
        table = {row: _summary(values) for row, values in gains[name].items()}
        measured[name] = {"model": restorers[name].model_file.hash, "gain_db": table, "most_tint": tints[name]}
        say(f"{name}: most tint of grey files {tints[name]:g}")
        for row, summary in table.items():
            compared = ""
            if reference:
                measured[name].setdefault("over_db", {})[row] = _summary(over[name][row])
                compared = f", over {against} {_in_words(over[name][row])}"
            say(f"  {row}: {_in_words(gains[name][row])} of {summary['files']}{compared}")
    record = {**origin, "seed": seed, "photographs": len(photographs), "models": measured}
    if reference:
        record["against"] = reference.model_file.hash
        record["precisions"] = [precision, against_precision or precision]
    put_results(out / f"{stem}.json", record)


def draw_cases(photographs: list[Pixels8], seed: int) -> Iterator[Case]:
    """All files, the same for the same photographs, ``(H, W, 3)``, and seed."""
    yield from _with_grain(photographs, np.random.default_rng(seed))
    drawn: Counter[str] = Counter()
    for kind, drawing in draw_all(seed):
        drawn[kind] += 1
        if drawn[kind] > EACH:
            continue
        for quality in DRAWING_QUALITIES:
            for sampling in SAMPLINGS if drawing.ndim == 3 else ("grey",):
                yield Case(f"drawing, {kind}", drawing, _jpeg(drawing, quality, SAMPLINGS.get(sampling)))
    rng = np.random.default_rng(seed)
    for number, (name, draw) in enumerate(PATTERNS.items()):
        for _ in range(EACH):
            pattern = draw(_cut(photographs[number % len(photographs)], PATTERN_SIDE), rng)
            for quality in PATTERN_QUALITIES:
                yield Case(f"pattern, {name}", pattern, _jpeg(pattern, quality, 2))
    for photograph in photographs:
        grey = np.asarray(Image.fromarray(photograph).convert("L").convert("RGB"))
        for quality in (30, 90):
            yield Case(f"grey as colour, quality {quality}", grey, _jpeg(grey, quality, 2))
    wild = JpegDegradation(5, 100, real_life=1.0, look_back=0.0)
    for photograph in photographs:
        for _ in range(4):
            pair = wild.apply(photograph, rng)
            yield Case("pixels of the wild, without their file", pair.original, pair.compressed)


def _with_grain(photographs: list[Pixels8], rng: np.random.Generator) -> Iterator[Case]:
    """Grain of brightness alone, as film and sensors behind a noise filter have it."""
    for sigma in (5, 15, 25):
        for photograph in photographs:
            noise = rng.standard_normal((*photograph.shape[:2], 1)) * sigma
            grainy = (photograph + noise).round().clip(0, 255).astype(np.uint8)
            for quality in GRAIN_QUALITIES:
                for name, subsampling in SAMPLINGS.items():
                    yield Case(f"grain, sigma {sigma}, {name}", grainy, _jpeg(grainy, quality, subsampling))


def _cut(pixels: Pixels8, side: int) -> Pixels8:
    top, left = (max(0, length - side) // 2 for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def _jpeg(pixels: Pixels8, quality: int, subsampling: int | None) -> bytes:
    buffer = io.BytesIO()
    options = {} if subsampling is None else {"subsampling": subsampling}
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, **options)
    return buffer.getvalue()


def _decode(data: bytes | Pixels8) -> Pixels8:
    return np.asarray(Image.open(io.BytesIO(data))) if isinstance(data, bytes) else data


def _restore(restorer: Restorer, data: bytes | Pixels8) -> Pixels8:
    return restorer.restore(data).pixels.astype(np.uint8)


def _summary(values: list[float]) -> dict[str, float]:
    return {"mean": round(float(np.mean(values)), 3), "worst": round(min(values), 3), "files": len(values)}


def _in_words(values: list[float]) -> str:
    return f"{np.mean(values):+.3f} ({min(values):+.2f})"


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
