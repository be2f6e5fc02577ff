"""Optimizers: Adam as published, or Muon for the convolutions with Adam for the rest.

Muon (torch's own) orthogonalises the momentum of each weight *matrix*. In our trials it reached Adam's loss in about
half the steps: docs/research/training-log.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from unjpeg.errors import TrainingError

__all__ = ["MatrixMuon", "NamedOptimizer", "OptimizerName", "make_optimizers", "set_learning_rate"]

OptimizerName = Literal["adam", "muon"]

NamedOptimizer = tuple[Optimizer, Mapping[str, Tensor]]
"""An optimizer and the tensors that its state belongs to, by parameter name."""

ADAM_SHARE = 0.15
"""Adam's learning rate beside Muon's, as a share of it."""

SLOW_SHARE = 0.015
"""The same for the weights that transform all features at once (guidance): faster, they blow a restorer without batch
norm up within 500 steps."""


class MatrixMuon(torch.optim.Muon):
    """Muon on weights of any shape, each seen as the matrix (first dimension) x (all others).

    The matrices are views of the weights' own memory: a step through them is a step of the weights.

    Args:
        weights: parameters of at least two dimensions, at their final device and memory format.
        lr: the largest singular value of a step, the same for wide layers and narrow ones. (Scaled to Adam's mean
            square instead, wide layers go faster, and their ReLUs died: docs/research/training-log.md.)
    """

    def __init__(self, weights: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        self._weights = list(weights)
        self.matrices = [nn.Parameter(_as_matrix(weight.data)) for weight in self._weights]
        for weight, matrix in zip(self._weights, self.matrices, strict=True):
            if weight.data_ptr() != matrix.data_ptr():
                raise TrainingError(f"a weight of shape {tuple(weight.shape)} has a memory format Muon cannot view")
        super().__init__(self.matrices, lr=lr, weight_decay=weight_decay, momentum=0.95, adjust_lr_fn="original")

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        for weight, matrix in zip(self._weights, self.matrices, strict=True):
            matrix.grad = None if weight.grad is None else _as_matrix(weight.grad)
        loss: float | None = super().step(closure)  # type: ignore[no-untyped-call]
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        for weight in self._weights:
            weight.grad = None
        super().zero_grad(set_to_none)


def make_optimizers(
    named: Mapping[str, nn.Parameter],
    kind: OptimizerName,
    *,
    weight_decay: float = 0.0,
    adam_only: tuple[str, ...] = (),
    slow: tuple[str, ...] = (),
    prefix: str = "optimizer",
) -> dict[str, NamedOptimizer]:
    """One optimizer, or Muon and Adam, by their names in a checkpoint: the prefix and a number.

    Args:
        adam_only: beginnings of the names of those weights that Muon does not suit: layers between image and
            features, small heads.
        slow: beginnings of the names of those that learn slowly beside Muon, with Adam too.
    """
    if kind == "adam":
        return {f"{prefix}0": (torch.optim.AdamW(named.values(), lr=0.0, weight_decay=weight_decay), named)}
    weights = {name: p for name, p in named.items() if p.ndim >= 2 and not name.startswith(adam_only + slow)}
    others = {name: p for name, p in named.items() if name not in weights}
    muon = MatrixMuon(weights.values(), lr=0.0, weight_decay=weight_decay)
    groups = [
        {"params": [p for name, p in others.items() if not name.startswith(slow)], "share": ADAM_SHARE},
        {"params": [p for name, p in others.items() if name.startswith(slow)], "share": SLOW_SHARE},
    ]
    adam = torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, weight_decay=weight_decay)
    return {f"{prefix}0": (muon, dict(zip(weights, muon.matrices, strict=True))), f"{prefix}1": (adam, others)}


def set_learning_rate(optimizers: Iterable[Optimizer], rate: float) -> None:
    """The rate for the next step, of which some groups beside Muon take a share."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("share", 1.0)


def _as_matrix(weight: Tensor) -> Tensor:
    # In the order of channels-last memory, so that the reshape is a view.
    in_memory_order = weight.permute(0, 2, 3, 1) if weight.ndim == 4 else weight
    return in_memory_order.reshape(weight.shape[0], -1)
