"""What takes too long for every day: ``make long`` (or ``pytest -s tests/stress/long_training.py -k kill``).

Both tests run ``unjpeg train`` as a user would, in processes of its own.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from unjpeg.train.checkpoint import Checkpoint

KILLS = 10
STEPS = int(os.environ.get("UNJPEG_LONG_STEPS", "20"))
MAX_BYTES = 24 * 10**9


def command(recipe: str, folder: Path, out: Path, *options: str) -> list[str]:
    training = [sys.executable, "-m", "unjpeg", "train", recipe, "--data", str(folder), "--out", str(out)]
    return [*training, "--accelerator", "cpu", "--workers", "1", *options]


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the training and to the processes that load its data."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_killed_ten_times_a_training_ends_with_the_same_weights(
    tmp_path: Path, image_folder: Path, child_environment: dict[str, str]
) -> None:
    """``tiny``, longer and with frequent checkpoints, killed at ten random moments of its expected time."""
    seed = random.randrange(1 << 30)
    print(f"\nseed {seed}")
    rng = random.Random(seed)
    options = [
        option
        for setting in (
            "encoders.steps=120",
            "encoders.checkpoint_every=5",
            "dagn.steps=240",
            "dagn.checkpoint_every=5",
            "dagn.validate_every=60",
        )
        for option in ("--set", setting)
    ]
    environment = {**child_environment, "XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    start = time.monotonic()
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(command("tiny", image_folder, whole, *options), env=environment, check=True)
    seconds = time.monotonic() - start
    kills = 0
    while kills < KILLS:
        process = subprocess.Popen(
            command("tiny", image_folder, broken, *options), env=environment, start_new_session=True
        )
        # Up to 0.6 of the whole time, which includes the start: kills fall into the start and into both stages.
        delay = rng.uniform(0, max(0.6 * seconds, 10))
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            kill(process)
            kills += 1
        else:  # finished sooner: begin again from nothing, so that every kill hits a training
            assert process.returncode == 0
            print("finished before the next kill; once more from the start")
            for file in broken.glob("*.safetensors"):
                file.unlink()
        reached = {
            stage: Checkpoint.load(path).step if (path := broken / f"{stage}.safetensors").exists() else 0
            for stage in ("encoders", "dagn")
        }
        print(f"kill {kills} after {delay:.1f} s: {reached}", flush=True)
    subprocess.run(command("tiny", image_folder, broken, *options), env=environment, check=True)
    for name in ("encoders.safetensors", "dagn.safetensors"):
        mine, reference = Checkpoint.load(broken / name), Checkpoint.load(whole / name)
        assert mine.step == reference.step
        assert mine.tensors.keys() == reference.tensors.keys()
        assert [key for key, value in mine.tensors.items() if not torch.equal(value, reference.tensors[key])] == []


def test_published_size_takes_real_steps_within_24_gb(
    tmp_path: Path, data_root: Path, child_environment: dict[str, str]
) -> None:
    """Batches of the published size in eight parts. ``UNJPEG_LONG_STEPS`` changes the number of steps (20)."""
    settings = (
        f"encoders.steps={STEPS}",
        "encoders.micro_batches=8",
        "encoders.checkpoint_every=10",
        f"dagn.steps={STEPS}",
        "dagn.micro_batches=8",
        "dagn.checkpoint_every=10",
        "dagn.validate_every=1000000",
    )
    options = [option for setting in settings for option in ("--set", setting)]
    folder = data_root / "train" / "photos"
    if not folder.is_dir():
        pytest.skip(f"no pictures in {folder}")
    start = time.monotonic()
    subprocess.run(command("published", folder, tmp_path / "out", *options), env=child_environment, check=True)
    seconds = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"\n{STEPS} + {STEPS} steps in {seconds:.0f} s, peak memory {peak / 1e9:.1f} GB")
    for name in ("encoders.safetensors", "dagn.safetensors"):
        checkpoint = Checkpoint.load(tmp_path / "out" / name)
        assert checkpoint.step == STEPS
        assert all(bool(torch.isfinite(value).all()) for value in checkpoint.tensors.values())
    assert peak < MAX_BYTES
