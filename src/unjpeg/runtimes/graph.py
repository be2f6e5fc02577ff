"""What every engine makes of a model: compiled graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["NO_TORCH_GPU", "Arrays", "ChosenPrecision", "Foldable", "Graph", "Precision", "Runtime"]

Runtime = Literal["openvino", "onnxruntime", "torch"]

ChosenPrecision = Literal["full", "bf16", "int8"]
"""Of the convolutions of ``restore``: float32, 16-bit brain floats, or most of them in 8-bit integers."""

Precision = Literal["auto", ChosenPrecision]
"""``auto`` is what is fastest on this processor, if the file has it: see ``choose_engine``."""

Arrays = list[NDArray[np.float32]]


class Graph(Protocol):
    """A compiled graph: arrays by name to its outputs. A network without guidance has no inputs for it."""

    def __call__(self, inputs: Mapping[str, NDArray[np.float32]], /) -> Arrays: ...


@runtime_checkable
class Foldable(Protocol):
    """A graph that can be compiled once more for some work alone, which then is less."""

    def fold(self, constants: Mapping[str, NDArray[np.float32]], shapes: Mapping[str, tuple[int, ...]]) -> Graph:
        """The same with these inputs as constants, and the others of these shapes alone; raises what the engine raises.

        It takes and gives what the graph does; constants that it is given are not looked at.
        """
        ...


NO_TORCH_GPU = 'this torch finds no GPU; check the driver, or use device="cpu"'
