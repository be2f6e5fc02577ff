"""Guidance of whole training pictures, measured once, instead of each patch's own.

When a picture is restored, its guidance is the mean over its windows. One patch's is far noisier, so a restorer that
learns under that learns to ignore it. Here it learns under what it will get, and the encoders need not run in every
step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from unjpeg.models import Dagn, GuidanceTensors
from unjpeg.models.autoencoder import pool
from unjpeg.tables import STATED_FEATURES
from unjpeg.tiling import guide_windows
from unjpeg.train.data import ImageStore, Sample
from unjpeg.train.degrade import compress_jpeg
from unjpeg.train.run import to_unit_range

__all__ = ["QUALITY_LEVELS", "PictureGuidance"]

QUALITY_LEVELS: Final = (5, *range(10, 101, 10))
WINDOWS = 8


@dataclass(frozen=True, slots=True)
class PictureGuidance:
    """Mean features of every picture at the qualities ``QUALITY_LEVELS``.

    Attributes:
        insensitive, sensitive: ``(pictures, len(QUALITY_LEVELS), features)``.
    """

    insensitive: Tensor
    sensitive: Tensor

    @classmethod
    @torch.no_grad()
    def measure(cls, network: Dagn, pictures: ImageStore, window: int, device: torch.device) -> PictureGuidance:
        """Compress ``WINDOWS`` windows of every picture at every quality and let the frozen encoders see them.

        Args:
            window: their side in pixels; placed as when a picture is restored.
        """
        network.eval()
        insensitive, sensitive = [], []
        for number in range(len(pictures)):
            windows = list(guide_windows(pictures[number], window, WINDOWS))
            for quality in QUALITY_LEVELS:
                batch = np.stack([compress_jpeg(cut, quality) for cut in windows])
                image = to_unit_range(torch.from_numpy(batch).permute(0, 3, 1, 2).to(device))
                insensitive.append(pool(network.insensitive_encoder(image)).mean(0).cpu())
                sensitive.append(pool(network.sensitive_encoder(image)).mean(0).cpu())
        shape = len(pictures), len(QUALITY_LEVELS), -1
        return cls(torch.stack(insensitive).reshape(shape), torch.stack(sensitive).reshape(shape))

    @torch.no_grad()
    def standardise(self, network: Dagn) -> None:
        """Let new guiders start from features of zero mean and unit spread, by their first layers' weights.

        The encoders' features differ little beside their means, and a guider that starts at random sees the means only.
        """
        for guider, table in (
            (network.insensitive_guider, self.insensitive),
            (network.sensitive_guider, self.sensitive),
        ):
            features = table.flatten(0, 1)
            spread = features.std(dim=0)
            spread = spread.clamp(min=float(spread.median()) / 3 + 1e-6)  # what hardly varies is not blown up
            weight, bias = guider.first.weight, guider.first.bias
            weight.div_(spread.to(weight.device))
            bias.sub_(weight @ features.mean(dim=0).to(weight.device))

    def of(self, network: Dagn, sample: Sample, compressed: Tensor) -> GuidanceTensors:
        """Guidance of a batch: of the pictures its patches lie in, a patch's own where it lies in none.

        Args:
            compressed: the batch's compressed patches as the network sees them, ``(N, 3, H, W)``, range 0..1.
        """
        of_pictures = self.at(sample.picture.clamp(min=0), sample.quality)._replace(stated=sample.stated)
        guidance = GuidanceTensors(*(part.to(compressed.device) for part in of_pictures))
        alone = (sample.picture < 0).to(compressed.device)
        if alone.any():
            own = network.guide(compressed[alone])
            guidance.insensitive[alone] = own.insensitive
            guidance.sensitive[alone] = own.sensitive
        return guidance

    def at(self, pictures: Tensor, qualities: Tensor) -> GuidanceTensors:
        """Guidance of some pictures, interpolated between the measured qualities. Fusion and what is stated are zeros.

        Shape: ``pictures`` (their numbers) and ``qualities`` ``(N,)`` to vectors ``(N, features)``.
        """
        levels = torch.tensor(QUALITY_LEVELS, dtype=torch.float32)
        place = qualities.to(torch.float32).clamp(levels[0], levels[-1])
        upper = torch.searchsorted(levels, place).clamp(1, len(levels) - 1)
        share = ((place - levels[upper - 1]) / (levels[upper] - levels[upper - 1]))[:, None]
        insensitive, sensitive = (
            torch.lerp(table[pictures, upper - 1], table[pictures, upper], share)
            for table in (self.insensitive, self.sensitive)
        )
        count = len(pictures)
        return GuidanceTensors(insensitive, sensitive, torch.zeros(count, 1, 1), torch.zeros(count, STATED_FEATURES))
