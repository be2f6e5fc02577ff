"""What export measures of a network's work: least squares against the originals, and a file that holds it."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from conftest import synthetic_photo
from unjpeg.jpeg import JpegImage
from unjpeg.network import ModelFile
from unjpeg.picture import Picture
from unjpeg.projection import OffsetSums, measure_offsets
from unjpeg.restore import Restorer
from unjpeg.train import calibrate
from unjpeg.train.calibrate import CALIBRATED_QUALITIES, measure_calibration


@pytest.fixture(scope="module")
def crops() -> list[NDArray[np.uint8]]:
    return [synthetic_photo(64, 96, seed) for seed in range(3)]


def test_qualities_ascend() -> None:
    assert list(CALIBRATED_QUALITIES) == sorted(set(CALIBRATED_QUALITIES))
    assert 1 <= CALIBRATED_QUALITIES[0] <= 10
    assert CALIBRATED_QUALITIES[-1] == 100


def test_shares_are_least_squares_over_all_pictures(tiny_restorer: Restorer, crops: list[NDArray[np.uint8]]) -> None:
    calibration = measure_calibration(tiny_restorer, crops, (20, 90))
    assert calibration.qualities == (20, 90)
    assert calibration.shares_L2288.shape == (2, 2, 2, 8, 8)
    products, squares = np.zeros((2, 8, 8)), np.zeros((2, 8, 8))
    for crop in crops:
        buffer = io.BytesIO()
        Image.fromarray(crop).save(buffer, "JPEG", quality=90)
        jpeg = JpegImage.decode(buffer.getvalue())
        output = tiny_restorer.run_network(Picture("image", jpeg.pixels, None, jpeg.metadata, jpeg))
        sums = measure_offsets(output.pixels, crop, jpeg.components, "YCbCr")
        products, squares = products + sums.products, squares + sums.squares
    np.testing.assert_allclose(calibration.shares_L2288[1, 0], np.clip(products / squares, 0, 1), rtol=1e-5)


@pytest.mark.parametrize(("factor", "share"), [(0.0, 1.0), (0.25, 1.0), (1.0, 1.0), (-1.0, 0.0)])
def test_shares_lie_between_0_and_1(
    factor: float,
    share: float,
    tiny_restorer: Restorer,
    crops: list[NDArray[np.uint8]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A network that is right, too timid, silent, or wrong altogether."""

    def sums(restored: NDArray[np.float32], *_others: object) -> OffsetSums:
        assert restored.shape == crops[0].shape
        return OffsetSums(np.full((2, 8, 8), factor), np.full((2, 8, 8), factor**2))

    monkeypatch.setattr(calibrate, "measure_offsets", sums)
    shares = measure_calibration(tiny_restorer, crops[:1], (50, 60)).shares_L2288
    np.testing.assert_array_equal(shares, np.full((2, 2, 2, 8, 8), share, np.float32))


def test_a_model_file_is_calibrated_by_a_command(
    tiny_model: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(calibrate, "measure_calibration", partial(measure_calibration, qualities=(10, 90)))
    calibrate.main(tiny_model, [str(image_folder)], tmp_path / "calibrated.unjpeg")
    before, after = ModelFile.read(tiny_model), ModelFile.read(tmp_path / "calibrated.unjpeg")
    assert (after.guide, after.restore) == (before.guide, before.restore)
    assert after.calibration is not None
    assert after.calibration.qualities == (10, 90)
    assert after.description["calibration_levels"] == [10, 90]
    assert 0 <= after.calibration.shares_L2288.min() < after.calibration.shares_L2288.max() <= 1
