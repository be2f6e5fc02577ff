"""Runs an exported model: ``guide`` once per image, ``restore`` on every tile.

A model file (``.unjpeg``) is a zip archive of ``model.json``, ``guide.onnx``, ``restore.onnx``,
``quality_features.npy`` and, where they were made, ``calibration.npy`` and ``restore-int8.onnx``. The graphs are
checked against the hashes in ``model.json`` before a runtime sees them.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import io
import json
import os
import re
import sys
import textwrap
import threading
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from unjpeg.errors import ModelError
from unjpeg.jpeg import STATED_FEATURES, standard_table, stated_features, transposed_stated
from unjpeg.output import put_in_place
from unjpeg.projection import Calibration

__all__ = [
    "BF16_FEATURES",
    "FORMAT_VERSION",
    "ChosenPrecision",
    "Guidance",
    "Model",
    "ModelFile",
    "Precision",
    "Runtime",
    "chosen_engine",
    "model_names",
    "processor_features",
    "shipped_models",
]

FORMAT_VERSION = 1
SUFFIX = ".unjpeg"

# What zipfile, json and numpy raise over damaged files; RuntimeError is an archive that claims to be encrypted.
_UNREADABLE = (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, LookupError, ValueError, TypeError)

_GRAPHS = ("guide", "restore", "restore_int8")
_INT8 = "restore-int8.onnx"
_NEEDED = ("name", "guide_window", "total_stride", "quality_levels")

SELF_ENSEMBLES: Final[Mapping[str, tuple[str, int]]] = {"best": ("default", 4)}
"""Names under which shipped models are always run as a self-ensemble: the model, and the passes."""

BF16_FEATURES: Final = frozenset({"amx_bf16", "avx512_bf16"})
"""Of a processor that multiplies 16-bit brain floats, by Linux's names."""

Runtime = Literal["openvino", "onnxruntime", "torch"]

ChosenPrecision = Literal["full", "bf16", "int8"]
"""Of the convolutions of ``restore``: float32, 16-bit brain floats, or most of them in 8-bit integers."""

Precision = Literal["auto", ChosenPrecision]
"""``auto`` is what is fastest on this processor, if the file has it: see ``chosen_engine``."""

Arrays = list[NDArray[np.float32]]
Graph = Callable[[Mapping[str, NDArray[np.float32]]], Arrays]
"""A compiled graph: arrays by name to its outputs. A network without guidance has no inputs for it."""


@dataclass(frozen=True, slots=True)
class Guidance:
    """What an image as a whole tells the network (DAGN, section III-B).

    Attributes:
        insensitive, sensitive: globally averaged features, ``(1, C)``.
        fusion: the cross-feature fusion's matrix, ``(1, B, B)``.
        stated: what the file states of its compression, ``(1, STATED_FEATURES)``: see ``unjpeg.jpeg.stated_features``.
            Zeros where nothing is: see ``stating``. Models that were trained without do not look at it.
        quality_probabilities: of the quality factors 1..100, read from the pixels, ``(100,)``.
    """

    insensitive: NDArray[np.float32]
    sensitive: NDArray[np.float32]
    fusion: NDArray[np.float32]
    stated: NDArray[np.float32]
    quality_probabilities: NDArray[np.float32]

    def stating(self, quality: int, *, grey: bool = False) -> Guidance:
        """That of a file with libjpeg's tables of a quality: of this one's chroma sampling, or 4:2:0 if none is stated.

        Args:
            grey: that a file of which nothing is stated has no chroma.
        """
        known = bool(self.stated.any())
        grey = not self.stated[0, 64:130].any() if known else grey
        chroma = None if grey else standard_table(quality, chroma=True)
        stated = stated_features(standard_table(quality), chroma, (2, 2))[None]
        if known:
            stated[0, 128:] = self.stated[0, 128:]
        return replace(self, stated=stated)

    def transposed(self) -> Guidance:
        """That of the picture with rows and columns exchanged: what is stated goes with them."""
        return replace(self, stated=transposed_stated(self.stated))

    @property
    def quality(self) -> int:
        """The quality factor that the pixels look like, 1..100: the distribution's median."""
        return int(np.searchsorted(np.cumsum(self.quality_probabilities), 0.5)) + 1


