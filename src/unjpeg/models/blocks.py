"""The two building blocks of the restorer: residual block and guidance block."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from unjpeg.models.integers import BoundedConv2d

__all__ = ["GuidanceBlock", "Norm", "ResidualBlock", "double_conv", "silence"]

Norm = Literal["batch", "none"]


def double_conv(channels: int, norm: Norm = "batch", *, bounded: bool = False) -> nn.Sequential:
    """conv3x3, batch norm, ReLU, conv3x3: the body of both blocks (DAGN, section III-B1 and ``RNorm`` of Eq. 12).

    Without the norm, torch's own small start of both convolutions keeps the features from growing with the depth. (A
    second convolution that starts at zero took whole scales of a network with it: docs/research/training-log.md.)

    Args:
        bounded: whether it can run in 8-bit integers; takes the weights of one that cannot.

    Raises:
        ValueError: bounded, but with batch norm.
    """
    if bounded and norm != "none":
        raise ValueError('bounded convolutions go with norm "none": batch norm moves the range of the features')
    if bounded:
        return nn.Sequential(
            BoundedConv2d(channels, channels, 3),
            nn.ReLU(inplace=True),
            BoundedConv2d(channels, channels, 3, signed=False),
        )
    if norm == "none":
        return nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
    return nn.Sequential(
        # No bias before a batch norm: the norm's own shift takes its place.
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1),
    )


def silence(body: nn.Sequential) -> None:
    """Make a body compute zero: a block added to a trained network then changes nothing but by its shift."""
    last = body[-1]
    assert isinstance(last, nn.Conv2d)
    nn.init.zeros_(last.weight)
    if last.bias is not None:
        nn.init.zeros_(last.bias)


class ResidualBlock(nn.Module):
    """``F + body(F)``.

    Shape: ``(N, channels, H, W)`` to the same.
    """

    def __init__(self, channels: int, norm: Norm = "batch", *, bounded: bool = False) -> None:
        super().__init__()
        self.body = double_conv(channels, norm, bounded=bounded)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = features + self.body(features)
        return out


class GuidanceBlock(nn.Module):
    """``F + scale * body(F) + shift``: a residual block that an image's guidance transforms (DAGN, Eq. 12 and 13).

    Shape: features ``(N, channels, H, W)``, scale and shift ``(N, channels, 1, 1)``; result as the features.
    """

    def __init__(self, channels: int, norm: Norm = "batch", *, bounded: bool = False) -> None:
        super().__init__()
        self.body = double_conv(channels, norm, bounded=bounded)

    def forward(self, features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        out: Tensor = features + scale * self.body(features) + shift
        return out
