"""Stage 1 on noise: what stands for a quality, and that JPEG's own loop trains and resumes on it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.dagn import noise
from studies.dagn.noise import NoiseDegradation, add_noise, make_noisy
from unjpeg.errors import OtherTrainingError
from unjpeg.train.degrade import JpegDegradation
from unjpeg.train.encoders import train_encoders
from unjpeg.train.pipeline import make_fabric, make_recipe, open_images
from unjpeg.train.recipes import small_reading

GREY = np.full((128, 128, 3), 128, np.uint8)


@given(st.integers(30, 99))
def test_a_quality_stands_for_its_noise(quality: int) -> None:
    noisy = add_noise(GREY, quality)
    assert noisy.dtype == np.uint8
    difference = noisy.astype(float) - 128
    expected = ((100 - quality) ** 2 / 4 + 1 / 12) ** 0.5  # whole levels
    assert difference.std() == pytest.approx(expected, rel=0.05)
    assert abs(difference.mean()) < 4 * expected / GREY.size**0.5
    assert np.array_equal(noisy, add_noise(GREY, quality))


def test_noise_hangs_on_the_picture() -> None:
    """Else features of two pictures would move alike."""
    other = GREY + np.uint8(1)
    assert not np.array_equal(add_noise(other, 50).astype(int) - other, add_noise(GREY, 50).astype(int) - GREY)


def test_pairs_are_drawn_as_jpegs_are() -> None:
    recipe = make_noisy(small_reading())
    degradation = recipe.encoders.degradation
    assert isinstance(degradation, NoiseDegradation)
    assert (degradation.min_quality, degradation.max_quality) == (10, 95)
    drawn = [degradation.apply(GREY[:8, :8], np.random.default_rng(seed)) for seed in range(300)]
    assert {pair.quality for pair in drawn} >= {10, 95}
    assert all(np.array_equal(pair.original, GREY[:8, :8]) and not pair.stated.any() for pair in drawn)
    as_jpeg = [JpegDegradation().apply(GREY[:8, :8], np.random.default_rng(seed)).quality for seed in range(20)]
    assert [pair.quality for pair in drawn[:20]] == as_jpeg


@pytest.mark.parametrize(
    "wrong", [{"real_life": 0.5}, {"other_codecs": 0.5}, {"max_quality": 100}, {"levels_per_class": 0.0}], ids=str
)
def test_what_noise_does_not_know_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="noise"):
        replace(NoiseDegradation(), **wrong)


def test_it_trains_and_goes_on_and_is_no_jpeg(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options: dict[str, Any] = {
        "recipe": "tiny",
        "settings": ["encoders.steps=2", "encoders.batch=2", "encoders.patch=32", "validation_fraction=0.5"],
        "test": str(image_folder),
        "limit": 4,
        "work": tmp_path / "work",
        "out": tmp_path,
        "workers": 0,
        "accelerator": "cpu",
    }
    noise.main([str(image_folder)], **options)
    record = json.loads((tmp_path / "noise.json").read_text())
    assert record["checkpoint"]["config"]["encoders"]["degradation"]["levels_per_class"] == 0.5
    assert set(record["views"]) == {"training", "whole", "windows"}
    for figures in record["views"].values():
        assert 0 <= figures["quality_error"] < 100
        assert set(figures["per_quality"]) == {*map(str, noise.QUALITIES), "original"}
    assert "whole: quality_error" in capsys.readouterr().out
    noise.main([str(image_folder)], **options)
    assert "encoders finished earlier, after 2 steps" in capsys.readouterr().err
    again = json.loads((tmp_path / "noise.json").read_text())
    assert again["views"] == record["views"]

    jpegs = make_recipe("tiny", options["settings"], 1)
    fabric = make_fabric(accelerator="cpu", devices=1, precision="32-true")
    images = open_images([str(image_folder)], jpegs.validation_fraction)
    with pytest.raises(OtherTrainingError, match=r"encoders\.degradation"):
        train_encoders(fabric, jpegs, images, tmp_path / "work" / "tiny", workers=0)
