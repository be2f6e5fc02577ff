"""Any method on any pictures: figures that hold, picture by picture, and how sure their means are.

``run`` is what ``unjpeg benchmark`` calls. It keeps a journal (``OUT/rows.jsonl``, a line for each picture, degradation
and method), so that an interrupted run goes on where it was, and a changed picture, compressed file, model or program
is measured anew; so is everything when what measures has changed.
``OUT/results.json`` is made from it, in the order of the sets, degradations, methods and pictures: the same command
gives the same file, but for its costs, its commit and its machine.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unjpeg.errors import MeasurementError, SettingError, UnjpegError
from unjpeg.evaluate.journal import Journal
from unjpeg.evaluate.method import Method, shape_like
from unjpeg.evaluate.methods import Printed
from unjpeg.evaluate.metrics import METRICS
from unjpeg.evaluate.pairs import Degradation, FilePair, Subject, TestSet
from unjpeg.evaluate.results import describe_origin, group, load_results, make_finite, put_results
from unjpeg.evaluate.statistics import estimate_difference, estimate_mean
from unjpeg.inspection import verify
from unjpeg.version import source_hash

__all__ = [
    "JOURNAL",
    "RESULTS",
    "Failure",
    "Row",
    "measure",
    "run",
    "summarise",
]

JOURNAL = "rows.jsonl"
RESULTS = "results.json"
GROUPS = ("set", "degradation", "method")
"""What that file's rows are put together by."""

DECIMALS = 6
"""Of stored figures: more than anybody prints, and files stay readable."""

CONSISTENCY = ("share_inside", "consistent")
"""Figures of JPEG files only: the share of coefficients in their cells, and whether ``unjpeg verify`` would agree."""


MEASURING = (
    *("dct", "inspection", "jpeg", "projection", "segments", "tables"),
    *("evaluate.method", "evaluate.metrics", "evaluate.psnr"),
)
"""Modules of this package that figures are computed by."""

_FAILURES = (UnjpegError, ValueError, MemoryError)
"""What costs a picture, and not the run."""


@dataclass(frozen=True, slots=True)
class Row:
    """One picture, one degradation, one method.

    Attributes:
        identity: of the method.
        checksum: of the original's pixels.
        file_checksum: of the compressed file's bytes.
        measured_by: a hash over the source of ``MEASURING``.
        figures: by metric, and ``CONSISTENCY`` for JPEG files.
        size_bytes: of the compressed file.
        megapixels: of the original.
    """

    set: str
    image: str
    degradation: str
    method: str
    identity: str
    checksum: str
    file_checksum: str
    measured_by: str
    figures: dict[str, float]
    size_bytes: int
    megapixels: float

    @property
    def key(self) -> tuple[str, ...]:
        """What a row is of: it stands for the same measurement in another run."""
        what = (self.set, self.image, self.degradation, self.method, self.identity)
        return (*what, self.checksum, self.file_checksum, self.measured_by)


@dataclass(frozen=True, slots=True)
class Failure:
    """What could not be measured.

    Attributes:
        degradation: None if the original cannot be read.
        method: None if the original or the compressed file cannot be had.
        error: why.
    """

    set: str
    image: str
    degradation: str | None
    method: str | None
    error: str

    def __str__(self) -> str:
        where = [f"{self.set}/{self.image}", self.degradation, self.method]
        return f"{', '.join(part for part in where if part is not None)}: {self.error}"


