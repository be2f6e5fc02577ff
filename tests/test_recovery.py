"""Recovered coefficients, beside those of the file that was decoded."""

from __future__ import annotations

import numpy as np
import pytest

from test_history import decoded, jpeg, photograph
from unjpeg.dct import blocks_from_plane, dct_blocks
from unjpeg.history import read_history
from unjpeg.jpeg import JpegImage
from unjpeg.recovery import ANY, recover
from unjpeg.upsampling import plane_at_scale, upsampled


@pytest.mark.parametrize("quality", [20, 75, 92])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_coefficients_of_a_png(quality: int, subsampling: int) -> None:
    image = JpegImage.decode(jpeg(photograph(), quality, subsampling))
    pixels = image.pixels[5:, 3:]
    (region,) = read_history(pixels).regions
    recovered = recover(pixels, region)
    assert (recovered.pad_top, recovered.pad_left) == (5, 3)
    assert np.array_equal(recovered.stated, image.stated)
    assert recovered.fits_VU.all()
    for cells, component in zip(recovered.components, image.components, strict=True):
        assert cells.scale == component.scale
        known = (cells.coefficients_VU88 > -ANY).all(axis=(2, 3))
        assert known.mean() > 0.7
        true = component.coefficients_VU88
        inside = (true >= cells.coefficients_VU88) & (true <= cells.highest_VU88)
        assert inside[known].mean() > (0.9999 if quality < 80 else 0.99)
        low, high = cells.cells()
        assert np.isinf(low[~known]).all()
        assert (low < high).all()


def test_the_frame_lies_on_the_grid() -> None:
    pixels = decoded(photograph(), 30)[6:, 9:]
    (region,) = read_history(pixels).regions
    recovered = recover(pixels, region)
    assert (recovered.pad_top, recovered.pad_left) == (6, 9)
    assert recovered.components[0].coefficients_VU88.shape[:2] == (40, 48)
    assert recovered.fits_VU.shape == (40, 48)


def test_what_was_painted_over_does_not_fit() -> None:
    pixels = decoded(photograph(), 30).copy()
    rng = np.random.default_rng(0)
    pixels[64:128, 160:240] = rng.integers(20, 230, (64, 80, 3))
    (region,) = read_history(pixels).regions
    fits = recover(pixels, region).fits_VU
    assert not fits[8:16, 20:30].any()
    assert fits.mean() > 0.9


def test_clipped_blocks_are_completed() -> None:
    bright = np.clip(photograph().astype(np.int16) * 2 - 128, 0, 255).astype(np.uint8)
    image = JpegImage.decode(jpeg(bright, 50, 0))
    (region,) = read_history(image.pixels).regions
    luma = recover(image.pixels, region).components[0]
    known = (luma.coefficients_VU88 > -ANY).all(axis=(2, 3))
    true = image.components[0].coefficients_VU88
    inside = (true >= luma.coefficients_VU88) & (true <= luma.highest_VU88)
    assert inside[known].mean() > 0.999
    clipped = ((image.pixels == 0) | (image.pixels == 255)).any(axis=2)
    assert known.mean() > 1 - clipped.reshape(40, 8, 48, 8).any(axis=(1, 3)).mean()


def test_shifted_twice() -> None:
    first = JpegImage.decode(jpeg(photograph(), 20))
    last = JpegImage.decode(jpeg(first.pixels[4:, 4:], 90))
    (region,) = read_history(last.pixels, last).regions
    recovered = recover(last.pixels, region, last)
    luma = recovered.components[0]
    row, column = (recovered.pad_top - 4) // 8, (recovered.pad_left - 4) // 8  # chroma's blocks may start before
    lowest, highest = luma.coefficients_VU88[row:, column:], luma.highest_VU88[row:, column:]
    true = first.components[0].coefficients_VU88[: lowest.shape[0], : lowest.shape[1]]
    known = (lowest > -ANY).all(axis=(2, 3))
    inside = (true >= lowest) & (true <= highest)
    assert inside[known].mean() > 0.995
    assert (lowest == highest).mean() > 0.6


def test_twice_on_one_grid() -> None:
    first = JpegImage.decode(jpeg(photograph(), 20))
    last = JpegImage.decode(jpeg(first.pixels, 60))
    (region,) = read_history(last.pixels, last).regions
    recovered = recover(last.pixels, region, last)
    assert recovered.fits_VU.mean() > 0.95
    for cells, component in zip(recovered.components, first.components, strict=True):
        true = component.coefficients_VU88
        inside = (true >= cells.coefficients_VU88) & (true <= cells.highest_VU88)
        assert inside.mean() > 0.999


@pytest.mark.parametrize("scale", [(2, 2), (1, 2), (2, 1)])
@pytest.mark.parametrize("upsampling", ["box", "triangle"])
def test_upsampling_is_undone(scale: tuple[int, int], upsampling: str) -> None:
    samples = np.random.default_rng(0).normal(scale=20, size=(80, 96)).astype(np.float32)
    again = plane_at_scale(upsampled(samples, scale, upsampling), (0, 0), scale, upsampling)  # type: ignore[arg-type]
    assert np.abs(again - samples)[8:-8, 8:-8].max() < 1e-3


def test_the_most_plain_reading_is_a_component() -> None:
    image = JpegImage.decode(jpeg(photograph(), 40))
    (region,) = read_history(image.pixels).regions
    component = recover(image.pixels, region).components[0]
    decoded_again = dct_blocks(blocks_from_plane(image.pixels.astype(np.float32)[..., 1] - 128))
    assert component.coefficients_VU88.shape == decoded_again.shape
    assert component.coefficients_VU88.dtype == np.int16
