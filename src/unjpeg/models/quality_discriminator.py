"""The quality discriminator and the gradient reversal in front of it (CARN-DA, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

__all__ = ["DiscriminatorConfig", "DiscriminatorInput", "QualityDiscriminator", "reverse_gradient"]

DiscriminatorInput = Literal["flattened", "moments", "average", "convolved"]

_CONVOLVED = 32


@dataclass(frozen=True, slots=True)
class DiscriminatorConfig:
    """Of what and how large.

    Attributes:
        inputs: "flattened": all features of a patch of fixed size; "moments": each channel's mean and standard
            deviation, for any size; "average": the mean alone, which behind layers without an activation is hardly
            more than the patch's brightness and there for comparison; "convolved": what two convolutions of stride 2
            make of the features, averaged over the patch: what compression leaves is local, and the other three hardly
            see it in features of patches that they were not trained on.
        standardised: take the mean and the spread of each input over the first patches for its zero and unit (see
            ``standardise``). Features vary little beside their means, and in any unit, so that a discriminator of the
            plain ones may hardly move. The paper says nothing of it.
        hidden: units of the two inner layers. The paper does not say; 100 as in Ganin and Lempitsky's networks.
    """

    inputs: DiscriminatorInput = "flattened"
    hidden: int = 100
    standardised: bool = False

    def __post_init__(self) -> None:
        if self.inputs not in get_args(DiscriminatorInput):
            raise ValueError(f"DiscriminatorConfig.inputs must be one of {get_args(DiscriminatorInput)}")
        if self.hidden < 1:
            raise ValueError(f"DiscriminatorConfig.hidden must be at least 1, got {self.hidden}")


class QualityDiscriminator(nn.Module):
    """Three fully connected layers, two of them followed by a ReLU: source's quality or target's.

    With "convolved" inputs, two convolutions in front of them.

    Shape: features ``(N, channels, side, side)`` to logits ``(N, 2)``: source, target.

    Args:
        channels: of the features.
        side: of the features of a training patch; only "flattened" insists on it.
    """

    zero: Tensor
    unit: Tensor

    def __init__(self, config: DiscriminatorConfig, channels: int, side: int) -> None:
        super().__init__()
        self.config = config
        count = {
            "flattened": channels * side**2,
            "moments": 2 * channels,
            "average": channels,
            "convolved": _CONVOLVED,
        }[config.inputs]
        shape = (channels, 1, 1) if self._of_places else (count,)
        self.register_buffer("zero", torch.zeros(shape))
        self.register_buffer("unit", torch.ones(shape))
        self.local = nn.Sequential()
        if config.inputs == "convolved":
            self.local = nn.Sequential(
                nn.Conv2d(channels, _CONVOLVED, 3, stride=2, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(_CONVOLVED, _CONVOLVED, 3, stride=2, padding=1),
                nn.LeakyReLU(0.2),
            )
        self.layers = nn.Sequential(
            nn.Linear(count, config.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden, 2),
        )

    @torch.no_grad()
    def standardise(self, features: Tensor) -> None:
        """Fit zero and unit of the inputs to features ``(N, channels, side, side)``, if ``config.standardised``.

        A channel's ``side ** 2`` flattened features have them in common, and a unit ``side`` times as large: all steps
        of an optimizer point the same way, and what they add up to must not grow with the patch.
        """
        if not self.config.standardised:
            return
        flattened = self.config.inputs == "flattened"
        values = features.float().transpose(0, 1).flatten(1).T if self._of_places else self._inputs(features.float())
        spread = values.std(dim=0)
        spread = spread.clamp(min=float(spread.median()) / 3 + 1e-6)  # what hardly varies is not blown up
        self.zero.copy_(values.mean(dim=0).view_as(self.zero))
        self.unit.copy_((spread * (features.shape[-1] if flattened else 1)).view_as(self.unit))

    def forward(self, features: Tensor) -> Tensor:
        if self._of_places:
            standard = self.local((features - self.zero) / self.unit)
            vector = standard.flatten(1) if self.config.inputs == "flattened" else standard.mean(dim=(2, 3))
        else:
            vector = (self._inputs(features) - self.zero) / self.unit
        logits: Tensor = self.layers(vector)
        return logits

    @property
    def _of_places(self) -> bool:
        """Whether zero and unit are the features' own, and not those of what is computed from them."""
        return self.config.inputs in ("flattened", "convolved")

    def _inputs(self, features: Tensor) -> Tensor:
        mean = features.mean(dim=(2, 3))
        if self.config.inputs == "average":
            return mean
        # A root has no gradient at zero; a constant channel is no reason to stop.
        deviation = (features.var(dim=(2, 3), correction=0) + 1e-8).sqrt()
        return torch.cat([mean, deviation], dim=1)


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None


def reverse_gradient(features: Tensor, strength: float) -> Tensor:
    """The features as they are; their gradient comes back times ``-strength`` (the lambda of Eq. 7)."""
    out: Tensor = _Reversal.apply(features, strength)  # type: ignore[no-untyped-call]
    return out
