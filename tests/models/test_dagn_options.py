"""Two parts of a DAGN that are not the paper's: a fusion by softmax, and insensitive guidance by a map."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from unjpeg.errors import TrainingError
from unjpeg.models import Dagn, DagnConfig, SplitDagn
from unjpeg.models.autoencoder import TOTAL_STRIDE
from unjpeg.tables import STATED_FEATURES
from unjpeg.train.config import complete_config
from unjpeg.train.export import export_network
from unjpeg.train.recipes import small

PLAIN = DagnConfig(width=4, scales=3, blocks=2, encoder_width=2)
SOFTMAX = replace(PLAIN, fusion_kind="softmax")
MAP = replace(PLAIN, insensitive_features="map")
BOTH = replace(SOFTMAX, insensitive_features="map", stated=True)
TOKENS = 85


def make_network(config: DagnConfig) -> Dagn:
    torch.manual_seed(0)
    return Dagn(config)


def images(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_networks_that_were_there_before_stay_as_they_are() -> None:
    """No option, no other weights: what was stored without the fields is read as the published network."""
    stored = {
        name: value for name, value in asdict(PLAIN).items() if name not in ("fusion_kind", "insensitive_features")
    }
    assert DagnConfig(**complete_config({"network": stored})["network"]) == PLAIN
    names = make_network(PLAIN).state_dict().keys()
    assert make_network(MAP).state_dict().keys() == names
    assert make_network(SOFTMAX).state_dict().keys() == names | {"fusion_log_temperature"}


@pytest.mark.parametrize("config", [SOFTMAX, MAP, BOTH, replace(BOTH, stem=2), replace(MAP, skips="after")], ids=str)
@pytest.mark.parametrize("size", [(3, 5), (4, 2), (1, 1)])
def test_shapes_and_split_of_forward(config: DagnConfig, size: tuple[int, int]) -> None:
    network = make_network(config).eval()
    image = images(2, 3, *(n * config.total_stride for n in size))
    features, channels = config.encoder.feature_channels, config.bottleneck_channels
    cells = [math.ceil(n / TOTAL_STRIDE) for n in image.shape[2:]]
    with torch.no_grad():
        guidance = network.guide(image)
        whole = network(image)
        assert whole.shape == image.shape
        assert torch.equal(network.restore(image, guidance), whole)
        alone = torch.cat([network(one[None]) for one in image])
    assert list(guidance.insensitive.shape[2:]) == (cells if config.insensitive_features == "map" else [])
    assert guidance.insensitive.shape[:2] == guidance.sensitive.shape == (2, features)
    by_softmax = config.fusion_kind == "softmax"
    assert guidance.fusion.shape == ((2, 2 * channels, TOKENS) if by_softmax else (2, channels, channels))
    torch.testing.assert_close(whole, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", [SOFTMAX, MAP, BOTH], ids=str)
def test_all_of_it_learns(config: DagnConfig) -> None:
    network = make_network(config).train()
    stated = torch.rand(2, STATED_FEATURES)
    functional.l1_loss(network(images(2, 3, 48, 32), None, stated), images(2, 3, 48, 32, seed=2)).backward()  # type: ignore[no-untyped-call]
    for name, parameter in network.named_parameters():
        if name.startswith(("insensitive_encoder.", "sensitive_encoder.", "quality_predictor.")):
            assert parameter.grad is None, name
        elif not name.startswith("stated.0"):  # behind a layer that begins at zero
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


@pytest.mark.parametrize("config", [SOFTMAX, MAP, BOTH], ids=str)
def test_it_begins_near_the_image(config: DagnConfig) -> None:
    image = images(1, 3, 48, 32)
    with torch.no_grad():
        assert (make_network(config).eval()(image) - image).abs().max() < 0.1


# --- softmax ----------------------------------------------------------------------------------------------------


def see_fusion(network: Dagn, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What comes into the fusion, what the fusion adds, and its tokens."""
    seen: dict[str, Tensor] = {}
    hooks = [
        network.encoder_scales[-1].register_forward_hook(lambda _m, _a, out: seen.update(base=out)),
        network.bottleneck.register_forward_hook(lambda _m, given, _o: seen.update(fused=given[0])),
    ]
    with torch.no_grad():
        guidance = network.guide(image)
        network.restore(image, guidance)
    for hook in hooks:
        hook.remove()
    return seen["base"], seen["fused"] - seen["base"], guidance.fusion


