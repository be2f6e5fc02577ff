"""The short form of ``memory.py``: a small model, small pictures, a size of its own each."""

from __future__ import annotations

import sys
from pathlib import Path

import memory
import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("place", memory.PLACES)
def test_memory_does_not_grow_with_sizes(place: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if place == "page":
        pytest.importorskip("pebble", reason="needs the extra: web")
    paths = [path for path in sys.path if path]  # the process starts anew
    monkeypatch.setenv("PYTHONPATH", ":".join(paths))
    held = memory.measure(place, str(tiny_model), 260, (16, 200))
    # Of so small a model and pictures the process itself is most; it is at its size after two hundred, and stays.
    assert memory.growth(held, 200) < memory.MOST_GROWTH, held[:: len(held) // 10]
