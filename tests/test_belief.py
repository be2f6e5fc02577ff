"""What a network did to blocks, and how far that is believed."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from jpegs import encoded, picture
from unjpeg import Restorer
from unjpeg.belief import EVIDENCE, BlockChange, Judge, gather_evidence, load_judges, measure_caution, weigh_evidence
from unjpeg.jpeg import JpegImage
from unjpeg.projection import Trust, measure_consistency, project

SIDES = st.integers(1, 13)
WINDOWS = st.sampled_from([(1, 1), (2, 2), (4, 4), (4, 2)])
seeds = st.integers(0, 2**32 - 1)


def change(rows: int, columns: int, window: tuple[int, int], seed: int, by: float = 1.0) -> BlockChange:
    rng = np.random.default_rng(seed)
    half = rng.integers(1, 60, (8, 8)).astype(np.float32) * np.float32(0.5)
    centre = np.rint(rng.normal(0, 2, (rows, columns, 8, 8))).astype(np.float32) * (half + half)
    moved = rng.normal(0, by, (rows, columns, 8, 8)).astype(np.float32) * half
    return BlockChange(moved, np.clip(moved, -half, half), centre, half, window)


def constant_judge(belief: float) -> Judge:
    """Says the same of everything."""
    count = len(EVIDENCE)
    nothing = np.zeros(count, np.float32)
    final = np.array([np.log(belief / (1 - belief))], np.float32)
    return Judge(
        nothing,
        nothing + 1,
        (np.zeros((count, 2), np.float32), np.zeros((2, 2), np.float32), np.zeros((2, 1), np.float32)),
        (np.zeros(2, np.float32), np.zeros(2, np.float32), final),
    )


@given(SIDES, SIDES, WINDOWS, seeds, st.sampled_from([0.0, 1e-3, 0.3, 5.0, 1e4]))
def test_any_change_is_believed_from_not_at_all_to_wholly(
    rows: int, columns: int, window: tuple[int, int], seed: int, by: float
) -> None:
    evidence = gather_evidence(change(rows, columns, window, seed, by))
    assert evidence.shape == (rows, columns, len(EVIDENCE))
    assert evidence.dtype == np.float32
    assert np.isfinite(evidence).all()
    for judge in load_judges():
        belief = weigh_evidence(judge, evidence)
        assert belief.shape == (rows, columns)
        assert belief.dtype == np.float32
        assert belief.min() >= 0
        assert belief.max() <= 1


@given(SIDES, SIDES, WINDOWS, seeds)
def test_bands_of_whole_windows_tell_the_same(rows: int, columns: int, window: tuple[int, int], seed: int) -> None:
    """So a picture that is worked on in parts comes out the same."""
    whole = change(rows, columns, window, seed)
    evidence = gather_evidence(whole)
    down, across = window
    for top in range(0, rows, 2 * down):
        for left in range(0, columns, 2 * across):
            part = slice(top, top + 2 * down), slice(left, left + 2 * across)
            alone = whole._replace(
                moved_VU88=whole.moved_VU88[part], held_VU88=whole.held_VU88[part], centre_VU88=whole.centre_VU88[part]
            )
            np.testing.assert_allclose(gather_evidence(alone), evidence[part], rtol=1e-4, atol=1e-4)


def test_doubt_counts_where_compression_is_weak() -> None:
    """Strongly compressed files are followed as without judges."""
    cautions = [measure_caution(quality) for quality in range(1, 101)]
    assert cautions == sorted(cautions)
    assert cautions[:30] == [0] * 30
    assert cautions[59:] == [1] * 41


def test_evidence_says_what_its_names_say() -> None:
    """One block in a window of its own, by hand."""
    half = np.full((8, 8), 4, np.float32)
    zero = np.zeros((1, 1, 8, 8), np.float32)
    moved, centre = zero.copy(), zero.copy()
    moved[..., 0, 1], moved[..., 7, 7] = 12, -2  # three half steps, and half of one
    centre[..., 0, 0], centre[..., 0, 1], centre[..., 5, 6] = 80, -16, 8
    held = np.clip(moved, -half, half)
    found = dict(zip(EVIDENCE, gather_evidence(BlockChange(moved, held, centre, half, (1, 1)))[0, 0], strict=True))
    kept = (12 * 4 + 2 * 2) / (12**2 + 2**2)
    expected = {
        "energy kept in the cells, of the block": kept,
        "energy in steps kept, of the block": (3 * 1 + 0.5 * 0.5) / (3**2 + 0.5**2),
        "energy kept in the cells": kept,
        "energy in steps kept": (3 * 1 + 0.5 * 0.5) / (3**2 + 0.5**2),
        "coefficients out of their cells": 1 / 64,
        "offset in the cells, half steps": np.sqrt((1 + 0.25) / 64),
        "coefficients that are not zero": 2 / 63,
        "coefficients that are not zero, of the block": 2 / 63,
        "energy of the coefficients": np.log10(1 + 16**2 + 8**2) / 5,
        "share of fine ones in it": 8**2 / (16**2 + 8**2),
        "how far it was made weaker": 4 * 16 / np.sqrt((4**2 + 2**2) * (16**2 + 8**2)),
        "spread of the blocks' means, steps": 0,
        "step": np.log2(8) / 4,
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-5), name


def test_the_spread_of_means_is_of_the_window() -> None:
    still = change(4, 8, (4, 4), 1)
    centre = still.centre_VU88.copy()
    centre[..., 0, 0] = 2 * still.half_88[0, 0] * np.where(np.arange(8) < 4, 7, np.arange(8))  # the left one is even
    spread = gather_evidence(still._replace(centre_VU88=centre))[
        ..., EVIDENCE.index("spread of the blocks' means, steps")
    ]
    np.testing.assert_allclose(spread[:, :4], 0, atol=1e-3)
    np.testing.assert_allclose(spread[:, 4:], np.log1p(np.std([4, 5, 6, 7])), atol=1e-3)


HALF_BELIEF: Final = 0.5


@pytest.mark.parametrize("sampling", ["grey", "4:4:4"])
def test_what_is_half_believed_goes_half_way(sampling: str) -> None:
    jpeg = JpegImage.decode(encoded(picture(48, 64), sampling, quality=30))
    moved = (jpeg.pixels + np.random.default_rng(3).normal(0, 10, jpeg.pixels.shape)).astype(np.float32)
    shares = np.ones((2, 2, 8, 8), np.float32)

    def come_to(shares: NDArray[np.float32], belief: float | None, caution: float = 1) -> NDArray[np.float32]:
        judges = None if belief is None else (constant_judge(belief), constant_judge(belief))
        trust = Trust(jpeg.pixels, shares, judges, caution)
        return project(moved, jpeg.components, jpeg.header.colour_space, trust=trust)

    middle, full = come_to(0 * shares, None), come_to(shares, None)
    np.testing.assert_allclose(come_to(shares, HALF_BELIEF), (middle + full) / 2, atol=1e-2)
    np.testing.assert_allclose(come_to(shares, 1 - 1e-6), full, atol=1e-2)
    np.testing.assert_allclose(come_to(shares, HALF_BELIEF, 0.5), middle / 4 + full * 3 / 4, atol=1e-2)


@pytest.mark.parametrize("quality", [75, 95])
@pytest.mark.parametrize("sampling", ["4:2:0", "4:4:4"])
def test_even_colours_stay_as_decoded_beside_a_picture(quality: int, sampling: str) -> None:
    """A logo's ground is not speckled, so it stays small as a PNG. The rest is restored."""
    pixels = np.full((160, 203, 3), (200, 30, 40), np.uint8)
    pixels[40:100, 40:130] = picture(60, 90, 4)
    data = encoded(pixels, sampling, quality=quality)
    decoded = JpegImage.decode(data).pixels
    restored = Restorer("fast").restore(data).pixels
    np.testing.assert_array_equal(restored[128:], decoded[128:])
    np.testing.assert_array_equal(restored[:, 160:], decoded[:, 160:])
    assert (restored[40:100, 40:130] != decoded[40:100, 40:130]).any()


