"""RDN, the residual dense network (Zhang et al., 2018, arXiv 1802.08797), without its upscaling: CARN-DA's backbone.

::

    image ─▶ conv ─┬─▶ conv ─▶ dense block 1 ─▶ ... ─▶ dense block D
       │           │           └──────────────┬──────────────┘ all outputs
       │           │                          ▼
       │           └──────────────▶ + ◀── 1x1, 3x3 (global feature fusion)
       │                            ▼
       └──────────────────────────▶ + ◀── conv
                                    ▼
                                restored
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from unjpeg.models.backbone import Backbone, Features

__all__ = ["Rdn", "RdnConfig"]


@dataclass(frozen=True, slots=True)
class RdnConfig:
    """Size of an RDN. The defaults are the published network, 22 M parameters.

    Attributes:
        width: channels between the blocks, ``G0``.
        blocks: residual dense blocks, ``D``.
        layers: convolutions of a block, ``C``.
        growth: channels that each of them adds, ``G``.
        split: dense blocks in the feature extractor, behind its two convolutions; 0 as in CARN-DA.
        image_channels: 1 (grey) or 3.
    """

    width: int = 64
    blocks: int = 16
    layers: int = 8
    growth: int = 64
    split: int = 0
    image_channels: int = 1

    def __post_init__(self) -> None:
        for name in ("width", "blocks", "layers", "growth"):
            if getattr(self, name) < 1:
                raise ValueError(f"RdnConfig.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.split <= self.blocks:
            raise ValueError(f"RdnConfig.split must lie in 0..{self.blocks}, got {self.split}")


class DenseBlock(nn.Module):
    """Each convolution sees all before it; a 1x1 convolution brings them back to ``width``, plus the input.

    Shape: ``(N, width, H, W)`` to the same.
    """

    def __init__(self, config: RdnConfig) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(config.width + i * config.growth, config.growth, 3, padding=1) for i in range(config.layers)
        )
        self.fusion = nn.Conv2d(config.width + config.layers * config.growth, config.width, 1)

    def forward(self, features: Tensor) -> Tensor:
        x = features
        for conv in self.convs:
            x = torch.cat([x, functional.relu(conv(x))], dim=1)
        out: Tensor = features + self.fusion(x)
        return out


class Rdn(Backbone):
    """The whole network; shapes as ``Backbone`` says."""

    def __init__(self, config: RdnConfig) -> None:
        super().__init__()
        self.config = config
        self.image_channels, self.feature_channels = config.image_channels, config.width
        self.shallow1 = nn.Conv2d(config.image_channels, config.width, 3, padding=1)
        self.shallow2 = nn.Conv2d(config.width, config.width, 3, padding=1)
        self.blocks = nn.ModuleList(DenseBlock(config) for _ in range(config.blocks))
        self.fusion1 = nn.Conv2d(config.blocks * config.width, config.width, 1)
        self.fusion3 = nn.Conv2d(config.width, config.width, 3, padding=1)
        self.tail = nn.Conv2d(config.width, config.image_channels, 3, padding=1)
        # Start at the decoded JPEG, as our DAGN does.
        nn.init.normal_(self.tail.weight, std=1e-3)
        assert self.tail.bias is not None
        nn.init.zeros_(self.tail.bias)

    def extract(self, image: Tensor, stated: Tensor | None = None) -> Features:  # noqa: ARG002 (not told)
        first = self.shallow1(image)
        x = self.shallow2(first)
        outputs = []
        for block in list(self.blocks)[: self.config.split]:
            x = block(x)
            outputs.append(x)
        return Features(x, (image, first, *outputs))

    def denoise(self, features: Features) -> Tensor:
        x = features.seen
        image, first, *outputs = features.carried
        for block in list(self.blocks)[self.config.split :]:
            x = block(x)
            outputs.append(x)
        fused = first + self.fusion3(self.fusion1(torch.cat(outputs, dim=1)))
        restored: Tensor = image + self.tail(fused)
        return restored
