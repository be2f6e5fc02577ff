"""Training: the formulas, golden losses, and a resumed training that equals the uninterrupted one bit for bit."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.fabric import Fabric
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from unjpeg.errors import TrainingDataError, TrainingError
from unjpeg.modelfile import ModelFile
from unjpeg.models import AutoEncoderConfig, Dagn
from unjpeg.models.autoencoder import Encoder
from unjpeg.models.blocks import Norm
from unjpeg.models.exported import load_exported
from unjpeg.train import dagn as dagn_loop
from unjpeg.train import encoders as encoders_loop
from unjpeg.train.checkpoint import Checkpoint, load_optimizer, optimizer_tensors, select
from unjpeg.train.config import DagnTraining, EncoderTraining, LearningRate, Recipe, json_ready
from unjpeg.train.dagn import dead_share, pattern_gain_db, real_life_gain_db, restoration_loss, train_dagn
from unjpeg.train.data import ImageFolder
from unjpeg.train.degrade import JpegDegradation, compress_jpeg
from unjpeg.train.encoders import (
    LOG_PROBABILITY_FLOOR,
    DecoupledEncoders,
    content_loss,
    discriminator_loss,
    encoder_weights,
    insensitive_loss,
    load_resnet50,
    sensitive_loss,
    train_encoders,
)
from unjpeg.train.optimizer import MatrixMuon, make_optimizers, set_learning_rate
from unjpeg.train.pipeline import train_recipe
from unjpeg.train.recipes import RECIPES, tiny
from unjpeg.train.run import AveragedModel, RunLog, Throughput, TrainingImages, resume_point

EXPECTED = Path(__file__).parents[1] / "expected"

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


# --- the learning rate ------------------------------------------------------------------------------------------

rates = st.builds(
    LearningRate,
    peak=st.floats(1e-6, 1),
    warmup_steps=st.integers(0, 50),
    milestones=st.lists(st.integers(50, 300), max_size=3).map(lambda steps: tuple(sorted(steps))),
    gamma=st.floats(0.1, 1),
    cosine=st.booleans(),
    floor=st.floats(0, 1),
)


@given(rates, st.integers(51, 400))
def test_learning_rate_rises_in_the_warmup_and_falls_after_it(rate: LearningRate, steps: int) -> None:
    curve = [rate.at(step, steps) for step in range(steps)]
    rising, falling = curve[: rate.warmup_steps], curve[rate.warmup_steps :]
    assert all(0 <= value <= rate.peak * (1 + 1e-12) for value in curve)
    assert all(value > 0 for value in rising)
    assert rising == sorted(rising)
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(falling))
    assert falling[0] == pytest.approx(rate.peak * rate.gamma ** sum(m <= rate.warmup_steps for m in rate.milestones))


def test_learning_rate_by_hand() -> None:
    assert LearningRate(0.5).at(0, 10) == LearningRate(0.5).at(9, 10) == 0.5
    warm = LearningRate(1.0, warmup_steps=4)
    assert [warm.at(step, 10) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    dropping = LearningRate(1.0, milestones=(3, 6), gamma=0.1)
    assert [dropping.at(step, 9) for step in range(9)] == pytest.approx([1] * 3 + [0.1] * 3 + [0.01] * 3)
    cosine = LearningRate(2.0, warmup_steps=10, cosine=True, floor=0.1)
    assert cosine.at(10, 110) == pytest.approx(2.0)
    assert cosine.at(60, 110) == pytest.approx(2.0 * 0.55)
    assert cosine.at(109, 110) == pytest.approx(0.2, rel=0.01)


def test_published_schedule_is_the_papers() -> None:
    recipe = RECIPES["published"]()
    stage1, stage2 = recipe.encoders, recipe.dagn
    epochs = [stage1.learning_rate.at(int((epoch + 0.5) * stage1.steps / 15), stage1.steps) for epoch in range(15)]
    assert epochs == pytest.approx([5e-4] * 5 + [5e-5] * 5 + [5e-6] * 5)
    assert (stage1.batch, stage1.patch, stage1.resize) == (32, 256, True)
    assert (stage2.batch, stage2.patch, stage2.weight_decay) == (64, 96, 0.0)
    assert stage2.learning_rate.at(0, stage2.steps) == 1e-4
    assert stage2.learning_rate.at(int(0.79 * stage2.steps), stage2.steps) == 1e-4
    assert stage2.learning_rate.at(int(0.81 * stage2.steps), stage2.steps) == pytest.approx(5e-5)
    for stage in (stage1, stage2):
        assert (stage.degradation.min_quality, stage.degradation.max_quality) == (10, 95)


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_goes_by_its_name(name: str) -> None:
    recipe = RECIPES[name]()
    assert recipe.name == name
    assert recipe.dagn.patch % recipe.network.total_stride == 0
    assert recipe.encoders.patch % 16 == 0
    for stage in (recipe.encoders, recipe.dagn):
        assert stage.batch % stage.micro_batches == 0
    parts = json_ready(recipe, "network", "encoders", "dagn")
    assert json.loads(json.dumps(parts)) == parts


# --- losses -----------------------------------------------------------------------------------------------------

COMPRESSED, ORIGINAL = (0.3, -1.2, 2.0), (0.7, 1.5, -0.4)
LOGITS = torch.tensor([*COMPRESSED, *ORIGINAL], dtype=torch.float64)[:, None]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def l_cic() -> float:
    """Eq. 6 as printed."""
    terms = [-math.log(sigmoid(c)) + math.log(sigmoid(o)) for c, o in zip(COMPRESSED, ORIGINAL, strict=True)]
    return sum(terms) / (2 * len(terms))


def test_published_adversarial_losses_are_eq_6_and_4() -> None:
    config = EncoderTraining(steps=1)
    assert config.adversarial == "published"
    assert insensitive_loss(LOGITS, config).item() == pytest.approx(l_cic())
    assert discriminator_loss(LOGITS, config).item() == pytest.approx(-l_cic())


def test_bce_losses() -> None:
    config = EncoderTraining(steps=1, adversarial="bce")
    fooling = -sum(math.log(sigmoid(c)) for c in COMPRESSED) / 3
    telling = -sum(math.log(1 - sigmoid(c)) for c in COMPRESSED) - sum(math.log(sigmoid(o)) for o in ORIGINAL)
    assert insensitive_loss(LOGITS, config).item() == pytest.approx(fooling)
    assert discriminator_loss(LOGITS, config).item() == pytest.approx(telling / 6)
    expected = nn.functional.binary_cross_entropy_with_logits(LOGITS, torch.tensor([[0.0]] * 3 + [[1.0]] * 3).double())
    assert discriminator_loss(LOGITS, config).item() == pytest.approx(expected.item())


def gradient(loss: Callable[[Tensor, EncoderTraining], Tensor], logits: Tensor, config: EncoderTraining) -> Tensor:
    leaf = logits.clone().requires_grad_()
    loss(leaf, config).backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    return leaf.grad


def test_clamp_holds_only_the_discriminators_log_j_of_compressed() -> None:
    config = EncoderTraining(steps=1)
    below = LOG_PROBABILITY_FLOOR - 12.0
    logits = torch.tensor([[below], [0.0], [below], [0.0]], dtype=torch.float64)  # two compressed, two originals

    # The discriminator: the compressed one far below is held, the others go on by 1/(2N) and the sigmoid's slope.
    d = gradient(discriminator_loss, logits, config).flatten()
    slope_at_below, slope_at_zero = 1 - sigmoid(below), 0.5
    assert d[0] == 0
    assert d.tolist()[1:] == pytest.approx([slope_at_zero / 4, -slope_at_below / 4, -slope_at_zero / 4])
    assert discriminator_loss(logits, config).item() == pytest.approx(
        (LOG_PROBABILITY_FLOOR + math.log(0.5) - math.log(sigmoid(below)) - math.log(0.5)) / 4
    )

    # The encoder: nothing is held.
    e = gradient(insensitive_loss, logits, config).flatten().tolist()
    assert e == pytest.approx([-slope_at_below / 4, -slope_at_zero / 4, slope_at_below / 4, slope_at_zero / 4])
    assert insensitive_loss(logits, config).item() == pytest.approx(0)


def test_sensitive_losses_by_hand() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 100))
    quality = (10, 95)
    softmax = np.exp(rows) / np.exp(rows).sum(1, keepdims=True)
    truth = np.zeros((4, 100))
    for row, q in enumerate((*quality, 100, 100)):  # originals belong to class 100
        truth[row, q - 1] = 1
    logits, qualities = torch.from_numpy(rows), torch.tensor(quality)
    l1 = sensitive_loss(logits, qualities, EncoderTraining(steps=1))
    assert l1.item() == pytest.approx(np.abs(softmax - truth).sum() / 4)  # Eq. 9: 1 / 2N of the sum
    entropy = sensitive_loss(logits, qualities, EncoderTraining(steps=1, classification="cross-entropy"))
    assert entropy.item() == pytest.approx(-(truth * np.log(softmax)).sum() / 4)


def test_content_norms_by_hand() -> None:
    images = torch.zeros(4, 3, 2, 2)
    reconstructed = images + torch.tensor([0.1, 0.2, 0.0, 0.3])[:, None, None, None]
    mean = content_loss(reconstructed, images, EncoderTraining(steps=1))
    assert mean.item() == pytest.approx(0.15)
    total = content_loss(reconstructed, images, EncoderTraining(steps=1, content_norm="sum"))
    assert total.item() == pytest.approx(0.15 * 12)  # Eq. 5 as printed: 1 / 2N of the sum over all values


def test_perfect_reading_costs_nothing() -> None:
    logits = torch.full((2, 100), -50.0)
    logits[0, 41] = logits[1, 99] = 50.0
    for kind in ("l1", "cross-entropy"):
        config = EncoderTraining(steps=1, classification=kind)
        assert sensitive_loss(logits, torch.tensor([42]), config).item() == pytest.approx(0, abs=1e-6)


# --- averaged weights -------------------------------------------------------------------------------------------


def test_averaged_model_by_hand() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = AveragedModel(model, 0.5)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(12):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(4, 2))
        average.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            floating = value.dtype.is_floating_point
            mean = decay * expected[name] + (1 - decay) * value
            expected[name] = mean if floating else value.clone()
    for name, value in average.module.state_dict().items():
        torch.testing.assert_close(value, expected[name])
    assert not average.module.training


def test_decay_0_follows_the_model_exactly() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    average = AveragedModel(model, 0.0)
    for step in range(3):
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        average.update(model, step)
        for name, value in average.module.state_dict().items():
            assert torch.equal(value, model.state_dict()[name])


# --- Muon -------------------------------------------------------------------------------------------------------


def test_muon_steps_each_weight_as_a_matrix() -> None:
    """As torch's Muon on copies: a convolution's matrix in the order of its memory, out x (height, width, in)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 4, 5))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    named = {name: p for name, p in model.named_parameters() if p.ndim >= 2}
    muon = MatrixMuon(named.values(), lr=0.02, weight_decay=0.1)
    copies = [nn.Parameter(p.detach().movedim(1, -1).flatten(1).clone()) for p in named.values()]
    reference = torch.optim.Muon(copies, lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="original")
    for _ in range(3):
        model(torch.randn(4, 3, 4, 4)).square().mean().backward()
        for copy, parameter in zip(copies, named.values(), strict=True):
            assert parameter.grad is not None
            copy.grad = parameter.grad.movedim(1, -1).flatten(1).clone()
        muon.step()
        reference.step()  # type: ignore[no-untyped-call]
        muon.zero_grad()
        assert all(parameter.grad is None for parameter in named.values())
        for copy, parameter in zip(copies, named.values(), strict=True):
            torch.testing.assert_close(parameter.detach().movedim(1, -1).flatten(1), copy.detach())


