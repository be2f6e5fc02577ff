"""The command ``unjpeg``: arguments in, library calls, one clear line per problem out.

Exit codes: 0 all done, 1 some inputs failed (or a picture is not consistent), 2 wrong usage.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from unjpeg.console import (
    complain,
    describe_error,
    escape_line,
    explain,
    in_options,
    needing_extra,
    progress_bar,
    run_safely,
    say,
)
from unjpeg.errors import ExistsError, ModelError, OutputError, UnjpegError
from unjpeg.interrupts import loading, was_interrupted
from unjpeg.usage import Command, Commands
from unjpeg.version import __version__

if TYPE_CHECKING:
    from unjpeg.batch import Job, Outcome, Plan, Settings
    from unjpeg.inspection import Inspection, Machine, Verification
    from unjpeg.restorer import Report

__all__ = ["app", "main"]

app = typer.Typer(
    name="unjpeg",
    cls=Commands,
    help="Take compression artifacts out of JPEG images.",
    epilog="""
    Examples:
      unjpeg photo.jpg                  restores it: photo.restored.png
      unjpeg album/ -r -o restored/     restores all pictures of a folder
      unjpeg inspect photo.jpg          what the file and its pixels say
      unjpeg serve                      a page in the browser

    unjpeg COMMAND --help has the options of each. unjpeg photo.jpg takes those of
    restore.
    """,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # unjpeg.usage draws the help
    context_settings={"help_option_names": ["-h", "--help"]},
)


OutputFormat = Literal["png", "jpeg", "webp", "tiff", "avif"]
AdaptBy = Literal["redegradation", "adversary"]
BitDepth = Literal["8", "16"]
_BITS: dict[str | None, Literal[8, 16] | None] = {None: None, "8": 8, "16": 16}
Device = Literal["cpu", "gpu", "npu", "cuda", "directml", "coreml"]
# As in ``unjpeg.restorer`` and ``unjpeg.runtimes``, which help and usage errors do not wait for.
Consistency = Literal["auto", "strict", "off"]
Precision = Literal["auto", "full", "bf16", "int8"]
Runtime = Literal["openvino", "onnxruntime"]
DesktopAction = Literal["show", "install", "remove", "restore"]


def main() -> None:
    """Run the command and exit with its code."""
    # Half of what importing OpenVINO takes, 0.15 seconds, is its converter of models, which nothing here calls: this
    # makes its import fail, which OpenVINO puts up with.
    sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]
    run_safely(app)


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


# The groups of ``restore --help``, in the order of its parameters.
EVERYDAY, OUTPUT, BATCHES, LIMITS, ENGINE = "Everyday", "Output", "Batches", "Limits", "Engine"
# And of the commands.
DAILY, RESEARCH = "Everyday commands", "Many machines, and research"

MODELS = "fast, default, best (four passes of default) or a model file's path"


def _complete_model(incomplete: str) -> list[str]:
    """For shells; where nothing fits they offer files."""
    return [name for name in ("fast", "default", "best") if name.startswith(incomplete)]


ModelOption = Annotated[
    str,
    typer.Option(metavar="MODEL", help=f"{MODELS}.", rich_help_panel=EVERYDAY, autocompletion=_complete_model),
]

# What restore and cluster both take.
StrengthOption = Annotated[
    float,
    typer.Option(metavar="0..1", min=0, max=1, help="0 decodes only, 1 restores fully. [1]", rich_help_panel=EVERYDAY),
]
AsQualityOption = Annotated[
    int | None,
    typer.Option(
        "--as-quality",
        metavar="1..100",
        min=1,
        max=100,
        help="Restore as if it looked like this JPEG quality: lower is smoother. Restores also what was never "
        "compressed. [what its pixels look like]",
        rich_help_panel=EVERYDAY,
    ),
]
OldQualityOption = Annotated[int | None, typer.Option("--quality", min=1, max=100, hidden=True)]
SalvageOption = Annotated[
    bool,
    typer.Option(
        "--salvage",
        help="Restore what decodes of a damaged JPEG instead of refusing it.",
        rich_help_panel=EVERYDAY,
    ),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace files that exist.", rich_help_panel=EVERYDAY)
]
OutputQualityOption = Annotated[
    int | None,
    typer.Option(
        metavar="1..100",
        min=1,
        max=100,
        help="Of the file that is written. [JPEG 95, AVIF 90, WebP lossless]",
        rich_help_panel=OUTPUT,
    ),
]
BitDepthOption = Annotated[
    BitDepth | None,
    typer.Option(
        help="Bits per channel of PNG and TIFF output. [8, or 16 if the file has more than 8]", rich_help_panel=OUTPUT
    ),
]
ConsistencyOption = Annotated[
    Consistency,
    typer.Option(
        help="Stay true to the file: only pictures that it could have been made from. strict never looks at what came "
        "before the file.",
        rich_help_panel=OUTPUT,
    ),
]
StripOption = Annotated[
    bool,
    typer.Option(
        "--strip",
        help="Write no metadata, no colour profile either; turn pictures upright.",
        rich_help_panel=OUTPUT,
    ),
]
DetailOption = Annotated[
    float,
    typer.Option(
        metavar="0..1",
        min=0,
        max=1,
        help="Less than 1 smooths fine detail less: more texture, and more of its noise. [1]",
        rich_help_panel=EVERYDAY,
    ),
]
DitherOption = Annotated[
    bool,
    typer.Option(
        "--dither", help="Round 8-bit output with fine grain, against bands in skies.", rich_help_panel=OUTPUT
    ),
]
OutputSizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="input|SIZE",
        help="The best JPEG that is not larger than its input, or than 200KB, 1.5MB.",
        rich_help_panel=OUTPUT,
    ),
]
TagOption = Annotated[
    bool,
    typer.Option("--tag", help="Say in the XMP what restored the picture, and how.", rich_help_panel=OUTPUT),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="One JSON object per input on standard output.", rich_help_panel=BATCHES),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        help="full: float32; bf16: 16-bit floats; int8: mostly 8-bit integers; auto: the fastest here, measured once.",
        rich_help_panel=ENGINE,
    ),
]
TtaOption = Annotated[
    bool,
    typer.Option(
        "--tta",
        help="Deprecated, see --model best: the mean over eight flips and rotations, eight times the work.",
        rich_help_panel=ENGINE,
    ),
]


@app.command(
    cls=Command,
    rich_help_panel=DAILY,
    epilog="""
    Examples:
      unjpeg photo.jpg                      writes photo.restored.png beside it
      unjpeg photo.jpg -o better.jpg        a JPEG again, of quality 95
      unjpeg photo.jpg --strength 0.5       half-way: keeps more of the grain
      unjpeg album/ -r -o restored/         a whole tree; first try with --dry-run
      unjpeg album/ -r -o restored/ --resume   goes on, past what is done

    Exit codes: 0 all done (also what --resume and --skip-existing pass over),
    1 some inputs failed or would have been overwritten, 2 wrong usage,
    130 interrupted.
    """,
)
def restore(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT", help="Pictures or folders of pictures; - reads standard input.")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|DIR",
            help="Where to write; - is standard output. [beside the input]",
            rich_help_panel=EVERYDAY,
        ),
    ] = None,
    model: ModelOption = "default",
    strength: StrengthOption = 1.0,
    as_quality: AsQualityOption = None,
    quality: OldQualityOption = None,
    detail: DetailOption = 1.0,
    salvage: SalvageOption = False,
    overwrite: OverwriteOption = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="Say nothing but what went wrong.", rich_help_panel=EVERYDAY),
    ] = False,
    format: Annotated[
        OutputFormat | None,
        typer.Option("--format", help="File format. [by the output's suffix, else png]", rich_help_panel=OUTPUT),
    ] = None,
    output_quality: OutputQualityOption = None,
    output_size: OutputSizeOption = None,
    bit_depth: BitDepthOption = None,
    dither: DitherOption = False,
    consistency: ConsistencyOption = "auto",
    tag: TagOption = False,
    strip: StripOption = False,
    keep_times: Annotated[
        bool,
        typer.Option("--keep-times", help="Give outputs their input's times.", rich_help_panel=OUTPUT),
    ] = False,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Folders below folders, too.", rich_help_panel=BATCHES)
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Skip what an earlier run made from the same content in the same way.",
            rich_help_panel=BATCHES,
        ),
    ] = False,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing",
            help="Skip what has a result already, whatever it was made from.",
            rich_help_panel=BATCHES,
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be written, and write nothing.", rich_help_panel=BATCHES),
    ] = False,
    as_json: JsonOption = False,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=256,
            help="Processes for several pictures. [one per four cores]",
            rich_help_panel=BATCHES,
        ),
    ] = None,
    max_memory: Annotated[
        int | None,
        typer.Option(
            metavar="MIB", min=1000, help="Memory for all of them, in MiB (about). [no limit]", rich_help_panel=LIMITS
        ),
    ] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Largest width times height. [268435456]", rich_help_panel=LIMITS),
    ] = None,
    max_scans: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Most scans of a JPEG; a large one may have fewer. [500]",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    max_metadata: Annotated[
        int | None,
        typer.Option(metavar="MIB", min=0, help="Most metadata in a JPEG, in MiB. [64]", rich_help_panel=LIMITS),
    ] = None,
    max_file: Annotated[
        int | None,
        typer.Option(metavar="MIB", min=1, help="Largest file, in MiB. [1024]", rich_help_panel=LIMITS),
    ] = None,
    runtime: Annotated[
        Runtime | None,
        typer.Option(help="[what runs on the device]", rich_help_panel=ENGINE),
    ] = None,
    device: Annotated[
        Device,
        typer.Option(
            help="Where the network runs: gpu and npu by OpenVINO, cuda, directml and coreml by ONNX Runtime.",
            rich_help_panel=ENGINE,
        ),
    ] = "cpu",
    precision: PrecisionOption = "auto",
    tta: TtaOption = False,
) -> None:
    """Restore pictures. photo.jpg becomes photo.restored.png beside it, or DIR/photo.png with -o DIR."""
    if not (0 <= strength <= 1 and 0 <= detail <= 1):  # not a number: the options' own checks let it pass
        raise typer.BadParameter("--strength and --detail must be from 0 to 1")
    if dither and bit_depth == "16":
        raise typer.BadParameter("--dither is for 8 bits; 16 show no bands")
    if overwrite and skip_existing:
        raise typer.BadParameter("--overwrite and --skip-existing contradict each other; give one of them")
    with loading():  # here, not at the top: help and usage errors stay fast
        from unjpeg.batch import find_done, plan
        from unjpeg.jpeg import Limits
        from unjpeg.output import FORMATS
        from unjpeg.restorer import Options
        from unjpeg.settings import Settings

    given = {
        "pixels": max_pixels,
        "scans": max_scans,
        "metadata_bytes": None if max_metadata is None else max_metadata * 2**20,
        "file_bytes": None if max_file is None else max_file * 2**20,
    }
    try:
        todo = plan(inputs, output, format, recursive=recursive)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if as_json and any(job.target is None for job in todo.jobs):
        raise typer.BadParameter("standard output cannot hold both the picture and --json; name a file with -o")
    if not dry_run and any(job.target is None for job in todo.jobs) and sys.stdout.isatty():
        raise typer.BadParameter("standard output is a terminal; add > photo.png, or name a file with -o")
    if output_size is not None and any(job.format != "jpeg" for job in todo.jobs):
        raise typer.BadParameter(_SIZE_OF_JPEG)
    _check_output_quality(output_quality, {job.format for job in todo.jobs})
    as_quality = _take_old_name(as_quality, quality, {job.format for job in todo.jobs})
    unfit = sorted({job.format for job in todo.jobs if bit_depth == "16" and 16 not in FORMATS[job.format].bit_depths})
    if unfit:
        holds = f"{', '.join(unfit)} holds no 16-bit pixels"
        raise typer.BadParameter(f"{holds}; choose png or tiff, or 8 bits")
    settings = Settings(
        model=model,
        runtime=runtime,
        device=device,
        precision=precision,
        options=Options(
            strength=strength,
            quality=as_quality,
            consistency=consistency,
            bit_depth=_BITS[bit_depth],
            salvage=salvage,
            tta=tta,
            detail=detail,
            dither=dither,
        ),
        output_quality=output_quality,
        strip=strip,
        limits=Limits(**{name: value for name, value in given.items() if value is not None}),
        overwrite=overwrite,
        keep_times=keep_times,
        output_size=_read_size(output_size),
        tag=tag,
    )
    for source, failure in todo.failures:
        _report_failure(failure, as_json, source)
    if as_json or not quiet:
        _report_left_out(todo.left_out, as_json)
    if dry_run:
        due = find_done(todo.jobs, settings) if resume else ((job, False) for job in todo.jobs)
        raise typer.Exit(0 if _report_plans(due, todo, settings, skip_existing, as_json) else 1)
    as_asked = _restore_planned(
        todo,
        settings,
        workers=workers,
        max_memory_mib=max_memory,
        resume=resume,
        skip_existing=skip_existing,
        as_json=as_json,
        quiet=quiet,
    )
    if not as_asked:
        raise typer.Exit(1)


def _restore_planned(
    todo: Plan,
    settings: Settings,
    *,
    workers: int | None,
    max_memory_mib: int | None,
    resume: bool,
    skip_existing: bool,
    as_json: bool,
    quiet: bool,
) -> bool:
    """Restore what is planned and say what became of it. Whether all is as it was asked for."""
    from unjpeg.batch import restore_batch

    several = len(todo.jobs) + len(todo.failures) > 1
    counts: Counter[str] = Counter(failed=len(todo.failures))
    in_the_way: list[Job] = []
    try:
        with progress_bar(len(todo.jobs), hidden=as_json or quiet) as progress:
            for outcome in restore_batch(
                todo.jobs,
                settings,
                workers=workers,
                max_memory_mib=max_memory_mib,
                resume=resume,
                skip_existing=skip_existing,
                progress=progress,
            ):
                if outcome.error is not None and was_interrupted():
                    raise KeyboardInterrupt
                exists = isinstance(outcome.error, ExistsError)
                counts[_fate(outcome)] += 1
                if exists and several and not as_json:
                    if not outcome.skipped:
                        in_the_way.append(outcome.job)
                elif as_json or outcome.error is not None or not quiet:
                    _report_outcome(outcome, as_json)
    except KeyboardInterrupt:
        hint = ", and --resume goes on" if len(todo.jobs) > 1 else ""
        complain(UnjpegError(f"interrupted; the picture at work was dropped{hint}"))
        raise typer.Exit(130) from None
    if several and not as_json and not quiet:
        there = f", {counts['there']} there already" if counts["there"] else ""
        typer.echo(
            f"{counts['restored']} restored, {counts['done']} done earlier, {counts['failed']} failed{there}", err=True
        )
    if in_the_way:
        complain(UnjpegError(_ways_past(in_the_way, settings)))
    return not (counts["failed"] or in_the_way or (counts["there"] and not skip_existing))


_SIZE_OF_JPEG = "--output-size is for JPEG; add --format jpeg, or end the output in .jpg"


def _read_size(text: str | None) -> int | Literal["input"] | None:
    from unjpeg.settings import parse_size

    try:
        return None if text is None else parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(f"--output-size: {error}") from error


def _fate(outcome: Outcome) -> str:
    if isinstance(outcome.error, ExistsError):
        return "there"
    if outcome.error is not None:
        return "failed"
    return "done" if outcome.skipped else "restored"


def _ways_past(in_the_way: Sequence[Job], settings: Settings, *, planned: bool = False) -> str:
    """What to do about results that are there already; ``planned``: they would be left alone."""
    from unjpeg.batch import count_known

    count = len(in_the_way)
    known = count_known(in_the_way, settings)
    if known == count:
        known_words = "an earlier run made all of them this way"
    elif known:
        known_words = f"an earlier run made {known} of them this way"
    else:
        known_words = ""
    resume = f"; {known_words}: --resume passes over those whose pictures are unchanged" if known else ""
    them = f"{count} results are there already and " if count > 1 else "one result is there already and "
    left = "would be" if planned else "were" if count > 1 else "was"
    return f"{them}{left} left alone{resume}; --skip-existing passes over all, --overwrite makes them anew"


@app.command(cls=Command, rich_help_panel=RESEARCH)
def cluster(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", help="Pictures or folders of pictures: paths, or URIs of a store."),
    ],
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="DIR", help="Folder, as a path or a URI.", rich_help_panel=EVERYDAY),
    ],
    model: Annotated[str, typer.Option(metavar="MODEL", help=f"{MODELS}, here.", rich_help_panel=EVERYDAY)] = "default",
    strength: StrengthOption = 1.0,
    as_quality: AsQualityOption = None,
    quality: OldQualityOption = None,
    detail: DetailOption = 1.0,
    salvage: SalvageOption = False,
    overwrite: OverwriteOption = False,
    format: Annotated[OutputFormat, typer.Option("--format", help="File format.", rich_help_panel=OUTPUT)] = "png",
    output_quality: OutputQualityOption = None,
    output_size: OutputSizeOption = None,
    bit_depth: BitDepthOption = None,
    dither: DitherOption = False,
    consistency: ConsistencyOption = "auto",
    tag: TagOption = False,
    strip: StripOption = False,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="The Ray cluster. [$RAY_ADDRESS, else this machine alone]",
            rich_help_panel=BATCHES,
        ),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Parquet table of results. [DIR/unjpeg-results.parquet]", rich_help_panel=BATCHES
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="At most so many at once. [all there is room for]", rich_help_panel=BATCHES
        ),
    ] = None,
    cores: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Of each worker. [4, or what the smallest machine has]", rich_help_panel=BATCHES
        ),
    ] = None,
    retries: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="For a picture whose worker died, and for a store that fails.",
            rich_help_panel=BATCHES,
        ),
    ] = 3,
    as_json: JsonOption = False,
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option(help="With cuda each worker takes a GPU.", rich_help_panel=ENGINE)
    ] = "cpu",
    precision: PrecisionOption = "auto",
    tta: TtaOption = False,
) -> None:
    """Restore pictures on many machines. Needs the extra: pip install 'unjpeg[cluster]'."""
    if not (0 <= strength <= 1 and 0 <= detail <= 1):  # not a number: the options' own checks let it pass
        raise typer.BadParameter("--strength and --detail must be from 0 to 1")
    if dither and bit_depth == "16":
        raise typer.BadParameter("--dither is for 8 bits; 16 show no bands")
    with needing_extra("cluster"):
        from unjpeg.cluster import restore_on_cluster
        from unjpeg.output import FORMATS
        from unjpeg.restorer import Options
        from unjpeg.settings import Settings

    _check_output_quality(output_quality, {format})
    as_quality = _take_old_name(as_quality, quality, {format})
    settings = Settings(
        model=model,
        device=device,
        precision=precision,
        options=Options(
            strength=strength,
            quality=as_quality,
            consistency=consistency,
            bit_depth=_BITS[bit_depth],
            salvage=salvage,
            tta=tta,
            detail=detail,
            dither=dither,
        ),
        output_quality=output_quality,
        strip=strip,
        overwrite=overwrite,
        output_size=_read_size(output_size),
        tag=tag,
    )
    if output_size is not None and format != "jpeg":
        raise typer.BadParameter(_SIZE_OF_JPEG)
    if bit_depth == "16" and 16 not in FORMATS[format].bit_depths:
        raise typer.BadParameter(f"{format} holds no 16-bit pixels; choose png or tiff, or 8 bits")
    counts = {"restored": 0, "done earlier": 0, "failed": 0}
    for result in restore_on_cluster(
        inputs,
        output,
        settings,
        format=format,
        table=table,
        address=address,
        workers=workers,
        cores_per_worker=cores,
        retries=retries,
    ):
        counts[result.status] += 1
        if as_json:
            typer.echo(json.dumps(dataclasses.asdict(result)))
        elif result.error is not None:
            complain(UnjpegError(result.error))
    if not as_json:
        typer.echo(", ".join(f"{count} {status}" for status, count in counts.items()), err=True)
    if counts["failed"]:
        raise typer.Exit(1)


@app.command(cls=Command, rich_help_panel=DAILY)
def inspect(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="Pictures; - reads standard input.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Model that reads the quality from the pixels, or whose precision is shown."
        ),
    ] = None,
    machine: Annotated[
        bool, typer.Option("--machine", help="Show what this machine restores with, and at which precision, and why.")
    ] = False,
    measure: Annotated[bool, typer.Option("--measure", help="With --machine: measure the precisions anew.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per file, or of the machine.")] = False,
) -> None:
    """Show what files say about themselves, and what their pixels say of earlier compressions."""
    if machine == bool(files):
        raise typer.BadParameter("give pictures, or --machine")
    if measure and not machine:
        raise typer.BadParameter("--measure goes with --machine")
    if machine:
        _show_machine(model, measure=measure, as_json=as_json)
        return
    with loading():
        from unjpeg.inspection import inspect as inspect_file

    failed = False
    for file in files or []:
        try:
            inspection = inspect_file(file, model=model or "default")
        except ModelError:  # no file's fault
            raise
        except (UnjpegError, OSError, MemoryError) as error:
            failed = True
            _report_failure(describe_error(error, file), as_json, file, elsewhere=True)
            continue
        facts = {"input": file, "ok": True, **_plain(inspection)}
        typer.echo(json.dumps(facts) if as_json else _describe(inspection))
    if failed:
        raise typer.Exit(1)


def _show_machine(model: str | None, *, measure: bool, as_json: bool) -> None:
    with loading():
        from unjpeg.inspection import inspect_machine
        from unjpeg.modelfile import shipped_models

    found = inspect_machine([model] if model else sorted(shipped_models()), measure=measure)
    if as_json:
        typer.echo(json.dumps(_plain(found), default=str))
        return
    lines = [f"{found.processor}, {found.cores} cores"]
    lines += [f"{runtime}: {', '.join(devices)}" for runtime, devices in found.devices.items()]
    for choice in found.choices:
        lines.append(f"{choice.model}: {choice.precision} ({choice.in_words})")
        lines += [
            f"  {precision}: {seconds:.2g} seconds per megapixel"
            for precision, seconds in choice.seconds_per_megapixel.items()
        ]
        lines += [f"  {precision}: passed over ({reason})" for precision, reason in choice.failed.items()]
        lines += [f"  kept in {choice.kept}"] if choice.kept else []
    typer.echo("\n".join(map(escape_line, lines)))


@app.command(cls=Command, rich_help_panel=DAILY)
def verify(
    original: Annotated[str, typer.Argument(metavar="ORIGINAL.jpg", help="The JPEG file.")],
    restored: Annotated[str, typer.Argument(metavar="RESTORED", help="The picture made from it.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Check whether a picture could have produced a JPEG file.

    Exit code 1 if something contradicts the file; 0 also where nothing can be told, which it then says.
    """
    with loading():
        from unjpeg.inspection import verify as verify_file

    try:
        verification = verify_file(original, restored)
    except (UnjpegError, OSError, MemoryError) as error:
        problem = describe_error(error, restored)
        if str(problem).endswith(": is not a JPEG"):
            problem = UnjpegError(f"{problem}; the JPEG comes first, then what was restored from it")
        source = original if str(problem).startswith(f"{original}: ") else restored
        _report_failure(problem, as_json, source)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "ok": True,
                    "consistent": verification.is_consistent if verification.consistency.can_tell else None,
                    "contradicts": verification.contradicts,
                    "share_inside": verification.consistency.share_inside,
                    **_plain(verification),
                }
            )
        )
    else:
        typer.echo(_verdict(verification))
    if verification.contradicts:
        raise typer.Exit(1)


