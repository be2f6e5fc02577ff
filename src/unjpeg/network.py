"""Runs a model: ``guide`` once per image, ``restore`` on every tile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from unjpeg.errors import ModelError
from unjpeg.modelfile import ModelFile, shorten_reason
from unjpeg.runtimes import PixelGraph, Precision, Runtime, Shapeable, choose_engine, compile_guide, compile_restore
from unjpeg.tables import STATED_FEATURES, standard_table, stated_features, transposed_stated

__all__ = ["SHAPED_PIXELS", "Guidance", "Model", "Shaped", "inputs_of", "to_network"]

P = ParamSpec("P")
T = TypeVar("T")

SHAPED_PIXELS = 1_000_000
"""For as many it pays to compile a graph for tiles of their shape: it saves a tenth to a half of the work. The first
time that takes what some pictures of this size save; then it lies on the disk. Smaller pictures come in too many
shapes. A fixed shape takes two thirds of the memory besides."""


class Shaped(NamedTuple):
    """The graph for tiles of one shape alone, ``(rows, columns)``."""

    graph: PixelGraph
    shape: tuple[int, int]


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


class Model:
    """A model file loaded into a runtime. Safe to use from several threads.

    Args:
        file: the contents.
        runtime: "openvino" or "onnxruntime"; None chooses by the device.
        device: "cpu"; "gpu" or "npu" of OpenVINO; "cuda", "directml" or "coreml" of ONNX Runtime.
        threads: CPU threads; None leaves it to the runtime.
        precision: see ``Precision``; ``auto`` is the fixed default of ``choose_engine``. The guide runs in float32.
        else_full: run at full precision where the engine does not take that one; with ``auto`` always.

    Attributes:
        precision: the one that it runs at.

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
        else_full: bool = False,
    ) -> None:
        self.runtime, self.precision = choose_engine(file, runtime, device, precision)
        self.file = file.without_graphs()
        self._shaped: Shaped | None = None  # the last one, which may hold a tile's buffers
        self._shaping = threading.Lock()
        attempts = [self.precision]
        if (precision == "auto" or else_full) and self.precision != "full" and device != "npu":
            # The engine may be kept from instructions that the processor has (ONEDNN_MAX_CPU_ISA, a hypervisor). Not
            # int8 after bf16: without VNNI its sums saturate.
            attempts.append("full")
        for attempt in attempts:
            self.precision = attempt
            try:
                self._guide = compile_guide(file.guide, self.runtime, device, threads)
                self._restore = compile_restore(file, self.runtime, device, threads, attempt)
                break
            except ModelError:
                raise
            except Exception as error:  # the runtimes' own, RuntimeError for most
                if attempt == attempts[-1]:
                    raise self._load_failure(error) from error
        self._device, self._threads = device, threads

    def with_weights_of(self, file: ModelFile) -> Model:
        """The same network with a file's weights of ``restore``, at this one's precision. The guide is this one's.

        Raises:
            ModelError: they cannot be loaded.
        """
        other = copy(self)
        other.file, other._shaped, other._shaping = file.without_graphs(), None, threading.Lock()
        try:
            other._restore = compile_restore(file, self.runtime, self._device, self._threads, self.precision)
        except ModelError:
            raise
        except Exception as error:  # the runtimes' own, RuntimeError for most
            raise self._load_failure(error) from error
        return other

    def _load_failure(self, error: Exception) -> ModelError:
        name = self.file.description.name
        return ModelError(f"{self.runtime} cannot load the model {name} ({shorten_reason(error)})")

    def _run(self, graph: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
        """Raises ModelError where the engine fails: instructions that it is kept from, memory, threads."""
        try:
            return graph(*arguments, **keywords)
        except (MemoryError, ModelError):
            raise
        except Exception as error:  # the runtimes' own, RuntimeError for most
            raise self._failure(shorten_reason(error)) from error

    def _failure(self, reason: str) -> ModelError:
        hint = '; runtime="onnxruntime" may' if self.runtime == "openvino" else ""
        return ModelError(f"{self.runtime} cannot run the model {self.file.description.name} here ({reason}){hint}")

    @property
    def guide_window(self) -> int:
        """Side in pixels of the windows that ``guide`` takes."""
        return self.file.description.guide_window

    @property
    def total_stride(self) -> int:
        """Sides of the tiles that ``restore`` takes must be multiples of this."""
        return self.file.description.total_stride

    @cached_property
    def _quality_levels(self) -> NDArray[np.float64]:
        return np.asarray(self.file.description.quality_levels, np.float64)

    def guide(self, windows: NDArray[np.float32], stated: NDArray[np.float32] | None = None) -> Guidance:
        """Guidance of an image from some of its windows, features averaged over them.

        Args:
            windows: ``(N, 3, guide_window, guide_window)``, range 0..1, each starting on the 8x8 grid.
            stated: what its file states, ``(STATED_FEATURES,)``, if there is one.
        """
        if stated is None:
            stated = np.zeros(STATED_FEATURES, np.float32)
        # One window at a time: memory stays flat, and no graph is compiled anew for another count.
        outputs = [self._run(self._guide, {"image": window[None]}) for window in windows]
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

    def shaped(self, shape: tuple[int, int], pixels: int) -> Shaped | None:
        """The graph for tiles of a shape alone, where that pays; None where all go through the common one.

        Whether it does is a question of the picture alone, so that its pixels are the same every time.

        Args:
            shape: rows and columns of the tiles, multiples of ``total_stride``. Tiles that an ensemble turns by a right
                angle have another, unless they are square.
            pixels: of all the tiles, each time they are restored.
        """
        if pixels < SHAPED_PIXELS or not isinstance(self._restore, Shapeable):
            return None
        with self._shaping:
            if self._shaped is None or self._shaped.shape != shape:
                self._shaped = None  # its memory may be needed
                try:
                    self._shaped = Shaped(self._restore.of_shape(shape), shape)
                except Exception as error:  # the runtimes' own, RuntimeError for most
                    raise self._failure(shorten_reason(error)) from error
            return self._shaped

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
        restored = self._run(self._restore, {"image": tile} | inputs_of(guidance))[0]
        if restored.shape != tile.shape:  # OpenVINO, kept from instructions, may give nothing and say nothing
            raise self._failure(f"it gave a tile of {restored.shape} for one of {tile.shape}")
        return restored

    def restore_pixels(
        self, pixels: NDArray[np.uint8], guidance: Guidance, shaped: Shaped | None = None
    ) -> NDArray[np.float32]:
        """One restored tile as it lies in memory.

        Args:
            pixels: ``(H, W)`` or ``(H, W, 3)``; sides and start as ``restore``.
            shaped: the graph for tiles of one shape, which those of others do not go through.

        Returns:
            ``(H, W, 3)``, range 0..255 but not clipped to it.
        """
        if shaped and shaped.shape == pixels.shape[:2]:
            return self._run(shaped.graph, np.ascontiguousarray(_in_colour(pixels)), inputs_of(guidance))
        planes = self.restore(to_network(pixels), guidance)[0] * np.float32(255)
        restored: NDArray[np.float32] = planes.transpose(1, 2, 0)
        return restored


def inputs_of(guidance: Guidance) -> dict[str, NDArray[np.float32]]:
    """What the graph ``restore`` takes beside the image, by its names."""
    return {name: getattr(guidance, name) for name in ("insensitive", "sensitive", "fusion", "stated")}


def to_network(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """``(H, W)`` or ``(H, W, 3)`` uint8 to ``(1, 3, H, W)`` float32, range 0..1."""
    planes = np.ascontiguousarray(_in_colour(pixels).transpose(2, 0, 1)[None], np.float32)
    planes *= np.float32(1 / 255)
    return planes


def _in_colour(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey in three equal channels."""
    return np.broadcast_to(pixels[..., None], (*pixels.shape, 3)) if pixels.ndim == 2 else pixels
