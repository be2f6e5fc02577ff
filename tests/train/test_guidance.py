"""Guidance of whole training pictures against what the network says of their windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from unjpeg.datasets import ImageFolder
from unjpeg.models import Dagn, DagnConfig
from unjpeg.tables import STATED_FEATURES
from unjpeg.tiling import guide_windows
from unjpeg.train.config import DagnTraining, EncoderTraining, Recipe
from unjpeg.train.data import Sample
from unjpeg.train.degrade import compress_jpeg
from unjpeg.train.guidance import QUALITY_LEVELS, PictureGuidance
from unjpeg.train.run import TrainingImages, to_unit_range

WINDOW = 32


@pytest.fixture(scope="module")
def network() -> Dagn:
    torch.manual_seed(0)
    return Dagn(DagnConfig(width=4, scales=2, blocks=1, encoder_width=2, fusion=False)).eval()


@pytest.fixture
def images(image_folder: Path, tmp_path: Path) -> TrainingImages:
    return TrainingImages.open([ImageFolder(image_folder)], validation_fraction=0.0, cache_dir=tmp_path / "cache")


def test_measured_guidance_is_the_mean_over_the_windows(network: Dagn, images: TrainingImages) -> None:
    measured = PictureGuidance.measure(network, images.training, WINDOW, torch.device("cpu"))
    assert len(measured.sensitive) == len(images.training)
    picture, level = 3, 2
    windows = [compress_jpeg(cut, QUALITY_LEVELS[level]) for cut in guide_windows(images.training[picture], WINDOW, 8)]
    with torch.no_grad():
        expected = network.guide(to_unit_range(torch.from_numpy(np.stack(windows)).permute(0, 3, 1, 2)))
    guidance = measured.at(torch.tensor([picture]), torch.tensor([QUALITY_LEVELS[level]]))
    torch.testing.assert_close(guidance.insensitive[0], expected.insensitive.mean(0))
    torch.testing.assert_close(guidance.sensitive[0], expected.sensitive.mean(0))


def test_qualities_between_are_interpolated_and_those_beyond_held() -> None:
    table = torch.arange(2 * len(QUALITY_LEVELS), dtype=torch.float32).reshape(2, -1, 1)
    measured = PictureGuidance(table, -table)
    guidance = measured.at(torch.tensor([0, 0, 1, 1, 1]), torch.tensor([1, 30, 30, 37, 100]))
    n = len(QUALITY_LEVELS)
    expected = torch.tensor([0.0, 3.0, n + 3.0, n + 3.7, n + 10.0])
    torch.testing.assert_close(guidance.insensitive[:, 0], expected)
    torch.testing.assert_close(guidance.sensitive[:, 0], -expected)


def test_a_patch_that_lies_in_no_picture_guides_itself(network: Dagn, images: TrainingImages) -> None:
    measured = PictureGuidance.measure(network, images.training, WINDOW, torch.device("cpu"))
    compressed = torch.rand(3, 3, WINDOW, WINDOW)
    quality = torch.tensor([30, 30, 70])
    stated = torch.rand(3, STATED_FEATURES)
    sample = Sample(compressed, compressed, quality, torch.tensor([2, -1, 0]), stated)
    guidance = measured.of(network, sample, compressed)
    theirs, own = measured.at(torch.tensor([2, 0, 0]), quality), network.guide(compressed)
    for got, picture, itself in zip(guidance[:2], theirs[:2], own[:2], strict=True):
        torch.testing.assert_close(got, torch.stack([picture[0], itself[1], picture[2]]))
    torch.testing.assert_close(guidance.stated, stated)


@pytest.mark.parametrize("shape", [(32, 32), (100, 70), (33, 400), (20, 90), (9, 9)])
def test_windows_lie_on_the_grid_inside_the_picture(shape: tuple[int, int]) -> None:
    row, column = np.mgrid[: shape[0], : shape[1]]
    picture: NDArray[np.uint8] = np.stack([row % 8, column % 8, row * 0], axis=2).astype(np.uint8)
    windows = list(guide_windows(picture, WINDOW, 8))
    assert 1 <= len(windows) <= 8
    for window in windows:
        assert window.shape == (WINDOW, WINDOW, 3)
        assert not window[0, 0].any()


def test_a_recipe_cannot_ask_for_fusion_under_the_guidance_of_pictures() -> None:
    with pytest.raises(ValueError, match="fusion"):
        Recipe("no", DagnConfig(), EncoderTraining(1), DagnTraining(1, guidance="picture"))


def test_standardised_guiders_see_zero_mean_and_unit_spread(network: Dagn, images: TrainingImages) -> None:
    measured = PictureGuidance.measure(network, images.training, WINDOW, torch.device("cpu"))
    new = Dagn(network.config)
    before = new.sensitive_guider.first.weight.detach().clone(), new.sensitive_guider.first.bias.detach().clone()
    measured.standardise(new)
    features = measured.sensitive.flatten(0, 1)
    spread = features.std(0)
    spread = spread.clamp(min=float(spread.median()) / 3 + 1e-6)
    with torch.no_grad():
        seen = new.sensitive_guider.first(features)
    weight, bias = before
    standard = (features - features.mean(0)) / spread
    torch.testing.assert_close(seen, standard @ weight.T + bias, rtol=1e-3, atol=1e-4)
