"""What machines make of restored pictures: contours, text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat
from typer.testing import CliRunner

from conftest import synthetic_photo

pytest.importorskip("skimage")

from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from studies.downstream.contours import THRESHOLDS, Contours, _match, count_contours, measure_contours
from studies.downstream.measure import app
from studies.downstream.reading import Reading, render_page
from studies.downstream.task import Task, choose_pictures, measure_task
from unjpeg.errors import BadImageError, MeasurementError, SettingError, TrainingDataError
from unjpeg.evaluate.method import Method
from unjpeg.evaluate.methods import Decoder
from unjpeg.evaluate.pairs import Degradation, Pixels8, decode

# --- contours -----------------------------------------------------------------------------------------------------


def square(side: int = 64) -> tuple[Pixels8, NDArray[np.bool_]]:
    """A bright square on a dark ground, and its outline."""
    pixels = np.full((side, side), 60, np.uint8)
    pixels[side // 4 : -side // 4, side // 4 : -side // 4] = 200
    inside = pixels > 100
    smaller = np.zeros_like(inside)
    smaller[side // 4 + 1 : -side // 4 - 1, side // 4 + 1 : -side // 4 - 1] = True
    return pixels, inside & ~smaller


def test_contours_are_thin_and_where_the_edges_are() -> None:
    pixels, outline = square()
    strength = measure_contours(pixels)
    strong = strength > THRESHOLDS[5]
    assert 0.8 * outline.sum() < strong.sum() < 1.3 * outline.sum()
    for y, x in np.argwhere(strong):
        assert outline[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].any()
    # A step of 140 levels through a Gaussian of sigma 2 rises by 140 / (2 sqrt(2 pi)) a pixel.
    assert strength.max() == pytest.approx(140 / (2 * np.sqrt(2 * np.pi)), rel=0.05)
    assert np.allclose(measure_contours(np.dstack([pixels] * 3)), strength)
    assert not measure_contours(np.full((20, 20), 7, np.uint8)).any()


def test_a_found_pixel_matches_one_drawn_pixel() -> None:
    """Two found lines beside one drawn: half of the found pixels are right, all of the drawn are found."""
    strength = np.zeros((100, 100))
    strength[20:80, 50] = strength[20:80, 51] = 10
    drawn = np.zeros((100, 100), bool)
    drawn[20:80, 50] = True
    counts = count_contours(strength, [drawn])
    below = THRESHOLDS <= 10
    assert (counts.found[below] == 120).all()
    assert (counts.right[below] == 60).all()
    assert (counts.drawn_found[below] == 60).all()
    assert not counts.found[~below].any()
    far = np.roll(drawn, 3, axis=1)  # 0.0075 of the diagonal is 1.06 pixels
    assert not count_contours(strength, [far]).right.any()
    # Right for one person is right; drawn pixels are asked for of all of them.
    both = count_contours(strength, [drawn, far])
    assert (both.right[below] == 60).all()
    assert (both.drawn_found[below] == 60).all()
    assert both.drawn == 120


@pytest.mark.parametrize("density", [0.0, 0.02, 0.2])
def test_a_largest_matching(density: float) -> None:
    """As large as scipy's, of rows that can be matched all together."""
    for seed in range(20):
        pairs = csr_array((np.random.default_rng(seed).random((30, 20)) < density).astype(np.int8))
        matched = _match(pairs)
        largest = (maximum_bipartite_matching(pairs, perm_type="column") >= 0).sum()
        assert matched.sum() == largest == (maximum_bipartite_matching(pairs[matched], perm_type="column") >= 0).sum()


def test_one_threshold_for_all_is_no_better_than_one_for_each() -> None:
    rng = np.random.default_rng(0)
    outline = np.zeros((60, 60), bool)
    outline[10:50, 30] = True
    results = []
    for level in (4, 16):  # contours of very different strength, with noise below them
        strength = rng.uniform(0, level * 0.6, (60, 60)) * (rng.random((60, 60)) < 0.2)
        strength[outline] = level
        results.append(count_contours(strength, [outline]))
    task = Contours(Path(), Path())
    both = task.summarise(results)
    assert 0.5 < both["ods"] < both["ois"] <= 1
    assert task.summarise(results[:1])["ods"] == task.summarise(results[:1])["ois"]
    perfect = task.summarise([count_contours(np.where(outline, 10.0, 0), [outline])])
    assert perfect == {"ods": 1, "ois": 1}


