"""Markdown for ``docs/research/carn-da.md`` from ``results/carn-*.json`` and ``results/adapt-codecs.json``.

Where a result file is missing, the table's place says with which command it is measured.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.printed import CARN_TABLE_1, CARN_TABLE_2
from unjpeg.evaluate.report import format_markdown

__all__ = ["compute_gap_shares", "make_tables"]

Row = Mapping[str, Any]

METHODS = ("SQ", "DQ", "BQ", "ours")
UNPRINTED = ("ours, at its source's quality",)
"""Rows of Table 1 that the paper has not."""

REDEGRADED = ("SQ", "DQ", "re-degraded, clean", "re-degraded, halved")
SETS = {"validation": "held out", "bsd68": "BSD68", "set12": "Set12"}
PRINTED_SETS = ("div2k", "bsd68", "set12")
"""The paper's, in the same order: DIV2K's validation pictures are what it holds out."""

NO_VARIANTS = ("published", "tiny")
"""Recipes that are no variants of the small one."""


def make_tables(results: Path) -> dict[str, str]:
    """Each table's Markdown, by the name that its place in the document has."""
    commands = {
        "carn-table1": ("carn-small-table1.json", "scenarios table1 --recipe small", _make_table1),
        "carn-table1-published": ("carn-published-table1.json", "scenarios table1 --recipe published", _make_table1),
        "carn-gap": ("carn-small-table1.json", "scenarios table1 --recipe small", _make_gap),
        "carn-gap-published": ("carn-published-table1.json", "scenarios table1 --recipe published", _make_gap),
        "carn-table2": ("carn-small-table2.json", "scenarios table2 --recipe small", _make_table2),
        "carn-table2-published": ("carn-published-table2.json", "scenarios table2 --recipe published", _make_table2),
        "carn-probe": ("carn-small-probe.json", "scenarios probe --recipe small --trained", _make_probe),
        "carn-codecs": ("adapt-codecs.json", "codecs", _make_codecs),
    }
    made = {}
    for name, (file, command, make) in commands.items():
        path = results / file
        made[name] = make(json.loads(path.read_text())) if path.exists() else _say_missing(command)
    return made | {
        "carn-variants": _make_variants(results, "ours", "scenarios table1 --recipe small-lambda-0"),
        "carn-redegraded": _make_redegraded(results / "carn-small-table1.json"),
        "carn-bound": _make_variants(results, "bound", "scenarios table1 --recipe small --bound"),
    }


def compute_gap_shares(rows: Iterable[Row], quality: int, test_set: str, method: str = "ours") -> list[float]:
    """Per seed, ``method - DQ`` in PSNR, in parts of the mean ``SQ - DQ``.

    0 is no better than unadapted, 1 as good as with originals. Their mean is the ratio of the means: a seed whose own
    gap is small does not count for more than the others.
    """
    by_seed: dict[int, dict[str, float]] = {}
    for row in rows:
        if row["quality"] == quality and row["set"] == test_set and row["seed"] is not None:
            by_seed.setdefault(row["seed"], {})[row["method"]] = row["psnr_db"]
    complete = [found for _, found in sorted(by_seed.items()) if {"SQ", "DQ", method} <= found.keys()]
    gap = statistics.fmean(x["SQ"] - x["DQ"] for x in complete) if complete else 0
    return [(x[method] - x["DQ"]) / gap for x in complete] if gap else []


def _make_table1(record: Row) -> str:
    lines = []
    for quality in _list_qualities(record):
        for method in ("JPEG", *METHODS, *UNPRINTED):
            cells = [_format_cell(_find_rows(record, method=method, quality=quality, set=name)) for name in SETS]
            if method in UNPRINTED and not any(cells):
                continue
            lines.append([str(quality), method, *cells])
            printed = CARN_TABLE_1.get(quality, {}).get(method)
            if printed:
                lines.append([str(quality), f"{method}, as printed", *_format_printed(printed)])
    return format_markdown(["test quality", "", *SETS.values()], lines)


def _make_redegraded(path: Path) -> str:
    """Networks that were trained further on pairs like the target's, between the best and the worst without."""
    record = json.loads(path.read_text()) if path.exists() else {"rows": []}
    whole = {row["seed"] for row in _find_rows(record, method=REDEGRADED[-1])}
    if not whole:
        return _say_missing("scenarios table1 --recipe small --redegraded")
    lines = [
        [str(quality), method]
        + [
            _format_cell(
                [row for row in _find_rows(record, method=method, quality=quality, set=name) if row["seed"] in whole]
            )
            for name in SETS
        ]
        for quality in _list_qualities(record)
        for method in REDEGRADED
    ]
    return format_markdown(["test quality", "", *SETS.values()], lines)


def _make_gap(record: Row) -> str:
    lines = []
    for quality in _list_qualities(record):
        cells = [_format_percent(compute_gap_shares(record["rows"], quality, name)) for name in SETS]
        lines.append([str(quality), *cells])
    return format_markdown(["test quality", *SETS.values()], lines)


