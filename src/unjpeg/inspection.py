"""What a file says about itself and its pixels say of earlier ones, and whether a picture could have produced it.

And what there is on this machine to restore with.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unjpeg.errors import BadImageError, TooLargeError
from unjpeg.history import History, Verdict, read_history
from unjpeg.jpeg import DEFAULT_LIMITS, JpegImage, Limits, is_jpeg
from unjpeg.layers import EarlierJpeg, describe_history
from unjpeg.machine import allowed_cores, name_processor
from unjpeg.modelfile import ModelFile
from unjpeg.othercodecs import comparable_quality
from unjpeg.output import Pixels
from unjpeg.picture import FileSource, NamedBytes, Picture, Source, read_bytes, read_picture
from unjpeg.precision import Choice, choose_precision
from unjpeg.projection import Consistency, measure_consistency
from unjpeg.restorer import Restored, shared_restorer
from unjpeg.runtimes import Device, Runtime, list_devices

__all__ = ["Inspection", "Machine", "Verification", "inspect", "inspect_machine", "inspect_picture", "verify"]


@dataclass(frozen=True, slots=True)
class Inspection:
    """A picture file's facts. What only a JPEG says is None, or empty, of others.

    Attributes:
        kind: "JPEG", "PNG", ...
        colour_space: "grey", "YCbCr", "RGB", or of CMYK files "CMYK" or "YCCK".
        components: 1, 3 or 4.
        subsampling: "4:2:0" and the like; "grey" for one component.
        tables: the distinct quantisation tables in use, luma first, 8x8 in natural order.
        stated_quality: quality factor of the nearest standard tables.
        table_distance: mean absolute logarithm of the ratio to them; 0 for standard tables.
        read_quality: the quality that the pixels look like to the network, or None if not asked for. Where an earlier
            JPEG shows it is that one's, as ``restore`` reads it.
        looks_compressed_twice: deprecated, of JPEGs: whether ``earlier`` holds something; None if no network was asked.
        history: what happened before this file: "compressed", "clean" or "undecided"; of CMYK, where it is not looked
            at, undecided.
        earlier: the JPEGs that the picture, or parts of it, were before.
        in_words: the same, a sentence each.
        comparable_quality: of a lossy WebP or AVIF: the quality of the JPEGs that lost about as much. The restoration
            goes by this, not by ``read_quality``.
    """

    name: str
    kind: str
    width: int
    height: int
    colour_space: str
    components: int
    subsampling: str | None
    progressive: bool | None
    orientation: int
    tables: tuple[tuple[tuple[int, ...], ...], ...]
    stated_quality: int | None
    table_distance: float | None
    read_quality: int | None
    looks_compressed_twice: bool | None
    history: Verdict
    earlier: tuple[EarlierJpeg, ...]
    in_words: tuple[str, ...]
    has_exif: bool
    has_icc_profile: bool
    has_xmp: bool
    has_photoshop: bool
    has_comment: bool
    comparable_quality: int | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to restore with.

    Attributes:
        processor: its name.
        cores: that this process may keep busy.
        devices: that each installed runtime finds.
        choices: what ``precision="auto"`` is for each model.
    """

    processor: str
    cores: int
    devices: Mapping[Runtime, Sequence[Device]]
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Verification:
    """How a picture fits a file's quantisation cells.

    Attributes:
        consistency: per component; blocks that clip or hang over the edge are counted apart.
        earlier: the JPEGs that the file's picture was before, where the picture is not consistent with the file: what
            ``unjpeg restore`` makes of such a file is held to their cells, and leaves the file's own.
        compressed_again: whether the picture is a lossy file itself, and so cannot be quite what it was made from.
    """

    original: str
    restored: str
    consistency: Consistency
    earlier: tuple[EarlierJpeg, ...] = ()
    compressed_again: bool = False

    @property
    def is_consistent(self) -> bool:
        """Whether the picture could have produced the file, as far as rounding lets one tell.

        False where nothing can be told, too: every block clips or hangs over the edge.
        """
        return self.consistency.is_consistent

    @property
    def contradicts(self) -> bool:
        """Whether the picture cannot have produced the file: then ``unjpeg verify`` ends with exit code 1."""
        return self.consistency.contradicts


