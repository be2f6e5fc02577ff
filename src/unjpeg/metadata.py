"""What a picture's file says beside its pixels: EXIF, colour profile, XMP, IPTC, comment, resolution.

Everything is kept as the bytes that the file holds. An EXIF block in particular is never rewritten, only patched in
place: camera makers' notes hold offsets from the block's start that nobody outside the maker can correct, so no byte
may move.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal, NamedTuple
from xml.dom import minidom
from xml.parsers.expat import ExpatError

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile, iTXt
from PIL.TiffImagePlugin import TiffImageFile

__all__ = ["PIXEL_LAYOUT_TAGS", "ExifBlock", "IfdEntry", "Metadata", "photoshop_of_iptc"]

_ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 0x0112, 0x011A, 0x011B, 0x0128
_IMAGE_WIDTH, _IMAGE_LENGTH = 0x0100, 0x0101
_EXIF_IFD, _GPS_IFD, _INTEROP_IFD = 0x8769, 0x8825, 0xA005
_EXIF_WIDTH, _EXIF_HEIGHT = 0xA002, 0xA003
_THUMBNAIL_OFFSET, _THUMBNAIL_LENGTH = 0x0201, 0x0202
_XMP, _ICC_PROFILE = 700, 34675
_IPTC, _PHOTOSHOP = 33723, 34377

_EXTENDED_XMP_HEADER, _PHOTOSHOP_HEADER = b"http://ns.adobe.com/xmp/extension/\0", b"Photoshop 3.0\0"
_RDF, _XMP_NOTE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#", "http://ns.adobe.com/xmp/note/"
_EXTENSION_NAME = re.compile(rb"HasExtendedXMP\W+([0-9A-Fa-f]{32})")
_IPTC_RESOURCE, _THUMBNAIL_RESOURCES = 0x0404, frozenset({0x0409, 0x040C})

_OWN_SEGMENTS = (
    # What has a field of its own,
    *(("APP0", b"JFIF\0"), ("APP1", b"Exif\0"), ("APP1", b"http://ns.adobe.com/xap/1.0/\0")),
    *(("APP1", _EXTENDED_XMP_HEADER), ("APP2", b"ICC_PROFILE\0"), ("APP13", _PHOTOSHOP_HEADER)),
    # and what would not be true of a restored picture: how the old file was coded, further pictures, thumbnails,
    # signatures of the old bytes.
    *(("APP0", b"JFXX\0"), ("APP0", b"AVI1"), ("APP8", b"SPIFF\0"), ("APP12", b"Ducky"), ("APP14", b"Adobe")),
    *(("APP2", b"MPF\0"), ("APP2", b"urn:iso:std:iso:ts:21496"), ("APP11", b"JP")),
)

_OWN_TEXTS = frozenset(
    {"Comment", "XML:com.adobe.xmp", "Raw profile type exif", "Raw profile type APP1", "Raw profile type iptc"}
)
"""Of a PNG: what has a field of its own."""

_SHORT, _LONG = 3, 4
# Bytes per value of each TIFF field type: BYTE, ASCII, SHORT, LONG, RATIONAL, then the signed, undefined and float
# ones, and IFD.
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}

PIXEL_LAYOUT_TAGS = frozenset(
    {
        *range(254, 260),  # subfile types, width, length, bits per sample, compression
        *(262, 263, 264, 265, 266),  # photometric interpretation, thresholding, cell size, fill order
        *(273, 277, 278, 279, 280, 281, 284),  # strips, samples per pixel, value range, planes
        *(288, 289, 290, 291, 292, 293),  # free space, grey response, fax options
        *(301, 317, 320, 321),  # transfer function (2**bits values), predictor, palette, halftone hints
        *(322, 323, 324, 325, 330),  # tiles, further images
        *(332, 333, 334, 336, 338, 339, 340, 341, 342),  # inks, extra samples, sample formats and ranges
        347,  # JPEG tables
        *range(512, 522),  # old-style JPEG
        *(530, 532),  # subsampling and reference levels of the YCbCr that the pixels no longer are
        *(_XMP, _ICC_PROFILE, _IPTC, _PHOTOSHOP),
    }
)
"""TIFF tags that say how one particular file stores its pixels (and those that `Metadata` keeps in fields of their
own): they must not follow the EXIF into another TIFF."""


class IfdEntry(NamedTuple):
    """One entry of an image file directory: 12 bytes at ``position`` that state ``values`` values of a field type."""

    tag: int
    field_type: int
    values: int
    position: int


class ExifBlock:
    """Read access to the TIFF structure that an EXIF block is.

    Every method raises ValueError where the block is damaged, and nothing else.

    Attributes:
        data: the block, from ``II*\\0`` or ``MM\\0*`` on.
        order: ``"<"`` (little-endian) or ``">"``, as struct and numpy spell it.
    """

    data: bytes
    order: Literal["<", ">"]

    def __init__(self, data: bytes) -> None:
        orders: dict[bytes, Literal["<", ">"]] = {b"II*\0": "<", b"MM\0*": ">"}
        if data[:4] not in orders:
            raise ValueError("no TIFF header")
        self.data = data
        self.order = orders[data[:4]]

    def main(self) -> tuple[list[IfdEntry], int | None]:
        """IFD0, the directory of the picture itself; see `directory`."""
        return self.directory(self._integer(4, 4))

    def directory(self, offset: int) -> tuple[list[IfdEntry], int | None]:
        """The entries of the directory at ``offset``, and where its 4-byte offset of the next directory lies.

        The latter is None where the block ends before it, as some writers have it.
        """
        if offset < 8:
            raise ValueError("a directory inside the header")
        count = self._integer(offset, 2)
        end = offset + 2 + 12 * count
        if end > len(self.data):
            raise ValueError("a directory beyond the end")
        entries = [
            IfdEntry(self._integer(start, 2), self._integer(start + 2, 2), self._integer(start + 4, 4), start)
            for start in range(offset + 2, end, 12)
        ]
        return entries, end if end + 4 <= len(self.data) else None

    def offset_at(self, position: int) -> int:
        """The 4-byte offset stored at ``position``."""
        return self._integer(position, 4)

    def span(self, entry: IfdEntry) -> tuple[int, int]:
        """First and one-past-last byte of the entry's value: inside the entry if it fits there, else elsewhere."""
        if entry.field_type not in _TYPE_BYTES:
            raise ValueError("an unknown field type")
        size = entry.values * _TYPE_BYTES[entry.field_type]
        start = entry.position + 8 if size <= 4 else self._integer(entry.position + 8, 4)
        if start + size > len(self.data):
            raise ValueError("a value beyond the end")
        return start, start + size

    def integer(self, entries: list[IfdEntry], tag: int) -> int | None:
        """The value of the first entry ``tag``: None if absent or not a single SHORT or LONG."""
        for entry in entries:
            if entry.tag == tag:
                if entry.values != 1 or entry.field_type not in (_SHORT, _LONG):
                    return None
                return self._integer(entry.position + 8, _TYPE_BYTES[entry.field_type])
        return None

    def _integer(self, position: int, size: int) -> int:
        if position + size > len(self.data):
            raise ValueError("an offset beyond the end")
        return int.from_bytes(self.data[position : position + size], "little" if self.order == "<" else "big")


