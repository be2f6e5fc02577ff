from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from jpegs import encoded, picture
from studies.speed import counters
from unjpeg.modelfile import ModelFile


def test_counters_add_up_and_one_shape_needs_fewer(tiny_model: Path) -> None:
    counts = counters.count_operations(ModelFile.read(tiny_model), "full", encoded(picture(96, 128)), 2)
    assert counts is not None
    for kinds in counts.values():
        parts = [counted for kind, counted in kinds.items() if kind != "all"]
        assert kinds["all"][0] == pytest.approx(sum(took for took, _ in parts))
        assert kinds["all"][1] == sum(number for _, number in parts)
        assert any(kind.startswith("Convolution") for kind in kinds)
    assert counts["shaped"]["all"][1] < counts["exported"]["all"][1]
    assert "Multiply" not in counts["shaped"]


def test_the_table_is_kept(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(picture(40, 50)).save(tmp_path / "photo.png")
    counters.main(tmp_path / "photo.png", tmp_path, [str(tiny_model)], side=64, repeats=1)
    record = json.loads((tmp_path / "counters.json").read_text())
    assert record["side"] == 64
    assert record["tables"][0]["precision"] == "full"
    assert record["tables"][0]["milliseconds"].keys() == {"exported", "shaped"}
    assert "| ms (operations) | exported | shaped |" in capsys.readouterr().out
