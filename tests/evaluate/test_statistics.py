"""Intervals and paired differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("skimage")

from unjpeg.evaluate.statistics import estimate_difference, estimate_mean, find_half_width


def test_intervals_cover_what_they_should() -> None:
    """Of 95 % intervals of samples with a known mean, about 95 % hold it."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        sample = rng.normal(5, 2, 40)
        found = estimate_mean(sample.tolist())
        assert found.low < found.mean < found.high
        hits += found.low <= 5 <= found.high
    assert 180 <= hits <= 198
    assert (estimate_mean([3.0]).low, estimate_mean([3.0]).high) == (3, 3)


def test_intervals_of_three_trainings_cover_what_they_should() -> None:
    samples = np.random.default_rng(3).normal(5, 2, (2000, 3))
    half = [find_half_width(float(sample.std(ddof=1)), 3) for sample in samples]
    assert 0.94 <= np.mean(np.abs(samples.mean(axis=1) - 5) <= half) <= 0.96
    assert find_half_width(1.0, 3) == pytest.approx(4.3027 / 3**0.5, abs=1e-4)
    with pytest.raises(ValueError, match="one training"):
        find_half_width(1.0, 1)


def test_paired_differences_are_surer_than_two_means() -> None:
    rng = np.random.default_rng(2)
    hard = rng.normal(27, 3, 29)
    ours, theirs = hard + 0.3 + rng.normal(0, 0.05, 29), hard
    found = estimate_difference(ours.tolist(), theirs.tolist())
    assert found.low > 0.25
    assert estimate_mean(ours.tolist()).low < estimate_mean(theirs.tolist()).high
    assert (found.lower, found.pictures) == (0, 29)
    back = estimate_difference(theirs.tolist(), ours.tolist())
    assert back.mean == pytest.approx(-found.mean)
    assert back.lower == 29


def test_equal_pictures_make_no_nonsense() -> None:
    assert math.isinf(estimate_mean([30.0, math.inf]).mean)
    assert math.isnan(estimate_mean([30.0, math.inf]).low)
    assert estimate_difference([math.inf, 30], [math.inf, 29]).mean == 0.5
    for values in ([], [1.0]):
        with pytest.raises(ValueError, match=r"figures|same pictures"):
            estimate_difference(values, [])
