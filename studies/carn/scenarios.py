"""CARN-DA's tables, figures and probe, each one command that goes on where it was stopped.

::

    python -m studies.carn.scenarios table1 --recipe small --seed 0 --seed 1 --seed 2
    python -m studies.carn.scenarios table2 --recipe small
    python -m studies.carn.scenarios probe  --recipe small
    python -m studies.carn.scenarios figures --recipe small

Networks are trained below ``--work`` when they are needed, figures go to ``results/carn-RECIPE-*.json``, from which
``python -m studies.documents.tables`` makes the tables of ``docs/research/carn-da.md``. Seeds may come one by one: a
table's file keeps what it has, each figure with the commit that measured it.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
import typer
from lightning.fabric import Fabric
from PIL import Image

from studies.carn.recipes import (
    CARN_RECIPES,
    CarnPictures,
    CarnRecipe,
    RedegradedPairs,
    Scenarios,
    find_carn_recipe,
    find_precision,
)
from unjpeg.adapt.carn import describe_training, restore_pixels
from unjpeg.adapt.domains import Cutting, TargetDomain, checksum, compress_all
from unjpeg.adapt.probe import measure_domain_accuracy
from unjpeg.console import run_safely
from unjpeg.datasets import ImageFolder
from unjpeg.errors import TrainingDataError, TrainingError
from unjpeg.evaluate.metrics import psnr_b_db, psnr_db, ssim
from unjpeg.evaluate.pairs import Pixels8, load_images
from unjpeg.evaluate.results import describe_origin, put_results
from unjpeg.evaluate.sheets import draw_crops, draw_residuals
from unjpeg.files import place_file
from unjpeg.models import Backbone, make_backbone
from unjpeg.models.quality_discriminator import DiscriminatorInput
from unjpeg.train.config import apply_settings
from unjpeg.train.degrade import compress_jpeg
from unjpeg.train.pipeline import make_fabric, open_images

__all__ = ["TARGET_SHARES", "app", "open_pictures", "table1", "table2"]

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

TRAINING_FOLDERS = ("photos", "cid22", "clic2025")
TEST_SETS = ("bsd68", "set12")
TARGET_SHARES = (1, 4, 8)
"""Table 2's 100, 400 and 800 target pictures, in eighths of the training pictures; the source's 400 are four."""

RecipeOption = Annotated[str, typer.Option(help=f"One of {', '.join(CARN_RECIPES)}.")]
SettingsOption = Annotated[
    list[str],
    typer.Option("--set", metavar="FIELD=VALUE", help="Change the recipe (with another --out): adaptation.ramp=true"),
]
DataOption = Annotated[Path, typer.Option(help="Folder with train/ and test/<set>.")]
TrainOption = Annotated[list[str], typer.Option("--train", metavar="DIR", help="Training pictures. [--data's]")]
ValidationOption = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Held-out pictures, DIV2K's for instance. [a share of the training pictures]"),
]
WorkOption = Annotated[Path, typer.Option(help="Folder of the trainings.")]
OutOption = Annotated[Path, typer.Option(help="Folder of the result files.")]
SeedOption = Annotated[list[int], typer.Option("--seed", min=0, help="One or several seeds.")]
AcceleratorOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
PrecisionOption = Annotated[Literal["32-true", "bf16-mixed"], typer.Option(help="Of the trainings.")]

DATA = Path(os.environ.get("UNJPEG_DATA", "../shared/data"))
WORK, OUT = Path("runs/carn"), Path("results")


@dataclass(frozen=True, slots=True)
class _Session:
    """What every command opens first.

    Attributes:
        tests: the test sets' pictures, with their names.
        origin: of the code that is loaded: it may change while this runs.
    """

    recipe: CarnRecipe
    pictures: CarnPictures
    tests: dict[str, list[tuple[str, Pixels8]]]
    work: Path
    fabric: Fabric
    origin: dict[str, Any]

    @classmethod
    def open(
        cls,
        recipe: str,
        settings: Sequence[str],
        data: Path,
        train: Sequence[str],
        validation: str | None,
        work: Path,
        *,
        accelerator: str,
        precision: str,
    ) -> _Session:
        origin = describe_origin()
        chosen = apply_settings(find_carn_recipe(recipe), settings)
        fabric = make_fabric(accelerator=accelerator, devices=1, precision=precision)
        folders = train or [str(data / "train" / name) for name in TRAINING_FOLDERS]
        pictures = open_pictures(chosen, folders, validation)
        tests = {"validation": [(f"{i}", picture) for i, picture in enumerate(pictures.held_out)]}
        for name in TEST_SETS:
            tests[name] = [(file, _convert_to_grey(pixels)) for file, pixels in load_images(data / "test" / name)]
        return cls(chosen, pictures, tests, work, fabric, origin)

    def open_scenarios(self, seed: int) -> Scenarios:
        return Scenarios(self.fabric, self.recipe, self.pictures, seed, self.work)


def open_pictures(recipe: CarnRecipe, folders: Sequence[str], validation: str | None = None) -> CarnPictures:
    """Grey, divided, split.

    Args:
        validation: a folder or a data set to hold out; all of ``folders`` is trained on then.

    Raises TrainingDataError.
    """
    if validation is None:
        return CarnPictures.prepare(open_images(folders, recipe.validation_fraction), recipe)
    held_out = {file.resolve() for file in ImageFolder.parse(validation).files()}
    for folder in folders:
        both = sorted(held_out.intersection(file.resolve() for file in ImageFolder.parse(folder).files()))
        if both:
            raise TrainingDataError(f"{both[0]}: is among the training pictures of {folder}, too; hold out others")
    return CarnPictures.prepare(open_images(folders, 0), recipe, open_images([validation], 0).training)


@app.command()
def table1(
    recipe: RecipeOption = "small",
    seed: SeedOption = [0, 1, 2],  # noqa: B006
    bound: Annotated[
        bool, typer.Option("--bound", help="Also what F could do if it were shown the target's originals, D as it is.")
    ] = False,
    redegraded: Annotated[
        bool, typer.Option("--redegraded", help="Also networks trained further on pairs compressed as the target is.")
    ] = False,
    settings: SettingsOption = [],  # noqa: B006
    data: DataOption = DATA,
    train: TrainOption = [],  # noqa: B006
    validation: ValidationOption = None,
    work: WorkOption = WORK,
    out: OutOption = OUT,
    accelerator: AcceleratorOption = "auto",
    precision: PrecisionOption = "32-true",
) -> None:
    """Table 1: JPEG, SQ, DQ, BQ and ours on each test set, at both qualities; ours at its source's quality, too."""
    session = _Session.open(
        recipe, settings, data, train, validation, work, accelerator=accelerator, precision=precision
    )
    low, high = session.recipe.low, session.recipe.high
    results = _Results.open(out / f"carn-{session.recipe.name}-table1.json", session)
    for quality in (low, high):
        results.measure("JPEG", None, quality, None)
    for one in seed:
        scenarios = session.open_scenarios(one)
        for test, other in ((low, high), (high, low)):
            results.measure("SQ", one, test, partial(scenarios.single, test))
            results.measure("DQ", one, test, partial(scenarios.single, other))
            results.measure("BQ", one, test, scenarios.both)
            results.measure("ours", one, test, partial(scenarios.adapted, other, test))
            results.measure("ours, at its source's quality", one, test, partial(scenarios.adapted, test, other))
            if bound:
                results.measure("bound", one, test, partial(scenarios.bound, other, test))
            for pairs in get_args(RedegradedPairs) if redegraded else ():
                results.measure(f"re-degraded, {pairs}", one, test, partial(scenarios.redegraded, other, test, pairs))