def inspect(
    source: Source, *, model: str | os.PathLike[str] | None = "default", limits: Limits = DEFAULT_LIMITS
) -> Inspection:
    """Facts about a picture, above all about a JPEG, and what its pixels say of earlier ones.

    Args:
        source: a path, bytes, a stream, a Pillow image or an array.
        model: reads the quality from the pixels; None leaves that out and loads no network.

    Raises:
        BadImageError: it is no picture, or damaged.
        ModelError: the model is not there.
    """
    picture = read_picture(source, limits=limits)
    history = read_history(picture.pixels, picture.jpeg)
    read = shared_restorer(os.fspath(model)).read_quality(picture, history) if model is not None else None
    return inspect_picture(picture, read, history)


def inspect_machine(models: Sequence[str | os.PathLike[str] | ModelFile], *, measure: bool = False) -> Machine:
    """What there is on this machine to restore with.

    Args:
        models: whose precision is wanted: names, paths or files that have been read.
        measure: measure each model's precisions, also if that was done: up to 4 seconds for each.

    Raises:
        ModelError: a model is not there.
    """
    files = [model if isinstance(model, ModelFile) else ModelFile.read(model) for model in models]
    choices = tuple(choose_precision(file, again=measure) for file in files)
    return Machine(name_processor(), allowed_cores(), list_devices(), choices)


def inspect_picture(picture: Picture, read: int | None, history: History | None = None) -> Inspection:
    """Facts about a picture that is decoded already.

    Args:
        read: the quality that the network read from it, if any.
        history: the picture's, where it has been read already.
    """
    jpeg, metadata = picture.jpeg, picture.metadata
    history = history or read_history(picture.pixels, jpeg)
    height, width = picture.pixels.shape[:2]
    earlier = tuple(map(EarlierJpeg.of, history.regions))
    twice = None if read is None or jpeg is None else bool(earlier)
    return Inspection(
        name=picture.name,
        kind=picture.kind,
        width=width,
        height=height,
        colour_space=jpeg.header.colour_space if jpeg else ("grey" if picture.channels == 1 else "RGB"),
        components=picture.channels,
        subsampling=jpeg.header.subsampling if jpeg else None,
        progressive=jpeg.header.progressive if jpeg else None,
        orientation=metadata.orientation,
        tables=tuple(tuple(tuple(int(n) for n in row) for row in table) for table in jpeg.tables) if jpeg else (),
        stated_quality=jpeg.quality.value if jpeg else None,
        table_distance=jpeg.quality.distance if jpeg else None,
        read_quality=read,
        looks_compressed_twice=twice,
        history=history.verdict,
        earlier=earlier,
        in_words=describe_history(history, is_lossy=picture.is_lossy, size=(height, width)),
        has_exif=metadata.exif is not None,
        has_icc_profile=metadata.icc_profile is not None,
        has_xmp=metadata.xmp is not None,
        has_photoshop=metadata.photoshop is not None,
        has_comment=metadata.comment is not None,
        comparable_quality=picture.comparable_quality,
    )


def verify(
    original: FileSource,
    restored: FileSource | Restored | Image.Image | NDArray[np.uint8] | NDArray[np.uint16],
    *,
    limits: Limits = DEFAULT_LIMITS,
) -> Verification:
    """Check that a picture could have produced a JPEG file.

    Args:
        original: the JPEG, as a path, bytes or a stream.
        restored: the picture: what ``restore`` returned, a Pillow image, an array, or a file of any format as a path,
            bytes or a stream; of 8 or 16 bits. Alpha is left out.

    Raises:
        BadImageError: either cannot be read, or their sizes differ.
        TypeError: either is something else.
    """
    if not _is_file(original):
        raise TypeError(f"cannot check against a {type(original).__name__}: give the JPEG's path, bytes or a stream")
    data, name = read_bytes(original, limits.file_bytes)
    jpeg = JpegImage.decode(data, name, limits)
    compressed_again = False
    if _is_file(restored):
        restored_data, restored_name = read_bytes(restored, limits.file_bytes)  # type: ignore[arg-type]
        compressed_again = is_jpeg(restored_data) or comparable_quality(restored_data) is not None
        restored = NamedBytes(restored_data, restored_name)
    pixels, restored_name = _pixels_of(restored, limits, are_inks=jpeg.header.inks is not None)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise BadImageError(f"{restored_name}: has pixels of type {pixels.dtype}; only 8 and 16 bits can be checked")
    if pixels.ndim == 3 and jpeg.pixels.ndim == 2 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]  # grey, from a format that has no grey (WebP)
    if pixels.shape != jpeg.pixels.shape:
        turned = jpeg.metadata.orientation >= 5 and pixels.shape[:2] == jpeg.pixels.shape[1::-1]
        reason = "it was turned upright, and is compared unturned only" if turned else "not the same picture"
        shapes = f"is {_shape_in_words(pixels)}, but {name} {_shape_in_words(jpeg.pixels)}"
        raise BadImageError(f"{restored_name}: {shapes}: {reason}")
    consistency = measure_consistency(pixels, jpeg.components, jpeg.header.colour_space, jpeg.pixels)
    earlier: tuple[EarlierJpeg, ...] = ()
    if consistency.contradicts:
        earlier = tuple(map(EarlierJpeg.of, read_history(jpeg.pixels, jpeg).regions))
    return Verification(name, restored_name, consistency, earlier, compressed_again)


