"""OpenVINO: CPUs, which is the default, and Intel's GPUs and NPUs where it finds them."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unjpeg.errors import ModelError
from unjpeg.machine import FORCED_INSTRUCTIONS, allowed_cores, make_cache_folder
from unjpeg.runtimes.graph import Arrays, ChosenPrecision, Graph, PixelGraph
from unjpeg.runtimes.rewrite import interpolate_by_convolution, take_bytes

__all__ = ["check_openvino", "compile_openvino", "multiplies_bf16", "open_core"]

COMPILED_SHAPES = 4
"""Kept of a graph on an NPU, which takes one shape each: inner tile, those at the right and bottom edges, corner."""

_SHAPEABLE_BYTES = 64_000_000
"""Of a graph that is kept to be compiled for shapes of tiles. In larger ones nothing but the convolutions counts."""

_MOST_KEPT_BYTES = 500_000_000
"""Of the compiled graphs on disk, of one version and processor. Those that were last used longest ago make room."""

_FORGETFUL = {"CPU_RUNTIME_CACHE_CAPACITY": 0}
"""What is prepared for one size of picture is not kept for the next: they come in any size, and memory grew with each
(docs/robustness.md). Preparing anew takes no time that can be measured."""

_ONE_AT_A_TIME = threading.Lock()


def open_core() -> Any:
    """The one of this process, for ever.

    Each core gives its thread a stack for signals and, when it ends, puts back the one that it found, which may have
    ended too (OpenVINO 2026.4): the next signal with a handler, a Ctrl-C for instance, would be a segmentation fault.
    """
    try:
        import openvino  # noqa: F401
    except ImportError as error:
        raise ModelError("the openvino runtime is not installed; try: pip install openvino") from error
    with _ONE_AT_A_TIME:
        return _first_core()


@cache
def _first_core() -> Any:
    import openvino

    return openvino.Core()


def check_openvino(device: str) -> None:
    """Raises ModelError if OpenVINO is not installed, or finds no such device: "cpu", "gpu" or "npu"."""
    found = sorted({name.partition(".")[0].lower() for name in open_core().available_devices})
    if device not in found:
        raise ModelError(
            f"OpenVINO finds no {device} here, only {', '.join(found) or 'nothing'}: "
            f"is its driver installed? or use device=cpu"
        )


def multiplies_bf16() -> bool:
    """Whether OpenVINO says so of this processor. Raises ModelError if it is not installed."""
    return "BF16" in open_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def compile_openvino(graph: bytes, device: str, threads: int | None, precision: ChosenPrecision) -> Graph:
    """A graph on a device: "cpu", "gpu" or "npu".

    Args:
        threads: of the CPU; None takes all cores.
        precision: of what is not in integers; what is, the graph says. An NPU takes int8 alone.

    Raises:
        ModelError: OpenVINO is not installed, or finds no such device. Else what OpenVINO raises.
    """
    core = open_core()
    if device != "cpu":
        check_openvino(device)
    target = device.upper()
    settings = _settings(device, threads, precision)
    cache = _compiled_graphs(core, target)
    # Not mapped: another process may write the same file anew, and what is cut off under a map ends the process.
    kept: dict[str, Any] = {"CACHE_DIR": str(cache), "ENABLE_MMAP": False} if cache else {}

    # OpenVINO sets the process's locale while it reads a graph: two at once would leave it at C.
    with _ONE_AT_A_TIME:
        model = core.read_model(graph, b"")
    if device == "npu":

        def compile_shape(shape: tuple[int, ...]) -> Any:
            of_shape = model.clone()
            of_shape.reshape({"image": list(shape)})
            return _compile(core, of_shape, target, settings, kept)

        return _ShapeByShape(compile_shape)
    if device != "cpu":
        return _Compiled(_compile(core, model, target, settings, kept))
    interpolate_by_convolution(model)
    compiled = _compile(core, model, target, settings, kept)
    return _Reshapeable(compiled, model, settings, kept) if len(graph) <= _SHAPEABLE_BYTES else _Compiled(compiled)


def _settings(device: str, threads: int | None, precision: ChosenPrecision) -> dict[str, Any]:
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if device != "npu":  # what it does not do in integers it does in 16-bit floats
        # The runtime's own choice is bf16 wherever the processor has it; here it does as it is told.
        settings["INFERENCE_PRECISION_HINT"] = "bf16" if precision == "bf16" else "f32"
    if device != "cpu":
        return settings
    cores = allowed_cores()
    if threads is None and cores < (os.cpu_count() or 1):
        threads = cores  # the runtime sees neither quotas nor, in all versions, affinities
    if threads:
        # Not pinned: several processes that share a machine would all take its first cores.
        settings |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
    return settings


def _compile(core: Any, model: Any, target: str, settings: dict[str, Any], kept: dict[str, Any]) -> Any:
    """``kept`` are settings that the graph does without, if need be."""
    with _ONE_AT_A_TIME:
        try:
            return core.compile_model(model, target, settings | (_FORGETFUL if target == "CPU" else {}) | kept)
        except RuntimeError:  # a full disk, say, or a version that does not know of forgetting
            return core.compile_model(model, target, settings)


class _Compiled:
    """A compiled graph, for several threads."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._requests = threading.local()  # a request holds buffers: one per thread
        self._names = [node.get_any_name() for node in compiled.inputs]

    def __call__(self, inputs: Mapping[str, NDArray[np.float32]], /) -> Arrays:
        if not hasattr(self._requests, "request"):
            self._requests.request = self._compiled.create_infer_request()
        results = self._requests.request.infer([inputs[name] for name in self._names])
        return [np.array(results[i]) for i in range(len(self._compiled.outputs))]


