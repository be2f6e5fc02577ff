"""A benchmark's report: one HTML file with everything in it, and the same as one PNG.

Which pictures are shown is not chosen by hand: of each set, at its lowest quality, those where the second method gains
most, least, and the median, and any that are asked for.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from unjpeg.datasets import DATA_SETS, data_set, image_files
from unjpeg.errors import MeasurementError, UnjpegError
from unjpeg.evaluate.methods import Method, Printed, shaped_as
from unjpeg.evaluate.metrics import METRICS
from unjpeg.evaluate.pairs import Degradation, TestSet, decode
from unjpeg.evaluate.plots import gain_against_rate, gain_against_time, lower_than_decoder, rate_quality
from unjpeg.evaluate.printed import TABLE_1
from unjpeg.evaluate.sheets import (
    Panel,
    before_after_sheet,
    crop_sheet,
    heading,
    residual_sheet,
    side_by_side,
    stacked,
)

__all__ = ["Section", "Table", "cost_table", "difference_table", "metric_table", "sections", "write_report"]

REAL_PICTURES = 8
"""Of a folder without originals, at most so many are shown."""

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

    def markdown(self) -> str:
        """As the documentation has it."""
        marks = ("---" if column < self.words else "---:" for column in range(len(self.header)))
        lines = [self.header, tuple(marks), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a sentence, and a table or an image."""

    title: str
    text: str
    content: Table | Image.Image


def metric_table(record: Mapping[str, Any], set_name: str) -> Table:
    """Every method and degradation of a set: each metric's mean, and the first metric's gain with its interval.

    Printed rows stand among them where the whole set was measured and the paper has it at that quality.
    """
    summary = record["summary"][set_name]
    metrics = [name for name in METRICS if name in record["metrics"]]
    lead = metrics[0]
    rows = []
    for degradation, figures in summary.items():
        first = next(iter(figures["methods"]))
        for method, means in figures["methods"].items():
            gain = figures["differences"].get(f"{method} - {first}", {}).get(lead)
            rows.append(
                (
                    degradation,
                    method,
                    *(_number(name, means[name]["mean"]) for name in metrics),
                    "" if gain is None else f"{gain['mean']:+.2f} ({gain['low']:+.2f} .. {gain['high']:+.2f})",
                    "" if gain is None else f"{gain['lower']} of {gain['pictures']}",
                )
            )
        if _is_whole(record, set_name):
            rows += [(degradation, *row) for row in _printed_rows(record, set_name, degradation, metrics)]
    return Table(("degradation", "method", *metrics, f"{lead} gained (95 %)", "worse"), tuple(rows), words=2)


def difference_table(record: Mapping[str, Any], set_name: str) -> Table:
    """The first metric's paired differences between all methods, with their intervals, by degradation."""
    summary = record["summary"][set_name]
    lead = next(name for name in METRICS if name in record["metrics"])
    pairs = list(dict.fromkeys(pair for figures in summary.values() for pair in figures["differences"]))
    rows = []
    for pair in pairs:
        cells = []
        for figures in summary.values():
            value = figures["differences"].get(pair, {}).get(lead)
            cells.append("" if value is None else f"{value['mean']:+.2f} ({value['low']:+.2f} .. {value['high']:+.2f})")
        rows.append((pair, *cells))
    return Table((lead, *summary), tuple(rows))


def cost_table(record: Mapping[str, Any]) -> Table:
    """What each method costs; see ``timing.Cost``."""
    rows = tuple(
        (
            name,
            f"{cost['seconds_per_megapixel']:.2f}",
            *(
                "" if cost[field] is None else f"{cost[field]:.{digits}f}"
                for field, digits in (("peak_mib", 0), ("parameters_m", 2), ("multiply_adds_g", 1))
            ),
        )
        for name, cost in record["costs"].items()
    )
    header = ("method", "seconds per megapixel", "peak memory, MiB", "parameters, M", "multiply-adds at 512x512, G")
    return Table(header, rows)


