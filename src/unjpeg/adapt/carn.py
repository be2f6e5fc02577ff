"""CARN-DA: a restorer learns on a source quality, then adapts to a target quality that has no originals.

::

    source patches ─┐
                    ├─▶ F ─┬─ source's features ──────▶ D ─▶ restored ─▶ L_D  (Eq. 2)
    target patches ─┘      └─ both ─▶ reversal (-lambda) ─▶ Q ─▶ domain ─▶ L_Q  (Eq. 3)

``pretrain`` is the first column alone, ``adapt_network`` all of it (Eq. 4 to 7).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from unjpeg.adapt.domains import Patches, SourceBatches, TargetDomain, join_alike
from unjpeg.models import Backbone, DiscriminatorConfig, QualityDiscriminator, reverse_gradient
from unjpeg.train.checkpoint import Checkpoint, collect_tensors, load_optimizers, select
from unjpeg.train.config import LearningRate, require_at_least
from unjpeg.train.dagn import patch_rms_loss
from unjpeg.train.degrade import Pixels8
from unjpeg.train.optimizer import NamedOptimizer, make_optimizers, set_learning_rate
from unjpeg.train.run import RunLog, find_resume_point, to_pixels, to_unit_range

__all__ = [
    "Adaptation",
    "DomainAdversary",
    "Pretraining",
    "Validate",
    "adapt_network",
    "denoising_loss",
    "describe_training",
    "pretrain",
    "quality_loss",
    "restore_pixels",
    "source_psnr_db",
    "to_network_input",
]

Validate = Callable[[Backbone], dict[str, float]]
"""PSNR in dB on held-out pictures of the *source*: nothing else may choose a step or stop a training.

By names ``psnr_db_qN``, N a quality factor; ``psnr_db_blind_qN`` where nothing is stated of files of which a network is
told what they state.
"""

Reduction = Literal["mean", "sum", "rms"]

DiscriminatorStep = Literal["published", "plain", "tenfold"]


@dataclass(frozen=True, slots=True)
class Pretraining:
    """Supervised training on the source (``F`` and ``D``); also the SQ, DQ and BQ scenarios.

    Attributes:
        steps: optimizer steps.
        batch, patch: source patches per step, and their side in pixels.
        grid: see ``domains.Cutting``.
        reduction: of Eq. 2 over a patch's pixels. "sum" is printed; "mean" makes lambda independent of the patch;
            "rms", the root of the mean square, is what the shipped models were trained with.
        checkpoint_every: steps; validation happens there, too.
    """

    steps: int
    batch: int = 16
    patch: int = 64
    grid: int = 8
    learning_rate: LearningRate = field(default_factory=lambda: LearningRate(1e-4))
    reduction: Reduction = "mean"
    gradient_clip: float | None = None
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        require_at_least(self, 1, "steps", "batch", "patch", "grid", "checkpoint_every")
        if self.reduction not in get_args(Reduction):
            raise ValueError(f"reduction must be one of {get_args(Reduction)}, got {self.reduction!r}")


@dataclass(frozen=True, slots=True)
class Adaptation(Pretraining):
    """Adversarial training with source pairs and target patches: ``batch`` patches of *either* domain per step.

    Attributes:
        strength: the lambda of Eq. 4, for Eq. 2 in the range 0..1.
        ramp: raise lambda from 0 along ``2 / (1 + exp(-10 p)) - 1``, p the finished share (Ganin and Lempitsky).
        discriminator_step: "published": at the rate ``eta * lambda`` of Eq. 6 (a factor on the gradient would do
            nothing: Adam divides it out); "plain": at ``eta``; "tenfold": at ten times that, for a discriminator that
            is to be ahead of the features.
        discriminator: what it looks at.
        max_source_loss_db: stop when the mean PSNR on the source's held-out pictures, told or not what their files
            state, falls by more than this, and keep the last checkpoint before; None never stops.
    """

    strength: float = 0.1
    ramp: bool = False
    discriminator_step: DiscriminatorStep = "published"
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    max_source_loss_db: float | None = None

    def __post_init__(self) -> None:
        Pretraining.__post_init__(self)  # dataclasses with slots have no super() without arguments
        if not 0 <= self.strength < math.inf:
            raise ValueError(f"Adaptation.strength must be a number from 0 up, got {self.strength}")
        if self.discriminator_step not in get_args(DiscriminatorStep):
            raise ValueError(f"Adaptation has no such option: {self.discriminator_step!r}")

    def discriminator_rate(self, rate: float, strength: float) -> float:
        """Of the discriminator's step, where ``rate`` and ``strength`` are those of the step."""
        return rate * {"published": strength, "plain": 1.0, "tenfold": 10.0}[self.discriminator_step]

    def strength_at(self, step: int) -> float:
        """Lambda for the step that follows ``step`` finished ones."""
        if not self.ramp:
            return self.strength
        return self.strength * (2 / (1 + math.exp(-10 * step / self.steps)) - 1)


