"""CARN-DA's commands, resumable, and the documentation's tables from their result files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from conftest import synthetic_photo
from unjpeg.errors import TrainingDataError, TrainingError
from unjpeg.evaluate import carn as commands
from unjpeg.evaluate import carn_tables, codecs
from unjpeg.evaluate.methods import Decoder
from unjpeg.evaluate.metrics import psnr_db
from unjpeg.evaluate.pairs import Degradation
from unjpeg.train import carn
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
    folders = ["--data", data, "--train", data / "train/pictures", "--work", data / "work", "--accelerator", "cpu"]
    result = CliRunner().invoke(commands.app, [*arguments, "--recipe", "tiny", *map(str, folders)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_table_1_is_one_resumable_command(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = ("--out", str(data / "results"), "--seed", "0")
    first = run(data, "table1", *out)
    file = data / "results" / "carn-tiny-table1.json"
    record = json.loads(file.read_text())
    assert len(first.stdout.splitlines()) == len(record["rows"]) == 2 * 3 * 5  # qualities, sets, methods
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

    file.write_text(json.dumps(record | {"config": {}}))
    with pytest.raises(TrainingError, match="another configuration"):
        run(data, "table1", *out)


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
    assert [row["inputs"] for row in record["rows"]] == ["average", "moments", "flattened"]
    assert all(0 <= row["accuracy"] <= 1 for row in record["rows"])
    assert "carn-probe" in carn_tables.tables(data / "results")
    run(data, "figures", "--out", str(data / "images"), "--side", "16", "--set", "bsd68")
    names = sorted(path.name for path in (data / "images").iterdir())
    assert names == [f"carn-tiny-bsd68-q{q}-{what}.png" for q in (10, 70) for what in ("crops", "residuals")]
    with pytest.raises(TrainingDataError, match="no picture 7"):
        run(data, "figures", "--out", str(data / "images"), "--set", "bsd68", "--image", "7")


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
    assert carn_tables.gap_shares(ROWS, 10, "bsd68") == pytest.approx([0.5, 0.1])
    assert carn_tables.gap_shares(ROWS, 70, "bsd68") == []
    assert carn_tables.gap_shares([row for row in ROWS if row["method"] != "SQ"], 10, "bsd68") == []


def test_missing_results_are_said_to_be_missing(tmp_path: Path) -> None:
    made = carn_tables.tables(tmp_path)
    assert all(text.startswith("Not measured yet: `python -m unjpeg.evaluate.") for text in made.values())
    assert set(made) == {"carn-table1", "carn-gap", "carn-table2", "carn-probe", "carn-codecs", "carn-variants"}


def test_tables_hold_the_results(tmp_path: Path) -> None:
    (tmp_path / "carn-small-table1.json").write_text(json.dumps({"rows": ROWS}))
    two = [a_row("JPEG", None, 26.0), a_row("ours", 0, 27.25, pictures=14, fixed=56)]
    (tmp_path / "carn-small-table2.json").write_text(json.dumps({"rows": two}))
    probe = [{"network": "untrained", "inputs": "moments", "accuracy": 0.875, "seed": 0}]
    (tmp_path / "carn-small-probe.json").write_text(json.dumps({"rows": probe}))
    figures = {name: {"psnr_db": psnr} for name, psnr in (("decoder", 30), ("unadapted", 30.5), ("adapted", 30.75))}
    apart = {"accuracy_before": 0.9, "accuracy_after": 0.6, "source_psnr_db_before": 31, "source_psnr_db_after": 30.9}
    codec = {"rows": [{"codec": "webp-20", "set": "live1", "images": 29, **figures, **apart}]}
    (tmp_path / "adapt-codecs.json").write_text(json.dumps(codec))
    made = carn_tables.tables(tmp_path)
    assert "| 10 | ours |  | 27.30 ± 0.28 / 26.30 / 0.500 |  |" in made["carn-table1"]
    assert "| 10 |  | 30.0% ± 28.3% |  |" in made["carn-gap"]
    assert "| 10 | ours | 14 beside 56 |  | 27.25 / 26.25 / 0.500 |  |" in made["carn-table2"]
    assert "| untrained | 87.5% |" in made["carn-probe"]
    assert "| webp-20 | live1 (29) | 30.00 | 30.50 | 30.75 | +0.250 | 90%, 60% | -0.10 |" in made["carn-codecs"]
    assert "| `small` |" in made["carn-variants"]


# --- codecs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["webp-20", "avif-30", "jpeg-10"])
def test_codecs_are_measured(codec: str) -> None:
    found = codecs.measure([Degradation.parse(codec).apply(synthetic_photo(48, 48, 0))], Decoder())
    assert 20 < found["psnr_db"] < 60
    assert found["psnr_b_db"] <= found["psnr_db"]
