"""Memory over many pictures of many sizes: a worker of a batch, the page, a ``Restorer`` in a loop. ``make memory``.

Each runs in a process of its own, whose resident memory is read after every picture. The largest after the first fifty
may be a tenth above the largest of those.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unjpeg.version import source_commit

WARM_UP = 50
"""Pictures after which memory may not grow any more."""

MOST_GROWTH = 0.10

Progress = Callable[[], None]
"""Called after each picture."""


def pictures(count: int, sides: tuple[int, int], seed: int = 1) -> Iterator[tuple[NDArray[np.uint8], bytes]]:
    """Pictures of random sizes, pixels and JPEG file, each of its own size."""
    draw = random.Random(seed)
    y, x = np.mgrid[0 : sides[1], 0 : sides[1]]
    rng = np.random.default_rng(seed)
    planes = [np.sin(x / 7 + i) * np.cos(y / 9) * 90 + 128 + rng.normal(0, 6, x.shape) for i in range(3)]
    whole = np.stack(planes, axis=2).clip(0, 255).astype(np.uint8)
    for number in range(count):
        height, width = (draw.randint(*sides) for _ in range(2))
        pixels = np.ascontiguousarray(whole[:height, :width])
        buffer = io.BytesIO()
        sampling, progressive = draw.choice([(0, False), (2, False), (2, True)])
        Image.fromarray(pixels).save(
            buffer, "JPEG", quality=draw.randint(10, 95), subsampling=sampling, progressive=progressive
        )
        yield (pixels if number % 5 else pixels[..., 0].copy()), buffer.getvalue()


def in_a_loop(model: str, count: int, sides: tuple[int, int], done: Progress) -> None:
    """``Restorer.restore`` of files and of arrays."""
    from unjpeg import Restorer

    restorer = Restorer(model, threads=1)
    for number, (pixels, data) in enumerate(pictures(count, sides)):
        restorer.restore(pixels if number % 4 == 0 else data)
        done()


def in_a_worker(model: str, count: int, sides: tuple[int, int], done: Progress) -> None:
    """A worker of a batch, from file to file."""
    from unjpeg.batch import Job
    from unjpeg.batch.journal import Journal
    from unjpeg.batch.workers import _Worker
    from unjpeg.settings import Settings

    settings = Settings(model, overwrite=True)
    worker = _Worker(settings, Journal(settings.fingerprint, beside_inputs=False), 1, settings.limits)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, (_, data) in enumerate(pictures(count, sides)):
            (folder / "in.jpg").write_bytes(data)
            format = ("png", "jpeg", "tiff", "webp")[number % 4]
            outcome = worker.run(Job(str(folder / "in.jpg"), folder / f"out.{format}", format, folder), lambda _: None)
            assert outcome.error is None, outcome.error
            done()


def on_the_page(model: str, count: int, sides: tuple[int, int], done: Progress) -> None:
    """A worker of the page: pictures are opened, looked at, saved and forgotten, as many as fit."""
    from unjpeg import Restorer
    from unjpeg.jpeg import Limits
    from unjpeg.restorer import Options
    from unjpeg.web.darkroom import Darkroom, FileKind

    restorer = Restorer(model, threads=1)
    room = Darkroom(restorer, limits=Limits(), held_bytes=2**24, held_seconds=900)
    for number, (_, data) in enumerate(pictures(count, sides)):
        key = str(number)
        room.open(data, key)
        for view in ("decoded", "restored", "residual"):
            room.show(key, view, Options(), 8.0)
        room.check(key, Options(strength=0.5))
        room.save(key, Options(bit_depth=16), FileKind("tiff"))
        room.restore(data, Options(), FileKind("webp"))
        done()


PLACES = {"Restorer in a loop": in_a_loop, "worker of a batch": in_a_worker, "page": on_the_page}


def resident_mib() -> float:
    """Of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


def _measured(place: str, model: str, count: int, sides: tuple[int, int], results: str) -> None:
    held: list[float] = []
    PLACES[place](model, count, sides, lambda: held.append(resident_mib()))
    Path(results).write_text(json.dumps(held))


def measure(place: str, model: str, count: int, sides: tuple[int, int]) -> list[float]:
    """Resident memory in MiB after each picture, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "held.json"
        process = multiprocessing.get_context("spawn").Process(
            target=_measured, args=(place, model, count, sides, str(results))
        )
        process.start()
        process.join()
        if process.exitcode != 0:
            raise RuntimeError(f"{place}: the process ended with {process.exitcode}")
        held: list[float] = json.loads(results.read_text())
        return held


def growth(held: list[float], warm_up: int = WARM_UP) -> float:
    """How far the largest after the warm-up lies above the largest before, as a share; negative below."""
    return max(held[warm_up:]) / max(held[:warm_up]) - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="fast")
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--sides", type=int, nargs=2, default=(32, 640), metavar=("LEAST", "MOST"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = []
    for place in PLACES:
        start = time.monotonic()
        held = measure(place, given.model, given.pictures, tuple(given.sides))
        rows.append(
            {
                "place": place,
                "model": given.model,
                "pictures": given.pictures,
                "first_mib": round(max(held[:WARM_UP])),
                "last_mib": round(held[-1]),
                "growth": round(growth(held), 3),
                "seconds": round(time.monotonic() - start),
                "commit": source_commit(),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    if given.out:
        given.out.write_text(json.dumps(rows, indent=1) + "\n")
    sys.exit(any(row["growth"] > MOST_GROWTH for row in rows))


if __name__ == "__main__":
    main()
