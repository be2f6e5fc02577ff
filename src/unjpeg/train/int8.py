"""The graph ``restore`` with most of its convolutions in 8-bit integers.

Processors with VNNI multiply four of those where they multiply one float.

What goes into a convolution is rounded, and its weights are; the sums along the residual blocks stay as they are: it
is their rounding that would cost. Each convolution is tried alone, with steps for the range of photographs and for
wider ones: text, halftones and noise drive some of them further. Those that cost most stay in floating point, until the
rest costs little. Measured in docs/research/training-log.md. ::

    python -m unjpeg.train.int8 MODEL --data DIR --out FILE
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import onnx
import onnxruntime
import typer
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from unjpeg.console import progress_bar, run_safely
from unjpeg.errors import TrainingError
from unjpeg.modelfile import ModelFile
from unjpeg.picture import read_picture
from unjpeg.restorer import Restorer
from unjpeg.train.calibrate import DataOption, ModelArgument, OutOption, rewrite
from unjpeg.train.patterns import draw_pattern

__all__ = ["main", "round_file"]

QUALITIES: Final = (5, 10, 20, 30, 40, 50, 60, 75, 85, 90, 95, 98)
SIDE: Final = 128
PATTERNS_PER_PHOTO: Final = 3

WIDTHS: Final = (1.0, 2.0)
"""Ranges of a convolution's input that are tried, in those of photographs."""

PHOTOGRAPHS_DB: Final = 0.02
WORST_DB: Final = 0.2
"""What rounding may cost: photographs on average, and any one picture, in dB before the projection."""

Inputs = Mapping[str, NDArray[np.float32]]
Range = tuple[float, float]


def round_file(
    file: ModelFile,
    originals: Sequence[NDArray[np.uint8]],
    *,
    photographs_db: float = PHOTOGRAPHS_DB,
    worst_db: float = WORST_DB,
) -> ModelFile:
    """The same with an int8 graph.

    Args:
        file: with its graphs.
        originals: photographs, ``(H, W, 3)``, sides multiples of the network's stride; not trained on.
        photographs_db: PSNR that it may cost these pictures on average, compressed at ``QUALITIES`` in turn.
        worst_db: that it may cost any of them, and any of the patterns drawn from them.

    Raises:
        TrainingError: there is nothing to measure on or to round, or nothing can be rounded for so little.
    """
    if not originals:
        raise TrainingError("there are no pictures to measure rounding on")
    restorer = Restorer(file, precision="full")
    rng = np.random.default_rng(0)
    patterns = [draw_pattern(original, rng) for original in originals for _ in range(PATTERNS_PER_PHOTO)]
    photos = _network_inputs(restorer, originals)
    everything = photos + _network_inputs(restorer, patterns)
    model = onnx.load_from_string(file.restore)
    candidates = [node.input[1] for node in model.graph.node if node.op_type == "Conv" and _is_inner(node.input[1])]
    if not candidates:
        raise TrainingError("the network has none of the convolutions that are rounded")
    ranges = _input_ranges(model, candidates, photos)
    full = _outputs(model, everything)
    # Of the network, and of writing whole numbers.
    errors = [_mean_square(ours - truth) + 1 / 12 for ours, truth in zip(full, [*originals, *patterns], strict=True)]

    def costs(chosen: Mapping[str, Range]) -> NDArray[np.float64]:
        """What rounding adds, in parts of each picture's mean square error."""
        rounded = _outputs(_rounded(model, chosen), everything)
        added = [_mean_square(ours - exact) for ours, exact in zip(rounded, full, strict=True)]
        return np.divide(added, errors)

    allowed = np.array([10 ** (photographs_db / 10) - 1, 10 ** (worst_db / 10) - 1])

    def used(cost: NDArray[np.float64]) -> NDArray[np.float64]:
        """How much of what is allowed, of photographs and of the worst picture."""
        parts = np.array([cost[: len(photos)].mean(), cost.max()])
        of_each: NDArray[np.float64] = np.divide(parts, allowed, out=np.full(2, np.inf), where=allowed > 0)
        return of_each

    chosen: dict[str, Range] = {}
    alone: dict[str, NDArray[np.float64]] = {}
    with progress_bar(len(candidates), doing="convolutions") as show:
        for number, weight in enumerate(candidates, 1):
            low, high = ranges[weight]
            tried = [(low * width, high * width) for width in WIDTHS]
            costs_tried = [costs({weight: wide}) for wide in tried]
            best = int(np.argmin([used(cost).max() for cost in costs_tried]))
            chosen[weight], alone[weight] = tried[best], costs_tried[best]
            show(number)

    def drop_costliest(cost: NDArray[np.float64]) -> None:
        of_photos, of_worst = used(cost)
        hurt = slice(0, len(photos)) if of_photos > of_worst else cost.argmax()
        costliest = max(alone, key=lambda weight: alone[weight][hurt].mean())
        del chosen[costliest], alone[costliest]

    # The errors of several nearly add up, their signs being as good as independent; measured is what they come to.
    while chosen and used(total := np.sum(list(alone.values()), axis=0)).max() > 1:
        drop_costliest(total)
    while chosen and used(together := costs(chosen)).max() > 1:
        drop_costliest(together)
    if not chosen:
        raise TrainingError("no convolution can be rounded for as little as that")
    serialised = _rounded(model, chosen).SerializeToString()
    hashes = {**file.description.sha256, "restore_int8": hashlib.sha256(serialised).hexdigest()}
    lost_db = 10 * np.log10(1 + together)
    facts = {
        "convolutions": len(chosen),
        "in_full_precision": [weight.removesuffix(".f32") for weight in candidates if weight not in chosen],
        "photographs_db": float(lost_db[: len(photos)].mean()),
        "worst_db": float(lost_db.max()),
    }
    return replace(file, restore_int8=serialised, description=replace(file.description, sha256=hashes, int8=facts))


