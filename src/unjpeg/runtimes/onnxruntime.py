"""ONNX Runtime: NVIDIA's GPUs, and CPUs where OpenVINO is not to be had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unjpeg.errors import ModelError
from unjpeg.runtimes.graph import Arrays, Graph

__all__ = ["compile_onnxruntime"]


def compile_onnxruntime(graph: bytes, device: str, threads: int | None) -> Graph:
    """A graph on a CPU ("cpu") or a GPU ("cuda"). Raises ModelError if that is not there."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError("ONNX Runtime is not installed; try: pip install onnxruntime") from error
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
    if provider not in onnxruntime.get_available_providers():
        raise ModelError(f"this build of ONNX Runtime has no {provider}; try: pip install onnxruntime-gpu")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(graph, options, providers=[provider])
    names = [node.name for node in session.get_inputs()]

    def run(inputs: Mapping[str, NDArray[np.float32]]) -> Arrays:
        outputs: Sequence[Any] = session.run(None, {name: inputs[name] for name in names})
        return list(outputs)

    return run