@dataclass(frozen=True)
class ModelFile:
    """A model file's contents, not yet loaded into a runtime.

    Attributes:
        description: ``model.json``: name, versions, hashes, network configuration, training data, metrics.
        guide, restore: the two ONNX graphs, serialised.
        quality_features: mean sensitive features of the validation pictures compressed at each of
            ``description["quality_levels"]``, ``(levels, C)``.
        calibration: how far its work is to be trusted, if that was measured; its qualities are
            ``description["calibration_levels"]``.
        restore_int8: ``restore`` once more, most of its convolutions in 8-bit integers, if that was made.
    """

    description: dict[str, Any]
    guide: bytes
    restore: bytes
    quality_features: NDArray[np.float32]
    calibration: Calibration | None = None
    restore_int8: bytes | None = None

    @classmethod
    def read(cls, name_or_path: str | Path) -> ModelFile:
        """Open a shipped model by name, or any model file by path.

        Raises:
            ModelError: it does not exist, is damaged, or was made for another version of this program.
        """
        name = str(name_or_path)
        shipped, passes = SELF_ENSEMBLES.get(name, (name, 1))
        source = shipped_models().get(shipped, Path(name))
        if not os.path.isfile(source):  # Path.is_file raises for names that are too long
            known = ", ".join(model_names())
            raise ModelError(f"{name}: no such model; shipped are: {known}; or give the path of a {SUFFIX} file")
        try:
            with zipfile.ZipFile(io.BytesIO(source.read_bytes())) as archive:
                description = json.loads(archive.read("model.json"))
                guide, restore = archive.read("guide.onnx"), archive.read("restore.onnx")
                features = np.load(io.BytesIO(archive.read("quality_features.npy")), allow_pickle=False)
                calibration = _read_calibration(archive, description)
                restore_int8 = archive.read(_INT8) if _INT8 in archive.namelist() else None
            version = description["format_version"]
            graphs = {"guide": guide, "restore": restore}
            if restore_int8 is not None:
                graphs["restore_int8"] = restore_int8
            hashes = {part: description["sha256"][part] for part in graphs}
        except _UNREADABLE as error:
            raise ModelError(f"{name}: is not a readable model file ({_reason(error)})") from error
        if version != FORMAT_VERSION:
            raise ModelError(f"{name}: has format {version}, this version of unjpeg reads format {FORMAT_VERSION}")
        absent = [key for key in _NEEDED if key not in description]
        if absent:
            raise ModelError(f"{name}: is not a readable model file (its description lacks {', '.join(absent)})")
        for part, data in graphs.items():
            if hashlib.sha256(data).hexdigest() != hashes[part]:
                raise ModelError(f"{name}: is damaged (the graph {part!r} does not match its hash)")
        if passes > 1:
            description |= {"name": name, "passes": passes}
        return cls(description, guide, restore, features.astype(np.float32), calibration, restore_int8)

    def write(self, path: Path) -> None:
        """Write the archive, whole or not at all; equal contents give equal bytes. Raises OutputError."""
        features = io.BytesIO()
        np.save(features, self.quality_features.astype(np.float16), allow_pickle=False)
        members = {
            "model.json": json.dumps(self.description, indent=2).encode(),
            "guide.onnx": self.guide,
            "restore.onnx": self.restore,
            "quality_features.npy": features.getvalue(),
        }
        if self.calibration:
            shares = io.BytesIO()
            np.save(shares, self.calibration.shares_L22288.astype(np.float16), allow_pickle=False)
            members["calibration.npy"] = shares.getvalue()
        if self.restore_int8 is not None:
            members[_INT8] = self.restore_int8
        archive_bytes = io.BytesIO()
        with zipfile.ZipFile(archive_bytes, "w", zipfile.ZIP_STORED) as archive:
            for name, data in members.items():
                archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
        put_in_place(path, archive_bytes.getvalue(), overwrite=True)

    @property
    def hash(self) -> str:
        """Identifies what it computes: a hash over the graphs, the calibration, and whether it is a self-ensemble."""
        parts = self.description["sha256"]
        digest = hashlib.sha256("".join(parts[part] for part in _GRAPHS if part in parts).encode())
        if self.calibration:
            digest.update(self.calibration.shares_L22288.astype(np.float16).tobytes())
        if self.passes > 1:
            digest.update(f"self-ensemble of {self.passes}".encode())
        return digest.hexdigest()[:16]

    @property
    def passes(self) -> int:
        """Over how many flips (4), or flips and rotations (8), it always takes the mean; 1 is a plain model."""
        return int(self.description.get("passes", 1))

    def without_graphs(self) -> ModelFile:
        """All but the bytes that a runtime has compiled, which may be hundreds of megabytes."""
        return replace(self, guide=b"", restore=b"", restore_int8=None)

    def calibrated(self, calibration: Calibration) -> ModelFile:
        """The same with another calibration."""
        description = {**self.description, "calibration_levels": list(calibration.qualities)}
        return replace(self, description=description, calibration=calibration)


