"""ARCNN, DnCNN and RDN as a benchmark compares them: supervised, on the luma of whole JPEGs.

``python -m studies.compared arcnn --data DIR --out runs/compared/arcnn.safetensors`` trains one, or goes on with
it; ``unjpeg benchmark --method runs/compared/arcnn.safetensors`` measures it. One network serves all qualities; the
papers' ARCNN and DnCNN were trained for each quality apart (``--quality 10``), and for far longer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from unjpeg.adapt.carn import Pretraining, describe_training, pretrain, restore_pixels
from unjpeg.adapt.domains import Cutting, SourceDomain, checksum, compress_all, load_grey
from unjpeg.console import run_safely
from unjpeg.errors import SettingError
from unjpeg.evaluate.pairs import Pixels8
from unjpeg.evaluate.psnr import MOST_DB, psnr_db
from unjpeg.models import ArCnnConfig, Backbone, BackboneConfig, DnCnnConfig, RdnConfig, make_backbone
from unjpeg.train.config import LearningRate
from unjpeg.train.pipeline import make_fabric, open_images

__all__ = ["COMPARED", "ComparedRecipe", "main", "train_compared"]

VALIDATION_FRACTION = 0.1
VALIDATION_PICTURES = 8


@dataclass(frozen=True, slots=True)
class ComparedRecipe:
    """A network and its training, in minutes to an hour on a CPU."""

    backbone: BackboneConfig
    training: Pretraining


def _arcnn() -> ComparedRecipe:
    """At its published size. Without a skip it first has to learn the identity."""
    rate = LearningRate(2e-3, warmup_steps=100, cosine=True)
    return ComparedRecipe(ArCnnConfig(), Pretraining(4000, patch=48, learning_rate=rate, gradient_clip=1.0))


def _dncnn() -> ComparedRecipe:
    """At its published size."""
    rate = LearningRate(1e-3, warmup_steps=100, cosine=True)
    return ComparedRecipe(DnCnnConfig(), Pretraining(4000, patch=48, learning_rate=rate))


def _rdn() -> ComparedRecipe:
    """Thinner than published (22 M parameters)."""
    rate = LearningRate(1e-3, warmup_steps=100, cosine=True)
    network = RdnConfig(width=32, blocks=4, layers=4, growth=16)
    return ComparedRecipe(network, Pretraining(4000, patch=48, learning_rate=rate))


def _tiny() -> ComparedRecipe:
    """A toy, to see the whole way in seconds."""
    training = Pretraining(6, batch=2, patch=16, learning_rate=LearningRate(1e-3), checkpoint_every=3)
    return ComparedRecipe(DnCnnConfig(width=4, depth=3), training)


COMPARED: dict[str, Callable[[], ComparedRecipe]] = {"arcnn": _arcnn, "dncnn": _dncnn, "rdn": _rdn, "tiny": _tiny}


def train_compared(
    name: str, data: Sequence[str], qualities: Sequence[int], out: Path, *, seed: int = 0, accelerator: str = "auto"
) -> Path:
    """Train one of ``COMPARED``, or go on with it.

    Args:
        data: folders or sets of pictures, held together in memory as luma, compressed once at every quality.
        qualities: JPEG quality factors; each patch is of one of them.
        out: the checkpoint to write.

    Raises:
        SettingError: there is no such network.
        TrainingError: the pictures are too few, or ``out`` is of another configuration.
    """
    if name not in COMPARED:
        raise SettingError(f"no network {name!r}; there are: {', '.join(COMPARED)}")
    recipe = COMPARED[name]()
    config = recipe.training
    fabric = make_fabric(accelerator=accelerator, devices=1, precision="32-true")
    images = open_images(data, VALIDATION_FRACTION)
    originals = load_grey(images.training, divide=1, min_side=config.patch)
    held_out = load_grey(images.validation, divide=1, min_side=config.patch)[:VALIDATION_PICTURES]
    torch.manual_seed(seed)
    network = make_backbone(recipe.backbone)
    source = SourceDomain(
        [picture for quality in qualities for picture in compress_all(originals, quality)],
        originals * len(qualities),
        Cutting(config.batch, config.patch, config.grid, seed=seed),
    )
    identity = describe_training(seed, backbone=recipe.backbone, pretraining=config, qualities=list(qualities))
    manifest = {"images": images.manifest, "sha256": checksum(originals)}

    def validate(network: Backbone) -> dict[str, float]:
        return {f"psnr_db_q{quality}": _measure_psnr_db(network, held_out, quality) for quality in qualities}

    out.parent.mkdir(parents=True, exist_ok=True)
    return pretrain(fabric, network, config, source, validate, out, identity=identity, manifest=manifest)


def _measure_psnr_db(network: Backbone, originals: Sequence[Pixels8], quality: int) -> float:
    """Mean over the centres of held-out pictures."""
    found = []
    for original, decoded in zip(originals, compress_all(originals, quality), strict=True):
        centre = tuple(slice(max(0, n // 2 - 96) // 8 * 8, n // 2 + 96) for n in original.shape)
        found.append(psnr_db(restore_pixels(network, decoded[centre]), original[centre], most=MOST_DB))
    return float(np.mean(found))


def main(
    name: Annotated[str, typer.Argument(metavar="NETWORK", help="arcnn, dncnn, rdn or tiny.")],
    data: Annotated[list[str], typer.Option("--data", metavar="DIR", help="Training pictures.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Checkpoint; goes on with what is there.")],
    quality: Annotated[list[int], typer.Option(min=1, max=100, help="JPEG qualities.")] = [10, 20, 30, 40],  # noqa: B006
    seed: Annotated[int, typer.Option(min=0, help="Decides everything that is random.")] = 0,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train a network that a benchmark compares."""
    train_compared(name, data, quality, out, seed=seed, accelerator=accelerator)
    print(f"wrote {out}")


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
