"""The paper's ablation study (section IV-E): what each module (Table V) and the penalty factors (Fig. 13) are worth.

``python -m studies.dagn.ablation modules --data DIR`` trains the five networks of Table V and six that it lacks,
``... lambdas`` the five settings of Fig. 13, each for several seeds, with stage 1 shared wherever it is the same. All
have the same budget and see the same samples. Each network is exported and measured through ``Restorer.restore``, as a
user's file would be; what no model file can hold, under the same windows' guidance in torch.

All are trained first, then measured. What is finished is kept below ``--work``: after a kill the same command goes on
where it was. A study may come in pieces: ``--seed`` and ``--variant`` choose some of it, and the result file holds
whatever was measured so far in the same way. Pictures' own figures stay below ``--work``, in each network's
``measured.json``: the result file has their means, and the commit that measured each.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from lightning.fabric import Fabric
from matplotlib.figure import Figure

from studies.dagn.windowed import WindowedDagn
from studies.printed import compute_ablation_gains
from unjpeg.console import run_safely
from unjpeg.errors import BadImageError, OtherTrainingError, SettingError
from unjpeg.evaluate.benchmark import Failure, Row, measure
from unjpeg.evaluate.method import Method
from unjpeg.evaluate.methods import Decoder, UnjpegModel
from unjpeg.evaluate.pairs import Degradation, TestSet
from unjpeg.evaluate.results import describe_origin, group, load_results, put_results
from unjpeg.evaluate.statistics import Interval, estimate_mean
from unjpeg.files import place_file
from unjpeg.train.checkpoint import Checkpoint
from unjpeg.train.config import SEEDS, Recipe, complete_config, describe_recipe
from unjpeg.train.dagn import cut_validation_crops, train_dagn
from unjpeg.train.encoders import select_encoders, train_encoders
from unjpeg.train.export import cut_window_crops, export_checkpoint, load_network
from unjpeg.train.pipeline import make_recipe, new_fabric, open_images
from unjpeg.train.run import TrainingImages

__all__ = [
    "LAMBDAS",
    "MODULES",
    "Gain",
    "Piece",
    "Precision",
    "Scope",
    "Study",
    "Variant",
    "estimate_gain",
    "find_measured",
    "main",
    "measure_variant",
    "plan_variants",
    "plot_lambdas",
    "train_variant",
]

METRICS = ("psnr_db", "ssim", "psnr_b_db")

MEASURED = "measured.json"

DECIMALS = 6
"""Of stored gains: more than anybody prints."""

_SWITCHES = ("insensitive_guidance", "sensitive_guidance", "fusion")
_PUBLISHED = {"fusion_kind": "product", "insensitive_features": "mean"}
_OFF: dict[str, Any] = _PUBLISHED | dict.fromkeys(_SWITCHES, False)
_ON: dict[str, Any] = _PUBLISHED | dict.fromkeys(_SWITCHES, True)

MODULES: dict[str, dict[str, Any]] = {
    "base": _OFF,
    "CIGM": _OFF | {"insensitive_guidance": True},
    "CSGM": _OFF | {"sensitive_guidance": True},
    "CFM": _OFF | {"fusion": True},
    "all": _ON,
    "all minus CFM": _ON | {"fusion": False},
    "told": _OFF | {"stated": True},
    "told and all": _ON | {"stated": True},
    "base as printed": _OFF | {"off": "printed"},
    "CFM with softmax": _OFF | {"fusion": True, "fusion_kind": "softmax"},
    "CIGM by maps": _OFF | {"insensitive_guidance": True, "insensitive_features": "map"},
}
"""Table V's five networks, and six that it lacks, by what they change of the recipe's network.

A guidance that is off is scale 1, shift 0; "as printed" reads "(O, J)" to the letter. "Told" is what the file states.
The last two are what might make a module worth something: see ``DagnConfig``.
"""

LAMBDAS = {
    "1 1": (1.0, 1.0),
    "0.1 1": (0.1, 1.0),
    "10 1": (10.0, 1.0),
    "1 0.1": (1.0, 0.1),
    "1 10": (1.0, 10.0),
}
"""Fig. 13's settings: lambda_ci of Eq. 3 and lambda_cs of Eq. 7, each varied while the other is 1."""


