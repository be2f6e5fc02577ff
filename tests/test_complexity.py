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


def test_a_larger_network_takes_more_memory_and_time() -> None:
    tiny = timed(DagnConfig(width=4, scales=2, blocks=1, stem=4, encoder_width=1), Device.cpu, 2)
    larger = timed(DagnConfig(width=16, scales=2, blocks=2, encoder_width=4), Device.cpu, 2)
    assert 0 < tiny["milliseconds"] < larger["milliseconds"]
    assert tiny["peak_mib"] <= larger["peak_mib"]


def test_without_a_gpu_the_command_says_so(child_environment: dict[str, str]) -> None:
    environment = {**child_environment, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "unjpeg.evaluate.complexity", "--device", "cuda"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.splitlines() == ["unjpeg: no CUDA device here; choose --device cpu"]
