"""CARN-DA: networks in two halves, the formulas, and targets whose originals cannot be read."""

from __future__ import annotations

import copy
import inspect
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.fabric import Fabric
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from conftest import synthetic_photo
from unjpeg.adapt import carn
from unjpeg.adapt.carn import (
    Adaptation,
    DomainAdversary,
    Pretraining,
    adapt_network,
    denoising_loss,
    pretrain,
    quality_loss,
    restore_pixels,
    stored,
)
from unjpeg.adapt.domains import (
    Cutting,
    Patches,
    SourceDomain,
    TargetDomain,
    alike,
    checksum,
    compressed,
    grey,
    turned,
    turned_stated,
)
from unjpeg.adapt.probe import domain_accuracy
from unjpeg.adapt.recipes import CARN_RECIPES, CarnPictures, Scenarios, carn_recipe
from unjpeg.errors import OutputError, TrainingDataError, TrainingError
from unjpeg.models import (
    ArCnn,
    ArCnnConfig,
    Backbone,
    BackboneConfig,
    Dagn,
    DagnConfig,
    DiscriminatorConfig,
    DnCnn,
    DnCnnConfig,
    Features,
    QualityDiscriminator,
    Rdn,
    RdnConfig,
    SplitDagn,
    make_backbone,
    reverse_gradient,
)
from unjpeg.models.quality_discriminator import DiscriminatorInput
from unjpeg.tables import STATED_FEATURES, stated_features
from unjpeg.train.checkpoint import Checkpoint, select
from unjpeg.train.config import LearningRate
from unjpeg.train.data import ImageFolder, ImageStore
from unjpeg.train.run import RunLog, TrainingImages, resume_point

Pixels = NDArray[np.uint8]

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


def grey_photo(side: int, seed: int) -> Pixels:
    return np.asarray(Image.fromarray(synthetic_photo(side, side, seed)).convert("L"))


PICTURES = [grey_photo(48, seed) for seed in range(8)]


# --- networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_each_configuration_builds_its_own_network(name: str) -> None:
    config, kind = NETWORKS[name]
    assert type(make_backbone(config)) is kind


@pytest.mark.parametrize("name", NETWORKS)
def test_the_halves_are_the_whole(name: str) -> None:
    network = a_network(name).eval()
    image = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        features = network.extract(image)
        assert features.seen.shape == (2, network.feature_channels, *[16 // network.feature_stride] * 2)
        assert torch.equal(network.denoise(features), network(image))
        assert network(image).shape == image.shape
        torch.testing.assert_close(network.denoise(features.first(1)), network(image[:1]))


def test_published_sizes() -> None:
    """RDN: 22 M. DnCNN: 20 layers of 64, 0.67 M. ARCNN: 9-7-1-5 kernels, 0.1 M."""

    def weights(network: nn.Module) -> int:
        return sum(p.numel() for p in network.parameters())

    with torch.device("meta"):
        assert weights(Rdn(RdnConfig())) == pytest.approx(22e6, rel=0.02)
        assert weights(DnCnn(DnCnnConfig())) == pytest.approx(0.668e6, rel=0.01)
        arcnn = 9 * 9 * 64 + 64 + 7 * 7 * 64 * 32 + 32 + 32 * 16 + 16 + 5 * 5 * 16 + 1
        assert weights(ArCnn(ArCnnConfig())) == arcnn


def test_published_feature_extractor_is_two_convolutions() -> None:
    network = a_network()
    network.extract(torch.rand(1, 1, 8, 8)).seen.sum().backward()  # type: ignore[no-untyped-call]
    reached = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert reached == {f"shallow{i}.{part}" for i in (1, 2) for part in ("weight", "bias")}


def test_split_dagn_is_the_dagn() -> None:
    torch.manual_seed(0)
    dagn = Dagn(DagnConfig(width=4, scales=2, blocks=2, stem=1, encoder_width=1)).eval()
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(SplitDagn(dagn)(image), dagn(image))
        as_colour = dagn(image[:, :1].expand(-1, 3, -1, -1)).mean(1, keepdim=True)
        torch.testing.assert_close(SplitDagn(dagn, image_channels=1)(image[:, :1]), as_colour)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RdnConfig(blocks=0),
        lambda: RdnConfig(blocks=3, split=4),
        lambda: DnCnnConfig(depth=2, split=2),
        lambda: ArCnnConfig(split=4),
        lambda: DiscriminatorConfig(hidden=0),
        lambda: DiscriminatorConfig("pooled"),  # type: ignore[arg-type]
        lambda: Adaptation(steps=1, strength=-1.0),
        lambda: Adaptation(steps=1, strength=math.nan),
        lambda: Adaptation(steps=1, reduction="max"),  # type: ignore[arg-type]
    ],
)
def test_impossible_configurations_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        make()


def test_a_picture_of_any_size_goes_through() -> None:
    for name in NETWORKS:
        for picture in (PICTURES[0][:13, :21], PICTURES[0]):
            restored = restore_pixels(a_network(name), picture)
            assert restored.shape == picture.shape
            assert restored.dtype == np.uint8


