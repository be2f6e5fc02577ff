"""Networks in two halves: each configuration builds its own, and the halves are the whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trainings import NETWORKS, PICTURES, a_network
from unjpeg.adapt.carn import (
    Adaptation,
    restore_pixels,
)
from unjpeg.models import (
    ArCnn,
    ArCnnConfig,
    Dagn,
    DagnConfig,
    DiscriminatorConfig,
    DnCnn,
    DnCnnConfig,
    Rdn,
    RdnConfig,
    SplitDagn,
    make_backbone,
)


@pytest.mark.parametrize("name", NETWORKS)
def test_each_configuration_builds_its_own_network(name: str) -> None:
    config, kind = NETWORKS[name]
    assert type(make_backbone(config)) is kind


@pytest.mark.parametrize("name", NETWORKS)
def test_the_halves_are_the_whole(name: str) -> None:
    network = a_network(name).eval()
    image = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        features = network.extract(image)
        assert features.seen.shape == (2, network.feature_channels, *[16 // network.feature_stride] * 2)
        assert torch.equal(network.denoise(features), network(image))
        assert network(image).shape == image.shape
        torch.testing.assert_close(network.denoise(features.first(1)), network(image[:1]))


def test_published_sizes() -> None:
    """RDN: 22 M. DnCNN: 20 layers of 64, 0.67 M. ARCNN: 9-7-1-5 kernels, 0.1 M."""

    def weights(network: nn.Module) -> int:
        return sum(p.numel() for p in network.parameters())

    with torch.device("meta"):
        assert weights(Rdn(RdnConfig())) == pytest.approx(22e6, rel=0.02)
        assert weights(DnCnn(DnCnnConfig())) == pytest.approx(0.668e6, rel=0.01)
        arcnn = 9 * 9 * 64 + 64 + 7 * 7 * 64 * 32 + 32 + 32 * 16 + 16 + 5 * 5 * 16 + 1
        assert weights(ArCnn(ArCnnConfig())) == arcnn


def test_published_feature_extractor_is_two_convolutions() -> None:
    network = a_network()
    network.extract(torch.rand(1, 1, 8, 8)).seen.sum().backward()  # type: ignore[no-untyped-call]
    reached = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert reached == {f"shallow{i}.{part}" for i in (1, 2) for part in ("weight", "bias")}


def test_split_dagn_is_the_dagn() -> None:
    torch.manual_seed(0)
    dagn = Dagn(DagnConfig(width=4, scales=2, blocks=2, stem=1, encoder_width=1)).eval()
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(SplitDagn(dagn)(image), dagn(image))
        as_colour = dagn(image[:, :1].expand(-1, 3, -1, -1)).mean(1, keepdim=True)
        torch.testing.assert_close(SplitDagn(dagn, image_channels=1)(image[:, :1]), as_colour)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RdnConfig(blocks=0),
        lambda: RdnConfig(blocks=3, split=4),
        lambda: DnCnnConfig(depth=2, split=2),
        lambda: ArCnnConfig(split=4),
        lambda: DiscriminatorConfig(hidden=0),
        lambda: DiscriminatorConfig("pooled"),  # type: ignore[arg-type]
        lambda: Adaptation(steps=1, strength=-1.0),
        lambda: Adaptation(steps=1, strength=math.nan),
        lambda: Adaptation(steps=1, reduction="max"),  # type: ignore[arg-type]
    ],
)
def test_impossible_configurations_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        make()


def test_a_picture_of_any_size_goes_through() -> None:
    for name in NETWORKS:
        for picture in (PICTURES[0][:13, :21], PICTURES[0]):
            restored = restore_pixels(a_network(name), picture)
            assert restored.shape == picture.shape
            assert restored.dtype == np.uint8