def _shape_in_words(pixels: Pixels) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]} pixels {'of grey' if pixels.ndim == 2 else 'in colour'}"


def _is_file(source: object) -> bool:
    return isinstance(source, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(source, "read")


def _pixels_of(
    restored: FileSource | Restored | Image.Image | NDArray[np.uint8] | NDArray[np.uint16],
    limits: Limits,
    *,
    are_inks: bool,
) -> tuple[Pixels, str]:
    """Pixels without alpha, and what to call them. Inks if such are wanted, or if nothing else is there."""
    if isinstance(restored, Restored):
        return restored.pixels if restored.is_cmyk else _without_alpha(restored.pixels), "restored"
    if isinstance(restored, np.ndarray):
        return restored if are_inks else _without_alpha(restored), "array"
    if isinstance(restored, Image.Image):
        if restored.mode == "CMYK":
            return np.asarray(restored), "image"
        if restored.mode.startswith("I;16"):
            return np.asarray(restored).astype(np.uint16), "image"
        picture = read_picture(restored, limits=limits)
        return picture.pixels if picture.deep is None else picture.deep, "image"
    if _is_file(restored):
        return _read_at_full_depth(restored, limits)
    kinds = "what restore returned, a path, bytes, a stream, an image or an array"
    raise TypeError(f"cannot check a {type(restored).__name__}: give {kinds}")


def _without_alpha(pixels: Pixels) -> Pixels:
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels = pixels[..., :-1]
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels


def _read_at_full_depth(source: FileSource, limits: Limits) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], str]:
    """Pixels without alpha, ``(H, W)``, ``(H, W, 3)`` or (CMYK) ``(H, W, 4)``; Pillow would cut 16 bits down to 8."""
    data, name = read_bytes(source, limits.file_bytes)
    if not data:
        raise BadImageError(f"{name}: is empty, and not a picture")
    import pyvips  # takes a quarter of a second, and only verify reads through it

    logging.getLogger("pyvips").addHandler(logging.NullHandler())  # its complaints are raised, too
    pyvips.block_untrusted_set(True)  # loaders that their authors do not trust with strangers' files
    try:
        image = pyvips.Image.new_from_buffer(data, "", fail_on="truncated")
        if image.width * image.height > limits.pixels:
            raise TooLargeError(
                f"{name}: has {image.width}x{image.height} pixels, more than the limit of {limits.pixels:,}"
            )
        if image.interpretation not in ("srgb", "rgb", "rgb16", "b-w", "grey16", "cmyk"):
            raise BadImageError(f"{name}: is not grey, RGB or CMYK ({image.interpretation}); it cannot be checked")
        if image.get_n_pages() > 1:
            raise BadImageError(f"{name}: is an animation or has several pages; give one picture")
        bands = image.bands - image.hasalpha()
        pixels: NDArray[np.uint8] | NDArray[np.uint16] = image.numpy()
    except pyvips.Error as error:
        reason = str(error).strip().splitlines()[-1].strip() if str(error).strip() else "unknown format"
        if "known format" in reason:
            raise BadImageError(f"{name}: is not a picture that can be read; give the restored PNG, say") from error
        raise BadImageError(f"{name}: is not a picture that can be read ({reason})") from error
    if pixels.ndim == 3:
        pixels = pixels[..., 0] if bands == 1 else pixels[..., :bands]
    return pixels, name
