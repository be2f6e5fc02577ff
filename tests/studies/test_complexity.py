"""The cost table counts what the paper counts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from studies.dagn import complexity
from studies.dagn.complexity import list_networks, time_if_it_fits, time_network
from studies.printed import COSTS
from unjpeg.errors import TrainingError
from unjpeg.evaluate.complexity import count_multiply_adds
from unjpeg.models import ArCnnConfig, DagnConfig, DnCnnConfig, RdnConfig
from unjpeg.train.recipes import RECIPES


def test_published_network_costs_what_the_paper_prints() -> None:
    figures = count_multiply_adds(DagnConfig())
    multiply_adds, parameters, _ = COSTS["DAGN"]
    assert figures["parameters_m"] == pytest.approx(parameters, rel=0.015)
    assert figures["multiply_adds_g"] == pytest.approx(multiply_adds, rel=0.05)
    assert 0 < figures["encoder_parameters_m"] < figures["parameters_m"]
    assert 0 < figures["restoring_multiply_adds_g"] < figures["multiply_adds_g"]


def test_each_network_is_listed_once() -> None:
    listed = list_networks()
    assert {"published", "small", "default", "fbcnn-sized", "arcnn", "dncnn", "rdn"} <= listed.keys()
    assert len(set(listed.values())) == len(listed)
    assert set(listed.values()) >= {recipe().network for recipe in RECIPES.values()}
    assert (listed["arcnn"], listed["dncnn"], listed["rdn-published"]) == (ArCnnConfig(), DnCnnConfig(), RdnConfig())


def test_other_networks_are_counted_by_hand() -> None:
    """Of ARCNN every weight meets every pixel; biases are no multiply-adds."""
    weights = 9 * 9 * 64 + 7 * 7 * 64 * 32 + 32 * 16 + 5 * 5 * 16
    figures = count_multiply_adds(ArCnnConfig())
    assert figures["parameters_m"] == (weights + 64 + 32 + 16 + 1) / 1e6
    assert figures["multiply_adds_g"] == figures["restoring_multiply_adds_g"] == weights * 512 * 512 / 1e9
    assert figures["encoder_parameters_m"] == 0
    assert count_multiply_adds(list_networks()["fbcnn-sized"])["multiply_adds_g"] == pytest.approx(
        COSTS["FBCNN"][0], rel=0.1
    )
    assert count_multiply_adds(RdnConfig())["parameters_m"] == pytest.approx(22, rel=0.02)


@pytest.mark.slow
def test_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    child_environment: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    listed = list_networks()
    monkeypatch.setattr(complexity, "list_networks", lambda: {name: listed[name] for name in ("tiny", "arcnn")})
    monkeypatch.setenv("PYTHONPATH", child_environment["PYTHONPATH"])
    complexity.main(tmp_path / "new", "cpu", 1)
    record = json.loads((tmp_path / "new" / "networks-cpu.json").read_text())
    assert (record["device"], record["side"], record["repeats"]) == ("CPU", 512, 1)
    assert {name: row["kind"] for name, row in record["networks"].items()} == {
        "tiny": "DagnConfig",
        "arcnn": "ArCnnConfig",
    }
    for name, row in record["networks"].items():
        assert row.items() >= count_multiply_adds(listed[name]).items()
        assert row["milliseconds"] > 0
        assert row["peak_mib"] > 50
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["tiny", "arcnn", "wrote"]
    monkeypatch.setattr(complexity, "list_networks", lambda: {"nonesuch": listed["tiny"]})
    with pytest.raises(TrainingError, match=r"^nonesuch: could not be timed \("):
        complexity.main(tmp_path / "new", "cpu", 1)


def test_a_network_that_does_not_fit_costs_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = list_networks()
    monkeypatch.setattr(complexity, "list_networks", lambda: {name: listed[name] for name in ("tiny", "arcnn")})
    finished = iter([(-signal.SIGKILL, "", ""), (0, '{"milliseconds": 2.5, "peak_mib": 100.0}', "")])
    ended = SimpleNamespace(run=lambda *command, **_: subprocess.CompletedProcess(command, *next(finished)))
    monkeypatch.setattr(complexity, "subprocess", ended)
    complexity.main(tmp_path, "cpu", 1)
    rows = json.loads((tmp_path / "networks-cpu.json").read_text())["networks"]
    assert (rows["tiny"]["milliseconds"], rows["arcnn"]["milliseconds"]) == (None, 2.5)
    assert "more memory than there is" in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_torch_finding_no_memory_is_no_failure(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(complexity, "time_network", refuse)
    assert time_if_it_fits(ArCnnConfig(), "cpu", 1) == {"milliseconds": None, "peak_mib": None}
    error = ValueError("something else")
    with pytest.raises(ValueError, match="something else"):
        time_if_it_fits(ArCnnConfig(), "cpu", 1)


def test_no_gradients_are_kept_while_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    network = nn.Conv2d(1, 1, 1)
    network.register_forward_hook(lambda *_: kept.append(torch.is_grad_enabled()))
    monkeypatch.setattr(complexity, "make_backbone", lambda _: network)
    time_network(ArCnnConfig(), "cpu", 1)
    assert kept == [False, False]


def test_the_median_pass_counts_and_the_first_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 100.0, 100.0, 101.0, 101.0, 104.0, 104.0, 106.0])
    monkeypatch.setattr("studies.dagn.complexity.time.perf_counter", lambda: next(ticks))
    figures = time_network(DagnConfig(width=4, scales=2, blocks=1, stem=4, encoder_width=1), "cpu", 3)
    assert figures["milliseconds"] == 2000
    assert figures["peak_mib"] > 10


def test_without_a_gpu_the_command_says_so(child_environment: dict[str, str]) -> None:
    environment = {**child_environment, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "studies.dagn.complexity", "--device", "cuda"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.splitlines() == ["unjpeg: no CUDA device here; choose --device cpu"]