def test_softmax_by_hand() -> None:
    """Each position's mean of C2's tokens, weighed by how C1's fit its C3."""
    network = make_network(SOFTMAX).double().eval()
    for conv in (network.fusion_matrix.conv1, network.fusion_matrix.conv2, network.fusion_conv3):
        nn.init.normal_(conv.weight)
    assert network.fusion_log_temperature is not None
    nn.init.constant_(network.fusion_log_temperature, 0.3)
    base, added, tokens = see_fusion(network, images(2, 3, 64, 48).double())
    channels = SOFTMAX.bottleneck_channels
    keys, values = tokens[:, :channels], tokens[:, channels:]
    with torch.no_grad():
        queries = network.fusion_conv3(base)
    for n, y, x in ((0, 0, 0), (0, 7, 3), (1, 15, 11)):
        logits = [float(queries[n, :, y, x] @ keys[n, :, t]) / (channels**0.5 * math.exp(0.3)) for t in range(TOKENS)]
        weights = np.exp(np.array(logits) - max(logits))
        expected = (values[n].numpy() * weights / weights.sum()).sum(axis=1)
        np.testing.assert_allclose(added[n, :, y, x].numpy(), expected, rtol=1e-9)


def test_temperature_goes_from_the_best_token_to_all_alike() -> None:
    network = make_network(SOFTMAX).double().eval()
    for conv in (network.fusion_matrix.conv1, network.fusion_matrix.conv2, network.fusion_conv3):
        nn.init.normal_(conv.weight)
    assert network.fusion_log_temperature is not None
    image, channels = images(1, 3, 64, 64).double(), SOFTMAX.bottleneck_channels
    nn.init.constant_(network.fusion_log_temperature, 20.0)
    _, added, tokens = see_fusion(network, image)
    mean = tokens[:, channels:].mean(2)[..., None, None].expand_as(added)
    torch.testing.assert_close(added, mean, rtol=0, atol=1e-6)
    nn.init.constant_(network.fusion_log_temperature, -20.0)
    base, added, tokens = see_fusion(network, image)
    with torch.no_grad():
        best = (tokens[0, :channels].T @ network.fusion_conv3(base)[0].flatten(1)).argmax(0)
    torch.testing.assert_close(added[0].flatten(1), tokens[0, channels:, best])


def test_tokens_of_several_windows_stand_side_by_side() -> None:
    """The same tokens twice are the same guidance; others besides are another."""
    network = make_network(SOFTMAX).eval()
    nn.init.normal_(network.fusion_matrix.conv2.weight)
    image = images(1, 3, 32, 32)
    with torch.no_grad():
        guidance = network.guide(image)
        twice = guidance._replace(fusion=guidance.fusion.repeat(1, 1, 2))
        torch.testing.assert_close(network.restore(image, twice), network.restore(image, guidance))
        more = torch.cat([guidance.fusion, guidance.fusion.roll(1, 1)], dim=2)
        assert not torch.allclose(
            network.restore(image, guidance._replace(fusion=more)), network.restore(image, guidance), atol=1e-6
        )


# --- the map ----------------------------------------------------------------------------------------------------


def with_lively_guider(config: DagnConfig) -> Dagn:
    network = make_network(config).eval()
    last = network.insensitive_guider.mlp[-1]
    assert isinstance(last, nn.Linear)
    nn.init.normal_(last.weight, std=0.5)
    nn.init.normal_(network.tail.weight, std=0.1)
    return network


@pytest.mark.parametrize("stem", [1, 2])
def test_a_map_of_equal_cells_is_their_mean(stem: int) -> None:
    mapped, plain = (with_lively_guider(replace(config, stem=stem)) for config in (MAP, PLAIN))
    plain.load_state_dict(mapped.state_dict())
    image = images(2, 3, 56, 40)
    with torch.no_grad():
        guidance = plain.guide(image)
        everywhere = guidance.insensitive[..., None, None].expand(-1, -1, 4, 3)
        torch.testing.assert_close(
            mapped.restore(image, guidance._replace(insensitive=everywhere)), plain.restore(image, guidance)
        )
        assert not torch.allclose(mapped(image), plain(image), atol=1e-4)


