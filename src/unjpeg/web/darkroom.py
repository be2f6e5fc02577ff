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
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unjpeg.errors import PictureGoneError
from unjpeg.inspection import inspection_of
from unjpeg.jpeg import Limits
from unjpeg.picture import Picture, read_picture
from unjpeg.projection import measure_consistency
from unjpeg.restorer import ConsistencyPolicy, NetworkOutput, Restored, Restorer, upright
from unjpeg.web.words import Fact, check_in_words, file_in_words

__all__ = [
    "Darkroom",
    "FileKind",
    "Look",
    "View",
    "check_picture",
    "close_picture",
    "expire_pictures",
    "inspect_once",
    "open_darkroom",
    "open_picture",
    "restore_once",
    "save_picture",
    "show_picture",
    "warm_up",
]

View = Literal["decoded", "restored", "residual"]

_SHOWN_PNG_LEVEL = 1
"""Of zlib: views are sent once and thrown away; level 4, the files', takes half as long again."""


@dataclass(frozen=True, slots=True)
class Look:
    """How to restore: as ``Restorer.restore`` takes it."""

    strength: float = 1.0
    quality: int | None = None
    consistency: ConsistencyPolicy = "auto"


@dataclass(frozen=True, slots=True)
class FileKind:
    """What file to make: as ``Restored.save`` and ``Restorer.restore`` take it."""

    format: str = "png"
    bit_depth: Literal[8, 16] = 8
    output_quality: int | None = None


@dataclass
class _Held:
    """A picture and what was last made of it; ``used`` is by ``time.monotonic``."""

    picture: Picture
    used: float
    output: NetworkOutput | None = None
    output_for: int | None = None
    rendered: Restored | None = None
    rendered_for: Look | None = None

    @property
    def size_bytes(self) -> int:
        jpeg = self.picture.jpeg
        arrays: list[NDArray[Any] | None] = [self.picture.pixels, self.picture.alpha]
        arrays += [component.coefficients_VU88 for component in jpeg.components] if jpeg else []
        arrays += [self.output.pixels if self.output else None, self.rendered.pixels if self.rendered else None]
        return sum(array.nbytes for array in arrays if array is not None)


class Darkroom:
    """Holds pictures by key and renders them. For one thread.

    Args:
        restorer: restores them.
        limits: what a file may ask for; what asks for more is refused, from the header.
        held_bytes: pictures beyond this are dropped, the longest unused first; the one in use is always held.
        held_seconds: pictures not used for so long are dropped by ``expire``.
    """

    def __init__(self, restorer: Restorer, *, limits: Limits, held_bytes: int, held_seconds: float) -> None:
        self._restorer = restorer
        self._limits, self._held_bytes, self._held_seconds = limits, held_bytes, held_seconds
        self._pictures: OrderedDict[str, _Held] = OrderedDict()

    def warm_up(self) -> None:
        """Load the model into its runtime now. Raises ModelError."""
        _ = self._restorer.model

    def open(self, data: bytes, key: str, salvage: bool = False) -> dict[str, Any]:
        """Decode a file and hold it; what it says about itself. Raises BadImageError.

        Args:
            salvage: take what decodes of a damaged JPEG.
        """
        picture = read_picture(_named(data), limits=self._limits, salvage_damaged=salvage)
        facts = self._facts(picture)
        self._pictures[key] = _Held(picture, time.monotonic())
        self._make_room()
        return facts

    def inspect(self, data: bytes) -> dict[str, Any]:
        """As ``open``, without holding the picture."""
        return self._facts(read_picture(_named(data), limits=self._limits))

    def show(self, key: str, view: View, look: Look, gain: float) -> bytes:
        """A PNG to look at: upright, in the picture's colour profile, without its other metadata.

        Raises:
            PictureGoneError: no picture is held under this key.
        """
        held = self._take(key)
        profile = held.picture.metadata.icc_profile
        if view == "decoded":
            pixels = held.picture.with_alpha(held.picture.pixels, slice(None))
        elif view == "restored":
            pixels = self._render(held, look).pixels
        else:
            pixels, profile = _residual(held.picture.pixels, self._render(held, look).pixels, gain), None
        image = Image.fromarray(upright(pixels, held.picture.metadata.orientation))
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=_SHOWN_PNG_LEVEL, icc_profile=profile)
        return buffer.getvalue()

    def check(self, key: str, look: Look) -> dict[str, Any]:
        """Whether the result could have produced the file: as ``unjpeg verify`` says. Raises PictureGoneError."""
        held = self._take(key)
        restored = self._render(held, look)
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

    def save(self, key: str, look: Look, kind: FileKind) -> bytes:
        """The file that ``unjpeg restore`` writes. Raises PictureGoneError, OutputError."""
        held = self._take(key)
        if kind.bit_depth == 8:
            return _file(self._render(held, look), kind)
        output = self._run_network(held, look)
        deep = self._restorer.finish(output, strength=look.strength, consistency=look.consistency, bit_depth=16)
        self._make_room()
        return _file(deep, kind)

    def restore(self, data: bytes, look: Look, kind: FileKind, salvage: bool = False) -> tuple[bytes, dict[str, Any]]:
        """From file to file, holding nothing; and the report. Raises BadImageError, OutputError."""
        restored = self._restorer.restore(
            _named(data),
            strength=look.strength,
            quality=look.quality,
            consistency=look.consistency,
            bit_depth=kind.bit_depth,
            salvage=salvage,
        )
        return _file(restored, kind), dataclasses.asdict(restored.report)

    def close(self, key: str) -> None:
        """Forget a picture, if it is held."""
        self._pictures.pop(key, None)

    def expire(self) -> None:
        """Forget what was not used for long."""
        now = time.monotonic()
        for key in [key for key, held in self._pictures.items() if now - held.used > self._held_seconds]:
            del self._pictures[key]

    def _facts(self, picture: Picture) -> dict[str, Any]:
        read = self._restorer.guide(picture).quality
        inspection = inspection_of(picture.name, picture.jpeg, read) if picture.jpeg else None
        height, width = picture.pixels.shape[:2]
        return {
            "width": width,
            "height": height,
            "read_quality": read,
            "inspection": dataclasses.asdict(inspection) if inspection else None,
            "facts": _plain(file_in_words(picture, inspection)),
        }

    def _take(self, key: str) -> _Held:
        held = self._pictures.get(key)
        if held is None:
            raise PictureGoneError("this picture is no longer held; send it again")
        held.used = time.monotonic()
        self._pictures.move_to_end(key)
        return held

    def _run_network(self, held: _Held, look: Look) -> NetworkOutput:
        if held.output is None or held.output_for != look.quality:
            held.output = None  # the old one goes before the new one comes
            held.output = self._restorer.run_network(held.picture, quality=look.quality)
            held.output_for = look.quality
        return held.output

    def _render(self, held: _Held, look: Look) -> Restored:
        if held.rendered is None or held.rendered_for != look:
            output = self._run_network(held, look)
            held.rendered = self._restorer.finish(output, strength=look.strength, consistency=look.consistency)
            held.rendered_for = look
            self._make_room()
        return held.rendered

    def _make_room(self) -> None:
        total = sum(held.size_bytes for held in self._pictures.values())
        while total > self._held_bytes and len(self._pictures) > 1:
            _, dropped = self._pictures.popitem(last=False)
            total -= dropped.size_bytes


