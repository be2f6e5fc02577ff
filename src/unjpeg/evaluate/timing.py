"""What methods cost, side by side: time, memory, and what they compute with.

Methods take turns on the same files, so that whatever else the machine does slows all of them down alike; the median of
all turns counts. A program's time holds its start and its files, as its users have it. Memory is the peak of a process
that does nothing else: of the program itself, or of Python with the network in its runtime.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unjpeg.evaluate.method import Method
from unjpeg.evaluate.methods import Command, find_method, guess_suffix
from unjpeg.evaluate.processes import measure_peak, read_own_peak_mib, run_whole

__all__ = ["Cost", "measure_costs", "measure_peak_mib"]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one method costs.

    Attributes:
        seconds_per_megapixel: median of all turns.
        peak_mib: memory for the largest of the files; None where it cannot be read.
        parameters_m, multiply_adds_g: millions, and thousand millions for a picture of 512x512; None unless it is a
            network that can be counted.
    """

    seconds_per_megapixel: float
    peak_mib: float | None
    parameters_m: float | None
    multiply_adds_g: float | None


def measure_costs(
    methods: Sequence[Method],
    files: Sequence[bytes],
    rounds: int,
    progress: Callable[[float], None] = lambda _: None,
) -> dict[str, Cost]:
    """By method.

    Args:
        methods: that can be run, at least one.
        files: compressed pictures, at least one.
        rounds: turns of every method on every file, at least one; a first one, not counted, warms up.
        progress: takes the number of turns that are over.

    Raises UnjpegError if a method cannot restore a file.
    """
    megapixels = [_count_megapixels(file) for file in files]
    found: dict[str, list[float]] = {method.name: [] for method in methods}
    for turn in range(rounds + 1):
        first = turn % len(methods)
        for number, (file, size) in enumerate(zip(files, megapixels, strict=True), 1):
            for method in (*methods[first:], *methods[:first]):
                start = time.perf_counter()
                method.restore(file)
                if turn:
                    found[method.name].append((time.perf_counter() - start) / size)
            progress(turn + number / len(files))
    largest = files[int(np.argmax(megapixels))]
    out = {}
    for method in methods:
        complexity = method.count_complexity()
        out[method.name] = Cost(
            float(np.median(found[method.name])),
            measure_peak_mib(method, largest),
            complexity.parameters_m if complexity else None,
            complexity.multiply_adds_g if complexity else None,
        )
    return out


def measure_peak_mib(method: Method, file: bytes) -> float | None:
    """Memory that a process of its own needs for one file; None where that cannot be read (outside Linux, say)."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, f"in{guess_suffix(file)}")
        source.write_bytes(file)
        if isinstance(method, Command):
            line = method.fill_in(source, Path(folder, f"out{method.suffix}"))
            peak = measure_peak(["/bin/sh", "-c", line])
            return None if peak is None or peak.code else peak.mib
        finished = run_whole([sys.executable, "-m", "unjpeg.evaluate.timing", method.spec, str(source)])
    try:
        return float(json.loads(finished.stdout))
    except (ValueError, TypeError):
        return None


def _count_megapixels(file: bytes) -> float:
    with Image.open(io.BytesIO(file)) as image:
        return image.width * image.height / 1e6


if __name__ == "__main__":
    find_method(sys.argv[1]).restore(Path(sys.argv[2]).read_bytes())
    print(json.dumps(read_own_peak_mib()))