Study = Literal["modules", "lambdas"]
"""Table V or Fig. 13."""

Precision = Literal["32-true", "bf16-mixed"]


@dataclass(frozen=True, slots=True)
class Variant:
    """One training of a study.

    Attributes:
        stage1, stage2: the folders of its two stages; variants with the same ``stage1`` share it.
    """

    name: str
    recipe: Recipe
    stage1: Path
    stage2: Path


@dataclass(frozen=True, slots=True)
class Scope:
    """What every variant is measured on.

    Attributes:
        sets: the test sets, no two of one name.
        qualities: of their JPEGs, 1..100.
        limit: only the first pictures of each set; ``None`` takes all.
        checksums: of each set's pictures, with their names, by the set's name.
    """

    sets: tuple[TestSet, ...]
    qualities: tuple[int, ...]
    limit: int | None
    checksums: dict[str, str]

    @classmethod
    def open(cls, tests: Sequence[str], qualities: Sequence[int], limit: int | None = None) -> Scope:
        """Read every picture once, so that a study does not fail on one after its trainings.

        Args:
            tests: data sets' names, or folders.

        Raises:
            SettingError: two sets have one name, or pictures are given that are compressed already.
            TrainingDataError: a set is not there, or empty.
            BadImageError: a picture cannot be read.
        """
        sets = tuple(TestSet.parse(text) for text in tests)
        checksums: dict[str, str] = {}
        for text, test_set in zip(tests, sets, strict=True):
            if test_set.given is not None:
                raise SettingError(f"{text}: give a set or a folder of originals; they are compressed here")
            if test_set.name in checksums:
                raise SettingError(f"{text}: another test set is called {test_set.name}, too; rename the folder")
            digest = hashlib.sha256()
            for subject in test_set.list_subjects((), limit):
                digest.update(f"{subject.name}\0{subject.checksum}\n".encode())
            checksums[test_set.name] = digest.hexdigest()
        return cls(sets, tuple(dict.fromkeys(qualities)), limit, checksums)


@dataclass(frozen=True, slots=True)
class Piece:
    """How some variants of a study are trained and measured. What differs in it is never put together.

    Attributes:
        images: what is trained on.
        precision: of the trainings.
        devices: processes, whose batch norms see a share of the batch each.
        commit: of the code that is loaded: it may change while this runs.
    """

    images: TrainingImages
    scope: Scope
    precision: Precision
    devices: int
    commit: str | None

    def describe(self, variant: Variant) -> dict[str, Any]:
        """All that a variant's figures hang on, but for the weights that it has learned."""
        return {
            "pictures": self.scope.checksums,
            "qualities": list(self.scope.qualities),
            "recipe": describe_recipe(variant.recipe, "seed", "network", "encoders", "dagn"),
            "training_images": self.images.manifest,
            "precision": self.precision,
            "devices": self.devices,
        }


@dataclass(frozen=True, slots=True)
class Gain(Interval):
    """How much better a variant is than the base, over the same pictures and all seeds that it was trained with.

    Attributes:
        seed_deviation: standard deviation of the seeds' means; ``None`` for a single seed.
        seeds: how many there are.
    """

    seed_deviation: float | None
    seeds: int


def plan_variants(
    study: Study, recipe: Recipe, seeds: Sequence[int], work: Path, names: Sequence[str] = ()
) -> list[Variant]:
    """Trainings of a study, all of a seed together.

    Args:
        names: of the variants beside the study's first, which all are compared with; none stand for all.

    Raises SettingError if there is no such variant, or the recipe has none.
    """
    known = _list_variants(study)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SettingError(f"no variant {unknown[0]!r}; there are: {', '.join(known)}")
    if study == "modules" and recipe.dagn.guidance == "picture":
        raise SettingError(
            f'{recipe.name}: Table V has networks with fusion, which dagn.guidance "picture" knows none of; '
            "add --set dagn.guidance=patch"
        )
    wanted = {next(iter(known)), *(names or known)}
    return [_make_variant(study, recipe, seed, work, name) for seed in seeds for name in known if name in wanted]


def _list_variants(study: Study) -> Mapping[str, Any]:
    return MODULES if study == "modules" else LAMBDAS


