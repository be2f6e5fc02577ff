"""Torch networks as methods: our own checkpoints, and a stand-in for what spandrel loads."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

pytest.importorskip("skimage")

from jpegs import decoded, encoded, picture
from studies.compared import COMPARED, train_compared
from unjpeg.adapt.carn import describe_training, restore_pixels
from unjpeg.dct import ycc_from_rgb
from unjpeg.errors import MeasurementError, SettingError, TrainingError
from unjpeg.evaluate.methods import find_method
from unjpeg.evaluate.networks import BackboneMethod, SpandrelMethod
from unjpeg.models import ArCnnConfig, BackboneConfig, DnCnnConfig, RdnConfig, make_backbone
from unjpeg.train.checkpoint import Checkpoint

GREY, COLOUR = encoded(picture(25, 34)[..., 1], "grey", quality=20), encoded(picture(25, 34), quality=20)


def checkpoint(path: Path, config: BackboneConfig) -> nn.Module:
    torch.manual_seed(0)
    network = make_backbone(config).eval()
    tensors = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    Checkpoint(tensors, 1, describe_training(0, backbone=config), {}).save(path)
    return network


@pytest.mark.parametrize(
    "config",
    [ArCnnConfig(widths=(8, 4, 4)), DnCnnConfig(width=4, depth=3), RdnConfig(width=4, blocks=1, layers=1, growth=4)],
)
def test_our_networks_restore_luma_and_leave_chroma(config: BackboneConfig, tmp_path: Path) -> None:
    network = checkpoint(tmp_path / "net.safetensors", config)
    method = find_method(str(tmp_path / "net.safetensors"))
    assert isinstance(method, BackboneMethod)
    assert method.name == "net"
    assert np.array_equal(method.restore(GREY), restore_pixels(network, decoded(GREY)))  # type: ignore[arg-type]
    before, after = (ycc_from_rgb(pixels.astype(np.float32)) for pixels in (decoded(COLOUR), method.restore(COLOUR)))
    unclipped = (method.restore(COLOUR) > 0).all(axis=2) & (method.restore(COLOUR) < 255).all(axis=2)
    assert np.abs(after - before)[unclipped][:, 1:].max() < 1.5  # rounding
    complexity = method.count_complexity()
    assert complexity is not None
    assert complexity.parameters_m == sum(p.numel() for p in network.parameters()) / 1e6


def test_multiply_adds_are_those_of_the_convolutions(tmp_path: Path) -> None:
    checkpoint(tmp_path / "net.safetensors", ArCnnConfig(image_channels=3))
    complexity = find_method(str(tmp_path / "net.safetensors")).count_complexity()
    assert complexity is not None
    per_pixel = 81 * 3 * 64 + 49 * 64 * 32 + 32 * 16 + 25 * 16 * 3
    assert complexity.multiply_adds_g == pytest.approx(per_pixel * 512**2 / 1e9)


class Descriptor:
    """What is used of spandrel's ``ImageModelDescriptor``."""

    def __init__(self, channels: int, scale: int = 1) -> None:
        self.input_channels = self.output_channels = channels
        self.scale = scale
        self.model = nn.Conv2d(channels, channels, 1)

    def eval(self) -> None:
        self.model.eval()

    def __call__(self, image: Tensor) -> Tensor:
        if image.shape[1] != self.input_channels:
            raise RuntimeError("wrong channels")
        return image * 0.5


