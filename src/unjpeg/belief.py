"""How far a network is to be believed about a block: the network errs where a picture is none that it has learned from.

The file's cells give it away. A network that knows the picture hardly ever leaves them; one that sees waves, grain or a
drawing and guesses wrong, does. So what it did to a block's coefficients, and what the file says of these, is weighed
by a small network, which ``studies/belief.py`` trains, one for luma and one for chroma, for all models.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EVIDENCE",
    "BlockChange",
    "Judge",
    "gather_evidence",
    "load_judges",
    "measure_caution",
    "sum_windows",
    "weigh_evidence",
]

_CAUTIOUS: Final = (30, 60)
"""Qualities up to which no doubt counts, and from which all of it does."""

_WEIGHTS: Final = Path(__file__).with_name("belief.npz")

_FREQUENCY_88: Final = np.add.outer(np.arange(8), np.arange(8))
_DETAIL_88: Final = (_FREQUENCY_88 > 0).astype(np.float32)
_FINE_88: Final = (_FREQUENCY_88 >= 7).astype(np.float32)
_TINY: Final = 1e-6

EVIDENCE: Final = (
    "energy kept in the cells, of the block",
    "energy in steps kept, of the block",
    "energy kept in the cells",
    "energy in steps kept",
    "coefficients out of their cells",
    "offset in the cells, half steps",
    "coefficients that are not zero",
    "coefficients that are not zero, of the block",
    "energy of the coefficients",
    "share of fine ones in it",
    "how far it was made weaker",
    "spread of the blocks' means, steps",
    "step",
)
"""What ``gather_evidence`` tells of a block: of its window where nothing else is said, all of about unit size."""


class BlockChange(NamedTuple):
    """What a network did to a component's blocks.

    Attributes:
        moved_VU88: how far from its cell's middle it put each coefficient, wherever that is.
        held_VU88: the same after it was moved into the cell.
        centre_VU88: the middles.
        half_88: half a quantisation step.
        window: blocks down and across of which windows are made; the first window begins at the first block.
    """

    moved_VU88: NDArray[np.float32]
    held_VU88: NDArray[np.float32]
    centre_VU88: NDArray[np.float32]
    half_88: NDArray[np.float32]
    window: tuple[int, int]


class Judge(NamedTuple):
    """A perceptron of three layers: evidence, ``(..., E)``, to belief, 0..1.

    Attributes:
        mean_E, scale_E: bring the evidence to zero mean and unit variance.
        weights, biases: of the layers; hyperbolic tangents in between, a logistic curve at the end.
    """

    mean_E: NDArray[np.float32]
    scale_E: NDArray[np.float32]
    weights: tuple[NDArray[np.float32], ...]
    biases: tuple[NDArray[np.float32], ...]


def measure_caution(quality: int) -> float:
    """How much of the judges' doubt counts at a quality, 0..1.

    None of it where compression is strong: there it gains photographs nothing, and leaves more of the blocks' edges
    (SSIMULACRA2 -0.2 at quality 10).
    """
    return float(np.interp(quality, _CAUTIOUS, (0, 1)))


@lru_cache(maxsize=1)
def load_judges() -> tuple[Judge, Judge]:
    """Of luma, and what is quantised like it, and of chroma."""
    with np.load(_WEIGHTS) as stored:
        arrays = dict(stored)
    luma, chroma = (
        Judge(
            arrays[f"{kind}_mean"],
            arrays[f"{kind}_scale"],
            tuple(arrays[f"{kind}_weight{layer}"] for layer in range(3)),
            tuple(arrays[f"{kind}_bias{layer}"] for layer in range(3)),
        )
        for kind in ("luma", "chroma")
    )
    return luma, chroma


def gather_evidence(change: BlockChange) -> NDArray[np.float32]:
    """Statistics of each block and its window, ``(V, U, E)``; see ``EVIDENCE``."""
    moved, held, centre, half, window = change
    per_half = np.float32(1) / half
    moved_in_halves, held_in_halves = moved * per_half, held * per_half
    detail = centre * _DETAIL_88
    sums = (
        _products(moved, moved),
        _products(held, moved),
        _products(moved_in_halves, moved_in_halves),
        _products(held_in_halves, moved_in_halves),
        _products(held_in_halves, held_in_halves),
        (np.abs(moved_in_halves) > 1).sum(axis=(2, 3), dtype=np.float32),
        np.count_nonzero(detail, axis=(2, 3)).astype(np.float32),
        _products(detail, detail),
        _products(detail * _FINE_88, detail),
        _products(held, detail),
        _products(held, held),
        np.ones(moved.shape[:2], np.float32),
    )
    of_block = _Sums(*sums)
    of_window = _Sums(*np.moveaxis(sum_windows(np.stack(sums, axis=-1), window), -1, 0))
    step = np.float32(np.log2(2 * half).mean() / 4)
    weakened = -of_window.held_by_detail / np.sqrt(of_window.held * of_window.detail + _TINY)
    return np.stack(
        [
            _kept(of_block.kept, of_block.moved),
            _kept(of_block.kept_in_halves, of_block.moved_in_halves),
            _kept(of_window.kept, of_window.moved),
            _kept(of_window.kept_in_halves, of_window.moved_in_halves),
            of_window.outside / (64 * of_window.blocks),
            np.sqrt(of_window.held_in_halves / (64 * of_window.blocks)),
            of_window.filled / (63 * of_window.blocks),
            of_block.filled / np.float32(63),
            np.log10(1 + of_window.detail / of_window.blocks) / np.float32(5),
            of_window.fine_detail / (of_window.detail + _TINY),
            weakened,
            np.log1p(_spread_of_means(centre[..., 0, 0] / (2 * half[0, 0]), window)),
            np.full_like(weakened, step),
        ],
        axis=-1,
    ).astype(np.float32)


class _Sums(NamedTuple):
    """Over a block's coefficients, or over those of its window's blocks, ``(V, U)``: squares and products, or counts.

    Attributes:
        moved, held: how far the network moved coefficients, anywhere and in the cells, squared.
        kept: the product of both.
        moved_in_halves, kept_in_halves, held_in_halves: the same in half steps.
        outside, filled: coefficients out of their cells; those of the file that are not zero, without the mean.
        detail, fine_detail: the file's coefficients without the mean, squared; those of the fine half.
        held_by_detail: the product of what was moved in the cells and the file's.
        blocks: how many there are.
    """

    moved: NDArray[np.float32]
    kept: NDArray[np.float32]
    moved_in_halves: NDArray[np.float32]
    kept_in_halves: NDArray[np.float32]
    held_in_halves: NDArray[np.float32]
    outside: NDArray[np.float32]
    filled: NDArray[np.float32]
    detail: NDArray[np.float32]
    fine_detail: NDArray[np.float32]
    held_by_detail: NDArray[np.float32]
    held: NDArray[np.float32]
    blocks: NDArray[np.float32]


def weigh_evidence(judge: Judge, evidence: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far to follow the network, 0..1, for each block."""
    signal = (evidence - judge.mean_E) * judge.scale_E
    for layer, (weight, bias) in enumerate(zip(judge.weights, judge.biases, strict=True)):
        signal = signal @ weight + bias
        if layer < len(judge.weights) - 1:
            np.tanh(signal, out=signal)
    belief: NDArray[np.float32] = 1 / (1 + np.exp(-signal[..., 0]))
    return belief


