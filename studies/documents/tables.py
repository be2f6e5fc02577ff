"""The documentation's tables and the README's plot, made from ``results/``: ``python -m studies.documents.tables``.

A test fails when a table in a document is not what this makes of the result files. What no file holds yet is said to be
not measured.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.carn import tables as carn_tables
from studies.documents import curves, landscape
from studies.printed import COSTS, TABLE_4, compute_ablation_gains
from unjpeg.evaluate.printed import TABLE_1
from unjpeg.evaluate.report import format_markdown, tabulate_costs, tabulate_metrics
from unjpeg.evaluate.results import group as group_rows
from unjpeg.evaluate.results import load_results
from unjpeg.evaluate.statistics import find_half_width
from unjpeg.files import put_in_place

__all__ = ["draw_plots", "fill_in", "main", "make_tables"]

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "docs/research/results.md",
    "docs/research/robustness.md",
    "docs/research/experiments.md",
    "docs/research/carn-da.md",
    "docs/inside-other-programs.md",
)


FAULTS = {
    "names": "names",
    "links": "link loops, broken links",
    "two_batches": "two batches into one folder",
    "deleted_folders": "folders deleted while running",
    "full_disk": "full disk (tmpfs of 64 KiB)",
    "file_size_limit": "no file may grow beyond 12 KiB",
    "read_only": "output folder on a read-only disk",
    "interrupts": "Ctrl-C to the whole process group",
    "terminations": "SIGTERM to the command alone",
    "kills": "SIGKILL, every third time to the parent alone",
}
"""What ``tests/stress/fault_series.py`` does, by the names that it gives them."""

_QUALITIES = ("10", "20", "30", "40")
"""That the paper's tables are of."""


def make_tables(results: Path) -> dict[str, str]:
    """Each table's Markdown, by the name that its place in the documents has."""
    live1 = load_results(results / "live1.json")
    return {
        "short": _make_short(live1, results / "live1-tta.json"),
        "quality-live1": _make_quality(live1),
        "projection-live1": _make_projection(live1),
        "methods-live1": _make_methods(live1),
        "methods-bsds500": _make_from(results / "bsds500.json", _make_methods),
        "bsds500-high": _make_from(results / "bsds500-high.json", _make_methods),
        "bsds500-halved": _make_from(results / "bsds500-halved.json", _make_methods),
        "tta-live1": _make_from(results / "live1-tta.json", _make_methods),
        "mozjpeg-live1": _make_from(results / "live1-mozjpeg.json", _make_methods),
        "earlier-live1": _make_from(results / "earlier.json", _make_earlier),
        "history": _make_from(results / "history.json", _make_history),
        "never-compressed": _make_from(results / "history.json", _make_clean),
        "history-seconds": _make_from(results / "history.json", _make_history_seconds),
        "grey": _make_from(results / "grey.json", _make_sets),
        "harm": _make_from(results / "harm.json", _make_harm),
        "method-costs": tabulate_costs(live1).to_markdown() if "costs" in live1 else NOT_MEASURED,
        "contours": _make_from(results / "downstream-contours.json", _make_contours),
        "text": _make_from(results / "downstream-text.json", _make_text),
        "detection": _make_recognition(results / "downstream-detection.json", "map"),
        "segmentation": _make_recognition(results / "downstream-segmentation.json", "mean_iou"),
        "agreement": _make_recognition(results / "downstream-agreement.json", "mean_iou"),
        "classification": _make_recognition(results / "downstream-classification.json", "top_1"),
        "peers": _make_from(results / "peers.json", _make_peers),
        **_make_cost(results / "cost.json"),
        "blind": _make_from(results / "blind.json", _make_blind),
        "blind-starts": _make_from(results / "blind.json", _make_blind_starts),
        "blind-halos": _make_from(results / "blind.json", _make_blind_halos),
        "fuzz": _make_from(results / "fuzz.json", _make_fuzz),
        "faults": _make_from(results / "faults.json", _make_faults),
        "memory": _make_from(results / "memory.json", _make_memory),
        "memory-flat": _make_from(results / "memory-flat.json", _make_flat_memory),
        "workers": _make_from(results / "throughput.json", _make_workers),
        "counters": _make_from(results / "counters.json", _make_counters),
        "against": _make_from(results / "throughput.json", _make_against),
        "networks": _make_networks([json.loads(file.read_text()) for file in sorted(results.glob("networks-*.json"))]),
        "ablation": _make_from(results / "ablation-modules-small.json", _make_ablation),
        "ablation-textbook": _make_from(results / "ablation-modules-small-textbook.json", _make_ablation),
        "ablation-reading": _make_from(results / "ablation-modules-small-reading.json", _make_ablation_by_variant),
        "lambdas": _make_from(results / "ablation-lambdas-small-textbook.json", _make_lambdas),
        "redegradation": _make_from(results / "redegradation.json", _make_redegradation),
        "stage1": _make_from(results / "stage1.json", _make_stage1),
        "stage1-textbook": _make_from(results / "stage1-textbook.json", _make_stage1),
        "stage1-windows": _make_from(results / "stage1-windows.json", _make_reading),
        "stage1-reading": _make_from(results / "stage1-reading.json", _make_reading),
        **carn_tables.make_tables(results),
    }


