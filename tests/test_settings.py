"""Recipes set from text: every field can be reached, takes values of its type only, and unknown ones are refused."""

from __future__ import annotations

import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unjpeg.cli import app
from unjpeg.console import run_safely
from unjpeg.errors import SettingError
from unjpeg.train.config import Recipe, apply_settings, complete_config, describe_recipe
from unjpeg.train.recipes import default, published, small


def leaves(owner: Any, prefix: str = "") -> list[tuple[str, Any]]:
    out = []
    for f in fields(owner):
        value = getattr(owner, f.name)
        out += leaves(value, f"{prefix}{f.name}.") if is_dataclass(value) else [(f"{prefix}{f.name}", value)]
    return out


def value_at(recipe: Recipe, path: str) -> Any:
    value: Any = recipe
    for name in path.split("."):
        value = getattr(value, name)
    return value


def as_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def test_every_field_can_be_set_to_what_it_is() -> None:
    recipe = published()
    settings = [f"{path}={as_text(value)}" for path, value in leaves(recipe) if path != "name"]
    assert len(settings) > 40
    assert apply_settings(recipe, settings) == recipe


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("encoders.adversarial=bce", "bce"),
        ("encoders.classification=cross-entropy", "cross-entropy"),
        ("encoders.content_norm=sum", "sum"),
        ("encoders.resnet50=weights/resnet50.safetensors", "weights/resnet50.safetensors"),
        ("encoders.resnet50=None", None),
        ("encoders.learning_rate.peak=1e-4", 1e-4),
        ("encoders.learning_rate.milestones=", ()),
        ("encoders.learning_rate.milestones=5,10", (5, 10)),
        ("encoders.lambda_insensitive=10", 10.0),
        ("encoders.resize=false", False),
        ("encoders.gradient_clip=1", 1.0),
        ("dagn.loss=l1-sum", "l1-sum"),
        ("dagn.degradation.min_quality=5", 5),
        ("network.fusion=false", False),
        ("network.norm=none", "none"),
        ("seed=3", 3),
    ],
)
def test_settings(setting: str, value: Any) -> None:
    path = setting.partition("=")[0]
    changed = apply_settings(published(), [setting])
    assert value_at(changed, path) == value
    assert type(value_at(changed, path)) is type(value)
    others = [name for name, _ in leaves(published()) if name != path]
    assert all(value_at(changed, name) == value_at(published(), name) for name in others)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("encoders.adversarail=bce", "there is no 'adversarail'; there are: steps, "),
        ("encoders.adversarial=wgan", "must be one of published, bce"),
        ("encoders.steps=1.5", "whole number"),
        ("encoders.steps=0", "at least 1"),
        ("encoders.steps=", "whole number"),
        ("encoders.resize=yes", "true or false"),
        ("encoders.learning_rate.peak=nan", "finite"),
        ("encoders.learning_rate.peak=fast", "must be a number"),
        ("encoders.learning_rate=1e-4", "has settings of its own: peak"),
        ("encoders.steps.peak=1", "no settings of its own"),
        ("dagn.degradation.min_quality=99", "quality range"),
        ("network.scales=1", "scales must be at least 2"),
        ("dagn.patch=34", "patch must be a multiple of 16"),
        ("dagn.patch=208", "dagn.patch must be a multiple of 24, the network's stride"),
        ("network.stem=5", "dagn.patch must be a multiple of 40, the network's stride"),
        ("encoders.patch=50", "patch must be a multiple of 16"),
        ("seed=-1", r"seed must lie in 0\.\."),
        ("seed=9223372036854775808", r"seed must lie in 0\.\."),
        (f"seed={'9' * 400}", r"seed must lie in 0\.\."),
        ("validation_fraction=1", "validation_fraction must lie"),
        ("dagn.weight_decay=-1", "weight_decay must be at least 0"),
        ("dagn.guide_window=-5", "guide_window must be a multiple of 16"),
        ("dagn.guide_window=0", "guide_window must be a multiple of 16"),
        ("dagn.guide_window=40", "guide_window must be a multiple of 16"),
        ("dagn.ema_decay=2", "ema_decay must lie"),
        ("dagn.ema_decay=1", "ema_decay must lie"),
        ("dagn.gradient_clip=-1", "gradient_clip must be greater than 0"),
        ("encoders.gradient_clip=0", "gradient_clip must be greater than 0"),
        ("encoders.micro_batches=5", "batch 32 cannot be divided into 5"),
        ("encoders.lambda_sensitive=-1", "lambda_sensitive must be at least 0"),
        ("encoders.learning_rate.peak=-1", "peak must be at least 0"),
        ("dagn.learning_rate.warmup_steps=-3", "warmup_steps must be at least 0"),
        ("dagn.learning_rate.milestones=5,-1", "milestones are steps"),
        ("dagn.learning_rate.gamma=-0.5", "gamma is a share"),
        ("dagn.learning_rate.floor=2", "floor is a share"),
        ("name=other", "there is no 'name'"),
        ("seed", "FIELD=VALUE"),
        ("=3", "FIELD=VALUE"),
        ("", "FIELD=VALUE"),
    ],
)
def test_what_cannot_be_set_is_named(setting: str, says: str) -> None:
    recipe = published()
    if setting == "dagn.patch=208":  # a multiple of 16
        recipe = replace(recipe, network=replace(recipe.network, stem=3))
    with pytest.raises(SettingError, match=says) as raised:
        apply_settings(recipe, [setting])
    assert str(raised.value).startswith(setting)
    assert "\n" not in str(raised.value)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30), st.text(max_size=10))