def _read_calibration(archive: zipfile.ZipFile, description: dict[str, Any]) -> Calibration | None:
    """Raises ValueError if it is not what it must be."""
    if "calibration.npy" not in archive.namelist():
        return None
    levels = tuple(int(level) for level in description["calibration_levels"])
    shares = np.load(io.BytesIO(archive.read("calibration.npy")), allow_pickle=False)
    if shares.ndim == 5:  # of older files: one share for both halves of a cell
        shares = np.stack([shares, shares], axis=3)
    if shares.shape != (len(levels), 2, 2, 2, 8, 8) or len(levels) < 2 or not (np.diff(levels) > 0).all():
        raise ValueError("its calibration does not fit its levels")
    if not ((shares >= 0).all() and (shares.sum(axis=3) <= 2).all()):
        raise ValueError("its calibration leaves the cells")
    return Calibration(levels, shares.astype(np.float32))


class Model:
    """A model file loaded into a runtime. Safe to use from several threads.

    Args:
        file: the contents.
        runtime: "openvino" (the default on CPUs), "onnxruntime" (the default on GPUs) or "torch"; None chooses.
        device: "cpu", or "cuda" for the first GPU.
        threads: CPU threads; None leaves it to the runtime.
        precision: see ``Precision``. The guide always runs in float32.

    Attributes:
        precision: the one that was chosen.

    Raises:
        ModelError: the runtime is not installed, or cannot run on that device or at that precision.
    """

    def __init__(
        self,
        file: ModelFile,
        *,
        runtime: Runtime | None = None,
        device: str = "cpu",
        threads: int | None = None,
        precision: Precision = "auto",
    ) -> None:
        self.runtime, self.precision = chosen_engine(file, runtime, device, precision)
        self.file = file.without_graphs()
        if self.precision == "int8":
            assert file.restore_int8 is not None
            file = replace(file, restore=file.restore_int8)
        try:
            self._guide, self._restore = _COMPILERS[self.runtime](file, device, threads, self.precision)
        except ModelError:
            raise
        except Exception as error:  # the runtimes' own, RuntimeError for most
            name = file.description["name"]
            raise ModelError(f"{self.runtime} cannot load the model {name} ({_reason(error)})") from error

    @property
    def guide_window(self) -> int:
        """Side in pixels of the windows that ``guide`` takes."""
        return int(self.file.description["guide_window"])

    @property
    def total_stride(self) -> int:
        """Sides of the tiles that ``restore`` takes must be multiples of this."""
        return int(self.file.description["total_stride"])

    @cached_property
    def _quality_levels(self) -> NDArray[np.float64]:
        return np.asarray(self.file.description["quality_levels"], np.float64)

    def guide(self, windows: NDArray[np.float32], stated: NDArray[np.float32] | None = None) -> Guidance:
        """Guidance of an image from some of its windows, features averaged over them.

        Args:
            windows: ``(N, 3, guide_window, guide_window)``, range 0..1, each starting on the 8x8 grid.
            stated: what its file states, ``(STATED_FEATURES,)``, if there is one.
        """
        if stated is None:
            stated = np.zeros(STATED_FEATURES, np.float32)
        # One window at a time: memory stays flat, and no graph is compiled anew for another count.
        outputs = [self._guide({"image": window[None]}) for window in windows]
        insensitive, sensitive, fusion, quality = (
            np.stack([output[i] for output in outputs]).mean(axis=0, dtype=np.float32) for i in range(4)
        )
        return Guidance(insensitive, sensitive, fusion, stated[None], quality[0])

    def shifted(self, guidance: Guidance, quality: int) -> Guidance:
        """The guidance of the same image had it looked like ``quality``: lower asks for more smoothing.

        Moves the sensitive features by the difference of their mean over pictures of both qualities, and has the file
        state the standard tables of that quality.
        """
        shift = self._mean_features(quality) - self._mean_features(guidance.quality)
        return replace(guidance, sensitive=guidance.sensitive + shift).stating(quality)

    def _mean_features(self, quality: int) -> NDArray[np.float32]:
        levels = self._quality_levels
        position = float(np.interp(quality, levels, np.arange(len(levels))))
        low = min(int(position), len(levels) - 2)
        weight = np.float32(position - low)
        features = self.file.quality_features
        mixed: NDArray[np.float32] = features[low] * (1 - weight) + features[low + 1] * weight
        return mixed

    def restore(self, tile: NDArray[np.float32], guidance: Guidance) -> NDArray[np.float32]:
        """One restored tile, not clipped.

        Args:
            tile: ``(1, 3, H, W)``, range 0..1, sides multiples of ``total_stride``, starting on the 8x8 grid.
        """
        named = {
            "image": tile,
            "insensitive": guidance.insensitive,
            "sensitive": guidance.sensitive,
            "fusion": guidance.fusion,
            "stated": guidance.stated,
        }
        return self._restore(named)[0]


