"""From whatever a caller has (path, bytes, stream, Pillow image, array) to what the restorer works on.

The content decides what a file is, not its name. Only JPEG files say which pictures could have produced them; anything
else is restored *blind*: same network, no projection.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from unjpeg.errors import BadImageError, TooLargeError, UnsupportedImageError
from unjpeg.jpeg import DEFAULT_LIMITS, JpegImage, Limits, is_jpeg, salvage
from unjpeg.metadata import Metadata
from unjpeg.output import Pixels
from unjpeg.xyb import is_xyb

__all__ = ["FileSource", "Picture", "Source", "bits_per_sample", "read_bytes", "read_picture"]

FileSource = str | os.PathLike[str] | bytes | BinaryIO
"""A file: its path (``-`` for standard input), its bytes, or a binary stream."""

Source = FileSource | Image.Image | NDArray[np.uint8]
"""A file, or pixels that no longer know which file they came from."""

_FORMATS = ("PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "JPEG2000")
"""What Pillow may take a file for: of all it knows, EPS would start another program on it."""

# Our own limit on pixels is checked, from the header. A filter for good, since changing filters is not thread-safe.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

XYB_NOTE = "its colours are XYB, which no network here was made for: left as decoded"

_WORTH_A_NOTE = 1024
"""Bytes behind a picture; encoders' padding is less."""

_CHUNK_BYTES = 2**24

_PLAIN_MODES = {"1": "L", "L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA", "P": "RGB", "PA": "RGBA"}


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture.

    Attributes:
        name: what to call it in messages.
        pixels: ``(H, W)`` grey or ``(H, W, 3)`` RGB, uint8.
        alpha: ``(H, W)`` uint8 or None; never touched.
        jpeg: the file's own knowledge, or None for a blind restoration.
        sound_rows: rows from the top that hold anything, if the rest of a salvaged file is missing; else None.
        notes: what a user should know, one sentence each.
        stays_as_decoded: whether it is of a kind that no network is made for.
    """

    name: str
    pixels: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None
    metadata: Metadata
    jpeg: JpegImage | None
    sound_rows: int | None = None
    notes: tuple[str, ...] = ()
    stays_as_decoded: bool = False

    @property
    def is_neutral(self) -> bool:
        """Whether a picture of three channels has no colour at all, by its file or, without one, by its pixels."""
        if self.jpeg is not None:
            return self.jpeg.is_neutral
        return self.channels == 3 and bool((self.pixels[..., :1] == self.pixels[..., 1:]).all())

    @property
    def channels(self) -> int:
        """1 or 3, alpha not counted."""
        return 1 if self.pixels.ndim == 2 else 3

    def with_alpha(self, pixels: Pixels, rows: slice) -> Pixels:
        """Put the alpha channel back beside restored pixels of these rows, at their bit depth."""
        if self.alpha is None:
            return pixels
        alpha = self.alpha[rows]
        return np.dstack([pixels, alpha if pixels.dtype == np.uint8 else alpha.astype(np.uint16) * np.uint16(257)])


def read_picture(source: Source, *, limits: Limits = DEFAULT_LIMITS, salvage_damaged: bool = False) -> Picture:
    """Decode anything that can be restored.

    Args:
        source: a path, the bytes of a file, a binary stream, or (restored blind) a Pillow image or an array
            ``(H, W)``, ``(H, W, 2)``, ``(H, W, 3)`` or ``(H, W, 4)`` of uint8.
        limits: what asks for more is refused, from the header.
        salvage_damaged: take what decodes of a damaged JPEG, without its cells.

    Raises:
        BadImageError: and its children.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, limits.pixels)
    if isinstance(source, Image.Image):
        return _from_pillow(source, "image", limits.pixels)
    data, name = read_bytes(source, limits.file_bytes)
    if not data:
        raise BadImageError(f"{name}: is empty")
    if is_jpeg(data):
        try:
            jpeg = JpegImage.decode(data, name, limits)
        except (UnsupportedImageError, TooLargeError):
            raise
        except BadImageError as error:
            if not salvage_damaged:
                raise BadImageError(f"{error}{_what_salvaging_gives(data, name, limits)}") from error
            return _salvaged(data, name, limits, error)
        notes = (*jpeg.notes, *_left_behind(jpeg.trailing_bytes))
        in_xyb = jpeg.header.colour_space == "RGB" and is_xyb(jpeg.pixels, jpeg.metadata.icc_profile)
        if in_xyb:
            notes += (XYB_NOTE,)
        return Picture(name, jpeg.pixels, None, jpeg.metadata, jpeg, notes=notes, stays_as_decoded=in_xyb)
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        most = min(limits.pixels, 2 * (Image.MAX_IMAGE_PIXELS or limits.pixels))  # Pillow refuses at twice its own
        problem = f"has more than the {most} pixels that a picture other than a JPEG may have"
        raise TooLargeError(f"{name}: {problem}; make it smaller, or cut it") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise BadImageError(f"{name}: is not a picture in a format that can be read") from error
    return _from_pillow(image, name, limits.pixels)


def _left_behind(trailing_bytes: int) -> tuple[str, ...]:
    if trailing_bytes < _WORTH_A_NOTE:
        return ()
    return (f"{trailing_bytes:,} bytes behind the picture (a video, further pictures) are not carried over",)


