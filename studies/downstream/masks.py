"""Pictures whose pixels people have classed: folders as PASCAL VOC has them, and COCO's outlines mapped to VOC."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.draw import polygon

from studies.downstream.labels import LABELS, match_labels
from unjpeg.errors import TrainingDataError
from unjpeg.evaluate.pairs import Pixels8, load_image

__all__ = ["NOT_COUNTED", "VOC_CLASSES", "Classes", "CocoOutlines", "Masks", "VocFolder"]

VOC_CLASSES = LABELS["voc"]
"""By their number in the masks."""

NOT_COUNTED = 255
"""What masks hold at borders, and in crowds."""

Classes = NDArray[np.int64]
"""Of each pixel, ``(H, W)``."""


class Masks(Protocol):
    """Pictures with their masks.

    Attributes:
        classes: names by number; number 0 is the background.
    """

    classes: tuple[str, ...]

    def list_names(self) -> Sequence[str]:
        """Of the pictures."""
        ...

    def load(self, name: str) -> tuple[Pixels8, Classes]:
        """A picture and its mask, ``(H, W)``: numbers of classes, or ``NOT_COUNTED``. Raises UnjpegError."""
        ...


class VocFolder:
    """A folder in VOC's format.

    It has ``JPEGImages/NAME.jpg``, ``SegmentationClass/NAME.png`` (numbers of classes, 255 is not counted),
    ``ImageSets/Segmentation/SPLIT.txt`` (names), and where its classes are not VOC's, ``labels.txt`` (their names, a
    line each; the first is number 0, the background).

    Raises TrainingDataError if it is not like that.
    """

    def __init__(self, folder: Path, split: str = "val") -> None:
        self._folder, labels = folder, folder / "labels.txt"
        listed = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
        try:
            self._names = listed.read_text(encoding="utf-8").split()
            self.classes = tuple(labels.read_text(encoding="utf-8").splitlines()) if labels.exists() else VOC_CLASSES
        except (OSError, ValueError) as error:
            raise TrainingDataError(f"{folder}: no data set as VOC has it ({error})") from error

    def list_names(self) -> Sequence[str]:
        return sorted(self._names)

    def load(self, name: str) -> tuple[Pixels8, Classes]:
        pixels = load_image(self._folder / "JPEGImages" / f"{name}.jpg")
        file = self._folder / "SegmentationClass" / f"{name}.png"
        try:
            with Image.open(file) as image:
                mask = np.asarray(image, np.int64)
        except (OSError, ValueError, SyntaxError) as error:
            raise TrainingDataError(f"{file}: cannot be read ({error})") from error
        if mask.shape != pixels.shape[:2]:
            raise TrainingDataError(f"{file}: must hold one number for each pixel of the picture, has {mask.shape}")
        wrong = set(np.unique(mask).tolist()) - {*range(len(self.classes)), NOT_COUNTED}
        if wrong:
            raise TrainingDataError(f"{file}: there is no class {min(wrong)}")
        return pixels, mask


class CocoOutlines:
    """COCO's things, filled within their outlines, under VOC's classes; what VOC does not name is background.

    Of two that overlap the smaller lies above. Pixels of crowds are not counted. Pictures of which any thing lacks an
    outline are left out, and those with nothing in them.

    Args:
        images: folder of the pictures.
        annotations: COCO's JSON file.

    Raises TrainingDataError if the file cannot be read.
    """

    classes = VOC_CLASSES

    def __init__(self, images: Path, annotations: Path) -> None:
        self._images = images
        try:
            record = json.loads(annotations.read_text(encoding="utf-8"))
            voc_of = match_labels(
                {int(entry["id"]): str(entry["name"]) for entry in record["categories"]},
                dict(enumerate(VOC_CLASSES)),
            )
            names = {entry["id"]: str(entry["file_name"]) for entry in record["images"]}
            things: dict[str, list[tuple[float, int, Any]]] = {}
            unknown = set()
            for entry in record["annotations"]:
                name, outline = names[entry["image_id"]], entry.get("segmentation")
                if not outline:
                    unknown.add(name)
                    continue
                number = NOT_COUNTED if entry.get("iscrowd") else voc_of.get(entry["category_id"], 0)
                things.setdefault(name, []).append((float(entry["area"]), number, outline))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrainingDataError(f"{annotations}: no annotations as COCO has them ({error!r})") from error
        self._things = {name: things[name] for name in sorted(things.keys() - unknown)}

    def list_names(self) -> Sequence[str]:
        return list(self._things)

    def load(self, name: str) -> tuple[Pixels8, Classes]:
        pixels = load_image(self._images / name)
        mask: Classes = np.zeros(pixels.shape[:2], np.int64)
        try:
            for _, number, outline in sorted(self._things[name], key=lambda thing: -thing[0]):
                mask[_fill(outline, mask.shape)] = number
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise TrainingDataError(f"{name}: an outline is not as COCO has them ({error!r})") from error
        return pixels, mask


def _fill(outline: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels of polygons, or of runs down the columns that are in and out by turns, ``(H, W)``."""
    if isinstance(outline, Mapping):
        counts = np.array(outline["counts"], np.int64)
        inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
        columns: NDArray[np.bool_] = inside.reshape(shape[::-1]).T
        return columns
    filled = np.zeros(shape, bool)
    for corners in outline:
        across, down = np.array(corners, np.float64).reshape(-1, 2).T
        # COCO's coordinates are of the pixels' corners, those of skimage of their middles.
        filled[polygon(down - 0.5, across - 0.5, shape)] = True  # type: ignore[no-untyped-call]
    return filled
