"""The ablation study: the right variants, honest error bars, and a study that goes on after a kill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.fabric import Fabric
from numpy.typing import NDArray
from PIL import Image

from studies.dagn import ablation
from studies.dagn.ablation import (
    LAMBDAS,
    MODULES,
    Piece,
    Scope,
    estimate_gain,
    measure_variant,
    plan_variants,
    plot_lambdas,
    summarise,
    train_variant,
)
from studies.printed import ABLATION
from unjpeg.datasets import ImageFolder
from unjpeg.errors import OtherTrainingError, SettingError, UnjpegError
from unjpeg.evaluate.printed import TABLE_1
from unjpeg.evaluate.results import load_results, put_results
from unjpeg.train.config import Recipe
from unjpeg.train.recipes import tiny
from unjpeg.train.run import TrainingImages


def toy_recipe() -> Recipe:
    recipe = tiny()
    return replace(
        recipe,
        network=replace(recipe.network, width=4),
        encoders=replace(recipe.encoders, steps=2, batch=2, patch=32),
        dagn=replace(recipe.dagn, steps=2, batch=2, patch=32),
        validation_fraction=0.5,
    )


def rows_of(values: dict[tuple[str, int, str], float]) -> list[dict[str, Any]]:
    return [{"variant": v, "seed": s, "image": i, "value": x} for (v, s, i), x in values.items()]


def test_variants_of_table_v_share_stage_1(tmp_path: Path) -> None:
    planned = plan_variants("modules", toy_recipe(), [0, 1], tmp_path)
    assert [v.name for v in planned] == [*MODULES, *MODULES]
    assert len({v.stage1 for v in planned}) == 2
    assert len({v.stage2 for v in planned}) == 2 * len(MODULES) == 22
    for variant in planned:
        network = variant.recipe.network
        assert network == replace(toy_recipe().network, **MODULES[variant.name])
        modules = (network.insensitive_guidance, network.sensitive_guidance, network.fusion)
        printed = {"CIGM": (1, 0, 0), "CSGM": (0, 1, 0), "CFM": (0, 0, 1), "all": (1, 1, 1), "all minus CFM": (1, 1, 0)}
        name = variant.name.removeprefix("told and ").removesuffix(" with softmax").removesuffix(" by maps")
        assert modules == printed.get(name, (0, 0, 0))
        assert network.stated == variant.name.startswith("told")
        assert (network.fusion_kind == "softmax") == (variant.name == "CFM with softmax")
        assert (network.insensitive_features == "map") == (variant.name == "CIGM by maps")
        assert variant.recipe.dagn == toy_recipe().dagn
        assert variant.recipe.encoders == toy_recipe().encoders
        assert variant.stage1.name == f"seed-{variant.recipe.seed}"


def test_some_variants_are_planned_with_their_base(tmp_path: Path) -> None:
    planned = plan_variants("modules", toy_recipe(), [0, 4], tmp_path, ["told", "CFM"])
    assert [v.name for v in planned] == 2 * ["base", "CFM", "told"]
    assert [v.recipe.seed for v in planned] == 3 * [0] + 3 * [4]
    with pytest.raises(SettingError, match="no variant 'CGM'; there are: base, CIGM, CSGM"):
        plan_variants("modules", toy_recipe(), [0], tmp_path, ["CGM"])


def test_a_recipe_may_lack_a_variant(tmp_path: Path) -> None:
    recipe = toy_recipe()
    recipe = replace(recipe, network=replace(recipe.network, stem=6), dagn=replace(recipe.dagn, patch=48))
    with pytest.raises(SettingError, match=r"tiny has no variant 'CIGM by maps': .*stages of stride 6 do not divide"):
        plan_variants("modules", recipe, [0], tmp_path)
    assert len(plan_variants("modules", recipe, [0], tmp_path, ["CIGM"])) == 2


def test_variants_of_fig_13_have_their_own_stage_1(tmp_path: Path) -> None:
    planned = plan_variants("lambdas", toy_recipe(), [0], tmp_path)
    assert len({v.stage1 for v in planned}) == len(planned) == len(LAMBDAS)
    factors = {(v.recipe.encoders.lambda_insensitive, v.recipe.encoders.lambda_sensitive) for v in planned}
    assert factors == {(1, 1), (0.1, 1), (10, 1), (1, 0.1), (1, 10)}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"recipe": "default"}, 'dagn.guidance "picture" .* add --set dagn.guidance=patch'),
        ({"settings": ["seed=9223372036854775806"]}, "there are no 3 seeds from there on"),
        ({"test": ["here", "other/here"]}, "another test set is called here, too"),
        ({"test": ["here=other/here"]}, "give a set or a folder of originals"),
        ({"precision": "16-true"}, "no precision '16-true'"),
        ({"devices": 3}, "batch 8 cannot be divided over 3 processes"),
    ],
    ids=str,
)
def test_wrong_usage_is_said_before_any_training(
    tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("here", "other/here"):
        shutil.copytree(image_folder, tmp_path / folder)
    monkeypatch.setattr(ablation, "train_variant", never)
    options: dict[str, Any] = {"recipe": "tiny", "test": ["here"], "accelerator": "cpu", **changes}
    with pytest.raises(SettingError, match=says) as raised:
        ablation.main("modules", ["here"], **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("damage", ["absent", "unreadable", "small"])
def test_pictures_that_cannot_be_measured_are_said_before_any_training(
    tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    tests = tmp_path / "tests"
    settings = []
    if damage != "absent":
        shutil.copytree(image_folder, tests)
    if damage == "unreadable":
        (tests / "picture-3.png").write_bytes((tests / "picture-3.png").read_bytes()[:300])
    elif damage == "small":
        settings = ["dagn.patch=256"]
    monkeypatch.setattr(ablation, "train_variant", never)
    says = {"absent": "tests: neither", "unreadable": r"picture-3\.png", "small": "guide's window of 256 pixels"}[
        damage
    ]
    with pytest.raises(UnjpegError, match=says):
        ablation.main(
            "modules",
            [str(image_folder)],
            recipe="tiny",
            settings=settings,
            test=[str(tests)],
            accelerator="cpu",
            work=tmp_path / "work",
        )


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("came too far")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12), st.integers(1, 4), st.floats(-3, 3))
def test_gain_lies_in_its_interval(differences: list[float], seeds: int, shift: float) -> None:
    """Every seed's gains lie a tenth above the last one's."""
    values = {}
    for seed in range(seeds):
        for number, difference in enumerate(differences):
            values["base", seed, str(number)] = 30.0 + number
            values["new", seed, str(number)] = 30.0 + number + difference + shift + seed / 10
    result = estimate_gain(rows_of(values), "new", "base")
    of_images = np.array(differences) + shift + (seeds - 1) / 20
    assert result.mean == pytest.approx(of_images.mean())
    assert of_images.min() - 1e-6 <= result.low <= result.mean + 1e-6
    assert result.mean - 1e-6 <= result.high <= of_images.max() + 1e-6
    assert result.seeds == seeds
    if seeds == 1:
        assert result.seed_deviation is None
    else:
        assert result.seed_deviation == pytest.approx(np.std(np.arange(seeds) / 10, ddof=1))


def test_interval_is_as_wide_as_the_pictures_differ() -> None:
    """Of many pictures, as wide as a normal distribution of their mean has it; more seeds do not narrow it."""
    rng = np.random.default_rng(0)
    differences = rng.normal(0.3, 0.2, 300)
    for seeds in (1, 3):
        values = {("base", seed, str(image)): 30.0 for seed in range(seeds) for image in range(300)}
        values |= {("new", seed, str(i)): 30 + d for seed in range(seeds) for i, d in enumerate(differences)}
        result = estimate_gain(rows_of(values), "new", "base")
        half = 1.96 * differences.std() / 300**0.5
        assert result.high - result.mean == pytest.approx(half, rel=0.1)
        assert result.mean - result.low == pytest.approx(half, rel=0.1)


def test_gain_by_hand() -> None:
    values = {("base", seed, image): 30.0 for seed in (0, 1) for image in "ab"}
    values |= {("new", 0, "a"): 30.1, ("new", 0, "b"): 30.3, ("new", 1, "a"): 30.3, ("new", 1, "b"): 30.5}
    result = estimate_gain(rows_of(values), "new", "base")
    assert result.mean == pytest.approx(0.3)
    assert (result.low, result.high) == pytest.approx((0.2, 0.4))
    assert result.seed_deviation == pytest.approx(np.std([0.2, 0.4], ddof=1))
    with pytest.raises(ValueError, match="same pictures"):
        estimate_gain(rows_of({**values, ("new", 1, "c"): 1.0}), "new", "base")
    # Of a seed that the variant is not yet trained with, the base does not count.
    further = {**values, ("base", 2, "a"): 99.0, ("base", 2, "b"): 99.0}
    assert estimate_gain(rows_of(further), "new", "base") == result
    with pytest.raises(ValueError, match="same pictures"):
        estimate_gain(rows_of({**further, ("new", 3, "a"): 1.0, ("new", 3, "b"): 1.0}), "new", "base")
    with pytest.raises(ValueError, match="same pictures"):
        estimate_gain(rows_of(values), "newer", "base")


def test_printed_tables_agree_with_each_other() -> None:
    """Table V's last column is Table I's."""
    for name in ("live1", "bsds500"):
        for quality, printed in TABLE_1["DAGN"][name].items():
            assert tuple(figures[-1] for figures in ABLATION[name][quality].values()) == printed


def lambda_rows() -> list[dict[str, Any]]:
    metrics = {"psnr_db": 30.0, "ssim": 0.8, "psnr_b_db": 29.0}
    return [
        {"variant": name, "seed": 0, "set": "live1", "image": image, "quality": 10}
        | {metric: value + 0.1 * number for metric, value in metrics.items()}
        | {f"jpeg_{metric}": value - 1 for metric, value in metrics.items()}
        for number, name in enumerate(LAMBDAS)
        for image in "ab"
    ]


def test_summary_and_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    summary = summarise(lambda_rows(), list(LAMBDAS))
    figures = summary["live1"]["10"]["psnr_db"]
    assert (figures["jpeg"], figures["base"]) == (29, 30)
    assert {name: value["mean"] for name, value in figures["gains"].items()} == pytest.approx(
        {name: 0.1 * number for number, name in enumerate(LAMBDAS) if number}
    )
    plot_lambdas({"summary": summary}, tmp_path / "new" / "lambdas.png")
    with Image.open(tmp_path / "new" / "lambdas.png") as image:
        assert image.width > image.height


def rows_by_variant(variant: ablation.Variant, _: Path, piece: ablation.Piece) -> list[dict[str, Any]]:
    """0.1 dB for each module, a hundredth more with each seed; stored as what is measured is."""
    names = list(MODULES if variant.name in MODULES else LAMBDAS)
    figure = 30 + 0.1 * names.index(variant.name) + 0.01 * variant.recipe.seed * (variant.name != names[0])
    rows: list[dict[str, Any]] = [
        {"variant": variant.name, "seed": variant.recipe.seed, "set": test_set.name, "image": image, "quality": quality}
        | dict.fromkeys(ablation.METRICS, figure)
        | {f"jpeg_{metric}": 29.0 for metric in ablation.METRICS}
        | {"commit": piece.commit}
        for test_set in piece.scope.sets
        for image in "ab"
        for quality in piece.scope.qualities
    ]
    record = {"asked": piece.describe(variant), "checkpoint": "", "rows": rows}
    put_results(variant.stage2 / ablation.MEASURED, record)
    return rows


@pytest.mark.parametrize("name", [None, "mine"])
def test_command_prints_what_the_paper_prints_beside_it(
    tmp_path: Path,
    image_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str | None,
) -> None:
    live1 = image_folder.rename(tmp_path / "live1")
    shutil.copytree(live1, tmp_path / "own")
    monkeypatch.setattr(ablation, "train_variant", lambda *_, **__: live1)
    monkeypatch.setattr(ablation, "measure_variant", rows_by_variant)
    ablation.main(
        "modules",
        [str(live1)],
        recipe="tiny",
        settings=["validation_fraction=0.5"],
        seeds=2,
        test=[str(live1), str(tmp_path / "own")],
        quality=[10, 50, 10],
        work=tmp_path / "work",
        out=tmp_path / "results",
        name=name,
        accelerator="cpu",
        precision="32-true",
    )
    record = load_results(tmp_path / "results" / f"ablation-modules-{name or 'tiny'}.json")
    assert len(record["rows"]) == 2 * len(MODULES) * 2 * 2
    assert {row["pictures"] for row in record["rows"]} == {2}
    assert record["seeds"] == [0, 1]
    assert record["precision"] == "32-true"
    assert record["test_pictures"].keys() == {"live1", "own"}
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * 2 * 3
    seeds = "±0.007"
    assert lines[1].startswith(
        f"live1 QF 10 psnr_db   base 30.000; CIGM +0.105 {seeds} [+0.105, +0.105], printed +0.360; "
        f"CSGM +0.205 {seeds} [+0.205, +0.205], printed +0.280; "
    )
    # The paper has no figures of quality 50, and none of other pictures.
    assert [", printed " in line for line in lines[1:]] == [True] * 3 + [False] * 9


@pytest.fixture
def run_piece(tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Some of a study, nothing of which is trained; what its result file holds then, and its lines, as one record."""
    monkeypatch.setattr(ablation, "train_variant", lambda *_, **__: image_folder)
    monkeypatch.setattr(ablation, "measure_variant", rows_by_variant)

    def run(study: ablation.Study = "modules", *, commit: str = 12 * "a", **changes: Any) -> dict[str, Any]:
        monkeypatch.setattr(ablation, "describe_origin", lambda: {"commit": commit})
        options: dict[str, Any] = {
            "recipe": "tiny",
            "settings": ["validation_fraction=0.5"],
            "test": [str(image_folder)],
            "quality": [10],
            "work": tmp_path / "work",
            "out": tmp_path / "results",
            "accelerator": "cpu",
            "plot": tmp_path / "plot.png",
            **changes,
        }
        ablation.main(study, [str(image_folder)], **options)
        return load_results(tmp_path / "results" / f"ablation-{study}-tiny.json")

    return run


