"""OpenVINO on a CPU: the default."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unjpeg.errors import ModelError
from unjpeg.machine import allowed_cores
from unjpeg.runtimes.graph import Arrays, ChosenPrecision, Graph, PixelGraph
from unjpeg.runtimes.rewrite import fold_constants, interpolate_by_convolution, take_bytes

__all__ = ["compile_openvino"]

_FOLDABLE_BYTES = 64_000_000
"""Of a graph that is kept to be folded. In larger ones nothing but the convolutions counts."""

_FORGETFUL = {"CPU_RUNTIME_CACHE_CAPACITY": 0}
"""What is prepared for one size of picture is not kept for the next: they come in any size, and memory grew with each
(docs/robustness.md). Preparing anew takes no time that can be measured."""

_ONE_AT_A_TIME = threading.Lock()


def _openvino_core() -> Any:
    """The one of this process, for ever.

    Each core gives its thread a stack for signals and, when it ends, puts back the one that it found, which may have
    ended too (OpenVINO 2026.4): the next signal with a handler, a Ctrl-C for instance, would be a segmentation fault.
    """
    with _ONE_AT_A_TIME:
        return _first_openvino_core()


@cache
def _first_openvino_core() -> Any:
    import openvino

    return openvino.Core()


def compile_openvino(graph: bytes, threads: int | None, precision: ChosenPrecision) -> Graph:
    """A graph on the CPU. Raises ModelError if OpenVINO is not installed, else what OpenVINO raises."""
    try:
        import openvino
    except ImportError as error:
        raise ModelError("the openvino runtime is not installed; try: pip install openvino") from error
    core = _openvino_core()
    # The runtime's own choice is bf16 wherever the processor has it; here it does as it is told.
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }
    cores = allowed_cores()
    if threads is None and cores < (os.cpu_count() or 1):
        threads = cores  # the runtime sees neither quotas nor, in all versions, affinities
    if threads:
        # Not pinned: several processes that share a machine would all take its first cores.
        settings |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
    with _ONE_AT_A_TIME:  # OpenVINO sets the process's locale while it reads a graph: two at once would leave it at C
        model = core.read_model(graph, b"")
    interpolate_by_convolution(model)
    facts = (core.get_property("CPU", name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES"))
    # What a process compiles that is kept from some instructions is not for others: the runtime does not tell.
    forced = (os.environ[name] for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA") if name in os.environ)
    cache = _compiled_graphs(openvino.__version__, *map(str, facts), *forced)
    compiled = _compile(core, model, settings | ({"CACHE_DIR": str(cache)} if cache else {}), settings)
    return _Graph(compiled, model if len(graph) <= _FOLDABLE_BYTES else None, settings)


def _compile(core: Any, model: Any, settings: dict[str, Any], simpler: dict[str, Any]) -> Any:
    with _ONE_AT_A_TIME:
        try:
            return core.compile_model(model, "CPU", settings | _FORGETFUL)
        except RuntimeError:  # a full disk, say, or a version that does not know of forgetting
            return core.compile_model(model, "CPU", simpler)


class _Graph:
    """A compiled graph, and what it was compiled of."""

    def __init__(self, compiled: Any, model: Any, settings: dict[str, Any]) -> None:
        self._compiled, self._model, self._settings = compiled, model, settings
        self._requests = threading.local()  # a request holds buffers: one per thread
        self._names = [node.get_any_name() for node in compiled.inputs]

    def __call__(self, inputs: Mapping[str, NDArray[np.float32]], /) -> Arrays:
        if not hasattr(self._requests, "request"):
            self._requests.request = self._compiled.create_infer_request()
        results = self._requests.request.infer([inputs[name] for name in self._names])
        return [np.array(results[i]) for i in range(len(self._compiled.outputs))]

    def fold(self, constants: Mapping[str, NDArray[np.float32]], shape: tuple[int, int]) -> PixelGraph | None:
        if self._model is None:
            return None
        model = self._model.clone()
        fold_constants(model, constants)
        model.reshape({"image": [1, 3, *shape]})
        take_bytes(model, "image")
        if hasattr(self._compiled, "release_memory"):  # the buffers of what came before, which may be a tile's
            self._compiled.release_memory()
        # Not kept on disk: no other picture has such a graph.
        return _PixelGraph(_compile(_openvino_core(), model, self._settings, self._settings))


class _PixelGraph:
    """A graph that reads and writes the caller's arrays themselves."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._requests = threading.local()
        self._names = [node.get_any_name() for node in compiled.inputs]

    def __call__(self, pixels: NDArray[np.uint8], inputs: Mapping[str, NDArray[np.float32]], /) -> NDArray[np.float32]:
        import openvino

        if not hasattr(self._requests, "request"):
            self._requests.request = self._compiled.create_infer_request()
        given: dict[str, Any] = {**inputs, "image": pixels[None]}
        restored = np.empty(pixels.shape, np.float32)
        self._requests.request.set_output_tensor(openvino.Tensor(restored[None], shared_memory=True))
        self._requests.request.infer([given[name] for name in self._names], share_inputs=True)
        return restored


def _compiled_graphs(*machine: str) -> Path | None:
    """A folder where the runtime keeps what it compiled, so that the next process need not; None if there can be none.

    There is one for each runtime and processor that ``machine`` describes. It may be deleted at any time: the runtime
    tells graphs and settings apart by itself, and compiles anew what it cannot read.
    """
    variable, default = ("LOCALAPPDATA", "AppData/Local") if sys.platform == "win32" else ("XDG_CACHE_HOME", ".cache")
    # A home may be shared by machines with other processors.
    name = hashlib.sha256("\n".join(machine).encode()).hexdigest()[:16]
    try:
        base = Path(os.environ.get(variable) or Path.home() / default)
        if not base.is_absolute():
            return None
        folder = base / "unjpeg" / f"openvino-{name}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home
        return None
    return folder if os.access(folder, os.W_OK) else None
