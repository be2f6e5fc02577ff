"""Stage 2 of Algorithm 1: the restorer learns, the encoders stay as they are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from unjpeg.evaluate.psnr import MOST_DB, psnr_db
from unjpeg.models import Dagn
from unjpeg.models.integers import find_bounded, round_to_integers
from unjpeg.tables import STATED_FEATURES
from unjpeg.train.bounds import measure_bounds
from unjpeg.train.checkpoint import Checkpoint, collect_tensors, load_optimizers, select
from unjpeg.train.config import DagnTraining, Recipe, describe_recipe
from unjpeg.train.data import PairedPatches
from unjpeg.train.degrade import Degraded, JpegDegradation, Pixels8, compress_jpeg, standard_stated
from unjpeg.train.grow import GUIDERS, take_over
from unjpeg.train.guidance import PictureGuidance
from unjpeg.train.optimizer import make_optimizers, set_learning_rate
from unjpeg.train.patterns import draw_pattern
from unjpeg.train.run import (
    AveragedModel,
    RunLog,
    TrainingImages,
    find_resume_point,
    load_samples,
    to_pixels,
    to_unit_range,
)

__all__ = [
    "VALIDATION_QUALITIES",
    "cut_validation_crops",
    "measure_dead_share",
    "measure_gain_db",
    "measure_pattern_gain_db",
    "measure_psnr_db",
    "patch_rms_loss",
    "restoration_loss",
    "train_dagn",
]

VALIDATION_QUALITIES = (10, 20, 30, 40)
VALIDATION_SIDE = 192
PATTERN_QUALITIES = (10, 50, 90)
WILD_DRAWS = 3
"""Ways in which each validation picture is degraded, of each kind."""

GUIDANCE = ("insensitive_guider", "sensitive_guider", "fusion")
"""Beginnings of the names of what transforms all features at once."""


def train_dagn(
    fabric: Fabric,
    recipe: Recipe,
    images: TrainingImages,
    initial: dict[str, Tensor],
    out: Path,
    *,
    start: str | None = None,
    workers: int = 1,
) -> Path:
    """Train the restorer and return the path of its last checkpoint.

    Args:
        initial: the state of stage 1's encoders and quality predictor, by ``Dagn``'s names, or of a whole network.
        out: folder of the checkpoint ``dagn.safetensors``; if it is there, training goes on from it.
        start: what to record as the origin of given weights. A network with more blocks in a row or more channels than
            ``initial`` has goes on from it, too: see ``take_over``. A bounded network that goes on from a whole one is
            bounded at once, another where rounding begins.
    """
    config = recipe.dagn
    checkpoint_path = out / "dagn.safetensors"
    stored_config = describe_recipe(recipe, "seed", "network", "dagn")
    if start is not None:
        stored_config["start"] = start
    resumed = find_resume_point(checkpoint_path, stored_config, images.manifest)
    crops = cut_validation_crops(images, recipe)

    torch.manual_seed(recipe.seed)
    network = Dagn(recipe.network)
    take_over(network, initial)
    if resumed:
        network.load_state_dict(select(resumed.tensors, "model"))
    network = network.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if recipe.network.bounded and not resumed and "head.weight" in initial:
        measure_bounds(network, images.training, fabric.device)
    pictures: PictureGuidance | None = None
    guided = recipe.network.insensitive_guidance or recipe.network.sensitive_guidance
    if config.guidance == "picture" and guided:
        pictures = PictureGuidance.measure(network, images.training, config.window, fabric.device)
        if not resumed and not any(f"{guider}.mlp.0.weight" in initial for guider in GUIDERS):
            pictures.standardise(network)
    average = AveragedModel(network, config.ema_decay)
    if resumed:
        average.module.load_state_dict(select(resumed.tensors, "ema"))
    named = {name: p for name, p in network.named_parameters() if p.requires_grad}
    own = make_optimizers(
        named, config.optimizer, weight_decay=config.weight_decay, adam_only=("head", "stated", "tail"), slow=GUIDANCE
    )
    load_optimizers(own, resumed)
    model, *optimizers = fabric.setup(network, *(optimizer for optimizer, _ in own.values()))

    first = resumed.step if resumed else 0
    patches = PairedPatches(
        images.training,
        images.weights,
        patch=config.patch,
        degradation=config.degradation,
        seed=recipe.seed + 1,
        candidates=config.candidates,
        shrink=config.shrink,
        patterns=config.patterns,
        blind=config.blind,
    )
    patterns = [draw_pattern(crop, np.random.default_rng(i)) for i, crop in enumerate(crops)] if config.patterns else []
    degraded = _degrade_as_trained(crops, config.degradation)
    log = RunLog(fabric, out / "tensorboard", "dagn")
    samples = log.batches(load_samples(fabric, patches, config, first, workers))
    metrics = dict(resumed.metrics) if resumed else {}
    running_loss, logged = torch.zeros((), device=fabric.device), first

    for step in log.steps(first, config.steps):
        if recipe.network.bounded and step == max(first, config.first_rounded):
            measure_bounds(network, images.training, fabric.device)
            for mine, averaged in zip(find_bounded(network), find_bounded(average.module), strict=True):
                averaged.limit.copy_(mine.limit)
            for each in (network, average.module):
                round_to_integers(each, True)
        rate = config.learning_rate.at(step, config.steps)
        set_learning_rate(optimizers, rate)
        model.train()
        for part in range(config.micro_batches):
            sample = next(samples)
            compressed = to_unit_range(sample.compressed.to(fabric.device, non_blocking=True))
            original = to_unit_range(sample.original.to(fabric.device, non_blocking=True))
            stated = sample.stated.to(fabric.device, non_blocking=True)
            guidance = pictures.of(network, sample, compressed) if pictures else None
            with fabric.no_backward_sync(model, enabled=part < config.micro_batches - 1):
                loss = restoration_loss(model(compressed, guidance, stated), original, config)
                fabric.backward(loss / config.micro_batches)
            running_loss += loss.detach() / config.micro_batches
        if config.gradient_clip is not None:
            nn.utils.clip_grad_norm_(named.values(), config.gradient_clip)
        for optimizer in optimizers:
            optimizer.step()  # Eq. 15
            optimizer.zero_grad()
        average.update(network, step)

        done = step + 1
        last = done == config.steps
        if done % 100 == 0 or last:
            log.scalars(done, {"loss": running_loss.item() / (done - logged), "learning_rate": rate})
            running_loss.zero_()
            logged = done
        if done % config.validate_every == 0 or last:
            metrics = measure_psnr_db(average.module, crops, fabric.device)
            metrics |= measure_pattern_gain_db(average.module, patterns, fabric.device)
            for kind, pairs in degraded.items():
                metrics |= measure_gain_db(average.module, pairs, fabric.device, kind)
            dead = measure_dead_share(average.module, crops, fabric.device)
            log.scalars(done, metrics | {"dead_channels": dead}, line=True)
            log.images(done, "compressed, restored, original", _example(average.module, crops[0], fabric.device))
        if (done % config.checkpoint_every == 0 or last) and fabric.is_global_zero:
            tensors = collect_tensors({"model": network, "ema": average.module}, own)
            Checkpoint(tensors, done, stored_config, images.manifest, metrics).save(checkpoint_path)
    log.close()
    fabric.barrier()  # whatever process reads the checkpoint next finds it written
    return checkpoint_path


def _degrade_as_trained(crops: list[Pixels8], degradation: JpegDegradation) -> dict[str, list[Degraded]]:
    """Validation pictures, each in several ways, of every kind of degradation that training has beside plain JPEG."""
    kinds = {
        "real_life": (degradation.real_life, replace(degradation, real_life=1.0, other_codecs=0.0)),
        "other_codecs": (degradation.other_codecs, replace(degradation, other_codecs=1.0)),
    }
    return {
        kind: [alone.apply(crop, np.random.default_rng(i)) for i, crop in enumerate(crops * WILD_DRAWS)]
        for kind, (share, alone) in kinds.items()
        if share
    }


def cut_validation_crops(images: TrainingImages, recipe: Recipe) -> list[np.ndarray]:
    """What stage 2 is validated on. Raises TrainingDataError if no held-out picture is large enough."""
    return images.cut_validation_crops(VALIDATION_SIDE, math.lcm(16, recipe.network.total_stride))


def patch_rms_loss(restored: Tensor, original: Tensor) -> Tensor:
    """Mean of the patches' root mean square errors: what PSNR, a mean over pictures of a logarithm, comes close to."""
    # A root has no gradient at zero; 1e-5 is the square of 0.8 of 255 levels.
    return (restored - original).square().mean((1, 2, 3)).add(1e-5).sqrt().mean()


