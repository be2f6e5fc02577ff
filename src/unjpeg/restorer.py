"""START HERE: the whole way from a file's bytes to the restored picture.

::

    read_picture ─▶ lay_out ─▶ guide ─▶ restore ─▶ strength ─▶ project ─▶ round ─▶ merge ─▶ write_image
     picture.py     layers.py  network.py    finishing.py  projection.py         layers.py   output/
                               └── tile by tile: tiling.py ────┘

``lay_out`` reads what happened to the picture before its last file (``history.py``). Each of its layers is restored on
the grid, told the tables and held to the cells of what compressed it; most pictures have one layer, their file.

``Restorer.begin`` decodes and guides; its ``Restoration`` restores while it writes, so that beside the decoded picture
only one tile is held in floating point and one strip of the result. ``Restorer.restore`` holds the whole result.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, TypedDict, Unpack

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from unjpeg.belief import load_judges, measure_caution
from unjpeg.dct import RGB_TO_YCC
from unjpeg.depth import rounded
from unjpeg.errors import OutputError, UnjpegError
from unjpeg.finishing import dither_tile, keep_detail
from unjpeg.history import History, Verdict
from unjpeg.jpeg import DEFAULT_LIMITS, Compression, Limits
from unjpeg.layers import EarlierJpeg, Layer, Layout, describe_history, lay_out, merge_strips
from unjpeg.machine import allowed_cores
from unjpeg.metadata import Metadata
from unjpeg.modelfile import ModelFile
from unjpeg.network import Guidance, Model, to_network
from unjpeg.output import FORMATS, Pixels, Rows, default_format, format_of, is_lossy, profile_fits, write_image
from unjpeg.output.tag import add_tag
from unjpeg.parallel import map_ahead
from unjpeg.picture import NamedBytes, Picture, Source, read_picture
from unjpeg.precision import WORTH_PIXELS, Choice, choose_precision
from unjpeg.projection import Trust, project, tile_alignment
from unjpeg.runtimes import ChosenPrecision, Precision, Runtime, check_engine, choose_engine
from unjpeg.tiling import SEAM_GRID, WHOLE_ENSEMBLE, Strips, TiledNetwork, Tiling, guide_windows

__all__ = [
    "DEFAULTS",
    "ConsistencyPolicy",
    "NetworkOutput",
    "Options",
    "Report",
    "Restoration",
    "Restored",
    "Restorer",
    "restore",
    "shared_restorer",
    "turn_upright",
]

ConsistencyPolicy = Literal["auto", "strict", "off"]

PROJECTED_ROWS = 64
"""Rows projected at once: a multiple of 32, as a tile's core. So few fit the processor's cache."""

MERGED_ROWS = 256
"""Rows of the result handed on at once."""

MOST_STATED: Final = 90
"""Of what pixels alone show: a JPEG that was made smaller shows a high quality, however bad it was."""

_DTYPES: dict[int, np.dtype[np.uint8] | np.dtype[np.uint16]] = {8: np.dtype(np.uint8), 16: np.dtype(np.uint16)}

INK_NOTE = "its four inks are restored plane by plane; whether it was a JPEG before is not looked at"

_TRUE_TO_EARLIER = "true to the earlier file, not to the last one, which came after the damage"
_WAS_TRUE_TO_EARLIER = f"{_TRUE_TO_EARLIER}; the output was compressed again, and only nearly is"

TTA_NOTE = "tta (--tta) is going away: the model best gives nearly the same for half the work"


@dataclass(frozen=True, slots=True)
class Options:
    """How a picture is restored. Checked once, here.

    Attributes:
        strength: 0 (the decoded pixels, exactly) to 1; between, a mixture.
        quality: guide the restoration as if the picture looked like this quality factor, 1..100: lower smooths more. By
            default what the network reads from the pixels. Restores also what was never compressed.
        consistency: "auto" moves the result into the quantisation cells of what compressed the picture: of its file, or
            of an earlier JPEG that its pixels still show. "strict" looks at the file alone. "off" moves nothing.
        bit_depth: of the result, 8 or 16; None takes 16 for files of more than 8 bits per sample, 8 for others.
        salvage: restore what decodes of a damaged JPEG, without its cells. Rows that are missing stay grey.
        tta: deprecated: the mean over the eight flips and rotations of every tile, for eight times the network's work.
            Takes precedence over the model's own self-ensemble.
        detail: how much of the network's smoothing of fine luma frequencies is followed, 0 to 1 (all of it): see
            ``finishing.keep_detail``. Less keeps more texture, and more of the noise that compression made.
        dither: round results of 8 bits with a fixed pattern, so that slow changes show as grain and not as bands.
            Those of 16 bits need none, and are the same.

    Raises:
        ValueError: an option is out of its range.
    """

    strength: float = 1.0
    quality: int | None = None
    consistency: ConsistencyPolicy = "auto"
    bit_depth: Literal[8, 16] | None = None
    salvage: bool = False
    tta: bool = False
    detail: float = 1.0
    dither: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.detail <= 1:
            raise ValueError(f"detail must lie in 0..1, got {self.detail}")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength must lie in 0..1, got {self.strength}")
        if self.quality is not None and not (1 <= self.quality <= 100 and self.quality == int(self.quality)):
            raise ValueError(f"quality must be a whole number in 1..100, got {self.quality}")
        if self.consistency not in ("auto", "strict", "off"):
            raise ValueError(f"consistency must be auto, strict or off, got {self.consistency!r}")
        if self.bit_depth is not None and self.bit_depth not in _DTYPES:
            raise ValueError(f"bit_depth must be 8 or 16, got {self.bit_depth}")


class OptionKeywords(TypedDict, total=False):
    """``Options`` as keywords."""

    strength: float
    quality: int | None
    consistency: ConsistencyPolicy
    bit_depth: Literal[8, 16] | None
    salvage: bool
    tta: bool
    detail: float
    dither: bool


DEFAULTS: Final = Options()


@dataclass(frozen=True, slots=True)
class Report:
    """What was done.

    Attributes:
        stated_quality: that the file's quantisation tables state; None of other files.
        read_quality: that the network read from the pixels; None where no network ran.
        guided_quality: that guided the restoration.
        projected: whether the result lies in the file's quantisation cells, where it was moved to. Not said of a file
            that was compressed again: the cells were left, if by little.
        notes: what a user should know, one sentence each.
        tta: whether it is the mean over flips, or over flips and rotations.
        precision: of the network's convolutions, "full", "bf16" or "int8"; None where no network ran.
        history: what happened before the last file: "compressed" (by the JPEGs in ``earlier``), "clean" (nothing)
            or "undecided"; None where it was not looked at.
        earlier: the JPEGs that the picture, or parts of it, were before, and were restored as.
        detail: how much of the smoothing of fine detail was followed, 0..1.
        dithered: whether it was rounded to 8 bits with a pattern.
        file_bytes: size of the input's file; None where it was no file.
        compressed_again: of a result that was written: whether to a JPEG, an AVIF or a lossy WebP.
        comparable_quality: of a lossy WebP or AVIF that came in: the quality of the JPEGs that lost about as much.
        consistency: as it was asked for.
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
    history: Verdict | None = None
    earlier: tuple[EarlierJpeg, ...] = ()
    detail: float = 1.0
    dithered: bool = False
    file_bytes: int | None = None
    compressed_again: bool = False
    comparable_quality: int | None = None
    consistency: ConsistencyPolicy = "auto"

    def as_written(self, format: str, quality: int | None) -> Report:
        """The same of the file that ``Restored.save`` writes in this format: what a lossy one keeps of it."""
        if not is_lossy(format, quality):
            return self
        notes = tuple(_WAS_TRUE_TO_EARLIER if note == _TRUE_TO_EARLIER else note for note in self.notes)
        return replace(self, projected=False, compressed_again=True, notes=notes)

    @property
    def in_words(self) -> str:
        """Model and settings on one line."""
        words = [f"model {self.model} {(self.model_hash or '')[:12]}", f"strength {self.strength:g}"]
        if self.guided_quality is not None:
            words.append(f"as of quality {self.guided_quality}")
        words.append(f"detail {self.detail:g}")
        if self.earlier:
            words.append("as the JPEG that it was before")
        elif self.projected:
            words.append("true to the file")
        elif not self.compressed_again or self.consistency == "off":
            words.append("not kept true to the file")
        words += ["dithered"] * self.dithered
        words += ["then compressed again"] * self.compressed_again
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored picture.

    Attributes:
        pixels: ``(H, W)``, ``(H, W, 2)``, ``(H, W, 3)`` or ``(H, W, 4)``, uint8 or uint16 at full range; RGB in this
            order, alpha last. If ``is_cmyk``, ``(H, W, 4)`` are cyan, magenta, yellow and black; 0 is no ink.
        metadata: as the source had it.
        report: what was done.
        may_round: nobody asked for 16 bits, the source has them: what holds 8 only is written rounded.
        is_cmyk: whether the pixels are inks, as those of a CMYK JPEG.
    """

    pixels: Pixels
    metadata: Metadata
    report: Report
    may_round: bool = False
    is_cmyk: bool = False

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """``np.asarray(restored)``: the pixels themselves."""
        return np.array(self.pixels, dtype, copy=copy)

    def to_pil(self) -> Image.Image:
        """The picture as a Pillow image, with profile, EXIF, XMP and resolution in its ``info``; not turned upright.

        Raises:
            ValueError: 16-bit colour, which Pillow does not have.
        """
        if self.pixels.dtype == np.uint16 and self.pixels.ndim == 3:
            raise ValueError("Pillow has no 16-bit colour; restore with bit_depth=8, or take the pixels")
        image = Image.fromarray(self.pixels, mode="CMYK") if self.is_cmyk else Image.fromarray(self.pixels)
        facts = self.metadata.with_size(image.width, image.height).without_thumbnail()
        carried = {
            "exif": facts.exif,
            "icc_profile": facts.icc_profile,
            "xmp": facts.joined_xmp,
            "comment": facts.comment,
            "dpi": facts.dpi,
        }
        image.info.update({name: value for name, value in carried.items() if value is not None})
        return image

    def save(
        self,
        target: str | os.PathLike[str] | BinaryIO,
        *,
        format: str | None = None,
        quality: int | None = None,
        overwrite: bool = False,
        strip: bool = False,
        output_size: int | Literal["input"] | None = None,
        tag: bool = False,
    ) -> str | None:
        """Write the picture, whole or not at all, with its metadata.

        Args:
            target: a path or a binary stream.
            format: "png", "jpeg", "webp", "tiff" or "avif"; by default what the path's suffix says, PNG for a stream,
                and TIFF for a stream of CMYK, which is for TIFF and JPEG alone.
            quality: of JPEG (95 if not given), AVIF (90) and WebP (lossless if not given), 1..100.
            overwrite: replace an existing file.
            strip: leave out all metadata, and turn the pixels the way that the orientation tag says.
            output_size: of a JPEG, in bytes, or "input" for the size of the file that was restored: the best that is
                not larger, at ``quality`` or below. Its chroma may have half the resolution.
            tag: have the XMP say what restored the picture, and how. Nothing is said of what was left as it is.

        Returns:
            What a user should know of the file, if anything: the quality that a size led to, what was not tagged.

        Raises:
            OutputError: it cannot be written there, or not in that format, or not within that size.
        """
        return _save(
            Rows.of(self.pixels, is_cmyk=self.is_cmyk),
            self.metadata,
            self.report,
            target,
            _FileOptions(format, quality, overwrite, strip, output_size, tag),
            may_round=self.may_round,
        )


@dataclass(frozen=True, slots=True)
class NetworkOutput:
    """What the network makes of one picture; strength, consistency and bit depth are chosen after it, again and again.

    Attributes:
        picture: the picture.
        layout: what it was restored as.
        layers: of each layer ``(H, W)`` or ``(H, W, 3)``, float32, range 0..255 but not clipped to it.
        read_quality: that the network read from the pixels; None if there is no layer.
        options: under which it ran.
    """

    picture: Picture
    layout: Layout
    layers: tuple[NDArray[np.float32], ...]
    read_quality: int | None
    options: Options = DEFAULTS

    @property
    def size_bytes(self) -> int:
        return sum(pixels.nbytes for pixels in self.layers)


class Restoration:
    """A picture that is decoded and guided. Its rows are restored when they are asked for, once.

    Attributes:
        metadata: as the source has it.
        report: what is done.
        is_cmyk: as ``Restored.is_cmyk``.
    """

    metadata: Metadata
    report: Report
    is_cmyk: bool

    def __init__(self, picture: Picture, rows: Rows, report: Report, may_round: bool = False) -> None:
        self.metadata, self.report = picture.metadata, report
        self._rows: Rows | None = rows
        self._channels, self._may_round = rows.channels, may_round
        self.is_cmyk = rows.is_cmyk

    @property
    def channels(self) -> int:
        """1 to 4, alpha counted; 4 also of CMYK."""
        return self._channels

    def finish(self) -> Restored:
        """The whole picture."""
        return Restored(self._taken().whole(), self.metadata, self.report, self._may_round, self.is_cmyk)

    def save(
        self,
        target: str | os.PathLike[str] | BinaryIO,
        *,
        format: str | None = None,
        quality: int | None = None,
        overwrite: bool = False,
        strip: bool = False,
        output_size: int | Literal["input"] | None = None,
        tag: bool = False,
        about_to_place: Callable[[], None] | None = None,
    ) -> str | None:
        """Restore and write; PNG, TIFF and JPEG as the rows are finished.

        Arguments, result and errors are those of ``Restored.save``.

        Args:
            about_to_place: called when the file is complete, before it appears under its name.
        """
        return _save(
            self._taken(),
            self.metadata,
            self.report,
            target,
            _FileOptions(format, quality, overwrite, strip, output_size, tag),
            may_round=self._may_round,
            about_to_place=about_to_place,
        )

    def _taken(self) -> Rows:
        if self._rows is None:
            raise ValueError("its rows have been taken already")
        rows, self._rows = self._rows, None
        return rows


@dataclass(frozen=True, slots=True)
class _FileOptions:
    """As ``Restored.save`` takes them."""

    format: str | None
    quality: int | None
    overwrite: bool
    strip: bool
    output_size: int | Literal["input"] | None
    tag: bool


def _save(
    rows: Rows,
    metadata: Metadata,
    report: Report,
    target: str | os.PathLike[str] | BinaryIO,
    options: _FileOptions,
    *,
    may_round: bool,
    about_to_place: Callable[[], None] | None = None,
) -> str | None:
    if isinstance(target, str | os.PathLike):
        target = Path(target)
    format = options.format
    if format is None:
        format = format_of(target) if isinstance(target, Path) else default_format(rows.is_cmyk)
    if format is None:
        raise OutputError(f"{target}: name a format, or a file that ends in .png, .jpg, .webp, .tiff or .avif")
    max_bytes = options.output_size
    if max_bytes == "input":
        max_bytes = report.file_bytes
        if max_bytes is None:
            raise OutputError(f"{target}: the input has no size, for it was no file; give bytes")
    if may_round and rows.dtype == np.uint16 and format in FORMATS and 16 not in FORMATS[format].bit_depths:
        rows = replace(rows, dtype=_DTYPES[8], strips=(rounded(some) for some in rows.strips))
    if options.strip:
        if metadata.orientation != 1:
            rows = Rows.of(turn_upright(rows.whole(), metadata.orientation), is_cmyk=rows.is_cmyk)
        metadata = Metadata()
    if not profile_fits(metadata, format, rows.channels, is_cmyk=rows.is_cmyk):
        metadata = replace(metadata, icc_profile=None)
    height, width = rows.shape[:2]
    metadata = metadata.with_size(width, height).without_thumbnail()
    notes: list[str] = []
    if options.tag and report.model is not None:
        try:
            metadata = add_tag(metadata, report.as_written(format, options.quality).in_words)
        except ValueError as error:
            notes.append(f"not tagged: nothing can be added to its XMP ({error})")
    chosen = write_image(
        target,
        rows,
        metadata,
        format=format,
        quality=options.quality,
        max_bytes=max_bytes,
        overwrite=options.overwrite,
        about_to_place=about_to_place,
    )
    return "; ".join([*notes, *([chosen] if chosen else [])]) or None


def turn_upright(pixels: Pixels, orientation: int) -> Pixels:
    """The picture as EXIF's orientation, 1..8, says that it is to be seen. Shape: ``(H, W)`` or ``(H, W, C)``."""
    if orientation in (2, 4, 5, 7):
        pixels = pixels[:, ::-1]
    turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]  # quarter turns counter-clockwise
    turned: Pixels = np.rot90(pixels, turns)
    return turned


