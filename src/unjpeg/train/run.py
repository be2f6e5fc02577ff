"""What both stages need around their loop: the split of the data, a log, a progress bar, averaged weights."""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from lightning.fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from unjpeg.datasets import ImageFolder
from unjpeg.errors import OtherTrainingError, TrainingDataError
from unjpeg.train.checkpoint import Checkpoint
from unjpeg.train.config import DagnTraining, EncoderTraining, complete_config
from unjpeg.train.data import ImageStore, PairedPatches, Sample, is_validation, make_sample_loader
from unjpeg.train.degrade import Pixels8

__all__ = [
    "AveragedModel",
    "RunLog",
    "Throughput",
    "TrainingImages",
    "find_resume_point",
    "load_samples",
    "open_images",
    "to_pixels",
    "to_unit_range",
]


@dataclass(frozen=True, slots=True)
class TrainingImages:
    """The training and the validation split of the given folders.

    Attributes:
        weights: of each training image, for ``PairedPatches``.
        held_out: whether the validation pictures are other ones than the training's. Too few pictures leave none over.
        manifest: JSON-ready description of both, stored with every checkpoint.
    """

    training: ImageStore
    validation: ImageStore
    weights: list[float]
    manifest: dict[str, Any]
    held_out: bool = True

    @classmethod
    def open(cls, folders: Sequence[ImageFolder], *, validation_fraction: float, cache_dir: Path) -> TrainingImages:
        """Decode everything once. Raises TrainingDataError if a folder is missing or a split is empty."""
        training, validation, owner = [], [], []
        for number, folder in enumerate(folders):
            for file in folder.files():
                if is_validation(file, validation_fraction):
                    validation.append(file)
                else:
                    training.append(file)
                    owner.append(number)
        if not training:
            raise TrainingDataError("no training images are left beside the validation split; add more pictures")
        has_split = bool(validation)
        if not has_split:  # a handful of pictures: validate on one that is also trained on rather than fail
            validation = training[-1:]
        store = ImageStore(training, cache_dir)
        held_out = ImageStore(validation, cache_dir)
        pixels = np.array([height * width for height, width in store.shapes], np.float64)
        weights = pixels.copy()
        for number, folder in enumerate(folders):
            mine = np.array(owner) == number
            if folder.weight is not None and mine.any():
                weights[mine] = folder.weight * pixels[mine] / pixels[mine].sum() * pixels.sum()
        manifest = {
            "folders": [{"name": folder.path.name, "weight": folder.weight} for folder in folders],
            "training_images": len(store),
            "validation_images": len(held_out),
            "training_sha256": store.checksum,
            "validation_sha256": held_out.checksum,
        }
        return cls(store, held_out, weights.tolist(), manifest, has_split)

    def cut_validation_crops(self, side: int, multiple: int = 16) -> list[np.ndarray]:
        """The centre of every held-out picture, at most ``side`` wide and high, sides multiples of ``multiple``.

        Raises TrainingDataError if no picture is that large.
        """
        crops = []
        for i in range(len(self.validation)):
            image = self.validation[i]
            height, width = (min(side, n) // multiple * multiple for n in image.shape[:2])
            if height and width:
                top, left = ((n - m) // 2 for n, m in zip(image.shape[:2], (height, width), strict=True))
                crops.append(image[top : top + height, left : left + width].copy())
        if not crops:
            raise TrainingDataError(f"no validation picture is {multiple} pixels wide and high; add larger pictures")
        return crops


def open_images(data: Sequence[str], validation_fraction: float) -> TrainingImages:
    """Training and validation pictures of folders or data sets, decoded once into the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "unjpeg"
    folders = [ImageFolder.parse(text) for text in data]
    return TrainingImages.open(folders, validation_fraction=validation_fraction, cache_dir=cache)


def load_samples(
    fabric: Fabric, patches: PairedPatches, stage: EncoderTraining | DagnTraining, first_step: int, workers: int
) -> DataLoader[Sample]:
    """This process's part of the batches of a stage, from a step on, compressed in ``workers`` processes."""
    return make_sample_loader(
        patches,
        first_step=first_step,
        steps=stage.steps,
        batch=stage.batch,
        micro_batches=stage.micro_batches,
        workers=workers,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )


Network = TypeVar("Network", bound=nn.Module)


class AveragedModel(Generic[Network]):
    """Exponential moving average of a model's weights and statistics.

    Args:
        model: averaged from its present state on.
        decay: 0 follows the model exactly. The first steps use a smaller one, so that the start is forgotten.
    """

    def __init__(self, model: Network, decay: float) -> None:
        self.module: Network = copy.deepcopy(model).eval()
        self._decay = decay

    @torch.no_grad()
    def update(self, model: Network, step: int) -> None:
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        mine, theirs = [], []
        for average, value in zip(self.module.state_dict().values(), model.state_dict().values(), strict=True):
            if average.dtype.is_floating_point:
                mine.append(average)
                theirs.append(value)
            else:
                average.copy_(value)
        torch._foreach_lerp_(mine, theirs, weight)


@dataclass(frozen=True, slots=True)
class Throughput:
    """How fast a training went.

    Attributes:
        images_per_second: training pairs of all processes together.
        waiting: share of this process's time that its loop waited for data, 0..1.
    """

    images_per_second: float
    waiting: float

    def __str__(self) -> str:
        return f"{self.images_per_second:.1f} images/s, {self.waiting:.1%} of the time waiting for data"


class RunLog:
    """Progress bar (on a terminal only), one printed line now and then, TensorBoard scalars and pictures."""

    def __init__(self, fabric: Fabric, directory: Path, title: str) -> None:
        self._writer = SummaryWriter(str(directory)) if fabric.is_global_zero else None
        self._console = Console(file=sys.stderr)
        self._quiet = not fabric.is_global_zero
        self._title = title
        self._processes = fabric.world_size
        self._samples = 0
        self._began: float | None = None
        self._waited = 0.0

    def steps(self, first: int, total: int) -> Iterator[int]:
        """Count from ``first`` to ``total`` with a bar. Where nothing is left to do, a line says so."""
        if first >= total and self._writer:
            self._console.print(f"{self._title} finished earlier, after {total} steps", highlight=False, soft_wrap=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
        )
        hidden = self._quiet or not self._console.is_terminal
        with Progress(*columns, console=self._console, disable=hidden) as progress:
            task = progress.add_task(self._title, total=total, completed=first, status="")
            self._progress, self._task = progress, task
            for step in range(first, total):
                yield step
                progress.advance(task)

    def batches(self, loader: Iterable[Sample]) -> Iterator[Sample]:
        """The loader's batches, while keeping account of their number and of the time that the loop waits for them.

        The clock starts when the first one is there: starting the loader's processes is not counted.
        """
        iterator = iter(loader)
        while True:
            start = time.perf_counter()
            sample = next(iterator, None)
            if sample is None:
                return
            if self._began is None:
                self._began = time.perf_counter()
            else:
                self._waited += time.perf_counter() - start
            self._samples += len(sample.quality)
            yield sample

    def throughput(self) -> Throughput | None:
        """Of the loop so far, validation and checkpoints included; ``None`` before the first batch."""
        if self._began is None:
            return None
        seconds = time.perf_counter() - self._began
        return Throughput(self._samples * self._processes / seconds, self._waited / seconds)

    def scalars(self, step: int, values: dict[str, float], *, line: bool = False) -> None:
        """Record figures; with ``line`` also print them, whatever the output is."""
        text = "  ".join(f"{name} {value:.5g}" for name, value in values.items())
        if self._writer:
            for name, value in values.items():
                self._writer.add_scalar(f"{self._title}/{name}", value, step)
            self._progress.update(self._task, status=text)
            if line:
                self._console.print(f"{self._title} step {step}  {text}", highlight=False, soft_wrap=True)

    def images(self, step: int, name: str, images: Tensor) -> None:
        """Show ``(N, 3, H, W)``, range 0..1, in TensorBoard."""
        if self._writer:
            self._writer.add_images(f"{self._title}/{name}", images.clamp(0, 1), step)

    def close(self) -> None:
        """End the log; the last line says how fast it went."""
        throughput = self.throughput()
        if self._writer and throughput:
            self._console.print(f"{self._title} {throughput}", highlight=False, soft_wrap=True)
        if self._writer:
            self._writer.close()


def find_resume_point(path: Path, config: dict[str, Any], manifest: dict[str, Any]) -> Checkpoint | None:
    """The checkpoint to go on from, if there is one. Raises OtherTrainingError if it belongs to another training."""
    if not path.exists():
        return None
    checkpoint = Checkpoint.load(path)
    stored = complete_config(checkpoint.config)
    if stored != config:
        changed = ", ".join(sorted(_differences(stored, config)))
        raise OtherTrainingError(f"{path}: was made with another configuration ({changed}); choose another folder")
    if checkpoint.manifest != manifest:
        changed = ", ".join(sorted(_differences(checkpoint.manifest, manifest)))
        raise OtherTrainingError(
            f"{path}: was trained on other pictures ({changed}); give the same ones, or choose another folder"
        )
    return checkpoint


def _differences(a: dict[str, Any], b: dict[str, Any]) -> Iterable[str]:
    for key in a.keys() | b.keys():
        x, y = a.get(key), b.get(key)
        if isinstance(x, dict) and isinstance(y, dict):
            yield from (f"{key}.{inner}" for inner in _differences(x, y))
        elif x != y:
            yield key


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 ``(N, 3, H, W)`` to float32 0..1, channels last (twice as fast on CPUs)."""
    return images.to(torch.float32).div_(255).contiguous(memory_format=torch.channels_last)


def to_pixels(image: Tensor) -> Pixels8:
    """The way back for one picture: ``(C, H, W)``, range 0..1, to ``(H, W, C)``, rounded and clipped to uint8."""
    levels = (image.detach().float() * 255).round().clamp(0, 255).to(torch.uint8)
    pixels: Pixels8 = levels.permute(1, 2, 0).cpu().numpy()
    return pixels