@dataclass(frozen=True, slots=True)
class Metadata:
    """What travels with a picture.

    Attributes:
        exif: TIFF structure, without the ``Exif\\0\\0`` that JPEG puts before it.
        icc_profile: the ICC profile that gives the pixel values their meaning.
        xmp: the XMP packet (RDF/XML).
        comment: a JPEG's COM segment or its like; no encoding is promised.
        dpi: horizontal and vertical resolution in pixels per inch.
        extended_xmp: what a JPEG keeps of its XMP in further segments, because one segment ends at 64 KiB.
        photoshop: Photoshop's image resources (``8BIM``), IPTC among them.
        earlier_comments: the comments before ``comment``, if there are several.
        aspect: dots per length across and down, of pixels that are not square, where no unit is stated.
        colour: PNG's chunks that give pixels their meaning (cICP, gAMA, cHRM, sRGB): name and content.
        texts: a PNG's other texts: chunk's name and content.
        segments: a JPEG's other application segments (a thermal camera's data): number, 0..15, and content.
    """

    exif: bytes | None = None
    icc_profile: bytes | None = None
    xmp: bytes | None = None
    comment: bytes | None = None
    dpi: tuple[float, float] | None = None
    extended_xmp: bytes | None = None
    photoshop: bytes | None = None
    earlier_comments: tuple[bytes, ...] = ()
    aspect: tuple[int, int] | None = None
    colour: tuple[tuple[bytes, bytes], ...] = ()
    texts: tuple[tuple[bytes, bytes], ...] = ()
    segments: tuple[tuple[int, bytes], ...] = ()

    @property
    def comments(self) -> tuple[bytes, ...]:
        """All comments, in the file's order."""
        return (*self.earlier_comments, *([self.comment] if self.comment else []))

    @property
    def hdr(self) -> str | None:
        """The transfer function's name of a picture for bright displays, whose pixels mean nothing without it."""
        code = dict(self.colour).get(b"cICP", b"")
        return {16: "PQ", 18: "HLG"}.get(code[1]) if len(code) == 4 else None

    @property
    def profile_channels(self) -> int | None:
        """1 or 3 if the ICC profile is for grey or RGB pixels; None where it is for others, or does not say."""
        space = (self.icc_profile or b"")[16:20]
        signature = (self.icc_profile or b"")[36:40]
        if signature != b"acsp":  # no profile in truth: carried as it is
            return None
        return {b"GRAY": 1, b"RGB ": 3}.get(space)

    def resolution_below(self, limit: int) -> tuple[float, float] | None:
        """The resolution if there is one that a field ending at ``limit`` can state."""
        return self.dpi if self.dpi is not None and all(0 < value < limit - 1 for value in self.dpi) else None

    @property
    def orientation(self) -> int:
        """How to turn the pixels for viewing, as EXIF numbers it: 1..8, 1 (as they are) if absent or invalid."""
        try:
            block = ExifBlock(self.exif or b"")
            value = block.integer(block.main()[0], _ORIENTATION)
        except ValueError:
            return 1
        return value if value is not None and 1 <= value <= 8 else 1

    @property
    def joined_xmp(self) -> bytes | None:
        """Both parts of the XMP as one packet; the first alone where they are damaged."""
        if self.xmp is None or self.extended_xmp is None or b"<!" in self.xmp + self.extended_xmp:
            return self.xmp  # declarations are not allowed in XMP, and could make the parser work without end
        try:
            main, further = (minidom.parseString(part) for part in (self.xmp, self.extended_xmp))  # noqa: S318 (see <!)
            (place,) = main.getElementsByTagNameNS(_RDF, "RDF")
        except (ExpatError, ValueError):
            return self.xmp
        for source in further.getElementsByTagNameNS(_RDF, "RDF"):
            for child in [node for node in source.childNodes if isinstance(node, minidom.Element)]:
                _keep_prefixes(child)
                place.appendChild(main.importNode(child, deep=True))
        for description in main.getElementsByTagNameNS(_RDF, "Description"):
            if description.hasAttributeNS(_XMP_NOTE, "HasExtendedXMP"):
                description.removeAttributeNS(_XMP_NOTE, "HasExtendedXMP")
        for element in main.getElementsByTagNameNS(_XMP_NOTE, "HasExtendedXMP"):
            if element.parentNode is not None:
                element.parentNode.removeChild(element)
        return "".join(node.toxml() for node in main.childNodes).encode()

    @property
    def extended_xmp_name(self) -> bytes | None:
        """The 32 hexadecimal digits that the XMP calls its extension by."""
        found = _EXTENSION_NAME.search(self.xmp or b"")
        return found[1] if found else None

    @property
    def iptc(self) -> bytes | None:
        """The IPTC records among Photoshop's resources."""
        with suppress(ValueError):
            return next((data for kind, data, _ in _resources(self.photoshop or b"") if kind == _IPTC_RESOURCE), None)
        return None

    def with_size(self, width: int, height: int) -> Metadata:
        """The same with the EXIF's tags for the picture's size set, those that exist; damaged EXIF is left alone.

        ``width`` and ``height`` are those of the stored pixels, before any turning.
        """
        if self.exif is None:
            return self
        sizes = {_IMAGE_WIDTH: width, _IMAGE_LENGTH: height}
        exif_sizes = {_EXIF_WIDTH: width, _EXIF_HEIGHT: height}
        patched = bytearray(self.exif)
        try:
            block = ExifBlock(self.exif)
            main, _ = block.main()
            _patch(patched, block.order, main, sizes)
            exif_offset = block.integer(main, _EXIF_IFD)
            if exif_offset is not None:
                _patch(patched, block.order, block.directory(exif_offset)[0], exif_sizes)
        except ValueError:
            return self
        return replace(self, exif=bytes(patched))

    def upright(self) -> Metadata:
        """The same for pixels that have been turned as they are to be seen: an orientation tag says so."""
        if self.exif is None:
            return self
        patched = bytearray(self.exif)
        try:
            block = ExifBlock(self.exif)
            _patch(patched, block.order, block.main()[0], {_ORIENTATION: 1})
        except ValueError:
            return self
        return replace(self, exif=bytes(patched))

    def without_thumbnail(self) -> Metadata:
        """The same with the EXIF's thumbnail unlinked, and blanked if it is a JPEG that nothing else lies in.

        A restored picture's thumbnail would still show the artifacts. Photoshop's is dropped.
        """
        with suppress(ValueError):
            kept = [whole for kind, _, whole in _resources(self.photoshop or b"") if kind not in _THUMBNAIL_RESOURCES]
            if len(b"".join(kept)) != len(self.photoshop or b""):
                return replace(self, photoshop=b"".join(kept) or None).without_thumbnail()
        if self.exif is None:
            return self
        patched = bytearray(self.exif)
        try:
            block = ExifBlock(self.exif)
            main, link = block.main()
            thumbnail = block.offset_at(link) if link is not None else 0
            if link is None or thumbnail == 0:
                return self
            patched[link : link + 4] = bytes(4)
        except ValueError:
            return self
        with suppress(ValueError):  # a damaged thumbnail is unlinked all the same
            entries, _ = block.directory(thumbnail)
            start = block.integer(entries, _THUMBNAIL_OFFSET)
            size = block.integer(entries, _THUMBNAIL_LENGTH)
            if start is not None and size is not None and _is_free(block, main, entries, start, start + size):
                patched[start : start + size] = bytes(size)
        return replace(self, exif=bytes(patched))

    @classmethod
    def from_pillow(cls, image: Image.Image) -> Metadata:
        """What an opened JPEG, PNG, WebP or TIFF carries; its pixels need not be loaded yet.

        The bytes are the file's, except that a TIFF has no EXIF block of its own: there one is built from its tags,
        without the orientation, because Pillow turns a TIFF's pixels upright as it loads them. A PNG is loaded,
        because its metadata may follow its pixels; what a damaged one holds before the damage is returned.
        """
        if isinstance(image, PngImageFile):
            with suppress(OSError, SyntaxError, ValueError):
                image.load()
        info = image.info
        exif = _tiff_exif(image) if isinstance(image, TiffImageFile) else _as_bytes(info.get("exif"))
        if exif is None:
            exif = _raw_profile(info.get("Raw profile type exif"))
        while exif is not None and exif.startswith(b"Exif\0\0"):  # some writers put it twice
            exif = exif[6:] or None
        xmp = _as_bytes(info.get("xmp")) or _as_bytes(info.get("XML:com.adobe.xmp"))
        comments = [body for kind, body in getattr(image, "applist", ()) if kind == "COM" and body]
        return cls(
            earlier_comments=tuple(comments[:-1]),
            aspect=_aspect(image),
            segments=tuple(_other_segments(image)),
            colour=tuple(_png_colour(image)),
            texts=tuple(_png_texts(image)),
            exif=exif,
            icc_profile=_as_bytes(info.get("icc_profile")),
            xmp=xmp,
            extended_xmp=_extended_xmp(image, xmp),
            photoshop=_photoshop(image),
            comment=_as_bytes(info.get("comment")) or _as_bytes(info.get("Comment")),
            dpi=_resolution(image, exif),
        )