class Restorer:
    """A loaded model, ready to restore any number of pictures, also from several threads.

    It can be pickled, for worker processes: there it loads the model again.

    Args:
        model: a shipped model's name ("fast", "default", or "best" for the latter's self-ensemble), a model file's
            path, or a model file that has been read (which is kept, to be pickled with the restorer).
        runtime: "openvino" or "onnxruntime"; None chooses by the device.
        device: "cpu"; "gpu" or "npu" through OpenVINO; "cuda", "directml" or "coreml" through ONNX Runtime. What is not
            there is said at once, not with a picture.
        threads: CPU threads; None uses all cores.
        precision: "full" computes in float32, "bf16" in 16-bit floats, "int8" most convolutions in 8-bit integers;
            "auto" is the fastest here, as measured once, with the first picture that is large enough: see
            ``unjpeg.precision``. Or what ``choose_precision`` chose on this machine.
        limits: what a file may ask for; what asks for more is refused, from the header.
        tiling: sizes of the tiles; None chooses by the network's width and precision.

    Attributes:
        model_file: what the model's file says; its graphs are let go once they are compiled.

    Raises:
        ModelError: the model, the runtime or the device is not there, or does not run at that precision.
    """

    model_file: ModelFile

    def __init__(
        self,
        model: str | os.PathLike[str] | ModelFile = "default",
        *,
        runtime: Runtime | None = None,
        device: str = "cpu",
        threads: int | None = None,
        precision: Precision | Choice = "auto",
        limits: Limits = DEFAULT_LIMITS,
        tiling: Tiling | None = None,
    ) -> None:
        self.model_file = model if isinstance(model, ModelFile) else ModelFile.read(model)
        named: Precision = "auto" if isinstance(precision, Choice) else precision
        check_engine(choose_engine(self.model_file, runtime, device, named)[0], device)
        self._limits, self._threads = limits, threads
        self._made_of: tuple[str | os.PathLike[str] | ModelFile, dict[str, Any]] = (
            model,
            {
                "runtime": runtime,
                "device": device,
                "threads": threads,
                "precision": precision,
                "limits": limits,
                "tiling": tiling,
            },
        )

        def load(measure: bool) -> TiledNetwork:
            chosen: Precision = named
            if isinstance(precision, Choice):
                chosen = precision.precision
            elif precision == "auto":
                chosen = choose_precision(self.model_file, runtime, device, measure=measure).precision
            model = Model(
                self.model_file,
                runtime=runtime,
                device=device,
                threads=threads,
                precision=chosen,
                else_full=named == "auto",
            )
            return TiledNetwork(model, tiling)

        def load_strong() -> TiledNetwork:
            model, strong = self.model, self.model_file.strong
            assert strong is not None, "asked for where there is none"
            loaded = TiledNetwork(model.with_weights_of(strong), tiling)
            self.model_file = replace(self.model_file, strong=strong.without_graphs())
            return loaded

        def is_settled() -> bool:
            """Whether loading the model measures nothing, however large the picture."""
            if named != "auto" or isinstance(precision, Choice):
                return True
            choice = choose_precision(self.model_file, runtime, device)
            return choice.is_final and choice.why != "not yet"

        self._load, self._load_strong, self._is_settled = load, load_strong, is_settled
        self._network: TiledNetwork | None = None
        self._strong: TiledNetwork | None = None
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple[Callable[..., Restorer], tuple[Any, ...]]:
        """Pickled by what it was made of: wherever it is unpickled, it loads its model again, on first use."""
        model, keywords = self._made_of
        if not isinstance(model, ModelFile) and os.path.isfile(model):
            model = os.path.abspath(model)  # other processes may work in other folders
        return partial(type(self), **keywords), (model,)

    def __copy__(self) -> Restorer:
        """In one process a copy shares the loaded model, whichever of them loads it."""
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        copied._load, copied._load_strong = self._loaded, self._strong_network
        return copied

    def sharing(self, model: str | os.PathLike[str] | ModelFile) -> Restorer:
        """A restorer of another model that runs this one's network, which is compiled and in memory once.

        A self-ensemble is such a model: "best" runs what "default" runs, more often. Raises ValueError for another
        network, ModelError if the model is not there.
        """
        file = model if isinstance(model, ModelFile) else ModelFile.read(model)
        if file.network_hash != self.model_file.network_hash:
            raise ValueError(f"{file.description.name} has another network than {self.model_file.description.name}")
        shared = copy(self)
        shared.model_file = file.without_graphs()
        shared._made_of = model, self._made_of[1]
        shared._network = shared._strong = None
        shared._lock = threading.RLock()
        return shared

    @property
    def network(self) -> TiledNetwork:
        """The model in its runtime, tile by tile; compiled on first use."""
        return self._loaded(measure=False)

    def load(self, *, measure: bool = False) -> ChosenPrecision:
        """Load the model now, not with the first picture. Returns the precision that it runs at from now on.

        Args:
            measure: let ``auto`` measure, if it never did on this machine: up to 4 seconds, once. A first picture of
                ``unjpeg.precision.WORTH_PIXELS`` does so, too.

        Raises:
            ModelError: the model cannot run.
        """
        return self._loaded(measure).model.precision

    def _loaded(self, measure: bool) -> TiledNetwork:
        with self._lock:
            if self._network is None:
                self._network = self._load(measure)
                self.model_file = self.model_file.without_graphs()
            return self._network

    def _strong_network(self) -> TiledNetwork:
        """The same with the weights for strong compression."""
        with self._lock:
            if self._strong is None:
                self._strong = self._load_strong()
            return self._strong

    def _network_for(self, layer: Layer, guidance: Guidance, options: Options) -> TiledNetwork:
        """The one with the weights that restore a layer."""
        quality = _find_damage(layer, options) or guidance.quality
        return self._strong_network() if quality <= self.model_file.description.strong_up_to else self.network

    def _load_ahead(self) -> None:
        """Load the model while the first picture is read, if nothing is to be measured first."""
        if self._network is None and self._is_settled():
            threading.Thread(target=self._try_to_load, name="unjpeg model").start()

    def _try_to_load(self) -> None:
        with suppress(UnjpegError):  # is raised where the network is used
            self._loaded(measure=False)

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
            source: a path, bytes (also bytearray, memoryview), a stream, a Pillow image or an array. An array holds
                grey or **RGB**, in this order (OpenCV's is BGR: ``array[..., ::-1]``), alpha last. Only a JPEG file
                knows what it could have been made from, so arrays are restored blind; so are Pillow images, but for
                those opened from a JPEG file and not changed since, which are restored as that file.
            options: how.
            progress: called with the finished share, 0..1, after each tile.
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
        if options.strength != 0 and _begins_as_jpeg(source):
            self._load_ahead()
        picture = read_picture(source, limits=self._limits, salvage_damaged=options.salvage)
        if options.strength == 0 or picture.left_alone:
            return self._restoration(picture, Layout(()), (), options, None, progress)
        layout = self._lay_out(picture, options)
        self._load_for(picture, layout)
        guidances, read = self._guide_layers(layout, options)
        passes = self._passes(options.tta)
        tiles = tuple(
            self._network_for(layer, guidance, options).restore_ahead(layer.pixels, guidance, passes, _alignment(layer))
            for layer, guidance in zip(layout.layers, guidances, strict=True)
        )
        return self._restoration(picture, layout, tiles, options, read, progress)

    def run_network(
        self,
        picture: Picture,
        options: Options = DEFAULTS,
        *,
        progress: Callable[[float], None] | None = None,
        history: History | None = None,
        **keywords: Unpack[OptionKeywords],
    ) -> NetworkOutput:
        """The slow part of ``restore`` alone, for pictures that are finished more than once.

        Args:
            options: of which ``quality`` and ``tta`` count here, and whether ``consistency`` is strict.
            progress: called with the finished share, 0..1, when the network starts and after each pass over a tile.
                What it raises ends the work.
            history: the picture's, where it has been read already.
            keywords: single options.

        Raises:
            ModelError: the model cannot run.
            ValueError: an option is out of its range.
        """
        options = replace(options, **keywords)
        layout = self._lay_out(picture, options, history)
        self._load_for(picture, layout)
        guidances, read = self._guide_layers(layout, options)
        passes, count = self._passes(options.tta), len(layout.layers)

        def report(number: int, share: float) -> None:
            if progress:
                progress((number + share) / count)

        layers = tuple(
            self._network_for(layer, guidance, options).restore_whole(
                layer.pixels, guidance, passes, partial(report, number)
            )
            for number, (layer, guidance) in enumerate(zip(layout.layers, guidances, strict=True))
        )
        return NetworkOutput(picture, layout, layers, read, options)

    def finish(
        self,
        output: NetworkOutput,
        options: Options = DEFAULTS,
        *,
        progress: Callable[[float], None] | None = None,
        **keywords: Unpack[OptionKeywords],
    ) -> Restored:
        """The rest of ``restore``: the same pixels, bit for bit. The output is not changed.

        Args:
            options: all but ``quality`` and ``tta``, which are the network's.
            progress: called with the finished share, 0..1, after each strip. What it raises ends the work.
            keywords: single options.

        Raises:
            ValueError: an option is out of its range, or the output was made for another strictness.
        """
        ran = output.options
        options = replace(replace(options, **keywords), quality=ran.quality, tta=ran.tta)
        if options.strength == 0 or output.picture.left_alone:
            return self._restoration(output.picture, Layout(()), (), options, None, progress).finish()
        if (options.consistency == "strict") != (ran.consistency == "strict"):
            raise ValueError("strict looks at the file alone: run the network for it anew")
        tiles = tuple(map(_strips_of, output.layout.layers, output.layers))
        return self._restoration(output.picture, output.layout, tiles, options, output.read_quality, progress).finish()

    def _load_for(self, picture: Picture, layout: Layout) -> None:
        """Before anything else uses the network: it keeps the precision that it is loaded with."""
        if layout.layers:
            height, width = picture.pixels.shape[:2]
            self.load(measure=height * width >= WORTH_PIXELS)

    def _passes(self, tta: bool) -> int:
        return WHOLE_ENSEMBLE if tta else self.model_file.description.passes

    def _lay_out(self, picture: Picture, options: Options, history: History | None = None) -> Layout:
        look_back, insist = options.consistency != "strict", options.quality is not None
        return lay_out(picture, look_back=look_back, insist=insist, history=history)

    def _guide_layers(self, layout: Layout, options: Options) -> tuple[list[Guidance], int | None]:
        """Each layer's guidance, and the quality read from the pixels of the lowest."""
        guidances = [self._guide_pixels(layer.pixels, layer.compression) for layer in layout.layers]
        read = guidances[0].quality if guidances else None
        if options.quality is not None:
            return [self.model.shifted(guidance, options.quality) for guidance in guidances], read
        for number, (layer, guidance) in enumerate(zip(layout.layers, guidances, strict=True)):
            if layer.seen_quality is not None:
                seen = self.model.shifted(guidance, layer.seen_quality)
                # A file of another codec states nothing that the network knows: it is told what it is to see.
                guidances[number] = replace(seen, stated=guidance.stated) if layer.compression else seen
        return guidances, read

    def read_quality(self, picture: Picture, history: History | None = None) -> int:
        """The quality that ``restore`` reads from the pixels: where an earlier JPEG shows, on that one's grid.

        Of a picture that is left alone, what would be read.

        Args:
            history: the picture's, where it has been read already.

        Raises:
            ModelError: the model cannot run.
        """
        layers = () if picture.left_alone else self._lay_out(picture, DEFAULTS, history).layers
        if not layers:
            return self.guide(picture).quality
        return self._guide_pixels(layers[0].pixels, layers[0].compression).quality

    def guide(self, picture: Picture) -> Guidance:
        """Guidance of a picture, from its file and windows at its own resolution: resizing would erase the 8x8 grid.

        A picture that comes without its file counts as a file of the quality that its pixels show, ``MOST_STATED`` at
        most.
        """
        lowest = lay_out(picture, look_back=False).layers[0]
        return self._guide_pixels(lowest.pixels, lowest.compression)

    def _guide_pixels(self, pixels: NDArray[np.uint8], compression: Compression | None) -> Guidance:
        most = self.model_file.description.guide_windows
        windows = [to_network(window) for window in guide_windows(pixels, self.model.guide_window, most)]
        guidance = self.model.guide(np.concatenate(windows), compression.stated if compression else None)
        if compression:
            return guidance
        return guidance.stating(min(guidance.quality, MOST_STATED), grey=pixels.ndim == 2)

    def _restoration(
        self,
        picture: Picture,
        layout: Layout,
        tiles: Sequence[Strips],
        options: Options,
        read: int | None,
        progress: Callable[[float], None] | None,
    ) -> Restoration:
        """From the network's tiles of each layer; without any the picture stays as decoded."""
        of_file = picture.jpeg is not None and bool(layout.layers)
        projected = of_file and options.consistency != "off" and not layout.earlier
        bit_depth: Literal[8, 16] = options.bit_depth or (8 if picture.deep is None else 16)
        may_round = options.bit_depth is None and picture.deep is not None
        options = replace(options, bit_depth=bit_depth)
        notes = (*picture.notes, *self._notes(picture, layout, options))
        shape = picture.pixels.shape if picture.alpha is None else (*picture.pixels.shape[:2], picture.channels + 1)
        network_ran = bool(layout.layers)
        earlier = layout.earlier
        report = Report(
            name=picture.name,
            width=picture.pixels.shape[1],
            height=picture.pixels.shape[0],
            model=self.model_file.description.name if network_ran else None,
            model_hash=self.model_file.hash if network_ran else None,
            strength=options.strength,
            stated_quality=picture.jpeg.quality.value if picture.jpeg else None,
            read_quality=read,
            guided_quality=None if read is None else options.quality or picture.comparable_quality or read,
            projected=projected,
            notes=notes,
            tta=network_ran and self._passes(options.tta) > 1,
            precision=self.model.precision if network_ran else None,
            history=layout.history.verdict if layout.history else None,
            earlier=earlier,
            detail=options.detail if network_ran else 1.0,
            dithered=network_ran and options.dither and bit_depth == 8,
            file_bytes=picture.file_bytes,
            comparable_quality=picture.comparable_quality,
            consistency=options.consistency,
        )
        strips = self._finished_strips(picture, layout, tiles, options, progress)
        threads = self._threads or allowed_cores()
        rows = Rows(shape, _DTYPES[bit_depth], strips, threads, is_cmyk=picture.inks is not None)
        return Restoration(picture, rows, report, may_round)

    def _notes(self, picture: Picture, layout: Layout, options: Options) -> tuple[str, ...]:
        notes: list[str] = []
        if layout.history is not None:
            size = picture.pixels.shape[0], picture.pixels.shape[1]
            words = describe_history(layout.history, is_lossy=picture.is_lossy, size=size)
            if not layout.layers:
                notes += [
                    f"{sentence}: left as it is; give a quality (quality=90) to restore it all the same"
                    for sentence in words
                ]
            elif layout.history.verdict == "clean":
                notes += [f"{sentence}; restored all the same, since a quality was given" for sentence in words]
            else:
                notes += [f"before this file: {sentence}" for sentence in words]
            if any(layer.most_change is not None for layer in layout.layers):
                notes.append(
                    "may never have been compressed: changed by a level or so at most; "
                    "give a quality (quality=90) to restore it all the same"
                )
            if picture.jpeg is not None and layout.earlier and options.consistency == "auto":
                notes.append(_TRUE_TO_EARLIER)
        if picture.left_alone:
            notes.append(picture.left_alone)
        if picture.inks is not None and layout.layers and options.consistency != "strict":
            notes.append(INK_NOTE)
        if picture.deep is not None and options.bit_depth == 8:
            notes.append(f"has {picture.bits} bits per sample, and the result 8: PNG and TIFF can have 16")
        if options.tta and layout.layers:
            notes.append(TTA_NOTE)
        return tuple(notes)

    def _finished_strips(
        self,
        picture: Picture,
        layout: Layout,
        tiles: Sequence[Strips],
        options: Options,
        progress: Callable[[float], None] | None,
    ) -> Iterator[Pixels]:
        """The result's rows, alpha included, from top to bottom."""
        watch = _Watch(progress, sum(layer.pixels.size for layer in layout.layers) or picture.pixels.size)
        layers = [
            (layer, self._layer_strips(layer, layer_tiles, options, watch))
            for layer, layer_tiles in zip(layout.layers, tiles, strict=True)
        ]
        decoded = picture.pixels if picture.deep is None or options.bit_depth == 8 else picture.deep
        top = 0
        for strip in merge_strips(decoded, layers, MERGED_ROWS, options.bit_depth or 8):
            rows = slice(top, top + len(strip))
            top = rows.stop
            yield picture.with_alpha(strip, rows)
            if not layers:
                watch.add(strip.size)
        watch.end()

    def _layer_strips(self, layer: Layer, strips: Strips, options: Options, watch: _Watch) -> Iterator[Pixels]:
        """A layer's finished rows, from top to bottom."""
        dtype = _DTYPES[options.bit_depth or 8]
        finish = self._finisher(layer, options)
        rows_at_once = math.lcm(PROJECTED_ROWS, _alignment(layer))
        for rows, tiles in strips:
            strip = np.empty((rows.stop - rows.start, *layer.pixels.shape[1:]), dtype)
            for columns, tile in tiles:
                bands = (slice(top, top + rows_at_once) for top in range(0, len(tile), rows_at_once))
                work = ((strip[band, columns], tile[band], rows.start + band.start, columns) for band in bands)
                for _ in map_ahead(lambda given: finish(*given), work, self._threads or allowed_cores()):
                    pass
                watch.add(tile.size)
            yield strip

    def _finisher(self, layer: Layer, options: Options) -> Callable[[Pixels, NDArray[np.float32], int, slice], None]:
        """What makes finished pixels of some of the network's rows.

        It takes the place that they go to, the rows, the first one's number and the columns.
        """
        decoded, compression, strength = layer.pixels, layer.compression, np.float32(options.strength)
        scale = np.float32(np.iinfo(_DTYPES[options.bit_depth or 8]).max) / np.float32(255)
        projected = compression is not None and options.consistency != "off"
        is_held_back = strength != 1 or options.detail != 1 or layer.most_change is not None
        shares, judges, caution = None, None, 0.0
        if compression and projected:
            calibration = self.model_file.for_quality(_find_damage(layer, options) or compression.quality).calibration
            if calibration:
                shares = calibration.at(compression.quality, compression.components)
                caution = measure_caution(compression.quality)
                judges = load_judges() if caution else None

        def finish(place: Pixels, restored: NDArray[np.float32], top: int, columns: slice) -> None:
            rows = slice(top, top + len(restored))
            if is_held_back:
                as_decoded = decoded[rows, columns].astype(np.float32)
            if strength != 1:
                restored = as_decoded + strength * (restored - as_decoded)
            if options.detail != 1:
                restored = keep_detail(restored, as_decoded, options.detail)
            if layer.most_change is not None:
                restored = as_decoded + np.clip(restored - as_decoded, -layer.most_change, layer.most_change)
            if layer.deep is not None:  # the network saw it rounded: what it changed is added to the whole depth
                restored = restored + (
                    layer.deep[rows, columns].astype(np.float32) / np.float32(257) - decoded[rows, columns]
                )
            if layer.is_neutral:
                restored[:] = restored.mean(axis=2, keepdims=True)  # as of grey files
            if compression and projected:
                trust = None
                if shares is not None:
                    trust = Trust(decoded[rows, columns], shares, judges, caution, keeps_even=scale == 1)
                components, space = compression.components, compression.colour_space
                restored = project(restored, components, space, top, columns.start, trust)
            if layer.is_neutral:
                restored[:] = (restored @ RGB_TO_YCC[0])[..., None]  # the same but for the projection's rounding
            np.clip(restored, 0, 255, out=restored)
            if options.dither and place.dtype == np.uint8:
                cells = (compression.components, compression.colour_space) if compression and projected else None
                place[...] = dither_tile(restored, top, columns.start, cells, is_neutral=layer.is_neutral)
                return
            if scale != 1:
                restored *= scale
            place[...] = np.rint(restored, out=restored)

        return finish


def _begins_as_jpeg(source: Source) -> bool:
    """Whether it is known at once that there is something to restore."""
    if isinstance(source, NamedBytes):
        source = source.getbuffer()
    return isinstance(source, bytes | bytearray | memoryview) and bytes(source[:2]) == b"\xff\xd8"


class _Watch:
    """Tells ``progress`` the finished share of so many numbers, 1 once and last."""

    def __init__(self, progress: Callable[[float], None] | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add(self, count: int) -> None:
        self._done += count
        if self._progress and self._done < self._total:
            self._progress(self._done / self._total)

    def end(self) -> None:
        if self._progress:
            self._progress(1.0)


def _strips_of(layer: Layer, pixels: NDArray[np.float32]) -> Strips:
    """A network's whole output as its tiles: as wide as the picture, to be written to."""
    height, width = pixels.shape[:2]
    rows_at_once = math.lcm(MERGED_ROWS, _alignment(layer))
    for top in range(0, height, rows_at_once):
        rows = slice(top, min(top + rows_at_once, height))
        yield rows, iter([(slice(0, width), pixels[rows].copy())])


def _find_damage(layer: Layer, options: Options) -> int | None:
    """The quality of what did the damage, as it is asked for or known; None where the pixels alone tell."""
    if options.quality is not None or layer.seen_quality is not None:
        return options.quality or layer.seen_quality
    return layer.compression.quality if layer.compression else None


def _alignment(layer: Layer) -> int:
    """See ``tile_alignment``."""
    return math.lcm(SEAM_GRID, tile_alignment(layer.compression.components if layer.compression else ()))


def restore(
    source: Source,
    options: Options = DEFAULTS,
    *,
    model: str | os.PathLike[str] = "default",
    **keywords: Unpack[OptionKeywords],
) -> Restored:
    """Restore one picture: ``Restorer.restore`` and ``Options`` say what the arguments mean.

    The model stays loaded between calls.
    """
    return shared_restorer(os.fspath(model)).restore(source, options, **keywords)


@lru_cache(maxsize=2)
def shared_restorer(model: str) -> Restorer:
    """The restorer that the module's functions use for a model, loaded once."""
    return Restorer(model)
