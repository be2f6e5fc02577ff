from __future__ import annotations

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
from unjpeg.network import Guidance, Model
from unjpeg.picture import read_picture
from unjpeg.restorer import Restorer
from unjpeg.runtimes.openvino import open_core
from unjpeg.runtimes.rewrite import fold_constants, interpolate_by_convolution

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


def tile(shape: tuple[int, ...] = (*SHAPE, 3)) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def test_a_folded_graph_gives_what_the_common_one_gives(model: Model) -> None:
    guidance = guidance_of(model)
    folded = model.folded(guidance, SHAPE, 10**9)
    assert folded.folded is not None
    for under in (folded, folded.stating(80), folded.transposed()):
        assert under.folded is folded.folded
        expected = model.restore_pixels(tile(), replace(under, folded=None))
        np.testing.assert_allclose(model.restore_pixels(tile(), under), expected, atol=0.05)
    grey = tile(SHAPE)
    np.testing.assert_allclose(
        model.restore_pixels(grey, folded), model.restore_pixels(np.dstack([grey] * 3), guidance), atol=0.05
    )
    turned = tile((96, 64, 3))
    np.testing.assert_array_equal(model.restore_pixels(turned, folded), model.restore_pixels(turned, guidance))


def test_a_folded_graph_gives_arrays_of_their_own(model: Model) -> None:
    folded = model.folded(guidance_of(model), SHAPE, 10**9)
    first = model.restore_pixels(tile(), folded)
    kept = first.copy()
    second = model.restore_pixels(255 - tile(), folded)
    np.testing.assert_array_equal(first, kept)
    assert np.abs(first - second).max() > 100
    with ThreadPoolExecutor(3) as pool:
        for restored in pool.map(lambda _: model.restore_pixels(tile(), folded), range(9)):
            np.testing.assert_array_equal(restored, kept)


def test_the_last_graph_is_kept_for_the_same_guidance_and_shape(model: Model) -> None:
    first, second = guidance_of(model), guidance_of(model, 1)
    graph = model.folded(first, SHAPE, 10**9).folded
    assert model.folded(replace(first, stated=second.stated), SHAPE, 10**9).folded is graph
    assert model.folded(first, (96, 64), 10**9).folded is not graph
    assert model.folded(second, SHAPE, 10**9).folded is not graph


def test_another_guidance_has_no_graph(model: Model) -> None:
    folded = model.folded(guidance_of(model), SHAPE, 10**9)
    assert model.shifted(folded, 50).folded is None


def test_small_pictures_and_other_runtimes_have_the_common_graph(model: Model, tiny_model: Path) -> None:
    guidance = guidance_of(model)
    assert model.folded(guidance, SHAPE, network.FOLDED_PIXELS - 1) is guidance
    other = Model(ModelFile.read(tiny_model), runtime="onnxruntime", threads=1)
    assert other.folded(guidance, SHAPE, 10**9) is guidance


def test_what_the_runtime_cannot_fold_is_one_line(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no memory\nfor it")

    monkeypatch.setattr(model, "_restore", model._restore)
    monkeypatch.setattr("unjpeg.runtimes.openvino.fold_constants", fail)
    with pytest.raises(ModelError, match=r"cannot run the model tiny here \(no memory for it\)"):
        model.folded(guidance_of(model, 2), SHAPE, 10**9)


@pytest.mark.parametrize("shape", [(150, 203, 3), (150, 203)])
@pytest.mark.parametrize("passes", [1, 4])
def test_whole_pictures_are_the_same(
    tiny_restorer: Restorer, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], passes: int
) -> None:
    restorer = with_tiling(tiny_restorer, 64, 32)
    pixels = np.resize(picture(150, 203), shape)
    guidance = restorer.guide(read_picture(pixels))
    plain = restorer.network.restore_whole(pixels, guidance, passes)
    monkeypatch.setattr(network, "FOLDED_PIXELS", 1)
    monkeypatch.delattr(Model, "restore")
    folded = restorer.network.restore_whole(pixels, guidance, passes)
    np.testing.assert_allclose(plain, folded, atol=0.05)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="elsewhere the runtime has other kernels")
@pytest.mark.parametrize("name", sorted(shipped_models()) or [pytest.param(None, marks=pytest.mark.skip("no models"))])
def test_hardly_anything_lies_between_the_convolutions(name: str) -> None:
    file = ModelFile.read(name)
    model = Model(file, runtime="openvino", precision="full", threads=1)
    guidance = model.folded(guidance_of(model, odd=False), SHAPE, 10**9)
    folded = guidance.folded
    assert folded is not None
    bounds = sum(node.op_type == "Min" for node in onnx.load_from_string(file.restore).graph.node)
    finer = guidance.stating(95)  # what is stated is no constant
    expected, ours = model.restore_pixels(tile(), replace(finer, folded=None)), model.restore_pixels(tile(), finer)
    np.testing.assert_allclose(ours, expected, atol=0.25)
    assert np.abs(model.restore_pixels(tile(), guidance) - ours).max() > 2
    before, after = (count_passes(graph) for graph in (model._restore, folded.graph))
    assert before >= 16  # a multiplication and an addition for each block
    # What is stated, the skips, the detail that the network sees, the picture, and its range; and what is not bounded
    # by a ReLU already.
    assert after <= 7 + bounds


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


def test_inputs_that_the_graph_lacks_are_no_constants() -> None:
    from openvino import opset13

    given = opset13.parameter([1, 3], np.float32)
    given.output(0).get_tensor().set_names({"image"})
    made = openvino.Model([opset13.relu(given)], [given])
    fold_constants(made, {"fusion": np.zeros((1, 2, 2), np.float32)})
    assert [node.get_any_name() for node in made.inputs] == ["image"]
