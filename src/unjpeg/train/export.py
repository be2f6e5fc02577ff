"""From a stage-2 checkpoint to the file that ``unjpeg restore`` runs, and back.

``guide`` has a fixed window (adaptive pooling does not export with dynamic sizes), ``restore`` dynamic ones. Weights
are stored in fp16 under their state-dict names, so that ``models.exported`` can put them back into the torch module.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from unjpeg.errors import TrainingError
from unjpeg.modelfile import MAX_GUIDE_WINDOWS, Description, ModelFile
from unjpeg.models import Dagn, DagnConfig, GuidanceTensors
from unjpeg.models.exported import Guide, Restore
from unjpeg.models.integers import round_to_integers
from unjpeg.network import Model
from unjpeg.projection import Calibration
from unjpeg.train.checkpoint import Checkpoint, select
from unjpeg.train.degrade import Pixels8, compress_jpeg, standard_stated
from unjpeg.train.guidance import QUALITY_LEVELS
from unjpeg.train.integer_graph import FLOOR, LIMIT, fuse_bounds
from unjpeg.train.run import TrainingImages, to_unit_range
from unjpeg.version import __version__

__all__ = ["QUALITY_LEVELS", "export_checkpoint", "export_network", "load_network"]

OPSET = 18


def load_network(checkpoint: Checkpoint) -> Dagn:
    """The averaged network of a stage-2 checkpoint, in evaluation mode."""
    network = Dagn(DagnConfig(**checkpoint.config["network"]))
    network.load_state_dict(select(checkpoint.tensors, "ema"))
    return network.eval()


def export_checkpoint(
    checkpoint: Checkpoint,
    images: TrainingImages,
    path: Path,
    *,
    name: str,
    guide_window: int,
    guide_windows: int | None = None,
) -> ModelFile:
    """Write a model file and check it against torch.

    Args:
        images: what it was trained on; the validation pictures give the mean sensitive features per quality.
        guide_window: side of the windows that guidance is taken from; the training's patch is the natural choice.
        guide_windows: how many there are at most; None leaves it to the restorer.

    Raises TrainingError as ``export_network``.
    """
    network = load_network(checkpoint)
    return export_network(
        network,
        path,
        name=name,
        guide_window=guide_window,
        guide_windows=guide_windows,
        quality_features=_mean_sensitive_features(network, images, guide_window),
        training={"steps": checkpoint.step, "config": checkpoint.config, "images": checkpoint.manifest},
        validation=checkpoint.metrics,
    )


def export_network(
    network: Dagn,
    path: Path,
    *,
    name: str,
    guide_window: int,
    guide_windows: int | None = None,
    quality_features: NDArray[np.float32],
    training: dict[str, Any],
    validation: dict[str, float],
    calibration: Calibration | None = None,
) -> ModelFile:
    """The same from a network at hand.

    Args:
        guide_window, guide_windows: as ``export_checkpoint``.
        quality_features: see ``ModelFile``; they depend on the frozen sensitive encoder alone.
        training, validation: stored in the file's description.
        calibration: of this network or of one that it has hardly moved from.

    Raises:
        TrainingError: a model file cannot hold the network's guidance (``DagnConfig.has_sizeless_guidance``), or the
            exported graphs do not compute what the network computes.
    """
    if not network.config.has_sizeless_guidance:
        raise TrainingError(
            'no model file can hold this network: fusion_kind "softmax" and insensitive_features "map" are for studies'
        )
    round_to_integers(network, False)  # the graph in integers is made from the float graph's bounds
    guide, restore = _export_graphs(network, guide_window)
    description = Description(
        name=name,
        sha256={"guide": hashlib.sha256(guide).hexdigest(), "restore": hashlib.sha256(restore).hexdigest()},
        guide_window=guide_window,
        total_stride=network.config.total_stride,
        quality_levels=tuple(QUALITY_LEVELS),
        unjpeg_version=__version__,
        network=asdict(network.config),
        training=training,
        validation=validation,
        guide_windows=guide_windows or MAX_GUIDE_WINDOWS,
    )
    file = ModelFile(description, guide, restore, quality_features)
    if calibration:
        file = file.calibrated(calibration)
    _check_against_torch(file, network)
    file.write(path)
    return file


def _export_graphs(network: Dagn, guide_window: int) -> tuple[bytes, bytes]:
    stride = network.config.total_stride
    window = torch.rand(1, 3, guide_window, guide_window)
    with torch.no_grad():
        guidance = network.guide(window)
    side = torch.export.Dim("rows", min=1, max=4096), torch.export.Dim("columns", min=1, max=4096)
    sizes = {2: stride * side[0], 3: stride * side[1]}
    guide = _to_onnx(Guide(network), (window,), ["image"], ["insensitive", "sensitive", "fusion", "quality"], None)
    restore = _to_onnx(
        Restore(network),
        (torch.rand(1, 3, 2 * stride, 3 * stride), *guidance),
        list(Restore.inputs),
        ["restored"],
        (sizes, None, None, None, None),
    )
    return guide, restore


def _to_onnx(
    module: nn.Module, arguments: tuple[Tensor, ...], inputs: list[str], outputs: list[str], dynamic_shapes: Any
) -> bytes:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            arguments,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=dynamic_shapes,
            opset_version=OPSET,
            optimize=False,  # the optimiser folds and renames weights; the runtimes fold for themselves
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    fuse_bounds(model.graph)
    _store_half(model.graph)
    # Source locations of the machine that exported, and shapes that the runtimes infer again: half of a small file.
    for part in (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
    del model.graph.value_info[:], model.graph.metadata_props[:], model.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    serialised: bytes = model.SerializeToString()
    return serialised


def _store_half(graph: onnx.GraphProto) -> None:
    """Keep weight matrices as fp16, with a cast to f32 behind each.

    Vectors (batch norm's variances) stay exact, and limits of features: they are the steps of integers.
    """
    casts = []
    for index, initialiser in enumerate(graph.initializer):
        if initialiser.data_type != TensorProto.FLOAT or len(initialiser.dims) < 2:
            continue
        if initialiser.name.endswith((LIMIT, FLOOR)):
            continue
        half = numpy_helper.from_array(numpy_helper.to_array(initialiser).astype(np.float16), initialiser.name)
        graph.initializer[index].CopyFrom(half)
        full = f"{initialiser.name}.f32"
        for node in graph.node:
            node.input[:] = [full if name == initialiser.name else name for name in node.input]
        casts.append(helper.make_node("Cast", [initialiser.name], [full], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def cut_window_crops(images: TrainingImages, window: int) -> list[Pixels8]:
    """The centres of the validation pictures, as large as the guide's window. Raises TrainingError if none is."""
    crops = [crop for crop in images.cut_validation_crops(window) if crop.shape[:2] == (window, window)]
    if not crops:
        raise TrainingError(f"no validation picture is as large as the guide's window of {window} pixels")
    return crops


@torch.no_grad()
def _mean_sensitive_features(network: Dagn, images: TrainingImages, window: int) -> NDArray[np.float32]:
    crops = cut_window_crops(images, window)
    means = []
    for quality in QUALITY_LEVELS:
        batch = np.stack([compress_jpeg(crop, quality) for crop in crops])
        features = network.sensitive_encoder(to_unit_range(torch.from_numpy(batch).permute(0, 3, 1, 2)))
        means.append(features.mean(dim=(0, 2, 3)).numpy())
    return np.stack(means)


@torch.no_grad()
def _check_against_torch(file: ModelFile, network: Dagn) -> None:
    """Fresh inputs of another size than those it was exported with; the tolerance is what fp16 storage costs."""
    rng = np.random.default_rng(0)
    stride, window = network.config.total_stride, file.description.guide_window
    model = Model(file, precision="full")
    windows = rng.random((2, 3, window, window), np.float32)
    stated = standard_stated(30)
    expected = network.guide(torch.from_numpy(windows), torch.from_numpy(np.stack([stated, stated])))
    guidance = model.guide(windows, stated)
    tile = rng.random((1, 3, 5 * stride, 4 * stride), np.float32)
    means = GuidanceTensors(*(value.mean(0, keepdim=True) for value in expected))
    pairs = {
        "insensitive": (guidance.insensitive, means.insensitive),
        "sensitive": (guidance.sensitive, means.sensitive),
        "fusion": (guidance.fusion, means.fusion),
        "restore": (model.restore(tile, guidance), network.restore(torch.from_numpy(tile), means)),
    }
    for part, (ours, theirs) in pairs.items():
        reference = theirs.numpy()
        error = float(np.abs(ours - reference).max() / max(1e-3, float(np.abs(reference).max())))
        if not error < 2e-2:
            raise TrainingError(f"the exported graph differs from torch: {part} by {error:.2g} of its range")
