"""``unjpeg adapt`` by re-degradation: pairs for a target without originals, compressed as its files were.

::

    target files ── codec and strength of each ──────────┐
                                                          ▼
    clean pictures (given, or the target's own, halved) ─ compress ─ pairs ─┐
                                     └────────────────── JPEG, as trained ──┴─ half and half ─▶ model file

What a compressed picture lost does not come back by comparing it with others. But how it was compressed stands in its
file, and halving a picture leaves little of the damage: both make pairs that look like the target's, and those teach.
"""

from __future__ import annotations

import functools
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unjpeg.adapt.carn import describe_training
from unjpeg.adapt.domains import Stated, checksum, trained_degradation
from unjpeg.adapt.folders import AdaptationFolders
from unjpeg.av1 import avif_quantiser
from unjpeg.datasets import ImageFolder
from unjpeg.errors import BadImageError, SettingError, TrainingDataError, TrainingError
from unjpeg.files import place_file, put_json
from unjpeg.jpeg import JpegImage
from unjpeg.modelfile import ModelFile
from unjpeg.models import Dagn, GuidanceTensors
from unjpeg.models.exported import load_exported
from unjpeg.othercodecs import comparable_quality
from unjpeg.picture import NamedBytes, read_bytes, read_colours
from unjpeg.tables import STATED_FEATURES
from unjpeg.train.checkpoint import Checkpoint, collect_tensors, load_optimizers, select
from unjpeg.train.config import VALIDATION_FRACTION, LearningRate, apply_settings, require_at_least
from unjpeg.train.dagn import GUIDANCE, measure_gain_db, measure_psnr_db, patch_rms_loss
from unjpeg.train.data import PairedPatches
from unjpeg.train.degrade import Degraded, Pixels8, encode_as, standard_stated
from unjpeg.train.export import export_network
from unjpeg.train.optimizer import make_optimizers, set_learning_rate
from unjpeg.train.pipeline import make_fabric, open_images
from unjpeg.train.run import RunLog, TrainingImages, find_resume_point, to_unit_range
from unjpeg.version import __version__, machine, source_commit
from unjpeg.vp8 import webp_quantiser

__all__ = [
    "Recompression",
    "Redegradation",
    "RedegradationReport",
    "configure_redegradation",
    "read_recompressions",
    "redegrade_model",
]

Codec = Literal["JPEG", "WEBP", "AVIF"]
Say = Callable[[str], None]

MARGIN: Final = 16
"""Patches are compressed with so many pixels around them, as if cut from a compressed picture."""

FEWEST_HALVED: Final = 10
"""Fewer pictures than this are too little to be their own originals."""

VALIDATION_SIDE: Final = 192


