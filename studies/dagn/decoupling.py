"""What stage 1 has learned: whether the sensitive encoder tells the quality, and the insensitive one is blind to it.

``python -m studies.dagn.decoupling CHECKPOINT --data bsds500`` writes the figures as JSON and a plot of each. Use
pictures that were not trained on. Three views of every picture are measured:

- ``training``: as stage 1 saw it, scaled to its input size or cut to it, *then* compressed.
- ``whole``: the picture compressed at its own size, seen at once.
- ``windows``: the same picture, seen as a restorer sees it: in windows of stage 1's input size, spread over it, whose
  features are averaged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from unjpeg.console import run_safely
from unjpeg.datasets import resolved
from unjpeg.errors import TrainingError
from unjpeg.evaluate.pairs import load_image, load_images
from unjpeg.evaluate.results import describe_origin, put_results
from unjpeg.files import place_file
from unjpeg.models import Discriminator
from unjpeg.models.autoencoder import QUALITY_CLASSES, TOTAL_STRIDE, AutoEncoder, pool
from unjpeg.tiling import guide_windows
from unjpeg.train.checkpoint import Checkpoint, select
from unjpeg.train.degrade import compress_jpeg
from unjpeg.train.encoders import DecoupledEncoders, stored_encoder
from unjpeg.train.run import to_unit_range

__all__ = [
    "VIEWS",
    "Degrade",
    "Observation",
    "Stage1",
    "View",
    "main",
    "measure_probe_error",
    "observe",
    "plot_features",
    "plot_figures",
    "summarise",
]

View = Literal["training", "whole", "windows"]
VIEWS: tuple[View, ...] = get_args(View)
KINDS = ("insensitive", "sensitive")
Degrade = Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]
"""What makes a picture of a quality, 1..99, of an original, ``(H, W, 3)`` each."""

ORIGINAL = 0
"""Stands for "not compressed" where a quality is expected."""

QUALITIES = tuple(range(10, 100, 5))
SHOWN_QUALITY = 10
RIDGE = 1e-2
"""Keeps the linear fit to features stable."""


@dataclass(frozen=True, slots=True)
class Stage1:
    """The networks of a stage-1 checkpoint, in evaluation mode, and what they were fed with.

    Attributes:
        patch, resize: side of stage 1's input, and whether whole pictures were scaled to it.
    """

    encoders: DecoupledEncoders
    discriminator: Discriminator
    patch: int
    resize: bool

    @classmethod
    def load(cls, checkpoint: Checkpoint, path: Path) -> Stage1:
        """The networks of a checkpoint that was read from ``path``. Raises TrainingError if it is of another stage."""
        if "encoders" not in checkpoint.config:
            raise TrainingError(f"{path}: not a stage-1 checkpoint (encoders.safetensors)")
        config = stored_encoder(checkpoint.config)
        encoders, discriminator = DecoupledEncoders(config), Discriminator(config)
        encoders.load_state_dict(select(checkpoint.tensors, "encoders"))
        discriminator.load_state_dict(select(checkpoint.tensors, "discriminator"))
        stage = checkpoint.config["encoders"]
        return cls(encoders.eval(), discriminator.eval(), stage["patch"], stage["resize"])

    def auto_encoder(self, kind: str) -> AutoEncoder:
        auto_encoder: AutoEncoder = getattr(self.encoders, kind)
        return auto_encoder


@dataclass(frozen=True, slots=True)
class Observation:
    """One picture in one view at one quality (or ``ORIGINAL``).

    Attributes:
        read_quality: mean of the predictor's distribution over the 100 classes. ``read_class``: its likeliest class.
        original_probability: of the last class, which originals are trained to be. ``read_compressed``: mean of the
            distribution over the others: the quality, given that the picture was compressed.
        verdict: the discriminator's logit that this is an original.
        content_error: per kind, mean absolute difference of reconstruction and input, in levels of 255 (Eq. 5, 8).
        content_psnr_db: per kind, the same as PSNR of the clipped reconstruction.
        map_movement: per kind, distance of the feature map from the original's, as a share of the original's length.
        pooled: per kind, the globally averaged features, ``(C,)``.
    """

    image: str
    view: View
    quality: int
    read_quality: float
    read_class: int
    original_probability: float
    read_compressed: float
    verdict: float
    content_error: dict[str, float]
    content_psnr_db: dict[str, float]
    map_movement: dict[str, float]
    pooled: dict[str, NDArray[np.float32]]


def prepare(
    pixels: NDArray[np.uint8], stage: Stage1, view: View, quality: int, degrade: Degrade = compress_jpeg
) -> NDArray[np.uint8]:
    """A picture as the encoders get to see it, ``(H, W, 3)``, sides multiples of 16."""
    height, width = pixels.shape[:2]
    if view == "training" and stage.resize:
        size = (stage.patch, stage.patch)
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    else:
        side = stage.patch if view == "training" else max(height, width)
        rows, columns = (max(TOTAL_STRIDE, min(side, n) // TOTAL_STRIDE * TOTAL_STRIDE) for n in (height, width))
        top, left = max(0, height - rows) // 2, max(0, width - columns) // 2
        pixels = np.ascontiguousarray(pixels[top : top + rows, left : left + columns])
    return pixels if quality == ORIGINAL else degrade(pixels, quality)


@torch.no_grad()
def observe(
    stage: Stage1,
    images: Iterable[tuple[str, NDArray[np.uint8]]],
    qualities: Sequence[int],
    view: View,
    degrade: Degrade = compress_jpeg,
) -> list[Observation]:
    """Run both auto-encoders and both heads on every picture (RGB or grey) at every quality and uncompressed."""
    levels = torch.arange(1, QUALITY_CLASSES + 1, dtype=torch.float32)
    out = []
    for name, pixels in images:
        colour = np.asarray(Image.fromarray(pixels).convert("RGB"))
        if min(colour.shape[:2]) < TOTAL_STRIDE:
            raise TrainingError(f"{name}: is smaller than {TOTAL_STRIDE} pixels; leave it out")
        original_maps: dict[str, torch.Tensor] = {}
        for quality in (ORIGINAL, *qualities):
            seen = prepare(colour, stage, view, quality, degrade)
            parts = list(guide_windows(seen, stage.patch)) if view == "windows" else [seen]
            image = to_unit_range(torch.from_numpy(np.stack(parts)).permute(0, 3, 1, 2))
            content_error, content_psnr, movement, pooled, maps = {}, {}, {}, {}, {}
            for kind in KINDS:
                features, reconstructed = stage.auto_encoder(kind)(image)
                # One long map of all windows: a mean over its positions is the mean over the windows.
                features = features.permute(1, 2, 0, 3).flatten(2)[None]
                maps[kind] = features
                original = original_maps.setdefault(kind, features)
                content_error[kind] = float((reconstructed - image).abs().mean() * 255)
                squared = float((reconstructed.clamp(0, 1) - image).square().mean())
                content_psnr[kind] = float(-10 * np.log10(max(squared, 1e-10)))
                length = float(original.norm())
                movement[kind] = float((features - original).norm()) / length if length else 0.0
                pooled[kind] = pool(features)
            probabilities = functional.softmax(stage.encoders.quality_predictor(maps["sensitive"]), dim=1)[0]
            compressed = probabilities[:-1] / probabilities[:-1].sum().clamp(min=1e-12)
            out.append(
                Observation(
                    image=name,
                    view=view,
                    quality=quality,
                    read_quality=float(probabilities @ levels),
                    read_class=int(probabilities.argmax()) + 1,
                    original_probability=float(probabilities[-1]),
                    read_compressed=float(compressed @ levels[:-1]),
                    verdict=float(stage.discriminator(maps["insensitive"])),
                    content_error=content_error,
                    content_psnr_db=content_psnr,
                    map_movement=movement,
                    pooled={kind: features[0].numpy() for kind, features in pooled.items()},
                )
            )
    return out


def summarise(observations: Sequence[Observation]) -> dict[str, Any]:
    """The figures of one view, per quality (as text, ``"original"`` included) and over all qualities.

    ``pooled_movement`` is how far the averaged features of a picture move from the original's, over how far the
    features of different originals lie apart: at 1, compression moves a picture as far as another picture would be.
    ``probe_error`` is what a linear reading of either kind of features tells of the quality: see
    ``measure_probe_error``.
    """
    qualities = sorted({o.quality for o in observations} - {ORIGINAL})
    originals = [o for o in observations if o.quality == ORIGINAL]
    apart = {kind: _measure_distance(np.stack([o.pooled[kind] for o in originals])) for kind in KINDS}
    of_original = {o.image: o for o in originals}
    per_quality: dict[str, Any] = {}
    for quality in (*qualities, ORIGINAL):
        here = [o for o in observations if o.quality == quality]
        figures: dict[str, Any] = {
            "judged_original": _take_mean(o.verdict > 0 for o in here),
            "original_probability": _take_mean(o.original_probability for o in here),
            "content_error": {kind: _take_mean(o.content_error[kind] for o in here) for kind in KINDS},
            "content_psnr_db": {kind: _take_mean(o.content_psnr_db[kind] for o in here) for kind in KINDS},
        }
        if quality == ORIGINAL:
            figures["read_as_original"] = _take_mean(o.read_class == QUALITY_CLASSES for o in here)
        else:
            figures["quality_error"] = _take_mean(abs(o.read_quality - quality) for o in here)
            figures["compressed_error"] = _take_mean(abs(o.read_compressed - quality) for o in here)
            figures["class_error"] = _take_mean(abs(o.read_class - quality) for o in here)
            figures["class_accuracy"] = _take_mean(o.read_class == quality for o in here)
            figures["map_movement"] = {kind: _take_mean(o.map_movement[kind] for o in here) for kind in KINDS}
            figures["pooled_movement"] = {
                kind: _divide(
                    _take_mean(float(np.linalg.norm(o.pooled[kind] - of_original[o.image].pooled[kind])) for o in here),
                    apart[kind],
                )
                for kind in KINDS
            }
        per_quality["original" if quality == ORIGINAL else str(quality)] = figures
    compressed = [per_quality[str(quality)] for quality in qualities]
    told = _take_mean(1 - figures["judged_original"] for figures in compressed)
    return {
        "per_quality": per_quality,
        "quality_error": _take_mean(figures["quality_error"] for figures in compressed),
        "compressed_error": _take_mean(figures["compressed_error"] for figures in compressed),
        "original_probability": _take_mean(figures["original_probability"] for figures in compressed),
        "class_error": _take_mean(figures["class_error"] for figures in compressed),
        "class_accuracy": _take_mean(figures["class_accuracy"] for figures in compressed),
        "discriminator_accuracy": (told + per_quality["original"]["judged_original"]) / 2,
        "content_error": {kind: _take_mean(f["content_error"][kind] for f in per_quality.values()) for kind in KINDS},
        "probe_error": {kind: measure_probe_error(observations, kind) for kind in KINDS},
    }


def measure_probe_error(observations: Sequence[Observation], kind: str) -> float | None:
    """Mean absolute error of the quality as a linear function of the averaged features, fitted on other pictures.

    The pictures are divided by their order into two halves, and each is predicted from the other. ``None`` for fewer
    than four pictures.
    """
    names = sorted({o.image for o in observations})
    if len(names) < 4:
        return None
    first = set(names[::2])
    compressed = [o for o in observations if o.quality != ORIGINAL]
    halves = [[o for o in compressed if (o.image in first) is wanted] for wanted in (True, False)]
    errors: list[NDArray[np.float64]] = []
    for fitted, tested in (halves, halves[::-1]):
        features, qualities = _stack_features(fitted, kind)
        mean, scale = features.mean(0), features.std(0) + 1e-6
        centred = (features - mean) / scale
        middle = qualities.mean()
        gram = centred.T @ centred / len(centred) + RIDGE * np.eye(centred.shape[1])
        weights = np.linalg.solve(gram, centred.T @ (qualities - middle) / len(centred))
        others, truth = _stack_features(tested, kind)
        read = np.clip(((others - mean) / scale) @ weights + middle, 1, 100)
        errors.append(np.abs(read - truth))
    return float(np.concatenate(errors).mean())


def plot_figures(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """One plot for each figure, both views in it. Returns the files."""
    plots: dict[str, tuple[str, tuple[tuple[str, str | None], ...]]] = {
        "quality-error": ("mean absolute error of the quality", (("quality_error", None),)),
        "discriminator": ("share judged original", (("judged_original", None),)),
        "reconstruction": ("reconstruction, PSNR in dB", tuple(("content_psnr_db", kind) for kind in KINDS)),
        "movement": ("movement / distance of originals", tuple(("pooled_movement", kind) for kind in KINDS)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, (label, series) in plots.items():
        figure = Figure(figsize=(6, 3.6))
        axis = figure.subplots()
        for view, figures in record["views"].items():
            per_quality = {int(q): row for q, row in figures["per_quality"].items() if q != "original"}
            for key, kind in series:
                values = [row[key] if kind is None else row[key][kind] for row in per_quality.values()]
                drawn = f"{view}, {kind}" if kind else view
                axis.plot(list(per_quality), values, marker=".", label=drawn)
        axis.set_xlabel("JPEG quality")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=None if name == "reconstruction" else 0)
        axis.legend(fontsize="small")
        figure.tight_layout()
        file = folder / f"stage1-{name}.png"
        _put_figure(file, figure)
        files.append(file)
    return files


@torch.no_grad()
def plot_features(stage: Stage1, name: str, pixels: NDArray[np.uint8], file: Path) -> None:
    """Figs. 4 and 6: a picture, compressed and not, and how strongly each kind of features answers to it.

    An answer is the mean over the channels at one position; both pictures of a kind share one scale. The last column is
    the difference.
    """
    colour = np.asarray(Image.fromarray(pixels).convert("RGB"))
    seen = [prepare(colour, stage, "whole", quality) for quality in (ORIGINAL, SHOWN_QUALITY)]
    figure = Figure(figsize=(9, 7))
    axes = figure.subplots(3, 3)
    titles = ("original", f"quality {SHOWN_QUALITY}", "difference")
    difference = np.abs(seen[1].astype(int) - seen[0]).mean(axis=2)
    for axis, shown, title in zip(axes[0], (*seen, difference), titles, strict=True):
        axis.imshow(shown, cmap="magma")
        axis.set_title(title)
    for row, kind in zip(axes[1:], KINDS, strict=True):
        maps = []
        for image in seen:
            batch = to_unit_range(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])
            maps.append(stage.auto_encoder(kind).encoder(batch)[0].mean(0).numpy())
        low, high = min(m.min() for m in maps), max(m.max() for m in maps)
        for axis, shown in zip(row[:2], maps, strict=True):
            axis.imshow(shown, cmap="viridis", vmin=low, vmax=high)
        row[2].imshow(np.abs(maps[1] - maps[0]), cmap="magma", vmin=0, vmax=max(high - low, 1e-12))
        row[0].set_ylabel(kind)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle(name)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    _put_figure(file, figure)


def main(
    checkpoint: Annotated[Path, typer.Argument(help="A stage-1 checkpoint (encoders.safetensors).")],
    data: Annotated[str, typer.Option(help="A data set or a folder of pictures that were not trained on.")] = "bsds500",
    quality: Annotated[list[int], typer.Option(min=1, max=100, help="JPEG qualities.")] = list(QUALITIES),  # noqa: B006
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pictures.")] = None,
    picture: Annotated[
        list[Path], typer.Option(exists=True, dir_okay=False, help="Pictures to show the features of.")
    ] = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Folder of the result file.")] = Path("results"),
    name: Annotated[str, typer.Option(help="What the result is called.")] = "stage1",
    plots: Annotated[Path, typer.Option(help="Folder of the plots.")] = Path("docs/images"),
) -> None:
    """Measure the two auto-encoders of a stage-1 checkpoint."""
    origin = describe_origin()  # of the code that is loaded: it may change while this runs
    loaded = Checkpoint.load(checkpoint)
    stage = Stage1.load(loaded, checkpoint)
    shown = {file: load_image(file) for file in picture}  # before all else: one that is none would be noticed last
    digest = hashlib.sha256()
    images = list(islice(load_images(resolved(data)), limit))
    for _, pixels in images:
        digest.update(pixels.tobytes())
    record: dict[str, Any] = {
        "checkpoint": {"step": loaded.step, "config": loaded.config, "training_images": loaded.manifest},
        "pictures": {"name": Path(data).name, "count": len(images), "sha256": digest.hexdigest()},
        "qualities": quality,
        **origin,
        "views": {},
    }
    for view in VIEWS:
        # What single pictures gave is left out: it is large, and the checkpoint gives it again.
        figures = record["views"][view] = summarise(observe(stage, images, quality, view))
        probes = ", ".join(f"{kind} {error:.1f}" for kind, error in figures["probe_error"].items() if error is not None)
        of_original = figures["per_quality"]["original"]["original_probability"]
        print(
            f"{view}: quality read with a mean absolute error of {figures['quality_error']:.1f}, given that it was "
            f"compressed {figures['compressed_error']:.1f} (class exact {figures['class_accuracy']:.0%}); called "
            f"original: {figures['original_probability']:.0%}, originals {of_original:.0%}; discriminator right "
            f"{figures['discriminator_accuracy']:.0%}"
            + (f", linear reading of the features off by: {probes}" if probes else ""),
            flush=True,
        )
    path = out / f"{name}.json"
    put_results(path, record)
    files = plot_figures(record, plots)
    for file, pixels in shown.items():
        files.append(plots / f"stage1-features-{file.stem}.png")
        plot_features(stage, file.stem, pixels, files[-1])
    print("wrote " + ", ".join(map(str, (path, *files))))


def _put_figure(file: Path, figure: Figure) -> None:
    with place_file(file, overwrite=True) as out:
        figure.savefig(out, format="png", dpi=120)


def _take_mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _divide(value: float, reference: float) -> float | None:
    return value / reference if reference > 0 else None


def _measure_distance(features: NDArray[np.float32]) -> float:
    """Mean distance of two different rows; 0 for a single one."""
    count = len(features)
    if count < 2:
        return 0.0
    distances = [np.linalg.norm(features[i + 1 :] - features[i], axis=1).sum() for i in range(count - 1)]
    return float(np.sum(distances) / (count * (count - 1) / 2))


def _stack_features(observations: Sequence[Observation], kind: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    features = np.stack([o.pooled[kind] for o in observations]).astype(np.float64)
    return features, np.array([o.quality for o in observations], np.float64)


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
