"""``unjpeg benchmark``: names in, figures and a report out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import typer

from unjpeg.errors import MeasurementError, SettingError
from unjpeg.evaluate.benchmark import RESULTS, run, write_json
from unjpeg.evaluate.methods import installed_methods
from unjpeg.evaluate.metrics import METRICS
from unjpeg.evaluate.pairs import Degradation, Subject, TestSet
from unjpeg.evaluate.report import sections, write_report
from unjpeg.evaluate.timing import costs

__all__ = ["benchmark"]

Say = Callable[[str], None]

TIMED_PICTURES = 3
"""So many of the first set's first pictures are timed."""


def benchmark(
    data: Sequence[str],
    methods: Sequence[str],
    degradations: Sequence[str],
    metrics: Sequence[str],
    out: Path,
    *,
    limit: int | None,
    rounds: int,
    pictures: Sequence[str],
    real: Sequence[Path],
    show: Say,
    say: Say,
) -> None:
    """Measure what the command line names, and write the report.

    Args:
        rounds: of timing; 0 leaves costs out.
        pictures: to show in the report, by name.
        real: folders of pictures without originals, to show before and after.
        show: takes the result, line by line.
        say: takes what went wrong, a line each.

    Raises:
        SettingError: a name means nothing.
        MeasurementError: nothing could be measured.
        typer.Exit: with code 1, if a method is not installed or a picture has failed.
    """
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise SettingError(f"no metric {unknown[0]!r}; there are {', '.join(METRICS)}")
    chosen = [Degradation.parse(name) for name in dict.fromkeys(degradations)]
    sets = [TestSet.parse(name) for name in data]
    found, missing = installed_methods(methods)
    for reason in missing:
        say(reason)
    if not found:
        raise MeasurementError("none of the methods can be run")
    record = run(sets, chosen, found, list(metrics) or list(METRICS), out, limit=limit, say=say)
    if rounds:
        subjects = islice(_measured(record, sets[0], chosen), TIMED_PICTURES)
        files = [subject.pair(subject.degradations[0]).file for subject in subjects]
        record["costs"] = {name: asdict(cost) for name, cost in costs(found, files, rounds).items()} if files else {}
        write_json(out / RESULTS, record)
    write_report(list(sections(record, sets, chosen, found, show=pictures, real=real)), record, out)
    for line in _lines(record):
        show(line)
    if missing or record["errors"]:
        raise typer.Exit(1)


def _measured(record: Mapping[str, Any], test_set: TestSet, degradations: Sequence[Degradation]) -> Iterator[Subject]:
    """The pictures that nothing failed on."""
    names = {row["image"] for row in record["rows"] if row["set"] == test_set.name}
    names -= {error["image"] for error in record["errors"]}
    return (subject for subject in test_set.subjects(degradations) if subject.name in names)


def _lines(record: Mapping[str, Any]) -> Iterator[str]:
    """The three calibrated metrics, or what was asked for instead."""
    names = [name for name in METRICS if name in record["metrics"]][:3]
    for set_name, per_degradation in record["summary"].items():
        for degradation, figures in per_degradation.items():
            yield f"{set_name}, {degradation}, {figures['pictures']} pictures: {' / '.join(names)}"
            for method, means in figures["methods"].items():
                values = " / ".join(f"{means[name]['mean']:.3f}" for name in names)
                yield f"  {method:30s} {values}"
