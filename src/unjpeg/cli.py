"""The command ``unjpeg``: arguments in, library calls, one clear line per problem out.

Exit codes: 0 all done, 1 some inputs failed (or a picture is not consistent), 2 wrong usage.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from unjpeg.errors import BadImageError, OutputError, UnjpegError
from unjpeg.version import __version__

if TYPE_CHECKING:
    from unjpeg.inspection import Inspection, Verification
    from unjpeg.restore import Report

__all__ = ["app", "main"]

app = typer.Typer(
    name="unjpeg",
    help="Take compression artifacts out of JPEG images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # it takes [train] for a style and drops it
    context_settings={"help_option_names": ["-h", "--help"]},
)

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".avif"})
"""What counts as a picture when a folder is given; a file that is named is tried whatever it is called."""


class OutputFormat(StrEnum):
    png = "png"
    jpeg = "jpeg"
    webp = "webp"
    tiff = "tiff"


class Consistency(StrEnum):
    auto = "auto"
    strict = "strict"
    off = "off"


class Runtime(StrEnum):
    openvino = "openvino"
    onnxruntime = "onnxruntime"


class Device(StrEnum):
    cpu = "cpu"
    cuda = "cuda"


class BitDepth(StrEnum):
    eight = "8"
    sixteen = "16"


def main() -> None:
    """Run the command and exit with its code. Never shows a traceback for an error of unjpeg's own."""
    try:
        app()
    except UnjpegError as error:
        _complain(error)
        sys.exit(1)
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # standard output on a full disk, say
        _complain(OutputError(f"{error.filename or 'standard output'}: {error.strerror or error}"))
        sys.exit(1)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"unjpeg {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def restore(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT", help="Pictures or folders of pictures; - reads standard input.")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="FILE|DIR", help="Where to write; - is standard output. [beside the input]"
        ),
    ] = None,
    format: Annotated[
        OutputFormat | None, typer.Option("--format", help="File format. [by the output's suffix, else png]")
    ] = None,
    model: Annotated[str, typer.Option(help="A shipped model's name or a model file's path.")] = "default",
    output_quality: Annotated[
        int | None, typer.Option(min=1, max=100, help="Quality of JPEG (95) or WebP (lossless) output.")
    ] = None,
    strength: Annotated[float, typer.Option(min=0, max=1, help="0 decodes only, 1 restores fully.")] = 1.0,
    quality: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Restore as if it looked like this JPEG quality: lower is smoother."),
    ] = None,
    consistency: Annotated[
        Consistency, typer.Option(help="Keep the result among the pictures that could have produced the file.")
    ] = Consistency.auto,
    bit_depth: Annotated[BitDepth, typer.Option(help="Bits per channel of PNG and TIFF output.")] = BitDepth.eight,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Folders below folders, too.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    keep_times: Annotated[bool, typer.Option("--keep-times", help="Give outputs their input's times.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per input on standard output.")] = False,
    runtime: Annotated[Runtime | None, typer.Option(help="[openvino on a cpu, onnxruntime on a gpu]")] = None,
    device: Annotated[Device, typer.Option(help="Where the network runs.")] = Device.cpu,
) -> None:
    """Restore pictures. photo.jpg becomes photo.restored.png beside it, or DIR/photo.png with -o DIR."""
    if not 0 <= strength <= 1:  # not a number: the option's own check lets it pass
        raise typer.BadParameter("--strength must be from 0 to 1")
    # Started here, not at import: help and usage errors stay fast.
    from unjpeg.output import FORMATS
    from unjpeg.restore import Restorer

    bits: Literal[8, 16] = 16 if bit_depth is BitDepth.sixteen else 8
    jobs, failures = _plan(inputs, output, format.value if format else None, recursive=recursive)
    if as_json and any(job.target is None for job in jobs):
        raise typer.BadParameter("standard output cannot hold both the picture and --json")
    unfit = sorted({job.format for job in jobs if bits not in FORMATS[job.format].bit_depths})
    if unfit:
        raise typer.BadParameter(f"{', '.join(unfit)} holds no {bits}-bit pixels; choose png or tiff, or 8 bits")
    for source, error in failures:
        _report_failure(error, as_json, source)
    if not jobs:
        raise typer.Exit(1)
    restorer = Restorer(model, runtime=runtime.value if runtime else None, device=device.value)
    failed = len(failures)

    def run(job: _Job, progress: Callable[[float], None]) -> Report:
        job.check(overwrite)
        result = restorer.restore(
            job.source,
            strength=strength,
            quality=quality,
            consistency=consistency.value,
            bit_depth=bits,
            progress=progress,
        )
        target = sys.stdout.buffer if job.target is None else job.target
        if job.target is not None:
            _make_folder(job.target.parent)
        result.save(target, format=job.format, quality=output_quality, overwrite=overwrite)
        if keep_times and job.target is not None and job.source != "-":
            times = os.stat(job.source)
            os.utime(job.target, ns=(times.st_atime_ns, times.st_mtime_ns))
        return result.report

    for job, progress in _with_progress(jobs, hidden=as_json):
        try:
            report = run(job, progress)
        except (UnjpegError, OSError, MemoryError) as error:
            failed += 1
            _report_failure(_one_line(error, job.source), as_json, job.source)
            continue
        if as_json:
            typer.echo(json.dumps({"input": job.source, "output": str(job.target), "ok": True, **_plain(report)}))
        elif job.target is not None:
            typer.echo(_summary(job, report), err=True)
    if failed:
        raise typer.Exit(1)


