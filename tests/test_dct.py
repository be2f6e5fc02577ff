from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn, idctn

from unjpeg.dct import (
    ROUNDING_BOUND_88,
    blocks_from_plane,
    dct_blocks,
    downsample,
    idct_blocks,
    plane_from_blocks,
    rgb_from_ycc,
    upsample,
    ycc_from_rgb,
)

seeds = st.integers(0, 2**32 - 1)


def samples(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-128, 127, shape).astype(np.float32)


@given(seeds, st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_dct_is_the_orthonormal_one(seed: int, rows: int, columns: int) -> None:
    blocks = samples(seed, rows, columns, 8, 8)
    coefficients = dct_blocks(blocks)
    assert coefficients.dtype == np.float32
    np.testing.assert_allclose(coefficients, dctn(blocks, axes=(2, 3), norm="ortho"), atol=1e-3)
    np.testing.assert_allclose(idct_blocks(blocks), idctn(blocks, axes=(2, 3), norm="ortho"), atol=1e-3)
    np.testing.assert_allclose(idct_blocks(coefficients), blocks, atol=1e-3)


def test_a_flat_block_has_its_mean_eight_times_as_dc() -> None:
    coefficients = dct_blocks(np.full((1, 1, 8, 8), 100, np.float32))[0, 0]
    assert coefficients[0, 0] == pytest.approx(800)
    assert np.abs(coefficients).sum() == pytest.approx(800, abs=1e-2)


@given(seeds)
@settings(max_examples=50, deadline=None)
def test_rounding_samples_moves_no_coefficient_beyond_the_bound(seed: int) -> None:
    blocks = samples(seed, 40, 1, 8, 8)
    moved = np.abs(dct_blocks(np.rint(blocks)) - dct_blocks(blocks))
    assert (moved <= ROUNDING_BOUND_88 + 1e-3).all()


def test_the_rounding_bound_is_reached_by_the_worst_block_of_each_coefficient() -> None:
    for u, v in product(range(8), range(8)):
        unit = np.zeros((8, 8))
        unit[u, v] = 1
        worst = 0.5 * np.sign(idctn(unit, norm="ortho"))
        assert dctn(worst, norm="ortho")[u, v] == pytest.approx(ROUNDING_BOUND_88[u, v], rel=1e-5)
    assert ROUNDING_BOUND_88[0, 0] == pytest.approx(4)


@given(seeds, st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_blocks_and_plane_are_inverses(seed: int, rows: int, columns: int) -> None:
    plane = samples(seed, rows * 8, columns * 8)
    blocks = blocks_from_plane(plane)
    assert blocks.shape == (rows, columns, 8, 8)
    np.testing.assert_array_equal(blocks[-1, 0], plane[-8:, :8])
    np.testing.assert_array_equal(plane_from_blocks(blocks), plane)


# Colour


@given(arrays.arrays(np.float32, (7, 5, 3), elements=st.floats(0, 255, width=32)))
@settings(max_examples=50, deadline=None)
def test_colour_and_back(rgb: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(rgb_from_ycc(ycc_from_rgb(rgb)), rgb, atol=1e-3)


def test_colour_is_pillow_s_within_its_rounding() -> None:
    values = np.array([0, 1, 50, 127, 128, 200, 254, 255], np.uint8)
    rgb = np.array(list(product(values, values, values)), np.uint8).reshape(16, 32, 3)
    ours = ycc_from_rgb(rgb.astype(np.float32))
    pillow = np.asarray(Image.fromarray(rgb).convert("YCbCr"), np.float32) - np.array([0, 128, 128], np.float32)
    assert np.abs(ours - pillow).max() <= 1
    ycc = np.asarray(Image.fromarray(rgb, "RGB"), np.float32) - np.array([0, 128, 128], np.float32)
    back = np.asarray(Image.merge("YCbCr", Image.fromarray(rgb).split()).convert("RGB"), np.float32)
    assert np.abs(rgb_from_ycc(ycc).clip(0, 255) - back).max() <= 1


def test_grey_has_no_chroma() -> None:
    grey = np.repeat(np.arange(256, dtype=np.float32)[:, None, None], 3, axis=2)
    ycc = ycc_from_rgb(grey)
    np.testing.assert_allclose(ycc[..., 0], grey[..., 0], atol=1e-4)
    np.testing.assert_allclose(ycc[..., 1:], 0, atol=1e-4)


# Chroma's resolution

scales = st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (4, 1), (4, 4)])


@given(seeds, scales, st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_downsampling_undoes_upsampling(seed: int, scale: tuple[int, int], height: int, width: int) -> None:
    plane = samples(seed, height, width)
    large = upsample(plane, *scale)
    assert large.shape == (height * scale[0], width * scale[1])
    np.testing.assert_allclose(downsample(large, *scale), plane, atol=1e-4)


@pytest.mark.parametrize("scale", [(1, 2), (2, 1), (2, 2), (1, 4), (4, 1), (4, 2), (2, 4), (3, 3)])
def test_downsampling_has_the_bits_of_numpys_mean(scale: tuple[int, int]) -> None:
    vertical, horizontal = scale
    plane = samples(7, 24 * vertical, 40 * horizontal)
    grouped = plane.reshape(24, vertical, 40, horizontal)
    np.testing.assert_array_equal(downsample(plane, *scale), grouped.mean(axis=(1, 3), dtype=np.float32))


def test_downsampling_is_the_mean() -> None:
    plane = np.arange(16, dtype=np.float32).reshape(2, 8)
    np.testing.assert_array_equal(downsample(plane, 2, 4), [[5.5, 9.5]])
    np.testing.assert_array_equal(downsample(plane, 1, 2), [[0.5, 2.5, 4.5, 6.5], [8.5, 10.5, 12.5, 14.5]])
