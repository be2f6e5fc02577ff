"""CARN-DA: the formulas, both loops resumed and golden, and a denoiser that the target never reaches."""

from __future__ import annotations

import copy
import errno
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor

from trainings import EXPECTED, NETWORKS, PICTURES, Killed, a_network, assert_same_checkpoint, kill_at_call
from unjpeg.adapt import carn
from unjpeg.adapt.carn import (
    Adaptation,
    DomainAdversary,
    Pretraining,
    adapt_network,
    denoising_loss,
    describe_training,
    pretrain,
    quality_loss,
)
from unjpeg.adapt.domains import (
    Cutting,
    Patches,
    SourceDomain,
    TargetDomain,
    compress_all,
)
from unjpeg.errors import OutputError, TrainingError
from unjpeg.models import (
    Backbone,
    Dagn,
    DagnConfig,
    DiscriminatorConfig,
    QualityDiscriminator,
    Rdn,
    RdnConfig,
    SplitDagn,
)
from unjpeg.tables import STATED_FEATURES
from unjpeg.train.checkpoint import Checkpoint, select
from unjpeg.train.config import LearningRate
from unjpeg.train.run import RunLog, find_resume_point


def test_denoising_loss_is_eq_2() -> None:
    restored, original = torch.rand(3, 1, 4, 4), torch.rand(3, 1, 4, 4)
    by_hand = sum(float((restored[i] - original[i]).abs().sum()) for i in range(3)) / 3
    assert denoising_loss(restored, original, "sum").item() == pytest.approx(by_hand, rel=1e-5)
    assert denoising_loss(restored, original).item() == pytest.approx(by_hand / 16, rel=1e-5)
    roots = [math.sqrt(float((restored[i] - original[i]).square().mean()) + 1e-5) for i in range(3)]
    assert denoising_loss(restored, original, "rms").item() == pytest.approx(sum(roots) / 3, rel=1e-5)


def test_quality_loss_is_eq_3() -> None:
    logits = torch.tensor([[1.0, -0.5], [0.3, 0.2], [-2.0, 1.0]])
    softmax = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    by_hand = -(math.log(softmax[0, 0]) + math.log(softmax[1, 0]) + math.log(softmax[2, 1])) / 3
    assert quality_loss(logits, 2).item() == pytest.approx(by_hand)


def test_updates_are_eq_5_6_and_7() -> None:
    """One backward pass of the sum gives each part the gradient that its own equation names."""
    network, strength = a_network(), 0.3
    torch.manual_seed(2)
    discriminator = QualityDiscriminator(DiscriminatorConfig(hidden=5), network.feature_channels, 8)
    source, original, target = (torch.rand(2, 1, 8, 8) for _ in range(3))
    restored, logits = DomainAdversary(network, discriminator)(Patches(source), Patches(target), strength)
    (denoising_loss(restored, original) + quality_loss(logits, 2)).backward()  # type: ignore[no-untyped-call]

    plain, judge = copy.deepcopy(network), copy.deepcopy(discriminator)
    plain.zero_grad()
    judge.zero_grad()
    denoising = denoising_loss(plain(source), original)
    telling = quality_loss(judge(plain.extract(torch.cat([source, target])).seen), 2)
    named = dict(plain.named_parameters())

    def gradients(loss: Tensor) -> dict[str, Tensor | None]:
        found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
        return dict(zip(named, found, strict=True))

    of_d, of_q = gradients(denoising), gradients(telling)
    for name, parameter in network.named_parameters():
        towards, against = of_d[name], of_q[name]
        assert towards is not None
        expected = towards if against is None else towards - strength * against
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected, msg=name)
        assert (against is None) == (not name.startswith("shallow")), name
    for mine, theirs in zip(
        discriminator.parameters(), torch.autograd.grad(telling, list(judge.parameters())), strict=True
    ):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad, theirs)


def test_ramp_is_the_usual_one() -> None:
    ramp = Adaptation(steps=100, strength=0.5, ramp=True)
    assert ramp.strength_at(0) == 0
    assert ramp.strength_at(50) == pytest.approx(0.5 * (2 / (1 + math.exp(-5)) - 1))
    assert [ramp.strength_at(step) for step in range(100)] == sorted(ramp.strength_at(step) for step in range(100))
    assert ramp.strength_at(99) == pytest.approx(0.5, rel=1e-3)
    assert Adaptation(steps=100, strength=0.5).strength_at(0) == 0.5


