"""What a training is: plain dataclasses, stored as JSON in every checkpoint and exported model."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from unjpeg.errors import SettingError
from unjpeg.models import DagnConfig
from unjpeg.models.autoencoder import TOTAL_STRIDE, AutoEncoderConfig
from unjpeg.train.degrade import JpegDegradation
from unjpeg.train.optimizer import OptimizerName

__all__ = [
    "SEEDS",
    "VALIDATION_FRACTION",
    "DagnTraining",
    "EncoderTraining",
    "LearningRate",
    "Recipe",
    "apply_settings",
    "complete_config",
    "describe_recipe",
    "require_at_least",
]


Settable = TypeVar("Settable")

VALIDATION_FRACTION = 0.06
"""Share of the pictures that every recipe holds out, so that no shipped model has seen another's."""

SEEDS = 2**63
"""So many there are: torch takes no larger ones, and stage 2 takes the next one."""


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

    def __post_init__(self) -> None:
        require_at_least(self, 0, "peak", "warmup_steps")
        _require_shares(self, "gamma", "floor")
        if any(milestone < 0 for milestone in self.milestones):
            raise ValueError(f"milestones are steps, from 0 on, got {self.milestones}")

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
        steps: optimizer steps. The paper counts epochs over its 3550 images: 15 epochs of whole batches are 1650 steps
            of 32.
        patch, resize: side of the input, a multiple of 16; whole images scaled to it (as published) or patches cut at
            full size.
        lambda_insensitive, lambda_sensitive: the penalty factors of Eq. 3 and 7.
        adversarial: Eq. 6 as printed, or the textbook's binary cross-entropy.
        classification: Eq. 9's L1 between softmax and one-hot, or cross-entropy.
        target_sigma: spread, in qualities, of what the predictor is to say of a compressed picture; 0 is one-hot, as
            published. See ``quality_targets``.
        content_norm: Eq. 5 and 8's norm as the mean over a picture's values, or as their sum (as printed): the sum
            weighs content against the other terms by 3 * patch^2 times as much.
        resnet50: a safetensors file of ResNet-50's state dict, usual names, that both encoders start from; ``None``
            starts at random. Fits ``encoder_width`` 64 only.
        micro_batches: parts that a process's share of the batch is divided into (gradient accumulation).

    Raises ValueError for a size or a number that no training could take, as ``DagnTraining`` does.
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
    target_sigma: float = 0.0
    content_norm: Literal["mean", "sum"] = "mean"
    resnet50: str | None = None
    gradient_clip: float | None = None
    micro_batches: int = 1
    checkpoint_every: int = 200
    validate_every: int = 200

    def __post_init__(self) -> None:
        _require_stage(self)
        require_at_least(self, 0, "lambda_insensitive", "lambda_sensitive", "target_sigma")
        if self.patch % TOTAL_STRIDE:
            raise ValueError(f"patch must be a multiple of {TOTAL_STRIDE}, the encoders' stride, got {self.patch}")


