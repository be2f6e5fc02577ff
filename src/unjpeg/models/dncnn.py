"""DnCNN (Zhang et al., 2017, arXiv 1608.03981): a plain stack of convolutions that predicts the artifacts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from unjpeg.models.backbone import Backbone, Features

__all__ = ["DnCnn", "DnCnnConfig"]


@dataclass(frozen=True, slots=True)
class DnCnnConfig:
    """Size of a DnCNN. The defaults are the published DnCNN-3, which also restores JPEGs: 0.67 M parameters.

    Attributes:
        width: channels of all inner layers.
        depth: convolutions; all but the first and the last have batch norm.
        split: convolutions in the feature extractor, with their norm and activation.
        image_channels: 1 (grey) or 3.
    """

    width: int = 64
    depth: int = 20
    split: int = 2
    image_channels: int = 1

    def __post_init__(self) -> None:
        if self.width < 1 or not 1 <= self.split < self.depth:
            raise ValueError(f"DnCnnConfig needs width >= 1 and 1 <= split < depth, got {self}")


class DnCnn(Backbone):
    """The whole network; shapes as ``Backbone`` says."""

    def __init__(self, config: DnCnnConfig) -> None:
        super().__init__()
        self.config = config
        self.image_channels, self.feature_channels = config.image_channels, config.width
        first = nn.Sequential(nn.Conv2d(config.image_channels, config.width, 3, padding=1), nn.ReLU(inplace=True))
        inner = [
            nn.Sequential(
                nn.Conv2d(config.width, config.width, 3, padding=1, bias=False),
                nn.BatchNorm2d(config.width),
                nn.ReLU(inplace=True),
            )
            for _ in range(config.depth - 2)
        ]
        self.layers = nn.ModuleList([first, *inner, nn.Conv2d(config.width, config.image_channels, 3, padding=1)])

    def extract(self, image: Tensor, stated: Tensor | None = None) -> Features:  # noqa: ARG002 (not told)
        x = image
        for layer in list(self.layers)[: self.config.split]:
            x = layer(x)
        return Features(x, (image,))

    def denoise(self, features: Features) -> Tensor:
        x, (image,) = features
        for layer in list(self.layers)[self.config.split :]:
            x = layer(x)
        return image - x
