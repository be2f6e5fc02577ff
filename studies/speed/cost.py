"""Time by step, memory and tiling: what a restoration costs on the machine at hand, and what the machine could do.

``python -m studies.speed.cost`` measures each size, runtime and precision in a process of its own, so that peak
memory is that run's alone, and writes ``results/cost.json``. Timings are of one run each on whatever else the machine
does: compare ratios within one table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from unjpeg import restorer as restorer_module
from unjpeg import tiling as tiling_module
from unjpeg.console import run_safely
from unjpeg.evaluate.pairs import encode_jpeg, load_images
from unjpeg.evaluate.processes import read_own_peak_mib
from unjpeg.evaluate.results import describe_origin, put_results
from unjpeg.modelfile import ModelFile
from unjpeg.picture import read_picture
from unjpeg.restorer import Restorer
from unjpeg.runtimes import ChosenPrecision, Precision, list_precisions, processor_features
from unjpeg.runtimes.openvino import open_core
from unjpeg.tiling import Tiling

__all__ = [
    "NETWORK",
    "STEPS",
    "enlarge",
    "like_installed",
    "main",
    "measure_ceiling",
    "measure_halos",
    "measure_network_rate",
    "time_restoration",
    "time_start_up",
]

MEGAPIXELS = (0.4, 12.0, 100.0)

STEPS = ("load", "decode", "guide", "compile", "tiles", "waiting", "projection", "conversion", "encode")
"""Of a restoration, in the order in which they begin. ``load`` is the model's, and no part of a picture's total. Where
there are several, tiles run beside the steps that follow; ``waiting`` is for the next one. ``compile`` makes, or finds
on the disk, the graph for a large picture's tiles. Projection is done by several threads, whose seconds add up.
Conversion is everything between the network and the encoder that is not projection."""

NETWORK = ("guide", "compile", "tiles")

PRODUCT_SIDE = 4096
"""Of the square matrices whose product is the machine's ceiling."""

TILE_SIDE = 512
"""Of the tile whose multiply-adds a second are compared with that."""

HALO_QUALITIES = (1, 5, 10, 30)
"""Of the files on which halos are compared."""

HALO_SIDE = 768
"""Of the pictures: larger ones are cut, smaller ones mirrored."""

HALO_CUTS = (256, 264)
"""Where they are cut, on and off the grid of 16 pixels."""

HALO_SIZE = 3000, 4000
"""Of the picture whose tiles the cost of a halo is counted on."""