@app.command()
def inspect(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="JPEG files; - reads standard input.")],
    model: Annotated[str, typer.Option(help="Model that reads the quality from the pixels.")] = "default",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per file.")] = False,
) -> None:
    """Show what JPEG files say about themselves, and what their pixels say."""
    from unjpeg.inspection import inspect as inspect_file

    failed = False
    for file in files:
        try:
            inspection = inspect_file(file, model=model)
        except (UnjpegError, OSError, MemoryError) as error:
            failed = True
            _report_failure(_one_line(error, file), as_json, file)
            continue
        facts = {"input": file, "ok": True, **_plain(inspection)}
        typer.echo(json.dumps(facts) if as_json else _describe(inspection))
    if failed:
        raise typer.Exit(1)


@app.command()
def verify(
    original: Annotated[str, typer.Argument(metavar="ORIGINAL.jpg", help="The JPEG file.")],
    restored: Annotated[str, typer.Argument(metavar="RESTORED", help="The picture made from it.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Check whether a picture could have produced a JPEG file. Exit code 1 if it could not."""
    from unjpeg.inspection import verify as verify_file

    try:
        verification = verify_file(original, restored)
    except (UnjpegError, OSError, MemoryError) as error:
        _report_failure(_one_line(error, restored), as_json, restored)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "ok": True,
                    "consistent": verification.is_consistent if verification.consistency.can_tell else None,
                    "share_inside": verification.consistency.share_inside,
                    **_plain(verification),
                }
            )
        )
    else:
        typer.echo(_verdict(verification))
    if not verification.is_consistent:
        raise typer.Exit(1)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name: see unjpeg.train.recipes.")],
    data: Annotated[
        list[str], typer.Option("--data", metavar="DIR[=WEIGHT]", help="Folder of images; give several to mix them.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Checkpoints and logs; resumes what is there.")],
    start: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Go on from a model file's weights; skips stage 1.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that cut and compress patches.")] = 1,
    devices: Annotated[int, typer.Option(min=1, help="GPUs, or processes on the CPU.")] = 1,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="32-true, bf16-mixed, ... [bf16 where the hardware has it]")] = "auto",
) -> None:
    """Train a network: stage 1, then stage 2. Needs the extra: pip install unjpeg[train]."""
    train_recipe = _needs_extra("unjpeg.train.pipeline", "train").train_recipe
    train_recipe(
        recipe,
        data,
        out,
        start=start,
        workers=workers,
        devices=devices,
        accelerator=accelerator,
        precision=precision,
    )


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A stage-2 checkpoint (.safetensors).")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The model file to write (.unjpeg).")],
    data: Annotated[list[str], typer.Option("--data", metavar="DIR[=WEIGHT]", help="What it was trained on.")],
    name: Annotated[str | None, typer.Option(help="The model's name. [the file's]")] = None,
) -> None:
    """Turn a trained checkpoint into a model file for unjpeg restore. Needs the extra: pip install unjpeg[train]."""
    export_file = _needs_extra("unjpeg.train.pipeline", "train").export_file
    export_file(checkpoint, out, data, name or out.stem)
    typer.echo(f"wrote {out}", err=True)