@app.command()
def table2(
    recipe: RecipeOption = "small",
    seed: SeedOption = [0],  # noqa: B006
    settings: SettingsOption = [],  # noqa: B006
    data: DataOption = DATA,
    train: TrainOption = [],  # noqa: B006
    validation: ValidationOption = None,
    work: WorkOption = WORK,
    out: OutOption = OUT,
    accelerator: AcceleratorOption = "auto",
    precision: PrecisionOption = "32-true",
) -> None:
    """Table 2: BQ and ours with few and many pictures of the test's quality beside a fixed number of the other's."""
    session = _Session.open(
        recipe, settings, data, train, validation, work, accelerator=accelerator, precision=precision
    )
    low, high = session.recipe.low, session.recipe.high
    results = _Results.open(out / f"carn-{session.recipe.name}-table2.json", session)
    everything = session.pictures.training
    unit = len(everything) // 8
    fixed = everything[len(everything) - 4 * unit :]
    for quality in (low, high):
        results.measure("JPEG", None, quality, None)
    for one in seed:
        scenarios = session.open_scenarios(one)
        for test, other in ((low, high), (high, low)):
            for share in TARGET_SHARES:
                some = everything[: share * unit]
                counts = {"pictures": len(some), "fixed": len(fixed)}
                both = partial(scenarios.trained, {other: fixed, test: some})
                results.measure("BQ", one, test, both, **counts)
                adapted = partial(scenarios.adapted, other, test, fixed, some)
                results.measure("ours", one, test, adapted, **counts)


