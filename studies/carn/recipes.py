"""CARN-DA's recipes and scenarios: SQ, DQ, BQ, HQ to LQ, LQ to HQ (section 4.3), each trained once and resumed.

A recipe is a function that returns a whole configuration; a variant is one line in ``CARN_RECIPES``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.fabric import Fabric
from PIL import Image

from unjpeg.adapt.carn import Adaptation, Pretraining, adapt_network, describe_training, pretrain, restore_pixels
from unjpeg.adapt.domains import Cutting, SourceDomain, TargetDomain, checksum, compress_all, load_grey
from unjpeg.errors import TrainingDataError, TrainingError
from unjpeg.evaluate.psnr import MOST_DB, psnr_db
from unjpeg.models import (
    Backbone,
    BackboneConfig,
    DagnConfig,
    DiscriminatorConfig,
    RdnConfig,
    make_backbone,
)
from unjpeg.train.config import LearningRate, require_at_least
from unjpeg.train.data import ImageStore
from unjpeg.train.degrade import Pixels8
from unjpeg.train.run import TrainingImages

__all__ = [
    "CARN_RECIPES",
    "CarnPictures",
    "CarnRecipe",
    "RedegradedPairs",
    "Scenarios",
    "find_carn_recipe",
    "find_precision",
    "freeze_denoiser",
]

RedegradedPairs = Literal["clean", "halved"]
"""Of the source's originals, or of the target's own pictures at half their size."""

VALIDATION_PICTURES = 16
"""As many held-out pictures watch over a training; the tables are measured on all of them."""


@dataclass(frozen=True, slots=True)
class CarnRecipe:
    """A whole comparison: the network, both trainings, and the data's preparation.

    Attributes:
        low, high: the two quality factors.
        divide: each side of the training pictures is divided by this.
        target_pictures: "other": source and target are compressed from different halves of the pictures; "same": both
            from all of them, as the paper's 800 and 800 out of 800 must have been.
        validation_fraction: of the pictures; they stand in for DIV2K's validation set.
    """

    name: str
    backbone: BackboneConfig
    pretraining: Pretraining
    adaptation: Adaptation
    low: int = 10
    high: int = 70
    divide: int = 4
    target_pictures: Literal["other", "same"] = "other"
    validation_fraction: float = 0.15

    def __post_init__(self) -> None:
        if not 1 <= self.low < self.high <= 100:
            raise ValueError(f"low and high are quality factors, 1 <= low < high <= 100, got {self.low}, {self.high}")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"validation_fraction is a share, 0 to below 1, got {self.validation_fraction}")
        require_at_least(self, 1, "divide")
        stride = self.backbone.total_stride if isinstance(self.backbone, DagnConfig) else 1
        for part in (self.pretraining, self.adaptation):
            if part.patch % stride:
                raise ValueError(f"the patch must be a multiple of the network's stride, {stride}, got {part.patch}")


def published() -> CarnRecipe:
    """At the published size: 1000 epochs over 800 pictures, one patch of each per epoch, milestones as printed."""
    epoch = 800 // 16
    rate = LearningRate(1e-4, milestones=(500 * epoch, 800 * epoch), gamma=0.5)
    return CarnRecipe(
        name="published",
        backbone=RdnConfig(),
        pretraining=Pretraining(steps=1000 * epoch, learning_rate=rate, checkpoint_every=500),
        adaptation=Adaptation(steps=1000 * epoch, learning_rate=rate, checkpoint_every=500),
        target_pictures="same",
    )


def small() -> CarnRecipe:
    """Minutes on a CPU: a thin RDN; the adaptation as printed with the milestones in steps, Adam 1e-4."""
    return CarnRecipe(
        name="small",
        backbone=RdnConfig(width=24, blocks=3, layers=3, growth=12),
        pretraining=Pretraining(steps=1500, learning_rate=LearningRate(1e-3, milestones=(750, 1200), gamma=0.5)),
        adaptation=Adaptation(
            steps=1000,
            learning_rate=LearningRate(1e-4, milestones=(500, 800), gamma=0.5),
            # At a tenth of 1e-4, or of the plain features, it would hardly move in a thousand steps.
            discriminator_step="plain",
            discriminator=DiscriminatorConfig(standardised=True),
        ),
    )


def tiny() -> CarnRecipe:
    """A few steps of a toy network, to see the whole way in seconds."""
    return CarnRecipe(
        name="tiny",
        backbone=RdnConfig(width=4, blocks=2, layers=2, growth=4),
        pretraining=Pretraining(steps=6, batch=2, patch=16, learning_rate=LearningRate(1e-3), checkpoint_every=2),
        adaptation=Adaptation(steps=6, batch=2, patch=16, learning_rate=LearningRate(1e-3), checkpoint_every=2),
        divide=1,
        validation_fraction=0.5,
    )


def _small_with(name: str, **changes: Any) -> CarnRecipe:
    """``small`` with another adaptation: it shares the pre-trained networks."""
    recipe = small()
    return replace(recipe, name=name, adaptation=replace(recipe.adaptation, **changes))


_CONVOLVED = DiscriminatorConfig("convolved", standardised=True)

CARN_RECIPES: dict[str, Callable[[], CarnRecipe]] = {
    "published": published,
    "small": small,
    # The control: as many more steps on the source, without an adversary.
    "small-lambda-0": partial(_small_with, "small-lambda-0", strength=0.0),
    "small-moments": partial(
        _small_with, "small-moments", discriminator=DiscriminatorConfig("moments", standardised=True)
    ),
    "small-convolved": partial(_small_with, "small-convolved", discriminator=_CONVOLVED),
    # An adversary that sees quality and is ahead of the features, and pulls ten times as hard as the others.
    "small-convolved-tenfold-lambda-1": partial(
        _small_with,
        "small-convolved-tenfold-lambda-1",
        discriminator=_CONVOLVED,
        discriminator_step="tenfold",
        strength=1.0,
    ),
    "tiny": tiny,
}


def find_carn_recipe(name: str) -> CarnRecipe:
    """Raises TrainingError if there is none."""
    if name not in CARN_RECIPES:
        raise TrainingError(f"no recipe {name!r}; there are: {', '.join(CARN_RECIPES)}")
    return CARN_RECIPES[name]()


def find_precision(fabric: Fabric) -> str:
    """That a training is run in, as Lightning calls it."""
    return str(fabric.strategy.precision.precision)


@dataclass(frozen=True, slots=True)
class CarnPictures:
    """Grey pictures, sides divided: for training in a fixed random order, and held out.

    Attributes:
        training, held_out: originals, ``(H, W)`` uint8.
        manifest: of what was opened.
    """

    training: list[Pixels8]
    held_out: list[Pixels8]
    manifest: dict[str, Any]

    @classmethod
    def prepare(cls, images: TrainingImages, recipe: CarnRecipe, validation: ImageStore | None = None) -> CarnPictures:
        """Raises TrainingDataError if too few are large enough.

        Args:
            validation: held out instead of what ``images`` holds out.
        """
        side = max(recipe.pretraining.patch, recipe.adaptation.patch)
        training = load_grey(images.training, divide=recipe.divide, min_side=side)
        order = np.random.default_rng(0).permutation(len(training))
        held_out = load_grey(validation or images.validation, divide=recipe.divide, min_side=side)
        manifest = images.manifest
        if validation is not None:
            manifest = manifest | {"validation_images": len(validation), "validation_sha256": validation.checksum}
        if len(training) < 8:
            raise TrainingDataError(f"{len(training)} training pictures are too few; give 8 or more")
        return cls([training[i] for i in order], held_out, manifest)


@dataclass(frozen=True, slots=True)
class Scenarios:
    """The networks of the tables, trained when first asked for and resumed wherever they were left.

    Args:
        work: folder of all trainings; a network is found again by what it is, so recipes share what they can.
    """

    fabric: Fabric
    recipe: CarnRecipe
    pictures: CarnPictures
    seed: int
    work: Path
    _done: dict[str, Backbone] = field(default_factory=dict)

    @property
    def supervised(self) -> list[Pixels8]:
        """The pictures that every denoiser of Table 1 learns from: one half if the target takes the other."""
        everything = self.pictures.training
        return everything if self.recipe.target_pictures == "same" else everything[: len(everything) // 2]

    @property
    def unlabelled(self) -> list[Pixels8]:
        """The originals of the target's pictures: compressed at once, and never seen by a training."""
        everything = self.pictures.training
        return everything if self.recipe.target_pictures == "same" else everything[len(everything) // 2 :]

    def single(self, quality: int) -> Backbone:
        """Trained at one quality: SQ where it is tested at the same one, DQ at the other."""
        return self.trained({quality: self.supervised})

    def both(self) -> Backbone:
        """BQ of Table 1: half of the pictures at either quality."""
        half = len(self.supervised) // 2
        return self.trained({self.recipe.low: self.supervised[:half], self.recipe.high: self.supervised[half:]})

    def trained(self, originals: dict[int, list[Pixels8]]) -> Backbone:
        """Supervised: the given originals at each quality factor."""
        recipe = self.recipe
        everything = [picture for pictures in originals.values() for picture in pictures]
        decoded = [picture for q, pictures in originals.items() for picture in compress_all(pictures, q)]
        identity = self._describe(backbone=_uncut(recipe.backbone), pretraining=recipe.pretraining)
        manifest = self._manifest({f"source_q{q}": pictures for q, pictures in originals.items()})
        name = "trained-" + "-".join(f"q{q}x{len(pictures)}" for q, pictures in originals.items())
        config = recipe.pretraining

        def train(path: Path) -> Backbone:
            torch.manual_seed(self.seed)
            network = make_backbone(recipe.backbone)
            cutting = Cutting(config.batch, config.patch, config.grid, seed=self.seed)
            source = SourceDomain(decoded, everything, cutting)
            validate = partial(self._psnr_db, qualities=tuple(originals))
            pretrain(self.fabric, network, config, source, validate, path, identity=identity, manifest=manifest)
            return network

        return self._once(name, identity, manifest, train)

    def adapted(
        self, source: int, target: int, originals: list[Pixels8] | None = None, unlabelled: list[Pixels8] | None = None
    ) -> Backbone:
        """Ours: trained at quality ``source``, adapted to ``target`` (section 3)."""
        recipe, config = self.recipe, self.recipe.adaptation
        originals = self.supervised if originals is None else originals
        start = self.trained({source: originals})
        # From here on nothing knows the target's originals.
        targets = compress_all(self.unlabelled if unlabelled is None else unlabelled, target)
        identity = self._describe(backbone=recipe.backbone, pretraining=recipe.pretraining, adaptation=config)
        manifest = self._manifest({f"source_q{source}": originals, f"target_q{target}": targets})
        name = f"adapted-q{source}x{len(originals)}-to-q{target}x{len(targets)}"

        def train(path: Path) -> Backbone:
            network = make_backbone(recipe.backbone)
            network.load_state_dict(start.state_dict())
            cutting = Cutting(config.batch, config.patch, config.grid, seed=self.seed + 1)
            adapt_network(
                self.fabric,
                network,
                config,
                SourceDomain(compress_all(originals, source), originals, cutting),
                TargetDomain(targets, cutting),
                partial(self._psnr_db, qualities=(source,)),
                path,
                identity=identity,
                manifest=manifest,
                seed=self.seed + 2,
            )
            return network

        return self._once(name, identity, manifest, train)

    def bound(self, source: int, target: int) -> Backbone:
        """What F alone can do for D at least: trained at ``source``, then F at ``target`` on pairs, D left as it is.

        It sees the target's originals, which ``adapted`` never does, in as many steps at the same rate.
        """
        recipe, config = self.recipe, self.recipe.adaptation
        start = self.trained({source: self.supervised})
        alone = replace(
            recipe.pretraining,
            steps=config.steps,
            batch=config.batch,
            learning_rate=config.learning_rate,
            checkpoint_every=config.checkpoint_every,
        )
        identity = self._describe(backbone=recipe.backbone, pretraining=recipe.pretraining, extractor=alone)
        manifest = self._manifest({f"source_q{source}": self.supervised, f"target_q{target}": self.unlabelled})

        def train(path: Path) -> Backbone:
            network = make_backbone(recipe.backbone)
            network.load_state_dict(start.state_dict())
            freeze_denoiser(network)
            cutting = Cutting(alone.batch, alone.patch, alone.grid, seed=self.seed + 1)
            pairs = SourceDomain(compress_all(self.unlabelled, target), self.unlabelled, cutting)
            validate = partial(self._psnr_db, qualities=(target,))
            pretrain(
                self.fabric,
                network,
                alone,
                pairs,
                validate,
                path,
                identity=identity,
                manifest=manifest,
                keep_statistics=True,
            )
            return network

        return self._once(f"bound-q{source}-to-q{target}", identity, manifest, train)

    def redegraded(self, source: int, target: int, pairs: RedegradedPairs) -> Backbone:
        """Trained at ``source``, then on pairs of quality ``target``, half of each batch still of ``source``.

        The pairs are made of the source's originals, or of the target's decoded pictures at half their size: the
        target's originals are not seen. As many steps as ``adapted`` takes, at the first training's rate.
        """
        recipe, config = self.recipe, self.recipe.adaptation
        start = self.trained({source: self.supervised})
        kept = self.supervised
        # From here on nothing knows the target's originals.
        targets = compress_all(self.unlabelled, target) if pairs == "halved" else []
        clean = _halve(targets, config.patch) if pairs == "halved" else kept
        clean = [clean[number % len(clean)] for number in range(len(kept))]
        further = replace(
            recipe.pretraining,
            steps=config.steps,
            batch=config.batch,
            learning_rate=replace(config.learning_rate, peak=recipe.pretraining.learning_rate.peak),
            checkpoint_every=config.checkpoint_every,
        )
        identity = self._describe(backbone=_uncut(recipe.backbone), pretraining=recipe.pretraining, redegraded=further)
        manifest = self._manifest({f"source_q{source}": kept, f"pairs_q{target}": clean})

        def train(path: Path) -> Backbone:
            network = make_backbone(recipe.backbone)
            network.load_state_dict(start.state_dict())
            cutting = Cutting(further.batch, further.patch, further.grid, seed=self.seed + 1)
            decoded = [*compress_all(kept, source), *compress_all(clean, target)]
            mixed = SourceDomain(decoded, [*kept, *clean], cutting)
            validate = partial(self._psnr_db, qualities=(source,))
            pretrain(self.fabric, network, further, mixed, validate, path, identity=identity, manifest=manifest)
            return network

        return self._once(f"redegraded-{pairs}-q{source}-to-q{target}", identity, manifest, train)

    def _once(
        self, name: str, identity: dict[str, Any], manifest: dict[str, Any], train: Callable[[Path], Backbone]
    ) -> Backbone:
        key = hashlib.sha256(json.dumps([identity, manifest], sort_keys=True).encode()).hexdigest()[:10]
        label = f"{name}-seed{self.seed}-{key}"
        if label not in self._done:
            self._done[label] = train(self.work / label / "network.safetensors").eval()
        return self._done[label]

    def _describe(self, **parts: Any) -> dict[str, Any]:
        """``describe_training``; trainings in 32 bits are called as they were before there were others."""
        precision = find_precision(self.fabric)
        described = describe_training(self.seed, **parts)
        return described if precision == "32-true" else described | {"precision": precision}

    def _manifest(self, parts: dict[str, list[Pixels8]]) -> dict[str, Any]:
        return {
            **{name: {"pictures": len(pictures), "sha256": checksum(pictures)} for name, pictures in parts.items()},
            "validation_sha256": checksum(self.pictures.held_out),
        }

    def _psnr_db(self, network: Backbone, *, qualities: Sequence[int]) -> dict[str, float]:
        """Mean over held-out pictures at the source's qualities."""
        found, originals = {}, self.pictures.held_out[:VALIDATION_PICTURES]
        for quality in qualities:
            restored = (restore_pixels(network, decoded) for decoded in compress_all(originals, quality))
            values = [psnr_db(*pair, most=MOST_DB) for pair in zip(restored, originals, strict=True)]
            found[f"psnr_db_q{quality}"] = float(np.mean(values))
        return found


def freeze_denoiser(network: Backbone) -> None:
    """Only what ``extract`` computes with is trained from here on: D keeps its weights."""
    side = network.total_stride * 2
    features = network.eval().extract(torch.zeros(1, network.image_channels, side, side))  # batch norm learns nothing
    reached = sum(tensor.sum() for tensor in (features.seen, *features.carried))
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(reached, trained, allow_unused=True)  # type: ignore[arg-type]
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def _halve(pictures: Sequence[Pixels8], least: int) -> list[Pixels8]:
    """Each at half its size, where both sides keep so many pixels. Raises TrainingDataError if none does."""
    small = [
        np.asarray(Image.fromarray(picture).resize((width // 2, height // 2), Image.Resampling.BOX))
        for picture in pictures
        for height, width in (picture.shape[:2],)
        if min(height, width) >= 2 * least
    ]
    if not small:
        raise TrainingDataError(f"no picture has {2 * least} pixels or more on both sides; give larger ones")
    return small


def _uncut(config: BackboneConfig) -> BackboneConfig:
    """Where a network is cut makes no difference to its supervised training."""
    return config if isinstance(config, DagnConfig) else replace(config, split=type(config)().split)
