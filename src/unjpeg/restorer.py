"""START HERE: the whole way from a file's bytes to the restored picture.

::

    read_picture ─▶ guide ─▶ restore ─▶ strength ─▶ project ─▶ round ─▶ rows, strip by strip ─▶ write_image
     picture.py     network.py                    projection.py                                   output/
                             └── tile by tile: tiling.py ────┘

``Restorer.begin`` decodes and guides; its ``Restoration`` restores while it writes, so that beside the decoded picture
only one tile is held in floating point and one strip of the result. ``Restorer.restore`` holds the whole result.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Final, Literal, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from unjpeg.dct import RGB_TO_YCC
from unjpeg.errors import OutputError
from unjpeg.jpeg import DEFAULT_LIMITS, Limits
from unjpeg.metadata import Metadata
from unjpeg.modelfile import ModelFile
from unjpeg.network import Guidance, Model
from unjpeg.output import Pixels, Rows, format_of, write_image
from unjpeg.picture import Picture, Source, read_picture
from unjpeg.projection import Trust, project, tile_alignment
from unjpeg.runtimes import ChosenPrecision, Precision, Runtime, choose_engine
from unjpeg.tiling import MAX_CORE, WHOLE_ENSEMBLE, TiledNetwork, Tiles, Tiling, guide_windows, to_network

__all__ = [
    "ConsistencyPolicy",
    "NetworkOutput",
    "Options",
    "Report",
    "Restoration",
    "Restored",
    "Restorer",
    "looks_compressed_twice",
    "restore",
    "shared_restorer",
    "upright",
]

ConsistencyPolicy = Literal["auto", "strict", "off"]

PROJECTED_ROWS = 64
"""Rows projected at once: a multiple of 32, as a tile's core."""

_DTYPES: dict[int, np.dtype[np.uint8] | np.dtype[np.uint16]] = {8: np.dtype(np.uint8), 16: np.dtype(np.uint16)}

DOUBLE_COMPRESSION_RATIO = 0.6
"""Below this share of the stated quality the pixels look compressed twice: docs/how-it-works.md."""

TTA_NOTE = "tta (--tta) is going away: the model best gives nearly the same for half the work"


@dataclass(frozen=True, slots=True)
class Options:
    """How a picture is restored. Checked once, here.

    Attributes:
        strength: 0 (the decoded pixels, exactly) to 1; between, a mixture.
        quality: guide the restoration as if the picture looked like this quality factor, 1..100: lower smooths more. By
            default what the network reads from the pixels.
        consistency: "strict" moves the result into the file's quantisation cells, "off" does not, "auto" does unless
            the pixels look like an earlier, stronger compression that the file does not speak of.
        bit_depth: of the result, 8 or 16.
        salvage: restore what decodes of a damaged JPEG, without its cells. Rows that are missing stay grey.
        tta: deprecated: the mean over the eight flips and rotations of every tile, for eight times the network's work.
            Takes precedence over the model's own self-ensemble.

    Raises:
        ValueError: an option is out of its range.
    """

    strength: float = 1.0
    quality: int | None = None
    consistency: ConsistencyPolicy = "auto"
    bit_depth: Literal[8, 16] = 8
    salvage: bool = False
    tta: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength must lie in 0..1, got {self.strength}")
        if self.quality is not None and not (1 <= self.quality <= 100 and self.quality == int(self.quality)):
            raise ValueError(f"quality must be a whole number in 1..100, got {self.quality}")
        if self.consistency not in ("auto", "strict", "off"):
            raise ValueError(f"consistency must be auto, strict or off, got {self.consistency!r}")
        if self.bit_depth not in _DTYPES:
            raise ValueError(f"bit_depth must be 8 or 16, got {self.bit_depth}")


class OptionKeywords(TypedDict, total=False):
    """``Options`` as keywords."""

    strength: float
    quality: int | None
    consistency: ConsistencyPolicy
    bit_depth: Literal[8, 16]
    salvage: bool
    tta: bool