def _mean_square(difference: NDArray[np.float32]) -> float:
    return float(np.square(difference, dtype=np.float64).mean())


def _is_inner(weight: str) -> bool:
    """Not the first and the last convolution, nor the exact ones in between that change colours."""
    return weight.startswith(("network.encoder_scales", "network.downs", "network.bottleneck", "network.stages"))


def _network_inputs(restorer: Restorer, originals: Iterable[NDArray[np.uint8]]) -> list[Inputs]:
    """What the graph is given for these pictures, compressed."""
    qualities = itertools.cycle(QUALITIES)
    made: list[Inputs] = []
    for original in originals:
        buffer = io.BytesIO()
        Image.fromarray(original).save(buffer, "JPEG", quality=next(qualities))
        picture = read_picture(buffer.getvalue())
        guidance = restorer.guide(picture)
        made.append(
            {
                "image": picture.pixels.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255),
                "insensitive": guidance.insensitive,
                "sensitive": guidance.sensitive,
                "fusion": guidance.fusion,
                "stated": guidance.stated,
            }
        )
    return made


def _input_ranges(model: onnx.ModelProto, weights: Sequence[str], inputs: Sequence[Inputs]) -> dict[str, Range]:
    """The least and the largest value, 0 included, that the convolutions with these weights are given."""
    sources = {node.input[1]: node.input[0] for node in model.graph.node if node.op_type == "Conv"}
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    names = sorted({sources[weight] for weight in weights})
    del observed.graph.output[:]
    observed.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    run = _runner(observed)
    low, high = np.zeros(len(names)), np.zeros(len(names))
    for arrays in inputs:
        values = run(arrays)
        low = np.minimum(low, [value.min() for value in values])
        high = np.maximum(high, [value.max() for value in values])
    of = {name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}
    return {weight: of[sources[weight]] for weight in weights}


def _outputs(model: onnx.ModelProto, inputs: Sequence[Inputs]) -> list[NDArray[np.float32]]:
    """Of the graph, ``(H, W, 3)``, range 0..255."""
    run = _runner(model)
    return [255 * run(arrays)[0][0].transpose(1, 2, 0).clip(0, 1) for arrays in inputs]


def _runner(model: onnx.ModelProto) -> Callable[[Inputs], list[NDArray[np.float32]]]:
    """Runs a graph in floating point, its roundings as it says, on any processor."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    taken = [node.name for node in session.get_inputs()]
    return lambda arrays: list(session.run(None, {name: arrays[name] for name in taken}))


def _rounded(model: onnx.ModelProto, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """A graph whose convolutions with these weights round what they are given, and their weights."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    stored = {initialiser.name: initialiser for initialiser in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1] in ranges:
            name = node.input[1].removesuffix(".f32")
            weight = numpy_helper.to_array(stored[name]).astype(np.float32)
            constants, roundings = _roundings(name, node.input[0], weight, ranges[node.input[1]])
            graph.initializer.extend(constants)
            nodes += roundings
            node.input[0], node.input[1] = (rounding.output[0] for rounding in roundings[-2:])
        nodes.append(node)
    # Without the weights that were replaced, and what made them float32.
    used = {name for node in nodes for name in node.input}
    nodes = [node for node in nodes if node.op_type != "Cast" or node.output[0] in used]
    used = {name for node in nodes for name in node.input}
    kept = [initialiser for initialiser in graph.initializer if initialiser.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    onnx.checker.check_model(made, full_check=True)
    return made


def _roundings(
    name: str, source: str, weight: NDArray[np.float32], usual: Range
) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    """Constants and nodes for one convolution; the last two nodes make its input and its weights."""
    low, high = usual
    scale = np.float32(max((high - low) / 255, 1e-12))
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
    # A scale for each output channel; any will do for one that is all zeros.
    scales = (np.abs(weight).max(axis=(1, 2, 3)) / 127).astype(np.float32)
    scales[scales == 0] = 1
    arrays = {
        f"{name}.int8": np.rint(weight / scales[:, None, None, None]).astype(np.int8),
        f"{name}.scales": scales,
        f"{name}.input_scale": scale,
        f"{name}.input_zero": zero,
    }
    steps = [f"{name}.input_scale", f"{name}.input_zero"]
    return [numpy_helper.from_array(np.asarray(array), key) for key, array in arrays.items()], [
        helper.make_node("QuantizeLinear", [source, *steps], [f"{name}.input_uint8"]),
        helper.make_node("DequantizeLinear", [f"{name}.input_uint8", *steps], [f"{name}.input_rounded"]),
        helper.make_node("DequantizeLinear", [f"{name}.int8", f"{name}.scales"], [f"{name}.rounded"], axis=0),
    ]


def main(model: ModelArgument, data: DataOption, out: OutOption) -> None:
    """Store a second network with a model: the same with most of its convolutions in 8-bit integers."""
    made = rewrite(model, data, out, SIDE, lambda path, originals: round_file(ModelFile.read(path), originals))
    typer.echo(json.dumps(made.description.int8))


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
