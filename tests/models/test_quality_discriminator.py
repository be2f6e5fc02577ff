"""The quality discriminator: what it looks at, and the gradient reversal in front of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unjpeg.adapt.carn import (
    quality_loss,
)
from unjpeg.models import (
    DiscriminatorConfig,
    QualityDiscriminator,
    reverse_gradient,
)
from unjpeg.models.quality_discriminator import DiscriminatorInput


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 10), st.integers(0, 99))
def test_reversal_turns_the_gradient_alone(strength: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(3, 2, generator=generator, requires_grad=True)
    weights = torch.randn(3, 2, generator=generator)
    out = reverse_gradient(features, strength)
    assert torch.equal(out, features)
    (out * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert features.grad is not None
    torch.testing.assert_close(features.grad, -strength * weights)


def test_discriminator_has_three_layers_and_what_it_looks_at() -> None:
    features = torch.rand(2, 5, 4, 4)
    counts: dict[DiscriminatorInput, int] = {"flattened": 80, "moments": 10, "average": 5, "convolved": 32}
    for inputs, count in counts.items():
        discriminator = QualityDiscriminator(DiscriminatorConfig(inputs, hidden=7), 5, 4)
        linear = [layer for layer in discriminator.layers if isinstance(layer, nn.Linear)]
        assert [layer.in_features for layer in linear] == [count, 7, 7]
        assert sum(isinstance(layer, nn.ReLU) for layer in discriminator.layers) == 2
        assert discriminator(features).shape == (2, 2)
    moments = QualityDiscriminator(DiscriminatorConfig("moments"), 5, 4)._inputs(features)
    expected = np.concatenate([features.numpy().mean((2, 3)), features.numpy().std((2, 3))], axis=1)
    np.testing.assert_allclose(moments.numpy(), expected, rtol=1e-4)
    for inputs in ("moments", "convolved"):
        assert QualityDiscriminator(DiscriminatorConfig(inputs), 5, 4)(torch.rand(1, 5, 9, 3)).shape == (1, 2)


def test_moments_of_a_constant_have_a_gradient() -> None:
    features = torch.ones(1, 2, 3, 3, requires_grad=True)
    QualityDiscriminator(DiscriminatorConfig("moments"), 2, 3)(features).sum().backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize("inputs", ["flattened", "moments", "average", "convolved"])
def test_standardised_features_are_the_same_in_any_unit(inputs: DiscriminatorInput) -> None:
    torch.manual_seed(0)
    features = torch.randn(6, 3, 8, 8) + torch.tensor([5.0, 0.0, -3.0])[:, None, None]
    for standardised in (True, False):
        logits = []
        for unit, offset in ((1.0, 0.0), (1e-3, 2.0)):
            torch.manual_seed(1)
            discriminator = QualityDiscriminator(DiscriminatorConfig(inputs, standardised=standardised), 3, 8)
            discriminator.standardise(unit * features + offset)
            logits.append(discriminator(unit * features + offset))
        assert torch.allclose(logits[0], logits[1], atol=2e-3) == standardised
    plain = QualityDiscriminator(DiscriminatorConfig(inputs), 3, 8)
    if inputs == "convolved":
        vector = plain.local(features).mean((2, 3))
    else:
        vector = features.flatten(1) if inputs == "flattened" else plain._inputs(features)
    assert torch.equal(plain(features), plain.layers(vector))  # as published


@pytest.mark.parametrize("inputs", ["flattened", "moments"])
def test_a_standardised_discriminator_learns_where_a_plain_one_does_not(inputs: DiscriminatorInput) -> None:
    """Of features that differ little beside their means: the second domain's vary a fifth more."""
    torch.manual_seed(0)
    features = torch.randn(64, 3, 8, 8) * torch.where(torch.arange(64) < 32, 1.0, 1.2)[:, None, None, None]
    features = 1e-3 * features + torch.tensor([0.5, 0.0, -0.3])[:, None, None]

    def loss_after_training(*, standardised: bool) -> float:
        torch.manual_seed(1)
        config = DiscriminatorConfig(inputs, hidden=32, standardised=standardised)
        discriminator = QualityDiscriminator(config, 3, 8)
        discriminator.standardise(features)
        optimizer = torch.optim.Adam(discriminator.parameters(), lr=3e-3)
        for _ in range(60):
            loss = quality_loss(discriminator(features), 32)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return loss.item()

    assert loss_after_training(standardised=False) == pytest.approx(math.log(2), abs=0.01)
    assert loss_after_training(standardised=True) < 0.5


def test_convolutions_see_textures_that_moments_do_not() -> None:
    """Random rows and random columns: alike in mean and deviation, and never the same patch twice."""
    torch.manual_seed(0)

    def patches() -> Tensor:
        rows, columns = torch.randn(2, 16, 2, 16, 1).expand(2, 16, 2, 16, 16)
        return torch.cat([rows, columns.mT])

    told = {}
    textures: tuple[DiscriminatorInput, ...] = ("moments", "average", "convolved")
    for inputs in textures:
        torch.manual_seed(1)
        discriminator = QualityDiscriminator(DiscriminatorConfig(inputs, hidden=32), 2, 16)
        optimizer = torch.optim.Adam(discriminator.parameters(), lr=3e-3)
        for _ in range(150):
            loss = quality_loss(discriminator(patches()), 16)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            told[inputs] = np.mean([(discriminator(patches()).argmax(1) == (torch.arange(32) >= 16)) for _ in range(8)])
    assert told.pop("convolved") > 0.95
    assert max(told.values()) < 0.65
