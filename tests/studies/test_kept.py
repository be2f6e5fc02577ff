"""Restored pictures that are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("skimage")

from studies.downstream.kept import KeptMethod
from unjpeg.evaluate.method import Method
from unjpeg.evaluate.pairs import Pixels8


class Counting(Method):
    """The first bytes of a file as a row of pixels."""

    def __init__(self, identity: str = "1") -> None:
        self.name, self.spec, self.identity, self.calls = "counting", "counting", identity, 0

    def restore(self, file: bytes) -> Pixels8:
        self.calls += 1
        return np.frombuffer(file[:12], np.uint8).reshape(2, 2, 3)


def test_a_picture_is_restored_once(tmp_path: Path) -> None:
    method = Counting()
    kept = KeptMethod(method, tmp_path / "kept")
    first = kept.restore(b"0123456789ab")
    assert np.array_equal(KeptMethod(method, tmp_path / "kept").restore(b"0123456789ab"), first)
    assert method.calls == 1
    assert not np.array_equal(kept.restore(b"ba9876543210"), first)
    KeptMethod(Counting("2"), tmp_path / "kept").restore(b"0123456789ab")
    files = sorted((tmp_path / "kept").iterdir())
    assert len(files) == 3
    for file in files:
        file.write_bytes(b"half")
    assert np.array_equal(kept.restore(b"0123456789ab"), first)
    assert (method.calls, kept.identity, kept.name) == (3, "1", "counting")
