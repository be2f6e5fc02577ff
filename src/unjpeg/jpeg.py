"""Bytes to ``JpegImage``: pixels, quantised DCT coefficients, tables, sampling, metadata, estimated quality.

The header is read first, by itself: what is too large or cannot be restored is refused before anything is allocated.
"""

from __future__ import annotations

import io
import os
import re
import struct
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jpeglib
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import JpegImagePlugin

from unjpeg.errors import BadImageError, TooLargeError, UnsupportedImageError
from unjpeg.metadata import Metadata
from unjpeg.tables import STATED_FEATURES, QualityEstimate, stated_features

__all__ = [
    "DEFAULT_LIMITS",
    "MAX_PIXELS",
    "MAX_SCANS",
    "NOTHING_SENT",
    "Component",
    "Compression",
    "JpegHeader",
    "JpegImage",
    "Limits",
    "Salvaged",
    "is_jpeg",
    "salvage",
]

MAX_PIXELS = 268_435_456
"""Default limit on width times height: 2^28, a 16384 x 16384 picture."""

MAX_SCANS = 500
"""Default limit on a file's scans: encoders write some ten, and each costs a pass over the whole picture."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a file may ask for. All of it is known before anything is decoded.

    Attributes:
        pixels: width times height.
        scans: passes over the picture. Large pictures may have fewer: all passes together stay within those that
            ``LARGE_PICTURE_SCANS`` make over a picture of ``pixels``.
        metadata_bytes: APPn and comment segments (profiles, EXIF, XMP, further pictures in them) together.
        file_bytes: the file itself, which is read into memory.
    """

    pixels: int = MAX_PIXELS
    scans: int = MAX_SCANS
    metadata_bytes: int = 2**26
    file_bytes: int = 2**30


DEFAULT_LIMITS = Limits()

LARGE_PICTURE_SCANS = 24

MAX_SEGMENTS = 20_000
"""Segments that are looked at: a scan needs a few, and 64 MiB of metadata a thousand."""

MAX_EXIF_BYTES = 2**22
"""All segments of EXIF together. One ends at 64 KiB and hardly any file has two; joining many takes quadratic time."""

_START_OF_IMAGE = b"\xff\xd8"
_RESTORABLE_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended sequential, progressive
_OTHER_FRAMES = {
    0xC3: "lossless",
    0xC5: "hierarchical",
    0xC6: "hierarchical",
    0xC7: "hierarchical lossless",
    0xC9: "arithmetic-coded",
    0xCA: "arithmetic-coded progressive",
    0xCB: "arithmetic-coded lossless",
    0xCD: "arithmetic-coded hierarchical",
    0xCE: "arithmetic-coded hierarchical",
    0xCF: "arithmetic-coded hierarchical lossless",
}
_APP0, _APP1, _APP14, _COMMENT, _START_OF_SCAN, _END_OF_IMAGE = 0xE0, 0xE1, 0xEE, 0xFE, 0xDA, 0xD9
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_FILL_BYTES = re.compile(rb"\xff+")
_AFTER_CODED_DATA = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # neither a stuffed byte nor a restart

# Cameras leave a few bytes, or a run of one value, before the end; anything longer is what damaged data leave over.
_STRAY_BYTES = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_MAX_STRAY_BYTES = 4

NOTHING_SENT = 255
"""In ``Component.unsent_bits_88``: no scan held the coefficient."""

_UNDECODED = 128
"""The level of blocks that libjpeg finds no data for, in each channel."""

_LIBJPEG = "turbo210"
"""What reads the coefficients: the pixels' decoder is of this family, so what that one lets pass, this one does."""

_DESCRIPTORS = Path("/proc/self/fd")

_USUAL_SUBSAMPLINGS = ("grey", "4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1")

_warning_filters = threading.Lock()  # they are the whole process's: two threads would restore each other's
_coefficient_reader = threading.Lock()  # the library keeps a file's markers in global variables


