"""Time, memory and tiling: what a restoration costs on the machine at hand.

``python -m unjpeg.evaluate.cost`` measures each size and runtime in a process of its own, so that peak memory is that
run's alone, and writes ``results/cost.json``. Timings are of one run each on whatever else the machine does: compare
ratios within one table.
"""

from __future__ import annotations

import importlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from unjpeg.cli import run_safely
from unjpeg.evaluate.benchmark import machine
from unjpeg.evaluate.pairs import encode_jpeg, load_images
from unjpeg.picture import read_picture
from unjpeg.restore import Restorer

__all__ = ["halo_table", "main", "time_restoration"]

MEGAPIXELS = (0.4, 12.0, 100.0)
WHOLE = 1 << 20


def main(
    photo: Annotated[Path, typer.Option(help="A picture; it is repeated to the sizes measured.")],
    out: Annotated[Path, typer.Option(help="Folder of cost.json.")] = Path("results"),
    model: Annotated[str, typer.Option(help="Model name or path.")] = "default",
    megapixels: Annotated[list[float], typer.Option(help="Sizes.")] = list(MEGAPIXELS),  # noqa: B006
    halos: Annotated[list[int], typer.Option(help="Halos to compare.")] = [16, 32, 48, 64, 96],  # noqa: B006
    halo_set: Annotated[Path | None, typer.Option(help="Folder of pictures for the halo table.")] = None,
) -> None:
    """Measure time, memory and the halo's effect."""
    record: dict[str, Any] = {"machine": machine(), "model": model, "runs": [], "halo": []}
    with tempfile.TemporaryDirectory() as folder:
        for size in megapixels:
            file = Path(folder) / "large.jpg"
            file.write_bytes(_enlarged(photo, size))
            for runtime in ("openvino", "onnxruntime"):
                command = [sys.executable, "-m", __spec__.name, "--one", str(file), runtime, model]
                finished = subprocess.run(command, capture_output=True, text=True, check=True)
                run = json.loads(finished.stdout)
                record["runs"].append(run)
                steps = ", ".join(f"{name} {seconds:.2f}" for name, seconds in run["seconds"].items())
                print(
                    f"{run['megapixels']:6.1f} MP {runtime:12s} {run['seconds_per_megapixel']:.2f} s/MP, outside the "
                    f"network {run['share_outside_network']:.0%}, peak {run['peak_mib']:.0f} MiB ({steps})",
                    flush=True,
                )
    if halo_set is not None:
        record["halo"] = halo_table(model, halo_set, halos)
    out.mkdir(parents=True, exist_ok=True)
    (out / "cost.json").write_text(json.dumps(record, indent=1))


def time_restoration(file: Path, runtime: str, model: str) -> dict[str, Any]:
    """Restore one file to PNG, every step timed. Run it in a fresh process: the peak memory is the process's."""
    start = time.perf_counter()
    restorer = Restorer(model, runtime=runtime)  # type: ignore[arg-type]
    loaded = restorer.model
    seconds = {"load": time.perf_counter() - start, "network": 0.0}

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            begin = time.perf_counter()
            result = call(*arguments)
            seconds["network"] += time.perf_counter() - begin
            return result

        return run

    loaded.guide = timed(loaded.guide)  # type: ignore[method-assign]
    loaded.restore = timed(loaded.restore)  # type: ignore[method-assign]
    start = time.perf_counter()
    read_picture(file)
    seconds["decode"] = time.perf_counter() - start
    start = time.perf_counter()
    work = restorer.begin(file)
    work.save(file.with_suffix(".png"), overwrite=True)
    total = time.perf_counter() - start
    seconds["project, convert and write png"] = total - seconds["network"] - seconds["decode"]
    megapixels = work.report.width * work.report.height / 1e6
    return {
        "megapixels": megapixels,
        "runtime": runtime,
        "seconds": seconds,
        "seconds_per_megapixel": total / megapixels,
        "share_outside_network": 1 - seconds["network"] / total,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def halo_table(model: str, folder: Path, halos: list[int], quality: int = 10) -> list[dict[str, Any]]:
    """Largest and mean difference between tiled and whole-image output, in levels of 255, per halo.

    The tile's core is made small (96 pixels), so that every picture has many seams; the result before rounding and
    projection is compared.
    """
    module: Any = importlib.import_module("unjpeg.restore")  # the package has a function of that name
    restorer = Restorer(model)
    images = [np.asarray(Image.fromarray(pixels).convert("RGB")) for _, pixels in load_images(folder)]
    tiles = module.TILE_CORE, module.HALO
    rows = []
    try:
        wholes = []
        module.TILE_CORE, module.HALO = WHOLE, 0
        pictures = [read_picture(encode_jpeg(image, quality)) for image in images]
        guidances = [restorer.guide(picture) for picture in pictures]
        for picture, guidance in zip(pictures, guidances, strict=True):
            wholes.append(_restored(restorer, picture.pixels, guidance))
        for halo in halos:
            module.TILE_CORE, module.HALO = 96, halo
            start = time.perf_counter()
            differences = [
                np.abs(_restored(restorer, picture.pixels, guidance) - whole)
                for picture, guidance, whole in zip(pictures, guidances, wholes, strict=True)
            ]
            core = tiles[0]
            row = {
                "halo": halo,
                "largest": float(max(difference.max() for difference in differences)),
                "mean": float(np.mean([difference.mean() for difference in differences])),
                "extra_pixels": (core + 2 * halo) ** 2 / core**2 - 1,
                "seconds": time.perf_counter() - start,
            }
            rows.append(row)
            print(
                f"halo {halo:3d}: largest difference {row['largest']:.3f} of 255, mean {row['mean']:.5f}; "
                f"{row['extra_pixels']:.0%} more pixels at a core of {core}",
                flush=True,
            )
    finally:
        module.TILE_CORE, module.HALO = tiles
    return rows


def _restored(restorer: Restorer, pixels: Any, guidance: Any) -> Any:
    height, core = pixels.shape[0], restorer._tile_core()
    strips = (slice(top, min(top + core, height)) for top in range(0, height, core))
    return np.concatenate(
        [
            np.concatenate([tile for _, tile in restorer._restored_tiles(pixels, guidance, rows)], axis=1)
            for rows in strips
        ]
    )


def _enlarged(photo: Path, megapixels: float) -> bytes:
    """The picture repeated, mirrored at the seams, to a 4:3 picture of about that size, as a JPEG of quality 30."""
    with Image.open(photo) as image:
        pixels = np.asarray(image.convert("RGB"))
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    pad = [(0, max(0, n - m)) for n, m in zip((height, height * 4 // 3), pixels.shape[:2], strict=True)]
    large = np.pad(pixels, [*pad, (0, 0)], mode="symmetric")[:height, : height * 4 // 3]
    return encode_jpeg(np.ascontiguousarray(large), 30)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(time_restoration(Path(sys.argv[2]), sys.argv[3], sys.argv[4])))
    else:
        run_safely(lambda: typer.run(main))
