"""ONNX graphs with convolutions in 8-bit integers: what is rounded stands between QuantizeLinear and DequantizeLinear.

The runtime sees from these pairs what it can compute in integers, and does away with most of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from unjpeg.models.integers import SIGNED_STEPS, UNSIGNED_STEPS

__all__ = [
    "FLOOR",
    "LIMIT",
    "RoundedGraph",
    "drop_unused",
    "fuse_bounds",
    "quantise",
    "quantise_weight",
    "round_bounded",
]

LIMIT: Final = ".limit"
FLOOR: Final = ".floor"
"""How the names of a bounded convolution's constants end."""

_CONVOLUTIONS: Final = {"Conv": 0, "ConvTranspose": 1}
"""And the dimension of their weights that the output channels are in."""


@dataclass(frozen=True, slots=True)
class RoundedGraph:
    """A graph with integers in it.

    Attributes:
        graph: serialised.
        rounded, exact: names of the weights of convolutions in integers, and of those that are not: larger ones only,
            not what changes colours.
    """

    graph: bytes
    rounded: tuple[str, ...]
    exact: tuple[str, ...]


def fuse_bounds(graph: onnx.GraphProto) -> None:
    """Make each bound of a network, which torch exports as half a dozen nodes, what runtimes fuse.

    That is a Clip where there is one limit for all channels, else Max and Min with constants.
    """
    stored = {value.name: value for value in graph.initializer}
    if not any(name.endswith(LIMIT) for name in stored):
        return
    made_by = {name: node for node in graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        cast = made_by.get(node.input[1]) if node.op_type == "Min" and len(node.input) == 2 else None
        if cast is not None and cast.op_type == "CastLike" and cast.input[0].endswith(LIMIT):
            limit = numpy_helper.to_array(stored[cast.input[0]])
            source, floor = made_by[node.input[0]].input[0], cast.input[0].removesuffix(LIMIT) + FLOOR
            lowest = -limit if limit.ndim else np.zeros_like(limit)  # a ReLU came before: see ``models.integers``
            graph.initializer.append(numpy_helper.from_array(lowest, floor))
            if limit.ndim:
                nodes.append(helper.make_node("Max", [source, floor], [f"{floor}ed"]))
                nodes.append(helper.make_node("Min", [f"{floor}ed", cast.input[0]], list(node.output)))
            else:
                nodes.append(helper.make_node("Clip", [source, floor, cast.input[0]], list(node.output)))
        else:
            nodes.append(node)
    drop_unused(graph, nodes)


def round_bounded(restore: bytes) -> RoundedGraph:
    """The graph of a bounded network with all that its bounded convolutions take in integers.

    Where each channel has its limit, features are divided by it first, and the weights multiplied: then a convolution's
    features have steps of one size, as integers must.

    Args:
        restore: serialised, as exported.
    """
    model = onnx.load_from_string(restore)
    graph = model.graph
    stored = {value.name: value for value in graph.initializer}
    floored = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Max"}
    limits: dict[str, NDArray[np.float32]] = {}
    rounded: list[str] = []
    exact: list[str] = []
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type in ("Clip", "Min") and node.input[-1].endswith(LIMIT):
            name, target = node.input[-1].removesuffix(LIMIT), node.output[0]
            limit = numpy_helper.to_array(stored[node.input[-1]]).astype(np.float32)
            source = floored.get(node.input[0], node.input[0])
            if limit.ndim:
                scales = f"{name}.scales"
                graph.initializer.append(numpy_helper.from_array((1 / limit)[None], scales))
                nodes.append(helper.make_node("Mul", [source, scales], [f"{name}.scaled"]))
                step, zero = np.float32(1 / SIGNED_STEPS), np.asarray(0, np.int8)
                constants, pair = quantise(name, f"{name}.scaled", target, step, zero)
            else:
                step, zero = np.float32(limit / UNSIGNED_STEPS), np.asarray(0, np.uint8)
                constants, pair = quantise(name, source, target, step, zero)
            graph.initializer.extend(constants)
            nodes += pair
            limits[target] = limit
            continue
        if node.op_type in _CONVOLUTIONS:
            name = node.input[1].removesuffix(".f32")
            if node.input[0] in limits:
                outputs, limit = _CONVOLUTIONS[node.op_type], limits[node.input[0]]
                weight = numpy_helper.to_array(stored[name]).astype(np.float32)
                if limit.ndim:
                    weight *= limit[None] if outputs == 0 else limit[:, None]
                constants, dequantise = quantise_weight(name, weight, outputs)
                graph.initializer.extend(constants)
                nodes.append(dequantise)
                node.input[1] = dequantise.output[0]
                rounded.append(name)
            elif max(stored[name].dims[2:]) > 1:
                exact.append(name)
        nodes.append(node)
    drop_unused(graph, nodes)
    onnx.checker.check_model(model, full_check=True)
    return RoundedGraph(model.SerializeToString(), tuple(rounded), tuple(exact))


def quantise(
    name: str, source: str, target: str, step: np.float32, zero: NDArray[np.generic]
) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    """Constants, and the two nodes that round ``source`` to whole steps; the last one's output is ``target``.

    Args:
        name: what the constants' names begin with.
        zero: the integer that means zero; its type is that of the integers.
    """
    arrays = {f"{name}.step": np.asarray(step, np.float32), f"{name}.zero": zero}
    steps, integers = list(arrays), f"{name}.integers"
    return [numpy_helper.from_array(array, key) for key, array in arrays.items()], [
        helper.make_node("QuantizeLinear", [source, *steps], [integers]),
        helper.make_node("DequantizeLinear", [integers, *steps], [target]),
    ]


def quantise_weight(
    name: str, weight: NDArray[np.float32], outputs: int
) -> tuple[list[onnx.TensorProto], onnx.NodeProto]:
    """A convolution's weights as int8, in steps of each output channel's own, and the node that makes floats of them.

    Args:
        outputs: the dimension of the output channels.
    """
    others = tuple(dimension for dimension in range(weight.ndim) if dimension != outputs)
    steps = (np.abs(weight).max(axis=others, keepdims=True) / np.float32(SIGNED_STEPS)).astype(np.float32)
    steps[steps == 0] = 1  # any will do for a channel that is all zeros
    arrays = {f"{name}.int8": np.rint(weight / steps).astype(np.int8), f"{name}.steps": steps.ravel()}
    node = helper.make_node("DequantizeLinear", list(arrays), [f"{name}.rounded"], axis=outputs)
    return [numpy_helper.from_array(array, key) for key, array in arrays.items()], node


def drop_unused(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Make these the graph's nodes, without those and without constants that nothing comes of."""
    while True:
        used = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
        kept = [node for node in nodes if any(name in used for name in node.output)]
        if len(kept) == len(nodes):
            break
        nodes = kept
    constants = [value for value in graph.initializer if value.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
