"""Result files: JSON that is there whole or not at all, with figures of single pictures in columns.

A benchmark's rows are many and much alike. They are stored by groups (a set, a degradation, a method): a column for
each figure, one value where all pictures of the group share it, nothing where the group before has the same column.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unjpeg.errors import MeasurementError
from unjpeg.files import put_in_place, report_errors
from unjpeg.version import __version__, machine, source_commit

__all__ = ["describe_origin", "group", "load_results", "make_finite", "put_results"]

LINE = 120
"""What holds other lists or mappings, and would be longer, takes several lines."""


def describe_origin() -> dict[str, Any]:
    """What made a result file, and where: version, commit, machine."""
    return {"unjpeg": __version__, "commit": source_commit(), "machine": machine()}


def put_results(path: Path, record: Mapping[str, Any], by: Sequence[str] = ()) -> None:
    """Write a result file, and its folder where that lacks. None stands for a figure that is not finite.

    Args:
        by: fields of the record's ``rows`` whose values make a group; without any, rows are stored as they are.

    Raises OutputError.
    """
    record = make_finite(record)
    if by:
        record = {**record, "rows": {"columns": list(_pack(record["rows"], by))}}
    with report_errors(str(path.parent)):
        path.parent.mkdir(parents=True, exist_ok=True)
    put_in_place(path, f"{_lay_out(record)}\n".encode(), overwrite=True)


def load_results(path: Path) -> dict[str, Any]:
    """What ``put_results`` was given, rows in the order of their groups. Raises MeasurementError."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        rows = record.get("rows")
        if isinstance(rows, dict):
            record["rows"] = list(_unpack(rows["columns"]))
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise MeasurementError(f"{path}: is no readable result file ({error})") from error
    return record


def make_finite(value: Any) -> Any:
    """The same of mappings, lists and figures, None where a figure is infinite or no number: JSON knows neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: make_finite(item) for key, item in value.items()}
    return [make_finite(item) for item in value] if isinstance(value, list | tuple) else value


def group(rows: Iterable[Mapping[str, Any]], fields: Sequence[str]) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    """Rows by the values of these fields, in the order in which each value comes first."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[field] for field in fields), []).append(row)
    firsts = [list(dict.fromkeys(values)) for values in zip(*groups, strict=True)]
    order = sorted(groups, key=lambda key: [first.index(value) for first, value in zip(firsts, key, strict=True)])
    return {key: groups[key] for key in order}


def _pack(rows: Iterable[Mapping[str, Any]], fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    before: dict[str, Any] = {}
    for of_one in group(rows, fields).values():
        # Among files that were given, some have figures that others lack.
        for alike in (list(run) for _, run in itertools.groupby(of_one, key=lambda row: row.keys())):
            columns = {name: _shorten([row[name] for row in alike]) for name in alike[0]}
            lacking = dict.fromkeys(before.keys() - columns.keys())
            yield lacking | {name: column for name, column in columns.items() if before.get(name) != column}
            before = columns


def _unpack(groups: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    columns: dict[str, Any] = {}
    for stored in groups:
        columns = {name: column for name, column in {**columns, **stored}.items() if column is not None}
        lists = {name: column for name, column in columns.items() if isinstance(column, list)}
        for values in zip(*lists.values(), strict=True):
            yield columns | dict(zip(lists, values, strict=True))


def _shorten(column: list[Any]) -> Any:
    """One value for all, unless that is None, which stands for no column; a list where the group has a single row."""
    same = len(column) > 1 and column[0] is not None and all(value == column[0] for value in column)
    return column[0] if same else column


def _lay_out(value: Any, indent: str = "") -> str:
    text = json.dumps(value, allow_nan=False, separators=(",", ": "))
    items = list(value.values()) if isinstance(value, dict) else value
    if len(text) <= LINE or not isinstance(items, list) or not any(isinstance(item, dict | list) for item in items):
        return text
    deeper = f"{indent} "
    laid = [_lay_out(item, deeper) for item in items]
    if isinstance(value, dict):
        laid = [f"{json.dumps(key)}: {item}" for key, item in zip(value, laid, strict=True)]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n{deeper}" + f",\n{deeper}".join(laid) + f"\n{indent}{closing}"