# --- the discriminator ------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 10), st.integers(0, 99))
def test_reversal_turns_the_gradient_alone(strength: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(3, 2, generator=generator, requires_grad=True)
    weights = torch.randn(3, 2, generator=generator)
    out = reverse_gradient(features, strength)
    assert torch.equal(out, features)
    (out * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert features.grad is not None
    torch.testing.assert_close(features.grad, -strength * weights)


def test_discriminator_has_three_layers_and_what_it_looks_at() -> None:
    features = torch.rand(2, 5, 4, 4)
    counts: dict[DiscriminatorInput, int] = {"flattened": 80, "moments": 10, "average": 5, "convolved": 32}
    for inputs, count in counts.items():
        discriminator = QualityDiscriminator(DiscriminatorConfig(inputs, hidden=7), 5, 4)
        linear = [layer for layer in discriminator.layers if isinstance(layer, nn.Linear)]
        assert [layer.in_features for layer in linear] == [count, 7, 7]
        assert sum(isinstance(layer, nn.ReLU) for layer in discriminator.layers) == 2
        assert discriminator(features).shape == (2, 2)
    moments = QualityDiscriminator(DiscriminatorConfig("moments"), 5, 4)._inputs(features)
    expected = np.concatenate([features.numpy().mean((2, 3)), features.numpy().std((2, 3))], axis=1)
    np.testing.assert_allclose(moments.numpy(), expected, rtol=1e-4)
    for inputs in ("moments", "convolved"):
        assert QualityDiscriminator(DiscriminatorConfig(inputs), 5, 4)(torch.rand(1, 5, 9, 3)).shape == (1, 2)


def test_moments_of_a_constant_have_a_gradient() -> None:
    features = torch.ones(1, 2, 3, 3, requires_grad=True)
    QualityDiscriminator(DiscriminatorConfig("moments"), 2, 3)(features).sum().backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize("inputs", ["flattened", "moments", "average", "convolved"])
def test_standardised_features_are_the_same_in_any_unit(inputs: DiscriminatorInput) -> None:
    torch.manual_seed(0)
    features = torch.randn(6, 3, 8, 8) + torch.tensor([5.0, 0.0, -3.0])[:, None, None]
    for standardised in (True, False):
        logits = []
        for unit, offset in ((1.0, 0.0), (1e-3, 2.0)):
            torch.manual_seed(1)
            discriminator = QualityDiscriminator(DiscriminatorConfig(inputs, standardised=standardised), 3, 8)
            discriminator.standardise(unit * features + offset)
            logits.append(discriminator(unit * features + offset))
        assert torch.allclose(logits[0], logits[1], atol=2e-3) == standardised
    plain = QualityDiscriminator(DiscriminatorConfig(inputs), 3, 8)
    if inputs == "convolved":
        vector = plain.local(features).mean((2, 3))
    else:
        vector = features.flatten(1) if inputs == "flattened" else plain._inputs(features)
    assert torch.equal(plain(features), plain.layers(vector))  # as published


@pytest.mark.parametrize("inputs", ["flattened", "moments"])
def test_a_standardised_discriminator_learns_where_a_plain_one_does_not(inputs: DiscriminatorInput) -> None:
    """Of features that differ little beside their means: the second domain's vary a fifth more."""
    torch.manual_seed(0)
    features = torch.randn(64, 3, 8, 8) * torch.where(torch.arange(64) < 32, 1.0, 1.2)[:, None, None, None]
    features = 1e-3 * features + torch.tensor([0.5, 0.0, -0.3])[:, None, None]

    def loss_after_training(*, standardised: bool) -> float:
        torch.manual_seed(1)
        config = DiscriminatorConfig(inputs, hidden=32, standardised=standardised)
        discriminator = QualityDiscriminator(config, 3, 8)
        discriminator.standardise(features)
        optimizer = torch.optim.Adam(discriminator.parameters(), lr=3e-3)
        for _ in range(60):
            loss = quality_loss(discriminator(features), 32)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return loss.item()

    assert loss_after_training(standardised=False) == pytest.approx(math.log(2), abs=0.01)
    assert loss_after_training(standardised=True) < 0.5


def test_convolutions_see_textures_that_moments_do_not() -> None:
    """Random rows and random columns: alike in mean and deviation, and never the same patch twice."""
    torch.manual_seed(0)

    def patches() -> Tensor:
        rows, columns = torch.randn(2, 16, 2, 16, 1).expand(2, 16, 2, 16, 16)
        return torch.cat([rows, columns.mT])

    told = {}
    textures: tuple[DiscriminatorInput, ...] = ("moments", "average", "convolved")
    for inputs in textures:
        torch.manual_seed(1)
        discriminator = QualityDiscriminator(DiscriminatorConfig(inputs, hidden=32), 2, 16)
        optimizer = torch.optim.Adam(discriminator.parameters(), lr=3e-3)
        for _ in range(150):
            loss = quality_loss(discriminator(patches()), 16)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            told[inputs] = np.mean([(discriminator(patches()).argmax(1) == (torch.arange(32) >= 16)) for _ in range(8)])
    assert told.pop("convolved") > 0.95
    assert max(told.values()) < 0.65


# --- losses and updates -----------------------------------------------------------------------------------------


def test_denoising_loss_is_eq_2() -> None:
    restored, original = torch.rand(3, 1, 4, 4), torch.rand(3, 1, 4, 4)
    by_hand = sum(float((restored[i] - original[i]).abs().sum()) for i in range(3)) / 3
    assert denoising_loss(restored, original, "sum").item() == pytest.approx(by_hand, rel=1e-5)
    assert denoising_loss(restored, original).item() == pytest.approx(by_hand / 16, rel=1e-5)
    roots = [math.sqrt(float((restored[i] - original[i]).square().mean()) + 1e-5) for i in range(3)]
    assert denoising_loss(restored, original, "rms").item() == pytest.approx(sum(roots) / 3, rel=1e-5)


def test_quality_loss_is_eq_3() -> None:
    logits = torch.tensor([[1.0, -0.5], [0.3, 0.2], [-2.0, 1.0]])
    softmax = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    by_hand = -(math.log(softmax[0, 0]) + math.log(softmax[1, 0]) + math.log(softmax[2, 1])) / 3
    assert quality_loss(logits, 2).item() == pytest.approx(by_hand)


def test_updates_are_eq_5_6_and_7() -> None:
    """One backward pass of the sum gives each part the gradient that its own equation names."""
    network, strength = a_network(), 0.3
    torch.manual_seed(2)
    discriminator = QualityDiscriminator(DiscriminatorConfig(hidden=5), network.feature_channels, 8)
    source, original, target = (torch.rand(2, 1, 8, 8) for _ in range(3))
    restored, logits = DomainAdversary(network, discriminator)(Patches(source), Patches(target), strength)
    (denoising_loss(restored, original) + quality_loss(logits, 2)).backward()  # type: ignore[no-untyped-call]

    plain, judge = copy.deepcopy(network), copy.deepcopy(discriminator)
    plain.zero_grad()
    judge.zero_grad()
    denoising = denoising_loss(plain(source), original)
    telling = quality_loss(judge(plain.extract(torch.cat([source, target])).seen), 2)
    named = dict(plain.named_parameters())

    def gradients(loss: Tensor) -> dict[str, Tensor | None]:
        found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
        return dict(zip(named, found, strict=True))

    of_d, of_q = gradients(denoising), gradients(telling)
    for name, parameter in network.named_parameters():
        towards, against = of_d[name], of_q[name]
        assert towards is not None
        expected = towards if against is None else towards - strength * against
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected, msg=name)
        assert (against is None) == (not name.startswith("shallow")), name
    for mine, theirs in zip(
        discriminator.parameters(), torch.autograd.grad(telling, list(judge.parameters())), strict=True
    ):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad, theirs)


