"""``unjpeg adapt`` on other codecs, measured against originals that the adaptation never sees.

``python -m studies.carn.codecs`` keeps a journal (``results/adapt-codecs.jsonl``, a line for each codec and set) and
writes all that it holds to ``results/adapt-codecs.json``. For each codec it compresses a folder of pictures, adapts the
model to the compressed files with JPEG as the source, once more without an adversary (``--strength 0``: as many steps
of fine-tuning on the source), and compares decoder, unadapted, fine-tuned and adapted model: on the very files that it
was adapted to (as a user would) and on a test set in the same codec.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from unjpeg.adapt.domains import checksum
from unjpeg.adapt.model import DEFAULT_ADAPTATION, AdaptationReport, adapt_model
from unjpeg.console import run_safely
from unjpeg.datasets import data_root
from unjpeg.errors import TrainingError
from unjpeg.evaluate.journal import Journal
from unjpeg.evaluate.method import Method, shape_like
from unjpeg.evaluate.methods import Decoder, UnjpegModel
from unjpeg.evaluate.metrics import psnr_b_db, psnr_db, ssim
from unjpeg.evaluate.pairs import Degradation, FilePair, Pixels8, load_images
from unjpeg.evaluate.results import put_results
from unjpeg.files import put_in_place
from unjpeg.modelfile import ModelFile
from unjpeg.models.quality_discriminator import DiscriminatorInput
from unjpeg.train.config import VALIDATION_FRACTION
from unjpeg.train.pipeline import open_images

__all__ = ["main", "measure"]

JOURNAL, RESULTS = "adapt-codecs.jsonl", "adapt-codecs.json"
TARGET = "the target itself"

Key = dict[str, Any]


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
    discriminator: Annotated[DiscriminatorInput, typer.Option(help="What it looks at.")] = (
        DEFAULT_ADAPTATION.discriminator.inputs
    ),
    seed: Annotated[int, typer.Option(min=0, help="Of the adaptation.")] = 0,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    work: Annotated[Path, typer.Option(help="Folder of the targets and the adaptations.")] = Path("runs/adapt"),
    out: Annotated[Path, typer.Option(help="Folder of the result file.")] = Path("results"),
) -> None:
    """Adapt a model to other codecs and measure what it gains. Exit code 1 if one of them could not be adapted to."""
    if not 0 <= strength < math.inf:  # not a number: the option's own check lets it pass
        raise typer.BadParameter("--strength must be a number from 0 up")
    degradations = {name: Degradation.parse(name) for name in dict.fromkeys(codec)}
    file = ModelFile.read(model)
    root = data or data_root()
    sets = {TARGET: dict(load_images(root / originals)), test: dict(load_images(root / "test" / test))}
    sources = [str(root / folder) for folder in source]
    common = {
        "start": model,
        "start_hash": file.hash,
        "target": originals,
        "target_sha256": checksum(list(sets[TARGET].values())),
        "source": source,
        "source_sha256": open_images(sources, VALIDATION_FRACTION).manifest["training_sha256"],
        "steps": steps,
        "strength": strength,
        "discriminator": discriminator,
        "seed": seed,
    }
    failed = False
    with Journal(out / JOURNAL) as journal:
        rows = {_serialise(row["key"]): row for row in journal.found}
        for name, degradation in degradations.items():
            keys = {
                which: {"codec": name, "set": which, **common, "set_sha256": checksum(list(pictures.values()))}
                for which, pictures in sets.items()
            }
            missing = [which for which, key in keys.items() if _serialise(key) not in rows]
            if not missing:
                continue
            target = work / f"{name}-target-{common['target_sha256'][:10]}"
            _write_target(sets[TARGET], degradation, target)
            try:
                # Without an adversary it is the same, whatever the discriminator.
                alone = {"strength": 0.0, "discriminator": DEFAULT_ADAPTATION.discriminator.inputs}
                adapted, tuned = (
                    _adapt(model, name, target, sources, work, {**common, **settings}, accelerator)
                    for settings in ({}, alone)
                )
            except TrainingError as error:
                typer.echo(f"{name}: {error}", err=True)
                failed = True
                continue
            methods = {
                "decoder": Decoder(),
                "unadapted": UnjpegModel(model),
                "fine-tuned": UnjpegModel(tuned.model),
                "adapted": UnjpegModel(adapted.model),
            }
            for which in missing:
                row = {"key": keys[which], **_measure_set(sets[which], degradation, methods, adapted)}
                journal.add(row)
                rows[_serialise(keys[which])] = row
                figures = ", ".join(f"{method} {row[method]['psnr_db']:.3f} dB" for method in methods)
                typer.echo(f"{name} on {which}: {figures}")
    put_results(out / RESULTS, {"rows": [row["key"] | _leave_out(row, "key") for row in rows.values()]})
    if failed:
        raise typer.Exit(1)


def _serialise(key: Key) -> str:
    return json.dumps(key, sort_keys=True)


def _leave_out(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def _adapt(
    model: str, codec: str, target: Path, source: list[str], work: Path, settings: Key, accelerator: str
) -> AdaptationReport:
    """One adaptation in a folder of its own: whatever decides about it is in the folder's name."""
    digest = hashlib.sha256(_serialise(settings).encode()).hexdigest()[:10]
    default = DEFAULT_ADAPTATION
    looking = replace(default.discriminator, inputs=settings["discriminator"])
    config = replace(default, steps=settings["steps"], strength=settings["strength"], discriminator=looking)
    return adapt_model(
        model,
        target,
        source,
        work / f"{codec}-strength{settings['strength']:g}-{digest}",
        config=config,
        seed=settings["seed"],
        accelerator=accelerator,
        say=typer.echo,
    )


def _measure_set(
    pictures: Mapping[str, Pixels8], degradation: Degradation, methods: Mapping[str, Method], report: AdaptationReport
) -> dict[str, Any]:
    files = [degradation.apply(pixels) for pixels in pictures.values()]
    return {
        "images": len(files),
        **{label: measure(files, method) for label, method in methods.items()},
        "kept_steps": report.steps,
        # But for what the key has already, and names of files.
        **_leave_out(
            asdict(report), "left_out", "images", "start", "start_hash", "seed", "strength", "steps_asked", "steps"
        ),
    }


def measure(files: Iterable[FilePair], method: Method) -> dict[str, float]:
    """Means over the files of the restored pictures' figures."""
    found = []
    for pair in files:
        pixels = shape_like(method.restore(pair.file), pair.original)
        found.append((psnr_db(pixels, pair.original), psnr_b_db(pixels, pair.original), ssim(pixels, pair.original)))
    names = ("psnr_db", "psnr_b_db", "ssim")
    return {name: float(np.mean(values)) for name, values in zip(names, zip(*found, strict=True), strict=True)}


def _write_target(originals: Mapping[str, Pixels8], degradation: Degradation, folder: Path) -> None:
    """Each original compressed, under its whole name: two may differ in their suffix alone."""
    folder.mkdir(parents=True, exist_ok=True)
    suffix = "jpeg" if degradation.codec == "mozjpeg" else degradation.codec
    for name, pixels in originals.items():
        file = folder / f"{name}.{suffix}"
        if not file.exists():
            put_in_place(file, degradation.apply(pixels).file, overwrite=True)


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
