from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jpegs import decoded, encoded, picture, saved

pytest.importorskip("skimage")

from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from unjpeg.dct import ycc_from_rgb
from unjpeg.evaluate.benchmark import Row, measure
from unjpeg.evaluate.methods import Decoder
from unjpeg.evaluate.metrics import (
    METRICS,
    Metric,
    psnr_b_db,
    psnr_db,
    psnr_luma_db,
    psnr_matlab_luma_db,
    ssim,
    ssim_jdec,
    ssim_matlab_luma,
    ssimulacra2,
)
from unjpeg.evaluate.pairs import Degradation, TestSet

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
    blocks = flat + (np.indices((64, 64)) // 8).sum(axis=0)[..., None].astype(np.uint8) % 2 * np.uint8(10)
    assert psnr_b_db(blocks, flat) < psnr_db(blocks, flat) - 1
    assert psnr_b_db(np.roll(blocks, 4, axis=(0, 1)), flat) == psnr_db(blocks, flat)


def ssim_by_windows(x: NDArray[np.float64], y: NDArray[np.float64], window: NDArray[np.float64]) -> float:
    """One plane, one window after the other, with the window's own weights; inside the picture only."""
    side = len(window)
    found = []
    for top in range(x.shape[0] - side + 1):
        for left in range(x.shape[1] - side + 1):
            a, b = (plane[top : top + side, left : left + side] for plane in (x, y))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            variance = (window * (a - mean_a) ** 2).sum() + (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            c1, c2 = 2.55**2, 7.65**2
            found.append(
                (2 * mean_a * mean_b + c1) * (2 * covariance + c2) / ((mean_a**2 + mean_b**2 + c1) * (variance + c2))
            )
    return float(np.mean(found))


def matlab_luma(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    luma: NDArray[np.float64] = np.rint(16 + pixels.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255)
    return luma


@pytest.mark.parametrize("seed", [3, 40, 80])
def test_ssim_is_fbcnn_s_and_jdec_s_is_of_plain_windows(seed: int) -> None:
    """FBCNN: 11x11 Gaussian, sigma 1.5; JDEC and QGAC: plain 8x8; both inside the picture, channel by channel."""
    restored, original = pair((19, 23), seed, grey=False)
    profile = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    gaussian = np.outer(profile, profile) / np.outer(profile, profile).sum()
    channels = [(restored[..., i].astype(float), original[..., i].astype(float)) for i in range(3)]
    assert ssim(restored, original) == pytest.approx(
        np.mean([ssim_by_windows(*c, gaussian) for c in channels]), abs=1e-6
    )
    plain = np.full((8, 8), 1 / 64)
    expected = np.mean([ssim_by_windows(*c, plain) for c in channels])
    assert ssim_jdec(restored, original) == pytest.approx(expected, abs=1e-9)
    lumas = matlab_luma(restored), matlab_luma(original)
    assert ssim_matlab_luma(restored, original) == pytest.approx(ssim_by_windows(*lumas, gaussian), abs=1e-6)


def test_luma_psnrs_are_of_their_luma() -> None:
    restored, original = pair((40, 50), 7, grey=False)
    lumas = [ycc_from_rgb(pixels.astype(np.float32))[..., 0].astype(float) for pixels in (restored, original)]
    assert psnr_luma_db(restored, original) == pytest.approx(
        peak_signal_noise_ratio(lumas[1], lumas[0], data_range=255),  # type: ignore[no-untyped-call]
        abs=1e-4,
    )
    expected = peak_signal_noise_ratio(matlab_luma(original), matlab_luma(restored), data_range=255)  # type: ignore[no-untyped-call]
    assert psnr_matlab_luma_db(restored, original) == pytest.approx(expected, abs=1e-9)
    # MATLAB's range is narrower by 219 / 255, so the same error weighs less.
    assert psnr_matlab_luma_db(restored, original) - psnr_luma_db(restored, original) == pytest.approx(1.32, abs=0.1)
    grey, its_original = pair((40, 50), 7, grey=True)
    assert psnr_luma_db(grey, its_original) == psnr_matlab_luma_db(grey, its_original) == psnr_db(grey, its_original)


def test_ssimulacra2_knows_equal_pictures_and_its_arguments_order() -> None:
    original = picture(64, 64, 2)
    assert ssimulacra2(original, original) == pytest.approx(100)
    restored = decoded(encoded(original, quality=20))
    assert ssimulacra2(restored, original) != ssimulacra2(original, restored)  # it asks what the second one has lost
    from ssimulacra2 import compute_ssimulacra2

    files = [io.BytesIO(saved(pixels, "PNG")) for pixels in (original, restored)]
    assert ssimulacra2(restored, original) == compute_ssimulacra2(*files)
    grey = original[..., 1]
    assert ssimulacra2(grey, grey) == pytest.approx(100)


def test_equal_pictures() -> None:
    one = picture(20, 30)
    assert psnr_db(one, one) == math.inf
    assert ssim(one, one) == pytest.approx(1)
    smooth = np.add.outer(np.arange(32), np.arange(32)).astype(np.uint8)
    assert psnr_b_db(smooth, smooth) == math.inf
    blocks = (np.indices((32, 32)) // 8).sum(axis=0).astype(np.uint8) % 2 * np.uint8(10)
    assert psnr_b_db(blocks, blocks) < 45  # block edges of the original's own are held against it, too


@pytest.mark.parametrize("metric", [ssim, ssim_matlab_luma])
def test_pictures_without_room_for_a_window_are_refused_in_one_sentence(metric: Metric) -> None:
    small = picture(10, 40)
    with pytest.raises(ValueError, match=r"^SSIM needs 11x11 pixels or more, the picture has 40x10$"):
        metric(small, small)


def test_more_noise_is_worse_by_every_metric() -> None:
    original = picture(40, 40, 3)
    files = [decoded(encoded(original, quality=quality)) for quality in (5, 20, 60, 95)]
    for metric in METRICS.values():
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


@pytest.mark.parametrize("metric", METRICS.values())
def test_only_uint8_pictures_of_equal_shape_are_compared(
    metric: Metric,
) -> None:
    one = picture(20, 20)
    for other in (picture(20, 21), one[..., 0], one.astype(np.float32), one.astype(np.uint16)):
        with pytest.raises(ValueError, match="equal shape"):
            metric(one, other)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="equal shape"):
            metric(other, one)  # type: ignore[arg-type]


# Calibration: the published tables' rows of the decoded JPEG, to the digits they print. Two figures lie at the edge
# between two last digits (24.205 for a printed 24.20, 26.965 for 26.96), hence a little more than half a digit.


def jpeg_row(name: str, quality: int, metrics: Sequence[str], data_root: Path) -> dict[str, float]:
    folder = data_root / "test" / name
    if not folder.is_dir():
        pytest.skip(f"no test set in {folder}")
    rows = list(measure(TestSet(name, folder), [Degradation("jpeg", quality)], [Decoder()], metrics))
    figures = [row.figures for row in rows if isinstance(row, Row)]
    assert len(figures) == len(rows)
    return {metric: float(np.mean([each[metric] for each in figures])) for metric in metrics}


@pytest.mark.slow
@pytest.mark.parametrize(("quality", "printed"), [(10, (25.69, 0.743, 24.20)), (40, (30.28, 0.882, 28.84))])
def test_calibration_on_live1(quality: int, printed: tuple[float, float, float], data_root: Path) -> None:
    row = jpeg_row("live1", quality, ["psnr_db", "psnr_b_db", "ssim"], data_root)
    assert (row["psnr_db"], row["psnr_b_db"]) == pytest.approx((printed[0], printed[2]), abs=0.0055)
    assert row["ssim"] == pytest.approx(printed[1], abs=0.00055)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "quality", "printed"),
    [("bsd68", 10, 26.96), ("bsd68", 70, 34.07), ("set12", 10, 27.65), ("set12", 70, 35.0)],
)
def test_calibration_on_grey_sets(name: str, quality: int, printed: float, data_root: Path) -> None:
    row = jpeg_row(name, quality, ["psnr_db"], data_root)
    assert row["psnr_db"] == pytest.approx(printed, abs=0.0055)
