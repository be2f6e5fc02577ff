"""The picture that opens the README: what methods gain on LIVE1 against what they cost.

Multiply-adds for a picture of 512x512 on the left, ours beside those that papers print; on the right seconds of whole
processes on one file, all measured in one run. What was not run here is drawn hollow.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from studies.printed import COSTS
from unjpeg.evaluate.printed import TABLE_1

__all__ = ["OURS", "Point", "collect_points", "draw", "hash_points"]

QUALITIES = (10, 20, 30, 40)
OURS = ("fast", "default", "best")
STAND_INS = {"fbcnn-sized": "FBCNN"}
"""Networks of random weights that were timed, by what they stand for: its gain is as printed."""
PROGRAMS = {"jpegqs": "jpeg-quantsmooth"}
"""Programs as they are called where they were timed, and where their results were measured."""

SIZE = (9.2, 3.7)
"""Inches."""


@dataclass(frozen=True, slots=True)
class Point:
    """A method in one of the panels.

    Attributes:
        cost: multiply-adds, thousand millions, or seconds a megapixel.
        gain_db: PSNR above the decoded JPEG, mean over LIVE1 at quality 10, 20, 30 and 40.
        ours: whether it is a model of this project.
        printed: whether its gain is what a paper prints.
    """

    name: str
    cost: float
    gain_db: float
    ours: bool = False
    printed: bool = False


def collect_points(results: Path) -> tuple[list[Point], list[Point]]:
    """By multiply-adds and by time, from result files of LIVE1 and of times; what was not measured is left out."""
    costs: dict[str, Any] = {}
    gains: dict[str, float] = {}
    for name in ("live1-tta.json", "live1.json"):
        if (results / name).exists():
            record = json.loads((results / name).read_text())
            costs |= record.get("costs", {})
            gains |= _find_measured_gains(record)
    by_work = [
        Point(name, costs[name]["multiply_adds_g"], gains[name], ours=True)
        for name in OURS
        if name in gains and name in costs
    ]
    printed = {name: gain for name in COSTS if (gain := _find_printed_gain(name)) is not None}
    by_work += [Point(name, COSTS[name][0], gain, printed=True) for name, gain in printed.items()]
    timed = {}
    if (results / "throughput.json").exists():
        timed = json.loads((results / "throughput.json").read_text()).get("against-6", {})
    by_time = []
    for name, seconds in timed.get("seconds", {}).items():
        cost = seconds / timed["megapixels"]
        if name in STAND_INS:
            by_time.append(Point(f"{STAND_INS[name]}'s size", cost, printed[STAND_INS[name]], printed=True))
        elif (shown := PROGRAMS.get(name, name)) in gains:
            by_time.append(Point(shown, cost, gains[shown], ours=name in OURS))
    return by_work, by_time


def draw(by_work: Sequence[Point], by_time: Sequence[Point]) -> bytes:
    """Both panels, as a PNG file, ``hash_points`` its comment."""
    figure = Figure(figsize=SIZE, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_panel(left, by_work, "multiply-adds for 512x512, thousand millions")
    _draw_panel(right, by_time, "seconds per megapixel: whole processes, 6 megapixels, 2 cores")
    left.set_ylabel("dB above JPEG, LIVE1, quality 10 to 40")
    left.set_ylim(bottom=0, top=2.5)
    hollow = Line2D([], [], marker="o", linestyle="", color="0.35", markerfacecolor="white")
    left.legend([hollow], ["dB as printed (Ma et al., 2024)"], loc="lower right", fontsize="small", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None, "Comment": hash_points(by_work, by_time)})
    return buffer.getvalue()


def hash_points(by_work: Sequence[Point], by_time: Sequence[Point]) -> str:
    """What a drawn file carries as its comment, so that a test can tell whether it is of these points."""
    shown = json.dumps([[astuple(point) for point in panel] for panel in (by_work, by_time)])
    return hashlib.sha256(shown.encode()).hexdigest()


def _draw_panel(axis: Axes, shown: Sequence[Point], cost: str) -> None:
    for point in shown:
        colour = "C3" if point.ours else "0.35"
        face = "white" if point.printed else colour
        axis.plot(point.cost, point.gain_db, "o", color=colour, markerfacecolor=face, markersize=8 if point.ours else 6)
        beside = point.printed and point.name != "IPT"  # where SwinIR's name is
        axis.annotate(
            point.name,
            (point.cost, point.gain_db),
            xytext=(-8, -3) if beside else (0, -15),
            textcoords="offset points",
            ha="right" if beside else "center",
            fontsize="small",
            color=colour,
            fontweight="bold" if point.ours else "normal",
        )
    axis.set_xscale("log")
    axis.margins(x=0.2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(cost, fontsize="small")
    axis.grid(alpha=0.3)


def _find_measured_gains(live1: Mapping[str, Any]) -> dict[str, float]:
    """Of every method that was measured at all four qualities."""
    (summary,) = live1["summary"].values()
    per_quality = [summary[f"jpeg-{quality}"]["differences"] for quality in QUALITIES]
    names = [pair.removesuffix(" - jpeg") for pair in per_quality[0] if pair.endswith(" - jpeg")]
    return {
        name: float(np.mean([differences[f"{name} - jpeg"]["psnr_db"]["mean"] for differences in per_quality]))
        for name in names
        if all("psnr_db" in differences.get(f"{name} - jpeg", {}) for differences in per_quality)
    }


def _find_printed_gain(name: str) -> float | None:
    """None where the paper leaves qualities out."""
    figures, jpeg = TABLE_1[name]["live1"], TABLE_1["JPEG"]["live1"]
    if any(quality not in figures for quality in QUALITIES):
        return None
    return float(np.mean([figures[quality][0] - jpeg[quality][0] for quality in QUALITIES]))
