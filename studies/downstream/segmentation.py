"""Semantic segmentation: a network's class of each pixel against a data set's, mean IoU as PASCAL VOC defines it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torchmetrics.functional.classification import multiclass_confusion_matrix

from studies.downstream.recognition import Recogniser, choose_colour, choose_ink, match_labels
from studies.downstream.task import DrawnTask
from unjpeg.errors import TrainingDataError
from unjpeg.evaluate.pairs import Pixels8, load_image

__all__ = ["VOC_CLASSES", "Segmentation"]

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""By their number in the masks."""

NOT_COUNTED = 255
"""What masks hold at borders."""

Classes = NDArray[np.int64]
"""Of each pixel, ``(H, W)``."""

Counts = NDArray[np.int64]
"""Pixels, ``(classes, classes)``."""


class Segmentation(DrawnTask[Classes, Counts]):
    """Mean over the classes of intersection over union, counted over all pictures together.

    A folder in VOC's format has ``JPEGImages/NAME.jpg``, ``SegmentationClass/NAME.png`` (numbers of classes, 255 is not
    counted), ``ImageSets/Segmentation/SPLIT.txt`` (names), and where its classes are not VOC's, ``labels.txt``
    (their names, a line each; the first is number 0, the background). What the network calls by no name of those is
    background.

    Args:
        network: a ``transformers`` checkpoint: a folder, or a name in the library's cache.
        folder, split: as above.

    Raises:
        TrainingDataError: the folder is not like that.
        MeasurementError: the network cannot be loaded, or knows none of the classes.
    """

    name = "segmentation"
    figures = ("mean_iou",)
    resamples = 300

    def __init__(self, network: str, folder: Path, split: str = "val") -> None:
        self._folder, listed, labels = (
            folder,
            folder / "ImageSets" / "Segmentation" / f"{split}.txt",
            folder / "labels.txt",
        )
        try:
            self._names = listed.read_text(encoding="utf-8").split()
            self._classes = tuple(labels.read_text(encoding="utf-8").splitlines()) if labels.exists() else VOC_CLASSES
        except (OSError, ValueError) as error:
            raise TrainingDataError(f"{folder}: no data set as VOC has it ({error})") from error
        self._network = Recogniser(network, "segmentation")
        matched = match_labels(self._network.labels, dict(enumerate(self._classes)))
        self._class_of = np.zeros(max(self._network.labels) + 1, np.int64)
        self._class_of[list(matched)] = list(matched.values())
        self.identity = f"{self._network.identity} {sorted(matched.items())}"

    def list_names(self) -> Sequence[str]:
        return sorted(self._names)

    def load(self, name: str) -> tuple[Pixels8, Classes]:
        """A picture and its mask, ``(H, W)``."""
        pixels = load_image(self._folder / "JPEGImages" / f"{name}.jpg")
        file = self._folder / "SegmentationClass" / f"{name}.png"
        try:
            with Image.open(file) as image:
                mask = np.asarray(image, np.int64)
        except (OSError, ValueError, SyntaxError) as error:
            raise TrainingDataError(f"{file}: cannot be read ({error})") from error
        if mask.shape != pixels.shape[:2]:
            raise TrainingDataError(f"{file}: must hold one number for each pixel of the picture, has {mask.shape}")
        wrong = set(np.unique(mask).tolist()) - {*range(len(self._classes)), NOT_COUNTED}
        if wrong:
            raise TrainingDataError(f"{file}: there is no class {min(wrong)}")
        return pixels, mask

    def examine(self, pixels: Pixels8, truth: Classes) -> Counts:
        """How many pixels of each class (rows) the network has given to each (columns)."""
        counts: Counts = multiclass_confusion_matrix(
            torch.from_numpy(self._find(pixels)),
            torch.from_numpy(truth),
            num_classes=len(self._classes),
            ignore_index=NOT_COUNTED,
        ).numpy()
        return counts

    def summarise(self, results: Sequence[Counts]) -> dict[str, float]:
        """0 where no pixel counts; classes that occur neither in the masks nor in what was found are left out."""
        counts = np.sum(results, axis=0)
        both = counts.sum(axis=0) + counts.sum(axis=1) - counts.diagonal()
        there = both > 0
        return {"mean_iou": float((counts.diagonal()[there] / both[there]).mean()) if there.any() else 0.0}

    def to_json(self, result: Counts) -> Any:
        return result.tolist()

    def from_json(self, stored: Any) -> Counts:
        return np.array(stored, np.int64)

    def draw_truth(self, pixels: Pixels8, truth: Classes) -> Image.Image:
        return self._draw_classes(pixels, truth)

    def draw(self, pixels: Pixels8) -> Image.Image:
        return self._draw_classes(pixels, self._find(pixels))

    def _find(self, pixels: Pixels8) -> Classes:
        classes: Classes = self._class_of[self._network.find_labels(pixels)]
        return classes

    def _draw_classes(self, pixels: Pixels8, classes: Classes) -> Image.Image:
        """The picture, grey, under the colours of all classes but the background, with their names."""
        tints = np.array([choose_colour(number) for number in range(NOT_COUNTED + 1)], np.float64)
        grey = np.asarray(Image.fromarray(pixels).convert("L"), np.float64)[..., None]
        coloured = np.where(classes[..., None] > 0, 0.4 * grey + 0.6 * tints[classes], 0.8 * grey)
        image = Image.fromarray(coloured.round().astype(np.uint8))
        size = max(11, image.width // 30)
        font, draw, left = ImageFont.load_default(size), ImageDraw.Draw(image), 0.0
        for number in sorted(set(np.unique(classes).tolist()) - {0, NOT_COUNTED}):
            ink, text = choose_colour(number), self._classes[number]
            width = font.getlength(text) + 8
            draw.rectangle((left, 0, left + width, size + 4), fill=ink)
            draw.text((left + 4, 0), text, fill=choose_ink(ink), font=font)
            left += width
        return image