def test_ramp_is_the_usual_one() -> None:
    ramp = Adaptation(steps=100, strength=0.5, ramp=True)
    assert ramp.strength_at(0) == 0
    assert ramp.strength_at(50) == pytest.approx(0.5 * (2 / (1 + math.exp(-5)) - 1))
    assert [ramp.strength_at(step) for step in range(100)] == sorted(ramp.strength_at(step) for step in range(100))
    assert ramp.strength_at(99) == pytest.approx(0.5, rel=1e-3)
    assert Adaptation(steps=100, strength=0.5).strength_at(0) == 0.5


def test_batch_norm_keeps_its_statistics() -> None:
    network = a_network("dncnn")
    adversary = DomainAdversary(network, QualityDiscriminator(DiscriminatorConfig("moments"), 6, 8)).train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    adversary(Patches(torch.rand(2, 1, 8, 8)), Patches(torch.rand(2, 1, 8, 8)), 1.0)
    assert before
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    assert network.training


# --- domains ----------------------------------------------------------------------------------------------------

cuttings = st.builds(
    Cutting,
    batch=st.integers(1, 4),
    patch=st.sampled_from([8, 16, 24]),
    grid=st.sampled_from([1, 8]),
    augment=st.booleans(),
    seed=st.integers(0, 1000),
)


@settings(deadline=None, max_examples=30)
@given(cuttings, st.integers(0, 10**6))
def test_a_batch_is_a_function_of_seed_and_step(cutting: Cutting, step: int) -> None:
    pictures = PICTURES[:3]
    numbered = [np.arange(x.size, dtype=np.int64).reshape(x.shape) for x in pictures]
    coded = [(n % 251).astype(np.uint8) for n in numbered]
    first, again = (SourceDomain(coded, pictures, cutting).batch(step) for _ in range(2))
    assert torch.equal(first.compressed, again.compressed)
    assert torch.equal(first.original, again.original)
    assert first.compressed.shape == (cutting.batch, 1, cutting.patch, cutting.patch)
    if not cutting.augment:  # both halves of a pair come from one place, and that place is on the grid
        for one, original in zip(first.compressed[:, 0].numpy(), first.original[:, 0].numpy(), strict=True):
            places = [
                (number, top, left)
                for number, picture in enumerate(pictures)
                for top in range(0, 49 - cutting.patch, cutting.grid)
                for left in range(0, 49 - cutting.patch, cutting.grid)
                if np.array_equal(picture[top : top + cutting.patch, left : left + cutting.patch], original)
            ]
            assert any(
                np.array_equal(coded[n][top : top + cutting.patch, left : left + cutting.patch], one)
                for n, top, left in places
            )


def test_all_eight_orientations_are_drawn() -> None:
    corner = np.zeros((8, 8), np.uint8)
    corner[0, 0], corner[0, 7] = 255, 100
    batch = TargetDomain([corner], Cutting(batch=200, patch=8)).batch(0).pixels
    assert len({patch.numpy().tobytes() for patch in batch}) == 8


def test_source_and_target_are_drawn_apart() -> None:
    cutting = Cutting(batch=8, patch=16)
    pair, alone = SourceDomain(PICTURES, PICTURES, cutting).batch(0), TargetDomain(PICTURES, cutting).batch(0).pixels
    assert not torch.equal(pair.original, alone)
    colour = [np.dstack([picture] * 3) for picture in PICTURES]
    of_colour = TargetDomain(colour, cutting).batch(0).pixels
    assert of_colour.shape == (8, 3, 16, 16)
    assert torch.equal(of_colour[:, :1], alone)


