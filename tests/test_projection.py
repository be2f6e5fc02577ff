from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn, idctn

from jpegs import SAMPLINGS, beyond_cells, decoded, encoded, picture, saved
from unjpeg.dct import idct_blocks
from unjpeg.jpeg import NOTHING_SENT, Component, JpegImage
from unjpeg.projection import (
    NEAR_END,
    WINDOW,
    Calibration,
    Consistency,
    Trust,
    measure_consistency,
    measure_offsets,
    project,
    row_alignment,
)

SIZES = st.tuples(st.integers(1, 70), st.integers(1, 70))
seeds = st.integers(0, 2**32 - 1)
qualities = st.integers(1, 100)


def moved_away(pixels: NDArray[np.uint8], seed: int, by: float) -> NDArray[np.float32]:
    """Pixels with noise, float32, not clipped."""
    noise = np.random.default_rng(seed).normal(0, by, pixels.shape)
    return (pixels + noise).astype(np.float32)


def projected(pixels: NDArray[np.float32], jpeg: JpegImage, top: int = 0) -> NDArray[np.float32]:
    return project(pixels, jpeg.components, jpeg.header.colour_space, top)


def measured(pixels: NDArray[np.uint8] | NDArray[np.uint16], jpeg: JpegImage) -> Consistency:
    return measure_consistency(pixels, jpeg.components, jpeg.header.colour_space, jpeg.pixels)


def largest(excess: list[NDArray[np.float64]]) -> float:
    return max((float(part.max()) for part in excess if part.size), default=0.0)


# Projection


@given(SIZES, st.sampled_from(SAMPLINGS), qualities, seeds, st.sampled_from([0.5, 5.0, 60.0]))
@settings(max_examples=150, deadline=None)
def test_projected_coefficients_lie_in_their_cells(
    size: tuple[int, int], sampling: str, quality: int, seed: int, by: float
) -> None:
    jpeg = JpegImage.decode(encoded(picture(*size, seed), sampling, quality=quality))
    result = projected(moved_away(jpeg.pixels, seed, by), jpeg)
    assert result.shape == jpeg.pixels.shape
    assert result.dtype == np.float32
    assert largest(beyond_cells(result, jpeg.components)) < 5e-3


@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from(SAMPLINGS), qualities, seeds)
@settings(max_examples=50, deadline=None)
def test_projecting_twice_changes_nothing(rows: int, columns: int, sampling: str, quality: int, seed: int) -> None:
    """Of whole blocks: what an encoder repeats beyond the edge moves with the edge."""
    jpeg = JpegImage.decode(encoded(picture(rows * 16, columns * 32, seed), sampling, quality=quality))
    once = projected(moved_away(jpeg.pixels, seed, 20), jpeg)
    np.testing.assert_allclose(projected(once, jpeg), once, atol=1e-3)


