"""``unjpeg train`` and ``unjpeg export``: Algorithm 1 from folders of images to a model file."""

from __future__ import annotations

import hashlib
import logging
import shlex
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.fabric import Fabric
from torch import Tensor

from unjpeg.errors import OtherTrainingError, SettingError, TrainingError
from unjpeg.files import check_target
from unjpeg.modelfile import ModelFile
from unjpeg.models import AutoEncoderConfig, DagnConfig
from unjpeg.models.exported import load_exported
from unjpeg.train.calibrate import CROP_SIDE, calibrate_file
from unjpeg.train.checkpoint import Checkpoint
from unjpeg.train.config import VALIDATION_FRACTION, Recipe, apply_settings
from unjpeg.train.dagn import VALIDATION_QUALITIES, cut_validation_crops, train_dagn
from unjpeg.train.data import require_divisible
from unjpeg.train.degrade import Pixels8, compress_jpeg
from unjpeg.train.encoders import select_encoders, stored_encoder, train_encoders
from unjpeg.train.export import export_checkpoint
from unjpeg.train.grow import exchange_encoders
from unjpeg.train.int8 import SIDE as ROUNDED_SIDE
from unjpeg.train.int8 import round_file
from unjpeg.train.recipes import RECIPES
from unjpeg.train.run import open_images, to_unit_range

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
        encoders: a model, or a stage-1 checkpoint, whose encoders to take instead of stage 1's, or, with ``start``,
            instead of that model's: see ``exchange_encoders``.
        say: takes a line at the end: where the checkpoint lies, and what to do with it.

    Raises:
        ModelError: there is no such model.
        SettingError: there is no such recipe, device or precision, or no such setting of the recipe.
        TrainingError: a folder is missing, no held-out picture is large enough to validate on, ``out`` belongs to
            another training, or the model's weights do not fit.
    """
    recipe = make_recipe(name, settings, devices)
    fabric = new_fabric(accelerator=accelerator, devices=devices, precision=precision)
    frozen = None if encoders is None else _read_encoders(encoders, recipe.network)
    file = None if start is None else ModelFile.read(start)
    # Before the processes are launched: pictures are decoded once, and what is wrong with them is said once.
    images = open_images(data, recipe.validation_fraction)
    crops = cut_validation_crops(images, recipe)  # raises now what it would after all of stage 1
    fabric.launch()
    try:
        origin = None
        if file is not None:
            network, origin = load_exported(file), file.hash
            if file.strong:
                say(f"{start}: goes on from the weights for all qualities, not from those for strong compression")
            if frozen is None:
                _require_same_encoders(network.config.encoder, recipe.network)
                weights = network.state_dict()
            else:
                weights = exchange_encoders(network, frozen.weights, _compress_all(crops))
                origin = f"{origin} under the encoders of {frozen.origin}"
        elif frozen is not None:
            weights, origin = frozen.weights, f"the encoders of {frozen.origin}"
        else:
            weights = select_encoders(Checkpoint.load(train_encoders(fabric, recipe, images, out, workers=workers)))
        path = train_dagn(fabric, recipe, images, weights, out, start=origin, workers=workers)
    except OtherTrainingError as error:
        raise OtherTrainingError(f"{error} (--out)") from error
    if fabric.is_global_zero:
        command = ["unjpeg", "export", str(path), "--out", "MODEL.unjpeg"]
        command += [word for folder in data for word in ("--data", folder)]
        further = f"a model file of it: {shlex.join(command)}"
        if not recipe.network.has_sizeless_guidance:
            further = "no model file can hold its guidance"
        say(f"{path}: {recipe.dagn.steps} steps, finished; {further}")
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
        near = get_close_matches(name, RECIPES, 1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise SettingError(f"no recipe {name!r}{meant}; there are: {', '.join(sorted(RECIPES))}")
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


class _Frozen(NamedTuple):
    """Encoders and quality predictor by ``Dagn``'s names, and the hash of what they come from."""

    weights: dict[str, Tensor]
    origin: str


def _read_encoders(given: str, wanted: DagnConfig) -> _Frozen:
    """Of a model, or of a stage-1 checkpoint. Raises ModelError or TrainingError, also if a recipe wants others."""
    path = Path(given)
    if path.suffix == ".safetensors":
        checkpoint = Checkpoint.load(path)
        if "encoders" not in checkpoint.config:
            raise TrainingError(f"{path}: is not a stage-1 checkpoint (encoders.safetensors)")
        _require_same_encoders(stored_encoder(checkpoint.config), wanted)
        weights, origin = select_encoders(checkpoint), hashlib.sha256(path.read_bytes()).hexdigest()
    else:
        file = ModelFile.read(given)
        network = load_exported(file)
        _require_same_encoders(network.config.encoder, wanted)
        state = network.state_dict()
        weights, origin = {name: state[name] for name in network.frozen_names()}, file.hash
    return _Frozen(weights, origin)


def _require_same_encoders(given: AutoEncoderConfig, wanted: DagnConfig) -> None:
    """That the weights would be used as they were trained: what the tensors' shapes cannot tell."""
    for name in ("sharpen", "heads"):
        of_model, of_recipe = getattr(given, name), getattr(wanted.encoder, name)
        if of_model != of_recipe:
            raise TrainingError(
                f"the given encoders' {name} is {of_model}, the recipe's {of_recipe}; --set "
                f"network.encoder_{name}={of_model} goes on from them"
            )


def _compress_all(crops: Sequence[Pixels8]) -> list[Tensor]:
    """At each of ``VALIDATION_QUALITIES``, as a network sees them."""
    pairs = [compress_jpeg(crop, quality) for crop in crops for quality in VALIDATION_QUALITIES]
    return [to_unit_range(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]) for pixels in pairs]


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
