"""A model file's graphs as torch modules: what is exported, and the way back."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from unjpeg.errors import TrainingError
from unjpeg.modelfile import ModelFile
from unjpeg.models.dagn import Dagn, DagnConfig, GuidanceTensors

__all__ = ["Guide", "Restore", "load_exported"]

_PREFIX = "network."


class Guide(nn.Module):
    """The graph ``guide``: one window ``(1, 3, S, S)`` to its guidance and the quality's probabilities ``(1, 100)``."""

    def __init__(self, network: Dagn) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        guidance, quality = self.network.guide_and_read(image)
        return guidance.insensitive, guidance.sensitive, guidance.fusion, quality


class Restore(nn.Module):
    """The graph ``restore``: a tile ``(1, 3, H, W)`` under an image's guidance to the same, not clipped."""

    inputs = ("image", "insensitive", "sensitive", "fusion", "stated")

    def __init__(self, network: Dagn) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, insensitive: Tensor, sensitive: Tensor, fusion: Tensor, stated: Tensor) -> Tensor:
        return self.network.restore(image, GuidanceTensors(insensitive, sensitive, fusion, stated))


def load_exported(file: ModelFile) -> Dagn:
    """The torch module with a model file's weights (rounded to fp16 as stored), for further training."""
    network = Dagn(DagnConfig(**file.description.network))
    stored: dict[str, Tensor] = {}
    for graph in (file.guide, file.restore):
        for initialiser in onnx.load_from_string(graph).graph.initializer:
            if initialiser.name.startswith(_PREFIX):
                array = numpy_helper.to_array(initialiser).astype(np.float32)
                stored[initialiser.name.removeprefix(_PREFIX)] = torch.from_numpy(array)
    # Batch norm's step counters take no part in the computation, and graphs do not hold them. The parts that a
    # configuration leaves out (no guidance, no fusion) are not in the graphs either.
    absent = [
        key
        for key in network.load_state_dict(stored, strict=False).missing_keys
        if not key.endswith("num_batches_tracked")
    ]
    needed = [key for key in absent if not _is_switched_off(key, network.config)]
    if needed:
        raise TrainingError(f"the model file lacks weights that the network needs: {', '.join(needed[:3])}")
    return network.eval()


def _is_switched_off(key: str, config: DagnConfig) -> bool:
    part = key.split(".")[0]
    return (
        (part == "insensitive_guider" and not config.insensitive_guidance)
        or (part == "sensitive_guider" and not config.sensitive_guidance)
        or (part == "fusion_conv3" and not config.fusion)
        or (key.startswith("stages.") and key.split(".")[2] == "insensitive" and Dagn.insensitive_blocks_off(config))
    )
