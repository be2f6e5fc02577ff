"""Exported graphs against torch, and the way back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from unjpeg.datasets import ImageFolder  # noqa: E402
from unjpeg.modelfile import ModelFile  # noqa: E402
from unjpeg.models import Dagn, DagnConfig, GuidanceTensors  # noqa: E402
from unjpeg.models.dagn import Off  # noqa: E402
from unjpeg.models.exported import load_exported  # noqa: E402
from unjpeg.network import Model  # noqa: E402
from unjpeg.projection import Calibration  # noqa: E402
from unjpeg.tables import STATED_FEATURES  # noqa: E402
from unjpeg.train.checkpoint import Checkpoint  # noqa: E402
from unjpeg.train.config import describe_recipe  # noqa: E402
from unjpeg.train.export import QUALITY_LEVELS, export_checkpoint, export_network, load_network  # noqa: E402
from unjpeg.train.recipes import tiny  # noqa: E402
from unjpeg.train.run import TrainingImages  # noqa: E402

WINDOW = 32


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """A network that never saw a picture, but whose every part matters."""
    torch.manual_seed(1)
    recipe = tiny()
    recipe = replace(recipe, network=replace(recipe.network, stated=True))
    network = Dagn(recipe.network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        for name, buffer in network.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    tensors = {f"ema.{name}": value for name, value in network.state_dict().items()}
    return Checkpoint(tensors, 1, describe_recipe(recipe, "seed", "network", "dagn"), {"training_images": 0})


@pytest.fixture(scope="module")
def exported(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for i in range(4):
        smooth = np.asarray(
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
        )
        Image.fromarray(smooth).save(folder / "pictures" / f"{i}.png")
    images = TrainingImages.open(
        [ImageFolder(folder / "pictures")], validation_fraction=0.0, cache_dir=folder / "cache"
    )
    path = folder / "small.unjpeg"
    export_checkpoint(checkpoint, images, path, name="small", guide_window=WINDOW)
    return path


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("size", [(16, 48), (40, 24), (4, 4)])
def test_graphs_compute_what_torch_computes(
    checkpoint: Checkpoint, exported: Path, runtime: str, size: tuple[int, int]
) -> None:
    pytest.importorskip(runtime)
    network = load_network(checkpoint)
    model = Model(ModelFile.read(exported), runtime=runtime, precision="full")  # type: ignore[arg-type]
    rng = np.random.default_rng(size[0])
    windows = rng.random((3, 3, WINDOW, WINDOW), np.float32)
    tile = rng.random((1, 3, *size), np.float32)
    stated = rng.random((3, STATED_FEATURES), np.float32)
    stated[1:] = stated[0]
    guidance = model.guide(windows, stated[0])
    with torch.no_grad():
        told = network.guide(torch.from_numpy(windows), torch.from_numpy(stated))
        expected = GuidanceTensors(*(v.mean(0, keepdim=True) for v in told))
        quality = network.guide_and_read(torch.from_numpy(windows))[1].mean(0)
        restored = network.restore(torch.from_numpy(tile), expected)
    np.testing.assert_allclose(guidance.sensitive, expected.sensitive, atol=5e-3, rtol=5e-3)
    np.testing.assert_allclose(guidance.insensitive, expected.insensitive, atol=5e-3, rtol=5e-3)
    np.testing.assert_allclose(guidance.fusion, expected.fusion, atol=5e-3, rtol=2e-2)
    np.testing.assert_allclose(guidance.quality_probabilities, quality, atol=2e-3)
    np.testing.assert_allclose(model.restore(tile, guidance), restored, atol=0.4 / 255)
    assert np.abs(model.restore(tile, model.guide(windows)) - restored.numpy()).max() > 0.4 / 255


def test_initialisers_keep_the_state_dict_names(checkpoint: Checkpoint, exported: Path) -> None:
    file = ModelFile.read(exported)
    names = {
        initialiser.name.removeprefix("network.")
        for graph in (file.guide, file.restore)
        for initialiser in onnx.load_from_string(graph).graph.initializer
    }
    state = load_network(checkpoint).state_dict()
    assert {name for name in state if not name.endswith("num_batches_tracked")} <= names


def test_a_model_file_loads_back_into_torch(checkpoint: Checkpoint, exported: Path) -> None:
    before, after = load_network(checkpoint).state_dict(), load_exported(ModelFile.read(exported)).state_dict()
    for name, value in before.items():
        if not name.endswith("num_batches_tracked"):
            stored = value.half().float() if value.ndim >= 2 else value
            assert torch.equal(after[name], stored), name


def test_a_model_file_says_what_it_is(exported: Path) -> None:
    file = ModelFile.read(exported)
    assert file.description.name == "small"
    assert file.description.training["images"] == {"training_images": 0}
    assert DagnConfig(**file.description.network) == replace(tiny().network, stated=True)
    assert file.quality_features.shape == (len(QUALITY_LEVELS), tiny().network.encoder.feature_channels)
    assert exported.parent.name.encode() not in exported.read_bytes()  # nothing of the exporting machine


def test_an_export_keeps_a_calibration(checkpoint: Checkpoint, exported: Path, tmp_path: Path) -> None:
    calibration = Calibration((10, 90), np.full((2, 2, 2, 2, 8, 8), 0.5, np.float32))
    features = ModelFile.read(exported).quality_features
    path = tmp_path / "calibrated.unjpeg"
    export_network(
        load_network(checkpoint),
        path,
        name="small",
        guide_window=WINDOW,
        quality_features=features,
        training={},
        validation={},
        calibration=calibration,
    )
    stored = ModelFile.read(path).calibration
    assert stored is not None
    np.testing.assert_array_equal(stored.shares_L22288, calibration.shares_L22288)


def test_exporting_twice_gives_the_same_bytes(checkpoint: Checkpoint, exported: Path, tmp_path: Path) -> None:
    images = TrainingImages.open(
        [ImageFolder(exported.parent / "pictures")], validation_fraction=0.0, cache_dir=exported.parent / "cache"
    )
    again = tmp_path / "again.unjpeg"
    export_checkpoint(checkpoint, images, again, name="small", guide_window=WINDOW)
    assert again.read_bytes() == exported.read_bytes()
    export_checkpoint(checkpoint, images, again, name="small", guide_window=WINDOW, guide_windows=7)
    assert ModelFile.read(again).description == replace(ModelFile.read(exported).description, guide_windows=7)


@pytest.mark.parametrize("off", ["neutral", "printed"])
def test_a_network_without_its_modules_comes_back(tmp_path: Path, off: Off) -> None:
    torch.manual_seed(2)
    config = replace(tiny().network, insensitive_guidance=False, sensitive_guidance=False, fusion=False, off=off)
    network = Dagn(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    features = np.zeros((len(QUALITY_LEVELS), config.encoder.feature_channels), np.float32)
    path = tmp_path / "bare.unjpeg"
    export_network(
        network, path, name="bare", guide_window=WINDOW, quality_features=features, training={}, validation={}
    )
    image = torch.rand(1, 3, 2 * config.total_stride, config.total_stride)
    again = load_exported(ModelFile.read(str(path)))
    assert again.config == config
    with torch.no_grad():
        torch.testing.assert_close(again(image), network(image), rtol=0, atol=2e-4)