def test_each_weight_has_one_optimizer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 3))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    named = dict(model.named_parameters())
    ((adam, all_of_it),) = make_optimizers(named, "adam", weight_decay=0.1)
    assert all_of_it.keys() == named.keys()
    (muon, matrices), (beside, others) = make_optimizers(named, "muon", adam_only=("2.",))
    assert isinstance(muon, MatrixMuon)
    assert list(matrices) == ["0.weight"]
    assert list(others) == [name for name in named if name != "0.weight"]
    set_learning_rate([muon, beside], 0.4)
    set_learning_rate([adam], 0.4)
    assert [o.param_groups[0]["lr"] for o in (muon, beside, adam)] == pytest.approx([0.4, 0.06, 0.4])

    muon, beside = (optimizer for optimizer, _ in make_optimizers(named, "muon", adam_only=("1.",), slow=("2.",)))
    set_learning_rate([muon, beside], 0.4)
    rates = {id(p): group["lr"] for o in (muon, beside) for group in o.param_groups for p in group["params"]}
    assert rates.pop(id(muon.param_groups[0]["params"][0])) == 0.4  # the matrix view of 0.weight
    assert [rates[id(p)] for name, p in named.items() if name != "0.weight"] == pytest.approx([0.06] * 3 + [0.006] * 2)


