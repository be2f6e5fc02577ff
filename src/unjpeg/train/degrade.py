"""On-the-fly degradation with the real codec: libjpeg-turbo through Pillow, as people's files are made."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unjpeg.othercodecs import comparable_quality
from unjpeg.tables import STATED_FEATURES, QualityEstimate, standard_table, stated_features
from unjpeg.train.quantisation import STYLES, Tables

__all__ = ["Degraded", "Encoding", "JpegDegradation", "Pixels8", "compress_jpeg", "encode_as", "standard_stated"]

Pixels8 = NDArray[np.uint8]

SAMPLINGS: Final = {"4:2:0": 0.5, "4:4:4": 0.35, "4:2:2": 0.15}
CHROMA_SCALES: Final = {"4:2:0": (2, 2), "4:4:4": (1, 1), "4:2:2": (1, 2)}
STYLE_SHARES: Final = {"standard": 0.4, "camera": 0.2, "mozjpeg": 0.2, "jpegli": 0.2}
GREY_SHARE: Final = 0.1
HISTORIES: Final = {"once": 0.6, "aligned": 0.14, "shifted": 0.14, "resized": 0.12}
"""What files in the wild are like. A guess: nobody has counted them for us."""

OTHER_CODECS: Final = {"WEBP": 0.7, "AVIF": 0.3}
"""Pillow's names of the codecs that pictures on the web have beside JPEG, and how often each is drawn. A guess, too."""

BEST_OF_OTHERS: Final = 95
"""Quality of these at most, as Pillow counts it: above, they lose next to nothing, or nothing at all."""

_AVIF_SPEED: Final = 8

_LARGEST_BLOCK: Final = 64
"""Side in pixels of what these codecs transform at once, at most: a cut may lie anywhere in it."""

MOST_SHRINKING: Final = 2.5
"""By which the picture is made smaller, at most, between two compressions."""

_GRID: Final = 16
"""Period in pixels of what an encoder does at 4:2:0: where an earlier one's grid can lie."""


