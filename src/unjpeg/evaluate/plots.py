"""Plots of a benchmark's results, each as an image; ``record`` is what ``benchmark.run`` returns.

A method has one colour in all of them. Where curves are drawn, points are joined that differ in quality alone: JPEG,
WebP and files compressed twice are curves of their own, told apart by their strokes. What is not finite is left out.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

from unjpeg.errors import SettingError
from unjpeg.evaluate.pairs import Degradation
from unjpeg.evaluate.sheets import shorten

__all__ = ["plot_every_picture", "plot_gain_against_rate", "plot_gain_against_time", "plot_rate_quality"]

SIZE = (3.85, 3.5)
"""Inches, without the legend below: four stand in a row of a report."""

LEGEND_LINE = 0.19
"""Inches of height."""

NAME = 40
"""Characters of a legend's line that there is room for."""

TITLE = 44

STROKES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
MARKERS = "os^vDPX*"
"""Of families of degradations."""


def plot_rate_quality(record: Mapping[str, Any], set_name: str, metric: str) -> Image.Image:
    """A metric against bits per pixel, one line for each method and family of degradations, of one set."""
    figure, axis = _make_axes(f"{set_name}: rate and quality", "bits per pixel", metric)
    methods, families = _list_run(record), _find_families(record["summary"][set_name])
    for method in methods:
        for number, family in enumerate(families.values()):
            points = [
                (figures["bits_per_pixel"], figures["methods"][method][metric]["mean"])
                for figures in family
                if metric in figures["methods"].get(method, {})
            ]
            _draw_curve(axis, points, methods.index(method), number)
    _make_logarithmic(axis)
    _draw_legend(figure, methods, families)
    return _render(figure)


def plot_gain_against_rate(record: Mapping[str, Any], set_name: str, metric: str) -> Image.Image:
    """Mean gain over the first method against bits per pixel, with its 95 % interval."""
    methods, families = _list_run(record), _find_families(record["summary"][set_name])
    first, *others = methods
    title, label = f"{set_name}: gain, with its 95 % interval", _name_gain(metric, first)
    figure, axis = _make_axes(title, "bits per pixel", label)
    axis.axhline(0, color="black", linewidth=0.8)
    for method in others:
        for number, family in enumerate(families.values()):
            gains = [
                (figures["bits_per_pixel"], gain)
                for figures in family
                if (gain := _find_gain(figures, method, first, metric)) is not None
            ]
            _draw_curve(axis, [(rate, gain["mean"]) for rate, gain in gains], methods.index(method), number)
            low, high = ([gain[end] for _, gain in gains] for end in ("low", "high"))
            rates, ink = [rate for rate, _ in gains], f"C{methods.index(method)}"
            axis.fill_between(rates, low, high, alpha=0.15, color=ink, linewidth=0)
    _make_logarithmic(axis)
    _draw_legend(figure, methods, families, without=first)
    return _render(figure)


def plot_gain_against_time(record: Mapping[str, Any], set_name: str, degradation: str, metric: str) -> Image.Image:
    """Mean gain over the first method against seconds per megapixel, with the gain's interval (the paper's Fig. 8)."""
    methods = _list_run(record)
    first = methods[0]
    title = f"{set_name}, {degradation}: gain and time"
    figure, axis = _make_axes(title, "seconds per megapixel", _name_gain(metric, first))
    entries = []
    for number, method in enumerate(methods):
        gain = _find_gain(record["summary"][set_name][degradation], method, first, metric)
        if gain is None or method not in record["costs"]:
            continue
        entries.append(
            axis.errorbar(
                record["costs"][method]["seconds_per_megapixel"],
                gain["mean"],
                yerr=[[gain["mean"] - gain["low"]], [gain["high"] - gain["mean"]]],
                marker="o",
                capsize=3,
                color=f"C{number}",
                label=shorten(method, NAME),
            )
        )
    _make_logarithmic(axis)
    axis.margins(x=0.25)
    _put_legend(figure, entries)
    return _render(figure)


