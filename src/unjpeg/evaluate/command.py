"""``unjpeg benchmark``: names in, figures and a report out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from unjpeg.errors import MeasurementError, SettingError
from unjpeg.evaluate.benchmark import run
from unjpeg.evaluate.methods import Method, method_by_name
from unjpeg.evaluate.metrics import METRICS
from unjpeg.evaluate.pairs import Degradation, TestSet

__all__ = ["benchmark"]

Say = Callable[[str], None]


def benchmark(
    data: Sequence[str],
    methods: Sequence[str],
    degradations: Sequence[str],
    metrics: Sequence[str],
    out: Path,
    *,
    limit: int | None,
    show: Say,
    say: Say,
) -> None:
    """Measure what the command line names.

    Args:
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
    found, missing = _installed(methods)
    for reason in missing:
        say(reason)
    if not found:
        raise MeasurementError("none of the methods can be run")
    record = run(sets, chosen, found, list(metrics) or list(METRICS), out, limit=limit, say=say)
    for line in _lines(record):
        show(line)
    if missing or record["errors"]:
        raise typer.Exit(1)


def _installed(specs: Sequence[str]) -> tuple[list[Method], list[str]]:
    """The methods that can be run, and why the others cannot."""
    found, missing = [], []
    for spec in dict.fromkeys(specs):
        try:
            found.append(method_by_name(spec))
        except MeasurementError as error:
            missing.append(str(error))
    return found, missing


def _lines(record: Mapping[str, Any]) -> Iterator[str]:
    """The three calibrated metrics, or what was asked for instead."""
    names = [name for name in METRICS if name in record["metrics"]][:3]
    for set_name, per_degradation in record["summary"].items():
        for degradation, figures in per_degradation.items():
            yield f"{set_name}, {degradation}, {figures['pictures']} pictures: {' / '.join(names)}"
            for method, means in figures["methods"].items():
                values = " / ".join(f"{means[name]['mean']:.3f}" for name in names)
                yield f"  {method:30s} {values}"
