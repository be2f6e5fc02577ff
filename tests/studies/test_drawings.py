"""Drawings are the same each time, and what is read of them is counted right."""

from __future__ import annotations

import numpy as np
import pytest

from studies.drawings import KINDS, draw_all
from studies.history import count_clean, count_found
from unjpeg.history import History, read_history


@pytest.mark.parametrize("kind", KINDS)
def test_drawings_depend_on_the_seed_alone(kind: str) -> None:
    draw, _ = KINDS[kind]
    first, again, other = (draw(np.random.default_rng(seed), 1) for seed in (5, 5, 6))
    assert first.dtype == np.uint8
    assert first.shape[2:] in ((), (3,))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_all_kinds_are_drawn() -> None:
    drawings = draw_all(3)
    kinds = [next(drawings)[0] for _ in range(KINDS["flat"][1] + 1)]
    assert kinds == ["flat"] * KINDS["flat"][1] + ["gradients"]


def test_what_is_read_is_counted() -> None:
    flat = np.full((96, 96), 90, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)  # too small to tell
    counted = {"of": 2, "clean": 1, "careful": 0, "compressed": 0, "worst_db": None}
    assert count_clean([("a", pixels, read_history(pixels)) for pixels in (flat, noise)]) == {"a": counted}
    readings = [("x", History("clean"), None), ("x", History("undecided"), (0, 0, 50))]
    assert count_found(readings) == {"x": {"of": 2, "found": 0, "grid": 0, "quality": 0, "clean": 1}}
