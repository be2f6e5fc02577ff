"""What a worker process does: it holds pictures and what the network made of them, and renders them as asked.

Everything is in memory. A picture stays until it is closed, unused for a while, or in the way of newer ones; whoever
asks for it then is told to send it again (``PictureGoneError``), so losing one is never more than a delay.
"""

from __future__ import annotations

import dataclasses
import io
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unjpeg.errors import PictureGoneError
from unjpeg.history import History, read_history
from unjpeg.inks import show_inks
from unjpeg.inspection import inspect_picture
from unjpeg.jpeg import Limits
from unjpeg.modelfile import ModelFile
from unjpeg.output import default_format, list_without_place, profile_fits
from unjpeg.picture import NamedBytes, Picture, read_picture
from unjpeg.precision import SCORED_HEIGHT, SCORED_WIDTH, Choice
from unjpeg.projection import measure_consistency
from unjpeg.restorer import NetworkOutput, Options, Restored, Restorer, turn_upright
from unjpeg.settings import fit_options
from unjpeg.tiling import Tiling
from unjpeg.web.gauges import Gauges
from unjpeg.web.words import Fact, check_in_words, file_in_words

__all__ = [
    "Darkroom",
    "FileKind",
    "Frame",
    "View",
    "calibrate",
    "check_picture",
    "close_picture",
    "expire_pictures",
    "inspect_once",
    "open_darkroom",
    "open_picture",
    "prepare_picture",
    "restore_once",
    "save_picture",
    "show_picture",
    "warm_up",
]

View = Literal["decoded", "restored", "residual"]

_THIS = "this file"
"""What messages call it: whoever sent it knows its name, and the server need not."""

_NETWORK_SHARE = 0.95
"""Of the progress that is shown; the rest is strength, projection and rounding."""

_CALIBRATION_SIDE = 512

_SHOWN_PNG_LEVEL = 1
"""Of zlib: views are sent once and thrown away; level 4, the files', takes half as long again."""


@dataclass(frozen=True, slots=True)
class FileKind:
    """What file to make: as ``Restored.save`` takes it. Without a format PNG, or TIFF of CMYK."""

    format: str | None = None
    output_quality: int | None = None
    output_size: int | Literal["input"] | None = None
    tag: bool = False

    def format_for(self, is_cmyk: bool) -> str:
        """What is made of such a picture."""
        return self.format or default_format(is_cmyk)


