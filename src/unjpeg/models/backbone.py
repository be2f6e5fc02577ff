"""What CARN-DA needs of a restorer: that it can be cut into a feature extractor and a denoiser (section 3.2).

::

    image ──▶ extract() ──▶ Features ──▶ denoise() ──▶ restored
                               │
                               └─ seen ──▶ quality discriminator (while training)

The two halves are methods of one module, so its state dict is the uncut network's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

__all__ = ["Backbone", "Features"]


class Features(NamedTuple):
    """What the feature extractor hands on.

    Attributes:
        seen: the extractor's last features, ``(N, C, H / stride, W / stride)``: the discriminator's input.
        carried: whatever else the denoiser needs (the image for a global skip, say), each with N first.
    """

    seen: Tensor
    carried: tuple[Tensor, ...] = ()

    def first(self, count: int) -> Features:
        """Those of the first ``count`` images of the batch."""
        return Features(self.seen[:count], tuple(tensor[:count] for tensor in self.carried))


class Backbone(nn.Module, ABC):
    """A restorer in two halves. ``forward(image) == denoise(extract(image))``.

    Shape: ``(N, image_channels, H, W)``, range 0..1, sides multiples of ``total_stride``, to the same; not clipped.

    Attributes:
        image_channels: 1 (grey) or 3.
        feature_channels, feature_stride: of ``Features.seen``.
    """

    image_channels: int
    feature_channels: int
    feature_stride: int = 1
    total_stride: int = 1

    @abstractmethod
    def extract(self, image: Tensor, stated: Tensor | None = None) -> Features:
        """The feature extractor, ``F``.

        Args:
            stated: what the images' files state, ``(N, STATED_FEATURES)``; only a network that is told looks at it.
                None states nothing.
        """

    @abstractmethod
    def denoise(self, features: Features) -> Tensor:
        """The denoiser, ``D``."""

    def forward(self, image: Tensor, stated: Tensor | None = None) -> Tensor:
        return self.denoise(self.extract(image, stated))
