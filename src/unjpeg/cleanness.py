"""Whether a picture that shows no JPEG's grid was never compressed.

Else it may have been compressed and then scaled, or by another codec.

There is evidence for the first. Lossy codecs take away the finest detail where there is little of it and leave waves
beside edges; so noise that reaches down into every corner, or edges with exactly flat areas beside them, are signs that
nothing was taken. A photograph's statistics of that kind are weighed by a small network, which ``studies/cleanness.py``
trains; drawings by rules.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unjpeg.dct import BLOCK, RGB_TO_YCC, dct_blocks

__all__ = ["CLEAN", "FEATURES", "cleanness", "drawing_is_clean", "features", "is_exactly_drawn"]

CLEAN = 0.3
"""``cleanness`` from which a picture counts as never compressed."""

_WINDOW = 16
_WINDOWS = 1500
_LEAST = 60
_EDGE = 50
"""Levels between the lightest and the darkest pixel of a window with an edge in it."""

_SMALL_STEP = 6
_WEIGHTS = Path(__file__).with_name("cleanness.npz")

_DIAGONAL = np.add.outer(np.arange(BLOCK), np.arange(BLOCK)).ravel()
_LOW, _MIDDLE = (_DIAGONAL >= 1) & (_DIAGONAL <= 2), (_DIAGONAL >= 3) & (_DIAGONAL <= 5)
_HIGH, _HIGHEST = _DIAGONAL >= 8, _DIAGONAL >= 10
_ACTIVITY = (-5, 0, 2, 4, 20)

FEATURES = 4 * 6 + 9 + 2 + 3 + 2 * 9 + 2
EQUAL = FEATURES - 2
"""Which of them is the share of equal neighbours in windows with an edge."""


def _windows(height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tops and lefts of windows, spread evenly with a fixed jitter."""
    rows, columns = (height - _WINDOW) // BLOCK + 1, (width - _WINDOW) // BLOCK + 1
    total = rows * columns
    picks = np.arange(total)
    if total > _WINDOWS:
        jitter = np.random.default_rng(1).random(_WINDOWS)
        picks = np.minimum(((np.arange(_WINDOWS) + jitter) * (total / _WINDOWS)).astype(np.int64), total - 1)
    return picks // columns * BLOCK, picks % columns * BLOCK


