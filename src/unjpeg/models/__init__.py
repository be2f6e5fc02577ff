"""The networks, as torch modules: what is trained. What runs on a user's machine is their export.

This package needs the extra ``train`` (torch); nothing outside ``models``, ``train`` and ``evaluate`` imports it.
"""

from unjpeg.models.autoencoder import AutoEncoder, AutoEncoderConfig, Discriminator, QualityPredictor
from unjpeg.models.dagn import Dagn, DagnConfig, Guidance

__all__ = [
    "AutoEncoder",
    "AutoEncoderConfig",
    "Dagn",
    "DagnConfig",
    "Discriminator",
    "Guidance",
    "QualityPredictor",
]