@app.command(cls=Command, rich_help_panel=RESEARCH)
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name: see unjpeg.train.recipes.")],
    data: Annotated[
        list[str], typer.Option("--data", metavar="DIR[=WEIGHT]", help="Folder of images; give several to mix them.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Checkpoints and logs; resumes what is there.")],
    settings: Annotated[
        list[str],
        typer.Option("--set", metavar="FIELD=VALUE", help="Change the recipe: encoders.adversarial=bce, seed=3, ..."),
    ] = [],  # noqa: B006
    start: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Go on from a model's weights, as wide and deep or more so; skips stage 1."),
    ] = None,
    encoders: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Take the encoders of a model or of encoders.safetensors; skips stage 1."),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that cut and compress patches.")] = 1,
    devices: Annotated[int, typer.Option(min=1, help="GPUs, or processes on the CPU.")] = 1,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="32-true or bf16-mixed. [bf16 where the hardware has it]")] = "auto",
) -> None:
    """Train a network: stage 1, then stage 2. Needs the extra: pip install 'unjpeg[train]'."""
    with needing_extra("train"):
        from unjpeg.train.pipeline import train_recipe
    train_recipe(
        recipe,
        data,
        out,
        settings=settings,
        start=start,
        encoders=encoders,
        workers=workers,
        devices=devices,
        accelerator=accelerator,
        precision=precision,
        say=say,
    )


