"""Tasks for machines, measured on originals, on compressed pictures, and on what each method makes of them."""

from __future__ import annotations

import hashlib
import pickle
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unjpeg.errors import MeasurementError, UnjpegError
from unjpeg.evaluate.journal import Journal
from unjpeg.evaluate.method import Method, shape_like
from unjpeg.evaluate.pairs import Degradation, Pixels8
from unjpeg.evaluate.sheets import Panel, fit, set_side_by_side, stack

__all__ = ["ORIGINAL", "DrawnTask", "Task", "choose_pictures", "draw_sheet", "measure_task", "mix_names"]

Truth = TypeVar("Truth")
Result = TypeVar("Result")

ORIGINAL = "original"

SHOWN_WIDTH = 380
"""Of the pictures on a sheet, at most."""


class Task(ABC, Generic[Truth, Result]):
    """Something that a machine does with pictures.

    Attributes:
        name: of the task.
        figures: the names of what ``summarise`` returns, the most important one first.
        resamples: of the pictures, for intervals.
        identity: changes whenever its results may, but for the pictures and what is right of them.
        keeps_rows: whether a picture's own figures say enough to be stored with the result.
    """

    name: ClassVar[str]
    figures: ClassVar[tuple[str, ...]]
    resamples: ClassVar[int]
    keeps_rows: ClassVar[bool] = True
    identity: str

    @abstractmethod
    def list_names(self) -> Sequence[str]:
        """Of the pictures. Raises UnjpegError."""

    @abstractmethod
    def load(self, name: str) -> tuple[Pixels8, Truth]:
        """An original, and what is right of it. Raises UnjpegError."""

    @abstractmethod
    def examine(self, pixels: Pixels8, truth: Truth) -> Result:
        """What the machine makes of one picture. Raises UnjpegError."""

    @abstractmethod
    def summarise(self, results: Sequence[Result]) -> dict[str, float]:
        """Figures over pictures, at least one."""

    @abstractmethod
    def to_json(self, result: Result) -> Any:
        """A result as JSON has it."""

    @abstractmethod
    def from_json(self, stored: Any) -> Result:
        """What ``to_json`` was made of."""


class DrawnTask(Task[Truth, Result]):
    """A task whose results can be drawn over a picture."""

    @abstractmethod
    def draw_truth(self, pixels: Pixels8, truth: Truth) -> Image.Image:
        """What is right, over the original."""

    @abstractmethod
    def draw(self, pixels: Pixels8) -> Image.Image:
        """What the machine makes of a picture, over it. Raises UnjpegError."""


