"""Whole commands, side by side: how many pictures a minute, with how many workers, and against other programs.

``python -m studies.speed.throughput workers`` restores one album with different numbers of worker processes;
``... against`` gives one file to programs and models, ``... album`` a folder of pictures, ``... precisions`` one file
to models at each precision. They take turns, so that whatever else the machine does slows all of them down alike, and
the median of the turns counts. All write to ``results/throughput.json``.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from studies.speed.cost import enlarge, like_installed
from unjpeg.console import run_safely
from unjpeg.errors import MeasurementError
from unjpeg.evaluate.results import describe_origin, put_results
from unjpeg.machine import allowed_cores
from unjpeg.modelfile import ModelFile
from unjpeg.precision import choose_precision
from unjpeg.runtimes import list_precisions

__all__ = ["against", "album", "app", "precisions", "take_turns", "workers"]

UNTRAINED_NAMES = ("fbcnn-sized", "published")
"""Of ``studies.dagn.complexity``, which needs torch."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

PhotoOption = Annotated[Path, typer.Option(help="A picture; it is repeated to the size measured.")]
OutOption = Annotated[Path, typer.Option(help="Folder of throughput.json.")]
RoundsOption = Annotated[int, typer.Option(min=1, help="Turns of each; the median counts.")]
MegapixelsOption = Annotated[float, typer.Option(help="Size of a picture.")]


OptionsOption = Annotated[str, typer.Option(help="For unjpeg restore, as one argument: its precision, say.")]


@app.command()
def workers(
    photo: PhotoOption,
    out: OutOption = Path("results"),
    model: Annotated[str, typer.Option(help="Model name or path.")] = "default",
    counts: Annotated[list[int], typer.Option("--workers", help="Worker processes.")] = [1, 2, 4],  # noqa: B006
    pictures: Annotated[int, typer.Option(min=2, help="In the album.")] = 16,
    megapixels: MegapixelsOption = 1.0,
    rounds: RoundsOption = 3,
) -> None:
    """Pictures a minute of `unjpeg restore ALBUM`, start and all, by the number of workers."""
    with tempfile.TemporaryDirectory() as folder:
        album = Path(folder, "album")
        album.mkdir()
        for number in range(pictures):
            (album / f"{number}.jpg").write_bytes(enlarge(photo, megapixels))

        def command(count: int) -> list[str]:
            where = [str(album), "-o", str(Path(folder, "out")), "--overwrite", "--model", model]
            return [sys.executable, "-m", "unjpeg", "restore", *where, "--workers", str(count)]

        seconds = take_turns({str(count): command(count) for count in counts}, rounds)
    rates = {name: 60 * pictures / median for name, median in seconds.items()}
    record = {"pictures": pictures, "megapixels": megapixels, "model": model, "a_minute": rates}
    _keep(out, f"workers-{megapixels:g}", record)


@app.command()
def against(
    photo: PhotoOption,
    programs: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=COMMAND",
            help="With {input} and {output}; alone: a model's name, or fbcnn-sized or published, untrained.",
        ),
    ],
    out: OutOption = Path("results"),
    megapixels: MegapixelsOption = 6.0,
    rounds: RoundsOption = 3,
    suffix: Annotated[str, typer.Option(help="Of the models' output; programs write .jpg.")] = ".png",
    options: OptionsOption = "",
) -> None:
    """Seconds of whole processes on one file, and how many cores they keep busy."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "large.jpg")
        source.write_bytes(enlarge(photo, megapixels))
        commands, busy = {}, dict[str, float]()
        for given in programs:
            name, _, line = given.partition("=")
            if not line and name in UNTRAINED_NAMES:
                from studies.dagn.complexity import write_untrained

                model = Path(folder, f"{name}.unjpeg")
                write_untrained(name, model)
                name = str(model)
            target = Path(folder, f"restored{'.jpg' if line else suffix}")
            parts = shlex.split(line) if line else _restore_with(name, "{input}", "{output}", options)
            commands[Path(name).stem] = [part.format(input=source, output=target) for part in parts]
        seconds = take_turns(commands, rounds, busy=busy)
    record = {"megapixels": megapixels, "output": suffix, "options": options, "seconds": seconds, "cores": busy}
    _keep(out, f"against-{megapixels:g}" + ("" if suffix == ".png" else suffix), record)


@app.command()
def album(
    photo: PhotoOption,
    programs: Annotated[
        list[str],
        typer.Argument(metavar="NAME=COMMAND", help="With {input} and {output}, for one picture; alone: a model."),
    ],
    out: OutOption = Path("results"),
    pictures: Annotated[int, typer.Option(min=2, help="In the album.")] = 50,
    megapixels: MegapixelsOption = 1.0,
    rounds: RoundsOption = 3,
    options: OptionsOption = "",
) -> None:
    """Seconds for a folder of pictures, JPEG in and out: a program once for each, on every core."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "album"), Path(folder, "out")
        source.mkdir()
        target.mkdir()
        data = enlarge(photo, megapixels)
        for number in range(pictures):
            (source / f"{number}.jpg").write_bytes(data)
        commands, busy = {}, dict[str, float]()
        for given in programs:
            name, _, line = given.partition("=")
            if line:
                each = [sys.executable, "-c", _FOR_EACH, str(allowed_cores()), line, str(source), str(target)]
            else:
                each = _restore_with(name, str(source), str(target), f"--format jpeg {options}")
            commands[Path(name).stem] = each
        seconds = take_turns(commands, rounds, busy=busy)
    record = {"pictures": pictures, "megapixels": megapixels, "options": options, "seconds": seconds, "cores": busy}
    _keep(out, f"album-{pictures}", record)


