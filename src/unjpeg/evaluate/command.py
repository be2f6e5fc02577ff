"""``unjpeg benchmark``: names in, figures and a report out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from unjpeg.datasets import image_files
from unjpeg.errors import MeasurementError, SettingError
from unjpeg.evaluate.benchmark import GROUPS, RESULTS, run
from unjpeg.evaluate.method import Method
from unjpeg.evaluate.methods import Printed, find_installed_methods
from unjpeg.evaluate.metrics import METRICS
from unjpeg.evaluate.pairs import Degradation, Subject, TestSet
from unjpeg.evaluate.processes import interrupting_on_signals
from unjpeg.evaluate.report import make_sections, write_report
from unjpeg.evaluate.results import put_results
from unjpeg.evaluate.timing import measure_costs

__all__ = ["benchmark"]

Say = Callable[[str], None]

Bar = Callable[[str, int], AbstractContextManager[Callable[[float], None]]]
"""What is being done, and how many times; within, a function that takes how many are done."""

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
    bar: Bar,
) -> list[str]:
    """Measure what the command line names, and write the report.

    Args:
        rounds: of timing; 0 leaves costs out.
        pictures: to show in the report, by name.
        real: folders of pictures without originals, to show before and after.
        show: takes the result, line by line.
        say: takes what went wrong, a line each.
        bar: shows how far the work is.

    Returns:
        What went wrong: a method is not installed, a picture has failed. The others are measured.

    Raises:
        SettingError: a name means nothing.
        TrainingDataError: a folder holds no pictures, or a data set is not whole.
        MeasurementError: nothing could be measured.
    """
    problems: list[str] = []

    def complain(line: str) -> None:
        problems.append(line)
        say(line)

    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise SettingError(f"no metric {unknown[0]!r}; there are {', '.join(METRICS)}")
    chosen = [Degradation.parse(name) for name in dict.fromkeys(degradations)]
    sets = TestSet.parse_all(data)
    found, missing = find_installed_methods(methods)
    runnable = [method for method in found if not isinstance(method, Printed)]
    subjects = [subject for test_set in sets for subject in test_set.list_subjects(chosen, limit)]
    for reason in missing:
        complain(reason)
    if missing and not runnable:
        raise MeasurementError("none of the methods can be run")
    _check_shown(pictures, subjects, real, runnable)
    with interrupting_on_signals():
        with bar("measuring", len(subjects)) as progress:
            record = run(
                sets, chosen, found, list(metrics) or list(METRICS), out, limit=limit, say=complain, progress=progress
            )
        if rounds:
            record["options"]["rounds"] = rounds
            record["costs"] = _time_methods(record, sets[0], chosen, runnable, rounds, complain, bar)
            put_results(out / RESULTS, record, GROUPS)
        for line in _format_lines(record):
            show(line)
        made = list(make_sections(record, sets, chosen, found, show=pictures, real=real, say=complain))
        write_report(made, record, out)
    return problems


def _check_shown(
    pictures: Sequence[str], subjects: Sequence[Subject], real: Sequence[Path], runnable: Sequence[Method]
) -> None:
    """What is only looked at in the end is wrong before the work."""
    names = {name for subject in subjects for name in (subject.name, Path(subject.name).stem)}
    unknown = [name for name in pictures if name not in names]
    if unknown:
        raise SettingError(f"--show {unknown[0]}: there is no such picture among those that are measured")
    for folder in real:
        if not folder.is_dir():
            raise SettingError(f"--real {folder}: no such folder")
        if len(runnable) < 2:
            raise SettingError(f"--real {folder}: name a second method to show before and after")
        image_files(folder)


def _time_methods(
    record: Mapping[str, Any],
    test_set: TestSet,
    degradations: Sequence[Degradation],
    methods: Sequence[Method],
    rounds: int,
    complain: Say,
    bar: Bar,
) -> dict[str, Any]:
    """Of the methods that have restored anything, on the first pictures that all of those have restored."""
    subjects = list(test_set.list_subjects(degradations))
    timed = subjects[0].degradations[0]
    done = {
        (row["image"], row["method"])
        for row in record["rows"]
        if (row["set"], row["degradation"]) == (test_set.name, timed)
    }
    able = [method for method in methods if method.name in {name for _, name in done}]
    whole = [s for s in subjects if able and all((s.name, method.name) in done for method in able)]
    files = [subject.make_pair(timed).file for subject in islice(whole, TIMED_PICTURES)]
    if not files:
        complain(f"costs are left out: no picture of {test_set.name} was restored by every method at {timed}")
        return {}
    with bar("timing", rounds + 1) as progress:
        return {name: asdict(cost) for name, cost in measure_costs(able, files, rounds, progress).items()}


def _format_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """The three calibrated metrics, or what was asked for instead."""
    names = [name for name in METRICS if name in record["metrics"]][:3]
    for set_name, per_degradation in record["summary"].items():
        for degradation, figures in per_degradation.items():
            yield f"{set_name}, {degradation}, {figures['pictures']} pictures: {' / '.join(names)}"
            for method, means in figures["methods"].items():
                values = " / ".join("inf" if (m := means[name]["mean"]) is None else f"{m:.3f}" for name in names)
                yield f"  {method:30s} {values}"