@dataclass(frozen=True, slots=True)
class Recompression:
    """How a file was compressed, to do the same to another picture.

    Attributes:
        codec: Pillow's name of it.
        quality: of WebP and AVIF, as Pillow counts it; of JPEG the nearest, for words alone.
        tables, sampling: of JPEG: quantisation tables of luma and chroma (of grey pictures one), 64 steps each in
            natural order, and Pillow's number of the chroma sampling.
        stated: what a restorer tells the network of such a file, ``(STATED_FEATURES,)``.
        seen_quality: the quality whose mean features a restorer shows the network; None: what the pixels show.
    """

    codec: Codec
    quality: int
    stated: Stated
    tables: tuple[tuple[int, ...], ...] = ()
    sampling: int = 2
    seen_quality: int | None = None

    @classmethod
    def of(cls, data: bytes, name: str) -> Recompression | None:
        """Of a file's bytes; None if it is no lossy JPEG, WebP or AVIF. Raises BadImageError if it is damaged."""
        picture = read_colours(NamedBytes(data, name))
        if picture.jpeg is not None:
            return cls._of_jpeg(picture.jpeg)
        seen = comparable_quality(data)
        if seen is None:
            return None
        webp, avif = webp_quantiser(data), avif_quantiser(data)
        stated = standard_stated(seen)
        if webp is not None:
            crop = _cut_centre(picture.pixels, 256)
            return cls("WEBP", _find_webp_quality(crop, webp), stated, seen_quality=seen)
        assert avif is not None
        return cls("AVIF", _find_avif_quality(avif), stated, seen_quality=seen)

    @classmethod
    def _of_jpeg(cls, jpeg: JpegImage) -> Recompression | None:
        sampling = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2, "grey": 2}.get(jpeg.header.subsampling)
        if sampling is None:
            return None  # what Pillow cannot write
        tables = tuple(tuple(int(step) for step in table.ravel()) for table in jpeg.tables[:2])
        return cls("JPEG", jpeg.quality.value, jpeg.compression.stated, tables, sampling)

    def apply(self, pixels: Pixels8) -> Pixels8:
        """Compressed and decoded. Shape: ``(H, W, 3)`` to the same."""
        if self.codec == "JPEG":
            image, buffer = Image.fromarray(pixels), io.BytesIO()
            kept = image.convert("L") if len(self.tables) == 1 else image
            kept.save(buffer, "JPEG", qtables=[list(table) for table in self.tables], subsampling=self.sampling)
            file = buffer.getvalue()
        else:
            file = encode_as(self.codec, pixels, self.quality)
        return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def _cut_centre(pixels: NDArray[np.uint8], side: int) -> Pixels8:
    colour = np.asarray(Image.fromarray(pixels).convert("RGB"))
    top, left = (max(0, (n - side) // 2) for n in colour.shape[:2])
    return colour[top : top + side, left : left + side]


def _find_webp_quality(pixels: Pixels8, quantiser: float) -> int:
    """The quality at which Pillow writes this quantiser, which falls with it."""
    low, high = 0, 100
    while low < high:
        middle = (low + high) // 2
        written = webp_quantiser(encode_as("WEBP", pixels, middle))
        if written is not None and written > quantiser:
            low = middle + 1
        else:
            high = middle
    return low


@functools.cache
def _find_avif_quality(quantiser: int) -> int:
    """The same of AVIF, where it does not hang on the picture."""

    def distance(quality: int) -> int:
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16), (90, 120, 150)).save(buffer, "AVIF", quality=quality, speed=10)
        written = avif_quantiser(buffer.getvalue())
        return 256 if written is None else abs(written - quantiser)

    return min(range(101), key=distance)


def read_recompressions(folder: Path, say: Say = lambda _line: None) -> list[Recompression]:
    """How each file of a folder was compressed; a line for each that says nothing of it.

    Raises TrainingDataError if none does.
    """
    found = []
    for file in ImageFolder(folder).files():
        try:
            recompression = Recompression.of(read_bytes(file)[0], str(file))
        except BadImageError as error:
            say(f"{error}; left out")
            continue
        if recompression is None:
            say(f"{file}: is no lossy JPEG, WebP or AVIF; left out")
        else:
            found.append(recompression)
    if not found:
        raise TrainingDataError(f"{folder}: holds no lossy JPEG, WebP or AVIF, whose compression could be imitated")
    return found


@dataclass(frozen=True, slots=True)
class Redegradation:
    """Fine-tuning on re-degraded pairs.

    Attributes:
        steps, batch, patch: optimizer steps, pairs in each, and their side in pixels.
        jpeg_share: of the pairs, compressed as the model was trained, so that it does not unlearn JPEGs.
        max_source_loss_db: stop when JPEGs of held-out pictures lose more than this on average, told or not what
            their files state, and keep the last checkpoint before.
        checkpoint_every: steps; validation happens there, too.
    """

    steps: int = 500
    batch: int = 16
    patch: int = 96
    learning_rate: LearningRate = field(default_factory=lambda: LearningRate(1e-3, warmup_steps=20, cosine=True))
    jpeg_share: float = 0.5
    gradient_clip: float = 1.0
    max_source_loss_db: float = 0.1
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        require_at_least(self, 1, "steps", "batch", "patch", "checkpoint_every")
        require_at_least(self, 0, "max_source_loss_db")
        if not 0 <= self.jpeg_share <= 1:
            raise ValueError(f"jpeg_share is a share, 0 to 1, got {self.jpeg_share}")
        if not self.gradient_clip > 0:
            raise ValueError(f"gradient_clip must be greater than 0, got {self.gradient_clip}")


def configure_redegradation(
    settings: Sequence[str], *, steps: int | None = None, max_source_loss_db: float
) -> Redegradation:
    """The defaults with what a command line asks for.

    Args:
        settings: further fields, each ``FIELD=VALUE``: see ``apply_settings``.
        steps: the default's, if None.

    Raises:
        SettingError: there is no such field, it takes no such value, or it is an option of its own.
    """
    for setting in settings:
        if setting.partition("=")[0] in ("steps", "max_source_loss_db"):
            raise SettingError(f"{setting}: is an option of its own, --steps or --max-loss")
    default = Redegradation(max_source_loss_db=max_source_loss_db)
    return apply_settings(default if steps is None else replace(default, steps=steps), settings)


