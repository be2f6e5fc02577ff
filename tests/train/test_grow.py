"""A wider network that takes over a narrower one's weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from unjpeg.errors import TrainingError
from unjpeg.models import Dagn, DagnConfig
from unjpeg.train.grow import exchange_encoders, take_over

NARROW = DagnConfig(width=4, scales=3, blocks=2, stem=2, encoder_width=2)
CONFIGS = {
    "published kind": NARROW,
    "shipped kind": replace(NARROW, norm="none", input="detail", skips="after", fusion=False, stated=True),
}


def lively(config: DagnConfig) -> Dagn:
    """A network in which every weight and statistic matters."""
    torch.manual_seed(5)
    network = Dagn(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                module.running_mean.normal_(std=0.1)
    return network


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("width", [4, 5, 6, 12])
def test_it_computes_what_the_narrower_one_did(kind: str, width: int) -> None:
    narrow = lively(CONFIGS[kind])
    wide = Dagn(replace(narrow.config, width=width)).eval()
    image, stated = torch.rand(2, 3, 48, 64), torch.rand(2, 131)
    with torch.no_grad():
        assert not torch.allclose(wide(image, None, stated), narrow(image, None, stated), atol=1e-3)
        take_over(wide, narrow.state_dict())
        torch.testing.assert_close(wide(image, None, stated), narrow(image, None, stated), atol=1e-4, rtol=1e-4)


def test_added_channels_learn_from_the_first_step() -> None:
    """Or they would be there for nothing: what is seen of them begins at zero, and has a gradient."""
    narrow = lively(CONFIGS["shipped kind"])
    wide = Dagn(replace(narrow.config, width=8))
    take_over(wide, narrow.state_dict())
    image = torch.rand(2, 3, 64, 64)
    wide(image).sub(torch.rand_like(image)).square().mean().backward()
    for name in (
        "tail.weight",
        "stages.0.sensitive.0.body.2.weight",
        "downs.0.weight",
        "encoder_scales.0.1.body.0.weight",
    ):
        weight = wide.get_parameter(name)
        old_outputs, old_inputs = narrow.get_parameter(name).shape[:2]
        assert not weight[:old_outputs, old_inputs:].any()
        assert weight.grad is not None
        assert weight.grad[:old_outputs, old_inputs:].abs().amin(dim=(2, 3)).gt(0).any(), name


@pytest.mark.parametrize("width", [4, 6])
def test_under_other_encoders_it_begins_with_the_mean_guidance(width: int) -> None:
    old = lively(CONFIGS["shipped kind"])
    with torch.no_grad():
        for guider in (old.sensitive_guider, old.insensitive_guider):
            guider.mlp[-1].weight.zero_()  # type: ignore[operator]
    others = lively(old.config)
    frozen = {name: value + 0.01 for name, value in others.state_dict().items() if name in others.frozen_names()}
    image = torch.rand(1, 3, 48, 64)
    state = exchange_encoders(old, frozen, [image])
    network = Dagn(replace(old.config, width=width)).eval()
    born = network.sensitive_guider.first.weight.clone()
    take_over(network, state)
    assert torch.equal(network.sensitive_guider.first.weight, born), "nothing is known of the new features yet"
    assert torch.equal(network.sensitive_encoder.conv1.weight, frozen["sensitive_encoder.conv1.weight"])
    newborn = {name: value for name, value in state.items() if "_guider" not in name}
    unguided = Dagn(replace(old.config, width=width)).eval()
    take_over(unguided, newborn)
    with torch.no_grad():
        away, without = ((made(image) - old(image)).abs().max().item() for made in (network, unguided))
    assert away < 0.1 * without


def test_encoders_do_not_grow() -> None:
    narrow = lively(NARROW)
    with pytest.raises(TrainingError, match="do not fit this network"):
        take_over(Dagn(replace(NARROW, width=8, encoder_width=4)), narrow.state_dict())


@pytest.mark.parametrize("change", [{"width": 3}, {"stem": 1}, {"blocks": 1}, {"scales": 2}])
def test_what_does_not_grow_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(TrainingError, match="do not fit this network"):
        take_over(Dagn(replace(NARROW, **change)), lively(NARROW).state_dict())  # type: ignore[arg-type]
