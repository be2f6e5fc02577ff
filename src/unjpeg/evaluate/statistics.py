"""How sure a mean over pictures is: bootstrap intervals, and differences between methods on the same pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["Difference", "Interval", "estimate_difference", "estimate_mean", "find_half_width"]

RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over pictures and its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference(Interval):
    """How much more one method has than another, picture by picture.

    Attributes:
        lower: pictures where it has less.
        pictures: that both were measured on.
    """

    lower: int
    pictures: int


def estimate_mean(values: Sequence[float]) -> Interval:
    """Mean and bootstrap interval of figures, one per picture; no interval (nan) where one of them is infinite.

    Raises ValueError if there are none.
    """
    figures = np.asarray(values, np.float64)
    if figures.size == 0:
        raise ValueError("no figures to take a mean of")
    if not np.isfinite(figures).all():
        return Interval(float(figures.mean()), math.nan, math.nan)
    means = _draw_samples(figures.size) @ figures / figures.size
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(figures.mean()), float(low), float(high))


def estimate_difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """``ours - theirs``, paired. Raises ValueError unless both hold a figure for each of the same pictures."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired differences need the same pictures, got {a.size} and {b.size}")
    # Two infinite PSNRs (equal pictures) differ by nothing.
    gains = np.subtract(a, b, out=np.zeros_like(a), where=a != b)
    whole = estimate_mean(gains.tolist())
    return Difference(whole.mean, whole.low, whole.high, int((gains < 0).sum()), gains.size)


def find_half_width(deviation: float, count: int) -> float:
    """Of the 95 % interval of a mean over few trainings, by Student's t: these are too few for a bootstrap.

    Args:
        deviation: standard deviation of single trainings.
        count: how many there are. Raises ValueError below 2.
    """
    if count < 2:
        raise ValueError(f"one training says nothing of others, got {count}")
    from scipy.stats import t

    return float(t.ppf(0.975, count - 1)) * deviation / math.sqrt(count)


@lru_cache(maxsize=2)
def _draw_samples(count: int) -> NDArray[np.float64]:
    """How often each figure is drawn in each resample, ``(RESAMPLES, count)``: the same ones for every call."""
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return drawn.astype(np.float64)
