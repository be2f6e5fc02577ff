"""Judges learn from what networks did to pictures whose originals are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from jpegs import picture
from studies.belief import (
    SHARES,
    Blocks,
    Restored,
    draw_pictures,
    measure_gain_db,
    measure_shares,
    restore_all,
    train_judge,
)
from unjpeg.belief import EVIDENCE, weigh_evidence
from unjpeg.restorer import Restorer


def blocks(seed: int, count: int = 400) -> Blocks:
    """What was moved is true where the first sign is above zero, and a quarter of it is elsewhere."""
    rng = np.random.default_rng(seed)
    evidence = rng.normal(0, 1, (count, len(EVIDENCE))).astype(np.float32)
    moves = rng.uniform(1, 9, count).astype(np.float32)
    true = np.where(evidence[:, 0] > 0, 1, 0.25).astype(np.float32)
    return Blocks(evidence, moves, true * moves, np.square(true) * moves + 1)


def file(kind: str, seed: int) -> Restored:
    return Restored(kind, kind, "fast", 90, 1e-3, (blocks(seed), blocks(seed + 1000)), seen=True)


def test_a_judge_learns_which_changes_are_true() -> None:
    known = [file(kind, seed) for kind in SHARES for seed in (1, 2)]
    judges = train_judge(known, 0, steps=300), train_judge(known, 1, steps=300)
    other = file("pattern", 77)
    belief = weigh_evidence(judges[0], other.parts[0].evidence_NE)
    true = other.parts[0].evidence_NE[:, 0] > 0
    assert belief[true].mean() > 0.9
    assert belief[~true].mean() == pytest.approx(0.25, abs=0.1)
    assert measure_gain_db(other, judges) > measure_gain_db(other, None) + 0.5


def test_shares_are_those_of_what_was_moved() -> None:
    one = file("grain", 5)
    kept = one.parts[0].evidence_NE
    kept[:, 0] = np.where(kept[:, 0] > 0, 0.99, 0.5)  # all of it is true, and a quarter
    shares = measure_shares([one])
    assert (shares[0], shares[-1]) == pytest.approx((0.25, 1))
    assert shares[1:-1] == [0] * 4


def test_errors_are_those_of_following_so_far() -> None:
    """``|truth - b * followed|^2``, from its three sums."""
    rng = np.random.default_rng(4)
    followed, truth = rng.normal(0, 1, (2, 5, 64)).astype(np.float32)
    some = Blocks(
        np.zeros((5, len(EVIDENCE)), np.float32),
        *((one * other).sum(axis=1) for one, other in ((followed, followed), (followed, truth), (truth, truth))),
    )
    belief = np.array([0, 0.2, 0.5, 0.9, 1], np.float32)
    assert some.measure_error(belief) == pytest.approx(np.square(truth - belief[:, None] * followed).sum(), rel=1e-4)
    one = replace(file("grain", 1), parts=(some, some), least=1e9)
    assert one.measure_error((0.0, 0.0)) == 1e9


def test_files_are_of_all_kinds_and_half_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    photographs = [picture(64, 64, seed) for seed in (1, 2)]
    drawn = list(draw_pictures(photographs))
    assert {kind for kind, _, _ in drawn} == SHARES.keys()
    some = [next(one for one in drawn if one[0] == kind) for kind in SHARES]
    monkeypatch.setattr("studies.belief.draw_pictures", lambda _: iter(some))
    monkeypatch.setattr("studies.belief.QUALITIES", (30, 95))
    known = list(restore_all(Restorer("fast"), "fast", photographs))
    assert {one.seen for one in known} == {True, False}
    for one in known:
        luma, chroma = one.parts
        assert len(luma.errors_N) > 0
        assert len(chroma.errors_N) > 0
        assert one.measure_error((1.0, 1.0)) > 0
