"""Stage-1 diagnostics: figures of networks whose answers are known."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from studies.dagn import decoupling
from studies.dagn.decoupling import ORIGINAL, Observation, Stage1, measure_probe_error, observe, prepare, summarise
from unjpeg.errors import BadImageError, TrainingError
from unjpeg.models import AutoEncoderConfig, Discriminator
from unjpeg.tiling import guide_windows
from unjpeg.train.checkpoint import Checkpoint
from unjpeg.train.config import describe_recipe
from unjpeg.train.degrade import compress_jpeg
from unjpeg.train.encoders import DecoupledEncoders
from unjpeg.train.recipes import tiny


def untrained_checkpoint(*, resize: bool = False) -> Checkpoint:
    torch.manual_seed(0)
    width = AutoEncoderConfig(1)
    tensors = {f"encoders.{name}": value for name, value in DecoupledEncoders(width).state_dict().items()}
    tensors |= {f"discriminator.{name}": value for name, value in Discriminator(width).state_dict().items()}
    config = describe_recipe(tiny(), "seed", "encoders")
    config |= {f"encoder_{name}": value for name, value in asdict(width).items()}
    config["encoders"]["resize"] = resize
    return Checkpoint(tensors, 5, config, {"training_images": 3})


@pytest.fixture(scope="module")
def stage() -> Stage1:
    return Stage1.load(untrained_checkpoint(), Path("encoders.safetensors"))


def observation(image: str, quality: int, **changed: Any) -> Observation:
    values: dict[str, Any] = {
        "image": image,
        "view": "whole",
        "quality": quality,
        "read_quality": 50.0,
        "read_class": 50,
        "original_probability": 0.25,
        "read_compressed": 50.0,
        "verdict": -1.0,
        "content_error": {"insensitive": 4.0, "sensitive": 8.0},
        "content_psnr_db": {"insensitive": 30.0, "sensitive": 28.0},
        "map_movement": {"insensitive": 0.25, "sensitive": 0.5},
        "pooled": {"insensitive": np.zeros(2, np.float32), "sensitive": np.zeros(2, np.float32)},
        **changed,
    }
    return Observation(**values)


def test_summary_by_hand() -> None:
    def pooled(place: float, sensitive: float) -> dict[str, Any]:
        return {
            "insensitive": np.array([place, 0], np.float32),
            "sensitive": np.array([place, sensitive], np.float32),
        }

    observations = [
        observation("a", ORIGINAL, verdict=2.0, read_class=100, pooled=pooled(0, 0)),
        observation("b", ORIGINAL, verdict=-1.0, read_class=99, pooled=pooled(4, 0)),
        observation("a", 10, read_quality=13.0, read_class=10, pooled=pooled(1, 2)),
        observation("b", 10, read_quality=6.0, read_class=12, verdict=1.0, pooled=pooled(4, 2)),
    ]
    figures = summarise(observations)
    at_10, original = figures["per_quality"]["10"], figures["per_quality"]["original"]
    assert at_10["quality_error"] == figures["quality_error"] == pytest.approx(3.5)
    assert at_10["class_error"] == pytest.approx(1.0)
    assert at_10["class_accuracy"] == 0.5
    assert at_10["judged_original"] == 0.5
    assert original["judged_original"] == 0.5
    assert original["read_as_original"] == 0.5
    assert figures["discriminator_accuracy"] == 0.5
    assert at_10["pooled_movement"]["insensitive"] == pytest.approx((1 + 0) / 2 / 4)
    assert at_10["pooled_movement"]["sensitive"] == pytest.approx((5**0.5 + 2) / 2 / 4)
    assert at_10["map_movement"] == {"insensitive": 0.25, "sensitive": 0.5}
    assert figures["probe_error"] == {"insensitive": None, "sensitive": None}
    json.dumps(figures)


def test_probe_reads_what_is_there_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    observations = [
        observation(
            str(number),
            quality,
            pooled={
                "insensitive": rng.normal(size=3).astype(np.float32),
                "sensitive": np.array([quality / 10, rng.normal()], np.float32),
            },
        )
        for number in range(20)
        for quality in (ORIGINAL, *range(10, 100, 10))
    ]
    sensitive, insensitive = (measure_probe_error(observations, kind) for kind in ("sensitive", "insensitive"))
    assert sensitive is not None
    assert sensitive < 1
    assert insensitive is not None
    assert insensitive > 15  # the middle of 10..90 is 22 away on average


def test_views(photo: NDArray[np.uint8], stage: Stage1) -> None:
    resizing = Stage1.load(untrained_checkpoint(resize=True), Path("encoders.safetensors"))
    scaled = prepare(photo, resizing, "training", ORIGINAL)
    assert np.array_equal(scaled, np.asarray(Image.fromarray(photo).resize((64, 64), Image.Resampling.BICUBIC)))
    assert np.array_equal(prepare(photo, resizing, "training", 10), compress_jpeg(scaled, 10))
    cut = prepare(photo, stage, "training", ORIGINAL)
    assert np.array_equal(cut, photo[18:82, 42:106])
    whole = prepare(photo, stage, "whole", ORIGINAL)
    assert whole.shape == (96, 144, 3)
    assert np.array_equal(whole, photo[2:98, 2:146])
    assert np.array_equal(prepare(photo, stage, "whole", 30), compress_jpeg(whole, 30))
    assert prepare(photo[:20], stage, "training", ORIGINAL).shape == (16, 64, 3)


def test_observations_of_a_network(photo: NDArray[np.uint8], stage: Stage1) -> None:
    observations = observe(stage, [("colour", photo), ("grey", photo[:, :, 0])], (10, 90), "training")
    assert [(o.image, o.quality) for o in observations] == [(n, q) for n in ("colour", "grey") for q in (0, 10, 90)]
    for o in observations:
        assert 1 <= o.read_quality <= 100
        assert 1 <= o.read_class <= 100
        assert o.pooled["sensitive"].shape == (32,)
        if o.quality == ORIGINAL:
            assert o.map_movement == {"insensitive": 0, "sensitive": 0}
    moved = [o.map_movement["sensitive"] for o in observations[:3]]
    assert moved[1] > moved[2] > 0
    with torch.no_grad():
        image = torch.from_numpy(photo[18:82, 42:106].copy()).permute(2, 0, 1)[None] / 255
        reconstructed = stage.encoders(image)[1]
    assert observations[0].content_error["insensitive"] == pytest.approx(
        float((reconstructed - image).abs().mean() * 255), rel=1e-4
    )


def test_windows_are_averaged(photo: NDArray[np.uint8], stage: Stage1) -> None:
    picture = np.ascontiguousarray(np.tile(photo, (2, 2, 1))[:128, :160])
    (original, compressed) = observe(stage, [("tiled", picture)], (10,), "windows")
    with torch.no_grad():
        encoder = stage.auto_encoder("sensitive").encoder
        windows = torch.from_numpy(np.stack(list(guide_windows(picture, stage.patch)))).permute(0, 3, 1, 2) / 255
        expected = torch.stack([encoder(window[None]).mean((0, 2, 3)) for window in windows]).mean(0)
    assert len(windows) == 6
    np.testing.assert_allclose(original.pooled["sensitive"], expected.numpy(), rtol=1e-4, atol=1e-6)
    assert compressed.map_movement["sensitive"] > 0
    small = observe(stage, [("of one window", photo[:64, :64])], (10,), "windows")
    whole = observe(stage, [("of one window", photo[:64, :64])], (10,), "whole")
    assert [o.read_quality for o in small] == pytest.approx([o.read_quality for o in whole])


def test_other_stages_and_tiny_pictures_are_refused(stage: Stage1) -> None:
    with pytest.raises(TrainingError, match=r"^runs/dagn\.safetensors: not a stage-1 checkpoint"):
        Stage1.load(Checkpoint({}, 0, {"dagn": {}}, {}), Path("runs/dagn.safetensors"))
    with pytest.raises(TrainingError, match="smaller than 16"):
        observe(stage, [("dot", np.zeros((8, 40, 3), np.uint8))], (10,), "whole")


def test_a_picture_to_show_that_is_none_is_said_before_anything_is_measured(
    tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("came too far")

    monkeypatch.setattr(decoupling, "observe", never)
    untrained_checkpoint().save(tmp_path / "encoders.safetensors")
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    with pytest.raises(BadImageError, match=r"notes\.txt: is no picture"):
        decoupling.main(
            tmp_path / "encoders.safetensors", str(image_folder), picture=[image_folder / "picture-0.png", text]
        )


@pytest.mark.slow
def test_command(tmp_path: Path, image_folder: Path, child_environment: dict[str, str]) -> None:
    pytest.importorskip("matplotlib")
    untrained_checkpoint().save(tmp_path / "encoders.safetensors")
    arguments = ["--data", image_folder, "--quality", "10", "--quality", "50", "--out", tmp_path / "results"]
    arguments += ["--plots", tmp_path / "plots", "--picture", image_folder / "picture-0.png"]
    command = [sys.executable, "-m", "studies.dagn.decoupling", tmp_path / "encoders.safetensors", *arguments]
    environment = {**child_environment, "MPLBACKEND": "Agg"}
    ran = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    record = json.loads((tmp_path / "results" / "stage1.json").read_text())
    assert set(record["views"]) == {"training", "whole", "windows"}
    assert record["checkpoint"]["step"] == 5
    assert record["pictures"]["count"] == 6
    assert all(set(view["per_quality"]) == {"10", "50", "original"} for view in record["views"].values())
    assert {"commit", "machine"} <= record.keys()
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        "stage1-discriminator.png",
        "stage1-features-picture-0.png",
        "stage1-movement.png",
        "stage1-quality-error.png",
        "stage1-reconstruction.png",
    ]