@dataclass(frozen=True, slots=True)
class RedegradationReport:
    """What was done, in JSON beside the model.

    Attributes:
        model: the file that was written.
        start, start_hash: the model that was adapted, as it was named, and what it computes.
        pairs: from "clean" pictures, or from the target's own, "halved".
        target: how many files of each codec, and the range of their qualities.
        images: the manifest of what pairs are made from, and of the target.
        target_gain_db_before, target_gain_db_after: mean gain over the decoded picture on held-out pictures that were
            compressed as the target was. Of the weights that are adapted, whatever others the model has.
        source_psnr_db_before, source_psnr_db_after: mean on held-out pictures as JPEGs, of the same weights.
        steps: that the written weights have behind them; ``stopped_at_step``: where JPEGs lost too much, or None.
        notes: what a user should know.
    """

    model: str
    start: str
    start_hash: str
    seed: int
    pairs: Literal["clean", "halved"]
    config: dict[str, Any]
    unjpeg: str
    commit: str | None
    machine: dict[str, object]
    target: dict[str, dict[str, int]]
    images: dict[str, Any]
    target_gain_db_before: float
    target_gain_db_after: float
    source_psnr_db_before: float
    source_psnr_db_after: float
    steps: int
    stopped_at_step: int | None
    notes: tuple[str, ...]


def redegrade_model(
    model: str,
    target: Path,
    source: Sequence[str],
    out: Path,
    *,
    config: Redegradation | None = None,
    seed: int = 0,
    accelerator: str = "auto",
    precision: str = "auto",
    say: Say = lambda _line: None,
) -> RedegradationReport:
    """Adapt a model, write ``out/adapted.unjpeg`` and ``out/report.json``; goes on from what ``out`` holds.

    Args:
        model: a shipped model's name or a model file's path. Weights of its own for strong compression stay as they
            are, and are left out where the target has such.
        target: a folder of compressed pictures, to any depth, or a data set's name.
        source: folders of clean pictures, each ``DIR`` or ``DIR=WEIGHT``. None: the target's own, halved, which are
            kept in ``out/halved``.
        say: takes the lines for the user.

    Raises:
        ModelError: there is no such model.
        OutputError: nothing can be written to ``out``.
        TrainingError: a folder is missing, too small, or given twice; ``out`` is of another adaptation; or JPEGs lost
            too much from the first step on.
    """
    config = config or Redegradation()
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        say(line)

    folders = AdaptationFolders.open(target, source, out)
    file = ModelFile.read(model)
    recompressions = read_recompressions(folders.target, note)
    pairs: Literal["clean", "halved"] = "clean" if source else "halved"
    if not source:
        source = [str(_halve(folders.target, out / "halved", 2 * (config.patch + 2 * MARGIN)))]
    fabric = make_fabric(accelerator=accelerator, devices=1, precision=precision)
    images = open_images(source, VALIDATION_FRACTION)
    if not images.held_out:
        note("there is no picture to spare: what watches over the training is also trained on; give more pictures")
    identity = describe_training(seed, redegradation=config, pairs=pairs, start=file.hash)
    manifest = images.manifest | {
        "target": folders.target.name,
        "target_files": len(recompressions),
        "target_sha256": checksum([np.frombuffer(repr(recompressions).encode(), np.uint8)]),
    }
    dagn = load_exported(file).to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    trained = _Training(dagn, file, images, recompressions, config, seed)
    checkpoint = trained.run(fabric, folders.checkpoint, identity, manifest)
    metrics = checkpoint.metrics
    stopped = metrics.get("stopped_at_step")
    if stopped is not None and checkpoint.step == 0:
        raise TrainingError(
            f"{model}: JPEGs lost more than {config.max_source_loss_db} dB within {stopped:.0f} steps; no model was "
            f"written; give another --out and more pictures, or a lower rate (--set learning_rate.peak=1e-4)"
        )
    if stopped is not None:
        note(
            f"stopped at step {stopped:.0f}: JPEGs had lost more than {config.max_source_loss_db} dB; the weights of "
            f"step {checkpoint.step} were kept"
        )
    if file.restore_int8 is not None:
        note("the adapted model has no int8 graph; python -m unjpeg.train.int8 makes one")
    before = file.description.training
    adapted = export_network(
        # As in any other export, so that equal guides are equal bytes.
        dagn.cpu().to(memory_format=torch.contiguous_format),
        folders.model,
        name=f"{file.description.name}-adapted",
        guide_window=file.description.guide_window,
        guide_windows=file.description.guide_windows,
        quality_features=file.quality_features,  # of the frozen encoder
        calibration=file.calibration,
        training={**before, "redegradation": identity, "redegradation_images": manifest},
        validation={name: value for name, value in metrics.items() if name.startswith(("psnr_db", "gain_db"))},
    )
    if file.strong:
        up_to = file.description.strong_up_to
        if min(each.seen_quality or each.quality for each in recompressions) <= up_to:
            note("the target is compressed as strongly as what has weights of its own; the adapted ones restore all")
        elif adapted.guide != file.guide:
            note("weights of their own for strong compression are left out: they go with another guide")
        else:
            adapted.with_strong(file.strong.without_integers(), up_to).write(folders.model)
    report = RedegradationReport(
        model=str(folders.model),
        start=model,
        start_hash=file.hash,
        seed=seed,
        pairs=pairs,
        config=asdict(config),
        unjpeg=__version__,
        commit=source_commit(),
        machine=machine(),
        target=_count(recompressions),
        images=manifest,
        target_gain_db_before=metrics["start_gain_db_target"],
        target_gain_db_after=metrics["gain_db_target"],
        source_psnr_db_before=metrics["start_psnr_db"],
        source_psnr_db_after=metrics["psnr_db"],
        steps=checkpoint.step,
        stopped_at_step=None if stopped is None else int(stopped),
        notes=tuple(notes),
    )
    put_json(folders.report, asdict(report))
    say(
        f"like the target: {report.target_gain_db_before:+.2f} dB over the decoder before, "
        f"{report.target_gain_db_after:+.2f} after; JPEGs: {report.source_psnr_db_before:.2f} dB before, "
        f"{report.source_psnr_db_after:.2f} after; wrote {folders.model}"
    )
    return report


