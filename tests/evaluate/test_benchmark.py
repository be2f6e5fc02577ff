"""``unjpeg benchmark``: what is measured, how, and what happens when something is missing or broken."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from conftest import synthetic_photo
from jpegs import decoded, encoded, picture, saved

pytest.importorskip("skimage")

from unjpeg.cli import app
from unjpeg.console import run_safely
from unjpeg.errors import BadImageError, MeasurementError, SettingError, TrainingDataError
from unjpeg.evaluate import methods
from unjpeg.evaluate.benchmark import Failure, Row, measured, run
from unjpeg.evaluate.method import Method, shaped_as
from unjpeg.evaluate.methods import Command, Decoder, Printed, UnjpegModel, method_by_name
from unjpeg.evaluate.metrics import psnr_b_db, psnr_db
from unjpeg.evaluate.pairs import Degradation, EncoderName, Pixels, TestSet, decode, encode_jpeg, load_images
from unjpeg.evaluate.results import load_results
from unjpeg.evaluate.statistics import difference, interval
from unjpeg.inspection import inspect, verify
from unjpeg.restorer import ConsistencyPolicy, Restorer
from unjpeg.version import source_hash

COPY = (
    f"{sys.executable} -c 'import sys, PIL.Image; PIL.Image.open(sys.argv[1]).save(sys.argv[2])' {{input}} {{output}}"
)


@pytest.fixture
def originals(tmp_path: Path) -> Path:
    """Three small pictures."""
    folder = tmp_path / "originals"
    folder.mkdir()
    for number, size in enumerate(((48, 64), (40, 56), (64, 48))):
        Image.fromarray(synthetic_photo(*size, number)).save(folder / f"{number}.png")
    return folder


class Darker(Method):
    """A deterministic stand-in that is worse than the decoder, and counts its calls."""

    def __init__(self, by: int = 3, fails_at: int | None = None) -> None:
        self.name = self.spec = "darker"
        self.identity = f"by {by}"
        self.calls, self._by, self._fails_at = 0, by, fails_at

    def restore(self, file: bytes) -> Pixels:
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


# --- degradations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "jpeg-10",
        "jpeg-10-4:4:4",
        "mozjpeg-30",
        "webp-20",
        "avif-30",
        "jpeg-90-after-30",
        "jpeg-90-after-30-shift-3-5",
        "jpeg-90-4:2:2-after-30",
        "webp-50-after-30",
    ],
)
def test_degradations_are_what_their_names_say(name: str) -> None:
    degradation = Degradation.parse(name)
    assert degradation.name == name
    original = synthetic_photo(48, 64, 0)
    made = degradation.apply(original)
    down, right = degradation.shift
    assert np.array_equal(made.original, original[down:, right:])
    assert decode(made.file).shape == made.original.shape
    assert 20 < psnr_db(decode(made.file), made.original) < 50
    assert degradation.apply(original).file == made.file
    if "jpeg" in name:
        facts = inspect(made.file, model=None)
        assert facts.subsampling == degradation.sampling
    assert degradation.is_plain_jpeg == (name == "jpeg-10")


def test_the_second_compression_is_of_the_first_one_s_pixels() -> None:
    original = synthetic_photo(48, 64, 0)
    first = decoded(encoded(original, quality=30))
    assert Degradation.parse("jpeg-90-after-30").apply(original).file == encoded(first, quality=90)
    shifted = Degradation.parse("jpeg-90-after-30-shift-3-5").apply(original)
    assert shifted.file == encoded(np.ascontiguousarray(first[3:, 5:]), quality=90)


@pytest.mark.parametrize(
    "name", ["jpeg", "jpeg-0", "jpeg-101", "bmp-3", "webp-20-4:4:4", "jpeg-90-shift-1-1", "jpeg-9-after-0", "jpeg-x"]
)
def test_other_degradations_are_refused(name: str) -> None:
    with pytest.raises(SettingError):
        Degradation.parse(name)


def test_a_trellis_leaves_the_cells() -> None:
    noise = np.random.default_rng(0).normal(0, 12, (128, 128, 3))
    original = np.clip(picture(128, 128, low=60, high=190) + noise, 20, 235).astype(np.uint8)
    files = {encoder: encode_jpeg(original, 75, encoder) for encoder in get_args(EncoderName)}
    shares = {encoder: verify(file, original).consistency.share_inside for encoder, file in files.items()}
    assert shares["libjpeg"] > 0.99
    assert shares["mozjpeg"] < shares["libjpeg"] - 0.005
    assert len(files["mozjpeg"]) < len(files["libjpeg"])
    assert inspect(files["mozjpeg"], model=None).subsampling == "4:2:0"


def test_load_images(image_folder: Path, tmp_path: Path) -> None:
    (image_folder / "notes.txt").write_text("no picture")
    loaded = list(load_images(image_folder))
    assert [name for name, _ in loaded] == [f"picture-{i}.png" for i in range(6)]
    assert all(pixels.dtype == np.uint8 and pixels.ndim == 3 for _, pixels in loaded)
    (tmp_path / "empty").mkdir()
    for empty in (tmp_path / "missing", tmp_path / "empty"):
        with pytest.raises(TrainingDataError, match=r"no images|no such folder"):
            list(load_images(empty))


def test_given_files_are_compared_with_their_references(originals: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    for number in (0, 2):
        (given / f"{number}.jpg").write_bytes(encoded(np.asarray(Image.open(originals / f"{number}.png")), quality=20))
    (given / "stranger.jpg").write_bytes(encoded(picture(16, 16)))
    test_set = TestSet.parse(f"{given}={originals}")
    *rows, failure = measured(test_set, [Degradation("jpeg", 5)], [Decoder()], ["psnr_db"])
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


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_originals_of_more_than_8_bits_are_refused(tmp_path: Path, dtype: type) -> None:
    deep = synthetic_photo(32, 32, 0)[..., 0].astype(dtype) * dtype(257)
    Image.fromarray(deep).save(tmp_path / "deep.png" if dtype is np.uint16 else tmp_path / "deep.tif")
    with pytest.raises(BadImageError, match=r"deep\..*: has more than 8 bits per sample; convert it to 8 bits first"):
        list(load_images(tmp_path))


def test_a_folder_s_broken_picture_is_named(image_folder: Path) -> None:
    (image_folder / "picture-3.png").write_bytes(b"\x89PNG")
    with pytest.raises(BadImageError, match=r"picture-3\.png: is no picture"):
        list(load_images(image_folder))


def test_sets_are_named_by_their_folders(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(originals)
    assert TestSet.parse(".").name == "originals"
    for folder in ("a/x", "b/x", "c/y"):
        (tmp_path / folder).mkdir(parents=True)
    named = TestSet.parse_all([str(tmp_path / folder) for folder in ("a/x", "b/x", "c/y")])
    assert [test_set.name for test_set in named] == ["a/x", "b/x", "y"]
    pairs = TestSet.parse_all([f"{tmp_path / 'a/x'}={originals}", f"{tmp_path / 'b/x'}={originals}"])
    assert [test_set.name for test_set in pairs] == ["a/x", "b/x"]
    with pytest.raises(SettingError, match="named twice"):
        TestSet.parse_all([str(originals), "."])
    for nothing in ("liv1", f"nowhere={originals}", f"{originals}=nowhere"):
        with pytest.raises(SettingError, match=r"nowhere|liv1: neither a folder nor one of the data sets"):
            TestSet.parse(nothing)


# --- methods ------------------------------------------------------------------------------------------------------


def test_methods_are_found_by_name(tiny_model: Path) -> None:
    assert isinstance(method_by_name("jpeg"), Decoder)
    assert method_by_name(str(tiny_model)).name == "tiny"
    off = method_by_name(f"{tiny_model}@off")
    assert (off.name, off.spec) == ("tiny@off", f"{tiny_model}@off")
    assert off.identity != method_by_name(str(tiny_model)).identity
    both = method_by_name(f"{tiny_model}@off@tta")
    assert (both.name, both.spec) == ("tiny@off@tta", f"{tiny_model}@off@tta")
    assert method_by_name("default@tta").name == "default@tta"
    assert method_by_name("default").name == "default"
    printed = method_by_name("printed:QGAC")
    assert isinstance(printed, Printed)
    with pytest.raises(MeasurementError, match="cannot be run"):
        printed.restore(b"")
    for name in (
        "nothing",
        "nothing@tta",
        "printed:nothing",
        "tool {input} {output}",
        "x=tool {input}",
        "x=tool '{input} {output}",
    ):
        with pytest.raises(SettingError):
            method_by_name(name)


def test_our_model_is_measured_as_users_run_it(tiny_model: Path) -> None:
    file = encoded(picture(40, 48), quality=10)
    restorer = Restorer(tiny_model)
    policies: tuple[ConsistencyPolicy, ...] = ("strict", "off")
    made = [UnjpegModel(tiny_model, policy).restore(file) for policy in policies]
    for pixels, policy in zip(made, policies, strict=True):
        assert np.array_equal(pixels, restorer.restore(file, consistency=policy).pixels)
    assert not np.array_equal(made[0], made[1])
    ensemble = UnjpegModel(tiny_model, tta=True)
    assert np.array_equal(ensemble.restore(file), restorer.restore(file, tta=True).pixels)
    assert len({ensemble.identity, UnjpegModel(tiny_model).identity, UnjpegModel(tiny_model, "off").identity}) == 3


def test_our_model_is_measured_at_both_precisions(rounded_model: Path) -> None:
    file = encoded(picture(40, 48), quality=10)
    for precision in ("full", "int8"):
        method = method_by_name(f"{rounded_model}@off@{precision}@tta")
        assert method.spec == f"{rounded_model}@off@{precision}@tta"
        assert method.identity.endswith(f" off {precision} tta")
        expected = Restorer(rounded_model, precision=precision).restore(file, consistency="off", tta=True)
        assert np.array_equal(method.restore(file), expected.pixels)
    for clash in ("full@int8", "off@strict", "tta@tta"):
        with pytest.raises(SettingError, match="do not go together"):
            method_by_name(f"{rounded_model}@{clash}")


def test_any_command_takes_part(tmp_path: Path) -> None:
    file = encoded(picture(24, 32), quality=30)
    copy = method_by_name(f"copy={COPY}")
    assert copy.name == "copy"
    assert np.array_equal(copy.restore(file), decoded(file))
    piped = method_by_name("piped=cat {input} | cat > {output.jpg}")
    assert np.array_equal(piped.restore(file), decode(file))
    with pytest.raises(MeasurementError, match="failed with code 3 no luck"):
        Command("broken", "sh -c 'echo no luck >&2; exit 3' {input} {output}").restore(file)
    with pytest.raises(MeasurementError, match=r"wrote no out\.png"):
        Command("idle", "true {input} {output}").restore(file)
    with pytest.raises(BadImageError):
        Command("text", "echo nonsense > {output} < {input}").restore(file)


def test_a_command_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "COMMAND_SECONDS", 0.2)
    with pytest.raises(MeasurementError, match=r"took more than 0\.2 seconds"):
        Command("slow", "sleep 60 | sleep 60; : {input} {output}").restore(encoded(picture(8, 8)))


def test_programs_that_are_not_installed_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    for name in methods.PROGRAMS:
        with pytest.raises(MeasurementError, match=f"{name}: not installed"):
            method_by_name(name)


def test_another_version_of_a_program_is_another_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    program = tmp_path / "tool"
    identities = []
    for version in ("1", "2"):
        program.write_text(f"#!/bin/sh\n# {version}\n")
        program.chmod(0o755)
        identities.append(Command("tool", "tool {input} {output}").identity)
    assert identities[0] != identities[1]


def test_a_command_s_identity_is_of_every_file_that_it_names(tmp_path: Path) -> None:
    script, weights = tmp_path / "tool.py", tmp_path / "weights.bin"
    identities = set()
    for code, values in (("1", "1"), ("2", "1"), ("2", "2")):
        script.write_text(code)
        weights.write_text(values)
        command = f"(cd / && python3 {script} --weights={weights} {{input}} {{output}})"
        identities |= {Command("tool", command).identity, Command("tool", command).identity}
    assert len(identities) == 3


def test_what_only_the_shell_understands_takes_part(tmp_path: Path) -> None:
    file = encoded(picture(24, 32), quality=30)
    for line in (
        "cd / && cp {input} {output}",
        "X=1 cp {input} {output}",
        "(cp {input} {output})",
        "{ cp {input} {output}; }",
    ):
        assert np.array_equal(Command("shell", line).restore(file), decode(file))
    with pytest.raises(MeasurementError, match=r"not installed \(no-such-tool is not on the PATH\)"):
        Command("none", "no-such-tool {input} {output}")


def test_what_an_older_program_has_measured_is_not_this_one_s(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = UnjpegModel(tiny_model).identity
    assert UnjpegModel(tiny_model).identity == now
    assert source_hash(*methods.RESTORING) in now
    monkeypatch.setattr(methods, "source_hash", lambda *_: "another")
    assert UnjpegModel(tiny_model).identity != now


def test_source_hashes_are_of_what_the_modules_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evaluate").mkdir()
    monkeypatch.setattr("importlib.resources.files", lambda _: tmp_path)
    hashes = []
    for text in ("1", "2", "1"):
        (tmp_path / "evaluate" / "metrics.py").write_text(text)
        hashes.append(source_hash("evaluate.metrics"))
    assert hashes[0] == hashes[2] != hashes[1]


def test_every_module_that_decides_pixels_is_known(child_environment: dict[str, str]) -> None:
    script = "import sys, unjpeg.restorer; print(*(name for name in sys.modules if name.startswith('unjpeg.')))"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=child_environment
    )
    loaded = {name.removeprefix("unjpeg.") for name in ran.stdout.split()}
    writing = {name for name in loaded if name.partition(".")[0] == "output"} | {"files"}
    later = {"runtimes.openvino"}  # imported when the model is compiled
    assert loaded - {"errors", "metadata", "version"} - writing == set(methods.RESTORING) - later


def test_results_take_their_original_s_shape() -> None:
    grey, colour = picture(8, 9)[..., 0], picture(8, 9)
    assert np.array_equal(shaped_as(grey, colour), np.dstack([grey] * 3))
    assert np.array_equal(shaped_as(np.dstack([grey] * 3), grey), grey)
    with pytest.raises(MeasurementError, match="made 9x8 pixels of 8x9"):
        shaped_as(picture(8, 9), picture(9, 8))


# --- a run --------------------------------------------------------------------------------------------------------


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
        def restore(self, file: bytes) -> Pixels:
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


# --- statistics ---------------------------------------------------------------------------------------------------


def test_intervals_cover_what_they_should() -> None:
    """Of 95 % intervals of samples with a known mean, about 95 % hold it."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        sample = rng.normal(5, 2, 40)
        found = interval(sample.tolist())
        assert found.low < found.mean < found.high
        hits += found.low <= 5 <= found.high
    assert 180 <= hits <= 198
    assert (interval([3.0]).low, interval([3.0]).high) == (3, 3)


def test_paired_differences_are_surer_than_two_means() -> None:
    rng = np.random.default_rng(2)
    hard = rng.normal(27, 3, 29)
    ours, theirs = hard + 0.3 + rng.normal(0, 0.05, 29), hard
    found = difference(ours.tolist(), theirs.tolist())
    assert found.low > 0.25
    assert interval(ours.tolist()).low < interval(theirs.tolist()).high
    assert (found.lower, found.pictures) == (0, 29)
    back = difference(theirs.tolist(), ours.tolist())
    assert back.mean == pytest.approx(-found.mean)
    assert back.lower == 29


def test_equal_pictures_make_no_nonsense() -> None:
    assert math.isinf(interval([30.0, math.inf]).mean)
    assert math.isnan(interval([30.0, math.inf]).low)
    assert difference([math.inf, 30], [math.inf, 29]).mean == 0.5
    for values in ([], [1.0]):
        with pytest.raises(ValueError, match=r"figures|same pictures"):
            difference(values, [])


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
        def restore(self, file: bytes) -> Pixels:
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
    def interrupted(*_: Any) -> Pixels:
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