@app.command()
def probe(
    recipe: RecipeOption = "small",
    seed: SeedOption = [0],  # noqa: B006
    trained: Annotated[bool, typer.Option("--trained", help="Also ask the trained and the adapted networks.")] = False,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the probe's discriminator.")] = 300,
    settings: SettingsOption = [],  # noqa: B006
    data: DataOption = DATA,
    train: TrainOption = [],  # noqa: B006
    validation: ValidationOption = None,
    work: WorkOption = WORK,
    out: OutOption = OUT,
    accelerator: AcceleratorOption = "auto",
    precision: PrecisionOption = "32-true",
) -> None:
    """Ask whether the discriminator's input tells the qualities apart, on pictures that it was not trained on.

    The held-out pictures are the same at both qualities, so that what they show is no help.
    """
    session = _Session.open(
        recipe, settings, data, train, validation, work, accelerator=accelerator, precision=precision
    )
    low, high = session.recipe.low, session.recipe.high
    rows = []
    for one in seed:
        for name, network in _make_probed(session, one, trained):
            network.to(session.fabric.device)
            for inputs in get_args(DiscriminatorInput):
                accuracy = measure_probe_accuracy(
                    session.recipe, session.pictures, network, inputs, steps=steps, seed=one
                )
                rows.append({"seed": one, "network": name, "inputs": inputs, "accuracy": accuracy})
                typer.echo(f"seed {one}, {name}, {inputs}: {accuracy:.1%} of held-out patches told right")
    record = _describe(session) | {"qualities": [low, high], "steps": steps, "rows": rows}
    put_results(out / f"carn-{session.recipe.name}-probe.json", record)


def measure_probe_accuracy(
    recipe: CarnRecipe,
    pictures: CarnPictures,
    network: Backbone,
    inputs: DiscriminatorInput,
    *,
    steps: int = 300,
    seed: int = 0,
) -> float:
    """Share of held-out patches whose quality is told from the network's features: 0.5 is chance."""
    half = len(pictures.training) // 2
    config = recipe.adaptation
    parts = {recipe.low: pictures.training[:half], recipe.high: pictures.training[half:]}
    cutting = partial(Cutting, config.batch, config.patch, config.grid)

    def domain(quality: int, originals: list[Pixels8], number: int) -> TargetDomain:
        return TargetDomain(compress_all(originals, quality), cutting(seed=number))

    training = [domain(q, originals, seed).batch for q, originals in parts.items()]
    # One seed for both: the same places of the same pictures at either quality.
    held_out = [domain(q, pictures.held_out, seed + 1).batch for q in parts]
    return measure_domain_accuracy(
        network,
        (training[0], training[1]),
        (held_out[0], held_out[1]),
        replace(config.discriminator, inputs=inputs),
        steps=steps,
        seed=seed,
    )


@app.command()
def figures(
    recipe: RecipeOption = "small",
    seed: Annotated[int, typer.Option(min=0, help="Whose networks to show.")] = 0,
    sets: Annotated[list[str], typer.Option("--test-set", help="Of each, one picture.")] = ["validation", "bsd68"],  # noqa: B006
    image: Annotated[int, typer.Option(min=0, help="Number of the picture in each set.")] = 0,
    side: Annotated[int, typer.Option(min=16, help="Side of the crop, pixels.")] = 96,
    settings: SettingsOption = [],  # noqa: B006
    data: DataOption = DATA,
    train: TrainOption = [],  # noqa: B006
    validation: ValidationOption = None,
    work: WorkOption = WORK,
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")] = Path("docs/images"),
    accelerator: AcceleratorOption = "auto",
    precision: PrecisionOption = "32-true",
) -> None:
    """Residual maps as in Fig. 1 and crops with their figures as in Figs. 3 and 4, at both qualities."""
    session = _Session.open(
        recipe, settings, data, train, validation, work, accelerator=accelerator, precision=precision
    )
    scenarios = session.open_scenarios(seed)
    low, high = session.recipe.low, session.recipe.high
    out.mkdir(parents=True, exist_ok=True)
    for test, other in ((low, high), (high, low)):
        networks = {
            "ours": scenarios.adapted(other, test),
            "SQ": scenarios.single(test),
            "DQ": scenarios.single(other),
            "BQ": scenarios.both(),
        }
        for name in sets:
            if name not in session.tests or image >= len(session.tests[name]):
                raise TrainingDataError(
                    f"no picture {image} in the set {name!r}; there are: {', '.join(session.tests)}"
                )
            original = session.tests[name][image][1]
            decoded = compress_jpeg(original, test)
            shown = {"JPEG": decoded} | {label: restore_pixels(net, decoded) for label, net in networks.items()}
            stem = f"carn-{session.recipe.name}-{name}-q{test}"
            sheets = {"crops": draw_crops(original, shown, side), "residuals": draw_residuals(original, shown)}
            for kind, sheet in sheets.items():
                with place_file(out / f"{stem}-{kind}.png", overwrite=True) as file:
                    sheet.save(file, "PNG")
            typer.echo(f"wrote {out / stem}-crops.png and -residuals.png")


