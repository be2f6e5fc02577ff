"""ARCNN (Dong et al., 2015, arXiv 1504.06993): four convolutions, the first network for JPEG artifacts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from unjpeg.models.backbone import Backbone, Features

__all__ = ["ArCnn", "ArCnnConfig"]


@dataclass(frozen=True, slots=True)
class ArCnnConfig:
    """Size of an ARCNN. The defaults are the published network, 0.1 M parameters.

    Attributes:
        widths: channels after the first three convolutions (feature extraction, enhancement, mapping).
        split: convolutions in the feature extractor.
        image_channels: 1 (grey) or 3.
    """

    widths: tuple[int, int, int] = (64, 32, 16)
    split: int = 2
    image_channels: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.split <= 3:
            raise ValueError(f"ArCnnConfig.split must lie in 1..3, got {self.split}")
        if len(self.widths) != 3 or min(self.widths) < 1:
            raise ValueError(f"ArCnnConfig.widths must be three positive numbers, got {self.widths}")


class ArCnn(Backbone):
    """The whole network, kernels 9, 7, 1 and 5; no skip, as published. Shapes as ``Backbone`` says."""

    def __init__(self, config: ArCnnConfig) -> None:
        super().__init__()
        self.config = config
        self.image_channels = config.image_channels
        channels = (config.image_channels, *config.widths)
        self.feature_channels = channels[config.split]
        kernels = (9, 7, 1)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels[i], channels[i + 1], kernel, padding=kernel // 2),
                nn.ReLU(inplace=True),
            )
            for i, kernel in enumerate(kernels)
        )
        self.reconstruction = nn.Conv2d(channels[-1], config.image_channels, 5, padding=2)

    def extract(self, image: Tensor, stated: Tensor | None = None) -> Features:  # noqa: ARG002 (not told)
        x = image
        for layer in list(self.layers)[: self.config.split]:
            x = layer(x)
        return Features(x)

    def denoise(self, features: Features) -> Tensor:
        x = features.seen
        for layer in list(self.layers)[self.config.split :]:
            x = layer(x)
        restored: Tensor = self.reconstruction(x)
        return restored
