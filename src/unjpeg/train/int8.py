"""The graph ``restore`` with most of its convolutions in 8-bit integers.

Processors with VNNI multiply four of those where they multiply one float.

What goes into a convolution is rounded, and its weights are; the sums along the residual blocks stay as they are: it
is their rounding that would cost. Each convolution is tried alone, with steps for the range of photographs and for
wider ones: text, halftones and noise drive some of them further. Those that cost most stay in floating point, until the
rest costs little. Measured in docs/research/training-log.md. A network whose features are bounded (see
``models.integers``) has learned to be rounded: there all is, as its bounds say. ::

    python -m unjpeg.train.int8 MODEL --data DIR --out FILE
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from unjpeg.models.integers import UNSIGNED_STEPS
from unjpeg.picture import read_picture
from unjpeg.restorer import Restorer
from unjpeg.train.calibrate import DataOption, ModelArgument, OutOption, rewrite
from unjpeg.train.integer_graph import RoundedGraph, drop_unused, quantise, quantise_weight, round_bounded
from unjpeg.train.patterns import draw_pattern

__all__ = ["SIDE", "main", "round_file"]

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
    """The same with an int8 graph: all of a bounded network, whatever that costs, or what may be rounded of another.

    Args:
        file: with its graphs.
        originals: photographs, ``(H, W, 3)``, sides multiples of the network's stride; not trained on.
        photographs_db: PSNR that it may cost these pictures on average, compressed at ``QUALITIES`` in turn.
        worst_db: that it may cost any of them, and any of the patterns drawn from them.

    Raises:
        TrainingError: there is nothing to measure on or to round, or nothing can be rounded for so little.
    """
    if file.strong:
        limits = {"photographs_db": photographs_db, "worst_db": worst_db}
        return file.of_each_set(lambda weights: round_file(weights, originals, **limits))
    trial = _Trial.prepare(file, originals)
    if file.description.network.get("bounded"):
        made = round_bounded(file.restore)
        return _with_integers(file, made, trial.lost_db(onnx.load_from_string(made.graph)), trial.photographs)
    model = onnx.load_from_string(file.restore)
    candidates = [node.input[1] for node in model.graph.node if node.op_type == "Conv" and _is_inner(node.input[1])]
    if not candidates:
        raise TrainingError("the network has none of the convolutions that are rounded")
    ranges = _input_ranges(model, candidates, trial.inputs[: trial.photographs])

    def costs(chosen: Mapping[str, Range]) -> NDArray[np.float64]:
        return trial.costs(_rounded(model, chosen))

    allowed = np.array([10 ** (photographs_db / 10) - 1, 10 ** (worst_db / 10) - 1])

    def used(cost: NDArray[np.float64]) -> NDArray[np.float64]:
        """How much of what is allowed, of photographs and of the worst picture."""
        parts = np.array([cost[: trial.photographs].mean(), cost.max()])
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
        hurt = slice(0, trial.photographs) if of_photos > of_worst else cost.argmax()
        costliest = max(alone, key=lambda weight: alone[weight][hurt].mean())
        del chosen[costliest], alone[costliest]

    # The errors of several nearly add up, their signs being as good as independent; measured is what they come to.
    while chosen and used(total := np.sum(list(alone.values()), axis=0)).max() > 1:
        drop_costliest(total)
    while chosen and used(together := costs(chosen)).max() > 1:
        drop_costliest(together)
    if not chosen:
        raise TrainingError("no convolution can be rounded for as little as that")
    exact = tuple(weight.removesuffix(".f32") for weight in candidates if weight not in chosen)
    rounded = RoundedGraph(_rounded(model, chosen).SerializeToString(), tuple(chosen), exact)
    return _with_integers(file, rounded, 10 * np.log10(1 + together), trial.photographs)


@dataclass(frozen=True, slots=True)
class _Trial:
    """What rounding is measured on.

    Attributes:
        inputs: of the graph, for photographs and for patterns drawn from them.
        photographs: how many of them are.
        truths: what they were before they were compressed.
        full: what the float graph makes of them.
        errors: its mean square errors, with that of writing whole numbers.
    """

    inputs: list[Inputs]
    photographs: int
    truths: list[NDArray[np.uint8]]
    full: list[NDArray[np.float32]]
    errors: list[float]

    @classmethod
    def prepare(cls, file: ModelFile, originals: Sequence[NDArray[np.uint8]]) -> _Trial:
        """Raises TrainingError if there are no pictures."""
        if not originals:
            raise TrainingError("there are no pictures to measure rounding on")
        restorer = Restorer(file, precision="full")
        rng = np.random.default_rng(0)
        patterns = [draw_pattern(original, rng) for original in originals for _ in range(PATTERNS_PER_PHOTO)]
        inputs = _network_inputs(restorer, originals) + _network_inputs(restorer, patterns)
        full = _outputs(onnx.load_from_string(file.restore), inputs)
        truths = [*originals, *patterns]
        return cls(inputs, len(originals), truths, full, _errors(full, truths))

    def costs(self, rounded: onnx.ModelProto) -> NDArray[np.float64]:
        """What a graph's rounding adds, in parts of each picture's mean square error."""
        outputs = _outputs(rounded, self.inputs)
        added = [_mean_square(ours - exact) for ours, exact in zip(outputs, self.full, strict=True)]
        return np.divide(added, self.errors)

    def lost_db(self, rounded: onnx.ModelProto) -> NDArray[np.float64]:
        """What each picture loses: less than nothing where a network that has learned to be rounded is better so."""
        lost: NDArray[np.float64] = 10 * np.log10(
            np.divide(_errors(_outputs(rounded, self.inputs), self.truths), self.errors)
        )
        return lost


def _errors(outputs: Sequence[NDArray[np.float32]], truths: Sequence[NDArray[np.uint8]]) -> list[float]:
    return [_mean_square(ours - truth) + 1 / 12 for ours, truth in zip(outputs, truths, strict=True)]


def _with_integers(file: ModelFile, made: RoundedGraph, lost_db: NDArray[np.float64], photographs: int) -> ModelFile:
    """The file with a graph, and with what the photographs lose, and the other pictures after them."""
    hashes = {**file.description.sha256, "restore_int8": hashlib.sha256(made.graph).hexdigest()}
    facts = {
        "convolutions": len(made.rounded),
        "in_full_precision": list(made.exact),
        "photographs_db": float(lost_db[:photographs].mean()),
        "worst_db": float(lost_db.max()),
    }
    return replace(file, restore_int8=made.graph, description=replace(file.description, sha256=hashes, int8=facts))


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
            low, high = ranges[node.input[1]]
            step = np.float32(max((high - low) / UNSIGNED_STEPS, 1e-12))
            zero = np.asarray(np.clip(np.rint(-low / step), 0, UNSIGNED_STEPS), np.uint8)
            constants, pair = quantise(f"{name}.input", node.input[0], f"{name}.input.rounded", step, zero)
            more, dequantise = quantise_weight(name, numpy_helper.to_array(stored[name]).astype(np.float32), 0)
            graph.initializer.extend(constants + more)
            nodes += [*pair, dequantise]
            node.input[0], node.input[1] = pair[-1].output[0], dequantise.output[0]
        nodes.append(node)
    drop_unused(graph, nodes)  # the weights that were replaced, and what made them float32
    onnx.checker.check_model(made, full_check=True)
    return made


def main(model: ModelArgument, data: DataOption, out: OutOption) -> None:
    """Store a second network with a model: the same with most of its convolutions in 8-bit integers."""
    made = rewrite(model, data, out, SIDE, lambda path, originals: round_file(ModelFile.read(path), originals))
    typer.echo(json.dumps(made.description.int8))


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