def measure(
    test_set: TestSet,
    degradations: Sequence[Degradation],
    methods: Sequence[Method],
    metrics: Sequence[str],
    *,
    limit: int | None = None,
    known: Mapping[tuple[str, ...], Row] | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> Iterator[Row | Failure]:
    """A row for every picture, degradation and method, in this order, or why there is none.

    An original that cannot be read makes one failure, a compressed file that cannot be made or read one, and a method
    that fails on it one.

    Args:
        metrics: names from ``METRICS``.
        limit: only the first pictures.
        known: rows that need not be measured again.
        progress: takes the number of pictures that are done.
    """
    for number, subject in enumerate(test_set.list_subjects(degradations, limit)):
        cells = len(subject.degradations) * len(methods)
        for done, row in enumerate(_measure_picture(test_set.name, subject, methods, metrics, known or {}), 1):
            yield row
            progress(number + min(done / cells, 1))
        progress(number + 1)


def _measure_picture(
    set_name: str,
    subject: Subject,
    methods: Sequence[Method],
    metrics: Sequence[str],
    known: Mapping[tuple[str, ...], Row],
) -> Iterator[Row | Failure]:
    try:
        checksum = subject.checksum
    except _FAILURES as error:
        yield Failure(set_name, subject.name, None, None, _explain(error))
        return
    measured_by = source_hash(*MEASURING)
    for degradation in subject.degradations:
        try:
            pair = subject.make_pair(degradation)
        except _FAILURES as error:
            yield Failure(set_name, subject.name, degradation, None, _explain(error))
            continue
        file_checksum = hashlib.sha256(pair.file).hexdigest()[:16]
        megapixels = pair.original.shape[0] * pair.original.shape[1] / 1e6
        for method in methods:
            where = (set_name, subject.name, degradation, method.name)
            what = (*where, method.identity, checksum, file_checksum, measured_by)
            row: Row | Failure | None = known.get(what)
            if not isinstance(row, Row) or not set(metrics) <= row.figures.keys():
                try:
                    row = Row(*what, _compare(pair, method, metrics), len(pair.file), megapixels)
                except _FAILURES as error:
                    row = Failure(*where, _explain(error).removeprefix(f"{method.name}: "))  # said once
            yield row


def _compare(pair: FilePair, method: Method, metrics: Sequence[str]) -> dict[str, float]:
    pixels = shape_like(method.restore(pair.file), pair.original)
    figures = {name: round(METRICS[name](pixels, pair.original), DECIMALS) for name in metrics}
    if pair.file[:2] == b"\xff\xd8":
        verification = verify(pair.file, pixels)
        figures |= {
            "share_inside": round(verification.consistency.share_inside, DECIMALS),
            "consistent": float(verification.is_consistent),
        }
    return figures


def _explain(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def run(
    sets: Sequence[TestSet],
    degradations: Sequence[Degradation],
    methods: Sequence[Method],
    metrics: Sequence[str],
    out: Path,
    *,
    limit: int | None = None,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[float], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure everything, or what an earlier run has left, and write ``results.json``.

    Args:
        say: takes what went wrong, a line each.
        progress: takes the number of pictures that are done.

    Returns:
        What that file holds: ``sets`` (per name its pictures), ``methods``, ``degradations``, ``metrics``, ``options``,
        ``summary`` (see ``summarise``), ``rows`` and ``errors``. None stands for a figure that is not finite.

    Raises:
        TrainingDataError: a set is not there.
        SettingError: only printed methods are named.
        MeasurementError: two methods or two sets share a name, or nothing could be measured.
    """
    for kind, names in (("methods", [m.name for m in methods]), ("sets", [s.name for s in sets])):
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise MeasurementError(f"two {kind} are called {', '.join(sorted(twice))}; measure them apart")
    runnable = [method for method in methods if not isinstance(method, Printed)]
    if not runnable:
        raise SettingError("printed figures can only stand beside measured ones: name a method that runs, too (jpeg)")
    rows: list[Row] = []
    failures: list[Failure] = []
    with Journal(out / JOURNAL) as journal:
        known = _read_rows(journal.found)
        counts = (sum(1 for _ in test_set.list_subjects(degradations, limit)) for test_set in sets)
        for test_set, before in zip(sets, itertools.accumulate(counts, initial=0), strict=False):
            found = measure(
                test_set,
                degradations,
                runnable,
                metrics,
                limit=limit,
                known=known,
                progress=lambda done, before=before: progress(before + done),  # type: ignore[misc]
            )
            for row in found:
                if isinstance(row, Failure):
                    failures.append(row)
                    say(str(row))
                    continue
                rows.append(row)
                if known.get(row.key) is not row:
                    journal.add(make_finite(asdict(row)))
    if not rows:
        raise MeasurementError(f"nothing could be measured; the first reason: {failures[0].error}")
    put_results(out / RESULTS, _make_record(sets, methods, metrics, rows, failures, limit), GROUPS)
    return load_results(out / RESULTS)


def _make_record(
    sets: Sequence[TestSet],
    methods: Sequence[Method],
    metrics: Sequence[str],
    rows: Sequence[Row],
    failures: Sequence[Failure],
    limit: int | None,
) -> dict[str, Any]:
    kept = ("set", "image", "degradation", "method", "checksum", "file_checksum", "size_bytes", "megapixels")
    plain = [
        {name: getattr(row, name) for name in kept} | {name: row.figures[name] for name in _list_figures(row, metrics)}
        for row in rows
    ]
    return {
        **describe_origin(),
        "options": {"sets": {s.name: s.asked for s in sets}, "limit": limit},
        "sets": {s.name: len({row.image for row in rows if row.set == s.name}) for s in sets},
        "methods": {m.name: {"spec": m.spec, "identity": m.identity} for m in methods},
        "printed": {m.name: m.row for m in methods if isinstance(m, Printed)},
        "degradations": list(dict.fromkeys(row.degradation for row in rows)),
        "metrics": list(metrics),
        "summary": summarise(plain, [m.name for m in methods]),
        "rows": plain,
        "errors": [asdict(failure) for failure in failures],
    }


def _list_figures(row: Row, metrics: Sequence[str]) -> list[str]:
    return [name for name in (*metrics, *CONSISTENCY) if name in row.figures]


def summarise(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> dict[str, Any]:
    """Means, intervals and paired differences, over the pictures that every method has restored.

    A method that has restored none of a set's pictures at a degradation is left out there.

    Args:
        rows: of a result file; None is an infinite figure.
        methods: their order.

    Returns:
        ``[set][degradation]`` with ``pictures``, ``bits_per_pixel``, ``methods`` (``[method][metric]`` to an
        ``Interval``) and ``differences`` (``["a - b"][metric]`` to a ``Difference``, b before a in the order).
    """
    out: dict[str, Any] = {}
    for (set_name, degradation), here in group(rows, ("set", "degradation")).items():
        found = {name: {r["image"]: r for r in of_one} for (name,), of_one in group(here, ["method"]).items()}
        by_method = {name: found[name] for name in methods if name in found}
        everywhere = set.intersection(*(set(images) for images in by_method.values()))
        images = [image for image in dict.fromkeys(r["image"] for r in here) if image in everywhere]
        if not images:
            continue
        names = [
            name
            for name in (*METRICS, *CONSISTENCY)
            if all(name in by_method[method][image] for method in by_method for image in images)
        ]
        values = {
            method: {name: [_restore_infinity(of_one[image][name]) for image in images] for name in names}
            for method, of_one in by_method.items()
        }
        means = {
            method: {name: asdict(estimate_mean(of_one[name])) for name in names} for method, of_one in values.items()
        }
        first = next(iter(by_method.values()))
        size_bits = sum(8 * first[image]["size_bytes"] for image in images)
        differences = {
            f"{ours} - {theirs}": {
                name: asdict(estimate_difference(values[ours][name], values[theirs][name])) for name in names
            }
            for theirs, ours in itertools.combinations(values, 2)
        }
        out.setdefault(set_name, {})[degradation] = {
            "pictures": len(images),
            "bits_per_pixel": size_bits / sum(1e6 * first[image]["megapixels"] for image in images),
            "methods": means,
            "differences": differences,
        }
    return out


def _restore_infinity(figure: float | None) -> float:
    return math.inf if figure is None else float(figure)


def _read_rows(records: Iterable[Any]) -> dict[tuple[str, ...], Row]:
    """What earlier runs have measured; what is no row of this version's is left out."""
    rows: dict[tuple[str, ...], Row] = {}
    for record in records:
        try:
            row = Row(**record)
            figures = {name: _restore_infinity(figure) for name, figure in row.figures.items()}
        except (AttributeError, TypeError, ValueError):
            continue
        rows[row.key] = replace(row, figures=figures)
    return rows
