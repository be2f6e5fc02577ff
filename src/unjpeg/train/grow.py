"""A network that goes on from another's weights, and computes at first what that one computed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unjpeg.errors import TrainingError
from unjpeg.models import Dagn
from unjpeg.models.blocks import GuidanceBlock, ResidualBlock, silence
from unjpeg.models.dagn import Guider

__all__ = ["GUIDERS", "exchange_encoders", "take_over"]

GUIDERS = ("insensitive_guider", "sensitive_guider")


@torch.no_grad()
def exchange_encoders(network: Dagn, encoders: dict[str, Tensor], pictures: Sequence[Tensor]) -> dict[str, Tensor]:
    """A trained network's state for ``take_over``, under encoders that it was not trained with.

    What they say means nothing to its guiders, so these begin anew, from the mean scale and shift that the old ones
    gave: pictures differ little in them (docs/research/training-log.md). The fusion begins anew as well.

    Args:
        encoders: the new frozen parts, by ``Dagn``'s names.
        pictures: ``(1, 3, H, W)``, range 0..1, compressed; the mean is over these.

    Returns:
        The state, without what is to be born anew.
    """
    network.eval()
    guidance = [network.guide(picture) for picture in pictures]
    state = {name: value for name, value in network.state_dict().items() if not name.startswith(("fusion", *GUIDERS))}
    for name in GUIDERS:
        guider = network.get_submodule(name)
        assert isinstance(guider, Guider)
        seen = torch.cat([getattr(of_picture, name.removesuffix("_guider")) for of_picture in guidance])
        last = f"{name}.mlp.{len(guider.mlp) - 1}"
        bias = guider.mlp(seen).mean(0)
        state[f"{last}.weight"] = 1e-3 * torch.randn_like(network.get_parameter(f"{last}.weight"))
        state[f"{last}.bias"] = bias
    return state | encoders


def take_over(network: Dagn, initial: dict[str, Tensor]) -> None:
    """Load given weights: the frozen encoders', or a whole network's of the same or a smaller width and depth.

    Added channels keep the weights that they were born with, and nothing that was there before sees them yet, so the
    output stays as it was. Those of a bounded network have no limits yet. Added blocks begin with a second convolution
    of zero: they do nothing, but for a guided block's shift, which comes once more.

    Raises TrainingError unless the weights fit and hold all that the network keeps frozen.
    """
    own = network.state_dict()
    frozen = set(network.frozen_names())
    old_width, new_width = len(initial.get("head.weight", own["head.weight"])), network.config.width

    def fits(name: str, value: Tensor) -> bool:
        if name not in own or value.dim() != own[name].dim():
            return False
        grows = name not in frozen
        return all(
            old == new or (grows and old * new_width == new * old_width)
            for old, new in zip(value.shape, own[name].shape, strict=True)
        )

    if old_width > new_width:
        raise TrainingError(
            f"the given weights do not fit this network: they have width {old_width}, the network {new_width}; it can "
            "only grow"
        )
    wrong = [name for name in frozen if name not in initial]
    wrong += [name for name, value in initial.items() if not fits(name, value)]
    if wrong:
        raise TrainingError(f"the given weights do not fit this network: {', '.join(sorted(wrong)[:3])}")

    modules = dict(network.named_modules())
    for name, given in initial.items():
        if name.startswith("fusion_conv3"):
            own[name].zero_()  # whatever comes out here is mixed into all channels
        owner = name.rpartition(".")[0]
        layer, guider = modules[owner], modules.get(owner.rpartition(".mlp")[0])
        if given.dim() == 0:
            own[name].copy_(given)
        elif isinstance(guider, Guider) and layer is guider.mlp[-1]:
            _place(given, own[name], _pieces(guider, old_width / new_width))
        elif isinstance(layer, nn.ConvTranspose2d) and name.endswith(".weight"):
            _place(given.transpose(0, 1), own[name].transpose(0, 1))
        else:
            _place(given, own[name])
    network.load_state_dict(own)
    if "head.weight" in initial:
        for name, block in network.named_modules():
            if isinstance(block, ResidualBlock | GuidanceBlock) and f"{name}.body.0.weight" not in initial:
                silence(block.body)


def _place(given: Tensor, own: Tensor, outputs: Tensor | None = None) -> None:
    """Write a layer's ``(outputs, inputs, ...)`` into a larger one, whose added inputs the old outputs do not see.

    ``outputs`` are the old outputs' places among all, the first ones if left out.
    """
    if outputs is None:
        outputs = torch.arange(len(given))
    if given.dim() == 1:
        own[outputs] = given
    else:
        own[outputs] = 0
        own[outputs, : given.shape[1]] = given


def _pieces(guider: Guider, share: float) -> Tensor:
    """Where a narrower guider's outputs lie among this one's: at the beginning of each stage's scales and shifts."""
    sizes = torch.tensor([channels for channels in guider.stage_channels for _ in range(2)])
    starts = sizes.cumsum(0) - sizes
    return torch.cat(
        [start + torch.arange(round(int(size) * share)) for start, size in zip(starts, sizes, strict=True)]
    )
