"""The architecture for spandrel: known by its weights, and the same network as the graph.

Where spandrel cannot be imported (it needs torchvision), what is used of it is stood in for.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from jpegs import decoded, encoded, picture

torch = pytest.importorskip("torch", reason="needs the extra: train")
pytest.importorskip("onnx", reason="needs the extra: export")

from safetensors.torch import load_file  # noqa: E402
from torch.nn import functional  # noqa: E402

from unjpeg.blind import export_blind, find_typical_guidance, guide_as  # noqa: E402
from unjpeg.modelfile import ModelFile  # noqa: E402
from unjpeg.network import Model, to_network  # noqa: E402

PACKAGE = Path(__file__).parents[2] / "integrations" / "spandrel"


class Architecture:
    """Of spandrel's only what this architecture uses."""

    def __class_getitem__(cls, _module: Any) -> type[Architecture]:
        return cls

    def __init__(self, *, id: str, detect: Any, name: str | None = None) -> None:
        self.id, self.name, self.detect = id, name or id, detect


@dataclass
class SizeRequirements:
    minimum: int = 0
    multiple_of: int = 1
    square: bool = False


class ImageModelDescriptor:
    def __class_getitem__(cls, _module: Any) -> type[ImageModelDescriptor]:
        return cls

    def __init__(self, model: Any, state_dict: Any, *, architecture: Any, size_requirements: Any, **facts: Any) -> None:
        self.model, self.architecture, self.size_requirements = model, architecture, size_requirements
        self.facts = facts
        model.load_state_dict(state_dict)

    def __call__(self, image: Any) -> Any:
        """Pads by reflection, runs, holds to 0..1, and cuts off what was padded."""
        height, width = image.shape[-2:]
        multiple = self.size_requirements.multiple_of
        with torch.inference_mode():
            padded = functional.pad(image, (0, -width % multiple, 0, -height % multiple), "reflect")
            return self.model.eval()(padded).clamp_(0, 1)[..., :height, :width]


class ArchSupport:
    def __init__(self, architecture: Any) -> None:
        self.architecture = architecture

    @staticmethod
    def from_architecture(architecture: Any) -> ArchSupport:
        return ArchSupport(architecture)


class Registry:
    def __init__(self) -> None:
        self.known: dict[str, ArchSupport] = {}

    def add(self, *supports: ArchSupport, ignore_duplicates: bool = False) -> list[ArchSupport]:
        new = [one for one in supports if one.architecture.id not in self.known]
        if len(new) < len(supports) and not ignore_duplicates:
            raise ValueError("duplicate")
        self.known.update({one.architecture.id: one for one in new})
        return new

    def load(self, state_dict: Any) -> Any:
        for support in self.known.values():
            if support.architecture.detect(state_dict):
                return support.architecture.load(state_dict)
        raise ValueError("not supported")


class KeyCondition:
    @staticmethod
    def has_all(*keys: str) -> Any:
        return lambda state_dict: all(key in state_dict for key in keys)


def get_seq_len(state_dict: Any, prefix: str) -> int:
    return 1 + max(int(key.split(".")[1]) for key in state_dict if key.startswith(f"{prefix}."))


def make_stand_in() -> dict[str, ModuleType]:
    spandrel, util = ModuleType("spandrel"), ModuleType("spandrel.util")
    vars(spandrel).update(
        Architecture=Architecture,
        ArchSupport=ArchSupport,
        ImageModelDescriptor=ImageModelDescriptor,
        MAIN_REGISTRY=Registry(),
        SizeRequirements=SizeRequirements,
        StateDict=dict,
        util=util,
    )
    vars(util).update(KeyCondition=KeyCondition, get_seq_len=get_seq_len)
    return {"spandrel": spandrel, "spandrel.util": util}