def plot_every_picture(
    record: Mapping[str, Any], set_name: str, degradation: str, metric: str, methods: Sequence[str], first: str
) -> Image.Image:
    """Each picture's gain over the first method against that method's figure: below zero it was made worse."""
    rows = [
        row
        for row in record["rows"]
        if (row["set"], row["degradation"]) == (set_name, degradation) and row[metric] is not None
    ]
    before = {row["image"]: row[metric] for row in rows if row["method"] == first}
    title = f"{set_name}, {degradation}: every picture"
    figure, axis = _make_axes(title, f"{metric} of {shorten(first, NAME)}", _name_gain(metric, first))
    entries = []
    for number, method in enumerate(methods, 1):
        points = [
            (before[row["image"]], row[metric] - before[row["image"]])
            for row in rows
            if row["method"] == method and row["image"] in before
        ]
        if not points:
            continue
        worse = f" (worse: {sum(gain < 0 for _, gain in points)} of {len(points)})"
        entries.append(
            axis.scatter(
                [x for x, _ in points],
                [gain for _, gain in points],
                s=12,
                color=f"C{number}",  # as in the other plots
                label=shorten(method, NAME - len(worse)) + worse,
            )
        )
    axis.axhline(0, color="black", linewidth=0.8)
    _put_legend(figure, entries)
    return _render(figure)


def _list_run(record: Mapping[str, Any]) -> list[str]:
    """Those that were run, the first one first."""
    return [name for name in record["methods"] if name not in record["printed"]]


def _find_families(summary: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The figures of degradations that differ in quality alone, by rate."""
    out: dict[str, list[Any]] = {}
    for name, figures in sorted(summary.items(), key=lambda item: float(item[1]["bits_per_pixel"])):
        try:
            family = Degradation.parse(name).family
        except SettingError:  # given files
            family = name
        out.setdefault(family, []).append(figures)
    return out


def _find_gain(figures: Mapping[str, Any], method: str, first: str, metric: str) -> Mapping[str, float] | None:
    gain: Mapping[str, float] | None = figures["differences"].get(f"{method} - {first}", {}).get(metric)
    return None if gain is None or None in gain.values() else gain


def _draw_curve(axis: Axes, points: Sequence[tuple[float, float | None]], method: int, family: int) -> None:
    known = [(x, y) for x, y in points if y is not None]
    axis.plot(
        [x for x, _ in known],
        [y for _, y in known],
        color=f"C{method}",
        linestyle=STROKES[family % len(STROKES)],
        marker=MARKERS[family % len(MARKERS)],
        markersize=3,
    )


def _make_axes(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    axis = figure.subplots()
    axis.set_title(textwrap.fill(title, TITLE), fontsize="medium")
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(alpha=0.3)
    return figure, axis


def _make_logarithmic(axis: Axes) -> None:
    """Powers along x, labelled as plain numbers."""
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())


def _name_gain(metric: str, first: str) -> str:
    return f"{metric} above {shorten(first, 20)}"


def _draw_legend(
    figure: Figure, methods: Sequence[str], families: Mapping[str, list[Any]], without: str | None = None
) -> None:
    """Methods that have restored anything by colour, and families by stroke where there are several."""
    drawn = {method for family in families.values() for figures in family for method in figures["methods"]} - {without}
    entries = [
        Line2D([], [], color=f"C{number}", label=shorten(method, NAME))
        for number, method in enumerate(methods)
        if method in drawn
    ]
    if len(families) > 1:
        entries += [
            Line2D(
                [],
                [],
                color="grey",
                linestyle=STROKES[number % len(STROKES)],
                marker=MARKERS[number % len(MARKERS)],
                markersize=3,
                label=family,
            )
            for number, family in enumerate(families)
        ]
    _put_legend(figure, entries)


def _put_legend(figure: Figure, entries: Sequence[Any]) -> None:
    """Below the axes, in height that the figure gains: it covers nothing."""
    if entries:
        figure.set_figheight(SIZE[1] + LEGEND_LINE * len(entries))
        figure.legend(handles=list(entries), loc="outside lower center", fontsize="small", frameon=False)


def _render(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=98)
    return Image.open(buffer).convert("RGB")
