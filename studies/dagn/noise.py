"""Whether the decoupling is JPEG's alone: stage 1 on Gaussian noise, its level in place of the quality factor.

``python -m studies.dagn.noise --data bsds500-train`` trains both auto-encoders as a recipe does, but for what is done
to the pictures, and writes what ``decoupling`` writes of JPEGs: how far off the level is read, what is taken for an
original, and how far either kind of features moves. After a kill the same command goes on where it was.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from numpy.typing import NDArray

from studies.dagn.decoupling import VIEWS, Stage1, observe, summarise
from unjpeg.console import run_safely
from unjpeg.datasets import resolved
from unjpeg.evaluate.pairs import load_images
from unjpeg.evaluate.results import describe_origin, put_results
from unjpeg.tables import STATED_FEATURES
from unjpeg.train.checkpoint import Checkpoint
from unjpeg.train.config import Recipe
from unjpeg.train.degrade import Degraded, JpegDegradation
from unjpeg.train.encoders import train_encoders
from unjpeg.train.pipeline import make_fabric, make_recipe, open_images

__all__ = ["NoiseDegradation", "add_noise", "main", "make_noisy"]

LEVELS_PER_CLASS = 0.5
"""Standard deviation, of 255 levels, between neighbours of the predictor's 100 classes; the last is no noise at all."""

QUALITIES = tuple(range(10, 100, 10))
TOLD = ("quality_error", "compressed_error", "original_probability", "discriminator_accuracy", "probe_error")
"""Of each view, what is printed."""


def add_noise(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """White noise of the deviation that a quality stands for, the same each time. Shape: ``(H, W, 3)`` to the same."""
    rng = np.random.default_rng((zlib.crc32(pixels.tobytes()), quality))
    return _add_noise(pixels, LEVELS_PER_CLASS * (100 - quality), rng)


def _add_noise(pixels: NDArray[np.uint8], deviation: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    noisy = pixels + deviation * rng.standard_normal(pixels.shape, np.float32)
    rounded: NDArray[np.uint8] = np.rint(noisy).clip(0, 255).astype(np.uint8)
    return rounded


@dataclass(frozen=True, slots=True)
class NoiseDegradation(JpegDegradation):
    """Noise where a recipe has JPEG: a quality, drawn as JPEG's is, stands for a deviation.

    Attributes:
        levels_per_class: that the deviation has for each class below 100.
    """

    levels_per_class: float = LEVELS_PER_CLASS

    def __post_init__(self) -> None:
        JpegDegradation.__post_init__(self)  # dataclasses with slots have no super() without arguments
        if self.levels_per_class <= 0:
            raise ValueError(f"noise has more than 0 levels per class, got {self.levels_per_class}")
        if self.real_life or self.other_codecs or self.max_quality > 99:
            raise ValueError("noise knows no real_life and no other_codecs, and quality 100 is an original")

    def apply(self, pixels: NDArray[np.uint8], rng: np.random.Generator) -> Degraded:
        quality = self._draw_quality(rng)
        noisy = _add_noise(pixels, self.levels_per_class * (100 - quality), rng)
        return Degraded(noisy, pixels, quality, True, np.zeros(STATED_FEATURES, np.float32))


def make_noisy(recipe: Recipe) -> Recipe:
    """A recipe whose stage 1 sees noise, over the same range of classes. Raises ValueError if that has none."""
    given = recipe.encoders.degradation
    noise = NoiseDegradation(given.min_quality, min(given.max_quality, 99), given.skew)
    return replace(recipe, encoders=replace(recipe.encoders, degradation=noise))


def main(
    data: Annotated[list[str], typer.Option("--data", metavar="DIR[=WEIGHT]", help="Training pictures.")],
    recipe: Annotated[str, typer.Option(help="Whose stage 1.")] = "small-reading",
    settings: Annotated[list[str], typer.Option("--set", metavar="FIELD=VALUE", help="Change the recipe.")] = [],  # noqa: B006
    test: Annotated[str, typer.Option(help="A data set or a folder of pictures that are not trained on.")] = "bsds500",
    limit: Annotated[int | None, typer.Option(min=1, help="Only its first pictures.")] = None,
    work: Annotated[Path, typer.Option(help="Folder of the training; goes on from what is there.")] = Path(
        "runs/noise"
    ),
    out: Annotated[Path, typer.Option(help="Folder of the result file.")] = Path("results"),
    workers: Annotated[int, typer.Option(min=0, help="Processes that make patches.")] = 1,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[Literal["32-true", "bf16-mixed"], typer.Option(help="Of the training.")] = "32-true",
) -> None:
    """Train stage 1 on noise and measure what it has learned."""
    origin = describe_origin()  # of the code that is loaded: it may change while this runs
    chosen = make_noisy(make_recipe(recipe, settings, 1))
    images = list(islice(load_images(resolved(test)), limit))
    training = open_images(data, chosen.validation_fraction)
    fabric = make_fabric(accelerator=accelerator, devices=1, precision=precision)
    folder = work / (chosen.name if precision == "32-true" else f"{chosen.name}-{precision}")
    path = train_encoders(fabric, chosen, training, folder, workers=workers)
    loaded = Checkpoint.load(path)
    record: dict[str, Any] = {
        "checkpoint": {"step": loaded.step, "config": loaded.config, "training_images": loaded.manifest},
        "pictures": {"name": Path(test).name, "count": len(images)},
        "levels_per_class": LEVELS_PER_CLASS,
        "qualities": list(QUALITIES),
        "precision": precision,
        **origin,
        "views": {},
    }
    stage = Stage1.load(loaded, path)
    for view in VIEWS:
        figures = record["views"][view] = summarise(observe(stage, images, QUALITIES, view, add_noise))
        moved = [figures["per_quality"][str(quality)]["pooled_movement"] for quality in QUALITIES]
        print(f"{view}: " + ", ".join(f"{name} {_format(figures[name])}" for name in TOLD))
        print(f"{view}, movement by class: " + ", ".join(map(_format, moved)), flush=True)
    put_results(out / "noise.json", record)
    print(f"wrote {out / 'noise.json'}")


def _format(value: Any) -> str:
    if isinstance(value, dict):
        return " / ".join(f"{kind} {_format(inner)}" for kind, inner in value.items())
    return "none" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
