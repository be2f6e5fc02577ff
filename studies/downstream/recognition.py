"""Networks that find things in pictures, whatever runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from unjpeg.errors import MeasurementError
from unjpeg.evaluate.pairs import Pixels8

__all__ = ["Kind", "Recogniser", "open_recogniser"]

Kind = Literal["detection", "segmentation"]


class Recogniser(Protocol):
    """A network with its preparation of pictures.

    Attributes:
        labels: the network's own names of what it finds, by number.
        identity: changes whenever what it finds may.
    """

    labels: dict[int, str]
    identity: str

    def find_boxes(self, pixels: Pixels8) -> tuple[list[list[float]], list[int], list[float]]:
        """Boxes as left, top, right, bottom in pixels, with a label and a score in 0..1 each."""
        ...

    def find_labels(self, pixels: Pixels8) -> NDArray[np.int64]:
        """A label for each pixel, ``(H, W)``."""
        ...


def open_recogniser(network: str, kind: Kind, description: Path | None = None) -> Recogniser:
    """An ONNX file with its description, or a ``transformers`` checkpoint.

    Args:
        network: a path that ends in ``.onnx``; or a checkpoint's folder, or its name in the library's cache.
        description: of the ONNX file; where None, as ``onnxfile.find_description``.

    Raises:
        SettingError: there is nothing of that name here.
        MeasurementError: it is no network of that kind.
    """
    if network.endswith(".onnx"):
        from studies.downstream.onnxfile import OnnxNetwork

        return OnnxNetwork(Path(network), kind, description)
    try:
        from studies.downstream.checkpoints import Checkpoint
    except ModuleNotFoundError as error:
        raise MeasurementError(f"{error.name} is not installed: pip install 'unjpeg[downstream]'") from error
    return Checkpoint(network, kind)
