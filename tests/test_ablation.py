"""The ablation study: the right variants, honest error bars, and a study that goes on after a kill."""

from __future__ import annotations

import json
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

from unjpeg.evaluate import ablation
from unjpeg.evaluate.ablation import LAMBDAS, MODULES, Study, gain, plot_lambdas, run_variant, summarised, variants
from unjpeg.evaluate.printed import ABLATION, TABLE_1
from unjpeg.train.config import Recipe
from unjpeg.train.data import ImageFolder
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
    planned = variants(Study.modules, toy_recipe(), 2, tmp_path)
    assert [v.name for v in planned] == [*MODULES, *MODULES]
    assert len({v.stage1 for v in planned}) == 2
    assert len({v.stage2 for v in planned}) == 10
    for variant in planned:
        network = variant.recipe.network
        switches = network.insensitive_guidance, network.sensitive_guidance, network.fusion
        assert switches == MODULES[variant.name]
        assert variant.recipe.dagn == toy_recipe().dagn
        assert variant.recipe.encoders == toy_recipe().encoders
        assert variant.stage1.name == f"seed-{variant.recipe.seed}"


def test_variants_of_fig_13_have_their_own_stage_1(tmp_path: Path) -> None:
    planned = variants(Study.lambdas, toy_recipe(), 1, tmp_path)
    assert len({v.stage1 for v in planned}) == len(planned) == len(LAMBDAS)
    factors = {(v.recipe.encoders.lambda_insensitive, v.recipe.encoders.lambda_sensitive) for v in planned}
    assert factors == {(1, 1), (0.1, 1), (10, 1), (1, 0.1), (1, 10)}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12), st.integers(1, 4), st.floats(-3, 3))
def test_gain_lies_in_its_interval(differences: list[float], seeds: int, shift: float) -> None:
    values = {}
    for seed in range(seeds):
        for number, difference in enumerate(differences):
            values["base", seed, str(number)] = 30.0 + number
            values["new", seed, str(number)] = 30.0 + number + difference + shift
    result = gain(rows_of(values), "new", "base")
    assert result.mean == pytest.approx(np.mean(differences) + shift)
    assert result.low - 1e-9 <= result.mean + (max(differences) - min(differences))
    assert min(differences) + shift - 1e-6 <= result.low <= result.high <= max(differences) + shift + 1e-6
    if seeds == 1:
        assert result.seed_deviation is None
    else:
        assert result.seed_deviation == pytest.approx(0, abs=1e-9)


def test_gain_by_hand() -> None:
    values = {("base", seed, image): 30.0 for seed in (0, 1) for image in "ab"}
    values |= {("new", 0, "a"): 30.1, ("new", 0, "b"): 30.3, ("new", 1, "a"): 30.3, ("new", 1, "b"): 30.5}
    result = gain(rows_of(values), "new", "base")
    assert result.mean == pytest.approx(0.3)
    assert (result.low, result.high) == pytest.approx((0.2, 0.4))
    assert result.seed_deviation == pytest.approx(np.std([0.2, 0.4], ddof=1))
    with pytest.raises(ValueError, match="same pictures"):
        gain(rows_of({**values, ("new", 1, "c"): 1.0}), "new", "base")
    with pytest.raises(ValueError, match="same pictures"):
        gain(rows_of(values), "newer", "base")


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
    summary = summarised(lambda_rows(), list(LAMBDAS))
    figures = summary["live1"]["10"]["psnr_db"]
    assert (figures["jpeg"], figures["base"]) == (29, 30)
    assert {name: value["mean"] for name, value in figures["gains"].items()} == pytest.approx(
        {name: 0.1 * number for number, name in enumerate(LAMBDAS) if number}
    )
    plot_lambdas({"summary": summary}, tmp_path / "new" / "lambdas.png")
    with Image.open(tmp_path / "new" / "lambdas.png") as image:
        assert image.width > image.height


@pytest.mark.slow
def test_a_variant_is_trained_measured_and_taken_up_again(
    tmp_path: Path, pictures: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"picture-{number}.png")
    images = TrainingImages.open([ImageFolder(folder)], validation_fraction=0.5, cache_dir=tmp_path / "cache")
    fabric = Fabric(accelerator="cpu", devices=1)
    variant = variants(Study.modules, toy_recipe(), 1, tmp_path / "work")[2]
    assert variant.name == "CSGM"

    def run(limit: int = 2) -> list[dict[str, Any]]:
        return run_variant(fabric, variant, images, {"toy": folder}, [10, 40], limit=limit, workers=0)

    rows = run()
    assert [(row["image"], row["quality"]) for row in rows] == [
        (f"picture-{number}.png", quality) for number in range(2) for quality in (10, 40)
    ]
    assert all(row["variant"] == "CSGM" and row["set"] == "toy" for row in rows)
    assert all(15 < row["jpeg_psnr_db"] < 50 and abs(row["psnr_db"] - row["jpeg_psnr_db"]) < 5 for row in rows)
    assert json.loads((variant.stage2 / "measured.json").read_text())["rows"] == rows

    def again(*_: Any, **__: Any) -> None:
        raise AssertionError("measured a second time")

    monkeypatch.setattr(ablation, "measured", again)
    assert run() == rows
    with pytest.raises(AssertionError, match="second time"):  # other pictures are asked for
        run(limit=3)
