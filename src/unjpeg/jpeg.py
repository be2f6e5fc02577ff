"""Bytes to ``JpegImage``: pixels, quantised DCT coefficients, tables, sampling, metadata, estimated quality.

The header is read first, by itself: what is too large or cannot be restored is refused before anything is allocated.
"""

from __future__ import annotations

import io
import logging
import os
import re
import struct
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import jpeglib
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import JpegImagePlugin

from unjpeg.errors import BadImageError, TooLargeError, UnsupportedImageError
from unjpeg.inks import INK_CODINGS, InkCoding, InkGroup, group_inks, invert
from unjpeg.metadata import Metadata
from unjpeg.segments import (
    ADOBE,
    APP0,
    APP1,
    APP14,
    END_OF_IMAGE,
    HEIGHT,
    MAX_STRAY_BYTES,
    NOTHING_SENT,
    START_OF_IMAGE,
    START_OF_SCAN,
    PlainCopy,
    Segment,
    is_jpeg,
    is_metadata,
    join_profile,
    read_scan_facts,
    walk,
)
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

MAX_EXIF_BYTES = 2**22
"""All segments of EXIF together. One ends at 64 KiB and hardly any file has two; joining many takes quadratic time."""

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
# What decoders say of bytes where a marker must be, and of restart markers out of their order.
_STRAY_BYTES = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
_MOST_REPAIRS = 12
_OF_LIBJPEG = re.compile(r"VipsJpeg: (.+)")
_RESTARTS_OUT_OF_ORDER = re.compile(r"found marker 0x[0-9a-f]{2} instead of RST")

_UNDECODED = 128
"""The level of blocks that libjpeg finds no data for, in each channel."""

_NAMED_SAMPLINGS = frozenset({(1, 1), (1, 2), (2, 1), (2, 2), (1, 4)})
"""Luma's factors beside chroma's of 1 that the pixels' decoder has a name for; others it refuses."""

_LIBJPEG = "turbo210"
"""What reads the coefficients: the pixels' decoder is of this family, so what that one lets pass, this one does."""

_DESCRIPTORS = Path("/proc/self/fd")

logging.getLogger("pyvips").addHandler(logging.NullHandler())  # else its warnings go to standard error

