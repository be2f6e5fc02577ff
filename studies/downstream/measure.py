"""Does restoration help a machine? Tasks on originals, on compressed pictures, and on what each method makes of them.

::

    python -m studies.downstream.measure contours --method jpeg --method default
    python -m studies.downstream.measure text --method jpeg --method default
    python -m studies.downstream.measure detection NETWORK --data coco/val2017 \\
        --annotations coco/annotations/instances_val2017.json
    python -m studies.downstream.measure segmentation NETWORK --data VOCdevkit/VOC2012
    python -m studies.downstream.measure agreement NETWORK --data DIR
    python -m studies.downstream.measure classification NETWORK.onnx --data DIR

A network is an ONNX file with a description, or a checkpoint of the transformers library. The figures go to
``results/downstream-TASK.json``. What is restored, and what is found in each picture, is kept below ``--work``, so that
an interrupted run goes on where it was; what is found is drawn there too.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from studies.downstream.kept import KeptMethod
from studies.downstream.task import DrawnTask, Task, choose_pictures, draw_sheet, measure_task
from unjpeg.console import run_safely
from unjpeg.datasets import data_root, resolved
from unjpeg.errors import MeasurementError, SettingError
from unjpeg.evaluate.methods import Printed, find_installed_methods
from unjpeg.evaluate.pairs import Degradation
from unjpeg.evaluate.processes import interrupting_on_signals
from unjpeg.evaluate.results import describe_origin, put_results
from unjpeg.files import place_file

__all__ = ["app"]

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # what stands in brackets is meant to be read
)

MethodOption = Annotated[list[str], typer.Option("--method", metavar="M", help="As unjpeg benchmark takes them.")]
QualityOption = Annotated[str, typer.Option(metavar="Q,Q", help="JPEG qualities.")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Only the first pictures.")]
OutOption = Annotated[Path, typer.Option(help="Folder of the result file.")]
WorkOption = Annotated[Path, typer.Option(help="Folder of what is kept and drawn.")]
ShowOption = Annotated[list[str], typer.Option(metavar="NAME", help="Pictures to draw. [three, chosen by rule]")]
NetworkArgument = Annotated[
    str, typer.Argument(metavar="NETWORK", help="An ONNX file, or the folder of a transformers checkpoint.")
]
DescriptionOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="How an ONNX file is fed and read. [the .json beside it, or ours]")
]
AnnotationsOption = Annotated[Path, typer.Option(metavar="FILE", help="Boxes, as COCO's instances_val2017.json.")]


@app.command()
def contours(
    method: MethodOption = ["jpeg", "default"],  # noqa: B006
    quality: QualityOption = "10,20,30,40",
    data: Annotated[str, typer.Option(help="Pictures.")] = "bsds500",
    boundaries: Annotated[Path | None, typer.Option(help="Folder of .mat files. [test/bsds500-boundaries]")] = None,
    limit: LimitOption = None,
    out: OutOption = Path("results"),
    work: WorkOption = Path("runs/downstream"),
    show: ShowOption = [],  # noqa: B006
) -> None:
    """A classical contour detector against what people have drawn."""
    from studies.downstream.contours import Contours

    truth = boundaries or data_root() / "test" / "bsds500-boundaries"
    _measure(Contours(resolved(data), truth), method, quality, limit, out, work, show)


@app.command()
def text(
    method: MethodOption = ["jpeg", "default"],  # noqa: B006
    quality: QualityOption = "5,10,20,30,40",
    limit: LimitOption = None,
    out: OutOption = Path("results"),
    work: WorkOption = Path("runs/downstream"),
    show: ShowOption = [],  # noqa: B006
) -> None:
    """Tesseract on rendered pages: the share of characters that it gets wrong."""
    from studies.downstream.reading import Reading

    _measure(Reading(), method, quality, limit, out, work, show)


@app.command()
def detection(
    network: NetworkArgument,
    data: Annotated[Path, typer.Option(metavar="DIR", help="Pictures, as COCO's val2017.")],
    annotations: AnnotationsOption,
    description: DescriptionOption = None,
    method: MethodOption = ["jpeg", "default"],  # noqa: B006
    quality: QualityOption = "10,20,30,40",
    limit: LimitOption = None,
    out: OutOption = Path("results"),
    work: WorkOption = Path("runs/downstream"),
    show: ShowOption = [],  # noqa: B006
) -> None:
    """A network's boxes, mean average precision. Checkpoints need the extra: pip install unjpeg[downstream]."""
    task = _import_with_extra("studies.downstream.detection").Detection(network, data, annotations, description)
    _measure(task, method, quality, limit, out, work, show)


