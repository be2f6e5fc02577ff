"""What a training is: plain dataclasses, stored as JSON in every checkpoint and exported model."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from unjpeg.models import DagnConfig
from unjpeg.train.degrade import JpegDegradation
from unjpeg.train.optimizer import OptimizerName

__all__ = ["VALIDATION_FRACTION", "DagnTraining", "EncoderTraining", "LearningRate", "Recipe", "json_ready"]


VALIDATION_FRACTION = 0.06
"""Share of the pictures that every recipe holds out, so that no shipped model has seen another's."""


@dataclass(frozen=True, slots=True)
class LearningRate:
    """A schedule as a pure function of the step, so that it needs no state of its own.

    Attributes:
        peak: the rate after the warm-up.
        warmup_steps: linear rise from zero.
        milestones: steps at which the rate is multiplied by ``gamma``.
        cosine: fall from the peak to ``floor`` times the peak along half a cosine, over the whole training.
    """

    peak: float
    warmup_steps: int = 0
    milestones: tuple[int, ...] = ()
    gamma: float = 1.0
    cosine: bool = False
    floor: float = 0.0

    def at(self, step: int, steps: int) -> float:
        """The rate for the step that follows ``step`` finished ones, of ``steps`` in all."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        rate = self.peak * float(self.gamma ** sum(step >= milestone for milestone in self.milestones))
        if self.cosine:
            progress = (step - self.warmup_steps) / max(1, steps - self.warmup_steps)
            rate *= self.floor + (1 - self.floor) * (1 + math.cos(math.pi * progress)) / 2
        return rate


@dataclass(frozen=True, slots=True)
class EncoderTraining:
    """Stage 1: the two auto-encoders (section IV-A2).

    Attributes:
        steps: optimizer steps. The paper counts epochs over its 3550 images: 15 epochs are 1665 steps of 32.
        patch, resize: side of the input; whole images scaled to it (as published) or patches cut at full size.
        lambda_insensitive, lambda_sensitive: the penalty factors of Eq. 3 and 7.
        adversarial: Eq. 6 as printed, or the textbook's binary cross-entropy.
        classification: Eq. 9's L1 between softmax and one-hot, or cross-entropy.
        micro_batches: parts that a process's share of the batch is divided into (gradient accumulation).
    """

    steps: int
    batch: int = 32
    patch: int = 256
    resize: bool = True
    optimizer: OptimizerName = "adam"
    learning_rate: LearningRate = field(default_factory=lambda: LearningRate(5e-4))
    degradation: JpegDegradation = field(default_factory=JpegDegradation)
    lambda_insensitive: float = 1.0
    lambda_sensitive: float = 1.0
    adversarial: Literal["published", "bce"] = "published"
    classification: Literal["l1", "cross-entropy"] = "l1"
    gradient_clip: float | None = None
    micro_batches: int = 1
    checkpoint_every: int = 200
    validate_every: int = 200


@dataclass(frozen=True, slots=True)
class DagnTraining:
    """Stage 2: the restorer under the frozen encoders (section IV-A3).

    Attributes:
        steps: optimizer steps. The paper's 10000 epochs over 3550 images are 554700 steps of 64.
        optimizer: "adam" as published, or "muon": see ``optimizer``.
        loss: Eq. 14's mean absolute error, or the mean over the patches of each one's root mean square error, which
            is nearer to a mean of PSNR values.
        weight_decay: decoupled; 0 is plain Adam or Muon.
        ema_decay: of the averaged weights that are validated and exported; 0 exports the last weights as they are.
    """

    steps: int
    batch: int = 64
    patch: int = 96
    optimizer: OptimizerName = "adam"
    learning_rate: LearningRate = field(default_factory=lambda: LearningRate(1e-4))
    degradation: JpegDegradation = field(default_factory=JpegDegradation)
    loss: Literal["l1", "rms"] = "l1"
    weight_decay: float = 0.0
    gradient_clip: float | None = None
    ema_decay: float = 0.0
    micro_batches: int = 1
    checkpoint_every: int = 500
    validate_every: int = 500


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole training: the network, both stages, the seed, and the share of pictures held out for validation."""

    name: str
    network: DagnConfig
    encoders: EncoderTraining
    dagn: DagnTraining
    seed: int = 0
    validation_fraction: float = VALIDATION_FRACTION


def json_ready(recipe: Recipe, *parts: str) -> dict[str, Any]:
    """The named parts of a recipe as they come back from JSON: what a checkpoint stores and compares."""
    whole = json.loads(json.dumps(asdict(recipe)))
    return {part: whole[part] for part in parts}