def test_contours_are_drawn_over_the_picture() -> None:
    pixels, outline = square()
    task = Contours(Path(), Path())
    for drawn, least in ((task.draw(pixels), 0.8), (task.draw_truth(pixels, [outline, np.zeros_like(outline)]), 0)):
        shown = np.asarray(drawn, int)
        yellow = shown[..., 0] - shown[..., 2] > 40  # the picture itself is grey
        assert yellow[outline].mean() >= (least or 1)
        assert yellow.mean() < 0.2
    alone = np.asarray(task.draw_truth(pixels, [outline]), int)
    assert (alone[outline] == (255, 210, 40)).all()
    assert (shown[outline][:, 0] < 255).all()  # of two people only one has drawn it


def test_the_berkeley_files_are_read(tmp_path: Path) -> None:
    pixels, outline = square()
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "7.png")
    cell = np.empty((1, 2), object)
    for person in range(2):
        cell[0, person] = {"Boundaries": outline.astype(np.uint8), "Segmentation": outline.astype(np.uint16)}
    savemat(tmp_path / "7.mat", {"groundTruth": cell})
    arguments = ["contours", "--data", tmp_path / "images", "--boundaries", tmp_path, "--out", tmp_path / "out"]
    arguments += ["--work", tmp_path / "work"]
    result = CliRunner().invoke(app, [*map(str, arguments), "--method", "jpeg", "--quality", "5"])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "downstream-contours.json").read_text())
    assert record["pictures"] == 1
    assert record["summary"]["original"]["original"]["ods"] > 0.6
    with Image.open(tmp_path / "work" / "contours.png") as sheet:
        assert sheet.width >= 3 * 64  # what is right, the original, the file
    unknown = CliRunner().invoke(app, [*map(str, arguments), "--method", "jpeg", "--show", "8.png"])
    assert isinstance(unknown.exception, SettingError)
    assert "--show 8.png: there is no such picture among 7.png" in str(unknown.exception)
    task = Contours(tmp_path / "images", tmp_path)
    counts = task.examine(*task.load("7.png"))
    again = task.from_json(json.loads(json.dumps(task.to_json(counts))))
    assert task.summarise([again]) == task.summarise([counts]) == record["summary"]["original"]["original"]
    with pytest.raises(TrainingDataError, match=r"7\.mat"):
        Contours(tmp_path / "images", tmp_path / "images").load("7.png")
    (tmp_path / "images" / "7.mat").write_bytes(b"no matrix")
    with pytest.raises(TrainingDataError, match=r"7\.mat: no boundaries as BSDS500 has them"):
        Contours(tmp_path / "images", tmp_path / "images").load("7.png")


# --- text ---------------------------------------------------------------------------------------------------------


def test_pages_are_the_same_every_time_and_hold_what_they_say() -> None:
    for number in (0, 1, 2):
        pixels, written = render_page(number)
        again, _ = render_page(number)
        assert np.array_equal(pixels, again)
        assert len(written) > 300
        assert "  " not in written
        ink = (pixels != pixels[0, 0]).any(axis=2)
        assert 0.03 < ink.mean() < 0.4
        assert not ink[:10].any()
        assert not ink[:, :10].any()
    assert render_page(0)[1] != render_page(3)[1]


@pytest.mark.skipif(shutil.which("tesseract") is None, reason="tesseract is not installed")
def test_tesseract_reads_worse_what_is_compressed_hard() -> None:
    task = Reading()
    pixels, written = render_page(0)
    edits, characters = task.examine(pixels, written)
    assert characters == len(written)
    assert edits / characters < 0.1
    ruined = decode(Degradation("jpeg", 1).apply(pixels).file)
    assert task.examine(ruined, written)[0] > edits


@pytest.mark.skipif(shutil.which("tesseract") is None, reason="tesseract is not installed")
def test_what_was_read_is_drawn_below_the_page() -> None:
    task = Reading()
    pixels, written = render_page(0)
    for drawn in (task.draw(pixels), task.draw_truth(pixels, written)):
        shown = np.asarray(drawn)
        assert np.array_equal(shown[: pixels.shape[0], : pixels.shape[1]], pixels)
        assert shown.shape[0] > pixels.shape[0] + 3 * 15
        below = (shown[pixels.shape[0] :] < 128).mean()
        assert below > 0.02
    assert abs(task.draw(pixels).height - task.draw_truth(pixels, written).height) <= 2 * 17
    blank = task.draw(np.full_like(pixels, 255))
    assert not (np.asarray(blank)[pixels.shape[0] :] < 128).any()


def test_error_rates_are_of_all_characters_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studies.downstream.reading.shutil.which", lambda _: "/bin/false")
    task = Reading()
    assert task.summarise([(1, 10), (3, 30), (0, 60)]) == {"character_error_rate": 0.04}
    with pytest.raises(MeasurementError, match="tesseract failed"):
        task.examine(np.zeros((4, 4, 3), np.uint8), "x")
    monkeypatch.setattr("studies.downstream.reading.shutil.which", lambda _: None)
    with pytest.raises(MeasurementError, match="text: not installed"):
        Reading()