# --- checkpoints ------------------------------------------------------------------------------------------------


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

    def killed(tensors: dict[str, Tensor], to: Path, **_options: Any) -> None:
        Path(to).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("unjpeg.train.checkpoint.save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        a_checkpoint().save(path)
    assert Checkpoint.load(path).step == 7


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
            resume_point(path, {}, {})


def test_no_checkpoint_means_a_fresh_start(tmp_path: Path) -> None:
    assert resume_point(tmp_path / "dagn.safetensors", {}, {}) is None


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
    before = dead_share(network, crops, torch.device("cpu"))
    first = {"batch": 1, "none": 0}[norm]  # what comes before the ReLU: the norm, or the convolution
    nn.init.constant_(network.state_dict(keep_vars=True)[f"bottleneck.0.body.{first}.bias"], -1e3)
    config = network.config
    channels = [config.width * 2**scale for scale in range(config.scales)]
    blocks = config.blocks * (sum(channels) + channels[-1] + 2 * sum(config.stage_channels))
    guiders = 2 * 2 * config.bottleneck_channels
    after = dead_share(network, crops, torch.device("cpu"))
    assert after - before == pytest.approx(config.bottleneck_channels / (blocks + guiders), abs=0.02)
    assert not any(module._forward_hooks for module in network.modules())


def test_what_patterns_gain_is_the_difference_to_their_jpegs() -> None:
    network = Dagn(small_recipe().network)
    nn.init.zeros_(network.tail.weight)
    patterns = [np.random.default_rng(n).integers(0, 256, (32, 32, 3), np.uint8) for n in range(4)]
    assert pattern_gain_db(network, [], torch.device("cpu")) == {}
    untouched = pattern_gain_db(network, patterns, torch.device("cpu"))
    assert untouched["gain_db_patterns"] == pytest.approx(0, abs=1e-4)
    assert network.tail.bias is not None
    nn.init.constant_(network.tail.bias, 10.0)
    white = pattern_gain_db(network, patterns, torch.device("cpu"))
    expected = []
    for pattern, quality in zip(patterns, (10, 50, 90, 10), strict=True):
        jpeg, truth = compress_jpeg(pattern, quality).astype(float), pattern.astype(float)
        expected.append(10 * np.log10(np.square(jpeg - truth).mean() / np.square(255 - truth).mean()))
    assert white["gain_db_patterns"] == pytest.approx(np.mean(expected), abs=1e-3)
    assert white["worst_gain_db_patterns"] == pytest.approx(min(expected), abs=1e-3)


def test_what_files_in_the_wild_gain_is_counted_against_their_originals() -> None:
    network = Dagn(small_recipe().network)
    nn.init.zeros_(network.tail.weight)
    assert network.tail.bias is not None
    nn.init.constant_(network.tail.bias, 10.0)  # all white
    crop = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    wild = JpegDegradation(5, 100, real_life=1.0)
    pairs = [wild.apply(crop, np.random.default_rng(n)) for n in range(4)]
    gains = real_life_gain_db(network, pairs, torch.device("cpu"))
    expected = [
        10 * np.log10(np.square(pair.compressed - truth).mean() / np.square(255 - truth).mean())
        for pair in pairs
        for truth in [pair.original.astype(float)]
    ]
    assert gains["gain_db_real_life"] == pytest.approx(np.mean(expected), abs=1e-3)
    assert gains["worst_gain_db_real_life"] == pytest.approx(min(expected), abs=1e-3)
    assert real_life_gain_db(network, [], torch.device("cpu")) == {}


def test_other_pictures_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "dagn.safetensors"
    Checkpoint({}, 3, {"seed": 1}, {"training_sha256": "a"}).save(path)
    assert resume_point(path, {"seed": 1}, {"training_sha256": "a"}) is not None
    with pytest.raises(TrainingError, match="other pictures"):
        resume_point(path, {"seed": 1}, {"training_sha256": "b"})


def test_select_takes_whole_prefixes_only() -> None:
    tensors = {name: torch.zeros(1) for name in ("a.b.c", "a.d", "ab.c", "b.a.c")}
    assert set(select(tensors, "a")) == {"b.c", "d"}


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_optimizer_state_comes_back(kind: type[torch.optim.Adam]) -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        torch.manual_seed(seed)
        model(torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    def build() -> tuple[nn.Module, dict[str, nn.Parameter], torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 2, 1))
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model, dict(model.named_parameters()), kind(model.parameters(), lr=0.01)

    model, named, optimizer = build()
    step(model, optimizer, 1)
    stored = optimizer_tensors(optimizer, named, "optimizer")
    assert set(stored) == {f"optimizer.{slot}.{name}" for slot in ("step", "exp_avg", "exp_avg_sq") for name in named}
    other, other_named, other_optimizer = build()
    other.load_state_dict(model.state_dict())
    load_optimizer(other_optimizer, other_named, {n: t.contiguous().clone() for n, t in stored.items()}, "optimizer")
    for name, parameter in named.items():
        for slot, value in optimizer.state[parameter].items():
            restored = other_optimizer.state[other_named[name]][slot]
            assert torch.equal(restored, value)
            assert restored.stride() == value.stride(), (name, slot)
    for seed in (2, 3):
        step(model, optimizer, seed)
        step(other, other_optimizer, seed)
    for name, parameter in named.items():
        assert torch.equal(parameter, other_named[name])


# --- both stages ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def training_images(tmp_path_factory: pytest.TempPathFactory, pictures: list[NDArray[np.uint8]]) -> TrainingImages:
    folder = tmp_path_factory.mktemp("pictures")
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"picture-{number}.png")
    return TrainingImages.open(
        [ImageFolder(folder)],
        validation_fraction=small_recipe().validation_fraction,
        cache_dir=tmp_path_factory.mktemp("cache"),
    )