def test_batch_norm_keeps_its_statistics() -> None:
    network = a_network("dncnn")
    adversary = DomainAdversary(network, QualityDiscriminator(DiscriminatorConfig("moments"), 6, 8)).train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    adversary(Patches(torch.rand(2, 1, 8, 8)), Patches(torch.rand(2, 1, 8, 8)), 1.0)
    assert before
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    assert network.training


QUALITY = 10


def no_validation(_network: Backbone) -> dict[str, float]:
    return {"psnr_db_q10": 30.0}


def source_domain() -> SourceDomain:
    originals = PICTURES[:4]
    return SourceDomain(compress_all(originals, QUALITY), originals, Cutting(2, 16))


def target_domain() -> TargetDomain:
    return TargetDomain(compress_all(PICTURES[4:], 70), Cutting(2, 16))


def run_pretrain(path: Path, config: Pretraining | None = None, name: str = "rdn") -> Path:
    config = config or Pretraining(steps=6, batch=2, patch=16, checkpoint_every=2, learning_rate=LearningRate(1e-3))
    return pretrain(
        Fabric(accelerator="cpu", devices=1),
        a_network(name),
        config,
        source_domain(),
        no_validation,
        path,
        identity=describe_training(0, pretraining=config),
        manifest={},
    )


ADAPTATION = Adaptation(
    steps=6,
    batch=2,
    patch=16,
    checkpoint_every=2,
    learning_rate=LearningRate(1e-3),
    discriminator=DiscriminatorConfig(hidden=32),
)


def run_adapt(
    path: Path,
    config: Adaptation = ADAPTATION,
    name: str = "rdn",
    target: TargetDomain | None = None,
    validate: carn.Validate = no_validation,
) -> Path:
    return adapt_network(
        Fabric(accelerator="cpu", devices=1),
        a_network(name),
        config,
        source_domain(),
        target or target_domain(),
        validate,
        path,
        identity=describe_training(0, adaptation=config),
        manifest={},
        seed=3,
    )


def run_standardised(path: Path) -> Path:
    return run_adapt(path, replace(ADAPTATION, discriminator=DiscriminatorConfig("moments", standardised=True)))


