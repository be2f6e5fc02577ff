"""Pictures of more than 8 bits per sample: how many a file has, by its header, and its pixels at full depth.

Pillow cuts colour of 10, 12 or 16 bits down to 8 without a word. So the depth is read from the header here, and the
pixels of such files by libvips, or by hand where that cannot.
"""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from unjpeg.errors import BadImageError, UnsupportedImageError
from unjpeg.isobmff import split_boxes

__all__ = ["bits_per_sample", "colour_code_of", "rounded", "sample_bits", "unrounded"]

_PNM_HEADER = re.compile(rb"(P[2356])((?:\s|#[^\n]*\n)+\d+){3}\s")
_BITS_PER_SAMPLE = 258
_CODESTREAM, _SIZE_FIELDS = b"\xff\x4f\xff\x51", 40

_USUAL_CODES = ((1, 2), (1, 2, 6, 13, 14, 15))
"""Primaries and transfer functions of ordinary pictures, or of what nothing is said: ITU-T H.273."""

_MOST_LEVELS_APART = 4
"""Mean difference to Pillow's 8 bits: decoders enlarge chroma in their own ways; turned pictures differ more."""


def bits_per_sample(image: Image.Image) -> int:
    """Of an opened file, before its pixels are read: 8 or 16. Pillow cuts 16-bit colour down to 8 without a word."""
    raw_modes = [str(argument) for *_, arguments in getattr(image, "tile", []) for argument in _as_tuple(arguments)]
    return 16 if any(";16" in mode for mode in raw_modes) else 8


def sample_bits(data: bytes, image: Image.Image) -> int:
    """Bits per sample of a file, by its header, 8 at least; ``image`` is the same, opened and not loaded."""
    bits = bits_per_sample(image)
    if image.format == "PPM":
        largest = _pnm(data)
        return max(8, int(largest[2]).bit_length()) if largest else bits
    if image.format in ("AVIF", "HEIF"):
        return max([8, *_avif_bits(data)])
    if image.format == "JPEG2000":
        at = data.find(_CODESTREAM)
        count = int.from_bytes(data[at + _SIZE_FIELDS : at + _SIZE_FIELDS + 2]) if at >= 0 else 0
        fields = data[at + _SIZE_FIELDS + 2 : at + _SIZE_FIELDS + 2 + 3 * count : 3]
        return max([8, *((field & 0x7F) + 1 for field in fields)])
    if isinstance(image, TiffImageFile):
        stated = image.tag_v2.get(_BITS_PER_SAMPLE, ())
        return max([bits, *(n for n in _as_tuple(stated) if isinstance(n, int))])
    return bits


def unrounded(data: bytes, name: str, bits: int, image: Image.Image) -> NDArray[np.uint16]:
    """A file's pixels, ``(H, W)`` or ``(H, W, 2..4)``, at the full range of 16 bits; alpha last.

    Raises:
        UnsupportedImageError: nothing here reads them at that depth.
        BadImageError: it is damaged.
    """
    way_out = f"{name}: has {bits} bits per sample, which cannot be read here"
    try:
        found = _pnm(data)
        pixels = _pnm_pixels(data, *found) if found else _vips_pixels(data, bits, image)
        as_bytes = np.asarray(image.convert(_mode_of(pixels)), np.int16) if image.format == "AVIF" else None
    except Exception as error:  # the libraries' own, of every kind
        try:
            image.load()
        except Exception as damage:  # of every kind, too
            raise BadImageError(f"{name}: is damaged ({damage})") from damage
        raise UnsupportedImageError(f"{way_out} ({error}); convert it to 8 bits first".replace("\n", " ")) from error
    if as_bytes is not None and (
        as_bytes.shape != pixels.shape or np.abs(as_bytes - rounded(pixels)).mean() > _MOST_LEVELS_APART
    ):
        raise UnsupportedImageError(f"{way_out} as it is meant to be seen; convert it to 8 bits, or to a 16-bit PNG")
    return pixels


