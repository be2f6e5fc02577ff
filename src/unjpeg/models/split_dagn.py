"""A DAGN as CARN-DA's backbone: cut behind its first convolution and first residual block."""

from __future__ import annotations

import torch
from torch import Tensor

from unjpeg.models.backbone import Backbone, Features
from unjpeg.models.dagn import Dagn
from unjpeg.tables import STATED_FEATURES

__all__ = ["SplitDagn"]


class SplitDagn(Backbone):
    """Adapts a DAGN in place; its frozen encoders stay frozen, and run for the denoiser alone, which they guide.

    A grey image is shown to it as three equal channels, and the mean of its output's channels is taken, as
    ``unjpeg restore`` does.

    Args:
        dagn: the network; afterwards it holds the adapted weights.
        image_channels: 1 (grey) or 3.
    """

    def __init__(self, dagn: Dagn, image_channels: int = 3) -> None:
        super().__init__()
        self.dagn = dagn
        self.image_channels = image_channels
        self.feature_channels, self.feature_stride = dagn.config.width, dagn.config.stem
        self.total_stride = dagn.config.total_stride

    def extract(self, image: Tensor, stated: Tensor | None = None) -> Features:
        colour = image.expand(-1, 3, -1, -1)
        if stated is None:
            stated = image.new_zeros(len(image), STATED_FEATURES)
        return Features(self.dagn.shallow(colour, stated), (colour, stated))

    def denoise(self, features: Features) -> Tensor:
        shallow, (colour, stated) = features
        restored = self.dagn.deep(shallow, colour, self.dagn.guide(colour, stated))
        return torch.mean(restored, dim=1, keepdim=True) if self.image_channels == 1 else restored
