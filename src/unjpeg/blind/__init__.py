"""One network for programs that hand over pixels and nothing else: guidance made constant, and folded into the weights.

::

    made-up pictures ─▶ guide ─▶ what pictures show ─────┐
    mean features of a quality, tables of that quality ──┴▶ scales and shifts ─┐
    restore.onnx ─▶ weights ───────────────────────────────────────────────────┴▶ plain network ─┬▶ one ONNX graph
                    guidance.py                                                    folding.py    └▶ safetensors
                                                                                                     formats.py

Programs cut pictures into tiles, and call their network with each. Guidance that is read from a tile would be another
one next door, and show as a seam. So none is read: it is that of a quality that is named, or of one that is not known.

Needs the extra ``export``. What such a network cannot do, and what that costs: docs/inside-other-programs.md.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from unjpeg.blind.folding import LAYOUT, PlainNetwork, fold_guidance
from unjpeg.blind.formats import OPSET, QUALITY_INPUT, make_graph, make_weights
from unjpeg.blind.guidance import UNKNOWN_QUALITY, find_typical_guidance, guide_as
from unjpeg.errors import ModelError, OutputError
from unjpeg.files import check_target, put_in_place
from unjpeg.modelfile import ModelFile
from unjpeg.network import Guidance, Model
from unjpeg.runtimes.openvino import compile_openvino

__all__ = [
    "LAYOUT",
    "OPSET",
    "SUFFIXES",
    "UNKNOWN_QUALITY",
    "PlainNetwork",
    "check_blind_target",
    "export_blind",
    "find_typical_guidance",
    "fold_guidance",
    "guide_as",
    "make_graph",
    "make_weights",
]

SUFFIXES: Final = (".onnx", ".safetensors")

CHECK_TOLERANCE: Final = 1e-3
"""How far a graph may be from the network that it was made of, range 0..1: it sums in another order."""


def export_blind(
    model: str | os.PathLike[str], out: Path, *, quality: int | None = None, quality_input: bool = False
) -> None:
    """Write a model as a network that stands alone, and check it against the model.

    Args:
        model: a shipped model's name, or a model file's path.
        out: ends in ``.onnx`` (a graph) or ``.safetensors`` (weights of the module in ``integrations/spandrel``).
        quality: that is folded in, 1..100; None for pictures of which nothing is known.
        quality_input: give the graph a second input, ``quality``, instead: ``[1]``, 1..100, or 0 where it is not known.
            It has one set of weights for all, also of a model that has others for strong compression.

    Raises:
        ModelError: there is no such model, or it is a self-ensemble, or what was made of it computes something else.
        OutputError: the file cannot be written, or has another suffix.
        ValueError: the quality is out of its range, or folded and an input both.
    """
    check_blind_target(out)
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"quality must be a whole number in 1..100, got {quality}")
    if quality_input and (quality is not None or out.suffix != ".onnx"):
        raise ValueError("a quality that is an input is not folded in as well, and is for graphs (.onnx) alone")
    file = ModelFile.read(model)
    if file.description.passes > 1:
        raise ModelError(f"{file.description.name}: is several passes of another model; export that one")
    weights = file if quality is None else file.for_quality(quality)
    loaded = Model(weights, precision="full")
    typical = find_typical_guidance(loaded)
    wanted = [None, *range(1, 101)] if quality_input else [quality]
    guidances = [guide_as(typical, file, one) for one in wanted]
    network = replace(fold_guidance(weights, guidances, quality=quality), hash=file.hash)
    graph = make_graph(network)
    for number in {0, len(guidances) // 2}:
        _check(graph, loaded, guidances[number], number if quality_input else None)
    out.parent.mkdir(parents=True, exist_ok=True)
    put_in_place(out, graph if out.suffix == ".onnx" else make_weights(network), overwrite=True)


def check_blind_target(out: Path) -> None:
    """Raises OutputError if such a file cannot be put there for a reason that is known before it is made."""
    if out.suffix not in SUFFIXES:
        raise OutputError(f"{out}: name a file that ends in {' or '.join(SUFFIXES)}")
    check_target(out, overwrite=True)


def _check(graph: bytes, model: Model, guidance: Guidance, quality: int | None) -> None:
    """Against the model under that guidance, on a size that needs padding. Raises ModelError."""
    rng, side = np.random.default_rng(0), 2 * model.total_stride
    image = rng.random((1, 3, side + 3, 2 * side + 1), np.float32)
    inputs = {"input": image} if quality is None else {"input": image, QUALITY_INPUT: np.array([quality], np.float32)}
    padded = np.pad(image, [(0, 0), (0, 0), *((0, -size % model.total_stride) for size in image.shape[2:])], "edge")
    expected = model.restore(padded, guidance).clip(0, 1)[..., : image.shape[2], : image.shape[3]]
    made = compile_openvino(graph, "cpu", None, "full")(inputs)[0]
    error = float(np.abs(made - expected).max()) if made.shape == expected.shape else np.inf
    if not error <= CHECK_TOLERANCE:
        raise ModelError(f"{model.file.description.name}: the graph made of it differs from it by {error:.2g}")