def _named(data: bytes) -> io.BytesIO:
    """A stream, and what messages call it: whoever sent it knows its name, and the server need not."""
    stream = io.BytesIO(data)
    stream.name = "this file"
    return stream


def _file(restored: Restored, kind: FileKind) -> bytes:
    buffer = io.BytesIO()
    restored.save(buffer, format=kind.format, quality=kind.output_quality)
    return buffer.getvalue()


def _residual(decoded: NDArray[np.uint8], restored: NDArray[Any], gain: float) -> NDArray[np.uint8]:
    """What was changed, around middle grey. ``restored`` may have an alpha channel more."""
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


def open_darkroom(model: str, threads: int, folder: str, max_pixels: int, held_bytes: int, held_seconds: float) -> None:
    """Start a worker process. ``folder`` is for its temporary files: what a killed one leaves is removed with it."""
    global _darkroom
    tempfile.tempdir = folder
    limits = Limits(pixels=max_pixels)
    restorer = Restorer(model, threads=threads, limits=limits)
    _darkroom = Darkroom(restorer, limits=limits, held_bytes=held_bytes, held_seconds=held_seconds)


def _here() -> Darkroom:
    assert _darkroom is not None
    return _darkroom


def open_picture(data: bytes, key: str, salvage: bool = False) -> dict[str, Any]:
    """``Darkroom.open``."""
    return _here().open(data, key, salvage)


def inspect_once(data: bytes) -> dict[str, Any]:
    """``Darkroom.inspect``."""
    return _here().inspect(data)


def show_picture(key: str, view: View, look: Look, gain: float) -> bytes:
    """``Darkroom.show``."""
    return _here().show(key, view, look, gain)


def check_picture(key: str, look: Look) -> dict[str, Any]:
    """``Darkroom.check``."""
    return _here().check(key, look)


def save_picture(key: str, look: Look, kind: FileKind) -> bytes:
    """``Darkroom.save``."""
    return _here().save(key, look, kind)


def restore_once(data: bytes, look: Look, kind: FileKind, salvage: bool = False) -> tuple[bytes, dict[str, Any]]:
    """``Darkroom.restore``."""
    return _here().restore(data, look, kind, salvage)


def close_picture(key: str) -> None:
    """``Darkroom.close``."""
    _here().close(key)


def warm_up() -> None:
    """Load the model into its runtime, so that the first request need not wait for it. Raises ModelError."""
    _here().warm_up()


def expire_pictures() -> None:
    """``Darkroom.expire``."""
    _here().expire()