def _products(one_VU88: NDArray[np.float32], other_VU88: NDArray[np.float32]) -> NDArray[np.float32]:
    out: NDArray[np.float32] = np.einsum("vuij,vuij->vu", one_VU88, other_VU88)
    return out


def _kept(kept: NDArray[np.float32], whole: NDArray[np.float32]) -> NDArray[np.float32]:
    """The share that the cells leave of an energy, 1 where there is none."""
    share: NDArray[np.float32] = np.divide(kept, whole, out=np.ones_like(kept), where=whole > _TINY)
    return np.clip(share, 0, 1, out=share)


def _spread_of_means(means_VU: NDArray[np.float32], window: tuple[int, int]) -> NDArray[np.float32]:
    """Standard deviation in each block's window."""
    count = sum_windows(np.ones((*means_VU.shape, 1), np.float32), window)
    apart = means_VU[..., None] - sum_windows(means_VU[..., None], window) / count
    spread: NDArray[np.float32] = np.sqrt(sum_windows(np.square(apart), window) / count)[..., 0]
    return spread


def sum_windows(blocks_VUN: NDArray[np.float32], window: tuple[int, int]) -> NDArray[np.float32]:
    """Of each block its window's sums, shaped as the blocks; windows at the bottom and the right hold fewer blocks."""
    height, width = blocks_VUN.shape[:2]
    down, across = window
    rows = np.add.reduceat(blocks_VUN, np.arange(0, height, down), axis=0)
    sums = np.add.reduceat(rows, np.arange(0, width, across), axis=1)
    return sums.repeat(down, axis=0)[:height].repeat(across, axis=1)[:, :width]