def compress_jpeg(pixels: Pixels8, quality: int, subsampling: str = "4:2:0") -> Pixels8:
    """Encode and decode once.

    Args:
        pixels: ``(H, W, 3)`` RGB or ``(H, W)`` grey.
        quality: libjpeg's quality factor, 1..100.
        subsampling: chroma subsampling, "4:4:4", "4:2:2" or "4:2:0".

    Returns:
        The decoded pixels, shaped as the input.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(buffer))


def encode_as(codec: str, pixels: Pixels8, quality: int) -> bytes:
    """A lossy WebP or AVIF file.

    Args:
        codec: Pillow's name of it, "WEBP" or "AVIF".
        pixels: ``(H, W, 3)`` RGB.
        quality: as Pillow counts it, 0..100.
    """
    buffer, options = io.BytesIO(), {"speed": _AVIF_SPEED} if codec == "AVIF" else {}
    Image.fromarray(pixels).save(buffer, codec, quality=quality, **options)
    return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class Encoding:
    """How one file is encoded.

    Attributes:
        tables: quantisation tables of luma and chroma, ``(8, 8)`` each, natural order.
        sampling: of chroma, "4:4:4", "4:2:2" or "4:2:0", or "grey".
    """

    tables: Tables
    sampling: str

    @classmethod
    def draw(cls, quality: int, rng: np.random.Generator, *, grey: bool) -> Encoding:
        """A style of tables at a quality, and a sampling."""
        sampling = "grey" if grey else _draw(SAMPLINGS, rng)
        style = STYLES[_draw(STYLE_SHARES, rng)]
        return cls(style(quality, sampling, rng), sampling)

    @property
    def quality(self) -> int:
        """The quality factor whose standard tables are nearest, as ``JpegImage.quality`` would say."""
        luma, chroma = self.tables
        return QualityEstimate.of_tables(luma, None if self.sampling == "grey" else chroma).value

    @property
    def stated(self) -> NDArray[np.float32]:
        """What the file states of itself: see ``stated_features``."""
        luma, chroma = self.tables
        if self.sampling == "grey":
            return stated_features(luma, None)
        return stated_features(luma, chroma, CHROMA_SCALES[self.sampling])

    @property
    def halves_chroma(self) -> bool:
        """Whether its chroma is at half the resolution, at least across."""
        return self.sampling in ("4:2:0", "4:2:2")

    def encode(self, pixels: Pixels8) -> bytes:
        """The file. Shape: ``(H, W, 3)``."""
        buffer, image = io.BytesIO(), Image.fromarray(pixels)
        luma, chroma = (table.ravel().tolist() for table in self.tables)
        if self.sampling == "grey":
            image.convert("L").save(buffer, "JPEG", qtables=[luma])
        else:
            image.save(buffer, "JPEG", qtables=[luma, chroma], subsampling=self.sampling)
        return buffer.getvalue()

    def apply(self, pixels: Pixels8) -> Pixels8:
        """Encode and decode. Shape: ``(H, W, 3)`` to the same; of a grey file all channels are its luma."""
        decoded = Image.open(io.BytesIO(self.encode(pixels)))
        return _in_three_channels(decoded) if self.sampling == "grey" else np.asarray(decoded)


@lru_cache(maxsize=100)
def standard_stated(quality: int) -> NDArray[np.float32]:
    """What a file of ``compress_jpeg`` states at 4:2:0. Shared: not to be written to."""
    return Encoding((standard_table(quality), standard_table(quality, chroma=True)), "4:2:0").stated


class Degraded(NamedTuple):
    """A training pair.

    Attributes:
        compressed: ``(H, W, 3)``.
        original: what it was made from: the given pixels, unless they were made grey or resized on the way.
        quality: the quality factor; of other tables the nearest; of two compressions the lower one, which did more
            harm and which the second does not undo.
        like_picture: whether the guidance of its whole picture, compressed once by libjpeg to that quality at 4:2:0,
            comes nearer to the guidance of the same file than a patch's own does. docs/research/training-log.md.
        stated: what the file states of itself: see ``stated_features``.
    """

    compressed: Pixels8
    original: Pixels8
    quality: int
    like_picture: bool
    stated: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class JpegDegradation:
    """One JPEG compression with a random quality factor (section IV-A2), or what files in the wild have seen.

    Attributes:
        min_quality, max_quality: the range, both ends included.
        skew: 1 draws uniformly, as published; above, low qualities more often: the place in the range is ``r ** skew``
            for a uniform ``r``.
        real_life: the share of pairs that are degraded as files in the wild are: any chroma sampling, grey, tables of
            other encoders, compressed once or twice, then on the same grid, on a shifted one, or with the picture made
            smaller in between. The other pairs are 4:2:0 with libjpeg's tables.
        look_back: of these, the share that comes as a restorer that has read the picture's history shows it. Compressed
            twice, the second time less: on the first grid, told the first tables, with the second's noise on top,
            wherever its grid lies. Made smaller: as a picture that no file tells of.
        other_codecs: the share of all pairs that are no JPEGs but WebPs and AVIFs, stated as a restorer does it: as
            JPEGs of the quality that loses as much (``othercodecs``). Guidance of whole pictures is that quality's,
            too, close to what a restorer makes of it.
    """

    min_quality: int = 10
    max_quality: int = 95
    skew: float = 1.0
    real_life: float = 0.0
    look_back: float = 0.0
    other_codecs: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.min_quality <= self.max_quality <= 100:
            raise ValueError(f"quality range must lie in 1..100, got {self.min_quality}..{self.max_quality}")
        if not 0 < self.skew < float("inf"):
            raise ValueError(f"skew must be a positive number, got {self.skew}")
        for name in ("real_life", "look_back", "other_codecs"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share, 0 to 1, got {getattr(self, name)}")

    def apply(self, pixels: Pixels8, rng: np.random.Generator) -> Degraded:
        """A pure function of the pixels, ``(H, W, 3)``, and the random numbers."""
        # What is off draws no number: samples stay those of earlier trainings.
        if self.other_codecs and rng.random() < self.other_codecs:
            return self._in_other_codec(pixels, rng)
        if self.real_life and rng.random() < self.real_life:
            return self._from_real_life(pixels, rng)
        quality = self._draw_quality(rng)
        return Degraded(compress_jpeg(pixels, quality), pixels, quality, True, standard_stated(quality))

    def _draw_quality(self, rng: np.random.Generator) -> int:
        place = float(rng.random() ** self.skew)
        return self.min_quality + int((self.max_quality + 1 - self.min_quality) * place)

    def _in_other_codec(self, pixels: Pixels8, rng: np.random.Generator) -> Degraded:
        codec, quality = _draw(OTHER_CODECS, rng), min(self._draw_quality(rng), BEST_OF_OTHERS)
        down, right = (int(n) for n in rng.integers(_LARGEST_BLOCK, size=2))
        file = encode_as(codec, _grow_before(pixels, down, right), quality)
        compressed = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))[down:, right:]
        told = comparable_quality(file)
        assert told is not None, f"{codec} of quality {quality} is lossy"
        return Degraded(compressed, pixels, told, True, standard_stated(told))

    def _from_real_life(self, pixels: Pixels8, rng: np.random.Generator) -> Degraded:
        grey = rng.random() < GREY_SHARE
        if grey:
            pixels = _in_three_channels(Image.fromarray(pixels).convert("L"))
        history = _draw(HISTORIES, rng)
        last = Encoding.draw(self._draw_quality(rng), rng, grey=grey)
        if history == "once":
            return Degraded(last.apply(pixels), pixels, last.quality, last.halves_chroma, last.stated)
        first = Encoding.draw(self._draw_quality(rng), rng, grey=grey)
        # Drawn only where it is asked for: samples stay those of earlier trainings.
        if self.look_back and rng.random() < self.look_back:
            if history == "resized":
                before, pixels = _compressed_larger(pixels, first, rng)
                return Degraded(before, pixels, first.quality, False, np.zeros(STATED_FEATURES, np.float32))
            if first.quality < last.quality:
                place = int(rng.integers(1, _GRID**2)) if history == "shifted" else 0
                after = _compressed_on_grid(first.apply(pixels), last, *divmod(place, _GRID))
                return Degraded(after, pixels, first.quality, False, first.stated)
        if history == "resized":
            before, pixels = _compressed_larger(pixels, first, rng)
        else:
            place = int(rng.integers(1, _GRID**2)) if history == "shifted" else 0
            before = _compressed_on_grid(pixels, first, *divmod(place, _GRID))
        like_picture = history == "aligned" and first.halves_chroma and last.halves_chroma
        return Degraded(last.apply(before), pixels, min(first.quality, last.quality), like_picture, last.stated)


def _compressed_on_grid(pixels: Pixels8, encoding: Encoding, down: int, right: int) -> Pixels8:
    """Compressed as if so many rows and columns had been cut off since; those are mirrored."""
    return encoding.apply(_grow_before(pixels, down, right))[down:, right:]


def _grow_before(pixels: Pixels8, down: int, right: int) -> Pixels8:
    """So many rows and columns more before the first ones, mirrored."""
    return np.pad(pixels, ((down, 0), (right, 0), (0, 0)), mode="symmetric")


def _compressed_larger(pixels: Pixels8, encoding: Encoding, rng: np.random.Generator) -> tuple[Pixels8, Pixels8]:
    """Compressed as a larger picture and made smaller since; and what it would be, had it not been compressed."""
    factor = rng.uniform(1.1, MOST_SHRINKING)
    size = pixels.shape[1::-1]
    larger = Image.fromarray(pixels).resize(
        (round(size[0] * factor), round(size[1] * factor)), Image.Resampling.BICUBIC
    )
    filters = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
    kind = filters[int(rng.integers(len(filters)))]
    compressed = Image.fromarray(encoding.apply(np.asarray(larger)))
    return np.asarray(compressed.resize(size, kind)), np.asarray(larger.resize(size, kind))


def _in_three_channels(image: Image.Image) -> Pixels8:
    """A grey picture ``(H, W)`` as ``(H, W, 3)``."""
    return np.repeat(np.asarray(image)[..., None], 3, axis=2)


def _draw(shares: dict[str, float], rng: np.random.Generator) -> str:
    """A name by its share; the shares add up to 1."""
    place = int(np.searchsorted(np.cumsum(list(shares.values())), rng.random(), side="right"))
    return list(shares)[min(place, len(shares) - 1)]  # rounding can leave the last sum a little below 1
