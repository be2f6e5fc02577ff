"""Stage 1 of Algorithm 1: the compression-insensitive and the compression-sensitive auto-encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from unjpeg.errors import TrainingError
from unjpeg.models import AutoEncoder, AutoEncoderConfig, Discriminator, QualityPredictor
from unjpeg.models.autoencoder import QUALITY_CLASSES, Encoder
from unjpeg.train.checkpoint import Checkpoint, collect_tensors, load_optimizers, select
from unjpeg.train.config import EncoderTraining, Recipe, describe_recipe
from unjpeg.train.data import PairedPatches
from unjpeg.train.optimizer import make_optimizers, set_learning_rate
from unjpeg.train.run import RunLog, TrainingImages, find_resume_point, load_samples, to_unit_range

__all__ = [
    "DecoupledEncoders",
    "content_loss",
    "discriminator_loss",
    "insensitive_loss",
    "load_resnet50",
    "quality_targets",
    "select_encoders",
    "sensitive_loss",
    "stored_encoder",
    "train_encoders",
]

LOG_PROBABILITY_FLOOR = -8.0
"""The discriminator's ``log J(c)`` is not pushed below this: Eq. 4 as printed has no lower bound."""


class DecoupledEncoders(nn.Module):
    """Both auto-encoders and the quality predictor: everything that Eq. 3 and 7 update.

    Shape: images ``(N, 3, H, W)`` to insensitive features, both reconstructions, and quality logits.
    """

    def __init__(self, config: AutoEncoderConfig) -> None:
        super().__init__()
        self.insensitive = AutoEncoder(config)
        self.sensitive = AutoEncoder(config)
        self.quality_predictor = QualityPredictor(config)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        insensitive, from_insensitive = self.insensitive(images)
        sensitive, from_sensitive = self.sensitive(images)
        return insensitive, from_insensitive, from_sensitive, self.quality_predictor(sensitive)


def content_loss(reconstructed: Tensor, images: Tensor, config: EncoderTraining) -> Tensor:
    """L_cc, Eq. 5 and 8. Both ``(2N, 3, H, W)``, range 0..1, compressed images and their originals."""
    if config.content_norm == "sum":
        return functional.l1_loss(reconstructed, images, reduction="sum") / len(images)
    return functional.l1_loss(reconstructed, images)


def insensitive_loss(logits: Tensor, config: EncoderTraining) -> Tensor:
    """L_cic for the encoder, Eq. 6. ``logits``: ``(2N, 1)``, compressed images first, then their originals."""
    compressed, original = functional.logsigmoid(logits).chunk(2)
    if config.adversarial == "bce":
        return -compressed.mean()
    return (original - compressed).mean() / 2


def discriminator_loss(logits: Tensor, config: EncoderTraining) -> Tensor:
    """What the discriminator minimises, Eq. 4: ``-L_cic``. ``logits`` as for ``insensitive_loss``."""
    compressed, original = logits.chunk(2)
    if config.adversarial == "bce":
        return -(functional.logsigmoid(-compressed) + functional.logsigmoid(original)).mean() / 2
    floored = functional.logsigmoid(compressed).clamp(min=LOG_PROBABILITY_FLOOR)
    return (floored - functional.logsigmoid(original)).mean() / 2


def sensitive_loss(logits: Tensor, quality: Tensor, config: EncoderTraining) -> Tensor:
    """L_csc, Eq. 9. ``logits``: ``(2N, 100)``, compressed first; ``quality``: ``(N,)`` of the compressed ones."""
    targets = quality_targets(quality, config.target_sigma).to(logits.dtype)
    if config.classification == "cross-entropy":
        return functional.cross_entropy(logits, targets)
    return (functional.softmax(logits, dim=1) - targets).abs().sum(1).mean()


