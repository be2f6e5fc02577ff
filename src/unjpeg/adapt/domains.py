"""Domains of CARN-DA: a source with originals, a target without.

A ``SourceDomain`` yields pairs, a ``TargetDomain`` compressed patches and what their files state of themselves, nothing
else: there is no field in which the target's originals could arrive at the training. Pictures are compressed whole,
then cut on the compression's own grid, so that neither the place of the blocks nor the flips and rotations tell the
domains apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unjpeg.errors import TrainingDataError
from unjpeg.modelfile import ModelFile
from unjpeg.tables import transposed_stated
from unjpeg.train.data import ImageStore
from unjpeg.train.degrade import JpegDegradation, Pixels8, compress_jpeg

__all__ = [
    "Cutting",
    "Patches",
    "SourceBatches",
    "SourceDomain",
    "SourcePatches",
    "Stated",
    "TargetDomain",
    "checksum",
    "compress_all",
    "draw_turn",
    "join_alike",
    "load_grey",
    "trained_degradation",
    "turn",
    "turn_stated",
]

Stated = NDArray[np.float32]


class Patches(NamedTuple):
    """Compressed patches.

    Attributes:
        pixels: ``(N, C, patch, patch)``, uint8 as drawn, range 0..1 as a network takes them.
        stated: ``(N, STATED_FEATURES)``, what their files state of themselves (``unjpeg.jpeg.stated_features``), zeros
            where nothing is; None where no network asks for it.
    """

    pixels: Tensor
    stated: Tensor | None = None


class SourcePatches(NamedTuple):
    """Source patches: ``compressed`` and ``original`` ``(N, C, patch, patch)`` uint8, ``stated`` as ``Patches`` has."""

    compressed: Tensor
    original: Tensor
    stated: Tensor | None = None

    @property
    def patches(self) -> Patches:
        """Without the originals."""
        return Patches(self.compressed, self.stated)


class SourceBatches(Protocol):
    """Pairs: a pure function of the step, so that a resumed training sees what the uninterrupted one would."""

    def batch(self, step: int) -> SourcePatches: ...


def join_alike(source: Patches, target: Patches) -> Patches:
    """Both domains' patches one after the other, as a discriminator may compare them.

    Whether something is stated at all would give a codec away, whatever the pixels look like, and a network whose
    features are drawn together would unlearn to listen. So a source patch states nothing where the target patch beside
    it does not.
    """
    pixels = torch.cat([source.pixels, target.pixels])
    if source.stated is None or target.stated is None:
        return Patches(pixels)
    beside = torch.arange(len(source.stated), device=target.stated.device) % len(target.stated)
    told = target.stated.any(dim=1)[beside]
    return Patches(pixels, torch.cat([source.stated * told[:, None], target.stated]))


@dataclass(frozen=True, slots=True)
class Cutting:
    """How patches are drawn: a picture uniformly, then a place on the grid, then a rotation and flips.

    Attributes:
        batch: patches per step.
        patch: side in pixels.
        grid: corners lie on multiples of this; 8 is a grey JPEG's block, 1 is anywhere.
        augment: rotate by multiples of 90 degrees, flip horizontally and vertically.
        seed: with step and number it decides everything.
    """

    batch: int
    patch: int
    grid: int = 8
    augment: bool = True
    seed: int = 0


class SourceDomain:
    """Compressed pictures with their originals; ``SourceBatches``.

    Args:
        compressed, originals: picture by picture, ``(H, W)`` or ``(H, W, 3)``, at least a patch wide and high.
    """

    def __init__(self, compressed: Sequence[Pixels8], originals: Sequence[Pixels8], cutting: Cutting) -> None:
        shapes = [x.shape for x in compressed]
        if shapes != [x.shape for x in originals]:
            raise ValueError("each compressed picture needs an original of its own shape")
        self.compressed, self.originals = compressed, originals
        self._draws = _Draws(shapes, cutting, domain=0)

    def batch(self, step: int) -> SourcePatches:
        places = self._draws.of(step)
        return SourcePatches(_cut(self.compressed, places), _cut(self.originals, places))


class TargetDomain:
    """Compressed pictures without originals, of whose patches only the domain is known: a function of the step, too.

    Args:
        compressed: ``(H, W)`` or ``(H, W, 3)``, at least a patch wide and high.
        stated: by picture, ``(STATED_FEATURES,)``, what its file states; None if no network asks for it.
    """

    def __init__(self, compressed: Sequence[Pixels8], cutting: Cutting, stated: Sequence[Stated] | None = None) -> None:
        if stated is not None and len(stated) != len(compressed):
            raise ValueError("each compressed picture needs what its file states")
        self._compressed, self._stated = compressed, stated
        self._draws = _Draws([x.shape for x in compressed], cutting, domain=1)

    def batch(self, step: int) -> Patches:
        places = self._draws.of(step)
        pixels = _cut(self._compressed, places)
        if self._stated is None:
            return Patches(pixels)
        stated = [turn_stated(self._stated[place.picture], place.turns) for place in places]
        return Patches(pixels, torch.from_numpy(np.stack(stated)))


def load_grey(store: ImageStore, *, divide: int, min_side: int) -> list[Pixels8]:
    """Grey pictures with each side divided, ``(H, W)``; those that end up smaller than ``min_side`` are left out."""
    pictures = []
    for number in range(len(store)):
        image = Image.fromarray(store[number]).convert("L")
        width, height = image.width // divide, image.height // divide
        if min(width, height) >= min_side:
            pictures.append(np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)))
    if not pictures:
        raise TrainingDataError(f"no picture is {min_side} pixels wide and high after dividing by {divide}")
    return pictures


def compress_all(pictures: Sequence[Pixels8], quality: int) -> list[Pixels8]:
    """Each picture as a whole through libjpeg at that quality factor."""
    return [compress_jpeg(picture, quality) for picture in pictures]


def checksum(pictures: Sequence[Pixels8]) -> str:
    """SHA-256 over shapes and pixels, in order."""
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(repr(picture.shape).encode())
        digest.update(picture.tobytes())
    return digest.hexdigest()


def draw_turn(rng: np.random.Generator) -> tuple[int, bool]:
    """Quarter turns and whether to flip: one of the eight orientations."""
    return int(rng.integers(4)), bool(rng.integers(2))


def turn(pixels: Pixels8, turns: int, flip: bool) -> Pixels8:
    """``(H, W, ...)`` turned counterclockwise by quarters, then mirrored left to right."""
    pixels = np.rot90(pixels, turns)
    return pixels[:, ::-1] if flip else pixels


def turn_stated(stated: Stated, turns: int) -> Stated:
    """What the file of a picture so turned would state, ``(STATED_FEATURES,)``: flips change no table."""
    return transposed_stated(stated) if turns % 2 else stated


class _Place(NamedTuple):
    picture: int
    top: int
    left: int
    side: int
    turns: int
    flip: bool


class _Draws:
    """Where the patches of each step lie."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], cutting: Cutting, domain: int) -> None:
        if not shapes:
            raise TrainingDataError("a domain without pictures")
        if min(min(shape[:2]) for shape in shapes) < cutting.patch:
            raise TrainingDataError(f"a picture is smaller than the patch of {cutting.patch} pixels")
        self._shapes, self._cutting, self._domain = shapes, cutting, domain

    def of(self, step: int) -> list[_Place]:
        cutting = self._cutting
        places = []
        for number in range(step * cutting.batch, (step + 1) * cutting.batch):
            rng = np.random.default_rng((cutting.seed, self._domain, number))
            picture = int(rng.integers(len(self._shapes)))
            top, left = (
                cutting.grid * int(rng.integers((n - cutting.patch) // cutting.grid + 1))
                for n in self._shapes[picture][:2]
            )
            turns, flip = draw_turn(rng) if cutting.augment else (0, False)
            places.append(_Place(picture, top, left, cutting.patch, turns, flip))
        return places


def _cut(pictures: Sequence[Pixels8], places: Sequence[_Place]) -> Tensor:
    patches = []
    for place in places:
        rows, columns = (slice(n, n + place.side) for n in (place.top, place.left))
        # A rotation by 90 degrees and one flip reach all eight orientations, those of a second flip too.
        patches.append(turn(pictures[place.picture][rows, columns], place.turns, place.flip))
    stacked = torch.from_numpy(np.stack(patches))
    return stacked[:, None] if stacked.ndim == 3 else stacked.permute(0, 3, 1, 2)


def trained_degradation(file: ModelFile) -> JpegDegradation:
    """What the model was trained on."""
    try:
        stage2 = file.description.training["config"]["dagn"]["degradation"]
        # By name: older files lack some of the fields.
        return JpegDegradation(**{one.name: stage2[one.name] for one in fields(JpegDegradation) if one.name in stage2})
    except (KeyError, TypeError, ValueError):
        return JpegDegradation()
