"""How well features tell two domains apart: a fresh discriminator, trained on some pictures, asked about others.

The adversary's own accuracy says little (it may be at 50 % because it is bad); this is the measure that counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from unjpeg.adapt.carn import quality_loss, to_network_input
from unjpeg.adapt.domains import Patches, join_alike
from unjpeg.models import Backbone, DiscriminatorConfig, QualityDiscriminator

__all__ = ["Batches", "measure_domain_accuracy"]

HELD_OUT_STEPS = 16

Batches = Callable[[int], Patches]
"""Patches of one domain, uint8, by step."""


def measure_domain_accuracy(
    network: Backbone,
    training: tuple[Batches, Batches],
    held_out: tuple[Batches, Batches],
    config: DiscriminatorConfig,
    *,
    steps: int = 300,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> float:
    """Share of held-out patches whose domain is told from ``network``'s features, mean of both domains, 0..1.

    0.5 is chance. Neither the network nor the discriminator of a training is touched.

    Args:
        training, held_out: source and target, of different pictures.
    """
    device = next(network.parameters()).device

    @torch.no_grad()
    def features(domains: tuple[Batches, Batches], step: int) -> tuple[Tensor, int]:
        source, target = (domain(step) for domain in domains)
        return network.extract(*to_network_input(join_alike(source, target), device)).seen, len(source.pixels)

    network.eval()
    example, _ = features(training, 0)
    torch.manual_seed(seed)
    # Whatever the adversary makes of the features, the measure should not hang on their unit.
    standardised = replace(config, standardised=True)
    discriminator = QualityDiscriminator(standardised, example.shape[1], example.shape[2]).to(device)
    discriminator.standardise(example)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=learning_rate)
    for step in range(steps):
        seen, source_count = features(training, step)
        loss = quality_loss(discriminator(seen), source_count)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    discriminator.eval()
    shares = []
    with torch.no_grad():
        for step in range(HELD_OUT_STEPS):
            seen, source_count = features(held_out, step)
            is_target = discriminator(seen).argmax(1) == 1
            shares.append((1 - is_target[:source_count].float().mean() + is_target[source_count:].float().mean()) / 2)
    return float(torch.stack(shares).mean())
