"""What is measured: compressed files beside their originals, made by a real encoder or given.

A degradation has a name that says all of it::

    jpeg-10                         libjpeg at quality 10, 4:2:0
    jpeg-10-4:4:4                   another chroma sampling
    mozjpeg-30                      trellis search, which moves coefficients out of the original's cells
    webp-20, avif-30                other codecs
    jpeg-90-after-30                a JPEG of quality 30, decoded and compressed again
    jpeg-90-after-30-shift-3-5      the same with 3 rows and 5 columns cut off between: two grids that do not agree
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from unjpeg.datasets import DATA_SETS, data_set, image_files, resolved
from unjpeg.errors import BadImageError, MeasurementError, SettingError
from unjpeg.picture import bits_per_sample

__all__ = [
    "Degradation",
    "EncoderName",
    "FilePair",
    "Pixels8",
    "Subject",
    "TestSet",
    "decode",
    "encode_jpeg",
    "load_image",
    "load_images",
]

Pixels8 = NDArray[np.uint8]

EncoderName = Literal["libjpeg", "mozjpeg"]

_GRAMMAR = re.compile(
    r"(?P<codec>jpeg|mozjpeg|webp|avif)-(?P<quality>\d{1,3})(?:-(?P<sampling>4:4:4|4:2:2|4:2:0))?"
    r"(?:-after-(?P<first_quality>\d{1,3})(?:-shift-(?P<down>\d)-(?P<right>\d))?)?"
)


@dataclass(frozen=True, slots=True)
class FilePair:
    """One file to restore, and what it was made from.

    Attributes:
        file: its bytes.
        original: ``(H, W)`` or ``(H, W, 3)``, what the result is compared with.
    """

    file: bytes
    original: Pixels8


@dataclass(frozen=True, slots=True)
class Degradation:
    """How an original becomes the file that is restored.

    Attributes:
        codec: "jpeg", "mozjpeg", "webp" or "avif".
        quality: of its encoder, 1..100.
        sampling: of JPEG's chroma: "4:4:4", "4:2:2" or "4:2:0".
        first_quality: of an earlier compression by libjpeg, or None.
        shift: rows and columns cut off after the earlier compression, 0..7.
    """

    codec: str
    quality: int
    sampling: str = "4:2:0"
    first_quality: int | None = None
    shift: tuple[int, int] = (0, 0)

    @classmethod
    def parse(cls, name: str) -> Degradation:
        """Read a name as described above. Raises SettingError."""
        found = _GRAMMAR.fullmatch(name)
        if found is None:
            raise SettingError(f"no degradation {name!r}; write jpeg-10, jpeg-10-4:4:4, webp-20 or jpeg-90-after-30")
        first = found["first_quality"]
        qualities = [int(found["quality"]), *([int(first)] if first else [])]
        if not all(1 <= quality <= 100 for quality in qualities):
            raise SettingError(f"{name}: qualities must lie in 1..100")
        codec, sampling = found["codec"], found["sampling"]
        if sampling and codec not in ("jpeg", "mozjpeg"):
            raise SettingError(f"{name}: only JPEG's chroma sampling can be chosen")
        if codec == "mozjpeg" and sampling == "4:2:2":
            raise SettingError(f"{name}: mozjpeg writes 4:2:0 or 4:4:4 here")
        shift = int(found["down"] or 0), int(found["right"] or 0)
        return cls(codec, qualities[0], sampling or "4:2:0", qualities[1] if first else None, shift)

    @property
    def name(self) -> str:
        """What ``parse`` reads back."""
        return self.family.replace(self.codec, f"{self.codec}-{self.quality}", 1)

    @property
    def family(self) -> str:
        """What it has in common with others that differ in their quality alone: codec, sampling, history."""
        parts = [self.codec]
        if self.sampling != "4:2:0":
            parts.append(self.sampling)
        if self.first_quality is not None:
            parts.append(f"after-{self.first_quality}")
        if self.shift != (0, 0):
            parts.append(f"shift-{self.shift[0]}-{self.shift[1]}")
        return "-".join(parts)

    def apply(self, original: Pixels8) -> FilePair:
        """The file and what it is compared with: the original, without what was cut off. Raises MeasurementError."""
        pixels = original
        if self.first_quality is not None:
            down, right = self.shift
            original = np.ascontiguousarray(original[down:, right:])
            pixels = np.ascontiguousarray(decode(encode_jpeg(pixels, self.first_quality))[down:, right:])
        return FilePair(self._encode(pixels), original)

    def _encode(self, pixels: Pixels8) -> bytes:
        if self.codec in ("jpeg", "mozjpeg"):
            encoder: EncoderName = "mozjpeg" if self.codec == "mozjpeg" else "libjpeg"
            return encode_jpeg(pixels, self.quality, encoder, self.sampling)
        buffer = io.BytesIO()
        try:
            Image.fromarray(pixels).save(buffer, self.codec, quality=self.quality)
        except (KeyError, OSError) as error:
            raise MeasurementError(f"{self.name}: this build of Pillow writes no {self.codec} ({error})") from error
        return buffer.getvalue()


@dataclass(frozen=True)
class Subject:
    """One picture of a test set.

    Attributes:
        name: its path below the set's folder.
        degradations: the names of its files, in order.
    """

    name: str
    degradations: tuple[str, ...]
    _read: Callable[[], Pixels8]
    _make: Callable[[Pixels8, str], FilePair]

    @cached_property
    def original(self) -> Pixels8:
        """Grey or RGB. Raises BadImageError."""
        return self._read()

    @cached_property
    def checksum(self) -> str:
        """Of the original's pixels, 16 digits. Raises BadImageError."""
        return hashlib.sha256(f"{self.original.shape}".encode() + self.original.tobytes()).hexdigest()[:16]

    def make_pair(self, degradation: str) -> FilePair:
        """One of its files, made or read. Raises BadImageError or MeasurementError."""
        return self._make(self.original, degradation)