@pytest.mark.parametrize("quality", [90, 100])
def test_even_colours_of_16_bits_stay_true_to_the_file(quality: int) -> None:
    """Decoded levels are whole, and the file knows more of them than that."""
    pixels = np.full((96, 128, 3), (200, 30, 40), np.uint8)
    pixels[:40, :50] = picture(40, 50, 4)
    data = encoded(pixels, quality=quality)
    jpeg = JpegImage.decode(data)
    for bit_depth in (8, 16):
        restored = Restorer("fast").restore(data, bit_depth=bit_depth, consistency="strict")
        assert restored.report.projected
        found = measure_consistency(restored.pixels, jpeg.components, jpeg.header.colour_space, jpeg.pixels)
        assert found.is_consistent, bit_depth


def test_even_colours_may_change_where_the_file_ended_before_it_told_them_finely() -> None:
    jpeg = JpegImage.decode(encoded(np.full((64, 64, 3), 90, np.uint8), quality=90))
    moved = jpeg.pixels + np.float32(0.7)
    trust = Trust(jpeg.pixels, np.ones((2, 2, 8, 8), np.float32), keeps_even=True)
    even = project(moved, jpeg.components, jpeg.header.colour_space, trust=trust)
    np.testing.assert_array_equal(even, jpeg.pixels)
    bits = np.full((8, 8), 2, np.uint8)
    cut = [replace(component, unsent_bits_88=bits) for component in jpeg.components]
    assert (project(moved, cut, jpeg.header.colour_space, trust=trust) > jpeg.pixels + 0.5).all()


def test_even_colours_may_change_where_steps_are_coarse() -> None:
    """There they may stand for a sky's slow change, and the steps between blocks are to go."""
    ramp = np.repeat(np.linspace(90, 130, 256)[None, :, None], 128, axis=0).repeat(3, axis=2)
    data = encoded(ramp.round().astype(np.uint8), "4:2:0", quality=10)
    decoded = JpegImage.decode(data).pixels.astype(np.float64)
    restored = Restorer("fast").restore(data).pixels
    assert np.square(restored - ramp).mean() < 0.8 * np.square(decoded - ramp).mean()
