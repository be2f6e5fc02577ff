"""A model's weights and its guidance as one plain network: convolutions and sums, which hang on no picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from unjpeg.dct import RGB_TO_YCC, YCC_TO_RGB
from unjpeg.errors import ModelError
from unjpeg.modelfile import ModelFile
from unjpeg.network import Guidance
from unjpeg.version import __version__

__all__ = ["LAYOUT", "PlainNetwork", "Weights", "fold_guidance"]

Weights = dict[str, NDArray[np.float32]]

LAYOUT: Final = "unjpeg_layout"
"""A tensor that tells these weights from all others: the layout's version, the factor of the stem, and 1 if the
encoder's features join after a stage's upsampling."""

LAYOUT_VERSION: Final = 1

_PREFIX: Final = "network."

_DETAIL_GAIN: Final = np.array([10, 25, 25], np.float32)
"""As ``unjpeg.models.dagn.DETAIL_GAIN``, which cannot be read without torch; a test compares them."""

_EPSILON: Final = np.float32(1e-5)
"""Of torch's batch norm."""


@dataclass(frozen=True)
class PlainNetwork:
    """A U of residual blocks.

    Attributes:
        name, hash: of the model that it was made of.
        quality: that was folded in; None for one that is not known.
        stem: factor of the pixel-unshuffle in front.
        multiple: its input's sides are multiples of it.
        skips_after: whether the encoder's features join after a stage's upsampling, or before.
        weights: by the names of the torch module in ``integrations/spandrel``; but for ``LAYOUT`` all that it has.
        by_quality: of a network that is told the quality: ``head``, the first features' shift, and of each stage
            ``stages.N.scale`` and ``stages.N.shift``, ``(101, C)``: of an unknown quality, then of 1..100. Else empty.
    """

    name: str
    hash: str
    quality: int | None
    stem: int
    multiple: int
    skips_after: bool
    weights: Weights
    by_quality: Weights

    @property
    def layout(self) -> tuple[int, int, int]:
        """The numbers of ``LAYOUT``."""
        return LAYOUT_VERSION, self.stem, int(self.skips_after)

    def count(self, prefix: str) -> int:
        """How many parts lie below a name."""
        start = f"{prefix}."
        return len({name.removeprefix(start).partition(".")[0] for name in self.weights if name.startswith(start)})

    def facts(self) -> dict[str, str]:
        """For the metadata of files."""
        unknown = "not known" if self.quality is None else str(self.quality)
        return {
            "model": f"{self.name} {self.hash}",
            "made by": f"unjpeg {__version__}",
            "license": "Apache-2.0",
            "quality": "an input" if self.by_quality else unknown,
        }


def fold_guidance(file: ModelFile, guidances: Sequence[Guidance], *, quality: int | None = None) -> PlainNetwork:
    """The network under a guidance; or under many that differ in their quality, to be told which.

    Args:
        guidances: one; or 101, of an unknown quality and of 1..100.
        quality: of the only one.

    Raises:
        ModelError: the model file lacks weights.
    """
    network = file.description.network
    stored = _read_weights(file.restore)
    try:
        weights, by_quality = _Fold(stored, network.get("blocks", 4)).fold(guidances)
        if network.get("input", "rgb") == "detail":
            _fold_detail(weights)
    except KeyError as error:
        raise ModelError(f"{file.description.name}: its graph lacks the weights {error}") from error
    return PlainNetwork(
        name=file.description.name,
        hash=file.hash,
        quality=quality,
        stem=network.get("stem", 1),
        multiple=file.description.total_stride,
        skips_after=network.get("skips", "before") == "after",
        weights=weights,
        by_quality=by_quality,
    )


def _read_weights(graph: bytes) -> Weights:
    return {
        value.name.removeprefix(_PREFIX): numpy_helper.to_array(value).astype(np.float32)
        for value in onnx.load_from_string(graph).graph.initializer
        if value.name.startswith(_PREFIX)
    }


