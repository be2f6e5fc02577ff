"""Object detection: a network's boxes against a data set's, mean average precision as COCO defines it."""

from __future__ import annotations

import colorsys
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from studies.downstream.labels import choose_ink, match_labels
from studies.downstream.recognition import open_recogniser
from studies.downstream.task import DrawnTask, mix_names
from unjpeg.errors import TrainingDataError
from unjpeg.evaluate.pairs import Pixels8, load_image

__all__ = ["Boxes", "Detection", "Matches", "compute_mean_average_precision", "draw_boxes", "match_boxes"]

Boxes = list[dict[str, Any]]
"""As COCO's files have them: ``bbox`` (left, top, width, height) and ``category_id``; found ones with ``score``, those
that are right with ``iscrowd`` and ``area``."""

OVERLAPS = np.linspace(0.5, 0.95, 10)
"""IoU from which a box is the right one."""

RECALLS = np.linspace(0, 1, 101)
"""At which precision is read."""

MOST_BOXES = 100
"""Of a category in a picture, the surest."""

SHOWN_SCORE = 0.5
"""Boxes that the network is less sure of count, and are not drawn."""


@dataclass(frozen=True, slots=True)
class Matches:
    """Boxes of one category in one picture against what is right there.

    Attributes:
        scores: of the found boxes, best first, ``(N,)``.
        right: which are right at each of ``OVERLAPS``, ``(10, N)``.
        counted: which are right or wrong; others lie in a crowd, ``(10, N)``.
        wanted: boxes that are there to be found.
    """

    scores: NDArray[np.float64]
    right: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    wanted: int


class Detection(DrawnTask[Boxes, dict[int, Matches]]):
    """Mean average precision of boxes: over overlaps of 50 to 95 % (``map``), and at 50 % (``map_50``).

    Args:
        network: as ``open_recogniser`` takes it.
        images: folder of the pictures.
        annotations: COCO's JSON file.
        description: of an ONNX file.

    Raises:
        TrainingDataError: the annotations cannot be read.
        MeasurementError: the network cannot be loaded, or knows none of their categories.
    """

    name = "detection"
    figures = ("map", "map_50")
    resamples = 200
    keeps_rows = False  # a picture holds few boxes: its own average precision says little

    def __init__(self, network: str, images: Path, annotations: Path, description: Path | None = None) -> None:
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
        self._network = open_recogniser(network, "detection", description)
        self._matched = match_labels(self._network.labels, self._categories)
        self.identity = f"{self._network.identity} {sorted(self._matched.items())}"

    def list_names(self) -> Sequence[str]:
        return mix_names(self._truth)

    def load(self, name: str) -> tuple[Pixels8, Boxes]:
        return load_image(self._images / name), self._truth[name]

    def examine(self, pixels: Pixels8, truth: Boxes) -> dict[int, Matches]:
        """By category."""
        return match_boxes(self._find(pixels), truth)

    def summarise(self, results: Sequence[dict[int, Matches]]) -> dict[str, float]:
        return compute_mean_average_precision(results)

    def to_json(self, result: dict[int, Matches]) -> Any:
        bits = 1 << np.arange(len(OVERLAPS))
        return {
            category: [m.scores.tolist(), (bits @ m.right).tolist(), (bits @ m.counted).tolist(), m.wanted]
            for category, m in result.items()
        }

    def from_json(self, stored: Any) -> dict[int, Matches]:
        bits = 1 << np.arange(len(OVERLAPS))[:, None]
        return {
            int(category): Matches(
                np.array(scores, np.float64),
                np.array(right, np.int64)[None] & bits > 0,
                np.array(counted, np.int64)[None] & bits > 0,
                int(wanted),
            )
            for category, (scores, right, counted, wanted) in stored.items()
        }

    def draw_truth(self, pixels: Pixels8, truth: Boxes) -> Image.Image:
        return draw_boxes(pixels, truth, self._categories)

    def draw(self, pixels: Pixels8) -> Image.Image:
        sure = [box for box in self._find(pixels) if box["score"] >= SHOWN_SCORE]
        return draw_boxes(pixels, sorted(sure, key=lambda box: float(box["score"])), self._categories)

    def _find(self, pixels: Pixels8) -> Boxes:
        return [
            {"bbox": [left, top, right - left, bottom - top], "category_id": self._matched[label], "score": score}
            for (left, top, right, bottom), label, score in zip(*self._network.find_boxes(pixels), strict=True)
            if label in self._matched
        ]


