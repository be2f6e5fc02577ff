"""Plots of a benchmark's results, each as an image; ``record`` is what ``benchmark.run`` returns."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

__all__ = ["gain_against_rate", "gain_against_time", "lower_than_decoder", "rate_quality"]

SIZE = (3.85, 3.5)
"""Inches: four stand in a row of a report."""


def rate_quality(record: Mapping[str, Any], set_name: str, metric: str) -> Image.Image:
    """A metric against bits per pixel, one line a method, over all degradations of one set."""
    per_degradation = sorted(record["summary"][set_name].items(), key=lambda item: item[1]["bits_per_pixel"])
    figure = Figure(figsize=SIZE, layout="constrained")
    axis = figure.subplots()
    for method in next(iter(per_degradation))[1]["methods"]:
        points = [
            (figures["bits_per_pixel"], figures["methods"][method][metric]["mean"])
            for _, figures in per_degradation
            if metric in figures["methods"].get(method, {})
        ]
        axis.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=3, label=method)
    axis.set_xlabel("bits per pixel")
    axis.set_ylabel(metric)
    axis.set_title(f"{set_name}: rate and quality", fontsize="medium")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    return _image(figure)


def gain_against_rate(record: Mapping[str, Any], set_name: str, metric: str) -> Image.Image:
    """Mean gain over the first method against bits per pixel, with its 95 % interval: what ``rate_quality`` hides."""
    per_degradation = sorted(record["summary"][set_name].values(), key=lambda figures: figures["bits_per_pixel"])
    first, *others = per_degradation[0]["methods"]
    figure = Figure(figsize=SIZE, layout="constrained")
    axis = figure.subplots()
    axis.axhline(0, color="black", linewidth=0.8)
    for number, method in enumerate(others, 1):
        points = [
            (figures["bits_per_pixel"], figures["differences"][f"{method} - {first}"][metric])
            for figures in per_degradation
            if metric in figures["differences"].get(f"{method} - {first}", {})
        ]
        rates, ink = [rate for rate, _ in points], f"C{number}"  # the method's colour in ``rate_quality``
        axis.plot(rates, [gain["mean"] for _, gain in points], marker="o", markersize=3, label=method, color=ink)
        low, high = ([gain[end] for _, gain in points] for end in ("low", "high"))
        axis.fill_between(rates, low, high, alpha=0.15, color=ink, linewidth=0)
    axis.set_xlabel("bits per pixel")
    axis.set_ylabel(f"{metric} above {first}")
    axis.set_title(f"{set_name}: gain, with its 95 % interval", fontsize="medium")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    return _image(figure)


def gain_against_time(record: Mapping[str, Any], set_name: str, degradation: str, metric: str) -> Image.Image:
    """Mean gain over the first method against seconds per megapixel, with the gain's interval (the paper's Fig. 8)."""
    differences = record["summary"][set_name][degradation]["differences"]
    first = next(iter(record["costs"]))
    figure = Figure(figsize=SIZE, layout="constrained")
    axis = figure.subplots()
    for number, (method, cost) in enumerate(record["costs"].items()):
        gain = differences.get(f"{method} - {first}", {}).get(metric)
        if gain is None:
            continue
        error = [[gain["mean"] - gain["low"]], [gain["high"] - gain["mean"]]]
        axis.errorbar(
            cost["seconds_per_megapixel"],
            gain["mean"],
            yerr=error,
            marker="o",
            capsize=3,
            color=f"C{number}",
            label=method,
        )
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.margins(x=0.25)
    if differences:
        axis.legend(fontsize="small")
    axis.set_xlabel("seconds per megapixel")
    axis.set_ylabel(f"{metric} above {first}")
    axis.set_title(f"{set_name}, {degradation}: gain and time", fontsize="medium")
    axis.grid(alpha=0.3)
    return _image(figure)


def lower_than_decoder(
    record: Mapping[str, Any], set_name: str, degradation: str, metric: str, methods: Sequence[str], first: str
) -> Image.Image:
    """Each picture's gain over the first method against that method's figure: below zero it was made worse."""
    rows = [row for row in record["rows"] if (row["set"], row["degradation"]) == (set_name, degradation)]
    before = {row["image"]: row[metric] for row in rows if row["method"] == first}
    figure = Figure(figsize=SIZE, layout="constrained")
    axis = figure.subplots()
    for number, method in enumerate(methods, 1):
        points = [
            (before[row["image"]], row[metric] - before[row["image"]])
            for row in rows
            if row["method"] == method and row["image"] in before
        ]
        worse = sum(gain < 0 for _, gain in points)
        axis.scatter(
            [x for x, _ in points],
            [gain for _, gain in points],
            s=12,
            color=f"C{number}",  # as in the other plots
            label=f"{method} (worse: {worse} of {len(points)})",
        )
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xlabel(f"{metric} of {first}")
    axis.set_ylabel(f"{metric} above {first}")
    axis.set_title(f"{set_name}, {degradation}: every picture", fontsize="medium")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    return _image(figure)


def _image(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=98)
    return Image.open(buffer).convert("RGB")
