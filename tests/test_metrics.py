from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jpegs import decoded, encoded, picture

pytest.importorskip("skimage")

from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from unjpeg.errors import TrainingDataError
from unjpeg.evaluate.benchmark import EncoderName, encode_jpeg, load_images, mean_row, measure
from unjpeg.evaluate.metrics import psnr_b_db, psnr_db, ssim
from unjpeg.inspection import inspect, verify
from unjpeg.restore import Restorer

METRICS: list[Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]] = [psnr_db, ssim, psnr_b_db]

sizes = st.tuples(st.integers(11, 50), st.integers(11, 50))
seeds = st.integers(0, 2**31)


def pair(size: tuple[int, int], seed: int, grey: bool) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A picture and its JPEG of some quality."""
    original = picture(*size, seed)
    data = encoded(original, "grey" if grey else "4:2:0", quality=1 + seed % 95)
    return decoded(data), original[..., 1] if grey else original


# Against independent code


@given(sizes, seeds, st.booleans())
@settings(max_examples=50, deadline=None)
def test_psnr_is_scikit_image_s(size: tuple[int, int], seed: int, grey: bool) -> None:
    restored, original = pair(size, seed, grey)
    expected = peak_signal_noise_ratio(original, restored, data_range=255)  # type: ignore[no-untyped-call]
    assert psnr_db(restored, original) == pytest.approx(expected, abs=1e-9)


@given(sizes, seeds, st.booleans())
@settings(max_examples=30, deadline=None)
def test_ssim_is_the_mean_of_the_channels(size: tuple[int, int], seed: int, grey: bool) -> None:
    restored, original = pair(size, seed, grey)
    channels = [(restored, original)] if grey else [(restored[..., i], original[..., i]) for i in range(3)]
    options = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = [structural_similarity(*channel, **options) for channel in channels]  # type: ignore[no-untyped-call]
    assert ssim(restored, original) == pytest.approx(np.mean(expected), abs=1e-6)


def psnr_b_by_loops(restored: NDArray[np.uint8], original: NDArray[np.uint8]) -> float:
    """Yim and Bovik's formulas, one pair of neighbours after the other."""
    height, width = restored.shape[:2]
    luma = [[0.0] * width for _ in range(height)]
    for y in range(height):
        for x in range(width):
            if restored.ndim == 2:
                luma[y][x] = float(restored[y, x])
            else:
                red, green, blue = (float(value) for value in restored[y, x])
                luma[y][x] = round(16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255)
    edge: list[float] = []
    inside: list[float] = []
    for y in range(height):
        for x in range(width - 1):
            (edge if x % 8 == 7 else inside).append((luma[y][x] - luma[y][x + 1]) ** 2)
    for y in range(height - 1):
        for x in range(width):
            (edge if y % 8 == 7 else inside).append((luma[y][x] - luma[y + 1][x]) ** 2)
    across_edges, elsewhere = sum(edge) / len(edge), sum(inside) / len(inside)
    factor = math.log2(8) / math.log2(min(height, width)) if across_edges > elsewhere else 0
    error = float(np.mean((restored.astype(float) - original) ** 2))
    return 10 * math.log10(255**2 / (error + factor * (across_edges - elsewhere)))


@given(sizes, seeds, st.booleans())
@settings(max_examples=30, deadline=None)
def test_psnr_b_is_what_loops_compute(size: tuple[int, int], seed: int, grey: bool) -> None:
    restored, original = pair(size, seed, grey)
    assert psnr_b_db(restored, original) == pytest.approx(psnr_b_by_loops(restored, original), abs=1e-6)


# Properties


@given(sizes, seeds, st.booleans())
@settings(max_examples=50, deadline=None)
def test_psnr_b_is_never_above_psnr(size: tuple[int, int], seed: int, grey: bool) -> None:
    restored, original = pair(size, seed, grey)
    assert psnr_b_db(restored, original) <= psnr_db(restored, original)


def test_psnr_b_is_psnr_without_block_edges() -> None:
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    off_grid = np.zeros((64, 64), np.uint8)
    off_grid[3::8] = 40
    for restored in (smooth, off_grid):
        original = restored + np.uint8(7)
        assert psnr_b_db(restored, original) == psnr_db(restored, original)


def test_psnr_b_sees_the_grid() -> None:
    flat = np.full((64, 64, 3), 100, np.uint8)
    blocky = flat.copy()
    blocky[np.indices((64, 64)).sum(axis=0) // 8 % 2 == 1] += 10
    blocks = flat + (np.indices((64, 64)) // 8).sum(axis=0)[..., None].astype(np.uint8) % 2 * np.uint8(10)
    assert psnr_b_db(blocks, flat) < psnr_db(blocks, flat) - 1
    assert psnr_b_db(np.roll(blocks, 4, axis=(0, 1)), flat) == psnr_db(blocks, flat)


def test_equal_pictures() -> None:
    one = picture(20, 30)
    assert psnr_db(one, one) == math.inf
    assert ssim(one, one) == pytest.approx(1)
    assert psnr_b_db(one, one) <= math.inf


def test_more_noise_is_worse_by_every_metric() -> None:
    original = picture(40, 40, 3)
    files = [decoded(encoded(original, quality=quality)) for quality in (5, 20, 60, 95)]
    for metric in METRICS:
        values = [metric(restored, original) for restored in files]
        assert values == sorted(values)


def test_psnr_of_a_known_difference() -> None:
    black, one = np.zeros((10, 10), np.uint8), np.ones((10, 10), np.uint8)
    assert psnr_db(black, one) == psnr_db(one, black) == pytest.approx(20 * math.log10(255))
    assert psnr_db(black, np.full((10, 10), 255, np.uint8)) == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1), (7, 7), (8, 9)])
