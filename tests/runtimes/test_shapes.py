from __future__ import annotations

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from jpegs import picture
from restorers import with_tiling
from unjpeg import network
from unjpeg.errors import ModelError
from unjpeg.modelfile import ModelFile, shipped_models
from unjpeg.network import Guidance, Model, Shaped
from unjpeg.picture import read_picture
from unjpeg.restorer import Restorer
from unjpeg.runtimes.openvino import _forget_oldest, open_core
from unjpeg.runtimes.rewrite import interpolate_by_convolution

openvino = pytest.importorskip("openvino")

SHAPE = 64, 96


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    return Model(ModelFile.read(tiny_model), runtime="openvino", precision="full", threads=1)


def guidance_of(model: Model, seed: int = 0, *, odd: bool = True) -> Guidance:
    """Of noise; an odd one is so far from others that it counts for networks that have hardly learned."""
    windows = np.random.default_rng(seed).random((1, 3, model.guide_window, model.guide_window), np.float32)
    guidance = model.guide(windows).stating(30)
    if not odd:
        return guidance
    return replace(guidance, insensitive=guidance.insensitive * 3, sensitive=guidance.sensitive * -2)


def shaped_for(model: Model, shape: tuple[int, int] = SHAPE) -> Shaped:
    shaped = model.shaped(shape, network.SHAPED_PIXELS)
    assert shaped is not None
    return shaped


def tile(shape: tuple[int, ...] = (*SHAPE, 3)) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def test_a_graph_of_one_shape_gives_what_the_common_one_gives(model: Model) -> None:
    shaped, guidance = shaped_for(model), guidance_of(model)
    results = []
    far = replace(guidance, sensitive=guidance.sensitive * 100)
    for under in (guidance, guidance.stating(80), guidance.transposed(), far):
        expected = model.restore_pixels(tile(), under)
        results.append(model.restore_pixels(tile(), under, shaped))
        np.testing.assert_allclose(results[-1], expected, atol=0.05)
    assert np.abs(results[0] - results[-1]).max() > 0.2  # guidance is an input
    grey = tile(SHAPE)
    expected = model.restore_pixels(np.dstack([grey] * 3), guidance)
    np.testing.assert_allclose(model.restore_pixels(grey, guidance, shaped), expected, atol=0.05)
    turned = tile((96, 64, 3))
    np.testing.assert_array_equal(
        model.restore_pixels(turned, guidance, shaped), model.restore_pixels(turned, guidance)
    )


def test_it_gives_arrays_of_their_own(model: Model) -> None:
    shaped, guidance = shaped_for(model), guidance_of(model)
    first = model.restore_pixels(tile(), guidance, shaped)
    kept = first.copy()
    second = model.restore_pixels(255 - tile(), guidance, shaped)
    np.testing.assert_array_equal(first, kept)
    assert np.abs(first - second).max() > 100
    with ThreadPoolExecutor(3) as pool:
        for restored in pool.map(lambda _: model.restore_pixels(tile(), guidance, shaped), range(9)):
            np.testing.assert_array_equal(restored, kept)


def test_the_last_one_is_kept(model: Model) -> None:
    first = shaped_for(model)
    assert shaped_for(model) is first
    assert shaped_for(model, (96, 64)).shape == (96, 64)
    assert shaped_for(model) is not first


def test_small_pictures_and_other_runtimes_have_the_common_graph(model: Model, tiny_model: Path) -> None:
    assert model.shaped(SHAPE, network.SHAPED_PIXELS - 1) is None
    other = Model(ModelFile.read(tiny_model), runtime="onnxruntime", threads=1)
    assert other.shaped(SHAPE, 10**9) is None


def test_what_the_runtime_cannot_compile_is_one_line(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no memory\nfor it")

    monkeypatch.setattr("unjpeg.runtimes.openvino.take_bytes", fail)
    with pytest.raises(ModelError, match=r"cannot run the model tiny here \(no memory for it\)"):
        model.shaped((128, 96), 10**9)


def test_compiled_graphs_are_found_on_the_disk(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))

    def restore() -> NDArray[np.float32]:
        model = Model(ModelFile.read(tiny_model), runtime="openvino", precision="full", threads=1)
        return model.restore_pixels(tile(), guidance_of(model), shaped_for(model))

    first = restore()
    files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.blob")}
    assert len(files) == 3  # two graphs for all shapes, and this one
    np.testing.assert_array_equal(restore(), first)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.blob")} == files


def test_a_file_that_another_process_writes_anew_ends_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    for _ in range(2):  # the second one finds the graphs on the disk
        model = Model(ModelFile.read(tiny_model), runtime="openvino", precision="full", threads=1)
        shaped, guidance = shaped_for(model), guidance_of(model)
    expected = model.restore_pixels(tile(), guidance, shaped)
    for file in tmp_path.rglob("*.blob"):
        file.chmod(0o600)
        file.write_bytes(b"")
    np.testing.assert_array_equal(model.restore_pixels(tile(), guidance, shaped), expected)
    assert model.restore_pixels(tile((64, 64, 3)), guidance).shape == (64, 64, 3)
    again = Model(ModelFile.read(tiny_model), runtime="openvino", precision="full", threads=1)
    np.testing.assert_array_equal(again.restore_pixels(tile(), guidance, shaped_for(again)), expected)


