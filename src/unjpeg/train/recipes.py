"""The recipes: functions that return a whole training configuration.

``unjpeg train NAME`` looks a name up in ``RECIPES``; a new recipe is one function and one line there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from unjpeg.models import DagnConfig
from unjpeg.train.config import DagnTraining, EncoderTraining, LearningRate, Recipe
from unjpeg.train.degrade import JpegDegradation

__all__ = [
    "RECIPES",
    "default",
    "default_int8",
    "default_more",
    "fast",
    "fast_int8",
    "fast_more",
    "published",
    "small",
    "small_reading",
    "small_textbook",
    "tiny",
]


def published() -> Recipe:
    """DAGN at its published size and schedule (section IV-A), on DIV2K and Flickr2K (3550 images)."""
    images = 3550
    stage1_epoch, stage2_epoch = images // 32, images // 64
    return Recipe(
        name="published",
        network=DagnConfig(),
        encoders=EncoderTraining(
            steps=15 * stage1_epoch,
            learning_rate=LearningRate(5e-4, milestones=(5 * stage1_epoch, 10 * stage1_epoch), gamma=0.1),
        ),
        dagn=DagnTraining(
            steps=10_000 * stage2_epoch,
            learning_rate=LearningRate(1e-4, milestones=(8_000 * stage2_epoch,), gamma=0.5),
            validate_every=5000,  # all held-out pictures, 213 of these: as much work as some twenty steps
        ),
    )


def small() -> Recipe:
    """The small twin of ``published``: both stages, their losses, optimizer and milestones, minutes on two CPU cores.

    Narrower, with half the residual blocks, smaller pictures and fewer steps. Both learning rates are higher than
    published, since there are few steps and narrow networks bear it; they fall where the published ones do.
    """
    encoder_steps, dagn_steps = 900, 1500
    return Recipe(
        name="small",
        network=DagnConfig(width=16, blocks=2, encoder_width=8),
        encoders=EncoderTraining(
            steps=encoder_steps,
            batch=8,
            patch=128,
            learning_rate=LearningRate(1e-3, milestones=(encoder_steps // 3, encoder_steps * 2 // 3), gamma=0.1),
        ),
        dagn=DagnTraining(
            steps=dagn_steps,
            batch=16,
            patch=48,
            learning_rate=LearningRate(1e-3, milestones=(dagn_steps * 4 // 5,), gamma=0.5),
        ),
    )


def small_textbook() -> Recipe:
    """``small`` with a stage 1 that learns to read the quality: the textbook's losses, whole-size patches, Muon.

    In its time ``small``'s own learns nothing of the kind (docs/research/experiments.md). Stage 2 is the same.
    """
    recipe = small()
    encoders = replace(
        recipe.encoders,
        steps=1800,
        batch=12,
        patch=96,
        resize=False,
        optimizer="muon",
        learning_rate=LearningRate(2e-3, warmup_steps=50, cosine=True),
        adversarial="bce",
        classification="cross-entropy",
        gradient_clip=1.0,
    )
    return replace(recipe, name="small-textbook", encoders=encoders)


def small_reading() -> Recipe:
    """``small`` with a stage 1 that reads the quality to a few points: docs/research/experiments.md.

    Its encoders see the picture sharpened, so that what compression did is not drowned by brightness, and qualities
    next to each other share their targets. Stage 2 is the same.
    """
    recipe = small_textbook()
    encoders = replace(
        recipe.encoders,
        steps=2000,
        learning_rate=LearningRate(6e-3, warmup_steps=50, cosine=True),
        target_sigma=3.0,
    )
    network = replace(recipe.network, encoder_sharpen=6.75)
    return replace(recipe, name="small-reading", network=network, encoders=encoders)


def default() -> Recipe:
    """For the ``default`` model: half resolution inside, and what learned faster (docs/research/training-log.md).

    Stage 1 is ``small_reading``'s. The shipped one grew: two blocks in a row and width 32 at first, under encoders that
    read the quality badly, then three, then width 40 and what the file states, and to this in the end.
    """
    return Recipe(
        name="default",
        network=DagnConfig(
            width=48,
            scales=3,
            blocks=3,
            stem=2,
            norm="none",
            input="detail",
            skips="after",
            stated=True,
            encoder_width=8,
            encoder_sharpen=6.75,
            fusion=False,
        ),
        encoders=replace(
            small_reading().encoders, degradation=JpegDegradation(5, 100), checkpoint_every=100, validate_every=100
        ),
        dagn=DagnTraining(
            steps=13_000,
            batch=32,
            patch=64,
            optimizer="muon",
            learning_rate=LearningRate(6e-3, warmup_steps=100, cosine=True),
            degradation=JpegDegradation(5, 100, real_life=0.3),
            loss="rms",
            guidance="picture",
            guide_window=96,
            candidates=3,
            shrink=0.3,
            patterns=0.08,
            blind=0.05,
            gradient_clip=1.0,
            ema_decay=0.999,
            checkpoint_every=500,
            validate_every=500,
        ),
    )


def fast() -> Recipe:
    """The first training of ``fast``: ``default`` at a ninth of its cost, 5 G multiply-adds at 512x512.

    Without patterns, which kill channels at this rate; they come in a second training (docs/research/training-log.md).
    """
    recipe = default()
    network = replace(recipe.network, width=16, blocks=2)
    return replace(recipe, name="fast", network=network, dagn=replace(recipe.dagn, steps=24_000, patterns=0.0))


def default_more() -> Recipe:
    """To go on from a trained ``default`` (``--start``) in float: larger patches, few patterns, a low rate."""
    return _more(default())


def fast_more() -> Recipe:
    """The same for ``fast``; export it with ``--guide-windows 16``, as the shipped one was."""
    return _more(fast())


def _more(recipe: Recipe) -> Recipe:
    stage = replace(
        recipe.dagn,
        steps=8000,
        batch=16,
        patch=96,
        patterns=0.02,
        learning_rate=replace(recipe.dagn.learning_rate, peak=1.2e-3),
    )
    return replace(recipe, name=f"{recipe.name}-more", dagn=stage)


def default_int8() -> Recipe:
    """The last training of ``default``, for 8-bit integers: features bounded, and all rounded.

    It goes on from the shipped weights, too (``--start default``). The export has an int8 graph with every convolution
    of the restorer in integers but the first and the last.
    """
    return _int8(default())


def fast_int8() -> Recipe:
    """The same of ``fast``."""
    return _int8(fast())


def _int8(recipe: Recipe) -> Recipe:
    more = _more(recipe)
    stage = replace(more.dagn, rounding=1.0)
    return replace(more, name=f"{recipe.name}-int8", network=replace(more.network, bounded=True), dagn=stage)


def tiny() -> Recipe:
    """A few steps of a toy network: for tests, and to see the whole way from images to a model file in a minute."""
    return Recipe(
        name="tiny",
        network=DagnConfig(width=8, scales=2, blocks=1, stem=2, encoder_width=2),
        encoders=EncoderTraining(
            steps=20,
            batch=8,
            patch=64,
            resize=False,
            learning_rate=LearningRate(1e-3),
            checkpoint_every=10,
            validate_every=20,
        ),
        dagn=DagnTraining(
            steps=40,
            batch=8,
            patch=32,
            learning_rate=LearningRate(2e-3, warmup_steps=5, cosine=True),
            gradient_clip=1.0,
            ema_decay=0.9,
            checkpoint_every=10,
            validate_every=20,
        ),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "default": default,
    "default-int8": default_int8,
    "default-more": default_more,
    "fast": fast,
    "fast-int8": fast_int8,
    "fast-more": fast_more,
    "published": published,
    "small": small,
    "small-reading": small_reading,
    "small-textbook": small_textbook,
    "tiny": tiny,
}
