"""A benchmark's report: one HTML file with everything in it.

Which pictures are shown is not chosen by hand: of each set, at the first degradation, those where the second method
gains most, least, and the median, and any that are asked for. What cannot be shown any more is said, and costs itself
only.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from unjpeg.datasets import DATA_SETS, data_set, image_files
from unjpeg.errors import UnjpegError
from unjpeg.evaluate.benchmark import Failure
from unjpeg.evaluate.method import Method, shape_like
from unjpeg.evaluate.methods import Printed
from unjpeg.evaluate.metrics import METRICS
from unjpeg.evaluate.pairs import Degradation, TestSet, decode
from unjpeg.evaluate.plots import plot_every_picture, plot_gain_against_rate, plot_gain_against_time, plot_rate_quality
from unjpeg.evaluate.printed import TABLE_1
from unjpeg.evaluate.sheets import Panel, draw_before_after, draw_crops, draw_residuals, set_side_by_side
from unjpeg.files import put_in_place

__all__ = [
    "Section",
    "Table",
    "format_markdown",
    "make_sections",
    "tabulate_costs",
    "tabulate_differences",
    "tabulate_metrics",
    "write_report",
]

REAL_PICTURES = 8
"""Of a folder without originals, at most so many are shown."""

_FAILURES = (UnjpegError, ValueError, MemoryError)
"""What costs a picture, and not the report."""

_DIGITS = {"ssim": 3, "ssim_matlab_luma": 3, "ssim_jdec": 3, "ssimulacra2": 1}


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text.

    Attributes:
        words: so many of the first columns are words, to the left; the others are figures, to the right.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1

    def to_markdown(self) -> str:
        """As the documentation has it."""
        return format_markdown(self.header, self.rows, self.words)


def format_markdown(header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table as the documentation has it: so many columns of words, to the left, then figures, to the right."""
    marks = ["---"] * words + ["---:"] * (len(header) - words)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, marks, *rows))


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a sentence, and a table or an image, if there is one.

    Attributes:
        enlarged: whether the image shows single pixels, which a browser must not smooth.
    """

    title: str
    text: str
    content: Table | Image.Image | None
    enlarged: bool = False


def tabulate_metrics(record: Mapping[str, Any], set_name: str) -> Table:
    """Every method and degradation of a set: each metric's mean, and the first metric's gain with its interval.

    Gains are over the first method; where it has restored nothing, there are none. Printed rows stand among them where
    the whole set was measured and the paper has it at that quality.
    """
    summary = record["summary"][set_name]
    metrics = [name for name in METRICS if name in record["metrics"]]
    lead = metrics[0]
    first = next(name for name in record["methods"] if name not in record["printed"])
    rows = []
    for degradation, figures in summary.items():
        for method, means in figures["methods"].items():
            gain = figures["differences"].get(f"{method} - {first}", {}).get(lead)
            rows.append(
                (
                    degradation,
                    method,
                    *(_format_number(name, means[name]["mean"]) for name in metrics),
                    _format_difference(gain),
                    "" if gain is None else f"{gain['lower']} of {gain['pictures']}",
                )
            )
        if _is_whole(record, set_name):
            rows += [(degradation, *row) for row in _list_printed_rows(record, set_name, degradation, metrics)]
    return Table(("degradation", "method", *metrics, f"{lead} gained (95 %)", "worse"), tuple(rows), words=2)


def tabulate_differences(record: Mapping[str, Any], set_name: str) -> Table:
    """The first metric's paired differences between all methods, with their intervals, by degradation."""
    summary = record["summary"][set_name]
    lead = next(name for name in METRICS if name in record["metrics"])
    pairs = list(dict.fromkeys(pair for figures in summary.values() for pair in figures["differences"]))
    rows = []
    for pair in pairs:
        cells = []
        for figures in summary.values():
            value = figures["differences"].get(pair, {}).get(lead)
            cells.append(_format_difference(value))
        rows.append((pair, *cells))
    return Table((lead, *summary), tuple(rows))


