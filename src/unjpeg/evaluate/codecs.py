"""``unjpeg adapt`` on other codecs, measured against originals that the adaptation never sees.

``python -m unjpeg.evaluate.codecs`` writes ``results/adapt-codecs.json``. For each codec it compresses a folder of
pictures, adapts the model to the compressed files with JPEG as the source, and compares decoder, unadapted and adapted
model: on the very files that it was adapted to (as a user would) and on a test set in the same codec.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from unjpeg.cli import run_safely
from unjpeg.datasets import data_root
from unjpeg.evaluate.benchmark import machine
from unjpeg.evaluate.methods import Decoder, Method, UnjpegModel, shaped_as
from unjpeg.evaluate.metrics import psnr_b_db, psnr_db, ssim
from unjpeg.evaluate.pairs import Degradation, Pair, Pixels, load_images
from unjpeg.train.adapt import DEFAULT_ADAPTATION, adapt_model
from unjpeg.version import __version__, source_commit

__all__ = ["main", "measure"]


def main(
    codec: Annotated[list[str], typer.Option(help="A degradation: webp-20, avif-30, jpeg-10.")] = [  # noqa: B006
        "webp-20",
        "avif-30",
    ],
    model: Annotated[str, typer.Option(help="Model name or path.")] = "default",
    data: Annotated[Path | None, typer.Option(help="Folder with train/ and test/. [$UNJPEG_DATA]")] = None,
    originals: Annotated[str, typer.Option(help="Folder below data, compressed to be the target.")] = (
        "train/bsds500/train"
    ),
    source: Annotated[list[str], typer.Option(help="Folders below data: the clean source.")] = [  # noqa: B006
        "train/photos",
        "train/cid22",
        "train/clic2025",
    ],
    test: Annotated[str, typer.Option(help="Test set below data/test.")] = "live1",
    steps: Annotated[int, typer.Option(min=1, help="Of the adaptation.")] = 1000,
    strength: Annotated[float, typer.Option(min=0, help="Lambda.")] = DEFAULT_ADAPTATION.strength,
    seed: Annotated[int, typer.Option(help="Of the adaptation.")] = 0,
    work: Annotated[Path, typer.Option(help="Folder of the targets and the adaptations.")] = Path("runs/adapt"),
    out: Annotated[Path, typer.Option(help="Folder of the result file.")] = Path("results"),
) -> None:
    """Adapt a model to other codecs and measure what it gains."""
    root = data or data_root()
    rows: list[dict[str, Any]] = []
    for name in codec:
        degradation = Degradation.parse(name)
        truths = dict(load_images(root / originals))
        target = work / f"{name}-target"
        _write_target(truths, degradation, target)
        report = adapt_model(
            model,
            target,
            [str(root / folder) for folder in source],
            work / f"{name}-steps{steps}-strength{strength}-seed{seed}",
            config=replace(DEFAULT_ADAPTATION, steps=steps, strength=strength),
            seed=seed,
            say=typer.echo,
        )
        methods = {"decoder": Decoder(), "unadapted": UnjpegModel(model), "adapted": UnjpegModel(report.model)}
        for which, pictures in (("the target itself", truths), (test, dict(load_images(root / "test" / test)))):
            files = [degradation.apply(pixels) for pixels in pictures.values()]
            figures = {label: measure(files, method) for label, method in methods.items()}
            row = {"codec": name, "set": which, "images": len(files), **figures}
            rows.append(row | {key: value for key, value in asdict(report).items() if key != "left_out"})
            typer.echo(
                f"{name} on {which}: "
                + ", ".join(f"{method} {found['psnr_db']:.3f} dB" for method, found in figures.items())
            )
    record = {
        "start": model,
        "unjpeg": __version__,
        "commit": source_commit(),
        "machine": machine(),
        "target": originals,
        "source": source,
        "strength": strength,
        "seed": seed,
        "rows": rows,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "adapt-codecs.json").write_text(json.dumps(record, indent=1))


def measure(files: Iterable[Pair], method: Method) -> dict[str, float]:
    """Means over the files of the restored pictures' figures."""
    found = []
    for pair in files:
        pixels = shaped_as(method.restore(pair.file), pair.original)
        found.append((psnr_db(pixels, pair.original), psnr_b_db(pixels, pair.original), ssim(pixels, pair.original)))
    names = ("psnr_db", "psnr_b_db", "ssim")
    return {name: float(np.mean(values)) for name, values in zip(names, zip(*found, strict=True), strict=True)}


def _write_target(originals: dict[str, Pixels], degradation: Degradation, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in originals.items():
        file = folder / f"{Path(name).stem}.{degradation.codec}"
        if not file.exists():
            partial = file.with_suffix(".partial")
            partial.write_bytes(degradation.apply(pixels).file)
            os.replace(partial, file)


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