def _make_variant(study: Study, recipe: Recipe, seed: int, work: Path, name: str) -> Variant:
    """Raises SettingError if it does not go with the recipe."""
    folder = work / f"seed-{seed}"
    try:
        seeded = replace(recipe, seed=seed)
        if study == "modules":
            network = replace(recipe.network, **MODULES[name])
            own = folder / name.replace(" ", "-")
            return Variant(name, replace(seeded, network=network), folder, own)
        insensitive, sensitive = LAMBDAS[name]
        encoders = replace(recipe.encoders, lambda_insensitive=insensitive, lambda_sensitive=sensitive)
        own = folder / f"lambda-{name.replace(' ', '-')}"
        return Variant(name, replace(seeded, encoders=encoders), own, own)
    except ValueError as error:
        raise SettingError(f"{recipe.name} has no variant {name!r}: {error}") from error


def train_variant(fabric: Fabric, variant: Variant, images: TrainingImages, *, workers: int = 1) -> Path:
    """Both stages of one variant, or what an earlier run has left of them. Returns stage 2's checkpoint.

    Raises OtherTrainingError if its folders belong to another study.
    """
    stage1 = train_encoders(fabric, variant.recipe, images, variant.stage1, workers=workers)
    weights = select_encoders(Checkpoint.load(stage1))
    return train_dagn(fabric, variant.recipe, images, weights, variant.stage2, workers=workers)


def measure_variant(variant: Variant, trained: Path, piece: Piece) -> list[dict[str, Any]]:
    """Measure one variant, or take what was measured of the same weights on the same pictures.

    Args:
        trained: its checkpoint.

    Returns:
        One row per test picture and quality: ``variant``, ``seed``, ``set``, ``image``, ``quality``, the restored
        picture's three metrics, the decoded JPEG's as ``jpeg_<metric>``, and the ``commit`` that measured it.
    """
    with trained.open("rb") as file:
        checkpoint_hash = hashlib.file_digest(file, "sha256").hexdigest()
    asked = piece.describe(variant)
    record = _read_measured(variant)
    if record and (record["asked"], record["checkpoint"]) == (asked, checkpoint_hash):
        stored: list[dict[str, Any]] = record["rows"]
        return stored
    methods = (Decoder(), _open_method(variant, trained, piece.images, checkpoint_hash))
    degradations = {Degradation("jpeg", quality).name: quality for quality in piece.scope.qualities}
    parsed = [*map(Degradation.parse, degradations)]
    rows = []
    for test_set in piece.scope.sets:
        good = list[Row]()
        for row in measure(test_set, parsed, methods, METRICS, limit=piece.scope.limit):
            if isinstance(row, Failure):
                raise BadImageError(str(row))
            good.append(row)
        for decoded, restored in zip(good[::2], good[1::2], strict=True):  # one after the other
            figures = {metric: round(restored.figures[metric], 5) for metric in METRICS}
            rows.append(
                {
                    "variant": variant.name,
                    "seed": variant.recipe.seed,
                    "set": test_set.name,
                    "image": restored.image,
                    "quality": degradations[restored.degradation],
                    **figures,
                    **{f"jpeg_{metric}": round(decoded.figures[metric], 5) for metric in METRICS},
                    "commit": piece.commit,
                }
            )
    put_results(variant.stage2 / MEASURED, {"asked": asked, "checkpoint": checkpoint_hash, "rows": rows})
    return rows


def _open_method(variant: Variant, trained: Path, images: TrainingImages, identity: str) -> Method:
    """The network as a user's file would run it; what no model file can hold, in torch."""
    checkpoint, window = Checkpoint.load(trained), variant.recipe.dagn.window
    if not variant.recipe.network.has_sizeless_guidance:
        return WindowedDagn(load_network(checkpoint), window, identity)
    model = variant.stage2 / "model.unjpeg"
    export_checkpoint(checkpoint, images, model, name=variant.name, guide_window=window)
    return UnjpegModel(model, "off")


