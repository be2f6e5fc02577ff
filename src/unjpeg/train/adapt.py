"""``unjpeg adapt``: a model file taken to a folder of compressed pictures for which no originals exist.

::

    source (clean pictures, JPEG-compressed on the way) ── pairs ──┐
                                                                   ├─▶ carn.adapt_network ─▶ model file
    target (compressed pictures as they are) ── patches alone ─────┘
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unjpeg.errors import BadImageError, TrainingDataError, TrainingError
from unjpeg.models import Backbone, DiscriminatorConfig, SplitDagn
from unjpeg.network import ModelFile
from unjpeg.picture import read_picture
from unjpeg.train.carn import Adaptation, adapt_network, stored
from unjpeg.train.checkpoint import Checkpoint
from unjpeg.train.config import VALIDATION_FRACTION, LearningRate
from unjpeg.train.dagn import validation_psnr_db
from unjpeg.train.data import ImageFolder, PairedPatches
from unjpeg.train.degrade import JpegDegradation
from unjpeg.train.domains import Cutting, Pair, Pixels, TargetDomain, checksum
from unjpeg.train.export import export_network, load_exported
from unjpeg.train.pipeline import make_fabric, open_images
from unjpeg.train.probe import Batches, domain_accuracy
from unjpeg.train.run import TrainingImages

__all__ = ["DEFAULT_ADAPTATION", "AdaptationReport", "TargetPictures", "adapt_model"]

DEFAULT_ADAPTATION = Adaptation(
    steps=1000,
    batch=8,
    grid=16,
    learning_rate=LearningRate(1e-4, warmup_steps=20, cosine=True),
    gradient_clip=1.0,
    strength=0.1,
    discriminator_step="plain",
    discriminator=DiscriminatorConfig("moments"),
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

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class AdaptationReport:
    """What was done, in JSON beside the model.

    Attributes:
        model: the file that was written.
        target_pictures, held_out_pictures: that could be read; the held-out ones only measure.
        left_out: a line for each picture that could not be used.
        accuracy_before, accuracy_after: how well a fresh discriminator tells target from source by the model's
            features, on held-out pictures; 0.5 is not at all.
        source_psnr_db_before, source_psnr_db_after: mean on the source's held-out pictures as JPEGs.
        steps: that the written weights have behind them.
        stopped_at_step: where the source collapsed; None if it did not.
        notes: what a user should know.
    """

    model: str
    target_pictures: int
    held_out_pictures: int
    left_out: tuple[str, ...]
    accuracy_before: float
    accuracy_after: float
    source_psnr_db_before: float
    source_psnr_db_after: float
    steps: int
    stopped_at_step: int | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TargetPictures:
    """A folder of compressed pictures as patches on the compression's grid: pixels, and nothing else.

    Attributes:
        training, held_out: ``(patch, patch, 3)`` uint8 each, of different pictures.
        counts: pictures behind either.
        left_out: a line for each picture that could not be used.
    """

    training: list[Pixels]
    held_out: list[Pixels]
    counts: tuple[int, int]
    left_out: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path, patch: int, say: Say) -> TargetPictures:
        """Decode every picture as ``unjpeg restore`` would. Raises TrainingDataError if there are too few."""
        files = ImageFolder(folder).files()
        most = max(1, min(PATCHES_PER_PICTURE, MOST_PATCHES // len(files)))
        readable: list[list[Pixels]] = []
        left_out = []
        for file in files:
            try:
                pixels = read_picture(file).pixels
                if min(pixels.shape[:2]) < patch:
                    raise BadImageError(f"{file}: is smaller than {patch} pixels")
            except BadImageError as error:
                left_out.append(f"{error}; left out")
                say(left_out[-1])
                continue
            readable.append(_some_patches(pixels, patch, most, zlib.crc32(file.name.encode())))
        if len(readable) < FEWEST_PICTURES:
            raise TrainingDataError(
                f"{folder}: {len(readable)} usable pictures are too little to adapt to; give {FEWEST_PICTURES} or more"
            )
        held_out = readable[::HELD_OUT_EVERY]
        training = [patches for number, patches in enumerate(readable) if number % HELD_OUT_EVERY]
        flat = [[patch for patches in part for patch in patches] for part in (training, held_out)]
        return cls(flat[0], flat[1], (len(training), len(held_out)), tuple(left_out))


def _some_patches(pixels: Pixels, patch: int, most: int, seed: int) -> list[Pixels]:
    """Up to ``most`` different places on the 16-pixel grid."""
    colour = pixels if pixels.ndim == 3 else np.broadcast_to(pixels[..., None], (*pixels.shape, 3))
    down, across = ((n - patch) // 16 + 1 for n in colour.shape[:2])
    chosen = np.random.default_rng(seed).permutation(down * across)[:most]
    corners = [(16 * int(place // across), 16 * int(place % across)) for place in np.sort(chosen)]
    return [colour[top : top + patch, left : left + patch].copy() for top, left in corners]


class _FreshlyCompressed:
    """Clean pictures, compressed as JPEG when they are drawn; a ``domains.Source``."""

    def __init__(self, patches: PairedPatches, batch: int) -> None:
        self._patches, self._batch = patches, batch

    def batch(self, step: int) -> Pair:
        inner = slice(MARGIN, -MARGIN)
        drawn = [self._patches[number] for number in range(step * self._batch, (step + 1) * self._batch)]
        compressed = np.stack([compressed[inner, inner] for compressed, *_ in drawn])
        original = np.stack([original[inner, inner] for _, original, *_ in drawn])
        return Pair(*(torch.from_numpy(stack).permute(0, 3, 1, 2) for stack in (compressed, original)))

    def compressed(self, step: int) -> Tensor:
        return self.batch(step).compressed


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
        target: a folder of compressed pictures, to any depth; nothing but their pixels is known.
        source: folders of clean pictures, each ``DIR`` or ``DIR=WEIGHT``.
        probe_steps: of the discriminator that measures how far source and target are apart.
        say: takes the lines for the user.

    Raises:
        ModelError: there is no such model.
        TrainingError: a folder is missing, too small, or given twice; or the source collapsed from the first step on.
    """
    file = ModelFile.read(model)
    window = int(file.description["guide_window"])
    config = replace(config, patch=window)
    _refuse_same_pictures(target, source)
    unlabelled = TargetPictures.read(target, window, say)
    fabric = make_fabric(accelerator=accelerator, devices=1, precision=precision)
    images = open_images(source, VALIDATION_FRACTION)
    dagn = load_exported(file)
    network = SplitDagn(dagn)
    network.to(fabric.device)

    degradation = _trained_degradation(file)
    clean, clean_held_out = (_fresh(images, held_out, window, degradation, config.batch, seed) for held_out in (0, 1))
    cutting = Cutting(config.batch, window, config.grid, augment=False, seed=seed)
    domain, domain_held_out = (TargetDomain(patches, cutting) for patches in (unlabelled.training, unlabelled.held_out))
    crops = images.validation_crops(192, math.lcm(16, network.total_stride))

    def apart() -> float:
        training: tuple[Batches, Batches] = (clean.compressed, domain.batch)
        held_out: tuple[Batches, Batches] = (clean_held_out.compressed, domain_held_out.batch)
        return domain_accuracy(network, training, held_out, config.discriminator, steps=probe_steps, seed=seed)

    def validate(_network: Backbone) -> dict[str, float]:
        return validation_psnr_db(dagn, crops, fabric.device)

    before = apart()
    say(f"before: {before:.0%} of held-out patches told right as source or target by the model's features")
    notes = []
    if before < ALIKE:
        notes.append("source and target look alike to this model: there is little to adapt to")
        say(notes[-1])
    path = adapt_network(
        fabric,
        network,
        config,
        clean,
        domain,
        validate,
        out / "adapt.safetensors",
        identity=stored(seed, adaptation=config, start=file.hash),
        manifest=images.manifest
        | {
            "target": target.name,
            "target_pictures": sum(unlabelled.counts),
            "target_sha256": checksum(unlabelled.training + unlabelled.held_out),
        },
        seed=seed,
    )
    checkpoint = Checkpoint.load(path)
    stopped = checkpoint.metrics.get("stopped_at_step")
    if stopped is not None:
        if checkpoint.step == 0:
            raise TrainingError(
                f"{model}: lost more than {config.max_source_loss_db} dB on the source within {stopped:.0f} steps; "
                "nothing was written; try a smaller --strength"
            )
        notes.append(
            f"stopped at step {stopped:.0f}: the source had lost more than {config.max_source_loss_db} dB; "
            f"the weights of step {checkpoint.step} were kept"
        )
        say(notes[-1])
    after = apart()
    say(f"after: {after:.0%}")
    psnr = {name: value for name, value in checkpoint.metrics.items() if name.startswith("psnr_db")}
    written = out / "adapted.unjpeg"
    report = AdaptationReport(
        model=str(written),
        target_pictures=sum(unlabelled.counts),
        held_out_pictures=unlabelled.counts[1],
        left_out=unlabelled.left_out,
        accuracy_before=before,
        accuracy_after=after,
        source_psnr_db_before=checkpoint.metrics["start_psnr_db"],
        source_psnr_db_after=float(np.mean(list(psnr.values()))),
        steps=checkpoint.step,
        stopped_at_step=None if stopped is None else int(stopped),
        notes=tuple(notes),
    )
    export_network(
        dagn.cpu(),
        written,
        name=f"{file.description['name']}-adapted",
        guide_window=window,
        quality_features=file.quality_features,  # of the frozen encoder: adaptation does not move them
        calibration=file.calibration,
        training=_training_description(file, checkpoint),
        validation=psnr,
    )
    (out / "report.json").write_text(json.dumps(asdict(report), indent=1))
    say(
        f"source: {report.source_psnr_db_before:.2f} dB before, {report.source_psnr_db_after:.2f} dB after; "
        f"wrote {written}"
    )
    return report


