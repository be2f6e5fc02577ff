"""From whatever a caller has (path, bytes, stream, Pillow image, array) to what the restorer works on.

The content decides what a file is, not its name. Only JPEG files say which pictures could have produced them; anything
else is restored *blind*: same network, no projection.
"""

from __future__ import annotations

import errno
import io
import os
import re
import select
import shlex
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from unjpeg.depth import bits_per_sample, colour_code_of, rounded, sample_bits, unrounded
from unjpeg.errors import BadImageError, TooLargeError, UnsupportedImageError
from unjpeg.heif import is_heif, list_readable_formats, read_heif
from unjpeg.inks import InkCoding
from unjpeg.jpeg import DEFAULT_LIMITS, JpegImage, Limits, is_jpeg, salvage
from unjpeg.metadata import Metadata
from unjpeg.othercodecs import comparable_quality
from unjpeg.output import Pixels
from unjpeg.pngfile import is_png, read_png
from unjpeg.xyb import is_xyb

__all__ = [
    "FileSource",
    "NamedBytes",
    "Picture",
    "Source",
    "bits_per_sample",
    "read_bytes",
    "read_colours",
    "read_picture",
]

T = TypeVar("T", np.uint8, np.uint16)

FileSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
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

PIPE_SECONDS = 10.0
"""How long a named pipe may wait for somebody who writes to it."""

