"""START HERE: the whole way from a file's bytes to the restored picture.

::

    read_picture ─▶ guide ─▶ restore ─▶ strength ─▶ project ─▶ round ─▶ rows, strip by strip ─▶ write_image
     picture.py     network.py                    projection.py                                   output.py
                             └────────────── tile by tile ──────────────┘

``Restorer.begin`` decodes and guides; its ``Restoration`` restores while it writes, so that beside the decoded picture
only one tile is held in floating point and one strip of the result. ``Restorer.restore`` holds the whole result.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from unjpeg.errors import ModelError, OutputError
from unjpeg.jpeg import DEFAULT_LIMITS, Limits
from unjpeg.metadata import Metadata
from unjpeg.network import ChosenPrecision, Guidance, Model, ModelFile, Precision, Runtime, chosen_engine
from unjpeg.output import Pixels, Rows, format_of, write_image
from unjpeg.picture import Picture, Source, read_picture
from unjpeg.projection import Trust, project

__all__ = [
    "MAX_GUIDE_WINDOWS",
    "WHOLE_ENSEMBLE",
    "ConsistencyPolicy",
    "NetworkOutput",
    "Report",
    "Restoration",
    "Restored",
    "Restorer",
    "guide_windows",
    "looks_compressed_twice",
    "restore",
    "shared_restorer",
    "upright",
]

T = TypeVar("T")

ConsistencyPolicy = Literal["auto", "strict", "off"]

_Tiles = Iterator[tuple[slice, NDArray[np.float32]]]
"""(columns, float32 pixels 0..255) of the tiles side by side in some rows, from left to right."""

TILE_CORE = 1440
"""Side of the part of a tile that is kept, at most. A multiple of 32: whole blocks at every chroma sampling, whole
strides."""

TILE_MEMORY_BYTES = 570_000_000
"""What the network may hold of one tile, about: wide networks get smaller tiles, down to the smallest core."""

CORE_IN_HALOS = 5
"""Side of the smallest core, in halos: no network, however wide, computes much more than twice the picture. It may
take more than ``TILE_MEMORY_BYTES`` for that: docs/robustness.md."""

HALOS: Mapping[ChosenPrecision, int] = {"full": 96, "bf16": 160, "int8": 192}
"""Pixels around the core that a tile sees and that are thrown away, by the network's precision: rounding makes whole
steps of small differences, and carries them further. Chosen by measurement: docs/results.md."""

WHOLE_ENSEMBLE: Final = 8
"""Passes of a whole self-ensemble: all flips and rotations."""

TURNED_MULTIPLE = 32
"""Sides of a tile that is flipped and turned: whole blocks at every chroma sampling, as ``TILE_CORE``, so that blocks
come to lie on blocks."""

PROJECTED_ROWS = 64
"""Rows projected at once: a multiple of 32, as ``TILE_CORE``."""

_DTYPES: dict[int, np.dtype[np.uint8] | np.dtype[np.uint16]] = {8: np.dtype(np.uint8), 16: np.dtype(np.uint16)}

MAX_GUIDE_WINDOWS = 32
"""Windows that guidance is averaged over: all of a small picture, an even sample of a large one. A model file may ask
for fewer: beside a small network they are much of the work."""

DOUBLE_COMPRESSION_RATIO = 0.6
"""Below this share of the stated quality the pixels look compressed twice: docs/how-it-works.md."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was done.

    Attributes:
        stated_quality: that the file's quantisation tables state; None for a blind restoration.
        read_quality: that the network read from the pixels; None at strength 0, where no network ran.
        guided_quality: that guided the restoration.
        projected: whether the result was moved into the file's quantisation cells.
        notes: what a user should know, one sentence each.
        tta: whether it is the mean over flips, or over flips and rotations.
        precision: of the network's convolutions, "full", "bf16" or "int8"; None at strength 0.
    """

    name: str
    width: int
    height: int
    model: str | None
    model_hash: str | None
    strength: float
    stated_quality: int | None
    read_quality: int | None
    guided_quality: int | None
    projected: bool
    notes: tuple[str, ...] = ()
    tta: bool = False
    precision: ChosenPrecision | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored picture.

    Attributes:
        pixels: ``(H, W)``, ``(H, W, 2)``, ``(H, W, 3)`` or ``(H, W, 4)``, uint8 or uint16 at full range; alpha last.
        metadata: as the source had it.
        report: what was done.
    """

    pixels: Pixels
    metadata: Metadata
    report: Report

    def save(
        self,
        target: str | Path | BinaryIO,
        *,
        format: str | None = None,
        quality: int | None = None,
        overwrite: bool = False,
        strip: bool = False,
    ) -> None:
        """Write the picture, whole or not at all, with its metadata.

        Args:
            target: a path or a binary stream.
            format: "png", "jpeg", "webp" or "tiff"; by default what the path's suffix says, PNG for a stream.
            quality: of JPEG (95 if not given) and WebP (lossless if not given), 1..100.
            overwrite: replace an existing file.
            strip: leave out all metadata, and turn the pixels the way that the orientation tag says.

        Raises:
            OutputError: it cannot be written there, or not in that format.
        """
        _save(Rows.of(self.pixels), self.metadata, target, format, quality, overwrite, strip, None)


