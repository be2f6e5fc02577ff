"""Networks as ONNX files: a description beside each says how a picture goes in, and how what comes out is read.

A description is a JSON file with the fields of ``Description``, beside the network under its name
(``yolox_nano.json``), or in ``studies/downstream/descriptions``::

    {"kind": "detection", "size": [416, 416], "fit": "letterbox", "resample": "point", "channels": "bgr",
     "decoding": "yolox", "labels": "coco"}
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from studies.downstream.labels import LABELS
from unjpeg.errors import MeasurementError, SettingError
from unjpeg.evaluate.pairs import Pixels8

__all__ = ["Description", "OnnxNetwork", "find_description", "read_description", "suppress_overlaps"]

Floats = NDArray[np.float32]

NetworkKind = Literal["detection", "segmentation", "classification"]

Decoding = Literal["yolox", "centres", "corners", "logits", "numbers"]

DECODINGS: dict[str, tuple[Decoding, ...]] = {
    "detection": ("yolox", "centres", "corners"),
    "segmentation": ("logits", "numbers"),
    "classification": ("logits",),
}
"""What each kind of network can be read by."""

FOLDER = Path(__file__).parent / "descriptions"

VERSION = 1
"""Another one whenever what is found in the same picture by the same file may change."""


@dataclass(frozen=True, slots=True)
class Description:
    """How a network is fed and read.

    Attributes:
        kind: what it is for.
        size: height and width of its input.
        decoding: what its output is.
            ``yolox``: one array of rows ``x, y, log w, log h, object, classes...``, in cells of the grids of
            ``strides``, one below the other. ``centres``: one array of ``x, y, w, h, classes...`` in pixels of the
            input, a box a row or a column. ``corners``: two arrays, boxes as left, top, right, bottom in pixels of
            the input, and scores by class. ``logits``: one array of scores by class, of the picture or of each
            pixel. ``numbers``: one array of the numbers of classes, of each pixel.
        fit: ``stretch`` to the input; ``letterbox``: made to fit at the top left, the rest filled; ``crop``: the
            middle ``share`` of the short side.
        resample: ``bilinear`` or ``bicubic`` as Pillow has them, which average where they make smaller; or ``point``:
            bilinear between the four nearest pixels alone, as OpenCV.
        channels: their order.
        highest: what white is, before ``mean`` is taken off and ``std`` is divided by.
        mean, std: of each channel, in that order.
        fill: of the letterbox, 0..255.
        share: of the short side that ``crop`` keeps.
        strides: of ``yolox``.
        least_score: boxes below are dropped.
        most_overlap: IoU beyond which a box of the same class is the same thing.
        labels: names by number, or a name of ``LABELS``; empty for a network that numbers what the data numbers.
    """

    kind: NetworkKind
    size: tuple[int, int]
    decoding: Decoding
    fit: Literal["stretch", "letterbox", "crop"] = "stretch"
    resample: Literal["bilinear", "bicubic", "point"] = "bilinear"
    channels: Literal["rgb", "bgr"] = "rgb"
    highest: float = 255.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    fill: int = 114
    share: float = 0.875
    strides: tuple[int, ...] = (8, 16, 32)
    least_score: float = 0.01
    most_overlap: float = 0.65
    labels: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in DECODINGS:
            raise ValueError(f"kind must be one of {', '.join(DECODINGS)}, got {self.kind!r}")
        if self.decoding not in DECODINGS[self.kind]:
            raise ValueError(f"decoding of {self.kind} must be one of {', '.join(DECODINGS[self.kind])}")
        for name in ("fit", "resample", "channels"):
            known = get_args(_HINTS[name])
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.fit == "crop" and self.kind != "classification":
            raise ValueError("crop leaves parts of the picture out: it is for classification alone")
        lengths = {"size": 2, "mean": 3, "std": 3}
        wrong = [name for name, length in lengths.items() if len(getattr(self, name)) != length]
        if wrong:
            raise ValueError(f"{wrong[0]} needs {lengths[wrong[0]]} numbers")
        if min(self.size) < 1 or min(self.std) <= 0 or not 0 < self.share <= 1:
            raise ValueError("size, std and share must be positive, share at most 1")
        if isinstance(self.labels, str) and self.labels not in LABELS:
            raise ValueError(f"labels must be a list, or one of {', '.join(LABELS)}, got {self.labels!r}")


_HINTS = {
    "fit": Literal["stretch", "letterbox", "crop"],
    "resample": Literal["bilinear", "bicubic", "point"],
    "channels": Literal["rgb", "bgr"],
}


def read_description(path: Path) -> Description:
    """A description's file. Raises SettingError, which says what is wrong with it."""
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        unknown = sorted(set(stored) - {field.name for field in fields(Description)})
        if unknown:
            raise ValueError(f"there is no field {unknown[0]!r}")
        given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in stored.items()}
        return Description(**given)
    except (OSError, ValueError, TypeError) as error:
        raise SettingError(f"{path}: describes no network ({error})") from error


