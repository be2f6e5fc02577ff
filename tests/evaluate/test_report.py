"""What a benchmark shows: costs, sheets of pictures, plots, and the report that holds them."""

from __future__ import annotations

import base64
import copy
import io
import re
import time
from collections.abc import Sequence
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

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unjpeg.cli import app
from unjpeg.errors import MeasurementError
from unjpeg.evaluate import plots
from unjpeg.evaluate.benchmark import run
from unjpeg.evaluate.method import Complexity, Method
from unjpeg.evaluate.methods import Command, Decoder, Printed
from unjpeg.evaluate.pairs import Degradation, Pixels8, TestSet, decode
from unjpeg.evaluate.report import (
    Section,
    Table,
    make_sections,
    tabulate_costs,
    tabulate_differences,
    tabulate_metrics,
    write_report,
)
from unjpeg.evaluate.results import load_results
from unjpeg.evaluate.sheets import (
    PAGE,
    RESIDUAL_WIDTH,
    ZOOM,
    Panel,
    draw_before_after,
    draw_crops,
    draw_residuals,
    find_most_changed,
    map_residuals,
    set_side_by_side,
    shorten,
)
from unjpeg.evaluate.timing import measure_costs, measure_peak_mib


class Sleeper(Method):
    """Does what the decoder does, later; worse by one level."""

    def __init__(self, name: str, seconds: float, log: list[str]) -> None:
        self.name = self.identity = self.spec = name
        self._seconds, self._log = seconds, log

    def restore(self, file: bytes) -> Pixels8:
        self._log.append(self.name)
        time.sleep(self._seconds)
        return np.maximum(decode(file), 1) - np.uint8(1)

    def count_complexity(self) -> Complexity:
        return Complexity(1.5, 20)


# --- costs --------------------------------------------------------------------------------------------------------