@dataclass(frozen=True, slots=True)
class TestSet:
    """Pictures to measure on.

    Attributes:
        name: in tables.
        folder: of the originals.
        given: folder of compressed files, matched to the originals by their names without suffix; None if the
            originals are compressed here.
        asked: what named it, as ``parse`` takes it.
    """

    __test__ = False  # pytest takes the name for its own

    name: str
    folder: Path
    given: Path | None = None
    asked: str | None = None

    @classmethod
    def parse(cls, text: str) -> TestSet:
        """A data set's name, a folder of originals, or ``COMPRESSED=ORIGINALS``; folders go by their own name.

        Raises:
            SettingError: there is no such folder, nor a data set of that name.
            TrainingDataError: the data set is not whole.
        """
        compressed, separator, originals = text.partition("=")
        folder = resolved(originals if separator else text)
        if not folder.is_dir():
            known = ", ".join(DATA_SETS)
            raise SettingError(f"{originals or text}: neither a folder nor one of the data sets {known}")
        if not separator:
            return cls(folder.resolve().name if Path(text).is_dir() else data_set(text).name, folder, asked=text)
        if not Path(compressed).is_dir():
            raise SettingError(f"{compressed}: no such folder of compressed pictures")
        return cls(Path(compressed).resolve().name, folder, Path(compressed), text)

    @classmethod
    def parse_all(cls, texts: Sequence[str]) -> list[TestSet]:
        """As ``parse``; folders of one name go by as much of their path as tells them apart.

        Raises SettingError also if one is named twice.
        """
        sets = [cls.parse(text) for text in texts]
        paths = [(s.given or s.folder).resolve().parts for s in sets]
        if len(set(paths)) < len(paths):
            twice = next(text for text, path in zip(texts, paths, strict=True) if paths.count(path) > 1)
            raise SettingError(f"{twice}: named twice; once is enough")
        names = [s.name for s in sets]
        out = []
        for test_set, path in zip(sets, paths, strict=True):
            alike = [p for name, p in zip(names, paths, strict=True) if name == test_set.name]
            depth = next(n for n in range(1, len(path) + 1) if [p[-n:] for p in alike].count(path[-n:]) == 1)
            out.append(test_set if len(alike) == 1 else replace(test_set, name=Path(*path[-depth:]).as_posix()))
        return out

    def list_subjects(self, degradations: Sequence[Degradation], limit: int | None = None) -> Iterator[Subject]:
        """Its pictures by name. Raises TrainingDataError if there are none."""
        if self.given is None:
            made = {degradation.name: degradation for degradation in degradations}

            def apply(original: Pixels8, name: str) -> FilePair:
                return made[name].apply(original)

            for file in islice(image_files(self.folder), limit):
                name = file.relative_to(self.folder).as_posix()
                yield Subject(name, tuple(made), partial(load_image, file), apply)
            return
        originals = {file.stem: file for file in image_files(self.folder)}
        for file in islice(image_files(self.given), limit):
            original = originals.get(file.stem, self.folder / file.name)
            name = file.relative_to(self.given).as_posix()
            yield Subject(name, ("given",), partial(load_image, original), partial(_read_pair, file))