@dataclass(frozen=True, slots=True)
class Frame:
    """What to show of a picture, for pages that need not have all of it.

    Attributes:
        area: (left, top, width, height) in pixels of the upright picture, cut to it; None is all.
        reduce: each pixel shown is the mean of so many by so many.
    """

    area: tuple[int, int, int, int] | None = None
    reduce: int = 1

    def cut(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """``(H, W)`` or ``(H, W, C)``, upright. At least one pixel of it is left."""
        if self.area is None:
            return pixels
        height, width = pixels.shape[:2]
        left, top = min(self.area[0], width - 1), min(self.area[1], height - 1)
        return pixels[top : top + max(1, self.area[3]), left : left + max(1, self.area[2])]


@dataclass
class _Held:
    """A picture and what was last made of it; ``used`` is by ``time.monotonic``."""

    picture: Picture
    history: History
    used: float
    output: NetworkOutput | None = None
    output_for: tuple[str | None, int | None, bool] | None = None
    rendered: Restored | None = None
    rendered_for: tuple[str | None, Options] | None = None

    @property
    def size_bytes(self) -> int:
        jpeg = self.picture.jpeg
        arrays: list[NDArray[Any] | None] = [self.picture.pixels, self.picture.alpha]
        arrays += [component.coefficients_VU88 for component in jpeg.components] if jpeg else []
        arrays += [self.rendered.pixels if self.rendered else None]
        held = sum(array.nbytes for array in arrays if array is not None)
        return held + (self.output.size_bytes if self.output else 0)


class Darkroom:
    """Holds pictures by key and renders them. For one thread.

    Args:
        restorer: restores them, unless another is named.
        limits: what a file may ask for; what asks for more is refused, from the header.
        held_bytes: beyond this, what the network made is dropped, then pictures, the longest unused first; the one in
            use is always held.
        held_seconds: pictures not used for so long are dropped by ``expire``.
        others: further restorers, by the name of their model.
        gauges: where to show how far it is; the first model's number is 0, the others follow.
    """

    def __init__(
        self,
        restorer: Restorer,
        *,
        limits: Limits,
        held_bytes: int,
        held_seconds: float,
        others: Mapping[str, Restorer] | None = None,
        gauges: Gauges | None = None,
    ) -> None:
        self._restorer, self._others = restorer, dict(others or {})
        self._limits, self._held_bytes, self._held_seconds = limits, held_bytes, held_seconds
        self._gauges = gauges or Gauges(1 + len(self._others))
        self._pictures: OrderedDict[str, _Held] = OrderedDict()

    def presume(self, choices: Sequence[Choice], threads: int) -> None:
        """Show how long models may take here, from what was measured to choose their precisions."""
        for number, (restorer, choice) in enumerate(zip(self._all, choices, strict=True)):
            measured = choice.seconds_per_megapixel.get(choice.precision)
            if measured is not None:
                description = restorer.model_file.description
                tiling = Tiling.suited_to(description, choice.precision)
                slower = description.passes * max(1, choice.cores) / threads
                of_seen = measured / 1e6 / tiling.computed_share(SCORED_HEIGHT, SCORED_WIDTH)
                self._gauges.presume(number, tiling, of_seen * slower)

    @property
    def _all(self) -> list[Restorer]:
        """By their numbers."""
        return [self._restorer, *self._others.values()]

    def warm_up(self) -> None:
        """Load the model into its runtime now. Raises ModelError."""
        self._restorer.load()

    def open(self, data: bytes, key: str, salvage: bool = False) -> dict[str, Any]:
        """Decode a file and hold it; what it says about itself. Raises BadImageError.

        Args:
            salvage: take what decodes of a damaged JPEG.
        """
        picture = read_picture(NamedBytes(data, _THIS), limits=self._limits, salvage_damaged=salvage)
        history = read_history(picture.pixels, picture.jpeg)
        facts = self._facts(picture, history)
        self._pictures[key] = _Held(picture, history, time.monotonic())
        self._make_room()
        return facts

    def prepare(self, key: str, options: Options, model: str | None = None) -> None:
        """Run the network and render, so that what is asked for next is there; ``gauges`` show how far it is.

        Raises:
            PictureGoneError: no picture is held under this key.
            BusyError: it was asked to stop.
        """
        held = self._take(key)
        self._render(held, options, model)

    def calibrate(self, model: str | None = None) -> None:
        """Restore a small picture of noise, to know how long pictures take here, unless one has told already.

        Raises ModelError.
        """
        if self._gauges.is_measured(self._number_of(model)):
            return
        noise = np.random.default_rng(0).integers(0, 256, (_CALIBRATION_SIDE, _CALIBRATION_SIDE, 3), np.uint8)
        picture = read_picture(noise)
        held = _Held(picture, read_history(picture.pixels), time.monotonic())
        options = Options(quality=50)  # without one, a picture that was never compressed is left alone
        self._restorer_of(model).run_network(held.picture, options)  # runtimes are slow the first time
        self._render(held, options, model)

    def inspect(self, data: bytes, salvage: bool = False) -> dict[str, Any]:
        """As ``open``, without holding the picture."""
        return self._facts(read_picture(NamedBytes(data, _THIS), limits=self._limits, salvage_damaged=salvage))

    def show(
        self,
        key: str,
        view: View,
        options: Options,
        gain: float,
        model: str | None = None,
        frame: Frame = Frame(),
    ) -> bytes:
        """A PNG to look at: upright, in the picture's colour profile, without its other metadata.

        Args:
            gain: of the residual.
            model: the name of another than the first.
            frame: what part of it, how small.

        Raises:
            PictureGoneError: no picture is held under this key.
        """
        held = self._take(key)
        metadata = held.picture.metadata
        are_inks = held.picture.inks is not None
        fits = not are_inks and profile_fits(metadata, "png", held.picture.channels)
        profile = metadata.icc_profile if fits else None
        orientation = metadata.orientation

        def framed(pixels: NDArray[Any]) -> NDArray[Any]:
            cut = frame.cut(turn_upright(pixels, orientation))
            return show_inks(cut, metadata.icc_profile) if are_inks else cut

        if view == "decoded":
            pixels = framed(held.picture.with_alpha(held.picture.pixels, slice(None)))
        elif view == "restored":
            pixels = framed(self._render(held, options, model).pixels)
        else:
            restored = framed(self._render(held, options, model).pixels)
            pixels, profile = _residual(framed(held.picture.pixels), restored, gain), None
        image = Image.fromarray(np.ascontiguousarray(pixels))
        if frame.reduce > 1:
            image = image.reduce(frame.reduce)
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=_SHOWN_PNG_LEVEL, icc_profile=profile)
        return buffer.getvalue()

    def check(self, key: str, options: Options, model: str | None = None) -> dict[str, Any]:
        """Whether the result could have produced the file: as ``unjpeg verify`` says. Raises PictureGoneError."""
        held = self._take(key)
        restored = self._render(held, options, model)
        jpeg = held.picture.jpeg
        consistency = None
        if jpeg is not None:
            pixels = restored.pixels
            consistency = measure_consistency(pixels, jpeg.components, jpeg.header.colour_space, jpeg.pixels)
        consistent = consistency.is_consistent if consistency is not None and consistency.can_tell else None
        return {
            "consistent": consistent,
            "share_inside": consistency.share_inside if consistency is not None else None,
            "report": dataclasses.asdict(restored.report),
            "facts": _plain(check_in_words(restored.report, consistency)),
        }

    def save(
        self, key: str, options: Options, kind: FileKind, model: str | None = None
    ) -> tuple[bytes, str, str | None]:
        """The file that ``unjpeg restore`` writes, its format, and what its user should know of it, if anything.

        Raises:
            PictureGoneError: no picture is held under this key.
            OutputError: the file cannot be written like that, or not within that size.
        """
        held = self._take(key)
        format = kind.format_for(held.picture.inks is not None)
        options = fit_options(options, format)
        deep = options.bit_depth or (8 if held.picture.deep is None else 16)
        if deep == 8:
            file, said = _file(self._render(held, options, model), kind)
            return file, format, said
        whole = self._restorer_of(model).finish(self._run_network(held, options, model), options)
        self._make_room()
        file, said = _file(whole, kind)
        return file, format, said

    def restore(
        self, data: bytes, options: Options, kind: FileKind, model: str | None = None
    ) -> tuple[bytes, str, dict[str, Any]]:
        """From file to file, holding nothing; its format, and the report. Raises BadImageError, OutputError."""
        if kind.format is not None:  # else a result of more than 8 bits fits either of the two
            options = fit_options(options, kind.format)
        restored = self._restorer_of(model).restore(NamedBytes(data, _THIS), options)
        format = kind.format_for(restored.is_cmyk)
        channels = restored.pixels.shape[2] if restored.pixels.ndim == 3 else 1
        lost = list_without_place(restored.metadata, format, channels, is_cmyk=restored.is_cmyk)
        facts = dataclasses.asdict(restored.report.as_written(format, kind.output_quality))
        if lost:
            facts["notes"] += (f"{format} has no place for {' and '.join(lost)}: lost",)
        file, said = _file(restored, kind)
        facts["notes"] += (said,) if said else ()
        return file, format, facts

    def close(self, key: str) -> None:
        """Forget a picture, if it is held."""
        self._pictures.pop(key, None)

    def expire(self) -> None:
        """Forget what was not used for long."""
        now = time.monotonic()
        for key in [key for key, held in self._pictures.items() if now - held.used > self._held_seconds]:
            del self._pictures[key]

    def _facts(self, picture: Picture, history: History | None = None) -> dict[str, Any]:
        history = history or read_history(picture.pixels, picture.jpeg)
        read = self._restorer.read_quality(picture, history)
        inspection = inspect_picture(picture, read, history)
        return {
            "width": inspection.width,
            "height": inspection.height,
            "read_quality": read,
            "inspection": dataclasses.asdict(inspection),
            "facts": _plain(file_in_words(picture, inspection)),
        }

    def _take(self, key: str) -> _Held:
        held = self._pictures.get(key)
        if held is None:
            raise PictureGoneError("this picture is no longer held; send it again")
        held.used = time.monotonic()
        self._pictures.move_to_end(key)
        return held

    def _restorer_of(self, model: str | None) -> Restorer:
        return self._restorer if model is None else self._others[model]

    def _number_of(self, model: str | None) -> int:
        return 0 if model is None else 1 + list(self._others).index(model)

    def _run_network(
        self, held: _Held, options: Options, model: str | None, progress: Callable[[float], None] | None = None
    ) -> NetworkOutput:
        wanted = (model, options.quality, options.consistency == "strict")
        if held.output is None or held.output_for != wanted:
            held.output = None  # the old one goes before the new one comes
            held.output = self._restorer_of(model).run_network(
                held.picture, options, progress=progress, history=held.history
            )
            held.output_for = wanted
        return held.output

    def _render(self, held: _Held, options: Options, model: str | None) -> Restored:
        options = dataclasses.replace(options, bit_depth=8)
        if held.rendered is not None and held.rendered_for == (model, options):
            return held.rendered
        height, width = held.picture.pixels.shape[:2]
        report = self._gauges.begin(height, width)
        restorer = self._restorer_of(model)
        passes = restorer.model_file.description.passes
        plan = restorer.network.plan((height, width), passes)
        step = 1 / (len(plan.rows) * len(plan.columns) * passes)
        at_network: list[float] = []

        def of_network(share: float) -> None:
            at_network.append(time.monotonic())
            report(_NETWORK_SHARE * share, _NETWORK_SHARE * min(1, share + step) if share < 1 else 1)

        report(0, _NETWORK_SHARE * step)
        start = time.monotonic()
        output = self._run_network(held, options, model, of_network)
        held.rendered = None
        held.rendered = restorer.finish(
            output, options, progress=lambda share: report(_NETWORK_SHARE + (1 - _NETWORK_SHARE) * share, 1)
        )
        held.rendered_for = (model, options)
        if at_network:  # it ran, and was not there already
            took = at_network[-1] - at_network[0]
            rest = time.monotonic() - start - took
            tiling, size, layers = restorer.network.tiling, (height, width), len(output.layers)
            for number, other in enumerate(self._all):
                if other.model_file.network_hash == restorer.model_file.network_hash:  # one network, run more often
                    took_other = took * other.model_file.description.passes / passes
                    self._gauges.measured(number, tiling, size, layers, network_seconds=took_other, rest=rest)
        self._make_room()
        return held.rendered

    def _make_room(self) -> None:
        total = sum(held.size_bytes for held in self._pictures.values())
        for held in list(self._pictures.values())[:-1]:  # what is rendered stays longer: it takes a quarter as much
            if total > self._held_bytes and held.output is not None:
                total -= held.output.size_bytes
                held.output = None
        while total > self._held_bytes and len(self._pictures) > 1:
            _, dropped = self._pictures.popitem(last=False)
            total -= dropped.size_bytes


