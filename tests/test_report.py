"""What a benchmark shows: costs, sheets of pictures, plots, and the report that holds them."""

from __future__ import annotations

import base64
import io
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from conftest import synthetic_photo
from jpegs import decoded, encoded, picture

pytest.importorskip("matplotlib")
pytest.importorskip("skimage")

from unjpeg.cli import app
from unjpeg.errors import MeasurementError
from unjpeg.evaluate.benchmark import load_results, run
from unjpeg.evaluate.methods import Command, Complexity, Decoder, Method, Printed
from unjpeg.evaluate.metrics import psnr_db
from unjpeg.evaluate.pairs import Degradation, Pixels, TestSet, decode
from unjpeg.evaluate.report import Section, Table, cost_table, difference_table, metric_table, sections, write_report
from unjpeg.evaluate.sheets import (
    PAGE,
    ZOOM,
    Panel,
    before_after_sheet,
    crop_sheet,
    most_changed,
    residual_map,
    residual_sheet,
    side_by_side,
)
from unjpeg.evaluate.timing import costs, peak_mib


class Sleeper(Method):
    """Does what the decoder does, later; worse by one level."""

    def __init__(self, name: str, seconds: float, log: list[str]) -> None:
        self.name = self.identity = self.spec = name
        self._seconds, self._log = seconds, log

    def restore(self, file: bytes) -> Pixels:
        self._log.append(self.name)
        time.sleep(self._seconds)
        return np.maximum(decode(file), 1) - np.uint8(1)

    def complexity(self) -> Complexity:
        return Complexity(1.5, 20)


# --- costs --------------------------------------------------------------------------------------------------------


