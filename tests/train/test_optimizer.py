"""Optimizers: Muon against torch's own, each weight in one of them, and their state in a checkpoint."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unjpeg.train.checkpoint import collect_optimizer_tensors, load_optimizer
from unjpeg.train.optimizer import MatrixMuon, make_optimizers, set_learning_rate


def test_muon_steps_each_weight_as_a_matrix() -> None:
    """As torch's Muon on copies: a convolution's matrix in the order of its memory, out x (height, width, in)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 4, 5))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    named = {name: p for name, p in model.named_parameters() if p.ndim >= 2}
    muon = MatrixMuon(named.values(), lr=0.02, weight_decay=0.1)
    copies = [nn.Parameter(p.detach().movedim(1, -1).flatten(1).clone()) for p in named.values()]
    reference = torch.optim.Muon(copies, lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="original")
    for _ in range(3):
        model(torch.randn(4, 3, 4, 4)).square().mean().backward()
        for copy, parameter in zip(copies, named.values(), strict=True):
            assert parameter.grad is not None
            copy.grad = parameter.grad.movedim(1, -1).flatten(1).clone()
        muon.step()
        reference.step()  # type: ignore[no-untyped-call]
        muon.zero_grad()
        assert all(parameter.grad is None for parameter in named.values())
        for copy, parameter in zip(copies, named.values(), strict=True):
            torch.testing.assert_close(parameter.detach().movedim(1, -1).flatten(1), copy.detach())


def test_each_weight_has_one_optimizer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 3))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    named = dict(model.named_parameters())
    ((name, (adam, all_of_it)),) = make_optimizers(named, "adam", weight_decay=0.1, prefix="judge").items()
    assert name == "judge0"
    assert all_of_it.keys() == named.keys()
    both = make_optimizers(named, "muon", adam_only=("2.",))
    assert list(both) == ["optimizer0", "optimizer1"]
    (muon, matrices), (beside, others) = both.values()
    assert isinstance(muon, MatrixMuon)
    assert list(matrices) == ["0.weight"]
    assert list(others) == [name for name in named if name != "0.weight"]
    set_learning_rate([muon, beside], 0.4)
    set_learning_rate([adam], 0.4)
    assert [o.param_groups[0]["lr"] for o in (muon, beside, adam)] == pytest.approx([0.4, 0.06, 0.4])

    muon, beside = (
        optimizer for optimizer, _ in make_optimizers(named, "muon", adam_only=("1.",), slow=("2.",)).values()
    )
    set_learning_rate([muon, beside], 0.4)
    rates = {id(p): group["lr"] for o in (muon, beside) for group in o.param_groups for p in group["params"]}
    assert rates.pop(id(muon.param_groups[0]["params"][0])) == 0.4  # the matrix view of 0.weight
    assert [rates[id(p)] for name, p in named.items() if name != "0.weight"] == pytest.approx([0.06] * 3 + [0.006] * 2)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_optimizer_state_comes_back(kind: type[torch.optim.Adam]) -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        torch.manual_seed(seed)
        model(torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    def build() -> tuple[nn.Module, dict[str, nn.Parameter], torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 2, 1))
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model, dict(model.named_parameters()), kind(model.parameters(), lr=0.01)

    model, named, optimizer = build()
    step(model, optimizer, 1)
    stored = collect_optimizer_tensors(optimizer, named, "optimizer")
    assert set(stored) == {f"optimizer.{slot}.{name}" for slot in ("step", "exp_avg", "exp_avg_sq") for name in named}
    other, other_named, other_optimizer = build()
    other.load_state_dict(model.state_dict())
    load_optimizer(other_optimizer, other_named, {n: t.contiguous().clone() for n, t in stored.items()}, "optimizer")
    for name, parameter in named.items():
        for slot, value in optimizer.state[parameter].items():
            restored = other_optimizer.state[other_named[name]][slot]
            assert torch.equal(restored, value)
            assert restored.stride() == value.stride(), (name, slot)
    for seed in (2, 3):
        step(model, optimizer, seed)
        step(other, other_optimizer, seed)
    for name, parameter in named.items():
        assert torch.equal(parameter, other_named[name])