@dataclass(frozen=True, slots=True)
class DagnTraining:
    """Stage 2: the restorer under the frozen encoders (section IV-A3).

    Attributes:
        steps: optimizer steps. The paper's 10000 epochs over 3550 images are, in whole batches, 550000 steps of 64.
        optimizer: "adam" as published, or "muon": see ``optimizer``.
        loss: Eq. 14 as the mean absolute error ("l1") or, as printed, as a patch's sum of absolute errors ("l1-sum");
            or the mean over the patches of each one's root mean square error ("rms"), nearer to a mean of PSNR values.
        guidance: what a patch is restored under: the guidance of the patch itself, as published, or the mean over
            windows of its whole picture at that quality, as when a picture is restored: see ``guidance``. The latter
            has no fusion.
        guide_window: side of the windows that guidance is taken from, a multiple of 16; ``None`` is ``patch``.
        candidates: patches cut for each one that is trained on, the most detailed; 1 is all that are cut.
        shrink, patterns, blind: shares of the patches that are halved, that are no photographs, and whose file states
            nothing: see ``PairedPatches``.
        rounding: share of the steps, the last ones, that a bounded network takes with features and weights rounded as
            in 8-bit integers. See ``models.integers``.
        weight_decay: decoupled; 0 is plain Adam or Muon.
        ema_decay: of the averaged weights that are validated and exported; 0 exports the last weights as they are.
    """

    steps: int
    batch: int = 64
    patch: int = 96
    optimizer: OptimizerName = "adam"
    learning_rate: LearningRate = field(default_factory=lambda: LearningRate(1e-4))
    degradation: JpegDegradation = field(default_factory=JpegDegradation)
    loss: Literal["l1", "l1-sum", "rms"] = "l1"
    guidance: Literal["patch", "picture"] = "patch"
    guide_window: int | None = None
    candidates: int = 1
    shrink: float = 0.0
    patterns: float = 0.0
    blind: float = 0.0
    rounding: float = 0.0
    weight_decay: float = 0.0
    gradient_clip: float | None = None
    ema_decay: float = 0.0
    micro_batches: int = 1
    checkpoint_every: int = 500
    validate_every: int = 500

    def __post_init__(self) -> None:
        _require_stage(self)
        require_at_least(self, 1, "candidates")
        require_at_least(self, 0, "weight_decay")
        _require_shares(self, "shrink", "patterns", "blind", "rounding")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in 0..1, 1 excluded, got {self.ema_decay}")
        if self.window < 1 or self.window % TOTAL_STRIDE:
            name = "patch" if self.guide_window is None else "guide_window"
            raise ValueError(
                f"{name} must be a multiple of {TOTAL_STRIDE}, for guidance is taken from windows of that side, "
                f"got {self.window}"
            )

    @property
    def window(self) -> int:
        """Side of the windows that guidance is taken from."""
        return self.patch if self.guide_window is None else self.guide_window

    @property
    def first_rounded(self) -> int:
        """The step from which on there is rounding: ``steps`` if there is none."""
        return self.steps - round(self.rounding * self.steps)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole training: the network, both stages, the seed, and the share of pictures held out for validation.

    Raises ValueError if its parts do not fit each other.
    """

    name: str
    network: DagnConfig
    encoders: EncoderTraining
    dagn: DagnTraining
    seed: int = 0
    validation_fraction: float = VALIDATION_FRACTION

    def __post_init__(self) -> None:
        if self.network.fusion and self.dagn.guidance == "picture":
            raise ValueError('dagn.guidance "picture" has no fusion; set network.fusion to false')
        if not self.network.has_sizeless_guidance and self.dagn.guidance == "picture":
            raise ValueError('dagn.guidance "picture" has no maps; set network.insensitive_features to mean')
        if self.network.bounded != (self.dagn.rounding > 0):
            raise ValueError("network.bounded and dagn.rounding go together: the one is for the other")
        stride = self.network.total_stride
        if self.dagn.patch % stride:
            raise ValueError(f"dagn.patch must be a multiple of {stride}, the network's stride, got {self.dagn.patch}")
        if not 0 <= self.seed < SEEDS:
            raise ValueError(f"seed must lie in 0..{SEEDS - 1}, got {self.seed}")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must lie in 0..1, 1 excluded, got {self.validation_fraction}")


def describe_recipe(recipe: Recipe, *parts: str) -> dict[str, Any]:
    """The named parts of a recipe as they come back from JSON: what a checkpoint stores and compares."""
    whole = json.loads(json.dumps(asdict(recipe)))
    return {part: whole[part] for part in parts}


def complete_config(stored: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's configuration with the fields that did not exist when it was written, at their defaults."""
    kinds = {"network": DagnConfig, "encoders": EncoderTraining, "dagn": DagnTraining}
    if "encoder_width" in stored:  # stage 1's
        stored = {f"encoder_{name}": value for name, value in asdict(AutoEncoderConfig()).items()} | stored
    return {part: _completed(value, kinds[part]) if part in kinds else value for part, value in stored.items()}