def _log_power(coefficients_N6: NDArray[np.float32], which_6: NDArray[np.bool_]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = np.log(np.square(coefficients_N6[:, which_6]).mean(axis=1) + 0.02)
    return out


def _squares(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Windows, ``(N, 16, 16)`` or ``(N, 3, 16, 16)``."""
    tops, lefts = _windows(*pixels.shape[:2])
    view = np.lib.stride_tricks.sliding_window_view(pixels, (_WINDOW, _WINDOW), axis=(0, 1))
    out: NDArray[np.uint8] = view[tops, lefts]
    return out


def features(pixels: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """Statistics, ``(FEATURES,)``, NaN where there is nothing to measure; None where there is hardly anything.

    Args:
        pixels: ``(H, W)`` or ``(H, W, 3)``, at least 16 x 16.
    """
    squares = _squares(pixels)
    flat = squares.reshape(len(squares), -1)
    lowest, highest = flat.min(axis=1), flat.max(axis=1)
    usable = (highest.astype(np.int16) - lowest > 3) & (lowest > 0) & (highest < 255)
    if usable.sum() < _LEAST:
        return None
    inner = squares[usable][..., 3:11, 5:13].astype(np.float32)
    planes = [inner] if inner.ndim == 3 else [np.tensordot(RGB_TO_YCC[n], inner, axes=(0, 1)) for n in range(3)]
    luma_N6 = dct_blocks(np.ascontiguousarray(planes[0])).reshape(-1, BLOCK * BLOCK)
    middle, high, highest_power = (_log_power(luma_N6, which) for which in (_MIDDLE, _HIGH, _HIGHEST))
    out: list[float] = []
    for least, most in pairwise(_ACTIVITY):
        some = (middle >= least) & (middle < most)
        if some.sum() >= 15:
            out += [*np.percentile(high[some], [10, 50, 90]), *np.percentile(highest_power[some], [10, 50])]
        else:
            out += [np.nan] * 5
        out.append(float(np.log(max(some.mean(), 0.003))))
    out += [*np.percentile(high, [5, 25, 50, 75, 95]), *np.percentile(highest_power, [5, 25, 50, 75])]
    out.append(float(np.corrcoef(middle, high)[0, 1]) if min(middle.std(), high.std()) > 1e-6 else 0.0)
    power = np.square(luma_N6[:, _HIGH])
    out.append(float(np.log(np.square(power).mean() / (power.mean() ** 2 + 1e-9) + 1e-9)))
    out += [float(np.log(np.square(luma_N6[:, index]).mean() + 0.02)) for index in (56, 7, 63)]
    for number in (1, 2):
        if len(planes) == 1:
            out += [np.nan] * 9
            continue
        chroma_N6 = dct_blocks(np.ascontiguousarray(planes[number])).reshape(-1, BLOCK * BLOCK)
        for which in (_LOW, _MIDDLE, _HIGH):
            out += [*np.percentile(_log_power(chroma_N6, which), [10, 50, 90])]
    out += _edge_statistics(squares)
    return np.array(out)


def _edge_statistics(squares: NDArray[np.uint8]) -> list[float]:
    """In windows with an edge: shares of neighbours that are equal, and that differ by little; NaN without edges."""
    plain = squares if squares.ndim == 3 else squares[:, 1]  # green
    lowest, highest = plain.min(axis=(1, 2)), plain.max(axis=(1, 2))
    edged = plain[highest.astype(np.int16) - lowest > _EDGE].astype(np.int16)
    if len(edged) < 20:
        return [np.nan, np.nan]
    steps = np.concatenate([np.abs(np.diff(edged, axis=axis)).ravel() for axis in (1, 2)])
    return [float((steps == 0).mean()), float(((steps > 0) & (steps <= _SMALL_STEP)).mean())]


def drawing_is_clean(pixels: NDArray[np.uint8]) -> bool:
    """Whether edges stand beside exactly flat areas, as no lossy codec leaves them."""
    squares = _squares(pixels)
    equal, small = _edge_statistics(squares)
    if not (equal > DRAWING_EQUAL and small < DRAWING_SMALL * equal):
        return False
    # Of strong compression whole blocks come out flat; beside an edge there are waves.
    equal, small = _beside_edges(squares)
    return small <= DRAWING_WAVES * equal


def _beside_edges(squares: NDArray[np.uint8]) -> tuple[float, float]:
    """Shares of neighbours that are equal, and that differ by little, two and three pixels from an edge."""
    plain = (squares if squares.ndim == 3 else squares[:, 1]).astype(np.int16)
    equal = small = total = 0
    for axis in (1, 2):
        steps = np.moveaxis(np.abs(np.diff(plain, axis=axis)), axis, 2)
        edge = steps > _EDGE
        for distance in (2, 3):
            for near in (steps[..., distance:][edge[..., :-distance]], steps[..., :-distance][edge[..., distance:]]):
                equal += int(np.count_nonzero(near == 0))
                small += int(np.count_nonzero((near > 0) & (near <= _SMALL_STEP)))
                total += near.size
    return equal / max(total, 1), small / max(total, 1)


def is_exactly_drawn(pixels: NDArray[np.uint8]) -> bool:
    """Whether all that is smooth is as smooth as whole levels can be, up to the edges; or there are a few levels alone.

    Beside edges lossy codecs leave waves, and in gradients steps. A picture that is flat shows neither, and has nothing
    to lose.

    Args:
        pixels: ``(H, W)`` or ``(H, W, 3)``, at least 32 x 32.
    """
    squares = _large_squares(pixels)
    if _has_few_levels(squares):
        return True
    few = _smooth_pixels(squares[:: max(1, len(squares) // 50)])  # of a photograph these are enough
    if few.rough > 20 * EXACT_ROUGH * few.smooth:
        return False
    found = _smooth_pixels(squares)
    if found.rough > EXACT_ROUGH * found.smooth or found.wavy > EXACT_WAVY * found.beside:
        return False
    inner = len(squares) * (_LARGE - 2 * _REACH) ** 2
    # Where there are edges, what lies beside them must be seen.
    return found.smooth >= EXACT_SMOOTH * inner and (found.near >= EXACT_NEAR * inner or not _has_edges(squares))


_LARGE, _REACH, _BLURRED = 32, 7, 2
"""Pixels: side of a window; how far waves reach from an edge; how far its own blur does."""

_SLIGHT_EDGE, _CLEAR_EDGE = 8, 24
"""Levels between neighbours."""

EXACT_ROUGH = 0.0005
"""Share of the pixels away from edges that may lie off the line through their neighbours."""

EXACT_WAVY = 0.03
"""The same of those beside clear edges, slight edges counted: strong waves look like edges."""

EXACT_SMOOTH, EXACT_NEAR = 0.1, 0.02
"""Share of a picture's pixels that must lie away from edges, and beside edges but off their blur."""

EXACT_LEVELS, EXACT_CONTRAST = 8, 64


def _large_squares(pixels: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Windows whose inner parts lie side by side, or evenly spread, ``(N, 32, 32, C)``."""
    height, width = pixels.shape[:2]
    step = _LARGE - 2 * _REACH
    rows, columns = (height - _LARGE) // step + 1, (width - _LARGE) // step + 1
    picks = np.unique(np.linspace(0, rows * columns - 1, min(rows * columns, 600)).astype(np.int64))
    view = np.lib.stride_tricks.sliding_window_view(pixels.reshape(height, width, -1), (_LARGE, _LARGE), axis=(0, 1))
    out: NDArray[np.int16] = np.moveaxis(view[picks // columns * step, picks % columns * step], 1, 3).astype(np.int16)
    return out


def _has_few_levels(squares: NDArray[np.int16]) -> bool:
    counts = np.bincount(squares[..., squares.shape[3] // 2].ravel(), minlength=256).nonzero()[0]
    return len(counts) <= EXACT_LEVELS and int(np.ptp(counts)) >= EXACT_CONTRAST and len(counts) > 1


def _has_edges(squares: NDArray[np.int16]) -> bool:
    return any(bool((np.abs(np.diff(squares, axis=axis)) > _SLIGHT_EDGE).any()) for axis in (1, 2))


class _Smooth(NamedTuple):
    """Counts of pixels.

    Attributes:
        smooth: away from edges.
        near: of these within reach of a clear edge.
        rough: of those away from edges, not on the line through their neighbours.
        beside: within reach of clear edges, and off their blur.
        wavy: of these, not on the line.
    """

    smooth: int
    near: int
    rough: int
    beside: int
    wavy: int


def _smooth_pixels(squares: NDArray[np.int16]) -> _Smooth:
    slight = np.zeros(squares.shape[:3], np.bool_)
    clear, bent = slight.copy(), slight.copy()
    for axis in (1, 2):
        steps = np.diff(squares, axis=axis)
        size = np.moveaxis(np.abs(steps).max(axis=3), axis, 1)
        for found, least in ((slight, _SLIGHT_EDGE), (clear, _CLEAR_EDGE)):
            edge, along = size > least, np.moveaxis(found, axis, 1)
            along[:, 1:] |= edge
            along[:, :-1] |= edge
        bends = np.abs(np.diff(steps, axis=axis)).max(axis=3) > 1
        np.moveaxis(bent, axis, 1)[:, 1:-1] |= np.moveaxis(bends, axis, 1)
    inner = (slice(None), slice(_REACH, -_REACH), slice(_REACH, -_REACH))
    smooth, bent = ~_grown(slight, _BLURRED)[inner], bent[inner]
    blurred = _grown(clear, _BLURRED)
    reached = _grown(blurred, _REACH - 1 - _BLURRED)[inner]
    beside = reached & ~blurred[inner]
    counted = (smooth, smooth & reached, smooth & bent, beside, beside & bent)
    return _Smooth(*(int(np.count_nonzero(one)) for one in counted))


def _grown(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """Every place within so many rows and columns of one that is set."""
    for axis in (1, 2):
        out = mask.copy()
        here, there = np.moveaxis(out, axis, 0), np.moveaxis(mask, axis, 0)
        for shift in range(1, by + 1):
            here[shift:] |= there[:-shift]
            here[:-shift] |= there[shift:]
        mask = out
    return mask


DRAWING_EQUAL = 0.3
DRAWING_WAVES = 0.15
DRAWING_SMALL = 0.1


@lru_cache
def _weights() -> dict[str, NDArray[np.float64]]:
    with np.load(_WEIGHTS) as stored:
        return {name: stored[name].astype(np.float64) for name in stored.files}


def cleanness(pixels: NDArray[np.uint8]) -> float:
    """How much speaks for a photograph never having been compressed: a logarithm of odds, -20 where nothing does."""
    measured = features(pixels)
    # It knows photographs: a drawing is for the rule to judge.
    if measured is not None and measured[EQUAL] > DRAWING_EQUAL:
        return -20.0
    if measured is None or not _WEIGHTS.exists():
        return -20.0
    weights = _weights()
    scaled = np.where(np.isnan(measured), 0, (measured - weights["mean"]) / weights["scale"])
    hidden = np.tanh(weights["first"] @ np.clip(scaled, -4, 4) + weights["first_bias"])
    return float(weights["second"] @ hidden + weights["second_bias"])