def _make_table2(record: Row) -> str:
    lines = []
    for quality in _list_qualities(record):
        lines.append(
            [
                str(quality),
                "JPEG",
                "",
                *(_format_cell(_find_rows(record, method="JPEG", quality=quality, set=n)) for n in SETS),
            ]
        )
        for method in ("BQ", "ours"):
            counts = sorted({row["pictures"] for row in _find_rows(record, method=method, quality=quality)})
            for count in counts:
                chosen = _find_rows(record, method=method, quality=quality, pictures=count)
                cells = [_format_cell([row for row in chosen if row["set"] == name]) for name in SETS]
                lines.append([str(quality), method, f"{count} beside {chosen[0]['fixed']}", *cells])
            for count, printed in CARN_TABLE_2.get(quality, {}).get(method, {}).items():
                lines.append([str(quality), f"{method}, as printed", f"{count} beside 400", *_format_printed(printed)])
    return format_markdown(["test quality", "", "pictures", *SETS.values()], lines)


def _make_probe(record: Row) -> str:
    names = list(dict.fromkeys(row["network"] for row in record["rows"]))
    inputs = list(dict.fromkeys(row["inputs"] for row in record["rows"]))
    lines = []
    for name in names:
        cells = []
        for one in inputs:
            found = [row["accuracy"] for row in record["rows"] if (row["network"], row["inputs"]) == (name, one)]
            cells.append(_format_percent(found))
        lines.append([name, *cells])
    return format_markdown(["features of", *inputs], lines)


def _make_codecs(record: Row) -> str:
    methods = ("decoder", "unadapted", "fine-tuned", "adapted")
    lines = []
    for row in record["rows"]:
        figures = [f"{row[method]['psnr_db']:.2f}" for method in methods]
        gains = [f"{row[method]['psnr_db'] - row['unadapted']['psnr_db']:+.3f}" for method in methods[2:]]
        apart = f"{row['accuracy_before']:.0%}, {row['accuracy_after']:.0%}"
        names = [name for name in ("source_psnr_db", "source_blind_psnr_db") if row.get(f"{name}_after") is not None]
        source = f"{min(row[f'{name}_after'] - row[f'{name}_before'] for name in names):+.2f}"
        how = f"{row['start']}, {row['discriminator']}, {row['strength']:g}, {row['steps']}, {row['seed']}"
        if row["stopped_at_step"] is not None:
            how += f" (stopped at {row['stopped_at_step']}, step {row['kept_steps']} kept)"
        lines.append([row["codec"], how, f"{row['set']} ({row['images']})", *figures, *gains, apart, source])
    header = [
        "codec",
        "model, inputs of Q, lambda, steps, seed",
        "measured on",
        *methods,
        "change, fine-tuned",
        "change, adapted",
    ]
    return format_markdown([*header, "told right: before, after", "source"], lines)


def _make_variants(results: Path, method: str, command: str) -> str:
    """The share of the gap, recipe by recipe, that ``method`` closes."""
    files = {
        path.stem.removeprefix("carn-").removesuffix("-table1"): path for path in results.glob("carn-*-table1.json")
    }
    records = {name: json.loads(files[name].read_text()) for name in sorted(files) if name not in NO_VARIANTS}
    records = {name: record for name, record in records.items() if _find_rows(record, method=method)}
    if not records:
        return _say_missing(command)
    places = [(quality, name) for quality in _list_qualities(next(iter(records.values()))) for name in SETS]
    lines = []
    for recipe, record in records.items():
        # Half of the seeds that are still being measured would stand beside all of the others.
        seeds = {row["seed"] for row in record["rows"] if row["method"] == method}
        whole = {seed for seed in seeds if len(_find_rows(record, method=method, seed=seed)) == len(places)}
        rows = [row for row in record["rows"] if row["seed"] in (whole or seeds)]
        shares = [compute_gap_shares(rows, *place, method) for place in places]
        lines.append([f"`{recipe}`", str(len(whole or seeds)), *map(_format_percent, shares)])
    return format_markdown(["recipe", "seeds", *(f"{quality}, {SETS[name]}" for quality, name in places)], lines)


def _format_printed(by_set: Mapping[str, tuple[float, float, float]]) -> list[str]:
    return ["{:.2f} / {:.2f} / {:.2f}".format(*by_set[name]) for name in PRINTED_SETS]


def _say_missing(command: str) -> str:
    return f"Not measured yet: `python -m studies.carn.{command}`."


def _list_qualities(record: Row) -> list[int]:
    return sorted({row["quality"] for row in record["rows"]})


def _find_rows(record: Row, **wanted: Any) -> list[Row]:
    return [row for row in record["rows"] if all(row.get(key) == value for key, value in wanted.items())]


def _format_cell(rows: Sequence[Row]) -> str:
    """PSNR / PSNR-B / SSIM, means over the seeds, with the PSNR's spread over them."""
    if not rows:
        return ""
    psnr, psnr_b, similarity = ([row[key] for row in rows] for key in ("psnr_db", "psnr_b_db", "ssim"))
    spread = f" ± {statistics.stdev(psnr):.2f}" if len(rows) > 1 else ""
    means = f"{statistics.fmean(psnr):.2f}{spread} / {statistics.fmean(psnr_b):.2f}"
    return f"{means} / {statistics.fmean(similarity):.3f}"


def _format_percent(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.1%}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1%}{spread}"