def quality_targets(quality: Tensor, sigma: float) -> Tensor:
    """What the predictor is to say: ``(N,)`` qualities to ``(2N, 100)`` probabilities, of their originals last.

    Originals are the last class. With ``sigma`` 0 a compressed picture is its own class, as published. Else its
    neighbours share in it, by a normal distribution over the other 99 classes: a quality that is nearly right is then
    nearly as good, and the last class is left to originals.
    """
    classes = torch.cat([quality - 1, torch.full_like(quality, QUALITY_CLASSES - 1)])
    targets = functional.one_hot(classes, QUALITY_CLASSES).float()
    if sigma:
        levels = torch.arange(1, QUALITY_CLASSES, device=quality.device, dtype=torch.float32)
        targets[: len(quality), :-1] = functional.softmax(-((levels - quality[:, None]) ** 2) / (2 * sigma**2), dim=1)
        targets[: len(quality), -1] = 0
    return targets


def load_resnet50(encoder: Encoder, path: Path) -> None:
    """Start an encoder from a classifier's weights: ResNet-50's state dict, usual names, as safetensors.

    The classifier itself (``fc``) is left out; the batch norms' step counters may be absent.

    Raises:
        TrainingError: the file is not readable, or not a ResNet-50 of the encoder's width.
    """
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path}: not a readable safetensors file ({error})") from error
    own = encoder.state_dict()
    needed = {name for name in own if not name.endswith("num_batches_tracked")}
    unfit = [name for name in stored if name in own and stored[name].shape != own[name].shape]
    foreign = [name for name in stored if name not in own and not name.startswith("fc.")]
    absent = sorted(needed - stored.keys())
    for reason, names in (("lacks", absent), ("has besides it", foreign), ("has in another size", unfit)):
        if names:
            listed = ", ".join(names[:3])
            raise TrainingError(f"{path}: not a ResNet-50 of width {len(own['bn1.weight'])}: it {reason} {listed}")
    encoder.load_state_dict({name: value for name, value in stored.items() if name in own}, strict=False)


def _file_hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read ({error.strerror or error})") from error


