"""Fine detail kept, and rounding with a pattern."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dctn

import unjpeg
from jpegs import SAMPLINGS, decoded, encoded, picture
from restorers import with_tiling
from unjpeg.dct import RGB_TO_YCC, ycc_from_rgb
from unjpeg.finishing import FINENESS_88, dither_tile, keep_detail, threshold_pattern
from unjpeg.jpeg import JpegImage
from unjpeg.modelfile import ModelFile
from unjpeg.projection import find_outliers, measure_consistency, project
from unjpeg.restorer import Options, Restorer
from unjpeg.settings import Settings
from unjpeg.version import __version__

# Detail


def test_detail_1_changes_nothing(lively_restorer: Restorer) -> None:
    data = encoded(picture(80, 104), quality=20)
    plain, same = lively_restorer.restore(data), lively_restorer.restore(data, detail=1)
    np.testing.assert_array_equal(plain.pixels, same.pixels)
    tile = picture(16, 16).astype(np.float32)
    assert keep_detail(tile, tile - 1, 1.0) is tile


@given(seed=st.integers(0, 1000), detail=st.floats(0, 1), grey=st.booleans())
@settings(max_examples=25)
def test_only_the_smoothing_of_fine_luma_is_taken_back(seed: int, detail: float, grey: bool) -> None:
    rng = np.random.default_rng(seed)
    before = picture(24, 40, seed).astype(np.float32)
    after = before + rng.normal(0, 12, before.shape).astype(np.float32)
    if grey:
        before, after = before[..., 0], after[..., 0]
    kept = keep_detail(after, before, detail)

    def coefficients(pixels: np.ndarray) -> np.ndarray:
        luma = pixels if grey else pixels @ RGB_TO_YCC[0]
        blocks = luma.reshape(3, 8, 5, 8).swapaxes(1, 2)
        out: np.ndarray = dctn(blocks.astype(np.float64), axes=(2, 3), norm="ortho")
        return out

    old, new, found = map(coefficients, (before, after, kept))
    share = (1 - detail) * FINENESS_88
    wanted = np.where(np.abs(new) < np.abs(old), new + share * (old - new), new)
    close = np.abs(np.abs(new) - np.abs(old)) > 1e-2  # else rounding decides which is the smaller
    np.testing.assert_allclose(found[close], wanted[close], atol=2e-2)
    if not grey:
        np.testing.assert_allclose(ycc_from_rgb(kept)[..., 1:], ycc_from_rgb(after)[..., 1:], atol=1e-2)


def test_less_detail_followed_is_nearer_to_the_file(lively_restorer: Restorer) -> None:
    data = encoded(picture(80, 104), quality=20)
    results = [
        lively_restorer.restore(data, detail=d, consistency="strict", bit_depth=16).pixels / 257 for d in (1, 0.5, 0)
    ]
    file = decoded(data).astype(float)
    distances = [np.square(result - file).mean() for result in results]
    assert distances[0] > distances[1] > distances[2]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_detail_stays_within_the_cells_and_has_no_seams(sampling: str, lively_restorer: Restorer) -> None:
    data = encoded(picture(120, 136), sampling, quality=30)
    whole, tiled = (
        with_tiling(lively_restorer, core).restore(data, detail=0.3, consistency="strict", bit_depth=16).pixels
        for core in (1 << 20, 96)
    )
    assert np.abs(whole.astype(int) - tiled).max() <= 257 * 0.02 * 20
    verification = unjpeg.verify(data, whole)
    assert not verification.contradicts


# Dither


def test_the_pattern_is_even_and_fixed_to_its_place() -> None:
    whole = threshold_pattern(0, 0, (256, 256, 3))
    part = threshold_pattern(40, 72, (50, 60, 3))
    np.testing.assert_array_equal(whole[40:90, 72:132], part)
    assert np.abs(whole).max() < 0.5
    counts, _ = np.histogram(whole, bins=16, range=(-0.5, 0.5))
    assert counts.max() / counts.min() < 1.05
    means = whole[..., 0].reshape(32, 8, 32, 8).mean(axis=(1, 3))
    assert np.abs(means).max() < 0.04  # in every block: independent noise has 0.036 as its standard deviation
    alike = threshold_pattern(3, 5, (20, 30, 3), alike=True)
    assert (alike == alike[..., :1]).all()
    assert (threshold_pattern(3, 5, (20, 30)) == alike[..., 0]).all()


@given(level=st.floats(0, 255), top=st.integers(0, 10_000), left=st.integers(0, 10_000))
@settings(max_examples=40)
def test_a_flat_level_is_kept_on_average(level: float, top: int, left: int) -> None:
    out = dither_tile(np.full((64, 64), level, np.float32), top * 8, left * 8, None)
    assert set(np.unique(out)) <= {np.floor(level), np.ceil(level), np.rint(level)}
    assert abs(out.mean() - np.float32(level)) < 0.01


def test_whole_levels_stay_what_they_are() -> None:
    pixels = picture(64, 80)
    np.testing.assert_array_equal(dither_tile(pixels.astype(np.float32), 32, 64, None), pixels)


def test_a_slow_ramp_has_no_bands() -> None:
    """Its means over blocks follow the ramp to a tenth of a level, where rounding is off by nearly half of one."""
    ramp = np.broadcast_to(np.linspace(100, 104, 512, dtype=np.float32), (64, 512)).copy()

    def worst(pixels: np.ndarray) -> float:
        return float(np.abs((pixels - ramp).reshape(8, 8, 64, 8).mean(axis=(1, 3))).max())

    assert worst(np.rint(ramp)) > 0.4
    assert worst(dither_tile(ramp, 0, 0, None)) < 0.1


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("quality", [30, 97])
def test_what_is_dithered_verifies_and_has_no_seams(sampling: str, quality: int, lively_restorer: Restorer) -> None:
    data = encoded(picture(120, 136, low=20, high=235), sampling, quality=quality)
    whole, tiled = (
        with_tiling(lively_restorer, core).restore(data, dither=True, consistency="strict") for core in (1 << 20, 96)
    )
    assert whole.report.dithered
    assert unjpeg.verify(data, whole).consistency.share_inside == 1
    assert (whole.pixels != tiled.pixels).mean() < 0.02  # the network's own rounding
    plain = lively_restorer.restore(data, consistency="strict").pixels
    assert 0.1 < (whole.pixels != plain).mean() < 0.6
    assert np.abs(whole.pixels.astype(int) - plain).max() <= 1


def test_where_dithering_would_leave_the_cells_there_is_rounding() -> None:
    """A file of quality 100 whose cells hold one level, and a pattern that the tile is made to fall foul of."""
    data = encoded(picture(32, 48, low=90, high=160), "grey", quality=100)
    jpeg = JpegImage.decode(data)
    cells = (jpeg.components, jpeg.header.colour_space)
    exact = jpeg.pixels.astype(np.float32)
    pattern = threshold_pattern(0, 0, exact.shape)
    against = exact - np.copysign(np.float32(0.49), pattern)
    pushed = exact + np.sign(np.add.outer(np.arange(32), np.arange(48)) % 2 - 0.5).astype(np.float32)
    assert find_outliers(pushed, *cells).any()  # a checkerboard of one level is beyond them
    assert not find_outliers(exact, *cells).any()
    for tile in (against, exact):
        made = dither_tile(tile, 0, 0, cells)
        outliers = find_outliers(np.rint(tile + pattern), *cells)
        np.testing.assert_array_equal(made[outliers], np.rint(tile[outliers]))
        assert not measure_consistency(made.astype(np.uint8), *cells, jpeg.pixels).contradicts


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_outliers_are_those_that_verify_counts(sampling: str) -> None:
    data = encoded(picture(64, 96, low=60, high=190), sampling, quality=90)
    jpeg = JpegImage.decode(data)
    cells = (jpeg.components, jpeg.header.colour_space)
    rng = np.random.default_rng(1)
    inside = np.rint(project(jpeg.pixels.astype(np.float32), *cells)).astype(np.int16)
    changed = inside.copy()
    changed[16:24, 32:40] += rng.integers(-30, 31, changed[16:24, 32:40].shape, np.int16)
    found = find_outliers(changed.astype(np.float32), *cells)
    assert found[16:24, 32:40].all()
    assert found.sum() < found.size / 4
    assert measure_consistency(changed.astype(np.uint8), *cells, jpeg.pixels).contradicts
    mended = np.where(found if changed.ndim == 2 else found[..., None], inside, changed).astype(np.uint8)
    assert not measure_consistency(mended, *cells, jpeg.pixels).contradicts


def test_grey_in_three_channels_stays_grey(lively_restorer: Restorer) -> None:
    grey = picture(64, 80)[..., :1].repeat(3, axis=2)
    made = lively_restorer.restore(encoded(grey, "4:4:4", quality=30), dither=True).pixels
    assert (made == made[..., :1]).all()


def test_16_bits_are_not_dithered(lively_restorer: Restorer) -> None:
    data = encoded(picture(40, 48), quality=20)
    deep = lively_restorer.restore(data, dither=True, bit_depth=16)
    np.testing.assert_array_equal(deep.pixels, lively_restorer.restore(data, bit_depth=16).pixels)
    assert not deep.report.dithered


# Settings


@pytest.mark.parametrize("detail", [-0.1, 1.1, float("nan")])
def test_detail_out_of_range(detail: float) -> None:
    with pytest.raises(ValueError, match="detail must lie in"):
        Options(detail=detail)


def test_what_is_not_set_leaves_stored_keys_as_they_are(tiny_model: Path) -> None:
    """As journals have them: options, output's quality and stripping, model, version."""
    plain = Settings(str(tiny_model))
    first = ("strength", "quality", "consistency", "bit_depth", "salvage", "tta")
    relevant = {name: asdict(plain.options)[name] for name in first} | {"output_quality": None, "strip": False}
    relevant |= {"model": ModelFile.read(tiny_model).hash, "version": __version__}
    assert plain.fingerprint == hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]
    others = [
        replace(plain, options=Options(detail=0.5)),
        replace(plain, options=Options(dither=True)),
        replace(plain, output_size="input"),
        replace(plain, output_size=1000),
        replace(plain, tag=True),
    ]
    assert len({settings.fingerprint for settings in (plain, *others)}) == 6


def test_files_are_dithered_as_the_library_does(tiny_restorer: Restorer) -> None:
    data, stream = encoded(picture(40, 48), quality=20), io.BytesIO()
    options = Options(dither=True, detail=0.5)
    Settings(options=options).save(tiny_restorer.begin(data, options), stream, "png")
    np.testing.assert_array_equal(decoded(stream.getvalue()), tiny_restorer.restore(data, options).pixels)
