"""What the cost measurement measures: every step once, none twice."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from jpegs import encoded, picture
from studies.documents.tables import make_tables
from studies.speed import cost
from unjpeg import network
from unjpeg.modelfile import ModelFile
from unjpeg.network import Guidance
from unjpeg.picture import Picture
from unjpeg.restorer import Restorer
from unjpeg.tiling import Tiling

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("several", [False, True])
def test_steps_are_all_of_the_time_and_change_no_pixel(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, several: bool
) -> None:
    if several:
        monkeypatch.setattr(Tiling, "suited_to", lambda description, precision: Tiling(96, 16))
        monkeypatch.setattr(network, "SHAPED_PIXELS", 1)
    file = tmp_path / "in.jpg"
    file.write_bytes(encoded(picture(200, 300), quality=20))
    run = cost.time_restoration(file, "openvino", "full", str(tiny_model))
    assert tuple(run["seconds"]) == cost.STEPS
    assert all(seconds > 0 for step, seconds in run["seconds"].items() if step != "waiting")
    assert (run["seconds"]["waiting"] > 0) == several
    beside = {"tiles", "compile", "projection", "waiting"} if several else {"projection", "waiting"}
    alone = sum(seconds for step, seconds in run["seconds"].items() if step not in {"load", *beside})
    assert alone < run["total_seconds"]
    within = sum(run["seconds"][step] for step in cost.NETWORK)
    assert run["share_outside_network"] == pytest.approx(1 - within / run["total_seconds"])
    expected = io.BytesIO()
    Restorer(tiny_model, precision="full").begin(file).save(expected)
    with Image.open(tmp_path / "in.png") as timed, Image.open(expected) as untimed:
        assert timed.tobytes() == untimed.tobytes()


def test_halos_are_compared_by_cutting(tmp_path: Path, tiny_model: Path) -> None:
    Image.fromarray(picture(200, 300)).save(tmp_path / "photo.png")
    rows = cost.measure_halos(str(tiny_model), "full", tmp_path, [0, 32, 192])
    assert [row["halo"] for row in rows] == [0, 32, 192]
    assert rows[0]["largest"] > rows[1]["largest"] >= rows[2]["largest"]
    assert rows[0]["largest"] > 0.01 > rows[2]["largest"]
    assert 0 <= rows[0]["extra_pixels"] < rows[2]["extra_pixels"]


def test_halos_of_strong_compression_are_of_its_own_weights(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(picture(64, 64)).save(tmp_path / "photo.png")
    file = ModelFile.read(tiny_model)
    file.with_strong(file, 5).write(tmp_path / "both.unjpeg")
    asked: list[bool] = []

    class Watched(Restorer):
        def guide(self, picture: Picture) -> Guidance:
            asked.append(self.model_file.strong is None)
            return super().guide(picture)

    monkeypatch.setattr(cost, "Restorer", Watched)
    monkeypatch.setattr(cost, "HALO_QUALITIES", (5, 6))
    monkeypatch.setattr(cost, "HALO_SIDE", 320)
    cost.measure_halos(str(tmp_path / "both.unjpeg"), "full", tmp_path, [0])
    assert asked == [True, True, False, False]  # a photograph and a pattern at each


def test_an_inner_step_counts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(ModuleType):
        now = 0.0

        def perf_counter(self) -> float:
            return self.now

    clock = Clock("time")
    monkeypatch.setattr(cost, "time", clock)
    watch = cost._Stopwatch()

    def items() -> object:
        clock.now += 1
        yield "one"
        clock.now += 2
        yield "two"

    with watch.step("encode"):
        clock.now += 8
        for _ in watch.time_items("conversion", items)():  # type: ignore[arg-type]
            clock.now += 16
    assert watch.seconds == {**dict.fromkeys(cost.STEPS, 0.0), "encode": 8 + 2 * 16, "conversion": 1 + 2}


def test_the_ceiling_is_what_a_product_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_time_call", lambda call: (call(), 0.5)[1])
    rates = cost.measure_ceiling(64, 1)
    assert rates["f32"] == 64**3 / 1e9 / 0.5


def test_the_tables_show_what_was_measured(tmp_path: Path) -> None:
    (tmp_path / "live1.json").write_bytes((ROOT / "results" / "live1.json").read_bytes())
    run = {
        "megapixels": 12.0,
        "runtime": "openvino",
        "precision": "int8",
        "seconds": {step: number + 0.125 for number, step in enumerate(cost.STEPS)},
        "total_seconds": 22.0,
        "seconds_per_megapixel": 1.8,
        "share_outside_network": 0.5,
        "peak_mib": 400.0,
    }
    record = {
        "machine": {"processor": "Some Processor"},
        "model": "default",
        "ceiling": {"f32": 100.0, "bf16": 200.0, "int8": 400.0},
        "networks": {
            "default": {
                "int8": {"runtime": "openvino", "multiply_adds_g_per_second": 240.0},
                "full": {"runtime": "openvino", "multiply_adds_g_per_second": 50.0},
                "bf16": {"runtime": "openvino", "multiply_adds_g_per_second": 50.0},
            },
            "fast": {"full": {"runtime": "openvino", "multiply_adds_g_per_second": 20.0}},
        },
        "start": {"help": 0.25, "64x64": 0.75},
        "runs": [run],
        "halo": [],
    }
    (tmp_path / "cost.json").write_text(json.dumps(record))
    made = make_tables(tmp_path)
    assert "Some Processor | f32 | bf16 | int8 |" in made["ceiling"]
    assert "| product of two large matrices | 100 | 200 | 400 |" in made["ceiling"]
    assert "| `default` on a tile of 512x512 | 50 (50%) | 50 (25%) | 240 (60%) |" in made["ceiling"]
    assert "| `fast` on a tile of 512x512 | 20 (20%) |  |  |" in made["ceiling"]
    assert (
        "| 12.0 | openvino, int8 | 0.12 | 1.12 | 2.12 | 3.12 | 4.12 | 5.12 | 6.12 | 7.12 | 8.12 | 22.00 |"
        in made["steps"]
    )
    assert "| `unjpeg --help` | 0.25 |" in made["start"]
    del record["ceiling"], record["start"], run["total_seconds"]
    (tmp_path / "cost.json").write_text(json.dumps(record))
    made = make_tables(tmp_path)
    assert {made["ceiling"], made["steps"], made["start"]} == {"Not measured yet."}