def main(
    photo: Annotated[Path, typer.Option(help="A picture; it is repeated to the sizes measured.")],
    out: Annotated[Path, typer.Option(help="Folder of cost.json.")] = Path("results"),
    model: Annotated[str, typer.Option(help="Model name or path.")] = "default",
    also: Annotated[list[str], typer.Option(help="Other models, whose network's rate is measured.")] = ["fast"],  # noqa: B006
    megapixels: Annotated[list[float], typer.Option(help="Sizes.")] = list(MEGAPIXELS),  # noqa: B006
    product: Annotated[int, typer.Option(min=64, help="Side of the matrices multiplied.")] = PRODUCT_SIDE,
    repeats: Annotated[int, typer.Option(min=1, help="Of what is short.")] = 5,
    halos: Annotated[list[int], typer.Option(help="Halos to compare.")] = [32, 64, 96, 128, 160, 192],  # noqa: B006
    halo_set: Annotated[Path | None, typer.Option(help="Folder of pictures for the halo table.")] = None,
    halo_pictures: Annotated[int | None, typer.Option(min=1, help="Only the first of them.")] = None,
) -> None:
    """Measure time, memory, the machine's ceiling and the halo's effect."""
    record: dict[str, Any] = {
        **describe_origin(),
        "model": model,
        "start": time_start_up(photo, model, repeats),
        "ceiling": measure_ceiling(product, repeats),
        "networks": {
            name: {precision: measure_network_rate(name, precision, repeats) for precision in _list_precisions(name)}
            for name in dict.fromkeys([model, *also])
        },
        "runs": [],
        "halo": [],
    }
    for name in ("start", "ceiling", "networks"):
        print(f"{name}: {record[name]}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for size in megapixels:
            file = Path(folder) / "large.jpg"
            file.write_bytes(enlarge(photo, size))
            for runtime, precision in [
                *(("openvino", here) for here in _list_precisions(model)),
                ("onnxruntime", "full"),
            ]:
                command = [sys.executable, "-m", __spec__.name, "--one", str(file), runtime, precision, model]
                finished = subprocess.run(command, capture_output=True, text=True, check=True)
                run = json.loads(finished.stdout)
                record["runs"].append(run)
                steps = ", ".join(f"{name} {seconds:.2f}" for name, seconds in run["seconds"].items())
                print(
                    f"{run['megapixels']:6.1f} MP {runtime:12s} {precision:5s} {run['seconds_per_megapixel']:.2f} "
                    f"s/MP, outside the network {run['share_outside_network']:.0%}, "
                    f"peak {run['peak_mib'] or 0:.0f} MiB ({steps})",
                    flush=True,
                )
    if halo_set is not None:
        for here in _list_precisions(model):
            record["halo"] += measure_halos(model, here, halo_set, halos, limit=halo_pictures)
        record["halo_pictures"] = halo_pictures
    put_results(out / "cost.json", record)


def _list_precisions(model: str) -> list[ChosenPrecision]:
    """That this model runs at on this machine: what ``auto`` is first, full last."""
    restorer = Restorer(model)
    here = list_precisions(restorer.model_file, "openvino", "cpu")
    chosen = restorer.load(measure=True)
    return [*dict.fromkeys([chosen, *(precision for precision in here if precision != "full"), "full"])]


def time_start_up(photo: Path, model: str, repeats: int) -> dict[str, float]:
    """Median seconds of whole processes: the command's help, and a picture of 64x64 pixels, JPEG in, PNG out.

    A first run of each, which may have graphs to compile, is not counted.
    """
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.jpg"
        with Image.open(photo) as image:
            small.write_bytes(encode_jpeg(np.asarray(image.convert("RGB"))[:64, :64].copy(), 30))
        restoring = ["restore", str(small), "--overwrite", "--model", model]

        def seconds(*arguments: str) -> float:
            start = time.perf_counter()
            command = [sys.executable, "-m", "unjpeg", *arguments]
            subprocess.run(command, check=True, capture_output=True, env=like_installed())
            return time.perf_counter() - start

        return {
            name: float(np.median([seconds(*arguments) for _ in range(repeats + 1)][1:]))
            for name, arguments in (("help", ["--help"]), ("64x64", restoring))
        }


def like_installed() -> dict[str, str]:
    """The environment of a command that may keep its compiled modules, as an installed program has them."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def measure_ceiling(side: int, repeats: int) -> dict[str, float]:
    """Thousand millions of multiply-adds a second in a product of two square matrices, the best of several.

    In float32, by whichever of numpy's library and the network's runtime is faster; in bfloat16 and 8-bit integers
    only where the processor computes with them.
    """
    import openvino
    from openvino import opset13

    first, second = np.random.default_rng(0).random((2, side, side), dtype=np.float32)
    core = open_core()

    def product(precision: str) -> Callable[[], object]:
        left = opset13.parameter([side, side], np.float32)
        if precision == "int8":
            ends = [opset13.constant(np.float32(end)) for end in (0, 1)]
            rounded = opset13.fake_quantize(left, *ends, *ends, 256)
            whole = opset13.convert(opset13.constant(np.rint(127 * second).astype(np.int8)), "f32")
            factors = rounded, opset13.multiply(whole, opset13.constant(np.float32(1 / 127)))
        else:
            factors = left, opset13.constant(second)
        graph = openvino.Model([opset13.matmul(*factors, False, False)], [left])
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
        request = core.compile_model(graph, "CPU", settings).create_infer_request()
        return lambda: request.infer([first])

    def rate(call: Callable[[], object]) -> float:
        call()
        return side**3 / 1e9 / min(_time_call(call) for _ in range(repeats))

    rates = {"f32": max(rate(lambda: np.matmul(first, second)), rate(product("f32")))}
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        rates["bf16"] = rate(product("bf16"))
    if processor_features() & {"avx512_vnni", "avx_vnni", "amx_int8"}:
        rates["int8"] = rate(product("int8"))
    return rates


def measure_network_rate(model: str, precision: Precision, repeats: int) -> dict[str, Any]:
    """What the network's tiles make of it: multiply-adds of a tile, in thousand millions, and of a second."""
    from unjpeg.evaluate.complexity import SIDE, count_multiply_adds
    from unjpeg.models import DagnConfig

    restorer = Restorer(model, precision=precision)
    loaded = restorer.model
    config = DagnConfig(**restorer.model_file.description.network)
    multiply_adds_g = count_multiply_adds(config)["restoring_multiply_adds_g"] * (TILE_SIDE / SIDE) ** 2
    tile = np.random.default_rng(0).random((1, 3, TILE_SIDE, TILE_SIDE), dtype=np.float32)
    guidance = loaded.guide(tile[..., : loaded.guide_window, : loaded.guide_window])
    loaded.restore(tile, guidance)
    seconds = float(np.median([_time_call(lambda: loaded.restore(tile, guidance)) for _ in range(repeats)]))
    return {
        "runtime": loaded.runtime,
        "multiply_adds_g": multiply_adds_g,
        "seconds": seconds,
        "multiply_adds_g_per_second": multiply_adds_g / seconds,
    }


def _time_call(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class _Stopwatch:
    """Seconds by step. Within a step another may run, in its thread: time counts for the inner one alone."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STEPS, 0.0)
        self._thread = threading.local()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        running = self._charge()
        running.append(name)
        try:
            yield
        finally:
            self._charge().pop()

    def _charge(self) -> list[str]:
        """The steps that run in this thread, the time up to now counted."""
        here, now = vars(self._thread), time.perf_counter()
        running: list[str] = here.setdefault("running", [])
        if running:
            self.seconds[running[-1]] += now - here["since"]
        here["since"] = now
        return running

    def time_calls(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            with self.step(name):
                return call(*arguments, **options)

        return run

    def time_items(self, name: str, call: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def run(*arguments: Any, **options: Any) -> Iterator[Any]:
            items = call(*arguments, **options)
            while True:
                with self.step(name):
                    item = next(items, None)
                if item is None:
                    return
                yield item

        return run


def time_restoration(file: Path, runtime: str, precision: str, model: str) -> dict[str, Any]:
    """Restore one file to PNG, every step timed. Run it in a fresh process: the peak memory is the process's."""
    watch = _Stopwatch()
    module: Any = restorer_module
    tiling: Any = tiling_module
    restorer = Restorer(model, runtime=runtime, precision=precision)  # type: ignore[arg-type]
    with watch.step("load"):
        loaded = restorer.model
    loaded.guide = watch.time_calls("guide", loaded.guide)  # type: ignore[method-assign]
    loaded.shaped = watch.time_calls("compile", loaded.shaped)  # type: ignore[method-assign]
    loaded.restore_pixels = watch.time_calls("tiles", loaded.restore_pixels)  # type: ignore[method-assign]
    restorer._finished_strips = watch.time_items("conversion", restorer._finished_strips)  # type: ignore[method-assign]
    untimed = module.read_picture, module.project, tiling.work_ahead
    tiling.work_ahead = watch.time_items("waiting", tiling.work_ahead)
    module.read_picture = watch.time_calls("decode", module.read_picture)
    module.project = watch.time_calls("projection", module.project)
    try:
        start = time.perf_counter()
        with watch.step("conversion"):
            work = restorer.begin(file)
        with watch.step("encode"):
            work.save(file.with_suffix(".png"), overwrite=True)
        total = time.perf_counter() - start
    finally:
        module.read_picture, module.project, tiling.work_ahead = untimed
    megapixels = work.report.width * work.report.height / 1e6
    return {
        "megapixels": megapixels,
        "runtime": runtime,
        "precision": loaded.precision,
        "seconds": watch.seconds,
        "total_seconds": total,
        "seconds_per_megapixel": total / megapixels,
        "share_outside_network": 1 - sum(watch.seconds[step] for step in NETWORK) / total,
        "peak_mib": read_own_peak_mib(),
    }


def measure_halos(
    model: str, precision: Precision, folder: Path, halos: list[int], limit: int | None = None
) -> list[dict[str, Any]]:
    """Largest and mean difference between tiled and whole-image output, in levels of 255, per halo.

    Each picture, and a pattern drawn from it, is restored whole and without its first rows and columns. What lies a
    halo away from the cut is what tiles of that halo would show. Compared is the network's output within 0..255,
    before it is rounded and projected. Weights of their own for strong compression restore the qualities that they
    are for.
    """
    from unjpeg.train.patterns import draw_pattern

    file = ModelFile.read(model)
    restorers = [Restorer(file, precision=precision)]
    if file.strong:
        restorers.append(Restorer(file.strong, precision=precision))
    rng = np.random.default_rng(0)
    worst, total, count = (np.zeros(len(halos)) for _ in range(3))
    for _, pixels in islice(load_images(folder), limit):
        photo = np.asarray(Image.fromarray(pixels).convert("RGB"))
        pad = [(0, max(0, HALO_SIDE - side)) for side in photo.shape[:2]]
        photo = np.pad(photo, [*pad, (0, 0)], mode="symmetric")[:HALO_SIDE, :HALO_SIDE]
        for image, quality in ((image, q) for q in HALO_QUALITIES for image in (photo, draw_pattern(photo, rng))):
            picture = read_picture(encode_jpeg(np.ascontiguousarray(image), quality))
            restorer = restorers[0 if file.for_quality(quality) is file else 1]
            guidance = restorer.guide(picture)
            whole = restorer.model.restore_pixels(picture.pixels, guidance).clip(0, 255)
            for cut in HALO_CUTS:
                part = restorer.model.restore_pixels(picture.pixels[cut:, cut:], guidance).clip(0, 255)
                difference = np.abs(part - whole[cut:, cut:]).max(axis=2)
                away = np.minimum(*np.indices(difference.shape))
                for number, halo in enumerate(halos):
                    beyond = difference[away >= halo]
                    worst[number] = max(worst[number], beyond.max())
                    total[number] += beyond.sum()
                    count[number] += beyond.size
    core = restorers[0].network.tiling.core
    rows = []
    for number, halo in enumerate(halos):
        plan = Tiling(core, halo).plan(*HALO_SIZE, restorers[0].model.total_stride)
        row = {
            "precision": precision,
            "halo": halo,
            "largest": float(worst[number]),
            "mean": float(total[number] / count[number]),
            "extra_pixels": plan.computed_pixels / (HALO_SIZE[0] * HALO_SIZE[1]) - 1,
        }
        rows.append(row)
        print(
            f"{precision}, halo {halo:3d}: largest difference {row['largest']:.3f} of 255, mean {row['mean']:.5f}; "
            f"{row['extra_pixels']:.0%} more pixels at 12 megapixels",
            flush=True,
        )
    return rows


def enlarge(photo: Path, megapixels: float, sampling: str = "4:2:0") -> bytes:
    """The picture repeated, mirrored at the seams, to a 4:3 picture of about that size, as a JPEG of quality 30."""
    with Image.open(photo) as image:
        pixels = np.asarray(image.convert("RGB"))
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    pad = [(0, max(0, n - m)) for n, m in zip((height, height * 4 // 3), pixels.shape[:2], strict=True)]
    large = np.pad(pixels, [*pad, (0, 0)], mode="symmetric")[:height, : height * 4 // 3]
    return encode_jpeg(np.ascontiguousarray(large), 30, sampling=sampling)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(time_restoration(Path(sys.argv[2]), *sys.argv[3:])))
    else:
        run_safely(lambda: typer.run(main))
