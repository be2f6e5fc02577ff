"""CARN-DA's recipes and scenarios: each network trained once, from what it may see."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from PIL import Image

from conftest import synthetic_photo
from studies.carn.recipes import (
    CARN_RECIPES,
    CarnPictures,
    RedegradedPairs,
    Scenarios,
    find_carn_recipe,
    freeze_denoiser,
)
from trainings import NETWORKS, PICTURES, Killed, kill_at_call
from unjpeg.adapt import carn
from unjpeg.adapt.carn import (
    denoising_loss,
    describe_training,
)
from unjpeg.adapt.domains import (
    checksum,
    compress_all,
    load_grey,
)
from unjpeg.datasets import ImageFolder
from unjpeg.errors import TrainingDataError, TrainingError
from unjpeg.models import (
    ArCnnConfig,
    DnCnnConfig,
    Features,
    RdnConfig,
    make_backbone,
)
from unjpeg.train.degrade import Pixels8
from unjpeg.train.run import TrainingImages


@pytest.fixture
def scenarios(tmp_path: Path) -> Callable[[str, list[Pixels8]], Scenarios]:
    """Of the tiny recipe, with the given originals of the target."""

    def make(name: str, unlabelled: list[Pixels8]) -> Scenarios:
        pictures = CarnPictures([*PICTURES[:4], *unlabelled], PICTURES[:2], {})
        return Scenarios(Fabric(accelerator="cpu", devices=1), find_carn_recipe("tiny"), pictures, 0, tmp_path / name)

    return make


def test_poisoned_ground_truth_of_the_target_changes_nothing(
    scenarios: Callable[[str, list[Pixels8]], Scenarios], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once compressed, the target's originals are overwritten with noise: bit for bit the same network comes out."""
    honest = scenarios("honest", [picture.copy() for picture in PICTURES[4:]]).adapted(70, 10)

    victims = [picture.copy() for picture in PICTURES[4:]]
    poisoned = scenarios("poisoned", victims)
    poisoned.single(70)  # the start of the adaptation, from the source's pictures
    compress, poisonings = compress_all, 0

    def compress_then_poison(pictures: Sequence[Pixels8], quality: int) -> list[Pixels8]:
        nonlocal poisonings
        out = compress(pictures, quality)
        if quality == 10:
            for number, picture in enumerate(pictures):
                assert any(picture is victim for victim in victims)
                picture[:] = np.random.default_rng(number).integers(0, 256, picture.shape)
            poisonings += 1
        return out

    monkeypatch.setattr("studies.carn.recipes.compress_all", compress_then_poison)
    from_poison = poisoned.adapted(70, 10)
    assert poisonings == 1
    for name, value in honest.state_dict().items():
        assert torch.equal(from_poison.state_dict()[name], value)
    assert checksum(victims) != checksum(PICTURES[4:])


def test_poisoned_ground_truth_of_the_source_is_noticed(
    scenarios: Callable[[str, list[Pixels8]], Scenarios], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same poison in the source's originals gives another network: the comparison above can fail."""
    honest = scenarios("honest", PICTURES[4:]).adapted(70, 10)
    poisoned = scenarios("poisoned", PICTURES[4:])
    start = poisoned.single(70)
    victims = [picture.copy() for picture in poisoned.supervised]
    calls = 0

    def compress_then_poison(pictures: Sequence[Pixels8], quality: int) -> list[Pixels8]:
        nonlocal calls
        out = compress_all(pictures, quality)
        if pictures is victims:
            calls += 1
            for number, picture in enumerate(pictures if calls == 2 else ()):  # once the start has been found again
                picture[:] = np.random.default_rng(number).integers(0, 256, picture.shape)
        return out

    monkeypatch.setattr("studies.carn.recipes.compress_all", compress_then_poison)
    monkeypatch.setattr(Scenarios, "supervised", victims)
    from_poison = poisoned.adapted(70, 10)
    assert calls == 2
    assert poisoned._done[next(iter(poisoned._done))] is start
    assert len(poisoned._done) == 2
    assert any(not torch.equal(from_poison.state_dict()[n], value) for n, value in honest.state_dict().items())


@pytest.mark.parametrize("pairs", get_args(RedegradedPairs))
def test_re_degradation_sees_no_original_of_the_target(
    scenarios: Callable[[str, list[Pixels8]], Scenarios], monkeypatch: pytest.MonkeyPatch, pairs: RedegradedPairs
) -> None:
    honest = scenarios("honest", [picture.copy() for picture in PICTURES[4:]])
    expected = honest.redegraded(70, 10, pairs)
    start = honest.single(70).state_dict()
    assert any(not torch.equal(value, start[name]) for name, value in expected.state_dict().items())

    victims = [picture.copy() for picture in PICTURES[4:]]
    poisoned = scenarios("poisoned", victims)
    compress = compress_all

    def compress_then_poison(pictures: Sequence[Pixels8], quality: int) -> list[Pixels8]:
        out = compress(pictures, quality)
        for number, victim in enumerate(victims):
            if any(picture is victim for picture in pictures):
                victim[:] = np.random.default_rng(number).integers(0, 256, victim.shape)
        return out

    monkeypatch.setattr("studies.carn.recipes.compress_all", compress_then_poison)
    found = poisoned.redegraded(70, 10, pairs)
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in expected.state_dict().items())
    assert (checksum(victims) != checksum(PICTURES[4:])) == (pairs == "halved")


