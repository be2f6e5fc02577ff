"""A model file's network in PyTorch, for GPUs: channels last, half precision, sizes that repeat as CUDA graphs.

Needs the extra ``train``. On a CPU it computes in float32, as a reference; OpenVINO is faster there.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unjpeg.errors import ModelError
from unjpeg.modelfile import ModelFile
from unjpeg.models.exported import Guide, Restore, load_exported
from unjpeg.runtimes.graph import NO_TORCH_GPU, Arrays, Graph

__all__ = ["compile_torch"]

CAPTURED_SHAPES = 4
"""CUDA graphs kept of a network: inner tile, those at the right and bottom edges, corner. Each holds its own memory."""

_WARM_UPS = 3
"""Runs before a capture, in which libraries choose their algorithms: torch's documentation of CUDA graphs."""


def compile_torch(file: ModelFile, device: str, threads: int | None) -> tuple[Graph, Graph]:
    """The graphs ``guide`` and ``restore`` of a model file.

    Args:
        device: "cpu" or "cuda".
        threads: CPU threads, of the whole process; None leaves it as it is.

    Raises:
        ModelError: there is no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError(NO_TORCH_GPU)
    if threads:
        torch.set_num_threads(threads)
    network = load_exported(file).requires_grad_(False)
    network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return _graph(Guide(network), ("image",), device), _graph(Restore(network), Restore.inputs, device)


def _graph(module: nn.Module, names: tuple[str, ...], device: str) -> Graph:
    captured: OrderedDict[tuple[int, ...], _Captured] = OrderedDict()
    lock = threading.Lock()  # one set of buffers per shape

    def run(inputs: Mapping[str, NDArray[np.float32]]) -> Arrays:
        tensors = [torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in names]
        with lock, torch.inference_mode():
            if device == "cpu":
                return _arrays(module(*tensors))
            shape = tuple(tensors[0].shape)
            if shape not in captured:
                if len(captured) == CAPTURED_SHAPES:
                    captured.popitem(last=False)
                captured[shape] = _Captured(module, [_on_gpu(tensor) for tensor in tensors])
            captured.move_to_end(shape)
            return captured[shape](tensors)

    return run


class _Captured:
    """A network's work on inputs of one shape, recorded once and played again: without Python, and without launches."""

    def __init__(self, module: nn.Module, inputs: list[Tensor]) -> None:
        self._inputs = inputs
        # Weights are cast inside the graph: autocast's own cache would be freed under it.
        with torch.autocast("cuda", torch.float16, cache_enabled=False):
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UPS):
                    module(*inputs)
            torch.cuda.current_stream().wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._outputs = module(*inputs)

    def __call__(self, inputs: list[Tensor]) -> Arrays:
        for held, new in zip(self._inputs, inputs, strict=True):
            held.copy_(new)
        self._graph.replay()
        return _arrays(self._outputs)


def _on_gpu(tensor: Tensor) -> Tensor:
    moved = tensor.cuda()
    return moved.contiguous(memory_format=torch.channels_last) if moved.ndim == 4 else moved


def _arrays(outputs: object) -> Arrays:
    tensors = outputs if isinstance(outputs, tuple) else (outputs,)
    return [tensor.float().cpu().numpy() for tensor in tensors]
