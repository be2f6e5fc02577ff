"""A plain network as files: one ONNX graph, and weights of the torch module in ``integrations/spandrel``."""

from __future__ import annotations

import json
from typing import Any, Final

import numpy as np
import onnx
import safetensors.numpy
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from unjpeg.blind.folding import LAYOUT, PlainNetwork
from unjpeg.dct import BLOCK
from unjpeg.version import __version__

__all__ = ["OPSET", "QUALITY_INPUT", "make_graph", "make_weights"]

OPSET: Final = 17
IR_VERSION: Final = 8
"""Both of 2022, so that programs with older runtimes read the graphs, too."""

QUALITY_INPUT: Final = "quality"


def make_weights(network: PlainNetwork) -> bytes:
    """A safetensors file. The network's quality is folded in."""
    tensors: dict[str, NDArray[Any]] = {
        name: np.ascontiguousarray(array, np.float32) for name, array in network.weights.items()
    }
    tensors[LAYOUT] = np.array(network.layout, np.int64)
    data: bytes = safetensors.numpy.save(tensors, {"format": "pt", **network.facts()})
    return _sort_metadata(data)


def _sort_metadata(data: bytes) -> bytes:
    """The library leaves these in another order every time; equal networks give equal files."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def make_graph(network: PlainNetwork) -> bytes:
    """An ONNX graph from ``input`` to ``output``, both ``[1, 3, height, width]``, RGB, range 0..1, of any size.

    Where the network is told the quality there is a second input, ``quality``: ``[1]``, 1..100, or 0 if not known.
    """
    graph = _Graph(network)
    image, sides = graph.pad("input")
    output = graph.crop(graph.add("Clip", [graph.restore(image), "zero", "one"]), sides)
    sizes: list[str | int | None] = [1, 3, "height", "width"]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, sizes)]
    if network.by_quality:
        inputs.append(helper.make_tensor_value_info(QUALITY_INPUT, TensorProto.FLOAT, [1]))
    graph.nodes.append(helper.make_node("Identity", [output], ["output"]))
    outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, sizes)]
    body = helper.make_graph(graph.nodes, f"unjpeg-{network.name}", inputs, outputs, graph.constants)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name, model.producer_version = "unjpeg", __version__
    helper.set_model_props(model, network.facts())
    onnx.checker.check_model(model, full_check=True)
    serialised: bytes = model.SerializeToString(deterministic=True)
    return serialised


class _Graph:
    """Nodes and constants of a network, in the order of the computation. Methods return the name of their result."""

    def __init__(self, network: PlainNetwork) -> None:
        self.network = network
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.constant("zero", np.float32(0))
        self.constant("one", np.float32(1))
        self._row = self._find_row() if network.by_quality else ""

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name))
        return name

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{kind.lower()}-{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def pad(self, image: str) -> tuple[str, str]:
        """The edge repeated, as JPEG's encoders do, up to whole multiples; and the sides as they were."""
        self.constant("first-side", np.array([2], np.int64))
        self.constant("end", np.array([4], np.int64))
        self.constant("none", np.zeros(2, np.int64))
        self.constant("before", np.zeros(6, np.int64))
        self.constant("multiple", np.array([self.network.multiple] * 2, np.int64))
        sides = self.add("Slice", [self.add("Shape", [image]), "first-side", "end"])
        missing = self.add("Mod", [self.add("Sub", ["none", sides]), "multiple"])
        pads = self.add("Concat", ["before", missing], axis=0)
        return self.add("Pad", [image, pads], mode="edge"), sides

    def crop(self, image: str, sides: str) -> str:
        self.constant("sides", np.array([2, 3], np.int64))
        return self.add("Slice", [image, "none", sides, "sides"])

    def restore(self, image: str) -> str:
        network = self.network
        scales, blocks = network.count("scales"), network.count("bottleneck")
        seen = self._show_detail(image) if "detail.weight" in network.weights else image
        x = self._run_head(seen)
        skips = []
        for scale in range(scales):
            x = self.convolve(x, f"downs.{scale - 1}", strides=[2, 2]) if scale else x
            for block in range(blocks):
                x = self._run_block(x, f"scales.{scale}.{block}")
            skips.append(x)
        if "fusion.weight" in network.weights:
            x = self.add("Add", [x, self.convolve(x, "fusion")])
        for block in range(blocks):
            x = self._run_block(x, f"bottleneck.{block}")
        if network.skips_after:
            skips.pop()
        for stage in range(scales - 1):
            name = f"ups.{stage}"
            if network.skips_after:
                x = self.add("Add", [self.convolve(x, name, "ConvTranspose", strides=[2, 2]), skips.pop()])
            else:
                x = self.convolve(self.add("Add", [x, skips.pop()]), name, "ConvTranspose", strides=[2, 2])
            scale_and_shift = self._choose_scale_and_shift(stage)
            for block in range(2 * blocks):
                x = self._run_block(x, f"stages.{stage}.{block}", scale_and_shift if block < blocks else None)
        change = self.convolve(self.add("Add", [x, skips.pop()]) if skips else x, "tail", pads=[1, 1, 1, 1])
        if network.stem > 1:
            change = self.add("DepthToSpace", [change], blocksize=network.stem, mode="CRD")
        return self.add("Add", [image, change])

    def convolve(self, x: str, name: str, kind: str = "Conv", **attributes: Any) -> str:
        weights = self.network.weights
        if f"{name}.bound.limit" in weights:
            limit = weights[f"{name}.bound.limit"]
            x = self.add("Min", [x, self.constant(f"{name}.limit", limit)])
            if limit.ndim:  # one for each channel of what is signed; a single one where a ReLU came before
                x = self.add("Max", [x, self.constant(f"{name}.floor", -limit)])
        inputs = [x, self.constant(f"{name}.weight", weights[f"{name}.weight"])]
        if f"{name}.bias" in weights:
            inputs.append(self.constant(f"{name}.bias", weights[f"{name}.bias"]))
        return self.add(kind, inputs, **attributes)

    def _show_detail(self, image: str) -> str:
        """See ``models.dagn.Detail``."""
        planes = self.convolve(image, "detail")
        means = self.add("AveragePool", [planes], kernel_shape=[BLOCK, BLOCK], strides=[BLOCK, BLOCK])
        self.constant("enlarge", np.array([1, 1, BLOCK, BLOCK], np.float32))
        smooth = self.add("Resize", [means, "", "enlarge"], mode="linear", coordinate_transformation_mode="half_pixel")
        return self.add("Sub", [planes, smooth])

    def _run_head(self, image: str) -> str:
        """A pixel-unshuffle and a 3x3 convolution, as one convolution with a stride."""
        stem, weight = self.network.stem, self.network.weights["head.weight"]
        outputs = len(weight)
        phases = weight.reshape(outputs, 3, stem, stem, 3, 3)  # (output, colour, row, column of a phase, 3x3)
        wide = phases.transpose(0, 1, 4, 2, 5, 3).reshape(outputs, 3, 3 * stem, 3 * stem)
        inputs = [image, self.constant("head.weight", wide)]
        inputs.append(self.constant("head.bias", self.network.weights["head.bias"]))
        x = self.add("Conv", inputs, strides=[stem, stem], pads=[stem] * 4)
        return self.add("Add", [x, self._choose("head")]) if "head" in self.network.by_quality else x

    def _run_block(self, x: str, name: str, scale_and_shift: tuple[str, str] | None = None) -> str:
        inner = self.add("Relu", [self.convolve(x, f"{name}.body.0", pads=[1, 1, 1, 1])])
        change = self.convolve(inner, f"{name}.body.2", pads=[1, 1, 1, 1])
        if scale_and_shift:
            scale, shift = scale_and_shift
            change = self.add("Add", [self.add("Mul", [change, scale]), shift])
        return self.add("Add", [x, change])

    def _find_row(self) -> str:
        """Of the tables by quality."""
        self.constant("best", np.float32(100))
        return self.add("Cast", [self.add("Clip", [QUALITY_INPUT, "zero", "best"])], to=TensorProto.INT64)

    def _choose_scale_and_shift(self, stage: int) -> tuple[str, str] | None:
        if not self.network.by_quality:
            return None
        return self._choose(f"stages.{stage}.scale"), self._choose(f"stages.{stage}.shift")

    def _choose(self, name: str) -> str:
        """The row of the quality, ``(1, C, 1, 1)``."""
        table = self.constant(f"{name}.by_quality", self.network.by_quality[name][..., None, None])
        return self.add("Gather", [table, self._row])