class _Fold:
    """Reads a restorer's weights by ``models.Dagn``'s names, and gives the plain network's.

    Raises KeyError where one is missing.
    """

    def __init__(self, stored: Weights, blocks: int) -> None:
        self._stored, self._blocks = stored, blocks
        self._weights: Weights = {}

    def fold(self, guidances: Sequence[Guidance]) -> tuple[Weights, Weights]:
        stored, weights = self._stored, self._weights
        by_quality: Weights = {}
        single, first = len(guidances) == 1, guidances[0]
        scales = 1 + len({name.split(".")[1] for name in stored if name.startswith("downs.")})
        channels = [len(stored[f"stages.{stage}.up.bias"]) for stage in range(scales - 1)]
        insensitive = self._guide("insensitive_guider", first.insensitive, channels)
        sensitive = self._guide("sensitive_guider", np.concatenate([one.sensitive for one in guidances]), channels)

        self._copy("head", "head")
        if "stated.0.weight" in stored:
            told = self._run_layers("stated", np.concatenate([one.stated for one in guidances]))
            if single:
                weights["head.bias"] = weights["head.bias"] + told[0]
            else:
                by_quality["head"] = told
        for scale in range(scales):
            for block in range(self._blocks):
                self._copy_block(f"encoder_scales.{scale}.{block}", f"scales.{scale}.{block}")
            if scale < scales - 1:
                self._copy(f"downs.{scale}", f"downs.{scale}")
        if "fusion_conv3.weight" in stored:
            matrix = first.fusion[0].T
            weights["fusion.weight"] = np.tensordot(matrix, stored["fusion_conv3.weight"], 1)
            weights["fusion.bias"] = matrix @ stored["fusion_conv3.bias"]
        for block in range(self._blocks):
            self._copy_block(f"bottleneck.{block}", f"bottleneck.{block}")
        for stage in range(scales - 1):
            self._copy(f"stages.{stage}.up", f"ups.{stage}")
            for block in range(self._blocks):
                ours = f"stages.{stage}.{block}"
                self._copy_block(f"stages.{stage}.sensitive.{block}", ours)
                if single:
                    self._scale_block(ours, *(vector[0] for vector in sensitive[stage]))
                ours = f"stages.{stage}.{self._blocks + block}"
                self._copy_block(f"stages.{stage}.insensitive.{block}", ours)
                self._scale_block(ours, *(vector[0] for vector in insensitive[stage]))
            if not single:
                by_quality[f"stages.{stage}.scale"], by_quality[f"stages.{stage}.shift"] = sensitive[stage]
        self._copy("tail", "tail")
        return weights, by_quality

    def _copy(self, name: str, ours: str) -> None:
        for part in ("weight", "bias"):
            self._weights[f"{ours}.{part}"] = self._stored[f"{name}.{part}"]
        if f"{name}.limit" in self._stored:
            self._weights[f"{ours}.bound.limit"] = self._stored[f"{name}.limit"]

    def _copy_block(self, name: str, ours: str) -> None:
        """A body of two convolutions; the norm between them goes into the first."""
        stored = self._stored
        if f"{name}.body.3.weight" not in stored:
            self._copy(f"{name}.body.0", f"{ours}.body.0")
            self._copy(f"{name}.body.2", f"{ours}.body.2")
            return
        scale = stored[f"{name}.body.1.weight"] / np.sqrt(stored[f"{name}.body.1.running_var"] + _EPSILON)
        self._weights[f"{ours}.body.0.weight"] = stored[f"{name}.body.0.weight"] * scale[:, None, None, None]
        shift = stored[f"{name}.body.1.bias"] - stored[f"{name}.body.1.running_mean"] * scale
        self._weights[f"{ours}.body.0.bias"] = shift
        self._copy(f"{name}.body.3", f"{ours}.body.2")

    def _scale_block(self, ours: str, scale: NDArray[np.float32], shift: NDArray[np.float32]) -> None:
        """``F + scale * body(F) + shift`` as ``F + body(F)``."""
        weights = self._weights
        weights[f"{ours}.body.2.weight"] = weights[f"{ours}.body.2.weight"] * scale[:, None, None, None]
        weights[f"{ours}.body.2.bias"] = weights[f"{ours}.body.2.bias"] * scale + shift

    def _guide(
        self, guider: str, features: NDArray[np.float32], channels: Sequence[int]
    ) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Each stage's scale and shift, ``(rows, C)``; of a guider that is switched off 1 and 0."""
        if f"{guider}.mlp.0.weight" not in self._stored:
            ones = [np.ones((len(features), count), np.float32) for count in channels]
            return [(one, np.zeros_like(one)) for one in ones]
        vectors = self._run_layers(f"{guider}.mlp", features)
        pieces = np.split(vectors, np.cumsum(np.repeat(channels, 2))[:-1], axis=1)
        return [(1 + pieces[2 * stage], pieces[2 * stage + 1]) for stage in range(len(channels))]

    def _run_layers(self, name: str, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Linear layers with a ReLU between them, at even places of a sequence."""
        for layer in range(0, 5, 2):
            if f"{name}.{layer}.weight" in self._stored:
                rows = np.maximum(rows, 0) if layer else rows
                rows = rows @ self._stored[f"{name}.{layer}.weight"].T + self._stored[f"{name}.{layer}.bias"]
        return rows


def _fold_detail(weights: Weights) -> None:
    """See ``models.dagn.Detail``: the way to amplified YCbCr becomes one matrix, the way back part of the tail."""
    weights["detail.weight"] = (RGB_TO_YCC * _DETAIL_GAIN[:, None])[..., None, None].astype(np.float32)
    for part in ("weight", "bias"):
        tail = weights[f"tail.{part}"]
        planes = tail.reshape(3, -1)  # of each colour all phases of the pixel-shuffle, and what belongs to them
        weights[f"tail.{part}"] = (YCC_TO_RGB.astype(np.float32) @ planes).reshape(tail.shape)
