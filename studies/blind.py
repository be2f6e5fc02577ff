"""What the graph that stands alone costs, and what becomes of it in other programs' tiles.

``python -m studies.blind choose --data DIR`` finds, on crops of the validation split, what the network should be shown
of a picture of which nothing is known. ``python -m studies.blind measure ORIGINALS`` compares the graph with the
program itself, and ``python -m studies.blind tiles ORIGINALS`` lets tiles start beside the grid, and see too little.
The last two write to ``results/blind.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from numpy.typing import NDArray

from unjpeg.blind import find_typical_guidance, fold_guidance, guide_as, make_graph
from unjpeg.console import run_safely, say
from unjpeg.errors import MeasurementError
from unjpeg.evaluate.metrics import psnr_db
from unjpeg.evaluate.pairs import Pixels8, decode, encode_jpeg, load_images
from unjpeg.evaluate.results import describe_origin, load_results, put_results
from unjpeg.modelfile import ModelFile
from unjpeg.network import Guidance, Model, to_network
from unjpeg.restorer import Restorer
from unjpeg.runtimes.graph import Graph
from unjpeg.runtimes.openvino import compile_openvino
from unjpeg.tiling import guide_windows
from unjpeg.train.config import VALIDATION_FRACTION
from unjpeg.train.run import open_images

__all__ = ["main"]

QUALITIES: Final = (10, 20, 30, 40, 50, 70, 90)
SHOWN: Final = (50, 60, 70, 80)
SIDE: Final = 256
STARTS: Final = ((0, 0), (8, 8), (4, 4), (3, 5))
CORE: Final = 128
HALOS: Final = (0, 8, 16, 32, 64, 96)
TILED_QUALITIES: Final = (20, 50)
RESULTS: Final = Path("results/blind.json")

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def choose(
    data: Annotated[list[str], typer.Option("--data", metavar="DIR", help="What the model was trained on.")],
    model: Annotated[str, typer.Option(help="Model name or path.")] = "fast",
    every: Annotated[int, typer.Option(min=1, help="Only every so manieth held-out picture.")] = 2,
) -> None:
    """Print the gain in dB at each quality under guidance that is read, known, or of no picture."""
    crops = open_images(data, VALIDATION_FRACTION).cut_validation_crops(SIDE)[::every]
    crops = [crop[: len(crop) // 8 * 8, : crop.shape[1] // 8 * 8] for crop in crops]
    file = ModelFile.read(model)
    loaded = Model(file, precision="full")
    typical = find_typical_guidance(loaded)
    pairs = {quality: [(decode(encode_jpeg(crop, quality)), crop) for crop in crops] for quality in (*QUALITIES, 95)}
    most = file.description.guide_windows
    read = {
        quality: [
            loaded.guide(np.concatenate([to_network(one) for one in guide_windows(seen, loaded.guide_window, most)]))
            for seen, _ in of_quality
        ]
        for quality, of_quality in pairs.items()
    }
    everything = [guidance for of_quality in read.values() for guidance in of_quality]
    photographs = replace(typical, insensitive=np.mean([one.insensitive for one in everything], axis=0))
    nothing = replace(typical, insensitive=np.zeros_like(typical.insensitive))

    cases: dict[str, Callable[[int, int], Guidance]] = {
        "read from the picture": lambda quality, n: read[quality][n].stating(read[quality][n].quality),
        "known, what photographs show": lambda quality, _n: guide_as(photographs, file, quality),
        "known, what made-up pictures show": lambda quality, _n: guide_as(typical, file, quality),
        "known, zeros": lambda quality, _n: guide_as(nothing, file, quality),
    }
    for one in SHOWN:
        stated = guide_as(typical, file, one)
        silent = replace(stated, stated=guide_as(typical, file, None).stated)
        cases[f"of {one}, nothing stated"] = partial(_always, silent)
        cases[f"of {one}, stated"] = partial(_always, stated)
    for name, guide in cases.items():
        gains = [
            np.mean(
                [
                    psnr_db(_to_pixels(loaded.restore(to_network(seen), guide(quality, n))), crop) - psnr_db(seen, crop)
                    for n, (seen, crop) in enumerate(of_quality)
                ]
            )
            for quality, of_quality in pairs.items()
        ]
        say(f"{name}: {' '.join(f'{gain:+.2f}' for gain in gains)}, mean {np.mean(gains):+.3f} dB")


@app.command()
def measure(
    originals: Annotated[Path, typer.Argument(help="A folder of pictures that were never compressed.")],
    model: Annotated[str, typer.Option(help="Model name or path.")] = "fast",
    way: Annotated[list[str], typer.Option(help="graph, told or pixels.")] = ["graph", "told"],  # noqa: B006
    every: Annotated[int, typer.Option(min=1, help="Only every so manieth picture.")] = 1,
    files: Annotated[Path, typer.Option(help="What was measured of the files themselves.")] = Path(
        "results/live1.json"
    ),
    out: Annotated[Path, typer.Option(metavar="FILE")] = RESULTS,
) -> None:
    """Restore each picture's pixels by the graph, told the quality or not, or as the program restores pixels.

    Means of PSNR, of results of 8 bits, beside those of the JPEGs and of the files restored by the program.
    """
    restorers: dict[str, Callable[[Pixels8, int], Pixels8]] = {}
    if "pixels" in way:
        restorer = Restorer(model)
        restorers["pixels"] = lambda pixels, _quality: restorer.restore(pixels).pixels.astype(np.uint8)
    if {"graph", "told"} & set(way):
        graph = _compile_told(model)
        restorers["graph"] = lambda pixels, _quality: _run(graph, pixels, 0)
        restorers["told"] = lambda pixels, quality: _run(graph, pixels, quality)
    of_files = _read_files(files, model)
    pictures = list(load_images(originals))[::every]
    found: dict[str, dict[str, list[float]]] = {one: {} for one in way}
    for number, (name, original) in enumerate(pictures):
        for quality in QUALITIES:
            decoded = decode(encode_jpeg(original, quality))
            for one in way:
                value = psnr_db(restorers[one](decoded, quality), original)
                found[one].setdefault(str(quality), []).append(value)
        say(f"{number + 1} of {len(pictures)}: {name}")
    for one, by_quality in found.items():
        figures = {
            quality: {
                kind: round(float(np.mean([of_files[kind, name, quality] for name, _ in pictures])), 3)
                for kind in ("jpeg", "file")
            }
            | {one: round(float(np.mean(values)), 3)}
            for quality, values in by_quality.items()
        }
        record = {"pictures": len(pictures), "model_hash": ModelFile.read(model).hash, "psnr_db": figures}
        _keep(out, one, model, record)


def _read_files(results: Path, model: str) -> dict[tuple[str, str, str], float]:
    """PSNR of JPEGs and of files restored by the model, by kind, picture and quality. Raises MeasurementError."""
    record = load_results(results)
    measured, now = record["methods"][model]["identity"].split()[0], ModelFile.read(model).hash
    if measured != now:
        raise MeasurementError(f"{results}: was measured with another {model} ({measured}, not {now}): make bench")
    kinds = {"jpeg": "jpeg", model: "file"}
    return {
        (kinds[row["method"]], row["image"], row["degradation"].removeprefix("jpeg-")): row["psnr_db"]
        for row in record["rows"]
        if row["method"] in kinds
    }


@app.command()
def tiles(
    originals: Annotated[Path, typer.Argument(help="A folder of pictures that were never compressed.")],
    model: Annotated[str, typer.Option(help="Model name or path.")] = "fast",
    every: Annotated[int, typer.Option(min=1, help="Only every so manieth picture.")] = 8,
    out: Annotated[Path, typer.Option(metavar="FILE")] = RESULTS,
) -> None:
    """Start the picture beside the blocks' grid, and cut it into tiles that see more or less of their surroundings."""
    graph = _compile_told(model)
    pictures = [pixels for _, pixels in load_images(originals)][::every]
    starts: dict[str, list[float]] = {f"{top},{left}": [] for top, left in STARTS}
    halos: dict[str, dict[str, list[float]]] = {str(halo): {"levels": [], "loss_db": []} for halo in HALOS}
    for original in pictures:
        for quality in TILED_QUALITIES:
            decoded = decode(encode_jpeg(original, quality))
            most = max(top for top, _ in STARTS)
            common, truth = decoded[most:, most:], original[most:, most:]
            for top, left in STARTS:
                restored = _run(graph, decoded[top:, left:], 0)[most - top :, most - left :]
                starts[f"{top},{left}"].append(psnr_db(restored, truth) - psnr_db(common, truth))
            whole = _run_floats(graph, decoded, 0)
            for halo in HALOS:
                tiled = _run_tiled(graph, decoded, halo)
                halos[str(halo)]["levels"].append(255 * float(np.abs(tiled - whole).max()))
                loss = psnr_db(_to_pixels(whole), original) - psnr_db(_to_pixels(tiled), original)
                halos[str(halo)]["loss_db"].append(loss)
    record = {
        "pictures": len(pictures),
        "qualities": list(TILED_QUALITIES),
        "core": CORE,
        "gain_db_by_start": {start: round(float(np.mean(gains)), 3) for start, gains in starts.items()},
        "by_halo": {
            halo: {
                "worst_levels": round(max(figures["levels"]), 2),
                "loss_db": round(float(np.mean(figures["loss_db"])), 4),
            }
            for halo, figures in halos.items()
        },
    }
    say(json.dumps(record))
    _keep(out, "tiles", model, record)


