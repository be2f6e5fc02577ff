"""Any method on any pictures: figures that hold, picture by picture, and how sure their means are.

``run`` is what ``unjpeg benchmark`` calls. It keeps a journal (``OUT/rows.jsonl``, a line for each picture, degradation
and method), so that an interrupted run goes on where it was, and a changed picture, model or program is measured anew.
``OUT/results.json`` is made from it, in the order of the pictures: the same command gives the same file, but for its
costs, its commit and its machine.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unjpeg.errors import MeasurementError, UnjpegError
from unjpeg.evaluate.journal import Journal
from unjpeg.evaluate.methods import Method, Printed, shaped_as
from unjpeg.evaluate.metrics import METRICS
from unjpeg.evaluate.pairs import Degradation, Pair, Subject, TestSet
from unjpeg.evaluate.statistics import difference, interval
from unjpeg.inspection import verify
from unjpeg.version import __version__, machine, source_commit

__all__ = ["JOURNAL", "RESULTS", "Row", "load_results", "machine", "measured", "run", "summarised", "write_json"]

JOURNAL = "rows.jsonl"
RESULTS = "results.json"

DECIMALS = 6
"""Of stored figures: more than anybody prints, and files stay readable."""

CONSISTENCY = ("share_inside", "consistent")
"""Figures of JPEG files only: the share of coefficients in their cells, and whether ``unjpeg verify`` would agree."""


@dataclass(frozen=True, slots=True)
class Row:
    """One picture, one degradation, one method.

    Attributes:
        checksum: of the original.
        figures: by metric, and ``CONSISTENCY`` for JPEG files; empty if it failed.
        size_bytes: of the compressed file.
        megapixels: of the original.
        error: why there are no figures.
    """

    set: str
    image: str
    degradation: str
    method: str
    identity: str
    checksum: str
    figures: dict[str, float]
    size_bytes: int
    megapixels: float
    error: str | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """What a row is of: it stands for the same measurement in another run."""
        return (self.set, self.image, self.degradation, self.method, self.identity, self.checksum)


def measured(
    test_set: TestSet,
    degradations: Sequence[Degradation],
    methods: Sequence[Method],
    metrics: Sequence[str],
    *,
    limit: int | None = None,
    known: Mapping[tuple[str, ...], Row] | None = None,
) -> Iterator[Row]:
    """A row for every picture, degradation and method, in this order.

    A picture that cannot be read, and one that a method fails on, gives rows with an error.

    Args:
        metrics: names from ``METRICS``.
        limit: only the first pictures.
        known: rows that need not be measured again.
    """
    known = known or {}
    for subject in test_set.subjects(degradations, limit):
        for degradation in subject.degradations:
            made: Pair | None = None
            for method in methods:
                where = (test_set.name, subject.name, degradation, method.name, method.identity)
                try:
                    row = known.get((*where, subject.checksum))
                    if row is not None and row.error is None and set(metrics) <= row.figures.keys():
                        yield row
                        continue
                    made = made or subject.pair(degradation)
                    yield _row(where, subject, made, method, metrics)
                except (UnjpegError, ValueError, MemoryError) as error:
                    reason = " ".join(str(error).split()) or type(error).__name__
                    yield Row(*where, "", {}, 0, 0.0, reason)


def _row(where: tuple[str, ...], subject: Subject, pair: Pair, method: Method, metrics: Sequence[str]) -> Row:
    pixels = shaped_as(method.restore(pair.file), pair.original)
    figures = {name: round(METRICS[name](pixels, pair.original), DECIMALS) for name in metrics}
    if pair.file[:2] == b"\xff\xd8":
        verification = verify(pair.file, pixels)
        figures |= {
            "share_inside": round(verification.consistency.share_inside, DECIMALS),
            "consistent": float(verification.is_consistent),
        }
    megapixels = pair.original.shape[0] * pair.original.shape[1] / 1e6
    return Row(*where, subject.checksum, figures, len(pair.file), megapixels)  # type: ignore[call-arg, arg-type]


def run(
    sets: Sequence[TestSet],
    degradations: Sequence[Degradation],
    methods: Sequence[Method],
    metrics: Sequence[str],
    out: Path,
    *,
    limit: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure everything, or what an earlier run has left, and write ``results.json``.

    Returns:
        What that file holds: ``sets`` (per name its pictures), ``methods``, ``degradations``, ``metrics``, ``summary``
        (see ``summarised``), ``rows`` and ``errors``.

    Raises:
        TrainingDataError: a set is not there.
        MeasurementError: two methods or two sets share a name, or nothing could be measured.
    """
    for kind, names in (("methods", [m.name for m in methods]), ("sets", [s.name for s in sets])):
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise MeasurementError(f"two {kind} are called {', '.join(sorted(twice))}; measure them apart")
    runnable = [method for method in methods if not isinstance(method, Printed)]
    rows: list[Row] = []
    with Journal(out / JOURNAL) as journal:
        known = _rows(journal.found)
        for test_set in sets:
            for row in measured(test_set, degradations, runnable, metrics, limit=limit, known=known):
                rows.append(row)
                if row.error is not None:
                    say(f"{row.set}/{row.image}, {row.degradation}, {row.method}: {row.error}")
                elif known.get(row.key) is not row:
                    journal.add(asdict(row))
    if all(row.error is not None for row in rows):
        raise MeasurementError(f"nothing could be measured; the first reason: {rows[0].error}")
    record = _record(sets, methods, metrics, rows)
    write_json(out / RESULTS, record)
    return record