def is_jpeg(data: bytes) -> bool:
    """Whether these bytes start like a JPEG, whatever the file is called."""
    return data[:3] == b"\xff\xd8\xff"


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """What the frame header says, before any decoding.

    Attributes:
        sampling: (vertical, horizontal) factor of each component.
        colour_space: "grey", "YCbCr", "RGB", "CMYK" or "YCCK".
    """

    width: int
    height: int
    sampling: tuple[tuple[int, int], ...]
    colour_space: str
    progressive: bool

    @classmethod
    def parse(cls, data: bytes, name: str, limits: Limits = DEFAULT_LIMITS) -> JpegHeader:
        """Read the header.

        Raises:
            BadImageError: no JPEG, or its header is damaged.
            UnsupportedImageError: 12-bit, lossless, hierarchical, arithmetic-coded, CMYK or YCCK.
            TooLargeError: more pixels than the limit.
        """
        is_jfif, adobe_transform = False, None
        for code, start, end in _segments(data, name):
            segment = data[start + 4 : end]
            if code == _APP0 and segment[:5] == b"JFIF\0" and len(segment) >= 14:
                is_jfif = True
            elif code == _APP14 and segment[:5] == b"Adobe" and len(segment) >= 12:
                adobe_transform = segment[11]
            elif code == _START_OF_SCAN:
                break
            elif code in _OTHER_FRAMES:
                raise UnsupportedImageError(
                    f"{name}: is a {_OTHER_FRAMES[code]} JPEG, which cannot be restored; save it as a baseline JPEG"
                )
            elif code in _RESTORABLE_FRAMES:
                return cls._from_frame(segment, name, code == 0xC2, is_jfif, adobe_transform, limits.pixels)
        raise BadImageError(f"{name}: is a damaged JPEG (it has no frame header)")

    @classmethod
    def _from_frame(
        cls,
        segment: bytes,
        name: str,
        progressive: bool,
        is_jfif: bool,
        adobe_transform: int | None,
        max_pixels: int,
    ) -> JpegHeader:
        if len(segment) < 6 or len(segment) < 6 + 3 * segment[5]:
            raise BadImageError(f"{name}: is a damaged JPEG (its frame header is cut short)")
        precision, height, width, count = struct.unpack(">BHHB", segment[:6])
        if precision != 8:
            raise UnsupportedImageError(f"{name}: has {precision} bits per sample; only 8-bit JPEGs can be restored")
        if not width or not height:
            raise BadImageError(f"{name}: is a damaged JPEG (its header says {width}x{height} pixels)")
        if width * height > max_pixels:
            raise TooLargeError(
                f"{name}: its header says {width}x{height} pixels, more than the limit of {max_pixels:,}"
            )
        specs = [segment[6 + 3 * i : 9 + 3 * i] for i in range(count)]
        sampling = tuple((spec[1] & 15, spec[1] >> 4) for spec in specs)
        if not all(1 <= factor <= 4 for pair in sampling for factor in pair):
            raise BadImageError(f"{name}: is a damaged JPEG (impossible sampling factors)")
        if count == 4:
            kind = "YCCK" if adobe_transform == 2 else "CMYK"
            raise UnsupportedImageError(f"{name}: is a {kind} JPEG; convert it to RGB first")
        if count not in (1, 3):
            raise UnsupportedImageError(f"{name}: has {count} components; only grey and colour JPEGs can be restored")
        return cls(width, height, sampling, _colour_space(specs, is_jfif, adobe_transform), progressive)

    @property
    def subsampling(self) -> str:
        """The usual name of the chroma subsampling, or the plain factors where it has none."""
        if len(self.sampling) == 1:
            return "grey"
        (v, h), *chroma = self.sampling
        names = {(1, 1): "4:4:4", (1, 2): "4:2:2", (2, 2): "4:2:0", (2, 1): "4:4:0", (1, 4): "4:1:1"}
        if len(set(chroma)) == 1 and v % chroma[0][0] == 0 and h % chroma[0][1] == 0:
            ratio = (v // chroma[0][0], h // chroma[0][1])
            if ratio in names:
                return names[ratio]
        return " ".join(f"{across}x{down}" for down, across in self.sampling)


@dataclass(frozen=True, slots=True)
class Component:
    """One colour component as the file stores it.

    Attributes:
        coefficients_VU88: quantised DCT coefficients, int16, ``(block rows, block columns, 8, 8)``, natural order.
        table_88: quantisation table, ``(8, 8)``, natural order.
        scale: (vertical, horizontal): how many pixels of the picture one sample covers.
        bounds: lowest and highest value of each coefficient, dequantised, shaped as the coefficients, where something
            else than table and coefficients says so; may be infinite. Takes precedence over all the rest.
        unsent_bits_88: how many low bits of each coefficient a progressive file that ended early never sent,
            ``(8, 8)``, and ``NOTHING_SENT`` where it sent none; None where it sent all.
    """

    coefficients_VU88: NDArray[np.int16]
    table_88: NDArray[np.uint16]
    scale: tuple[int, int]
    bounds: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None
    unsent_bits_88: NDArray[np.uint8] | None = None

    @property
    def has_usual_cells(self) -> bool:
        """Whether every cell is half a step either way of the stored coefficient."""
        return self.bounds is None and self.unsent_bits_88 is None

    def centres(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """What a decoder takes the coefficients of some block rows and columns for: stored value times step."""
        centres: NDArray[np.float32] = self.coefficients_VU88[rows, columns].astype(np.float32) * self.table_88
        return centres

    def cells(self, rows: slice, columns: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Lowest and highest value that the coefficients of some block rows and columns can have had.

        Returns:
            ``(V, U, 8, 8)`` each, in the units of the transform: half a step either way of the ``centres``, unless
            ``bounds`` or ``unsent_bits_88`` say otherwise. Infinite where the file says nothing.
        """
        if self.bounds is not None:
            low, high = (bound[rows, columns].astype(np.float32) for bound in self.bounds)
            return low, high
        half = self.table_88 * np.float32(0.5)
        if self.unsent_bits_88 is None:
            centres = self.centres(rows, columns)
            return centres - half, centres + half
        stored = self.coefficients_VU88[rows, columns].astype(np.float32)
        nothing = self.unsent_bits_88 == NOTHING_SENT
        unsent = np.exp2(np.where(nothing, 0, self.unsent_bits_88).astype(np.float32)) - 1
        # Encoders cut the low bits of DC off as a shift does, those of all others off the magnitude: towards zero.
        below, above = (np.where(mask, unsent, np.float32(0)) for mask in (stored <= 0, stored >= 0))
        below[..., 0, 0], above[..., 0, 0] = 0, unsent[0, 0]
        below[..., nothing] = above[..., nothing] = np.inf
        return (stored - below) * self.table_88 - half, (stored + above) * self.table_88 + half


@dataclass(frozen=True, slots=True)
class Compression:
    """What is known of how something was compressed: what it takes to restore it.

    Attributes:
        components: luma first; their cells are what the picture is held to.
        colour_space: as ``JpegHeader.colour_space``.
        quality: that the tables state, 1..100.
        stated: see ``tables.stated_features``.
    """

    components: tuple[Component, ...]
    colour_space: str
    quality: int
    stated: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class JpegImage:
    """A decoded JPEG with everything that the file says.

    Attributes:
        pixels: ``(H, W)`` grey or ``(H, W, 3)`` RGB, uint8, as libjpeg-turbo decodes them; never rotated.
        components: one per colour component.
        tables: the distinct quantisation tables in use, in component order.
        trailing_bytes: behind the picture's end: a video, further pictures, anything.
    """

    header: JpegHeader
    pixels: NDArray[np.uint8]
    components: tuple[Component, ...]
    tables: tuple[NDArray[np.uint16], ...]
    metadata: Metadata
    trailing_bytes: int = 0

    @property
    def quality(self) -> QualityEstimate:
        """Quality that the tables state."""
        # An RGB file has no chroma, and libjpeg gives all its components the luma table.
        chroma = self.tables[:2][-1] if self.header.colour_space == "YCbCr" else None
        return QualityEstimate.of_tables(self.tables[0], chroma)

    @property
    def stated(self) -> NDArray[np.float32]:
        """See ``stated_features``."""
        if self.header.colour_space == "YCbCr":
            luma, chroma = self.components[:2]
            return stated_features(luma.table_88, chroma.table_88, chroma.scale)
        if self.header.colour_space == "grey":
            return stated_features(self.components[0].table_88, None)
        return np.zeros(STATED_FEATURES, np.float32)  # RGB: too rare to learn from

    @property
    def compression(self) -> Compression:
        """The file's own."""
        return Compression(self.components, self.header.colour_space, self.quality.value, self.stated)

    @classmethod
    def decode(cls, data: bytes, name: str = "image", limits: Limits = DEFAULT_LIMITS) -> JpegImage:
        """Decode a JPEG file's bytes.

        Args:
            name: what to call the file in an error message.
            limits: what asks for more is refused before it is decoded.

        Raises:
            BadImageError: and its children, as ``JpegHeader.parse``; also where the data are truncated or corrupt.
        """
        header = JpegHeader.parse(data, name, limits)
        trailing_bytes = _check_segments(data, header, name, limits)
        # Each block of luma takes a bit at least: what cannot be whole is not worth the memory that its header claims.
        if len(data) * 8 < header.width * header.height // 64:
            raise BadImageError(f"{name}: is a damaged JPEG (too short for its {header.width}x{header.height} pixels)")
        pixels, data = _decode_pixels(data, header, name)
        metadata = _read_metadata(data, name)
        components, tables = _read_coefficients(data, header, name)
        return cls(header, pixels, components, tables, metadata, trailing_bytes)


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What decodes of a damaged JPEG. Its coefficients are not to be trusted.

    Attributes:
        pixels: as ``JpegImage``; what is missing is plain grey, or coarse in a progressive file.
        sound_rows: rows from the top down to the last that holds anything.
    """

    pixels: NDArray[np.uint8]
    sound_rows: int
    metadata: Metadata


def salvage(data: bytes, name: str = "image", limits: Limits = DEFAULT_LIMITS) -> Salvaged:
    """Decode what can be decoded of a JPEG that ``JpegImage.decode`` refuses as damaged.

    Raises:
        BadImageError: and its children, as ``JpegHeader.parse``; also where nothing decodes.
    """
    header = JpegHeader.parse(data, name, limits)
    _check_segments(data, header, name, limits)
    space = "GRAY" if header.colour_space == "grey" else "RGB"
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace=space, strict=False)
    except ValueError as error:
        raise BadImageError(f"{name}: is a damaged JPEG of which nothing can be salvaged ({error})") from error
    if space == "GRAY":
        pixels = pixels[..., 0]
    missing = (pixels == _UNDECODED).all(axis=tuple(range(1, pixels.ndim)))
    sound = np.flatnonzero(~missing)
    if not len(sound):
        raise BadImageError(f"{name}: is a damaged JPEG of which nothing can be salvaged (no block of it decodes)")
    return Salvaged(pixels, int(sound[-1]) + 1, _read_metadata(data, name))


def _segments(data: bytes, name: str) -> Iterator[tuple[int, int, int]]:
    """Marker code, first byte and one past the last of each segment; a scan ends where its coded data do."""
    if not is_jpeg(data):
        raise BadImageError(f"{name}: is not a JPEG")
    position = 2
    for _ in range(MAX_SEGMENTS):
        if position + 2 > len(data):
            return
        if data[position] != 0xFF:
            raise BadImageError(f"{name}: is a damaged JPEG (no marker where one must be, at byte {position})")
        fill = _FILL_BYTES.match(data, position)
        assert fill is not None  # there is one at least
        position = fill.end() - 1
        if position + 2 > len(data):
            return
        code = data[position + 1]
        end = position + 2
        if code not in _WITHOUT_LENGTH and code != _END_OF_IMAGE:
            end += max(int.from_bytes(data[end : end + 2]), 2)
        if code == _START_OF_SCAN:
            marker = _AFTER_CODED_DATA.search(data, end)
            end = marker.start() if marker else len(data)
        yield code, position, min(end, len(data))
        if code == _END_OF_IMAGE:
            return
        position = end
    raise UnsupportedImageError(f"{name}: has more than {MAX_SEGMENTS:,} segments")


def _colour_space(specs: list[bytes], is_jfif: bool, adobe_transform: int | None) -> str:
    """As libjpeg decides it: JFIF means YCbCr, then Adobe's marker counts, then the components' names."""
    if len(specs) == 1:
        return "grey"
    if is_jfif:
        return "YCbCr"
    if adobe_transform is not None:
        return "RGB" if adobe_transform == 0 else "YCbCr"
    return "RGB" if bytes(spec[0] for spec in specs) == b"RGB" else "YCbCr"


def _check_segments(data: bytes, header: JpegHeader, name: str, limits: Limits) -> int:
    """How many bytes follow the end of the picture."""
    scans = metadata_bytes = exif_bytes = 0
    end = 0
    for code, start, end in _segments(data, name):
        scans += code == _START_OF_SCAN
        metadata_bytes += end - start if _is_metadata(code) else 0
        exif_bytes += end - start if code == _APP1 and data[start + 4 : start + 9] == b"Exif\0" else 0
    passes = LARGE_PICTURE_SCANS * limits.pixels // (header.width * header.height)
    if exif_bytes > MAX_EXIF_BYTES:
        raise UnsupportedImageError(
            f"{name}: has {exif_bytes:,} bytes of EXIF, more than the limit of {MAX_EXIF_BYTES:,}"
        )
    if scans > min(limits.scans, passes):
        raise UnsupportedImageError(f"{name}: has {scans} scans, more than the limit of {min(limits.scans, passes)}")
    if metadata_bytes > limits.metadata_bytes:
        raise UnsupportedImageError(
            f"{name}: has {metadata_bytes:,} bytes of metadata, more than the limit of {limits.metadata_bytes:,}"
        )
    return len(data) - end


def _is_metadata(code: int) -> bool:
    return 0xE0 <= code <= 0xEF or code == _COMMENT


def _decode_pixels(data: bytes, header: JpegHeader, name: str) -> tuple[NDArray[np.uint8], bytes]:
    """Pixels, and the data without stray bytes: nothing that reads those will complain."""
    space = "GRAY" if header.colour_space == "grey" else "RGB"
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace=space)
    except ValueError as error:
        without = _without_stray_bytes(data, str(error), name)
        # Fractional, or chroma finer than luma; of a usual one the complaint means damage.
        if "subsampling" in str(error) and header.subsampling not in _USUAL_SUBSAMPLINGS:
            raise UnsupportedImageError(
                f"{name}: has an unusual chroma sampling ({header.subsampling}); save it with another"
            ) from error
        if without is None:
            raise BadImageError(f"{name}: is a damaged JPEG ({error})") from error
        return _decode_pixels(without, header, name)
    return pixels[..., 0] if space == "GRAY" else pixels, data


def _without_stray_bytes(data: bytes, complaint: str, name: str) -> bytes | None:
    """The data without the bytes before the end of the image that the decoder complains of, if those are harmless."""
    found = _STRAY_BYTES.search(complaint)
    if found is None:
        return None
    count = int(found[1])
    end = next((start for code, start, _ in _segments(data, name) if code == _END_OF_IMAGE), 0)
    stray = data[max(0, end - count) : end]
    if not stray or (count > _MAX_STRAY_BYTES and len(set(stray)) > 1):
        return None
    return data[: end - count] + data[end:]


def _read_metadata(data: bytes, name: str) -> Metadata:
    try:
        with _warning_filters, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of EXIF that Pillow cannot parse: its bytes are carried over all the same
            # Pillow's own opener would add its limit on pixels, which is global; ours has been checked.
            return Metadata.from_pillow(JpegImagePlugin.JpegImageFile(io.BytesIO(_header_of(data, name))))
    except Exception as error:  # Pillow's parsers of damaged metadata raise nearly anything
        raise BadImageError(f"{name}: is a JPEG with damaged metadata ({error})") from error


def _read_coefficients(
    data: bytes, header: JpegHeader, name: str
) -> tuple[tuple[Component, ...], tuple[NDArray[np.uint16], ...]]:
    """Components and the distinct tables in use, in component order."""
    # The reader takes a path and at most fifty markers: give it the file without its metadata.
    try:
        with _path_of(_without_metadata(data, name)) as path, _coefficient_reader:
            if jpeglib.version.get() != _LIBJPEG:
                jpeglib.version.set(_LIBJPEG)
            read = jpeglib.read_dct(path)
            planes = [read.Y, read.Cb, read.Cr][: len(header.sampling)]
        tables = [np.array(read.get_component_qt(i), np.uint16) for i in range(len(planes))]
    except (OSError, ValueError, RuntimeError, IndexError) as error:
        raise BadImageError(f"{name}: its coefficients cannot be read ({error})") from error
    if not all(table.all() for table in tables):
        raise BadImageError(f"{name}: is a damaged JPEG (a quantisation table holds a zero)")
    distinct = [t for i, t in enumerate(tables) if not any(np.array_equal(t, earlier) for earlier in tables[:i])]
    max_v, max_h = (max(pair[axis] for pair in header.sampling) for axis in (0, 1))
    components = tuple(
        Component(plane, table, (max_v // v, max_h // h))
        for plane, table, (v, h) in zip(planes, tables, header.sampling, strict=True)
    )
    return components, tuple(distinct)


@contextmanager
def _path_of(data: bytes) -> Iterator[str]:
    """A path to read the data from. Where the system can, it leads to memory: whoever is killed leaves nothing."""
    if sys.platform == "linux" and _DESCRIPTORS.is_dir():
        with os.fdopen(os.memfd_create("unjpeg"), "wb") as file:
            file.write(data)
            file.flush()
            yield str(_DESCRIPTORS / str(file.fileno()))
        return
    handle, path = tempfile.mkstemp(suffix=".jpg")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        yield path
    finally:
        Path(path).unlink(missing_ok=True)


def _header_of(data: bytes, name: str) -> bytes:
    """The file up to its first scan, for Pillow: all metadata first, wherever they are, since it looks no further.

    Without fill bytes, each of which it steps over; EXIF with the padding that it knows.
    """
    metadata: list[bytes] = []
    frame: list[bytes] = []
    for code, start, end in _segments(data, name):
        if code == _APP1 and data[start + 4 : start + 9] == b"Exif\0":
            metadata.append(data[start : start + 9] + b"\0" + data[start + 10 : end])
        elif _is_metadata(code):
            metadata.append(data[start:end])
        elif code == _START_OF_SCAN:
            if not frame or frame[-1][1] != _START_OF_SCAN:
                frame.append(data[start : start + 2 + int.from_bytes(data[start + 2 : start + 4])])
        elif not frame or frame[-1][1] != _START_OF_SCAN:
            frame.append(data[start:end])
    return b"".join((_START_OF_IMAGE, *metadata, *frame))


def _without_metadata(data: bytes, name: str) -> bytes:
    kept = [data[start:end] for code, start, end in _segments(data, name) if not _is_metadata(code)]
    return b"".join((_START_OF_IMAGE, *kept))
