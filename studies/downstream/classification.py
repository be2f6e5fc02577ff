"""Classification: how often a network's first guess is right (top-1), and one of its first five (top-5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from studies.downstream.onnxfile import OnnxNetwork
from studies.downstream.task import Task, mix_names
from unjpeg.datasets import image_files
from unjpeg.errors import TrainingDataError
from unjpeg.evaluate.pairs import Pixels8, load_image

__all__ = ["Classification"]


class Classification(Task[int, int]):
    """Shares of pictures whose class is the network's first guess (``top_1``), or among the first five (``top_5``).

    A picture's class is the folder that it lies in, as ImageNet has them; of a picture that lies in no folder below
    ``images``, what stands in its name before the first ``_`` (``n01440764_tench.JPEG``). Classes in the order of their
    names are the network's numbers.

    Args:
        network: an ONNX file.
        images: folder of the pictures, at least one of each class.
        description: of the network.

    Raises:
        TrainingDataError: there are more classes, or fewer, than the network has.
        SettingError, MeasurementError: the network cannot be used.
    """

    name = "classification"
    figures = ("top_1", "top_5")
    resamples = 1000
    keeps_rows = False  # right or wrong

    def __init__(self, network: Path, images: Path, description: Path | None = None) -> None:
        self._images, files = images, image_files(images)
        self._classes = {file.relative_to(images).as_posix(): _name_class(file, images) for file in files}
        self._number_of = {name: number for number, name in enumerate(sorted(set(self._classes.values())))}
        self._network = OnnxNetwork(network, "classification", description)
        names = list(self._classes)
        known = len(self._network.rank_classes(load_image(images / names[0])))
        if known != len(self._number_of):
            raise TrainingDataError(f"{images}: has {len(self._number_of)} classes, and {network} tells {known} apart")
        self._names = mix_names(names)
        self.identity = self._network.identity

    def list_names(self) -> Sequence[str]:
        return self._names

    def load(self, name: str) -> tuple[Pixels8, int]:
        """A picture and its class's number."""
        return load_image(self._images / name), self._number_of[self._classes[name]]

    def examine(self, pixels: Pixels8, truth: int) -> int:
        """How many classes the network finds likelier than the right one."""
        return int(np.flatnonzero(self._network.rank_classes(pixels) == truth)[0])

    def summarise(self, results: Sequence[int]) -> dict[str, float]:
        count = len(results)
        return {f"top_{most}": sum(result < most for result in results) / count for most in (1, 5)}

    def to_json(self, result: int) -> Any:
        return result

    def from_json(self, stored: Any) -> int:
        return int(stored)


def _name_class(file: Path, images: Path) -> str:
    return file.parent.name if file.parent != images else file.name.partition("_")[0]