def test_what_is_stated_turns_with_the_picture() -> None:
    rng = np.random.default_rng(0)
    luma, chroma = (rng.integers(1, 100, (8, 8)) for _ in range(2))
    upright, lying = stated_features(luma, chroma, (1, 2)), stated_features(luma.T, chroma.T, (2, 1))
    for turns in range(4):
        np.testing.assert_array_equal(turned_stated(upright, turns), lying if turns % 2 else upright)
    pictures = [np.zeros((16, 16), np.uint8)]
    batch = TargetDomain(pictures, Cutting(8, 16), [upright]).batch(0)
    assert batch.stated is not None
    assert {row.numpy().tobytes() for row in batch.stated} == {upright.tobytes(), lying.tobytes()}
    with pytest.raises(ValueError, match="what its file states"):
        TargetDomain(pictures, Cutting(1, 16), [])


def test_compared_patches_are_told_alike() -> None:
    """That something is stated at all must not tell the domains apart."""
    source = Patches(torch.rand(4, 1, 8, 8), torch.ones(4, STATED_FEATURES))
    stated = torch.zeros(4, STATED_FEATURES)
    stated[1] = 0.5
    both = alike(source, Patches(torch.rand(4, 1, 8, 8), stated))
    assert both.stated is not None
    assert both.stated.any(dim=1).tolist() == [False, True, False, False] * 2
    assert torch.equal(both.stated[4:], stated)
    assert alike(source, Patches(torch.rand(4, 1, 8, 8))).stated is None


def test_domains_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="original of its own shape"):
        SourceDomain(PICTURES[:1], [PICTURES[0][:40]], Cutting(1, 8))
    with pytest.raises(TrainingDataError, match="smaller than the patch"):
        TargetDomain(PICTURES, Cutting(1, 64))
    with pytest.raises(TrainingDataError, match="without pictures"):
        TargetDomain([], Cutting(1, 8))