@app.command("data", cls=Command, rich_help_panel=RESEARCH)
def check_data(
    sets: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME[=DIR]", help="Data sets, each with its folder if it lies elsewhere. [all]"),
    ] = None,
    checksums: Annotated[
        bool, typer.Option("--checksums", help="Also compare what the files hold, or see whether they decode.")
    ] = False,
) -> None:
    """Say which of the papers' data sets are whole, and what is missing. Exit code 1 if a named one is not."""
    from unjpeg.datasets import DATA_SETS, data_root, data_set, find_problem

    failed = False
    for given in sets or DATA_SETS:
        name, _, elsewhere = given.partition("=")
        wanted = data_set(name)
        folder = Path(elsewhere) if elsewhere else data_root() / wanted.folder
        problem = find_problem(wanted, folder, checksums=checksums)
        seen = ", checksums agree" if wanted.checksums else ", all of which decode; no checksums are known"
        whole = f"{name}: {folder} holds all {wanted.count} pictures{seen if checksums else ''}"
        typer.echo(escape_line(problem or whole))
        failed = failed or problem is not None
    if failed and sets:
        raise typer.Exit(1)


@app.command(cls=Command, rich_help_panel=RESEARCH)
def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT|MODEL", help=f"A stage-2 checkpoint (.safetensors); with --blind also {MODELS}."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE", help="The file to write: .unjpeg; with --blind .onnx or .safetensors."),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="DIR[=WEIGHT]", help="What the checkpoint was trained on."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name. [the file's]")] = None,
    guide_windows: Annotated[
        int | None, typer.Option(min=1, help="Windows that a picture's guidance is averaged over, at most. [32]")
    ] = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="Write one network for other programs, which hand over pixels alone.")
    ] = False,
    as_quality: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="With --blind: for pictures of this JPEG quality. [any]"),
    ] = None,
    quality_input: Annotated[
        bool, typer.Option("--quality-input", help="With --blind: a graph that is told the quality, as a second input.")
    ] = False,
) -> None:
    """Turn a checkpoint into a model file for unjpeg restore, or a model into one network for other programs.

    Checkpoints need the extra train, --blind the extra export: pip install 'unjpeg[export]'.
    """
    is_checkpoint = source.endswith(".safetensors")
    if not blind and (as_quality is not None or quality_input):
        raise typer.BadParameter("--as-quality and --quality-input go with --blind")
    if quality_input and (as_quality is not None or out.suffix != ".onnx"):
        raise typer.BadParameter("--quality-input is for graphs (.onnx), and goes without --as-quality")
    if is_checkpoint and not data:
        raise typer.BadParameter("a checkpoint needs --data: the folders that it was trained on")
    if not is_checkpoint and not blind:
        raise typer.BadParameter(f"{source} is no checkpoint (.safetensors); --blind makes one network of a model")
    if not is_checkpoint and (data or name or guide_windows):
        raise typer.BadParameter("--data, --name and --guide-windows are for checkpoints")
    if not blind:
        _export_checkpoint(Path(source), out, data or [], name, guide_windows)
    else:
        with needing_extra("export"):
            from unjpeg.blind import check_blind_target, export_blind
        check_blind_target(out)
        with TemporaryDirectory(prefix="unjpeg-") as folder:
            if is_checkpoint:
                model = Path(folder) / f"{name or out.stem}.unjpeg"
                _export_checkpoint(Path(source), model, data or [], name or out.stem, guide_windows)
                source = str(model)
            export_blind(source, out, quality=as_quality, quality_input=quality_input)
    typer.echo(f"wrote {out}", err=True)