class _Reshapeable(_Compiled):
    """A compiled graph, and what it was compiled of."""

    def __init__(self, compiled: Any, model: Any, settings: dict[str, Any], kept: dict[str, Any]) -> None:
        super().__init__(compiled)
        self._model, self._settings, self._kept = model, settings, kept

    def of_shape(self, shape: tuple[int, int]) -> PixelGraph:
        model = self._model.clone()
        model.reshape({"image": [1, 3, *shape]})
        take_bytes(model, "image")
        if hasattr(self._compiled, "release_memory"):  # the buffers of what came before, which may be a tile's
            self._compiled.release_memory()
        compiled = _compile(open_core(), model, "CPU", self._settings, self._kept)
        if self._kept:
            _forget_oldest(Path(self._kept["CACHE_DIR"]), _MOST_KEPT_BYTES)
        return _PixelGraph(compiled)


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


class _ShapeByShape:
    """A graph on what computes one shape only: compiled for each that comes, the last few of them kept."""

    def __init__(self, compile_shape: Callable[[tuple[int, ...]], Any]) -> None:
        self._compile_shape = compile_shape
        self._compiled: OrderedDict[tuple[int, ...], _Compiled] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, inputs: Mapping[str, NDArray[np.float32]], /) -> Arrays:
        shape = inputs["image"].shape
        with self._lock:
            if shape not in self._compiled:
                if len(self._compiled) == COMPILED_SHAPES:
                    self._compiled.popitem(last=False)
                self._compiled[shape] = _Compiled(self._compile_shape(shape))
            self._compiled.move_to_end(shape)
            graph = self._compiled[shape]
        return graph(inputs)


def _forget_oldest(folder: Path, most_bytes: int) -> None:
    """Delete the files of a folder that were used longest ago until the rest is no larger than that.

    What cannot be deleted stays.
    """
    files = []
    with suppress(OSError):
        for file in folder.iterdir():
            with suppress(OSError):  # gone in the meantime
                stat = file.stat()
                files.append((max(stat.st_atime, stat.st_mtime), stat.st_size, file))
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if total <= most_bytes:
            break
        with suppress(OSError):
            file.chmod(0o600)  # the runtime writes them read-only, and such files Windows does not delete
            file.unlink()
        total -= size


def _compiled_graphs(core: Any, target: str) -> Path | None:
    """A folder where the runtime keeps what it compiled, so that the next process need not; None if there can be none.

    There is one for each runtime and device. It may be deleted at any time: the runtime tells graphs and settings apart
    by itself, and compiles anew what it cannot read.
    """
    import openvino

    facts = [core.get_property(target, name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
    # What a process compiles that is kept from some instructions is not for others: the runtime does not tell.
    forced = [os.environ[name] for name in FORCED_INSTRUCTIONS if name in os.environ]
    # A home may be shared by machines with other processors.
    name = hashlib.sha256("\n".join(map(str, [openvino.__version__, *facts, *forced])).encode()).hexdigest()[:16]
    return make_cache_folder(f"openvino-{name}")
