"""Measure what ships: JPEG files made from a test set go through ``Restorer.restore``, and the result is compared.

``python -m unjpeg.evaluate.benchmark --data DIR --out DIR`` writes one JSON file per test set, with every image's
figures, the model's hash, the commit and the machine. Those files are what the documentation's tables are made from.
"""

from __future__ import annotations

import io
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from unjpeg.cli import run_safely
from unjpeg.datasets import image_files, resolved
from unjpeg.evaluate.metrics import psnr_b_db, psnr_db, ssim
from unjpeg.inspection import verify
from unjpeg.restore import ConsistencyPolicy, Restorer
from unjpeg.version import __version__, source_commit

__all__ = ["EncoderName", "Measurement", "encode_jpeg", "load_images", "main", "mean_row", "measure"]

EncoderName = Literal["libjpeg", "mozjpeg"]

QUALITIES = (10, 20, 30, 40, 70, 90, 95, 100)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One picture, one quality, one method.

    Attributes:
        method: "jpeg" (as decoded), or the model's name with its consistency policy.
        share_inside: of the result's coefficients in the file's cells, as ``unjpeg verify`` counts them.
        consistent: what ``unjpeg verify`` would say.
        seconds: of ``Restorer.restore``, decoding included; 0 for "jpeg".
    """

    image: str
    quality: int
    method: str
    psnr_db: float
    ssim: float
    psnr_b_db: float
    share_inside: float
    consistent: bool
    seconds: float


def load_images(folder: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Names and pixels (grey or RGB) of a test set, sorted by name. Raises TrainingDataError if there is none."""
    for file in image_files(folder):
        with Image.open(file) as image:
            yield file.name, np.asarray(image if image.mode == "L" else image.convert("RGB"))


def encode_jpeg(pixels: NDArray[np.uint8], quality: int, encoder: EncoderName = "libjpeg") -> bytes:
    """A JPEG file, 4:2:0, standard tables.

    Args:
        encoder: "libjpeg", which the published tables' JPEG row comes from, or "mozjpeg", whose trellis search moves
            coefficients out of the original's cells to save bytes.
    """
    if encoder == "mozjpeg":
        import pyvips  # its wheels bring mozjpeg

        image = pyvips.Image.new_from_array(pixels)
        file: bytes = image.jpegsave_buffer(
            Q=quality, subsample_mode="on", trellis_quant=True, overshoot_deringing=True
        )
        return file
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()


def measure(
    images: Iterable[tuple[str, NDArray[np.uint8]]],
    restorer: Restorer | None,
    qualities: Sequence[int],
    policies: Sequence[ConsistencyPolicy] = ("auto",),
    with_ssim: bool = True,
    encoder: EncoderName = "libjpeg",
) -> Iterator[Measurement]:
    """The decoded JPEG's figures, then the restorer's (if any) under each consistency policy."""
    for name, original in images:
        for quality in qualities:
            file = encode_jpeg(original, quality, encoder)
            decoded = np.asarray(Image.open(io.BytesIO(file)))
            results = [("jpeg", decoded, 0.0)]
            for policy in policies if restorer else ():
                assert restorer is not None
                start = time.perf_counter()
                restored = restorer.restore(file, consistency=policy)
                seconds = time.perf_counter() - start
                label = f"{restorer.model_file.description['name']}, consistency {policy}"
                results.append((label, restored.pixels.astype(np.uint8, copy=False), seconds))
            for method, pixels, seconds in results:
                verification = verify(file, pixels)
                yield Measurement(
                    image=name,
                    quality=quality,
                    method=method,
                    psnr_db=psnr_db(pixels, original),
                    ssim=ssim(pixels, original) if with_ssim else float("nan"),
                    psnr_b_db=psnr_b_db(pixels, original),
                    share_inside=verification.consistency.share_inside,
                    consistent=verification.is_consistent,
                    seconds=seconds,
                )


def mean_row(rows: Iterable[Measurement], method: str, quality: int) -> dict[str, float]:
    """Mean over the images of each figure."""
    chosen = [row for row in rows if row.method == method and row.quality == quality]
    fields = ("psnr_db", "ssim", "psnr_b_db", "share_inside", "consistent", "seconds")
    return {field: float(np.mean([getattr(row, field) for row in chosen])) for field in fields}


def main(
    data: Annotated[Path, typer.Option(help="Folder that holds test/<set>.")] = Path("../shared/data"),
    out: Annotated[Path, typer.Option(help="Folder of the result files.")] = Path("results"),
    sets: Annotated[list[str], typer.Option("--set", help="Data sets, or folders of pictures.")] = ["live1", "bsds500"],  # noqa: B006
    model: Annotated[str, typer.Option(help="Model name or path.")] = "default",
    quality: Annotated[list[int], typer.Option(help="JPEG qualities.")] = list(QUALITIES),  # noqa: B006
    policy: Annotated[list[str], typer.Option(help="Consistency policies.")] = ["auto", "off"],  # noqa: B006
    encoder: Annotated[str, typer.Option(help="What makes the JPEG files: libjpeg or mozjpeg.")] = "libjpeg",
) -> None:
    """Measure a model on test sets and print the tables."""
    if encoder not in get_args(EncoderName):
        raise typer.BadParameter(f"--encoder must be one of {', '.join(get_args(EncoderName))}")
    restorer = Restorer(model)
    out.mkdir(parents=True, exist_ok=True)
    for name in sets:
        rows = []
        beside = data / "test" / name
        images = list(load_images(beside if beside.is_dir() else resolved(name)))
        name = Path(name).name
        for row in measure(images, restorer, quality, policy, encoder=encoder):  # type: ignore[arg-type]
            rows.append(row)
            if sys.stderr.isatty():
                print(f"\r{name}: {len(rows)}", end="", file=sys.stderr)
        methods = list(dict.fromkeys(row.method for row in rows))
        summary = {method: {q: mean_row(rows, method, q) for q in quality} for method in methods}
        record: dict[str, Any] = {
            "set": name,
            "images": len(images),
            "encoder": encoder,
            "model": restorer.model_file.description["name"],
            "model_hash": restorer.model_file.hash,
            "unjpeg": __version__,
            "commit": source_commit(),
            "machine": machine(),
            "summary": summary,
            "rows": [asdict(row) for row in rows],
        }
        stem = f"{name}-{record['model']}" + ("" if encoder == "libjpeg" else f"-{encoder}")
        (out / f"{stem}.json").write_text(json.dumps(record, indent=1))
        print(f"\n{name} ({len(images)} images): PSNR dB / SSIM / PSNR-B dB, share of coefficients in their cells")
        for method in methods:
            for q in quality:
                mean = summary[method][q]
                print(
                    f"  {method:30s} QF {q:3d}  {mean['psnr_db']:.2f} / {mean['ssim']:.3f} / {mean['psnr_b_db']:.2f}"
                    f"   {mean['share_inside']:.4f}  consistent {mean['consistent']:.2f}"
                )


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return {"processor": model, "cores": os.cpu_count(), "python": platform.python_version()}


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