def _export_checkpoint(
    checkpoint: Path, out: Path, data: Sequence[str], name: str | None, guide_windows: int | None
) -> None:
    with needing_extra("train"):
        from unjpeg.train.pipeline import export_file
    export_file(checkpoint, out, data, name or out.stem, guide_windows)


@app.command(cls=Command, rich_help_panel=RESEARCH)
def adapt(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"{MODELS}.")],
    target: Annotated[
        Path,
        typer.Option("--target", metavar="DIR", help="Your compressed pictures (or a data set); no originals needed."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the model goes; resumes what is there.")],
    source: Annotated[
        list[str],
        typer.Option(
            "--source", metavar="DIR[=WEIGHT]", help="Clean pictures; several to mix. [your own, at half their size]"
        ),
    ] = [],  # noqa: B006
    by: Annotated[
        AdaptBy, typer.Option(help="redegradation: pairs compressed as yours are. adversary: as in the paper.")
    ] = "redegradation",
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps. [500; with an adversary 1000]")] = None,
    strength: Annotated[float, typer.Option(min=0, help="Of the adversary.")] = 0.01,
    max_loss: Annotated[float, typer.Option(min=0, help="Stop when the source loses more than this, in dB.")] = 0.1,
    settings: Annotated[
        list[str], typer.Option("--set", metavar="FIELD=VALUE", help="Of the adaptation: batch=4, ...")
    ] = [],  # noqa: B006
    seed: Annotated[int, typer.Option(min=0, help="Decides everything that is random.")] = 0,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="32-true or bf16-mixed. [bf16 where the hardware has it]")] = "auto",
) -> None:
    """Adapt a model to pictures without originals. Needs the extra: pip install 'unjpeg[train]'."""
    if not (0 <= strength < float("inf") and 0 <= max_loss < float("inf")):  # not a number: their checks let it pass
        raise typer.BadParameter("--strength and --max-loss must be numbers from 0 up")
    with loading():
        from unjpeg.adapt.folders import AdaptationFolders

    AdaptationFolders.open(target, source, out)  # looked at before torch is loaded
    if by == "redegradation":
        with needing_extra("train"):
            from unjpeg.adapt.redegrade import configure_redegradation, redegrade_model
        redegrade_model(
            model,
            target,
            source,
            out,
            config=configure_redegradation(settings, steps=steps, max_source_loss_db=max_loss),
            seed=seed,
            accelerator=accelerator,
            precision=precision,
            say=say,
        )
        return
    if not source:
        raise typer.BadParameter("--by adversary compares your pictures with clean ones: give --source DIR")
    with needing_extra("train"):
        from unjpeg.adapt.model import adapt_model, configure_adaptation
    adapt_model(
        model,
        target,
        source,
        out,
        config=configure_adaptation(settings, steps=steps, strength=strength, max_source_loss_db=max_loss),
        seed=seed,
        accelerator=accelerator,
        precision=precision,
        say=say,
    )


