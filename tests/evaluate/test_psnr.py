"""PSNR without anything but NumPy, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from unjpeg.evaluate.psnr import MOST_DB, psnr_db


def test_psnr_by_hand_and_its_bound() -> None:
    original = np.full((4, 6, 3), 100, np.uint8)
    one_off = original + np.uint8(1)
    assert psnr_db(one_off, original) == pytest.approx(20 * math.log10(255))
    assert psnr_db(original, original) == math.inf
    assert psnr_db(original, original, most=MOST_DB) == MOST_DB == pytest.approx(88.13, abs=0.01)
    assert psnr_db(one_off, original, most=MOST_DB) == psnr_db(one_off, original)
    for other in (original[:3], original.astype(np.int16)):
        with pytest.raises(ValueError, match="uint8 pictures of equal shape"):
            psnr_db(other, original)  # type: ignore[arg-type]