def _fresh(
    images: TrainingImages, held_out: int, window: int, degradation: JpegDegradation, batch: int, seed: int
) -> _FreshlyCompressed:
    store = images.validation if held_out else images.training
    weights = [float(height * width) for height, width in store.shapes] if held_out else images.weights
    patches = PairedPatches(
        store, weights, patch=window + 2 * MARGIN, degradation=degradation, seed=seed + 1 + held_out
    )
    return _FreshlyCompressed(patches, batch)


def _refuse_same_pictures(target: Path, source: Sequence[str]) -> None:
    """Raises TrainingDataError: a compressed picture that passes for its own original would teach the wrong thing."""
    theirs: dict[int, list[Path]] = {}
    for text in source:
        folder = ImageFolder.parse(text)
        a, b = folder.path.resolve(), target.resolve()
        if a == b or a in b.parents or b in a.parents:
            raise TrainingDataError(
                f"{target}: is (in) the source {folder.path} itself; the source must be other, clean pictures"
            )
        for file in folder.files():
            theirs.setdefault(file.stat().st_size, []).append(file)
    for file in ImageFolder(target).files():
        for other in theirs.get(file.stat().st_size, ()):
            if _digest(file) == _digest(other):
                raise TrainingDataError(f"{file}: is also in the source, as {other}; remove it from one of them")


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise TrainingDataError(f"{file}: cannot be read ({error.strerror or error})") from error


def _trained_degradation(file: ModelFile) -> JpegDegradation:
    """What the model was trained on."""
    try:
        stage2 = file.description["training"]["config"]["dagn"]["degradation"]
        return JpegDegradation(
            int(stage2["min_quality"]), int(stage2["max_quality"]), float(stage2.get("real_life", 0.0))
        )
    except (KeyError, TypeError, ValueError):
        return JpegDegradation()


def _training_description(file: ModelFile, checkpoint: Checkpoint) -> dict[str, Any]:
    """The start's, and what was added: so that an adapted model can be adapted again."""
    before = file.description.get("training", {})
    config = {**before.get("config", {}), "adaptation": checkpoint.config}
    return {**before, "config": config, "adaptation_steps": checkpoint.step, "adaptation_images": checkpoint.manifest}