@app.command(cls=Command, rich_help_panel=DAILY)
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets others in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8484,
    model: Annotated[
        list[str],
        typer.Option(
            metavar="NAME|FILE", help="To choose among, again for each; the first is the usual. [default, fast, best]"
        ),
    ] = [],  # noqa: B006
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Processes that restore. [one per four cores]")
    ] = None,
    max_upload: Annotated[int, typer.Option(metavar="MIB", min=1, help="Largest file.")] = 32,
    max_megapixels: Annotated[float, typer.Option(min=0.01, max=268, help="Largest picture.")] = 50,
    max_requests: Annotated[int, typer.Option(min=1, max=10_000, help="At work or waiting at once.")] = 32,
    time_limit: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            max=86_400,
            help="For one step on one picture; 0 sets none. [none for this computer alone, 120 for others]",
        ),
    ] = None,
    hold: Annotated[
        int, typer.Option(metavar="MIB", min=0, help="Memory of each process for pictures between requests.")
    ] = 512,
    allow_host: Annotated[
        list[str],
        typer.Option(metavar="NAME", help="A name that the server is reached by, behind a proxy for instance."),
    ] = [],  # noqa: B006
) -> None:
    """Open a page that restores in a browser, and the same over HTTP. Needs the extra: pip install 'unjpeg[web]'."""
    with needing_extra("web"):
        from unjpeg.batch import worker_count
        from unjpeg.web.app import OFFERED, is_private
        from unjpeg.web.app import serve as serve_page
        from unjpeg.web.workers import ServerLimits

    if time_limit is None:
        time_limit = 0 if is_private(host, allow_host) else 120
    serve_page(
        host,
        port,
        models=model or OFFERED,
        limits=ServerLimits(
            upload_bytes=max_upload * 2**20,
            pixels=int(max_megapixels * 1e6),
            seconds=time_limit or None,
            requests=max_requests,
            held_bytes=hold * 2**20,
        ),
        workers=worker_count(workers, None),
        allowed_hosts=allow_host,
        say=say,
    )