def _what_salvaging_gives(data: bytes, name: str, limits: Limits) -> str:
    """What to add to a message about a damaged file; nothing if nothing of it decodes."""
    try:
        saved = salvage(data, name, limits)
    except BadImageError:
        return ""
    height, rows = saved.pixels.shape[0], saved.sound_rows
    saves = f"{rows} of its {height} rows" if rows < height else f"its {height} rows, in part coarsely or wrongly"
    return f"; salvage (--salvage) restores {saves}"


def _salvaged(data: bytes, name: str, limits: Limits, damage: BadImageError) -> Picture:
    saved = salvage(data, name, limits)
    height = saved.pixels.shape[0]
    notes: tuple[str, ...] = (
        "salvaged from a damaged file, and not held to its cells: " + str(damage).removeprefix(f"{name}: "),
    )
    if saved.sound_rows < height:
        notes += (f"the last {height - saved.sound_rows} of {height} rows are missing and left grey",)
    return Picture(name, saved.pixels, None, saved.metadata, None, saved.sound_rows, notes)


def read_bytes(source: FileSource, max_bytes: int = DEFAULT_LIMITS.file_bytes) -> tuple[bytes, str]:
    """A file's bytes and its name for messages. ``-`` is standard input.

    Raises:
        BadImageError: it cannot be read.
        TooLargeError: it has more than ``max_bytes``, of which no more than that are read.
    """
    data, name = _read_at_most(source, max_bytes + 1)
    if len(data) > max_bytes:
        raise TooLargeError(f"{name}: has more than the limit of {max_bytes:,} bytes")
    return data, name


def _read_at_most(source: FileSource, count: int) -> tuple[bytes, str]:
    if isinstance(source, bytes):
        return source, "image"
    if isinstance(source, str | os.PathLike):
        if str(source) == "-":
            if sys.stdin is None:
                raise BadImageError("standard input: is closed")
            return _read(sys.stdin.buffer, count), "standard input"
        path = Path(source)
        try:
            with path.open("rb") as file:
                return _read(file, count), str(path)
        except FileNotFoundError as error:
            raise BadImageError(f"{path}: no such file") from error
        except IsADirectoryError as error:
            raise BadImageError(f"{path}: is a folder") from error
        except OSError as error:
            raise BadImageError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not hasattr(source, "read"):
        raise TypeError(f"cannot restore a {type(source).__name__}: give a path, bytes, a stream, an image or an array")
    return _read(source, count), str(getattr(source, "name", "stream"))


def _read(stream: BinaryIO, count: int) -> bytes:
    """At most so many bytes; a pipe gives fewer at a time than it has."""
    parts = []
    while count > 0:
        part = stream.read(min(count, _CHUNK_BYTES))
        if not isinstance(part, bytes):
            raise TypeError("cannot restore from a stream of text: open the file in binary mode")
        if not part:
            break
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def bits_per_sample(image: Image.Image) -> int:
    """Of the file, before its pixels are read: 8 or 16. Pillow cuts 16-bit colour down to 8 without a word."""
    raw_modes = [str(argument) for *_, arguments in getattr(image, "tile", []) for argument in _as_tuple(arguments)]
    return 16 if any(";16" in mode for mode in raw_modes) else 8


def _as_tuple(arguments: object) -> tuple[object, ...]:
    return arguments if isinstance(arguments, tuple) else (arguments,)


def _from_array(array: NDArray[np.uint8], max_pixels: int) -> Picture:
    if array.dtype != np.uint8:
        raise UnsupportedImageError(f"array: has dtype {array.dtype}; give uint8, range 0..255")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4)) or 0 in array.shape:
        raise UnsupportedImageError(f"array: has shape {array.shape}; give (H, W) or (H, W, 1..4)")
    return _split(array, "array", Metadata(), max_pixels)


def _from_pillow(image: Image.Image, name: str, max_pixels: int) -> Picture:
    _check_size(image.width, image.height, name, max_pixels)
    # A phone's JPEG with further pictures behind the first (depth, preview) is MPO to Pillow, and no animation.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise UnsupportedImageError(f"{name}: is an animation or has several pages; give one picture")
    if bits_per_sample(image) == 16:
        raise UnsupportedImageError(f"{name}: has 16 bits per sample; convert it to 8 bits first")
    mode = _PLAIN_MODES.get(image.mode)
    if mode is None:
        raise UnsupportedImageError(f"{name}: has pixels of kind {image.mode!r}; convert it to 8-bit grey or RGB first")
    if "transparency" in image.info:
        mode = "LA" if image.mode in ("1", "L") else "RGBA"
    try:
        metadata = Metadata.from_pillow(image)
        pixels = np.asarray(image.convert(mode))
    except Exception as error:  # Pillow's decoders of damaged files raise nearly anything
        raise BadImageError(f"{name}: is damaged ({error})") from error
    return _split(pixels, name, metadata, max_pixels)


def _split(pixels: NDArray[np.uint8], name: str, metadata: Metadata, max_pixels: int) -> Picture:
    _check_size(pixels.shape[1], pixels.shape[0], name, max_pixels)
    alpha = None
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels, alpha = pixels[..., :-1], np.ascontiguousarray(pixels[..., -1])
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    return Picture(name, np.ascontiguousarray(pixels), alpha, metadata, None)


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise TooLargeError(f"{name}: has {width}x{height} pixels, more than the limit of {max_pixels:,}")