class _Training:
    """The network, its pairs, and what watches over them."""

    def __init__(
        self,
        network: Dagn,
        file: ModelFile,
        images: TrainingImages,
        recompressions: Sequence[Recompression],
        config: Redegradation,
        seed: int,
    ) -> None:
        self._network, self._config, self._seed = network, config, seed
        self._recompressions = recompressions
        self._levels = np.array(file.description.quality_levels, np.float64)
        self._features = file.quality_features
        self._patches = PairedPatches(
            images.training,
            images.weights,
            patch=config.patch + 2 * MARGIN,
            degradation=trained_degradation(file),
            seed=seed + 1,
        )
        self._crops = images.cut_validation_crops(VALIDATION_SIDE, 16)
        rng = np.random.default_rng(seed)
        drawn = [recompressions[int(rng.integers(len(recompressions)))] for _ in self._crops]
        self._like_target = [
            Degraded(one.apply(crop), crop, one.quality, False, one.stated)
            for one, crop in zip(drawn, self._crops, strict=True)
        ]

    def run(self, fabric: Fabric, path: Path, identity: dict[str, Any], manifest: dict[str, Any]) -> Checkpoint:
        """Train, or go on; the network holds the weights of the checkpoint that is returned."""
        config, network, device = self._config, self._network, fabric.device
        resumed = find_resume_point(path, identity, manifest)
        if resumed:
            network.load_state_dict(select(resumed.tensors, "model"))
            if "stopped_at_step" in resumed.metrics or resumed.step == config.steps:
                return resumed
        named = {name: p for name, p in network.named_parameters() if p.requires_grad}
        own = make_optimizers(named, "muon", adam_only=("head", "stated", "tail"), slow=GUIDANCE)
        load_optimizers(own, resumed)
        model, *optimizers = fabric.setup(network, *(optimizer for optimizer, _ in own.values()))
        metrics = dict(resumed.metrics) if resumed else self._validate(device)
        if not resumed:
            metrics |= {f"start_{name}": value for name, value in metrics.items()}
        starts = {name: value for name, value in metrics.items() if name.startswith("start_")}

        def save(step: int) -> Checkpoint:
            checkpoint = Checkpoint(collect_tensors({"model": network}, own), step, identity, manifest, metrics)
            checkpoint.save(path)
            return checkpoint

        first = resumed.step if resumed else 0
        checkpoint = resumed or save(0)  # so that there always is a last good one
        log = RunLog(fabric, path.with_suffix(".tensorboard"), path.stem)
        for step in log.steps(first, config.steps):
            set_learning_rate(optimizers, config.learning_rate.at(step, config.steps))
            model.train()
            shown, guidance, original = self._draw(step, device)
            loss = patch_rms_loss(model(shown, guidance), original)
            fabric.backward(loss)
            torch.nn.utils.clip_grad_norm_(named.values(), config.gradient_clip)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            done = step + 1
            if done % config.checkpoint_every == 0 or done == config.steps:
                found = self._validate(device)
                log.scalars(done, {"loss": loss.item()} | found, line=True)
                lost = [starts[f"start_{name}"] - found[name] for name in ("psnr_db", "psnr_db_blind")]
                if not all(one <= config.max_source_loss_db for one in lost):  # also true of not-a-number
                    checkpoint.metrics["stopped_at_step"] = float(done)
                    checkpoint.save(path)
                    network.load_state_dict(select(checkpoint.tensors, "model"))
                    break
                metrics = found | starts
                checkpoint = save(done)
        log.close()
        return checkpoint

    def _draw(self, step: int, device: torch.device) -> tuple[Tensor, GuidanceTensors, Tensor]:
        """The step's compressed patches, their guidance, and their originals; ``(N, 3, patch, patch)``, range 0..1."""
        config, inner = self._config, slice(MARGIN, -MARGIN)
        compressed, original, stated, seen = [], [], [], []
        for number in range(step * config.batch, (step + 1) * config.batch):
            pair, rng = self._patches[number], np.random.default_rng((self._seed, number, 2))
            pixels, told, quality = pair.compressed, pair.stated, None
            if rng.random() >= config.jpeg_share:
                one = self._recompressions[int(rng.integers(len(self._recompressions)))]
                pixels, told, quality = one.apply(np.ascontiguousarray(pair.original)), one.stated, one.seen_quality
            compressed.append(pixels[inner, inner])
            original.append(pair.original[inner, inner])
            stated.append(told if self._network.config.stated else np.zeros(STATED_FEATURES, np.float32))
            seen.append(quality)
        shown, truth = (
            to_unit_range(torch.from_numpy(np.stack(stack)).permute(0, 3, 1, 2).to(device))
            for stack in (compressed, original)
        )
        guidance = self._network.guide(shown, torch.from_numpy(np.stack(stated)).to(device))
        return shown, self._show(guidance, seen), truth

    def _show(self, guidance: GuidanceTensors, seen: Sequence[int | None]) -> GuidanceTensors:
        """With the mean features of the qualities that are to be seen, as ``network.Model.shifted`` shows them."""
        sensitive = guidance.sensitive.clone()
        for row, quality in enumerate(seen):
            if quality is not None:
                mean = [np.interp(quality, self._levels, column) for column in self._features.T]
                sensitive[row] = torch.tensor(np.array(mean, np.float32), device=sensitive.device)
        return guidance._replace(sensitive=sensitive)

    def _validate(self, device: torch.device) -> dict[str, float]:
        told = measure_psnr_db(self._network, self._crops, device)
        blind = measure_psnr_db(self._network, self._crops, device, blind=True)
        gains = measure_gain_db(self._network, self._like_target, device, "target")
        means = {"psnr_db": float(np.mean(list(told.values()))), "psnr_db_blind": float(np.mean(list(blind.values())))}
        return told | means | {"gain_db_target": gains["gain_db_target"]}


