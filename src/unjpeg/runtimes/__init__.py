"""Which engine runs a model, and at which precision.

A module per engine has one function that compiles a model file's two graphs. It is imported when it is first needed:
engines are large, and not all are installed.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final, get_args

from unjpeg.errors import ModelError
from unjpeg.modelfile import ModelFile
from unjpeg.runtimes.graph import (
    Arrays,
    ChosenPrecision,
    Device,
    Graph,
    PixelGraph,
    Precision,
    Runtime,
    Shapeable,
)

__all__ = [
    "BF16_FEATURES",
    "Arrays",
    "ChosenPrecision",
    "Device",
    "Graph",
    "PixelGraph",
    "Precision",
    "Runtime",
    "Shapeable",
    "check_engine",
    "choose_engine",
    "compile_guide",
    "compile_restore",
    "default_runtime",
    "holds_halves",
    "list_devices",
    "list_precisions",
    "processor_features",
]

BF16_FEATURES: Final = frozenset({"amx_bf16", "avx512_bf16"})
"""Of a processor that multiplies 16-bit brain floats, by Linux's names."""

_DEVICES: Final[Mapping[Runtime, tuple[Device, ...]]] = {
    "openvino": ("cpu", "gpu", "npu"),
    "onnxruntime": ("cpu", "cuda", "directml", "coreml"),
}
"""What each runtime may find to run on."""


def choose_engine(
    file: ModelFile, runtime: Runtime | None, device: str, precision: Precision
) -> tuple[Runtime, ChosenPrecision]:
    """The runtime and the precision that ``Model`` takes for these arguments.

    ``auto`` is here what is fixed, for where nothing was measured: with OpenVINO on a CPU bf16 on processors with AMX,
    int8 on others with VNNI if the file has it, and full elsewhere. ``unjpeg.precision`` measures what is faster.

    Raises:
        ModelError: they do not go together.
    """
    if runtime not in (None, *get_args(Runtime)):
        raise ModelError(f"runtime must be one of {', '.join(get_args(Runtime))}, got {runtime!r}")
    if device not in get_args(Device):
        raise ModelError(f"device must be one of {', '.join(get_args(Device))}, got {device!r}")
    if precision not in get_args(Precision):
        raise ModelError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
    chosen = runtime or default_runtime(device)
    if device not in _DEVICES[chosen]:
        raise ModelError(f"the {chosen} runtime does not run on {device}; use runtime={default_runtime(device)}")
    if device == "npu" and (file.restore_int8 is None or precision not in ("auto", "int8")):
        raise ModelError(
            f"an npu computes in 8-bit integers: it needs precision int8, and a model with an int8 graph "
            f"({file.description.name} has {'one' if file.restore_int8 is not None else 'none'})"
        )
    if precision == "auto":
        return chosen, _fixed_precision(file, chosen, device)
    if precision != "full" and chosen != "openvino":
        raise ModelError(f"{precision} is for the openvino runtime; {chosen} runs at full precision")
    if precision == "int8" and file.restore_int8 is None:
        raise ModelError(f"the model {file.description.name} has no int8 graph; leave the precision at auto")
    if precision == "bf16" and device != "cpu":
        raise ModelError(f"bf16 is for the cpu; a {device} runs at full precision, or in int8")
    if precision == "bf16" and not _multiplies_bf16():
        raise ModelError("this processor does not multiply bf16, as far as the system tells; run at full precision")
    return chosen, precision


def _fixed_precision(file: ModelFile, runtime: Runtime, device: str) -> ChosenPrecision:
    if runtime != "openvino" or device == "gpu":
        return "full"
    if device == "npu":
        return "int8"
    features = processor_features()
    if "amx_bf16" in features:
        return "bf16"
    # Without AMX bf16 is on some processors twice as fast as full, and on others half as fast.
    return "int8" if file.restore_int8 is not None and features & {"avx512_vnni", "avx_vnni"} else "full"


