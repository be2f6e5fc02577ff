"""Contours on BSDS500, where people have drawn them, and what a classical detector finds of them.

The detector is Canny's without his hysteresis: gradients of Gaussian-smoothed colour, thinned across the contour. It is
scored as the Berkeley benchmark does: a contour pixel counts if it can be matched one to one with one that a person has
drawn no further than 0.75 % of the diagonal away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
from scipy.ndimage import gaussian_filter, grey_dilation, map_coordinates
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from studies.downstream.task import DrawnTask
from unjpeg.datasets import image_files
from unjpeg.errors import TrainingDataError
from unjpeg.evaluate.pairs import Pixels8, load_image

__all__ = ["ContourCounts", "Contours", "count_contours", "measure_contours"]

SIGMA = 2.0
THRESHOLDS = np.geomspace(1, 25, 20)
"""Strengths at which contours are cut off, in levels of 255 per pixel."""

SHOWN_STRENGTH = THRESHOLDS[len(THRESHOLDS) // 2]
"""Contours that are drawn are at least so strong."""

SHOWN_INK, SHOWN_GREY = (255, 210, 40), 0.5

MAX_DISTANCE = 0.0075
"""Of the diagonal: how far apart matched pixels may lie."""


@dataclass(frozen=True, slots=True)
class ContourCounts:
    """Pixels of one picture, at each threshold, ``(len(THRESHOLDS),)``.

    Attributes:
        found: that the detector gives.
        right: of those, matched by any person.
        drawn_found: drawn pixels that are matched, summed over the people.
        drawn: pixels that all people have drawn; the same at each threshold.
    """

    found: NDArray[np.int64]
    right: NDArray[np.int64]
    drawn_found: NDArray[np.int64]
    drawn: int


class Contours(DrawnTask[list[NDArray[np.bool_]], ContourCounts]):
    """F-measure with one threshold for all pictures (ODS) and with the best one for each (OIS).

    Args:
        images, boundaries: folders of the pictures and of the ``.mat`` files of the same names.
    """

    name = "contours"
    figures = ("ods", "ois")
    resamples = 300
    identity = "gradients of smoothed colour, 2"  # another number whenever the detector or its counting changes

    def __init__(self, images: Path, boundaries: Path) -> None:
        self._images, self._boundaries = images, boundaries

    def list_names(self) -> Sequence[str]:
        return [file.relative_to(self._images).as_posix() for file in image_files(self._images)]

    def load(self, name: str) -> tuple[Pixels8, list[NDArray[np.bool_]]]:
        """A picture, and what each person has drawn."""
        file = self._boundaries / f"{Path(name).stem}.mat"
        if not file.is_file():
            raise TrainingDataError(f"{file}: no boundaries for {name}")
        try:
            people = loadmat(file)["groundTruth"].ravel()
            drawn = [person["Boundaries"][0, 0].astype(bool) for person in people]
        except (OSError, ValueError, KeyError, IndexError, TypeError, MatReadError) as error:
            raise TrainingDataError(f"{file}: no boundaries as BSDS500 has them ({error})") from error
        return load_image(self._images / name), drawn

    def examine(self, pixels: Pixels8, truth: list[NDArray[np.bool_]]) -> ContourCounts:
        return count_contours(measure_contours(pixels), truth)

    def draw_truth(self, pixels: Pixels8, truth: list[NDArray[np.bool_]]) -> Image.Image:
        """What people have drawn, the brighter the more of them have."""
        return _draw_over(pixels, np.mean(truth, axis=0))

    def draw(self, pixels: Pixels8) -> Image.Image:
        return _draw_over(pixels, (measure_contours(pixels) >= SHOWN_STRENGTH).astype(np.float64))

    def to_json(self, result: ContourCounts) -> Any:
        return {name: np.asarray(value).tolist() for name, value in asdict(result).items()}

    def from_json(self, stored: Any) -> ContourCounts:
        arrays = {name: np.array(stored[name], np.int64) for name in ("found", "right", "drawn_found")}
        return ContourCounts(**arrays, drawn=int(stored["drawn"]))

    def summarise(self, results: Sequence[ContourCounts]) -> dict[str, float]:
        found, right, drawn_found = (
            np.stack([getattr(result, name) for result in results]) for name in ("found", "right", "drawn_found")
        )
        drawn = np.array([result.drawn for result in results])
        each = _compute_f_measure(found, right, drawn_found, drawn[:, None])
        best = np.arange(len(results)), each.argmax(axis=1)
        over_all = _compute_f_measure(found.sum(0), right.sum(0), drawn_found.sum(0), drawn.sum())
        by_image = _compute_f_measure(found[best].sum(), right[best].sum(), drawn_found[best].sum(), drawn.sum())
        return {"ods": float(over_all.max()), "ois": float(by_image)}


def measure_contours(pixels: Pixels8) -> NDArray[np.float64]:
    """Strength of contours one pixel wide, ``(H, W)``, in levels per pixel; 0 elsewhere."""
    channels = pixels.astype(np.float64).reshape(*pixels.shape[:2], -1)
    across, down = (
        np.stack([gaussian_filter(channels[..., i], SIGMA, order=order) for i in range(channels.shape[2])], axis=2)
        for order in ((0, 1), (1, 0))
    )
    strength = np.hypot(across, down)
    strongest = strength.argmax(axis=2)[..., None]
    across, down, strength = (np.take_along_axis(a, strongest, axis=2)[..., 0] for a in (across, down, strength))
    # Thinned: what is weaker than its neighbours one pixel along the gradient, interpolated, is no contour.
    length = np.maximum(strength, 1e-12)
    y, x = np.indices(strength.shape)
    step_y, step_x = down / length, across / length
    before, after = (
        map_coordinates(strength, (y + sign * step_y, x + sign * step_x), order=1, mode="nearest") for sign in (-1, 1)
    )
    thin: NDArray[np.float64] = np.where((strength >= before) & (strength > after), strength, 0.0)
    return thin


def _draw_over(pixels: Pixels8, strength: NDArray[np.float64]) -> Image.Image:
    """Contours of strength 0..1 over the picture, grey and dark."""
    grey = np.asarray(Image.fromarray(pixels).convert("L"), np.float64)[..., None] * SHOWN_GREY
    wide = grey_dilation(strength, size=(2, 2))[..., None]  # lines of one pixel would fade when they are made smaller
    return Image.fromarray((wide * SHOWN_INK + (1 - wide) * grey).round().astype(np.uint8))


def count_contours(strength: NDArray[np.float64], people: Sequence[NDArray[np.bool_]]) -> ContourCounts:
    """Match contours of each strength with what people have drawn, ``(H, W)`` each."""
    points = np.argwhere(strength >= THRESHOLDS[0])
    strengths = strength[tuple(points.T)]
    radius = MAX_DISTANCE * float(np.hypot(*strength.shape))
    right = np.zeros((len(THRESHOLDS), len(points)), bool)
    drawn_found = np.zeros(len(THRESHOLDS), np.int64)
    for person in people:
        near = _find_near(points, person, radius)
        for number, threshold in enumerate(THRESHOLDS):
            some = np.flatnonzero(strengths >= threshold)
            matched = _match(near[some])
            right[number, some[matched]] = True
            drawn_found[number] += matched.sum()
    found = (strengths[None] >= THRESHOLDS[:, None]).sum(axis=1)
    return ContourCounts(found, right.sum(axis=1), drawn_found, int(sum(person.sum() for person in people)))


def _match(near: csr_array) -> NDArray[np.bool_]:
    """Rows that have a partner in a largest matching of rows and columns, as a flow of one unit through each.

    scipy's ``maximum_bipartite_matching`` takes a minute for some pictures.
    """
    points, drawn = near.shape
    pairs = near.tocoo()
    source, sink = 0, points + drawn + 1
    starts = np.concatenate([np.full(points, source), 1 + pairs.row, 1 + points + np.arange(drawn)])
    ends = np.concatenate([1 + np.arange(points), 1 + points + pairs.col, np.full(drawn, sink)])
    graph = csr_array((np.ones(len(starts), np.int32), (starts, ends)), shape=(sink + 1, sink + 1))
    flow = maximum_flow(graph, source, sink).flow[[source]].toarray()[0]
    matched: NDArray[np.bool_] = flow[1 : 1 + points] > 0
    return matched


def _find_near(points: NDArray[np.int64], person: NDArray[np.bool_], radius: float) -> csr_array:
    """Which points and drawn pixels lie close enough to be matched, ``(len(points), drawn pixels)``."""
    reach = int(radius)
    numbers = np.full([side + 2 * reach for side in person.shape], -1, np.int64)
    inside = tuple(slice(reach, reach + side) for side in person.shape)
    numbers[inside][person] = np.arange(person.sum())
    rows, columns = [], []
    for offset in np.argwhere(np.ones((2 * reach + 1, 2 * reach + 1))):
        if np.hypot(*(offset - reach)) <= radius:
            found = numbers[tuple((points + offset).T)]
            there = np.flatnonzero(found >= 0)
            rows.append(there)
            columns.append(found[there])
    where = np.concatenate(rows), np.concatenate(columns)
    return csr_array((np.ones(len(where[0]), np.int8), where), shape=(len(points), int(person.sum())))


def _compute_f_measure(
    found: NDArray[np.int64], right: NDArray[np.int64], drawn_found: NDArray[np.int64], drawn: NDArray[np.int64]
) -> NDArray[np.float64]:
    precision = right / np.maximum(found, 1)
    recall = drawn_found / np.maximum(drawn, 1)
    f: NDArray[np.float64] = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return f