@given(SIZES, st.sampled_from(SAMPLINGS), qualities, seeds)
@settings(max_examples=50, deadline=None)
def test_a_picture_inside_its_cells_is_left_alone(
    size: tuple[int, int], sampling: str, quality: int, seed: int
) -> None:
    """The middles of all cells: what a decoder computes before it rounds, clips and smooths the chroma."""
    jpeg = JpegImage.decode(encoded(picture(*size, seed), sampling, quality=quality))
    middles = [
        idctn(part.coefficients_VU88 * part.table_88.astype(float), axes=(2, 3), norm="ortho")
        for part in jpeg.components
    ]
    planes = [
        blocks.swapaxes(1, 2)
        .reshape(blocks.shape[0] * 8, blocks.shape[1] * 8)
        .repeat(part.scale[0], axis=0)
        .repeat(part.scale[1], axis=1)[: size[0], : size[1]]
        for blocks, part in zip(middles, jpeg.components, strict=True)
    ]
    if len(planes) == 1:
        inside = planes[0] + 128
    else:
        luma, blue, red = planes
        green = luma - (0.114 * 1.772 * blue + 0.299 * 1.402 * red) / 0.587
        inside = np.dstack([luma + 1.402 * red, green, luma + 1.772 * blue]) + 128
    change = np.abs(projected(inside.astype(np.float32), jpeg) - inside)
    rows, columns = (side // (8 * by) * 8 * by for side, by in zip(size, jpeg.components[-1].scale, strict=True))
    assert change[:rows, :columns].max(initial=0) < 5e-3


@given(SIZES, st.sampled_from(SAMPLINGS), qualities, seeds)
@settings(max_examples=80, deadline=None)
def test_the_true_original_is_hardly_moved(size: tuple[int, int], sampling: str, quality: int, seed: int) -> None:
    """Only by what the encoder's integers cost: rounded colour, averaged chroma."""
    original = picture(*size, seed)
    if sampling == "grey":
        original = original[..., 1]
    jpeg = JpegImage.decode(encoded(original, sampling, quality=quality))
    change = np.abs(projected(original.astype(np.float32), jpeg) - original)
    assert change.mean() < 0.7
    assert change.max() < 3


def test_what_moved_away_from_the_original_comes_nearer_to_it() -> None:
    original = picture(96, 96, 5)
    for quality in (10, 50, 90):
        jpeg = JpegImage.decode(encoded(original, "4:2:0", quality=quality))
        far = projected(moved_away(original, 0, 10), jpeg)
        assert np.abs(far - original).mean() < np.abs(moved_away(original, 0, 10) - original).mean()


@given(st.sampled_from(SAMPLINGS), st.integers(17, 90), st.integers(1, 40), seeds)
@settings(max_examples=50, deadline=None)
def test_strips_give_what_the_whole_gives(sampling: str, height: int, width: int, seed: int) -> None:
    jpeg = JpegImage.decode(encoded(picture(height, width, seed), sampling, quality=30))
    away = moved_away(jpeg.pixels, seed, 15)
    step = row_alignment(jpeg.components)
    assert step == 8 * max(component.scale[0] for component in jpeg.components)
    strips = [projected(away[top : top + step], jpeg, top) for top in range(0, height, step)]
    np.testing.assert_allclose(np.concatenate(strips), projected(away, jpeg), atol=1e-3)


def test_rgb_files_are_projected_in_rgb() -> None:
    jpeg = JpegImage.decode(saved(picture(33, 50), keep_rgb=True, quality=20))
    result = projected(moved_away(jpeg.pixels, 0, 20), jpeg)
    assert largest(beyond_cells(result, jpeg.components, "RGB")) < 5e-3


def test_detail_beyond_the_chroma_s_resolution_stays() -> None:
    jpeg = JpegImage.decode(encoded(np.full((16, 16, 3), 128, np.uint8), "4:2:0", quality=50))
    checks = np.indices((16, 16)).sum(axis=0) % 2 * 40 - 20
    pixels = np.full((16, 16, 3), 128, np.float32)
    pixels[..., 0] += checks  # moves the luma as well, but no chroma sample
    pixels[..., 1] -= checks * np.float32(0.299 / 0.587)
    np.testing.assert_allclose(projected(pixels, jpeg), pixels, atol=0.05)


def test_the_argument_is_left_as_it_was() -> None:
    for sampling in ("grey", "4:4:4"):
        jpeg = JpegImage.decode(encoded(picture(20, 20), sampling, quality=20))
        away = moved_away(jpeg.pixels, 0, 30)
        before = away.copy()
        projected(away, jpeg)
        np.testing.assert_array_equal(away, before)


# Trust

ALL, NONE = np.ones((2, 2, 8, 8), np.float32), np.zeros((2, 2, 8, 8), np.float32)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def trusted(pixels: NDArray[np.float32], jpeg: JpegImage, shares: NDArray[np.float32]) -> NDArray[np.float32]:
    return project(pixels, jpeg.components, jpeg.header.colour_space, trust=Trust(jpeg.pixels, shares))


def some_shares(seed: int) -> NDArray[np.float32]:
    """As uneven as they may be: inner ones of up to 2, and what that leaves for the outer ones."""
    inner, outer = np.random.default_rng(seed).random((2, 2, 8, 8), np.float32)
    return np.stack([2 * inner, (2 - 2 * inner) * outer], axis=1)


@given(SIZES, st.sampled_from(SAMPLINGS), qualities, seeds, st.sampled_from([0.5, 5.0, 60.0]))
@settings(max_examples=60, deadline=None)
def test_whatever_the_trust_coefficients_lie_in_their_cells(
    size: tuple[int, int], sampling: str, quality: int, seed: int, by: float
) -> None:
    jpeg = JpegImage.decode(encoded(picture(*size, seed), sampling, quality=quality))
    moved = moved_away(jpeg.pixels, seed, by)
    kept = moved.copy()
    result = trusted(moved, jpeg, some_shares(seed))
    assert result.shape == jpeg.pixels.shape
    assert result.dtype == np.float32
    assert largest(beyond_cells(result, jpeg.components)) < 5e-3
    np.testing.assert_array_equal(moved, kept)


@given(SIZES, st.sampled_from(["grey", "4:4:4"]), qualities, seeds)
@settings(max_examples=30, deadline=None)
def test_full_trust_at_full_resolution_is_the_nearest_picture(
    size: tuple[int, int], sampling: str, quality: int, seed: int
) -> None:
    jpeg = JpegImage.decode(encoded(picture(*size, seed), sampling, quality=quality))
    moved = moved_away(jpeg.pixels, seed, 10)
    np.testing.assert_allclose(trusted(moved, jpeg, ALL), projected(moved, jpeg), atol=1e-2)


@pytest.mark.parametrize("sampling", ["grey", "4:4:4"])
def test_without_trust_nothing_of_the_network_is_left(sampling: str) -> None:
    jpeg = JpegImage.decode(encoded(picture(48, 64), sampling, quality=30))
    one, two = (trusted(moved_away(jpeg.pixels, seed, 30), jpeg, NONE) for seed in (1, 2))
    np.testing.assert_allclose(one, two, atol=1e-2)
    inside = (one > 0) & (one < 255)
    assert np.abs(one - jpeg.pixels)[inside].max() < 2  # the cells' middles, as the decoder rounds them


def test_shares_are_of_the_way_from_the_middle() -> None:
    jpeg = JpegImage.decode(encoded(picture(48, 64), "4:4:4", quality=30))
    moved = moved_away(jpeg.pixels, 3, 10)
    middle, half, full = (trusted(moved, jpeg, np.float32(share) * ALL) for share in (0, 0.5, 1))
    np.testing.assert_allclose(half, (middle + full) / 2, atol=1e-2)
    luma_alone = trusted(moved, jpeg, np.stack([ALL[0], NONE[1]]))
    np.testing.assert_allclose(luma_alone @ LUMA, full @ LUMA, atol=1e-2)
    assert np.abs(luma_alone - full).max() > 1


def test_the_inner_half_of_a_cell_has_its_own_share() -> None:
    jpeg = JpegImage.decode(encoded(picture(48, 64), "grey", quality=30))
    component = jpeg.components[0]
    middle = trusted(jpeg.pixels.astype(np.float32), jpeg, NONE)
    step = np.zeros((8, 8), np.float32)
    step[2, 3] = component.table_88[2, 3]
    shares = NONE.copy()
    shares[0, 0], shares[0, 1] = 1.5, 0.25
    for offset, expected in ((0.1, 0.15), (0.25, 0.375), (-0.25, -0.375), (0.35, 0.4), (0.5, 0.4375), (3.0, 0.4375)):
        moved, ends = (middle + np.tile(idct_blocks(share * step), (6, 8)) for share in (offset, expected))
        np.testing.assert_allclose(trusted(moved, jpeg, shares), ends, atol=1e-2)


@given(st.sampled_from(SAMPLINGS), st.integers(33, 140), st.integers(1, 80), seeds)
@settings(max_examples=40, deadline=None)
def test_strips_give_what_the_whole_gives_with_trust(sampling: str, height: int, width: int, seed: int) -> None:
    jpeg = JpegImage.decode(encoded(picture(height, width, seed), sampling, quality=40))
    moved, shares = moved_away(jpeg.pixels, seed, 20), some_shares(seed)
    strips = []
    for top in range(0, height, 2 * WINDOW):
        rows = slice(top, top + 2 * WINDOW)
        trust = Trust(jpeg.pixels[rows], shares)
        strips.append(project(moved[rows], jpeg.components, jpeg.header.colour_space, top, trust=trust))
    np.testing.assert_allclose(np.concatenate(strips), trusted(moved, jpeg, shares), atol=1e-2)


@pytest.mark.parametrize("sampling", ["4:2:2", "4:2:0", "4:4:0", "4:1:1"])
def test_detail_of_chroma_is_believed_where_the_cells_bear_the_network_out(sampling: str) -> None:
    """A network that keeps to the cells keeps its detail; one that leaves them far behind loses it there."""
    jpeg = JpegImage.decode(encoded(picture(64, 128, 5, low=90, high=160), sampling, quality=90))
    fine = np.zeros(jpeg.pixels.shape, np.float32)
    fine[:, :, 2] = 3 * (np.indices(fine.shape[:2]).sum(axis=0) % 2 * 2 - 1)  # the mean is 0 at every sampling
    honest = projected(jpeg.pixels.astype(np.float32), jpeg) + fine
    np.testing.assert_allclose(trusted(honest, jpeg, ALL), projected(honest, jpeg), atol=0.5)
    wild = honest.copy()
    wild[:, 64:, 2] += 80  # far out of its cells, on the right only
    taken_back = (projected(wild, jpeg) - trusted(wild, jpeg, ALL))[:, :, 2]
    assert np.abs(taken_back[:, :64]).max() < 0.5
    in_blue = (taken_back * fine[:, :, 2])[:, 64:].mean() / np.square(fine[:, 64:, 2]).mean()
    assert 0.7 < in_blue < 1  # what the blue's luma has of it stays


def test_nothing_changed_is_nothing_doubted() -> None:
    jpeg = JpegImage.decode(encoded(picture(40, 72), "4:2:0", quality=100))
    same = jpeg.pixels.astype(np.float32)
    np.testing.assert_allclose(trusted(same, jpeg, ALL), projected(same, jpeg), atol=1e-3)


def test_measured_offsets_are_normal_equations() -> None:
    """A network that goes half as far as it should, inside wide cells, is to be followed twice as far."""
    original = picture(64, 64, 2, low=100, high=150)
    jpeg = JpegImage.decode(encoded(original, "4:4:4", quality=20))
    middle = trusted(jpeg.pixels.astype(np.float32), jpeg, NONE)
    for factor, share in ((0.5, 2.0), (1.0, 1.0)):
        restored = middle + np.float32(factor) * (original - middle)
        sums = measure_offsets(restored, original, jpeg.components, jpeg.header.colour_space)
        np.testing.assert_allclose(sums.products.sum(1) / sums.squares.sum((1, 2)), share, rtol=0.02)
    np.testing.assert_array_equal(sums.squares, sums.squares.swapaxes(1, 2))
    assert (sums.squares[:, 0, 1] > 0).any()
    too_far = middle + np.float32(1000) * (original - middle)
    sums = measure_offsets(too_far, original, jpeg.components, jpeg.header.colour_space)
    quarters = np.stack([jpeg.components[kind].table_88.astype(float) / 4 for kind in (0, 1)])
    most = np.array([1, 2])[:, None, None] * 64 * quarters**2 * 1.001  # 64 blocks; two of chroma
    assert (sums.squares <= most[:, None, None]).all()
    assert (sums.products.sum(1) < sums.squares.sum((1, 2))).all()


def test_a_calibration_is_interpolated_and_held_at_its_ends() -> None:
    shares = np.stack([np.full((2, 2, 2, 8, 8), value, np.float32) for value in (0.2, 0.4, 1.0)])
    shares[:, 1] /= 2
    calibration = Calibration((10, 50, 90), shares)
    for sampling in SAMPLINGS:
        components = JpegImage.decode(encoded(picture(16, 16), sampling)).components
        divisor = 2 if sampling == "4:4:4" else 1
        for quality, share in ((1, 0.2), (10, 0.2), (30, 0.3), (50, 0.4), (70, 0.7), (90, 1.0), (100, 1.0)):
            np.testing.assert_allclose(calibration.at(quality, components), np.float32(share / divisor), rtol=1e-6)


# Consistency


@given(SIZES, st.sampled_from(["grey", "4:4:4"]), qualities, seeds)
@settings(max_examples=80, deadline=None)
def test_the_decoded_picture_is_consistent(size: tuple[int, int], sampling: str, quality: int, seed: int) -> None:
    jpeg = JpegImage.decode(encoded(picture(*size, seed, low=40, high=215), sampling, quality=quality))
    result = measured(jpeg.pixels, jpeg)
    assert result.is_consistent == result.can_tell == (min(size) >= 8)
    assert result.share_inside == 1.0
    assert [part.worst_block for part in result.components] == [None] * len(result.components)


@given(SIZES, st.sampled_from(SAMPLINGS), qualities, seeds, st.sampled_from([8, 16]))
@settings(max_examples=80, deadline=None)
def test_a_projected_picture_is_consistent_when_rounded(
    size: tuple[int, int], sampling: str, quality: int, seed: int, bits: int
) -> None:
    jpeg = JpegImage.decode(encoded(picture(*size, seed), sampling, quality=quality))
    unclipped = projected(moved_away(jpeg.pixels, seed, 10), jpeg)
    result = unclipped.clip(0, 255)
    # What clips far from where the file's own pixels come near black or white is nothing that clipping excuses.
    far = (jpeg.pixels >= NEAR_END) & (jpeg.pixels <= 255 - NEAR_END)
    assume(not (far & (result != unclipped)).any())
    stored = np.rint(result) if bits == 8 else np.rint(result * np.float32(257))
    checked = measured(stored.astype(np.uint8) if bits == 8 else stored.astype(np.uint16), jpeg)
    assert checked.share_inside == 1.0
    assert checked.is_consistent == checked.can_tell


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_every_coefficient_is_counted_once(sampling: str) -> None:
    original = picture(70, 90, low=60, high=190)
    original[17:24, 17:24] = 250
    jpeg = JpegImage.decode(encoded(original, sampling, quality=80))
    pixels = jpeg.pixels.clip(10, 245)
    pixels[20, 20] = 255  # one block that clips
    parts = measured(pixels, jpeg).components
    assert [part.name for part in parts] == (["Y"] if sampling == "grey" else ["Y", "Cb", "Cr"])
    for part, component in zip(parts, jpeg.components, strict=True):
        down, across = component.scale
        assert part.checked + part.checked_clipped == (70 // (8 * down)) * (90 // (8 * across)) * 64
        assert part.checked_clipped == 64
        assert part.blocks_at_edge == component.coefficients_VU88[..., 0, 0].size - part.checked // 64 - 1
        assert part.inside <= part.checked
        assert part.inside_clipped <= part.checked_clipped


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("sampling", ["grey", "4:4:4"])
def test_the_worst_block_is_found_in_any_strip(sampling: str, bits: int) -> None:
    """Taller than what is worked through at once."""
    jpeg = JpegImage.decode(encoded(picture(1100, 24, low=60, high=190), sampling, quality=50))
    pixels: NDArray[np.uint8] | NDArray[np.uint16] = jpeg.pixels.copy()
    if bits == 16:
        pixels = pixels.astype(np.uint16) * np.uint16(257)
    assert measured(pixels, jpeg).is_consistent
    step = 1 if bits == 8 else 257
    pixels[8 * 3 : 8 * 4, 8:16] += np.uint8(10) * pixels.dtype.type(step)
    pixels[8 * 130 : 8 * 131, 8:16] += np.uint8(30) * pixels.dtype.type(step)
    result = measured(pixels, jpeg)
    luma = result.components[0]
    assert not result.is_consistent
    assert luma.checked - luma.inside == 2  # the DC of both
    assert luma.worst_block == (130, 1)
    # The block's DC moved by 240 from somewhere in its cell; the tolerance of an 8-bit DC is 4.
    table = int(jpeg.components[0].table_88[0, 0])
    assert luma.worst_excess == pytest.approx((240 - (4 if bits == 8 else 4 / 257)) / table - 0.5, abs=0.6)
    assert result.share_inside == pytest.approx(1 - 2 / sum(part.checked for part in result.components))


def test_another_picture_is_not_consistent() -> None:
    jpeg = JpegImage.decode(encoded(picture(64, 64, 1, low=60, high=190), "4:2:0", quality=50))
    other = picture(64, 64, 2, low=60, high=190)
    assert not measured(other, jpeg).is_consistent
    assert measured(other, jpeg).contradicts
    assert measured(other, jpeg).share_inside < 0.99
    flipped = np.ascontiguousarray(jpeg.pixels[:, ::-1])
    assert not measured(flipped, jpeg).is_consistent


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_black_and_white_are_no_excuse(value: int, dtype: type[np.uint8 | np.uint16]) -> None:
    """Clipping excuses only what the file itself has near the end of the range."""
    jpeg = JpegImage.decode(encoded(picture(64, 64, low=60, high=190), "4:2:0", quality=50))
    other: NDArray[Any] = np.full(jpeg.pixels.shape, value * (np.iinfo(dtype).max // 255), dtype)
    assert not measured(other, jpeg).is_consistent
    half = jpeg.pixels.copy()
    half[32:] = value
    assert not measured(half, jpeg).is_consistent


def test_what_clips_everywhere_can_be_consistent_if_it_fits() -> None:
    white = np.full((32, 32, 3), 255, np.uint8)
    jpeg = JpegImage.decode(encoded(white, "4:2:0", quality=50))
    result = measured(white, jpeg)
    assert [part.checked for part in result.components] == [0, 0, 0]
    assert result.can_tell
    assert result.is_consistent


def test_too_small_for_a_whole_block_says_nothing() -> None:
    jpeg = JpegImage.decode(encoded(picture(7, 20), "grey"))
    result = measured(picture(7, 20, 3)[..., 0], jpeg)
    assert not result.can_tell
    assert not result.is_consistent
    assert not result.contradicts
    assert result.share_inside == 1.0
    assert result.components[0].checked == 0
    assert result.components[0].blocks_at_edge == 3


def test_sixteen_bits_have_the_smaller_tolerance() -> None:
    """What rounding to 8 bits may move, a 16-bit picture may not."""
    original = picture(64, 64, 4, low=60, high=190)[..., 0]
    jpeg = JpegImage.decode(encoded(original, "grey", quality=100))
    decoded_again = decoded(encoded(original, "grey", quality=100))
    assert measured(decoded_again, jpeg).is_consistent
    assert not measured(decoded_again.astype(np.uint16) * np.uint16(257), jpeg).is_consistent


def test_colour_conversion_and_its_rounding_stay_within_the_tolerance() -> None:
    """A 4:4:4 file's own pixels at the finest quantisation there is."""
    flat = Image.new("RGB", (16, 16), (200, 30, 90))
    jpeg = JpegImage.decode(saved(flat, quality=100, subsampling="4:4:4"))
    assert measured(jpeg.pixels, jpeg).is_consistent


# Cells that are not half a step either way

WHOLE = (slice(None), slice(None))


def with_cells(jpeg: JpegImage, **changes: Any) -> JpegImage:
    """The same with other cells of its first component."""
    return replace(jpeg, components=(replace(jpeg.components[0], **changes), *jpeg.components[1:]))


def test_cells_are_half_a_step_either_way() -> None:
    component = JpegImage.decode(encoded(picture(40, 56), "grey", quality=30)).components[0]
    low, high = component.cells(slice(1, 3), slice(2, 9))
    expected = component.coefficients_VU88[1:3, 2:9].astype(float)
    assert low.dtype == high.dtype == np.float32
    np.testing.assert_array_equal(low, (expected - 0.5) * component.table_88)
    np.testing.assert_array_equal(high, (expected + 0.5) * component.table_88)


@given(st.integers(0, 13), seeds)
def test_cells_hold_what_was_cut_off_and_nothing_else(bits: int, seed: int) -> None:
    """DC's low bits are shifted out; of all others they are cut off the magnitude."""
    whole = np.random.default_rng(seed).integers(-4000, 4000, (9, 9, 8, 8)) >> np.random.default_rng(seed).integers(12)
    sent = np.sign(whole) * (np.abs(whole) >> bits << bits)
    sent[..., 0, 0] = whole[..., 0, 0] >> bits << bits
    component = Component(sent.astype(np.int16), np.full((8, 8), 3, np.uint16), (1, 1), None, np.full((8, 8), bits))
    low, high = component.cells(*WHOLE)
    assert (low <= 3 * (whole - 0.5)).all()
    assert (high >= 3 * (whole + 0.5)).all()
    width = np.where((sent == 0) & (np.arange(64).reshape(8, 8) > 0), 2 * (2**bits - 1), 2**bits - 1)
    np.testing.assert_array_equal(high - low, 3.0 * (width + 1))


def test_what_was_never_sent_is_unbounded_and_not_checked() -> None:
    original = picture(48, 64, low=60, high=190)[..., 1]
    jpeg = JpegImage.decode(encoded(original, "grey", quality=60))
    unsent = np.full((8, 8), NOTHING_SENT, np.uint8)
    unsent[0, 0] = 0
    only_dc = with_cells(jpeg, unsent_bits_88=unsent)
    other = np.kron(original.reshape(6, 8, 8, 8).mean(axis=(1, 3)).round().astype(np.uint8), np.ones((8, 8), np.uint8))
    result = measured(other, only_dc)
    assert result.is_consistent
    assert result.components[0].checked == 6 * 8
    other[16:24, 8:16] += 20
    result = measured(other, only_dc)
    assert result.components[0].inside == 6 * 8 - 1
    assert result.components[0].worst_block == (2, 1)
    nothing = with_cells(jpeg, unsent_bits_88=np.full((8, 8), NOTHING_SENT, np.uint8))
    assert not measured(other, nothing).can_tell
    moved = moved_away(original, 1, 20)
    np.testing.assert_allclose(projected(moved, nothing), moved, atol=1e-3)
    np.testing.assert_allclose(trusted(moved, nothing, some_shares(1)), moved, atol=1e-3)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_explicit_cells_are_clamped_to_and_nothing_more(sampling: str, dtype: type[np.floating]) -> None:
    jpeg = JpegImage.decode(encoded(picture(48, 64), sampling, quality=30))
    low, high = (bound.astype(dtype) for bound in jpeg.components[0].cells(*WHOLE))
    low[:, :, 2, 3], high[:, :, 4:, 4:] = -np.inf, np.inf
    high[1, 1, :3, :3] += 100
    jpeg = with_cells(jpeg, bounds=(low, high))
    moved = moved_away(jpeg.pixels, 2, 30)
    for result in (projected(moved, jpeg), trusted(moved, jpeg, NONE)):
        luma = result if result.ndim == 2 else result @ LUMA
        coefficients = dctn(luma.reshape(6, 8, 8, 8).swapaxes(1, 2) - 128.0, axes=(2, 3), norm="ortho")
        assert (np.maximum(low - coefficients, coefficients - high) < 5e-3).all()
    assert measured(np.rint(projected(moved, jpeg).clip(0, 255)).astype(np.uint8), jpeg).share_inside > 0.99
    # Untrusted, a coefficient goes to its cell's middle, but only where the cell is the usual one.
    free = np.isinf(high)
    wide = dctn(
        (moved if moved.ndim == 2 else moved @ LUMA).reshape(6, 8, 8, 8).swapaxes(1, 2) - 128.0,
        axes=(2, 3),
        norm="ortho",
    )
    expected = np.maximum(wide, low)
    np.testing.assert_allclose(coefficients[free], expected[free], atol=0.05)


def test_explicit_cells_that_are_the_usual_ones_change_nothing() -> None:
    jpeg = JpegImage.decode(encoded(picture(48, 64), quality=30))
    explicit = with_cells(jpeg, bounds=jpeg.components[0].cells(*WHOLE))
    moved, shares = moved_away(jpeg.pixels, 2, 30), some_shares(3)
    np.testing.assert_array_equal(trusted(moved, explicit, shares), trusted(moved, jpeg, shares))
    sums = [measure_offsets(moved, jpeg.pixels, each.components, "YCbCr") for each in (jpeg, explicit)]
    np.testing.assert_array_equal(sums[0].products, sums[1].products)
    wide = jpeg.components[0].cells(*WHOLE)
    unusual = with_cells(jpeg, bounds=(wide[0] - 1, wide[1] + 1))
    assert not measure_offsets(moved, jpeg.pixels, unusual.components, "YCbCr").products[0].any()
