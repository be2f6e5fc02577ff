"""Convolutions that can run in 8-bit integers: what they are given is bounded, and both it and their weights rounded.

They always clip: in training, in every exported graph, at every precision. No picture, however odd, gives them more
than the steps were laid out for; and as the sums along the residual blocks grow by what they return, those are bounded
too. While ``round_to_integers`` says so they also round; gradients pass that as if it were not there. Both are computed
in float32: a 16-bit float's own rounding is as large as a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx
from torch.nn import functional

__all__ = [
    "SIGNED_STEPS",
    "UNBOUNDED",
    "UNSIGNED_STEPS",
    "Bounded",
    "BoundedConv2d",
    "BoundedConvTranspose2d",
    "find_bounded",
    "round_to_integers",
]

SIGNED_STEPS: Final = 127
UNSIGNED_STEPS: Final = 255
"""From zero to the largest value of a signed and an unsigned byte."""

UNBOUNDED: Final = 1e6
"""Where a limit lies that was not measured yet: finite, so that averages of limits are."""


class Bounded(nn.Module):
    """What both kinds share.

    Attributes:
        limit: what features are at most. Of signed ones each channel's, ``(C, 1, 1)``: they differ, and have steps of
            their own. One for all, a scalar, where a ReLU came before: there a runtime rounds for nothing.
        signed: whether features go down to ``-limit``, or to zero only.
        rounding: whether features and weights are rounded.
    """

    limit: Tensor
    signed: bool
    rounding: bool

    def _bound_inputs(self, channels: int, signed: bool) -> None:
        self.register_buffer("limit", torch.full((channels, 1, 1) if signed else (), UNBOUNDED))
        self.signed, self.rounding = signed, False

    def _bound(self, features: Tensor) -> Tensor:
        floor = -self.limit if self.signed else torch.zeros_like(self.limit)
        whole = features.float()  # autocast leaves such operations in their precision
        if not self.rounding:
            return torch.clamp(whole, floor, self.limit)
        step = self.limit / (SIGNED_STEPS if self.signed else UNSIGNED_STEPS)
        bounded: Tensor = _ClampAndRound.apply(whole, floor, self.limit, step)  # type: ignore[no-untyped-call]
        return bounded

    def _round_weight(self, weight: Tensor, inputs: int) -> Tensor:
        """Rounded, if it is to be, to steps of each output channel's own.

        Features come in steps of each channel's limit, so weights are rounded as a runtime sees them: times these.

        Args:
            weight: ``(C, C, size, size)``.
            inputs: its dimension of input channels, 0 or 1; the other is the outputs'.
        """
        if not self.rounding:
            return weight
        limits = self.limit.unsqueeze(1 - inputs) if self.signed else self.limit
        scaled = weight * limits
        steps = scaled.detach().abs().amax((inputs, 2, 3), keepdim=True) / SIGNED_STEPS
        return _round_steps(scaled, torch.where(steps > 0, steps, 1.0)) / limits


class BoundedConv2d(Bounded, nn.Conv2d):
    """A convolution, padded so that the size stays (3x3), or of a stride as wide as its kernel.

    Shape: ``(N, inputs, H, W)`` to ``(N, outputs, H / stride, W / stride)``.
    """

    def __init__(self, inputs: int, outputs: int, size: int, *, stride: int = 1, signed: bool = True) -> None:
        nn.Conv2d.__init__(self, inputs, outputs, size, stride=stride, padding=(size - stride) // 2)
        self._bound_inputs(inputs, signed)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self._conv_forward(self._bound(features), self._round_weight(self.weight, 1), self.bias)
        return out


class BoundedConvTranspose2d(Bounded, nn.ConvTranspose2d):
    """The way back from a convolution whose stride is as wide as its kernel.

    Shape: ``(N, inputs, H, W)`` to ``(N, outputs, H * size, W * size)``.
    """

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        nn.ConvTranspose2d.__init__(self, inputs, outputs, size, stride=size)
        self._bound_inputs(inputs, signed=True)

    def forward(self, features: Tensor, output_size: list[int] | None = None) -> Tensor:
        if output_size is not None:
            raise ValueError("the output's size follows from the input's")
        return functional.conv_transpose2d(
            self._bound(features), self._round_weight(self.weight, 0), self.bias, self.stride
        )


def round_to_integers(network: nn.Module, on: bool) -> None:
    """Let all bounded convolutions of a network round from now on, or no longer."""
    for convolution in find_bounded(network):
        convolution.rounding = on


def find_bounded(network: nn.Module) -> Iterator[Bounded]:
    """All bounded convolutions of a network."""
    return (module for module in network.modules() if isinstance(module, Bounded))


class _ClampAndRound(Function):
    """Whole numbers of steps between two bounds, with the gradient of what lies between them.

    By itself, since put together from torch's own it passes over the features twice as often, a tenth of a training's
    time.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor, floor: Tensor, limit: Tensor, step: Tensor) -> Tensor:
        out = torch.clamp(features, floor, limit)
        ctx.save_for_backward(out == features)
        return out.div_(step).round_().mul_(step)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None, None


def _round_steps(values: Tensor, step: Tensor) -> Tensor:
    """Whole numbers of steps, with the gradient of the values."""
    return values + (torch.round(values / step) * step - values).detach()
