"""The pictures that the papers train and measure on: what belongs to each set, where it lies, what is missing.

A set is described by a manifest, plain data in ``manifests/NAME.json``:

- ``title``, ``obtain`` and ``terms``: what it is, where it comes from, and under what terms.
- ``folder``: where it lies below the data folder (``$UNJPEG_DATA``); files are looked for at any depth.
- ``count``: of pictures. ``stems``: a pattern, the first and the last number of their names without suffix, if known.
- ``checksums``: by name without suffix, the first 16 hexadecimal digits of a SHA-256, of the file's bytes or of its
  shape and pixels (``checksum_of``: a lossless picture may be stored in any format).

Wherever unjpeg takes a folder of pictures it takes a set's name, too; any other folder works as well.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from unjpeg.errors import SettingError, TrainingDataError

__all__ = [
    "DATA_SETS",
    "IMAGE_SUFFIXES",
    "DataSet",
    "ImageFolder",
    "data_root",
    "data_set",
    "find_problem",
    "image_files",
    "resolved",
]

DATA_SETS = (
    "div2k",
    "flickr2k",
    "bsds500-train",
    "live1",
    "bsds500",
    "liu4k",
    "classic5",
    "set12",
    "bsd68",
    "kodak",
    "urban100",
)
"""Every set that has a manifest: those to train on first."""

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".avif"})

_UNREADABLE = "unreadable"
"""Stands for the checksum of what does not decode."""

_NAMED = 3
"""How many missing or wrong files a line names."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """One manifest; its fields are described above."""

    name: str
    title: str
    folder: str
    count: int
    obtain: str
    terms: str
    stems: tuple[str, ...] = ()
    checksum_of: Literal["pixels", "bytes"] = "bytes"
    checksums: dict[str, str] = field(default_factory=dict)


def data_root() -> Path:
    """``$UNJPEG_DATA``, or ``../shared/data``."""
    return Path(os.environ.get("UNJPEG_DATA", "../shared/data"))


def data_set(name: str) -> DataSet:
    """A set by its name. Raises SettingError if there is none."""
    if name not in DATA_SETS:
        raise SettingError(f"no data set {name!r}; there are: {', '.join(DATA_SETS)}")
    stored = json.loads((Path(__file__).parent / "manifests" / f"{name}.json").read_text(encoding="utf-8"))
    stems = tuple(stored.get("checksums", ()))
    if "stems" in stored:
        pattern, first, last = stored["stems"]
        stems = tuple(pattern.format(number) for number in range(first, last + 1))
    return DataSet(**{**stored, "name": name, "stems": stems})


def image_files(folder: Path) -> list[Path]:
    """All image files below a folder, sorted by path. Raises TrainingDataError if there is none."""
    if not folder.is_dir():
        raise TrainingDataError(f"{folder}: no such folder of images")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not found:
        raise TrainingDataError(f"{folder}: no images in this folder")
    return found


def find_problem(wanted: DataSet, folder: Path, *, checksums: bool = False) -> str | None:
    """One line that says what a folder lacks of a set, or ``None`` if it is whole.

    Args:
        checksums: also look into every file: compare it where the manifest has its checksum, decode it where not.
    """
    if not folder.is_dir():
        return f"{wanted.name}: no folder {folder}; obtain it: {wanted.obtain}"
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    files = {p.stem: p for p in found}
    missing = [stem for stem in wanted.stems if stem not in files]
    if missing or len(files) < wanted.count:
        names = f" (no {_some(missing)})" if missing else ""
        there = len(wanted.stems) - len(missing) if wanted.stems else len(files)
        return f"{wanted.name}: {folder} holds {there} of {wanted.count} pictures{names}; obtain it: {wanted.obtain}"
    if len(files) > wanted.count:
        others = sorted(files.keys() - set(wanted.stems)) if wanted.stems else []
        names = f", such as {_some(others)}" if others else ""
        return f"{wanted.name}: {folder} holds {len(files)} pictures instead of {wanted.count}{names}; move those out"
    twice = [stem for stem, count in Counter(p.stem for p in found).items() if count > 1]
    if twice:
        return f"{wanted.name}: {folder} holds more than one file of {_some(twice)}; move the others out"
    bad = {"empty files": [stem for stem, file in files.items() if not file.stat().st_size]}
    if checksums:
        compared = wanted.checksums
        bad["not the set's"] = [
            stem for stem in compared if _checksum(files[stem], wanted.checksum_of) != compared[stem]
        ]
        unknown = sorted(files.keys() - compared.keys())
        bad["not decodable"] = [stem for stem in unknown if _checksum(files[stem], "pixels") == _UNREADABLE]
    for what, stems in bad.items():
        if stems:
            return f"{wanted.name}: {len(stems)} of {wanted.count} pictures in {folder} are {what}: {_some(stems)}"
    return None


def resolved(given: str) -> Path:
    """The folder that a command's argument means: a folder as it is, or the place of a set that is whole.

    Raises TrainingDataError, which says what is missing, if the argument names a set that is not.
    """
    folder = Path(given)
    if folder.is_dir() or given not in DATA_SETS:
        return folder
    wanted = data_set(given)
    place = data_root() / wanted.folder
    problem = find_problem(wanted, place)
    if problem:
        raise TrainingDataError(problem)
    return place


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """A folder of images, searched to any depth, and how often it is drawn from relative to the other folders.

    Without a weight a folder counts by its pixels, so that every pixel of all folders is equally likely.
    """

    path: Path
    weight: float | None = None

    def __post_init__(self) -> None:
        if self.weight is not None and not (0 < self.weight < math.inf):
            raise TrainingDataError(f"{self.path}: its weight must be a positive number, got {self.weight}")

    @classmethod
    def parse(cls, text: str) -> ImageFolder:
        """From ``DIR`` or ``DIR=WEIGHT``, as on the command line; ``DIR`` may be a data set's name."""
        path, separator, weight = text.rpartition("=")
        if not separator:
            return cls(resolved(text))
        try:
            number = float(weight)
        except ValueError:
            return cls(resolved(text))
        return cls(resolved(path), number)

    def files(self) -> list[Path]:
        """All image files, sorted by path. Raises TrainingDataError if there is none."""
        return image_files(self.path)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _checksum(file: Path, of: Literal["pixels", "bytes"]) -> str:
    try:
        if of == "bytes":
            data = file.read_bytes()
        else:
            with Image.open(file) as image:
                pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
            data = f"{pixels.shape}".encode() + pixels.tobytes()
    # Pillow's decoders also raise SyntaxError and ValueError on damaged files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return _UNREADABLE
    return hashlib.sha256(data).hexdigest()[:16]