def find_description(network: Path) -> Path:
    """Beside the network, or among ours. Raises SettingError."""
    for path in (network.with_suffix(".json"), FOLDER / f"{network.stem}.json"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.json")))
    raise SettingError(
        f"{network}: no {network.stem}.json beside it says how it is fed and read, and it is none of {known}; "
        "write one (studies/downstream/onnxfile.py), or name it: --description FILE"
    )


@dataclass(frozen=True, slots=True)
class _Placement:
    """Where the picture lies in the input: its size there, from the top left corner."""

    height: int
    width: int


class OnnxNetwork:
    """A network that ONNX Runtime runs on the CPU, with one thread.

    Args:
        path: of the ONNX file.
        kind: what it has to be for.
        description: its file; where None, the one that ``find_description`` finds.

    Attributes:
        description: as read.
        labels: names of what it finds, by number.
        identity: changes with the file, its description, and the runtime's version.

    Raises:
        SettingError: there is no such file, or no description of it.
        MeasurementError: it cannot be loaded, or is not what the description says.
    """

    def __init__(self, path: Path, kind: NetworkKind, description: Path | None = None) -> None:
        if not path.is_file():
            raise SettingError(f"{path}: no such file")
        self.description = read_description(description or find_description(path))
        if self.description.kind != kind:
            raise MeasurementError(f"{path}: a network for {self.description.kind}, not one for {kind}")
        self._path, content = path, path.read_bytes()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime has an exception class for each kind of failure, none in common
            reason = " ".join(str(error).split())
            raise MeasurementError(f"{path}: ONNX Runtime cannot load it ({reason})") from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
            raise MeasurementError(f"{path}: must take one array of float32 with four axes")
        self._input, shape = inputs[0].name, inputs[0].shape
        self._last = shape[1] != 3 and shape[3] == 3
        height, width = shape[1:3] if self._last else shape[2:]
        for given, stated in zip((height, width), self.description.size, strict=True):
            if isinstance(given, int) and given != stated:
                raise MeasurementError(f"{path}: takes pictures of {height}x{width}, not of {self.description.size}")
        names = self.description.labels
        self.labels = dict(enumerate(LABELS[names] if isinstance(names, str) else names))
        if not self.labels and kind != "classification":
            self.labels = {number: f"LABEL_{number}" for number in range(self._count_classes())}
        described = json.dumps(asdict(self.description), sort_keys=True)
        digest = hashlib.sha256(content + described.encode()).hexdigest()[:16]
        self.identity = f"onnxruntime {onnxruntime.__version__} {digest} {VERSION}"

    def find_boxes(self, pixels: Pixels8) -> tuple[list[list[float]], list[int], list[float]]:
        """Boxes as left, top, right, bottom in pixels, with a label and a score in 0..1 each, best first.

        Raises MeasurementError if the output is not as described.
        """
        how = self.description
        outputs, placement = self._run(pixels)
        boxes, scores = self._decode_boxes(outputs)
        self._check_count(scores.shape[1])
        labels, best = scores.argmax(axis=1), scores.max(axis=1)
        sure = np.flatnonzero(best >= how.least_score)
        kept = sure[suppress_overlaps(boxes[sure], best[sure], labels[sure], how.most_overlap)]
        height, width = pixels.shape[:2]
        scale = np.array([width / placement.width, height / placement.height] * 2)
        found = (boxes[kept] * scale).clip(0, [width, height] * 2)
        return found.tolist(), labels[kept].tolist(), best[kept].tolist()

    def find_labels(self, pixels: Pixels8) -> NDArray[np.int64]:
        """A label for each pixel, ``(H, W)``. Raises MeasurementError if the output is not as described."""
        (output, *_), placement = self._run(pixels)
        side = self.description.size
        if self.description.decoding == "numbers":
            numbers = output.reshape(output.shape[-2:]) if math.prod(output.shape[:-2]) == 1 else output
            self._check(numbers.ndim == 2, f"numbers of classes as (1, H, W), gives {output.shape}")
            planes = numbers[None].astype(np.float32)
        else:
            self._check(output.ndim == 4 and len(output) == 1, f"logits as (1, classes, H, W), gives {output.shape}")
            planes = output[0]
            self._check_count(len(planes))
        rows, columns = planes.shape[1:]
        # What the letterbox has filled is no part of the picture.
        inside = (0, 0, columns * placement.width / side[1], rows * placement.height / side[0])
        nearest = self.description.decoding == "numbers"
        resample = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
        size = pixels.shape[1], pixels.shape[0]
        large = [np.asarray(Image.fromarray(plane).resize(size, resample, box=inside)) for plane in planes]
        labels: NDArray[np.int64] = (large[0] if nearest else np.argmax(large, axis=0)).astype(np.int64)
        return labels

    def rank_classes(self, pixels: Pixels8) -> NDArray[np.int64]:
        """All classes' numbers, the likeliest first. Raises MeasurementError if the output is not as described."""
        (output, *_), _ = self._run(pixels)
        self._check(output.size == output.shape[-1], f"logits as (1, classes), gives {output.shape}")
        ranked: NDArray[np.int64] = np.argsort(-output.ravel(), kind="stable")
        return ranked

    def _run(self, pixels: Pixels8) -> tuple[Sequence[NDArray[Any]], _Placement]:
        image, placement = self._place(Image.fromarray(pixels).convert("RGB"))
        how = self.description
        values: Floats = np.asarray(image, np.float32)
        if how.channels == "bgr":
            values = values[..., ::-1]
        mean, deviation = np.array(how.mean, np.float32), np.array(how.std, np.float32)
        values = (values * np.float32(how.highest / 255) - mean) / deviation
        given = values[None] if self._last else values.transpose(2, 0, 1)[None]
        try:
            outputs = self._session.run(None, {self._input: np.ascontiguousarray(given)})
        except Exception as error:  # as above
            raise MeasurementError(f"{self._path}: cannot be run ({' '.join(str(error).split())})") from error
        return outputs, placement

    def _place(self, image: Image.Image) -> tuple[Image.Image, _Placement]:
        how = self.description
        height, width = how.size
        if how.fit == "stretch":
            return self._resize(image, width, height), _Placement(height, width)
        if how.fit == "letterbox":
            ratio = min(height / image.height, width / image.width)
            inner = _Placement(max(1, int(image.height * ratio)), max(1, int(image.width * ratio)))
            sheet = Image.new("RGB", (width, height), (how.fill,) * 3)
            sheet.paste(self._resize(image, inner.width, inner.height), (0, 0))
            return sheet, inner
        ratio = how.share * min(image.height / height, image.width / width)
        around = ratio * width, ratio * height
        left, top = (image.width - around[0]) / 2, (image.height - around[1]) / 2
        box = left, top, left + around[0], top + around[1]
        return self._resize(image, width, height, box), _Placement(height, width)

    def _resize(
        self, image: Image.Image, width: int, height: int, box: tuple[float, float, float, float] | None = None
    ) -> Image.Image:
        left, top, right, bottom = box or (0, 0, image.width, image.height)
        if self.description.resample == "point":
            across, down = (right - left) / width, (bottom - top) / height
            step = (across, 0, left, 0, down, top)
            return image.transform((width, height), Image.Transform.AFFINE, step, Image.Resampling.BILINEAR)
        bicubic = self.description.resample == "bicubic"
        how = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
        return image.resize((width, height), how, box=(left, top, right, bottom))

    def _decode_boxes(self, outputs: Sequence[NDArray[Any]]) -> tuple[Floats, Floats]:
        """Corners in pixels of the input, ``(N, 4)``, and scores, ``(N, classes)``."""
        if self.description.decoding == "corners":
            self._check(len(outputs) >= 2, f"two arrays, gives {len(outputs)}")
            boxes, scores = (output.reshape(-1, output.shape[-1]) for output in outputs[:2])
            fine = boxes.shape[1] == 4 and len(boxes) == len(scores)
            self._check(fine, f"boxes as (1, N, 4) and scores as (1, N, classes), gives {boxes.shape}, {scores.shape}")
            return cast(Floats, boxes), cast(Floats, scores)
        rows = outputs[0]
        self._check(rows.ndim == 3 and len(rows) == 1, f"one array (1, N, values), gives {rows.shape}")
        rows = rows[0]
        if self.description.decoding == "centres":
            # Boxes outnumber what is said of each, so the longer axis is theirs.
            rows = rows if rows.shape[0] >= rows.shape[1] else rows.T
            middle, size, scores = rows[:, :2], rows[:, 2:4], rows[:, 4:]
        else:
            cells, strides = _lay_grids(self.description.size, self.description.strides)
            self._check(len(cells) == len(rows), f"{len(cells)} rows for its strides, gives {len(rows)}")
            middle = (rows[:, :2] + cells) * strides
            size = np.exp(rows[:, 2:4].clip(max=20)) * strides
            scores = rows[:, 4:5] * rows[:, 5:]
        self._check(scores.shape[1] > 0, f"scores of classes, gives {outputs[0].shape}")
        return np.concatenate([middle - size / 2, middle + size / 2], axis=1), scores

    def _count_classes(self) -> int:
        """That it tells apart, where its description does not name them."""
        outputs, _ = self._run(np.zeros((*self.description.size, 3), np.uint8))
        if self.description.kind == "detection":
            return int(self._decode_boxes(outputs)[1].shape[1])
        self._check(self.description.decoding == "logits" and outputs[0].ndim == 4, "labels in the description")
        return int(outputs[0].shape[1])

    def _check_count(self, count: int) -> None:
        self._check(len(self.labels) == count, f"{len(self.labels)} classes, gives {count}")

    def _check(self, fine: bool, wanted: str) -> None:
        if not fine:
            raise MeasurementError(f"{self._path}: is not read as {self.description.decoding}: wanted {wanted}")


def suppress_overlaps(boxes: Floats, scores: Floats, labels: NDArray[np.int64], most: float) -> NDArray[np.int64]:
    """Which boxes stay, best first: none that overlaps a better one of its label by an IoU above ``most``.

    Args:
        boxes: corners, ``(N, 4)``.
        scores, labels: ``(N,)``.
    """
    order = np.argsort(-scores, kind="stable")
    sizes = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    areas = sizes[:, 0] * sizes[:, 1]
    kept: list[int] = []
    while order.size:
        best, order = int(order[0]), order[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[order, :2])
        sides = np.maximum(np.minimum(boxes[best, 2:], boxes[order, 2:]) - low, 0)
        shared = sides[:, 0] * sides[:, 1]
        iou = shared / np.maximum(areas[best] + areas[order] - shared, 1e-12)
        order = order[(iou <= most) | (labels[order] != labels[best])]
    return np.array(kept, np.int64)


def _lay_grids(size: tuple[int, int], strides: Sequence[int]) -> tuple[Floats, Floats]:
    """Each cell's column and row, ``(cells, 2)``, and its stride, ``(cells, 1)``."""
    cells, widths = [], []
    for stride in strides:
        rows, columns = np.indices((size[0] // stride, size[1] // stride))
        cells.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        widths.append(np.full((cells[-1].shape[0], 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(widths).astype(np.float32)