def _completed(stored: dict[str, Any], kind: Any) -> dict[str, Any]:
    out = {f.name: f.default for f in fields(kind) if f.default is not MISSING} | stored
    hints = get_type_hints(kind)
    return {
        name: _completed(value, hints[name]) if isinstance(value, dict) and is_dataclass(hints.get(name)) else value
        for name, value in out.items()
    }


def apply_settings(recipe: Settable, settings: Sequence[str]) -> Settable:
    """The recipe with some of its fields set from text, as ``unjpeg train --set`` takes them.

    All are set at once: fields that depend on each other may come in any order. Of one field the last setting counts.

    Args:
        recipe: a dataclass that consists of numbers, texts and further dataclasses.
        settings: each ``field.field=value``, such as ``encoders.adversarial=bce``. Numbers as Python writes them,
            ``true`` and ``false``, ``none`` where a field may be empty, tuples as numbers between commas.

    Raises:
        SettingError: there is no such field, or it does not take that value.
    """
    changes: dict[str, Any] = {}
    for setting in settings:
        path, separator, text = setting.partition("=")
        if not separator or not path:
            raise SettingError(f"{setting}: a setting is written FIELD=VALUE, for instance encoders.adversarial=bce")
        try:
            _note(changes, recipe, path.split("."), text)
        except ValueError as error:
            raise SettingError(f"{setting}: {error}") from error
    try:
        changed: Settable = _changed(recipe, changes)
    except ValueError as error:
        raise SettingError(f"{', '.join(settings)}: {error}") from error
    return changed


def _note(changes: dict[str, Any], owner: Any, path: list[str], text: str) -> None:
    """Add one setting to ``changes``, which are nested as the fields are. Raises ValueError."""
    name, *below = path
    known = [f.name for f in fields(owner) if f.name != "name"]
    if name not in known:
        raise ValueError(f"there is no {name!r}; there are: {', '.join(known)}")
    value = getattr(owner, name)
    if is_dataclass(value):
        if not below:
            raise ValueError(f"{name!r} has settings of its own: {', '.join(f.name for f in fields(value))}")
        _note(changes.setdefault(name, {}), value, below, text)
    elif below:
        raise ValueError(f"{name!r} has no settings of its own")
    else:
        changes[name] = _parsed(text, get_type_hints(type(owner))[name])


def _changed(owner: Any, changes: Mapping[str, Any]) -> Any:
    values = {
        name: _changed(getattr(owner, name), value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return replace(owner, **values)


def _parsed(text: str, kind: Any) -> Any:
    """``text`` as a value of the annotation ``kind``. Raises ValueError."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return None if text.lower() == "none" else _parsed(text, inner)
    if origin is Literal:
        if text not in arguments:
            raise ValueError(f"must be one of {', '.join(arguments)}")
        return text
    if origin is tuple:
        return tuple(_parsed(item, arguments[0]) for item in text.split(",") if item)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("must be true or false")
        return text.lower() == "true"
    if kind is str:
        return text
    try:
        value = kind(text)
    except ValueError:
        raise ValueError("must be a whole number" if kind is int else "must be a number") from None
    if kind is float and not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def require_at_least(owner: object, least: int, *names: str) -> None:
    """Raises ValueError if one of the named fields is less."""
    for name in names:
        if not getattr(owner, name) >= least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(owner, name)}")


def _require_shares(owner: object, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(owner, name) <= 1:
            raise ValueError(f"{name} is a share, 0 to 1, got {getattr(owner, name)}")


def _require_stage(stage: EncoderTraining | DagnTraining) -> None:
    """What both stages ask of the fields that they share."""
    require_at_least(stage, 1, "steps", "batch", "patch", "micro_batches", "checkpoint_every", "validate_every")
    if stage.batch % stage.micro_batches:
        raise ValueError(f"batch {stage.batch} cannot be divided into {stage.micro_batches} micro_batches")
    if stage.gradient_clip is not None and stage.gradient_clip <= 0:
        raise ValueError(f"gradient_clip must be greater than 0, or none, got {stage.gradient_clip}")