_warning_filters = threading.Lock()  # they are the whole process's: two threads would restore each other's
_coefficient_reader = threading.Lock()  # the library keeps a file's markers in global variables


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
            UnsupportedImageError: 12-bit, lossless, hierarchical, arithmetic-coded, or with chroma in fractional ratios
                or finer than luma.
            TooLargeError: more pixels than the limit.
        """
        is_jfif, adobe_transform, frame, progressive, height = False, None, b"", False, 0
        for code, start, end in walk(data, name):
            segment = data[start + 4 : end] if code != START_OF_SCAN else b""
            if code == APP0 and segment[:5] == b"JFIF\0" and len(segment) >= 14:
                is_jfif = True
            elif code == APP14 and segment[:5] == ADOBE and len(segment) >= 12:
                adobe_transform = segment[11]
            elif code in _OTHER_FRAMES:
                raise UnsupportedImageError(
                    f"{name}: is a {_OTHER_FRAMES[code]} JPEG, which cannot be restored; save it as a baseline JPEG"
                )
            elif code in _RESTORABLE_FRAMES and not frame:
                frame, progressive = segment, code == 0xC2
                if len(frame) < 6 or len(frame) < 6 + 3 * frame[5]:
                    raise BadImageError(f"{name}: is a damaged JPEG (its frame header is cut short)")
                height = int.from_bytes(frame[1:3])
            elif code == HEIGHT and not height:
                height = int.from_bytes(segment[:2])  # scanners begin to write before they know it
            if frame and (height or frame[0] != 8) and code == START_OF_SCAN:
                break
        if not frame:
            raise BadImageError(f"{name}: is a damaged JPEG (it has no frame header)")
        return cls._from_frame(frame, height, name, progressive, is_jfif, adobe_transform, limits.pixels)

    @classmethod
    def _from_frame(
        cls,
        frame: bytes,
        height: int,
        name: str,
        progressive: bool,
        is_jfif: bool,
        adobe_transform: int | None,
        max_pixels: int,
    ) -> JpegHeader:
        precision, _, width, count = struct.unpack(">BHHB", frame[:6])
        if precision != 8:
            raise UnsupportedImageError(
                f"{name}: has {precision} bits per sample; convert it to a 16-bit PNG or TIFF first"
            )
        if not width or not height:
            raise BadImageError(f"{name}: is a damaged JPEG (its header says {width}x{height} pixels)")
        if width * height > max_pixels:
            raise TooLargeError(
                f"{name}: its header says {width}x{height} pixels, more than the limit of {max_pixels:,}"
            )
        specs = [frame[6 + 3 * i : 9 + 3 * i] for i in range(count)]
        sampling = tuple((spec[1] & 15, spec[1] >> 4) for spec in specs)
        if not all(1 <= factor <= 4 for pair in sampling for factor in pair):
            raise BadImageError(f"{name}: is a damaged JPEG (impossible sampling factors)")
        if count not in (1, 3, 4):
            raise UnsupportedImageError(
                f"{name}: has {count} components; only grey, colour and CMYK JPEGs can be restored"
            )
        header = cls(width, height, sampling, _colour_space(specs, is_jfif, adobe_transform), progressive)
        if sampling[0] != header.finest_sampling:
            raise UnsupportedImageError(
                f"{name}: has chroma that is finer than its luma ({header.subsampling}); save it with another sampling"
            )
        if any(finest % own for pair in sampling for finest, own in zip(sampling[0], pair, strict=True)):
            raise UnsupportedImageError(
                f"{name}: has chroma in no whole part of its luma's resolution ({header.subsampling}); save it with "
                "another sampling"
            )
        return header

    @property
    def inks(self) -> InkCoding | None:
        """How a CMYK file codes its inks; None of others."""
        return next((coding for coding in INK_CODINGS if coding == self.colour_space), None)

    @property
    def finest_sampling(self) -> tuple[int, int]:
        """The largest (vertical, horizontal) factors: of a component that has them one sample covers one pixel."""
        return max(v for v, _ in self.sampling), max(h for _, h in self.sampling)

    @property
    def has_named_sampling(self) -> bool:
        """Whether the pixels' decoder has a name for it."""
        luma, *chroma = self.sampling
        if self.inks and chroma.pop() != luma:
            return False
        return not chroma or (luma in _NAMED_SAMPLINGS and set(chroma) == {(1, 1)})

    @property
    def subsampling(self) -> str:
        """The usual name of the chroma subsampling, or the plain factors where it has none."""
        if len(self.sampling) == 1:
            return "grey"
        (v, h), *chroma = self.sampling
        if self.inks == "YCCK" and chroma[-1] == (v, h):
            chroma.pop()  # black is as fine as luma
        if self.inks == "CMYK" and set(chroma) != {(v, h)}:
            return self._factors  # no chroma, no name
        names = {(1, 1): "4:4:4", (1, 2): "4:2:2", (2, 2): "4:2:0", (2, 1): "4:4:0", (1, 4): "4:1:1"}
        if len(set(chroma)) == 1 and v % chroma[0][0] == 0 and h % chroma[0][1] == 0:
            ratio = (v // chroma[0][0], h // chroma[0][1])
            if ratio in names:
                return names[ratio]
        return self._factors

    @property
    def _factors(self) -> str:
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

    @property
    def sent_table_88(self) -> NDArray[np.uint16]:
        """The table as coarse as what was sent: steps of as many times the size, up to 255 where they were smaller."""
        if self.unsent_bits_88 is None:
            return self.table_88
        coarse = np.minimum(self.table_88.astype(np.int64) << np.minimum(self.unsent_bits_88, 8), 255)
        table: NDArray[np.uint16] = np.maximum(self.table_88, coarse.astype(np.uint16))
        return table

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
        pixels: ``(H, W)`` grey, ``(H, W, 3)`` RGB or ``(H, W, 4)`` CMYK (0 is no ink), uint8, as libjpeg-turbo decodes
            them; never rotated.
        components: one per colour component.
        tables: the distinct quantisation tables in use, in component order.
        trailing_bytes: behind the picture's end: a video, further pictures, anything.
        notes: what is unusual about the file, though nothing is damaged: one sentence each.
    """

    header: JpegHeader
    pixels: NDArray[np.uint8]
    components: tuple[Component, ...]
    tables: tuple[NDArray[np.uint16], ...]
    metadata: Metadata
    trailing_bytes: int = 0
    notes: tuple[str, ...] = ()

    @property
    def quality(self) -> QualityEstimate:
        """Quality that the tables state."""
        # An RGB file has no chroma, and libjpeg gives all its components the luma table.
        chroma = self.components[1].table_88 if self.header.colour_space in ("YCbCr", "YCCK") else None
        return QualityEstimate.of_tables(self.components[0].table_88, chroma)

    @property
    def is_neutral(self) -> bool:
        """Whether a file of colour has none: all its chroma is exactly 0, or its three channels are one."""
        if self.header.inks:
            return False
        first, *others = self.components
        if self.header.colour_space == "YCbCr":
            return not any(component.coefficients_VU88.any() for component in others)
        return bool(others) and all(
            np.array_equal(component.table_88, first.table_88)
            and np.array_equal(component.coefficients_VU88, first.coefficients_VU88)
            for component in others
        )

    @property
    def stated(self) -> NDArray[np.float32]:
        """See ``stated_features``: of tables as coarse as what was sent."""
        return _stated(self.components, self.header.colour_space)

    @property
    def compression(self) -> Compression:
        """The file's own."""
        return Compression(self.components, self.header.colour_space, self.quality.value, self.stated)

    def compression_of(self, group: InkGroup) -> Compression:
        """What the file knows of some of its inks, which it codes as a grey or a colour JPEG does."""
        components = self.components[group.components]
        chroma = components[1].table_88 if len(components) == 3 else None
        quality = QualityEstimate.of_tables(components[0].table_88, chroma)
        return Compression(components, group.colour_space, quality.value, _stated(components, group.colour_space))

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
        segments = _checked_segments(data, header, name, limits)
        # Each block of luma takes a bit at least: what cannot be whole is not worth the memory that its header claims.
        if len(data) * 8 < header.width * header.height // 64:
            raise BadImageError(f"{name}: is a damaged JPEG (too short for its {header.width}x{header.height} pixels)")
        given = PlainCopy.of(data, segments, header.colour_space, header.height)
        pixels, plain = _decode_pixels(given, header, name)
        metadata, odd_profile = _read_metadata(data, segments, header, name)
        facts = read_scan_facts(data, segments, name)
        planes = _read_coefficients(plain.data, header, name)
        if not all(table.all() for table in facts.tables):
            raise BadImageError(f"{name}: is a damaged JPEG (a quantisation table holds a zero)")
        finest = header.finest_sampling
        components = tuple(
            Component(plane, table, (finest[0] // v, finest[1] // h), unsent_bits_88=unsent)
            for plane, table, unsent, (v, h) in zip(
                planes, facts.tables, facts.unsent_bits, header.sampling, strict=True
            )
        )
        tables = facts.tables
        distinct = [t for i, t in enumerate(tables) if not any(np.array_equal(t, earlier) for earlier in tables[:i])]
        notes = plain.notes
        if any(component.unsent_bits_88 is not None for component in components):
            notes += (f"ends early, with scan {facts.scans}: what it leaves open is restored freely",)
        if odd_profile:
            notes += (odd_profile,)
        trailing_bytes = len(data) - segments[-1].end
        if plain.added_end:
            trailing_bytes += len(given.data) - len(plain.data)
        return cls(header, pixels, components, tuple(distinct), metadata, trailing_bytes, notes)


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What decodes of a damaged JPEG. Its coefficients are not to be trusted.

    Attributes:
        pixels: as ``JpegImage``; what is missing is plain grey, or coarse in a progressive file.
        sound_rows: rows from the top down to the last that holds anything.
        inks: as ``JpegHeader.inks``.
    """

    pixels: NDArray[np.uint8]
    sound_rows: int
    metadata: Metadata
    inks: InkCoding | None = None


def salvage(data: bytes, name: str = "image", limits: Limits = DEFAULT_LIMITS) -> Salvaged:
    """Decode what can be decoded of a JPEG that ``JpegImage.decode`` refuses as damaged.

    Raises:
        BadImageError: and its children, as ``JpegHeader.parse``; also where nothing decodes.
    """
    header = JpegHeader.parse(data, name, limits)
    segments = _checked_segments(data, header, name, limits)
    plain = PlainCopy.of(data, segments, header.colour_space, header.height)
    try:
        pixels = _decode(plain.data, header, strict=False)
    except ValueError as error:
        raise BadImageError(f"{name}: is a damaged JPEG of which nothing can be salvaged ({error})") from error
    missing = (_as_coded(pixels, header) == _UNDECODED).all(axis=tuple(range(1, pixels.ndim)))
    sound = np.flatnonzero(~missing)
    if not len(sound):
        raise BadImageError(f"{name}: is a damaged JPEG of which nothing can be salvaged (no block of it decodes)")
    metadata, _ = _read_metadata(data, segments, header, name)
    return Salvaged(pixels, int(sound[-1]) + 1, metadata, header.inks)


def _as_coded(pixels: NDArray[np.uint8], header: JpegHeader) -> NDArray[np.uint8]:
    """Pixels with inks the way round that the file has them."""
    if header.inks is None:
        return pixels
    taken = [group.take(pixels) for group in group_inks(header.inks)]
    return np.dstack(taken)


def _stated(components: Sequence[Component], colour_space: str) -> NDArray[np.float32]:
    if colour_space == "YCbCr":
        luma, chroma = components[:2]
        return stated_features(luma.sent_table_88, chroma.sent_table_88, chroma.scale)
    if colour_space == "grey":
        return stated_features(components[0].sent_table_88, None)
    return np.zeros(STATED_FEATURES, np.float32)  # RGB: too rare to learn from


def _colour_space(specs: list[bytes], is_jfif: bool, adobe_transform: int | None) -> str:
    """As libjpeg decides it: JFIF means YCbCr, then Adobe's marker counts, then the components' names.

    Of four components Adobe's marker alone.
    """
    if len(specs) == 1:
        return "grey"
    if len(specs) == 4:
        return "CMYK" if adobe_transform in (None, 0) else "YCCK"
    if is_jfif:
        return "YCbCr"
    if adobe_transform is not None:
        return "RGB" if adobe_transform == 0 else "YCbCr"
    return "RGB" if bytes(spec[0] for spec in specs) == b"RGB" else "YCbCr"


def _checked_segments(data: bytes, header: JpegHeader, name: str, limits: Limits) -> list[Segment]:
    """The file's segments, found to be within the limits."""
    segments = list(walk(data, name))
    scans = sum(code == START_OF_SCAN for code, *_ in segments)
    metadata_bytes = sum(end - start for code, start, end in segments if is_metadata(code))
    exif_bytes = sum(end - start for code, start, end in segments if _is_exif(data, code, start))
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
    return segments


def _decode_pixels(plain: PlainCopy, header: JpegHeader, name: str) -> tuple[NDArray[np.uint8], PlainCopy]:
    """Pixels, and the copy without what the decoder complained of although nothing is damaged."""
    pixels, complaint = _try(plain, header)
    if pixels is None and _RESTARTS_OUT_OF_ORDER.search(complaint):
        plain = plain.with_restarts_in_order()
        pixels, _ = _try(plain, header)
    scans, looked_at = plain.scans() if pixels is None else [], 0
    while pixels is None and (stray := _STRAY_BYTES.search(complaint)) and looked_at < min(len(scans), _MOST_REPAIRS):
        # The complaint is the first one: what it is of comes after all that was looked at.
        (scan, following), count = plain.scans()[looked_at], int(stray[1])
        looked_at += 1
        tail = plain.data[max(scan.start, scan.end - count) : scan.end]
        behind_the_picture = plain.added_end and following.code == END_OF_IMAGE
        if following.code == int(stray[2], 16) and (
            count <= MAX_STRAY_BYTES or len(set(tail)) == 1 or behind_the_picture
        ):
            tidy = plain.without(scan.end - len(tail), scan.end)
            pixels, remaining = _try(tidy, header)
            if pixels is not None or _STRAY_BYTES.search(remaining):  # else these bytes were needed
                plain, complaint = tidy, remaining
    if pixels is None:
        raise BadImageError(f"{name}: is a damaged JPEG ({complaint})")
    return pixels, plain


def _try(plain: PlainCopy, header: JpegHeader) -> tuple[NDArray[np.uint8] | None, str]:
    """Pixels, or None and the decoder's first complaint."""
    try:
        return _decode(plain.data, header), ""
    except ValueError as error:
        return None, str(error)


def _decode(data: bytes, header: JpegHeader, *, strict: bool = True) -> NDArray[np.uint8]:
    """Pixels. Raises ValueError with the decoder's first complaint, or if not ``strict`` where nothing decodes."""
    pixels: NDArray[np.uint8]
    space = "GRAY" if header.colour_space == "grey" else "CMYK" if header.inks else "RGB"
    if not header.has_named_sampling:
        pixels = _decode_any_sampling(data, strict=strict)
        if strict:
            _check_last_blocks(data, header, pixels)
        return pixels
    pixels = simplejpeg.decode_jpeg(data, colorspace=space, strict=strict)
    if header.inks:
        return invert(pixels)
    return pixels[..., 0] if space == "GRAY" else pixels


def _decode_any_sampling(data: bytes, *, strict: bool) -> NDArray[np.uint8]:
    """As ``_decode``, by the same library behind another, which knows no names of samplings."""
    import pyvips  # takes a quarter of a second, and hardly any file has such a sampling

    try:
        image = pyvips.Image.new_from_buffer(data, "", fail_on="warning" if strict else "none")
        pixels: NDArray[np.uint8] = image.numpy()
    except pyvips.Error as error:
        complaints = _OF_LIBJPEG.findall(str(error))  # also of earlier pictures
        raise ValueError(complaints[-1] if complaints else "it does not decode") from error
    return pixels


def _check_last_blocks(data: bytes, header: JpegHeader, pixels: NDArray[np.uint8]) -> None:
    """Raise ValueError where the only scan ends too early or too late for its last row of blocks.

    ``_decode_any_sampling`` hears no complaints of that row, but what it reads changes the pixels.
    """
    scans = [(start, end) for code, start, end in walk(data, "") if code == START_OF_SCAN]
    start, end = scans[0]
    if header.progressive or data[start + 4] < len(header.sampling):  # then it reads everything before it decodes
        return
    if len(scans) > 1:
        raise ValueError("Didn't expect more than one scan")

    def decodes_alike(cut: int, more: bytes = b"") -> bool:
        other = _decode_any_sampling(data[: end - cut] + more + data[end:], strict=False)
        return np.array_equal(other, pixels)

    if not all(decodes_alike(0, more) for more in (bytes(16), b"\x5a" * 16)):
        raise ValueError("Corrupt JPEG data: premature end of data segment")
    unread, needed = 0, MAX_STRAY_BYTES + 1
    coded_bytes = end - start - 2 - int.from_bytes(data[start + 2 : start + 4])
    while needed < coded_bytes and decodes_alike(needed):  # a file as it should be ends it here
        unread, needed = needed, 2 * needed
    if not unread:
        return
    while needed - unread > 1:
        middle = (unread + needed) // 2
        unread, needed = (middle, needed) if decodes_alike(middle) else (unread, middle)
    raise ValueError(f"Corrupt JPEG data: {unread - 1} extraneous bytes before marker 0xd9")


def _read_metadata(
    data: bytes, segments: Sequence[Segment], header: JpegHeader, name: str
) -> tuple[Metadata, str | None]:
    """Metadata, and a note on an odd colour profile."""
    try:
        with _warning_filters, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of EXIF that Pillow cannot parse: its bytes are carried over all the same
            # Pillow's own opener would add its limit on pixels, which is global; ours has been checked.
            metadata = Metadata.from_pillow(
                JpegImagePlugin.JpegImageFile(io.BytesIO(_header_of(data, segments, header)))
            )
    except Exception as error:  # Pillow's parsers of damaged metadata raise nearly anything
        raise BadImageError(f"{name}: is a JPEG with damaged metadata ({error})") from error
    profile, note = join_profile(data, segments)
    return replace(metadata, icc_profile=profile), note


def _read_coefficients(data: bytes, header: JpegHeader, name: str) -> list[NDArray[np.int16]]:
    """Of each component. The reader takes a path and at most fifty markers: give it a plain copy."""
    try:
        with _path_of(data) as path, _coefficient_reader:
            if jpeglib.version.get() != _LIBJPEG:
                jpeglib.version.set(_LIBJPEG)
            read = jpeglib.read_dct(path)
            return [read.Y, read.Cb, read.Cr, read.K][: len(header.sampling)]
    except (OSError, ValueError, RuntimeError, IndexError) as error:
        raise BadImageError(f"{name}: its coefficients cannot be read ({error})") from error


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


def _header_of(data: bytes, segments: Sequence[Segment], header: JpegHeader) -> bytes:
    """The file up to its first scan, for Pillow: all metadata first, wherever they are, since it looks no further.

    Without fill bytes, each of which it steps over; EXIF with the padding that it knows; with the picture's height.
    """
    metadata: list[bytes] = []
    frame: list[bytes] = []
    in_scans = False
    for code, start, end in segments:
        part = data[start:end]
        if is_metadata(code):
            metadata.append(part[:9] + b"\0" + part[10:] if _is_exif(data, code, start) else part)
        elif code == START_OF_SCAN and not in_scans:
            in_scans = True
            frame.append(data[start : start + 2 + int.from_bytes(data[start + 2 : start + 4])])
        elif not in_scans:
            frame.append(part[:5] + header.height.to_bytes(2) + part[7:] if code in _RESTORABLE_FRAMES else part)
    return b"".join((START_OF_IMAGE, *metadata, *frame))


def _is_exif(data: bytes, code: int, start: int) -> bool:
    """By the five bytes that all agree on: some pad it with another one than 0."""
    return code == APP1 and data[start + 4 : start + 9] == b"Exif\0"