def tabulate_costs(record: Mapping[str, Any]) -> Table:
    """What each method costs; see ``timing.Cost``."""
    rows = tuple(
        (
            name,
            _format_seconds(cost["seconds_per_megapixel"]),
            *(
                "" if cost[field] is None else f"{cost[field]:.{digits}f}"
                for field, digits in (("peak_mib", 0), ("parameters_m", 2), ("multiply_adds_g", 1))
            ),
        )
        for name, cost in record["costs"].items()
    )
    header = ("method", "seconds per megapixel", "peak memory, MiB", "parameters, M", "multiply-adds at 512x512, G")
    return Table(header, rows)


def make_sections(
    record: Mapping[str, Any],
    sets: Sequence[TestSet],
    degradations: Sequence[Degradation],
    methods: Sequence[Method],
    *,
    show: Sequence[str] = (),
    real: Sequence[Path] = (),
    side: int = 64,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Section]:
    """Tables, plots and pictures of a finished run.

    Args:
        record: what ``benchmark.run`` returned, with ``costs`` if they were measured.
        show: names of pictures to show beside those that the rule finds.
        real: folders of pictures without originals, shown before and after the second method, which there has to be.
        side: of the details, in pixels.
        say: takes what cannot be shown, a line each.
    """
    runnable = [method for method in methods if not isinstance(method, Printed)]
    lead = next(name for name in METRICS if name in record["metrics"])
    for set_name, summary in record["summary"].items():
        text = f"Means over {_format_count(figures['pictures'] for figures in summary.values())}."
        if record["printed"] and not _is_whole(record, set_name):
            text += " What is printed is of whole sets, and left out."
        yield Section(set_name, text, tabulate_metrics(record, set_name))
    if record.get("costs"):
        yield Section("Cost", "Median of methods that took turns on the same files.", tabulate_costs(record))
    others = [method.name for method in runnable[1:]]
    for set_name, summary in record["summary"].items():
        ends = dict.fromkeys((next(iter(summary)), list(summary)[-1]))
        if len(others) > 1:
            text = "Differences on the same pictures, their mean with its 95 % interval."
            yield Section(f"{set_name}: every method against every other", text, tabulate_differences(record, set_name))
        plots = []
        if len(summary) > 1:
            plots.append(plot_rate_quality(record, set_name, lead))
            plots += [plot_gain_against_rate(record, set_name, lead)] if others else []
        if others:
            plots += [
                plot_every_picture(record, set_name, degradation, lead, others, runnable[0].name)
                for degradation in ends
            ]
            plots += [plot_gain_against_time(record, set_name, next(iter(ends)), lead)] if record.get("costs") else []
        if plots:
            yield Section(f"{set_name}: plots", "", set_side_by_side([Panel((), plot) for plot in plots]))
    for test_set in sets:
        if test_set.name in record["summary"]:
            yield from _show_details(record, test_set, degradations, runnable, lead, show, side, say)
    for folder in real:
        yield _show_real(folder, runnable, side, say)


