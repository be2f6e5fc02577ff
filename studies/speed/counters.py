"""Where a tile's time goes, by the runtime's own counters: the graph as it was exported, and for its shape alone.

``python -m studies.speed.counters`` runs both on one thread, in turns, takes the least of each operation, and writes
``results/counters.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import openvino
import typer
from PIL import Image

from unjpeg.console import run_safely
from unjpeg.evaluate.pairs import encode_jpeg
from unjpeg.evaluate.report import format_markdown
from unjpeg.evaluate.results import describe_origin, put_results
from unjpeg.modelfile import ModelFile
from unjpeg.network import inputs_of, to_network
from unjpeg.picture import read_picture
from unjpeg.restorer import Restorer
from unjpeg.runtimes import ChosenPrecision
from unjpeg.runtimes.openvino import open_core
from unjpeg.runtimes.rewrite import interpolate_by_convolution, take_bytes

__all__ = ["Counts", "count_operations", "main"]

QUALITY = 20

Counts = dict[str, tuple[float, int]]
"""Milliseconds and number of operations, by their kind."""


def main(
    photo: Annotated[Path, typer.Option(help="A picture; it is mirrored to the tile's size.")],
    out: Annotated[Path, typer.Option(help="Folder of counters.json.")] = Path("results"),
    models: Annotated[list[str], typer.Option("--model", help="Model names or paths.")] = ["fast", "default"],  # noqa: B006
    side: Annotated[int, typer.Option(min=64, help="Of the tile, in pixels, a multiple of 32.")] = 768,
    repeats: Annotated[int, typer.Option(min=1, help="Turns of each graph.")] = 8,
) -> None:
    """Milliseconds of a tile by kind of operation, before and after."""
    record: dict[str, Any] = {**describe_origin(), "side": side, "tables": []}
    with Image.open(photo) as image:
        pixels = np.asarray(image.convert("RGB"))
    pad = [(0, max(0, side - length)) for length in pixels.shape[:2]]
    pixels = np.ascontiguousarray(np.pad(pixels, [*pad, (0, 0)], mode="symmetric")[:side, :side])
    for model in models:
        file = ModelFile.read(model)
        for precision in get_args(ChosenPrecision):
            if precision == "int8" and file.restore_int8 is None:
                continue
            counts = count_operations(file, precision, encode_jpeg(pixels, QUALITY), repeats)
            if counts is None:
                print(f"{model}, {precision}: this processor or runtime does not take it", flush=True)
                continue
            record["tables"].append({"model": file.description.name, "precision": precision, "milliseconds": counts})
            kinds = sorted(set().union(*counts.values()), key=lambda kind: -counts["exported"].get(kind, (0, 0))[0])
            cells = [[kind, *(_cell(counts[graph].get(kind)) for graph in counts)] for kind in ("all", *kinds[1:])]
            print(f"{model}, {precision}\n" + format_markdown(["ms (operations)", *counts], cells), flush=True)
    put_results(out / "counters.json", record)


def _cell(counted: tuple[float, int] | None) -> str:
    return f"{counted[0]:.1f} ({counted[1]})" if counted else ""


def count_operations(
    file: ModelFile, precision: ChosenPrecision, jpeg: bytes, repeats: int
) -> dict[str, Counts] | None:
    """Of the graphs "exported" and "shaped" the least of several turns; the kind "all" is their sum.

    None where the runtime does not run at that precision.

    Args:
        jpeg: a picture whose sides are multiples of the network's stride; it is one tile.
    """
    picture = read_picture(jpeg)
    guidance = Restorer(file, precision="full", threads=1).guide(picture)
    core = open_core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return None
    graph = file.restore_int8 if precision == "int8" else file.restore
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": 1,
        "PERF_COUNT": True,
    }
    exported, shaped = (core.read_model(graph, b"") for _ in range(2))
    interpolate_by_convolution(shaped)
    shaped.reshape({"image": [1, 3, *picture.pixels.shape[:2]]})
    take_bytes(shaped, "image")
    images = {"exported": to_network(picture.pixels), "shaped": picture.pixels[None]}
    ready = {}
    for name, model in (("exported", exported), ("shaped", shaped)):
        compiled = core.compile_model(model, "CPU", settings)
        inputs = inputs_of(guidance) | {"image": images[name]}
        names = [node.get_any_name() for node in compiled.inputs]
        ready[name] = compiled.create_infer_request(), [inputs[one] for one in names]
    least: dict[str, dict[str, tuple[float, str]]] = {name: {} for name in ready}
    for _ in range(repeats):
        for name, (request, values) in ready.items():
            request.infer(values)
            for counter in request.get_profiling_info():
                if counter.status == openvino.ProfilingInfo.Status.EXECUTED:
                    kind, held = counter.node_type, least[name].get(counter.node_name)
                    if kind == "Convolution":
                        kind += f" {counter.exec_type.rpartition('_')[2]}"
                    took = counter.real_time.total_seconds() * 1e3
                    least[name][counter.node_name] = min(took, held[0] if held else took), kind
    return {name: _by_kind(counted) for name, counted in least.items()}


def _by_kind(counted: dict[str, tuple[float, str]]) -> Counts:
    counts: Counts = {"all": (sum(took for took, _ in counted.values()), len(counted))}
    for took, kind in counted.values():
        before, number = counts.get(kind, (0.0, 0))
        counts[kind] = before + took, number + 1
    return counts


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