DEFAULTS: Final = Options()


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
        options: under which it ran.
    """

    picture: Picture
    pixels: NDArray[np.float32]
    read_quality: int
    options: Options = DEFAULTS


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
            "auto" is what model and processor are made for: see ``unjpeg.runtimes.choose_engine``.
        limits: what a file may ask for; what asks for more is refused, from the header.
        tiling: sizes of the tiles; None chooses by the network's width and precision.

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
        tiling: Tiling | None = None,
    ) -> None:
        self.model_file = model if isinstance(model, ModelFile) else ModelFile.read(model)
        choose_engine(self.model_file, runtime, device, precision)
        self._limits = limits
        self._load: Callable[[], TiledNetwork] = lambda: TiledNetwork(
            Model(self.model_file, runtime=runtime, device=device, threads=threads, precision=precision), tiling
        )
        self._network: TiledNetwork | None = None
        self._lock = threading.Lock()

    @property
    def network(self) -> TiledNetwork:
        """The model in its runtime, tile by tile; compiled on first use."""
        with self._lock:
            if self._network is None:
                self._network = self._load()
                self.model_file = self.model_file.without_graphs()
            return self._network

    @property
    def model(self) -> Model:
        """The model in its runtime, compiled on first use."""
        return self.network.model

    def restore(
        self,
        source: Source,
        options: Options = DEFAULTS,
        *,
        progress: Callable[[float], None] | None = None,
        **keywords: Unpack[OptionKeywords],
    ) -> Restored:
        """Restore one picture.

        Args:
            source: a path, bytes, a stream, or (blind: without what only a JPEG file knows) a Pillow image or an array.
            options: how.
            progress: called with the finished share, 0..1, after each strip.
            keywords: single options, by the names of ``Options``.

        Raises:
            BadImageError: the source cannot be read or restored.
            ModelError: the model cannot run.
            ValueError: an option is out of its range.
        """
        return self.begin(source, options, progress=progress, **keywords).finish()

    def begin(
        self,
        source: Source,
        options: Options = DEFAULTS,
        *,
        progress: Callable[[float], None] | None = None,
        **keywords: Unpack[OptionKeywords],
    ) -> Restoration:
        """Decode and guide a picture, to be restored while it is saved. Arguments and errors as ``restore``."""
        options = replace(options, **keywords)
        picture = read_picture(source, limits=self._limits, salvage_damaged=options.salvage)
        if options.strength == 0 or picture.stays_as_decoded:
            return self._restoration(picture, options, None, None, progress)
        guidance, read = self._guidance(picture, options.quality)
        sound = picture.pixels[: picture.sound_rows]
        if self.network.tiling.core % _alignment(picture):  # of rare samplings, and tiles that the caller has chosen
            tiles = _tiles_of(self.network.restore_whole(sound, guidance, self._passes(options.tta)))
        else:
            tiles = self.network.restore_ahead(sound, guidance, self._passes(options.tta))
        return self._restoration(picture, options, tiles, read, progress)

    def run_network(self, picture: Picture, *, quality: int | None = None, tta: bool = False) -> NetworkOutput:
        """The slow part of ``restore`` alone, for pictures that are finished more than once.

        Args:
            quality, tta: as of ``Options``.

        Raises:
            ModelError: the model cannot run.
            ValueError: the quality is out of its range.
        """
        options = Options(quality=quality, tta=tta)
        guidance, read = self._guidance(picture, quality)
        pixels = self.network.restore_whole(picture.pixels[: picture.sound_rows], guidance, self._passes(tta))
        return NetworkOutput(picture, pixels, read, options)

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
        options = replace(output.options, strength=strength, consistency=consistency, bit_depth=bit_depth)
        if options.strength == 0 or output.picture.stays_as_decoded:
            return self._restoration(output.picture, options, None, None, None).finish()
        tiles = _tiles_of(output.pixels)
        return self._restoration(output.picture, options, tiles, output.read_quality, None).finish()

    def _passes(self, tta: bool) -> int:
        return WHOLE_ENSEMBLE if tta else self.model_file.description.passes

    def _guidance(self, picture: Picture, quality: int | None) -> tuple[Guidance, int]:
        """The guidance to restore under, and the quality read from the pixels."""
        guidance = self.guide(picture)
        return (guidance if quality is None else self.model.shifted(guidance, quality)), guidance.quality

    def guide(self, picture: Picture) -> Guidance:
        """Guidance of a picture, from its file and windows at its own resolution: resizing would erase the 8x8 grid.

        A picture that comes without its file, or that was compressed more strongly before, counts as a file of the
        quality that its pixels show.
        """
        pixels = picture.pixels[: picture.sound_rows]
        most = self.model_file.description.guide_windows
        windows = [to_network(window) for window in guide_windows(pixels, self.model.guide_window, most)]
        guidance = self.model.guide(np.concatenate(windows), picture.jpeg.stated if picture.jpeg else None)
        if picture.jpeg is None or looks_compressed_twice(picture.jpeg.sent_quality.value, guidance.quality):
            return guidance.stating(guidance.quality, grey=pixels.ndim == 2)
        return guidance

    def _restoration(
        self,
        picture: Picture,
        options: Options,
        tiles: Callable[[slice], Tiles] | None,
        read: int | None,
        progress: Callable[[float], None] | None,
    ) -> Restoration:
        """From the network's tiles, or from none if the picture stays as decoded."""
        projected, notes = _decide_projection(picture, options.consistency, read)
        notes = (*picture.notes, *notes)
        if options.tta and tiles:
            notes += (TTA_NOTE,)
        shape = picture.pixels.shape if picture.alpha is None else (*picture.pixels.shape[:2], picture.channels + 1)
        strips = self._finished_strips(picture, tiles, options, projected, progress)
        network_ran = tiles is not None
        report = Report(
            name=picture.name,
            width=picture.pixels.shape[1],
            height=picture.pixels.shape[0],
            model=self.model_file.description.name if network_ran else None,
            model_hash=self.model_file.hash if network_ran else None,
            strength=options.strength,
            stated_quality=picture.jpeg.quality.value if picture.jpeg else None,
            read_quality=read,
            guided_quality=None if read is None else options.quality or read,
            projected=projected,
            notes=notes,
            tta=network_ran and self._passes(options.tta) > 1,
            precision=self.model.precision if network_ran else None,
        )
        return Restoration(picture, Rows(shape, _DTYPES[options.bit_depth], strips), report)

    def _finished_strips(
        self,
        picture: Picture,
        tiles: Callable[[slice], Tiles] | None,
        options: Options,
        projected: bool,
        progress: Callable[[float], None] | None,
    ) -> Iterator[Pixels]:
        """The result's rows, alpha included, from top to bottom; as decoded without tiles, which it overwrites."""
        decoded, bit_depth, strength = picture.pixels, options.bit_depth, np.float32(options.strength)
        height = decoded.shape[0]
        sound = height if picture.sound_rows is None else picture.sound_rows
        scale = np.float32((1 << bit_depth) - 1) / np.float32(255)
        alignment = _alignment(picture)
        core = math.lcm(self.network.tiling.core, alignment) if tiles else MAX_CORE
        rows_at_once = math.lcm(PROJECTED_ROWS, alignment)
        neutral = tiles is not None and picture.is_neutral
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
                        tile = as_decoded + strength * (tile - as_decoded)
                    if neutral:
                        tile[:] = tile.mean(axis=2, keepdims=True)  # as of grey files
                    if projected:
                        assert picture.jpeg is not None
                        for row in range(0, tile.shape[0], rows_at_once):  # few rows at a time: they fit the cache
                            some = slice(row, row + rows_at_once)
                            components, colour_space = picture.jpeg.components, picture.jpeg.header.colour_space
                            trust = None if shares is None else Trust(decoded[rows, columns][some], shares)
                            tile[some] = project(tile[some], components, colour_space, top + row, columns.start, trust)
                    if neutral:
                        tile[:] = (tile @ RGB_TO_YCC[0])[..., None]  # the same but for the projection's rounding
                    np.rint(np.clip(tile, 0, 255, out=tile) * scale, out=tile)
                    strip[: tile.shape[0], columns] = tile.astype(strip.dtype)
            yield picture.with_alpha(strip, rows)
            if progress:
                progress(rows.stop / height)