@app.command(
    cls=Command,
    rich_help_panel=DAILY,
    epilog="""
    Examples:
      unjpeg desktop show                what there is, and what is in place
      unjpeg desktop install             for the file managers found here
      unjpeg desktop install thunar      for this one
      unjpeg desktop remove              all gone again

    File managers: nautilus, nemo, caja, dolphin, thunar; finder; explorer.
    restore is what their menus call, with pictures in place of their names.
    """,
)
def desktop(
    action: Annotated[DesktopAction, typer.Argument(metavar="show|install|remove|restore", help="What to do.")],
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="File managers. [those found here]")] = None,
    model: ModelOption = "default",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
) -> None:
    """Put Restore JPEG into the menus of file managers, or take it away."""
    with loading():
        from unjpeg import desktop as menus

    if dry_run and action in ("show", "restore"):
        raise typer.BadParameter("--dry-run goes with install and remove")
    if action == "restore":
        from unjpeg.settings import Settings

        is_fine, words = menus.restore_selection(names or [], Settings(model=model))
        typer.echo(words, err=True)
        raise typer.Exit(0 if is_fine else 1)
    places = menus.open_places(os.environ)
    chosen = [] if model == "default" else ["--model", os.path.abspath(model) if os.path.exists(model) else model]
    command = (*menus.find_program(), "desktop", "restore", *chosen, "--")
    try:
        if action == "show":
            changes = menus.list_menus(places, command)
        elif action == "install":
            from unjpeg.modelfile import ModelFile

            ModelFile.read(model)  # a menu whose model is not there would fail at every click
            changes = menus.install(names or [], places, command, dry_run=dry_run)
        else:
            changes = menus.remove(names or [], places, dry_run=dry_run)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    for line in menus.describe_changes(changes, dry_run=dry_run):
        typer.echo(escape_line(line), err=action != "show")


