"""The network that ``unjpeg export MODEL --blind --out FILE.safetensors`` writes weights for. Needs torch alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["LAYOUT_VERSION", "Bounded", "ResidualBlock", "UnjpegNet"]

LAYOUT_VERSION = 1

BLOCK = 8
"""Side of a JPEG's blocks, in pixels."""


class Bounded(nn.Module):
    """Clips features to where they stayed in training: to the limit, and of signed ones also to its negative."""

    limit: Tensor

    def __init__(self, channels: int, *, signed: bool) -> None:
        super().__init__()
        self.signed = signed
        self.register_buffer("limit", torch.ones((channels, 1, 1) if signed else ()))

    def forward(self, features: Tensor) -> Tensor:
        """Shape: ``(N, channels, H, W)`` to the same."""
        features = torch.minimum(features, self.limit)
        return torch.maximum(features, -self.limit) if self.signed else features


class _Convolution(nn.Conv2d):
    """A convolution that may clip what it is given."""

    def __init__(self, inputs: int, outputs: int, size: int, *, bounded: bool, signed: bool = True) -> None:
        super().__init__(inputs, outputs, size, stride=1 if size % 2 else size, padding=size // 2 if size % 2 else 0)
        self.bound = Bounded(inputs, signed=signed) if bounded else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = super().forward(self.bound(features))
        return out


class _Enlargement(nn.ConvTranspose2d):
    """Twice as many rows and columns, of half the channels; it may clip what it is given."""

    def __init__(self, channels: int, *, bounded: bool) -> None:
        super().__init__(2 * channels, channels, 2, stride=2)
        self.bound = Bounded(2 * channels, signed=True) if bounded else nn.Identity()

    def forward(self, features: Tensor, output_size: list[int] | None = None) -> Tensor:
        out: Tensor = super().forward(self.bound(features), output_size)
        return out


class ResidualBlock(nn.Module):
    """``F + body(F)``. Shape: ``(N, channels, H, W)`` to the same."""

    def __init__(self, channels: int, *, bounded: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _Convolution(channels, channels, 3, bounded=bounded),
            nn.ReLU(inplace=True),
            _Convolution(channels, channels, 3, bounded=bounded, signed=False),
        )

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = features + self.body(features)
        return out


class UnjpegNet(nn.Module):
    """A U of residual blocks, under a guidance that has become part of its weights.

    Args:
        width: channels of the first scale; each further one has twice as many.
        scales: of the U.
        blocks: in each scale, in the bottleneck, and half of those in each stage of the way up.
        stem: factor of the pixel-unshuffle in front.
        skips_after: whether the features of the way down join after the upsampling, or before.
        detail: whether it sees what interpolation of the 8x8 blocks' means does not show, in amplified YCbCr.
        fusion: whether a 1x1 convolution is added in front of the bottleneck.
        bounded: whether its convolutions clip what they are given.

    Shape: ``(N, 3, H, W)``, RGB, range 0..1, to the same, not clipped. The picture's first pixel is to be that of one
    of the JPEG's 8x8 blocks.
    """

    unjpeg_layout: Tensor

    def __init__(
        self,
        *,
        width: int,
        scales: int,
        blocks: int,
        stem: int = 1,
        skips_after: bool = True,
        detail: bool = True,
        fusion: bool = False,
        bounded: bool = False,
    ) -> None:
        super().__init__()
        self.stem, self.skips_after = stem, skips_after
        stride = stem * 2 ** (scales - 1)
        self.multiple_of = math.lcm(stride, BLOCK) if detail else stride
        channels = [width * 2**scale for scale in range(scales)]

        def chain(channels: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(ResidualBlock(channels, bounded=bounded) for _ in range(count)))

        self.register_buffer("unjpeg_layout", torch.tensor([LAYOUT_VERSION, stem, int(skips_after)]))
        self.detail = nn.Conv2d(3, 3, 1, bias=False) if detail else None
        self.head = nn.Conv2d(3 * stem**2, width, 3, padding=1)
        self.scales = nn.ModuleList(chain(count, blocks) for count in channels)
        self.downs = nn.ModuleList(_Convolution(count, 2 * count, 2, bounded=bounded) for count in channels[:-1])
        self.fusion = nn.Conv2d(channels[-1], channels[-1], 1) if fusion else None
        self.bottleneck = chain(channels[-1], blocks)
        self.ups = nn.ModuleList(_Enlargement(count, bounded=bounded) for count in reversed(channels[:-1]))
        self.stages = nn.ModuleList(chain(count, 2 * blocks) for count in reversed(channels[:-1]))
        self.tail = nn.Conv2d(width, 3 * stem**2, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        missing = (0, -width % self.multiple_of, 0, -height % self.multiple_of)
        if any(missing):  # the edge repeated, as JPEG's encoders do
            image = functional.pad(image, missing, "replicate")
        return (image + self._change(image))[..., :height, :width]

    def _change(self, image: Tensor) -> Tensor:
        seen = self._show_detail(image)
        x = self.head(functional.pixel_unshuffle(seen, self.stem) if self.stem > 1 else seen)
        skips = []
        for number, blocks in enumerate(self.scales):
            x = blocks(self.downs[number - 1](x) if number else x)
            skips.append(x)
        if self.fusion is not None:
            x = x + self.fusion(x)
        x = self.bottleneck(x)
        if self.skips_after:
            skips.pop()  # the bottleneck has just come from it
        for up, stage in zip(self.ups, self.stages, strict=True):
            x = stage(up(x) + skips.pop() if self.skips_after else up(x + skips.pop()))
        change: Tensor = self.tail(x + skips.pop() if skips else x)
        return functional.pixel_shuffle(change, self.stem) if self.stem > 1 else change

    def _show_detail(self, image: Tensor) -> Tensor:
        if self.detail is None:
            return image
        planes: Tensor = self.detail(image)
        means = functional.avg_pool2d(planes, BLOCK)
        return planes - functional.interpolate(means, scale_factor=float(BLOCK), mode="bilinear", align_corners=False)