def rounded(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """16 bits to 8, to the nearest."""
    # Without wider integers: large pictures have large temporaries.
    highest = np.uint16(0xFFFF - 128)
    result: NDArray[np.uint8] = ((np.minimum(pixels, highest) + np.uint16(128)) // np.uint16(257)).astype(np.uint8)
    return result


def colour_code_of(data: bytes) -> bytes | None:
    """What an AVIF says of its colours, as PNG's cICP says it; None where that is the usual."""
    for kind, body in _boxes(data):
        if kind == b"colr" and body[:4] == b"nclx" and len(body) >= 11:
            primaries, transfer = struct.unpack_from(">HH", body, 4)
            if primaries in _USUAL_CODES[0] and transfer in _USUAL_CODES[1]:
                return None
            return bytes((primaries & 255, transfer & 255, 0, 1))  # as RGB, full range: what the decoder gives
    return None


def _as_tuple(arguments: object) -> tuple[object, ...]:
    return arguments if isinstance(arguments, tuple) else (arguments,)


def _mode_of(pixels: NDArray[np.uint16]) -> str:
    return "L" if pixels.ndim == 2 else {2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]


def _pnm(data: bytes) -> tuple[int, tuple[int, int], int] | None:
    """Of a PGM or PPM: where the pixels begin, width and height, largest value. None if it is none."""
    header = _PNM_HEADER.match(data[:4096])
    if header is None:
        return None
    width, height, largest = (int(word) for word in re.sub(rb"#[^\n]*\n", b" ", header[0])[2:].split())
    return header.end(), (width, height), largest


def _pnm_pixels(data: bytes, start: int, size: tuple[int, int], largest: int) -> NDArray[np.uint16]:
    (width, height), channels = size, 3 if data[:2] == b"P6" else 1
    if data[:2] in (b"P2", b"P3"):
        raise ValueError("its values are text")
    if not 0 < largest < 2**16:
        raise ValueError(f"its largest value is {largest}")
    values = np.frombuffer(data, ">u2", width * height * channels, start).astype(np.uint32)
    scaled = np.minimum((values * 65535 + largest // 2) // largest, 65535).astype(np.uint16)
    return scaled.reshape((height, width) if channels == 1 else (height, width, channels))


def _vips_pixels(data: bytes, bits: int, opened: Image.Image) -> NDArray[np.uint16]:
    import pyvips  # takes a quarter of a second, and few files need it

    logging.getLogger("pyvips").addHandler(logging.NullHandler())  # its complaints are raised, too
    pyvips.block_untrusted_set(True)  # loaders that their authors do not trust with strangers' files
    image = pyvips.Image.new_from_buffer(data, "", fail_on="truncated")
    if opened.format == "TIFF":
        image = image.autorot()  # as Pillow does
    if image.format != "ushort" or image.interpretation not in ("rgb16", "grey16", "srgb", "b-w", "rgb"):
        raise ValueError(f"{image.interpretation}, {image.format}")
    pixels: NDArray[np.uint16] = image.numpy()
    if opened.format in ("AVIF", "HEIF"):  # in the upper bits, the lower ones empty
        pixels = pixels >> np.uint16(16 - bits)
        scaled = pixels.astype(np.uint32) * 65535 + ((1 << bits) - 1) // 2
        pixels = (scaled // ((1 << bits) - 1)).astype(np.uint16)
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels


def _avif_bits(data: bytes) -> Iterator[int]:
    for kind, body in _boxes(data):
        if kind == b"pixi" and len(body) >= 5:
            yield from body[5 : 5 + body[4]]
        elif kind == b"av1C" and len(body) >= 3:
            yield 12 if body[2] & 0x20 and body[2] & 0x40 else 10 if body[2] & 0x40 else 8


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The properties of an AVIF's or HEIC's pictures: kind and content of each, in ISO's nested boxes."""
    inside = {b"meta": 4, b"iprp": 0, b"ipco": 0}  # bytes before the first box in it
    waiting = [data]
    while waiting:
        content = waiting.pop()
        for kind, body in split_boxes(content):
            if kind in inside:
                waiting.append(body[inside[kind] :])
            elif content is not data:
                yield kind, body
