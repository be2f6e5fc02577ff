"""The backbones by their configurations: one line for each network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from unjpeg.models.arcnn import ArCnn, ArCnnConfig
from unjpeg.models.backbone import Backbone
from unjpeg.models.dagn import Dagn, DagnConfig
from unjpeg.models.dncnn import DnCnn, DnCnnConfig
from unjpeg.models.rdn import Rdn, RdnConfig
from unjpeg.models.split_dagn import SplitDagn

__all__ = ["BACKBONES", "BackboneConfig", "make_backbone"]

BackboneConfig = RdnConfig | DnCnnConfig | ArCnnConfig | DagnConfig
"""A DAGN is shown grey pictures as three equal channels; without stage 1 its guidance should be off."""

BACKBONES: Mapping[type[BackboneConfig], Callable[[Any], Backbone]] = {
    RdnConfig: Rdn,
    DnCnnConfig: DnCnn,
    ArCnnConfig: ArCnn,
    DagnConfig: lambda config: SplitDagn(Dagn(config), image_channels=1),
}


def make_backbone(config: BackboneConfig) -> Backbone:
    """The network that a configuration describes, weights random."""
    return BACKBONES[type(config)](config)
