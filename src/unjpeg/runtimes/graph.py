"""What every engine makes of a model: compiled graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Arrays", "ChosenPrecision", "Device", "Graph", "PixelGraph", "Precision", "Runtime", "Shapeable"]

Runtime = Literal["openvino", "onnxruntime"]

Device = Literal["cpu", "gpu", "npu", "cuda", "directml", "coreml"]
"""``gpu`` and ``npu`` are OpenVINO's, the last three ONNX Runtime's; both run on the CPU."""

ChosenPrecision = Literal["full", "bf16", "int8"]
"""Of the convolutions of ``restore``: float32, 16-bit brain floats, or most of them in 8-bit integers."""

Precision = Literal["auto", ChosenPrecision]
"""``auto`` is what is fastest on this machine, as measured once: see ``unjpeg.precision``."""

Arrays = list[NDArray[np.float32]]


class Graph(Protocol):
    """A compiled graph: arrays by name to its outputs. A network without guidance has no inputs for it."""

    def __call__(self, inputs: Mapping[str, NDArray[np.float32]], /) -> Arrays: ...


class PixelGraph(Protocol):
    """A compiled graph from a tile's pixels, ``(H, W, 3)`` uint8, and other inputs by name to the restored ones.

    These are float32, range 0..255 but not clipped to it. Inputs that the graph lacks are not looked at.
    """

    def __call__(
        self, pixels: NDArray[np.uint8], inputs: Mapping[str, NDArray[np.float32]], /
    ) -> NDArray[np.float32]: ...


@runtime_checkable
class Shapeable(Protocol):
    """A graph ``restore`` that can be compiled once more for tiles of one shape alone, which then are less work."""

    def of_shape(self, shape: tuple[int, int]) -> PixelGraph:
        """The same for tiles of so many rows and columns. Raises what the engine raises."""
        ...
