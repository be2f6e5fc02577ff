"""Checkpoints: one safetensors file, tensors and a JSON header. Nothing in it is ever unpickled.

Tensor names: ``model.<state-dict name>``, ``ema.<state-dict name>``, ``<optimizer>.<slot>.<parameter name>``.
Header: ``step``, ``config``, ``manifest``, ``commit``, ``version``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from unjpeg.errors import OutputError, TrainingError
from unjpeg.files import put_in_place
from unjpeg.train.optimizer import NamedOptimizer
from unjpeg.version import __version__, source_commit

__all__ = ["Checkpoint", "collect_optimizer_tensors", "collect_tensors", "load_optimizer", "load_optimizers", "select"]


@dataclass(slots=True)
class Checkpoint:
    """A training's whole state after ``step`` steps.

    Attributes:
        tensors: everything that is a tensor, under the names above.
        step: optimizer steps taken.
        config: the stage's configuration as JSON-ready data; resuming with another one is refused.
        manifest: what was trained on (folders, counts, checksum).
        metrics: validation figures at this step.
    """

    tensors: dict[str, Tensor]
    step: int
    config: dict[str, Any]
    manifest: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write whole or not at all: a kill at any moment leaves the previous checkpoint in place.

        Raises OutputError if it cannot be written.
        """
        header = {
            "step": self.step,
            "config": self.config,
            "manifest": self.manifest,
            "metrics": self.metrics,
            "commit": source_commit(),
            "version": __version__,
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
        put_in_place(path, save(tensors, {"unjpeg": json.dumps(header)}), overwrite=True)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read one back. Raises TrainingError if it is missing or damaged."""
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {})["unjpeg"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return cls(tensors, header["step"], header["config"], header["manifest"], header["metrics"])
        except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise TrainingError(f"{path}: not a readable unjpeg checkpoint ({error})") from error


def select(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under ``prefix.``, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def collect_optimizer_tensors(optimizer: Optimizer, named: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """An optimizer's state under stable names. Assumes state that consists of tensors, as torch's own has."""
    names = {id(parameter): name for name, parameter in named.items()}
    return {
        f"{prefix}.{slot}.{names[id(parameter)]}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for slot, value in state.items()
    }


def load_optimizer(
    optimizer: Optimizer, named: Mapping[str, Tensor], tensors: Mapping[str, Tensor], prefix: str
) -> None:
    """Undo ``collect_optimizer_tensors``."""
    for key, tensor in select(tensors, prefix).items():
        slot, name = key.split(".", 1)
        parameter = named[name]
        # Step counters stay where torch keeps them, on the CPU; the rest is laid out in memory as its parameter.
        restored = tensor.clone() if slot == "step" else torch.empty_like(parameter).copy_(tensor)
        optimizer.state[parameter][slot] = restored


def load_optimizers(optimizers: Mapping[str, NamedOptimizer], checkpoint: Checkpoint | None) -> None:
    """What a checkpoint has under the optimizers' names; nothing from none."""
    if checkpoint is None:
        return
    for prefix, (optimizer, named) in optimizers.items():
        load_optimizer(optimizer, named, checkpoint.tensors, prefix)


def collect_tensors(modules: Mapping[str, nn.Module], optimizers: Mapping[str, NamedOptimizer]) -> dict[str, Tensor]:
    """All that a training goes on from: the states of its modules and its optimizers, under these names."""
    tensors = {
        f"{prefix}.{name}": value for prefix, module in modules.items() for name, value in module.state_dict().items()
    }
    for prefix, (optimizer, named) in optimizers.items():
        tensors |= collect_optimizer_tensors(optimizer, named, prefix)
    return tensors