@pytest.fixture
def spandrel(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in for the package; ``loads`` says what its loader gives."""
    state: dict[str, Any] = {"loads": Descriptor(3)}

    class ModelLoader:
        def __init__(self, device: str) -> None:
            assert device == "cpu"

        def load_from_file(self, path: Path) -> Any:
            if isinstance(state["loads"], Exception):
                raise state["loads"]
            return state["loads"]

    module = ModuleType("spandrel")
    module.ModelLoader, module.ImageModelDescriptor = ModelLoader, Descriptor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "spandrel", module)
    return state


@pytest.mark.parametrize("channels", [1, 3])
def test_other_people_s_networks_run_through_spandrel(channels: int, spandrel: dict[str, Any], tmp_path: Path) -> None:
    spandrel["loads"] = Descriptor(channels)
    (tmp_path / "fbcnn.safetensors").write_bytes(b"weights")
    method = find_method(str(tmp_path / "fbcnn.safetensors"))
    assert (method.name, type(method)) == ("fbcnn", SpandrelMethod)
    expected = np.rint(decoded(GREY).astype(np.float32) / 2)
    assert np.abs(method.restore(GREY) - expected).max() <= 1
    halved = method.restore(COLOUR)
    assert halved.shape == decoded(COLOUR).shape
    if channels == 3:
        assert np.abs(halved - decoded(COLOUR) / 2).max() <= 1
    complexity = method.count_complexity()
    assert complexity is not None
    assert complexity.parameters_m == (channels**2 + channels) / 1e6


def test_a_safetensors_file_of_others_goes_to_spandrel(spandrel: dict[str, Any], tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "swinir.safetensors")
    assert isinstance(find_method(str(tmp_path / "swinir.safetensors")), SpandrelMethod)


@pytest.mark.parametrize(
    ("loads", "reason"),
    [
        (Descriptor(3, scale=4), "at its own size"),
        (Descriptor(4), "takes 4 channels"),
        (object(), "at its own size"),
        (ValueError("unsupported"), "cannot load it"),
    ],
)
def test_what_restores_no_picture_is_refused(loads: Any, reason: str, spandrel: dict[str, Any], tmp_path: Path) -> None:
    spandrel["loads"] = loads
    (tmp_path / "x.safetensors").write_bytes(b"weights")
    with pytest.raises(MeasurementError, match=reason):
        find_method(str(tmp_path / "x.safetensors"))


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingError, match="no such file"):
        find_method(str(tmp_path / "missing.safetensors"))
    (tmp_path / "x.safetensors").write_bytes(b"weights")
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(MeasurementError, match=r"pip install 'unjpeg\[spandrel\]'"):
        find_method(str(tmp_path / "x.safetensors"))
    network = make_backbone(ArCnnConfig(widths=(4, 4, 4)))
    tensors = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    for name, kind in (("other", "NoConfig"), ("wrong", "ArCnnConfig")):
        config = {"backbone": {**asdict(ArCnnConfig()), "kind": kind}}
        Checkpoint(tensors, 1, config, {}).save(tmp_path / f"{name}.safetensors")
        with pytest.raises(MeasurementError, match="no network that can be measured"):
            find_method(str(tmp_path / f"{name}.safetensors"))


def test_the_compared_networks_train_and_are_measured(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "runs" / "mine.safetensors"
    train_compared("tiny", [str(image_folder)], [10, 40], out, accelerator="cpu")
    metrics = Checkpoint.load(out).metrics
    assert metrics.keys() == {"psnr_db_q10", "psnr_db_q40"}
    assert metrics["psnr_db_q10"] < metrics["psnr_db_q40"]
    method = find_method(str(out))
    assert method.name == "mine"
    assert method.restore(COLOUR).shape == decoded(COLOUR).shape
    before = out.read_bytes()
    train_compared("tiny", [str(image_folder)], [10, 40], out, accelerator="cpu")
    assert out.read_bytes() == before  # it was finished
    with pytest.raises(TrainingError, match=r"mine\.safetensors"):
        train_compared("tiny", [str(image_folder)], [20], out, accelerator="cpu")
    with pytest.raises(SettingError, match="no network 'vdsr'"):
        train_compared("vdsr", [str(image_folder)], [20], out)


def test_every_compared_network_is_of_its_kind() -> None:
    kinds = {name: type(recipe().backbone) for name, recipe in COMPARED.items()}
    assert kinds == {"arcnn": ArCnnConfig, "dncnn": DnCnnConfig, "rdn": RdnConfig, "tiny": DnCnnConfig}
    for recipe in COMPARED.values():
        make_backbone(recipe().backbone)


@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.ckpt"])
def test_no_pickle_is_loaded(name: str, spandrel: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(MeasurementError, match="no pickle is loaded here"):
        find_method(str(tmp_path / name))
