"""Semantic segmentation: a network's class of each pixel against a data set's, mean IoU as PASCAL VOC defines it.

Or against what the same network makes of the original, for which nobody needs to have classed anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from studies.downstream.labels import choose_colour, choose_ink, match_labels
from studies.downstream.masks import NOT_COUNTED, Classes, Masks
from studies.downstream.recognition import open_recogniser
from studies.downstream.task import DrawnTask, mix_names
from unjpeg.datasets import image_files
from unjpeg.evaluate.pairs import Pixels8, load_image

__all__ = ["Agreement", "Segmentation", "count_pixels", "draw_classes"]

Counts = NDArray[np.int64]
"""Pixels, ``(classes, classes)``."""


class _Classing(DrawnTask[Classes, Counts]):
    """What both tasks have in common: pixels counted over all pictures together."""

    keeps_rows = False  # few classes occur in a picture: its own mean over them says little

    def __init__(self, network: str, description: Path | None, classes: Sequence[str] | None) -> None:
        """``classes`` are the data's names by number, the network's own where None."""
        self._network = open_recogniser(network, "segmentation", description)
        labels = self._network.labels
        self._classes = [*labels.values()] if classes is None else [*classes]
        matched = match_labels(labels, dict(enumerate(self._classes))) if classes else dict(enumerate(labels))
        self._class_of = np.zeros(max(labels) + 1, np.int64)
        self._class_of[list(matched)] = list(matched.values())
        self.identity = f"{self._network.identity} {sorted(matched.items())}"

    def examine(self, pixels: Pixels8, truth: Classes) -> Counts:
        """How many pixels of each class (rows) the network has given to each (columns)."""
        return count_pixels(self._find(pixels), truth, len(self._classes))

    def summarise(self, results: Sequence[Counts]) -> dict[str, float]:
        """0 where no pixel counts; classes that occur neither in the masks nor in what was found are left out."""
        counts = np.sum(results, axis=0)
        both = counts.sum(axis=0) + counts.sum(axis=1) - counts.diagonal()
        there = both > 0
        return {"mean_iou": float((counts.diagonal()[there] / both[there]).mean()) if there.any() else 0.0}

    def to_json(self, result: Counts) -> Any:
        """Most pairs of classes occur in no picture: row, column and count of those that do."""
        return [[int(row), int(column), int(result[row, column])] for row, column in np.argwhere(result)]

    def from_json(self, stored: Any) -> Counts:
        counts: Counts = np.zeros((len(self._classes),) * 2, np.int64)
        for row, column, count in stored:
            counts[row, column] = count
        return counts

    def draw_truth(self, pixels: Pixels8, truth: Classes) -> Image.Image:
        return draw_classes(pixels, truth, self._classes)

    def draw(self, pixels: Pixels8) -> Image.Image:
        return draw_classes(pixels, self._find(pixels), self._classes)

    def _find(self, pixels: Pixels8) -> Classes:
        classes: Classes = self._class_of[self._network.find_labels(pixels)]
        return classes


class Segmentation(_Classing):
    """Mean over the classes of intersection over union with the masks (``mean_iou``).

    What the network calls by no name of the masks' is background.

    Args:
        network: as ``open_recogniser`` takes it.
        masks: what is right.
        description: of an ONNX file.

    Raises MeasurementError if the network cannot be loaded, or knows none of the classes.
    """

    name = "segmentation"
    figures = ("mean_iou",)
    resamples = 300

    def __init__(self, network: str, masks: Masks, description: Path | None = None) -> None:
        super().__init__(network, description, masks.classes)
        self._masks = masks

    def list_names(self) -> Sequence[str]:
        return mix_names(self._masks.list_names())

    def load(self, name: str) -> tuple[Pixels8, Classes]:
        return self._masks.load(name)


class Agreement(_Classing):
    """The same with what the network makes of the originals; also the share of pixels with the same class (``same``).

    Args:
        network: as ``open_recogniser`` takes it; its first class is taken for the background.
        images: folder of the pictures.
        description: of an ONNX file.

    Raises MeasurementError if the network cannot be loaded.
    """

    name = "agreement"
    figures = ("mean_iou", "same")
    resamples = 300

    def __init__(self, network: str, images: Path, description: Path | None = None) -> None:
        super().__init__(network, description, None)
        self._images = images

    def list_names(self) -> Sequence[str]:
        return mix_names(file.relative_to(self._images).as_posix() for file in image_files(self._images))

    def load(self, name: str) -> tuple[Pixels8, Classes]:
        pixels = load_image(self._images / name)
        return pixels, self._find(pixels)

    def summarise(self, results: Sequence[Counts]) -> dict[str, float]:
        counts = np.sum(results, axis=0)
        return {**super().summarise(results), "same": float(counts.trace() / max(counts.sum(), 1))}


def count_pixels(found: Classes, truth: Classes, classes: int) -> Counts:
    """How many pixels of each class (rows) were given to each (columns); ``NOT_COUNTED`` in ``truth`` is left out."""
    counted = truth != NOT_COUNTED
    pairs = truth[counted] * classes + found[counted]
    counts: Counts = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    return counts


def draw_classes(pixels: Pixels8, classes: Classes, names: Sequence[str]) -> Image.Image:
    """The picture, grey, under the colours of all classes but the background, with their names."""
    tints = np.array([choose_colour(number) for number in range(NOT_COUNTED + 1)], np.float64)
    grey = np.asarray(Image.fromarray(pixels).convert("L"), np.float64)[..., None]
    coloured = np.where(classes[..., None] > 0, 0.4 * grey + 0.6 * tints[classes], 0.8 * grey)
    image = Image.fromarray(coloured.round().astype(np.uint8))
    size = max(11, image.width // 30)
    font, draw, left = ImageFont.load_default(size), ImageDraw.Draw(image), 0.0
    for number in sorted(set(np.unique(classes).tolist()) - {0, NOT_COUNTED}):
        ink, text = choose_colour(number), names[number]
        width = font.getlength(text) + 8
        draw.rectangle((left, 0, left + width, size + 4), fill=ink)
        draw.text((left + 4, 0), text, fill=choose_ink(ink), font=font)
        left += width
    return image
