"""ComfyUI's nodes, loaded and called as it does that, with stand-ins for its own modules."""

from __future__ import annotations

import importlib.util
import io
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import unjpeg
from jpegs import encoded, picture, saved
from unjpeg.restorer import Restorer

torch = pytest.importorskip("torch", reason="ComfyUI brings it along; here it needs the extra: train")

PACKAGE = Path(__file__).parents[2] / "integrations" / "comfyui"
USUAL = {"model": "default", "strength": 1.0, "detail": 1.0, "as_quality": 0}


class Interrupted(BaseException):
    """What ComfyUI raises."""


class Host(SimpleNamespace):
    """What the nodes find of ComfyUI."""

    shown: list[tuple[int, int]]
    cancel_after: int | None


def load() -> ModuleType:
    """As ComfyUI loads a folder of custom nodes."""
    name = str(PACKAGE).replace(".", "_x_")
    specification = importlib.util.spec_from_file_location(name, PACKAGE / "__init__.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    found = Host(shown=[], cancel_after=None, input=tmp_path / "input")
    found.input.mkdir()

    class ProgressBar:
        def __init__(self, total: int) -> None:
            self.total = total

        def update_absolute(self, value: int, total: int | None = None, preview: object = None) -> None:
            found.shown.append((value, self.total))

    def throw_exception_if_processing_interrupted() -> None:
        if found.cancel_after is not None and len(found.shown) >= found.cancel_after:
            raise Interrupted

    def path(name: str) -> str:
        return str(found.input / name.removesuffix(" [input]"))

    modules: dict[str, dict[str, Any]] = {
        "comfy": {"__path__": []},
        "comfy.utils": {"ProgressBar": ProgressBar},
        "comfy.model_management": {
            "throw_exception_if_processing_interrupted": throw_exception_if_processing_interrupted
        },
        "folder_paths": {
            "get_input_directory": lambda: str(found.input),
            "get_annotated_filepath": path,
            "exists_annotated_filepath": lambda name: Path(path(name)).exists(),
        },
    }
    for name, members in modules.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    return found


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch, lively_restorer: Restorer) -> dict[str, Any]:
    """Both nodes, with a small model in place of whichever is chosen."""
    package = load()
    monkeypatch.setattr(sys.modules[f"{package.__name__}.nodes"], "_load_restorer", lambda _: lively_restorer)
    mappings: dict[str, Any] = package.NODE_CLASS_MAPPINGS
    assert mappings.keys() == package.NODE_DISPLAY_NAME_MAPPINGS.keys()
    return mappings


@pytest.fixture
def call(nodes: dict[str, Any], host: Host) -> Callable[..., tuple[Any, str]]:
    """A node's function with its inputs as keywords, as ComfyUI calls it."""

    def run(node: str, **inputs: Any) -> tuple[Any, str]:
        kind = nodes[node]
        assert inputs.keys() | USUAL.keys() == kind.INPUT_TYPES()["required"].keys()
        results = getattr(kind(), kind.FUNCTION)(**USUAL | inputs)
        assert len(results) == len(kind.RETURN_TYPES) == len(kind.RETURN_NAMES)
        image, report = results
        assert image.dtype == torch.float32
        assert (image >= 0).all()
        assert (image <= 1).all()
        return image, report

    return run


JPEG = encoded(picture(72, 104), quality=20)


def test_the_package_says_what_the_registry_asks_for() -> None:
    facts = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))
    assert facts["project"]["version"] == unjpeg.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", facts["project"]["version"])
    assert facts["project"]["dependencies"] == (PACKAGE / "requirements.txt").read_text().split()
    assert "DisplayName" in facts["tool"]["comfy"]


def test_a_file_is_restored_as_a_file(call: Any, host: Host, lively_restorer: Restorer) -> None:
    (host.input / "photo.jpg").write_bytes(JPEG)
    image, report = call("RestoreJpegFile", image="photo.jpg [input]")
    expected = lively_restorer.restore(JPEG, bit_depth=16)
    assert image.shape == (1, 72, 104, 3)
    np.testing.assert_allclose(image[0].numpy() * 65535, expected.pixels, atol=0.01)
    assert expected.report.projected
    assert ", true to the file" in report
    assert host.shown[-1] == (1000, 1000)
    assert [value for value, _ in host.shown] == sorted(value for value, _ in host.shown)


def test_a_file_of_inks_comes_as_it_looks(call: Any, host: Host) -> None:
    pixels = picture(72, 104)
    inks = np.dstack([255 - pixels, np.zeros(pixels.shape[:2], np.uint8)])
    (host.input / "print.jpg").write_bytes(saved(Image.fromarray(inks, mode="CMYK"), quality=95))
    image, _ = call("RestoreJpegFile", image="print.jpg [input]")
    assert image.shape == (1, 72, 104, 3)
    assert np.corrcoef(image[0].numpy().ravel(), pixels.ravel())[0, 1] > 0.9


