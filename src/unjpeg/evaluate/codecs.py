"""``unjpeg adapt`` on other codecs, measured against originals that the adaptation never sees.

``python -m unjpeg.evaluate.codecs`` writes ``results/adapt-codecs.json``. For each codec it compresses a folder of
pictures, adapts the model to the compressed files with JPEG as the source, and compares decoder, unadapted and adapted
model: on the very files that it was adapted to (as a user would) and on a test set in the same codec.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from unjpeg.cli import run_safely
from unjpeg.errors import TrainingDataError
from unjpeg.evaluate.benchmark import load_images, machine
from unjpeg.evaluate.metrics import psnr_b_db, psnr_db, ssim
from unjpeg.restore import Restorer
from unjpeg.train.adapt import DEFAULT_ADAPTATION, adapt_model
from unjpeg.version import __version__, source_commit

__all__ = ["encode", "main", "measure"]

DATA = Path(os.environ.get("UNJPEG_DATA", "../shared/data"))

Pixels = NDArray[np.uint8]


def main(
    codec: Annotated[list[str], typer.Option(help="webp-QUALITY, avif-QUALITY or jpeg-QUALITY.")] = [  # noqa: B006
        "webp-20",
        "avif-30",
    ],
    model: Annotated[str, typer.Option(help="Model name or path.")] = "default",
    data: Annotated[Path, typer.Option(help="Folder with train/ and test/.")] = DATA,
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
    rows: list[dict[str, Any]] = []
    for name in codec:
        truths = dict(load_images(data / originals))
        target = work / f"{name}-target"
        _write_target(truths, name, target)
        report = adapt_model(
            model,
            target,
            [str(data / folder) for folder in source],
            work / f"{name}-steps{steps}-strength{strength}-seed{seed}",
            config=replace(DEFAULT_ADAPTATION, steps=steps, strength=strength),
            seed=seed,
            say=typer.echo,
        )
        restorers = {"decoder": None, "unadapted": Restorer(model), "adapted": Restorer(report.model)}
        for label, pictures in (("the target itself", truths), (test, dict(load_images(data / "test" / test)))):
            files = {image: (encode(pixels, name), pixels) for image, pixels in pictures.items()}
            figures = {method: measure(files.values(), restorer) for method, restorer in restorers.items()}
            row = {"codec": name, "set": label, "images": len(files), **figures}
            rows.append(row | {key: value for key, value in asdict(report).items() if key != "left_out"})
            typer.echo(
                f"{name} on {label}: "
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


def encode(pixels: Pixels, codec: str) -> bytes:
    """A picture as a file. Raises TrainingDataError for a codec that is none.

    Args:
        codec: format and its encoder's quality, as "webp-20".
    """
    format, _, quality = codec.partition("-")
    if format not in ("webp", "avif", "jpeg") or not quality.isdecimal() or not 0 <= int(quality) <= 100:
        raise TrainingDataError(f"{codec}: no such codec; write webp-20, avif-30 or jpeg-10")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, quality=int(quality))
    return buffer.getvalue()


def measure(files: Iterable[tuple[bytes, Pixels]], restorer: Restorer | None) -> dict[str, float]:
    """Means over (file, original) of the restored pictures' figures; of the decoded ones without a restorer."""
    found = []
    for data, original in files:
        if restorer is None:
            image = Image.open(io.BytesIO(data))
            pixels = np.asarray(image.convert("L" if original.ndim == 2 else "RGB"))
        else:
            restored = restorer.restore(data).pixels.astype(np.uint8, copy=False)
            pixels = restored[..., 0] if original.ndim == 2 and restored.ndim == 3 else restored
        found.append((psnr_db(pixels, original), psnr_b_db(pixels, original), ssim(pixels, original)))
    names = ("psnr_db", "psnr_b_db", "ssim")
    return {name: float(np.mean(values)) for name, values in zip(names, zip(*found, strict=True), strict=True)}


def _write_target(originals: dict[str, Pixels], codec: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    suffix = codec.partition("-")[0]
    for name, pixels in originals.items():
        file = folder / f"{Path(name).stem}.{suffix}"
        if not file.exists():
            partial = file.with_suffix(".partial")
            partial.write_bytes(encode(pixels, codec))
            os.replace(partial, file)


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
