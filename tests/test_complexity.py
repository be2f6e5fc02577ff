"""The cost table counts what the paper counts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from unjpeg.evaluate.complexity import Device, counted, networks, timed
from unjpeg.evaluate.printed import COSTS
from unjpeg.models import DagnConfig
from unjpeg.train.recipes import RECIPES


def test_published_network_costs_what_the_paper_prints() -> None:
    figures = counted(DagnConfig())
    multiply_adds, parameters, _ = COSTS["DAGN"]
    assert figures["parameters_m"] == pytest.approx(parameters, rel=0.015)
    assert figures["multiply_adds_g"] == pytest.approx(multiply_adds, rel=0.05)
    assert 0 < figures["encoder_parameters_m"] < figures["parameters_m"]
    assert 0 < figures["restoring_multiply_adds_g"] < figures["multiply_adds_g"]


def test_each_network_is_listed_once() -> None:
    listed = networks()
    assert {"published", "small", "default"} <= listed.keys()
    assert len(set(listed.values())) == len(listed)
    assert set(listed.values()) == {recipe().network for recipe in RECIPES.values()}


def test_the_median_pass_counts_and_the_first_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 100.0, 100.0, 101.0, 101.0, 104.0, 104.0, 106.0])
    monkeypatch.setattr("unjpeg.evaluate.complexity.time.perf_counter", lambda: next(ticks))
    figures = timed(DagnConfig(width=4, scales=2, blocks=1, stem=4, encoder_width=1), Device.cpu, 3)
    assert figures["milliseconds"] == 2000
    assert figures["peak_mib"] > 10


def test_without_a_gpu_the_command_says_so(child_environment: dict[str, str]) -> None:
    environment = {**child_environment, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "unjpeg.evaluate.complexity", "--device", "cuda"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.splitlines() == ["unjpeg: no CUDA device here; choose --device cpu"]