def match_boxes(found: Boxes, truth: Boxes) -> dict[int, Matches]:
    """What was found against what is right in one picture, by category, as COCO matches it.

    The surest box chooses first, of what is left the one that it overlaps most. What it shares with a crowd is measured
    by its own area, and a crowd may be chosen by many, which count as neither right nor wrong.
    """
    out = {}
    for category in sorted({int(box["category_id"]) for box in (*found, *truth)}):
        sure = sorted((box for box in found if box["category_id"] == category), key=lambda box: -float(box["score"]))
        there = sorted((box for box in truth if box["category_id"] == category), key=lambda box: int(box["iscrowd"]))
        crowds = np.array([bool(box["iscrowd"]) for box in there], bool)
        out[category] = _match(sure[:MOST_BOXES], there, crowds)
    return out


def _match(sure: Boxes, there: Boxes, crowds: NDArray[np.bool_]) -> Matches:
    """Boxes of one category, best first, with what is right, crowds last."""
    shape = len(OVERLAPS), len(sure)
    right, counted = np.zeros(shape, bool), np.ones(shape, bool)
    overlaps = _compute_overlaps(sure, there, crowds)
    for level, least in enumerate(OVERLAPS):
        free = np.ones(len(there), bool)
        for number in range(len(sure)):
            # What is no crowd comes first, however much of a crowd it overlaps.
            for group in (free & ~crowds, crowds):
                near = np.flatnonzero(group & (overlaps[number] >= least))
                if near.size:
                    # Of two alike the later, as COCO's own program has it.
                    best = near[::-1][overlaps[number, near[::-1]].argmax()]
                    free[best] = False
                    right[level, number] = not crowds[best]
                    counted[level, number] = not crowds[best]
                    break
    scores = np.array([box["score"] for box in sure], np.float64)
    return Matches(scores, right, counted, int((~crowds).sum()))


def _compute_overlaps(found: Boxes, truth: Boxes, crowds: NDArray[np.bool_]) -> NDArray[np.float64]:
    """``(len(found), len(truth))``."""
    a, b = (np.array([box["bbox"] for box in boxes], np.float64).reshape(-1, 4) for boxes in (found, truth))
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=2)
    areas = a[:, 2:].prod(axis=1)[:, None], b[:, 2:].prod(axis=1)[None]
    whole = np.where(crowds[None], areas[0], areas[0] + areas[1] - shared)
    overlaps: NDArray[np.float64] = shared / np.maximum(whole, 1e-12)
    return overlaps


def compute_mean_average_precision(results: Sequence[Mapping[int, Matches]]) -> dict[str, float]:
    """``map`` and ``map_50`` of each picture's matches, over the categories that occur in them.

    0 where nothing is there to be found.
    """
    by_category = defaultdict[int, list[Matches]](list)
    for result in results:
        for category, matches in result.items():
            by_category[category].append(matches)
    precisions = [
        _average_precision(matches)
        for matches in by_category.values()
        if sum(one.wanted for one in matches)  # what occurs in no picture is not held against the network
    ]
    if not precisions:
        return {"map": 0.0, "map_50": 0.0}
    mean = np.mean(precisions, axis=0)
    return {"map": float(mean.mean()), "map_50": float(mean[0])}


def _average_precision(matches: Sequence[Matches]) -> NDArray[np.float64]:
    """Of one category at each of ``OVERLAPS``."""
    scores = np.concatenate([one.scores for one in matches])
    order = np.argsort(-scores, kind="stable")
    right, counted = (
        np.concatenate([getattr(one, name) for one in matches], axis=1)[:, order] for name in ("right", "counted")
    )
    found, tried = right.cumsum(axis=1), counted.cumsum(axis=1)
    precision = found / np.maximum(tried, 1)
    # From here to any higher recall.
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = found / sum(one.wanted for one in matches)
    places = [np.searchsorted(each, RECALLS) for each in recall]
    padded = np.pad(precision, ((0, 0), (0, 1)))
    return np.array([each[place].mean() for each, place in zip(padded, places, strict=True)])


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


def draw_boxes(pixels: Pixels8, boxes: Boxes, categories: Mapping[int, str]) -> Image.Image:
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