def test_methods_take_turns_and_the_first_round_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    clock = iter(range(1000))
    monkeypatch.setattr("unjpeg.evaluate.timing.time.perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr("unjpeg.evaluate.timing.peak_mib", lambda *_: 12.5)
    files = [encoded(picture(100, 100)), encoded(picture(50, 100))]
    found = costs([Sleeper("a", 0, log), Printed("QGAC"), Sleeper("b", 0, log)], files, rounds=2)
    assert log == ["a", "b", "a", "b", "b", "a", "b", "a", "a", "b", "a", "b"]
    # Each call takes one tick of the clock: 1 / 0.01 and 1 / 0.005 megapixels, twice each.
    assert found["a"].seconds_per_megapixel == found["b"].seconds_per_megapixel == 150
    assert found.keys() == {"a", "b"}
    assert (found["a"].peak_mib, found["a"].parameters_m, found["a"].multiply_adds_g) == (12.5, 1.5, 20)


@pytest.mark.slow
def test_peak_memory_is_the_method_s_own(tiny_model: Path) -> None:
    file = encoded(picture(32, 32))
    grabbing = "python3 -c 'x = bytearray({size} << 20); x[::4096] = b\"1\" * len(x[::4096])'; cp {{input}} {{output}}"
    small, large = (peak_mib(Command("grab", grabbing.format(size=size)), file) for size in (1, 200))
    assert small is not None
    assert large is not None
    assert small < 60
    assert 190 < large - small < 215
    decoder = peak_mib(Decoder(), file)
    assert decoder is not None
    assert decoder > 20
    log: list[str] = []
    assert peak_mib(Sleeper("unknown to others", 0, log), file) is None


# --- sheets -------------------------------------------------------------------------------------------------------


def test_residual_map_is_the_logarithm_of_fig_1() -> None:
    original = np.zeros((1, 4), np.uint8)
    restored = np.array([[0, 3, 15, 200]], np.uint8)
    by_hand = [0, np.log(4) / np.log(16) * 255, 255, 255]
    np.testing.assert_allclose(residual_map(restored, original, 15)[0], by_hand, atol=0.5)
    np.testing.assert_array_equal(residual_map(original, restored, 15), residual_map(restored, original, 15))
    assert not residual_map(original, original, 0).any()
    one, other = (np.repeat(pixels[..., None], 3, axis=2) for pixels in (restored, original))
    np.testing.assert_array_equal(residual_map(one, other, 15), residual_map(restored, original, 15))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_window_that_changed_most_is_found(channels: int) -> None:
    original = np.full((64, 80, 3), 100, np.uint8)
    changed = original.copy()
    changed[42, 61] = 0
    if channels == 1:
        original, changed = original[..., 0], changed[..., 0]
    top, left = most_changed(original, changed, 16)
    assert (top % 8, left % 8) == (0, 0)
    assert top <= 42 < top + 16
    assert left <= 61 < left + 16
    assert most_changed(original, original, 200) == (0, 0)


def test_details_are_enlarged_where_the_damage_is() -> None:
    original = np.full((120, 160, 3), 100, np.uint8)
    damaged = original.copy()
    damaged[84:92, 124:132] = (200, 0, 0)
    sheet = np.asarray(crop_sheet(original, {"JPEG": damaged, "ours": original}, 16))
    red = (sheet == (200, 0, 0)).all(axis=2)
    assert red.sum() == 64 + 64 * ZOOM**2  # in its surroundings, and enlarged; the frame is another red
    framed = (sheet == (255, 40, 40)).all(axis=2)
    assert framed.sum() == 3 * 4 * 15  # one for each version
    grey = crop_sheet(original[..., 0], {"JPEG": damaged[..., 0]}, 200)  # a picture smaller than the detail
    assert grey.height > 120


def test_residuals_are_brightest_where_the_error_is() -> None:
    original = synthetic_photo(64, 200, 0)
    sheet = np.asarray(residual_sheet(original, {"JPEG": decoded(encoded(original, quality=5)), "same": original}))
    assert sheet[:64, :200].mean() > 40
    assert sheet[:64, 206:406].max() < 5


def test_long_rows_are_wrapped() -> None:
    panels = [Panel((f"{number}",), Image.new("L", (700, 10), number * 50)) for number in range(3)]
    sheet = np.asarray(side_by_side(panels))
    assert sheet.shape[1] == 2 * 700 + 6
    assert [sheet[5, x, 0] for x in (0, 710)] == [0, 50]
    assert (sheet[:, 3] == 100).any()  # the third one stands below


def test_before_and_after_stand_in_rows() -> None:
    pictures = [(f"{i}.jpg", synthetic_photo(64, 64, i), synthetic_photo(64, 64, i + 1)) for i in range(2)]
    one, two = before_after_sheet(pictures[:1], 16), before_after_sheet(pictures, 16)
    assert two.height == one.height  # there is room beside the first
    assert two.width > 2 * one.width
    many = before_after_sheet(pictures * 20, 16)
    assert many.width <= PAGE
    assert many.height > 2 * one.height


# --- the report ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def live1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four small pictures under the name of a set that is printed."""
    folder = tmp_path_factory.mktemp("sets") / "live1"
    folder.mkdir()
    for number in range(4):
        Image.fromarray(synthetic_photo(64, 80, number)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def finished(live1: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[Any]]:
    """A run with costs, and what it was of."""
    sets, degradations = [TestSet.parse(str(live1))], [Degradation("jpeg", quality) for quality in (10, 40)]
    methods: list[Method] = [Decoder(), Sleeper("later", 0, []), Printed("QGAC"), Printed("DMCNN")]
    out = tmp_path_factory.mktemp("out")
    record = run(sets, degradations, methods, ["psnr_db", "ssim", "psnr_b_db", "ssim_jdec"], out)
    cost = {"seconds_per_megapixel": 0.5, "peak_mib": None, "parameters_m": 1.5, "multiply_adds_g": 20}
    record["costs"] = {"jpeg": dict.fromkeys(cost) | {"seconds_per_megapixel": 0.01}, "later": cost}
    return record, [sets, degradations, methods]


def test_tables_hold_what_was_measured_and_what_is_printed(
    finished: tuple[dict[str, Any], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    record, _ = finished
    assert len(metric_table(record, "live1").rows) == 4  # a part of the set is nothing to compare printed rows with
    monkeypatch.setattr("unjpeg.evaluate.report.data_set", lambda _: SimpleNamespace(count=4))
    table = metric_table(record, "live1")
    assert table.header == (
        "degradation",
        "method",
        "psnr_db",
        "ssim",
        "psnr_b_db",
        "ssim_jdec",
        "psnr_db gained (95 %)",
        "worse",
    )
    names = [row[:2] for row in table.rows]
    assert names == [
        ("jpeg-10", "jpeg"),
        ("jpeg-10", "later"),
        ("jpeg-10", "QGAC, as printed"),
        ("jpeg-10", "DMCNN, as printed"),
        ("jpeg-40", "jpeg"),
        ("jpeg-40", "later"),
        ("jpeg-40", "QGAC, as printed"),  # DMCNN is not printed there
    ]
    mean = record["summary"]["live1"]["jpeg-10"]["methods"]["jpeg"]["psnr_db"]["mean"]
    assert table.rows[0][2] == f"{mean:.2f}"
    assert table.rows[1][-1] == "4 of 4"
    assert re.fullmatch(r"-0\.\d\d \(-\d\.\d\d \.\. -\d\.\d\d\)", table.rows[1][-2])
    assert table.rows[2][2:] == ("27.62", "0.804", "27.43", "", "", "")
    assert cost_table(record).rows == (("jpeg", "0.01", "", "", ""), ("later", "0.50", "", "1.50", "20.0"))
    assert Table(("a", "b"), (("x", "1"),)).markdown() == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_the_report_is_one_file_that_holds_everything(
    finished: tuple[dict[str, Any], list[Any]], tmp_path: Path
) -> None:
    record, what = finished
    real = tmp_path / "real <b>"
    real.mkdir()
    (real / "a.jpg").write_bytes(encoded(synthetic_photo(40, 40, 5), quality=10))
    (real / "broken.jpg").write_bytes(b"\xff\xd8")
    made = list(sections(record, *what, show=["3"], real=[real], side=16))
    titles = [section.title for section in made]
    assert titles[:3] == ["live1", "Cost", "live1: plots"]
    plots = made[2].content
    assert isinstance(plots, Image.Image)
    assert plots.width > plots.height > 2 * 300  # three beside each other, one below
    assert "live1, 3.png, jpeg-10" in titles
    assert titles[-1] == "real <b>, before and after"
    assert "Left out: broken.jpg (" in made[-1].text
    reasons = [section.text for section in made if section.text.startswith("Where later")]
    assert len(reasons) in (2, 3)  # one of the three may be the picture asked for
    write_report(made, record, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(images) == sum(not isinstance(section.content, Table) for section in made)
    shown = [Image.open(io.BytesIO(base64.b64decode(image))).size for image in images]
    assert shown == [section.content.size for section in made if not isinstance(section.content, Table)]
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "real &lt;b&gt;" in page
    assert "What is printed is of whole sets, and left out." in page
    with Image.open(tmp_path / "out" / "report.png") as image:
        assert image.height > sum(size[1] for size in shown)


def test_every_method_stands_against_every_other(live1: Path, tmp_path: Path) -> None:
    methods = [Decoder(), Sleeper("later", 0, []), Sleeper("even later", 0, [])]
    record = run([TestSet.parse(str(live1))], [Degradation("jpeg", 10)], methods, ["psnr_db"], tmp_path)
    table = difference_table(record, "live1")
    assert table.header == ("psnr_db", "jpeg-10")
    first, second, third = table.rows
    assert (first[0], second[0]) == ("later - jpeg", "even later - jpeg")
    assert first[1] == second[1]
    assert first[1].startswith("-0.")
    assert third == ("even later - later", "+0.00 (+0.00 .. +0.00)")


def test_groups_of_rows_are_named_once(finished: tuple[dict[str, Any], list[Any]], tmp_path: Path) -> None:
    record, _ = finished
    table = metric_table(record, "live1")
    write_report([Section("live1", "", table)], record, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.count("jpeg-10<") == 1
    assert "<td class=word>later</td>" in page
    assert page.count("<tr>") == 1 + len(table.rows)


def test_pictures_are_chosen_by_rule(finished: tuple[dict[str, Any], list[Any]]) -> None:
    record, what = finished
    rows = [row for row in record["rows"] if row["degradation"] == "jpeg-10"]
    before, after = ({r["image"]: r["psnr_db"] for r in rows if r["method"] == m} for m in ("jpeg", "later"))
    gains = sorted((after[image] - before[image], image) for image in before)
    made = {section.text: section.title for section in sections(record, *what, side=16)}
    for (gain, image), which in ((gains[-1], "most"), (gains[2], "the median"), (gains[0], "least")):
        assert made[f"Where later gains {which}: {gain:+.2f} in psnr_db."] == f"live1, {image}, jpeg-10"


def test_a_folder_in_which_nothing_can_be_restored_is_said(
    finished: tuple[dict[str, Any], list[Any]], tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8")
    record, what = finished
    with pytest.raises(MeasurementError, match="none of its pictures"):
        list(sections(record, *what, real=[tmp_path]))


def test_the_command_writes_the_report(live1: Path, tmp_path: Path, tiny_model: Path) -> None:
    arguments = [live1, "--method", "jpeg", "--method", "again=cp {input} {output}", "--quality", "10", "--rounds", "1"]
    arguments += ["--metric", "psnr_db", "--limit", "2", "--out", tmp_path / "out"]
    result = CliRunner().invoke(app, ["benchmark", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    record = load_results(tmp_path / "out" / "results.json")
    assert record["costs"].keys() == {"jpeg", "again"}
    assert record["costs"]["jpeg"]["seconds_per_megapixel"] > 0
    gain = record["summary"]["live1"]["jpeg-10"]["differences"]["again - jpeg"]["psnr_db"]
    assert abs(gain["mean"]) < 0.1  # its own decoder's rounding
    assert psnr_db(*[decode(encoded(picture(16, 16)))] * 2) == float("inf")
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