def describe_training(seed: int, **parts: Any) -> dict[str, Any]:
    """Configuration dataclasses as a checkpoint stores and compares them, with the class of each backbone."""
    whole: dict[str, Any] = {"seed": seed}
    for name, part in parts.items():
        whole[name] = part
        if hasattr(part, "__dataclass_fields__"):
            whole[name] = {"kind": type(part).__name__, **asdict(part)}
    back: dict[str, Any] = json.loads(json.dumps(whole))
    return back


def denoising_loss(restored: Tensor, original: Tensor, reduction: Reduction = "mean") -> Tensor:
    """L_D, Eq. 2. Both ``(N, C, H, W)``, range 0..1; mean over the patches of what ``reduction`` makes of pixels."""
    if reduction == "rms":
        return patch_rms_loss(restored, original)
    error = (restored - original).abs()
    return error.mean() if reduction == "mean" else error.sum() / len(error)


def quality_loss(logits: Tensor, source_count: int) -> Tensor:
    """L_Q, Eq. 3 with the minus sign that a cross-entropy has. ``logits``: ``(Ns + Nt, 2)``, the source's first."""
    return functional.cross_entropy(logits.float(), _domains(logits, source_count))


def _domains(logits: Tensor, source_count: int) -> Tensor:
    domains = torch.ones(len(logits), dtype=torch.long, device=logits.device)
    domains[:source_count] = 0
    return domains


def to_network_input(patches: Patches, device: torch.device) -> Patches:
    """Patches of uint8 as a network on that device takes them."""
    stated = None if patches.stated is None else patches.stated.to(device)
    return Patches(to_unit_range(patches.pixels.to(device)), stated)


def _told_every_other(stated: Tensor) -> Tensor:
    """Half of the batch as files that state nothing: a network that is told must go on without it, too."""
    return stated * (torch.arange(len(stated), device=stated.device) % 2 == 0)[:, None]


class DomainAdversary(nn.Module):
    """Backbone and discriminator as they learn together.

    Shape: source patches ``(Ns, C, H, W)`` and target patches ``(Nt, C, H, W)``, range 0..1, to the restored source and
    the logits ``(Ns + Nt, 2)``. The denoiser never sees the target.
    """

    def __init__(self, network: Backbone, discriminator: QualityDiscriminator) -> None:
        super().__init__()
        self.network = network
        self.discriminator = discriminator

    def train(self, mode: bool = True) -> DomainAdversary:
        """Batch norm keeps the statistics of the pre-training: these batches mix the domains."""
        super().train(mode)
        _keep_statistics(self.network)
        return self

    def forward(self, source: Patches, target: Patches, strength: float) -> tuple[Tensor, Tensor]:
        features = self.network.extract(*join_alike(source, target))
        logits = self.discriminator(reverse_gradient(features.seen, strength))
        own = features.first(len(source.pixels))
        if source.stated is not None:  # the comparison may have left something out
            own = self.network.extract(source.pixels, _told_every_other(source.stated))
        return self.network.denoise(own), logits


