"""Whether a picture that shows no JPEG's grid was never compressed.

Else it may have been compressed and then scaled, or by another codec.

There is evidence for the first. Lossy codecs take away the finest detail where there is little of it, leave waves
beside edges and lines where their blocks meet, which scaling only sets further apart. So noise that reaches down into
every corner, or edges with exactly flat areas beside them, are signs that nothing was taken. A photograph's statistics
of that kind are weighed by a small network, which ``studies/cleanness.py`` trains; drawings by rules.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unjpeg.dct import BLOCK

__all__ = [
    "CLEAN",
    "DOUBTFUL",
    "FEATURES",
    "cleanness",
    "drawing_is_clean",
    "features",
    "is_exactly_drawn",
    "is_white_noise",
    "looks_drawn",
]

CLEAN = 0.0
"""``cleanness`` from which a picture counts as never compressed."""

DOUBTFUL = -1.5
"""``cleanness`` from which it may be one all the same: it is restored, with care."""

_WINDOW = 16
_WINDOWS = 1500
_LEAST = 60
_EDGE = 50
"""Levels between the lightest and the darkest pixel of a window with an edge in it."""

_SMALL_STEP = 6
_WEIGHTS = Path(__file__).with_name("cleanness.npz")

_RINGS, _SPREAD = 14, 0.02
"""Of a window's spectrum; and the power, in squared levels, below which nothing is told apart."""

FEATURES = 6 + 55 + 5 + 3 * _RINGS