@pytest.fixture(scope="module")
def train_stage1(training_images: TrainingImages) -> Train:
    def train(recipe: Recipe, out: Path) -> Path:
        return train_encoders(Fabric(accelerator="cpu", devices=1), recipe, training_images, out, workers=0)

    return train


@pytest.fixture(scope="module")
def encoders() -> dict[str, Tensor]:
    """Stage 1's result before its first step, by the network's names."""
    torch.manual_seed(5)
    state = DecoupledEncoders(AutoEncoderConfig(tiny().network.encoder_width)).state_dict()
    return encoder_weights(Checkpoint({f"encoders.{name}": value for name, value in state.items()}, 0, {}, {}))


@pytest.fixture(scope="module")
def train_stage2(training_images: TrainingImages, encoders: dict[str, Tensor]) -> Train:
    def train(recipe: Recipe, out: Path) -> Path:
        return train_dagn(Fabric(accelerator="cpu", devices=1), recipe, training_images, encoders, out, workers=0)

    return train


@pytest.fixture(scope="module")
def stage1_and_log(train_stage1: Train, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """The checkpoint of an uninterrupted stage 1, and the figures that it logged last."""
    with pytest.MonkeyPatch.context() as patch:
        log = recorded_log(patch)
        return train_stage1(small_recipe(), tmp_path_factory.mktemp("stage1")), log


@pytest.fixture
def stage1(stage1_and_log: tuple[Path, dict[str, float]]) -> Path:
    """The checkpoint of an uninterrupted stage 1."""
    return stage1_and_log[0]


@pytest.fixture(scope="module")
def stage2(train_stage2: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of an uninterrupted stage 2."""
    return train_stage2(small_recipe(), tmp_path_factory.mktemp("stage2"))


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


def test_resumed_encoders_equal_the_uninterrupted(
    stage1: Path, train_stage1: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:  # between the two optimizers of a step
        patch.setattr(encoders_loop, "discriminator_loss", kill_at_call(13, discriminator_loss))
        with pytest.raises(Killed):
            train_stage1(small_recipe(), tmp_path)
    assert_same_checkpoint(train_stage1(small_recipe(), tmp_path), stage1)


def test_finished_training_is_left_as_it_is(stage2: Path, train_stage2: Train) -> None:
    before = stage2.read_bytes()
    assert train_stage2(small_recipe(), stage2.parent) == stage2
    assert stage2.read_bytes() == before


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
    weights = encoder_weights(Checkpoint.load(stage1))
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


# --- starting from ResNet-50 ------------------------------------------------------------------------------------


def resnet50_file(path: Path, width: int) -> dict[str, Tensor]:
    """A classifier's state dict under the usual names: an encoder's, and a last layer."""
    torch.manual_seed(9)
    state = {
        name: torch.rand_like(value)
        for name, value in Encoder(AutoEncoderConfig(width)).state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    save_file({**state, "fc.weight": torch.zeros(10, 32 * width), "fc.bias": torch.zeros(10)}, path)
    return state


def test_encoders_start_from_a_resnet50(train_stage1: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = resnet50_file(tmp_path / "resnet50.safetensors", small_recipe().network.encoder_width)
    recipe = small_recipe()
    training = replace(
        recipe.encoders,
        resnet50=str(tmp_path / "resnet50.safetensors"),
        steps=2,
        learning_rate=LearningRate(0.0),
        checkpoint_every=1,
    )
    recipe = replace(recipe, encoders=training)
    with monkeypatch.context() as patch:
        patch.setattr(encoders_loop, "discriminator_loss", kill_at_call(1, discriminator_loss))
        with pytest.raises(Killed):
            train_stage1(recipe, tmp_path / "out")
    path = train_stage1(recipe, tmp_path / "out")
    tensors = Checkpoint.load(path).tensors
    learned = [name for name in state if not name.endswith(("running_mean", "running_var"))]
    for kind in ("insensitive", "sensitive"):
        for name in learned:
            assert torch.equal(tensors[f"encoders.{kind}.encoder.{name}"], state[name]), name

    moved = replace(recipe, encoders=replace(training, resnet50=str(tmp_path / "moved.safetensors")))
    (tmp_path / "resnet50.safetensors").rename(tmp_path / "moved.safetensors")
    train_stage1(moved, tmp_path / "out")  # the same weights in another place are the same training
    with pytest.raises(TrainingError, match=r"encoders\.resnet50"):
        train_stage1(replace(recipe, encoders=replace(training, resnet50=None)), tmp_path / "out")
    with pytest.raises(TrainingError, match=r"resnet50\.safetensors: cannot be read"):
        train_stage1(recipe, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("none", ""),
        ("another width", "has in another size bn1"),
        ("lacks", "lacks layer4.2.conv3.weight"),
        ("more", "has besides it layer5"),
        ("pickle", "not a readable safetensors file"),
        ("absent", "not a readable safetensors file"),
    ],
)
def test_what_is_no_resnet50_is_refused(tmp_path: Path, change: str, says: str) -> None:
    path = tmp_path / "weights.safetensors"
    state = resnet50_file(path, 4 if change == "another width" else 2)
    if change == "lacks":
        del state["layer4.2.conv3.weight"]
    elif change == "more":
        state["layer5.0.conv1.weight"] = torch.zeros(1)
    if change == "pickle":
        torch.save(state, path)
    elif change == "absent":
        path.unlink()
    elif change != "another width":
        save_file(state, path)
    encoder = Encoder(AutoEncoderConfig(2))
    if change == "none":
        load_resnet50(encoder, path)
        assert all(torch.equal(encoder.state_dict()[name], value) for name, value in state.items())
        return
    with pytest.raises(TrainingError, match=says) as raised:
        load_resnet50(encoder, path)
    assert "\n" not in str(raised.value)


# --- options reach the loops ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"adversarial": "bce"},
        {"classification": "cross-entropy"},
        {"content_norm": "sum"},
    ],
    ids=str,
)
def test_stage_1_options_change_the_training(
    train_stage1: Train, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(name: str, **changed: Any) -> dict[str, Tensor]:
        recipe = small_recipe()
        # Without clipping, and by plain differences: Adam's second step is where the loss's size and shape show.
        training = replace(recipe.encoders, steps=2, gradient_clip=None, **changed)
        return Checkpoint.load(train_stage1(replace(recipe, encoders=training), tmp_path / name)).tensors

    plain, other = trained("plain"), trained("other", **options)
    assert any(not torch.equal(plain[name], other[name]) for name in plain if name.startswith("encoders."))


@pytest.mark.parametrize(
    ("option", "moved", "unmoved"),
    [
        ("lambda_insensitive", "encoders.insensitive.", ("encoders.sensitive.", "encoders.quality_predictor.")),
        ("lambda_sensitive", "encoders.sensitive.", ("encoders.insensitive.", "discriminator.")),
    ],
)
def test_each_penalty_factor_weighs_its_own_constraint(
    train_stage1: Train, tmp_path: Path, option: str, moved: str, unmoved: tuple[str, ...]
) -> None:
    """Eq. 3 and 7: the two auto-encoders share nothing, so the factor of one leaves the other as it is."""
    tensors = []
    for value in (1.0, 10.0):
        recipe = small_recipe()
        training = replace(recipe.encoders, steps=2, gradient_clip=None, **{option: value})  # type: ignore[arg-type]
        path = train_stage1(replace(recipe, encoders=training), tmp_path / str(value))
        tensors.append(Checkpoint.load(path).tensors)
    plain, weighed = tensors
    changed = {name for name, value in plain.items() if not torch.equal(value, weighed[name])}
    assert any(name.startswith(moved) for name in changed)
    assert [name for name in changed if name.startswith(unmoved)] == []


def test_checkpoint_from_before_an_option_existed_is_resumed(stage1: Path, train_stage1: Train, tmp_path: Path) -> None:
    older = Checkpoint.load(stage1)
    del older.config["encoders"]["content_norm"], older.config["encoders"]["resnet50"]
    older.save(tmp_path / "encoders.safetensors")
    assert_same_checkpoint(train_stage1(small_recipe(), tmp_path), stage1)


# --- how fast it went -------------------------------------------------------------------------------------------


def test_frameworks_say_nothing_of_themselves() -> None:
    code = (
        "from unjpeg.train.pipeline import new_fabric; new_fabric(accelerator='cpu', devices=1, precision='bf16-mixed')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout + ran.stderr == ""


def test_throughput_and_waiting_are_told(
    train_stage2: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that stands still but for the loader's half seconds and the network's whole ones."""
    now = 0.0
    told: list[Throughput] = []
    monkeypatch.setattr("unjpeg.train.run.time.perf_counter", lambda: now)

    class Slow:
        def __init__(self, loader: Any) -> None:
            self.batches = iter(loader)

        def __iter__(self) -> Slow:
            return self

        def __next__(self) -> Any:
            nonlocal now
            now += 0.5
            return next(self.batches)

    batches = RunLog.batches
    monkeypatch.setattr(RunLog, "batches", lambda log, loader: batches(log, Slow(loader)))
    update = AveragedModel.update

    def step(average: AveragedModel[Dagn], model: Dagn, number: int) -> None:
        nonlocal now
        now += 1.0
        update(average, model, number)

    monkeypatch.setattr(AveragedModel, "update", step)
    close = RunLog.close

    def closed(log: RunLog) -> None:
        throughput = log.throughput()
        assert throughput is not None
        told.append(throughput)
        close(log)

    monkeypatch.setattr(RunLog, "close", closed)
    recipe = small_recipe()
    recipe = replace(recipe, dagn=replace(recipe.dagn, steps=4, batch=6, micro_batches=1))
    train_stage2(recipe, tmp_path)
    # Four steps of a second, and the three waits after the first batch.
    (throughput,) = told
    assert throughput.images_per_second == pytest.approx(24 / 5.5)
    assert throughput.waiting == pytest.approx(1.5 / 5.5)
    assert "dagn 4.4 images/s, 27.3% of the time waiting for data" in capsys.readouterr().err


TWO_PROCESSES = """
import sys
from dataclasses import replace
from pathlib import Path

import torch
from lightning.fabric import Fabric

from unjpeg.train.checkpoint import Checkpoint
from unjpeg.train.dagn import restoration_loss, train_dagn
from unjpeg.train.data import ImageFolder
from unjpeg.train.encoders import encoder_weights, train_encoders
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
train_dagn(fabric, recipe, images, encoder_weights(Checkpoint.load(given)), out, workers=0)
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
        weights = encoder_weights(Checkpoint.load(stage1))
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


# --- golden losses ----------------------------------------------------------------------------------------------


def assert_golden(name: str, log: dict[str, float]) -> None:
    """Compare with ``expected/<name>.json``; ``UNJPEG_REGENERATE=1`` writes it instead."""
    path = EXPECTED / f"{name}.json"
    values = {key: value for key, value in log.items() if key not in ("learning_rate", "discriminator_accuracy")}
    if os.environ.get("UNJPEG_REGENERATE") == "1":
        EXPECTED.mkdir(exist_ok=True)
        path.write_text(json.dumps({key: float(f"{value:.7g}") for key, value in values.items()}, indent=2) + "\n")
    assert values == pytest.approx(json.loads(path.read_text()), rel=1e-3)


def test_golden_encoders(stage1_and_log: tuple[Path, dict[str, float]]) -> None:
    assert_golden("train_encoders_20_steps", stage1_and_log[1])


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
    wild = JpegDegradation(5, 100, real_life=0.5)
    train_stage2(replace(recipe, dagn=replace(recipe.dagn, steps=3, degradation=wild)), tmp_path)
    assert np.isfinite(log["loss"])
    assert log["worst_gain_db_real_life"] <= log["gain_db_real_life"]


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
