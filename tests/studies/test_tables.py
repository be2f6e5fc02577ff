"""The documentation says what the result files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from studies.documents import curves, landscape
from studies.documents.tables import DOCUMENTS, fill_in, make_tables

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tables_are_made_from_the_results(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    assert "<!-- table: " in text
    assert fill_in(text, make_tables(ROOT / "results")) == text


def test_what_is_not_measured_is_said_to_be(tmp_path: Path) -> None:
    for name in ("live1.json", "cost.json"):
        (tmp_path / name).write_bytes((ROOT / "results" / name).read_bytes())
    made = make_tables(tmp_path)
    assert {made[name] for name in ("networks", "ablation", "lambdas", "stage1")} == {"Not measured yet."}


def test_ablation_stands_beside_what_is_printed(tmp_path: Path) -> None:
    for name in ("live1.json", "cost.json"):
        (tmp_path / name).write_bytes((ROOT / "results" / name).read_bytes())
    names = ["base", "CIGM", "CSGM", "CFM", "all"]
    gains = {name: {"mean": 0.1, "low": 0.05, "high": 0.15, "seed_deviation": 0.02} for name in names[1:]}
    figures = {"psnr_db": 26.0, "ssim": 0.75, "psnr_b_db": 25.0}
    summary = {"10": {metric: {"base": value, "jpeg": value, "gains": gains} for metric, value in figures.items()}}
    record = {"variants": names, "seeds": [0, 1, 2], "summary": {"live1": summary, "mine": summary}}
    (tmp_path / "ablation-modules-small.json").write_text(json.dumps(record))
    lines = make_tables(tmp_path)["ablation"].splitlines()
    assert len(lines) == 2 + 6
    ours = "+0.100 ± 0.050 (+0.050 .. +0.150)"  # 4.303 * 0.02 / 3 ** 0.5
    assert lines[2].startswith(f"| live1, 10, PSNR | 26.00 | {ours}; +0.36 | {ours}; +0.28 | ")
    assert "; " not in lines[5]
    (tmp_path / "ablation-modules-small-reading.json").write_text(json.dumps(record))
    lines = make_tables(tmp_path)["ablation-reading"].splitlines()
    assert lines[0] == "| network | live1, 10 | mine, 10 |"
    assert lines[2:4] == ["| base | 26.00 | 26.00 |", f"| CIGM | {ours}; +0.36 | {ours} |"]
    assert len(lines) == 2 + len(names)


def test_redegradation_has_a_line_for_each_kind_of_pairs(tmp_path: Path) -> None:
    for name in ("live1.json", "cost.json"):
        (tmp_path / name).write_bytes((ROOT / "results" / name).read_bytes())

    def row(pairs: str, seed: int, after: float) -> dict[str, Any]:
        figures = {"webp-20": {"decoder": 29.4, "before": 29.9, "after": after}}
        return {"target": "webp-20", "pairs": pairs, "seed": seed, "start": "x", "steps": 9, "psnr_db": figures}

    rows = [row("clean", 0, 30.0), row("halved", 0, 29.8), row("clean", 1, 30.1), row("clean", 2, 30.2)]
    (tmp_path / "redegradation.json").write_text(json.dumps({"rows": rows}))
    lines = make_tables(tmp_path)["redegradation"].splitlines()[2:]
    assert lines == [
        "| webp | clean | 9 | 3 | webp-20 | 29.40 | 29.90 | +0.200 ± 0.248 |",  # 4.303 * 0.1 / 3 ** 0.5
        "| webp | halved | 9 | 1 | webp-20 | 29.40 | 29.90 | -0.100 |",
    ]


def test_stage_1_has_both_reconstructions(tmp_path: Path) -> None:
    for name in ("live1.json", "cost.json"):
        (tmp_path / name).write_bytes((ROOT / "results" / name).read_bytes())
    figures = {
        "quality_error": 3.4,
        "class_accuracy": 0.25,
        "judged_original": 0.4,
        "content_error": {"insensitive": 7.25, "sensitive": 9.5},
        "pooled_movement": {"insensitive": 0.5, "sensitive": None},
    }
    record = {"qualities": [10], "views": {view: {"per_quality": {"10": figures}} for view in ("training", "whole")}}
    (tmp_path / "stage1.json").write_text(json.dumps(record))
    head, _, row = make_tables(tmp_path)["stage1"].splitlines()
    assert head.count("reconstruction, insensitive / sensitive (") == 2
    assert row == "| 10 |" + 2 * " 3.4 | 25% | 60% | 7.2 / 9.5 | 0.50 / - |"


def test_what_was_detected_stands_above_what_is_printed(tmp_path: Path) -> None:
    for name in ("live1.json", "cost.json"):
        (tmp_path / name).write_bytes((ROOT / "results" / name).read_bytes())
    gain = {"map": {"mean": 0.05, "low": -0.021, "high": 0.07}}
    summary = {
        "original": {"original": {"map": 0.42}},
        "jpeg-10": {"jpeg": {"map": 0.1}, "default": {"map": 0.204}},
        "jpeg-30": {"jpeg": {"map": 0.3}, "default": {"map": 0.35, "gains": gain}},
    }
    (tmp_path / "downstream-detection.json").write_text(json.dumps({"summary": summary}))
    lone = {"original": {"original": {"top_1": 0.9}}, "jpeg-20": {"jpeg": {"top_1": 0.7}, "fast": {"top_1": 0.8}}}
    (tmp_path / "downstream-classification.json").write_text(json.dumps({"summary": lone, "pictures": 40}))
    made = make_tables(tmp_path)
    assert made["classification"].splitlines()[2:] == [
        "| original, 40 pictures | 90.0 | 90.0 | 90.0 | 90.0 |",
        "| jpeg |  | 70.0 |  |  |",
        "| fast |  | 80.0 |  |  |",
    ]
    assert made["agreement"] == "Not measured yet."
    assert made["detection"].splitlines()[2:6] == [
        "| original | 42.0 | 42.0 | 42.0 | 42.0 |",
        "| jpeg | 10.0 |  | 30.0 |  |",
        "| default | 20.4 |  | 35.0 (-2.1 .. +7.0) |  |",
        "| JPEG, as printed | 9.5 | 23.8 | 30.0 | 32.2 |",
    ]
    assert made["segmentation"].splitlines()[-1] == "| DAGN, as printed | 57.9 | 69.3 | 73.1 | 74.3 |"


def test_a_changed_figure_is_noticed() -> None:
    made = make_tables(ROOT / "results")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    made["short"] = made["short"].replace("LIVE1", "LIVE2")
    assert fill_in(text, made) != text


def test_plots_are_drawn_from_the_results() -> None:
    def comment(name: str) -> str:
        with Image.open(ROOT / "docs" / "images" / name) as picture:
            return str(picture.info["Comment"])

    results = ROOT / "results"
    assert comment("gain-and-cost.png") == landscape.hash_points(*landscape.collect_points(results))
    assert comment("learning-curves.png") == curves.hash_record(json.loads((results / curves.RESULTS).read_text()))