@app.command()
def segmentation(
    network: NetworkArgument,
    data: Annotated[Path, typer.Option(metavar="DIR", help="With JPEGImages and SegmentationClass, as VOC's.")],
    annotations: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="COCO's outlines, mapped to VOC's classes: --data is a folder of pictures."),
    ] = None,
    split: Annotated[str, typer.Option(help="Which of ImageSets/Segmentation.")] = "val",
    description: DescriptionOption = None,
    method: MethodOption = ["jpeg", "default"],  # noqa: B006
    quality: QualityOption = "10,20,30,40",
    limit: LimitOption = None,
    out: OutOption = Path("results"),
    work: WorkOption = Path("runs/downstream"),
    show: ShowOption = [],  # noqa: B006
) -> None:
    """A network's classes of pixels, mean IoU. Checkpoints need the extra: pip install unjpeg[downstream]."""
    from studies.downstream.masks import CocoOutlines, VocFolder

    masks = VocFolder(data, split) if annotations is None else CocoOutlines(data, annotations)
    task = _import_with_extra("studies.downstream.segmentation").Segmentation(network, masks, description)
    _measure(task, method, quality, limit, out, work, show)


@app.command()
def agreement(
    network: NetworkArgument,
    data: Annotated[Path, typer.Option(metavar="DIR", help="Pictures.")],
    description: DescriptionOption = None,
    method: MethodOption = ["jpeg", "default"],  # noqa: B006
    quality: QualityOption = "10,20,30,40",
    limit: LimitOption = None,
    out: OutOption = Path("results"),
    work: WorkOption = Path("runs/downstream"),
    show: ShowOption = [],  # noqa: B006
) -> None:
    """A network's classes of pixels against its own of the original, mean IoU and share of pixels."""
    task = _import_with_extra("studies.downstream.segmentation").Agreement(network, data, description)
    _measure(task, method, quality, limit, out, work, show)


@app.command()
def classification(
    network: Annotated[Path, typer.Argument(metavar="NETWORK", help="An ONNX file.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Pictures of each class; a folder each, or CLASS_NAME.")],
    description: DescriptionOption = None,
    method: MethodOption = ["jpeg", "default"],  # noqa: B006
    quality: QualityOption = "10,20,30,40",
    limit: LimitOption = None,
    out: OutOption = Path("results"),
    work: WorkOption = Path("runs/downstream"),
) -> None:
    """How often a network's first guess is right, and one of its first five."""
    task = _import_with_extra("studies.downstream.classification").Classification(network, data, description)
    _measure(task, method, quality, limit, out, work)


def _import_with_extra(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MeasurementError(f"{error.name} is not installed: pip install 'unjpeg[downstream]'") from error


def _measure(
    task: Task[Any, Any],
    specs: Sequence[str],
    qualities: str,
    limit: int | None,
    out: Path,
    work: Path,
    show: Sequence[str] = (),
) -> None:
    def say(line: str) -> None:
        typer.echo(f"unjpeg: {line}", err=True)

    found, missing = find_installed_methods(specs)
    for reason in missing:
        say(reason)
    if not found:
        raise MeasurementError("none of the methods can be run")
    if any(isinstance(method, Printed) for method in found):
        raise SettingError("printed figures are of pictures, not of tasks: leave printed:ROW out")
    methods = [KeptMethod(method, work / "restored") for method in found]
    degradations = [Degradation.parse(f"jpeg-{quality.strip()}") for quality in qualities.split(",")]
    names = task.list_names()
    unknown = [name for name in show if name not in names]
    if unknown:
        raise SettingError(f"--show {unknown[0]}: there is no such picture among {', '.join([*names[:3], '...'])}")
    with interrupting_on_signals():
        record = measure_task(task, degradations, methods, work / f"{task.name}.jsonl", limit=limit, say=say)
    record |= {
        "methods": {method.name: {"spec": method.spec, "identity": method.identity} for method in methods},
        **describe_origin(),
    }
    path = out / f"downstream-{task.name}.json"
    stored = record if task.keeps_rows else {name: value for name, value in record.items() if name != "rows"}
    put_results(path, stored, ("degradation", "method") if task.keeps_rows else ())
    for degradation, by_method in record["summary"].items():
        for method, figures in by_method.items():
            values = " / ".join(f"{figures[name]:.4f}" for name in task.figures)
            typer.echo(f"{degradation:10s} {method:20s} {' / '.join(task.figures)} {values}")
    typer.echo(f"wrote {path}")
    if isinstance(task, DrawnTask):
        shown = list(show) or choose_pictures(record, task.figures[0], degradations[0].name)
        sheet = work / f"{task.name}.png"
        with place_file(sheet, overwrite=True) as file:
            draw_sheet(task, shown, degradations[0], methods).save(file, "PNG")
        typer.echo(f"wrote {sheet}")
    if missing or record["errors"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    run_safely(app)
