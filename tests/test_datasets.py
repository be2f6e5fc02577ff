"""Data sets: what is missing is said in one line, and a set's name works wherever a folder does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from unjpeg.cli import app
from unjpeg.console import run_safely
from unjpeg.datasets import DATA_SETS, data_set, find_problem, image_files, resolved
from unjpeg.errors import SettingError, TrainingDataError

MANIFESTS = Path(__file__).parents[1] / "src" / "unjpeg" / "manifests"


def kodak(folder: Path, numbers: range) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.fromarray(np.full((2, 2, 3), number, np.uint8)).save(folder / f"kodim{number:02d}.png")
    return folder


def test_every_manifest_is_listed_and_complete() -> None:
    assert sorted(DATA_SETS) == sorted(path.stem for path in MANIFESTS.glob("*.json"))
    for name in DATA_SETS:
        wanted = data_set(name)
        assert wanted.count > 0
        assert wanted.obtain
        assert wanted.terms
        assert len(wanted.stems) in (0, wanted.count)
        assert len(set(wanted.stems)) == len(wanted.stems)
        assert set(wanted.checksums) <= set(wanted.stems)


def test_the_papers_counts() -> None:
    counts = {"div2k": 900, "flickr2k": 2650, "live1": 29, "bsds500": 200, "bsd68": 68, "set12": 12, "classic5": 5}
    assert {name: data_set(name).count for name in counts} == counts


def test_what_is_missing_is_said_in_one_line(tmp_path: Path) -> None:
    wanted = data_set("kodak")
    absent = find_problem(wanted, tmp_path / "absent")
    assert absent is not None
    assert "no folder" in absent
    assert wanted.obtain in absent
    half = find_problem(wanted, kodak(tmp_path / "half", range(1, 20)))
    assert half is not None
    assert "19 of 24 pictures (no kodim20, kodim21, kodim22 and 2 more)" in half
    whole = kodak(tmp_path / "whole", range(1, 25))
    assert find_problem(wanted, whole) is None
    kodak(whole / "deeper", range(25, 27))
    more = find_problem(wanted, whole)
    assert more is not None
    assert "26 pictures instead of 24, such as kodim25, kodim26" in more
    assert not any("\n" in line for line in (absent, half, more))


def test_a_set_whose_names_are_not_known_is_counted(tmp_path: Path) -> None:
    problem = find_problem(data_set("urban100"), kodak(tmp_path / "few", range(3)))
    assert problem is not None
    assert "3 of 100 pictures; obtain it" in problem


@pytest.mark.parametrize("change", ["pixels", "damage", "format"])
def test_checksums_notice_other_pixels_but_not_another_format(tmp_path: Path, data_root: Path, change: str) -> None:
    wanted = data_set("set12")
    folder = tmp_path / "set12"
    folder.mkdir()
    for file in image_files(data_root / wanted.folder):
        (folder / file.name).write_bytes(file.read_bytes())
    first = folder / "01.png"
    with Image.open(first) as image:
        pixels = np.array(image)
    if change == "pixels":
        pixels[0, 0] ^= 1
        Image.fromarray(pixels).save(first)
    elif change == "damage":
        first.write_bytes(first.read_bytes()[:500])
    else:
        first.unlink()
        Image.fromarray(pixels).save(folder / "01.bmp")
    assert find_problem(wanted, folder) is None
    problem = find_problem(wanted, folder, checksums=True)
    if change == "format":
        assert problem is None
    else:
        assert problem is not None
        assert problem.startswith("set12: 1 of 12 pictures")
        assert problem.endswith("01")


def test_empty_files_are_not_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads that broke off; also where a set's name is given to train on."""
    folder = kodak(tmp_path / "test" / "kodak", range(1, 25))
    for number in (3, 7):
        (folder / f"kodim{number:02d}.png").write_bytes(b"")
    says = f"kodak: 2 of 24 pictures in {folder} are empty files: kodim03, kodim07"
    assert find_problem(data_set("kodak"), folder) == says
    assert find_problem(data_set("kodak"), folder, checksums=True) == says
    monkeypatch.setenv("UNJPEG_DATA", str(tmp_path))
    with pytest.raises(TrainingDataError, match="are empty files"):
        resolved("kodak")


def test_two_files_of_one_picture_are_noticed(tmp_path: Path) -> None:
    folder = kodak(tmp_path / "kodak", range(1, 25))
    kodak(folder / "again", range(5, 6))
    Image.new("RGB", (2, 2)).save(folder / "kodim06.bmp")
    problem = find_problem(data_set("kodak"), folder)
    assert problem == f"kodak: {folder} holds more than one file of kodim05, kodim06; move the others out"


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_files_are_noticed_where_no_checksums_are_known(tmp_path: Path, suffix: str) -> None:
    folder = kodak(tmp_path / "kodak", range(1, 25))
    (folder / "kodim09.png").unlink()
    broken = folder / f"kodim09.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(broken)
    assert find_problem(data_set("kodak"), folder, checksums=True) is None
    broken.write_bytes(broken.read_bytes()[:-2000])
    assert find_problem(data_set("kodak"), folder) is None
    problem = find_problem(data_set("kodak"), folder, checksums=True)
    assert problem == f"kodak: 1 of 24 pictures in {folder} are not decodable: kodim09"


def test_names_mean_folders_and_folders_mean_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNJPEG_DATA", str(tmp_path))
    with pytest.raises(TrainingDataError, match="kodak: no folder"):
        resolved("kodak")
    place = kodak(tmp_path / "test" / "kodak", range(1, 25))
    assert resolved("kodak") == place
    assert resolved(str(place)) == place
    assert resolved("elsewhere") == Path("elsewhere")
    kodak(tmp_path / "here" / "kodak", range(1))
    monkeypatch.chdir(tmp_path / "here")
    assert resolved("kodak") == Path("kodak")  # a folder that is there comes first
    with pytest.raises(SettingError, match="no data set 'kodiak'"):
        data_set("kodiak")


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNJPEG_DATA", str(tmp_path))
    elsewhere = kodak(tmp_path / "elsewhere", range(1, 25))
    everything = CliRunner().invoke(app, ["data"])
    assert everything.exit_code == 0
    assert len(everything.stdout.splitlines()) == len(DATA_SETS)
    assert CliRunner().invoke(app, ["data", "kodak"]).exit_code == 1
    whole = CliRunner().invoke(app, ["data", f"kodak={elsewhere}", "--checksums"])
    decoded = "all of which decode; no checksums are known"
    assert (whole.exit_code, whole.stdout) == (0, f"kodak: {elsewhere} holds all 24 pictures, {decoded}\n")
    names_only = CliRunner().invoke(app, ["data", f"kodak={elsewhere}"])
    assert (names_only.exit_code, names_only.stdout) == (0, f"kodak: {elsewhere} holds all 24 pictures\n")


def test_a_set_that_does_not_exist_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["unjpeg", "data", "kodiak"])
    with pytest.raises(SystemExit) as ended:
        run_safely(app)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("unjpeg: no data set 'kodiak'; there are: ")