@app.command(cls=Command, rich_help_panel=RESEARCH)
def benchmark(
    data: Annotated[
        list[str],
        typer.Argument(metavar="DATASET", help="Data sets, folders of originals, or COMPRESSED=ORIGINALS folders."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Results and report; goes on with what is there.")],
    method: Annotated[
        list[str],
        typer.Option(
            "--method", metavar="M", help="jpeg, a model, a program, NAME=COMMAND, a network's file, printed:ROW."
        ),
    ] = ["jpeg", "default"],  # noqa: B006
    quality: Annotated[str, typer.Option(metavar="Q,Q", help="JPEG qualities.")] = "10,20,30,40",
    sampling: Annotated[str, typer.Option(help="Chroma of those: 4:2:0, 4:2:2 or 4:4:4.")] = "4:2:0",
    degradation: Annotated[
        list[str],
        typer.Option(metavar="D", help="Instead of --quality: webp-20, avif-30, jpeg-90-after-30-shift-3-5, ..."),
    ] = [],  # noqa: B006
    metric: Annotated[list[str], typer.Option(metavar="NAME", help="[all]")] = [],  # noqa: B006
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pictures of each set.")] = None,
    rounds: Annotated[int, typer.Option(min=0, help="Timed rounds, methods taking turns; 0 leaves costs out.")] = 3,
    show: Annotated[list[str], typer.Option(metavar="NAME", help="Pictures to show in the report.")] = [],  # noqa: B006
    real: Annotated[
        list[Path], typer.Option(metavar="DIR", help="Pictures without originals, to show before and after.")
    ] = [],  # noqa: B006
) -> None:
    """Measure methods on pictures, side by side. Needs the extra: pip install 'unjpeg[evaluate]'."""
    with needing_extra("evaluate"):
        from unjpeg.evaluate.command import benchmark as measure
    try:
        problems = measure(
            data,
            method,
            degradation or [_jpeg_degradation(q, sampling) for q in quality.split(",")],
            metric,
            out,
            limit=limit,
            rounds=rounds,
            pictures=show,
            real=real,
            show=lambda line: typer.echo(escape_line(line)),
            say=say,
            bar=lambda doing, total: progress_bar(total, doing=doing),
        )
    except KeyboardInterrupt:
        complain(UnjpegError("interrupted; the same command goes on with what is measured"))
        raise typer.Exit(130) from None
    if problems:
        raise typer.Exit(1)


def _jpeg_degradation(quality: str, sampling: str) -> str:
    return f"jpeg-{quality.strip()}" + ("" if sampling == "4:2:0" else f"-{sampling}")


def _check_output_quality(output_quality: int | None, formats: Collection[str]) -> None:
    """Raises BadParameter if files have none."""
    from unjpeg.output import FORMATS

    lossless = sorted(format for format in formats if not FORMATS[format].has_quality)
    if output_quality is not None and lossless:
        raise typer.BadParameter(
            f"--output-quality is for JPEG, AVIF and WebP, and {lossless[0]} is lossless; add --format jpeg, or end "
            "the output in .jpg, .avif or .webp (how the picture is restored is --as-quality)"
        )


def _take_old_name(as_quality: int | None, quality: int | None, formats: Collection[str]) -> int | None:
    """What ``--as-quality`` is, under either name. Raises BadParameter if both are given."""
    if quality is None:
        return as_quality
    if as_quality is not None:
        raise typer.BadParameter("--quality is the old name of --as-quality: give one of them")
    lossy = sorted({"jpeg", "webp"} & set(formats))
    meant = f"; the quality of the {lossy[0]} that is written is --output-quality" if lossy else ""
    say(f"note: --quality is called --as-quality now, and goes away with the next release{meant}")
    return quality


def _report_outcome(outcome: Outcome, as_json: bool) -> None:
    job, report = outcome.job, outcome.report
    if outcome.error is not None and not outcome.skipped:
        _report_failure(outcome.error, as_json, job.source)
    elif as_json:
        facts = {"input": job.source, "output": str(job.target), "ok": True, "skipped": outcome.skipped}
        said = {"notes": [in_options(note) for note in report.notes]} if report else {}
        typer.echo(json.dumps(facts | (_plain(report) if report else {}) | said))
    elif report is not None and job.target is not None:
        typer.echo(_summary(job, report), err=True)


def _report_left_out(files: Sequence[tuple[Path, str]], as_json: bool) -> None:
    """Nothing in a folder is passed over in silence. In JSON it is neither a success nor a failure."""
    from unjpeg.batch import LEFT_OUT, NO_PICTURE, SUBFOLDER

    if as_json:
        for file, reason in files:
            typer.echo(json.dumps({"input": str(file), "output": None, "ok": None, "left_out": reason}))
        return
    reasons = Counter(reason for _, reason in files)
    below = reasons.pop(SUBFOLDER, 0)
    if reasons:
        parts = []
        for reason, of_several in LEFT_OUT.items():
            if count := reasons[reason]:
                words = reason.removeprefix("a ").removeprefix("an ") if count == 1 else of_several
                parts.append(f"{count} {words}" if len(reasons) > 1 else words)
        suffixes = Counter(file.suffix.lower() or "no suffix" for file, reason in files if reason == NO_PICTURE)
        if suffixes:
            parts[0] += f" ({', '.join(f'{count} {suffix}' for suffix, count in suffixes.most_common())})"
        typer.echo(escape_line(f"{reasons.total()} left out: {', '.join(parts)}"), err=True)
    if below:
        what, them = ("1 subfolder", "it") if below == 1 else (f"{below} subfolders", "them")
        typer.echo(f"{what} left out; -r takes {them}, too", err=True)


def _report_plans(
    due: Iterable[tuple[Job, bool]], todo: Plan, settings: Settings, skip_existing: bool, as_json: bool
) -> bool:
    """What would become of each job, of which some are done. Whether all would be as it was asked for."""
    several = len(todo.jobs) + len(todo.failures) > 1
    in_the_way: list[Job] = []
    fine = not todo.failures
    for job, done in due:
        words = ": done earlier" if done else ""
        try:
            if not done:
                job.check(settings.overwrite or job.interrupted)
        except OutputError as error:
            exists = isinstance(error, ExistsError)
            if exists and skip_existing:
                done, words = True, ": there already"
            elif exists and several and not as_json:
                in_the_way.append(job)
                words = ": there already, left alone"
            else:
                _report_failure(error, as_json, job.source)
                fine = False
                continue
        if as_json:
            facts = {"input": job.source, "output": str(job.target), "ok": True, "skipped": done, "dry_run": True}
            typer.echo(json.dumps(facts))
        else:
            typer.echo(escape_line(f"{job.source} -> {job.target or 'standard output'}{words}"), err=True)
    if in_the_way:
        complain(UnjpegError(_ways_past(in_the_way, settings, planned=True)))
    return fine and not in_the_way


def _summary(job: Job, report: Report) -> str:
    facts = [f"{report.width}x{report.height}"]
    if report.comparable_quality is not None and report.guided_quality is not None:
        facts.append(f"compares to a JPEG of quality {report.comparable_quality}")
    elif report.guided_quality is not None:
        facts.append(f"looks like quality {report.read_quality}")
    if report.guided_quality not in (report.read_quality, report.comparable_quality):
        facts.append(f"restored as quality {report.guided_quality}")
    if report.stated_quality is not None:
        facts.append(f"file states {report.stated_quality}")
    if report.earlier:
        facts.append("restored as the JPEG that it was before")
    elif report.stated_quality is not None and report.strength == 0:
        facts.append("only decoded")
    elif report.stated_quality is not None:
        facts += _trueness(report)
    elif report.history == "clean" and report.model is None:
        facts.append("left as it is")
    else:
        facts.append("restored blind" if report.notes else "restored blind: not a JPEG file")
    never_before = report.history == "clean" and report.model is None and report.stated_quality is None
    facts += [
        "compressed" if never_before else "compressed again"
    ] * report.compressed_again  # what was true of the pixels is not quite of this file
    lines = [escape_line(f"{job.source} -> {job.target} ({', '.join(facts)})")]
    return "\n".join([*lines, *(f"  note: {in_options(note)}" for note in report.notes)])


def _trueness(report: Report) -> list[str]:
    if report.projected:
        return ["true to the file"]
    return [] if report.compressed_again and report.consistency != "off" else ["not kept true to the file"]


def _describe(inspection: Inspection) -> str:
    carried = [
        name
        for name, there in (
            ("EXIF", inspection.has_exif),
            ("ICC profile", inspection.has_icc_profile),
            ("XMP", inspection.has_xmp),
            ("IPTC or other Photoshop data", inspection.has_photoshop),
            ("comment", inspection.has_comment),
        )
        if there
    ]
    lines = [
        escape_line(inspection.name),
        f"  size         {inspection.width} x {inspection.height}, orientation {inspection.orientation}",
    ]
    if inspection.stated_quality is None:
        lines.append(f"  coding       {inspection.kind}, {inspection.colour_space}")
    else:
        distance = inspection.table_distance
        standard = "standard tables" if not distance else f"tables {distance:.0%} off"
        coding = "progressive" if inspection.progressive else "baseline"
        lines.append(f"  coding       {coding}, {inspection.colour_space}, {inspection.subsampling}")
        lines.append(f"  quality      {inspection.stated_quality} by its tables ({standard})")
    if inspection.comparable_quality is not None:
        quality = inspection.comparable_quality
        lines.append(f"  quality      compares to a JPEG of quality {quality}, by how hard it was compressed")
    elif inspection.read_quality is not None:
        title = "quality" if inspection.stated_quality is None else ""
        whose = " (those of the JPEG that it was before)" if inspection.earlier else ""
        lines.append(f"  {title:12s} {inspection.read_quality} by its pixels{whose}")
    unknown = "not looked at: it is CMYK" if inspection.components == 4 else "nothing that its pixels show"
    for number, sentence in enumerate(inspection.in_words or (unknown,)):
        lines.append(f"  {'before that' if number == 0 else '':12s} {sentence}")
    lines.append(f"  metadata     {', '.join(carried) or 'none'}")
    for number, table in enumerate(inspection.tables):
        title = "luma table" if number == 0 else "chroma table"
        title = "table" if inspection.colour_space == "CMYK" else title
        rows = [" ".join(f"{value:3d}" for value in row) for row in table]
        lines.append(f"  {title:12s} {rows[0]}")
        lines += [f"               {row}" for row in rows[1:]]
    return "\n".join(lines)


def _verdict(verification: Verification) -> str:
    if verification.consistency.can_tell:
        word = "consistent" if verification.is_consistent else "not consistent"
        names = f"{verification.restored}: {word} with {verification.original}"
        found = f"{verification.consistency.share_inside:.4%} of its coefficients lie in their cells"
    else:
        names = f"{verification.restored}: nothing contradicts {verification.original}"
        found = "more cannot be told, for every block clips or hangs over the edge"
    lines = [f"{escape_line(names)}: {found}"]
    for part in verification.consistency.components:
        line = f"  {part.name:2s} {part.inside} of {part.checked} inside"
        if part.checked_clipped:
            line += f"; {part.inside_clipped} of {part.checked_clipped} in blocks that clip"
        if part.blocks_at_edge:
            line += f"; {part.blocks_at_edge} blocks hang over the edge"
        if part.worst_block:
            line += f"; worst: {part.worst_excess:.2f} steps beyond, block {part.worst_block}"
        lines.append(line)
    if verification.contradicts and verification.compressed_again:
        lines.append(
            "  it was compressed again when it was written, which alone can do this: check a PNG, TIFF or WebP"
        )
    if verification.earlier:
        quality = verification.earlier[0].quality
        lines.append(
            f"  the file's picture was a JPEG of quality {quality} before: a restoration stays true to that one, "
            "and not to the file"
        )
    return "\n".join(lines)


def _report_failure(error: BaseException, as_json: bool, source: str, *, elsewhere: bool = False) -> None:
    """``elsewhere``: the options that a message names are those of ``restore``, not of this command."""
    message = explain(error, source)
    if elsewhere:
        message = message.replace("; --salvage restores", "; unjpeg restore --salvage restores")
    if as_json:
        typer.echo(json.dumps({"input": source, "ok": False, "error": message, "kind": type(error).__name__}))
    else:
        complain(UnjpegError(message))


def _plain(value: Report | Inspection | Machine | Verification) -> dict[str, Any]:
    return dataclasses.asdict(value)
