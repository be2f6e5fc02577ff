"""CARN-DA's commands, resumable, and the documentation's tables from their result files."""

from __future__ import annotations

import json
import shutil
import statistics
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from conftest import synthetic_photo
from studies.carn import codecs
from studies.carn import scenarios as commands
from studies.carn import tables as carn_tables
from studies.carn.recipes import CarnRecipe, find_carn_recipe
from studies.printed import CARN_TABLE_1, CARN_TABLE_2
from unjpeg.adapt import carn
from unjpeg.adapt.domains import checksum
from unjpeg.adapt.model import AdaptationReport
from unjpeg.console import run_safely
from unjpeg.errors import TrainingDataError, TrainingError
from unjpeg.evaluate.methods import Decoder
from unjpeg.evaluate.metrics import psnr_db
from unjpeg.evaluate.pairs import Degradation
from unjpeg.modelfile import ModelFile
from unjpeg.train.degrade import compress_jpeg


def grey_photo(side: int, seed: int) -> np.ndarray:
    return np.asarray(Image.fromarray(synthetic_photo(side, side, seed)).convert("L"))


# --- the commands -------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``train/`` and two test sets of one small grey picture each."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "data"
    for folder, count in (("train/pictures", 24), ("test/bsd68", 1), ("test/set12", 1)):
        (root / folder).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(grey_photo(40, number)).save(root / folder / f"{number:02d}.png")
    return root


def run(data: Path, *arguments: str) -> Result:
    return invoke(commands.app, [*arguments, *common(data)])


def common(data: Path) -> list[str]:
    folders = ["--data", data, "--train", data / "train/pictures", "--work", data / "work", "--accelerator", "cpu"]
    return ["--recipe", "tiny", *map(str, folders)]


