"""Folders of images as training data.

Images are decoded once into a memory-mapped store that all worker processes share. A sample is a pure function of
(seed, sample number): that makes a resumed training take exactly the samples that the uninterrupted one would have.
"""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from unjpeg.console import progress_bar
from unjpeg.errors import SettingError, TrainingDataError
from unjpeg.files import place_file, put_json
from unjpeg.train.degrade import JpegDegradation, Pixels8
from unjpeg.train.patterns import draw_pattern

__all__ = [
    "ImageStore",
    "PairedPatches",
    "PatchPair",
    "Sample",
    "is_validation",
    "make_sample_loader",
    "require_divisible",
]

ABANDONED_SECONDS: Final = 86_400


def is_validation(file: Path, fraction: float) -> bool:
    """Whether a picture belongs to the validation split: decided by its name alone, so the split never drifts."""
    return zlib.crc32(file.name.encode()) / 2**32 < fraction


class ImageStore:
    """Decoded RGB images in one memory-mapped file.

    The file is named by a hash of paths, sizes and modification times, and made once; deleting it is always safe.
    It takes three bytes a pixel. While it is made, a bar shows on a terminal.
    """

    def __init__(self, files: Sequence[Path], cache_dir: Path) -> None:
        key = hashlib.sha256()
        for file in files:
            stat = file.stat()
            key.update(f"{file.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        self._path = cache_dir / f"images-{key.hexdigest()[:16]}.u8"
        index_path = self._path.with_suffix(".json")
        if not (index_path.exists() and self._path.exists()):
            cache_dir.mkdir(parents=True, exist_ok=True)
            self._write(files, index_path)
        index = json.loads(index_path.read_text())
        self.shapes: list[tuple[int, int]] = [(height, width) for height, width in index["shapes"]]
        self.checksum: str = index["sha256"]
        self._offsets = np.concatenate([[0], np.cumsum([3 * h * w for h, w in self.shapes])])
        self._data: Pixels8 | None = None

    def _write(self, files: Sequence[Path], index_path: Path) -> None:
        shapes, digest = [], hashlib.sha256()
        _remove_abandoned(self._path.parent)
        with place_file(self._path, overwrite=True) as out, progress_bar(len(files), doing="decoding") as show:
            for number, file in enumerate(files, 1):
                pixels = _decode(file)
                shapes.append(pixels.shape[:2])
                data = pixels.tobytes()
                digest.update(data)
                out.write(data)
                show(number)
        put_json(index_path, {"shapes": shapes, "sha256": digest.hexdigest()})  # last: only then is a store complete

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> Pixels8:
        """One image, ``(H, W, 3)``, a read-only view of the file."""
        if self._data is None:  # mapped on first use: each worker process maps for itself
            self._data = np.memmap(self._path, np.uint8, "r")
        height, width = self.shapes[index]
        flat = self._data[self._offsets[index] : self._offsets[index + 1]]
        return flat.reshape(height, width, 3)


def _remove_abandoned(cache_dir: Path) -> None:
    """Remove half-made stores that nobody has written to for a day: a kill leaves some where files need a name."""
    for partial in cache_dir.glob(".unjpeg-*.partial"):
        with suppress(OSError):
            if time.time() - partial.stat().st_mtime > ABANDONED_SECONDS:
                partial.unlink()


def _decode(file: Path) -> Pixels8:
    try:
        with Image.open(file) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    # Pillow's decoders also raise SyntaxError and ValueError on damaged files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise TrainingDataError(f"{file}: cannot be read as an image ({error}); remove it") from error


@dataclass(frozen=True, slots=True)
class Sample:
    """A batch (or one item) of training pairs.

    Shapes: ``compressed`` and ``original`` ``(N, 3, H, W)`` uint8; ``quality`` ``(N,)``, the quality factor 1..100;
    ``picture`` ``(N,)``, the number of the picture that a pair was cut from or lies in, -1 where guidance measured on
    whole pictures does not fit: for a pattern by itself, and for some of what files in the wild have seen;
    ``stated`` ``(N, STATED_FEATURES)``, what the compressed file states: see ``stated_features``.
    """

    compressed: Tensor
    original: Tensor
    quality: Tensor
    picture: Tensor
    stated: Tensor


class PatchPair(NamedTuple):
    """One training pair: ``Sample``'s fields without the first dimension, pixels ``(H, W, 3)``."""

    compressed: Pixels8
    original: Pixels8
    quality: int
    picture: int
    stated: NDArray[np.float32]


class PairedPatches(Dataset[PatchPair]):
    """Endless pairs of a compressed patch and its original, with the quality and the picture's number.

    An image is drawn by its weight, a patch uniformly inside it, then one of the eight flips and rotations, then the
    degradation. The patch is compressed after it is cut, so the 8x8 grid always starts at its corner.

    Args:
        store: the images.
        weights: how likely each image is, any positive scale.
        patch: side in pixels.
        resize: scale the whole image to ``patch`` x ``patch`` instead of cutting (section IV-A2).
        candidates: so many patches are cut from the image, and the one with the most detail is taken: the others of a
            sky teach little.
        shrink: the share of patches that are cut at twice the side and halved: finer structures than the images have.
        patterns: the share of patches that are replaced by a pattern (``patterns``): half of them lie in the image
            that was drawn, half by themselves.
        blind: the share of pairs that nothing is stated of, as of pictures that come without their file.
        degradation: what turns an original into its compressed version.
        seed: with the sample's number it decides everything.
    """

    def __init__(
        self,
        store: ImageStore,
        weights: Sequence[float],
        *,
        patch: int,
        degradation: JpegDegradation,
        seed: int,
        resize: bool = False,
        candidates: int = 1,
        shrink: float = 0.0,
        patterns: float = 0.0,
        blind: float = 0.0,
    ) -> None:
        self._store = store
        self._blind = blind
        self._candidates = candidates
        self._shrink, self._patterns = shrink, patterns
        self._cumulative = np.cumsum(np.asarray(weights, np.float64)) / np.sum(weights)
        self._patch, self._resize = patch, resize
        self._degradation, self._seed = degradation, seed

    def __getitem__(self, index: int) -> PatchPair:
        rng = np.random.default_rng((self._seed, index))
        drawn = int(np.searchsorted(self._cumulative, rng.random(), side="right"))
        picture = min(drawn, len(self._store) - 1)  # rounding can leave the last sum a little below 1
        image = self._store[picture]
        if self._resize:
            original = self._scaled(image)
        elif self._candidates == 1:
            original = self._cut(image, rng)
        else:
            original = max((self._cut(image, rng) for _ in range(self._candidates)), key=_detail)
        if self._patterns and rng.random() < self._patterns:
            original = draw_pattern(original, rng)
            if rng.random() < 0.5:
                picture = -1
        original = np.rot90(original, int(rng.integers(4)))
        if rng.random() < 0.5:
            original = original[:, ::-1]
        original = np.ascontiguousarray(original)
        degraded = self._degradation.apply(original, rng)
        stated = degraded.stated
        if self._blind and rng.random() < self._blind:
            stated = np.zeros_like(stated)
        picture = picture if degraded.like_picture else -1
        return PatchPair(degraded.compressed, degraded.original, degraded.quality, picture, stated)

    def _cut(self, image: Pixels8, rng: np.random.Generator) -> Pixels8:
        # With nothing to shrink no number is drawn: samples stay those of earlier trainings.
        halved = self._shrink > 0 and rng.random() < self._shrink
        side = 2 * self._patch if halved else self._patch
        if min(image.shape[:2]) < side:
            pad = [(0, max(side - n, 0)) for n in image.shape[:2]]
            image = np.pad(image, (*pad, (0, 0)), mode="symmetric")
        top, left = (int(rng.integers(n - side + 1)) for n in image.shape[:2])
        cut = image[top : top + side, left : left + side]
        return self._scaled(cut) if halved else cut

    def _scaled(self, image: Pixels8) -> Pixels8:
        return np.asarray(Image.fromarray(image).resize((self._patch, self._patch), Image.Resampling.BICUBIC))


def _detail(pixels: Pixels8) -> float:
    """Mean difference between neighbouring pixels of the green channel."""
    green = pixels[:, :, 1].astype(np.int16)
    return float(np.abs(np.diff(green, axis=0)).mean() + np.abs(np.diff(green, axis=1)).mean())


class _Numbers(Sampler[int]):
    """This process's share of the sample numbers of steps ``first_step`` to ``steps``."""

    def __init__(self, first_step: int, steps: int, batch: int, rank: int, world_size: int) -> None:
        self._first, self._steps, self._batch, self._rank, self._world = first_step, steps, batch, rank, world_size

    def __len__(self) -> int:
        return (self._steps - self._first) * self._batch // self._world

    def __iter__(self) -> Iterator[int]:
        share = self._batch // self._world
        for step in range(self._first, self._steps):
            start = step * self._batch + self._rank * share
            yield from range(start, start + share)


def _collate(items: list[PatchPair]) -> Sample:
    compressed, original, quality, picture, stated = zip(*items, strict=True)

    def stack(images: tuple[Pixels8, ...]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(np.stack(images))).permute(0, 3, 1, 2)

    numbers = torch.tensor(quality), torch.tensor(picture), torch.from_numpy(np.stack(stated))
    return Sample(stack(compressed), stack(original), *numbers)


def require_divisible(batch: int, world_size: int, micro_batches: int) -> None:
    """Raises SettingError unless so many processes can take equal parts of a batch, in so many turns each."""
    if batch % (world_size * micro_batches):
        raise SettingError(
            f"batch {batch} cannot be divided over {world_size} processes of {micro_batches} micro-batches"
        )


def make_sample_loader(
    dataset: PairedPatches,
    *,
    first_step: int,
    steps: int,
    batch: int,
    micro_batches: int = 1,
    workers: int = 1,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader[Sample]:
    """Batches of the steps ``first_step`` to ``steps``, compressed in ``workers`` processes.

    Sample numbers do not depend on how a step's ``batch`` samples are divided: over ``world_size`` processes, and
    within each into ``micro_batches``. Raises SettingError if the batch cannot be divided so.
    """
    require_divisible(batch, world_size, micro_batches)
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_size=batch // world_size // micro_batches,
        sampler=_Numbers(first_step, steps, batch, rank, world_size),
        num_workers=workers,
        collate_fn=_collate,
        prefetch_factor=4 if workers else None,
        persistent_workers=False,
    )
