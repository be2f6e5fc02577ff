"""Which engine runs a model, and at which precision.

A module per engine has one function that compiles a model file's two graphs. It is imported when it is first needed:
engines are large, and not all are installed.
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Final, get_args

from unjpeg.errors import ModelError
from unjpeg.modelfile import ModelFile
from unjpeg.runtimes.graph import (
    NO_TORCH_GPU,
    Arrays,
    ChosenPrecision,
    Foldable,
    Graph,
    PixelGraph,
    Precision,
    Runtime,
)

__all__ = [
    "BF16_FEATURES",
    "Arrays",
    "ChosenPrecision",
    "Foldable",
    "Graph",
    "PixelGraph",
    "Precision",
    "Runtime",
    "check_engine",
    "choose_engine",
    "compile_graphs",
    "default_runtime",
    "processor_features",
]

_NO_TORCH = "the torch runtime needs the extra: pip install 'unjpeg[train]'"

BF16_FEATURES: Final = frozenset({"amx_bf16", "avx512_bf16"})
"""Of a processor that multiplies 16-bit brain floats, by Linux's names."""


def choose_engine(
    file: ModelFile, runtime: Runtime | None, device: str, precision: Precision
) -> tuple[Runtime, ChosenPrecision]:
    """The runtime and the precision that ``Model`` takes for these arguments.

    In OpenVINO ``auto`` is bf16 on processors that multiply it, int8 on others with VNNI if the file has it, and full
    elsewhere; the other runtimes run at full precision.

    Raises:
        ModelError: they do not go together.
    """
    if runtime not in (None, *get_args(Runtime)):
        raise ModelError(f"runtime must be one of {', '.join(get_args(Runtime))}, got {runtime!r}")
    if device not in ("cpu", "cuda"):
        raise ModelError(f"device must be cpu or cuda, got {device!r}")
    if precision not in get_args(Precision):
        raise ModelError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
    chosen = runtime or default_runtime(device)
    if device != "cpu" and chosen == "openvino":
        raise ModelError(f"the openvino runtime runs on the cpu only; use onnxruntime or torch for {device}")
    if precision == "auto":
        if chosen != "openvino":
            return chosen, "full"
        features = processor_features()
        if features & BF16_FEATURES:
            return chosen, "bf16"
        rounded = file.restore_int8 and features & {"avx512_vnni", "avx_vnni"}
        return chosen, "int8" if rounded else "full"
    if precision != "full" and chosen != "openvino":
        raise ModelError(f"{precision} is for the openvino runtime; {chosen} runs at full precision")
    if precision == "int8" and file.restore_int8 is None:
        raise ModelError(f"the model {file.description.name} has no int8 graph; leave the precision at auto")
    if precision == "bf16" and not processor_features() & BF16_FEATURES:
        raise ModelError("this processor does not multiply bf16, as far as the system tells; run at full precision")
    return chosen, precision


def default_runtime(device: str) -> Runtime:
    """What runs on a device unless something else is asked for."""
    return "openvino" if device == "cpu" else "onnxruntime"


def check_engine(runtime: Runtime, device: str) -> None:
    """Find out now, not with the first picture, whether the engine is there. Loads it for a GPU only.

    Raises:
        ModelError: it is not installed, or has no such device.
    """
    if runtime == "torch":
        if importlib.util.find_spec("torch") is None:
            raise ModelError(_NO_TORCH)
        if device == "cuda":
            import torch

            if not torch.cuda.is_available():
                raise ModelError(NO_TORCH_GPU)
    elif runtime == "onnxruntime" and device == "cuda":
        from unjpeg.runtimes.onnxruntime import check_onnxruntime

        check_onnxruntime(device)
    elif importlib.util.find_spec(runtime) is None:
        raise ModelError(f"the {runtime} runtime is not installed; try: pip install {runtime}")


def compile_graphs(
    file: ModelFile, runtime: Runtime, device: str, threads: int | None, precision: ChosenPrecision
) -> tuple[Graph, Graph]:
    """The graphs ``guide`` (always in float32) and ``restore`` of a file, ready to run.

    Raises:
        ModelError: the runtime is not installed, or has no such device. Engines raise errors of their own besides.
    """
    if runtime == "torch":
        try:
            from unjpeg.runtimes.torch import compile_torch
        except ImportError as error:
            raise ModelError(_NO_TORCH) from error
        return compile_torch(file, device, threads)
    if runtime == "onnxruntime":
        from unjpeg.runtimes.onnxruntime import compile_onnxruntime

        return compile_onnxruntime(file.guide, device, threads), compile_onnxruntime(file.restore, device, threads)
    from unjpeg.runtimes.openvino import compile_openvino

    return compile_openvino(file.guide, threads, "full"), compile_openvino(file.restore, threads, precision)


@cache
def processor_features() -> frozenset[str]:
    """The processor's instruction sets by Linux's names; none where the system does not tell."""
    try:
        facts = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return frozenset()
    flags = re.search(r"^flags\s*:(.*)$", facts, re.MULTILINE)
    return frozenset(flags[1].split()) if flags else frozenset()
