"""ONNX Runtime: NVIDIA's GPUs, and CPUs where OpenVINO is not to be had."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unjpeg.errors import ModelError
from unjpeg.machine import allowed_cores
from unjpeg.runtimes.graph import Arrays, Graph

__all__ = ["check_onnxruntime", "compile_onnxruntime"]


_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def check_onnxruntime(device: str) -> None:
    """Raises ModelError if it is not there for a CPU ("cpu") or a GPU ("cuda")."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError("ONNX Runtime is not installed; try: pip install onnxruntime") from error
    if _PROVIDERS[device] not in onnxruntime.get_available_providers():
        raise ModelError(f"this build of ONNX Runtime has no {_PROVIDERS[device]}; try: pip install onnxruntime-gpu")


def compile_onnxruntime(graph: bytes, device: str, threads: int | None) -> Graph:
    """A graph on a CPU ("cpu") or a GPU ("cuda"). Raises ModelError if that is not there."""
    check_onnxruntime(device)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    cores = allowed_cores()
    if threads or cores < (os.cpu_count() or 1):
        options.intra_op_num_threads = threads or cores
    session = onnxruntime.InferenceSession(graph, options, providers=[_PROVIDERS[device]])
    names = [node.name for node in session.get_inputs()]

    def run(inputs: Mapping[str, NDArray[np.float32]]) -> Arrays:
        outputs: Sequence[Any] = session.run(None, {name: inputs[name] for name in names})
        return list(outputs)

    return run