def _alignment(picture: Picture) -> int:
    """See ``tile_alignment``."""
    return tile_alignment(picture.jpeg.components if picture.jpeg else ())


def _tiles_of(pixels: NDArray[np.float32]) -> Callable[[slice], Tiles]:
    """A network's whole output, any rows of it as one tile."""

    def tiles(rows: slice) -> Tiles:
        yield slice(0, pixels.shape[1]), pixels[rows].copy()

    return tiles


def restore(
    source: Source,
    options: Options = DEFAULTS,
    *,
    model: str | Path = "default",
    **keywords: Unpack[OptionKeywords],
) -> Restored:
    """Restore one picture: ``Restorer.restore`` and ``Options`` say what the arguments mean.

    The model stays loaded between calls.
    """
    return shared_restorer(str(model)).restore(source, options, **keywords)


@lru_cache(maxsize=2)
def shared_restorer(model: str) -> Restorer:
    """The restorer that the module's functions use for a model, loaded once."""
    return Restorer(model)


def looks_compressed_twice(stated: int, read: int) -> bool:
    """Whether pixels of quality ``read`` in a file that states ``stated`` betray an earlier, stronger compression."""
    return read < DOUBLE_COMPRESSION_RATIO * stated


def _decide_projection(picture: Picture, policy: ConsistencyPolicy, read: int | None) -> tuple[bool, tuple[str, ...]]:
    """Whether the result is moved into the file's cells, and why not if that needs saying."""
    if picture.jpeg is None or read is None or policy == "off":
        return False, ()
    stated = picture.jpeg.sent_quality.value
    if policy == "auto" and looks_compressed_twice(stated, read):
        return False, (
            f"looks like quality {read} but the file states {stated}: probably compressed twice, so its cells are not "
            "trusted",
        )
    return True, ()
