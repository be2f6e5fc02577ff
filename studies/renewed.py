"""New figures of one method in a result file of many: for new weights, which leave the other methods as they were.

``python -m studies.renewed results/live1.json runs/bench/live1/results.json fast`` takes the rows and means of ``fast``
from the second file, a benchmark of the same pictures and degradations. What a method costs stays as it was measured.
The method then says which commit and machine its figures are from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from unjpeg.console import run_safely, say
from unjpeg.errors import MeasurementError
from unjpeg.evaluate.benchmark import GROUPS, summarise
from unjpeg.evaluate.results import load_results, put_results

__all__ = ["renew"]

DECODER = "jpeg"
SAME = ("sets", "degradations", "metrics")


def renew(old: dict[str, Any], new: dict[str, Any], method: str) -> dict[str, Any]:
    """The old record with a method's figures of the new one.

    Raises MeasurementError if they are not of the same pictures, or the decoder's figures differ.
    """
    for part in SAME:
        if old[part] != new[part]:
            raise MeasurementError(f"the two results have other {part}")
    if _rows_of(old, DECODER) != _rows_of(new, DECODER):
        raise MeasurementError("the decoder's figures differ: these are other files")
    if method not in old["methods"] or method not in new["methods"]:
        raise MeasurementError(f"there is no {method} in both results")
    origin = {name: new[name] for name in ("commit", "machine")}
    # In their old places: what is drawn of a file follows its order.
    fresh = {_place_of(row): row for row in _rows_of(new, method)}
    rows = [fresh[_place_of(row)] if row["method"] == method else row for row in old["rows"]]
    methods = {**old["methods"], method: {**new["methods"][method], **origin}}
    # All of it: what others gain over this method is new, too.
    return {**old, "methods": methods, "summary": summarise(rows, list(old["methods"])), "rows": rows}


def _rows_of(record: dict[str, Any], method: str) -> list[dict[str, Any]]:
    return sorted((row for row in record["rows"] if row["method"] == method), key=_place_of)


def _place_of(row: dict[str, Any]) -> tuple[str, ...]:
    return (row["set"], row["degradation"], row["image"])


def main(
    old: Annotated[Path, typer.Argument(help="The result file that is renewed.")],
    new: Annotated[Path, typer.Argument(help="A result file of the same pictures and degradations.")],
    method: Annotated[str, typer.Argument(help="Whose figures are taken.")],
) -> None:
    """Put one method's new figures into a result file."""
    put_results(old, renew(load_results(old), load_results(new), method), GROUPS)
    say(f"{old}: {method} is as in {new}")


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
