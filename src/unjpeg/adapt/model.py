"""``unjpeg adapt``: a model file taken to a folder of compressed pictures for which no originals exist.

::

    source (clean pictures, JPEG-compressed on the way) ── pairs ──┐
                                                                   ├─▶ carn.adapt_network ─▶ model file
    target (compressed pictures as they are) ── patches alone ─────┘
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unjpeg.adapt.carn import Adaptation, adapt_network, describe_training, source_psnr_db
from unjpeg.adapt.domains import (
    Cutting,
    Patches,
    SourcePatches,
    Stated,
    TargetDomain,
    checksum,
    draw_turn,
    trained_degradation,
    turn,
    turn_stated,
)
from unjpeg.adapt.folders import AdaptationFolders
from unjpeg.adapt.probe import Batches, measure_domain_accuracy
from unjpeg.datasets import ImageFolder
from unjpeg.errors import BadImageError, SettingError, TrainingDataError, TrainingError
from unjpeg.files import put_json
from unjpeg.modelfile import SELF_ENSEMBLES, ModelFile
from unjpeg.models import Backbone, DiscriminatorConfig, SplitDagn
from unjpeg.models.exported import load_exported
from unjpeg.picture import Picture, read_colours
from unjpeg.restorer import Restorer
from unjpeg.tables import STATED_FEATURES
from unjpeg.train.checkpoint import Checkpoint
from unjpeg.train.config import VALIDATION_FRACTION, LearningRate, apply_settings
from unjpeg.train.dagn import measure_psnr_db
from unjpeg.train.data import PairedPatches
from unjpeg.train.degrade import JpegDegradation, Pixels8
from unjpeg.train.export import export_network
from unjpeg.train.pipeline import make_fabric, open_images
from unjpeg.train.run import TrainingImages, find_resume_point
from unjpeg.version import __version__, machine, source_commit

__all__ = ["DEFAULT_ADAPTATION", "AdaptationReport", "TargetPictures", "adapt_model", "configure_adaptation"]

DEFAULT_ADAPTATION = Adaptation(
    steps=1000,
    batch=8,
    grid=16,
    learning_rate=LearningRate(5e-5, warmup_steps=20, cosine=True),
    reduction="rms",
    gradient_clip=1.0,
    strength=0.01,
    discriminator_step="plain",
    discriminator=DiscriminatorConfig("moments", standardised=True),
    max_source_loss_db=0.1,
    checkpoint_every=100,
)
"""Its patch is replaced by the model's guide window: the size that the model was trained on."""

FEWEST_PICTURES = 10
"""Fewer target pictures than this are their content more than their compression."""

HELD_OUT_EVERY = 5
PATCHES_PER_PICTURE = 32
MOST_PATCHES = 20_000
MARGIN = 16
"""Source patches are compressed with so many pixels around them, as if cut from a compressed picture too."""

ALIKE = 0.6
"""Below this held-out accuracy, source and target look alike to the model."""

INERT = 0.98 * math.log(2)
"""An adversary whose loss never comes below this has not told the domains apart, and so has asked for nothing."""

Say = Callable[[str], None]

StatedOf = Callable[[Picture], Stated]