def test_those_used_longest_ago_make_room(tmp_path: Path) -> None:
    for name, used, written in (("new", 0, 1000), ("used", 999, 0), ("old", 998, 998)):
        (tmp_path / name).write_bytes(bytes(10))
        (tmp_path / name).chmod(0o440)
        os.utime(tmp_path / name, (used, written))
    for _ in range(2):
        _forget_oldest(tmp_path, 20)
        assert {file.name for file in tmp_path.iterdir()} == {"new", "used"}
    _forget_oldest(tmp_path / "none", 0)


@pytest.mark.parametrize("shape", [(150, 203, 3), (150, 203)])
@pytest.mark.parametrize("passes", [1, 4])
def test_whole_pictures_are_the_same(
    tiny_restorer: Restorer, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], passes: int
) -> None:
    restorer = with_tiling(tiny_restorer, 64, 32)
    pixels = np.resize(picture(150, 203), shape)
    guidance = restorer.guide(read_picture(pixels))
    plain = restorer.network.restore_whole(pixels, guidance, passes)
    monkeypatch.setattr(network, "SHAPED_PIXELS", 1)
    monkeypatch.delattr(Model, "restore")
    shaped = restorer.network.restore_whole(pixels, guidance, passes)
    np.testing.assert_allclose(plain, shaped, atol=0.05)


@pytest.mark.parametrize("name", sorted(shipped_models()) or [pytest.param(None, marks=pytest.mark.skip("no models"))])
def test_shipped_models_are_the_same(name: str) -> None:
    model = Model(ModelFile.read(name), runtime="openvino", precision="full", threads=1)
    shaped, guidance = shaped_for(model), guidance_of(model, odd=False)
    finer = guidance.stating(95)
    expected, ours = (model.restore_pixels(tile(), finer, which) for which in (None, shaped))
    np.testing.assert_allclose(ours, expected, atol=0.25)
    assert np.abs(model.restore_pixels(tile(), guidance, shaped) - ours).max() > 2


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="elsewhere the runtime has other kernels")
@pytest.mark.parametrize("name", sorted(shipped_models()) or [pytest.param(None, marks=pytest.mark.skip("no models"))])
def test_little_lies_between_the_convolutions(name: str) -> None:
    file = ModelFile.read(name)
    model = Model(file, runtime="openvino", precision="full", threads=1)
    size = file.description.network
    guided = 2 * size["blocks"] * (size["scales"] - 1)
    bounds = sum(node.op_type == "Min" for node in onnx.load_from_string(file.restore).graph.node)
    before, after = (count_passes(graph) for graph in (model._restore, shaped_for(model).graph))
    assert before >= 16  # a multiplication and an addition for each block
    # One pass for a guided block. What is stated, the skips, the detail that the network sees, the picture, and its
    # range; and what is not bounded by a ReLU already.
    assert after <= 8 + guided + bounds


def count_passes(graph: Any) -> int:
    """Over the pixels, that only multiply or add."""
    kinds = [node.get_rt_info()["layerType"].astype(str) for node in graph._compiled.get_runtime_model().get_ops()]
    return kinds.count("Eltwise") + kinds.count("Subgraph")


@pytest.mark.parametrize("factor", [2, 3, 8])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 4)])
def test_interpolation_by_convolution_is_interpolation(factor: int, size: tuple[int, int]) -> None:
    from openvino import opset13

    def graph() -> Any:
        small = opset13.parameter([1, 3, -1, -1], np.float32)
        scales = opset13.constant(np.array([1, 1, factor, factor], np.float32))
        return openvino.Model(
            [opset13.interpolate(small, scales, "linear_onnx", "scales", coordinate_transformation_mode="half_pixel")],
            [small],
        )

    kinds = []
    results = []
    for rewrite in (False, True):
        made = graph()
        if rewrite:
            interpolate_by_convolution(made)
        kinds.append({node.get_type_name() for node in made.get_ops()})
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        run = open_core().compile_model(made, "CPU", settings)
        results.append(run([np.random.default_rng(0).random((1, 3, *size), np.float32)])[0])
    assert "Interpolate" in kinds[0]
    assert "Interpolate" not in kinds[1]
    np.testing.assert_allclose(results[0], results[1], atol=1e-6)


@pytest.mark.parametrize("change", ["nearest", "corners", "cubic", "uneven"])
def test_other_interpolations_stay(change: str) -> None:
    from openvino import opset13

    small = opset13.parameter([1, 3, -1, -1], np.float32)
    scales = opset13.constant(np.array([1, 1, 8, 4 if change == "uneven" else 8], np.float32))
    mode = change if change in ("nearest", "cubic") else "linear_onnx"
    corners = "align_corners" if change == "corners" else "half_pixel"
    node = opset13.interpolate(small, scales, mode, "scales", coordinate_transformation_mode=corners)
    made = openvino.Model([node], [small])
    interpolate_by_convolution(made)
    assert "Interpolate" in {one.get_type_name() for one in made.get_ops()}
