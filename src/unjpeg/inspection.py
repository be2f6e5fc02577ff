"""What a JPEG file says about itself, and whether a picture could have produced it."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unjpeg.errors import BadImageError, TooLargeError
from unjpeg.jpeg import DEFAULT_LIMITS, JpegImage, Limits
from unjpeg.picture import FileSource, read_bytes, read_picture
from unjpeg.projection import Consistency, measure_consistency
from unjpeg.restorer import looks_compressed_twice, shared_restorer

__all__ = ["Inspection", "Verification", "inspect", "inspection_of", "verify"]


@dataclass(frozen=True, slots=True)
class Inspection:
    """A JPEG file's facts.

    Attributes:
        colour_space: "grey", "YCbCr" or "RGB".
        subsampling: "4:2:0" and the like; "grey" for one component.
        tables: the distinct quantisation tables in use, luma first, 8x8 in natural order.
        stated_quality: quality factor of the nearest standard tables.
        table_distance: mean absolute logarithm of the ratio to them; 0 for standard tables.
        read_quality: the quality that the pixels look like to the network, or None if not asked for.
        looks_compressed_twice: the pixels look much worse than the tables state.
    """

    name: str
    width: int
    height: int
    colour_space: str
    components: int
    subsampling: str
    progressive: bool
    orientation: int
    tables: tuple[tuple[tuple[int, ...], ...], ...]
    stated_quality: int
    table_distance: float
    read_quality: int | None
    looks_compressed_twice: bool | None
    has_exif: bool
    has_icc_profile: bool
    has_xmp: bool
    has_photoshop: bool
    has_comment: bool


@dataclass(frozen=True, slots=True)
class Verification:
    """How a picture fits a file's quantisation cells.

    Attributes:
        consistency: per component; blocks that clip or hang over the edge are counted apart.
    """

    original: str
    restored: str
    consistency: Consistency

    @property
    def is_consistent(self) -> bool:
        """Whether the picture could have produced the file, as far as rounding lets one tell."""
        return self.consistency.is_consistent


def inspect(
    source: FileSource, *, model: str | os.PathLike[str] | None = "default", limits: Limits = DEFAULT_LIMITS
) -> Inspection:
    """Facts about a JPEG.

    Args:
        source: a path, bytes or a stream.
        model: reads the quality from the pixels; None leaves that out and loads no network.

    Raises:
        BadImageError: it is no JPEG, or damaged.
        ModelError: the model is not there.
    """
    picture = read_picture(source, limits=limits)
    if picture.jpeg is None:
        raise BadImageError(f"{picture.name}: is not a JPEG file, so there is nothing to inspect")
    read = shared_restorer(os.fspath(model)).guide(picture).quality if model is not None else None
    return inspection_of(picture.name, picture.jpeg, read)


def inspection_of(name: str, jpeg: JpegImage, read: int | None) -> Inspection:
    """Facts about a JPEG that is decoded already, ``read`` being the quality that the network read from it, if any."""
    quality = jpeg.quality
    return Inspection(
        name=name,
        width=jpeg.header.width,
        height=jpeg.header.height,
        colour_space=jpeg.header.colour_space,
        components=len(jpeg.header.sampling),
        subsampling=jpeg.header.subsampling,
        progressive=jpeg.header.progressive,
        orientation=jpeg.metadata.orientation,
        tables=tuple(tuple(tuple(int(n) for n in row) for row in table) for table in jpeg.tables),
        stated_quality=quality.value,
        table_distance=quality.distance,
        read_quality=read,
        looks_compressed_twice=None if read is None else looks_compressed_twice(jpeg.sent_quality.value, read),
        has_exif=jpeg.metadata.exif is not None,
        has_icc_profile=jpeg.metadata.icc_profile is not None,
        has_xmp=jpeg.metadata.xmp is not None,
        has_photoshop=jpeg.metadata.photoshop is not None,
        has_comment=jpeg.metadata.comment is not None,
    )


def verify(
    original: FileSource,
    restored: FileSource | NDArray[np.uint8] | NDArray[np.uint16],
    *,
    limits: Limits = DEFAULT_LIMITS,
) -> Verification:
    """Check that a picture could have produced a JPEG file.

    Args:
        original: the JPEG, as a path, bytes or a stream.
        restored: the picture, as a path, bytes or a stream of any format, or an array, of 8 or 16 bits.

    Raises:
        BadImageError: either cannot be read, or their sizes differ.
    """
    data, name = read_bytes(original, limits.file_bytes)
    jpeg = JpegImage.decode(data, name, limits)
    if isinstance(restored, np.ndarray):
        pixels, restored_name = restored, "array"
    else:
        pixels, restored_name = _read_at_full_depth(restored, limits)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise BadImageError(f"{restored_name}: has pixels of type {pixels.dtype}; only 8 and 16 bits can be checked")
    if pixels.ndim == 3 and jpeg.pixels.ndim == 2 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]  # grey, from a format that has no grey (WebP)
    if pixels.shape != jpeg.pixels.shape:
        turned = jpeg.metadata.orientation >= 5 and pixels.shape[:2] == jpeg.pixels.shape[1::-1]
        reason = "it was turned upright, and is compared unturned only" if turned else "not the same picture"
        raise BadImageError(f"{restored_name}: has shape {pixels.shape}, but {name} has {jpeg.pixels.shape}: {reason}")
    consistency = measure_consistency(pixels, jpeg.components, jpeg.header.colour_space, jpeg.pixels)
    return Verification(name, restored_name, consistency)


def _read_at_full_depth(source: FileSource, limits: Limits) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], str]:
    """Pixels without alpha, ``(H, W)`` or ``(H, W, 3)``; Pillow would cut 16-bit RGB down to 8."""
    data, name = read_bytes(source, limits.file_bytes)
    import pyvips  # takes a quarter of a second, and only verify reads through it

    logging.getLogger("pyvips").addHandler(logging.NullHandler())  # its complaints are raised, too
    pyvips.block_untrusted_set(True)  # loaders that their authors do not trust with strangers' files
    try:
        image = pyvips.Image.new_from_buffer(data, "", fail_on="truncated")
        if image.width * image.height > limits.pixels:
            raise TooLargeError(
                f"{name}: has {image.width}x{image.height} pixels, more than the limit of {limits.pixels:,}"
            )
        if image.interpretation not in ("srgb", "rgb", "rgb16", "b-w", "grey16"):
            raise BadImageError(f"{name}: is neither grey nor RGB ({image.interpretation}); it cannot be checked")
        if image.get_n_pages() > 1:
            raise BadImageError(f"{name}: is an animation or has several pages; give one picture")
        bands = image.bands - image.hasalpha()
        pixels: NDArray[np.uint8] | NDArray[np.uint16] = image.numpy()
    except pyvips.Error as error:
        reason = str(error).strip().splitlines()[-1].strip() if str(error).strip() else "unknown format"
        raise BadImageError(f"{name}: is not a picture that can be read ({reason})") from error
    if pixels.ndim == 3:
        pixels = pixels[..., 0] if bands == 1 else pixels[..., :bands]
    return pixels, name
