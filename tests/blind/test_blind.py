"""Networks that stand alone: they compute what the program computes under the same guidance, on any size."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from commands import only_line, put, real, run
from jpegs import decoded, encoded, picture

onnx = pytest.importorskip("onnx", reason="needs the extra: export")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra: onnxruntime")

from unjpeg.blind import (  # noqa: E402
    OPSET,
    UNKNOWN_QUALITY,
    export_blind,
    find_typical_guidance,
    guide_as,
)
from unjpeg.errors import ModelError, OutputError  # noqa: E402
from unjpeg.modelfile import ModelFile  # noqa: E402
from unjpeg.network import Guidance, to_network  # noqa: E402
from unjpeg.restorer import Restorer  # noqa: E402

SESSIONS: dict[str, Any] = {}
PLAIN_OPERATORS = {
    *("Add", "AveragePool", "Clip", "Concat", "Conv", "ConvTranspose", "DepthToSpace", "Identity", "Max", "Min"),
    *("Mod", "Mul", "Pad", "Relu", "Resize", "Shape", "Slice", "Sub"),
}


@dataclass(frozen=True)
class Case:
    """A restorer, the graph made of its model, and the guidance that was folded in."""

    restorer: Restorer
    file: ModelFile
    graph: Path
    guidance: Guidance

    def run(self, image: NDArray[np.float32], **inputs: float) -> NDArray[np.float32]:
        return run_graph(self.graph, image, **inputs)


def run_graph(path: Path, image: NDArray[np.float32], **inputs: float) -> NDArray[np.float32]:
    if str(path) not in SESSIONS:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        SESSIONS[str(path)] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    named = {name: np.array([value], np.float32) for name, value in inputs.items()}
    made: NDArray[np.float32] = SESSIONS[str(path)].run(None, {"input": image, **named})[0]
    return made


@pytest.fixture(scope="module", params=["tiny", "fast"])
def case(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Batch norm, fusion and RGB; and what is shipped: detail, skips after, told what files state."""
    model = str(tiny_model) if request.param == "tiny" else "fast"
    path = tmp_path_factory.mktemp("blind") / "graph.onnx"
    export_blind(model, path, quality=30)
    restorer, file = Restorer(model, precision="full"), ModelFile.read(model)
    return Case(restorer, file, path, guide_as(find_typical_guidance(restorer.model), file, 30))


