"""What both stages share: averaged weights, the log, how fast it went."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainings import (
    Train,
    small_recipe,
)
from unjpeg.models import Dagn
from unjpeg.train.run import AveragedModel, RunLog, Throughput


def test_averaged_model_by_hand() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = AveragedModel(model, 0.5)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(12):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(4, 2))
        average.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            floating = value.dtype.is_floating_point
            mean = decay * expected[name] + (1 - decay) * value
            expected[name] = mean if floating else value.clone()
    for name, value in average.module.state_dict().items():
        torch.testing.assert_close(value, expected[name])
    assert not average.module.training


def test_decay_0_follows_the_model_exactly() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    average = AveragedModel(model, 0.0)
    for step in range(3):
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        average.update(model, step)
        for name, value in average.module.state_dict().items():
            assert torch.equal(value, model.state_dict()[name])


def test_throughput_and_waiting_are_told(
    train_stage2: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that stands still but for the loader's half seconds and the network's whole ones."""
    now = 0.0
    told: list[Throughput] = []
    monkeypatch.setattr("unjpeg.train.run.time.perf_counter", lambda: now)

    class Slow:
        def __init__(self, loader: Any) -> None:
            self.batches = iter(loader)

        def __iter__(self) -> Slow:
            return self

        def __next__(self) -> Any:
            nonlocal now
            now += 0.5
            return next(self.batches)

    batches = RunLog.batches
    monkeypatch.setattr(RunLog, "batches", lambda log, loader: batches(log, Slow(loader)))
    update = AveragedModel.update

    def step(average: AveragedModel[Dagn], model: Dagn, number: int) -> None:
        nonlocal now
        now += 1.0
        update(average, model, number)

    monkeypatch.setattr(AveragedModel, "update", step)
    close = RunLog.close

    def closed(log: RunLog) -> None:
        throughput = log.throughput()
        assert throughput is not None
        told.append(throughput)
        close(log)

    monkeypatch.setattr(RunLog, "close", closed)
    recipe = small_recipe()
    recipe = replace(recipe, dagn=replace(recipe.dagn, steps=4, batch=6, micro_batches=1))
    train_stage2(recipe, tmp_path)
    # Four steps of a second, and the three waits after the first batch.
    (throughput,) = told
    assert throughput.images_per_second == pytest.approx(24 / 5.5)
    assert throughput.waiting == pytest.approx(1.5 / 5.5)
    assert "dagn 4.4 images/s, 27.3% of the time waiting for data" in capsys.readouterr().err