def fill_in(text: str, made: Mapping[str, str]) -> str:
    """The document with every ``<!-- table: NAME -->`` ... ``<!-- end -->`` filled anew."""
    parts = text.split("<!-- table: ")
    out = [parts[0]]
    for part in parts[1:]:
        name, rest = part.split(" -->", 1)
        after = rest.split("<!-- end -->", 1)[1]
        out.append(f"{name} -->\n\n{made[name]}\n\n<!-- end -->{after}")
    return "<!-- table: ".join(out)


def main() -> None:
    """Rewrite the documents and draw their plots."""
    made = make_tables(ROOT / "results")
    for document in DOCUMENTS:
        path = ROOT / document
        put_in_place(path, fill_in(path.read_text(encoding="utf-8"), made).encode(), overwrite=True)
    for name, picture in draw_plots(ROOT / "results").items():
        put_in_place(ROOT / "docs/images" / name, picture, overwrite=True)


def draw_plots(results: Path) -> dict[str, bytes]:
    """The documents' plots, PNG files by name."""
    out = {"gain-and-cost.png": landscape.draw(*landscape.collect_points(results))}
    if (results / curves.RESULTS).exists():
        out["learning-curves.png"] = curves.draw(json.loads((results / curves.RESULTS).read_text()))
    return out


