"""Learning curves of the shipped models: what the validation split said while they trained.

::

    python -m studies.documents.curves default=runs/first,runs/second fast=runs/third

reads the event files of trainings that followed one another and writes ``results/learning-curves.json``; with
``--more`` they follow those that the file has already, whose event files may be gone.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.figure import Figure

from unjpeg.console import run_safely
from unjpeg.errors import MeasurementError, SettingError
from unjpeg.evaluate.results import put_results
from unjpeg.version import source_commit

__all__ = ["draw", "hash_record", "main", "read_training"]

RESULTS = "learning-curves.json"
SIZE = (4.4, 3.4)
"""Inches of one model's panel."""


def read_training(folder: Path) -> dict[str, Any]:
    """Steps, and PSNR in dB by quality, of one training.

    Raises:
        MeasurementError: nothing was validated in that folder.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from unjpeg.train.dagn import VALIDATION_QUALITIES

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    known = events.Tags()["scalars"]
    tags = {str(quality): f"dagn/psnr_db_q{quality}" for quality in VALIDATION_QUALITIES}
    if not set(tags.values()) <= set(known):
        raise MeasurementError(f"{folder}: holds no validations of a training")
    # A training that was killed takes its last steps again: the later value counts.
    found = {quality: {event.step: event for event in events.Scalars(tag)} for quality, tag in tags.items()}
    steps = sorted(next(iter(found.values())))
    return {
        "steps": steps,
        "psnr_db": {quality: [at[step].value for step in steps] for quality, at in found.items()},
        "commit": source_commit(),
    }


def draw(record: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """A panel for each model, as a PNG file: PSNR above its first value, by quality, over all its trainings' steps."""
    figure = Figure(figsize=(SIZE[0] * len(record), SIZE[1]), layout="constrained")
    for axis, (name, trainings) in zip(figure.subplots(1, len(record), squeeze=False)[0], record.items(), strict=True):
        for number, quality in enumerate(trainings[0]["psnr_db"]):
            start, first = 0, trainings[0]["psnr_db"][quality][0]
            for part in trainings:
                thousands = [(start + step) / 1000 for step in part["steps"]]
                gained = [value - first for value in part["psnr_db"][quality]]
                label = f"quality {quality}" if part is trainings[0] else None
                axis.plot(thousands, gained, color=f"C{number}", label=label, linewidth=1.2)
                start += part["steps"][-1]
        start = 0
        for part in trainings[:-1]:
            start += part["steps"][-1]
            axis.axvline(start / 1000, color="0.7", linestyle=":", linewidth=1)
        axis.set_title(f"{name}: a dotted line where a training follows another", fontsize="small")
        axis.set_xlabel("thousand steps")
        axis.set_ylabel("dB above the first validation")
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small", loc="lower right")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None, "Comment": hash_record(record)})
    return buffer.getvalue()


def hash_record(record: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """What a drawn file carries as its comment, so that a test can tell whether it is of this record."""
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()


def main(
    models: Annotated[
        list[str], typer.Argument(metavar="NAME=DIR,DIR", help="A model, and the folders of its trainings in turn.")
    ],
    out: Annotated[Path, typer.Option(help=f"Folder of {RESULTS}.")] = Path("results"),
    more: Annotated[bool, typer.Option("--more", help="Keep what the file has; these trainings follow.")] = False,
) -> None:
    """Collect what trainings have logged."""
    record: dict[str, list[dict[str, Any]]] = json.loads((out / RESULTS).read_text()) if more else {}
    for given in models:
        name, separator, folders = given.partition("=")
        if not separator:
            raise SettingError(f"{given}: write it as NAME=DIR,DIR")
        record[name] = record.get(name, []) + [read_training(Path(folder)) for folder in folders.split(",")]
    put_results(out / RESULTS, record)


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
