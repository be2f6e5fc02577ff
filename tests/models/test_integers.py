"""Convolutions on bounded features: what they clip, what they round, and what learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from trainings import SHIPPED_KIND
from unjpeg.models import Dagn, DagnConfig
from unjpeg.models.blocks import double_conv
from unjpeg.models.integers import (
    SIGNED_STEPS,
    UNSIGNED_STEPS,
    BoundedConv2d,
    BoundedConvTranspose2d,
    find_bounded,
    round_to_integers,
)

SIGNED = pytest.mark.parametrize("signed", [True, False])


def make(signed: bool, limit: float = 2.0) -> BoundedConv2d:
    torch.manual_seed(3)
    convolution = BoundedConv2d(3, 5, 3, signed=signed)
    convolution.limit.fill_(limit)
    return convolution


def test_bounded_networks_compute_what_plain_ones_do_until_bounds_are_set() -> None:
    """And have the same weights by the same names, so that they can go on from them."""
    torch.manual_seed(0)
    plain = Dagn(SHIPPED_KIND).eval()
    torch.manual_seed(0)
    bounded = Dagn(replace(SHIPPED_KIND, bounded=True)).eval()
    image = torch.rand(1, 3, 64, 48)
    with torch.no_grad():
        torch.testing.assert_close(bounded(image), plain(image))
    theirs = bounded.state_dict()
    assert {name for name in theirs if not name.endswith(".limit")} == plain.state_dict().keys()
    assert all(torch.equal(value, theirs[name]) for name, value in plain.state_dict().items())


@SIGNED
def test_no_input_goes_beyond_the_limit(signed: bool) -> None:
    convolution = make(signed)
    features = 100 * torch.randn(2, 3, 8, 8)
    clipped = features.clamp(-2 if signed else 0, 2)
    expected = functional.conv2d(clipped, convolution.weight, convolution.bias, padding=1)
    torch.testing.assert_close(convolution(features), expected)


def test_each_channel_of_a_signed_input_has_its_limit() -> None:
    convolution = make(signed=True)
    convolution.limit.copy_(torch.tensor([0.5, 1, 2]).reshape(3, 1, 1))
    features = torch.full((1, 3, 4, 4), 9.0)
    expected = functional.conv2d(convolution.limit.expand(1, 3, 4, 4), convolution.weight, convolution.bias, padding=1)
    torch.testing.assert_close(convolution(features), expected)


@given(st.booleans(), st.floats(0.01, 50), st.integers(0, 1000))
def test_rounded_it_computes_what_integers_do(signed: bool, limit: float, seed: int) -> None:
    """Of bytes: so an engine that multiplies those and scales the sums gets the same."""
    torch.manual_seed(seed)
    convolution = BoundedConv2d(3, 4, 3, signed=signed)
    convolution.limit.copy_(limit * (0.1 + torch.rand_like(convolution.limit)))
    convolution.rounding = True
    features = limit * torch.randn(1, 3, 6, 6)
    steps = SIGNED_STEPS if signed else UNSIGNED_STEPS
    integers = torch.round(features / convolution.limit * steps).clamp(-steps if signed else 0, steps)
    scaled = convolution.weight.detach() * convolution.limit
    weight_step = scaled.abs().amax((1, 2, 3), keepdim=True) / SIGNED_STEPS
    weights = torch.round(scaled / weight_step)
    sums = functional.conv2d(integers.double(), weights.double(), padding=1)
    expected = sums * weight_step.reshape(-1, 1, 1) / steps + convolution.bias.detach().reshape(-1, 1, 1)  # type: ignore[union-attr]
    # A value in the middle between two steps may go either way.
    tolerance = 1.01 * float(weight_step.max()) * SIGNED_STEPS / steps
    with torch.no_grad():
        difference = (convolution(features) - expected).abs()
    assert float(difference.max()) <= tolerance
    assert float(difference.median()) <= 1e-3 * tolerance


def test_upsampling_rounds_weights_by_their_outputs() -> None:
    torch.manual_seed(0)
    up = BoundedConvTranspose2d(4, 3, 2)
    up.limit.fill_(1.0)
    up.rounding = True
    with torch.no_grad():
        up.weight[:, 1] *= 1e-4  # a quiet output keeps steps of its own
    features = torch.rand(1, 4, 5, 5)
    with torch.no_grad():
        exact, rounded = functional.conv_transpose2d(features, up.weight, up.bias, 2), up(features)
        error = (rounded - exact).abs().amax((0, 2, 3)) / up.weight.abs().amax((0, 2, 3))
    assert rounded.shape == (1, 3, 10, 10)
    assert 0 < float(error.min()) <= float(error.max()) < 0.05
    with pytest.raises(ValueError, match="follows from"):
        up(features, [10, 10])


@SIGNED
def test_gradients_pass_rounding_and_stop_at_the_limit(signed: bool) -> None:
    convolution = make(signed)
    inside = (0.1 + 1.8 * torch.rand(1, 3, 6, 6)).requires_grad_()
    outside = torch.full((1, 3, 6, 6), 2.5, requires_grad=True)
    convolution.rounding = True
    convolution(inside).sum().backward()
    rounded, convolution.weight.grad = convolution.weight.grad, None
    assert inside.grad is not None
    assert rounded is not None
    expected = functional.conv_transpose2d(torch.ones(1, 5, 6, 6), convolution.weight, padding=1)
    torch.testing.assert_close(inside.grad, expected, rtol=0.05, atol=0.02)
    convolution(outside).sum().backward()
    assert outside.grad is not None
    assert not outside.grad.any()
    assert convolution.weight.grad is not None
    assert convolution.weight.grad.all()


def test_silent_channels_stay_silent() -> None:
    convolution = make(signed=True)
    with torch.no_grad():
        convolution.weight[2] = 0
    convolution.rounding = True
    out = convolution(torch.randn(1, 3, 6, 6))
    assert convolution.bias is not None
    torch.testing.assert_close(out[:, 2], convolution.bias[2].expand(1, 6, 6))


def test_sixteen_bit_training_rounds_exactly() -> None:
    """The features' own rounding to bf16 comes before, not in between."""
    convolution = make(signed=True)
    convolution.rounding = True
    features = torch.randn(1, 3, 6, 6).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        bounded = convolution._bound(features)
        weight = convolution._round_weight(convolution.weight, 1)
    assert bounded.dtype == weight.dtype == torch.float32
    steps = bounded / (2 / SIGNED_STEPS)
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)


def test_rounding_is_switched_for_the_whole_network() -> None:
    network = Dagn(replace(SHIPPED_KIND, bounded=True))
    convolutions = list(find_bounded(network))
    # Two in each block (one block at three scales, a bottleneck, two stages of two), two downs, two ups.
    assert len(convolutions) == 2 * (3 + 1 + 4) + 2 + 2
    for on in (True, False):
        round_to_integers(network, on)
        assert all(convolution.rounding == on for convolution in convolutions)


def test_batch_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="batch norm"):
        DagnConfig(bounded=True)
    with pytest.raises(ValueError, match="batch norm"):
        double_conv(4, bounded=True)