def measure_task(
    task: Task[Truth, Result],
    degradations: Sequence[Degradation],
    methods: Sequence[Method],
    journal: Path,
    *,
    limit: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """A task on the originals and on every method's result.

    A picture that cannot be read, restored or examined is left out, for every method.

    Args:
        journal: where results are kept; what is there already is not examined again.
        limit: only the first pictures.
        say: takes what went wrong, a line each.

    Returns:
        ``pictures`` (their number) and ``summary``: by degradation (``ORIGINAL`` for the originals) and method the
        task's figures, and under ``gains`` their differences from the first method's with 95 % intervals, by a
        bootstrap over the pictures. ``rows`` has every picture's own figures, ``errors`` what was left out.

    Raises MeasurementError if nothing could be measured.
    """
    results: dict[tuple[str, str], dict[str, Result]] = {}
    errors: list[dict[str, str]] = []
    with Journal(journal) as kept:
        known = {tuple(record["key"]): record["result"] for record in kept.found}
        names = task.list_names()[:limit]
        if not names:
            raise MeasurementError(f"{task.name}: there are no pictures")
        for number, name in enumerate(names, 1):
            if sys.stderr.isatty():
                print(f"\r{task.name}: {number} of {len(names)}", end="", file=sys.stderr, flush=True)
            try:
                found = dict(_examine(task, name, degradations, methods, kept, known))
            except (UnjpegError, ValueError, MemoryError) as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                errors.append({"image": name, "error": reason})
                say(f"{name}: left out: {reason}")
                continue
            for key, result in found.items():
                results.setdefault(key, {})[name] = result
    if not results:
        raise MeasurementError(f"{task.name}: nothing could be measured; the first reason: {errors[0]['error']}")
    rows = [
        {"image": name, "degradation": degradation, "method": method, **task.summarise([result])}
        for (degradation, method), by_name in results.items()
        for name, result in by_name.items()
    ]
    return {
        "task": task.name,
        "identity": task.identity,
        "pictures": len(results[ORIGINAL, ORIGINAL]),
        "summary": _summarise(task, results, methods[0].name),
        "rows": rows,
        "errors": errors,
    }


def _examine(
    task: Task[Truth, Result],
    name: str,
    degradations: Sequence[Degradation],
    methods: Sequence[Method],
    kept: Journal,
    known: Mapping[tuple[str, ...], Any],
) -> Iterator[tuple[tuple[str, str], Result]]:
    """One picture, by degradation and method."""
    original, truth = task.load(name)
    what = hashlib.sha256(pickle.dumps((original, truth))).hexdigest()[:16]

    def result(degradation: str, method: str, identity: str, make: Callable[[], Pixels8]) -> Result:
        key = (task.identity, name, what, degradation, method, identity)
        if key not in known:
            found = task.examine(make(), truth)
            kept.add({"key": key, "result": task.to_json(found)})
            return found
        return task.from_json(known[key])

    yield (ORIGINAL, ORIGINAL), result(ORIGINAL, ORIGINAL, "", lambda: original)
    for degradation in degradations:
        file = degradation.apply(original).file
        for method in methods:
            made = result(
                degradation.name,
                method.name,
                method.identity,
                lambda method=method, file=file: shape_like(method.restore(file), original),  # type: ignore[misc]
            )
            yield (degradation.name, method.name), made


def _summarise(
    task: Task[Truth, Result], results: Mapping[tuple[str, str], Mapping[str, Result]], first: str
) -> dict[str, Any]:
    values = {key: list(by_name.values()) for key, by_name in results.items()}
    count = len(values[ORIGINAL, ORIGINAL])
    rng = np.random.default_rng(0)
    draws = [rng.integers(count, size=count).tolist() for _ in range(task.resamples)]

    def drawn(key: tuple[str, str]) -> NDArray[np.float64]:
        """The figures of every resample, ``(resamples, figures)``; the same pictures for every method."""
        found = values[key]
        figures = [task.summarise([found[i] for i in draw]) for draw in draws]
        return np.array([[each[name] for name in task.figures] for each in figures])

    out: dict[str, Any] = {}
    for degradation in dict.fromkeys(degradation for degradation, _ in values):
        methods = {method: task.summarise(found) for (of, method), found in values.items() if of == degradation}
        out[degradation] = {method: dict(figures) for method, figures in methods.items()}
        if degradation == ORIGINAL or len(methods) < 2:
            continue
        before = drawn((degradation, first))
        for method, figures in methods.items():
            if method == first:
                continue
            low, high = np.quantile(drawn((degradation, method)) - before, (0.025, 0.975), axis=0)
            out[degradation][method]["gains"] = {
                name: {"mean": figures[name] - methods[first][name], "low": float(a), "high": float(b)}
                for name, a, b in zip(task.figures, low, high, strict=True)
            }
    return out


def mix_names(names: Iterable[str]) -> list[str]:
    """In an order that has nothing to do with them, the same every time: the first ones are a sample of all."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


def choose_pictures(record: Mapping[str, Any], figure: str, degradation: str) -> list[str]:
    """Where the second method has most above the first, the median, and least: what to look at, chosen by rule."""
    rows = [row for row in record["rows"] if row["degradation"] == degradation]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    first, second = ({row["image"]: row[figure] for row in rows if row["method"] == name} for name in (methods * 2)[:2])
    gains = sorted((second[image] - first[image], image) for image in first)
    return list(dict.fromkeys(image for _, image in (gains[-1], gains[len(gains) // 2], gains[0])))


def draw_sheet(
    task: DrawnTask[Truth, Result], names: Sequence[str], degradation: Degradation, methods: Sequence[Method]
) -> Image.Image:
    """What is right, and what the machine makes of originals, files and results (the paper's Figs. 10 and 11).

    Under each stands the task's first figure, of this picture alone.
    """
    rows = []
    for name in names:
        original, truth = task.load(name)
        versions = {ORIGINAL: original}
        file = degradation.apply(original).file
        versions |= {method.name: shape_like(method.restore(file), original) for method in methods}
        panels = [Panel((name, "what is right"), fit(task.draw_truth(original, truth), SHOWN_WIDTH))]
        for version, pixels in versions.items():
            figure = task.summarise([task.examine(pixels, truth)])[task.figures[0]]
            title = version if version == ORIGINAL else f"{degradation.name}, {version}"
            panels.append(Panel((title, f"{task.figures[0]} {figure:.3f}"), fit(task.draw(pixels), SHOWN_WIDTH)))
        rows.append(set_side_by_side(panels))
    return stack(rows)
