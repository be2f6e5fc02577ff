"""Other devices than the CPU: none of them is here, so what is tested is how they are asked for, and what is said."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jpegs import encoded, picture
from unjpeg.errors import ModelError
from unjpeg.modelfile import ModelFile
from unjpeg.network import Model
from unjpeg.picture import read_picture
from unjpeg.restorer import Restorer
from unjpeg.runtimes import choose_engine, list_devices, list_precisions, openvino

OTHERS = {
    "gpu": "openvino",
    "npu": "openvino",
    "cuda": "onnxruntime",
    "directml": "onnxruntime",
    "coreml": "onnxruntime",
}


@pytest.fixture
def file(tiny_model: Path) -> ModelFile:
    """A model that says that it has an int8 graph; its graphs are the same."""
    plain = ModelFile.read(tiny_model)
    return replace(plain, restore_int8=plain.restore)


class Redirected:
    """OpenVINO's core on a machine with an NPU, whose work the CPU does."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self.available_devices = ["CPU", "NPU"]
        self.shapes: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def get_property(self, _target: str, name: str) -> Any:
        return self._core.get_property("CPU", name)

    def compile_model(self, model: Any, target: str, settings: dict[str, Any]) -> Any:
        if target == "NPU":
            assert not model.is_dynamic()
            assert not settings.keys() & {
                "INFERENCE_PRECISION_HINT",
                "INFERENCE_NUM_THREADS",
                "CPU_RUNTIME_CACHE_CAPACITY",
            }
            self.shapes.append(str(model.input("image").shape))
        return self._core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


@pytest.mark.parametrize(("device", "runtime"), OTHERS.items())
def test_a_device_names_its_runtime(device: str, runtime: Any, file: ModelFile) -> None:
    precision = "int8" if device == "npu" else "full"
    assert choose_engine(file, None, device, "auto") == (runtime, precision)
    assert choose_engine(file, runtime, device, "auto") == (runtime, precision)
    assert precision in list_precisions(file, runtime, device)
    other: Any = "openvino" if runtime == "onnxruntime" else "onnxruntime"
    with pytest.raises(ModelError, match=f"the {other} runtime does not run on {device}; use runtime={runtime}"):
        choose_engine(file, other, device, "auto")
    with pytest.raises(ModelError, match=r"bf16|an npu"):
        choose_engine(file, None, device, "bf16")


def test_an_npu_needs_integers(file: ModelFile) -> None:
    with pytest.raises(ModelError, match="tiny has none"):
        choose_engine(replace(file, restore_int8=None), None, "npu", "auto")
    with pytest.raises(ModelError, match="needs precision int8"):
        choose_engine(file, None, "npu", "full")


@pytest.mark.parametrize("device", OTHERS)
def test_what_is_not_there_is_said_at_once_in_one_line(device: str, file: ModelFile) -> None:
    if OTHERS[device] == "onnxruntime":
        pytest.importorskip("onnxruntime")
    if device in list_devices().get(OTHERS[device], []):  # type: ignore[call-overload]
        pytest.skip("it is there")
    for make in (Restorer, Model):
        with pytest.raises(ModelError, match=rf"\b{device}\b.*(install|part of)") as caught:
            make(file, device=device)
        assert "\n" not in str(caught.value)


def test_without_the_runtime_its_package_is_named(file: ModelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    packages = {"cuda": "onnxruntime-gpu", "directml": "onnxruntime-directml", "coreml": "onnxruntime"}
    for device, package in packages.items():
        with pytest.raises(ModelError, match=f"pip install {package}"):
            Restorer(file, device=device)
    assert list_devices() == {"openvino": ["cpu"]} or "gpu" in list_devices()["openvino"]


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_device_that_the_runtime_goes_on_without(file: ModelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with CUDA whose libraries are missing: the runtime would compute on the CPU, and say so in its log alone."""
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("it may start")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(ModelError, match="cuda cannot be started here"):
        _ = Restorer(file, device="cuda").model


def test_a_device_that_takes_fixed_shapes(file: ModelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    core = Redirected(openvino.open_core())
    monkeypatch.setattr(openvino, "open_core", lambda: core)
    npu, cpu = Restorer(file, device="npu").model, Restorer(file, precision="full").model
    assert npu.precision == "int8"
    guidance = npu.guide(np.random.default_rng(1).random((1, 3, npu.guide_window, npu.guide_window), np.float32))
    rng = np.random.default_rng(0)
    for rows, columns in ((1, 1), (1, 2), (2, 1), (2, 2), (1, 1), (1, 3), (1, 2)):
        tile = rng.random((1, 3, rows * npu.total_stride, columns * npu.total_stride), np.float32)
        np.testing.assert_allclose(npu.restore(tile, guidance), cpu.restore(tile, guidance), atol=1e-5)
    assert len(core.shapes) == 6, "a shape that was just used is kept, the one unused longest is not"


@pytest.mark.slow
def test_the_runtimes_agree_on_what_the_file_states() -> None:
    """The shipped ``fast`` is told quantisation tables and chroma sampling; a runtime that dropped them would show."""
    pytest.importorskip("onnxruntime")
    other, reference = (Restorer("fast", runtime=name, precision="full") for name in ("onnxruntime", "openvino"))
    guidance = reference.guide(read_picture(encoded(picture(70, 90))))
    assert guidance.stated.any()
    tile = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    expected = reference.model.restore(tile, guidance)
    untold = reference.model.restore(tile, replace(guidance, stated=np.zeros_like(guidance.stated)))
    tolerance = 2e-3
    assert np.abs(untold - expected).max() > 5 * tolerance
    np.testing.assert_allclose(other.model.restore(tile, guidance), expected, atol=tolerance)
