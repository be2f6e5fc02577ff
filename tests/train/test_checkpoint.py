"""Checkpoints: whole or not at all, and refused where they do not belong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from unjpeg.errors import TrainingError
from unjpeg.train.checkpoint import Checkpoint, select
from unjpeg.train.run import find_resume_point


def a_checkpoint() -> Checkpoint:
    return Checkpoint(
        {"model.a": torch.arange(6.0).reshape(2, 3).T, "model.n": torch.tensor(3)},
        7,
        {"dagn": {"steps": 9}},
        {"training_images": 2},
        {"psnr_db_q10": 30.5},
    )


def test_checkpoint_comes_back(tmp_path: Path) -> None:
    saved = a_checkpoint()
    saved.save(tmp_path / "new" / "c.safetensors")
    loaded = Checkpoint.load(tmp_path / "new" / "c.safetensors")
    assert (loaded.step, loaded.config, loaded.manifest, loaded.metrics) == (
        saved.step,
        saved.config,
        saved.manifest,
        saved.metrics,
    )
    assert loaded.tensors.keys() == saved.tensors.keys()
    for name, tensor in saved.tensors.items():
        assert torch.equal(loaded.tensors[name], tensor)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["c.safetensors"]


def test_failed_save_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    a_checkpoint().save(path)

    def killed(_file: Any) -> None:
        raise KeyboardInterrupt  # all is written, and nothing in its place

    monkeypatch.setattr("unjpeg.files._to_disk", killed)
    with pytest.raises(KeyboardInterrupt):
        replace(a_checkpoint(), step=8).save(path)
    assert Checkpoint.load(path).step == 7
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damage", ["missing", "empty", "header", "tensors", "garbage", "folder", "foreign", "no step"])
def test_damaged_checkpoint_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "dagn.safetensors"
    a_checkpoint().save(path)
    whole = path.read_bytes()
    tensors = {"a": torch.zeros(2)}
    if damage in ("missing", "folder"):
        path.unlink()
        if damage == "folder":
            path.mkdir()
    elif damage == "foreign":
        save_file(tensors, path)
    elif damage == "no step":
        save_file(tensors, path, metadata={"unjpeg": "{}"})
    else:
        path.write_bytes({"empty": b"", "header": whole[:40], "tensors": whole[:-5], "garbage": b"\xff" * 500}[damage])
    with pytest.raises(TrainingError, match=r"dagn\.safetensors: not a readable"):
        Checkpoint.load(path)
    if damage != "missing":
        with pytest.raises(TrainingError, match=r"dagn\.safetensors"):
            find_resume_point(path, {}, {})


def test_no_checkpoint_means_a_fresh_start(tmp_path: Path) -> None:
    assert find_resume_point(tmp_path / "dagn.safetensors", {}, {}) is None


def test_other_pictures_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "dagn.safetensors"
    Checkpoint({}, 3, {"seed": 1}, {"training_sha256": "a"}).save(path)
    assert find_resume_point(path, {"seed": 1}, {"training_sha256": "a"}) is not None
    with pytest.raises(TrainingError, match="other pictures"):
        find_resume_point(path, {"seed": 1}, {"training_sha256": "b"})


def test_select_takes_whole_prefixes_only() -> None:
    tensors = {name: torch.zeros(1) for name in ("a.b.c", "a.d", "ab.c", "b.a.c")}
    assert set(select(tensors, "a")) == {"b.c", "d"}
