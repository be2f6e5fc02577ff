"""HEIC and HEIF files, by libheif behind pi-heif: an extra, since not everybody has such files."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unjpeg.errors import BadImageError, TooLargeError, UnsupportedImageError
from unjpeg.metadata import Metadata

__all__ = ["HEIF_SUFFIXES", "HeifImage", "can_read_heif", "is_heif", "list_readable_formats", "read_heif"]

HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})

_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})

_MODES = {"L": 1, "I": 1, "LA": 2, "RGB": 3, "RGBA": 4}
"""What pi-heif calls pixels of so many channels; of more than 8 bits with a semicolon and their number behind it."""


@dataclass(frozen=True, slots=True)
class HeifImage:
    """The main picture of a file.

    Attributes:
        pixels: ``(H, W)`` or ``(H, W, 2..4)``, alpha last, uint8, or uint16 at full range where there are more than 8
            bits; turned as they are to be seen.
        bits: per sample, of the file.
        metadata: whose orientation is that of the pixels.
        others: further pictures in the file.
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    bits: int
    metadata: Metadata
    others: int


def is_heif(data: bytes) -> bool:
    """Whether these bytes start like a HEIC or HEIF file, in which something else than HEVC may be, AVIF's for one."""
    return data[4:8] == b"ftyp" and data[8:12] in _BRANDS


def can_read_heif() -> bool:
    """Whether the extra is installed."""
    return importlib.util.find_spec("pi_heif") is not None


def list_readable_formats() -> str:
    """What is read here, as a part of a sentence."""
    if can_read_heif():
        return "JPEG, PNG, TIFF, WebP, AVIF, HEIC and BMP are read"
    return "JPEG, PNG, TIFF, WebP, AVIF and BMP are read, and HEIC after: pip install 'unjpeg[formats]'"


def read_heif(data: bytes, name: str, max_pixels: int) -> HeifImage:
    """Decode a file's main picture.

    Raises:
        UnsupportedImageError: the extra is missing, or the picture is of a kind that nothing here handles.
        TooLargeError: more pixels than the limit.
        BadImageError: it is damaged.
    """
    if not can_read_heif():
        raise UnsupportedImageError(
            f"{name}: is a HEIC picture; pip install 'unjpeg[formats]' reads it; or convert it to PNG or TIFF first"
        )
    import pi_heif

    try:
        file = pi_heif.open_heif(data, convert_hdr_to_8bit=False, hdr_to_16bit=False)
        width, height = file.size
    except Exception as error:  # libheif's, of every kind
        raise BadImageError(
            f"{name}: is a damaged HEIC picture, or one of an unknown kind ({_line(error)}); copy or download it anew"
        ) from error
    if width * height > max_pixels:
        raise TooLargeError(f"{name}: has {width}x{height} pixels, more than the limit of {max_pixels:,}")
    kind, _, stated = file.mode.partition(";")
    channels, bits = _MODES.get(kind), int(stated or 8)
    if channels is None:
        raise UnsupportedImageError(f"{name}: has pixels of kind {file.mode!r}; convert it to PNG first")
    try:
        plain = np.frombuffer(file.data, "<u2" if stated else np.uint8)
    except Exception as error:  # as above
        raise BadImageError(f"{name}: is damaged ({_line(error)})") from error
    # Rows may be padded; the size is that after turning, which is known only now.
    width, height = file.size
    pixels = plain.reshape(height, -1)[:, : width * channels].reshape(height, width, channels)
    if channels == 1:
        pixels = pixels[..., 0]
    info = file.info
    exif = info.get("exif") or None
    metadata = Metadata(
        exif=exif.removeprefix(b"Exif\0\0") if exif else None,
        icc_profile=info.get("icc_profile") or None,
        xmp=(info.get("xmp") or b"").rstrip(b"\0") or None,
    )
    return HeifImage(_widened(pixels, bits), bits, metadata.upright(), len(file) - 1)


def _widened(pixels: NDArray[np.uint8] | NDArray[np.uint16], bits: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Samples of so many bits at the full range of 8 or 16."""
    if bits == 8:
        return pixels.copy()  # the file's memory goes with it
    largest = (1 << bits) - 1
    return ((pixels.astype(np.uint32) * 65535 + largest // 2) // largest).astype(np.uint16)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