def find_commits(record: dict[str, Any]) -> dict[tuple[str, int], str]:
    return {(row["variant"], row["seed"]): row["commit"] for row in record["rows"]}


def test_pieces_come_together_in_one_file(run_piece: Callable[..., dict[str, Any]]) -> None:
    """Each figure with the commit that measured it, each gain over the seeds that there are."""
    first = run_piece(seed=[1], only=["CFM"], commit=12 * "a")
    assert find_commits(first) == {("base", 1): 12 * "a", ("CFM", 1): 12 * "a"}
    run_piece(seed=[0], only=["CIGM by maps"], commit=12 * "b")
    record = run_piece(seed=[0], only=["CFM"], commit=12 * "c")
    assert find_commits(record) == {
        ("base", 0): 12 * "c",  # measured again here, where nothing is kept by its weights
        ("CIGM by maps", 0): 12 * "b",
        ("CFM", 0): 12 * "c",
        ("base", 1): 12 * "a",
        ("CFM", 1): 12 * "a",
    }
    assert (record["commit"], record["seeds"], record["variants"]) == (
        12 * "c",
        [0, 1],
        ["base", "CFM", "CIGM by maps"],
    )
    gains = record["summary"]["pictures"]["10"]["psnr_db"]["gains"]
    assert {name: gain["seeds"] for name, gain in gains.items()} == {"CFM": 2, "CIGM by maps": 1}
    assert gains["CFM"]["mean"] == pytest.approx(0.305)
    assert gains["CFM"]["seed_deviation"] == pytest.approx(0.01 / 2**0.5, abs=1e-6)
    whole = run_piece(seeds=2, only=["CFM", "CIGM by maps"], commit=12 * "d")
    assert set(find_commits(whole).values()) == {12 * "d"}
    assert whole["summary"]["pictures"]["10"]["ssim"]["gains"]["CIGM by maps"]["seeds"] == 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"precision": "bf16-mixed"}, r"ablation-modules-tiny\.json: is of another configuration \(precision\)"),
        ({"settings": ["validation_fraction=0.5", "dagn.steps=3"]}, r"another configuration \(config\); move it"),
        ({"limit": 1}, r"another configuration \(test_pictures, limit\)"),
        ({"work": Path("elsewhere")}, r"has figures that --work does not \(CFM, seed 0\)"),
    ],
    ids=str,
)
def test_what_was_measured_otherwise_is_not_put_together(
    run_piece: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    changes: dict[str, Any],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    run_piece(seed=[0], only=["CFM"])
    before = (tmp_path / "results/ablation-modules-tiny.json").read_bytes()
    monkeypatch.setattr(ablation, "train_variant", never)
    with pytest.raises(SettingError, match=says):
        run_piece(seed=[0], only=["told"], **changes)
    assert (tmp_path / "results/ablation-modules-tiny.json").read_bytes() == before


def test_precisions_have_folders_of_their_own(run_piece: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """A training never goes on in another precision."""
    assert run_piece(seed=[0], only=["CFM"])["precision"] == "32-true"
    (tmp_path / "results/ablation-modules-tiny.json").unlink()
    assert run_piece(seed=[0], only=["CIGM"], precision="bf16-mixed")["precision"] == "bf16-mixed"
    assert sorted(path.name for path in (tmp_path / "work/modules").iterdir()) == ["tiny", "tiny-bf16-mixed"]


def test_fig_13_is_drawn_once_it_is_whole(run_piece: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    run_piece("lambdas", seed=[0], only=["10 1", "1 10"])
    assert not (tmp_path / "plot.png").exists()
    run_piece("lambdas", seed=[0], only=["0.1 1", "1 0.1"])
    assert (tmp_path / "plot.png").exists()


def test_another_studys_folder_is_refused_with_the_cure(
    tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*_: Any, **__: Any) -> Path:
        raise OtherTrainingError("dagn.safetensors: was made with another configuration; choose another folder")

    monkeypatch.setattr(ablation, "train_variant", other)
    with pytest.raises(OtherTrainingError, match=r"choose another folder \(another --name or --work\)$"):
        ablation.main(
            "modules", [str(image_folder)], recipe="tiny", test=[str(image_folder)], accelerator="cpu", limit=1
        )


def test_scope_knows_its_pictures(tmp_path: Path, image_folder: Path) -> None:
    copy = tmp_path / "copy" / "pictures"
    shutil.copytree(image_folder, copy)
    mine, same = (Scope.open([str(folder)], [40, 10, 40], 3) for folder in (image_folder, copy))
    assert mine.qualities == (40, 10)
    assert mine.checksums == same.checksums
    assert mine.checksums != Scope.open([str(copy)], [40], 2).checksums
    with Image.open(copy / "picture-1.png") as image:
        changed = np.array(image)
    changed[0, 0] ^= 1
    Image.fromarray(changed).save(copy / "picture-1.png")
    assert mine.checksums != Scope.open([str(copy)], [40], 3).checksums


@pytest.mark.slow
def test_a_variant_is_trained_measured_and_taken_up_again(
    tmp_path: Path, image_folder: Path, pictures: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = TrainingImages.open([ImageFolder(image_folder)], validation_fraction=0.5, cache_dir=tmp_path / "cache")
    fabric = Fabric(accelerator="cpu", devices=1)
    variant = plan_variants("modules", toy_recipe(), [0], tmp_path / "work")[2]
    assert variant.name == "CSGM"

    def run(
        folder: Path = image_folder, *, limit: int = 2, seed: int = 0, commit: str = "0123456789ab"
    ) -> list[dict[str, Any]]:
        chosen = replace(variant, recipe=replace(variant.recipe, seed=seed))
        trained = train_variant(fabric, chosen, images, workers=0)
        piece = Piece(images, Scope.open([str(folder)], [10, 40], limit), "32-true", 1, commit)
        return measure_variant(chosen, trained, piece)

    rows = run()
    assert [(row["image"], row["quality"]) for row in rows] == [
        (f"picture-{number}.png", quality) for number in range(2) for quality in (10, 40)
    ]
    assert all(row["variant"] == "CSGM" and row["set"] == "pictures" for row in rows)
    assert all(15 < row["jpeg_psnr_db"] < 50 and abs(row["psnr_db"] - row["jpeg_psnr_db"]) < 5 for row in rows)
    assert json.loads((variant.stage2 / "measured.json").read_text())["rows"] == rows

    monkeypatch.setattr(ablation, "export_checkpoint", never)  # what comes before measuring
    assert run(commit="ba9876543210") == rows  # each figure keeps the commit that measured it
    assert {row["commit"] for row in rows} == {"0123456789ab"}
    same = tmp_path / "moved" / "pictures"
    shutil.copytree(image_folder, same)
    assert run(same) == rows
    with pytest.raises(AssertionError, match="too far"):  # more pictures are asked for
        run(limit=3)
    Image.fromarray(pictures[1][:, ::-1]).save(same / "picture-0.png")
    with pytest.raises(AssertionError, match="too far"):  # others of the same names, in a folder of the same name
        run(same)
    with pytest.raises(OtherTrainingError, match="seed"):
        run(seed=1)
    for file in variant.stage1.rglob("*.safetensors"):
        file.unlink()
    with pytest.raises(AssertionError, match="too far"):  # trained anew, with other weights
        run(seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CFM with softmax", "CIGM by maps"])
def test_what_no_model_file_holds_is_measured_in_torch(
    tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    images = TrainingImages.open([ImageFolder(image_folder)], validation_fraction=0.5, cache_dir=tmp_path / "cache")
    _, variant = plan_variants("modules", toy_recipe(), [0], tmp_path / "work", [name])
    monkeypatch.setattr(ablation, "export_checkpoint", never)
    trained = train_variant(Fabric(accelerator="cpu", devices=1), variant, images, workers=0)
    piece = Piece(images, Scope.open([str(image_folder)], [10], 2), "32-true", 1, None)
    rows = measure_variant(variant, trained, piece)
    assert [row["variant"] for row in rows] == [name, name]
    assert all(0 < abs(row["psnr_db"] - row["jpeg_psnr_db"]) < 5 for row in rows)
    assert measure_variant(variant, trained, piece) == rows