def _record(
    sets: Sequence[TestSet], methods: Sequence[Method], metrics: Sequence[str], rows: Sequence[Row]
) -> dict[str, Any]:
    good = [row for row in rows if row.error is None]
    degradations = list(dict.fromkeys(row.degradation for row in rows))
    kept = ("set", "image", "degradation", "method", "size_bytes", "megapixels")
    plain = [
        {name: getattr(row, name) for name in kept} | {name: row.figures[name] for name in _of(row, metrics)}
        for row in good
    ]
    return {
        "unjpeg": __version__,
        "commit": source_commit(),
        "machine": machine(),
        "sets": {s.name: len({row.image for row in good if row.set == s.name}) for s in sets},
        "methods": {m.name: {"spec": m.spec, "identity": m.identity} for m in methods},
        "printed": {m.name: m.row for m in methods if isinstance(m, Printed)},
        "degradations": degradations,
        "metrics": list(metrics),
        "summary": summarised(plain),
        "rows": plain,
        "errors": [
            {name: getattr(row, name) for name in ("set", "image", "degradation", "method", "error")}
            for row in rows
            if row.error is not None
        ],
    }


def _of(row: Row, metrics: Sequence[str]) -> list[str]:
    return [name for name in (*metrics, *CONSISTENCY) if name in row.figures]


def summarised(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means, intervals and paired differences, over the pictures that every method has restored.

    Returns:
        ``[set][degradation]`` with ``pictures``, ``bits_per_pixel``, ``methods`` (``[method][metric]`` to an
        ``Interval``) and ``differences`` (``["a - b"][metric]`` to a ``Difference``).
    """
    out: dict[str, Any] = {}
    for (set_name, degradation), group in _grouped(rows, "set", "degradation"):
        by_method = {name: {r["image"]: r for r in of_one} for (name,), of_one in _grouped(group, "method")}
        everywhere = set.intersection(*(set(images) for images in by_method.values()))
        images = [image for image in dict.fromkeys(r["image"] for r in group) if image in everywhere]
        if not images:
            continue
        names = [
            name
            for name in (*METRICS, *CONSISTENCY)
            if all(name in by_method[method][image] for method in by_method for image in images)
        ]
        values = {
            method: {name: [float(of_one[image][name]) for image in images] for name in names}
            for method, of_one in by_method.items()
        }
        means = {method: {name: asdict(interval(of_one[name])) for name in names} for method, of_one in values.items()}
        first = next(iter(by_method.values()))
        size_bits = sum(8 * first[image]["size_bytes"] for image in images)
        differences = {
            f"{ours} - {theirs}": {name: asdict(difference(values[ours][name], values[theirs][name])) for name in names}
            for theirs, ours in itertools.combinations(values, 2)
        }
        out.setdefault(set_name, {})[degradation] = {
            "pictures": len(images),
            "bits_per_pixel": size_bits / sum(1e6 * first[image]["megapixels"] for image in images),
            "methods": means,
            "differences": differences,
        }
    return out


def load_results(path: Path) -> dict[str, Any]:
    """A ``results.json``. Raises MeasurementError if it cannot be read."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MeasurementError(f"{path}: is no readable result file ({error})") from error
    return record


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a result file whole or not at all, each row of a list on a line of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    parts = []
    for key, value in record.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            text = "[\n" + ",\n".join(json.dumps(row) for row in value) + "\n]"
        else:
            text = json.dumps(value, indent=1)
        parts.append(f"{json.dumps(key)}: {text}")
    partial.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
    os.replace(partial, path)


def _rows(records: Iterable[Any]) -> dict[tuple[str, ...], Row]:
    """What earlier runs have measured; what is no row of this version's is left out."""
    rows: dict[tuple[str, ...], Row] = {}
    for record in records:
        try:
            row = Row(**record)
        except TypeError:
            continue
        rows[row.key] = row
    return rows


def _grouped(
    rows: Iterable[Mapping[str, Any]], *fields: str
) -> Iterator[tuple[tuple[Any, ...], list[Mapping[str, Any]]]]:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[field] for field in fields), []).append(row)
    yield from groups.items()
