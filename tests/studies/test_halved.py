"""Halved pictures: means of four pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from studies.halved import main


def test_each_pixel_is_the_mean_of_four(image_folder: Path, tmp_path: Path) -> None:
    main(str(image_folder), tmp_path / "half")
    halves = sorted((tmp_path / "half").iterdir())
    originals = sorted(image_folder.iterdir())
    assert [file.stem for file in halves] == [file.stem for file in originals]
    for half, original in zip(halves, originals, strict=True):
        pixels = np.asarray(Image.open(original).convert("RGB"), np.float64)
        height, width = (n // 2 * 2 for n in pixels.shape[:2])
        means = pixels[:height, :width].reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
        found = np.asarray(Image.open(half).convert("RGB"))[: height // 2, : width // 2]
        assert np.abs(found - means).max() <= 0.5
    before = halves[0].stat().st_mtime_ns
    main(str(image_folder), tmp_path / "half")
    assert halves[0].stat().st_mtime_ns == before