def _make_probed(session: _Session, seed: int, trained: bool) -> Iterator[tuple[str, Backbone]]:
    low, high = session.recipe.low, session.recipe.high
    torch.manual_seed(seed)
    yield "untrained", make_backbone(session.recipe.backbone)
    if trained:
        scenarios = session.open_scenarios(seed)
        for one, other in ((low, high), (high, low)):
            yield f"trained at {one}", scenarios.single(one)
            yield f"trained at {one}, adapted to {other}", scenarios.adapted(one, other)


class _Results:
    """A result file that grows row by row; rows that it has are not measured again."""

    def __init__(self, path: Path, session: _Session, record: dict[str, Any]) -> None:
        self._path, self._session, self._record = path, session, record

    @classmethod
    def open(cls, path: Path, session: _Session) -> _Results:
        fresh = _describe(session) | {"rows": []}
        if path.exists():
            found = _read(path)
            found.setdefault("precision", "32-true")
            called = {"config": "recipe", "images": "pictures", "tests": "test sets", "precision": "precision"}
            changed = [key for key in called if found.get(key) != fresh[key]]
            if changed:
                which = ", ".join(called[key] for key in changed)
                raise TrainingError(f"{path}: is of another configuration ({which}); move it, or choose another --out")
            fresh["rows"] = [row | {"commit": row.get("commit", found.get("commit"))} for row in found["rows"]]
        return cls(path, session, fresh)

    def measure(
        self, method: str, seed: int | None, quality: int, train: Callable[[], Backbone] | None, **counts: int
    ) -> None:
        """A network on every test set at one quality; means over the pictures.

        Args:
            train: what gives the network, if there is anything to measure; None is the decoded JPEG.
        """
        for name, pictures in self._session.tests.items():
            row: dict[str, Any] = {"method": method, "seed": seed, "quality": quality, "set": name, **counts}
            if any(all(known.get(key) == value for key, value in row.items()) for known in self._record["rows"]):
                continue
            network = train() if train else None
            found = [_compare(original, compress_jpeg(original, quality), network) for _, original in pictures]
            psnr, psnr_b, similarity = (float(np.mean(values)) for values in zip(*found, strict=True))
            row |= {"images": len(pictures), "psnr_db": psnr, "psnr_b_db": psnr_b, "ssim": similarity}
            row["commit"] = self._record["commit"]
            self._record["rows"].append(row)
            put_results(self._path, self._record)
            which = "" if seed is None else f" seed {seed}"
            more = "".join(f", {value} {key}" for key, value in counts.items())
            typer.echo(f"QF {quality} {method}{which} on {name}{more}: {psnr:.2f} / {psnr_b:.2f} / {similarity:.3f}")


def _compare(original: Pixels8, decoded: Pixels8, network: Backbone | None) -> tuple[float, float, float]:
    restored = decoded if network is None else restore_pixels(network, decoded)
    return psnr_db(restored, original), psnr_b_db(restored, original), ssim(restored, original)


def _describe(session: _Session) -> dict[str, Any]:
    return {
        "recipe": session.recipe.name,
        "config": describe_training(0, recipe=session.recipe)["recipe"],
        "images": session.pictures.manifest,
        "tests": {
            name: {"pictures": len(pictures), "sha256": checksum([pixels for _, pixels in pictures])}
            for name, pictures in session.tests.items()
        },
        "training_pictures": len(session.pictures.training),
        "precision": find_precision(session.fabric),
        **session.origin,
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and isinstance(found.get("rows"), list):
            return found
    except ValueError:  # not JSON, or not text
        pass
    raise TrainingError(f"{path}: is not a readable result file; remove it, or choose another --out")


def _convert_to_grey(pixels: Pixels8) -> Pixels8:
    return pixels if pixels.ndim == 2 else np.asarray(Image.fromarray(pixels).convert("L"))


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="lightning")
    run_safely(app)
