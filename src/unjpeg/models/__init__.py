"""The networks, as torch modules: what is trained. What runs on a user's machine is their export.

This package needs the extra ``train`` (torch); nothing outside ``models``, ``train`` and ``evaluate`` imports it.
"""

from unjpeg.models.arcnn import ArCnn, ArCnnConfig
from unjpeg.models.autoencoder import AutoEncoder, AutoEncoderConfig, Discriminator, QualityPredictor
from unjpeg.models.backbone import Backbone, Features
from unjpeg.models.backbones import BACKBONES, BackboneConfig, make_backbone
from unjpeg.models.dagn import Dagn, DagnConfig, GuidanceTensors
from unjpeg.models.dncnn import DnCnn, DnCnnConfig
from unjpeg.models.quality_discriminator import DiscriminatorConfig, QualityDiscriminator, reverse_gradient
from unjpeg.models.rdn import Rdn, RdnConfig
from unjpeg.models.split_dagn import SplitDagn

__all__ = [
    "BACKBONES",
    "ArCnn",
    "ArCnnConfig",
    "AutoEncoder",
    "AutoEncoderConfig",
    "Backbone",
    "BackboneConfig",
    "Dagn",
    "DagnConfig",
    "Discriminator",
    "DiscriminatorConfig",
    "DnCnn",
    "DnCnnConfig",
    "Features",
    "GuidanceTensors",
    "QualityDiscriminator",
    "QualityPredictor",
    "Rdn",
    "RdnConfig",
    "SplitDagn",
    "make_backbone",
    "reverse_gradient",
]