def test_files_of_all_kinds_come_upright_and_in_colour(call: Any, nodes: dict[str, Any], host: Host) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    (host.input / "turned.jpg").write_bytes(encoded(picture(24, 40), quality=30, exif=turned.tobytes()))
    (host.input / "grey.jpg").write_bytes(encoded(picture(24, 40), "grey", quality=30))
    (host.input / "clear.png").write_bytes(saved(np.dstack([picture(24, 40), picture(24, 40)[..., 0]]), "PNG"))
    (host.input / "notes.txt").touch()
    (host.input / "folder.jpg").mkdir()
    offered, extra = nodes["RestoreJpegFile"].INPUT_TYPES()["required"]["image"]
    assert offered == ["clear.png", "grey.jpg", "turned.jpg"]
    assert extra == {"image_upload": True}
    shapes = {name: tuple(call("RestoreJpegFile", image=name)[0].shape) for name in offered}
    assert shapes == {"clear.png": (1, 24, 40, 3), "grey.jpg": (1, 24, 40, 3), "turned.jpg": (1, 40, 24, 3)}


def test_files_are_looked_at_again_when_they_change(nodes: dict[str, Any], host: Host) -> None:
    node = nodes["RestoreJpegFile"]
    (host.input / "photo.jpg").write_bytes(JPEG)
    first = node.IS_CHANGED("photo.jpg", **USUAL)
    assert node.IS_CHANGED("photo.jpg", **USUAL) == first
    (host.input / "photo.jpg").write_bytes(JPEG + b"\0")
    assert node.IS_CHANGED("photo.jpg", **USUAL) != first
    assert node.VALIDATE_INPUTS("photo.jpg") is True
    assert node.VALIDATE_INPUTS("gone.jpg") == "gone.jpg: there is no such file in the input folder; upload it again"


def test_what_cannot_be_read_is_one_line(call: Any, host: Host) -> None:
    (host.input / "bad.jpg").write_bytes(b"no picture")
    with pytest.raises(unjpeg.UnjpegError, match=r"bad.jpg: is not a picture"):
        call("RestoreJpegFile", image="bad.jpg")


def decoded(data: bytes) -> Any:
    """As ComfyUI's own loader makes an IMAGE of a file."""
    return torch.from_numpy(np.asarray(Image.open(io.BytesIO(data))).astype(np.float32) / 255)[None]


def test_a_batch_is_restored_one_by_one(call: Any, host: Host, lively_restorer: Restorer) -> None:
    files = [encoded(picture(64, 80, seed), quality=15 + 10 * seed) for seed in range(3)]
    batch = torch.cat([decoded(data) for data in files])
    image, report = call("RestoreJpegArtifacts", image=batch, as_quality=20)
    assert image.shape == batch.shape
    assert image.device == batch.device
    for number, data in enumerate(files):
        expected = lively_restorer.restore(np.asarray(Image.open(io.BytesIO(data))), bit_depth=16, quality=20)
        np.testing.assert_allclose(image[number].numpy() * 65535, expected.pixels, atol=0.02)
        assert f"{number + 1} of 3: model " in report
    assert host.shown[-1] == (3000, 3000)
    assert [value for value, _ in host.shown] == sorted(value for value, _ in host.shown)
    assert call("RestoreJpegArtifacts", image=batch[:0])[0].shape == (0, 64, 80, 3)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_strength_zero_gives_the_image_itself(channels: int, call: Any) -> None:
    """Also between the levels of 8 bits; what is no number counts as nothing."""
    image = torch.rand((2, 24, 40, channels), generator=torch.Generator().manual_seed(channels))
    same, _ = call("RestoreJpegArtifacts", image=image, strength=0.0)
    np.testing.assert_allclose(same.numpy(), image.numpy(), atol=1e-6)
    wild = image.clone()
    wild[0, 0, 0] = float("nan")
    wild[0, 0, 1] = 7
    tamed, _ = call("RestoreJpegArtifacts", image=wild, strength=0.0)
    assert (tamed[0, 0, 0] == 0).all()
    assert (tamed[0, 0, 1] == 1).all()


def test_cancelling_ends_the_work(call: Any, host: Host) -> None:
    batch = torch.cat([decoded(JPEG)] * 3)
    host.cancel_after = 2
    with pytest.raises(Interrupted):
        call("RestoreJpegArtifacts", image=batch, as_quality=20)
    assert host.shown[-1][0] < 3000
    host.cancel_after = None
    assert call("RestoreJpegArtifacts", image=batch[:1], as_quality=20)[0].shape == (1, 72, 104, 3)


def test_the_nodes_run_without_a_host(nodes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("comfy", "comfy.utils", "comfy.model_management"):
        monkeypatch.setitem(sys.modules, name, None)
    image, _ = nodes["RestoreJpegArtifacts"]().restore(decoded(JPEG), **USUAL)
    assert image.shape == (1, 72, 104, 3)


def test_the_model_that_is_chosen_stays_loaded(tiny_model: Path) -> None:
    module = sys.modules[f"{load().__name__}.nodes"]
    first = module._load_restorer(str(tiny_model))
    assert module._load_restorer(str(tiny_model)) is first
    assert set(module.MODELS) == {"default", "fast", "best"}