@dataclass(frozen=True, slots=True)
class NetworkOutput:
    """What the network makes of one picture; strength, consistency and bit depth are chosen after it, again and again.

    Attributes:
        picture: the picture.
        pixels: ``(H, W)`` or ``(H, W, 3)`` as the picture's (of a salvaged one: its sound rows), float32, range 0..255
            but not clipped to it.
        read_quality: that the network read from the pixels.
        guided_quality: that guided it.
        tta: whether it is the mean over flips, or over flips and rotations.
    """

    picture: Picture
    pixels: NDArray[np.float32]
    read_quality: int
    guided_quality: int
    tta: bool = False


class Restoration:
    """A picture that is decoded and guided. Its rows are restored when they are asked for, once.

    Attributes:
        metadata: as the source has it.
        report: what is done.
    """

    metadata: Metadata
    report: Report

    def __init__(self, picture: Picture, rows: Rows, report: Report) -> None:
        self.metadata, self.report = picture.metadata, report
        self._rows: Rows | None = rows

    def finish(self) -> Restored:
        """The whole picture."""
        return Restored(self._taken().whole(), self.metadata, self.report)

    def save(
        self,
        target: str | Path | BinaryIO,
        *,
        format: str | None = None,
        quality: int | None = None,
        overwrite: bool = False,
        strip: bool = False,
        about_to_place: Callable[[], None] | None = None,
    ) -> None:
        """Restore and write; PNG and TIFF as the rows are finished. Arguments and errors as ``Restored.save``.

        Args:
            about_to_place: called when the file is complete, before it appears under its name.
        """
        _save(self._taken(), self.metadata, target, format, quality, overwrite, strip, about_to_place)

    def _taken(self) -> Rows:
        if self._rows is None:
            raise ValueError("its rows have been taken already")
        rows, self._rows = self._rows, None
        return rows


def _save(
    rows: Rows,
    metadata: Metadata,
    target: str | Path | BinaryIO,
    format: str | None,
    quality: int | None,
    overwrite: bool,
    strip: bool,
    about_to_place: Callable[[], None] | None,
) -> None:
    if isinstance(target, str):
        target = Path(target)
    if format is None:
        format = format_of(target) if isinstance(target, Path) else "png"
    if format is None:
        raise OutputError(f"{target}: name a format, or a file that ends in .png, .jpg, .webp or .tiff")
    if strip:
        if metadata.orientation != 1:
            rows = Rows.of(upright(rows.whole(), metadata.orientation))
        metadata = Metadata()
    height, width = rows.shape[:2]
    metadata = metadata.with_size(width, height).without_thumbnail()
    write_image(
        target, rows, metadata, format=format, quality=quality, overwrite=overwrite, about_to_place=about_to_place
    )


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """The picture as EXIF's orientation, 1..8, says that it is to be seen. Shape: ``(H, W)`` or ``(H, W, C)``."""
    if orientation in (2, 4, 5, 7):
        pixels = pixels[:, ::-1]
    turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]  # quarter turns counter-clockwise
    turned: Pixels = np.rot90(pixels, turns)
    return turned


