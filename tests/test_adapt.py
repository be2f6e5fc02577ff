"""``unjpeg adapt``: what it refuses in one line, and a whole adaptation of a tiny model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from conftest import synthetic_photo
from unjpeg.cli import app
from unjpeg.errors import TrainingDataError, TrainingError
from unjpeg.network import ModelFile
from unjpeg.restore import Restorer
from unjpeg.train import adapt as adapting
from unjpeg.train.adapt import DEFAULT_ADAPTATION, TargetPictures, adapt_model
from unjpeg.train.export import load_exported

SIDE = 80


def silent(_line: str) -> None:
    pass


def fill(folder: Path, count: int, *, seed: int, format: str = "webp", side: int = SIDE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"quality": 20} if format == "webp" else {}
    for number in range(count):
        pixels = synthetic_photo(side, side + 16, seed + number)
        Image.fromarray(pixels).save(folder / f"{number:02d}.{format}", **options)
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return fill(tmp_path / "source", 6, seed=0, format="png", side=128)


def adapt(model: Path, target: Path, source: Path, out: Path, *options: str, code: int = 1) -> Result:
    arguments = ["adapt", model, "--target", target, "--source", source, "--out", out, *options]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such folder"),
        ("empty", "no images in this folder"),
        ("three", "3 usable pictures are too little to adapt to; give 10 or more"),
        ("unreadable", "9 usable pictures are too little"),
        ("small", "0 usable pictures are too little"),
        ("the source", "is (in) the source"),
        ("in the source", "is (in) the source"),
        ("a copy", "is also in the source"),
    ],
)
def test_bad_targets_are_each_one_line(kind: str, message: str, tiny_model: Path, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    if kind == "empty":
        target.mkdir()
        (target / "notes.txt").write_text("no picture")
    elif kind == "three":
        fill(target, 3, seed=10)
    elif kind == "unreadable":
        fill(target, 9, seed=10)
        (target / "broken.webp").write_bytes(b"RIFF....WEBP")
    elif kind == "small":
        fill(target, 12, seed=10, side=16)
    elif kind == "the source":
        target = source
    elif kind == "in the source":
        target = fill(source / "below", 12, seed=10)
    elif kind == "a copy":
        fill(target, 12, seed=10)
        shutil.copy(source / "03.png", target / "renamed.png")
    with pytest.raises(TrainingDataError) as raised:
        adapt(tiny_model, target, source, tmp_path / "out")
    assert message in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_unreadable_pictures_are_named_and_left_out(tmp_path: Path) -> None:
    folder = fill(tmp_path / "target", 12, seed=10)
    (folder / "broken.webp").write_bytes(b"RIFF....WEBP")
    (folder / "empty.jpg").touch()
    said: list[str] = []
    pictures = TargetPictures.read(folder, 64, said.append)
    assert pictures.counts == (9, 3)
    assert pictures.left_out == tuple(said)
    assert [line.split(":")[0] for line in said] == [str(folder / "broken.webp"), str(folder / "empty.jpg")]
    assert all(line.endswith("; left out") for line in said)


@pytest.mark.parametrize("option", ["--strength", "--max-loss"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_impossible_numbers_are_wrong_usage(
    option: str, value: str, tiny_model: Path, source: Path, tmp_path: Path
) -> None:
    adapt(tiny_model, tmp_path, source, tmp_path / "out", option, value, code=2)


# --- what is read of the target -----------------------------------------------------------------------------------


def test_target_patches_lie_on_the_grid_and_apart_from_the_held_out(tmp_path: Path) -> None:
    folder = tmp_path / "target"
    folder.mkdir()
    for number in range(10):  # each 16x16 block has its own shade, each picture its own blue
        shades = np.arange(25, dtype=np.uint8).reshape(5, 5).repeat(16, axis=0).repeat(16, axis=1)
        Image.fromarray(np.dstack([shades, shades, np.full_like(shades, number)])).save(folder / f"{number}.png")
    pictures = TargetPictures.read(folder, 32, silent)
    assert {int(patch[0, 0, 2]) for patch in pictures.held_out} == {0, 5}
    assert {int(patch[0, 0, 2]) for patch in pictures.training} == set(range(10)) - {0, 5}
    assert len(pictures.held_out) == 2 * 16
    assert len({patch.tobytes() for patch in pictures.held_out}) == 2 * 16
    for patch in pictures.training:
        blocks = patch[..., 0].reshape(2, 16, 2, 16)
        assert all((blocks[i, :, j] == blocks[i, 0, j, 0]).all() for i in range(2) for j in range(2))


def test_patches_of_one_picture_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapting, "PATCHES_PER_PICTURE", 2)
    pictures = TargetPictures.read(fill(tmp_path / "target", 10, seed=0, format="png"), 32, silent)
    assert (len(pictures.training), len(pictures.held_out)) == (16, 4)
    again = TargetPictures.read(tmp_path / "target", 32, silent)
    assert all(np.array_equal(a, b) for a, b in zip(pictures.training, again.training, strict=True))


# --- a whole adaptation -------------------------------------------------------------------------------------------


def test_an_adapted_model_restores(tiny_model: Path, source: Path, tmp_path: Path) -> None:
    target = fill(tmp_path / "target", 12, seed=40)
    said: list[str] = []
    config = replace(DEFAULT_ADAPTATION, steps=4, batch=2, checkpoint_every=2, max_source_loss_db=5.0)

    def run(steps: int = 4) -> adapting.AdaptationReport:
        return adapt_model(
            str(tiny_model),
            target,
            [str(source)],
            tmp_path / "out",
            config=replace(config, steps=steps),
            accelerator="cpu",
            precision="32-true",
            probe_steps=2,
            say=said.append,
        )

    report = run()
    assert (report.target_pictures, report.held_out_pictures, report.steps) == (12, 3, 4)
    assert report.stopped_at_step is None
    assert 0 <= report.accuracy_before <= 1
    assert 0 <= report.accuracy_after <= 1
    assert any("told right" in line for line in said)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["steps"] == 4

    start, adapted = ModelFile.read(tiny_model), ModelFile.read(tmp_path / "out" / "adapted.unjpeg")
    assert adapted.description["name"] == f"{start.description['name']}-adapted"
    np.testing.assert_array_equal(adapted.quality_features, start.quality_features)
    before, after = (load_exported(file).state_dict() for file in (start, adapted))
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {"head.weight", "tail.weight"} <= changed
    assert not any(name.startswith(("insensitive_encoder", "sensitive_encoder", "quality_pred")) for name in changed)

    picture = target / "00.webp"
    pixels = Restorer(tmp_path / "out" / "adapted.unjpeg").restore(picture).pixels
    assert pixels.shape == (SIDE, SIDE + 16, 3)

    written = (tmp_path / "out" / "adapt.safetensors").read_bytes()
    assert run().steps == 4  # finished: measured again, not trained again
    assert (tmp_path / "out" / "adapt.safetensors").read_bytes() == written
    with pytest.raises(TrainingError, match="another configuration"):
        run(steps=6)


def test_a_source_that_collapses_at_once_writes_nothing(
    tiny_model: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = fill(tmp_path / "target", 12, seed=40)
    psnr = iter([30.0, 20.0])
    monkeypatch.setattr(adapting, "validation_psnr_db", lambda *_: {"psnr_db_q10": next(psnr)})
    config = replace(DEFAULT_ADAPTATION, steps=1, batch=2)
    with pytest.raises(TrainingError, match=r"lost more than 0\.1 dB .* within 1 steps; nothing was written"):
        adapt_model(
            str(tiny_model),
            target,
            [str(source)],
            tmp_path / "out",
            config=config,
            accelerator="cpu",
            precision="32-true",
            probe_steps=1,
        )
    assert not (tmp_path / "out" / "adapted.unjpeg").exists()