def find_measured(study: Study, recipe: Recipe, work: Path, piece: Piece) -> list[dict[str, Any]]:
    """What earlier pieces have measured below ``work``, as this one would. The checkpoints may be gone."""
    rows: list[dict[str, Any]] = []
    numbers = (path.name.removeprefix("seed-") for path in work.glob("seed-*"))
    for seed in sorted(int(number) for number in numbers if number.isdecimal()):
        for name in _list_variants(study):
            try:
                variant = _make_variant(study, recipe, seed, work, name)
            except SettingError:  # nor was it ever measured
                continue
            record = _read_measured(variant)
            if record and record["asked"] == piece.describe(variant):
                rows += record["rows"]
    return rows


def _read_measured(variant: Variant) -> Mapping[str, Any] | None:
    path = variant.stage2 / MEASURED
    record: Mapping[str, Any] | None = load_results(path) if path.exists() else None
    return record


def estimate_gain(rows: Iterable[Mapping[str, Any]], variant: str, base: str) -> Gain:
    """The gain of one variant over another, over the seeds of the former.

    Args:
        rows: of one set and quality, with ``variant``, ``seed``, ``image`` and the metric as ``value``; with each seed
            of the variant the base was measured on the same pictures.
    """
    table: dict[str, dict[tuple[int, str], float]] = {variant: {}, base: {}}
    for row in rows:
        if row["variant"] in table:
            table[row["variant"]][row["seed"], row["image"]] = row["value"]
    seeds = sorted({seed for seed, _ in table[variant]})
    images = sorted({image for _, image in table[variant]})
    pairs = {(seed, image) for seed in seeds for image in images}
    of_base = {(seed, image) for seed, image in table[base] if seed in seeds}
    if not pairs or not pairs == table[variant].keys() == of_base:
        raise ValueError(f"{variant} and {base} were not measured on the same pictures")
    difference_SI = np.array(
        [[table[variant][seed, image] - table[base][seed, image] for image in images] for seed in seeds]
    )
    per_image = difference_SI.mean(axis=0)
    whole = estimate_mean(per_image.tolist())
    deviation = float(difference_SI.mean(axis=1).std(ddof=1)) if len(seeds) > 1 else None
    return Gain(whole.mean, whole.low, whole.high, deviation, len(seeds))


def summarise(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """``[set][quality][metric]``: the base's mean, the decoded JPEG's, and every other variant's gain over the base."""
    base, *others = names
    out: dict[str, Any] = {}
    for set_name, quality in dict.fromkeys((row["set"], row["quality"]) for row in rows):
        here = [row for row in rows if (row["set"], row["quality"]) == (set_name, quality)]
        figures: dict[str, Any] = {}
        for metric in METRICS:
            of_base = [row for row in here if row["variant"] == base]
            values = [{**row, "value": row[metric]} for row in here]
            figures[metric] = {
                "jpeg": float(np.mean([row[f"jpeg_{metric}"] for row in of_base])),
                "base": float(np.mean([row[metric] for row in of_base])),
                "gains": {name: _round(asdict(estimate_gain(values, name, base))) for name in others},
            }
        out.setdefault(set_name, {})[str(quality)] = figures
    return out


def _round(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, DECIMALS) if isinstance(value, float) else value for name, value in figures.items()}