@pytest.mark.parametrize("train", [run_pretrain, run_adapt, run_standardised])
def test_resumed_equals_the_uninterrupted(
    train: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole" / "network.safetensors", tmp_path / "killed" / "network.safetensors"
    train(whole)
    with monkeypatch.context() as patch:
        patch.setattr(carn, "denoising_loss", kill_at_call(5, denoising_loss))
        with pytest.raises(Killed):
            train(killed)
    assert Checkpoint.load(killed).step == 4
    train(killed)
    assert_same_checkpoint(killed, whole)
    before = killed.read_bytes()
    train(killed)
    assert killed.read_bytes() == before


@pytest.mark.parametrize("name", NETWORKS)
def test_any_backbone_learns_and_adapts(name: str, tmp_path: Path) -> None:
    """Every parameter that should learn has met its optimizer, and moved."""
    for path in (run_pretrain(tmp_path / "a.safetensors", name=name), run_adapt(tmp_path / "b.safetensors", name=name)):
        start = a_network(name)
        tensors = Checkpoint.load(path).tensors
        state = select(tensors, "model")
        learning = {key for key, parameter in start.named_parameters() if parameter.requires_grad}
        assert {key.split(".", 2)[2] for key in tensors if key.startswith("optimizer0.exp_avg.")} == learning
        unmoved = [key for key, value in start.named_parameters() if torch.equal(state[key], value)]
        assert not learning & set(unmoved)
        frozen = {key for key, parameter in start.named_parameters() if not parameter.requires_grad}
        assert frozen <= set(unmoved)
        statistics = [key for key, _ in start.named_buffers() if not key.startswith("dagn.")]
        kept = [key for key in statistics if torch.equal(state[key], start.state_dict()[key])]
        assert kept == (statistics if path.name == "b.safetensors" else [])


def test_another_configuration_or_data_is_refused(tmp_path: Path) -> None:
    path = run_adapt(tmp_path / "a.safetensors")
    with pytest.raises(TrainingError, match=r"another configuration.*strength"):
        run_adapt(path, replace(ADAPTATION, strength=1.0))
    with pytest.raises(TrainingError, match=r"other pictures \(target_sha256\); give the same ones, or choose another"):
        find_resume_point(path, describe_training(0, adaptation=ADAPTATION), {"target_sha256": "1"})


def test_lambda_0_is_training_on_the_source_alone(tmp_path: Path) -> None:
    adapted = select(Checkpoint.load(run_adapt(tmp_path / "a", replace(ADAPTATION, strength=0.0))).tensors, "model")
    config = Pretraining(steps=6, batch=2, patch=16, checkpoint_every=2, learning_rate=LearningRate(1e-3))
    trained = select(Checkpoint.load(run_pretrain(tmp_path / "b", config)).tensors, "model")
    for name, value in trained.items():
        torch.testing.assert_close(adapted[name], value, rtol=1e-4, atol=1e-5)
    strong = select(Checkpoint.load(run_adapt(tmp_path / "c", replace(ADAPTATION, strength=1.0))).tensors, "model")
    assert not torch.allclose(strong["shallow2.weight"], trained["shallow2.weight"], rtol=1e-4, atol=1e-5)


def test_printed_step_of_the_discriminator_is_eta_times_lambda(tmp_path: Path) -> None:
    def moved(config: Adaptation, name: str) -> float:
        one = replace(config, steps=1)
        torch.manual_seed(3)
        start = QualityDiscriminator(config.discriminator, 6, 16)
        state = select(Checkpoint.load(run_adapt(tmp_path / name, one)).tensors, "discriminator")
        return float((state["layers.4.bias"] - start.state_dict()["layers.4.bias"]).abs().max())

    plain = moved(replace(ADAPTATION, discriminator_step="plain", strength=0.25), "plain")
    printed = moved(replace(ADAPTATION, discriminator_step="published", strength=0.25), "printed")
    assert plain == pytest.approx(1e-3, rel=0.01)
    assert printed == pytest.approx(0.25 * plain, rel=0.01)
    tenfold = moved(replace(ADAPTATION, discriminator_step="tenfold", strength=0.25), "tenfold")
    assert tenfold == pytest.approx(10 * plain, rel=0.01)


def test_collapse_keeps_the_last_good_weights(tmp_path: Path) -> None:
    def falling(losses: Sequence[float]) -> carn.Validate:
        left = list(losses)
        return lambda _network: {"psnr_db_q10": 30.0 - left.pop(0)}

    config = replace(ADAPTATION, max_source_loss_db=0.1)
    good = run_adapt(tmp_path / "good", replace(config, steps=2), validate=falling([0, 0.05]))
    path = run_adapt(tmp_path / "stopped", config, validate=falling([0, 0.05, 0.2]))
    stopped, reference = Checkpoint.load(path), Checkpoint.load(good)
    assert stopped.step == 2
    assert reference.metrics == {
        "psnr_db_q10": 29.95,
        "start_psnr_db": 30.0,
        "least_quality_loss": pytest.approx(math.log(2), rel=0.2),
    }
    assert stopped.metrics == reference.metrics | {"stopped_at_step": 4.0}
    for name, value in select(reference.tensors, "model").items():
        assert torch.equal(stopped.tensors[f"model.{name}"], value)
    before = path.read_bytes()
    run_adapt(path, config, validate=falling([]))  # known to have collapsed: not tried again
    assert path.read_bytes() == before
    not_a_number = run_adapt(tmp_path / "nan", config, validate=falling([0, math.nan]))
    assert Checkpoint.load(not_a_number).step == 0
    unbounded = run_adapt(tmp_path / "unbounded", ADAPTATION, validate=falling([0, 1, 2, 3]))
    assert Checkpoint.load(unbounded).step == 6


def test_the_worse_of_told_and_blind_counts(tmp_path: Path) -> None:
    def validate(found: list[tuple[float, float]]) -> carn.Validate:
        left = iter(found)
        return lambda _network: dict(zip(("psnr_db_q10", "psnr_db_blind_q10"), next(left), strict=True))

    config = replace(ADAPTATION, max_source_loss_db=0.1)
    for number, fallen in enumerate([(30.5, 28.8), (29.8, 29.5)]):
        path = run_adapt(tmp_path / str(number), config, validate=validate([(30, 29), (30, 29), fallen]))
        metrics = Checkpoint.load(path).metrics
        assert metrics["stopped_at_step"] == 4
        assert (metrics["start_psnr_db"], metrics["start_psnr_db_blind"]) == (30, 29)


def test_golden_carn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty steps of either loop, as ``expected/`` has them; ``UNJPEG_REGENERATE=1`` writes it instead."""
    recorded: dict[str, float] = {}
    log = RunLog.scalars

    def scalars(run: RunLog, step: int, values: dict[str, float], **options: Any) -> None:
        recorded.update({f"{run._title}.{name}": value for name, value in values.items() if "psnr" not in name})
        log(run, step, values, **options)

    monkeypatch.setattr(RunLog, "scalars", scalars)
    rate = LearningRate(1e-3)
    run_pretrain(tmp_path / "pretrain", Pretraining(20, batch=2, patch=16, checkpoint_every=20, learning_rate=rate))
    standardised = DiscriminatorConfig(hidden=32, standardised=True)
    run_adapt(
        tmp_path / "adapt",
        replace(ADAPTATION, steps=20, checkpoint_every=20, discriminator_step="plain", discriminator=standardised),
    )
    path = EXPECTED / "train_carn_20_steps.json"
    if os.environ.get("UNJPEG_REGENERATE") == "1":
        rounded = {key: float(f"{value:.7g}") for key, value in recorded.items()}
        path.write_text(json.dumps(rounded, indent=2) + "\n")
    assert recorded == pytest.approx(json.loads(path.read_text()), rel=1e-3)


def test_a_checkpoint_that_cannot_be_written_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "network.safetensors"

    def full(_file: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("unjpeg.files._to_disk", full)
        with pytest.raises(OutputError, match=r"network\.safetensors: cannot be written \(No space left"):
            run_pretrain(path)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/c\.safetensors: cannot be written"):
        Checkpoint({}, 0, {}, {}).save(tmp_path / "file" / "c.safetensors")
    with pytest.raises(OutputError, match=r"here\.safetensors: cannot be written"):
        Checkpoint({}, 0, {}, {}).save(Path("/proc/self/here.safetensors"))
    assert not path.exists()


def test_the_target_reaches_the_features_and_not_the_denoiser() -> None:
    network = Rdn(RdnConfig(width=6, blocks=3, layers=2, growth=4))
    seen: list[int] = []
    network.fusion1.register_forward_hook(lambda _module, _inputs, output: seen.append(len(output)))
    adversary = DomainAdversary(network, QualityDiscriminator(DiscriminatorConfig(hidden=3), 6, 8))
    restored, logits = adversary(Patches(torch.rand(2, 1, 8, 8)), Patches(torch.rand(3, 1, 8, 8)), 1.0)
    assert (len(restored), len(logits), seen) == (2, 5, [2])


def a_told_dagn() -> SplitDagn:
    torch.manual_seed(0)
    network = SplitDagn(Dagn(DagnConfig(width=4, scales=2, blocks=1, stem=2, encoder_width=1, stated=True)))
    with torch.no_grad():  # what is told has no effect on a fresh network
        for parameter in network.dagn.stated.parameters() if network.dagn.stated else ():
            parameter.normal_()
    return network


def test_a_network_that_is_told_hears_half_of_the_source() -> None:
    network = a_told_dagn()
    seen: list[Tensor] = []
    encoded: list[int] = []
    assert network.dagn.stated is not None
    network.dagn.stated.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    network.dagn.sensitive_encoder.register_forward_hook(lambda _m, inputs, _output: encoded.append(len(inputs[0])))
    adversary = DomainAdversary(network, QualityDiscriminator(DiscriminatorConfig("moments"), 4, 8))
    pixels = torch.rand(8, 3, 16, 16)
    stated = torch.rand(4, STATED_FEATURES) + 0.5
    source = Patches(pixels[:4], stated)
    codec = Patches(pixels[4:], torch.zeros(4, STATED_FEATURES))
    restored, logits = adversary(source, codec, 1.0)
    compared, told = seen
    assert not compared.any()  # a codec that states nothing: neither does its source
    assert told.any(dim=1).tolist() == [True, False, True, False]
    assert torch.equal(told[::2], stated[::2])
    assert encoded == [4]  # the target is not guided: its features are all that is asked for
    with torch.no_grad():
        torch.testing.assert_close(restored, network(pixels[:4], told))
        assert not torch.allclose(restored, network(pixels[:4]))
    _, of_jpegs = adversary(source, Patches(pixels[4:], stated.flip(0)), 1.0)
    assert torch.equal(seen[-2], torch.cat([stated, stated.flip(0)]))
    assert not torch.allclose(logits, of_jpegs)