def test_psnr_b_of_pictures_with_hardly_an_edge(size: tuple[int, int]) -> None:
    restored, original = picture(*size), picture(*size, 1)
    assert psnr_b_db(restored, original) <= psnr_db(restored, original)


@pytest.mark.parametrize("metric", METRICS)
def test_only_uint8_pictures_of_equal_shape_are_compared(
    metric: Callable[[NDArray[np.uint8], NDArray[np.uint8]], float],
) -> None:
    one = picture(20, 20)
    for other in (picture(20, 21), one[..., 0], one.astype(np.float32), one.astype(np.uint16)):
        with pytest.raises(ValueError, match="equal shape"):
            metric(one, other)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="equal shape"):
            metric(other, one)  # type: ignore[arg-type]


# The benchmark


def test_measure_compares_decoded_and_restored(tiny_restorer: Restorer) -> None:
    images = [(f"{seed}.png", picture(40, 48, seed)) for seed in range(2)]
    rows = list(measure(images, tiny_restorer, [10, 90], ["strict", "off"]))
    assert len(rows) == 2 * 2 * 3
    for row in rows:
        if row.method == "jpeg":
            original = dict(images)[row.image]
            jpeg = decoded(encode_jpeg(original, row.quality))
            assert (row.psnr_db, row.psnr_b_db) == (psnr_db(jpeg, original), psnr_b_db(jpeg, original))
            assert row.ssim == ssim(jpeg, original)
            assert row.seconds == 0
        else:
            assert row.seconds > 0
    strict = [row for row in rows if row.method == "tiny, consistency strict"]
    assert all(row.consistent and row.share_inside == 1 for row in strict)
    mean = mean_row(rows, "jpeg", 10)
    expected = [row.psnr_db for row in rows if row.method == "jpeg" and row.quality == 10]
    assert mean["psnr_db"] == pytest.approx(np.mean(expected))
    without = list(measure(images[:1], None, [50], with_ssim=False))
    assert len(without) == 1
    assert math.isnan(without[0].ssim)


def test_a_trellis_leaves_the_cells() -> None:
    noise = np.random.default_rng(0).normal(0, 12, (128, 128, 3))
    original = np.clip(picture(128, 128, low=60, high=190) + noise, 20, 235).astype(np.uint8)
    files = {encoder: encode_jpeg(original, 75, encoder) for encoder in get_args(EncoderName)}
    shares = {encoder: verify(file, original).consistency.share_inside for encoder, file in files.items()}
    assert shares["libjpeg"] > 0.99
    assert shares["mozjpeg"] < shares["libjpeg"] - 0.005
    assert len(files["mozjpeg"]) < len(files["libjpeg"])
    assert inspect(files["mozjpeg"], model=None).subsampling == "4:2:0"


def test_load_images(image_folder: Path, tmp_path: Path) -> None:
    (image_folder / "notes.txt").write_text("no picture")
    loaded = list(load_images(image_folder))
    assert [name for name, _ in loaded] == [f"picture-{i}.png" for i in range(6)]
    assert all(pixels.dtype == np.uint8 and pixels.ndim == 3 for _, pixels in loaded)
    (tmp_path / "empty").mkdir()
    for empty in (tmp_path / "missing", tmp_path / "empty"):
        with pytest.raises(TrainingDataError, match=r"no images|no such folder"):
            list(load_images(empty))


# Calibration: the published tables' rows of the decoded JPEG, to the digits they print. Two figures lie at the edge
# between two last digits (24.205 for a printed 24.20, 26.965 for 26.96), hence a little more than half a digit.


def jpeg_row(folder: Path, quality: int, *, with_ssim: bool) -> dict[str, float]:
    if not folder.is_dir():
        pytest.skip(f"no test set in {folder}")
    return mean_row(list(measure(load_images(folder), None, [quality], with_ssim=with_ssim)), "jpeg", quality)


@pytest.mark.slow
@pytest.mark.parametrize(("quality", "printed"), [(10, (25.69, 0.743, 24.20)), (40, (30.28, 0.882, 28.84))])
def test_calibration_on_live1(quality: int, printed: tuple[float, float, float], data_root: Path) -> None:
    row = jpeg_row(data_root / "test" / "live1", quality, with_ssim=True)
    assert (row["psnr_db"], row["psnr_b_db"]) == pytest.approx((printed[0], printed[2]), abs=0.0055)
    assert row["ssim"] == pytest.approx(printed[1], abs=0.00055)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "quality", "printed"),
    [("bsd68", 10, 26.96), ("bsd68", 70, 34.07), ("set12", 10, 27.65), ("set12", 70, 35.0)],
)
def test_calibration_on_grey_sets(name: str, quality: int, printed: float, data_root: Path) -> None:
    row = jpeg_row(data_root / "test" / name, quality, with_ssim=False)
    assert row["psnr_db"] == pytest.approx(printed, abs=0.0055)