@pytest.fixture(scope="module")
def ours() -> Iterator[Any]:
    """The package, installed in spandrel's registry."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PACKAGE))
        try:
            importlib.import_module("spandrel")
        except (ImportError, RuntimeError):  # torchvision raises the latter where it does not fit torch
            for name, module in make_stand_in().items():
                patch.setitem(sys.modules, name, module)
        module = importlib.import_module("unjpeg_spandrel")
        module.install()
        yield module
        for name in [name for name in sys.modules if name.partition(".")[0] == "unjpeg_spandrel"]:
            del sys.modules[name]


@pytest.fixture(scope="module", params=["tiny", "fast"])
def weights(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model, and the file of its weights."""
    model = str(tiny_model) if request.param == "tiny" else "fast"
    path = tmp_path_factory.mktemp("weights") / "a.safetensors"
    export_blind(model, path, quality=30)
    return model, path


def test_weights_are_known_and_are_the_model(ours: Any, weights: Any) -> None:
    model, path = weights
    state = load_file(path)
    assert "unjpeg_layout" in state
    descriptor = sys.modules["spandrel"].MAIN_REGISTRY.load(state)
    assert descriptor.architecture.id == "Unjpeg"
    image = to_network(decoded(encoded(picture(48, 40), quality=20)))
    made = descriptor(torch.from_numpy(image)).numpy()

    file = ModelFile.read(model)
    loaded = Model(file, precision="full")
    expected = loaded.restore(image, guide_as(find_typical_guidance(loaded), file, 30)).clip(0, 1)
    np.testing.assert_allclose(made, expected, atol=2e-4)
    assert descriptor(torch.from_numpy(image[..., :41, :39].copy())).shape == (1, 3, 41, 39)


def test_a_size_that_is_no_multiple_is_padded_as_jpeg_pads(ours: Any, weights: Any) -> None:
    descriptor = sys.modules["spandrel"].MAIN_REGISTRY.load(load_file(weights[1]))
    network = descriptor.model.eval()
    image = torch.rand(1, 3, 21, 27, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        missing = -27 % network.multiple_of, -21 % network.multiple_of
        padded = network(functional.pad(image, (0, missing[0], 0, missing[1]), "replicate"))
        torch.testing.assert_close(network(image), padded[..., :21, :27], atol=1e-5, rtol=0)
        torch.testing.assert_close(descriptor(image), network(image).clamp(0, 1), atol=1e-5, rtol=0)


def test_half_precision_is_near(ours: Any, weights: Any) -> None:
    network = sys.modules["spandrel"].MAIN_REGISTRY.load(load_file(weights[1])).model.eval()
    image = torch.from_numpy(to_network(decoded(encoded(picture(32, 32), quality=20))))
    with torch.inference_mode():
        exact, half = network(image), network.half()(image.half()).float()
    assert network.unjpeg_layout.dtype == torch.int64
    assert 255 * (half - exact).abs().max() < 1


def test_a_bounded_network_clips(ours: Any) -> None:
    network = ours.UnjpegNet(width=2, scales=2, blocks=1, stem=1, bounded=True).eval()
    bound = network.scales[0][0].body[2].bound
    bound.limit.fill_(0.25)
    torch.testing.assert_close(bound(torch.tensor([-3.0, 0.1, 3.0])), torch.tensor([-3.0, 0.1, 0.25]))
    signed = network.scales[0][0].body[0].bound
    clipped = signed(torch.full((1, 2, 1, 1), -3.0))
    torch.testing.assert_close(clipped, torch.full((1, 2, 1, 1), -1.0))


def test_other_weights_are_not_taken_for_ours(ours: Any) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011  # spandrel's own
        sys.modules["spandrel"].MAIN_REGISTRY.load({"head.weight": torch.zeros(1), "bottleneck.0.x": torch.zeros(1)})


def test_a_later_layout_is_refused(ours: Any, weights: Any) -> None:
    state = load_file(weights[1])
    state["unjpeg_layout"][0] += 1
    with pytest.raises(ValueError, match="update it"):
        sys.modules["spandrel"].MAIN_REGISTRY.load(state)


def test_it_is_installed_once(ours: Any) -> None:
    assert ours.install(ignore_duplicates=True) == []
    with pytest.raises(ValueError, match=r"(?i)duplicate"):
        ours.install()