def sections(
    record: Mapping[str, Any],
    sets: Sequence[TestSet],
    degradations: Sequence[Degradation],
    methods: Sequence[Method],
    *,
    show: Sequence[str] = (),
    real: Sequence[Path] = (),
    side: int = 64,
) -> Iterator[Section]:
    """Tables, plots and pictures of a finished run.

    Args:
        record: what ``benchmark.run`` returned, with ``costs`` if they were measured.
        show: names of pictures to show beside those that the rule finds.
        real: folders of pictures without originals, shown before and after the second method.
        side: of the details, in pixels.

    Raises UnjpegError if a picture that is to be shown cannot be restored any more.
    """
    runnable = [method for method in methods if not isinstance(method, Printed)]
    lead = next(name for name in METRICS if name in record["metrics"])
    for set_name, summary in record["summary"].items():
        pictures = next(iter(summary.values()))["pictures"]
        text = f"Means over {pictures} pictures."
        if record["printed"] and not _is_whole(record, set_name):
            text += " What is printed is of whole sets, and left out."
        yield Section(set_name, text, metric_table(record, set_name))
    if record.get("costs"):
        yield Section("Cost", "Median of methods that took turns on the same files.", cost_table(record))
    others = [method.name for method in runnable[1:]]
    for set_name, summary in record["summary"].items():
        lowest, highest = next(iter(summary)), list(summary)[-1]
        if len(others) > 1:
            text = "Differences on the same pictures, their mean with its 95 % interval."
            yield Section(f"{set_name}: every method against every other", text, difference_table(record, set_name))
        plots = []
        if len(summary) > 1:
            plots.append(rate_quality(record, set_name, lead))
            plots += [gain_against_rate(record, set_name, lead)] if others else []
        if others:
            plots += [
                lower_than_decoder(record, set_name, degradation, lead, others, runnable[0].name)
                for degradation in dict.fromkeys((lowest, highest))
            ]
            plots += [gain_against_time(record, set_name, lowest, lead)] if record.get("costs") else []
        if plots:
            yield Section(f"{set_name}: plots", "", side_by_side([Panel((), plot) for plot in plots]))
    for test_set in sets:
        if test_set.name in record["summary"]:
            yield from _details(record, test_set, degradations, runnable, lead, show, side)
    for folder in real:
        yield _real(folder, runnable, side)