def chosen_engine(
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
    chosen: Runtime = runtime or ("openvino" if device == "cpu" else "onnxruntime")
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
        raise ModelError(f"the model {file.description['name']} has no int8 graph; leave the precision at auto")
    if precision == "bf16" and not processor_features() & BF16_FEATURES:
        raise ModelError("this processor does not multiply bf16, as far as the system tells; run at full precision")
    return chosen, precision


@cache
def processor_features() -> frozenset[str]:
    """The processor's instruction sets by Linux's names; none where the system does not tell."""
    try:
        facts = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return frozenset()
    flags = re.search(r"^flags\s*:(.*)$", facts, re.MULTILINE)
    return frozenset(flags[1].split()) if flags else frozenset()


def _reason(error: Exception) -> str:
    """In one line of bearable length: some of these messages quote the file."""
    return textwrap.shorten(str(error), 200) or type(error).__name__


def shipped_models() -> dict[str, Path]:
    """Names and files of the models that come with the package."""
    folder = Path(str(importlib.resources.files("unjpeg"))) / "weights"
    return {file.stem: file for file in sorted(folder.glob(f"*{SUFFIX}"))}


def model_names() -> list[str]:
    """All that ``ModelFile.read`` takes beside paths: a file may have two names."""
    return sorted([*shipped_models(), *SELF_ENSEMBLES])


def _compile_torch(
    file: ModelFile,
    device: str,
    threads: int | None,
    precision: ChosenPrecision,  # noqa: ARG001 (full)
) -> tuple[Graph, Graph]:
    try:
        from unjpeg.torch_runtime import compile_torch
    except ImportError as error:
        raise ModelError("the torch runtime needs the extra: pip install 'unjpeg[train]'") from error
    return compile_torch(file, device, threads)


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


def _compile_openvino(
    graph: bytes,
    device: str,  # noqa: ARG001 (both runtimes compile through one signature)
    threads: int | None,
    precision: ChosenPrecision,
) -> Graph:
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
    if threads:
        # Not pinned: several processes that share a machine would all take its first cores.
        settings |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
    facts = (core.get_property("CPU", name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES"))
    cache = _compiled_graphs(openvino.__version__, *map(str, facts))
    with _ONE_AT_A_TIME:  # OpenVINO sets the process's locale while it reads a graph: two at once would leave it at C
        model = core.read_model(graph, b"")
        try:
            compiled = core.compile_model(model, "CPU", settings | ({"CACHE_DIR": str(cache)} if cache else {}))
        except RuntimeError:
            if cache is None:
                raise
            compiled = core.compile_model(model, "CPU", settings)  # a full disk, say
    requests = threading.local()  # a request holds buffers: one per thread
    names = [node.get_any_name() for node in compiled.inputs]

    def run(inputs: Mapping[str, NDArray[np.float32]]) -> Arrays:
        if not hasattr(requests, "request"):
            requests.request = compiled.create_infer_request()
        results = requests.request.infer([inputs[name] for name in names])
        return [np.array(results[i]) for i in range(len(compiled.outputs))]

    return run


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


def _compile_onnxruntime(
    graph: bytes,
    device: str,
    threads: int | None,
    precision: ChosenPrecision,  # noqa: ARG001 (full)
) -> Graph:
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


def _both(
    compile_graph: Callable[[bytes, str, int | None, ChosenPrecision], Graph],
    file: ModelFile,
    device: str,
    threads: int | None,
    precision: ChosenPrecision,
) -> tuple[Graph, Graph]:
    return compile_graph(file.guide, device, threads, "full"), compile_graph(file.restore, device, threads, precision)


_COMPILERS: Mapping[Runtime, Callable[[ModelFile, str, int | None, ChosenPrecision], tuple[Graph, Graph]]] = {
    "openvino": partial(_both, _compile_openvino),
    "onnxruntime": partial(_both, _compile_onnxruntime),
    "torch": _compile_torch,
}
"""What compiles the graphs ``guide`` and ``restore`` of a file."""