def take_means(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per variant, seed, set and quality: the means over its pictures, and how many these are."""
    keys = ("set", "quality", "seed", "variant")
    out = []
    for key, of_one in group(rows, keys).items():
        (commit,) = {row["commit"] for row in of_one}
        figures = [name for metric in METRICS for name in (metric, f"jpeg_{metric}")]
        means = {name: round(float(np.mean([row[name] for row in of_one])), 5) for name in figures}
        out.append({**dict(zip(keys, key, strict=True)), "pictures": len(of_one), **means, "commit": commit})
    return out


def plot_lambdas(record: Mapping[str, Any], path: Path) -> None:
    """Fig. 13: PSNR against lambda_ci and lambda_cs, as the difference from lambda 1, one line per quality.

    All of its settings have been measured.
    """
    sets = record["summary"]
    figure = Figure(figsize=(9, 3.4 * len(sets)))
    axes = figure.subplots(len(sets), 2, squeeze=False, sharey="row")
    for row, (set_name, per_quality) in zip(axes, sets.items(), strict=True):
        for axis, (label, names) in zip(
            row, (("$\\lambda_{ci}$", ("0.1 1", "10 1")), ("$\\lambda_{cs}$", ("1 0.1", "1 10"))), strict=True
        ):
            for quality, figures in per_quality.items():
                gains = [figures["psnr_db"]["gains"][name] for name in names]
                means = [gains[0]["mean"], 0.0, gains[1]["mean"]]
                below = [gains[0]["mean"] - gains[0]["low"], 0.0, gains[1]["mean"] - gains[1]["low"]]
                above = [gains[0]["high"] - gains[0]["mean"], 0.0, gains[1]["high"] - gains[1]["mean"]]
                axis.errorbar(
                    (0.1, 1, 10), means, yerr=(below, above), marker="o", capsize=3, label=f"quality {quality}"
                )
            axis.axhline(0, color="grey", linewidth=0.8)
            axis.set_xscale("log")
            axis.set_xlabel(label)
            axis.set_title(set_name)
        row[0].set_ylabel("PSNR against $\\lambda$ = 1, dB")
        row[0].legend(fontsize="small")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    with place_file(path, overwrite=True) as file:
        figure.savefig(file, format="png", dpi=120)


def main(
    study: Annotated[Study, typer.Argument(help="Table V (modules) or Fig. 13 (lambdas).")],
    data: Annotated[list[str], typer.Option("--data", metavar="DIR[=WEIGHT]", help="Training pictures.")],
    recipe: Annotated[str, typer.Option(help="A recipe's name.")] = "small",
    settings: Annotated[list[str], typer.Option("--set", metavar="FIELD=VALUE", help="Change the recipe.")] = [],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each variant.")] = 3,
    seed: Annotated[list[int], typer.Option("--seed", min=0, help="Only with these seeds. [the first --seeds]")] = [],  # noqa: B006
    only: Annotated[
        list[str], typer.Option("--variant", metavar="NAME", help="Only these, and what they are compared with.")
    ] = [],  # noqa: B006
    test: Annotated[list[str], typer.Option("--test", help="Data sets, or folders of test pictures.")] = ["live1"],  # noqa: B006
    quality: Annotated[list[int], typer.Option(min=1, max=100, help="JPEG qualities.")] = [10, 20, 30, 40],  # noqa: B006
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pictures of each set.")] = None,
    work: Annotated[Path, typer.Option(help="Folder of checkpoints; goes on from what is there.")] = Path(
        "runs/ablation"
    ),
    out: Annotated[Path, typer.Option(help="Folder of the result file.")] = Path("results"),
    name: Annotated[str | None, typer.Option(help="What this run is called, where settings differ. [RECIPE]")] = None,
    plot: Annotated[Path, typer.Option(help="Where the plot of Fig. 13 goes.")] = Path("docs/images/lambdas.png"),
    workers: Annotated[int, typer.Option(min=0, help="Processes that compress patches.")] = 1,
    devices: Annotated[int, typer.Option(min=1, help="GPUs, or processes on the CPU, that train.")] = 1,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[Precision, typer.Option(help="Of the trainings.")] = "32-true",
) -> None:
    """Train and measure the variants of a study, and print what each is worth, beside what the paper prints."""
    origin = describe_origin()  # of the code that is loaded: it may change while this runs
    chosen = make_recipe(recipe, settings, devices)
    title = name or chosen.name
    own = work / study / (title if precision == "32-true" else f"{title}-{precision}")
    planned = plan_variants(study, chosen, seed or _count_seeds(chosen, seeds), own, only)
    fabric = new_fabric(accelerator=accelerator, devices=devices, precision=precision)
    scope = Scope.open(test, quality, limit)
    images = open_images(data, chosen.validation_fraction)
    cut_validation_crops(images, chosen)  # these two raise now what they would after hours
    cut_window_crops(images, chosen.dagn.window)
    piece = Piece(images, scope, precision, devices, origin["commit"])
    path = out / f"ablation-{study}-{title}.json"
    record: dict[str, Any] = {
        "study": study,
        "recipe": chosen.name,
        "settings": settings,
        "config": json.loads(json.dumps(asdict(chosen))),
        "devices": devices,
        "precision": precision,
        "training_images": images.manifest,
        "test_pictures": scope.checksums,
        "limit": limit,
        **origin,
    }
    known = find_measured(study, chosen, own, piece)
    _check_joins(path, record, {_identify(row) for row in known} | {(v.name, v.recipe.seed) for v in planned})
    fabric.launch()
    checkpoints = []
    for number, variant in enumerate(planned, 1):
        if fabric.is_global_zero:
            print(
                f"{number} of {len(planned)}: seed {variant.recipe.seed}, {variant.name}", file=sys.stderr, flush=True
            )
        try:
            checkpoints.append(train_variant(fabric, variant, images, workers=workers))
        except OtherTrainingError as error:
            raise OtherTrainingError(f"{error} (another --name or --work)") from error
    if not fabric.is_global_zero:
        return
    fresh = [row for pair in zip(planned, checkpoints, strict=True) for row in measure_variant(*pair, piece)]
    replaced = {_identify(row) for row in fresh}
    rows = [*fresh, *(row for row in known if _identify(row) not in replaced)]
    names = [one for one in _list_variants(study) if any(row["variant"] == one for row in rows)]
    rows.sort(key=lambda row: (row["seed"], names.index(row["variant"])))
    record |= {
        "seeds": sorted({row["seed"] for row in rows}),
        "variants": names,
        "summary": summarise(rows, names),
        "rows": take_means(rows),
    }
    put_results(path, record, ("set", "quality"))
    print(f"wrote {path}")
    for line in _format_lines(record):
        print(line)
    if study == "lambdas" and len(names) == len(LAMBDAS):
        plot_lambdas(record, plot)
        print(f"wrote {plot}")


def _count_seeds(recipe: Recipe, seeds: int) -> range:
    """From the recipe's own on. Raises SettingError."""
    if recipe.seed + seeds > SEEDS:
        raise SettingError(f"seed={recipe.seed}: there are no {seeds} seeds from there on")
    return range(recipe.seed, recipe.seed + seeds)


def _identify(row: Mapping[str, Any]) -> tuple[str, int]:
    return row["variant"], row["seed"]


def _check_joins(path: Path, record: Mapping[str, Any], measured: set[tuple[str, int]]) -> None:
    """That a result file which is there comes back whole, and what is added to it was made alike.

    Args:
        measured: variants and seeds of which the pictures' own figures are at hand, or will be.

    Raises:
        SettingError: it is of another configuration, or has figures that ``measured`` lacks.
        MeasurementError: it is not readable.
    """
    if not path.exists():
        return
    found = load_results(path)
    found = {"precision": "32-true", **found, "config": complete_config(found.get("config", {}))}
    alike = ("config", "devices", "precision", "training_images", "test_pictures", "limit")
    changed = [key for key in alike if _without_seed(found.get(key)) != _without_seed(record[key])]
    if changed:
        raise SettingError(f"{path}: is of another configuration ({', '.join(changed)}); move it, or give a --name")
    lost = sorted({_identify(row) for row in found["rows"]} - measured)
    if lost:
        raise SettingError(
            f"{path}: has figures that --work does not ({lost[0][0]}, seed {lost[0][1]}): move it, or give the --work "
            "that it was made from"
        )


def _without_seed(value: Any) -> Any:
    return {key: inner for key, inner in value.items() if key != "seed"} if isinstance(value, dict) else value


def _format_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """The base's figures, and every other variant's gains with what the paper prints for it, if it does."""
    base = record["variants"][0]
    for set_name, per_quality in record["summary"].items():
        for quality, figures in per_quality.items():
            for metric, figure in figures.items():
                printed = compute_ablation_gains(set_name, int(quality), metric) if record["study"] == "modules" else {}
                gains = [
                    f"{name} {_format_gain(value)}" + (f", printed {printed[name]:+.3f}" if name in printed else "")
                    for name, value in figure["gains"].items()
                ]
                parts = "; ".join((f"{base} {figure['base']:.3f}", *gains))
                yield f"{set_name} QF {quality} {metric:9s} {parts}"


def _format_gain(value: Mapping[str, Any]) -> str:
    seeds = "" if value["seed_deviation"] is None else f" ±{value['seed_deviation']:.3f}"
    return f"{value['mean']:+.3f}{seeds} [{value['low']:+.3f}, {value['high']:+.3f}]"


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