def test_grey_divides_each_side(image_folder: Path, tmp_path: Path) -> None:
    store = ImageStore(ImageFolder(image_folder).files(), tmp_path / "cache")
    sizes = [(height // 2, width // 2) for height, width in store.shapes]
    assert [picture.shape for picture in grey(store, divide=2, min_side=1)] == sizes
    assert [p.shape for p in grey(store, divide=2, min_side=36)] == [s for s in sizes if min(s) >= 36]
    with pytest.raises(TrainingDataError, match="600 pixels"):
        grey(store, divide=1, min_side=600)


# --- both loops -------------------------------------------------------------------------------------------------

QUALITY = 10


def no_validation(_network: Backbone) -> dict[str, float]:
    return {"psnr_db_q10": 30.0}


def source_domain() -> SourceDomain:
    originals = PICTURES[:4]
    return SourceDomain(compressed(originals, QUALITY), originals, Cutting(2, 16))


def target_domain() -> TargetDomain:
    return TargetDomain(compressed(PICTURES[4:], 70), Cutting(2, 16))


def run_pretrain(path: Path, config: Pretraining | None = None, name: str = "rdn") -> Path:
    config = config or Pretraining(steps=6, batch=2, patch=16, checkpoint_every=2, learning_rate=LearningRate(1e-3))
    return pretrain(
        Fabric(accelerator="cpu", devices=1),
        a_network(name),
        config,
        source_domain(),
        no_validation,
        path,
        identity=stored(0, pretraining=config),
        manifest={},
    )


ADAPTATION = Adaptation(
    steps=6,
    batch=2,
    patch=16,
    checkpoint_every=2,
    learning_rate=LearningRate(1e-3),
    discriminator=DiscriminatorConfig(hidden=32),
)


def run_adapt(
    path: Path,
    config: Adaptation = ADAPTATION,
    name: str = "rdn",
    target: TargetDomain | None = None,
    validate: carn.Validate = no_validation,
) -> Path:
    return adapt_network(
        Fabric(accelerator="cpu", devices=1),
        a_network(name),
        config,
        source_domain(),
        target or target_domain(),
        validate,
        path,
        identity=stored(0, adaptation=config),
        manifest={},
        seed=3,
    )


class Killed(Exception):  # noqa: N818 (no error)
    """Stands for a process that ends without warning."""


def kill_at_call(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    calls = 0

    def call(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > number:
            raise Killed
        return function(*args, **options)

    return call


def assert_same_checkpoint(one: Path, other: Path) -> None:
    mine, theirs = Checkpoint.load(one), Checkpoint.load(other)
    assert (mine.step, mine.metrics) == (theirs.step, theirs.metrics)
    assert mine.tensors.keys() == theirs.tensors.keys()
    assert [name for name, value in mine.tensors.items() if not torch.equal(value, theirs.tensors[name])] == []


def run_standardised(path: Path) -> Path:
    return run_adapt(path, replace(ADAPTATION, discriminator=DiscriminatorConfig("moments", standardised=True)))


@pytest.mark.parametrize("train", [run_pretrain, run_adapt, run_standardised])
def test_resumed_equals_the_uninterrupted(
    train: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole" / "network.safetensors", tmp_path / "killed" / "network.safetensors"
    train(whole)
    with monkeypatch.context() as patch:
        patch.setattr(carn, "denoising_loss", kill_at_call(5, denoising_loss))
        with pytest.raises(Killed):
            train(killed)
    assert Checkpoint.load(killed).step == 4
    train(killed)
    assert_same_checkpoint(killed, whole)
    before = killed.read_bytes()
    train(killed)
    assert killed.read_bytes() == before


@pytest.mark.parametrize("name", NETWORKS)
def test_any_backbone_learns_and_adapts(name: str, tmp_path: Path) -> None:
    """Every parameter that should learn has met its optimizer, and moved."""
    for path in (run_pretrain(tmp_path / "a.safetensors", name=name), run_adapt(tmp_path / "b.safetensors", name=name)):
        start = a_network(name)
        tensors = Checkpoint.load(path).tensors
        state = select(tensors, "model")
        learning = {key for key, parameter in start.named_parameters() if parameter.requires_grad}
        assert {key.split(".", 2)[2] for key in tensors if key.startswith("optimizer0.exp_avg.")} == learning
        unmoved = [key for key, value in start.named_parameters() if torch.equal(state[key], value)]
        assert not learning & set(unmoved)
        frozen = {key for key, parameter in start.named_parameters() if not parameter.requires_grad}
        assert frozen <= set(unmoved)
        statistics = [key for key, _ in start.named_buffers() if not key.startswith("dagn.")]
        kept = [key for key in statistics if torch.equal(state[key], start.state_dict()[key])]
        assert kept == (statistics if path.name == "b.safetensors" else [])


def test_another_configuration_or_data_is_refused(tmp_path: Path) -> None:
    path = run_adapt(tmp_path / "a.safetensors")
    with pytest.raises(TrainingError, match=r"another configuration.*strength"):
        run_adapt(path, replace(ADAPTATION, strength=1.0))
    with pytest.raises(TrainingError, match=r"other pictures \(target_sha256\); give the same ones, or choose another"):
        resume_point(path, stored(0, adaptation=ADAPTATION), {"target_sha256": "1"})


def test_lambda_0_is_training_on_the_source_alone(tmp_path: Path) -> None:
    adapted = select(Checkpoint.load(run_adapt(tmp_path / "a", replace(ADAPTATION, strength=0.0))).tensors, "model")
    config = Pretraining(steps=6, batch=2, patch=16, checkpoint_every=2, learning_rate=LearningRate(1e-3))
    trained = select(Checkpoint.load(run_pretrain(tmp_path / "b", config)).tensors, "model")
    for name, value in trained.items():
        torch.testing.assert_close(adapted[name], value, rtol=1e-4, atol=1e-5)
    strong = select(Checkpoint.load(run_adapt(tmp_path / "c", replace(ADAPTATION, strength=1.0))).tensors, "model")
    assert not torch.allclose(strong["shallow2.weight"], trained["shallow2.weight"], rtol=1e-4, atol=1e-5)


def test_printed_step_of_the_discriminator_is_eta_times_lambda(tmp_path: Path) -> None:
    def moved(config: Adaptation, name: str) -> float:
        one = replace(config, steps=1)
        torch.manual_seed(3)
        start = QualityDiscriminator(config.discriminator, 6, 16)
        state = select(Checkpoint.load(run_adapt(tmp_path / name, one)).tensors, "discriminator")
        return float((state["layers.4.bias"] - start.state_dict()["layers.4.bias"]).abs().max())

    plain = moved(replace(ADAPTATION, discriminator_step="plain", strength=0.25), "plain")
    printed = moved(replace(ADAPTATION, discriminator_step="published", strength=0.25), "printed")
    assert plain == pytest.approx(1e-3, rel=0.01)
    assert printed == pytest.approx(0.25 * plain, rel=0.01)
    tenfold = moved(replace(ADAPTATION, discriminator_step="tenfold", strength=0.25), "tenfold")
    assert tenfold == pytest.approx(10 * plain, rel=0.01)


def test_collapse_keeps_the_last_good_weights(tmp_path: Path) -> None:
    def falling(losses: Sequence[float]) -> carn.Validate:
        left = list(losses)
        return lambda _network: {"psnr_db_q10": 30.0 - left.pop(0)}

    config = replace(ADAPTATION, max_source_loss_db=0.1)
    good = run_adapt(tmp_path / "good", replace(config, steps=2), validate=falling([0, 0.05]))
    path = run_adapt(tmp_path / "stopped", config, validate=falling([0, 0.05, 0.2]))
    stopped, reference = Checkpoint.load(path), Checkpoint.load(good)
    assert stopped.step == 2
    assert reference.metrics == {
        "psnr_db_q10": 29.95,
        "start_psnr_db": 30.0,
        "least_quality_loss": pytest.approx(math.log(2), rel=0.2),
    }
    assert stopped.metrics == reference.metrics | {"stopped_at_step": 4.0}
    for name, value in select(reference.tensors, "model").items():
        assert torch.equal(stopped.tensors[f"model.{name}"], value)
    before = path.read_bytes()
    run_adapt(path, config, validate=falling([]))  # known to have collapsed: not tried again
    assert path.read_bytes() == before
    not_a_number = run_adapt(tmp_path / "nan", config, validate=falling([0, math.nan]))
    assert Checkpoint.load(not_a_number).step == 0
    unbounded = run_adapt(tmp_path / "unbounded", ADAPTATION, validate=falling([0, 1, 2, 3]))
    assert Checkpoint.load(unbounded).step == 6


def test_the_worse_of_told_and_blind_counts(tmp_path: Path) -> None:
    def validate(found: list[tuple[float, float]]) -> carn.Validate:
        left = iter(found)
        return lambda _network: dict(zip(("psnr_db_q10", "psnr_db_blind_q10"), next(left), strict=True))

    config = replace(ADAPTATION, max_source_loss_db=0.1)
    for number, fallen in enumerate([(30.5, 28.8), (29.8, 29.5)]):
        path = run_adapt(tmp_path / str(number), config, validate=validate([(30, 29), (30, 29), fallen]))
        metrics = Checkpoint.load(path).metrics
        assert metrics["stopped_at_step"] == 4
        assert (metrics["start_psnr_db"], metrics["start_psnr_db_blind"]) == (30, 29)


def test_golden_carn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty steps of either loop, as ``expected/`` has them; ``UNJPEG_REGENERATE=1`` writes it instead."""
    recorded: dict[str, float] = {}
    log = RunLog.scalars

    def scalars(run: RunLog, step: int, values: dict[str, float], **options: Any) -> None:
        recorded.update({f"{run._title}.{name}": value for name, value in values.items() if "psnr" not in name})
        log(run, step, values, **options)

    monkeypatch.setattr(RunLog, "scalars", scalars)
    rate = LearningRate(1e-3)
    run_pretrain(tmp_path / "pretrain", Pretraining(20, batch=2, patch=16, checkpoint_every=20, learning_rate=rate))
    standardised = DiscriminatorConfig(hidden=32, standardised=True)
    run_adapt(
        tmp_path / "adapt",
        replace(ADAPTATION, steps=20, checkpoint_every=20, discriminator_step="plain", discriminator=standardised),
    )
    path = Path(__file__).parents[1] / "expected" / "train_carn_20_steps.json"
    if os.environ.get("UNJPEG_REGENERATE") == "1":
        rounded = {key: float(f"{value:.7g}") for key, value in recorded.items()}
        path.write_text(json.dumps(rounded, indent=2) + "\n")
    assert recorded == pytest.approx(json.loads(path.read_text()), rel=1e-3)


def test_a_checkpoint_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    (tmp_path / "network.safetensors.partial").mkdir()
    with pytest.raises(OutputError, match=r"network\.safetensors: cannot be written"):
        run_pretrain(path)
    with pytest.raises(OutputError, match=r"here\.safetensors: cannot be written"):
        Checkpoint({}, 0, {}, {}).save(Path("/proc/self/here.safetensors"))
    assert not path.exists()


def test_probe_tells_dark_from_bright() -> None:
    dark, bright = ([(picture // 3 + more).astype(np.uint8) for picture in PICTURES] for more in (0, 150))
    training = (TargetDomain(dark[:4], Cutting(4, 16)).batch, TargetDomain(bright[:4], Cutting(4, 16)).batch)
    held_out = (TargetDomain(dark[4:], Cutting(4, 16)).batch, TargetDomain(bright[4:], Cutting(4, 16)).batch)
    config = DiscriminatorConfig("average", hidden=32)
    assert domain_accuracy(a_network(), training, held_out, config, steps=80, learning_rate=1e-2) > 0.95


def test_probe_is_at_chance_for_one_domain() -> None:
    """Other draws from the same pictures are not told apart, however long the probe is trained."""
    draws = [TargetDomain(PICTURES, Cutting(16, 16, seed=seed)).batch for seed in range(4)]
    config = DiscriminatorConfig("moments", hidden=32)
    found = domain_accuracy(
        a_network(), (draws[0], draws[1]), (draws[2], draws[3]), config, steps=80, learning_rate=1e-2
    )
    assert found == pytest.approx(0.5, abs=0.1)
    assert found != 0.5


# --- the target's originals -------------------------------------------------------------------------------------


def test_a_target_has_no_place_for_originals() -> None:
    """What a batch holds is what the compressed files hold, and all that the domain is made of."""
    pictures = compressed(PICTURES[4:], 70)
    cutting = Cutting(40, 48)  # as large as the pictures: a patch is one of them, turned
    batch = TargetDomain(pictures, cutting).batch(0)
    assert type(batch) is Patches
    assert batch.stated is None
    known = {turned(p, turns, flip).tobytes() for p in pictures for turns in range(4) for flip in (False, True)}
    assert {patch.numpy().tobytes() for patch in batch.pixels[:, 0]} <= known
    assert list(inspect.signature(TargetDomain).parameters) == ["compressed", "cutting", "stated"]
    assert Patches._fields == ("pixels", "stated")


@pytest.fixture
def scenarios(tmp_path: Path) -> Callable[[str, list[Pixels]], Scenarios]:
    """Of the tiny recipe, with the given originals of the target."""

    def make(name: str, unlabelled: list[Pixels]) -> Scenarios:
        pictures = CarnPictures([*PICTURES[:4], *unlabelled], PICTURES[:2], {})
        return Scenarios(Fabric(accelerator="cpu", devices=1), carn_recipe("tiny"), pictures, 0, tmp_path / name)

    return make


def test_poisoned_ground_truth_of_the_target_changes_nothing(
    scenarios: Callable[[str, list[Pixels]], Scenarios], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once compressed, the target's originals are overwritten with noise: bit for bit the same network comes out."""
    honest = scenarios("honest", [picture.copy() for picture in PICTURES[4:]]).adapted(70, 10)

    victims = [picture.copy() for picture in PICTURES[4:]]
    poisoned = scenarios("poisoned", victims)
    poisoned.single(70)  # the start of the adaptation, from the source's pictures
    compress, poisonings = compressed, 0

    def compress_then_poison(pictures: Sequence[Pixels], quality: int) -> list[Pixels]:
        nonlocal poisonings
        out = compress(pictures, quality)
        if quality == 10:
            for number, picture in enumerate(pictures):
                assert any(picture is victim for victim in victims)
                picture[:] = np.random.default_rng(number).integers(0, 256, picture.shape)
            poisonings += 1
        return out

    monkeypatch.setattr("unjpeg.adapt.recipes.compressed", compress_then_poison)
    from_poison = poisoned.adapted(70, 10)
    assert poisonings == 1
    for name, value in honest.state_dict().items():
        assert torch.equal(from_poison.state_dict()[name], value)
    assert checksum(victims) != checksum(PICTURES[4:])


def test_poisoned_ground_truth_of_the_source_is_noticed(
    scenarios: Callable[[str, list[Pixels]], Scenarios], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same poison in the source's originals gives another network: the comparison above can fail."""
    honest = scenarios("honest", PICTURES[4:]).adapted(70, 10)
    poisoned = scenarios("poisoned", PICTURES[4:])
    start = poisoned.single(70)
    victims = [picture.copy() for picture in poisoned.supervised]
    calls = 0

    def compress_then_poison(pictures: Sequence[Pixels], quality: int) -> list[Pixels]:
        nonlocal calls
        out = compressed(pictures, quality)
        if pictures is victims:
            calls += 1
            for number, picture in enumerate(pictures if calls == 2 else ()):  # once the start has been found again
                picture[:] = np.random.default_rng(number).integers(0, 256, picture.shape)
        return out

    monkeypatch.setattr("unjpeg.adapt.recipes.compressed", compress_then_poison)
    monkeypatch.setattr(Scenarios, "supervised", victims)
    from_poison = poisoned.adapted(70, 10)
    assert calls == 2
    assert poisoned._done[next(iter(poisoned._done))] is start
    assert len(poisoned._done) == 2
    assert any(not torch.equal(from_poison.state_dict()[n], value) for n, value in honest.state_dict().items())


def test_the_target_reaches_the_features_and_not_the_denoiser(
    scenarios: Callable[[str, list[Pixels]], Scenarios],
) -> None:
    network = Rdn(RdnConfig(width=6, blocks=3, layers=2, growth=4))
    seen: list[int] = []
    network.fusion1.register_forward_hook(lambda _module, _inputs, output: seen.append(len(output)))
    adversary = DomainAdversary(network, QualityDiscriminator(DiscriminatorConfig(hidden=3), 6, 8))
    restored, logits = adversary(Patches(torch.rand(2, 1, 8, 8)), Patches(torch.rand(3, 1, 8, 8)), 1.0)
    assert (len(restored), len(logits), seen) == (2, 5, [2])


def a_told_dagn() -> SplitDagn:
    torch.manual_seed(0)
    network = SplitDagn(Dagn(DagnConfig(width=4, scales=2, blocks=1, stem=2, encoder_width=1, stated=True)))
    with torch.no_grad():  # what is told has no effect on a fresh network
        for parameter in network.dagn.stated.parameters() if network.dagn.stated else ():
            parameter.normal_()
    return network


def test_a_network_that_is_told_hears_half_of_the_source() -> None:
    network = a_told_dagn()
    seen: list[Tensor] = []
    encoded: list[int] = []
    assert network.dagn.stated is not None
    network.dagn.stated.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    network.dagn.sensitive_encoder.register_forward_hook(lambda _m, inputs, _output: encoded.append(len(inputs[0])))
    adversary = DomainAdversary(network, QualityDiscriminator(DiscriminatorConfig("moments"), 4, 8))
    pixels = torch.rand(8, 3, 16, 16)
    stated = torch.rand(4, STATED_FEATURES) + 0.5
    source = Patches(pixels[:4], stated)
    codec = Patches(pixels[4:], torch.zeros(4, STATED_FEATURES))
    restored, logits = adversary(source, codec, 1.0)
    compared, told = seen
    assert not compared.any()  # a codec that states nothing: neither does its source
    assert told.any(dim=1).tolist() == [True, False, True, False]
    assert torch.equal(told[::2], stated[::2])
    assert encoded == [4]  # the target is not guided: its features are all that is asked for
    with torch.no_grad():
        torch.testing.assert_close(restored, network(pixels[:4], told))
        assert not torch.allclose(restored, network(pixels[:4]))
    _, of_jpegs = adversary(source, Patches(pixels[4:], stated.flip(0)), 1.0)
    assert torch.equal(seen[-2], torch.cat([stated, stated.flip(0)]))
    assert not torch.allclose(logits, of_jpegs)


# --- scenarios and recipes --------------------------------------------------------------------------------------


def test_scenarios_are_trained_once(
    scenarios: Callable[[str, list[Pixels]], Scenarios], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scenarios("shared", PICTURES[4:])
    networks = [first.single(10), first.single(70), first.both(), first.adapted(10, 70), first.adapted(70, 10)]
    assert len(list(first.work.iterdir())) == 5
    again = scenarios("shared", PICTURES[4:])
    monkeypatch.setattr(carn, "denoising_loss", kill_at_call(0, denoising_loss))
    repeated = [again.single(10), again.single(70), again.both(), again.adapted(10, 70), again.adapted(70, 10)]
    for one, other in zip(networks, repeated, strict=True):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    different = replace(again.recipe, adaptation=replace(again.recipe.adaptation, strength=0.9))
    with pytest.raises(Killed):
        replace(again, recipe=different, _done={}).adapted(10, 70)


@pytest.mark.parametrize("name", NETWORKS)
def test_only_the_extractor_is_left_to_train(name: str) -> None:
    network = make_backbone(NETWORKS[name][0])
    learning = [key for key, parameter in network.named_parameters() if parameter.requires_grad]
    before = copy.deepcopy(network.state_dict())
    carn.freeze_denoiser(network)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    features = network.extract(torch.rand(1, network.image_channels, 32, 32))
    inner = [tensor.detach().requires_grad_() for tensor in (features.seen, *features.carried)]
    free = {key for key, parameter in network.named_parameters() if parameter.requires_grad}
    assert free < set(learning)
    assert free
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    restored = network.denoise(Features(inner[0], tuple(inner[1:])))
    gradients = torch.autograd.grad(restored.sum(), list(network.parameters()), allow_unused=True)
    denoiser = {key for (key, _), one in zip(network.named_parameters(), gradients, strict=True) if one is not None}
    assert not free & denoiser


def test_the_bound_moves_the_extractor_alone(scenarios: Callable[[str, list[Pixels]], Scenarios]) -> None:
    some = scenarios("bound", PICTURES[4:])
    start, shown = some.single(10).state_dict(), some.bound(10, 70).state_dict()
    moved = {key.split(".")[0] for key, value in shown.items() if not torch.equal(value, start[key])}
    assert moved == {"shallow1", "shallow2"}


def test_the_bound_of_a_network_with_batch_norm_keeps_its_statistics(
    scenarios: Callable[[str, list[Pixels]], Scenarios],
) -> None:
    some = scenarios("norm", PICTURES[4:])
    some = replace(some, recipe=replace(some.recipe, backbone=DnCnnConfig(width=6, depth=5)), _done={})
    start, shown = some.single(10).state_dict(), some.bound(10, 70).state_dict()
    moved = {key for key, value in shown.items() if not torch.equal(value, start[key])}
    assert {key.split(".")[1] for key in moved} == {"0", "1"}
    assert not [key for key in moved if "running" in key]


def test_source_and_target_pictures_are_other_or_the_same(scenarios: Callable[[str, list[Pixels]], Scenarios]) -> None:
    other = scenarios("x", PICTURES[4:])
    assert checksum(other.supervised) == checksum(PICTURES[:4])
    assert checksum(other.unlabelled) == checksum(PICTURES[4:])
    same = replace(other, recipe=replace(other.recipe, target_pictures="same"))
    assert checksum(same.supervised) == checksum(same.unlabelled) == checksum(PICTURES)


@pytest.mark.parametrize("name", CARN_RECIPES)
def test_each_carn_recipe_goes_by_its_name(name: str) -> None:
    recipe = carn_recipe(name)
    assert recipe.name == name
    identity = stored(0, recipe=recipe)
    assert identity["recipe"]["adaptation"]["strength"] == recipe.adaptation.strength
    network = make_backbone(recipe.backbone)
    assert recipe.adaptation.patch % network.total_stride == 0
    assert recipe.adaptation.patch % network.feature_stride == 0


def test_published_recipe_is_the_papers() -> None:
    recipe = carn_recipe("published")
    assert (recipe.low, recipe.high, recipe.divide) == (10, 70, 4)
    assert recipe.backbone == RdnConfig()
    for part in (recipe.pretraining, recipe.adaptation):
        assert part.patch == 64
        epoch = 800 // part.batch
        rates = [part.learning_rate.at(number * epoch, part.steps) for number in (0, 499, 500, 799, 800)]
        assert rates == pytest.approx([1e-4, 1e-4, 5e-5, 5e-5, 2.5e-5])
    small = carn_recipe("small").adaptation
    assert [small.learning_rate.at(step, small.steps) for step in (0, 500, 800)] == pytest.approx([1e-4, 5e-5, 2.5e-5])


def test_unknown_recipe_is_named() -> None:
    with pytest.raises(TrainingError, match=r"no recipe 'nonesuch'.*small"):
        carn_recipe("nonesuch")


def test_prepared_pictures_are_shuffled_and_split(image_folder: Path, tmp_path: Path) -> None:
    for number in range(10):
        Image.fromarray(synthetic_photo(40, 40, 50 + number)).save(image_folder / f"more-{number}.png")
    images = TrainingImages.open([ImageFolder(image_folder)], validation_fraction=0.3, cache_dir=tmp_path / "cache")
    recipe = carn_recipe("tiny")
    pictures = CarnPictures.prepare(images, recipe)
    assert len(pictures.training) + len(pictures.held_out) == 16
    in_order = grey(images.training, divide=1, min_side=16)
    assert checksum(pictures.training) != checksum(in_order)
    assert sorted(p.tobytes() for p in pictures.training) == sorted(p.tobytes() for p in in_order)
    few = TrainingImages.open([ImageFolder(image_folder)], validation_fraction=0.7, cache_dir=tmp_path / "cache")
    assert 0 < len(few.training) < 8
    with pytest.raises(TrainingDataError, match=f"{len(few.training)} training pictures are too few"):
        CarnPictures.prepare(few, recipe)


def test_stored_configuration_names_the_backbone() -> None:
    rdn = stored(0, backbone=RdnConfig())["backbone"]
    assert rdn["kind"] == "RdnConfig"
    assert {field.name for field in fields(RdnConfig)} < rdn.keys()
    assert stored(0, backbone=DnCnnConfig()) != stored(0, backbone=ArCnnConfig())
