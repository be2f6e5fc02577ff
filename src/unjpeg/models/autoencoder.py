"""Sensitivity decouple learning (DAGN, section III-A): the auto-encoder and the two heads that shape its features.

::

                 ┌──────────── Encoder (ResNet-50, stride 16) ────────────┐
    image ──▶ conv1, bn1, maxpool ─▶ layer1 ─▶ layer2 ─▶ layer3 ─▶ layer4 ─▶ features ─▶ Decoder ─▶ image
                                                                               │
                                                             global average ───┼─▶ Discriminator    (insensitive)
                                                                               └─▶ QualityPredictor (sensitive)

One class serves both auto-encoders; what their features mean is decided by the head they are trained against.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "QUALITY_CLASSES",
    "TOTAL_STRIDE",
    "AutoEncoder",
    "AutoEncoderConfig",
    "Discriminator",
    "Encoder",
    "Heads",
    "QualityPredictor",
    "pool",
    "sharpen",
]

QUALITY_CLASSES = 100
"""One class per quality factor 1..100; class ``q - 1`` is quality ``q``, and originals belong to the last."""

TOTAL_STRIDE = 16
"""One feature position per 16x16 pixels: the last stride-2 stage of ResNet-50 runs at stride 1."""


Heads = Literal["pooled", "positions"]


@dataclass(frozen=True, slots=True)
class AutoEncoderConfig:
    """Size of one auto-encoder, and how it looks at a picture. The defaults are the published one.

    Attributes:
        width: channel count of ResNet's first stage, 64 in the paper.
        sharpen: how much of the difference from its 3x3 mean is added to the picture that the encoder sees. What
            compression does lies in these differences, and next to a picture's brightness they are tiny: 6.75 makes
            them of its size. The decoder still gives the picture itself.
        heads: whether the discriminator and the quality predictor see the features' mean over the picture ("pooled"),
            or each position, their answers averaged ("positions"): the paper takes ResNet's average pooling out and
            names none.
    """

    width: int = 64
    sharpen: float = 0.0
    heads: Heads = "pooled"

    def __post_init__(self) -> None:
        if self.sharpen < 0:
            raise ValueError(f"sharpen must be at least 0, got {self.sharpen}")
        if self.heads not in get_args(Heads):
            raise ValueError(f"heads must be one of {get_args(Heads)}, got {self.heads!r}")

    @property
    def feature_channels(self) -> int:
        """Channels of the encoder's output: 2048 at the published width."""
        return 32 * self.width


class _Bottleneck(nn.Module):
    """ResNet's bottleneck block: 1x1, 3x3, 1x1 convolutions, the last to four times the width."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = 4 * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        out: Tensor = self.relu(self.bn3(self.conv3(y)) + self.downsample(x))
        return out


class Encoder(nn.Module):
    """ResNet-50 without its average pooling and classifier, total stride 16.

    Its parts carry ResNet-50's usual names, so that a published state dict fits at width 64.

    Shape: ``(N, 3, H, W)``, range 0..1, to ``(N, 32 * width, H / 16, W / 16)``, rounded up.
    """

    def __init__(self, config: AutoEncoderConfig) -> None:
        super().__init__()
        width, self.sharpen = config.width, config.sharpen
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(width, width, blocks=3, stride=1)
        self.layer2 = _stage(4 * width, 2 * width, blocks=4, stride=2)
        self.layer3 = _stage(8 * width, 4 * width, blocks=6, stride=2)
        self.layer4 = _stage(16 * width, 8 * width, blocks=3, stride=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, _Bottleneck):
                # Every block starts as the identity: the quality is then learned in visibly fewer steps.
                nn.init.zeros_(module.bn3.weight)

    def forward(self, image: Tensor) -> Tensor:
        if self.sharpen:
            image = sharpen(image, self.sharpen)
        # About zero mean and unit variance, as ResNet's published weights expect.
        x = self.maxpool(self.relu(self.bn1(self.conv1((image - 0.45) / 0.225))))
        features: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return features


def _stage(in_channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = _Bottleneck(in_channels, width, stride)
    return nn.Sequential(first, *(_Bottleneck(4 * width, width, 1) for _ in range(blocks - 1)))


class Decoder(nn.Sequential):
    """15 layers: five convolutions, then five times a convolution and a transposed one (section III-A1).

    Shape: ``(N, 32 * width, H / 16, W / 16)`` to ``(N, 3, H, W)``.
    """

    def __init__(self, config: AutoEncoderConfig) -> None:
        channels = 8 * config.width
        layers: list[nn.Module] = [nn.Conv2d(config.feature_channels, channels, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(4):
            layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True)]
        for pair in range(5):
            half = max(channels // 2, 3)
            layers += [nn.Conv2d(channels, half, 3, padding=1), nn.ReLU(inplace=True)]
            if pair == 0:
                layers += [nn.ConvTranspose2d(half, half, 3, stride=1, padding=1), nn.ReLU(inplace=True)]
            elif pair < 4:
                layers += [nn.ConvTranspose2d(half, half, 4, stride=2, padding=1), nn.ReLU(inplace=True)]
            else:
                layers += [nn.ConvTranspose2d(half, 3, 4, stride=2, padding=1)]
            channels = half
        super().__init__(*layers)


class AutoEncoder(nn.Module):
    """Encoder and decoder, and the features between them.

    Shape: image ``(N, 3, H, W)``, range 0..1, sides multiples of 16, to features ``(N, 32 * width, H / 16, W / 16)``
    and a reconstruction shaped as the image.
    """

    def __init__(self, config: AutoEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(image)
        return features, self.decoder(features)


class _Head(nn.Module):
    """A multi-layer perceptron ``C x C x outputs``, on globally averaged features or on each position's.

    Shape: features ``(N, C, H, W)`` or, averaged already, ``(N, C)``, to ``(N, outputs)``.
    """

    def __init__(self, config: AutoEncoderConfig, outputs: int) -> None:
        super().__init__()
        channels, self.heads = config.feature_channels, config.heads
        self.mlp = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, outputs))

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor
        if features.dim() == 4 and self.heads == "positions":
            logits = self.mlp(features.flatten(2).transpose(1, 2)).mean(1)
        else:
            logits = self.mlp(pool(features) if features.dim() == 4 else features)
        return logits


class Discriminator(_Head):
    """Logit that features come from an original, ``J`` of Eq. 4 and 6. One output."""

    def __init__(self, config: AutoEncoderConfig) -> None:
        super().__init__(config, 1)


class QualityPredictor(_Head):
    """Logits of the 100 quality factors, ``P_qf`` of Eq. 9. 100 outputs."""

    def __init__(self, config: AutoEncoderConfig) -> None:
        super().__init__(config, QUALITY_CLASSES)


def pool(features: Tensor) -> Tensor:
    """Global average. Shape: ``(N, C, H, W)`` to ``(N, C)``."""
    return torch.mean(features, dim=(2, 3))


def sharpen(image: Tensor, amount: float) -> Tensor:
    """The picture and ``amount`` times its difference from the mean of 3x3 pixels. Shape: ``(N, C, H, W)`` to the same.

    At the border the mean is over the pixels that there are.
    """
    mean = functional.avg_pool2d(image, 3, stride=1, padding=1, count_include_pad=False)
    return image + amount * (image - mean)