def _file(restored: Restored, kind: FileKind) -> tuple[bytes, str | None]:
    """The file, and what its user should know, if anything."""
    buffer = io.BytesIO()
    said = restored.save(
        buffer, format=kind.format, quality=kind.output_quality, output_size=kind.output_size, tag=kind.tag
    )
    return buffer.getvalue(), said


def _residual(decoded: NDArray[np.uint8], restored: NDArray[Any], gain: float) -> NDArray[np.uint8]:
    """What was changed, around middle grey. ``restored`` may have an alpha channel more."""
    # Inks come here as RGB, as they are looked at.
    if restored.ndim > decoded.ndim:
        restored = restored[..., 0]
    elif restored.ndim == 3:
        restored = restored[..., :3]
    change = restored.astype(np.float32)  # in place from here: large pictures have large temporaries
    change -= decoded
    change *= np.float32(gain)
    change += 128
    np.clip(np.rint(change, out=change), 0, 255, out=change)
    shown: NDArray[np.uint8] = change.astype(np.uint8)
    return shown


def _plain(facts: list[Fact]) -> list[dict[str, str]]:
    return [dataclasses.asdict(fact) for fact in facts]


# In a worker process: what open_darkroom made, and the functions that are sent there


_darkroom: Darkroom | None = None


def open_darkroom(
    models: Mapping[str, Choice],
    threads: int,
    folder: str,
    max_pixels: int,
    held_bytes: int,
    held_seconds: float,
    gauges: Gauges,
) -> None:
    """Start a worker process. ``folder`` is for its temporary files: what a killed one leaves is removed with it."""
    global _darkroom
    tempfile.tempdir = folder
    limits = Limits(pixels=max_pixels)
    by_network: dict[str, Restorer] = {}
    restorers: list[Restorer] = []
    for model, choice in models.items():
        network = ModelFile.read(model).network_hash
        if network in by_network:
            restorers.append(by_network[network].sharing(model))
        else:
            restorers.append(Restorer(model, threads=threads, precision=choice, limits=limits))
            by_network[network] = restorers[-1]
    restorer, *others = restorers
    _darkroom = Darkroom(
        restorer,
        limits=limits,
        held_bytes=held_bytes,
        held_seconds=held_seconds,
        others=dict(zip(list(models)[1:], others, strict=True)),
        gauges=gauges,
    )
    _darkroom.presume(list(models.values()), threads)


