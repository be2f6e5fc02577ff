"""Where a network's features are bounded: measured on training photographs, once, with room.

Patterns go further, several times as far, and are cut off: that the network learns to live with. Steps wide enough for
them would be too coarse for photographs.
"""

from __future__ import annotations

import itertools
import math
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from unjpeg.errors import TrainingError
from unjpeg.models import Dagn
from unjpeg.models.integers import UNBOUNDED, find_bounded
from unjpeg.train.data import ImageStore
from unjpeg.train.degrade import Pixels8, compress_jpeg, standard_stated
from unjpeg.train.run import to_unit_range

__all__ = ["BOUND_QUALITIES", "measure_bounds"]

BOUND_QUALITIES: Final = (5, 10, 20, 30, 50, 75, 90, 98)
MOST_PICTURES: Final = 96
SIDE: Final = 128

RARE: Final = 1e-4
"""Share of a channel's values that lie beyond what its limit is measured by."""

ROOM: Final = 1.3
"""Limits in parts of that. Wider ones lose more by coarse steps than they win by what they do not cut off."""

NARROWEST: Final = 0.02
"""A channel's limit in parts of the widest one's, at least: a dead channel may come back to life."""


@torch.no_grad()
def measure_bounds(network: Dagn, pictures: ImageStore, device: torch.device) -> None:
    """Set those limits of a bounded network that are not set, from an even sample of the pictures, compressed.

    Raises:
        TrainingError: no picture is large enough.
    """
    unset = [convolution for convolution in find_bounded(network) if bool((convolution.limit >= UNBOUNDED).any())]
    if not unset:
        return
    largest: dict[nn.Module, list[Tensor]] = {convolution: [] for convolution in unset}
    values: dict[nn.Module, int] = dict.fromkeys(unset, 0)

    def observe(convolution: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        channels = inputs[0].abs().transpose(0, 1).flatten(1)
        of_all = math.ceil(RARE * MOST_PICTURES * channels.shape[1])  # even if all of the rare ones lie in this crop
        largest[convolution].append(channels.topk(min(of_all, channels.shape[1]), dim=1).values)
        values[convolution] += channels.shape[1]

    was_training = network.training
    network.eval()
    hooks = [convolution.register_forward_pre_hook(observe) for convolution in unset]
    try:
        qualities = itertools.cycle(BOUND_QUALITIES)
        for crop in _cut_centres(pictures, network.config.total_stride):
            quality = next(qualities)
            image = to_unit_range(torch.from_numpy(compress_jpeg(crop, quality).copy()).permute(2, 0, 1)[None])
            stated = torch.from_numpy(standard_stated(quality)[None].copy())
            network(image.to(device), None, stated.to(device))
    finally:
        for hook in hooks:
            hook.remove()
        network.train(was_training)
    for convolution in unset:
        rare = math.ceil(RARE * values[convolution])
        reach = ROOM * torch.cat(largest[convolution], dim=1).topk(rare, dim=1).values[:, -1].reshape(-1, 1, 1)
        reach = reach.clamp(min=max(NARROWEST * float(reach.max()), 1e-6))
        limit = convolution.limit
        limit.copy_(torch.where(limit < UNBOUNDED, limit, reach if convolution.signed else reach.max()))


def _cut_centres(pictures: ImageStore, stride: int) -> list[Pixels8]:
    chosen = np.linspace(0, len(pictures) - 1, min(len(pictures), MOST_PICTURES)).round().astype(int)
    crops = []
    for number in np.unique(chosen):
        picture = pictures[int(number)]
        height, width = (min(SIDE, side) // stride * stride for side in picture.shape[:2])
        if height and width:
            top, left = ((side - cut) // 2 for side, cut in zip(picture.shape[:2], (height, width), strict=True))
            crops.append(picture[top : top + height, left : left + width])
    if not crops:
        raise TrainingError(f"no training picture is {stride} pixels wide and high: there is nothing to bound by")
    return crops
