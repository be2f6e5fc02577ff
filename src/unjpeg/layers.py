"""On which grid each part of a picture is restored.

A picture is restored in *layers*, each as a picture of its own: on the grid, told the tables and held to the cells of
what compressed it. Most have one layer: the file. A screenshot of two photographs has two, and a JPEG that holds
an older JPEG has one on the older one's grid. What no layer covers stays as decoded, bit for bit.

::

    picture ─▶ read_history ─▶ lay_out ─▶ layers ─▶ each restored, strip by strip ─▶ merge_strips ─▶ rows
                history.py      recovery.py
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from unjpeg.dct import BLOCK
from unjpeg.history import Earlier, History, Region, read_history
from unjpeg.inks import InkCoding, InkGroup, group_inks
from unjpeg.jpeg import Compression
from unjpeg.output import Pixels
from unjpeg.picture import Picture
from unjpeg.recovery import recover

__all__ = ["EarlierJpeg", "Layer", "Layout", "describe_history", "lay_out", "merge_strips", "name_sampling"]

Depth = TypeVar("Depth", np.uint8, np.uint16)

ENOUGH_FITS = 0.95
"""Share of a JPEG's blocks that follow the older comb, from which on all are restored on the older grid: the rest is
noise of the reading, not another picture."""

CAREFUL_CHANGE = 1.4
"""Levels. What was never compressed, and is not told so, then stays within 45 dB of itself."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A rectangle of the picture that is restored as a picture of its own.

    Attributes:
        pixels: ``(H, W)`` or ``(H, W, 3)``, uint8. It starts on the grid of what compressed it.
        top, left: where its first row and column lie in the picture: negative where the edge was repeated before it.
        compression: what compressed it; None is blind.
        fits_VU: which of its 8x8 blocks are restored; None: all.
        deep: the pixels at full depth, where there is more than 8 bits; see ``Picture.deep``.
        is_neutral: whether it has three channels and no colour, and is to have none.
        seen_quality: the quality that the network is to see in it, where a later compression hides it or another codec
            leaves other traces; None: what it reads from the pixels.
        inks: which channels of a CMYK picture it is, as the file codes them; None: all channels of another one.
        most_change: levels by which a sample may be changed; None: any.
    """

    pixels: NDArray[np.uint8]
    compression: Compression | None
    top: int = 0
    left: int = 0
    fits_VU: NDArray[np.bool_] | None = None
    deep: NDArray[np.uint16] | None = None
    is_neutral: bool = False
    seen_quality: int | None = None
    inks: InkGroup | None = None
    most_change: float | None = None


@dataclass(frozen=True, slots=True)
class EarlierJpeg:
    """A JPEG that a picture, or a part of it, was before its last file.

    Attributes:
        top, left, height, width: of the part, in pixels of the picture.
        grid_top, grid_left: rows and columns of the picture before the first whole block, 0..15.
        quality: of the nearest standard tables, 1..100.
        is_standard: whether they are libjpeg's tables of that quality, as far as is known.
        sampling: "grey", "4:4:4", "4:2:2", "4:2:0", ...
        is_turned: whether the picture was turned or mirrored afterwards.
        is_proven: whether its coefficients, decoded again, give the pixels.
        luma_table: quantisation steps, natural order; 0 where the pixels do not tell.
    """

    top: int
    left: int
    height: int
    width: int
    grid_top: int
    grid_left: int
    quality: int
    is_standard: bool
    sampling: str
    is_turned: bool
    is_proven: bool
    luma_table: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, region: Region) -> EarlierJpeg:
        """What is told of a region of the history."""
        earlier = region.earlier
        return cls(
            top=region.top,
            left=region.left,
            height=region.height,
            width=region.width,
            grid_top=earlier.top,
            grid_left=earlier.left,
            quality=earlier.quality,
            is_standard=earlier.is_standard,
            sampling=name_sampling(earlier),
            is_turned=earlier.is_transposed,
            is_proven=earlier.is_proven,
            luma_table=tuple(
                tuple(int(step) for step in row) for row in np.where(earlier.known_88, earlier.luma_88, 0)
            ),
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """What a picture is restored as.

    Attributes:
        layers: from the lowest up. None at all: the picture stays as decoded.
        history: what happened before the last file; None where it was not asked.
    """

    layers: tuple[Layer, ...]
    history: History | None = None

    @property
    def earlier(self) -> tuple[EarlierJpeg, ...]:
        """The earlier JPEGs, largest first."""
        return tuple(map(EarlierJpeg.of, self.history.regions)) if self.history else ()


def lay_out(
    picture: Picture, *, look_back: bool = True, insist: bool = False, history: History | None = None
) -> Layout:
    """Decide what is restored on which grid.

    Args:
        look_back: read the picture's history; else its file alone counts.
        insist: restore also what was never compressed.
        history: the picture's, where it has been read already.
    """
    if picture.inks is not None:
        return Layout(tuple(_ink_layers(picture, picture.inks)))
    pixels = picture.pixels[: picture.sound_rows]
    whole = Layer(
        pixels,
        picture.jpeg.compression if picture.jpeg else None,
        deep=picture.deep,
        is_neutral=picture.is_neutral,
        seen_quality=picture.comparable_quality,
    )
    if not look_back or picture.sound_rows is not None:
        return Layout((whole,))
    history = history or read_history(pixels, picture.jpeg)
    if not history.regions:
        if picture.is_lossy or insist:
            return Layout((whole,), history)
        if history.may_be_clean:
            whole = replace(whole, most_change=CAREFUL_CHANGE)
        return Layout(() if history.verdict == "clean" else (whole,), history)
    layers = [_layer_of(picture, region) for region in history.regions]
    # Beside older JPEGs, a JPEG has its own cells to be restored in; of other files the rest was never compressed.
    covered = history.covers_all and all(layer.fits_VU is None for layer in layers)
    if picture.jpeg is not None and not covered:
        layers.insert(0, whole)
    return Layout(tuple(layers), history)


def _ink_layers(picture: Picture, coding: InkCoding) -> Iterator[Layer]:
    """One for each plane, or for the three that are coded as colour, the busiest plane first.

    Inks that are the same everywhere, mostly none at all, are left out: there is nothing to restore.
    """
    inks = picture.pixels[: picture.sound_rows]
    groups = [(group, group.take(inks)) for group in group_inks(coding)]
    if coding == "CMYK":
        groups.sort(key=lambda pair: -float(np.var(pair[1], dtype=np.float32)))
    for number, (group, pixels) in enumerate(groups):
        if number == 0 or pixels.min() != pixels.max():
            yield Layer(pixels, picture.jpeg.compression_of(group) if picture.jpeg else None, inks=group)


def _layer_of(picture: Picture, region: Region) -> Layer:
    recovered = recover(picture.pixels, region, picture.jpeg)
    pad = (recovered.pad_top, recovered.pad_left)
    earlier, fits = region.earlier, recovered.fits_VU
    enough = ENOUGH_FITS if picture.jpeg is not None else 1.0
    return Layer(
        _cut_out(picture.pixels, region, pad),
        Compression(
            recovered.components,
            "grey" if earlier.chroma_88 is None else "YCbCr",
            earlier.quality,
            recovered.stated,
        ),
        region.top - recovered.pad_top,
        region.left - recovered.pad_left,
        None if fits.mean() >= enough else fits,
        None if picture.deep is None else _cut_out(picture.deep, region, pad),
        picture.is_neutral,
        earlier.quality if picture.jpeg is not None and not earlier.is_same_grid else None,
    )


def _cut_out(pixels: NDArray[Depth], region: Region, pad: tuple[int, int]) -> NDArray[Depth]:
    """A region, its edge repeated so many rows and columns before it."""
    part = pixels[region.top : region.top + region.height, region.left : region.left + region.width]
    before = [(count, 0) for count in pad] + [(0, 0)] * (part.ndim - 2)
    return np.pad(part, before, mode="edge") if any(pad) else np.ascontiguousarray(part)


def merge_strips(
    decoded: Pixels, layers: Sequence[tuple[Layer, Iterator[Pixels]]], rows: int, bit_depth: int
) -> Iterator[Pixels]:
    """The picture's rows from top to bottom, every layer's finished pixels over what lies below it.

    Args:
        decoded: the picture, ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)``, uint8 or uint16.
        layers: each with its pixels, strips of consecutive rows at that bit depth.
        rows: of a strip, at most.
        bit_depth: 8 or 16.
    """
    readers = [(layer, _Reader(strips)) for layer, strips in layers]
    height, width = decoded.shape[:2]
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip: Pixels = decoded[top:bottom].copy()
        if bit_depth == 16 and strip.dtype == np.uint8:
            strip = strip.astype(np.uint16) * np.uint16(257)
        for layer, reader in readers:
            end = layer.top + layer.pixels.shape[0]
            first, last = max(top, layer.top), min(bottom, end)
            if first >= last:
                continue
            reader.skip_to(first - layer.top)
            taken = reader.take(last - first)
            left, right = max(0, layer.left), min(width, layer.left + layer.pixels.shape[1])
            taken = taken[:, left - layer.left : right - layer.left]
            place = strip[first - top : last - top, left:right]
            if layer.inks is not None:
                place = place[..., layer.inks.channels]
                taken = ~taken if layer.inks.is_inverted else taken
            if layer.fits_VU is None:
                place[...] = taken
            else:
                fits = _fitting_pixels(layer.fits_VU, first - layer.top, last - layer.top)
                np.copyto(place, taken, where=_spread(fits[:, left - layer.left : right - layer.left], place.ndim))
        yield strip


class _Reader:
    """Takes any number of rows from strips of any height."""

    def __init__(self, strips: Iterator[Pixels]) -> None:
        self._strips = strips
        self._held: list[Pixels] = []
        self._position = 0

    def skip_to(self, row: int) -> None:
        if row > self._position:
            self.take(row - self._position)

    def take(self, count: int) -> Pixels:
        while sum(map(len, self._held)) < count:
            self._held.append(next(self._strips))
        joined: Pixels = self._held[0] if len(self._held) == 1 else np.concatenate(self._held)  # type: ignore[assignment]
        self._held = [joined[count:]] if len(joined) > count else []
        self._position += count
        return joined[:count]


def _fitting_pixels(fits_VU: NDArray[np.bool_], top: int, bottom: int) -> NDArray[np.bool_]:
    blocks = fits_VU[top // BLOCK : -(-bottom // BLOCK)]
    pixels = blocks.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)
    offset = top % BLOCK
    return pixels[offset : offset + bottom - top]


def _spread(mask_HW: NDArray[np.bool_], dimensions: int) -> NDArray[np.bool_]:
    return mask_HW if dimensions == 2 else mask_HW[..., None]


# In words


def name_sampling(earlier: Earlier) -> str:
    """The usual name of an earlier JPEG's chroma sampling."""
    if earlier.chroma_88 is None:
        return "grey"
    names = {(1, 1): "4:4:4", (1, 2): "4:2:2", (2, 2): "4:2:0", (2, 1): "4:4:0", (1, 4): "4:1:1"}
    return names.get(earlier.chroma_scale, "{1}x{0}".format(*earlier.chroma_scale))


