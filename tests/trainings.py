"""Small trainings for tests, the fixtures of which lie in ``conftest``; and what kills, records and compares them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from PIL import Image
from torch import Tensor

from conftest import synthetic_photo
from unjpeg.datasets import ImageFolder
from unjpeg.models import (
    ArCnn,
    ArCnnConfig,
    AutoEncoderConfig,
    Backbone,
    BackboneConfig,
    DagnConfig,
    DnCnn,
    DnCnnConfig,
    Rdn,
    RdnConfig,
    SplitDagn,
    make_backbone,
)
from unjpeg.train.checkpoint import Checkpoint
from unjpeg.train.config import Recipe
from unjpeg.train.dagn import train_dagn
from unjpeg.train.degrade import Pixels8
from unjpeg.train.encoders import (
    DecoupledEncoders,
    select_encoders,
    train_encoders,
)
from unjpeg.train.recipes import tiny
from unjpeg.train.run import RunLog, TrainingImages

EXPECTED = Path(__file__).parent / "expected"


SHIPPED_KIND = DagnConfig(
    width=4,
    scales=3,
    blocks=1,
    stem=2,
    norm="none",
    input="detail",
    skips="after",
    stated=True,
    encoder_width=2,
    fusion=False,
)
"""The shipped networks in small."""

Train = Callable[[Recipe, Path], Path]


def small_recipe() -> Recipe:
    """``tiny``, smaller still; stage 2 with gradient accumulation."""
    recipe = tiny()
    return replace(
        recipe,
        encoders=replace(recipe.encoders, batch=4, patch=32, gradient_clip=1.0),
        dagn=replace(recipe.dagn, batch=4, patch=16, micro_batches=2, weight_decay=0.01),
        validation_fraction=0.5,
    )


def recorded_log(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Filled with the last value of each figure that a training logs."""
    recorded: dict[str, float] = {}
    log = RunLog.scalars

    def scalars(run: RunLog, step: int, values: dict[str, float], **options: Any) -> None:
        recorded.update(values)
        log(run, step, values, **options)

    monkeypatch.setattr(RunLog, "scalars", scalars)
    return recorded


class Killed(Exception):  # noqa: N818 (no error)
    """Stands for a process that ends without warning."""


def kill_at_call(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, whose call ``number`` (from 0) ends the training."""
    calls = 0

    def call(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > number:
            raise Killed
        return function(*args, **options)

    return call


def assert_same_checkpoint(resumed: Path, uninterrupted: Path) -> None:
    mine, reference = Checkpoint.load(resumed), Checkpoint.load(uninterrupted)
    assert mine.step == reference.step
    assert mine.metrics == reference.metrics
    assert mine.tensors.keys() == reference.tensors.keys()
    assert [name for name, tensor in mine.tensors.items() if not torch.equal(tensor, reference.tensors[name])] == []


def assert_every_part_learned(path: Path, owner: str, optimizers: str) -> None:
    """Each parameter has met one optimizer, and only one."""
    tensors = Checkpoint.load(path).tensors
    frozen = tuple(f"model.{part}." for part in ("insensitive_encoder", "sensitive_encoder", "quality_predictor"))
    unlearned = (".running_mean", ".running_var", ".num_batches_tracked")
    learning = [
        name.split(".", 1)[1]
        for name in tensors
        if name.startswith(f"{owner}.") and not name.startswith(frozen) and not name.endswith(unlearned)
    ]
    moments = {
        name: tensor
        for name, tensor in tensors.items()
        if name.startswith(optimizers) and name.split(".")[1] in ("exp_avg", "momentum_buffer")
    }
    assert sorted(name.split(".", 2)[2] for name in moments) == sorted(learning)
    assert [name for name, moment in moments.items() if not moment.any()] == []


def assert_golden(name: str, log: dict[str, float]) -> None:
    """Compare with ``expected/<name>.json``; ``UNJPEG_REGENERATE=1`` writes it instead."""
    path = EXPECTED / f"{name}.json"
    values = {key: value for key, value in log.items() if key not in ("learning_rate", "discriminator_accuracy")}
    if os.environ.get("UNJPEG_REGENERATE") == "1":
        EXPECTED.mkdir(exist_ok=True)
        path.write_text(json.dumps({key: float(f"{value:.7g}") for key, value in values.items()}, indent=2) + "\n")
    assert values == pytest.approx(json.loads(path.read_text()), rel=1e-3)


NETWORKS: dict[str, tuple[BackboneConfig, type[Backbone]]] = {
    "rdn": (RdnConfig(width=6, blocks=3, layers=2, growth=4), Rdn),
    "rdn split deeper": (RdnConfig(width=6, blocks=3, layers=2, growth=4, split=2), Rdn),
    "dncnn": (DnCnnConfig(width=6, depth=5), DnCnn),
    "arcnn": (ArCnnConfig(widths=(8, 6, 4)), ArCnn),
    "dagn": (DagnConfig(width=4, scales=2, blocks=2, stem=2, encoder_width=1), SplitDagn),
}


def a_network(name: str = "rdn") -> Backbone:
    torch.manual_seed(1)
    network = make_backbone(NETWORKS[name][0])
    with torch.no_grad():  # away from the identity that some of them start at
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


def grey_photo(side: int, seed: int) -> Pixels8:
    return np.asarray(Image.fromarray(synthetic_photo(side, side, seed)).convert("L"))


PICTURES = [grey_photo(48, seed) for seed in range(8)]


def open_training_images(folder: Path, cache: Path) -> TrainingImages:
    """Split as ``small_recipe`` asks."""
    fraction = small_recipe().validation_fraction
    return TrainingImages.open([ImageFolder(folder)], validation_fraction=fraction, cache_dir=cache)


def run_stage1(images: TrainingImages, recipe: Recipe, out: Path) -> Path:
    return train_encoders(Fabric(accelerator="cpu", devices=1), recipe, images, out, workers=0)


def fresh_encoders() -> dict[str, Tensor]:
    """Stage 1's result before its first step, by the network's names."""
    torch.manual_seed(5)
    state = DecoupledEncoders(AutoEncoderConfig(tiny().network.encoder_width)).state_dict()
    return select_encoders(Checkpoint({f"encoders.{name}": value for name, value in state.items()}, 0, {}, {}))


def run_stage2(images: TrainingImages, encoders: dict[str, Tensor], recipe: Recipe, out: Path) -> Path:
    return train_dagn(Fabric(accelerator="cpu", devices=1), recipe, images, encoders, out, workers=0)