def train_encoders(fabric: Fabric, recipe: Recipe, images: TrainingImages, out: Path, *, workers: int = 1) -> Path:
    """Train both auto-encoders and return the path of the last checkpoint.

    Args:
        out: folder of the checkpoint ``encoders.safetensors``; if it is there, training goes on from it.
    """
    config = recipe.encoders
    checkpoint_path = out / "encoders.safetensors"
    stored_config = describe_recipe(recipe, "seed", "encoders")
    stored_config |= {f"encoder_{name}": value for name, value in asdict(recipe.network.encoder).items()}
    if config.resnet50 is not None:  # by what it holds, wherever it lies
        stored_config["encoders"]["resnet50"] = _file_hash(Path(config.resnet50))
    resumed = find_resume_point(checkpoint_path, stored_config, images.manifest)

    torch.manual_seed(recipe.seed)
    encoders = DecoupledEncoders(recipe.network.encoder)
    discriminator = Discriminator(recipe.network.encoder)
    if config.resnet50 is not None and not resumed:
        for auto_encoder in (encoders.insensitive, encoders.sensitive):
            load_resnet50(auto_encoder.encoder, Path(config.resnet50))
    if resumed:
        encoders.load_state_dict(select(resumed.tensors, "encoders"))
        discriminator.load_state_dict(select(resumed.tensors, "discriminator"))
    encoders = encoders.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    discriminator = discriminator.to(fabric.device)
    named, named_d = dict(encoders.named_parameters()), dict(discriminator.named_parameters())
    own = make_optimizers(named, config.optimizer)
    adam_d = torch.optim.Adam(named_d.values(), lr=0.0)
    every = own | {"discriminator_optimizer": (adam_d, named_d)}
    load_optimizers(every, resumed)
    model, *optimizers = fabric.setup(encoders, *(optimizer for optimizer, _ in own.values()))
    judge, optimizer_d = fabric.setup(discriminator, adam_d)

    first = resumed.step if resumed else 0
    patches = PairedPatches(
        images.training,
        images.weights,
        patch=config.patch,
        degradation=config.degradation,
        seed=recipe.seed,
        resize=config.resize,
    )
    log = RunLog(fabric, out / "tensorboard", "encoders")
    samples = log.batches(load_samples(fabric, patches, config, first, workers))
    levels = torch.arange(1, QUALITY_CLASSES + 1, device=fabric.device, dtype=torch.float32)

    for step in log.steps(first, config.steps):
        rate = config.learning_rate.at(step, config.steps)
        set_learning_rate(optimizers, rate)
        set_learning_rate([optimizer_d], rate)
        features_of_parts = []
        for part in range(config.micro_batches):
            sample = next(samples)
            both = to_unit_range(torch.cat([sample.compressed, sample.original]).to(fabric.device, non_blocking=True))
            quality = sample.quality.to(fabric.device)
            with fabric.no_backward_sync(model, enabled=part < config.micro_batches - 1):
                features, from_insensitive, from_sensitive, quality_logits = model(both)
                content_ci = content_loss(from_insensitive, both, config)  # Eq. 5
                content_cs = content_loss(from_sensitive, both, config)  # Eq. 8
                fooling = insensitive_loss(judge(features), config)
                reading = sensitive_loss(quality_logits, quality, config)
                # The two auto-encoders share no weights: the sum of their losses updates each by its own (Eq. 3, 7).
                loss = content_ci + config.lambda_insensitive * fooling + content_cs + config.lambda_sensitive * reading
                fabric.backward(loss / config.micro_batches)
            features_of_parts.append(features.detach())
        if config.gradient_clip is not None:
            nn.utils.clip_grad_norm_(named.values(), config.gradient_clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

        optimizer_d.zero_grad()  # what fooling it left behind
        for part, features in enumerate(features_of_parts):
            with fabric.no_backward_sync(judge, enabled=part < config.micro_batches - 1):
                verdict = judge(features)
                fabric.backward(discriminator_loss(verdict, config) / config.micro_batches)
        optimizer_d.step()  # Eq. 4
        optimizer_d.zero_grad()

        done = step + 1
        last = done == config.steps
        if done % config.validate_every == 0 or done % 50 == 0 or last:
            compressed_logits = quality_logits[: len(quality)].detach().float()
            read = functional.softmax(compressed_logits, dim=1) @ levels
            compressed_verdict, original_verdict = verdict.detach().chunk(2)
            correct = torch.cat([compressed_verdict < 0, original_verdict > 0])
            log.scalars(
                done,
                {
                    "content_insensitive": content_ci.item(),
                    "content_sensitive": content_cs.item(),
                    "fooling": fooling.item(),
                    "discriminator_accuracy": correct.float().mean().item(),
                    "quality_error": (read - quality).abs().mean().item(),
                    "learning_rate": rate,
                },
                line=done % config.validate_every == 0 or last,
            )
        if done % config.validate_every == 0 or last:
            shown = slice(0, min(4, len(both)))
            log.images(done, "compressed", both[shown].float())
            log.images(done, "from insensitive features", from_insensitive[shown].detach().float())
            log.images(done, "from sensitive features", from_sensitive[shown].detach().float())
        if (done % config.checkpoint_every == 0 or last) and fabric.is_global_zero:
            tensors = collect_tensors({"encoders": encoders, "discriminator": discriminator}, every)
            Checkpoint(tensors, done, stored_config, images.manifest).save(checkpoint_path)
    log.close()
    fabric.barrier()  # whatever process reads the checkpoint next finds it written
    return checkpoint_path


def stored_encoder(config: Mapping[str, Any]) -> AutoEncoderConfig:
    """The auto-encoders' size and kind, from a stage-1 checkpoint's configuration."""
    return AutoEncoderConfig(**{f.name: config[f"encoder_{f.name}"] for f in fields(AutoEncoderConfig)})


def select_encoders(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """What stage 2 takes over from stage 1, by ``Dagn``'s names: both encoders and the quality predictor."""
    state = select(checkpoint.tensors, "encoders")
    out: dict[str, Tensor] = {}
    for ours, theirs in (
        ("insensitive_encoder", "insensitive.encoder"),
        ("sensitive_encoder", "sensitive.encoder"),
        ("quality_predictor", "quality_predictor"),
    ):
        out |= {f"{ours}.{name}": value for name, value in select(state, theirs).items()}
    return out