def test_methods_take_turns_and_the_first_round_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    clock = iter(range(1000))
    monkeypatch.setattr("unjpeg.evaluate.timing.time.perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr("unjpeg.evaluate.timing.measure_peak_mib", lambda *_: 12.5)
    files = [encoded(picture(100, 100)), encoded(picture(50, 100))]
    turns: list[float] = []
    found = measure_costs([Sleeper("a", 0, log), Sleeper("b", 0, log)], files, rounds=2, progress=turns.append)
    assert turns == [0.5, 1, 1.5, 2, 2.5, 3]
    assert log == ["a", "b", "a", "b", "b", "a", "b", "a", "a", "b", "a", "b"]
    # Each call takes one tick of the clock: 1 / 0.01 and 1 / 0.005 megapixels, twice each.
    assert found["a"].seconds_per_megapixel == found["b"].seconds_per_megapixel == 150
    assert (found["a"].peak_mib, found["a"].parameters_m, found["a"].multiply_adds_g) == (12.5, 1.5, 20)


@pytest.mark.slow
def test_peak_memory_is_the_method_s_own(tiny_model: Path) -> None:
    file = encoded(picture(32, 32))
    grabbing = "python3 -c 'x = bytearray({size} << 20); x[::4096] = b\"1\" * len(x[::4096])'; cp {{input}} {{output}}"
    small, large = (measure_peak_mib(Command("grab", grabbing.format(size=size)), file) for size in (1, 200))
    assert small is not None
    assert large is not None
    assert small < 60
    assert 190 < large - small < 215
    decoder = measure_peak_mib(Decoder(), file)
    assert decoder is not None
    assert decoder > 20
    log: list[str] = []
    assert measure_peak_mib(Sleeper("unknown to others", 0, log), file) is None


@pytest.mark.parametrize("codec", ["jpeg", "webp", "avif"])
def test_peak_memory_is_of_a_file_with_its_own_suffix(codec: str) -> None:
    file = Degradation(codec, 50).apply(picture(32, 32)).file
    suffix = "jpg" if codec == "jpeg" else codec
    picky = Command("picky", f"case {{input}} in *.{suffix}) cp {{input}} {{output}} ;; *) exit 1 ;; esac")
    assert measure_peak_mib(picky, file) is not None
    assert measure_peak_mib(Command("broken", "false {input} {output}"), file) is None


def test_small_costs_are_no_zeros() -> None:
    cost = {"peak_mib": None, "parameters_m": None, "multiply_adds_g": None}
    record = {"costs": {name: {"seconds_per_megapixel": s, **cost} for name, s in (("a", 0.00498), ("b", 1.234))}}
    assert [row[1] for row in tabulate_costs(record).rows] == ["0.005", "1.23"]


# --- sheets -------------------------------------------------------------------------------------------------------


def test_residual_map_is_the_logarithm_of_fig_1() -> None:
    original = np.zeros((1, 4), np.uint8)
    restored = np.array([[0, 3, 15, 200]], np.uint8)
    by_hand = [0, np.log(4) / np.log(16) * 255, 255, 255]
    np.testing.assert_allclose(map_residuals(restored, original, 15)[0], by_hand, atol=0.5)
    np.testing.assert_array_equal(map_residuals(original, restored, 15), map_residuals(restored, original, 15))
    assert not map_residuals(original, original, 0).any()
    one, other = (np.repeat(pixels[..., None], 3, axis=2) for pixels in (restored, original))
    np.testing.assert_array_equal(map_residuals(one, other, 15), map_residuals(restored, original, 15))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_window_that_changed_most_is_found(channels: int) -> None:
    original = np.full((64, 80, 3), 100, np.uint8)
    changed = original.copy()
    changed[42, 61] = 0
    if channels == 1:
        original, changed = original[..., 0], changed[..., 0]
    top, left = find_most_changed(original, changed, 16)
    assert (top % 8, left % 8) == (0, 0)
    assert top <= 42 < top + 16
    assert left <= 61 < left + 16
    assert find_most_changed(original, original, 200) == (0, 0)


def test_details_are_enlarged_where_the_damage_is() -> None:
    original = np.full((120, 160, 3), 100, np.uint8)
    damaged = original.copy()
    damaged[84:92, 124:132] = (200, 0, 0)
    sheet = np.asarray(draw_crops(original, {"JPEG": damaged, "ours": original}, 16))
    red = (sheet == (200, 0, 0)).all(axis=2)
    assert red.sum() == 64 + 64 * ZOOM**2  # in its surroundings, and enlarged; the frame is another red
    framed = (sheet == (255, 40, 40)).all(axis=2)
    assert framed.sum() == 3 * 4 * 15  # one for each version
    grey = draw_crops(original[..., 0], {"JPEG": damaged[..., 0]}, 200)  # a picture smaller than the detail
    assert grey.height > 120


def test_residuals_are_brightest_where_the_error_is() -> None:
    original = synthetic_photo(64, 200, 0)
    sheet = np.asarray(draw_residuals(original, {"JPEG": decoded(encoded(original, quality=5)), "same": original}))
    assert sheet[:64, :200].mean() > 40
    assert sheet[:64, 206:406].max() < 5


def test_residuals_have_a_scale() -> None:
    """From black over the brightest error's colour, below the maps, with its figures in black on white."""
    original = np.full((16, 16), 100, np.uint8)
    sheet = np.asarray(draw_residuals(original, {"JPEG": original + np.uint8(31)}))
    ramp = sheet[-34, :RESIDUAL_WIDTH].astype(int).sum(axis=1)
    assert ramp[0] < 20
    assert ramp[-1] > 600
    assert (np.diff(ramp) >= -3).all()
    assert (sheet[-18:, :RESIDUAL_WIDTH] == 0).any()


def test_lines_below_pictures_are_wrapped() -> None:
    long = set_side_by_side([Panel(("a method of a very long name " * 5,), Image.new("L", (300, 10)))])
    assert long.width <= 302
    assert long.height > 10 + 3 * 17


def test_long_names_keep_their_ends() -> None:
    assert shorten("default", 10) == "default"
    assert shorten("runs/compared/arcnn.safetensors", 20) == "runs/comp...etensors"
    assert len(shorten("x" * 100, 20)) == 20


def test_long_rows_are_wrapped() -> None:
    panels = [Panel((f"{number}",), Image.new("L", (700, 10), number * 50)) for number in range(3)]
    sheet = np.asarray(set_side_by_side(panels))
    assert sheet.shape[1] == 2 * 700 + 6
    assert [sheet[5, x, 0] for x in (0, 710)] == [0, 50]
    assert (sheet[:, 3] == 100).any()  # the third one stands below


def test_before_and_after_stand_in_rows() -> None:
    pictures = [(f"{i}.jpg", synthetic_photo(64, 64, i), synthetic_photo(64, 64, i + 1)) for i in range(2)]
    one, two = draw_before_after(pictures[:1], 16), draw_before_after(pictures, 16)
    assert two.height == one.height  # there is room beside the first
    assert two.width > 2 * one.width
    many = draw_before_after(pictures * 20, 16)
    assert many.width <= PAGE
    assert many.height > 2 * one.height


@pytest.mark.parametrize("text", ["many words " * 200, "x" * 5000])
def test_lines_are_wrapped_whatever_they_hold(text: str) -> None:
    sheet = set_side_by_side([Panel((text,), Image.new("RGB", (60, 40), "white"))])
    assert sheet.width <= PAGE
    assert sheet.height > 100
    assert (np.asarray(sheet)[-20:] < 100).any()  # its last line is there, too


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
    assert len(tabulate_metrics(record, "live1").rows) == 4  # a part of the set is nothing to compare printed rows with
    monkeypatch.setattr("unjpeg.evaluate.report.data_set", lambda _: SimpleNamespace(count=4))
    table = tabulate_metrics(record, "live1")
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
    assert tabulate_costs(record).rows == (("jpeg", "0.01", "", "", ""), ("later", "0.50", "", "1.50", "20.0"))
    assert Table(("a", "b"), (("x", "1"),)).to_markdown() == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_the_report_is_one_file_that_holds_everything(
    finished: tuple[dict[str, Any], list[Any]], tmp_path: Path
) -> None:
    record, what = finished
    real = tmp_path / "real <b>"
    real.mkdir()
    (real / "a.jpg").write_bytes(encoded(synthetic_photo(40, 40, 5), quality=10))
    (real / "broken.jpg").write_bytes(b"\xff\xd8")
    made = list(make_sections(record, *what, show=["3"], real=[real], side=16))
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
    assert shown == [section.content.size for section in made if isinstance(section.content, Image.Image)]
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "real &lt;b&gt;" in page
    assert "What is printed is of whole sets, and left out." in page


def test_every_method_stands_against_every_other(live1: Path, tmp_path: Path) -> None:
    methods = [Decoder(), Sleeper("later", 0, []), Sleeper("even later", 0, [])]
    record = run([TestSet.parse(str(live1))], [Degradation("jpeg", 10)], methods, ["psnr_db"], tmp_path)
    table = tabulate_differences(record, "live1")
    assert table.header == ("psnr_db", "jpeg-10")
    first, second, third = table.rows
    assert (first[0], second[0]) == ("later - jpeg", "even later - jpeg")
    assert first[1] == second[1]
    assert first[1].startswith("-0.")
    assert third == ("even later - later", "+0.00 (+0.00 .. +0.00)")


def test_groups_of_rows_are_named_once(finished: tuple[dict[str, Any], list[Any]], tmp_path: Path) -> None:
    record, _ = finished
    table = tabulate_metrics(record, "live1")
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
    made = {section.text: section.title for section in make_sections(record, *what, side=16)}
    for (gain, image), which in ((gains[-1], "most"), (gains[2], "the median"), (gains[0], "least")):
        assert made[f"Where later gains {which}: {gain:+.2f} in psnr_db."] == f"live1, {image}, jpeg-10"


def test_a_folder_in_which_nothing_can_be_restored_costs_itself_only(
    finished: tuple[dict[str, Any], list[Any]], tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8")
    record, what = finished
    said: list[str] = []
    made = list(make_sections(record, *what, real=[tmp_path], side=16, say=said.append))
    assert made[-1].text.startswith("None of its pictures can be restored. Left out: broken.jpg (")
    assert [line.split(": ")[0] for line in said] == [str(tmp_path / "broken.jpg")]
    write_report(made, record, tmp_path / "out")
    assert "None of its pictures" in (tmp_path / "out" / "report.html").read_text()


def test_a_method_that_fails_on_a_shown_picture_costs_itself_only(
    finished: tuple[dict[str, Any], list[Any]], tmp_path: Path
) -> None:
    class Gone(Decoder):
        def restore(self, file: bytes) -> Pixels8:
            raise MeasurementError("gone by now")

    record, (sets, degradations, methods) = finished
    gone, said = Gone(), list[str]()
    gone.name = methods[1].name
    made = list(make_sections(record, sets, degradations, [methods[0], gone], side=16, say=said.append))
    shown = [section for section in made if section.title.endswith("jpeg-10")]
    assert shown
    assert all(section.text.endswith("Left out: later (gone by now).") for section in shown)
    assert len(said) == len(shown)
    assert said[0].endswith("later: cannot be shown: gone by now")


def test_a_picture_that_has_gone_costs_itself_only(tmp_path: Path) -> None:
    for number in range(2):
        Image.fromarray(synthetic_photo(32, 32, number)).save(tmp_path / f"{number}.png")
    sets, degradations, methods = [TestSet.parse(str(tmp_path))], [Degradation("jpeg", 10)], [Decoder()]
    record = run(sets, degradations, methods, ["psnr_db"], tmp_path / "out")
    (tmp_path / "0.png").write_bytes(b"")
    said: list[str] = []
    made = list(make_sections(record, sets, degradations, methods, show=["0", "1"], side=16, say=said.append))
    assert [(s.title.split(", ")[1], s.content is None) for s in made[1:]] == [
        ("0.png", True),
        ("1.png", False),
        ("1.png", False),
    ]
    assert len(said) == 1
    assert "0.png, jpeg-10: cannot be shown: " in said[0]


def test_means_are_of_as_many_pictures_as_there_are(finished: tuple[dict[str, Any], list[Any]]) -> None:
    record, what = finished
    assert next(make_sections(record, *what)).text.startswith("Means over 4 pictures.")
    at_10, at_40 = record["summary"]["live1"].values()
    other = {**record, "summary": {"live1": {"jpeg-10": at_10 | {"pictures": 1}, "jpeg-40": at_40}}}
    assert next(make_sections(other, *what)).text.startswith("Means over 1 to 4 pictures.")
    other["summary"]["live1"]["jpeg-40"] = at_40 | {"pictures": 1}
    assert next(make_sections(other, *what)).text.startswith("Means over 1 picture.")


def test_only_details_are_shown_pixel_by_pixel(finished: tuple[dict[str, Any], list[Any]], tmp_path: Path) -> None:
    record, what = finished
    made = list(make_sections(record, *what, side=16))
    write_report(made, record, tmp_path)
    page = (tmp_path / "report.html").read_text()
    details = sum(section.title.endswith("jpeg-10") for section in made)
    assert page.count("<img class=pixels ") == details > 0
    assert page.count("<img ") > 2 * details
    assert page.count("image-rendering") == 1


def test_figures_that_are_not_finite_can_be_shown(finished: tuple[dict[str, Any], list[Any]], tmp_path: Path) -> None:
    """As after reading a result file: null for each."""
    record, what = finished
    record = copy.deepcopy(record)
    at_10 = record["summary"]["live1"]["jpeg-10"]
    at_10["methods"]["later"]["psnr_db"] = dict.fromkeys(("mean", "low", "high"))
    at_10["differences"]["later - jpeg"]["psnr_db"] |= dict.fromkeys(("mean", "low", "high"))
    for row in record["rows"]:
        if row["degradation"] == "jpeg-10":
            row["psnr_db"] = None
    table = tabulate_metrics(record, "live1")
    assert (table.rows[1][2], table.rows[1][-2]) == ("inf", "not finite")
    made = list(make_sections(record, *what, side=16))
    assert [section.text for section in made if section.title.endswith("jpeg-10")] == ["The first picture."]
    write_report(made, record, tmp_path)


# --- plots --------------------------------------------------------------------------------------------------------


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """What is drawn, before it becomes an image."""
    drawn: list[Figure] = []

    def image(figure: Figure) -> Image.Image:
        drawn.append(figure)
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(plots, "_render", image)
    return drawn


def mixed(names: Sequence[str], method: str = "ours") -> dict[str, Any]:
    """A result over several families of degradations."""
    mean = {"mean": 30.0, "low": 29.0, "high": 31.0}
    summary = {
        name: {
            "bits_per_pixel": 0.1 * number,
            "methods": {"jpeg": {"psnr_db": mean}, method: {"psnr_db": mean}},
            "differences": {f"{method} - jpeg": {"psnr_db": mean}},
        }
        for number, name in enumerate(names, 1)
    }
    return {"methods": dict.fromkeys(("jpeg", method)), "printed": {}, "summary": {"mine": summary}}


def test_points_are_joined_that_differ_in_quality_alone(figures: list[Figure]) -> None:
    names = ["jpeg-10", "webp-20", "jpeg-30", "avif-30", "webp-50", "jpeg-10-4:4:4", "jpeg-90-after-20", "given"]
    record = mixed(names)
    plots.plot_rate_quality(record, "mine", "psnr_db")
    plots.plot_gain_against_rate(record, "mine", "psnr_db")
    for figure, methods in zip(figures, (2, 1), strict=True):
        lines = [np.asarray(line.get_xdata()) for line in figure.axes[0].lines if line.get_marker() != "None"]
        assert sorted(len(line) for line in lines) == sorted([2, 2, 1, 1, 1, 1] * methods)
        rates = [0.1, 0.3]  # of JPEG at 10 and 30
        assert any(np.allclose(line, rates) for line in lines if len(line) == 2)
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert labels[-6:] == ["jpeg", "webp", "avif", "jpeg-4:4:4", "jpeg-after-20", "given"]


def test_legends_cover_nothing_and_long_names_fit(
    figures: list[Figure],
) -> None:
    name = "runs/a/very/long/path/to/a/model/that/nobody/would/type.unjpeg@off@tta"
    record = mixed(["jpeg-10", "jpeg-20"], name)
    record["costs"] = {"jpeg": {"seconds_per_megapixel": 0.01}, name: {"seconds_per_megapixel": 1}}
    record["rows"] = [
        {"set": "mine", "degradation": "jpeg-10", "image": "a", "method": method, "psnr_db": 30.0}
        for method in ("jpeg", name)
    ]
    plots.plot_rate_quality(record, "mine", "psnr_db")
    plots.plot_gain_against_rate(record, "mine", "psnr_db")
    plots.plot_gain_against_time(record, "mine", "jpeg-10", "psnr_db")
    plots.plot_every_picture(record, "mine", "jpeg-10", "psnr_db", [name], "jpeg")
    assert len(figures) == 4
    for figure in figures:
        FigureCanvasAgg(figure).draw()  # type: ignore[no-untyped-call]
        (legend,) = figure.legends
        assert legend.get_window_extent().y1 <= figure.axes[0].get_tightbbox().y0 + 1  # type: ignore[union-attr]
        assert legend.get_window_extent().x0 >= 0
        assert legend.get_window_extent().x1 <= figure.bbox.width
        assert figure.axes[0].get_window_extent().height > 150


def test_long_titles_are_wrapped(figures: list[Figure]) -> None:
    record = mixed(["jpeg-10", "jpeg-20"])
    record["summary"] = {"a set " * 20: record["summary"]["mine"]}
    plots.plot_rate_quality(record, "a set " * 20, "psnr_db")
    FigureCanvasAgg(figures[0]).draw()  # type: ignore[no-untyped-call]
    title = figures[0].axes[0].title.get_window_extent()
    assert title.x0 >= 0
    assert title.x1 <= figures[0].bbox.width


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
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