def _windows(height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tops and lefts of windows, spread evenly with a fixed jitter."""
    rows, columns = (height - _WINDOW) // BLOCK + 1, (width - _WINDOW) // BLOCK + 1
    total = rows * columns
    picks = np.arange(total)
    if total > _WINDOWS:
        jitter = np.random.default_rng(1).random(_WINDOWS)
        picks = np.minimum(((np.arange(_WINDOWS) + jitter) * (total / _WINDOWS)).astype(np.int64), total - 1)
    return picks // columns * BLOCK, picks % columns * BLOCK


def _squares(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Windows, ``(N, 16, 16)`` or ``(N, 3, 16, 16)``."""
    tops, lefts = _windows(*pixels.shape[:2])
    view = np.lib.stride_tricks.sliding_window_view(pixels, (_WINDOW, _WINDOW), axis=(0, 1))
    out: NDArray[np.uint8] = view[tops, lefts]
    return out


def features(pixels: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """Statistics of grey or green, ``(FEATURES,)``; None where there is hardly anything to measure.

    Args:
        pixels: ``(H, W)`` or ``(H, W, 3)``, at least 32 x 32.
    """
    squares = _squares(pixels)
    flat = squares.reshape(len(squares), -1)
    lowest, highest = flat.min(axis=1), flat.max(axis=1)
    usable = (highest.astype(np.int16) - lowest > 3) & (lowest > 0) & (highest < 255)
    if usable.sum() < _LEAST:
        return None
    some = squares[usable]
    plain = some if some.ndim == 3 else some[:, 1]
    lines = _line_statistics(pixels if pixels.ndim == 2 else pixels[..., 1])
    return np.array([*lines, *_residual_statistics(plain), *_spectrum_statistics(plain)])


# Lines where blocks meet


_LINES, _NEAREST, _FURTHEST = 400, 3.5, 13.0
"""Rows, or columns, at most, that are looked at; and pixels between a scaled grid's lines: 8 by 0.44 to 8 by 1.6."""


def _line_statistics(plane_HW: NDArray[np.uint8]) -> list[float]:
    """How clearly bends repeat from line to line at some pitch: along each axis, and along both at one pitch."""
    pitches = 1 / np.linspace(1 / _FURTHEST, 1 / _NEAREST, 1500)
    down, across = (_repetition(plane, pitches) for plane in (plane_HW.T, plane_HW))
    both, sums = np.minimum(down, across), down + across
    median_down, median_across = np.median(down), np.median(across)
    return [float(one) for one in (down.max(), across.max(), both.max(), median_down, median_across, sums.max())]


def _repetition(plane_HW: NDArray[np.uint8], pitches_P: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean logarithm of the power of a pitch's first three waves in the mean bends across columns, ``(P,)``."""
    rows = plane_HW[:: max(1, plane_HW.shape[0] // _LINES)].astype(np.int16)
    bends = np.abs(2 * rows[:, 1:-1] - rows[:, :-2] - rows[:, 2:])
    profile = np.minimum(bends, 20).mean(axis=0).astype(np.float64)
    count, reach = len(profile), 7
    around = np.lib.stride_tricks.sliding_window_view(np.pad(profile, reach, mode="edge"), 2 * reach + 1)
    excess = profile - np.median(around, axis=1)
    excess = np.clip(excess / (np.median(np.abs(excess)) * 1.48 + 1e-3), -3, 6)
    tapered = (excess - excess.mean()) * np.hanning(count)
    length = 8192 if count <= 2048 else 4 << (count - 1).bit_length()
    power = np.square(np.abs(np.fft.rfft(tapered, length))) / (tapered.var() * count + 1e-9)
    total, waves = np.zeros(len(pitches_P)), np.zeros(len(pitches_P))
    for wave in (1, 2, 3):
        at = np.rint(wave / pitches_P * length).astype(np.int64)
        near = np.max([power[np.clip(at + by, 0, len(power) - 1)] for by in (-1, 0, 1)], axis=0)
        seen = wave / pitches_P < 0.5
        total += np.where(seen, np.log1p(near), 0)
        waves += seen
    out: NDArray[np.float64] = total / np.maximum(waves, 1)
    return out


# What is left of pixels when their neighbours have foretold them


def _residual_statistics(squares: NDArray[np.uint8]) -> list[float]:
    """How small residuals are, how they hang together, and what there is of them in the quietest windows."""
    x = squares.astype(np.int16)
    steps = [np.diff(x, axis=axis) for axis in (1, 2)]
    bends = [np.diff(step, axis=axis) for axis, step in zip((1, 2), steps, strict=True)]
    inner, sides = x[:, 1:-1, 1:-1], x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
    corners = x[:, :-2, :-2] + x[:, :-2, 2:] + x[:, 2:, :-2] + x[:, 2:, 2:]
    centred = 2 * sides - corners - 4 * inner  # four times what is left of a pixel
    twisted = x[:, 1:, 1:] - x[:, 1:, :-1] - x[:, :-1, 1:] + x[:, :-1, :-1]
    out: list[float] = []
    for left in (_joined(steps), _joined(bends), np.rint(centred / 4).astype(np.int16), twisted):
        counts = np.bincount(np.minimum(np.abs(left).ravel(), 6), minlength=7).astype(np.float64)
        out += np.log(counts / counts.sum() + 3e-3).tolist()
    small = np.clip(np.rint(centred / 4), -2, 2)
    power = np.square(small).mean() + 1e-6
    neighbours = ((small[:, :, 1:], small[:, :, :-1]), (small[:, 1:], small[:, :-1]))
    further = ((small[:, 1:, 1:], small[:, :-1, :-1]), (small[:, :, 2:], small[:, :, :-2]))
    out += [float((one * other).mean() / power) for one, other in (*neighbours, *further)]
    for axis, step in enumerate(steps):
        along = np.moveaxis(np.clip(step, -6, 6).astype(np.float32), axis + 1, 2)
        power = np.square(along).mean() + 1e-6
        out += [float((along[:, :, lag:] * along[:, :, :-lag]).mean() / power) for lag in (1, 2, 3)]
    left_N = np.log(np.square(np.clip(centred, -80, 80) / 4.0).mean(axis=(1, 2)) + _SPREAD)
    flat = np.concatenate([step.reshape(len(x), -1) for step in steps], axis=1).astype(np.float32)
    steps_N = np.log(np.square(flat).mean(axis=1) + _SPREAD)
    out += np.percentile(left_N, [1, 5, 10, 25, 50, 75, 90]).tolist()
    out += np.percentile(steps_N, [5, 25, 50, 75, 95]).tolist()
    out += np.percentile((np.abs(centred) <= 2).mean(axis=(1, 2)), [50, 75, 90, 97]).tolist()
    out.append(float(np.corrcoef(left_N, steps_N)[0, 1]) if min(left_N.std(), steps_N.std()) > 1e-6 else 0.0)
    return out


def _joined(parts: list[NDArray[np.int16]]) -> NDArray[np.int16]:
    return np.concatenate([part.ravel() for part in parts])


# How fine the detail is


@lru_cache
def _rings() -> NDArray[np.int64]:
    """Of each frequency of a window the ring that it lies on: a tenth of the highest along an axis wide."""
    along = np.fft.fftfreq(_WINDOW)
    rings: NDArray[np.int64] = np.minimum((np.hypot(along[:, None], along) * 20).astype(np.int64), _RINGS - 1)
    return rings


def _spectrum_statistics(squares: NDArray[np.uint8]) -> list[float]:
    """Mean logarithms of power by ring, of all windows and of the quietest and the liveliest fifth."""
    centred = squares.astype(np.float32)
    centred -= centred.mean(axis=(1, 2), keepdims=True)
    taper = np.hanning(_WINDOW + 2)[1:-1]
    spectra = np.fft.fft2(centred * np.outer(taper, taper).astype(np.float32))
    power = np.square(np.abs(spectra)) / np.square(taper).sum() ** 2
    logs = np.log(power + _SPREAD)
    finer = logs[:, _rings() >= 2].mean(axis=1)
    fifth, order = max(10, len(logs) // 5), np.argsort(finer)
    mean, quiet, lively = (some.mean(axis=0) for some in (logs, logs[order[:fifth]], logs[order[-fifth:]]))
    half = _WINDOW // 2
    out = [float(mean[_rings() == ring].mean()) for ring in range(_RINGS)]
    out += [float(one) for one in (mean[0, 5:9].mean(), mean[5:9, 0].mean(), mean[0, half], mean[half, 0])]
    out.append(float(mean[half, half]))
    for part in (quiet, lively):
        out += [float(part[_rings() == ring].mean()) for ring in range(_RINGS)]
    return out


def is_white_noise(pixels: NDArray[np.uint8]) -> bool:
    """Whether each pixel is independent of its neighbours, as no scaling or codec but on its own grid leaves it.

    Of noise that reaches from black to white every window clips, and says nothing to the network.
    """
    squares = _squares(pixels)
    if ((squares == 0) | (squares == 255)).mean() > NOISE_CLIPPED:
        return False
    x = squares.astype(np.float32)
    planes = [x] if x.ndim == 3 else [x[:, 1], x[:, 0] - x[:, 1]]
    return _is_white(planes[0]) and all(_is_white(plane) for plane in planes[1:] if plane.any())


def _is_white(plane_NSS: NDArray[np.float32]) -> bool:
    twisted = plane_NSS[:, 1:, 1:] - plane_NSS[:, 1:, :-1] - plane_NSS[:, :-1, 1:] + plane_NSS[:, :-1, :-1]
    ratios = np.square(twisted).mean(axis=(1, 2)) / (plane_NSS.var(axis=(1, 2)) + _SPREAD)
    low, high = np.percentile(ratios, [10, 90])
    return bool(low > NOISE_TWIST - NOISE_SPREAD and high < NOISE_TWIST + NOISE_SPREAD)


NOISE_TWIST, NOISE_SPREAD = 4.0, 0.8
"""Power of the mixed difference of four pixels over one pixel's, of independent ones; how far windows stray from it."""

NOISE_CLIPPED = 0.03
"""Share of pixels that may be black or white: dither is as rough, and codecs push noise over both ends."""


# Drawings


def looks_drawn(pixels: NDArray[np.uint8]) -> bool:
    """Whether neighbours in windows with an edge are so often equal that it is no photograph."""
    return _edge_statistics(_squares(pixels))[0] > DRAWING_EQUAL


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
    # A page full of letters leaves little room between them, but a lossy codec would have left its waves there first.
    if found.rough == found.wavy == 0 and found.near >= EXACT_BETWEEN * inner:
        return True
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

EXACT_BETWEEN = 0.06
"""The same beside edges, where not a single pixel lies off the line."""

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
    # The network knows photographs and patterns: a drawing is for the rule to judge.
    measured = None if looks_drawn(pixels) else features(pixels)
    if measured is None or not _WEIGHTS.exists():
        return -20.0
    weights = _weights()
    scaled = np.clip((measured - weights["mean"]) / weights["scale"], -4, 4)
    hidden = np.tanh(weights["first"] @ scaled + weights["first_bias"])
    return float(weights["second"] @ hidden + weights["second_bias"])
