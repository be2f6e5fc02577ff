"""Peak memory of the command ``unjpeg restore``, by the picture's size.

``python -m studies.speed.memory`` restores a JPEG of each size in a process of its own, as a user would, asks the
system for that process' peak resident memory, and appends to ``results/memory.json``.
docs/research/robustness.md has the table.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from studies.speed.cost import enlarge
from unjpeg.console import run_safely
from unjpeg.errors import MeasurementError
from unjpeg.evaluate.processes import measure_peak
from unjpeg.evaluate.results import put_results
from unjpeg.version import machine, source_commit

__all__ = ["main", "measure_restoration"]


def main(
    photo: Annotated[Path, typer.Option(help="A picture; it is repeated to the sizes measured.")],
    out: Annotated[Path, typer.Option(help="Folder of memory.json.")] = Path("results"),
    model: Annotated[str, typer.Option(help="Model name or path.")] = "default",
    megapixels: Annotated[list[float], typer.Option(help="Sizes.")] = [1, 12, 100],  # noqa: B006
    sampling: Annotated[str, typer.Option(help="4:2:0, 4:2:2 or 4:4:4.")] = "4:2:0",
    options: Annotated[str, typer.Option(help="For unjpeg restore, as one argument.")] = "",
    suffix: Annotated[str, typer.Option(help="Of the output.")] = ".png",
    stop_after: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=1, help="The peak is reached in the first tiles; slow models stop there."),
    ] = float("inf"),
) -> None:
    """Measure the peak memory of restoring large pictures."""
    record_path = out / "memory.json"
    record: dict[str, Any] = json.loads(record_path.read_text()) if record_path.exists() else {"runs": []}
    record["machine"] = machine()
    with tempfile.TemporaryDirectory() as folder:
        for size in megapixels:
            source, target = Path(folder, "large.jpg"), Path(folder, f"restored{suffix}")
            source.write_bytes(enlarge(photo, size, sampling))
            run = measure_restoration(source, target, model, options.split(), stop_after)
            record["runs"].append(
                {
                    "megapixels": size,
                    "sampling": sampling,
                    "model": Path(model).stem,
                    "output": suffix,
                    **run,
                    "commit": source_commit(),
                }
            )
            print(json.dumps(record["runs"][-1]), flush=True)
            target.unlink(missing_ok=True)
    put_results(record_path, record)


def measure_restoration(
    source: Path, target: Path, model: str, options: list[str], stop_after: float = float("inf")
) -> dict[str, Any]:
    """Restore a file through the command and say what it took, so many seconds at most.

    Raises:
        MeasurementError: the command failed, or there is no way to ask for its memory.
    """
    command = [sys.executable, "-m", "unjpeg", "restore", str(source), "-o", str(target), "--model", model, *options]
    start = time.perf_counter()
    peak = measure_peak(command, stop_after=None if stop_after == float("inf") else stop_after)
    if peak is None:
        raise MeasurementError("the peak memory of a process cannot be read here")
    if peak.code and not peak.stopped:
        raise MeasurementError(f"unjpeg restore failed: {peak.said.strip()}")
    return {
        "options": " ".join(options),
        "source_bytes": source.stat().st_size,
        "peak_mib": int(peak.mib),
        "seconds": round(time.perf_counter() - start, 1),
        "stopped": peak.stopped,
    }


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
