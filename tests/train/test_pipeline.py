"""Both stages together: from a recipe's name and folders to a checkpoint, in one process and in two."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open

from trainings import (
    Killed,
    Train,
    assert_every_part_learned,
    assert_same_checkpoint,
    kill_at_call,
    small_recipe,
)
from unjpeg.errors import TrainingDataError, TrainingError
from unjpeg.modelfile import ModelFile
from unjpeg.models import Dagn
from unjpeg.models.exported import load_exported
from unjpeg.train import dagn as dagn_loop
from unjpeg.train import encoders as encoders_loop
from unjpeg.train.checkpoint import Checkpoint, select
from unjpeg.train.config import LearningRate
from unjpeg.train.dagn import train_dagn
from unjpeg.train.encoders import (
    discriminator_loss,
    select_encoders,
    train_encoders,
)
from unjpeg.train.pipeline import export_file, train_recipe
from unjpeg.train.run import AveragedModel, TrainingImages


def test_checkpoints_say_where_they_come_from(stage1: Path, stage2: Path, training_images: TrainingImages) -> None:
    for path, steps, parts in ((stage1, 20, {"seed", "encoders"}), (stage2, 40, {"seed", "network", "dagn"})):
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["unjpeg"])
        assert header["step"] == steps
        assert parts <= header["config"].keys()
        assert header["config"]["seed"] == small_recipe().seed
        assert header["manifest"] == training_images.manifest
        assert {"commit", "version"} <= header.keys()
    assert set(Checkpoint.load(stage2).metrics) == {f"psnr_db_q{q}" for q in dagn_loop.VALIDATION_QUALITIES}


def test_checkpoint_of_another_configuration_is_refused(
    stage1: Path, stage2: Path, train_stage1: Train, train_stage2: Train
) -> None:
    recipe = small_recipe()
    changes = [
        (train_stage2, stage2, replace(recipe, seed=1), "seed"),
        (train_stage2, stage2, replace(recipe, network=replace(recipe.network, blocks=2)), r"network\.blocks"),
        (train_stage2, stage2, replace(recipe, dagn=replace(recipe.dagn, batch=8)), r"dagn\.batch"),
        (train_stage1, stage1, replace(recipe, network=replace(recipe.network, encoder_width=4)), "encoder_width"),
        (
            train_stage1,
            stage1,
            replace(recipe, encoders=replace(recipe.encoders, learning_rate=LearningRate(1.0))),
            r"encoders\.learning_rate\.peak",
        ),
    ]
    for train, path, other, named in changes:
        before = path.read_bytes()
        with pytest.raises(TrainingError, match=rf"another configuration.*{named}"):
            train(other, path.parent)
        assert path.read_bytes() == before


def test_both_stages_learn_every_part(stage1: Path, stage2: Path) -> None:
    assert_every_part_learned(stage1, "encoders", "optimizer")
    assert_every_part_learned(stage1, "discriminator", "discriminator_optimizer")
    assert_every_part_learned(stage2, "model", "optimizer")


def test_muon_resumes_and_learns_every_part(
    train_stage1: Train, train_stage2: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe()
    recipe = replace(
        recipe,
        encoders=replace(recipe.encoders, optimizer="muon", steps=6, checkpoint_every=3),
        dagn=replace(recipe.dagn, optimizer="muon", steps=6, checkpoint_every=3),
    )
    with monkeypatch.context() as patch:
        patch.setattr(encoders_loop, "discriminator_loss", kill_at_call(4, discriminator_loss))
        patch.setattr(AveragedModel, "update", kill_at_call(4, AveragedModel.update))
        for train in (train_stage1, train_stage2):
            with pytest.raises(Killed):
                train(recipe, tmp_path / "killed")
    for train, owner in ((train_stage1, "encoders"), (train_stage2, "model")):
        path = train(recipe, tmp_path / "whole")
        assert_every_part_learned(path, owner, "optimizer")
        assert_same_checkpoint(train(recipe, tmp_path / "killed"), path)


def test_stage_1_fits_stage_2(stage1: Path, training_images: TrainingImages, tmp_path: Path) -> None:
    weights = select_encoders(Checkpoint.load(stage1))
    recipe = small_recipe()
    recipe = replace(recipe, dagn=replace(recipe.dagn, steps=1))
    path = train_dagn(Fabric(accelerator="cpu", devices=1), recipe, training_images, weights, tmp_path, workers=0)
    state = select(Checkpoint.load(path).tensors, "model")
    own = Dagn(recipe.network).state_dict()
    assert weights.keys() == {
        name for name in own if name.startswith(("insensitive_encoder.", "sensitive_encoder.", "qu"))
    }
    for name, value in weights.items():
        assert torch.equal(state[name], value)


def test_encoders_of_a_model_take_the_place_of_stage_1(tiny_model: Path, image_folder: Path, tmp_path: Path) -> None:
    file = ModelFile.read(tiny_model)
    theirs = load_exported(file)
    settings = [f"network.encoder_width={theirs.config.encoder_width}", "network.width=4", "dagn.steps=1"]
    path = train_recipe(
        "tiny", [str(image_folder)], tmp_path, settings=settings, encoders=str(tiny_model), accelerator="cpu", workers=0
    )
    checkpoint = Checkpoint.load(path)
    assert checkpoint.config["start"] == f"the encoders of {file.hash}"
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {"dagn.safetensors"}
    state = select(checkpoint.tensors, "model")
    for name in theirs.frozen_names():
        assert torch.equal(state[name], theirs.state_dict()[name])
    with pytest.raises(TrainingError, match="do not fit this network"):
        train_recipe(
            "tiny",
            [str(image_folder)],
            tmp_path / "b",
            start=str(tiny_model),
            accelerator="cpu",
            workers=0,
            settings=["network.width=4"],
        )
    with pytest.raises(TrainingError, match=r"--set network\.encoder_sharpen=0\.0"):  # the shapes would fit
        train_recipe(
            "tiny",
            [str(image_folder)],
            tmp_path / "c",
            encoders=str(tiny_model),
            accelerator="cpu",
            workers=0,
            settings=[*settings, "network.encoder_sharpen=6.75"],
        )


def test_pictures_too_small_to_validate_on_are_refused_before_stage_1(
    tmp_path: Path, pictures: list[NDArray[np.uint8]]
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(pictures[0]).save(folder / "picture.png")  # 72 pixels high
    settings = ["network.stem=48", "dagn.patch=96"]
    with pytest.raises(TrainingDataError, match="no validation picture is 96 pixels wide and high"):
        train_recipe("tiny", [str(folder)], tmp_path / "out", settings=settings, accelerator="cpu", workers=0)
    assert not (tmp_path / "out").exists()


def test_the_end_names_the_checkpoint_and_what_to_do_with_it(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where everything was done before."""
    settings = ["encoders.steps=1", "dagn.steps=2", "network.width=4"]
    for again in (False, True):
        said: list[str] = []
        path = train_recipe(
            "tiny",
            [str(image_folder)],
            tmp_path / "my run",
            settings=settings,
            accelerator="cpu",
            workers=0,
            say=said.append,
        )
        (line,) = said
        assert line.startswith(f"{path}: 2 steps, finished; ")
        assert line.endswith(f"unjpeg export '{path}' --out MODEL.unjpeg --data {image_folder}")
        logged = capsys.readouterr().err
        assert ("encoders finished earlier, after 1 steps" in logged) is again
        assert ("dagn finished earlier, after 2 steps" in logged) is again
    with pytest.raises(TrainingError, match=r"\(network.width\); choose another folder \(--out\)"):
        train_recipe(
            "tiny", [str(image_folder)], tmp_path / "my run", settings=settings[:2], accelerator="cpu", workers=0
        )