def write_report(made: Sequence[Section], record: Mapping[str, Any], out: Path) -> None:
    """Write ``report.html``, which needs no other file. Raises OutputError."""
    title = f"unjpeg benchmark: {', '.join(record['sets'])}"
    facts = f"unjpeg {record['unjpeg']}, commit {record['commit']}, {record['machine']['processor']}"
    specs = {name: facts["spec"] for name, facts in record["methods"].items() if name not in record["printed"]}
    identities = [f"{name} is {spec.removeprefix(f'{name}=')}" for name, spec in specs.items() if spec != name]
    body = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(facts)}</p>"]
    body += ["<ul>", *(f"<li>{html.escape(line)}</li>" for line in identities), "</ul>"]
    for section in made:
        body.append(f"<h2>{html.escape(section.title)}</h2>")
        if section.text:
            body.append(f"<p>{html.escape(section.text)}</p>")
        if isinstance(section.content, Table):
            body.append(_to_html(section.content))
        elif section.content is not None:
            source, kind = f"data:image/png;base64,{_encode_image(section.content)}", " class=pixels" * section.enlarged
            body.append(f'<img{kind} src="{source}" alt="{html.escape(section.title)}">')
    failed = [str(Failure(**error)) for error in record["errors"]]
    if failed:
        body += ["<h2>Failed</h2><ul>", *(f"<li>{html.escape(line)}</li>" for line in failed), "</ul>"]
    page = _PAGE.replace("TITLE", html.escape(title)).replace("BODY", "\n".join(body))
    out.mkdir(parents=True, exist_ok=True)
    put_in_place(out / "report.html", page.encode(), overwrite=True)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>TITLE</title><style>
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1500px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2em .7em; border-bottom: 1px solid #ddd; text-align: right }
.word { text-align: left }
p, li, h1, h2 { overflow-wrap: anywhere }
img { max-width: 100% }
.pixels { image-rendering: pixelated }
</style></head><body>
BODY
</body></html>
"""


def _is_whole(record: Mapping[str, Any], set_name: str) -> bool:
    """Whether every picture of a known set was measured, so that printed figures may stand beside."""
    measured = min(figures["pictures"] for figures in record["summary"][set_name].values())
    return set_name in DATA_SETS and data_set(set_name).count == measured


def _format_number(metric: str, value: float | None) -> str:
    return "inf" if value is None else f"{value:.{_DIGITS.get(metric, 2)}f}"


def _format_difference(value: Mapping[str, float | None] | None) -> str:
    """With its interval; one of equal pictures' infinite PSNRs has neither."""
    if value is None:
        return ""
    if None in value.values():
        return "not finite"
    return f"{value['mean']:+.2f} ({value['low']:+.2f} .. {value['high']:+.2f})"


def _format_seconds(seconds: float) -> str:
    """With two decimals, and more where those would be zeros."""
    return f"{seconds:.2f}" if seconds >= 0.01 else f"{seconds:.1g}"


def _format_count(counts: Iterable[int]) -> str:
    """How many pictures, where degradations may have different ones."""
    least, most = (found := sorted(counts))[0], found[-1]
    number = f"{least} to {most}" if least < most else f"{most}"
    return f"{number} picture{'' if number == '1' else 's'}"


