"""Object detection: a network's boxes against a data set's, mean average precision as COCO defines it."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from PIL import Image, ImageDraw, ImageFont

from studies.downstream.recognition import Recogniser, choose_ink, match_labels
from studies.downstream.task import DrawnTask
from unjpeg.errors import TrainingDataError
from unjpeg.evaluate.pairs import Pixels8, load_image

__all__ = ["Boxes", "Detection", "compute_mean_average_precision"]

Boxes = list[dict[str, Any]]
"""As COCO's files have them: ``bbox`` (left, top, width, height) and ``category_id``; found ones with ``score``, those
that are right with ``iscrowd`` and ``area``."""

SHOWN_SCORE = 0.5
"""Boxes that the network is less sure of count, and are not drawn."""


class Detection(DrawnTask[Boxes, tuple[Boxes, Boxes]]):
    """Mean average precision of boxes: over overlaps of 50 to 95 % (``map``), and at 50 % (``map_50``).

    Args:
        network: a ``transformers`` checkpoint: a folder, or a name in the library's cache.
        images: folder of the pictures.
        annotations: COCO's JSON file.

    Raises:
        TrainingDataError: the annotations cannot be read.
        MeasurementError: the network cannot be loaded, or knows none of their categories.
    """

    name = "detection"
    figures = ("map", "map_50")
    resamples = 200

    def __init__(self, network: str, images: Path, annotations: Path) -> None:
        self._images = images
        try:
            record = json.loads(annotations.read_text(encoding="utf-8"))
            self._categories = {int(entry["id"]): str(entry["name"]) for entry in record["categories"]}
            names = {entry["id"]: str(entry["file_name"]) for entry in record["images"]}
            self._truth: dict[str, Boxes] = {name: [] for name in names.values()}
            for entry in record.get("annotations", []):
                self._truth[names[entry["image_id"]]].append(_read_box(entry, self._categories))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrainingDataError(f"{annotations}: no annotations as COCO has them ({error!r})") from error
        self._network = Recogniser(network, "detection")
        self._matched = match_labels(self._network.labels, self._categories)
        self.identity = f"{self._network.identity} {sorted(self._matched.items())}"

    def list_names(self) -> Sequence[str]:
        return sorted(self._truth)

    def load(self, name: str) -> tuple[Pixels8, Boxes]:
        return load_image(self._images / name), self._truth[name]

    def examine(self, pixels: Pixels8, truth: Boxes) -> tuple[Boxes, Boxes]:
        """What was found, and what is right."""
        return self._find(pixels), truth

    def summarise(self, results: Sequence[tuple[Boxes, Boxes]]) -> dict[str, float]:
        return compute_mean_average_precision(results)

    def to_json(self, result: tuple[Boxes, Boxes]) -> Any:
        return list(result)

    def from_json(self, stored: Any) -> tuple[Boxes, Boxes]:
        found, truth = stored
        return found, truth

    def draw_truth(self, pixels: Pixels8, truth: Boxes) -> Image.Image:
        return _draw_boxes(pixels, truth, self._categories)

    def draw(self, pixels: Pixels8) -> Image.Image:
        sure = [box for box in self._find(pixels) if box["score"] >= SHOWN_SCORE]
        return _draw_boxes(pixels, sorted(sure, key=lambda box: float(box["score"])), self._categories)

    def _find(self, pixels: Pixels8) -> Boxes:
        return [
            {"bbox": [left, top, right - left, bottom - top], "category_id": self._matched[label], "score": score}
            for (left, top, right, bottom), label, score in zip(*self._network.find_boxes(pixels), strict=True)
            if label in self._matched
        ]


def compute_mean_average_precision(results: Sequence[tuple[Boxes, Boxes]]) -> dict[str, float]:
    """``map`` and ``map_50`` of what was found and what is right in each picture, over the categories that occur.

    0 where nothing is right.
    """
    categories = sorted({box["category_id"] for _, right in results for box in right if not box["iscrowd"]})
    if not categories:
        return {"map": 0.0, "map_50": 0.0}
    found, truth = (
        [
            {**box, "image_id": number, "id": identity}
            for identity, (number, box) in enumerate(
                ((number, box) for number, result in enumerate(results, 1) for box in result[which]), 1
            )
            if box["category_id"] in categories
        ]
        for which in (0, 1)
    )
    right = COCO(
        {
            "images": [{"id": number} for number in range(1, len(results) + 1)],
            "categories": [{"id": category, "name": str(category)} for category in categories],
            "annotations": truth,
        }
    )
    scorer = COCOeval_faster(right, right.loadRes(found), "bbox")
    scorer.params.areaRng, scorer.params.areaRngLbl = [[0, 1e10]], ["all"]
    scorer.params.maxDets = [100]
    scorer.evaluate()
    scorer.accumulate()
    precision = np.asarray(scorer.eval["precision"])  # by overlap, recall, category; -1 where nothing is right
    known = precision[:, :, (precision[0, 0] > -1).all(axis=(1, 2))]
    return {"map": float(known.mean()), "map_50": float(known[0].mean())}


def _read_box(entry: Mapping[str, Any], categories: Mapping[int, str]) -> dict[str, Any]:
    """What is kept of an annotation. Raises KeyError, TypeError or ValueError if it is none."""
    left, top, width, height = map(float, entry["bbox"])
    categories[entry["category_id"]]  # has to be there
    area, crowd = float(entry.get("area", width * height)), int(entry.get("iscrowd", 0))
    return {
        "bbox": [left, top, width, height],
        "category_id": entry["category_id"],
        "iscrowd": crowd,
        "area": area,
    }


def _draw_boxes(pixels: Pixels8, boxes: Boxes, categories: Mapping[int, str]) -> Image.Image:
    """Boxes in their categories' colours, with names and scores."""
    image = Image.fromarray(pixels).convert("RGB")
    draw, size = ImageDraw.Draw(image), max(11, image.width // 40)
    font = ImageFont.load_default(size)
    for box in boxes:
        left, top, width, height = box["bbox"]
        ink = _choose_bright(box["category_id"])
        draw.rectangle((left, top, left + width, top + height), outline=ink, width=max(1, image.width // 150))
        text = categories[box["category_id"]] + (f" {box['score']:.2f}" if "score" in box else "")
        corner = left, max(0, top - size - 3)
        draw.rectangle((*corner, left + font.getlength(text) + 4, corner[1] + size + 3), fill=ink)
        draw.text((left + 2, corner[1]), text, fill=choose_ink(ink), font=font)
    return image


def _choose_bright(category: int) -> tuple[int, int, int]:
    """A colour that stands out of a photograph; near numbers look different."""
    red, green, blue = colorsys.hsv_to_rgb(category * 0.618 % 1, 0.9, 1)
    return round(255 * red), round(255 * green), round(255 * blue)