def _always(guidance: Guidance, _quality: int, _picture: int) -> Guidance:
    return guidance


def _compile_told(model: str) -> Graph:
    """The graph with the quality as an input, which serves for one that is not known, too."""
    file = ModelFile.read(model)
    loaded = Model(file, precision="full")
    typical = find_typical_guidance(loaded)
    network = fold_guidance(file, [guide_as(typical, file, quality) for quality in (None, *range(1, 101))])
    return compile_openvino(make_graph(network), "cpu", None, "full")


def _run(graph: Graph, pixels: Pixels8, quality: int) -> Pixels8:
    return _to_pixels(_run_floats(graph, pixels, quality))


def _run_floats(graph: Graph, pixels: Pixels8, quality: int) -> NDArray[np.float32]:
    """``(1, 3, H, W)``, range 0..1."""
    return graph({"input": to_network(pixels), "quality": np.array([quality], np.float32)})[0]


def _run_tiled(graph: Graph, pixels: Pixels8, halo: int) -> NDArray[np.float32]:
    """Cores of ``CORE`` pixels, each seen with its halo, as far as the picture goes."""
    height, width = pixels.shape[:2]
    whole = np.empty((1, 3, height, width), np.float32)
    for top in range(0, height, CORE):
        for left in range(0, width, CORE):
            above, before = min(halo, top), min(halo, left)
            seen = pixels[top - above : top + CORE + halo, left - before : left + CORE + halo]
            made = _run_floats(graph, seen, 0)[..., above : above + CORE, before : before + CORE]
            whole[..., top : top + CORE, left : left + CORE] = made
    return whole


def _to_pixels(planes: NDArray[np.float32]) -> Pixels8:
    """``(1, 3, H, W)``, range 0..1, to ``(H, W, 3)``."""
    pixels: Pixels8 = (planes[0].transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8)
    return pixels


def _keep(out: Path, part: str, model: str, record: Mapping[str, Any]) -> None:
    """Put a record in its place beside those that are there."""
    kept: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    kept.setdefault(part, {})[model] = {**record, "origin": describe_origin()}
    put_results(out, kept)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command."""
    app(arguments)


if __name__ == "__main__":
    run_safely(main)