def _list_printed_rows(
    record: Mapping[str, Any], set_name: str, degradation: str, metrics: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    codec, _, quality = degradation.partition("-")
    if codec != "jpeg" or not quality.isdecimal():
        return
    for name, row in record["printed"].items():
        values = TABLE_1[row].get(set_name, {}).get(int(quality))
        if values is None:
            continue
        known = dict(zip(("psnr_db", "ssim", "psnr_b_db"), values, strict=True))
        cells = (_format_number(metric, known[metric]) if metric in known else "" for metric in metrics)
        yield (name, *cells, "", "")


def _show_details(
    record: Mapping[str, Any],
    test_set: TestSet,
    degradations: Sequence[Degradation],
    methods: Sequence[Method],
    lead: str,
    show: Sequence[str],
    side: int,
    say: Callable[[str], None],
) -> Iterator[Section]:
    degradation = next(iter(record["summary"][test_set.name]))
    chosen = _choose_pictures(record, test_set.name, degradation, lead, methods, show)
    of_this_set = (error for error in record["errors"] if error["set"] == test_set.name)
    failed = {(error["image"], error["degradation"], error["method"]) for error in of_this_set}
    for subject in test_set.list_subjects(degradations):
        if subject.name not in chosen:
            continue
        title, text = f"{test_set.name}, {subject.name}, {degradation}", chosen[subject.name]
        shown, lost = {}, []
        try:
            pair = subject.make_pair(degradation)
        except _FAILURES as error:
            say(f"{title}: cannot be shown: {error}")
            yield Section(title, f"Cannot be shown: {error}.", None)
            continue
        for method in methods:
            try:
                shown[method.name] = shape_like(method.restore(pair.file), pair.original)
            except _FAILURES as error:
                reason = str(error).removeprefix(f"{method.name}: ")
                lost.append(f"{method.name} ({reason})")
                if (subject.name, degradation, method.name) not in failed:
                    say(f"{title}, {method.name}: cannot be shown: {reason}")
        text += f" Left out: {', '.join(lost)}." if lost else ""
        if not shown:
            yield Section(title, text, None)
            continue
        yield Section(title, text, draw_crops(pair.original, shown, side), enlarged=True)
        about = "Each pixel's distance from the original, mean over the channels, in one scale of colours for all."
        yield Section(f"{title}: error", about, draw_residuals(pair.original, shown))


def _choose_pictures(
    record: Mapping[str, Any],
    set_name: str,
    degradation: str,
    lead: str,
    methods: Sequence[Method],
    show: Sequence[str],
) -> dict[str, str]:
    """Pictures to show, and why."""
    rows = [row for row in record["rows"] if (row["set"], row["degradation"]) == (set_name, degradation)]
    figures = {(row["image"], row["method"]): row[lead] for row in rows}
    images = list(dict.fromkeys(row["image"] for row in rows))
    wanted = {image: "Asked for." for image in images if image in show or Path(image).stem in show}
    if len(methods) < 2:
        return wanted or {images[0]: "The first picture."}
    first, second = methods[0].name, methods[1].name
    gains = sorted(
        (after - before, image)
        for image in images
        if (after := figures.get((image, second))) is not None and (before := figures.get((image, first))) is not None
    )
    if not gains:  # one of the two has restored nothing, or everything without an error
        return wanted or {images[0]: "The first picture."}
    for (gain, image), which in zip(
        (gains[-1], gains[len(gains) // 2], gains[0]), ("gains most", "gains the median", "gains least"), strict=True
    ):
        wanted.setdefault(image, f"Where {second} {which}: {gain:+.2f} in {lead}.")
    return wanted


def _show_real(folder: Path, methods: Sequence[Method], side: int, say: Callable[[str], None]) -> Section:
    """Before and after the second method."""
    title, method = f"{folder.resolve().name}, before and after", methods[1]
    pictures, failed = [], []
    for file in image_files(folder)[:REAL_PICTURES]:
        try:
            data = file.read_bytes()
            before = decode(data)
            pictures.append((file.name, before, shape_like(method.restore(data), before)))
        except (*_FAILURES, OSError) as error:
            failed.append(f"{file.name} ({error})")
            say(f"{file}: {error}")
    left_out = f" Left out: {', '.join(failed)}." if failed else ""
    if not pictures:
        return Section(title, f"None of its pictures can be restored.{left_out}", None)
    text = f"{method.name}, where it changed most; there are no originals.{left_out}"
    return Section(title, text, draw_before_after(pictures, side), enlarged=True)


def _to_html(table: Table) -> str:
    def line(cells: Sequence[str], kind: str) -> str:
        shown = (
            f"<{kind}{' class=word' if column < table.words else ''}>{html.escape(cell)}</{kind}>"
            for column, cell in enumerate(cells)
        )
        return f"<tr>{''.join(shown)}</tr>"

    return f"<table>{line(table.header, 'th')}{''.join(line(row, 'td') for row in _name_groups_once(table))}</table>"


def _name_groups_once(table: Table) -> list[tuple[str, ...]]:
    """Rows without the first word where it is the one above."""
    above = ("", *(row[0] for row in table.rows))
    return [("" if row[0] == last else row[0], *row[1:]) for last, row in zip(above, table.rows, strict=False)]


def _encode_image(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
