"""Does restoration help a machine? Tasks on originals, on compressed pictures, and on what each method makes of them.

::

    python -m unjpeg.evaluate.downstream contours --method jpeg --method default
    python -m unjpeg.evaluate.downstream text --method jpeg --method default

The figures go to ``results/downstream-TASK.json``.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import numpy as np
import typer

from unjpeg.cli import run_safely
from unjpeg.datasets import data_root, resolved
from unjpeg.evaluate.benchmark import machine, write_json
from unjpeg.evaluate.methods import Method, method_by_name, shaped_as
from unjpeg.evaluate.pairs import Degradation, Pixels
from unjpeg.version import __version__, source_commit

__all__ = ["ORIGINAL", "Task", "app", "measure_task"]

Truth = TypeVar("Truth")
Result = TypeVar("Result")

ORIGINAL = "original"

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


class Task(ABC, Generic[Truth, Result]):
    """Something that a machine does with pictures.

    Attributes:
        name: of the task.
        figures: the names of what ``summarise`` returns.
        resamples: of the pictures, for intervals.
    """

    name: ClassVar[str]
    figures: ClassVar[tuple[str, ...]]
    resamples: ClassVar[int]

    @abstractmethod
    def pictures(self) -> Iterator[tuple[str, Pixels, Truth]]:
        """Names, originals, and what is right. Raises UnjpegError."""

    @abstractmethod
    def examine(self, pixels: Pixels, truth: Truth) -> Result:
        """What the machine makes of one picture. Raises UnjpegError."""

    @abstractmethod
    def summarise(self, results: Sequence[Result]) -> dict[str, float]:
        """Figures over pictures."""


def measure_task(
    task: Task[Truth, Result],
    degradations: Sequence[Degradation],
    methods: Sequence[Method],
    *,
    limit: int | None = None,
) -> dict[str, Any]:
    """A task on the originals and on every method's result.

    Returns:
        ``pictures`` (their number) and ``summary``: by degradation (``ORIGINAL`` for the originals) and method the
        task's figures, and under ``gains`` their differences from the first method's with 95 % intervals, by a
        bootstrap over the pictures.
    """
    results: dict[tuple[str, str], list[Result]] = {}
    for name, original, truth in islice(task.pictures(), limit):
        print(f"\r{task.name}: {name}        ", end="", file=sys.stderr, flush=True)
        results.setdefault((ORIGINAL, ORIGINAL), []).append(task.examine(original, truth))
        for degradation in degradations:
            pair = degradation.apply(original)
            for method in methods:
                pixels = shaped_as(method.restore(pair.file), original)
                results.setdefault((degradation.name, method.name), []).append(task.examine(pixels, truth))
    print(file=sys.stderr)
    summary: dict[str, Any] = {}
    for (degradation_name, method_name), found in results.items():
        figures: dict[str, Any] = dict(task.summarise(found))
        first = results.get((degradation_name, methods[0].name))
        if first is not None and first is not found:
            figures["gains"] = _gains(task, found, first)
        summary.setdefault(degradation_name, {})[method_name] = figures
    return {"task": task.name, "pictures": len(results[ORIGINAL, ORIGINAL]), "summary": summary}


def _gains(task: Task[Truth, Result], ours: Sequence[Result], theirs: Sequence[Result]) -> dict[str, dict[str, float]]:
    def gain(numbers: Sequence[int]) -> list[float]:
        a, b = (task.summarise([results[i] for i in numbers]) for results in (ours, theirs))
        return [a[name] - b[name] for name in task.figures]

    rng = np.random.default_rng(0)
    drawn = [gain(rng.integers(len(ours), size=len(ours)).tolist()) for _ in range(task.resamples)]
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    values = zip(task.figures, gain(range(len(ours))), low, high, strict=True)
    return {name: {"mean": mean, "low": float(a), "high": float(b)} for name, mean, a, b in values}


MethodOption = Annotated[list[str], typer.Option("--method", metavar="M", help="As unjpeg benchmark takes them.")]
QualityOption = Annotated[str, typer.Option(metavar="Q,Q", help="JPEG qualities.")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Only the first pictures.")]
OutOption = Annotated[Path, typer.Option(help="Folder of the result file.")]


@app.command()
def contours(
    method: MethodOption = ["jpeg", "default"],  # noqa: B006
    quality: QualityOption = "10,20,30,40",
    data: Annotated[str, typer.Option(help="Pictures.")] = "bsds500",
    boundaries: Annotated[Path | None, typer.Option(help="Folder of .mat files. [test/bsds500-boundaries]")] = None,
    limit: LimitOption = None,
    out: OutOption = Path("results"),
) -> None:
    """A classical contour detector against what people have drawn."""
    from unjpeg.evaluate.contours import Contours

    truth = boundaries or data_root() / "test" / "bsds500-boundaries"
    _measure(Contours(resolved(data), truth), method, quality, limit, out)


@app.command()
def text(
    method: MethodOption = ["jpeg", "default"],  # noqa: B006
    quality: QualityOption = "5,10,20,30,40",
    limit: LimitOption = None,
    out: OutOption = Path("results"),
) -> None:
    """Tesseract on rendered pages: the share of characters that it gets wrong."""
    from unjpeg.evaluate.reading import Reading

    _measure(Reading(), method, quality, limit, out)


def _measure(task: Task[Any, Any], names: Sequence[str], qualities: str, limit: int | None, out: Path) -> None:
    methods = [method_by_name(name) for name in names]
    degradations = [Degradation.parse(f"jpeg-{quality.strip()}") for quality in qualities.split(",")]
    record = measure_task(task, degradations, methods, limit=limit)
    record |= {
        "methods": {method.name: {"spec": method.spec, "identity": method.identity} for method in methods},
        "unjpeg": __version__,
        "commit": source_commit(),
        "machine": machine(),
    }
    path = out / f"downstream-{task.name}.json"
    write_json(path, record)
    for degradation, by_method in record["summary"].items():
        for method, figures in by_method.items():
            values = " / ".join(f"{figures[name]:.4f}" for name in task.figures)
            typer.echo(f"{degradation:10s} {method:20s} {' / '.join(task.figures)} {values}")
    typer.echo(f"wrote {path}")


if __name__ == "__main__":
    run_safely(app)