def write_report(made: Sequence[Section], record: Mapping[str, Any], out: Path) -> None:
    """Write ``report.html``, which needs no other file, and ``report.png``."""
    title = f"unjpeg benchmark: {', '.join(record['sets'])}"
    facts = f"unjpeg {record['unjpeg']}, commit {record['commit']}, {record['machine']['processor']}"
    specs = {name: facts["spec"] for name, facts in record["methods"].items() if name not in record["printed"]}
    identities = [f"{name} is {spec.removeprefix(f'{name}=')}" for name, spec in specs.items() if spec != name]
    body = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(facts)}</p>"]
    body += ["<ul>", *(f"<li>{html.escape(line)}</li>" for line in identities), "</ul>"]
    images = [heading(title, 26), *(heading(line, 14) for line in (facts, *identities))]
    for section in made:
        body.append(f"<h2>{html.escape(section.title)}</h2>")
        images.append(heading(section.title))
        if section.text:
            body.append(f"<p>{html.escape(section.text)}</p>")
            images.append(heading(section.text, 14))
        if isinstance(section.content, Table):
            body.append(_html_table(section.content))
            images.append(_drawn(section.content))
        else:
            body.append(
                f'<img src="data:image/png;base64,{_base64(section.content)}" alt="{html.escape(section.title)}">'
            )
            images.append(section.content)
    failed = [f"{error['set']}/{error['image']}, {error['method']}: {error['error']}" for error in record["errors"]]
    if failed:
        body += ["<h2>Failed</h2><ul>", *(f"<li>{html.escape(line)}</li>" for line in failed), "</ul>"]
        images += [heading("Failed"), *(heading(line, 14) for line in failed)]
    page = _PAGE.replace("TITLE", html.escape(title)).replace("BODY", "\n".join(body))
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.html").write_text(page, encoding="utf-8")
    ImageOps.expand(stacked(images), 24, "white").save(out / "report.png")


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>TITLE</title><style>
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1500px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2em .7em; border-bottom: 1px solid #ddd; text-align: right }
.word { text-align: left }
img { max-width: 100%; image-rendering: pixelated }
</style></head><body>
BODY
</body></html>
"""


def _is_whole(record: Mapping[str, Any], set_name: str) -> bool:
    """Whether every picture of a known set was measured, so that printed figures may stand beside."""
    measured = min(figures["pictures"] for figures in record["summary"][set_name].values())
    return set_name in DATA_SETS and data_set(set_name).count == measured


def _number(metric: str, value: float) -> str:
    return f"{value:.{_DIGITS.get(metric, 2)}f}"


def _printed_rows(
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
        cells = (_number(metric, known[metric]) if metric in known else "" for metric in metrics)
        yield (name, *cells, "", "")


def _details(
    record: Mapping[str, Any],
    test_set: TestSet,
    degradations: Sequence[Degradation],
    methods: Sequence[Method],
    lead: str,
    show: Sequence[str],
    side: int,
) -> Iterator[Section]:
    lowest = next(iter(record["summary"][test_set.name]))
    chosen = _chosen(record, test_set.name, lowest, lead, methods, show)
    for subject in test_set.subjects(degradations):
        if subject.name not in chosen:
            continue
        pair = subject.pair(lowest)
        shown = {method.name: shaped_as(method.restore(pair.file), pair.original) for method in methods}
        title = f"{test_set.name}, {subject.name}, {lowest}"
        yield Section(title, chosen[subject.name], crop_sheet(pair.original, shown, side))
        yield Section(f"{title}: what is wrong", "The brighter, the more.", residual_sheet(pair.original, shown))


def _chosen(
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
        (figures[image, second] - figures[image, first], image)
        for image in images
        if (image, first) in figures and (image, second) in figures
    )
    for (gain, image), which in zip(
        (gains[-1], gains[len(gains) // 2], gains[0]), ("gains most", "gains the median", "gains least"), strict=True
    ):
        wanted.setdefault(image, f"Where {second} {which}: {gain:+.2f} in {lead}.")
    return wanted


def _real(folder: Path, methods: Sequence[Method], side: int) -> Section:
    if len(methods) < 2:
        raise MeasurementError(f"{folder}: name a second method to show before and after")
    pictures, failed = [], []
    for file in image_files(folder)[:REAL_PICTURES]:
        try:
            data = file.read_bytes()
            before = decode(data)
            pictures.append((file.name, before, shaped_as(methods[1].restore(data), before)))
        except (UnjpegError, OSError) as error:  # a bad file costs itself only
            failed.append(f"{file.name} ({error})")
    if not pictures:
        raise MeasurementError(f"{folder}: none of its pictures can be restored")
    text = f"{methods[1].name}, where it changed most; there are no originals."
    if failed:
        text += f" Left out: {', '.join(failed)}."
    return Section(f"{folder.name}, before and after", text, before_after_sheet(pictures, side))


def _html_table(table: Table) -> str:
    def line(cells: Sequence[str], kind: str) -> str:
        shown = (
            f"<{kind}{' class=word' if column < table.words else ''}>{html.escape(cell)}</{kind}>"
            for column, cell in enumerate(cells)
        )
        return f"<tr>{''.join(shown)}</tr>"

    return f"<table>{line(table.header, 'th')}{''.join(line(row, 'td') for row in _grouped(table))}</table>"


def _grouped(table: Table) -> list[tuple[str, ...]]:
    """Rows without the first word where it is the one above."""
    above = ("", *(row[0] for row in table.rows))
    return [("" if row[0] == last else row[0], *row[1:]) for last, row in zip(above, table.rows, strict=False)]


def _drawn(table: Table, size: int = 14) -> Image.Image:
    font = ImageFont.load_default(size)
    lines = (table.header, *_grouped(table))
    widths = [max(int(font.getlength(line[i])) for line in lines) + 20 for i in range(len(table.header))]
    image = Image.new("RGB", (sum(widths), len(lines) * (size + 8)), "white")
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        left, top = 0, number * (size + 8)
        for column, (cell, width) in enumerate(zip(line, widths, strict=True)):
            indent = 0 if column < table.words else width - 16 - int(font.getlength(cell))
            draw.text((left + indent, top), cell, fill="black", font=font)
            left += width
        if line[0] and number:  # a new group
            draw.line((0, top - 3, image.width, top - 3), fill="grey" if number == 1 else "lightgrey")
    return image


def _base64(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
