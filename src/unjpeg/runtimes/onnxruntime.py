"""ONNX Runtime: graphics cards by their makers' own libraries, and CPUs where OpenVINO is not to be had."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unjpeg.errors import ModelError
from unjpeg.machine import allowed_cores
from unjpeg.runtimes.graph import Arrays, Graph

__all__ = ["check_onnxruntime", "compile_onnxruntime"]


class _Provider(NamedTuple):
    """What ONNX Runtime calls a device, how it is set up, and the package that has it."""

    name: str
    package: str
    settings: Mapping[str, str] = {}


_PROVIDERS: Final = {
    "cpu": _Provider("CPUExecutionProvider", "onnxruntime"),
    # Full precision is float32: cards would else round what they multiply to 10 bits.
    "cuda": _Provider("CUDAExecutionProvider", "onnxruntime-gpu", {"use_tf32": "0"}),
    "directml": _Provider("DmlExecutionProvider", "onnxruntime-directml"),
    # The other format that Apple's library knows computes in 16-bit floats.
    "coreml": _Provider("CoreMLExecutionProvider", "onnxruntime", {"ModelFormat": "MLProgram"}),
}


def check_onnxruntime(device: str) -> None:
    """Raises ModelError if it is not there for a device: "cpu", "cuda", "directml" or "coreml"."""
    provider = _PROVIDERS[device]
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(f"ONNX Runtime is not installed; try: pip install {provider.package}") from error
    if provider.name not in onnxruntime.get_available_providers():
        way_out = {
            "coreml": "it is part of onnxruntime on macOS",
            "directml": "on Windows, try: pip install onnxruntime-directml",
        }.get(device, f"try: pip install {provider.package}")
        raise ModelError(f"{device} is not in this build of ONNX Runtime (no {provider.name}); {way_out}")


def compile_onnxruntime(graph: bytes, device: str, threads: int | None) -> Graph:
    """A graph on a device: "cpu", "cuda", "directml" or "coreml". Raises ModelError if that is not there."""
    check_onnxruntime(device)
    import onnxruntime

    provider = _PROVIDERS[device]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    cores = allowed_cores()
    if threads or cores < (os.cpu_count() or 1):
        options.intra_op_num_threads = threads or cores
    if device == "directml":  # it asks for both
        options.enable_mem_pattern = False
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    session = onnxruntime.InferenceSession(graph, options, providers=[(provider.name, dict(provider.settings))])
    if provider.name not in session.get_providers():  # it goes on without, and says so in its log alone
        raise ModelError(f"{device} cannot be started here: its driver or libraries are missing; or use device=cpu")
    names = [node.name for node in session.get_inputs()]
    alone = threading.Lock() if device == "directml" else nullcontext()  # whose sessions run one thing at a time

    def run(inputs: Mapping[str, NDArray[np.float32]]) -> Arrays:
        with alone:
            outputs: Sequence[Any] = session.run(None, {name: inputs[name] for name in names})
        return list(outputs)

    return run