_NO_PICTURES = (
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "is a JPEG XL picture, which has to be converted first"),
    (re.compile(rb"(II\*\0|MM\0\*).{4}CR|....ftypcrx|FUJIFILM|IIRO|IIU\0", re.DOTALL), "is a camera's raw file"),
    (re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<svg", re.DOTALL), "is a drawing (SVG)"),
    (re.compile(rb"\s*<(!doctype html|html)", re.IGNORECASE), "is a web page, saved in the picture's stead"),
    (re.compile(rb"%PDF-"), "is a PDF document"),
    (re.compile(rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ", re.DOTALL), "is a video"),
    (re.compile(rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!"), "is an archive, to be unpacked first"),
)
"""What people hand over that is no picture, by its first bytes."""

_DEEP_FORMATS = ("PNG", "TIFF", "PPM", "AVIF", "JPEG2000")
"""Whose files may have more than 8 bits per sample."""

_CUT_MODES = ("LA", "RGB", "RGBA")
"""What Pillow makes of more than 8 bits without a word. Deep grey has a mode of its own."""

_PLAIN_MODES = {"1": "L", "L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA", "P": "RGB", "PA": "RGBA"}


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture.

    Attributes:
        name: what to call it in messages.
        pixels: ``(H, W)`` grey or ``(H, W, 3)`` RGB, uint8: what the network sees. Or ``(H, W, 4)`` CMYK, where 0 is no
            ink: see ``unjpeg.inks``.
        alpha: ``(H, W)`` uint8, uint16 at full range, or None; never touched.
        jpeg: the file's own knowledge, or None for a blind restoration.
        sound_rows: rows from the top that hold anything, if the rest of a salvaged file is missing; else None.
        notes: what a user should know, one sentence each.
        deep: the pixels at full depth, uint16 at full range, where the file has more than 8 bits; ``pixels`` is these,
            rounded.
        bits: per sample, of the file.
        left_alone: why the picture is not restored, if it is not.
        kind: of file: "JPEG", "PNG", ...; "array" or "image" if there is none.
        comparable_quality: of a lossy WebP or AVIF: the quality of the JPEGs that lost about as much.
        file_bytes: size of the file; None if there is none.
        inks: how the file of a CMYK picture codes its inks; None of others.
    """

    name: str
    pixels: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | NDArray[np.uint16] | None
    metadata: Metadata
    jpeg: JpegImage | None
    sound_rows: int | None = None
    notes: tuple[str, ...] = ()
    deep: NDArray[np.uint16] | None = None
    bits: int = 8
    left_alone: str | None = None
    kind: str = "JPEG"
    comparable_quality: int | None = None
    file_bytes: int | None = None
    inks: InkCoding | None = None

    @property
    def is_neutral(self) -> bool:
        """Whether a picture of three channels has no colour at all, by its file or, without one, by its pixels."""
        if self.jpeg is not None:
            return self.jpeg.is_neutral
        return self.channels == 3 and bool((self.pixels[..., :1] == self.pixels[..., 1:]).all())

    @property
    def is_lossy(self) -> bool:
        """Whether its file is compressed with loss: a JPEG, or a WebP or AVIF that says so."""
        return self.jpeg is not None or self.comparable_quality is not None

    @property
    def channels(self) -> int:
        """1, 3 or (CMYK) 4, alpha not counted."""
        return 1 if self.pixels.ndim == 2 else self.pixels.shape[2]

    def with_alpha(self, pixels: Pixels, rows: slice) -> Pixels:
        """Put the alpha channel back beside restored pixels of these rows, at their bit depth."""
        if self.alpha is None:
            return pixels
        alpha = self.alpha[rows]
        if pixels.dtype == np.uint8:
            eight = alpha if alpha.dtype == np.uint8 else rounded(alpha)
            return np.dstack([pixels, eight]).astype(np.uint8, copy=False)
        sixteen = alpha if alpha.dtype == np.uint16 else alpha.astype(np.uint16) * np.uint16(257)
        return np.dstack([pixels, sixteen]).astype(np.uint16, copy=False)


def read_picture(source: Source, *, limits: Limits = DEFAULT_LIMITS, salvage_damaged: bool = False) -> Picture:
    """Decode anything that can be restored.

    Args:
        source: a path, the bytes of a file, a binary stream, a Pillow image, or (restored blind) an array ``(H, W)``,
            ``(H, W, 2)``, ``(H, W, 3)`` or ``(H, W, 4)`` of uint8, RGB in this order, alpha last. A Pillow image that
            was opened from a JPEG file, or from one of more than 8 bits, and not changed since stands for that file,
            as long as the file can be read again; others are restored blind.
        limits: what asks for more is refused, from the header.
        salvage_damaged: take what decodes of a damaged JPEG, without its cells.

    Raises:
        BadImageError: and its children.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, limits.pixels)
    if isinstance(source, Image.Image):
        return _of_unchanged_jpeg(source, limits) or _of_image(source, limits)
    data, name = read_bytes(source, limits.file_bytes)
    if not data:
        raise BadImageError(f"{name}: is empty, without a single byte; copy or download it anew")
    return replace(_of_file(data, name, limits, salvage_damaged), file_bytes=len(data))


def read_colours(source: FileSource) -> Picture:
    """As ``read_picture``, for what can do nothing with inks. Raises BadImageError and its children."""
    picture = read_picture(source)
    if picture.inks is not None:
        raise UnsupportedImageError(f"{picture.name}: is CMYK, and only grey and RGB pictures are learned from")
    return picture


def _of_file(data: bytes, name: str, limits: Limits, salvage_damaged: bool) -> Picture:
    if is_jpeg(data):
        try:
            jpeg = JpegImage.decode(data, name, limits)
        except (UnsupportedImageError, TooLargeError):
            raise
        except BadImageError as error:
            if not salvage_damaged:
                salvageable = _what_salvaging_gives(data, name, limits)
                way_out = f"; salvage=True restores {salvageable}" if salvageable else ""
                refusal = BadImageError(f"{error}{way_out}")
                refusal.salvageable = salvageable
                raise refusal from error
            return _salvaged(data, name, limits, error)
        return Picture(
            name,
            jpeg.pixels,
            None,
            jpeg.metadata,
            jpeg,
            notes=(*jpeg.notes, *_left_behind(jpeg.trailing_bytes)),
            left_alone=XYB_NOTE
            if jpeg.header.colour_space == "RGB" and is_xyb(jpeg.pixels, jpeg.metadata.icc_profile)
            else None,
            inks=jpeg.header.inks,
        )
    parts = read_png(data, name, limits.metadata_bytes) if is_png(data) else None
    if parts is not None:
        data = parts.plain
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        most = min(limits.pixels, 2 * (Image.MAX_IMAGE_PIXELS or limits.pixels))  # Pillow refuses at twice its own
        problem = f"has more than the {most} pixels that a picture other than a JPEG may have"
        raise TooLargeError(f"{name}: {problem}; make it smaller, or cut it") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if is_heif(data):
            return _from_heif(data, name, limits)
        what = next((what for start, what in _NO_PICTURES if start.match(data)), "is not a picture")
        raise BadImageError(f"{name}: {what}; {list_readable_formats()}") from error
    if parts is None:
        return _from_pillow(image, name, limits, data)
    image.info.update(parts.info)
    picture = _from_pillow(image, name, limits, data)
    *earlier, last = parts.comments or [b""]
    metadata = replace(
        picture.metadata,
        comment=last or None,
        earlier_comments=tuple(comment for comment in earlier if comment),
        colour=tuple(parts.colour),
        texts=tuple(parts.texts),
    )
    lost = tuple(f"{what} in the file is damaged: lost" for what in parts.lost)
    return replace(picture, metadata=metadata, notes=(*picture.notes, *lost))


def _left_behind(trailing_bytes: int) -> tuple[str, ...]:
    if trailing_bytes < _WORTH_A_NOTE:
        return ()
    return (f"{trailing_bytes:,} bytes behind the picture (a video, further pictures) are not carried over",)


def _what_salvaging_gives(data: bytes, name: str, limits: Limits) -> str | None:
    """What can be restored of a damaged file; None if nothing of it decodes."""
    try:
        saved = salvage(data, name, limits)
    except BadImageError:
        return None
    height, rows = saved.pixels.shape[0], saved.sound_rows
    return f"{rows} of its {height} rows" if rows < height else f"its {height} rows, in part coarsely or wrongly"


def _salvaged(data: bytes, name: str, limits: Limits, damage: BadImageError) -> Picture:
    saved = salvage(data, name, limits)
    height = saved.pixels.shape[0]
    notes: tuple[str, ...] = (
        "salvaged from a damaged file, and not made true to it: "
        + str(damage).removeprefix(f"{name}: ").removeprefix("is a damaged JPEG ").strip("()"),
    )
    if saved.sound_rows < height:
        notes += (f"the last {height - saved.sound_rows} of {height} rows are missing and left grey",)
    return Picture(name, saved.pixels, None, saved.metadata, None, saved.sound_rows, notes, inks=saved.inks)


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
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source), "image"
    if isinstance(source, str | os.PathLike):
        source = os.fspath(source)
        if source == "-":
            if sys.stdin is None:
                raise BadImageError("standard input: is closed")
            return _read(sys.stdin.buffer, count), "standard input"
        path = Path(source)
        try:
            with _opened(path) as file:
                return _read(file, count), str(path)
        except FileNotFoundError as error:
            raise BadImageError(f"{path}: no such file") from error
        except IsADirectoryError as error:
            raise BadImageError(f"{path}: is a folder; name the pictures in it, as in {path / '*.jpg'}") from error
        except OSError as error:
            raise BadImageError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not hasattr(source, "read"):
        raise TypeError(f"cannot restore a {type(source).__name__}: give a path, bytes, a stream, an image or an array")
    return _read(source, count), str(getattr(source, "name", "stream"))


def _opened(path: Path) -> BinaryIO:
    """As ``open``, but that a named pipe waits for a while only. Raises OSError."""
    if not path.is_fifo():
        return path.open("rb")
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # without, it would wait here for ever
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if not poll.poll(PIPE_SECONDS * 1000):
            raise OSError(errno.EPIPE, "a named pipe that nobody writes to")
        os.set_blocking(handle, True)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


class NamedBytes(io.BytesIO):
    """A file's content that has been read, and what messages call it."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


def _read(stream: BinaryIO, count: int) -> bytes:
    """At most so many bytes; a pipe gives fewer at a time than it has."""
    parts = []
    while count > 0:
        part = stream.read(min(count, _CHUNK_BYTES))
        if not isinstance(part, bytes):
            raise TypeError("cannot read a stream of text: open the file in binary mode")
        if not part:
            break
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _from_array(array: NDArray[np.uint8], max_pixels: int) -> Picture:
    if array.dtype != np.uint8:
        raise UnsupportedImageError(f"array: has dtype {array.dtype}; give uint8, range 0..255")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4)) or 0 in array.shape:
        raise UnsupportedImageError(f"array: has shape {array.shape}; give (H, W) or (H, W, 1..4)")
    return _split(array, "array", Metadata(), max_pixels, "array")


def _of_unchanged_jpeg(image: Image.Image, limits: Limits) -> Picture | None:
    """The file that a Pillow image was opened from, if that is a JPEG which still gives its pixels.

    Pillow lets go of the file when it loads the pixels: then a path leads back to it, and nothing does to a stream.
    """
    if not isinstance(image, JpegImageFile) or image.tell() != 0:
        return None
    for data, name in _files_of(image, limits):
        try:
            if is_jpeg(data) and _gives(JpegImageFile(io.BytesIO(data)), image, limits):
                return read_picture(NamedBytes(data, name), limits=limits)
        except (BadImageError, OSError, SyntaxError, ValueError):
            continue
    return None  # changed, turned, made smaller: it still calls itself a JPEG


def _of_image(image: Image.Image, limits: Limits) -> Picture:
    """A Pillow image, which has 8 bits for each colour whatever its file has: from the file, if that has more."""
    if image.format not in _DEEP_FORMATS or image.tell() != 0:
        return _from_pillow(image, "image", limits)
    _check_size(image.width, image.height, "image", limits.pixels)
    bits = None
    for data, name in _files_of(image, limits):
        try:
            again = Image.open(io.BytesIO(data), formats=(image.format,))
            bits = sample_bits(data, again)
            is_same = bits > 8 and _gives(again, image, limits)
        except Exception:  # noqa: S112  # another file by now, or a damaged one: Pillow raises nearly anything
            continue
        if is_same:
            return read_picture(NamedBytes(data, name), limits=limits)
        break
    if bits is None and isinstance(image, TiffImageFile):
        bits = sample_bits(b"", image)
    picture = _from_pillow(image, "image", limits)
    if image.mode not in _CUT_MODES or bits == 8:
        return picture
    if bits is None:
        note = f"whether its {image.format} file has more than 8 bits per sample cannot be seen any more"
    else:
        note = f"its file has {bits} bits per sample, this image 8"
    return replace(picture, notes=(*picture.notes, f"{note}: give the file itself to keep them"))


def _files_of(image: Image.Image, limits: Limits) -> Iterator[tuple[bytes, str]]:
    """What may be the file that a Pillow image was opened from: its stream, what is at its path; content and name."""
    path = os.fsdecode(getattr(image, "filename", "") or "")
    stream = getattr(image, "fp", None)  # after loading, a plugin's own at best
    try:
        if stream is not None and not stream.closed:
            position = stream.tell()
            stream.seek(0)
            data = _read(stream, limits.file_bytes + 1)
            stream.seek(position)
            if len(data) <= limits.file_bytes:
                yield data, path or "image"
    except (OSError, ValueError):
        pass
    try:
        if os.path.isfile(path):
            yield read_bytes(path, limits.file_bytes)
    except BadImageError:
        pass


def _gives(again: Image.Image, image: Image.Image, limits: Limits) -> bool:
    """Whether a file, opened again, has the image's pixels."""
    if (again.mode, again.size) != (image.mode, image.size):
        return False
    _check_size(again.width, again.height, "image", limits.pixels)
    return again.tobytes() == image.tobytes()


def _from_pillow(image: Image.Image, name: str, limits: Limits, data: bytes | None = None) -> Picture:
    """From an opened file, whose content is ``data``, or from what a caller has."""
    _check_size(image.width, image.height, name, limits.pixels)
    # A phone's JPEG with further pictures behind the first (depth, preview) is MPO to Pillow, and no animation.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise UnsupportedImageError(f"{name}: is an animation or has several pages; give one picture")
    bits = bits_per_sample(image) if data is None else sample_bits(data, image)
    if data is not None and bits > 8:
        return _deep(image, name, data, bits)
    if bits > 8:
        raise UnsupportedImageError(
            f"{name}: has {bits} bits per sample; give the file itself, or convert it to 8 bits"
        )
    mode = _PLAIN_MODES.get(image.mode)
    if mode is None and image.mode.startswith("I;16"):
        raise UnsupportedImageError(f"{name}: has 16 bits per sample; give the file itself, or convert it to 8 bits")
    if image.mode == "CMYK":
        way_out = "convert it to RGB first"
        if data is not None:
            way_out += f": vips icc_transform {shlex.quote(name)} rgb.png srgb"
        raise UnsupportedImageError(f"{name}: is CMYK and no JPEG file, which alone is restored as inks; {way_out}")
    if mode is None:
        raise UnsupportedImageError(f"{name}: has pixels of kind {image.mode!r}; convert it to 8-bit grey or RGB first")
    if "transparency" in image.info:
        mode = "LA" if image.mode in ("1", "L") else "RGBA"
    try:
        metadata = Metadata.from_pillow(image)
        pixels = np.asarray(image.convert(mode))
    except Exception as error:  # Pillow's decoders of damaged files raise nearly anything
        raise BadImageError(f"{name}: is damaged ({error})") from error
    picture = _split(pixels, name, _with_colour_code(metadata, image, data), limits.pixels, image.format or "image")
    return picture if data is None else replace(picture, comparable_quality=comparable_quality(data))


def _from_heif(data: bytes, name: str, limits: Limits) -> Picture:
    image = read_heif(data, name, limits.pixels)
    metadata = _with_code(image.metadata, colour_code_of(data))
    notes = (f"{image.others} further pictures in the file are not carried over",) if image.others else ()
    if image.pixels.dtype == np.uint8:
        colours, alpha = _apart(image.pixels.astype(np.uint8, copy=False))
        return Picture(name, colours, alpha, metadata, None, notes=notes, kind="HEIF")
    deep, deep_alpha = _apart(image.pixels.astype(np.uint16, copy=False))
    return Picture(
        name, rounded(deep), deep_alpha, metadata, None, notes=notes, deep=deep, bits=image.bits, kind="HEIF"
    )


def _deep(image: Image.Image, name: str, data: bytes, bits: int) -> Picture:
    """A file of more than 8 bits: the network sees it rounded, what it changes is added to the whole depth."""
    try:
        metadata = Metadata.from_pillow(image)
    except Exception as error:  # as above
        raise BadImageError(f"{name}: is damaged ({error})") from error
    deep, alpha = _apart(unrounded(data, name, bits, image))
    metadata, kind = _with_colour_code(metadata, image, data), image.format or "image"
    return Picture(
        name,
        rounded(deep),
        alpha,
        metadata,
        None,
        deep=deep,
        bits=bits,
        kind=kind,
        comparable_quality=comparable_quality(data),
    )


def _with_colour_code(metadata: Metadata, image: Image.Image, data: bytes | None) -> Metadata:
    return _with_code(metadata, colour_code_of(data) if data is not None and image.format == "AVIF" else None)


def _with_code(metadata: Metadata, code: bytes | None) -> Metadata:
    return metadata if code is None else replace(metadata, colour=((b"cICP", code),))


def _split(pixels: NDArray[np.uint8], name: str, metadata: Metadata, max_pixels: int, kind: str) -> Picture:
    _check_size(pixels.shape[1], pixels.shape[0], name, max_pixels)
    colours, alpha = _apart(pixels)
    return Picture(name, colours, alpha, metadata, None, kind=kind)


def _apart(pixels: NDArray[T]) -> tuple[NDArray[T], NDArray[T] | None]:
    """Colours, ``(H, W)`` or ``(H, W, 3)``, and alpha if there is one."""
    alpha = None
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels, alpha = pixels[..., :-1], np.ascontiguousarray(pixels[..., -1])
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    return np.ascontiguousarray(pixels), alpha


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise TooLargeError(f"{name}: has {width}x{height} pixels, more than the limit of {max_pixels:,}")