def _here() -> Darkroom:
    assert _darkroom is not None
    return _darkroom


def open_picture(data: bytes, key: str, salvage: bool = False) -> dict[str, Any]:
    """``Darkroom.open``."""
    return _here().open(data, key, salvage)


def inspect_once(data: bytes, salvage: bool = False) -> dict[str, Any]:
    """``Darkroom.inspect``."""
    return _here().inspect(data, salvage)


def prepare_picture(key: str, options: Options, model: str | None) -> None:
    """``Darkroom.prepare``."""
    _here().prepare(key, options, model)


def show_picture(key: str, view: View, options: Options, gain: float, model: str | None, frame: Frame) -> bytes:
    """``Darkroom.show``."""
    return _here().show(key, view, options, gain, model, frame)


def check_picture(key: str, options: Options, model: str | None) -> dict[str, Any]:
    """``Darkroom.check``."""
    return _here().check(key, options, model)


def save_picture(key: str, options: Options, kind: FileKind, model: str | None) -> tuple[bytes, str, str | None]:
    """``Darkroom.save``."""
    return _here().save(key, options, kind, model)


def restore_once(data: bytes, options: Options, kind: FileKind, model: str | None) -> tuple[bytes, str, dict[str, Any]]:
    """``Darkroom.restore``."""
    return _here().restore(data, options, kind, model)


def close_picture(key: str) -> None:
    """``Darkroom.close``."""
    _here().close(key)


def warm_up() -> None:
    """Load the model into its runtime, so that the first request need not wait for it. Raises ModelError."""
    _here().warm_up()


def calibrate(model: str | None) -> None:
    """``Darkroom.calibrate``."""
    _here().calibrate(model)


def expire_pictures() -> None:
    """``Darkroom.expire``."""
    _here().expire()