@app.command()
def precisions(
    photo: PhotoOption,
    models: Annotated[list[str], typer.Argument(help="Model names or paths.")],
    out: OutOption = Path("results"),
    megapixels: MegapixelsOption = 6.0,
    rounds: RoundsOption = 5,
) -> None:
    """Seconds of whole processes, JPEG in and out, at each precision that runs here, and at the one that auto takes."""
    record: dict[str, Any] = {"megapixels": megapixels, "models": {}}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "large.jpg")
        source.write_bytes(enlarge(photo, megapixels))
        for model in models:
            file = ModelFile.read(model)
            choice = choose_precision(file, "openvino", measure=True)
            commands = {
                name: _restore_with(model, str(source), str(Path(folder, "restored.jpg")), f"--precision {name}")
                for name in ("auto", *list_precisions(file, "openvino", "cpu"))
            }
            seconds = take_turns(commands, rounds)
            fastest = min(value for name, value in seconds.items() if name != "auto")
            found = {"auto": choice.precision, "seconds": seconds, "auto_over_fastest": seconds["auto"] / fastest}
            record["models"][Path(model).stem] = found
    _keep(out, f"precisions-{megapixels:g}", record)


_FOR_EACH = """
import pathlib, shlex, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
cores, line, source, target = sys.argv[1:]
def run(path):
    parts = [part.format(input=path, output=pathlib.Path(target, path.name)) for part in shlex.split(line)]
    subprocess.run(parts, check=True, stdout=subprocess.DEVNULL)
with ThreadPoolExecutor(int(cores)) as pool:
    list(pool.map(run, sorted(pathlib.Path(source).iterdir())))
"""
"""A command for every file of a folder, so many at a time."""


def _restore_with(model: str, source: str, target: str, options: str) -> list[str]:
    """Our own command."""
    where = [source, "-o", target, "--overwrite", "--model", model]
    return [sys.executable, "-m", "unjpeg", "restore", *where, *shlex.split(options)]


def take_turns(
    commands: Mapping[str, list[str]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    busy: dict[str, float] | None = None,
) -> dict[str, float]:
    """Median seconds of each command; a first turn, which may have graphs to compile, is not counted.

    Args:
        busy: is told how many cores each kept busy, in the mean over its turns.

    Raises:
        MeasurementError: one failed.
    """
    found: dict[str, list[float]] = {name: [] for name in commands}
    computed = dict.fromkeys(commands, 0.0)
    names = list(commands)
    for turn in range(rounds + 1):
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            start, before = clock(), _children_seconds()
            ran = subprocess.run(commands[name], capture_output=True, text=True, check=False, env=like_installed())
            if ran.returncode:
                raise MeasurementError(f"{name} failed: {ran.stderr.strip()[-500:]}")
            if turn:
                found[name].append(clock() - start)
                computed[name] += _children_seconds() - before
                print(f"{name}: {found[name][-1]:.1f} s", flush=True)
    if busy is not None:
        busy |= {name: computed[name] / sum(found[name]) for name in names}
    return {name: float(np.median(seconds)) for name, seconds in found.items()}


def _children_seconds() -> float:
    """That the processes which this one has ended computed, user and system."""
    times = os.times()
    return times.children_user + times.children_system


def _keep(out: Path, name: str, measured: Mapping[str, Any]) -> None:
    path = out / "throughput.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    record[name] = {**describe_origin(), **measured}
    put_results(path, record)
    print(json.dumps(record[name]), flush=True)


if __name__ == "__main__":
    run_safely(app)