def test_what_no_model_file_holds_is_trained_and_its_end_says_so(image_folder: Path, tmp_path: Path) -> None:
    settings = ["encoders.steps=1", "dagn.steps=2", "network.width=4"]
    settings += ["network.fusion_kind=softmax", "network.insensitive_features=map"]
    said: list[str] = []
    path = train_recipe(
        "tiny",
        [str(image_folder)],
        tmp_path / "run",
        settings=settings,
        accelerator="cpu",
        workers=0,
        say=said.append,
    )
    assert said == [f"{path}: 2 steps, finished; no model file can hold its guidance"]
    assert Checkpoint.load(path).tensors["model.fusion_log_temperature"] != 0  # it is learned
    with pytest.raises(TrainingError, match="no model file can hold this network"):
        export_file(path, tmp_path / "model.unjpeg", [str(image_folder)], "a")


def test_frameworks_say_nothing_of_themselves() -> None:
    code = (
        "from unjpeg.train.pipeline import new_fabric; new_fabric(accelerator='cpu', devices=1, precision='bf16-mixed')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout + ran.stderr == ""


TWO_PROCESSES = """
import sys
from dataclasses import replace
from pathlib import Path

import torch
from lightning.fabric import Fabric

from unjpeg.train.checkpoint import Checkpoint
from unjpeg.train.dagn import restoration_loss, train_dagn
from unjpeg.datasets import ImageFolder
from unjpeg.train.encoders import select_encoders, train_encoders
from unjpeg.train.recipes import tiny
from unjpeg.train.run import TrainingImages

torch.set_num_threads(1)
folder, out = map(Path, sys.argv[1:3])
devices, micro_batches = map(int, sys.argv[3:5])
fabric = Fabric(accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto")
fabric.launch()
images = TrainingImages.open([ImageFolder(folder)], validation_fraction=0.0, cache_dir=out / "cache")
recipe = tiny()
recipe = replace(
    recipe,
    network=replace(recipe.network, insensitive_guidance=False, fusion=False),
    encoders=replace(recipe.encoders, steps=3, batch=4, patch=32, micro_batches=micro_batches),
    dagn=replace(recipe.dagn, steps=3, batch=4, patch=16, micro_batches=micro_batches),
)
stage1 = train_encoders(fabric, recipe, images, out, workers=0)
# Stage 2 of every run starts from the same stage 1: batch norm's statistics, which are its frozen encoders', are one
# process's own.
given = Path(sys.argv[5]) if len(sys.argv) > 5 else stage1
train_dagn(fabric, recipe, images, select_encoders(Checkpoint.load(given)), out, workers=0)
"""


def train_in_processes(folder: Path, out: Path, devices: int, micro_batches: int, *stage1: Path) -> None:
    out.mkdir()
    script = out / "train.py"
    script.write_text(TWO_PROCESSES)
    arguments = [folder, out, devices, micro_batches, *stage1]
    subprocess.run([sys.executable, script, *map(str, arguments)], check=True, timeout=600)


@pytest.mark.slow
def test_two_processes_train_together(image_folder: Path, tmp_path: Path) -> None:
    """With modules off, whose parameters no process has a gradient for."""
    train_in_processes(image_folder, tmp_path / "out", 2, 2)
    assert Checkpoint.load(tmp_path / "out" / "dagn.safetensors").step == 3


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_that_accumulates(image_folder: Path, tmp_path: Path) -> None:
    """The same half-batches, once in two processes and once one after the other, with half-batch norms in both."""
    one, two = tmp_path / "one", tmp_path / "two"
    train_in_processes(image_folder, one, 1, 2)
    train_in_processes(image_folder, two, 2, 1, one / "encoders.safetensors")
    for name in ("encoders.safetensors", "dagn.safetensors"):
        alone, together = Checkpoint.load(one / name), Checkpoint.load(two / name)
        assert alone.step == together.step == 3
        assert alone.tensors.keys() == together.tensors.keys()
        learned = [
            key
            for key in alone.tensors
            if key.startswith(("encoders.", "discriminator.", "model.", "ema."))
            and not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
        ]
        assert len(learned) > 100
        for key in learned:
            torch.testing.assert_close(together.tensors[key], alone.tensors[key], rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.slow
def test_mixed_precision_trains_both_stages(training_images: TrainingImages, tmp_path: Path) -> None:
    """bf16 where it is safe, weights and optimizers in float32; near to the float32 training, and not equal to it."""
    recipe = small_recipe()
    recipe = replace(
        recipe, encoders=replace(recipe.encoders, steps=2), dagn=replace(recipe.dagn, steps=2, ema_decay=0.0)
    )
    tensors = {}
    for precision in ("32-true", "bf16-mixed"):
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
        stage1 = train_encoders(fabric, recipe, training_images, tmp_path / precision, workers=0)
        weights = select_encoders(Checkpoint.load(stage1))
        path = train_dagn(fabric, recipe, training_images, weights, tmp_path / precision, workers=0)
        tensors[precision] = Checkpoint.load(stage1).tensors | Checkpoint.load(path).tensors
    exact, mixed = tensors["32-true"], tensors["bf16-mixed"]
    assert all(value.dtype == exact[name].dtype for name, value in mixed.items())
    assert any(not torch.equal(value, exact[name]) for name, value in mixed.items())
    # Adam's first steps are as long as the learning rate, whatever the gradient's size.
    rates = recipe.encoders.learning_rate.peak + recipe.dagn.learning_rate.peak
    for name, value in mixed.items():
        if name.startswith(("encoders.", "model.")) and not name.endswith(("running_mean", "running_var")):
            assert torch.isfinite(value).all()
            assert (value - exact[name]).abs().max() <= 4 * rates, name