def invoke(app: typer.Typer, arguments: list[str], code: int = 0) -> Result:
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def test_table_1_is_one_resumable_command(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = ("--out", str(data / "results"), "--seed", "0")
    first = run(data, "table1", *out)
    file = data / "results" / "carn-tiny-table1.json"
    record = json.loads(file.read_text())
    assert len(first.stdout.splitlines()) == len(record["rows"]) == 2 * 3 * 6  # qualities, sets, methods
    jpeg = next(r for r in record["rows"] if (r["method"], r["quality"], r["set"]) == ("JPEG", 10, "bsd68"))
    original = np.asarray(Image.open(data / "test/bsd68/00.png"))
    assert jpeg["psnr_db"] == pytest.approx(psnr_db(compress_jpeg(original, 10), original))
    assert {row["seed"] for row in record["rows"] if row["method"] != "JPEG"} == {0}
    assert record["config"]["backbone"]["width"] == 4

    lost = [row for row in record["rows"] if row["method"] != "ours"]
    file.write_text(json.dumps(record | {"rows": lost}))
    with monkeypatch.context() as patch:
        patch.setattr(carn, "denoising_loss", None)  # nothing is trained again
        again = run(data, "table1", *out)
    assert len(again.stdout.splitlines()) == 2 * 3
    repeated = json.loads(file.read_text())["rows"]
    key = str
    assert sorted(map(key, repeated)) == sorted(map(key, record["rows"]))

    assert len(run(data, "table1", "--bound", *out).stdout.splitlines()) == 2 * 3  # the others are there
    assert {row["method"] for row in json.loads(file.read_text())["rows"]} >= {"bound"}
    assert len(run(data, "table1", "--redegraded", *out).stdout.splitlines()) == 2 * 2 * 3

    file.write_text(json.dumps(record | {"config": {}}))
    with pytest.raises(TrainingError, match=r"another configuration \(recipe\)"):
        run(data, "table1", *out)
    file.write_text(json.dumps(record))
    Image.fromarray(grey_photo(40, 99)).save(data / "test/set12" / "00.png")
    with pytest.raises(TrainingError, match=r"another configuration \(test sets\)"):
        run(data, "table1", *out)
    for damaged in ("{", "[]", '{"rows": 3}'):
        file.write_text(damaged)
        with pytest.raises(TrainingError, match="not a readable result file"):
            run(data, "table1", *out)


@pytest.mark.parametrize("table", ["table1", "table2"])
def test_seeds_come_together_one_by_one(data: Path, monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    """Each row keeps the commit that measured it; for rows that are there nothing is trained, even without --work."""
    out = ("--out", str(data / "results"), "--set", "pretraining.steps=1", "--set", "adaptation.steps=1")
    file = data / "results" / f"carn-tiny-{table}.json"
    for seed, commit in ((1, 12 * "a"), (0, 12 * "b")):
        monkeypatch.setattr(commands, "describe_origin", lambda commit=commit: {"commit": commit})
        run(data, table, *out, "--seed", str(seed))
    record = json.loads(file.read_text())
    assert record["commit"] == 12 * "b"
    assert record["precision"] == "32-true"
    by_seed = {seed: [row for row in record["rows"] if row["seed"] == seed] for seed in (None, 0, 1)}
    assert {seed: {row["commit"] for row in rows} for seed, rows in by_seed.items()} == {
        None: {12 * "a"},  # JPEGs hang on no seed
        0: {12 * "b"},
        1: {12 * "a"},
    }
    assert len(by_seed[0]) == len(by_seed[1])

    shutil.rmtree(data / "work")
    with monkeypatch.context() as patch:
        patch.setattr(carn, "denoising_loss", None)
        again = run(data, table, *out, "--seed", "0", "--seed", "1")
    assert again.stdout == ""
    assert json.loads(file.read_text())["rows"] == record["rows"]


def test_precisions_are_kept_apart(data: Path) -> None:
    settings = ("--set", "pretraining.steps=2", "--set", "adaptation.steps=2", "--seed", "0")
    run(data, "table1", *settings, "--out", str(data / "full"))
    trained = {path.name for path in (data / "work").iterdir()}
    with pytest.raises(TrainingError, match=r"another configuration \(precision\)"):
        run(data, "table1", *settings, "--out", str(data / "full"), "--precision", "bf16-mixed")
    run(data, "table1", *settings, "--out", str(data / "half"), "--precision", "bf16-mixed")
    assert len(list((data / "work").iterdir())) == 2 * len(trained)
    record = json.loads((data / "half" / "carn-tiny-table1.json").read_text())
    assert record["precision"] == "bf16-mixed"
    full = json.loads((data / "full" / "carn-tiny-table1.json").read_text())
    pairs = [
        (one["psnr_db"], other["psnr_db"])
        for one, other in zip(full["rows"], record["rows"], strict=True)
        if one["seed"] == 0
    ]
    # Adam's first steps are of one size, whichever way rounding turns a gradient that is nearly zero.
    assert 0 < max(abs(one - other) for one, other in pairs) < 2.5
    # Files of before there were two say nothing of it.
    file = data / "full" / "carn-tiny-table1.json"
    file.write_text(json.dumps({key: value for key, value in full.items() if key != "precision"}))
    assert run(data, "table1", *settings, "--out", str(data / "full")).stdout == ""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["table1", "--seed", "-1"], 2, "--seed"),
        (["table1", "--precision", "16-true"], 2, "--precision"),
        (["figures", "--seed", "-1"], 2, "--seed"),
        (["table1", "--set", "adaptation.ramp=maybe"], 2, "adaptation.ramp=maybe"),
        (["table1", "--set", "divide=0"], 2, "divide=0"),
        (["table1", "--set", "low=80"], 2, "low=80"),
        (["table1", "--set", "pretraining.batch=0"], 2, "pretraining.batch=0"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    arguments: list[str], code: int, message: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        run_safely(lambda: commands.app([*arguments, *common(data)]))
    assert raised.value.code == code
    assert message in capsys.readouterr().err


def test_settings_change_the_recipe(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[CarnRecipe] = []

    def open_none(recipe: CarnRecipe, *_: Any) -> None:
        opened.append(recipe)

    monkeypatch.setattr(commands, "open_pictures", open_none)
    wanted = ["target_pictures=same", "pretraining.reduction=sum", "adaptation.grid=1", "adaptation.ramp=true"]
    settings = [part for setting in wanted for part in ("--set", setting)]
    with pytest.raises(AttributeError):  # None are no pictures
        run(data, "table1", *settings)
    recipe = find_carn_recipe("tiny")
    assert opened == [
        replace(
            recipe,
            target_pictures="same",
            pretraining=replace(recipe.pretraining, reduction="sum"),
            adaptation=replace(recipe.adaptation, grid=1, ramp=True),
        )
    ]


def test_validation_pictures_can_be_given(data: Path) -> None:
    """All of the training pictures are trained on then, and no picture is both."""
    folder = data / "train" / "held-out"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(grey_photo(40, 70 + number)).save(folder / f"{number}.png")
    recipe, training = find_carn_recipe("tiny"), str(data / "train/pictures")
    pictures = commands.open_pictures(recipe, [training], str(folder))
    assert checksum(pictures.held_out) == checksum([grey_photo(40, 70 + number) for number in range(3)])
    assert len(pictures.training) == 24
    own = commands.open_pictures(recipe, [training])
    assert len(own.training) + len(own.held_out) == 24
    assert pictures.manifest["validation_images"] == 3
    assert pictures.manifest["validation_sha256"] != own.manifest["validation_sha256"]
    with pytest.raises(TrainingDataError, match="among the training pictures"):
        commands.open_pictures(recipe, [str(data / "train")], str(folder))


def test_table_2_counts_pictures(data: Path) -> None:
    run(data, "table2", "--out", str(data / "results"))
    rows = json.loads((data / "results" / "carn-tiny-table2.json").read_text())["rows"]
    unit = min(row["pictures"] for row in rows if "pictures" in row)
    assert {row["pictures"] for row in rows if "pictures" in row} == {unit, 4 * unit, 8 * unit}
    assert {row["fixed"] for row in rows if "fixed" in row} == {4 * unit}
    assert len([row for row in rows if row["method"] == "ours"]) == 2 * 3 * 3


def test_probe_and_figures(data: Path) -> None:
    run(data, "probe", "--out", str(data / "results"), "--steps", "2")
    record = json.loads((data / "results" / "carn-tiny-probe.json").read_text())
    assert [row["inputs"] for row in record["rows"]] == ["flattened", "moments", "average", "convolved"]
    assert all(0 <= row["accuracy"] <= 1 for row in record["rows"])
    assert "carn-probe" in carn_tables.make_tables(data / "results")
    run(data, "figures", "--out", str(data / "images"), "--side", "16", "--test-set", "bsd68")
    names = sorted(path.name for path in (data / "images").iterdir())
    assert names == [f"carn-tiny-bsd68-q{q}-{what}.png" for q in (10, 70) for what in ("crops", "residuals")]
    with pytest.raises(TrainingDataError, match="no picture 7"):
        run(data, "figures", "--out", str(data / "images"), "--test-set", "bsd68", "--image", "7")


# --- tables -------------------------------------------------------------------------------------------------------


def a_row(method: str, seed: int | None, psnr_db: float, **changes: Any) -> dict[str, Any]:
    figures = {"psnr_db": psnr_db, "psnr_b_db": psnr_db - 1, "ssim": 0.5, "images": 1}
    return {"method": method, "seed": seed, "quality": 10, "set": "bsd68", **figures, **changes}


ROWS = [
    a_row("JPEG", None, 26.0),
    *(a_row(method, 0, psnr) for method, psnr in (("SQ", 28.0), ("DQ", 27.0), ("BQ", 27.9), ("ours", 27.5))),
    *(a_row(method, 1, psnr) for method, psnr in (("SQ", 28.0), ("DQ", 27.0), ("BQ", 27.9), ("ours", 27.1))),
]


def test_share_of_the_gap_by_hand() -> None:
    assert carn_tables.compute_gap_shares(ROWS, 10, "bsd68") == pytest.approx([0.5, 0.1])
    assert carn_tables.compute_gap_shares(ROWS, 70, "bsd68") == []
    # A seed with a gap of its own of 0.01 dB does not decide alone: (0.5 + 0.1) / 1.01, not (0.5 + 10) / 2.
    uneven = [*ROWS[:5], a_row("SQ", 1, 27.01), a_row("DQ", 1, 27.0), a_row("ours", 1, 27.1)]
    assert statistics.fmean(carn_tables.compute_gap_shares(uneven, 10, "bsd68")) == pytest.approx(0.6 / 1.01)
    assert carn_tables.compute_gap_shares([row for row in ROWS if row["method"] != "SQ"], 10, "bsd68") == []


def test_missing_results_are_said_to_be_missing(tmp_path: Path) -> None:
    made = carn_tables.make_tables(tmp_path)
    assert all(text.startswith("Not measured yet: `python -m studies.carn.") for text in made.values())
    sizes = {f"carn-{name}{size}" for name in ("table1", "gap", "table2") for size in ("", "-published")}
    assert set(made) == sizes | {"carn-probe", "carn-codecs", "carn-variants", "carn-bound", "carn-redegraded"}
    text = (Path(__file__).parents[2] / "docs/research/carn-da.md").read_text(encoding="utf-8")
    assert all(f"<!-- table: {name} -->" in text for name in made)


def test_tables_hold_the_results(tmp_path: Path) -> None:
    (tmp_path / "carn-small-table1.json").write_text(json.dumps({"rows": ROWS}))
    two = [a_row("JPEG", None, 26.0), a_row("ours", 0, 27.25, pictures=14, fixed=56)]
    (tmp_path / "carn-small-table2.json").write_text(json.dumps({"rows": two}))
    probe = [{"network": "untrained", "inputs": "moments", "accuracy": 0.875, "seed": 0}]
    (tmp_path / "carn-small-probe.json").write_text(json.dumps({"rows": probe}))
    measured = {"decoder": 30, "unadapted": 30.5, "fine-tuned": 30.55, "adapted": 30.75}
    figures = {name: {"psnr_db": psnr} for name, psnr in measured.items()}
    apart = {"accuracy_before": 0.9, "accuracy_after": 0.6, "source_psnr_db_before": 31, "source_psnr_db_after": 30.9}
    apart |= {"source_blind_psnr_db_before": 31, "source_blind_psnr_db_after": 30.5}
    how = {"start": "default", "discriminator": "moments", "strength": 0.1, "steps": 40, "seed": 0}
    how |= {"stopped_at_step": 30, "kept_steps": 20}
    codec = {"rows": [{"codec": "webp-20", "set": "live1", "images": 29, **how, **figures, **apart}]}
    (tmp_path / "adapt-codecs.json").write_text(json.dumps(codec))
    made = carn_tables.make_tables(tmp_path)
    assert "| 10 | ours |  | 27.30 ± 0.28 / 26.30 / 0.500 |  |" in made["carn-table1"]
    assert "| 10 |  | 30.0% ± 28.3% |  |" in made["carn-gap"]
    assert "| 10 | ours | 14 beside 56 |  | 27.25 / 26.25 / 0.500 |  |" in made["carn-table2"]
    assert "| untrained | 87.5% |" in made["carn-probe"]
    expected = "| live1 (29) | 30.00 | 30.50 | 30.55 | 30.75 | +0.050 | +0.250 | 90%, 60% | -0.50 |"
    told = "| webp-20 | default, moments, 0.1, 40, 0 (stopped at 30, step 20 kept) "
    assert told + expected in made["carn-codecs"]
    assert "| `small` | 2 |  | 30.0% ± 28.3% |  |" in made["carn-variants"]
    assert made["carn-bound"].startswith("Not measured yet")
    shown = {"rows": [*ROWS, a_row("bound", 1, 27.75)]}
    (tmp_path / "carn-small-table1.json").write_text(json.dumps(shown))
    assert "| `small` | 1 |  | 75.0% |  |" in carn_tables.make_tables(tmp_path)["carn-bound"]
    assert made["carn-redegraded"].startswith("Not measured yet")
    further = [a_row(name, 1, 27.5) for name in ("re-degraded, clean", "re-degraded, halved")]
    (tmp_path / "carn-small-table1.json").write_text(json.dumps({"rows": [*ROWS, *further]}))
    redegraded = carn_tables.make_tables(tmp_path)["carn-redegraded"]
    assert "| 10 | re-degraded, halved |  | 27.50 / 26.50 / 0.500 |  |" in redegraded
    assert "± " not in redegraded  # of the other seed nothing was trained further
    assert "| 10 | ours, as printed | 25.03 / 25.01 / 0.47 | 28.14 / 28.10 / 0.46 |" in made["carn-table1"]
    assert "| 10 | ours, as printed | 100 beside 400 | 24.92 / 24.90 / 0.46 |" in made["carn-table2"]
    assert made["carn-table1-published"].startswith(
        "Not measured yet: `python -m studies.carn.scenarios table1 --recipe p"
    )


def test_variants_are_whatever_was_measured(tmp_path: Path) -> None:
    for name in ("small", "small-ramp", "published", "tiny"):
        (tmp_path / f"carn-{name}-table1.json").write_text(json.dumps({"rows": ROWS}))
    lines = carn_tables.make_tables(tmp_path)["carn-variants"].splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| `small`", "| `small-ramp`"]


def test_printed_gains_are_the_papers() -> None:
    """Differences to the JPEG rows as the paper prints them beside the figures, to its rounding."""
    gains = {
        (10, "SQ", "bsd68"): (1.18, 1.60),
        (10, "DQ", "div2k"): (0.30, 0.39),
        (10, "BQ", "set12"): (1.78, 2.22),
        (10, "ours", "div2k"): (1.04, 1.24),
        (70, "SQ", "div2k"): (1.03, 1.15),
        (70, "DQ", "bsd68"): (-2.96, -2.45),
        (70, "ours", "set12"): (0.27, 0.75),
    }
    for (quality, method, name), printed in gains.items():
        table = CARN_TABLE_1[quality]
        found = [a - b for a, b in zip(table[method][name][:2], table["JPEG"][name][:2], strict=True)]
        assert found == pytest.approx(printed, abs=0.025), (quality, method, name)
    misprint = CARN_TABLE_1[10]["SQ"]["div2k"][0] - CARN_TABLE_1[10]["JPEG"]["div2k"][0]
    assert misprint == pytest.approx(0.51)  # beside "(1.01)"
    assert CARN_TABLE_2[70]["ours"][800]["bsd68"] == (34.48, 34.37, 0.76)


# --- codecs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["webp-20", "avif-30", "jpeg-10"])
def test_codecs_are_measured(codec: str) -> None:
    found = codecs.measure([Degradation.parse(codec).apply(synthetic_photo(48, 48, 0))], Decoder())
    assert 20 < found["psnr_db"] < 60
    assert found["psnr_b_db"] <= found["psnr_db"]


@pytest.fixture
def codec_data(data: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, float]]:
    """Adaptations that are only noted: their folders and strengths."""
    adapted: list[tuple[Path, float]] = []
    (data / "test/live1").mkdir()
    Image.fromarray(synthetic_photo(40, 40, 5)).save(data / "test/live1" / "a.png")

    def adapt(model: str, target: Path, source: list[str], out: Path, *, config: Any, **_: Any) -> Any:
        assert len(list(target.iterdir())) == 24
        if "avif" in out.name:
            raise TrainingError("the source collapsed")
        adapted.append((out, config.strength))
        blank: dict[str, Any] = dict.fromkeys(field.name for field in fields(AdaptationReport))
        return AdaptationReport(**(blank | {"model": model, "accuracy_before": 0.9, "accuracy_after": 0.6}))

    monkeypatch.setattr(codecs, "adapt_model", adapt)
    monkeypatch.setattr(codecs, "UnjpegModel", lambda _model: Decoder())
    return adapted


def run_codecs(data: Path, model: Path, *arguments: str, code: int = 0) -> Result:
    app = typer.Typer()
    app.command()(codecs.main)
    folders = ["--data", data, "--originals", "train/pictures", "--source", "train/pictures", "--model", model]
    places = ["--work", data / "work", "--out", data / "results"]
    return invoke(app, [*map(str, folders), *map(str, places), *arguments], code)


def codec_rows(data: Path) -> list[tuple[str, str, float]]:
    record = json.loads((data / "results" / "adapt-codecs.json").read_text())
    return [(row["codec"], row["set"], row["strength"]) for row in record["rows"]]


def test_codecs_keep_what_they_have_found(
    codec_data: list[tuple[Path, float]], data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    target = "the target itself"
    run_codecs(data, tiny_model, "--codec", "webp-20", "--codec", "avif-30", "--codec", "jpeg-10", code=1)
    expected = [(codec, which, 0.01) for codec in ("webp-20", "jpeg-10") for which in (target, "live1")]
    assert codec_rows(data) == expected  # the second codec's collapse has cost neither the first nor the third
    assert [strength for _, strength in codec_data] == [0.01, 0.0, 0.01, 0.0]  # each with its control
    assert len({out for out, _ in codec_data}) == 4
    row = json.loads((data / "results" / "adapt-codecs.json").read_text())["rows"][0]
    assert row["images"] == 24
    assert row["fine-tuned"] == row["decoder"]

    codec_data.clear()
    run_codecs(data, tiny_model, "--codec", "webp-20")
    assert codec_data == []  # known
    assert codec_rows(data) == expected  # and the others are still there
    other_model = tmp_path / "other.unjpeg"
    file = ModelFile.read(tiny_model)
    replace(file, description=replace(file.description, passes=4)).write(other_model)
    run_codecs(data, other_model, "--codec", "webp-20")
    run_codecs(data, tiny_model, "--codec", "webp-20", "--strength", "0.5")
    Image.fromarray(grey_photo(40, 77)).save(data / "train/pictures" / "00.png")
    run_codecs(data, tiny_model, "--codec", "webp-20")
    adapted = [out for out, strength in codec_data if strength > 0]
    assert len(adapted) == len(set(adapted)) == 3
    assert len(list((data / "work").glob("webp-20-target-*"))) == 2
    assert len(codec_rows(data)) == len(expected) + 3 * 2


@pytest.mark.parametrize("arguments", [["--strength", "inf"], ["--strength", "nan"], ["--seed", "-1"]])
def test_codecs_wrong_usage(
    arguments: list[str], codec_data: list[tuple[Path, float]], data: Path, tiny_model: Path
) -> None:
    run_codecs(data, tiny_model, *arguments, code=2)
    assert codec_data == []


def test_codecs_look_for_the_test_set_first(codec_data: list[tuple[Path, float]], data: Path, tiny_model: Path) -> None:
    with pytest.raises(TrainingDataError, match="nope: no such folder"):
        run_codecs(data, tiny_model, "--test", "nope")
    assert codec_data == []