def describe_history(history: History, *, is_lossy: bool, size: tuple[int, int]) -> tuple[str, ...]:
    """What happened before the last file, a sentence each; none where nothing is known.

    Args:
        is_lossy: whether the last file is compressed with loss itself.
        size: (height, width) of the picture.
    """
    if history.verdict == "clean":
        return () if is_lossy else ("never compressed, as far as the pixels show",)
    return tuple(_describe_region(region, size) for region in history.regions)


def _describe_region(region: Region, size: tuple[int, int]) -> str:
    earlier = region.earlier
    tables = f"of quality {earlier.quality}" if earlier.is_standard else f"with tables like quality {earlier.quality}"
    words = f"a JPEG {tables}, {name_sampling(earlier)}"
    if region.height * region.width < 0.98 * size[0] * size[1]:
        place = f"{region.width}x{region.height} pixels at column {region.left}, row {region.top}"
        words = f"{place}: {words}"
    if earlier.top or earlier.left:
        rows = "1 row" if earlier.top == 1 else f"{earlier.top} rows"
        columns = "1 column" if earlier.left == 1 else f"{earlier.left} columns"
        words += f"; its grid starts {rows} and {columns} in, so it was cropped, pasted or mirrored"
    if earlier.is_transposed:
        words += "; it was turned afterwards"
    return words
