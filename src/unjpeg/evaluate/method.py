"""What a method is: something that makes a picture of a compressed file; ``methods`` has those that there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from unjpeg.errors import MeasurementError
from unjpeg.evaluate.pairs import Pixels8

__all__ = ["Complexity", "Method", "shape_like"]


@dataclass(frozen=True, slots=True)
class Complexity:
    """What a network is, whatever it runs on.

    Attributes:
        parameters_m: millions.
        multiply_adds_g: thousand millions, for one colour picture of 512x512.
    """

    parameters_m: float
    multiply_adds_g: float


class Method(ABC):
    """Something that makes a picture of a compressed file.

    Attributes:
        name: in tables.
        spec: what ``method_by_name`` makes it of.
        identity: changes whenever its results may.
    """

    name: str
    spec: str
    identity: str

    @abstractmethod
    def restore(self, file: bytes) -> Pixels8:
        """The restored picture, ``(H, W)`` or ``(H, W, 3)``. Raises UnjpegError."""

    def count_complexity(self) -> Complexity | None:
        """What it computes with, if it is a network and torch is there to count it."""
        return None


def shape_like(pixels: Pixels8, original: Pixels8) -> Pixels8:
    """A result as grey or RGB as its original. Raises MeasurementError if the sizes differ."""
    if pixels.shape[:2] != original.shape[:2]:
        raise MeasurementError(f"made {_format_size(pixels)} pixels of {_format_size(original)}")
    if pixels.ndim == original.ndim:
        return pixels
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    grey: Pixels8 = np.rint(pixels.astype(np.float32).mean(axis=2)).astype(np.uint8)
    return grey


def _format_size(pixels: Pixels8) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
