"""Recipes and their schedules."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unjpeg.modelfile import ModelFile
from unjpeg.models import DagnConfig
from unjpeg.train.config import LearningRate, describe_recipe
from unjpeg.train.recipes import RECIPES

rates = st.builds(
    LearningRate,
    peak=st.floats(1e-6, 1),
    warmup_steps=st.integers(0, 50),
    milestones=st.lists(st.integers(50, 300), max_size=3).map(lambda steps: tuple(sorted(steps))),
    gamma=st.floats(0.1, 1),
    cosine=st.booleans(),
    floor=st.floats(0, 1),
)


@given(rates, st.integers(51, 400))
def test_learning_rate_rises_in_the_warmup_and_falls_after_it(rate: LearningRate, steps: int) -> None:
    curve = [rate.at(step, steps) for step in range(steps)]
    rising, falling = curve[: rate.warmup_steps], curve[rate.warmup_steps :]
    assert all(0 <= value <= rate.peak * (1 + 1e-12) for value in curve)
    assert all(value > 0 for value in rising)
    assert rising == sorted(rising)
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(falling))
    assert falling[0] == pytest.approx(rate.peak * rate.gamma ** sum(m <= rate.warmup_steps for m in rate.milestones))


def test_learning_rate_by_hand() -> None:
    assert LearningRate(0.5).at(0, 10) == LearningRate(0.5).at(9, 10) == 0.5
    warm = LearningRate(1.0, warmup_steps=4)
    assert [warm.at(step, 10) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    dropping = LearningRate(1.0, milestones=(3, 6), gamma=0.1)
    assert [dropping.at(step, 9) for step in range(9)] == pytest.approx([1] * 3 + [0.1] * 3 + [0.01] * 3)
    cosine = LearningRate(2.0, warmup_steps=10, cosine=True, floor=0.1)
    assert cosine.at(10, 110) == pytest.approx(2.0)
    assert cosine.at(60, 110) == pytest.approx(2.0 * 0.55)
    assert cosine.at(109, 110) == pytest.approx(0.2, rel=0.01)


def test_published_schedule_is_the_papers() -> None:
    recipe = RECIPES["published"]()
    stage1, stage2 = recipe.encoders, recipe.dagn
    epochs = [stage1.learning_rate.at(int((epoch + 0.5) * stage1.steps / 15), stage1.steps) for epoch in range(15)]
    assert epochs == pytest.approx([5e-4] * 5 + [5e-5] * 5 + [5e-6] * 5)
    assert (stage1.batch, stage1.patch, stage1.resize) == (32, 256, True)
    assert (stage2.batch, stage2.patch, stage2.weight_decay) == (64, 96, 0.0)
    assert stage2.learning_rate.at(0, stage2.steps) == 1e-4
    assert stage2.learning_rate.at(int(0.79 * stage2.steps), stage2.steps) == 1e-4
    assert stage2.learning_rate.at(int(0.81 * stage2.steps), stage2.steps) == pytest.approx(5e-5)
    for stage in (stage1, stage2):
        assert (stage.degradation.min_quality, stage.degradation.max_quality) == (10, 95)


@pytest.mark.parametrize("name", ["default", "fast"])
def test_trainings_go_on_from_the_shipped_weights(name: str) -> None:
    """``unjpeg train NAME-int8 --start NAME``, as the laboratory's page tells."""
    assert RECIPES[f"{name}-int8"]().network == DagnConfig(**ModelFile.read(name).description.network)


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_goes_by_its_name(name: str) -> None:
    recipe = RECIPES[name]()
    assert recipe.name == name
    assert recipe.dagn.patch % recipe.network.total_stride == 0
    assert recipe.encoders.patch % 16 == 0
    for stage in (recipe.encoders, recipe.dagn):
        assert stage.batch % stage.micro_batches == 0
    parts = describe_recipe(recipe, "network", "encoders", "dagn")
    assert json.loads(json.dumps(parts)) == parts