@given(cell=st.tuples(st.integers(0, 3), st.integers(0, 4)))
def test_a_cell_has_its_place(cell: tuple[int, int]) -> None:
    """A cell's scale is that of its first pixel's position at every stage, and gone at the next cells' first ones."""
    network = with_lively_guider(replace(PLAIN, scales=4, insensitive_features="map"))
    image = images(1, 3, 64, 80)
    used: list[Tensor] = []
    for stage in network.stages:
        first = stage.get_submodule("insensitive.0")
        first.register_forward_hook(lambda _m, given, _o: used.append(given[1]))
    with torch.no_grad():
        guidance = network.guide(image)
        changed = guidance.insensitive.clone()
        changed[..., cell[0], cell[1]] += 5
        for insensitive in (guidance.insensitive, changed):
            network.restore(image, guidance._replace(insensitive=insensitive))
    for before, after, stride in zip(used[:3], used[3:], (4, 2, 1), strict=True):
        factor = TOTAL_STRIDE // stride
        assert before.shape[2:] == (64 // stride, 80 // stride)
        moved = (after - before).abs().amax((0, 1))
        rows, columns = ((torch.arange(n) - at * factor).abs() for n, at in zip(moved.shape, cell, strict=True))
        near = (rows < factor)[:, None] & (columns < factor)
        beyond = torch.zeros_like(near)  # behind the last cell's first pixel its value goes on
        beyond[:, 4 * factor :] |= cell[1] == 4
        beyond[3 * factor :] |= cell[0] == 3
        assert moved.argmax() == cell[0] * factor * moved.shape[1] + cell[1] * factor
        assert not moved[~near & ~beyond].any()


def test_a_map_of_another_size_is_refused() -> None:
    network = make_network(MAP).eval()
    guidance = network.guide(images(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"4, 4\) cells is no guidance for an image of 32x64 pixels"):
        network.restore(images(1, 3, 32, 64), guidance)


def test_a_cut_network_is_guided_by_the_map_of_its_image() -> None:
    network = with_lively_guider(MAP)
    image = images(2, 1, 48, 32)
    with torch.no_grad():
        whole = network(image.expand(-1, 3, -1, -1)).mean(1, keepdim=True)
        torch.testing.assert_close(SplitDagn(network, image_channels=1)(image), whole)


# --- what does not go together ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fusion_kind": "sum"}, "fusion_kind must be one of"),
        ({"insensitive_features": "both"}, "insensitive_features must be one of"),
        ({"fusion_kind": "softmax", "fusion": False}, "of the fusion, which is off"),
        ({"insensitive_features": "map", "insensitive_guidance": False}, "guidance, which is off"),
        ({"insensitive_features": "map", "stem": 3}, "stages of stride 6 do not divide"),
        ({"insensitive_features": "map", "scales": 7}, "stages of stride 32 do not divide"),
        ({"insensitive_features": "map", "bounded": True, "norm": "none"}, "bounded is for model files"),
        ({"fusion_kind": "softmax", "bounded": True, "norm": "none"}, "bounded is for model files"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(PLAIN, **changes)


@pytest.mark.parametrize("changes", [{"fusion_kind": "softmax"}, {"fusion": False, "insensitive_features": "map"}])
def test_guidance_of_whole_pictures_has_neither(changes: dict[str, Any]) -> None:
    recipe = small()
    with pytest.raises(ValueError, match=r'dagn\.guidance "picture" has no'):
        replace(recipe, network=replace(recipe.network, **changes), dagn=replace(recipe.dagn, guidance="picture"))


@pytest.mark.parametrize("config", [SOFTMAX, MAP], ids=str)
def test_no_model_file_holds_them(config: DagnConfig, tmp_path: Path) -> None:
    features = np.zeros((2, config.encoder.feature_channels), np.float32)
    with pytest.raises(TrainingError, match="no model file can hold this network"):
        export_network(
            make_network(config),
            tmp_path / "a.unjpeg",
            name="a",
            guide_window=32,
            quality_features=features,
            training={},
            validation={},
        )
    assert not any(tmp_path.iterdir())