def _find_plain_jpegs(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The only set's summary at each plain quality."""
    (summary,) = record["summary"].values()
    return {name.removeprefix("jpeg-"): figures for name, figures in summary.items()}


def _make_blind(record: Mapping[str, Any]) -> str:
    """Gains of the file, and what other ways lose against it on the same pictures."""

    def lose(way: str, model: str, quality: str) -> str:
        figures = record.get(way, {}).get(model, {}).get("psnr_db", {}).get(quality)
        return "" if figures is None else f"{figures[way] - figures['file']:+.2f}"

    rows = []
    for model, measured in record["graph"].items():
        for quality, figures in measured["psnr_db"].items():
            gain = figures["file"] - figures["jpeg"]
            others = [lose(way, model, quality) for way in ("pixels", "told", "graph")]
            rows.append([f"`{model}`, {quality}", f"{figures['jpeg']:.2f}", f"{gain:+.2f}", *others])
    return format_markdown(["Model, quality", "JPEG", "file", "pixels", "told", "graph"], rows)


def _make_harm(record: Mapping[str, Any]) -> str:
    """Gains over the decoder, mean and worst, and over the model that all were compared with."""
    tables = [measured["gain_db"] for measured in record["models"].values()]
    names = [f"`{name}`" for name in record["models"]]
    rows = [
        [row, str(first["files"]), *(f"{table[row]['mean']:+.2f} ({table[row]['worst']:+.2f})" for table in tables)]
        for row, first in tables[0].items()
    ]
    return format_markdown(["", "files", *names], rows)


def _make_blind_starts(record: Mapping[str, Any]) -> str:
    (tiled,) = record["tiles"].values()
    rows = [[start.replace(",", " and "), f"{gain:+.2f}"] for start, gain in tiled["gain_db_by_start"].items()]
    return format_markdown(["The tile starts so many rows and columns beside the JPEG's start", "gain, dB"], rows)


def _make_blind_halos(record: Mapping[str, Any]) -> str:
    (tiled,) = record["tiles"].values()
    rows = [
        [halo, f"{figures['worst_levels']:.1f}", f"{figures['loss_db']:.3f}"]
        for halo, figures in tiled["by_halo"].items()
    ]
    return format_markdown(["Pixels that a tile sees beyond itself", "largest difference, levels", "lost, dB"], rows)


def _format_figures(means: Mapping[str, Any]) -> str:
    return f"{means['psnr_db']['mean']:.2f} / {means['ssim']['mean']:.3f} / {means['psnr_b_db']['mean']:.2f}"


def _make_short(record: Mapping[str, Any], ensembles: Path) -> str:
    found = _find_plain_jpegs(record)
    beside = _find_plain_jpegs(load_results(ensembles)) if ensembles.exists() else {}

    def row(method: str, by_quality: Mapping[str, Mapping[str, Any]]) -> list[str]:
        return [f"{by_quality[q]['methods'][method]['psnr_db']['mean']:.2f}" for q in _QUALITIES]

    ours = {name: row(name, found) for name in _list_ours(found["10"])}
    if beside and "best" not in ours:
        ours["best"] = row("best", beside)
    printed = [f"{TABLE_1['DAGN']['live1'][int(q)][0]:.2f}" for q in _QUALITIES]
    return format_markdown(
        ["LIVE1, PSNR in dB", *(f"quality {q}" for q in _QUALITIES)],
        [
            ["JPEG", *row("jpeg", found)],
            *([f"unjpeg, `{name}`", *(f"**{value}**" for value in values)] for name, values in ours.items()),
            ["DAGN as printed (110 M parameters)", *printed],
        ],
    )


def _list_ours(figures: Mapping[str, Any]) -> list[str]:
    """The shipped models that were measured, by cost."""
    return [name for name in landscape.OURS if name in figures["methods"]]


def _make_quality(record: Mapping[str, Any]) -> str:
    rows = []
    for quality, figures in _find_plain_jpegs(record).items():
        rows.append([quality, *_set_beside_jpeg(figures, _list_ours(figures))])
    return format_markdown(["quality", "JPEG", *_head_beside_jpeg(_list_ours(figures))], rows)


def _set_beside_jpeg(figures: Mapping[str, Any], models: Sequence[str]) -> list[str]:
    row = [_format_figures(figures["methods"]["jpeg"])]
    for name in models:
        gain = figures["differences"][f"{name} - jpeg"]["psnr_db"]
        worse = f"{gain['lower']} of {gain['pictures']}"
        row += [_format_figures(figures["methods"][name]), _format_interval(gain, 2), worse]
    return row


def _head_beside_jpeg(models: Sequence[str]) -> list[str]:
    return [title for name in models for title in (f"`{name}`", "gain, dB (95 %)", "worse than JPEG")]


def _make_projection(record: Mapping[str, Any]) -> str:
    rows = []
    for quality, figures in _find_plain_jpegs(record).items():
        on, off = figures["methods"]["default"], figures["methods"]["default@off"]
        rows.append(
            [
                quality,
                f"{off['psnr_db']['mean']:.3f}",
                f"{on['psnr_db']['mean']:.3f}",
                f"{off['share_inside']['mean']:.4%}",
                f"{on['share_inside']['mean']:.4%}",
                f"{on['consistent']['mean']:.0%}",
            ]
        )
    return format_markdown(
        [
            "quality",
            "PSNR off",
            "PSNR auto",
            "in their cells, off",
            "in their cells, auto",
            "consistent pictures, auto",
        ],
        rows,
    )


def _make_contours(record: Mapping[str, Any]) -> str:
    rows = []
    for degradation, by_method in record["summary"].items():
        for method, figures in by_method.items():
            gains = [
                _format_interval(figures["gains"][name], 3) if "gains" in figures else "" for name in ("ods", "ois")
            ]
            rows.append([degradation, method, f"{figures['ods']:.3f}", gains[0], f"{figures['ois']:.3f}", gains[1]])
    return format_markdown([f"{record['pictures']} pictures", "method", "ODS", "gain", "OIS", "gain"], rows)


def _make_text(record: Mapping[str, Any]) -> str:
    rows = []
    for degradation, by_method in record["summary"].items():
        for method, figures in by_method.items():
            gain = figures.get("gains", {}).get("character_error_rate")
            more = "" if gain is None else f"{gain['mean']:+.1%} ({gain['low']:+.1%} .. {gain['high']:+.1%})"
            rows.append([degradation, method, f"{figures['character_error_rate']:.1%}", more])
    return format_markdown([f"{record['pictures']} pages", "method", "character error rate", "against JPEG"], rows)


def _make_recognition(path: Path, figure: str) -> str:
    """What was measured, if anything was, above what the paper prints, in percent."""
    rows = []
    if path.exists():
        record = json.loads(path.read_text())
        summary = record["summary"]
        measured = {degradation.removeprefix("jpeg-"): methods for degradation, methods in summary.items()}
        whole = f"{100 * measured.pop('original')['original'][figure]:.1f}"
        rows = [["original", *[whole] * len(_QUALITIES)]]
        for method in next(iter(measured.values())):
            cells = [measured.get(quality, {}).get(method) for quality in _QUALITIES]
            rows.append([method, *("" if cell is None else _format_share(cell, figure) for cell in cells)])
        rows[0][0] = f"original, {record['pictures']} pictures" if "pictures" in record else "original"
    for name, printed in TABLE_4.get(path.stem.removeprefix("downstream-"), {}).items():
        rows.append([f"{name}, as printed", *(f"{printed[int(quality)]:.1f}" for quality in _QUALITIES)])
    if not rows:
        return NOT_MEASURED
    return format_markdown(["percent", *(f"quality {quality}" for quality in _QUALITIES)], rows)


def _format_share(figures: Mapping[str, Any], name: str) -> str:
    """In percent, with the interval of what it has above the first method."""
    gain = figures.get("gains", {}).get(name)
    interval = "" if gain is None else f" ({100 * gain['low']:+.1f} .. {100 * gain['high']:+.1f})"
    return f"{100 * figures[name]:.1f}{interval}"


def _make_peers(record: Mapping[str, Any]) -> str:
    """Networks that others have trained beside ours, gains over JPEG with their intervals."""
    rows = []
    for set_name, per_degradation in record["summary"].items():
        for degradation, methods in per_degradation.items():
            for name, figures in methods.items():
                values = " / ".join(f"{figures[metric]:.{digits}f}" for metric, (_, digits) in _METRIC_NAMES.items())
                gain = figures.get("gain")
                rows.append([set_name, degradation, name, values, "" if gain is None else _format_interval(gain, 2)])
    return format_markdown(["set", "file", "method", "PSNR / SSIM / PSNR-B", "gain, dB (95 %)"], rows)


def _make_fuzz(record: Mapping[str, Any]) -> str:
    rows = []
    for run in record["runs"]:
        fates = dict(run.get("fates", {}))
        fine = [str(fates.pop(fate, 0)) if "fates" in run else "" for fate in ("restored", "salvaged", "refused")]
        crashes = sum(fates.pop(fate) for fate in list(fates) if fate.startswith("crash"))
        known = [crashes, *(fates.pop(f, 0) for f in ("hang", "not ours", "half-written", "original changed"))]
        counts = [*known, sum(fates.values())] if "fates" in run else ["", "", "", "", "", run["failures"]]
        how = f"mutations, seed {run['seed']}" if run["kind"] == "mutations" else "chosen by coverage"
        rows.append([how, str(run["files"]), *fine, *map(str, counts), f"{run['seconds'] / 60:.0f} min"])
    head = ["", "files", "restored", "salvaged", "refused", "crashes", "hangs over 10 s", "errors not our own"]
    return format_markdown([*head, "half-written outputs", "originals changed", "anything else", "time"], rows)


def _make_faults(record: Mapping[str, Any]) -> str:
    rows = []
    for name, found in record.items():
        counts = [str(count) for key, count in found.items() if key not in ("said", "commit")]
        rows.append([FAULTS[name], *counts, found["said"]])
    head = [
        "fault",
        "originals changed",
        "half written",
        "left behind",
        "silent skips",
        "tracebacks",
        "unexpected",
        "what came of it",
    ]
    return format_markdown(head, rows)


def _make_earlier(record: Mapping[str, Any]) -> str:
    """Gains by the file alone and by the picture's history; SSIMULACRA2's gains behind them where measured."""

    def gain(row: Mapping[str, Any], what: str) -> str:
        seen = row[f"{what}_ssimulacra2"]
        return f"{row[f'{what}_db']:+.2f}" + ("" if seen is None else f" ({seen:+.1f})")

    rows = {(row["model"], row["case"]): row for row in record["rows"]}
    lines = []
    for case in dict.fromkeys(row["case"] for row in record["rows"]):
        line = [case]
        for model in record["models"]:
            row = rows[model, case]
            itself = row["jpeg_itself_db"]
            line += [gain(row, "file"), gain(row, "history"), f"{row['worst_db']:+.2f}"]
            line.append("" if itself is None else f"{itself:+.2f}")
            line.append(f"{row['found']} of {row['pictures']}")
        lines.append(line)
    parts = ("by the file", "by its history", "worst picture", "the JPEG itself", "found")
    return format_markdown(["", *(f"`{model}`, {part}" for model in record["models"] for part in parts)], lines)


def _make_history(record: Mapping[str, Any]) -> str:
    """How often an earlier JPEG is found, and found where there is none."""
    rows = []
    for group in ("photographs", "drawings"):
        for case, row in record[group].items():
            single = case.startswith("single")
            right = ["", ""] if single else [str(row["grid"]), str(row["quality"])]
            rows.append([f"{group}, {case}", str(row["of"]), str(row["found"]), *right])
    return format_markdown(["", "files", "earlier JPEG found", "with its grid", "and its quality"], rows)


def _make_clean(record: Mapping[str, Any]) -> str:
    """How often pictures that were never compressed are told so, and how far the others are moved."""
    sets = record["clean"]
    total = {key: sum(row[key] for row in sets.values()) for key in ("of", "clean", "careful", "compressed")}
    moved = [row["worst_db"] for row in sets.values() if row["worst_db"] is not None]
    rows = []
    for name, row in [*sets.items(), ("all", {**total, "worst_db": min(moved, default=None)})]:
        told = f"{row['clean']} ({row['clean'] / row['of']:.0%})"
        worst = "" if row["worst_db"] is None else f"{row['worst_db']:.1f} dB"
        rows.append([name, str(row["of"]), told, str(row["careful"]), str(row["compressed"]), worst])
    head = ["never compressed", "pictures", "untouched", "restored with care", "taken for JPEGs", "worst, to itself"]
    return format_markdown(head, rows)


def _make_history_seconds(record: Mapping[str, Any]) -> str:
    """How long it takes to read a picture's history."""
    if "seconds" not in record:
        return NOT_MEASURED
    of_size: dict[str, dict[str, float]] = {}
    for name, seconds in record["seconds"]["rows"].items():
        size, kind = name.split(" ")
        of_size.setdefault(size, {})[kind] = seconds
    kinds = {"clean": "never compressed", "png": "a PNG of a JPEG", "single": "a JPEG", "twice": "a JPEG of a JPEG"}
    rows = [[size, *(f"{seconds[kind]:.2f}" for kind in kinds)] for size, seconds in of_size.items()]
    return format_markdown(["megapixels", *kinds.values()], rows)


def _make_memory(record: Mapping[str, Any]) -> str:
    rows = []
    for run in record["runs"]:
        how = [f"`{run['model']}`", run["sampling"], run["output"].lstrip(".").upper()]
        how += [f"`{run['options']}`"] if run["options"] else []
        how += ["stopped after its first tiles"] if run["stopped"] else []
        rows.append([f"{run['megapixels']:g}", ", ".join(how), str(run["peak_mib"])])
    return format_markdown(["megapixels", "", "peak, MiB"], rows)


def _make_flat_memory(record: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for run in record:
        figures = [str(run[key]) for key in ("pictures", "first_mib", "last_mib")]
        rows.append([f"{run['place']}, `{run['model']}`", *figures, f"{run['growth']:.1%}"])
    head = ["MiB", "pictures", "most of the first 50", "at the end", "most of the others, above that"]
    return format_markdown(head, rows)


def _make_workers(record: Mapping[str, Any]) -> str:
    albums = [found for name, found in record.items() if name.startswith("workers")]
    counts = list(albums[0]["a_minute"])
    rows = [
        [f"{album['pictures']} of {album['megapixels']:g} megapixels", *(f"{album['a_minute'][c]:.1f}" for c in counts)]
        for album in albums
    ]
    return format_markdown(
        [f"pictures a minute, {albums[0]['machine']['cores']} cores", *(f"{c} workers" for c in counts)], rows
    )


def _make_counters(record: Mapping[str, Any]) -> str:
    """Milliseconds and number of operations of a tile, as exported and for its shape alone."""
    rows = []
    for run in record["tables"]:
        exported, shaped = run["milliseconds"]["exported"], run["milliseconds"]["shaped"]
        kinds = sorted(exported, key=lambda kind: -exported[kind][0])
        for kind in [*kinds, *(kind for kind in shaped if kind not in exported)]:
            cells = [exported.get(kind), shaped.get(kind)]
            if max(cell[0] for cell in cells if cell) >= 1:
                shown = [f"{cell[0]:.0f} ({cell[1]})" if cell else "" for cell in cells]
                rows.append([f"`{run['model']}`, {run['precision']}", kind, *shown])
    return format_markdown(["", "operation", "as exported, ms (number)", "for its shape alone"], rows)


def _make_against(record: Mapping[str, Any]) -> str:
    rows = []
    for name, found in record.items():
        if name.startswith(("against", "album")):
            fastest = min(found["seconds"].values())
            wrote = found.get("output", ".png" if name.startswith("against") else ".jpg").removeprefix(".").upper()
            size = (
                f"{found['megapixels']:g}"
                if "pictures" not in found
                else f"{found['pictures']} of {found['megapixels']:g}"
            )
            rows += [
                [size, wrote, f"`{what}`", f"{seconds:.1f}", f"{seconds / fastest:.1f}"]
                for what, seconds in found["seconds"].items()
            ]
    return format_markdown(["megapixels", "models write", "", "seconds", "times the fastest"], rows)


def _format_interval(value: Mapping[str, float], digits: int) -> str:
    return f"{value['mean']:+.{digits}f} ({value['low']:+.{digits}f} .. {value['high']:+.{digits}f})"


def _make_methods(record: Mapping[str, Any]) -> str:
    (name,) = record["summary"]
    return tabulate_metrics(record, name).to_markdown()


def _make_sets(record: Mapping[str, Any]) -> str:
    rows = []
    for name in record["summary"]:
        for degradation, figures in record["summary"][name].items():
            rows.append([f"{name}, {degradation}", *_set_beside_jpeg(figures, _list_ours(figures))])
    return format_markdown(["set, degradation", "JPEG", *_head_beside_jpeg(_list_ours(figures))], rows)


NOT_MEASURED = "Not measured yet."


def _make_from(path: Path, make: Callable[[Any], str]) -> str:
    return make(json.loads(path.read_text())) if path.exists() else NOT_MEASURED


def _make_networks(records: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for record in records:
        rows += [
            [
                f"`{name}`, {record['device']}",
                f"{row['multiply_adds_g']:.1f}",
                f"{row['parameters_m']:.1f}",
                "" if row["milliseconds"] is None else f"{row['milliseconds']:.1f}",
                "more than there is" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}",
            ]
            for name, row in record["networks"].items()
        ]
    if not rows:
        return NOT_MEASURED
    for name, (multiply_adds, parameters, milliseconds) in COSTS.items():
        rows.append([f"{name}, as printed, Tesla P100", str(multiply_adds), str(parameters), str(milliseconds), ""])
    return format_markdown(["512x512", "multiply-adds, G", "parameters, M", "time, ms", "peak memory, MiB"], rows)


_METRIC_NAMES = {"psnr_db": ("PSNR", 2), "ssim": ("SSIM", 3), "psnr_b_db": ("PSNR-B", 2)}


def _format_gain(value: Mapping[str, Any], digits: int, seeds: int) -> str:
    """With its intervals: over the seeds by t, over the pictures by a bootstrap.

    Args:
        seeds: of the study; a gain of fewer says so itself.
    """
    deviation, seeds = value["seed_deviation"], value.get("seeds", seeds)
    over_seeds = "" if deviation is None else f" ± {find_half_width(deviation, seeds):.{digits}f}"
    return f"{value['mean']:+.{digits}f}{over_seeds} ({value['low']:+.{digits}f} .. {value['high']:+.{digits}f})"


def _make_ablation(record: Mapping[str, Any]) -> str:
    base, *others = record["variants"]
    rows = []
    for set_name, per_quality in record["summary"].items():
        for quality, figures in per_quality.items():
            for metric, (title, digits) in _METRIC_NAMES.items():
                printed = compute_ablation_gains(set_name, int(quality), metric)
                row = [f"{set_name}, {quality}, {title}", f"{figures[metric]['base']:.{digits}f}"]
                for name in others:
                    ours = _format_gain(figures[metric]["gains"][name], digits + 1, len(record["seeds"]))
                    row.append(f"{ours}; {printed[name]:+.{digits}f}" if name in printed else ours)
                rows.append(row)
    in_paper = compute_ablation_gains("live1", 10, "psnr_db")
    titles = [f"{name}: ours; printed" if name in in_paper else name for name in others]
    return format_markdown(["set, quality", base, *titles], rows)


def _make_ablation_by_variant(record: Mapping[str, Any]) -> str:
    """PSNR alone, a row for each network: there are too many for columns."""
    base, *others = record["variants"]
    places = [(name, quality) for name, per_quality in record["summary"].items() for quality in per_quality]
    figures = [record["summary"][name][quality]["psnr_db"] for name, quality in places]
    printed = [compute_ablation_gains(name, int(quality), "psnr_db") for name, quality in places]
    rows = [[base, *(f"{one['base']:.2f}" for one in figures)]]
    for variant in others:
        row = [variant]
        for one, in_paper in zip(figures, printed, strict=True):
            ours = _format_gain(one["gains"][variant], 3, len(record["seeds"]))
            row.append(f"{ours}; {in_paper[variant]:+.2f}" if variant in in_paper else ours)
        rows.append(row)
    return format_markdown(["network", *(f"{name}, {quality}" for name, quality in places)], rows)


def _make_redegradation(record: Mapping[str, Any]) -> str:
    """What each kind of pairs gains over the model as it was, with intervals over the seeds."""
    groups = group_rows(record["rows"], ("target", "pairs", "steps", "start"))
    measured = dict.fromkeys(which for row in record["rows"] for which in row["psnr_db"])
    lines = []
    for (target, pairs, steps, _start), rows in groups.items():
        for which in measured:
            found = [row["psnr_db"][which] for row in rows if which in row["psnr_db"]]
            if not found:
                continue
            gains = [one["after"] - one["before"] for one in found]
            spread = "" if len(gains) < 2 else f" ± {find_half_width(statistics.stdev(gains), len(gains)):.3f}"
            figures = [f"{found[0][name]:.2f}" for name in ("decoder", "before")]
            gain = f"{statistics.fmean(gains):+.3f}{spread}"
            codec = target.split("-")[0]
            lines.append([codec, pairs, str(steps), str(len(gains)), which, *figures, gain])
    return format_markdown(["target", "pairs", "steps", "seeds", "LIVE1 as", "decoder", "before", "gain"], lines)


def _make_lambdas(record: Mapping[str, Any]) -> str:
    base, *others = record["variants"]
    rows = [
        [f"{set_name}, {quality}", f"{figures['psnr_db']['base']:.2f}"]
        + [_format_gain(figures["psnr_db"]["gains"][name], 3, len(record["seeds"])) for name in others]
        for set_name, per_quality in record["summary"].items()
        for quality, figures in per_quality.items()
    ]
    return format_markdown(["set, quality", f"λ_ci, λ_cs = {base}", *others], rows)


def _make_stage1(record: Mapping[str, Any]) -> str:
    views = record["views"]
    rows = []
    for quality in [str(quality) for quality in record["qualities"]]:
        row = [quality]
        for figures in views.values():
            here = figures["per_quality"][quality]
            movement = here["pooled_movement"]
            row += [
                f"{here['quality_error']:.1f}",
                f"{here['class_accuracy']:.0%}",
                f"{1 - here['judged_original']:.0%}",
                " / ".join(f"{error:.1f}" for error in here["content_error"].values()),
                " / ".join("-" if movement[kind] is None else f"{movement[kind]:.2f}" for kind in movement),
            ]
        rows.append(row)
    both = "insensitive / sensitive"
    titles = ("quality's error", "class exact", "judged compressed", f"reconstruction, {both}", f"movement, {both}")
    return format_markdown(["quality", *(f"{title} ({view})" for view in views for title in titles)], rows)


def _make_reading(record: Mapping[str, Any]) -> str:
    """Shorter than ``_make_stage1``: how well the quality is read, and how far features move."""
    rows = []
    for quality in (*map(str, record["qualities"]), "original"):
        row = [quality]
        for figures in record["views"].values():
            here = figures["per_quality"][quality]
            movement = here.get("pooled_movement", {})
            row += [
                f"{here['compressed_error']:.1f}" if "compressed_error" in here else "-",
                f"{here['original_probability']:.0%}",
                " / ".join(f"{value:.2f}" for value in movement.values()) or "-",
            ]
        rows.append(row)
    titles = ("quality's error, given it is compressed", "P(original)", "movement, insensitive / sensitive")
    return format_markdown(["quality", *(f"{title} ({view})" for view in record["views"] for title in titles)], rows)


def _make_cost(path: Path) -> dict[str, str]:
    record = json.loads(path.read_text())
    runs = [
        [
            f"{run['megapixels']:.1f}",
            _name_engine(run),
            f"{run['seconds_per_megapixel']:.2f}",
            f"{run['share_outside_network']:.0%}",
            "" if run["peak_mib"] is None else f"{run['peak_mib']:.0f}",
        ]
        for run in record["runs"]
    ]
    halos = [
        [
            row["precision"],
            str(row["halo"]),
            f"{row['largest']:.3f}",
            f"{row['mean']:.5f}",
            f"{row['extra_pixels']:.0%}",
        ]
        for row in record["halo"]
    ]
    return {
        "start": _make_start(record),
        "ceiling": _make_ceiling(record),
        "steps": _make_steps(record["runs"]),
        "cost": format_markdown(
            ["megapixels", "runtime", "seconds per megapixel", "outside the network", "peak memory, MiB"], runs
        ),
        "halo": format_markdown(
            ["precision", "halo, pixels", "largest difference, of 255", "mean", "more pixels to compute"], halos
        ),
    }


def _name_engine(run: Mapping[str, Any]) -> str:
    return str(run["runtime"]) if run["precision"] == "full" else f"{run['runtime']}, {run['precision']}"


def _make_start(record: Mapping[str, Any]) -> str:
    if "start" not in record:
        return NOT_MEASURED
    names = {"help": "`unjpeg --help`", "64x64": f"`unjpeg restore`, 64x64 pixels, `{record['model']}`"}
    return format_markdown(["whole process", "seconds"], [[names[k], f"{s:.2f}"] for k, s in record["start"].items()])


def _make_ceiling(record: Mapping[str, Any]) -> str:
    if "ceiling" not in record:
        return NOT_MEASURED
    ceiling = record["ceiling"]
    rows = [["product of two large matrices", *(f"{rate:.0f}" for rate in ceiling.values())]]
    for model, networks in record["networks"].items():
        cells = []
        for precision, limit in ceiling.items():
            network = networks.get("full" if precision == "f32" else precision)
            rate = network and network["multiply_adds_g_per_second"]
            cells.append(f"{rate:.0f} ({rate / limit:.0%})" if rate else "")
        rows.append([f"`{model}` on a tile of 512x512", *cells])
    return format_markdown(
        [f"thousand million multiply-adds a second, {record['machine']['processor']}", *ceiling], rows
    )


def _make_steps(runs: Sequence[Mapping[str, Any]]) -> str:
    if not all("total_seconds" in run for run in runs):
        return NOT_MEASURED
    rows = [
        [f"{run['megapixels']:.1f}", _name_engine(run)]
        + [f"{seconds:.2f}" for seconds in run["seconds"].values()]
        + [f"{run['total_seconds']:.2f}"]
        for run in runs
    ]
    steps = [name if name != "load" else "load the model" for name in runs[0]["seconds"]]
    return format_markdown(["megapixels", "runtime, seconds", *steps, "all but loading"], rows)


if __name__ == "__main__":
    main()
