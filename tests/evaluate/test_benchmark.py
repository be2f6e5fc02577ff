"""``unjpeg benchmark``: what is measured, how, and what happens when something is missing or broken."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import synthetic_photo
from jpegs import decoded, encoded, picture, saved

pytest.importorskip("skimage")

from unjpeg.cli import app
from unjpeg.console import run_safely
from unjpeg.errors import MeasurementError
from unjpeg.evaluate import methods
from unjpeg.evaluate.benchmark import Failure, Row, measure, run
from unjpeg.evaluate.method import Method
from unjpeg.evaluate.methods import Decoder
from unjpeg.evaluate.metrics import psnr_b_db, psnr_db
from unjpeg.evaluate.pairs import Degradation, Pixels8, TestSet, decode, encode_jpeg, load_images
from unjpeg.evaluate.results import load_results


class Darker(Method):
    """A deterministic stand-in that is worse than the decoder, and counts its calls."""

    def __init__(self, by: int = 3, fails_at: int | None = None) -> None:
        self.name = self.spec = "darker"
        self.identity = f"by {by}"
        self.calls, self._by, self._fails_at = 0, by, fails_at

    def restore(self, file: bytes) -> Pixels8:
        self.calls += 1
        if self.calls == self._fails_at:
            raise KeyboardInterrupt
        pixels = decode(file)
        return np.maximum(pixels, self._by) - np.uint8(self._by)


@dataclass(frozen=True)
class Said:
    stdout: str
    stderr: str


def command(*arguments: str | Path, code: int = 0) -> Said:
    """What the command says, as it is started: an error that it does not expect comes through."""
    rounds = () if "--rounds" in arguments else ("--rounds", "0")
    out, complaints = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(complaints), pytest.raises(SystemExit) as end:
        run_safely(lambda: app(["benchmark", *map(str, arguments), *rounds]))
    assert end.value.code == code, out.getvalue() + complaints.getvalue()
    return Said(out.getvalue(), complaints.getvalue())


def only_rows(found: Iterable[Row | Failure]) -> list[Row]:
    rows = list(found)
    assert all(isinstance(row, Row) for row in rows), rows
    return [row for row in rows if isinstance(row, Row)]


def test_given_files_are_compared_with_their_references(originals: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    for number in (0, 2):
        (given / f"{number}.jpg").write_bytes(encoded(np.asarray(Image.open(originals / f"{number}.png")), quality=20))
    (given / "stranger.jpg").write_bytes(encoded(picture(16, 16)))
    test_set = TestSet.parse(f"{given}={originals}")
    *rows, failure = measure(test_set, [Degradation("jpeg", 5)], [Decoder()], ["psnr_db"])
    assert [(row.image, row.degradation) for row in only_rows(rows)] == [("0.jpg", "given"), ("2.jpg", "given")]
    original = np.asarray(Image.open(originals / "2.png"))
    expected = psnr_db(decoded(encoded(original, quality=20)), original)
    assert only_rows(rows)[1].figures["psnr_db"] == pytest.approx(expected, abs=1e-6)
    assert isinstance(failure, Failure)
    assert str(failure).startswith("given/stranger.jpg: ")
    assert "stranger.jpg: cannot be read" in failure.error


def test_replaced_files_are_measured_anew(originals: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()

    def measure(quality: int) -> float:
        original = np.asarray(Image.open(originals / "0.png"))
        (given / "0.jpg").write_bytes(encoded(original, quality=quality))
        test_set = TestSet.parse(f"{given}={originals}")
        record = run([test_set], [Degradation("jpeg", 5)], [Decoder()], ["psnr_db"], tmp_path / "out")
        return float(record["rows"][0]["psnr_db"])

    assert measure(90) > measure(10) + 3
    assert measure(10) < measure(90) - 3


def without_circumstances(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in ("costs", "commit", "machine")}


def test_a_run_measures_every_picture_with_every_method(originals: Path, tmp_path: Path) -> None:
    degradations = [Degradation("jpeg", 10), Degradation("webp", 40)]
    record = run(
        [TestSet.parse(str(originals))], degradations, [Decoder(), Darker()], ["psnr_db", "psnr_b_db"], tmp_path / "out"
    )
    rows = record["rows"]
    assert [(row["image"], row["degradation"], row["method"]) for row in rows[:5]] == [
        ("0.png", "jpeg-10", "jpeg"),
        ("1.png", "jpeg-10", "jpeg"),
        ("2.png", "jpeg-10", "jpeg"),
        ("0.png", "jpeg-10", "darker"),
        ("1.png", "jpeg-10", "darker"),
    ]
    assert len(rows) == 3 * 2 * 2
    original = np.asarray(Image.open(originals / "0.png"))
    jpeg = decoded(encode_jpeg(original, 10))
    assert rows[0]["psnr_db"] == pytest.approx(psnr_db(jpeg, original), abs=1e-6)
    assert rows[0]["psnr_b_db"] == pytest.approx(psnr_b_db(jpeg, original), abs=1e-6)
    assert (rows[0]["share_inside"], rows[0]["consistent"]) == (1, 1)
    assert "share_inside" not in rows[6]  # WebP has no such cells
    at_10 = record["summary"]["originals"]["jpeg-10"]
    values = {
        m: [r["psnr_db"] for r in rows if (r["degradation"], r["method"]) == ("jpeg-10", m)] for m in ("jpeg", "darker")
    }
    assert at_10["methods"]["jpeg"]["psnr_db"]["mean"] == pytest.approx(np.mean(values["jpeg"]))
    gain = at_10["differences"]["darker - jpeg"]["psnr_db"]
    assert gain["mean"] == pytest.approx(np.mean(values["darker"]) - np.mean(values["jpeg"]))
    assert gain["low"] <= gain["mean"] <= gain["high"] < 0
    assert (gain["lower"], gain["pictures"], at_10["pictures"]) == (3, 3, 3)
    sizes = [len(encode_jpeg(pixels, 10)) for _, pixels in load_images(originals)]
    pixels = sum(pixels.shape[0] * pixels.shape[1] for _, pixels in load_images(originals))
    assert at_10["bits_per_pixel"] == pytest.approx(8 * sum(sizes) / pixels)
    assert load_results(tmp_path / "out" / "results.json")["rows"] == rows


def test_an_interrupted_run_goes_on_and_ends_the_same(originals: Path, tmp_path: Path) -> None:
    def measure(method: Method, out: str) -> dict[str, Any]:
        sets, degradations = [TestSet.parse(str(originals))], [Degradation("jpeg", q) for q in (10, 40)]
        return run(sets, degradations, [Decoder(), method], ["psnr_db", "ssim"], tmp_path / out)

    whole = measure(Darker(), "whole")
    assert without_circumstances(measure(Darker(), "again")) == without_circumstances(whole)
    with pytest.raises(KeyboardInterrupt):
        measure(Darker(fails_at=4), "cut")
    journal = tmp_path / "cut" / "rows.jsonl"
    assert not (tmp_path / "cut" / "results.json").exists()
    journal.write_text(journal.read_text()[:-20])  # the last line is torn
    second = Darker()
    assert without_circumstances(measure(second, "cut")) == without_circumstances(whole)
    assert 0 < second.calls < 6
    third = Darker()
    assert without_circumstances(measure(third, "cut")) == without_circumstances(whole)
    assert third.calls == 0
    another = Darker(by=5)
    measure(another, "cut")
    assert another.calls == 6  # another method of the same name is measured anew
    Image.fromarray(synthetic_photo(48, 64, 9)).save(originals / "0.png")
    changed = Darker(by=5)
    measure(changed, "cut")
    assert changed.calls == 2  # the changed picture at both qualities


def test_a_bad_file_costs_itself_only(originals: Path, tmp_path: Path) -> None:
    (originals / "1.png").write_bytes(saved(picture(40, 40), "PNG")[:500])
    said: list[str] = []
    sets = [TestSet.parse(str(originals))]
    record = run(sets, [Degradation("jpeg", 10)], [Decoder(), Darker()], ["psnr_db"], tmp_path / "out", say=said.append)
    assert [(e["image"], e["degradation"], e["method"]) for e in record["errors"]] == [("1.png", None, None)]
    assert len(said) == 1
    assert said[0].startswith("originals/1.png: ")
    assert record["sets"] == {"originals": 2}
    assert record["summary"]["originals"]["jpeg-10"]["pictures"] == 2


def test_a_picture_that_one_method_fails_on_counts_for_none(originals: Path, tmp_path: Path) -> None:
    class Picky(Darker):
        def restore(self, file: bytes) -> Pixels8:
            if decode(file).shape[0] == 40:
                raise MeasurementError("picky: not that one")
            return super().restore(file)

    sets = [TestSet.parse(str(originals))]
    record = run(sets, [Degradation("jpeg", 10)], [Decoder(), Picky()], ["psnr_db"], tmp_path / "out")
    assert record["summary"]["originals"]["jpeg-10"]["pictures"] == 2
    (error,) = record["errors"]
    assert (error["image"], error["degradation"], error["method"]) == ("1.png", "jpeg-10", "darker")
    only = tmp_path / "only"
    only.mkdir()
    (originals / "1.png").rename(only / "1.png")
    with pytest.raises(MeasurementError, match=r"nothing could be measured.*picky"):
        run([TestSet.parse(str(only))], [Degradation("jpeg", 10)], [Picky()], ["psnr_db"], tmp_path / "none")


def test_two_methods_of_one_name_are_refused(originals: Path, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="two methods are called darker"):
        run([TestSet.parse(str(originals))], [Degradation("jpeg", 10)], [Darker(), Darker(4)], [], tmp_path)


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_prints_and_stores(originals: Path, tmp_path: Path, tiny_model: Path) -> None:
    options: Sequence[str | Path] = (originals, "--method", "jpeg", "--method", tiny_model, "--quality", "10, 40")
    result = command(*options, "--out", tmp_path / "out", "--metric", "psnr_db", "--limit", "2")
    lines = result.stdout.splitlines()
    assert lines[0] == "originals, jpeg-10, 2 pictures: psnr_db"
    assert [line.split()[0] for line in lines] == ["originals,", "jpeg", "tiny"] * 2
    record = load_results(tmp_path / "out" / "results.json")
    assert record["methods"]["tiny"]["spec"] == str(tiny_model)
    assert float(lines[1].split()[1]) == pytest.approx(
        record["summary"]["originals"]["jpeg-10"]["methods"]["jpeg"]["psnr_db"]["mean"], abs=5e-4
    )
    json.loads((tmp_path / "out" / "results.json").read_text(), parse_constant=pytest.fail)


def test_the_command_says_in_one_line_what_is_wrong(
    originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ("--out", tmp_path / "out", "--quality", "10", "--metric", "psnr_db")
    monkeypatch.setattr(methods, "PROGRAMS", {"jpeg2png": "no-such-program {input} {output}"})
    result = command(originals, "--method", "jpeg", "--method", "jpeg2png", *out, code=1)
    assert result.stderr.splitlines() == ["unjpeg: jpeg2png: not installed (no-such-program is not on the PATH)"]
    assert "jpeg-10" in result.stdout  # the others are measured
    (originals / "0.png").write_bytes(b"")
    result = command(originals, "--method", "jpeg", *out, code=1)
    assert len(result.stderr.splitlines()) == 1
    assert "0.png" in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "nothing"),
        ("--quality", "1000"),
        ("--quality", "ten"),
        ("--sampling", "5:5:5"),
        ("--metric", "beauty"),
        ("--degradation", "bmp-3"),
    ],
)
def test_wrong_usage_is_exit_code_2(originals: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    result = command(originals, "--method", "jpeg", "--out", tmp_path / "out", *options, code=2)
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("unjpeg: ")
    assert not (tmp_path / "out" / "results.json").exists()  # before the work


def test_a_misspelt_set_is_wrong_usage(originals: Path, tmp_path: Path) -> None:
    result = command("liv1", "--method", "jpeg", "--out", tmp_path / "out", code=2)
    assert result.stderr.startswith("unjpeg: liv1: neither a folder nor one of the data sets")


def test_printed_figures_alone_measure_nothing(originals: Path, tmp_path: Path) -> None:
    result = command(originals, "--method", "printed:DAGN", "--out", tmp_path / "out", code=2)
    assert "name a method that runs, too" in result.stderr


def test_a_method_that_always_fails_costs_itself_only(originals: Path, tmp_path: Path) -> None:
    """Be it the first, the second or the third; the report is written, and says so."""
    for order in range(3):
        specs = ["jpeg", "copy=cp {input} {output}"]
        specs.insert(order, "broken=false {input} {output}")
        out = tmp_path / f"{order}"
        named = [word for spec in specs for word in ("--method", spec)]
        options: Sequence[str | Path] = (
            *named,
            "--quality",
            "10",
            "--metric",
            "psnr_db",
            "--rounds",
            "1",
            "--show",
            "0",
            "--out",
            out,
        )
        result = command(originals, *options, code=1)
        assert [line.split()[0] for line in result.stdout.splitlines()] == ["originals,", "jpeg", "copy"]
        assert [line.split(": ")[1] for line in result.stderr.splitlines()] == [
            f"originals/{number}.png, jpeg-10, broken" for number in range(3)
        ]
        assert {line.split(": ", 2)[2] for line in result.stderr.splitlines()} == {"failed with code 1"}
        record = load_results(out / "results.json")
        assert record["costs"].keys() == {"jpeg", "copy"}
        assert list(record["summary"]["originals"]["jpeg-10"]["differences"]) == ["copy - jpeg"]
        assert "Left out: broken (failed with code 1)" in (out / "report.html").read_text()


def test_differences_are_over_the_first_method_whatever_fails(originals: Path, tmp_path: Path) -> None:
    class NotTheFirst(Decoder):
        def restore(self, file: bytes) -> Pixels8:
            if decode(file).shape[0] == 48:
                raise MeasurementError("not the first picture")
            return super().restore(file)

    sets = [TestSet.parse(str(originals))]
    record = run(sets, [Degradation("jpeg", 10)], [NotTheFirst(), Darker()], ["psnr_db"], tmp_path / "out")
    (name, gain), *_ = record["summary"]["originals"]["jpeg-10"]["differences"].items()
    assert name == "darker - jpeg"
    assert gain["psnr_db"]["mean"] < 0


def test_a_failure_at_another_quality_leaves_the_costs(originals: Path, tmp_path: Path) -> None:
    """At quality 90 the program fails on every picture, for its file is too large."""
    small = "small=test $(wc -c < {input}) -lt 1500 && cp {input} {output}"
    options = ("--method", "jpeg", "--method", small, "--metric", "psnr_db", "--out", tmp_path / "out")
    result = command(originals, *options, "--quality", "5,95", "--rounds", "1", code=1)
    assert "costs are left out" not in result.stderr
    assert load_results(tmp_path / "out" / "results.json")["costs"].keys() == {"jpeg", "small"}
    result = command(originals, *options, "--quality", "95,5", "--rounds", "1", code=1)
    assert load_results(tmp_path / "out" / "results.json")["costs"].keys() == {"jpeg"}


def test_results_say_what_they_are_of(originals: Path, tmp_path: Path) -> None:
    options = ("--method", "jpeg", "--quality", "10", "--metric", "psnr_db", "--limit", "2", "--rounds", "1")
    command(originals, *options, "--out", tmp_path / "out")
    record = load_results(tmp_path / "out" / "results.json")
    assert record["options"] == {"sets": {"originals": str(originals)}, "limit": 2, "rounds": 1}
    pixels = np.asarray(Image.open(originals / "0.png"))
    assert record["rows"][0]["file_checksum"] == hashlib.sha256(encode_jpeg(pixels, 10)).hexdigest()[:16]
    assert record["rows"][0]["checksum"] != record["rows"][1]["checksum"]


def test_infinite_figures_are_null_and_read_back(originals: Path, tmp_path: Path) -> None:
    """The first picture's file is the picture itself."""
    given, out = tmp_path / "given", tmp_path / "out"
    given.mkdir()
    for number in range(3):
        pixels = np.asarray(Image.open(originals / f"{number}.png"))
        Image.fromarray(pixels if number == 0 else pixels // 2).save(given / f"{number}.png")
    options = (
        f"{given}={originals}",
        "--method",
        "jpeg",
        "--method",
        "again=cp {input} {output}",
        "--metric",
        "psnr_db",
    )
    for _ in range(2):  # also from the journal
        result = command(*options, "--out", out)
        assert result.stdout.splitlines()[1].split() == ["jpeg", "inf"]
        json.loads((out / "results.json").read_text(), parse_constant=pytest.fail)
        record = load_results(out / "results.json")
        assert [row["psnr_db"] is None for row in record["rows"]] == [True, False, False] * 2
        assert record["summary"]["given"]["given"]["methods"]["jpeg"]["psnr_db"]["mean"] is None
        assert record["summary"]["given"]["given"]["differences"]["again - jpeg"]["psnr_db"]["mean"] == 0
        for line in (out / "rows.jsonl").read_text().splitlines():
            json.loads(line, parse_constant=pytest.fail)
    assert len((out / "rows.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--show", "nobody"), "--show nobody: there is no such picture"),
        (("--show", "2", "--limit", "2"), "--show 2: there is no such picture"),
        (("--real", "typo"), "--real typo: no such folder"),
        (("--real", "."), "name a second method"),
    ],
)
def test_what_is_only_shown_is_checked_before_the_work(
    originals: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    result = command(originals, "--method", "jpeg", "--out", tmp_path / "out", *options, code=2)
    assert words in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_terminal_sees_how_far_the_work_is(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = (originals, "--method", "jpeg", "--quality", "10", "--metric", "psnr_db", "--out", tmp_path / "out")
    assert command(*options).stderr == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    said = command(*options, "--rounds", "1").stderr
    assert "measuring" in said
    assert "3 of 3" in said
    assert "timing" in said


def test_progress_is_in_pictures(originals: Path, tmp_path: Path) -> None:
    (originals / "1.png").write_bytes(b"")
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(synthetic_photo(32, 32, 0)).save(other / "0.png")
    seen: list[float] = []
    sets = [TestSet.parse(str(folder)) for folder in (originals, other)]
    run(sets, [Degradation("jpeg", 10)], [Decoder(), Darker()], ["psnr_db"], tmp_path / "out", progress=seen.append)
    assert seen == sorted(seen)
    assert {0.5, 1, 2, 2.5, 3, 3.5, 4} <= set(seen)
    assert seen[-1] == 4


def test_ctrl_c_says_how_to_go_on(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Pixels8:
        raise KeyboardInterrupt

    monkeypatch.setattr(Decoder, "restore", interrupted)
    result = command(originals, "--method", "jpeg", "--out", tmp_path / "out", code=130)
    assert result.stderr == "unjpeg: interrupted; the same command goes on with what is measured\n"


def test_a_terminated_run_leaves_nothing_behind(
    originals: Path, tmp_path: Path, child_environment: dict[str, str]
) -> None:
    temporary, started = tmp_path / "temporary", tmp_path / "started"
    temporary.mkdir()
    slow = f"slow=echo $$ > {started}.new; mv {started}.new {started}; sleep 100; cp {{input}} {{output}}"
    arguments = ["benchmark", originals, "--method", slow, "--out", tmp_path / "out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "unjpeg", *map(str, arguments)],
        env={**child_environment, "TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
    )
    for _ in range(600):
        if started.exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.decode() == "unjpeg: interrupted; the same command goes on with what is measured\n"
    assert list(temporary.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