@app.command()
def adapt(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A shipped model's name or a model file's path.")],
    target: Annotated[
        Path, typer.Option("--target", metavar="DIR", help="Your compressed pictures; no originals are needed.")
    ],
    source: Annotated[
        list[str], typer.Option("--source", metavar="DIR[=WEIGHT]", help="Clean pictures of any kind; several to mix.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the model goes; resumes what is there.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 1000,
    strength: Annotated[float, typer.Option(min=0, help="How hard source and target are drawn together.")] = 0.1,
    max_loss: Annotated[float, typer.Option(min=0, help="Stop when the source loses more than this, in dB.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Decides everything that is random.")] = 0,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="32-true, bf16-mixed, ... [bf16 where the hardware has it]")] = "auto",
) -> None:
    """Adapt a model to pictures without originals. Needs the extra: pip install unjpeg[train]."""
    if not (0 <= strength < float("inf") and 0 <= max_loss < float("inf")):  # not a number: their checks let it pass
        raise typer.BadParameter("--strength and --max-loss must be numbers from 0 up")
    adapting = _needs_extra("unjpeg.train.adapt", "train")
    adapting.adapt_model(
        model,
        target,
        source,
        out,
        config=dataclasses.replace(
            adapting.DEFAULT_ADAPTATION, steps=steps, strength=strength, max_source_loss_db=max_loss
        ),
        seed=seed,
        accelerator=accelerator,
        precision=precision,
        say=lambda line: typer.echo(f"unjpeg: {_printable(line)}", err=True),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Job:
    """One input and where its result goes; ``target`` None is standard output."""

    source: str
    target: Path | None
    format: str

    def check(self, overwrite: bool) -> None:
        """Fail before the work, not after it."""
        if self.target is None:
            return
        exists = os.path.exists(self.target)  # Path.exists raises for names that are too long
        if self.source != "-" and exists and self.target.samefile(self.source):
            raise OutputError(f"{self.target}: is the input itself; choose another output")
        if exists and not overwrite:
            raise OutputError(f"{self.target}: exists already; pass --overwrite to replace it")


def _plan(
    inputs: Sequence[str], output: str | None, format: str | None, *, recursive: bool
) -> tuple[list[_Job], list[tuple[str, UnjpegError]]]:
    """Which file goes where, and which inputs go nowhere. Two inputs never share an output: the later one fails."""
    from unjpeg.output import FORMATS, format_of

    sources: list[tuple[str, Path]] = []  # input, and its path below the output folder
    failures: list[tuple[str, UnjpegError]] = []
    for given in inputs:
        if not given:
            failures.append((given, BadImageError("an input's name is empty")))
        elif _is_dir(given):
            found, unreadable = _pictures_in(Path(given), recursive=recursive, without=output)
            for error in unreadable:
                reason = f"cannot be read ({error.strerror or error})"
                failures.append((given, BadImageError(f"{error.filename or given}: {reason}")))
            if not found and not unreadable:
                hint = "" if recursive else "; --recursive looks below it, too"
                failures.append((given, BadImageError(f"{given}: no pictures in this folder{hint}")))
            sources += [(str(path), path.relative_to(given)) for path in found]
        else:
            # A path that ends in .. and is no folder names no file, but the reader says what is wrong with it.
            name = "stdin" if given == "-" else Path(given).name
            sources.append((given, Path(name if name.strip(".") else "unnamed")))

    to_stdout = output == "-" or (output is None and list(inputs) == ["-"])
    if output is None and "-" in inputs and not to_stdout:
        raise typer.BadParameter("with other inputs beside -, name a folder with --output")
    if to_stdout:
        if len(sources) + len(failures) > 1:
            raise typer.BadParameter("standard output can hold one picture only")
        return [_Job(source, None, format or "png") for source, _ in sources], failures

    to_folder = output is not None and (
        len(sources) > 1 or output.endswith(("/", os.sep)) or _is_dir(output) or any(map(_is_dir, inputs))
    )
    if output is not None and not to_folder:
        chosen = format or format_of(Path(output))
        if chosen is None:
            raise typer.BadParameter(
                f"{output}: end it in .png, .jpg, .webp or .tiff, give --format, or name a folder (with a slash)"
            )
        return [_Job(source, Path(output), chosen) for source, _ in sources], failures
    if output is not None and not _is_dir(output) and (os.path.exists(output) or format_of(Path(output)) is not None):
        raise typer.BadParameter(f"{output}: is a file's name, but several pictures or a folder need a folder")

    chosen = format or "png"
    jobs: list[_Job] = []
    originals = {_same_file_key(Path(source)) for source, _ in sources if source != "-"}
    taken: dict[str, str] = {}
    for source, relative in sources:
        if output is not None:
            target = Path(output) / relative.with_suffix(FORMATS[chosen].suffix)
        else:
            target = Path(source).with_name(relative.name).with_suffix(f".restored{FORMATS[chosen].suffix}")
        key = _same_file_key(target)
        if key in originals or key in taken:
            clash = "is an input itself" if key in originals else f"is where {taken[key]} goes"
            problem = f"{source}: would be written to {target}, which {clash}; choose another output"
            failures.append((source, OutputError(problem)))
            continue
        taken[key] = source
        jobs.append(_Job(source, target, chosen))
    return jobs, failures


def _same_file_key(path: Path) -> str:
    """Equal for paths that may be one file, also on file systems that ignore case."""
    return os.path.realpath(path).casefold()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made a folder ({error.strerror or error})") from error


def _is_dir(given: str) -> bool:
    return given != "-" and os.path.isdir(given)  # Path.is_dir raises for names that are too long


def _pictures_in(folder: Path, *, recursive: bool, without: str | None) -> tuple[list[Path], list[OSError]]:
    """Pictures by suffix, sorted, and what could not be looked into.

    Not inputs: hidden files, results of an earlier run (``*.restored.*``), and what lies in the output folder.
    """
    unreadable: list[OSError] = []
    output = os.path.realpath(without) if without else None
    found = []
    for here, folders, names in os.walk(folder, onerror=unreadable.append):
        if not recursive:
            folders.clear()
        folders[:] = [name for name in folders if os.path.realpath(Path(here, name)) != output]
        found += [
            path
            for path in map(Path(here).joinpath, names)
            if path.suffix.lower() in PICTURE_SUFFIXES
            and not path.name.startswith(".")
            and not path.stem.endswith(".restored")
            and path.is_file()
        ]
    return sorted(found), unreadable


def _with_progress(jobs: list[_Job], *, hidden: bool) -> Iterator[tuple[_Job, Callable[[float], None]]]:
    """Each job and a function that takes its finished share; a bar on a terminal, silence in a pipe."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=hidden or not console.is_terminal) as bar:
        task = bar.add_task("restoring", total=float(len(jobs)))
        for number, job in enumerate(jobs):
            name = "standard input" if job.source == "-" else Path(job.source).name
            bar.update(task, description=escape(_printable(name)))

            def show(share: float, number: int = number) -> None:
                bar.update(task, completed=number + share)

            yield job, show


def _summary(job: _Job, report: Report) -> str:
    facts = [f"{report.width}x{report.height}"]
    if report.guided_quality is not None:
        facts.append(f"looks like quality {report.read_quality}")
    if report.stated_quality is not None:
        facts.append(f"file states {report.stated_quality}")
        facts.append("held to the file's cells" if report.projected else "not held to the file's cells")
    else:
        facts.append("restored blind: not a JPEG file")
    lines = [_printable(f"{job.source} -> {job.target} ({', '.join(facts)})")]
    return "\n".join([*lines, *(f"  note: {note}" for note in report.notes)])


def _describe(inspection: Inspection) -> str:
    standard = "standard tables" if inspection.table_distance == 0 else f"tables {inspection.table_distance:.0%} off"
    coding = "progressive" if inspection.progressive else "baseline"
    carried = [
        name
        for name, there in (
            ("EXIF", inspection.has_exif),
            ("ICC profile", inspection.has_icc_profile),
            ("XMP", inspection.has_xmp),
        )
        if there
    ]
    lines = [
        _printable(inspection.name),
        f"  size         {inspection.width} x {inspection.height}, orientation {inspection.orientation}",
        f"  coding       {coding}, {inspection.colour_space}, {inspection.subsampling}",
        f"  quality      {inspection.stated_quality} by its tables ({standard})",
    ]
    if inspection.read_quality is not None:
        twice = "; probably compressed twice" if inspection.looks_compressed_twice else ""
        lines.append(f"               {inspection.read_quality} by its pixels{twice}")
    lines.append(f"  metadata     {', '.join(carried) or 'none'}")
    for number, table in enumerate(inspection.tables):
        title = "luma table" if number == 0 else "chroma table"
        rows = [" ".join(f"{value:3d}" for value in row) for row in table]
        lines.append(f"  {title:12s} {rows[0]}")
        lines += [f"               {row}" for row in rows[1:]]
    return "\n".join(lines)


def _verdict(verification: Verification) -> str:
    word = "consistent" if verification.is_consistent else "not consistent"
    if not verification.consistency.can_tell:
        word = "cannot be told to be consistent (every block clips or hangs over the edge)"
    names = f"{verification.restored}: {word} with {verification.original}"
    lines = [f"{_printable(names)}: {verification.consistency.share_inside:.4%} of its coefficients lie in their cells"]
    for part in verification.consistency.components:
        line = f"  {part.name:2s} {part.inside} of {part.checked} inside"
        if part.checked_clipped:
            line += f"; {part.inside_clipped} of {part.checked_clipped} in blocks that clip"
        if part.blocks_at_edge:
            line += f"; {part.blocks_at_edge} blocks hang over the edge"
        if part.worst_block:
            line += f"; worst: {part.worst_excess:.2f} steps beyond, block {part.worst_block}"
        lines.append(line)
    return "\n".join(lines)


def _report_failure(error: BaseException, as_json: bool, source: str) -> None:
    if as_json:
        typer.echo(json.dumps({"input": source, "ok": False, "error": str(error), "kind": type(error).__name__}))
    else:
        _complain(error)


def _complain(error: BaseException) -> None:
    typer.echo(f"unjpeg: {_printable(' '.join(str(error).split()))}", err=True)


def _printable(text: str) -> str:
    """One line whatever a file is called: line breaks, control characters and undecodable bytes escaped."""
    unsafe = ("Cc", "Cs", "Zl", "Zp")
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in unsafe else c for c in text)


def _one_line(error: BaseException, source: str) -> BaseException:
    """Errors that are not ours still name the file."""
    if isinstance(error, MemoryError):
        return BadImageError(f"{source}: not enough memory to restore it")
    if isinstance(error, OSError):
        return OutputError(f"{source}: {error.strerror or error}")
    return error


def _plain(value: Report | Inspection | Verification) -> dict[str, Any]:
    return dataclasses.asdict(value)


def _needs_extra(module: str, extra: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UnjpegError(f"this command needs {error.name}: pip install 'unjpeg[{extra}]'") from error
