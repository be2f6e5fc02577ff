"""CMYK: four inks in a JPEG, and how each of the file's planes is restored as a picture of its own.

Everywhere here a pixel is 0 where there is no ink and 255 where there is all of it, as in TIFF and in Pillow. JPEGs
have it the other way round, marked or not: Adobe's programs began so, and all readers expect it. A CMYK file codes
each of the four so. A YCCK file codes cyan, magenta and yellow as if they were red, green and blue, which turns them
round again, and black as a CMYK file does.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

__all__ = ["INK_CODINGS", "InkCoding", "InkGroup", "group_inks", "invert", "is_cmyk_profile", "show_inks"]

InkCoding = Literal["CMYK", "YCCK"]

INK_CODINGS: tuple[InkCoding, ...] = get_args(InkCoding)


@dataclass(frozen=True, slots=True)
class InkGroup:
    """Channels of a CMYK picture that one network restores together.

    Attributes:
        channels: one of them, or the three that are coded as colour.
        components: of the file, those that code them.
        is_inverted: whether the file has them the other way round.
        colour_space: as ``JpegHeader.colour_space``, of this group alone.
    """

    channels: int | slice
    components: slice
    is_inverted: bool
    colour_space: Literal["grey", "YCbCr"]

    def take(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What the file codes: ``(H, W, 4)`` inks to ``(H, W)`` or ``(H, W, 3)``, contiguous."""
        taken = np.ascontiguousarray(pixels[..., self.channels])
        return invert(taken) if self.is_inverted else taken


_PLANES = tuple(InkGroup(i, slice(i, i + 1), is_inverted=True, colour_space="grey") for i in range(4))
_COLOURS = InkGroup(slice(0, 3), slice(0, 3), is_inverted=False, colour_space="YCbCr")


def group_inks(coding: InkCoding) -> tuple[InkGroup, ...]:
    """The groups of a file so coded."""
    return _PLANES if coding == "CMYK" else (_COLOURS, _PLANES[3])


def invert(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Of all ink none, of none all."""
    return np.uint8(255) - pixels


def is_cmyk_profile(profile: bytes | None) -> bool:
    """Whether an ICC profile is for CMYK pixels."""
    return profile is not None and profile[36:40] == b"acsp" and profile[16:20] == b"CMYK"


def show_inks(pixels: NDArray[np.uint8], profile: bytes | None) -> NDArray[np.uint8]:
    """As sRGB, to look at: ``(H, W, 4)`` to ``(H, W, 3)``. Without a usable profile of inks, by the plainest rule."""
    image = Image.fromarray(np.ascontiguousarray(pixels), mode="CMYK")
    if profile is not None and is_cmyk_profile(profile):
        try:
            inks = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            shown = ImageCms.profileToProfile(image, inks, ImageCms.createProfile("sRGB"), outputMode="RGB")
            assert shown is not None  # only in place there is none
            return np.asarray(shown)
        except (ImageCms.PyCMSError, OSError):
            pass  # a damaged profile
    return np.asarray(image.convert("RGB"))