@dataclass(frozen=True, slots=True)
class AdaptationReport:
    """What was done, in JSON beside the model.

    Attributes:
        model: the file that was written.
        start, start_hash: the model that was adapted, as it was named, and what it computes.
        seed, strength, steps_asked: of the adaptation.
        unjpeg, commit, machine: what adapted it, and where.
        images: the manifest of source and target.
        target_pictures, held_out_pictures: that could be read; the held-out ones only measure.
        left_out: a line for each picture that could not be used.
        accuracy_before, accuracy_after: how well a fresh discriminator tells target from source by the model's
            features, on held-out pictures; 0.5 is not at all.
        source_psnr_db_before, source_psnr_db_after: mean on the source's held-out pictures as JPEGs.
        source_blind_psnr_db_before, source_blind_psnr_db_after: the same of a model that is told what files state,
            where nothing is stated; None of others.
        least_quality_loss: the adversary's, a mean over the steps between two checkpoints: ln 2 (0.693) is chance.
            None before the first checkpoint.
        steps: that the written weights have behind them.
        stopped_at_step: where the source collapsed; None if it did not.
        notes: what a user should know.
    """

    model: str
    start: str
    start_hash: str
    seed: int
    strength: float
    steps_asked: int
    unjpeg: str
    commit: str | None
    machine: dict[str, object]
    images: dict[str, Any]
    target_pictures: int
    held_out_pictures: int
    left_out: tuple[str, ...]
    accuracy_before: float
    accuracy_after: float
    source_psnr_db_before: float
    source_psnr_db_after: float
    source_blind_psnr_db_before: float | None
    source_blind_psnr_db_after: float | None
    least_quality_loss: float | None
    steps: int
    stopped_at_step: int | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TargetPictures:
    """A folder of compressed pictures as patches on the compression's grid: pixels and what their files state.

    Attributes:
        training, held_out: ``(patch, patch, 3)`` uint8 each, of different pictures.
        training_stated, held_out_stated: of each patch's picture, ``(STATED_FEATURES,)``.
        counts: pictures behind either.
        left_out: a line for each picture that could not be used.
    """

    training: list[Pixels8]
    held_out: list[Pixels8]
    training_stated: list[Stated]
    held_out_stated: list[Stated]
    counts: tuple[int, int]
    left_out: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path, patch: int, say: Say, stated_of: StatedOf | None = None) -> TargetPictures:
        """Decode every picture as ``unjpeg restore`` would. Raises TrainingDataError if there are too few.

        Args:
            stated_of: what the restorer is told of a picture; None if it is told nothing.
        """
        files = ImageFolder(folder).files()
        most = max(1, min(PATCHES_PER_PICTURE, MOST_PATCHES // len(files)))
        readable: list[list[tuple[Pixels8, Stated]]] = []
        left_out = []
        for file in files:
            try:
                picture = read_colours(file)
                pixels = picture.pixels
                if min(pixels.shape[:2]) < patch:
                    raise BadImageError(f"{file}: is smaller than {patch} pixels")
            except BadImageError as error:
                left_out.append(f"{error}; left out")
                say(left_out[-1])
                continue
            stated = stated_of(picture) if stated_of else np.zeros(STATED_FEATURES, np.float32)
            patches = _some_patches(pixels, patch, most, zlib.crc32(file.name.encode()))
            readable.append([(one, stated) for one in patches])
        if len(readable) < FEWEST_PICTURES:
            raise TrainingDataError(
                f"{folder}: {len(readable)} usable pictures are too little to adapt to; give {FEWEST_PICTURES} or more"
            )
        held_out = readable[::HELD_OUT_EVERY]
        training = [patches for number, patches in enumerate(readable) if number % HELD_OUT_EVERY]
        flat, flat_held_out = ([one for patches in part for one in patches] for part in (training, held_out))
        return cls(
            training=[pixels for pixels, _ in flat],
            held_out=[pixels for pixels, _ in flat_held_out],
            training_stated=[stated for _, stated in flat],
            held_out_stated=[stated for _, stated in flat_held_out],
            counts=(len(training), len(held_out)),
            left_out=tuple(left_out),
        )


def _some_patches(pixels: Pixels8, patch: int, most: int, seed: int) -> list[Pixels8]:
    """Up to ``most`` different places on the 16-pixel grid."""
    colour = pixels if pixels.ndim == 3 else np.broadcast_to(pixels[..., None], (*pixels.shape, 3))
    down, across = ((n - patch) // 16 + 1 for n in colour.shape[:2])
    chosen = np.random.default_rng(seed).permutation(down * across)[:most]
    corners = [(16 * int(place // across), 16 * int(place % across)) for place in np.sort(chosen)]
    return [colour[top : top + patch, left : left + patch].copy() for top, left in corners]


def _told_by_restoring(file: ModelFile) -> StatedOf:
    """What ``unjpeg restore`` tells this model of a picture: of pictures without a JPEG file what their pixels show."""
    restorer = Restorer(file)
    return lambda picture: restorer.guide(picture).stated[0]


class _FreshlyCompressed:
    """Clean pictures, compressed as JPEG when they are drawn; ``domains.SourceBatches``.

    They are turned before they are compressed, and again after that, as the target's pictures can only be: else the way
    up, of what they show or of the encoder's work, would tell the domains apart.

    Args:
        told: whether the network is told what files state.
    """

    def __init__(self, patches: PairedPatches, batch: int, seed: int, *, told: bool) -> None:
        self._patches, self._batch, self._seed, self._told = patches, batch, seed, told

    def batch(self, step: int) -> SourcePatches:
        inner = slice(MARGIN, -MARGIN)
        compressed, original, stated = [], [], []
        for number in range(step * self._batch, (step + 1) * self._batch):
            pair = self._patches[number]
            turns, flip = draw_turn(np.random.default_rng((self._seed, number, 1)))  # not the draws of the patches
            compressed.append(turn(pair.compressed[inner, inner], turns, flip))
            original.append(turn(pair.original[inner, inner], turns, flip))
            stated.append(turn_stated(pair.stated, turns))
        pixels = [torch.from_numpy(np.stack(stack)).permute(0, 3, 1, 2) for stack in (compressed, original)]
        return SourcePatches(pixels[0], pixels[1], torch.from_numpy(np.stack(stated)) if self._told else None)

    def patches(self, step: int) -> Patches:
        return self.batch(step).patches


def configure_adaptation(
    settings: Sequence[str], *, steps: int | None = None, strength: float, max_source_loss_db: float
) -> Adaptation:
    """``DEFAULT_ADAPTATION`` with what a command line asks for.

    Args:
        settings: further fields, each ``FIELD=VALUE``: see ``apply_settings``.
        steps: the default's, if None.

    Raises:
        SettingError: there is no such field, it takes no such value, or it is given otherwise.
    """
    elsewhere = {
        "steps": "is an option of its own",
        "strength": "is an option of its own",
        "max_source_loss_db": "is an option of its own, --max-loss",
        "patch": "is the model's guide window",
        "grid": "is 16, the largest that encoders work on",
    }
    for setting in settings:
        name = setting.partition("=")[0]
        if name in elsewhere:
            raise SettingError(f"{setting}: {name} {elsewhere[name]}")
    steps = DEFAULT_ADAPTATION.steps if steps is None else steps
    changed = replace(DEFAULT_ADAPTATION, steps=steps, strength=strength, max_source_loss_db=max_source_loss_db)
    return apply_settings(changed, settings)


def adapt_model(
    model: str,
    target: Path,
    source: Sequence[str],
    out: Path,
    *,
    config: Adaptation = DEFAULT_ADAPTATION,
    seed: int = 0,
    accelerator: str = "auto",
    precision: str = "auto",
    probe_steps: int = 300,
    say: Say = lambda _line: None,
) -> AdaptationReport:
    """Adapt a model, write ``out/adapted.unjpeg`` and ``out/report.json``; goes on from what ``out`` holds.

    Args:
        model: a shipped model's name or a model file's path.
        target: a folder of compressed pictures, to any depth, or a data set's name; only their pixels and, of JPEGs,
            what the files state is read.
        source: folders of clean pictures, each ``DIR`` or ``DIR=WEIGHT``.
        probe_steps: of the discriminator that measures how far source and target are apart.
        say: takes the lines for the user.

    Raises:
        ModelError: there is no such model.
        OutputError: nothing can be written to ``out``.
        TrainingError: a folder is missing, too small, or given twice; ``out`` is of another adaptation; or the source
            collapsed from the first step on.
    """
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        say(line)

    folders = AdaptationFolders.open(target, source, out)
    file = ModelFile.read(model)
    window = int(file.description.guide_window)
    config = replace(config, patch=window)
    dagn = load_exported(file)
    told = dagn.config.stated
    unlabelled = TargetPictures.read(folders.target, window, say, _told_by_restoring(file) if told else None)
    fabric = make_fabric(accelerator=accelerator, devices=1, precision=precision)
    images = open_images(source, VALIDATION_FRACTION)
    identity = describe_training(seed, adaptation=config, start=file.hash)
    manifest = images.manifest | {
        "target": folders.target.name,
        "target_pictures": sum(unlabelled.counts),
        "target_sha256": checksum(unlabelled.training + unlabelled.held_out),
    }
    resumed = find_resume_point(folders.checkpoint, identity, manifest)
    if resumed:
        _refuse_collapsed(resumed, model, folders.checkpoint, config)
    if file.description.passes > 1:
        flips, plain = file.description.passes, SELF_ENSEMBLES.get(model, (file.description.name,))[0]
        note(f"{model} is the mean over {flips} flips of {plain}, which is what is adapted; it runs once")
    if not images.held_out:
        note("the source has no picture to spare: what watches over it is also trained on; give more pictures")
    if file.restore_int8 is not None:
        note("the adapted model has no int8 graph; python -m unjpeg.train.int8 makes one")
    if file.strong:
        note("the adapted model has no weights of its own for strong compression; the adapted ones restore all")

    network = SplitDagn(dagn)
    network.to(fabric.device)
    degradation = trained_degradation(file)
    clean, clean_held_out = (
        _fresh(images, held_out, window, degradation, config.batch, seed, told=told) for held_out in (0, 1)
    )
    cutting = Cutting(config.batch, window, config.grid, seed=seed)
    domain = TargetDomain(unlabelled.training, cutting, unlabelled.training_stated if told else None)
    domain_held_out = TargetDomain(unlabelled.held_out, cutting, unlabelled.held_out_stated if told else None)
    crops = images.cut_validation_crops(192, math.lcm(16, network.total_stride))

    def apart() -> float:
        training: tuple[Batches, Batches] = (clean.patches, domain.batch)
        held_out: tuple[Batches, Batches] = (clean_held_out.patches, domain_held_out.batch)
        return measure_domain_accuracy(network, training, held_out, config.discriminator, steps=probe_steps, seed=seed)

    def validate(_network: Backbone) -> dict[str, float]:
        found = measure_psnr_db(dagn, crops, fabric.device)
        return found | measure_psnr_db(dagn, crops, fabric.device, blind=True) if told else found

    before = apart()
    say(f"before: {before:.0%} of held-out patches told right as source or target by the model's features")
    if before < ALIKE:
        note("source and target look alike to this model: there is little to adapt to")
    adapt_network(
        fabric,
        network,
        config,
        clean,
        domain,
        validate,
        folders.checkpoint,
        identity=identity,
        manifest=manifest,
        seed=seed,
    )
    checkpoint = Checkpoint.load(folders.checkpoint)
    _refuse_collapsed(checkpoint, model, folders.checkpoint, config)
    stopped = checkpoint.metrics.get("stopped_at_step")
    if stopped is not None:
        note(
            f"stopped at step {stopped:.0f}: the source had lost more than {config.max_source_loss_db} dB; "
            f"the weights of step {checkpoint.step} were kept"
        )
    least = checkpoint.metrics.get("least_quality_loss")
    if config.strength > 0 and least is not None and least > INERT:
        note(
            f"the adversary did not tell source from target (its loss stayed at {least:.3f}, chance is 0.693): what "
            "has changed is hardly more than further training on the source"
        )
    after = apart()
    say(f"after: {after:.0%}")
    kept = source_psnr_db(checkpoint.metrics)
    report = AdaptationReport(
        model=str(folders.model),
        start=model,
        start_hash=file.hash,
        seed=seed,
        strength=config.strength,
        steps_asked=config.steps,
        unjpeg=__version__,
        commit=source_commit(),
        machine=machine(),
        images=manifest,
        target_pictures=sum(unlabelled.counts),
        held_out_pictures=unlabelled.counts[1],
        left_out=unlabelled.left_out,
        accuracy_before=before,
        accuracy_after=after,
        source_psnr_db_before=checkpoint.metrics["start_psnr_db"],
        source_psnr_db_after=kept["psnr_db"],
        source_blind_psnr_db_before=checkpoint.metrics.get("start_psnr_db_blind"),
        source_blind_psnr_db_after=kept.get("psnr_db_blind"),
        least_quality_loss=least,
        steps=checkpoint.step,
        stopped_at_step=None if stopped is None else int(stopped),
        notes=tuple(notes),
    )
    export_network(
        dagn.cpu(),
        folders.model,
        name=f"{file.description.name}-adapted",
        guide_window=window,
        guide_windows=file.description.guide_windows,
        quality_features=file.quality_features,  # of the frozen encoder: adaptation does not move them
        calibration=file.calibration,
        training=_training_description(file, checkpoint),
        validation={name: value for name, value in checkpoint.metrics.items() if name.startswith("psnr_db")},
    )
    put_json(folders.report, asdict(report))
    say(
        f"source: {report.source_psnr_db_before:.2f} dB before, {report.source_psnr_db_after:.2f} dB after; "
        f"wrote {folders.model}"
    )
    return report


def _refuse_collapsed(checkpoint: Checkpoint, model: str, path: Path, config: Adaptation) -> None:
    """Raises TrainingError if there are no weights but the start's."""
    stopped = checkpoint.metrics.get("stopped_at_step")
    if stopped is not None and checkpoint.step == 0:
        raise TrainingError(
            f"{model}: lost more than {config.max_source_loss_db} dB on the source within {stopped:.0f} steps; no "
            f"model was written; try a smaller --strength with another --out, or remove {path} first"
        )


def _fresh(
    images: TrainingImages,
    held_out: int,
    window: int,
    degradation: JpegDegradation,
    batch: int,
    seed: int,
    *,
    told: bool,
) -> _FreshlyCompressed:
    store = images.validation if held_out else images.training
    weights = [float(height * width) for height, width in store.shapes] if held_out else images.weights
    patches = PairedPatches(
        store, weights, patch=window + 2 * MARGIN, degradation=degradation, seed=seed + 1 + held_out
    )
    return _FreshlyCompressed(patches, batch, seed + 1 + held_out, told=told)


def _training_description(file: ModelFile, checkpoint: Checkpoint) -> dict[str, Any]:
    """The start's, and what was added: so that an adapted model can be adapted again."""
    before = file.description.training
    config = {**before.get("config", {}), "adaptation": checkpoint.config}
    return {**before, "config": config, "adaptation_steps": checkpoint.step, "adaptation_images": checkpoint.manifest}
