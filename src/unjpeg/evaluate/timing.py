"""What methods cost, side by side: time, memory, and what they compute with.

Methods take turns on the same files, so that whatever else the machine does slows all of them down alike; the median of
all turns counts. A program's time holds its start and its files, as its users have it. Memory is the peak of a process
that does nothing else: of the program itself, or of Python with the network in its runtime.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unjpeg.evaluate.methods import Command, Method, Printed, method_by_name

__all__ = ["Cost", "costs", "own_peak_mib", "peak_mib"]

# A program's peak is read by a process so small that it does not count: a forked child starts with its parent's peak.
_PEAK_OF_COMMAND = """
import resource, subprocess, sys
subprocess.check_call(["/bin/sh", "-c", sys.argv[1]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""


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


def costs(methods: Sequence[Method], files: Sequence[bytes], rounds: int) -> dict[str, Cost]:
    """By method; what is only printed costs nothing here.

    Args:
        files: compressed pictures, at least one.
        rounds: turns of every method on every file, at least one; a first one, not counted, warms up.

    Raises UnjpegError if a method cannot restore a file.
    """
    runnable = [method for method in methods if not isinstance(method, Printed)]
    megapixels = [_megapixels(file) for file in files]
    found: dict[str, list[float]] = {method.name: [] for method in runnable}
    for turn in range(rounds + 1):
        first = turn % len(runnable)
        for file, size in zip(files, megapixels, strict=True):
            for method in (*runnable[first:], *runnable[:first]):
                start = time.perf_counter()
                method.restore(file)
                if turn:
                    found[method.name].append((time.perf_counter() - start) / size)
    largest = files[int(np.argmax(megapixels))]
    out = {}
    for method in runnable:
        complexity = method.complexity()
        out[method.name] = Cost(
            float(np.median(found[method.name])),
            peak_mib(method, largest),
            complexity.parameters_m if complexity else None,
            complexity.multiply_adds_g if complexity else None,
        )
    return out


def peak_mib(method: Method, file: bytes) -> float | None:
    """Memory that a process of its own needs for one file; None where that cannot be read (outside Linux, say)."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.jpg"
        source.write_bytes(file)
        if isinstance(method, Command):
            line = method.command_line(source, Path(folder) / f"out{method.suffix}")
            command = [sys.executable, "-I", "-S", "-c", _PEAK_OF_COMMAND, line]
        else:
            command = [sys.executable, "-m", "unjpeg.evaluate.timing", method.spec, str(source)]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return float(json.loads(finished.stdout))
    except (ValueError, TypeError):
        return None


def own_peak_mib() -> float | None:
    """Most memory that this process has held; None where that cannot be read (outside Linux, say)."""
    # Not getrusage: its peak is inherited from the process that started this one.
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)


def _megapixels(file: bytes) -> float:
    with Image.open(io.BytesIO(file)) as image:
        return image.width * image.height / 1e6


if __name__ == "__main__":
    method_by_name(sys.argv[1]).restore(Path(sys.argv[2]).read_bytes())
    print(json.dumps(own_peak_mib()))