def load_images(folder: Path) -> Iterator[tuple[str, Pixels8]]:
    """Names and pixels (grey or RGB) of a test set, sorted by name.

    Raises:
        TrainingDataError: there is none.
        BadImageError: one cannot be read; the message names it.
    """
    for file in image_files(folder):
        yield file.name, load_image(file)


def encode_jpeg(pixels: Pixels8, quality: int, encoder: EncoderName = "libjpeg", sampling: str = "4:2:0") -> bytes:
    """A JPEG file, standard tables.

    Args:
        encoder: "libjpeg", which the published tables' JPEG row comes from, or "mozjpeg", whose trellis search moves
            coefficients out of the original's cells to save bytes.
        sampling: of the chroma; mozjpeg knows "4:2:0" and "4:4:4".
    """
    if encoder == "mozjpeg":
        import pyvips  # its wheels bring mozjpeg

        image = pyvips.Image.new_from_array(pixels)
        mode = "on" if sampling == "4:2:0" else "off"
        file: bytes = image.jpegsave_buffer(
            Q=quality, subsample_mode=mode, trellis_quant=True, overshoot_deringing=True
        )
        return file
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=sampling)
    return buffer.getvalue()


def decode(file: bytes) -> Pixels8:
    """A file's pixels by Pillow, grey or RGB. Raises BadImageError, also for pixels of more than 8 bits per sample."""
    try:
        with Image.open(io.BytesIO(file)) as image:
            return _convert(image)
    except UnidentifiedImageError as error:  # its own words hold an address in memory, another one every time
        raise BadImageError("is no picture") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadImageError(f"cannot be decoded ({error})") from error


def _convert(image: Image.Image) -> Pixels8:
    # Pillow would make white of whatever lies above 255, and cut 16-bit colour down without a word.
    if bits_per_sample(image) == 16 or image.mode.startswith(("I", "F")):
        raise BadImageError("has more than 8 bits per sample; convert it to 8 bits first")
    return np.asarray(image if image.mode == "L" else image.convert("RGB"))


def _read_pair(file: Path, original: Pixels8, _degradation: str) -> FilePair:
    return FilePair(_read_bytes(file), original)


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadImageError(f"{file}: cannot be read ({error.strerror or error})") from error


def load_image(file: Path) -> Pixels8:
    """A picture's pixels, grey or RGB. Raises BadImageError, which names the file."""
    try:
        return decode(_read_bytes(file))
    except BadImageError as error:
        raise BadImageError(f"{file}: {error}") from error