def _keep_prefixes(element: minidom.Element) -> None:
    """Declare on an element the prefixes that it has from its parents, which it is about to leave."""
    parent = element.parentNode
    while isinstance(parent, minidom.Element):
        for name, value in list(parent.attributes.items()):
            if name.startswith("xmlns") and not element.hasAttribute(name):
                element.setAttribute(name, value)
        parent = parent.parentNode


def _extended_xmp(image: Image.Image, xmp: bytes | None) -> bytes | None:
    """A JPEG's further XMP, if it is complete and the packet names it."""
    parts: dict[int, bytes] = {}
    size, name = -1, Metadata(xmp=xmp).extended_xmp_name
    for kind, segment in getattr(image, "applist", ()):
        if kind == "APP1" and segment.startswith(_EXTENDED_XMP_HEADER):
            start = len(_EXTENDED_XMP_HEADER)
            identity, position = segment[start : start + 32], segment[start + 36 : start + 40]
            if len(position) == 4 and identity == name:
                size = int.from_bytes(segment[start + 32 : start + 36])
                parts[int.from_bytes(position)] = segment[start + 40 :]
    joined = b"".join(parts[position] for position in sorted(parts))
    return joined if len(joined) == size else None


def _photoshop(image: Image.Image) -> bytes | None:
    if isinstance(image, TiffImageFile):
        resources = image.tag_v2.get(_PHOTOSHOP)
        if isinstance(resources, bytes) and resources:
            return resources
        iptc = image.tag_v2.get(_IPTC)
        return photoshop_of_iptc(iptc) if isinstance(iptc, bytes) and iptc else None
    if isinstance(image, PngImageFile):
        return _raw_profile(image.info.get("Raw profile type iptc"))
    header = len(_PHOTOSHOP_HEADER)
    segments = [
        segment[header:]
        for name, segment in getattr(image, "applist", ())
        if name == "APP13" and segment.startswith(_PHOTOSHOP_HEADER)
    ]
    return b"".join(segments) or None


