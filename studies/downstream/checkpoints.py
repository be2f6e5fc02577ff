"""Detection and segmentation networks of the ``transformers`` library, from a folder or the library's cache.

Nothing is downloaded, and torchvision is not needed: pictures are prepared by each checkpoint's own settings, with
Pillow.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForObjectDetection,
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
)

from unjpeg.errors import MeasurementError, SettingError
from unjpeg.evaluate.pairs import Pixels8

__all__ = ["Checkpoint"]

_KINDS = {
    "detection": (AutoModelForObjectDetection,),
    "segmentation": (AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation),
}


class Checkpoint:
    """A network with its preparation of pictures.

    Args:
        checkpoint: a folder, or a name in the library's cache.
        kind: "detection" or "segmentation".

    Attributes:
        labels: the network's own names of what it finds, by number.
        identity: changes with the network's weights, its settings, and the library's version.

    Raises:
        SettingError: there is nothing of that name here.
        MeasurementError: it is no network of that kind.
    """

    def __init__(self, checkpoint: str, kind: str) -> None:
        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            config = AutoConfig.from_pretrained(checkpoint, **local)
            autos = [auto for auto in _KINDS[kind] if type(config) in auto._model_mapping]
            if not autos:
                raise ValueError(f"a network of type {config.model_type}, not one for {kind}")
            model, report = autos[0].from_pretrained(
                checkpoint, output_loading_info=True, dtype=torch.float32, use_safetensors=True, **local
            )
            self._processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
                checkpoint, backend="pil", **local
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            if isinstance(error, OSError) and not Path(checkpoint).exists():
                lacks = f"{checkpoint}: no such folder, nor anything of that name in the library's cache"
                raise SettingError(lacks) from error
            reason = " ".join(str(error).split())
            raise MeasurementError(
                f"{checkpoint}: no network for {kind} can be loaded from there ({reason})"
            ) from error
        if report["missing_keys"]:
            raise MeasurementError(
                f"{checkpoint}: holds no weights for {kind} ({sorted(report['missing_keys'])[0]} lacks)"
            )
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.eval().to(self._device)
        self.labels: dict[int, str] = {int(number): name for number, name in config.id2label.items()}
        self.identity = (
            f"transformers {transformers.__version__} {_hash(model.state_dict(), self._processor.to_dict())}"
        )

    @torch.inference_mode()
    def find_boxes(self, pixels: Pixels8) -> tuple[list[list[float]], list[int], list[float]]:
        """Boxes as left, top, right, bottom in pixels, with a label and a score in 0..1 each."""
        outputs = self._run(pixels)
        (found,) = self._processor.post_process_object_detection(
            outputs, threshold=0.0, target_sizes=[pixels.shape[:2]]
        )
        return found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist()

    @torch.inference_mode()
    def find_labels(self, pixels: Pixels8) -> NDArray[np.int64]:
        """A label for each pixel, ``(H, W)``."""
        outputs = self._run(pixels)
        (found,) = self._processor.post_process_semantic_segmentation(outputs, target_sizes=[pixels.shape[:2]])
        labels: NDArray[np.int64] = found.cpu().numpy().astype(np.int64)
        return labels

    def _run(self, pixels: Pixels8) -> Any:
        inputs = self._processor(images=Image.fromarray(pixels).convert("RGB"), return_tensors="pt")
        return self._model(**inputs.to(self._device))


def _hash(weights: Mapping[str, torch.Tensor], settings: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode() + tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