def _halve(target: Path, folder: Path, least: int) -> Path:
    """Every readable picture of the target at half its size, as PNG. Raises TrainingDataError if there are too few."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for number, file in enumerate(ImageFolder(target).files()):
        half = folder / f"{number:05d}-{file.name}.png"
        try:
            pixels = read_colours(file).pixels
        except BadImageError:
            continue  # has been said
        height, width = pixels.shape[:2]
        if min(height, width) < least:
            continue
        count += 1
        if not half.exists():
            small = Image.fromarray(pixels).resize((width // 2, height // 2), Image.Resampling.BOX)
            with place_file(half, overwrite=True) as stream:
                small.save(stream, "PNG")
    if count < FEWEST_HALVED:
        raise TrainingDataError(
            f"{target}: {count} pictures of {least} pixels or more are too few to be their own originals; give "
            f"{FEWEST_HALVED} or more, or clean pictures with --source"
        )
    return folder


def _count(recompressions: Sequence[Recompression]) -> dict[str, dict[str, int]]:
    counts = Counter(one.codec for one in recompressions)
    out = {}
    for codec, count in sorted(counts.items()):
        qualities = [one.quality for one in recompressions if one.codec == codec]
        out[codec.lower()] = {"files": count, "least_quality": min(qualities), "most_quality": max(qualities)}
    return out