def photoshop_of_iptc(iptc: bytes) -> bytes:
    """Photoshop's resources with nothing but IPTC records."""
    return b"8BIM" + struct.pack(">HHI", _IPTC_RESOURCE, 0, len(iptc)) + iptc + bytes(len(iptc) % 2)


def _resources(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Kind, data, and the whole entry of each of Photoshop's resources. Raises ValueError where they are damaged."""
    position = 0
    while position < len(data):
        name = position + 6
        if data[position : position + 4] != b"8BIM" or name >= len(data):
            raise ValueError("no resource where one must be")
        size_at = name + (data[name] + 2) // 2 * 2
        start = size_at + 4
        end = start + int.from_bytes(data[size_at:start])
        if end > len(data):
            raise ValueError("a resource beyond the end")
        following = min(end + (end - start) % 2, len(data))
        yield int.from_bytes(data[position + 4 : name]), data[start:end], data[position:following]
        position = following


def _patch(data: bytearray, order: str, entries: list[IfdEntry], values: dict[int, int]) -> None:
    for entry in entries:
        if entry.tag in values and entry.values == 1 and entry.field_type in (_SHORT, _LONG):
            value = values[entry.tag]
            # Both types have their value inside the entry, so a SHORT that has become too small can turn into a LONG.
            if entry.field_type == _SHORT and value <= 0xFFFF:
                struct.pack_into(f"{order}H", data, entry.position + 8, value)
            else:
                struct.pack_into(f"{order}H", data, entry.position + 2, _LONG)
                struct.pack_into(f"{order}I", data, entry.position + 8, value)


def _is_free(block: ExifBlock, main: list[IfdEntry], thumbnail: list[IfdEntry], start: int, end: int) -> bool:
    """Whether ``start`` to ``end`` holds a JPEG and neither header, directory nor value reaches into it.

    A damaged or odd block may name any bytes as its thumbnail.
    """
    if not 8 <= start < end <= len(block.data) or block.data[start : start + 2] != b"\xff\xd8":
        return False
    directories = [main, thumbnail]
    for tag in (_EXIF_IFD, _GPS_IFD, _INTEROP_IFD):  # the last is named in the first
        offsets = [block.integer(entries, tag) for entries in directories]
        directories += [block.directory(offset)[0] for offset in offsets if offset is not None]
    taken = []
    for entries in directories:
        if entries:
            taken.append((entries[0].position - 2, entries[-1].position + 12 + 4))
        for entry in entries:
            with suppress(ValueError):  # a value that is not there takes no room
                taken.append(block.span(entry))
    return all(last <= start or end <= first for first, last in taken)


def _as_bytes(value: object) -> bytes | None:
    """Pillow's value as the bytes that the file holds; None if empty or of a kind that no such field has."""
    if isinstance(value, iTXt):
        return value.encode() or None
    if isinstance(value, str):
        return value.encode("latin-1", "replace") or None
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value) or None
    return None