class Restorer:
    """A loaded model, ready to restore any number of pictures, also from several threads.

    Args:
        model: a shipped model's name ("fast", "default", or "best" for the latter's self-ensemble), a model file's
            path, or a model file that has been read.
        runtime: "openvino", "onnxruntime" or "torch"; None chooses by the device.
        device: "cpu", or "cuda" through ONNX Runtime or torch.
        threads: CPU threads; None uses all cores.
        precision: "full" computes in float32, "bf16" in 16-bit floats, "int8" most convolutions in 8-bit integers;
            "auto" is what model and processor are made for: see ``unjpeg.network.chosen_engine``.
        limits: what a file may ask for; what asks for more is refused, from the header.

    Attributes:
        model_file: what the model's file says; its graphs are let go once they are compiled.

    Raises:
        ModelError: the model or the runtime is not there, or does not run at that precision.
    """

    model_file: ModelFile

    def __init__(
        self,
        model: str | Path | ModelFile = "default",
        *,
        runtime: Runtime | None = None,
        device: str = "cpu",
        threads: int | None = None,
        precision: Precision = "auto",
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.model_file = model if isinstance(model, ModelFile) else ModelFile.read(model)
        chosen_engine(self.model_file, runtime, device, precision)
        self._limits = limits
        self._load: Callable[[], Model] = lambda: Model(
            self.model_file, runtime=runtime, device=device, threads=threads, precision=precision
        )
        self._model: Model | None = None
        self._lock = threading.Lock()

    @property
    def model(self) -> Model:
        """The model in its runtime, compiled on first use."""
        with self._lock:
            if self._model is None:
                model = self._load()
                halo = HALOS[model.precision]
                if halo % model.total_stride or TILE_CORE % model.total_stride:
                    raise ModelError(
                        f"{self.model_file.description['name']}: its total stride of {model.total_stride} does not "
                        f"divide the tiles' {TILE_CORE} and {halo} pixels"
                    )
                self._model = model
                self.model_file = self.model_file.without_graphs()
            return self._model

    def restore(
        self,
        source: Source,
        *,
        strength: float = 1.0,
        quality: int | None = None,
        consistency: ConsistencyPolicy = "auto",
        bit_depth: Literal[8, 16] = 8,
        salvage: bool = False,
        tta: bool = False,
        progress: Callable[[float], None] | None = None,
    ) -> Restored:
        """Restore one picture.

        Args:
            source: a path, bytes, a stream, or (blind: without what only a JPEG file knows) a Pillow image or an array.
            strength: 0 (the decoded pixels, exactly) to 1; between, a mixture.
            quality: guide the restoration as if the picture looked like this quality factor, 1..100: lower smooths
                more. By default what the network reads from the pixels.
            consistency: "strict" moves the result into the file's quantisation cells, "off" does not, "auto" does
                unless the pixels look like an earlier, stronger compression that the file does not speak of.
            bit_depth: of the result, 8 or 16.
            salvage: restore what decodes of a damaged JPEG, without its cells. Rows that are missing stay grey.
            tta: self-ensemble (test-time augmentation): the mean over the eight flips and rotations of every tile.
                Eight times the network's work.
            progress: called with the finished share, 0..1, after each strip.

        Raises:
            BadImageError: the source cannot be read or restored.
            ModelError: the model cannot run.
            ValueError: an option is out of its range.
        """
        return self.begin(
            source,
            strength=strength,
            quality=quality,
            consistency=consistency,
            bit_depth=bit_depth,
            salvage=salvage,
            tta=tta,
            progress=progress,
        ).finish()

    def begin(
        self,
        source: Source,
        *,
        strength: float = 1.0,
        quality: int | None = None,
        consistency: ConsistencyPolicy = "auto",
        bit_depth: Literal[8, 16] = 8,
        salvage: bool = False,
        tta: bool = False,
        progress: Callable[[float], None] | None = None,
    ) -> Restoration:
        """Decode and guide a picture, to be restored while it is saved. Arguments and errors as ``restore``."""
        _check_options(strength, quality, consistency, bit_depth)
        passes = WHOLE_ENSEMBLE if tta else self.model_file.passes
        picture = read_picture(source, limits=self._limits, salvage_damaged=salvage)
        if strength == 0:
            return self._restoration(picture, None, None, None, 0, "off", bit_depth, False, progress)
        guidance, read = self._guidance(picture, quality)
        sound = picture.pixels[: picture.sound_rows]
        return self._restoration(
            picture,
            self._tiles_ahead(sound, guidance, passes),
            read,
            read if quality is None else quality,
            strength,
            consistency,
            bit_depth,
            passes > 1,
            progress,
        )

    def run_network(self, picture: Picture, *, quality: int | None = None, tta: bool = False) -> NetworkOutput:
        """The slow part of ``restore`` alone, for pictures that are finished more than once.

        Args:
            quality, tta: as for ``restore``.

        Raises:
            ModelError: the model cannot run.
            ValueError: the quality is out of its range.
        """
        _check_options(1.0, quality, "auto", 8)
        passes = WHOLE_ENSEMBLE if tta else self.model_file.passes
        guidance, read = self._guidance(picture, quality)
        sound = picture.pixels[: picture.sound_rows]
        pixels = np.empty(sound.shape, np.float32)
        for top in range(0, sound.shape[0], self._tile_core()):
            rows = slice(top, min(top + self._tile_core(), sound.shape[0]))
            for columns, tile in self._restored_tiles(sound, guidance, rows, passes):
                pixels[rows, columns] = tile
        return NetworkOutput(picture, pixels, read, read if quality is None else quality, passes > 1)

    def finish(
        self,
        output: NetworkOutput,
        *,
        strength: float = 1.0,
        consistency: ConsistencyPolicy = "auto",
        bit_depth: Literal[8, 16] = 8,
    ) -> Restored:
        """The rest of ``restore``: the same pixels, bit for bit. The output is not changed.

        Raises:
            ValueError: an option is out of its range.
        """
        _check_options(strength, None, consistency, bit_depth)
        picture = output.picture
        if strength == 0:
            return self._restoration(picture, None, None, None, 0, "off", bit_depth, False, None).finish()
        whole_width = slice(0, picture.pixels.shape[1])
        return self._restoration(
            picture,
            lambda rows: iter([(whole_width, output.pixels[rows].copy())]),
            output.read_quality,
            output.guided_quality,
            strength,
            consistency,
            bit_depth,
            output.tta,
            None,
        ).finish()

    def _guidance(self, picture: Picture, quality: int | None) -> tuple[Guidance, int]:
        """The guidance to restore under, and the quality read from the pixels."""
        guidance = self.guide(picture)
        return (guidance if quality is None else self.model.shifted(guidance, quality)), guidance.quality

    def _restoration(
        self,
        picture: Picture,
        tiles: Callable[[slice], _Tiles] | None,
        read: int | None,
        guided: int | None,
        strength: float,
        consistency: ConsistencyPolicy,
        bit_depth: int,
        tta: bool,
        progress: Callable[[float], None] | None,
    ) -> Restoration:
        """From the network's tiles, or from none if the picture stays as decoded."""
        stated = picture.jpeg.quality.value if picture.jpeg else None
        projected, notes = False, picture.notes
        if read is not None:
            projected, further = _decide_projection(picture, consistency, stated, read)
            notes += further
        strips = self._finished_strips(picture, tiles, strength, projected, bit_depth, progress)
        channels = picture.pixels.shape[2:] if picture.alpha is None else (1 + (picture.pixels[0, 0].size),)
        rows = Rows((*picture.pixels.shape[:2], *channels), _DTYPES[bit_depth], strips)
        report = Report(
            name=picture.name,
            width=picture.pixels.shape[1],
            height=picture.pixels.shape[0],
            model=self.model_file.description["name"] if strength else None,
            model_hash=self.model_file.hash if strength else None,
            strength=strength,
            stated_quality=stated,
            read_quality=read,
            guided_quality=guided,
            projected=projected,
            notes=notes,
            tta=tta,
            precision=None if read is None else self.model.precision,
        )
        return Restoration(picture, rows, report)

    def guide(self, picture: Picture) -> Guidance:
        """Guidance of a picture, from its file and windows at its own resolution: resizing would erase the 8x8 grid.

        A picture that comes without its file, or that was compressed more strongly before, counts as a file of the
        quality that its pixels show.
        """
        pixels = picture.pixels[: picture.sound_rows]
        most = int(self.model_file.description.get("guide_windows", MAX_GUIDE_WINDOWS))
        windows = [_to_network(window) for window in guide_windows(pixels, self.model.guide_window, most)]
        guidance = self.model.guide(np.concatenate(windows), picture.jpeg.stated if picture.jpeg else None)
        if picture.jpeg is None or looks_compressed_twice(picture.jpeg.quality.value, guidance.quality):
            return guidance.stating(guidance.quality, grey=pixels.ndim == 2)
        return guidance

    def _finished_strips(
        self,
        picture: Picture,
        tiles: Callable[[slice], _Tiles] | None,
        strength: float,
        projected: bool,
        bit_depth: int,
        progress: Callable[[float], None] | None,
    ) -> Iterator[Pixels]:
        """The result's rows, alpha included, from top to bottom; as decoded without tiles, which it overwrites."""
        decoded = picture.pixels
        height = decoded.shape[0]
        sound = height if picture.sound_rows is None else picture.sound_rows
        scale = np.float32((1 << bit_depth) - 1) / np.float32(255)
        core = self._tile_core() if tiles else TILE_CORE
        calibration = self.model_file.calibration
        shares = None
        if calibration and picture.jpeg and projected:
            shares = calibration.at(picture.jpeg.quality.value, picture.jpeg.components)
        for top in range(0, height, core):
            rows = slice(top, min(top + core, height))
            strip = decoded[rows] if bit_depth == 8 else decoded[rows].astype(np.uint16) * np.uint16(257)
            if tiles is not None and top < sound:
                strip = np.empty_like(strip) if rows.stop <= sound else strip.copy()
                for columns, tile in tiles(rows):
                    if strength != 1:
                        as_decoded = decoded[:sound][rows, columns].astype(np.float32)
                        tile = as_decoded + np.float32(strength) * (tile - as_decoded)
                    if projected:
                        assert picture.jpeg is not None
                        for row in range(0, tile.shape[0], PROJECTED_ROWS):  # few rows at a time: they fit the cache
                            some = slice(row, row + PROJECTED_ROWS)
                            components, colour_space = picture.jpeg.components, picture.jpeg.header.colour_space
                            trust = None if shares is None else Trust(decoded[rows, columns][some], shares)
                            tile[some] = project(tile[some], components, colour_space, top + row, columns.start, trust)
                    np.rint(np.clip(tile, 0, 255, out=tile) * scale, out=tile)
                    strip[: tile.shape[0], columns] = tile.astype(strip.dtype)
            yield picture.with_alpha(strip, rows)
            if progress:
                progress(rows.stop / height)

    def _tile_core(self) -> int:
        """As large as the network's memory allows."""
        network: dict[str, Any] = self.model_file.description.get("network", {})
        # A rule of thumb: some six maps of the first scale in float32 at once.
        channels = network.get("width", 64) / network.get("stem", 1) ** 2
        halo = HALOS[self.model.precision]
        side = int((TILE_MEMORY_BYTES / (24 * channels)) ** 0.5) - 2 * halo
        return min(TILE_CORE, max(CORE_IN_HALOS * halo, side) // 96 * 96)

    def _tiles_ahead(self, pixels: NDArray[np.uint8], guidance: Guidance, passes: int) -> Callable[[slice], _Tiles]:
        """``_restored_tiles`` for strips that are asked for from top to bottom, each once.

        While a tile is finished and encoded, which takes one core, the network works on the next.
        """
        (height, width), core = pixels.shape[:2], self._tile_core()
        strips = (slice(top, min(top + core, height)) for top in range(0, height, core))
        tiles: _Tiles = (tile for rows in strips for tile in self._restored_tiles(pixels, guidance, rows, passes))
        if max(height, width) > core:
            tiles = _one_ahead(tiles)
        return lambda rows: islice(tiles, -(-width // core))  # noqa: ARG005 (it is the next one's rows)

    def _restored_tiles(self, pixels: NDArray[np.uint8], guidance: Guidance, rows: slice, passes: int = 1) -> _Tiles:
        height, width = pixels.shape[:2]
        core = self._tile_core()
        for left in range(0, width, core):
            right = min(left + core, width)
            yield (
                slice(left, right),
                self._restored_tile(pixels, guidance, rows.start, min(rows.stop, height), left, right, passes),
            )

    def _restored_tile(
        self, pixels: NDArray[np.uint8], guidance: Guidance, top: int, bottom: int, left: int, right: int, passes: int
    ) -> NDArray[np.float32]:
        """The network's output for one core, seen with its halo."""
        (height, width), halo = pixels.shape[:2], HALOS[self.model.precision]
        y0, x0 = max(0, top - halo), max(0, left - halo)
        seen = pixels[y0 : min(height, bottom + halo), x0 : min(width, right + halo)]
        stride = self.model.total_stride
        tile = _to_network(_padded(seen, stride if passes == 1 else math.lcm(stride, TURNED_MULTIPLE)))
        whole = self.model.restore(tile, guidance) if passes == 1 else self._self_ensemble(tile, guidance, passes)
        restored = whole[0, :, top - y0 : bottom - y0, left - x0 : right - x0]
        core = restored.mean(axis=0) if pixels.ndim == 2 else restored.transpose(1, 2, 0)
        return core * np.float32(255)

    def _self_ensemble(self, tile: NDArray[np.float32], guidance: Guidance, passes: int) -> NDArray[np.float32]:
        """The mean over a tile's eight flips and rotations, or over the four that keep rows rows.

        Each is restored and turned back. Shape as ``Model.restore``.
        """
        total = np.zeros_like(tile)
        for step in (1, -1):
            for turns in range(0, 4, WHOLE_ENSEMBLE // passes):
                turned = np.ascontiguousarray(np.rot90(tile[..., ::step], turns, axes=(2, 3)))
                under = guidance.transposed() if turns % 2 else guidance
                total += np.rot90(self.model.restore(turned, under), -turns, axes=(2, 3))[..., ::step]
        total *= np.float32(1 / passes)
        return total


def restore(
    source: Source,
    *,
    model: str | Path = "default",
    strength: float = 1.0,
    quality: int | None = None,
    consistency: ConsistencyPolicy = "auto",
    bit_depth: Literal[8, 16] = 8,
    salvage: bool = False,
    tta: bool = False,
) -> Restored:
    """Restore one picture; ``Restorer.restore`` says what the arguments mean.

    The model stays loaded between calls.
    """
    return shared_restorer(str(model)).restore(
        source,
        strength=strength,
        quality=quality,
        consistency=consistency,
        bit_depth=bit_depth,
        salvage=salvage,
        tta=tta,
    )


@lru_cache(maxsize=2)
def shared_restorer(model: str) -> Restorer:
    """The restorer that the module's functions use for a model, loaded once."""
    return Restorer(model)


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, none of them None; a thread makes the next one while one is in use."""
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(next, items, None)
        while (item := waiting.result()) is not None:
            waiting = thread.submit(next, items, None)
            yield item


def _check_options(strength: float, quality: int | None, consistency: str, bit_depth: int) -> None:
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must lie in 0..1, got {strength}")
    if quality is not None and not (1 <= quality <= 100 and quality == int(quality)):
        raise ValueError(f"quality must be a whole number in 1..100, got {quality}")
    if consistency not in ("auto", "strict", "off"):
        raise ValueError(f"consistency must be auto, strict or off, got {consistency!r}")
    if bit_depth not in (8, 16):
        raise ValueError(f"bit_depth must be 8 or 16, got {bit_depth}")


def looks_compressed_twice(stated: int, read: int) -> bool:
    """Whether pixels of quality ``read`` in a file that states ``stated`` betray an earlier, stronger compression."""
    return read < DOUBLE_COMPRESSION_RATIO * stated


def _decide_projection(
    picture: Picture, policy: ConsistencyPolicy, stated: int | None, read: int
) -> tuple[bool, tuple[str, ...]]:
    if picture.jpeg is None or stated is None or policy == "off":
        return False, ()
    if policy == "auto" and looks_compressed_twice(stated, read):
        return False, (
            f"looks like quality {read} but the file states {stated}: probably compressed twice, so its cells are not "
            "trusted",
        )
    return True, ()


def guide_windows(pixels: NDArray[np.uint8], side: int, most: int = MAX_GUIDE_WINDOWS) -> Iterator[NDArray[np.uint8]]:
    """At most so many windows on the 16x16 grid of 4:2:0's blocks, spread evenly over the picture.

    Shape: ``(H, W)`` or ``(H, W, 3)`` to windows of ``side`` x ``side`` pixels; smaller pictures are mirrored.
    """
    pixels = _mirrored_to(pixels, side)
    height, width = pixels.shape[:2]
    across, down = -(-width // side), -(-height // side)
    if across * down > most:
        # As many rows to columns as the picture has, within the budget, and never none.
        down = min(down, most, max(1, int((most * down / across) ** 0.5)))
        across = min(across, most // down)
        down = min(down, most // across)
    for top in _even_starts(height - side, down):
        for left in _even_starts(width - side, across):
            yield pixels[top : top + side, left : left + side]


def _even_starts(last: int, count: int) -> Iterator[int]:
    """``count`` positions from 0 to ``last`` on the 16-pixel grid, evenly; a single one in the middle."""
    for number in range(count):
        position = last * number // (count - 1) if count > 1 else last // 2
        yield position // 16 * 16


def _mirrored_to(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Small pictures, mirrored at whole blocks until a window fits: the 8x8 grid goes on across the mirror."""
    height, width = (n if n < 8 else n // 8 * 8 for n in pixels.shape[:2])
    if min(height, width) >= side:
        return pixels
    whole = pixels[:height, :width] if min(height, width) >= 8 else pixels
    pad = [(0, max(0, side - n)) for n in whole.shape[:2]]
    return np.pad(whole, pad + [(0, 0)] * (pixels.ndim - 2), mode="symmetric")


def _padded(pixels: NDArray[np.uint8], multiple: int) -> NDArray[np.uint8]:
    """Grown at the bottom and the right by repeating the edge, as JPEG encoders do."""
    pad = [(0, -n % multiple) for n in pixels.shape[:2]]
    if not any(after for _, after in pad):
        return pixels
    return np.pad(pixels, pad + [(0, 0)] * (pixels.ndim - 2), mode="edge")


def _to_network(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """``(H, W)`` or ``(H, W, 3)`` uint8 to ``(1, 3, H, W)`` float32, range 0..1."""
    colour = np.broadcast_to(pixels[..., None], (*pixels.shape, 3)) if pixels.ndim == 2 else pixels
    planes = np.ascontiguousarray(colour.transpose(2, 0, 1)[None], np.float32)
    planes *= np.float32(1 / 255)
    return planes