def restoration_loss(restored: Tensor, original: Tensor, config: DagnTraining) -> Tensor:
    """L_1, Eq. 14, or the mean of the patches' root mean square errors. Both ``(N, 3, H, W)``, range 0..1."""
    if config.loss == "rms":
        return patch_rms_loss(restored, original)
    if config.loss == "l1-sum":
        return nn.functional.l1_loss(restored, original, reduction="sum") / len(restored)
    return nn.functional.l1_loss(restored, original)


@torch.no_grad()
def measure_psnr_db(
    network: Dagn, crops: list[np.ndarray], device: torch.device, *, blind: bool = False
) -> dict[str, float]:
    """Mean RGB PSNR of rounded, restored crops, per quality factor, guidance taken from the crop itself.

    Args:
        blind: whether nothing is stated of their files; the figures' names say so.
    """
    network.eval()
    out = {}
    prefix = "psnr_db_blind" if blind else "psnr_db"
    for quality in VALIDATION_QUALITIES:
        values = []
        for crop in crops:
            stated = np.zeros(STATED_FEATURES, np.float32) if blind else standard_stated(quality)
            restored = _restore(network, compress_jpeg(crop, quality), stated, device)
            values.append(psnr_db(restored, crop, most=MOST_DB))
        out[f"{prefix}_q{quality}"] = float(np.mean(values))
    return out


