"""Stage 2: losses and figures by hand and golden, resumed bit for bit, and networks that go on from others."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from trainings import (
    Killed,
    Train,
    assert_golden,
    assert_same_checkpoint,
    kill_at_call,
    recorded_log,
    small_recipe,
)
from unjpeg.datasets import ImageFolder
from unjpeg.errors import TrainingDataError, TrainingError
from unjpeg.models import Dagn
from unjpeg.models.blocks import Norm
from unjpeg.train.checkpoint import Checkpoint, select
from unjpeg.train.config import DagnTraining, LearningRate
from unjpeg.train.dagn import (
    measure_dead_share,
    measure_gain_db,
    measure_pattern_gain_db,
    restoration_loss,
    train_dagn,
)
from unjpeg.train.degrade import JpegDegradation, compress_jpeg
from unjpeg.train.run import AveragedModel, TrainingImages


def test_restoration_losses_by_hand() -> None:
    original = torch.zeros(2, 3, 4, 4)
    restored = torch.cat([torch.full((1, 3, 4, 4), 0.1), torch.full((1, 3, 4, 4), -0.3)])
    restored[0, 0] = 0
    training = DagnTraining(steps=1)
    assert restoration_loss(restored, original, training).item() == pytest.approx((0.1 * 2 / 3 + 0.3) / 2)
    total = restoration_loss(restored, original, replace(training, loss="l1-sum")).item()
    assert total == pytest.approx(48 * (0.1 * 2 / 3 + 0.3) / 2)  # Eq. 14 as printed: 1 / N of the sum over all values
    rms = (math.sqrt(0.01 * 2 / 3 + 1e-5) + math.sqrt(0.09 + 1e-5)) / 2
    assert restoration_loss(restored, original, replace(training, loss="rms")).item() == pytest.approx(rms)
    exact = torch.zeros(1, 3, 4, 4, requires_grad=True)
    restoration_loss(exact, original[:1], replace(training, loss="rms")).backward()  # type: ignore[no-untyped-call]
    assert exact.grad is not None
    assert torch.isfinite(exact.grad).all()


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_channels_that_never_fire_are_counted(norm: Norm) -> None:
    torch.manual_seed(0)
    network = Dagn(replace(small_recipe().network, norm=norm))
    rng = np.random.default_rng(0)
    crops = [rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(2)]
    before = measure_dead_share(network, crops, torch.device("cpu"))
    first = {"batch": 1, "none": 0}[norm]  # what comes before the ReLU: the norm, or the convolution
    nn.init.constant_(network.state_dict(keep_vars=True)[f"bottleneck.0.body.{first}.bias"], -1e3)
    config = network.config
    channels = [config.width * 2**scale for scale in range(config.scales)]
    blocks = config.blocks * (sum(channels) + channels[-1] + 2 * sum(config.stage_channels))
    guiders = 2 * 2 * config.bottleneck_channels
    after = measure_dead_share(network, crops, torch.device("cpu"))
    assert after - before == pytest.approx(config.bottleneck_channels / (blocks + guiders), abs=0.02)
    assert not any(module._forward_hooks for module in network.modules())


def test_what_patterns_gain_is_the_difference_to_their_jpegs() -> None:
    network = Dagn(small_recipe().network)
    nn.init.zeros_(network.tail.weight)
    patterns = [np.random.default_rng(n).integers(0, 256, (32, 32, 3), np.uint8) for n in range(4)]
    assert measure_pattern_gain_db(network, [], torch.device("cpu")) == {}
    untouched = measure_pattern_gain_db(network, patterns, torch.device("cpu"))
    assert untouched["gain_db_patterns"] == pytest.approx(0, abs=1e-4)
    assert network.tail.bias is not None
    nn.init.constant_(network.tail.bias, 10.0)
    white = measure_pattern_gain_db(network, patterns, torch.device("cpu"))
    expected = []
    for pattern, quality in zip(patterns, (10, 50, 90, 10), strict=True):
        jpeg, truth = compress_jpeg(pattern, quality).astype(float), pattern.astype(float)
        expected.append(10 * np.log10(np.square(jpeg - truth).mean() / np.square(255 - truth).mean()))
    assert white["gain_db_patterns"] == pytest.approx(np.mean(expected), abs=1e-3)
    assert white["worst_gain_db_patterns"] == pytest.approx(min(expected), abs=1e-3)


def test_what_degraded_pictures_gain_is_counted_against_their_originals() -> None:
    network = Dagn(small_recipe().network)
    nn.init.zeros_(network.tail.weight)
    assert network.tail.bias is not None
    nn.init.constant_(network.tail.bias, 10.0)  # all white
    crop = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    wild = JpegDegradation(5, 100, real_life=1.0)
    pairs = [wild.apply(crop, np.random.default_rng(n)) for n in range(4)]
    gains = measure_gain_db(network, pairs, torch.device("cpu"), "real_life")
    expected = [
        10 * np.log10(np.square(pair.compressed - truth).mean() / np.square(255 - truth).mean())
        for pair in pairs
        for truth in [pair.original.astype(float)]
    ]
    assert gains["gain_db_real_life"] == pytest.approx(np.mean(expected), abs=1e-3)
    assert gains["worst_gain_db_real_life"] == pytest.approx(min(expected), abs=1e-3)
    assert measure_gain_db(network, [], torch.device("cpu"), "real_life") == {}


def test_golden_dagn(train_stage2: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = recorded_log(monkeypatch)
    recipe = small_recipe()
    train_stage2(replace(recipe, dagn=replace(recipe.dagn, steps=20)), tmp_path)
    assert_golden("train_dagn_20_steps", log)


def test_a_training_on_files_in_the_wild_says_what_they_gain(
    train_stage2: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = recorded_log(monkeypatch)
    recipe = small_recipe()
    wild = JpegDegradation(5, 100, real_life=0.5, other_codecs=0.3)
    train_stage2(replace(recipe, dagn=replace(recipe.dagn, steps=3, degradation=wild)), tmp_path)
    assert np.isfinite(log["loss"])
    for kind in ("real_life", "other_codecs"):
        assert log[f"worst_gain_db_{kind}"] <= log[f"gain_db_{kind}"]


def test_logged_loss_of_a_resumed_training_is_a_mean(
    train_stage2: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe()
    recipe = replace(recipe, dagn=replace(recipe.dagn, steps=12, learning_rate=LearningRate(0.0)))
    log = recorded_log(monkeypatch)
    train_stage2(recipe, tmp_path / "whole")
    whole = log["loss"]
    with monkeypatch.context() as patch:
        patch.setattr(AveragedModel, "update", kill_at_call(11, AveragedModel.update))
        with pytest.raises(Killed):
            train_stage2(recipe, tmp_path / "killed")
    train_stage2(recipe, tmp_path / "killed")  # the last two steps
    assert log["loss"] > whole / 3


@pytest.mark.parametrize("kill_steps", [(17,), (3, 29)], ids=str)
def test_resumed_dagn_equals_the_uninterrupted(
    stage2: Path, train_stage2: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill_steps: tuple[int, ...]
) -> None:
    """Killed after so many steps of each run."""
    for steps in kill_steps:
        with monkeypatch.context() as patch:
            patch.setattr(AveragedModel, "update", kill_at_call(steps, AveragedModel.update))
            with pytest.raises(Killed):
                train_stage2(small_recipe(), tmp_path)
    assert_same_checkpoint(train_stage2(small_recipe(), tmp_path), stage2)


def test_finished_training_is_left_as_it_is(stage2: Path, train_stage2: Train) -> None:
    before = stage2.read_bytes()
    assert train_stage2(small_recipe(), stage2.parent) == stage2
    assert stage2.read_bytes() == before


def test_truncated_checkpoint_is_not_trained_over(stage2: Path, train_stage2: Train, tmp_path: Path) -> None:
    path = tmp_path / "dagn.safetensors"
    path.write_bytes(stage2.read_bytes()[:-100])
    with pytest.raises(TrainingError, match=r"dagn\.safetensors: not a readable"):
        train_stage2(small_recipe(), tmp_path)


def test_stage_2_leaves_the_encoders_alone(stage2: Path, encoders: dict[str, Tensor]) -> None:
    tensors = Checkpoint.load(stage2).tensors
    for prefix in ("model", "ema"):
        state = select(tensors, prefix)
        assert state.keys() == Dagn(small_recipe().network).state_dict().keys()
        for name, value in encoders.items():
            assert torch.equal(state[name], value), name


def test_training_goes_on_from_a_whole_network(training_images: TrainingImages, tmp_path: Path) -> None:
    recipe = small_recipe()
    recipe = replace(recipe, dagn=replace(recipe.dagn, steps=1, learning_rate=LearningRate(0.0)))
    torch.manual_seed(5)
    start = Dagn(recipe.network).state_dict()
    path = train_dagn(
        Fabric(accelerator="cpu", devices=1), recipe, training_images, start, tmp_path, start="a hash", workers=0
    )
    checkpoint = Checkpoint.load(path)
    assert checkpoint.config["start"] == "a hash"
    state = select(checkpoint.tensors, "model")
    for name, parameter in Dagn(recipe.network).named_parameters():
        assert torch.equal(state[name], start[name]), (name, parameter.shape)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_a_deeper_network_goes_on_from_a_shallower_one(
    training_images: TrainingImages, tmp_path: Path, norm: Norm
) -> None:
    recipe = small_recipe()
    recipe = replace(recipe, dagn=replace(recipe.dagn, steps=1, learning_rate=LearningRate(0.0)))
    shallow = replace(recipe.network, blocks=1, norm=norm)
    deep = replace(recipe, network=replace(shallow, blocks=3))
    torch.manual_seed(5)
    network = Dagn(shallow)
    with torch.no_grad():
        network.tail.weight.normal_(std=0.1)
        for guider in (network.insensitive_guider, network.sensitive_guider):
            last = guider.mlp[-1]
            assert isinstance(last, nn.Linear)
            last.weight.zero_()  # no shift: an added guidance block would add it once more
    fabric = Fabric(accelerator="cpu", devices=1)
    state = network.state_dict()
    path = train_dagn(fabric, deep, training_images, state, tmp_path, start="a hash", workers=0)
    grown = Dagn(deep.network)
    grown.load_state_dict(select(Checkpoint.load(path).tensors, "model"))
    # The training step has moved batch norm's statistics, and nothing else.
    network.load_state_dict({name: grown.state_dict()[name] for name in state})
    for name, value in state.items():
        assert torch.equal(grown.state_dict()[name], value) or "running" in name or "num_batches" in name
    image = torch.rand(1, 3, 4 * grown.config.total_stride, 4 * grown.config.total_stride)
    with torch.no_grad():
        torch.testing.assert_close(grown.eval()(image), network.eval()(image))


@pytest.mark.parametrize("kind", ["unknown", "missing", "another size"])
def test_stage_1_that_does_not_fit_is_refused(
    encoders: dict[str, Tensor], training_images: TrainingImages, tmp_path: Path, kind: str
) -> None:
    recipe = small_recipe()
    weights = dict(encoders)
    if kind == "unknown":
        weights["insensitive_encoder.extra"] = torch.zeros(1)
    elif kind == "missing":
        del weights["sensitive_encoder.conv1.weight"]
    else:
        recipe = replace(recipe, network=replace(recipe.network, encoder_width=4))
    with pytest.raises(TrainingError, match="do not fit this network"):
        train_dagn(Fabric(accelerator="cpu", devices=1), recipe, training_images, weights, tmp_path, workers=0)


def test_validation_needs_a_picture_of_some_size(
    encoders: dict[str, Tensor], tmp_path: Path, pictures: list[NDArray[np.uint8]]
) -> None:
    folder = tmp_path / "strip"
    folder.mkdir()
    Image.fromarray(pictures[0][:10]).save(folder / "strip.png")
    images = TrainingImages.open([ImageFolder(folder)], validation_fraction=0.0, cache_dir=tmp_path / "cache")
    with pytest.raises(TrainingDataError, match="16"):
        train_dagn(Fabric(accelerator="cpu", devices=1), small_recipe(), images, encoders, tmp_path, workers=0)


def test_network_with_a_wide_stride_trains(
    encoders: dict[str, Tensor], training_images: TrainingImages, tmp_path: Path
) -> None:
    recipe = small_recipe()
    recipe = replace(
        recipe,
        network=replace(recipe.network, stem=4, scales=4),
        dagn=replace(recipe.dagn, steps=1, patch=32, batch=4),
    )
    assert recipe.network.total_stride == 32
    train_dagn(Fabric(accelerator="cpu", devices=1), recipe, training_images, encoders, tmp_path, workers=0)


def test_configuration_is_complete_without_guidance(
    encoders: dict[str, Tensor], training_images: TrainingImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base network of Table V: trained, killed and resumed although its guiders have no optimizer state."""
    recipe = small_recipe()
    off = replace(recipe.network, insensitive_guidance=False, sensitive_guidance=False, fusion=False)
    recipe = replace(recipe, network=off, dagn=replace(recipe.dagn, steps=6, checkpoint_every=3))

    def train(out: Path) -> Path:
        return train_dagn(Fabric(accelerator="cpu", devices=1), recipe, training_images, encoders, out, workers=0)

    with monkeypatch.context() as patch:
        patch.setattr(AveragedModel, "update", kill_at_call(4, AveragedModel.update))
        with pytest.raises(Killed):
            train(tmp_path / "killed")
    assert_same_checkpoint(train(tmp_path / "killed"), train(tmp_path / "whole"))