def _raw_profile(value: object) -> bytes | None:
    """The EXIF that ImageMagick wrote into PNG text, as hexadecimal lines after a name and a length."""
    if not isinstance(value, str):
        return None
    try:
        return bytes.fromhex("".join(value.split("\n")[3:])) or None
    except ValueError:
        return None


def _resolution(image: Image.Image, exif: bytes | None) -> tuple[float, float] | None:
    if isinstance(image, TiffImageFile) and _X_RESOLUTION not in image.tag_v2:
        return None  # Pillow makes 1 up
    if isinstance(image, JpegImageFile) and image.info.get("jfif_unit") not in (1, 2):
        # Then Pillow takes it from the EXIF, and makes 72 up where that states none.
        try:
            entries, _ = ExifBlock(exif or b"").main()
        except ValueError:
            return None
        if not {_X_RESOLUTION, _RESOLUTION_UNIT} <= {entry.tag for entry in entries}:
            return None
    try:
        horizontal, vertical = (float(number) for number in image.info.get("dpi", ()))
    except (TypeError, ValueError, ArithmeticError):
        return None
    usable = all(math.isfinite(number) and number > 0 for number in (horizontal, vertical))
    return (horizontal, vertical) if usable else None


def _aspect(image: Image.Image) -> tuple[int, int] | None:
    """Of pixels that are not square, where the file states no unit."""
    stated: Any = None
    if isinstance(image, JpegImageFile) and image.info.get("jfif_unit") == 0:
        stated = image.info.get("jfif_density")
    elif isinstance(image, PngImageFile):
        stated = image.info.get("aspect")
    elif isinstance(image, TiffImageFile) and image.tag_v2.get(_RESOLUTION_UNIT) == 1:
        stated = image.tag_v2.get(_X_RESOLUTION), image.tag_v2.get(_Y_RESOLUTION)
    try:
        across, down = stated
        ratio = (Fraction(float(across)) / Fraction(float(down))).limit_denominator(10_000)
    except (TypeError, ValueError, ArithmeticError):
        return None
    usable = 0 < ratio != 1 and max(ratio.numerator, ratio.denominator) < 2**16
    return (ratio.numerator, ratio.denominator) if usable else None