def measure_pattern_gain_db(network: Dagn, patterns: list[np.ndarray], device: torch.device) -> dict[str, float]:
    """PSNR that restoring patterns gains over their JPEGs: the mean and the worst. Nothing if there are none."""
    qualities = itertools.cycle(PATTERN_QUALITIES)
    numbered = [(next(qualities), pattern) for pattern in patterns]
    pairs = [(compress_jpeg(pattern, quality), pattern, standard_stated(quality)) for quality, pattern in numbered]
    return _gains_db(network, pairs, device, "patterns")


def measure_gain_db(network: Dagn, degraded: Sequence[Degraded], device: torch.device, kind: str) -> dict[str, float]:
    """The same of degraded pictures, under this name."""
    return _gains_db(network, [(pair.compressed, pair.original, pair.stated) for pair in degraded], device, kind)


@torch.no_grad()
def _gains_db(
    network: Dagn, pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]], device: torch.device, name: str
) -> dict[str, float]:
    """Of compressed pictures, their originals and what is stated; guidance taken from the picture itself."""
    network.eval()
    gains = []
    for compressed, original, stated in pairs:
        restored = _restore(network, compressed, stated, device)
        after, before = (psnr_db(pixels, original, most=MOST_DB) for pixels in (restored, compressed))
        gains.append(after - before)
    return {f"gain_db_{name}": float(np.mean(gains)), f"worst_gain_db_{name}": min(gains)} if gains else {}


@torch.no_grad()
def measure_dead_share(network: Dagn, crops: list[np.ndarray], device: torch.device) -> float:
    """Share of the restorer's channels whose ReLU fires at less than one place in 50 of compressed crops, 0..1.

    Such a channel adds (next to) nothing, and a plain ReLU that never fires has no gradient to come back by. The rest
    of the network makes up for it so well that the loss hardly tells.
    """
    network.eval()
    fired: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, _inputs: object, output: Tensor) -> None:
        share = (output > 0).transpose(0, 1).flatten(1).float().mean(dim=1)
        fired[module] = torch.maximum(share, fired[module]) if module in fired else share

    frozen = {module for part in network.frozen_parts() for module in part.modules()}
    relus = [m for m in network.modules() if isinstance(m, nn.ReLU) and m not in frozen]
    hooks = [relu.register_forward_hook(note) for relu in relus]
    for number, crop in enumerate(crops):
        quality = VALIDATION_QUALITIES[number % len(VALIDATION_QUALITIES)]
        _restore(network, compress_jpeg(crop, quality), standard_stated(quality), device)
    for hook in hooks:
        hook.remove()
    channels = torch.cat(list(fired.values()))
    return float((channels < 0.02).float().mean())


def _restore(network: Dagn, pixels: np.ndarray, stated: np.ndarray, device: torch.device) -> np.ndarray:
    image = to_unit_range(torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].to(device))
    return to_pixels(network(image, None, torch.from_numpy(stated[None].copy()).to(device))[0])


@torch.no_grad()
def _example(network: Dagn, crop: np.ndarray, device: torch.device) -> Tensor:
    compressed = compress_jpeg(crop, VALIDATION_QUALITIES[0])
    restored = _restore(network, compressed, standard_stated(VALIDATION_QUALITIES[0]), device)
    return to_unit_range(torch.from_numpy(np.stack([compressed, restored, crop])).permute(0, 3, 1, 2))
