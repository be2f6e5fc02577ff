"""The probe: how well domains are told apart."""

from __future__ import annotations

import numpy as np
import pytest

from trainings import PICTURES, a_network
from unjpeg.adapt.domains import (
    Cutting,
    TargetDomain,
)
from unjpeg.adapt.probe import measure_domain_accuracy
from unjpeg.models import (
    DiscriminatorConfig,
)


def test_probe_tells_dark_from_bright() -> None:
    dark, bright = ([(picture // 3 + more).astype(np.uint8) for picture in PICTURES] for more in (0, 150))
    training = (TargetDomain(dark[:4], Cutting(4, 16)).batch, TargetDomain(bright[:4], Cutting(4, 16)).batch)
    held_out = (TargetDomain(dark[4:], Cutting(4, 16)).batch, TargetDomain(bright[4:], Cutting(4, 16)).batch)
    config = DiscriminatorConfig("average", hidden=32)
    assert measure_domain_accuracy(a_network(), training, held_out, config, steps=80, learning_rate=1e-2) > 0.95


def test_probe_is_at_chance_for_one_domain() -> None:
    """Other draws from the same pictures are not told apart, however long the probe is trained."""
    draws = [TargetDomain(PICTURES, Cutting(16, 16, seed=seed)).batch for seed in range(4)]
    config = DiscriminatorConfig("moments", hidden=32)
    found = measure_domain_accuracy(
        a_network(), (draws[0], draws[1]), (draws[2], draws[3]), config, steps=80, learning_rate=1e-2
    )
    assert found == pytest.approx(0.5, abs=0.1)
    assert found != 0.5