def _other_segments(image: Image.Image) -> Iterator[tuple[int, bytes]]:
    for kind, body in getattr(image, "applist", ()):
        if kind.startswith("APP") and not any(kind == app and body.startswith(start) for app, start in _OWN_SEGMENTS):
            yield int(kind[3:]), body


def _png_colour(image: Image.Image) -> Iterator[tuple[bytes, bytes]]:
    """As `unjpeg.pngfile` reads it from a file, of an image that somebody else has opened; Pillow knows no cICP."""
    if isinstance(image, PngImageFile):
        gamma, primaries, intent = (image.info.get(name) for name in ("gamma", "chromaticity", "srgb"))
        with suppress(TypeError, ValueError, struct.error):
            if gamma:
                yield b"gAMA", struct.pack(">I", round(gamma * 100_000))
            if primaries:
                yield b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in primaries))
            if intent is not None:
                yield b"sRGB", struct.pack("B", intent)


def _png_texts(image: Image.Image) -> Iterator[tuple[bytes, bytes]]:
    if isinstance(image, PngImageFile):
        for keyword, text in image.text.items():
            if keyword not in _OWN_TEXTS and keyword.isascii():
                if text.isascii() and "\0" not in text:
                    yield b"tEXt", f"{keyword}\0{text}".encode()
                else:
                    yield b"iTXt", f"{keyword}\0\0\0\0\0{text}".encode("utf-8", "replace")


def _tiff_exif(image: TiffImageFile) -> bytes | None:
    """A TIFF's descriptive tags as a block of their own, or None if there are none or they are damaged."""
    try:
        tags = image.getexif()
        block = Image.Exif()
        block.endian = tags.endian
        for tag, value in tags.items():
            if tag in (_EXIF_IFD, _GPS_IFD):
                block[tag] = dict(tags.get_ifd(tag))
            elif tag not in PIXEL_LAYOUT_TAGS and tag != _ORIENTATION:
                block[tag] = value
        if _INTEROP_IFD in block.get(_EXIF_IFD, {}):
            block[_EXIF_IFD][_INTEROP_IFD] = dict(tags.get_ifd(_INTEROP_IFD))
        return block.tobytes() if len(block) else None
    except (OSError, SyntaxError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, struct.error):
        return None  # Pillow parses lazily and lets whatever its parser trips over escape