def test_the_graph_is_the_restorer_under_its_guidance(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays, of a size that is padded. Smaller than what is looked at for a history."""
    pixels = decoded(encoded(picture(61, 50), quality=20))
    monkeypatch.setattr(case.restorer, "_guide_pixels", lambda pixels, compression: case.guidance)
    ours = case.restorer.restore(pixels, bit_depth=16).pixels / 257
    theirs = case.run(to_network(pixels))[0].transpose(1, 2, 0) * 255
    assert np.abs(ours - theirs).max() < 0.05  # levels: the model file keeps its colour matrices in 16 bits
    assert np.abs(theirs - pixels).max() > 0.3


def restore_padded(case: Case, image: NDArray[np.float32]) -> NDArray[np.float32]:
    stride = case.restorer.model.total_stride
    pad = [(0, 0), (0, 0), *((0, -side % stride) for side in image.shape[2:])]
    restored = case.restorer.model.restore(np.pad(image, pad, "edge"), case.guidance)
    return restored.clip(0, 1)[..., : image.shape[2], : image.shape[3]]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 3))
@settings(max_examples=12, deadline=None)
def test_any_size(case: Case, height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).random((1, 3, height, width), np.float32)
    made = case.run(image)
    assert made.shape == image.shape
    assert made.min() >= 0
    assert made.max() <= 1
    np.testing.assert_allclose(made, restore_padded(case, image), atol=2e-4)


def test_tiles_on_the_grid_that_see_enough_are_the_whole(case: Case) -> None:
    pixels = decoded(encoded(picture(48, 288), quality=20))
    image, halo, step = to_network(pixels), 96, 64
    whole, tiled = case.run(image), np.empty_like(image)
    for left in range(0, 288, step):
        start = max(0, left - halo)
        made = case.run(np.ascontiguousarray(image[..., start : left + step + halo]))
        tiled[..., left : left + step] = made[..., left - start : left - start + step]
    assert 255 * np.abs(tiled - whole).max() < 1


def test_hosts_read_the_graph(case: Case) -> None:
    model = onnx.load(case.graph)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", OPSET)]
    for values, name in ((model.graph.input, "input"), (model.graph.output, "output")):
        (value,) = values
        dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert (value.name, dims) == (name, [1, 3, "height", "width"])
    assert {node.op_type for node in model.graph.node} <= PLAIN_OPERATORS
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["model"] == f"{case.file.description.name} {case.file.hash}"
    assert (facts["quality"], facts["license"]) == ("30", "Apache-2.0")


def test_a_graph_that_is_told_the_quality(tiny_model: Path, tmp_path: Path) -> None:
    told, image = tmp_path / "told.onnx", to_network(picture(24, 40))
    export_blind(tiny_model, told, quality_input=True)
    made = {quality: run_graph(told, image, quality=quality) for quality in (-5, 0, 1, 30, 90, 100, 1000)}
    for quality in (None, 30, 90):
        folded = tmp_path / f"{quality}.onnx"
        export_blind(tiny_model, folded, quality=quality)
        np.testing.assert_allclose(run_graph(folded, image), made[quality or 0], atol=1e-6)
    np.testing.assert_array_equal(made[-5], made[0])
    np.testing.assert_array_equal(made[1000], made[100])
    assert np.abs(made[1] - made[100]).max() > 0


def test_equal_models_give_equal_files(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx", "a.safetensors", "b.safetensors"):
        export_blind(tiny_model, tmp_path / "new" / name)
    for suffix in ("onnx", "safetensors"):
        first, second = ((tmp_path / "new" / f"{name}.{suffix}").read_bytes() for name in "ab")
        assert first == second


def test_guidance_of_a_quality(tiny_restorer: Restorer, tiny_model: Path) -> None:
    file, typical = ModelFile.read(tiny_model), find_typical_guidance(tiny_restorer.model)
    np.testing.assert_allclose(guide_as(typical, file, 50).sensitive[0], file.quality_features[5], atol=1e-6)
    assert guide_as(typical, file, 50).stated.any()
    unknown = guide_as(typical, file, None)
    assert not unknown.stated.any()
    np.testing.assert_array_equal(unknown.sensitive, guide_as(typical, file, UNKNOWN_QUALITY).sensitive)
    np.testing.assert_array_equal(unknown.insensitive, find_typical_guidance(tiny_restorer.model).insensitive)


def test_a_network_of_bounded_convolutions(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the extra: train")
    from unjpeg.models import Dagn, DagnConfig
    from unjpeg.train.export import QUALITY_LEVELS, export_network

    torch.manual_seed(0)
    network = Dagn(
        DagnConfig(width=4, scales=2, blocks=1, norm="none", input="detail", skips="after", bounded=True,
                   encoder_width=1, stated=True, fusion=False)
    )  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for name, buffer in network.named_buffers():
            if name.endswith("limit"):
                buffer.uniform_(0.05, 0.2)  # so that they are felt
    features = np.random.default_rng(0).random((len(QUALITY_LEVELS), 32), np.float32)
    model = tmp_path / "bounded.unjpeg"
    export_network(
        network, model, name="bounded", guide_window=32, quality_features=features, training={}, validation={}
    )
    export_blind(model, tmp_path / "bounded.onnx")  # compares
    assert {"Max", "Min"} <= {node.op_type for node in onnx.load(tmp_path / "bounded.onnx").graph.node}


def test_the_gain_is_the_network_s() -> None:
    pytest.importorskip("torch", reason="needs the extra: train")
    from unjpeg.blind.folding import _DETAIL_GAIN
    from unjpeg.models.dagn import DETAIL_GAIN

    assert tuple(_DETAIL_GAIN) == DETAIL_GAIN


# What is wrong


def test_a_graph_that_computes_something_else_is_not_written(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(pixels: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: pixels(*given) + 0.1

    monkeypatch.setattr("unjpeg.blind.Model.restore", shifted(Restorer(tiny_model).model.__class__.restore))
    with pytest.raises(ModelError, match="differs from it by 0"):
        export_blind(tiny_model, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_made(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="best: is several passes of another model"):
        export_blind("best", tmp_path / "a.onnx")
    with pytest.raises(OutputError, match=r"ends in \.onnx or \.safetensors"):
        export_blind(tiny_model, tmp_path / "a.pth")
    for quality, told in ((0, False), (101, False), (50, True)):
        with pytest.raises(ValueError, match="quality"):
            export_blind(tiny_model, tmp_path / "a.onnx", quality=quality, quality_input=told)
    with pytest.raises(ValueError, match="quality"):
        export_blind(tiny_model, tmp_path / "a.safetensors", quality_input=True)
    assert list(tmp_path.iterdir()) == []


# The command


def test_the_command_writes_a_graph(folder: Path, tiny_model: Path) -> None:
    assert run("export", tiny_model, "--blind", "--out", "a.onnx", "--as-quality", "40").stderr == "wrote a.onnx\n"
    facts = {entry.key: entry.value for entry in onnx.load("a.onnx").metadata_props}
    assert facts["quality"] == "40"
    assert run("export", tiny_model, "--blind", "--out", "a.onnx", "--quality-input").stderr == "wrote a.onnx\n"
    assert [one.name for one in onnx.load("a.onnx").graph.input] == ["input", "quality"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fast", "--out", "a.unjpeg"], "--blind makes one network of a model"),
        (["a.safetensors", "--out", "a.unjpeg"], "a checkpoint needs --data"),
        (["fast", "--blind", "--out", "a.onnx", "--data", "."], "are for checkpoints"),
        (["fast", "--out", "a.onnx", "--as-quality", "40"], "go with --blind"),
        (["fast", "--blind", "--out", "a.safetensors", "--quality-input"], "is for graphs"),
        (["fast", "--blind", "--out", "a.onnx", "--quality-input", "--as-quality", "40"], "goes without --as-quality"),
    ],
)
def test_what_does_not_go_together(arguments: list[str], words: str, folder: Path) -> None:
    assert words in " ".join(run("export", *arguments, code=2).stderr.split())


def test_without_its_extra(folder: Path, child_environment: dict[str, str]) -> None:
    put("onnx.py", b"raise ModuleNotFoundError(\"No module named 'onnx'\", name='onnx')")
    environment = {**child_environment, "PYTHONPATH": f"{folder}{os.pathsep}{child_environment['PYTHONPATH']}"}
    ran = real("fast", "--blind", "--out", "a.onnx", environment=environment, command=["export"])
    assert ran.returncode == 1
    assert only_line(ran.stderr.decode()) == "unjpeg: this command needs onnx: pip install 'unjpeg[export]'"