def _keep_statistics(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def pretrain(
    fabric: Fabric,
    network: Backbone,
    config: Pretraining,
    source: SourceBatches,
    validate: Validate,
    path: Path,
    *,
    identity: dict[str, Any],
    manifest: dict[str, Any],
    keep_statistics: bool = False,
) -> Path:
    """Train ``F`` and ``D`` on pairs; the network holds the result, ``path`` the checkpoint (resumed if it is there).

    Args:
        identity: the configuration that the checkpoint stores; another one is refused.
        manifest: what it is trained on, likewise.
        keep_statistics: batch norm stays as it is, as in an adaptation.
    """
    resumed = find_resume_point(path, identity, manifest)
    if resumed:
        network.load_state_dict(select(resumed.tensors, "model"))
    network.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    own = _make_optimizers(network, resumed, "optimizer")
    model, *optimizers = fabric.setup(network, *(optimizer for optimizer, _ in own.values()))
    metrics = dict(resumed.metrics) if resumed else {}
    first = resumed.step if resumed else 0
    log = RunLog(fabric, path.with_suffix(".tensorboard"), path.stem)

    for step in log.steps(first, config.steps):
        rate = config.learning_rate.at(step, config.steps)
        set_learning_rate(optimizers, rate)
        model.train()
        if keep_statistics:
            _keep_statistics(network)
        pair = source.batch(step)
        restored = model(*to_network_input(pair.patches, fabric.device))
        loss = denoising_loss(restored, to_unit_range(pair.original.to(fabric.device)), config.reduction)
        fabric.backward(loss)
        _clip(network, config.gradient_clip)
        for optimizer in optimizers:
            optimizer.step()  # Eq. 5, and Eq. 7 without an adversary
            optimizer.zero_grad()

        done = step + 1
        if done % config.checkpoint_every == 0 or done == config.steps:
            metrics = validate(network)
            log.scalars(done, {"loss": loss.item(), "learning_rate": rate} | metrics, line=True)
            Checkpoint(collect_tensors({"model": network}, own), done, identity, manifest, metrics).save(path)
    log.close()
    return path


def adapt_network(
    fabric: Fabric,
    network: Backbone,
    config: Adaptation,
    source: SourceBatches,
    target: TargetDomain,
    validate: Validate,
    path: Path,
    *,
    identity: dict[str, Any],
    manifest: dict[str, Any],
    seed: int,
) -> Path:
    """Adapt a trained network; it holds the result, ``path`` the checkpoint (resumed if it is there).

    The metrics of the checkpoint are the validation's, ``start_psnr_db`` (their mean before the first step; see
    ``source_psnr_db``), ``least_quality_loss`` (L_Q's least mean over the steps between two checkpoints: ln 2 is
    chance), and, if the source collapsed, ``stopped_at_step``: the weights are then those of the last checkpoint
    before.
    """
    resumed = find_resume_point(path, identity, manifest)
    torch.manual_seed(seed)
    discriminator = QualityDiscriminator(
        config.discriminator, network.feature_channels, config.patch // network.feature_stride
    )
    if resumed:
        network.load_state_dict(select(resumed.tensors, "model"))
        discriminator.load_state_dict(select(resumed.tensors, "discriminator"))
    adversary = DomainAdversary(network, discriminator)
    adversary.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if not resumed:
        with torch.no_grad():
            patches = (to_network_input(one, fabric.device) for one in (source.batch(0).patches, target.batch(0)))
            discriminator.standardise(network.eval().extract(*join_alike(*patches)).seen)
    if resumed and ("stopped_at_step" in resumed.metrics or resumed.step == config.steps):
        return path
    own = _make_optimizers(network, resumed, "optimizer")
    both = own | _make_optimizers(discriminator, resumed, "discriminator_optimizer")
    model, *every = fabric.setup(adversary, *(optimizer for optimizer, _ in both.values()))
    optimizers, optimizers_q = every[: len(own)], every[len(own) :]

    def save(step: int) -> None:
        tensors = collect_tensors({"model": network, "discriminator": discriminator}, both)
        Checkpoint(tensors, step, identity, manifest, metrics).save(path)

    if resumed:
        metrics = dict(resumed.metrics)
    else:
        metrics = validate(network)
        metrics |= {f"start_{name}": value for name, value in source_psnr_db(metrics).items()}
        save(0)  # so that there always is a last good one
    starts = {name: value for name, value in metrics.items() if name.startswith("start_")}
    first = resumed.step if resumed else 0
    told, told_since = torch.zeros((), device=fabric.device), first
    log = RunLog(fabric, path.with_suffix(".tensorboard"), path.stem)

    for step in log.steps(first, config.steps):
        rate, strength = config.learning_rate.at(step, config.steps), config.strength_at(step)
        set_learning_rate(optimizers, rate)
        set_learning_rate(optimizers_q, config.discriminator_rate(rate, strength))
        model.train()
        pair = source.batch(step)
        compressed, unlabelled = (to_network_input(one, fabric.device) for one in (pair.patches, target.batch(step)))
        restored, logits = model(compressed, unlabelled, strength)
        denoising = denoising_loss(restored, to_unit_range(pair.original.to(fabric.device)), config.reduction)
        telling = quality_loss(logits, len(restored))
        told += telling.detach()
        # One sum serves all three: D is not in L_Q, Q not in L_D, and F has L_Q's gradient reversed (Eq. 5, 6, 7).
        fabric.backward(denoising + telling)
        _clip(network, config.gradient_clip)
        for optimizer in every:
            optimizer.step()
            optimizer.zero_grad()

        done = step + 1
        if done % config.checkpoint_every == 0 or done == config.steps:
            found = validate(network)
            correct = logits.detach().argmax(1) == _domains(logits, len(restored))
            mean_telling = told.item() / (done - told_since)
            told.zero_()
            told_since = done
            figures = {
                "denoising": denoising.item(),
                "telling": mean_telling,
                "discriminator_accuracy": correct.float().mean().item(),
                "lambda": strength,
            }
            log.scalars(done, figures | found, line=True)
            bound = config.max_source_loss_db
            lost = [starts[f"start_{name}"] - value for name, value in source_psnr_db(found).items()]
            if bound is not None and not all(loss <= bound for loss in lost):  # also true of not-a-number
                _keep_last_good(path, network, done)
                break
            least = min(mean_telling, metrics.get("least_quality_loss", math.inf))
            metrics = found | starts | {"least_quality_loss": least}
            save(done)
    log.close()
    return path


def _keep_last_good(path: Path, network: Backbone, stopped_at: int) -> None:
    good = Checkpoint.load(path)
    good.metrics["stopped_at_step"] = float(stopped_at)
    good.save(path)
    network.load_state_dict(select(good.tensors, "model"))


@torch.no_grad()
def restore_pixels(network: Backbone, pixels: Pixels8) -> Pixels8:
    """A whole picture through the network, rounded. ``(H, W)`` or ``(H, W, 3)`` uint8 to the same."""
    network.eval()
    height, width = pixels.shape[:2]
    pad = [(0, -n % network.total_stride) for n in (height, width)]
    padded = np.pad(pixels, pad + [(0, 0)] * (pixels.ndim - 2), mode="edge")
    planes = torch.from_numpy(padded[None] if padded.ndim == 2 else padded.transpose(2, 0, 1).copy())
    device = next(network.parameters()).device
    restored = to_pixels(network(to_unit_range(planes[None].to(device)))[0, :, :height, :width])
    return restored[..., 0] if pixels.ndim == 2 else restored


def source_psnr_db(metrics: Mapping[str, float]) -> dict[str, float]:
    """Means of a validation's figures over the qualities: ``psnr_db``, and ``psnr_db_blind`` if there is such."""
    by_name: dict[str, list[float]] = {}
    for name, value in metrics.items():
        if name.startswith("psnr_db"):
            by_name.setdefault(name.rsplit("_q", 1)[0], []).append(value)
    return {name: float(np.mean(values)) for name, values in by_name.items()}


def _make_optimizers(module: nn.Module, resumed: Checkpoint | None, prefix: str) -> dict[str, NamedOptimizer]:
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    made = make_optimizers(named, "adam", prefix=prefix)
    load_optimizers(made, resumed)
    return made


def _clip(module: nn.Module, limit: float | None) -> None:
    if limit is not None:
        nn.utils.clip_grad_norm_(module.parameters(), limit)