# --- any task -----------------------------------------------------------------------------------------------------


class Brightness(Task[float, float]):
    """How bright pictures are, against the truth; number 3 cannot be read."""

    name: ClassVar = "brightness"
    figures: ClassVar = ("off",)
    resamples: ClassVar = 200
    identity = "brightness"

    def __init__(self, fails_at: int | None = None) -> None:
        self.examined, self._fails_at = 0, fails_at

    def list_names(self) -> Sequence[str]:
        return [f"{seed}" for seed in range(6)]

    def load(self, name: str) -> tuple[Pixels8, float]:
        if name == "3":
            raise BadImageError("3.png: cannot be read")
        pixels = synthetic_photo(32, 32, int(name))
        return pixels, float(pixels.mean())

    def examine(self, pixels: Pixels8, truth: float) -> float:
        if self.examined == self._fails_at:
            raise KeyboardInterrupt
        self.examined += 1
        return abs(float(pixels.mean()) - truth)

    def summarise(self, results: Sequence[float]) -> dict[str, float]:
        return {"off": float(np.mean(results))}

    def to_json(self, result: float) -> Any:
        return result

    def from_json(self, stored: Any) -> float:
        return float(stored)


class Darker(Method):
    name = spec = identity = "darker"

    def restore(self, file: bytes) -> Pixels8:
        return decode(file) // 2


WHAT = ([Degradation("jpeg", 10)], [Decoder(), Darker()])


def test_a_task_is_measured_on_originals_files_and_results(tmp_path: Path) -> None:
    said: list[str] = []
    record = measure_task(Brightness(), *WHAT, tmp_path / "a", limit=5, say=said.append)
    assert record["pictures"] == 4
    assert said == ["3: left out: 3.png: cannot be read"]
    assert record["errors"] == [{"image": "3", "error": "3.png: cannot be read"}]
    assert record["summary"]["original"]["original"] == {"off": 0}
    at_10 = record["summary"]["jpeg-10"]
    assert list(at_10) == ["jpeg", "darker"]
    assert at_10["jpeg"]["off"] < 2
    assert "gains" not in at_10["jpeg"]
    gain = at_10["darker"]["gains"]["off"]
    assert gain["mean"] == pytest.approx(at_10["darker"]["off"] - at_10["jpeg"]["off"])
    assert 30 < gain["low"] < gain["mean"] < gain["high"] < 90
    each = [row["off"] for row in record["rows"] if row["method"] == "darker"]
    assert len(each) == 4
    assert np.mean(each) == pytest.approx(at_10["darker"]["off"])
    assert measure_task(Brightness(), *WHAT, tmp_path / "b", limit=5) == record
    with pytest.raises(MeasurementError, match=r"nothing could be measured; the first reason: 3\.png"):
        measure_task(OnlyTheBroken(), *WHAT, tmp_path / "c")


class OnlyTheBroken(Brightness):
    def list_names(self) -> Sequence[str]:
        return ["3"]


def test_an_interrupted_task_goes_on(tmp_path: Path) -> None:
    whole = measure_task(Brightness(), *WHAT, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        measure_task(Brightness(fails_at=7), *WHAT, tmp_path / "cut")
    with (tmp_path / "cut").open("a") as journal:
        journal.write('{"key": ["half a')  # a kill in the middle of a line
    again = Brightness()
    assert measure_task(again, *WHAT, tmp_path / "cut") == whole
    assert again.examined == 5 * 3 - 7
    assert measure_task(again, *WHAT, tmp_path / "cut") == whole
    assert again.examined == 5 * 3 - 7


def test_pictures_to_look_at_are_chosen_by_rule() -> None:
    gains = {"a": 0.1, "b": -0.3, "c": 0.5, "d": 0.2, "e": 0.0}
    rows = [
        {"image": image, "degradation": "jpeg-10", "method": method, "map": 0.4 + gain * (method == "default")}
        for method in ("jpeg", "default")
        for image, gain in gains.items()
    ]
    assert choose_pictures({"rows": rows}, "map", "jpeg-10") == ["c", "a", "b"]
    assert len(choose_pictures({"rows": rows[:5]}, "map", "jpeg-10")) == 3  # one method alone


@pytest.mark.parametrize("method", ["printed:QGAC", "no-such-thing"])
def test_methods_that_cannot_take_part_are_refused(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["contours", "--method", method, "--data", str(tmp_path)])
    assert isinstance(result.exception, SettingError)
