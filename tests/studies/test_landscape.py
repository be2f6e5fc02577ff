"""The plots of the documentation: what they place where, and that they can be drawn."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from studies.documents import curves, landscape
from unjpeg.errors import MeasurementError, SettingError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Of two methods, one of them a program, and a network that was timed untrained."""
    gains = {10: (1.0, 0.1), 20: (2.0, 0.2), 30: (3.0, 0.3), 40: (4.0, 0.4)}
    summary = {
        f"jpeg-{quality}": {
            "differences": {
                "default - jpeg": {"psnr_db": {"mean": ours}},
                "jpeg-quantsmooth - jpeg": {"psnr_db": {"mean": theirs}},
                "default - jpeg-quantsmooth": {"psnr_db": {"mean": ours - theirs}},
            }
        }
        for quality, (ours, theirs) in gains.items()
    }
    costs = {"default": {"multiply_adds_g": 30.0}, "jpeg-quantsmooth": {"multiply_adds_g": None}}
    (tmp_path / "live1.json").write_text(json.dumps({"summary": {"live1": summary}, "costs": costs}))
    seconds = {"default": 6.0, "jpegqs": 0.6, "fbcnn-sized": 120.0, "unknown": 1.0}
    record = {"against-6": {"megapixels": 6.0, "seconds": seconds}}
    (tmp_path / "throughput.json").write_text(json.dumps(record))
    return tmp_path


def test_methods_stand_at_their_gain_and_their_cost(results: Path) -> None:
    by_work, by_time = landscape.collect_points(results)
    work = {point.name: point for point in by_work}
    assert (work["default"].cost, work["default"].gain_db, work["default"].ours) == (30.0, 2.5, True)
    assert "jpeg-quantsmooth" not in work  # does no multiply-adds that were counted
    assert "DMCNN" not in work  # printed at two qualities only
    assert work["FBCNN"].printed
    assert work["FBCNN"].gain_db == pytest.approx((27.77 + 30.11 + 31.43 + 32.34 - 25.69 - 28.06 - 29.37 - 30.28) / 4)
    time = {point.name: point for point in by_time}
    assert time.keys() == {"default", "jpeg-quantsmooth", "FBCNN's size"}
    assert (time["jpeg-quantsmooth"].cost, time["jpeg-quantsmooth"].gain_db) == pytest.approx((0.1, 0.25))
    assert (time["FBCNN's size"].cost, time["FBCNN's size"].gain_db) == (20.0, work["FBCNN"].gain_db)


def test_the_landscape_is_drawn(results: Path) -> None:
    first, again = (landscape.draw(*landscape.collect_points(results)) for _ in range(2))
    assert first == again
    assert Image.open(io.BytesIO(first)).width > 600
    (results / "throughput.json").unlink()
    assert landscape.collect_points(results)[1] == []


def test_curves_are_collected_and_drawn(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    for name, value in (("a", 28.0), ("b", 28.5)):
        with SummaryWriter(str(tmp_path / name / "tensorboard")) as log:
            for step in (10, 20):
                for quality in (10, 20, 30, 40):
                    log.add_scalar(f"dagn/psnr_db_q{quality}", value + step / 100, step)
    curves.main([f"default={tmp_path / 'a'},{tmp_path / 'b'}"], tmp_path)
    record = json.loads((tmp_path / "learning-curves.json").read_text())
    curves.main([f"default={tmp_path / 'a'}", f"new={tmp_path / 'b'}"], tmp_path, more=True)
    both = json.loads((tmp_path / "learning-curves.json").read_text())
    assert both == {"default": [*record["default"], record["default"][0]], "new": record["default"][1:]}
    assert [part["steps"] for part in record["default"]] == [[10, 20], [10, 20]]
    assert record["default"][1]["psnr_db"]["40"] == pytest.approx([28.6, 28.7])
    assert Image.open(io.BytesIO(curves.draw(record))).width > 300
    with pytest.raises(SettingError, match="NAME=DIR"):
        curves.main(["default"], tmp_path)
    (tmp_path / "empty" / "tensorboard").mkdir(parents=True)
    with pytest.raises(MeasurementError, match="no validations"):
        curves.read_training(tmp_path / "empty")
