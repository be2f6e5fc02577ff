"""Table III for every network that we have: parameters, multiply-adds, time and memory on the device at hand.

``python -m studies.dagn.complexity`` writes ``results/networks-<device>.json``. Weights are random: none of the
figures depends on them. Each network is timed in a process of its own, so that peak memory is its alone. This is the
bare network in torch; whole restorations, as users run them, are what ``studies.speed.cost`` measures.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer

from studies.compared import COMPARED
from unjpeg.console import run_safely
from unjpeg.errors import TrainingError
from unjpeg.evaluate.complexity import SIDE, count_multiply_adds
from unjpeg.evaluate.results import describe_origin, put_results
from unjpeg.models import BackboneConfig, Dagn, DagnConfig, RdnConfig, make_backbone
from unjpeg.train.recipes import RECIPES

__all__ = ["UNTRAINED", "list_networks", "main", "time_network", "write_untrained"]

UNTRAINED = {"fbcnn-sized": DagnConfig(width=56, norm="none", encoder_width=8), "published": DagnConfig()}
"""Networks that nobody has trained here, for times: one of nearly FBCNN's multiply-adds (665 G; FBCNN has 729 G and
72 M parameters), and DAGN as published."""


Device = Literal["cpu", "cuda"]
"""Where the networks are timed."""


def list_networks() -> dict[str, BackboneConfig]:
    """Every DAGN that a recipe trains, each once, under the first recipe's name that has it; then the others.

    Those are one of FBCNN's size, and ARCNN, DnCNN and RDN as the benchmark trains them, RDN also as published.
    """
    others: dict[str, BackboneConfig] = {
        "fbcnn-sized": UNTRAINED["fbcnn-sized"],
        **{name: recipe().backbone for name, recipe in COMPARED.items() if name not in RECIPES},
        "rdn-published": RdnConfig(),
    }
    out: dict[str, BackboneConfig] = {}
    for name, config in (*((name, recipe().network) for name, recipe in RECIPES.items()), *others.items()):
        if config not in out.values():
            out[name] = config
    return out


DOES_NOT_FIT: dict[str, float | None] = {"milliseconds": None, "peak_mib": None}
"""Of a network that needs more memory than there is: that costs the table its time, not the other networks."""


@torch.no_grad()
def write_untrained(name: str, path: Path) -> None:
    """One of ``UNTRAINED``, of random weights, as a model file."""
    from unjpeg.train.export import QUALITY_LEVELS, export_network

    torch.manual_seed(0)
    network = Dagn(UNTRAINED[name]).eval()
    features = np.zeros((len(QUALITY_LEVELS), UNTRAINED[name].encoder.feature_channels), np.float32)
    export_network(network, path, name=name, guide_window=96, quality_features=features, training={}, validation={})


@torch.no_grad()
def time_network(config: BackboneConfig, device: Device, repeats: int) -> dict[str, float]:
    """Median time of a 512x512 picture in ms, and peak memory in MiB: the device's, or this process's on a CPU.

    Run it in a fresh process. The first pass warms up and is not counted.
    """
    made, channels = (
        (Dagn(config), 3) if isinstance(config, DagnConfig) else (make_backbone(config), config.image_channels)
    )
    network = made.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = torch.rand(1, channels, SIDE, SIDE, device=device).contiguous(memory_format=torch.channels_last)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    milliseconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        network(image)
        if device == "cuda":
            torch.cuda.synchronize()
        milliseconds.append((time.perf_counter() - start) * 1e3)
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"milliseconds": float(np.median(milliseconds[1:])), "peak_mib": peak}


def time_if_it_fits(config: BackboneConfig, device: Device, repeats: int) -> dict[str, float | None]:
    """``time_network``, or ``DOES_NOT_FIT`` where torch finds no memory for it."""
    try:
        return {**time_network(config, device, repeats)}
    except (torch.OutOfMemoryError, MemoryError):
        return DOES_NOT_FIT
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # torch's words on a CPU, which has no exception of its own
            raise
        return DOES_NOT_FIT


def main(
    out: Annotated[Path, typer.Option(help="Folder of the result file.")] = Path("results"),
    device: Annotated[Device, typer.Option(help="Where to run.")] = "cpu",
    repeats: Annotated[int, typer.Option(min=1, help="Timed passes; the median counts.")] = 5,
    one: Annotated[str | None, typer.Option(hidden=True, help="Time this network and print JSON.")] = None,
) -> None:
    """Count and time every network."""
    if device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("no CUDA device here; choose --device cpu")
    if one is not None:
        print(json.dumps(time_if_it_fits(list_networks()[one], device, repeats)))
        return
    record: dict[str, Any] = {
        "side": SIDE,
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "precision": "float32",
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        **describe_origin(),
        "networks": {},
    }
    for name, config in list_networks().items():
        command = [sys.executable, "-m", __spec__.name, "--one", name, "--device", device, "--repeats", str(repeats)]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode == -signal.SIGKILL:  # by the kernel, for its memory
            measured = DOES_NOT_FIT
        elif finished.returncode:
            lines = finished.stderr.strip().splitlines()
            raise TrainingError(f"{name}: could not be timed ({lines[-1] if lines else 'it was killed'})")
        else:
            measured = json.loads(finished.stdout)
        row = {"kind": type(config).__name__, "config": asdict(config), **count_multiply_adds(config), **measured}
        record["networks"][name] = row
        cost = (
            "more memory than there is"
            if row["peak_mib"] is None
            else f"{row['milliseconds']:8.1f} ms  {row['peak_mib']:7.0f} MiB"
        )
        print(f"{name:15s} {row['parameters_m']:7.2f} M  {row['multiply_adds_g']:7.1f} G  {cost}", flush=True)
    path = out / f"networks-{device}.json"
    put_results(path, record)
    print(f"wrote {path}")


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