def test_any_text_is_a_setting_or_refused(path: str, value: str) -> None:
    try:
        apply_settings(small(), [f"{path}={value}"])
    except SettingError:
        return
    assert path.partition("=")[0] in [name for name, _ in leaves(small())]


@pytest.mark.parametrize("order", [1, -1])
def test_settings_that_need_each_other_come_in_any_order(order: int) -> None:
    together = ["network.fusion=false", "dagn.guidance=picture", "network.stem=5", "dagn.patch=80", "dagn.loss=rms"]
    recipe = apply_settings(published(), together[::order])
    assert (recipe.network.fusion, recipe.network.stem) == (False, 5)
    assert (recipe.dagn.guidance, recipe.dagn.patch, recipe.dagn.loss) == ("picture", 80, "rms")
    with pytest.raises(SettingError, match=r"^seed=3, dagn\.guidance=picture: .*no fusion"):
        apply_settings(published(), ["seed=3", "dagn.guidance=picture"])


def test_of_one_field_the_last_setting_counts() -> None:
    assert apply_settings(published(), ["seed=3", "dagn.batch=8", "seed=4"]).seed == 4


WRONG_USAGE = {
    "tiny --set encoders.nonsense=1": "encoders.nonsense=1: there is no 'nonsense'",
    "tiny --set dagn.patch=34": "dagn.patch=34: patch must be a multiple of 16",
    "huge": "no recipe 'huge'",
    "tiny --accelerator abacus": "cannot train like that: You selected an invalid accelerator",
    "tiny --precision bf16-true": "no precision 'bf16-true'",
    "tiny --devices 3": "batch 8 cannot be divided over 3 processes",
}


def test_wrong_usage_is_exit_code_2_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, says in WRONG_USAGE.items():
        command = ["unjpeg", "train", *arguments.split(), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            run_safely(app)
        assert ended.value.code == 2, arguments
        written = capsys.readouterr()
        assert written.out == ""
        (line,) = written.err.splitlines()
        assert line.startswith(f"unjpeg: {says}")
    assert not (tmp_path / "out").exists()


def test_the_small_twin_differs_in_size_only() -> None:
    paper, twin = published(), small()
    sizes = {"name", "network.width", "network.blocks", "network.encoder_width", "dagn.validate_every"}
    for stage in ("encoders", "dagn"):
        sizes |= {f"{stage}.{name}" for name in ("steps", "batch", "patch", "learning_rate.peak")}
        sizes.add(f"{stage}.learning_rate.milestones")
        for milestone, published_one in zip(
            getattr(twin, stage).learning_rate.milestones, getattr(paper, stage).learning_rate.milestones, strict=True
        ):
            share = milestone / getattr(twin, stage).steps
            assert share == pytest.approx(published_one / getattr(paper, stage).steps, abs=0.01)
    assert {path for path, value in leaves(twin) if value != value_at(paper, path)} <= sizes


def test_both_stages_can_be_trained_on_files_as_they_are_in_the_wild() -> None:
    settings = ("encoders.degradation.real_life=0.5", "dagn.degradation.real_life=0.5")
    recipe = default()
    mixed = replace(recipe.dagn.degradation, real_life=0.5)
    encoders, dagn = replace(recipe.encoders, degradation=mixed), replace(recipe.dagn, degradation=mixed)
    assert apply_settings(recipe, settings) == replace(recipe, encoders=encoders, dagn=dagn)


def test_a_configuration_from_before_a_field_existed_is_completed() -> None:
    now = describe_recipe(small(), "seed", "network", "encoders", "dagn")
    before = describe_recipe(small(), "seed", "network", "encoders", "dagn")
    del before["encoders"]["content_norm"], before["encoders"]["resnet50"], before["network"]["norm"]
    del before["encoders"]["degradation"]["real_life"], before["dagn"]["degradation"]["real_life"]
    del before["dagn"]["learning_rate"]["floor"]
    assert before != now
    assert complete_config(before) == now
    del before["dagn"]["degradation"]["skew"]
    assert complete_config(before) == now
    assert complete_config({"seed": 1}) == {"seed": 1}
