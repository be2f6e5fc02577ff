"""The network in PyTorch: the same as in the other runtimes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from jpegs import encoded, picture  # noqa: E402
from unjpeg.errors import ModelError  # noqa: E402
from unjpeg.modelfile import ModelFile  # noqa: E402
from unjpeg.network import Model  # noqa: E402
from unjpeg.picture import read_picture  # noqa: E402
from unjpeg.restorer import Restorer  # noqa: E402


def test_it_computes_what_the_graphs_compute(tiny_model: Path) -> None:
    file = ModelFile.read(tiny_model)
    ours, theirs = Model(file, runtime="torch"), Model(file, runtime="openvino")
    rng = np.random.default_rng(0)
    guidance, expected = (
        model.guide(np.random.default_rng(1).random((2, 3, model.guide_window, model.guide_window), np.float32))
        for model in (ours, theirs)
    )
    for part in ("insensitive", "sensitive", "fusion", "quality_probabilities"):
        np.testing.assert_allclose(getattr(guidance, part), getattr(expected, part), atol=2e-3, rtol=1e-2)
    for rows, columns in ((2, 3), (1, 1), (2, 3)):
        tile = rng.random((1, 3, rows * ours.total_stride, columns * ours.total_stride), np.float32)
        np.testing.assert_allclose(ours.restore(tile, expected), theirs.restore(tile, expected), atol=2e-3)


def test_a_picture_comes_out_the_same(tiny_model: Path) -> None:
    data = encoded(picture(70, 90))
    ours, theirs = (Restorer(tiny_model, runtime=runtime).restore(data).pixels for runtime in ("torch", "openvino"))
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_the_runtimes_agree_on_what_the_file_states(runtime: Literal["onnxruntime", "torch"]) -> None:
    """The shipped ``fast`` is told quantisation tables and chroma sampling; a runtime that dropped them would show."""
    other, reference = (Restorer("fast", runtime=name, precision="full") for name in (runtime, "openvino"))
    data = encoded(picture(70, 90))
    guidance = reference.guide(read_picture(data))
    assert guidance.stated.any()
    tile = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    expected = reference.model.restore(tile, guidance)
    untold = reference.model.restore(tile, replace(guidance, stated=np.zeros_like(guidance.stated)))
    tolerance = 2e-3
    assert np.abs(untold - expected).max() > 5 * tolerance
    np.testing.assert_allclose(other.model.restore(tile, guidance), expected, atol=tolerance)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="finds no GPU"):
        Model(ModelFile.read(tiny_model), runtime="torch", device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_half_precision_in_cuda_graphs(tiny_model: Path) -> None:
    data = encoded(picture(200, 300))
    ours, theirs = (
        Restorer(tiny_model, runtime="torch", device=device).restore(data).pixels.astype(int)
        for device in ("cuda", "cpu")
    )
    assert np.abs(ours - theirs).max() <= 2
    assert np.abs(ours - theirs).mean() < 0.1
