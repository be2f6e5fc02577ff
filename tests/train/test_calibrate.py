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
from unjpeg.modelfile import ModelFile
from unjpeg.picture import Picture
from unjpeg.projection import Calibration, OffsetSums, measure_offsets
from unjpeg.restorer import Restorer
from unjpeg.train import calibrate
from unjpeg.train.calibrate import CALIBRATED_QUALITIES, _fitted, measure_calibration


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
    assert calibration.shares_L22288.shape == (2, 2, 2, 2, 8, 8)
    products, squares = np.zeros((2, 2, 8, 8)), np.zeros((2, 2, 2, 8, 8))
    for crop in crops:
        buffer = io.BytesIO()
        Image.fromarray(crop).save(buffer, "JPEG", quality=90)
        jpeg = JpegImage.decode(buffer.getvalue())
        output = tiny_restorer.run_network(Picture("image", jpeg.pixels, None, jpeg.metadata, jpeg))
        sums = measure_offsets(output.layers[0], crop, jpeg.components, "YCbCr")
        products, squares = products + sums.products, squares + sums.squares
    of_luma = products[0, :, 1, 2] + products[0, :, 2, 1] + products[0, :, 3, 0] + products[0, :, 0, 3]
    grams = squares[0, :, :, 1, 2] + squares[0, :, :, 2, 1] + squares[0, :, :, 3, 0] + squares[0, :, :, 0, 3]
    expected = _fitted(of_luma, grams, 1.25)
    assert not np.allclose(expected, [0, 0])
    for row, column in ((0, 3), (1, 2), (2, 1), (3, 0)):
        np.testing.assert_allclose(calibration.shares_L22288[1, 0, 0, :, row, column], expected, rtol=1e-4)


def equations(inner: float, outer: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of a network whose offsets are true to these shares."""
    offsets = np.random.default_rng(0).laplace(scale=0.25, size=100_000)
    near = offsets.clip(-0.25, 0.25)
    halves = np.stack([near, offsets.clip(-0.5, 0.5) - near])
    squares = halves @ halves.T
    return squares @ [inner, outer], squares


@pytest.mark.parametrize(("inner", "outer"), [(1.0, 1.0), (0.9, 0.2), (1.2, 0.3), (0.3, 0.9), (0.1, 0.0)])
def test_both_shares_are_found(inner: float, outer: float) -> None:
    np.testing.assert_allclose(_fitted(*equations(inner, outer), 1.25), [inner, outer], atol=0.03)


@pytest.mark.parametrize(
    ("inner", "outer", "steepest", "expected"),
    [
        (2.0, 0.5, 1.25, (1.25, 0.5)),
        (2.0, 0.5, 1.0, (1.0, 0.5)),
        (1.2, 1.2, 1.25, (1.0, 1.0)),
        (-1.0, -1.0, 1.25, (0.0, 0.0)),
    ],
)
def test_shares_stay_in_their_cells(inner: float, outer: float, steepest: float, expected: tuple[float, float]) -> None:
    """Networks that are too timid, or wrong altogether."""
    shares = _fitted(*equations(inner, outer), steepest)
    assert shares.sum() <= 2
    assert shares.astype(np.float16).sum(dtype=np.float64) <= 2
    np.testing.assert_allclose(shares, expected, atol=0.05)


@pytest.mark.parametrize(
    ("factor", "inner", "outer"), [(0.0, 1.0, 1.0), (0.25, 1.0, 1.0), (1.0, 1.0, 1.0), (-1.0, 0.0, 0.0)]
)
def test_shares_of_every_diagonal(
    factor: float,
    inner: float,
    outer: float,
    tiny_restorer: Restorer,
    crops: list[NDArray[np.uint8]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A network that is right, too timid, silent, or wrong altogether."""

    def sums(restored: NDArray[np.float32], *_others: object) -> OffsetSums:
        assert restored.shape == crops[0].shape
        alone = np.eye(2)[None, :, :, None, None] * np.ones((2, 1, 1, 8, 8))
        return OffsetSums(np.full((2, 2, 8, 8), factor), factor**2 * alone)

    monkeypatch.setattr(calibrate, "measure_offsets", sums)
    shares = measure_calibration(tiny_restorer, crops[:1], (50, 60)).shares_L22288
    assert shares.shape == (2, 2, 2, 2, 8, 8)
    np.testing.assert_allclose(shares[:, :, :, 0], inner, atol=0.02)
    np.testing.assert_allclose(shares[:, :, :, 1], outer, atol=0.02)


def test_what_a_network_never_does_is_followed() -> None:
    """Where it changed nothing there is nothing to learn, and nothing to hold back."""
    np.testing.assert_array_equal(_fitted(np.zeros(2), np.zeros((2, 2)), 1.25), [1, 1])
    never_beyond = _fitted(np.array([0.7, 0.0]), np.array([[1.0, 0.0], [0.0, 0.0]]), 1.25)
    np.testing.assert_allclose(never_beyond, [0.7, 0.7], atol=2e-3)


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
    assert after.description.calibration_levels == (10, 90)
    assert 0 <= after.calibration.shares_L22288.min() < after.calibration.shares_L22288.max() <= 1.25


def test_both_sets_of_weights_are_calibrated_alone(
    tiny_model: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files: list[ModelFile] = []

    def recorded(restorer: Restorer, _originals: object) -> Calibration:
        files.append(restorer.model_file)
        return Calibration((10, 90), np.full((2, 2, 2, 2, 8, 8), len(files) / 4, np.float32))

    monkeypatch.setattr(calibrate, "measure_calibration", recorded)
    file = ModelFile.read(tiny_model)
    file.with_strong(file, 20).write(tmp_path / "both.unjpeg")
    calibrate.main(tmp_path / "both.unjpeg", [str(image_folder)], tmp_path / "calibrated.unjpeg")
    both = ModelFile.read(tmp_path / "calibrated.unjpeg")
    assert both.strong is not None
    shares = [one.calibration.shares_L22288.max() for one in (both, both.strong) if one.calibration]
    assert shares == [0.25, 0.5]
    assert [one.strong for one in files] == [None, None]
