"""What restoring costs where there is little to gain: which files are looked at, and how they are compared."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from studies.harm import draw_cases, main


def photographs(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (40, 56, 3), dtype=np.uint8).repeat(5, 0).repeat(5, 1) for _ in range(count)]


def test_cases_are_the_same_each_time_and_of_every_kind() -> None:
    once, again = ([(case.row, case.original.shape) for case in draw_cases(photographs(2), 3)] for _ in range(2))
    assert once == again
    rows = {row.split(",")[0] for row, _ in once}
    assert rows >= {"grain", "drawing", "pattern", "grey as colour", "pixels of the wild"}


def test_files_decode_to_what_they_are_compared_with() -> None:
    for case in draw_cases(photographs(1), 3):
        pixels = np.asarray(Image.open(io.BytesIO(case.data))) if isinstance(case.data, bytes) else case.data
        assert pixels.shape == case.original.shape


def test_a_model_gains_nothing_over_itself(tiny_model: Path, tmp_path: Path) -> None:
    for number, pixels in enumerate(photographs(2)):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    main(
        [str(tiny_model)],
        data=str(tmp_path),
        every=1,
        against=str(tiny_model),
        against_precision="full",
        rows="grey",
        out=tmp_path,
    )
    record = json.loads((tmp_path / "harm.json").read_text())
    measured = record["models"][str(tiny_model)]
    assert set(measured["gain_db"]) == {"grey as colour, quality 30", "grey as colour, quality 90"}
    assert all(row == {"mean": 0.0, "worst": 0.0, "files": 2} for row in measured["over_db"].values())
    assert measured["most_tint"] == 0
    assert record["precisions"] == ["auto", "full"]
    assert record["commit"]
