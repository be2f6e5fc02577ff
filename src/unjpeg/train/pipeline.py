"""``unjpeg train`` and ``unjpeg export``: Algorithm 1 from folders of images to a model file."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from lightning.fabric import Fabric

from unjpeg.errors import OtherTrainingError, SettingError, TrainingError
from unjpeg.files import check_target
from unjpeg.modelfile import ModelFile
from unjpeg.models.exported import load_exported
from unjpeg.train.calibrate import CROP_SIDE, calibrate_file
from unjpeg.train.checkpoint import Checkpoint
from unjpeg.train.config import VALIDATION_FRACTION, Recipe, apply_settings
from unjpeg.train.dagn import cut_validation_crops, train_dagn
from unjpeg.train.data import require_divisible
from unjpeg.train.encoders import select_encoders, train_encoders
from unjpeg.train.export import export_checkpoint
from unjpeg.train.int8 import SIDE as ROUNDED_SIDE
from unjpeg.train.int8 import round_file
from unjpeg.train.recipes import RECIPES
from unjpeg.train.run import open_images

__all__ = ["export_file", "find_recipe", "make_fabric", "make_recipe", "new_fabric", "open_images", "train_recipe"]

PRECISIONS = ("32-true", "bf16-mixed")


def train_recipe(
    name: str,
    data: Sequence[str],
    out: Path,
    *,
    workers: int = 1,
    settings: Sequence[str] = (),
    start: str | None = None,
    encoders: str | None = None,
    devices: int = 1,
    accelerator: str = "auto",
    precision: str = "auto",
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Both stages of a recipe, going on from whatever ``out`` holds. Returns the last checkpoint's path.

    Args:
        data: folders of images, each ``DIR`` or ``DIR=WEIGHT``.
        settings: fields of the recipe to set, each ``field.field=value``; see ``apply_settings``.
        start: a model (shipped name or file) to go on from instead of stage 1, of the same shape but for its width and
            the number of blocks in a row, which may grow.
        encoders: a model whose encoders to take instead of stage 1's.
        say: takes a line at the end: where the checkpoint lies, and what to do with it.

    Raises:
        ModelError: there is no such model.
        SettingError: there is no such recipe, device or precision, or no such setting of the recipe.
        TrainingError: a folder is missing, no held-out picture is large enough to validate on, ``out`` belongs to
            another training, or the model's weights do not fit.
    """
    recipe = make_recipe(name, settings, devices)
    fabric = new_fabric(accelerator=accelerator, devices=devices, precision=precision)
    given = start or encoders
    file = None if given is None else ModelFile.read(given)
    # Before the processes are launched: pictures are decoded once, and what is wrong with them is said once.
    images = open_images(data, recipe.validation_fraction)
    cut_validation_crops(images, recipe)  # raises now what it would after all of stage 1
    fabric.launch()
    try:
        if file is None:
            weights = select_encoders(Checkpoint.load(train_encoders(fabric, recipe, images, out, workers=workers)))
            path = train_dagn(fabric, recipe, images, weights, out, workers=workers)
        else:
            network = load_exported(file)
            weights = network.state_dict()
            if start is None:
                weights = {name: weights[name] for name in network.frozen_names()}
            origin = file.hash if start else f"the encoders of {file.hash}"
            path = train_dagn(fabric, recipe, images, weights, out, start=origin, workers=workers)
    except OtherTrainingError as error:
        raise OtherTrainingError(f"{error} (--out)") from error
    if fabric.is_global_zero:
        command = ["unjpeg", "export", str(path), "--out", "MODEL.unjpeg"]
        command += [word for folder in data for word in ("--data", folder)]
        say(f"{path}: {recipe.dagn.steps} steps, finished; a model file of it: {shlex.join(command)}")
    return path


def export_file(
    checkpoint: Path, out: Path, data: Sequence[str], name: str, guide_windows: int | None = None
) -> ModelFile:
    """Export a stage-2 checkpoint; the pictures give the mean features per quality and the calibration.

    A bounded network gets its int8 graph, too.

    Args:
        guide_windows: that guidance is averaged over, at most; None leaves it to the restorer.

    Raises TrainingError, or OutputError if the file cannot be written.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    check_target(out, overwrite=True)
    loaded = Checkpoint.load(checkpoint)
    if "dagn" not in loaded.config:
        raise TrainingError(f"{checkpoint}: is not a stage-2 checkpoint (dagn.safetensors)")
    images = open_images(data, VALIDATION_FRACTION)
    stage = loaded.config["dagn"]
    window = stage.get("guide_window") or stage["patch"]
    export_checkpoint(loaded, images, out, name=name, guide_window=window, guide_windows=guide_windows)
    file = calibrate_file(out, images.cut_validation_crops(CROP_SIDE))
    if loaded.config["network"].get("bounded"):
        file = round_file(file, images.cut_validation_crops(ROUNDED_SIDE))
    file.write(out)
    return file


def find_recipe(name: str) -> Recipe:
    """Raises SettingError if there is none."""
    if name not in RECIPES:
        raise SettingError(f"no recipe {name!r}; there are: {', '.join(sorted(RECIPES))}")
    return RECIPES[name]()


def make_recipe(name: str, settings: Sequence[str], devices: int) -> Recipe:
    """A recipe with some of its fields set, for so many processes.

    Raises SettingError if there is no such recipe or setting, or the processes cannot share a stage's batch equally.
    """
    recipe = apply_settings(find_recipe(name), settings)
    for stage in (recipe.encoders, recipe.dagn):
        require_divisible(stage.batch, devices, stage.micro_batches)
    return recipe


def make_fabric(*, accelerator: str, devices: int, precision: str) -> Fabric:
    """``new_fabric``, launched: from here on each device has its process."""
    fabric = new_fabric(accelerator=accelerator, devices=devices, precision=precision)
    fabric.launch()
    return fabric


def new_fabric(*, accelerator: str, devices: int, precision: str) -> Fabric:
    """What runs a training, on the devices asked for; not launched yet.

    Raises:
        SettingError: there is no such kind of device, or no such precision.
        TrainingError: this machine has none such.
    """
    torch.set_flush_denormal(True)
    for name in ("lightning.fabric", "lightning.pytorch"):  # whichever was imported last logs for both
        logging.getLogger(name).setLevel(logging.WARNING)  # or it reports its own precision to the user
    try:
        return Fabric(accelerator=accelerator, devices=devices, precision=_precision(precision))  # type: ignore[arg-type]
    except ValueError as error:  # what Fabric does not know
        raise SettingError(f"cannot train like that: {error}") from error
    except (RuntimeError, ImportError) as error:  # what the machine lacks
        raise TrainingError(f"cannot train like that: {error}") from error


def _precision(wanted: str) -> str:
    """bf16 where it is fast: GPUs that support it, CPUs with bf16 units. Elsewhere it is several times slower.

    Raises SettingError for what neither loop is written for: 16-bit weights, or gradients that need scaling.
    """
    if wanted in PRECISIONS:
        return wanted
    if wanted != "auto":
        raise SettingError(f"no precision {wanted!r} to train in; there are: auto, {', '.join(PRECISIONS)}")
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "32-true"