def list_precisions(file: ModelFile, runtime: Runtime, device: str) -> tuple[ChosenPrecision, ...]:
    """Those that the file has and the runtime takes there, as far as can be told without trying; most exact first."""
    if device == "npu":
        return ("int8",)
    rounded: tuple[ChosenPrecision, ...] = ("int8",) if file.restore_int8 is not None else ()
    if runtime != "openvino":
        return ("full",)
    return ("full", "bf16", *rounded) if device == "cpu" and _multiplies_bf16() else ("full", *rounded)


def default_runtime(device: str) -> Runtime:
    """What runs on a device unless something else is asked for."""
    return "openvino" if device in _DEVICES["openvino"] else "onnxruntime"


def list_devices() -> dict[Runtime, list[Device]]:
    """What each installed runtime finds to run on, here. Loads them all."""
    found: dict[Runtime, list[Device]] = {}
    for runtime, devices in _DEVICES.items():
        for device in devices:
            with suppress(ModelError):
                check_engine(runtime, device)
                found.setdefault(runtime, []).append(device)
    return found


def check_engine(runtime: Runtime, device: str) -> None:
    """Find out now, not with the first picture, whether the engine is there. Loads it for other devices than the CPU.

    Raises:
        ModelError: it is not installed, or has no such device.
    """
    if device == "cpu":
        if importlib.util.find_spec(runtime) is None:
            raise ModelError(f"the {runtime} runtime is not installed; try: pip install {runtime}")
    elif runtime == "onnxruntime":
        from unjpeg.runtimes.onnxruntime import check_onnxruntime

        check_onnxruntime(device)
    else:
        from unjpeg.runtimes.openvino import check_openvino

        check_openvino(device)


def compile_guide(graph: bytes, runtime: Runtime, device: str, threads: int | None) -> Graph:
    """A file's graph ``guide``, ready to run, in float32 wherever the device computes in that.

    Raises:
        ModelError: the runtime is not installed, or has no such device. Engines raise errors of their own besides.
    """
    if runtime == "onnxruntime":
        from unjpeg.runtimes.onnxruntime import compile_onnxruntime

        return compile_onnxruntime(graph, device, threads)
    from unjpeg.runtimes.openvino import compile_openvino

    # An NPU has no float32, and the guide is small: the processor beside it takes no time that counts.
    return compile_openvino(graph, "cpu" if device == "npu" else device, threads, "full")


def compile_restore(
    file: ModelFile, runtime: Runtime, device: str, threads: int | None, precision: ChosenPrecision
) -> Graph:
    """The graph ``restore`` of a file for a precision, ready to run. Raises as ``compile_guide``."""
    graph = (file.restore_int8 or b"") if precision == "int8" else file.restore
    if runtime == "onnxruntime":
        from unjpeg.runtimes.onnxruntime import compile_onnxruntime

        return compile_onnxruntime(graph, device, threads)
    from unjpeg.runtimes.openvino import compile_openvino

    # Beside integers 16-bit floats are all that is needed: half the memory, a tenth of the time.
    features = "bf16" if device == "cpu" and holds_halves(precision) else precision
    return compile_openvino(graph, device, threads, features)


@cache
def processor_features() -> frozenset[str]:
    """The processor's instruction sets by Linux's names; none where the system does not tell."""
    try:
        facts = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return frozenset()
    flags = re.search(r"^flags\s*:(.*)$", facts, re.MULTILINE)
    return frozenset(flags[1].split()) if flags else frozenset()


def holds_halves(precision: ChosenPrecision) -> bool:
    """Whether features are 16-bit floats: in bf16, and beside integers on processors that multiply those."""
    return precision == "bf16" or (precision == "int8" and _multiplies_bf16())


def _multiplies_bf16() -> bool:
    """Asks the runtime, which takes a moment to load, only where the system does not tell."""
    features = processor_features()
    if features:
        return bool(features & BF16_FEATURES)
    from unjpeg.runtimes.openvino import multiplies_bf16

    return multiplies_bf16()
