"""What every engine makes of a model: compiled graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Arrays", "ChosenPrecision", "Device", "Graph", "Precision", "Runtime"]

Runtime = Literal["openvino", "onnxruntime"]

Device = Literal["cpu", "gpu", "npu", "cuda", "directml", "coreml"]
"""``gpu`` and ``npu`` are OpenVINO's, the last three ONNX Runtime's; both run on the CPU."""

ChosenPrecision = Literal["full", "bf16", "int8"]
"""Of the convolutions of ``restore``: float32, 16-bit brain floats, or most of them in 8-bit integers."""

Precision = Literal["auto", ChosenPrecision]
"""``auto`` is what is fastest on this machine, as measured once: see ``unjpeg.precision``."""

Arrays = list[NDArray[np.float32]]
Graph = Callable[[Mapping[str, NDArray[np.float32]]], Arrays]
"""A compiled graph: arrays by name to its outputs. A network without guidance has no inputs for it."""
