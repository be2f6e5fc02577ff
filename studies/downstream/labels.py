"""Names of what networks find and data sets hold, and their colours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from unjpeg.errors import MeasurementError

__all__ = ["LABELS", "choose_colour", "choose_ink", "match_labels"]

LABELS: dict[str, tuple[str, ...]] = {
    "voc": (
        *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
        *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
    ),
    "coco": (
        *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
        *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
        *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
        *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
        *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
        *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
        *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard"),
        *("cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors"),
        *("teddy bear", "hair drier", "toothbrush"),
    ),
}
"""Names that a description can ask for by one word; a name's place is its number."""


_SYNONYMS = {"aeroplane": "airplane", "motorbike": "motorcycle", "sofa": "couch", "tvmonitor": "tv"}
"""What COCO has renamed of VOC's classes."""


def match_labels(labels: Mapping[int, str], categories: Mapping[int, str]) -> dict[int, int]:
    """Which of a data set's categories each of a network's labels means; labels without one are left out.

    Names are compared without case and blanks, VOC's as COCO has them. A network that names none of its labels
    (``LABEL_3``) is taken to have the categories' numbers.

    Raises MeasurementError if no label means anything.
    """
    if all(re.fullmatch(r"LABEL_\d+", name) for name in labels.values()):
        found = {number: number for number in labels if number in categories}
    else:
        wanted = {_simplify(name): number for number, name in categories.items()}
        found = {number: wanted[_simplify(name)] for number, name in labels.items() if _simplify(name) in wanted}
    if not found:
        some = ", ".join(list(labels.values())[:3])
        raise MeasurementError(f"none of the network's labels ({some}, ...) is a category of the data set")
    return found


def choose_colour(number: int) -> tuple[int, int, int]:
    """Of a category, as VOC's masks have it: near numbers look different."""
    channels = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            channels[channel] |= (number >> (3 * place + channel) & 1) << (7 - place)
    return channels[0], channels[1], channels[2]


def choose_ink(ground: tuple[int, int, int]) -> str:
    """The colour of letters on another colour."""
    return "white" if sum(ground) < 384 else "black"


def _simplify(name: str) -> str:
    letters = re.sub(r"[^a-z0-9]", "", name.lower())
    return _SYNONYMS.get(letters, letters)
