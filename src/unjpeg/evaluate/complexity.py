"""Parameters and multiply-adds of a network. Needs torch; no memory, and no weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from unjpeg.models import BackboneConfig, Dagn, DagnConfig, make_backbone

__all__ = ["SIDE", "count_multiply_adds"]

SIDE = 512
"""Side of the measured picture, as in the DAGN paper's Table III."""


def count_multiply_adds(config: BackboneConfig) -> dict[str, float]:
    """Parameters and multiply-adds of one 512x512 picture, in millions and thousand millions. Needs no memory.

    A DAGN's quality predictor is not counted: restoring does not use it. Of a network of one channel it is the
    picture's luma, since its chroma stays as decoded.
    """
    if not isinstance(config, DagnConfig):
        with torch.device("meta"):
            backbone = make_backbone(config).eval()
            luma = torch.empty(1, config.image_channels, SIDE, SIDE)
        with torch.no_grad(), FlopCounterMode(display=False) as all_of_it:
            backbone(luma)
        multiply_adds = all_of_it.get_total_flops() / 2e9
        return {
            "parameters_m": _count_parameters(backbone) / 1e6,
            "encoder_parameters_m": 0.0,
            "multiply_adds_g": multiply_adds,
            "restoring_multiply_adds_g": multiply_adds,
        }
    with torch.device("meta"):
        network = Dagn(config).eval()
        image = torch.empty(1, 3, SIDE, SIDE)
    with torch.no_grad(), FlopCounterMode(display=False) as whole:
        guidance = network.guide(image)
        network.restore(image, guidance)
    with torch.no_grad(), FlopCounterMode(display=False) as restoring:
        network.restore(image, guidance)
    encoders = _count_parameters(network.insensitive_encoder) + _count_parameters(network.sensitive_encoder)
    return {
        "parameters_m": (_count_parameters(network) - _count_parameters(network.quality_predictor)) / 1e6,
        "encoder_parameters_m": encoders / 1e6,
        "multiply_adds_g": whole.get_total_flops() / 2e9,
        "restoring_multiply_adds_g": restoring.get_total_flops() / 2e9,
    }


def _count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
