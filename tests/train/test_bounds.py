"""Bounded networks from a plain one's weights to a model file with integers: measured, trained, grown, exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.fabric import Fabric
from onnx import numpy_helper

from conftest import synthetic_photo
from trainings import SHIPPED_KIND, Killed, assert_same_checkpoint, fresh_encoders, kill_at_call, small_recipe
from unjpeg.errors import TrainingError
from unjpeg.modelfile import ModelFile
from unjpeg.models import Dagn, DagnConfig, GuidanceTensors
from unjpeg.models.exported import Restore, load_exported
from unjpeg.models.integers import UNBOUNDED, find_bounded, round_to_integers
from unjpeg.runtimes.onnxruntime import compile_onnxruntime
from unjpeg.train.bounds import measure_bounds
from unjpeg.train.checkpoint import Checkpoint, select
from unjpeg.train.config import DagnTraining, Recipe
from unjpeg.train.dagn import train_dagn
from unjpeg.train.export import export_network
from unjpeg.train.grow import take_over
from unjpeg.train.guidance import QUALITY_LEVELS
from unjpeg.train.int8 import round_file
from unjpeg.train.integer_graph import round_bounded
from unjpeg.train.recipes import RECIPES
from unjpeg.train.run import AveragedModel, TrainingImages

CPU = torch.device("cpu")
CONFIG = replace(SHIPPED_KIND, bounded=True)


def lively(config: DagnConfig = CONFIG) -> Dagn:
    torch.manual_seed(5)
    network = Dagn(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


def limits(network: Dagn) -> list[torch.Tensor]:
    return [convolution.limit.clone() for convolution in find_bounded(network)]


@pytest.fixture(scope="module")
def bounded(training_images: TrainingImages) -> Dagn:
    network = lively()
    measure_bounds(network, training_images.training, CPU)
    return network


def recipe_of_integers(rounding: float) -> Recipe:
    recipe = small_recipe()
    network = replace(CONFIG, encoder_width=recipe.network.encoder_width, scales=2)
    return replace(recipe, network=network, dagn=replace(recipe.dagn, steps=6, checkpoint_every=2, rounding=rounding))


def test_limits_are_near_what_photographs_reach(training_images: TrainingImages, bounded: Dagn) -> None:
    """Narrower ones cut them off, wider ones have coarser steps."""
    network = lively()
    reached: dict[torch.nn.Module, float] = {}

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        reached[module] = max(reached.get(module, 0.0), float(inputs[0].max()))

    for convolution in find_bounded(network):
        convolution.register_forward_pre_hook(note)
    with torch.no_grad():
        for index in range(len(training_images.training)):
            picture = training_images.training[index]
            side = min(picture.shape[:2]) // 8 * 8
            network(torch.from_numpy(picture[:side, :side].transpose(2, 0, 1)[None].copy()).float() / 255)
    for limit, largest in zip(limits(bounded), reached.values(), strict=True):
        assert 0 < float(limit.min()) <= float(limit.max()) < 3 * largest
        assert float(limit.max()) > largest / 3


def test_limits_that_are_there_stay(training_images: TrainingImages, bounded: Dagn) -> None:
    network = lively()
    network.load_state_dict(bounded.state_dict())
    first, second, *_ = find_bounded(network)
    second.limit.fill_(UNBOUNDED)
    first.limit[0] = UNBOUNDED  # of a channel that was added, say
    measure_bounds(network, training_images.training, CPU)
    now, before = limits(network), limits(bounded)
    assert float(first.limit[0]) < UNBOUNDED
    assert torch.equal(now[0][1:], before[0][1:])
    assert float(second.limit.max()) < UNBOUNDED
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(now[2:], before[2:], strict=True))


@pytest.mark.parametrize("width", [4, 6])
def test_a_wider_network_computes_what_the_bounded_one_did(
    bounded: Dagn, training_images: TrainingImages, width: int
) -> None:
    """Rounded, too, once the added channels have limits: nothing that was there before sees them."""
    torch.manual_seed(7)
    wide = Dagn(replace(CONFIG, width=width)).eval()
    take_over(wide, bounded.state_dict())
    image, stated = torch.rand(1, 3, 64, 48), torch.rand(1, 131)
    with torch.no_grad():
        torch.testing.assert_close(wide(image, None, stated), bounded(image, None, stated), atol=1e-4, rtol=1e-4)
        measure_bounds(wide, training_images.training, CPU)
        for on in (True, False):
            for network in (wide, bounded):
                round_to_integers(network, on)
            error = (wide(image, None, stated) - bounded(image, None, stated)).abs()
            assert float(error.mean()) < 2e-4
    assert all(float(limit.max()) < UNBOUNDED for limit in limits(wide))


def test_a_plain_network_does_not_take_bounds(bounded: Dagn) -> None:
    with pytest.raises(TrainingError, match="do not fit this network"):
        take_over(Dagn(replace(CONFIG, bounded=False)), bounded.state_dict())


@given(st.floats(0, 1), st.integers(1, 1000))
def test_the_last_steps_are_rounded(share: float, steps: int) -> None:
    training = DagnTraining(steps=steps, rounding=share)
    assert 0 <= training.first_rounded <= steps
    assert abs((steps - training.first_rounded) - share * steps) <= 0.5
    assert DagnTraining(steps=steps).first_rounded == steps


@pytest.mark.parametrize("name", ["default-int8", "fast-int8"])
def test_rounding_and_bounds_go_together(name: str) -> None:
    recipe = RECIPES[name]()
    assert recipe.network.bounded
    assert recipe.dagn.rounding > 0
    assert replace(recipe.network, bounded=False) == RECIPES[name.replace("int8", "more")]().network
    with pytest.raises(ValueError, match="go together"):
        replace(recipe, dagn=replace(recipe.dagn, rounding=0.0))
    with pytest.raises(ValueError, match="go together"):
        replace(recipe, network=replace(recipe.network, bounded=False))


@pytest.mark.parametrize("rounding", [0.5, 1.0])
def test_it_resumes_bit_for_bit(
    training_images: TrainingImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounding: float
) -> None:
    recipe = recipe_of_integers(rounding)

    def train(out: Path) -> Path:
        return train_dagn(
            Fabric(accelerator="cpu", devices=1), recipe, training_images, fresh_encoders(), out, workers=0
        )

    for stop in (3, 5):  # before rounding begins, if it begins half-way, and after
        out = tmp_path / f"killed-{stop}"
        with monkeypatch.context() as patch:
            patch.setattr(AveragedModel, "update", kill_at_call(stop, AveragedModel.update))
            with pytest.raises(Killed):
                train(out)
        train(out)
    whole = train(tmp_path / "whole")
    for stop in (3, 5):
        assert_same_checkpoint(tmp_path / f"killed-{stop}" / "dagn.safetensors", whole)
    tensors = Checkpoint.load(whole).tensors
    own, averaged = (
        {name: value for name, value in select(tensors, part).items() if name.endswith(".limit")}
        for part in ("model", "ema")
    )
    assert own
    assert all(float(value.max()) < UNBOUNDED and torch.equal(value, averaged[name]) for name, value in own.items())


def export(network: Dagn, path: Path) -> ModelFile:
    features = np.zeros((len(QUALITY_LEVELS), network.config.encoder.feature_channels), np.float32)
    options = {"guide_window": 32, "quality_features": features, "training": {}, "validation": {}}
    return export_network(network, path, name="bounded", **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def file(bounded: Dagn, tmp_path_factory: pytest.TempPathFactory) -> ModelFile:
    return export(bounded, tmp_path_factory.mktemp("bounded") / "bounded.unjpeg")


def test_the_graphs_compute_what_the_network_does(bounded: Dagn, file: ModelFile) -> None:
    """The float graph clips as it does, and the one in integers rounds as it does."""
    made = round_bounded(file.restore)
    assert len(made.rounded) == len(limits(bounded))
    assert set(made.exact) == {"network.head.weight", "network.tail.weight"}
    torch.manual_seed(0)
    image = 3 * torch.randn(1, 3, 64, 48)  # far beyond all limits
    guidance = bounded.guide(torch.rand(1, 3, 32, 32), torch.rand(1, 131))
    arrays = dict(zip(Restore.inputs, [image.numpy(), *(part.detach().numpy() for part in guidance)], strict=True))
    results = {}
    for on, graph in ((False, file.restore), (True, made.graph)):
        round_to_integers(bounded, on)
        with torch.no_grad():
            expected = bounded.restore(image, GuidanceTensors(*guidance)).numpy()
        (restored,) = compile_onnxruntime(graph, "cpu", 1)(arrays)
        results[on] = restored
        # Weights are stored in half precision: here and there one falls to the next step.
        assert (
            np.abs(restored - expected).mean() < (2e-3 if on else 1e-3) * np.abs(expected - image.numpy()).mean() + 1e-4
        )
    round_to_integers(bounded, False)
    assert not np.array_equal(results[False], results[True])


def test_bounds_come_back_from_a_model_file(bounded: Dagn, file: ModelFile) -> None:
    again = load_exported(file)
    assert again.config == bounded.config
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(limits(again), limits(bounded), strict=True))


def test_all_of_a_bounded_network_is_in_integers(bounded: Dagn, file: ModelFile, tmp_path: Path) -> None:
    file = round_file(file, [synthetic_photo(64, 64, seed) for seed in range(2)])
    facts = file.description.int8
    assert facts is not None
    assert facts["convolutions"] == len(limits(bounded))
    assert facts["in_full_precision"] == ["network.head.weight", "network.tail.weight"]
    assert facts["photographs_db"] <= facts["worst_db"]
    file.write(tmp_path / "rounded.unjpeg")
    assert ModelFile.read(tmp_path / "rounded.unjpeg").restore_int8 == file.restore_int8
    assert file.restore_int8 is not None
    stored = onnx.load_from_string(file.restore_int8).graph.initializer
    integers = [numpy_helper.to_array(value) for value in stored if value.data_type == onnx.TensorProto.INT8]
    assert sum(value.ndim == 4 for value in integers) == facts["convolutions"]


def test_what_has_no_limits_yet_is_not_put_in_integers(file: ModelFile) -> None:
    model = onnx.load_from_string(file.restore)
    for value in model.graph.initializer:
        if value.name.endswith(".limit"):
            array = numpy_helper.to_array(value)
            value.CopyFrom(numpy_helper.from_array(np.full_like(array, UNBOUNDED), value.name))
    with pytest.raises(TrainingError, match="not measured"):
        round_bounded(model.SerializeToString())
