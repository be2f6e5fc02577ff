"""Stage 1: its formulas, its options, golden losses, and starting from ResNet-50."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from trainings import (
    Killed,
    Train,
    assert_golden,
    assert_same_checkpoint,
    kill_at_call,
    small_recipe,
)
from unjpeg.errors import TrainingError
from unjpeg.models import AutoEncoderConfig
from unjpeg.models.autoencoder import Encoder
from unjpeg.train import encoders as encoders_loop
from unjpeg.train.checkpoint import Checkpoint
from unjpeg.train.config import EncoderTraining, LearningRate
from unjpeg.train.encoders import (
    LOG_PROBABILITY_FLOOR,
    content_loss,
    discriminator_loss,
    insensitive_loss,
    load_resnet50,
    quality_targets,
    sensitive_loss,
)

COMPRESSED, ORIGINAL = (0.3, -1.2, 2.0), (0.7, 1.5, -0.4)


LOGITS = torch.tensor([*COMPRESSED, *ORIGINAL], dtype=torch.float64)[:, None]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def l_cic() -> float:
    """Eq. 6 as printed."""
    terms = [-math.log(sigmoid(c)) + math.log(sigmoid(o)) for c, o in zip(COMPRESSED, ORIGINAL, strict=True)]
    return sum(terms) / (2 * len(terms))


def test_published_adversarial_losses_are_eq_6_and_4() -> None:
    config = EncoderTraining(steps=1)
    assert config.adversarial == "published"
    assert insensitive_loss(LOGITS, config).item() == pytest.approx(l_cic())
    assert discriminator_loss(LOGITS, config).item() == pytest.approx(-l_cic())


def test_bce_losses() -> None:
    config = EncoderTraining(steps=1, adversarial="bce")
    fooling = -sum(math.log(sigmoid(c)) for c in COMPRESSED) / 3
    telling = -sum(math.log(1 - sigmoid(c)) for c in COMPRESSED) - sum(math.log(sigmoid(o)) for o in ORIGINAL)
    assert insensitive_loss(LOGITS, config).item() == pytest.approx(fooling)
    assert discriminator_loss(LOGITS, config).item() == pytest.approx(telling / 6)
    expected = nn.functional.binary_cross_entropy_with_logits(LOGITS, torch.tensor([[0.0]] * 3 + [[1.0]] * 3).double())
    assert discriminator_loss(LOGITS, config).item() == pytest.approx(expected.item())


def gradient(loss: Callable[[Tensor, EncoderTraining], Tensor], logits: Tensor, config: EncoderTraining) -> Tensor:
    leaf = logits.clone().requires_grad_()
    loss(leaf, config).backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    return leaf.grad


def test_clamp_holds_only_the_discriminators_log_j_of_compressed() -> None:
    config = EncoderTraining(steps=1)
    below = LOG_PROBABILITY_FLOOR - 12.0
    logits = torch.tensor([[below], [0.0], [below], [0.0]], dtype=torch.float64)  # two compressed, two originals

    # The discriminator: the compressed one far below is held, the others go on by 1/(2N) and the sigmoid's slope.
    d = gradient(discriminator_loss, logits, config).flatten()
    slope_at_below, slope_at_zero = 1 - sigmoid(below), 0.5
    assert d[0] == 0
    assert d.tolist()[1:] == pytest.approx([slope_at_zero / 4, -slope_at_below / 4, -slope_at_zero / 4])
    assert discriminator_loss(logits, config).item() == pytest.approx(
        (LOG_PROBABILITY_FLOOR + math.log(0.5) - math.log(sigmoid(below)) - math.log(0.5)) / 4
    )

    # The encoder: nothing is held.
    e = gradient(insensitive_loss, logits, config).flatten().tolist()
    assert e == pytest.approx([-slope_at_below / 4, -slope_at_zero / 4, slope_at_below / 4, slope_at_zero / 4])
    assert insensitive_loss(logits, config).item() == pytest.approx(0)


def test_sensitive_losses_by_hand() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 100))
    quality = (10, 95)
    softmax = np.exp(rows) / np.exp(rows).sum(1, keepdims=True)
    truth = np.zeros((4, 100))
    for row, q in enumerate((*quality, 100, 100)):  # originals belong to class 100
        truth[row, q - 1] = 1
    logits, qualities = torch.from_numpy(rows), torch.tensor(quality)
    l1 = sensitive_loss(logits, qualities, EncoderTraining(steps=1))
    assert l1.item() == pytest.approx(np.abs(softmax - truth).sum() / 4)  # Eq. 9: 1 / 2N of the sum
    entropy = sensitive_loss(logits, qualities, EncoderTraining(steps=1, classification="cross-entropy"))
    assert entropy.item() == pytest.approx(-(truth * np.log(softmax)).sum() / 4)


def test_neighbouring_qualities_share_their_targets() -> None:
    targets = quality_targets(torch.tensor([50, 98]), 3.0)
    assert targets.shape == (4, 100)
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    levels = torch.arange(1, 101).float()
    assert (targets[0] @ levels).item() == pytest.approx(50, abs=1e-3)
    assert (targets[0] @ (levels - 50) ** 2).sqrt().item() == pytest.approx(3, rel=1e-3)
    assert targets[1, -1] == 0, "the last class is left to originals"
    assert targets[1].argmax() == 97
    one_hot = quality_targets(torch.tensor([50, 98]), 0)
    assert torch.equal(targets[2:], one_hot[2:])
    assert one_hot.argmax(1).tolist() == [49, 97, 99, 99]
    assert one_hot.sum() == 4


def test_content_norms_by_hand() -> None:
    images = torch.zeros(4, 3, 2, 2)
    reconstructed = images + torch.tensor([0.1, 0.2, 0.0, 0.3])[:, None, None, None]
    mean = content_loss(reconstructed, images, EncoderTraining(steps=1))
    assert mean.item() == pytest.approx(0.15)
    total = content_loss(reconstructed, images, EncoderTraining(steps=1, content_norm="sum"))
    assert total.item() == pytest.approx(0.15 * 12)  # Eq. 5 as printed: 1 / 2N of the sum over all values


def test_perfect_reading_costs_nothing() -> None:
    logits = torch.full((2, 100), -50.0)
    logits[0, 41] = logits[1, 99] = 50.0
    for kind in ("l1", "cross-entropy"):
        config = EncoderTraining(steps=1, classification=kind)
        assert sensitive_loss(logits, torch.tensor([42]), config).item() == pytest.approx(0, abs=1e-6)


def test_golden_encoders(stage1_and_log: tuple[Path, dict[str, float]]) -> None:
    assert_golden("train_encoders_20_steps", stage1_and_log[1])


def test_resumed_encoders_equal_the_uninterrupted(
    stage1: Path, train_stage1: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:  # between the two optimizers of a step
        patch.setattr(encoders_loop, "discriminator_loss", kill_at_call(13, discriminator_loss))
        with pytest.raises(Killed):
            train_stage1(small_recipe(), tmp_path)
    assert_same_checkpoint(train_stage1(small_recipe(), tmp_path), stage1)


def test_checkpoint_from_before_an_option_existed_is_resumed(stage1: Path, train_stage1: Train, tmp_path: Path) -> None:
    older = Checkpoint.load(stage1)
    del older.config["encoders"]["content_norm"], older.config["encoders"]["resnet50"]
    older.save(tmp_path / "encoders.safetensors")
    assert_same_checkpoint(train_stage1(small_recipe(), tmp_path), stage1)


@pytest.mark.parametrize(
    "options",
    [
        {"adversarial": "bce"},
        {"classification": "cross-entropy"},
        {"content_norm": "sum"},
    ],
    ids=str,
)
def test_stage_1_options_change_the_training(
    train_stage1: Train, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(name: str, **changed: Any) -> dict[str, Tensor]:
        recipe = small_recipe()
        # Without clipping, and by plain differences: Adam's second step is where the loss's size and shape show.
        training = replace(recipe.encoders, steps=2, gradient_clip=None, **changed)
        return Checkpoint.load(train_stage1(replace(recipe, encoders=training), tmp_path / name)).tensors

    plain, other = trained("plain"), trained("other", **options)
    assert any(not torch.equal(plain[name], other[name]) for name in plain if name.startswith("encoders."))


@pytest.mark.parametrize(
    ("option", "moved", "unmoved"),
    [
        ("lambda_insensitive", "encoders.insensitive.", ("encoders.sensitive.", "encoders.quality_predictor.")),
        ("lambda_sensitive", "encoders.sensitive.", ("encoders.insensitive.", "discriminator.")),
    ],
)
def test_each_penalty_factor_weighs_its_own_constraint(
    train_stage1: Train, tmp_path: Path, option: str, moved: str, unmoved: tuple[str, ...]
) -> None:
    """Eq. 3 and 7: the two auto-encoders share nothing, so the factor of one leaves the other as it is."""
    tensors = []
    for value in (1.0, 10.0):
        recipe = small_recipe()
        training = replace(recipe.encoders, steps=2, gradient_clip=None, **{option: value})  # type: ignore[arg-type]
        path = train_stage1(replace(recipe, encoders=training), tmp_path / str(value))
        tensors.append(Checkpoint.load(path).tensors)
    plain, weighed = tensors
    changed = {name for name, value in plain.items() if not torch.equal(value, weighed[name])}
    assert any(name.startswith(moved) for name in changed)
    assert [name for name in changed if name.startswith(unmoved)] == []


def resnet50_file(path: Path, width: int) -> dict[str, Tensor]:
    """A classifier's state dict under the usual names: an encoder's, and a last layer."""
    torch.manual_seed(9)
    state = {
        name: torch.rand_like(value)
        for name, value in Encoder(AutoEncoderConfig(width)).state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    save_file({**state, "fc.weight": torch.zeros(10, 32 * width), "fc.bias": torch.zeros(10)}, path)
    return state


def test_encoders_start_from_a_resnet50(train_stage1: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = resnet50_file(tmp_path / "resnet50.safetensors", small_recipe().network.encoder_width)
    recipe = small_recipe()
    training = replace(
        recipe.encoders,
        resnet50=str(tmp_path / "resnet50.safetensors"),
        steps=2,
        learning_rate=LearningRate(0.0),
        checkpoint_every=1,
    )
    recipe = replace(recipe, encoders=training)
    with monkeypatch.context() as patch:
        patch.setattr(encoders_loop, "discriminator_loss", kill_at_call(1, discriminator_loss))
        with pytest.raises(Killed):
            train_stage1(recipe, tmp_path / "out")
    path = train_stage1(recipe, tmp_path / "out")
    tensors = Checkpoint.load(path).tensors
    learned = [name for name in state if not name.endswith(("running_mean", "running_var"))]
    for kind in ("insensitive", "sensitive"):
        for name in learned:
            assert torch.equal(tensors[f"encoders.{kind}.encoder.{name}"], state[name]), name

    moved = replace(recipe, encoders=replace(training, resnet50=str(tmp_path / "moved.safetensors")))
    (tmp_path / "resnet50.safetensors").rename(tmp_path / "moved.safetensors")
    train_stage1(moved, tmp_path / "out")  # the same weights in another place are the same training
    with pytest.raises(TrainingError, match=r"encoders\.resnet50"):
        train_stage1(replace(recipe, encoders=replace(training, resnet50=None)), tmp_path / "out")
    with pytest.raises(TrainingError, match=r"resnet50\.safetensors: cannot be read"):
        train_stage1(recipe, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("none", ""),
        ("another width", "has in another size bn1"),
        ("lacks", "lacks layer4.2.conv3.weight"),
        ("more", "has besides it layer5"),
        ("pickle", "not a readable safetensors file"),
        ("absent", "not a readable safetensors file"),
    ],
)
def test_what_is_no_resnet50_is_refused(tmp_path: Path, change: str, says: str) -> None:
    path = tmp_path / "weights.safetensors"
    state = resnet50_file(path, 4 if change == "another width" else 2)
    if change == "lacks":
        del state["layer4.2.conv3.weight"]
    elif change == "more":
        state["layer5.0.conv1.weight"] = torch.zeros(1)
    if change == "pickle":
        torch.save(state, path)
    elif change == "absent":
        path.unlink()
    elif change != "another width":
        save_file(state, path)
    encoder = Encoder(AutoEncoderConfig(2))
    if change == "none":
        load_resnet50(encoder, path)
        assert all(torch.equal(encoder.state_dict()[name], value) for name, value in state.items())
        return
    with pytest.raises(TrainingError, match=says) as raised:
        load_resnet50(encoder, path)
    assert "\n" not in str(raised.value)