def test_scenarios_are_trained_once(
    scenarios: Callable[[str, list[Pixels8]], Scenarios], monkeypatch: pytest.MonkeyPatch
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
    freeze_denoiser(network)
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


def test_the_bound_moves_the_extractor_alone(scenarios: Callable[[str, list[Pixels8]], Scenarios]) -> None:
    some = scenarios("bound", PICTURES[4:])
    start, shown = some.single(10).state_dict(), some.bound(10, 70).state_dict()
    moved = {key.split(".")[0] for key, value in shown.items() if not torch.equal(value, start[key])}
    assert moved == {"shallow1", "shallow2"}


def test_the_bound_of_a_network_with_batch_norm_keeps_its_statistics(
    scenarios: Callable[[str, list[Pixels8]], Scenarios],
) -> None:
    some = scenarios("norm", PICTURES[4:])
    some = replace(some, recipe=replace(some.recipe, backbone=DnCnnConfig(width=6, depth=5)), _done={})
    start, shown = some.single(10).state_dict(), some.bound(10, 70).state_dict()
    moved = {key for key, value in shown.items() if not torch.equal(value, start[key])}
    assert {key.split(".")[1] for key in moved} == {"0", "1"}
    assert not [key for key in moved if "running" in key]


def test_source_and_target_pictures_are_other_or_the_same(scenarios: Callable[[str, list[Pixels8]], Scenarios]) -> None:
    other = scenarios("x", PICTURES[4:])
    assert checksum(other.supervised) == checksum(PICTURES[:4])
    assert checksum(other.unlabelled) == checksum(PICTURES[4:])
    same = replace(other, recipe=replace(other.recipe, target_pictures="same"))
    assert checksum(same.supervised) == checksum(same.unlabelled) == checksum(PICTURES)


@pytest.mark.parametrize("name", CARN_RECIPES)
def test_each_carn_recipe_goes_by_its_name(name: str) -> None:
    recipe = find_carn_recipe(name)
    assert recipe.name == name
    identity = describe_training(0, recipe=recipe)
    assert identity["recipe"]["adaptation"]["strength"] == recipe.adaptation.strength
    network = make_backbone(recipe.backbone)
    assert recipe.adaptation.patch % network.total_stride == 0
    assert recipe.adaptation.patch % network.feature_stride == 0


def test_published_recipe_is_the_papers() -> None:
    recipe = find_carn_recipe("published")
    assert (recipe.low, recipe.high, recipe.divide) == (10, 70, 4)
    assert recipe.backbone == RdnConfig()
    for part in (recipe.pretraining, recipe.adaptation):
        assert part.patch == 64
        epoch = 800 // part.batch
        rates = [part.learning_rate.at(number * epoch, part.steps) for number in (0, 499, 500, 799, 800)]
        assert rates == pytest.approx([1e-4, 1e-4, 5e-5, 5e-5, 2.5e-5])
    small = find_carn_recipe("small").adaptation
    assert [small.learning_rate.at(step, small.steps) for step in (0, 500, 800)] == pytest.approx([1e-4, 5e-5, 2.5e-5])


def test_unknown_recipe_is_named() -> None:
    with pytest.raises(TrainingError, match=r"no recipe 'nonesuch'.*small"):
        find_carn_recipe("nonesuch")


def test_prepared_pictures_are_shuffled_and_split(image_folder: Path, tmp_path: Path) -> None:
    for number in range(10):
        Image.fromarray(synthetic_photo(40, 40, 50 + number)).save(image_folder / f"more-{number}.png")
    images = TrainingImages.open([ImageFolder(image_folder)], validation_fraction=0.3, cache_dir=tmp_path / "cache")
    recipe = find_carn_recipe("tiny")
    pictures = CarnPictures.prepare(images, recipe)
    assert len(pictures.training) + len(pictures.held_out) == 16
    in_order = load_grey(images.training, divide=1, min_side=16)
    assert checksum(pictures.training) != checksum(in_order)
    assert sorted(p.tobytes() for p in pictures.training) == sorted(p.tobytes() for p in in_order)
    few = TrainingImages.open([ImageFolder(image_folder)], validation_fraction=0.7, cache_dir=tmp_path / "cache")
    assert 0 < len(few.training) < 8
    with pytest.raises(TrainingDataError, match=f"{len(few.training)} training pictures are too few"):
        CarnPictures.prepare(few, recipe)


def test_stored_configuration_names_the_backbone() -> None:
    rdn = describe_training(0, backbone=RdnConfig())["backbone"]
    assert rdn["kind"] == "RdnConfig"
    assert {field.name for field in fields(RdnConfig)} < rdn.keys()
    assert describe_training(0, backbone=DnCnnConfig()) != describe_training(0, backbone=ArCnnConfig())
