"""The networks against the paper: sizes, formulas, what learns and what stays frozen."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from unjpeg.dct import ycc_from_rgb
from unjpeg.models import (
    AutoEncoder,
    AutoEncoderConfig,
    Dagn,
    DagnConfig,
    Discriminator,
    GuidanceTensors,
    QualityPredictor,
)
from unjpeg.models.autoencoder import TOTAL_STRIDE, Encoder, pool, sharpen
from unjpeg.models.blocks import GuidanceBlock, ResidualBlock
from unjpeg.models.dagn import DETAIL_GAIN, Detail, GuidedStage
from unjpeg.tables import STATED_FEATURES

SMALL = DagnConfig(width=4, scales=3, blocks=2, encoder_width=2)


def small_dagn(config: DagnConfig = SMALL, seed: int = 0) -> Dagn:
    torch.manual_seed(seed)
    return Dagn(config)


def images(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- the published size -----------------------------------------------------------------------------------------


def test_published_size_has_the_papers_parameters_and_multiply_adds() -> None:
    with torch.device("meta"):
        network = Dagn(DagnConfig()).eval()
        image = torch.empty(1, 3, 512, 512)
    parameters = parameter_count(network) - parameter_count(network.quality_predictor)
    assert parameters == pytest.approx(109.9e6, rel=0.015)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    assert counter.get_total_flops() / 2 == pytest.approx(952.8e9, rel=0.05)


def test_published_channels() -> None:
    config = DagnConfig()
    assert config.bottleneck_channels == 512
    assert config.stage_channels == (256, 128, 64)
    assert config.total_stride == 8
    with torch.device("meta"):
        network = Dagn(config)
    assert [module.out_channels for module in [network.head, *network.downs] if isinstance(module, nn.Conv2d)] == [
        64,
        128,
        256,
        512,
    ]


# --- the auto-encoders ------------------------------------------------------------------------------------------


def test_published_encoder_is_resnet_50_at_stride_16() -> None:
    with torch.device("meta"):
        encoder = Encoder(AutoEncoderConfig(64)).eval()
        features = encoder(torch.empty(2, 3, 256, 256))
    assert features.shape == (2, 2048, 256 // TOTAL_STRIDE, 256 // TOTAL_STRIDE)
    # ResNet-50 has 25 557 032 parameters, 2 049 000 of them in its classifier.
    assert parameter_count(encoder) == 25_557_032 - 2_049_000


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 33), (40, 25)])
def test_encoder_rounds_odd_sizes_up(height: int, width: int) -> None:
    config = AutoEncoderConfig(2)
    features = Encoder(config).eval()(images(1, 3, height, width))
    assert features.shape == (1, config.feature_channels, math.ceil(height / 16), math.ceil(width / 16))


@pytest.mark.parametrize("width", [1, 2, 8, 64])
def test_decoder_has_15_layers_and_gives_the_image_back(width: int) -> None:
    config = AutoEncoderConfig(width)
    with torch.device("meta"):
        model = AutoEncoder(config).eval()
        image = torch.empty(2, 3, 64, 96)
        features, reconstruction = model(image)
    layers = [layer for layer in model.decoder if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    assert [type(layer) for layer in layers] == [nn.Conv2d] * 5 + [nn.Conv2d, nn.ConvTranspose2d] * 5
    assert features.shape == (2, 32 * width, 4, 6)
    assert reconstruction.shape == image.shape


def test_heads_are_the_papers_perceptrons() -> None:
    with torch.device("meta"):
        heads = [Discriminator(AutoEncoderConfig()), QualityPredictor(AutoEncoderConfig())]
    sizes = [[(m.in_features, m.out_features) for m in h.modules() if isinstance(m, nn.Linear)] for h in heads]
    assert sizes == [[(2048, 2048), (2048, 1)], [(2048, 2048), (2048, 100)]]


def test_heads_on_positions_average_their_answers() -> None:
    features = torch.rand(2, 64, 3, 5)
    on_positions = QualityPredictor(AutoEncoderConfig(2, heads="positions"))
    expected = torch.stack([on_positions(features[..., y, x]) for y in range(3) for x in range(5)]).mean(0)
    torch.testing.assert_close(on_positions(features), expected)
    pooled = QualityPredictor(AutoEncoderConfig(2))
    pooled.load_state_dict(on_positions.state_dict())
    torch.testing.assert_close(pooled(features), pooled(pool(features)))
    assert not torch.allclose(pooled(features), expected)


def test_sharpened_encoder_does_not_see_brightness() -> None:
    image = images(1, 3, 6, 7).double()
    sharp = sharpen(image, 6.75)
    y, x = 3, 4
    mean = image[:, :, y - 1 : y + 2, x - 1 : x + 2].mean((2, 3))
    torch.testing.assert_close(sharp[:, :, y, x], image[:, :, y, x] + 6.75 * (image[:, :, y, x] - mean))
    torch.testing.assert_close(sharpen(image + 0.1, 6.75), sharp + 0.1)  # amplified is the detail alone
    torch.testing.assert_close(sharpen(torch.full((1, 3, 4, 4), 0.5), 6.75), torch.full((1, 3, 4, 4), 0.5))

    encoder = Encoder(AutoEncoderConfig(1, sharpen=6.75)).eval()
    plain = Encoder(AutoEncoderConfig(1)).eval()
    plain.load_state_dict(encoder.state_dict())
    seen = images(1, 3, 32, 32)
    torch.testing.assert_close(encoder(seen), plain(sharpen(seen, 6.75)))


@pytest.mark.parametrize("wrong", [{"sharpen": -1.0}, {"heads": "both"}], ids=str)
def test_wrong_encoder_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        AutoEncoderConfig(2, **wrong)
    with pytest.raises(ValueError, match="must be"):
        DagnConfig(**{f"encoder_{name}": value for name, value in wrong.items()})


def test_pool_is_the_global_mean() -> None:
    features = images(2, 5, 3, 4)
    torch.testing.assert_close(pool(features), features.flatten(2).sum(2) / 12)


# --- blocks -----------------------------------------------------------------------------------------------------


def body_by_hand(body: nn.Sequential, features: Tensor) -> Tensor:
    """conv, batch norm with the batch's statistics, ReLU, conv, from the weights alone."""
    conv1, norm, _, conv2 = body
    assert isinstance(conv1, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(conv2, nn.Conv2d)
    x = functional.conv2d(features, conv1.weight, padding=1)
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    x = (x - mean) / torch.sqrt(variance + norm.eps)
    x = (x * norm.weight[:, None, None] + norm.bias[:, None, None]).clamp(min=0)
    return functional.conv2d(x, conv2.weight, conv2.bias, padding=1)


def test_guidance_block_is_eq_12_and_13() -> None:
    torch.manual_seed(0)
    block = GuidanceBlock(6).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    features = torch.randn(2, 6, 7, 5, dtype=torch.float64)
    scale, shift = torch.randn(2, 2, 6, 1, 1, dtype=torch.float64)
    expected = torch.empty_like(features)
    body = body_by_hand(block.body, features)
    for n in range(2):
        for channel in range(6):
            expected[n, channel] = (
                features[n, channel] + scale[n, channel, 0, 0] * body[n, channel] + shift[n, channel, 0, 0]
            )
    torch.testing.assert_close(block(features, scale, shift), expected)


def test_unguided_block_is_a_residual_block() -> None:
    torch.manual_seed(0)
    guided, plain = GuidanceBlock(4).double(), ResidualBlock(4).double()
    plain.load_state_dict(guided.state_dict())
    features = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    one, zero = features.new_ones(2, 4, 1, 1), features.new_zeros(2, 4, 1, 1)
    torch.testing.assert_close(guided(features, one, zero), plain(features))
    torch.testing.assert_close(plain(features), features + body_by_hand(plain.body, features))


def test_without_a_norm_all_parameters_learn_at_once() -> None:
    torch.manual_seed(0)
    network = Dagn(replace(SMALL, norm="none"))
    restorer = [*network.stages, *network.encoder_scales, network.bottleneck]
    assert not any(isinstance(m, nn.BatchNorm2d) for part in restorer for m in part.modules())
    network(torch.rand(1, 3, 32, 32)).square().mean().backward()
    for part in restorer:
        for parameter in part.parameters():
            assert parameter.grad is not None
            assert parameter.grad.abs().max() > 0


# --- the detail -------------------------------------------------------------------------------------------------


def test_detail_is_what_the_block_means_do_not_show() -> None:
    detail = Detail().double()
    flat = torch.rand(2, 3, 1, 1, dtype=torch.float64).expand(2, 3, 32, 24)
    assert detail(flat).abs().max() < 1e-12

    image = torch.rand(1, 3, 24, 40, dtype=torch.float64)
    planes = ycc_from_rgb(255 * image[0].permute(1, 2, 0).float().numpy()) / 255
    for plane, gain, seen in zip(np.moveaxis(planes, 2, 0), DETAIL_GAIN, detail(image)[0], strict=True):
        means = plane.reshape(3, 8, 5, 8).mean((1, 3))
        # Pillow's bilinear enlargement has the same sample positions and the same ends.
        smooth = np.asarray(Image.fromarray(means.astype(np.float32)).resize((40, 24), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(seen.numpy(), (plane - smooth) * gain, atol=2e-4)


def test_detail_takes_a_change_of_planes_back_to_rgb() -> None:
    detail = Detail().double()
    image, change = torch.rand(2, 2, 3, 8, 8, dtype=torch.float64)
    planes = functional.conv2d(image + detail.rgb(change), detail.to_ycbcr)
    torch.testing.assert_close(planes, functional.conv2d(image, detail.to_ycbcr) + change, rtol=0, atol=1e-6)


def test_brightness_does_not_matter_to_a_network_that_sees_detail() -> None:
    network = small_dagn(replace(SMALL, input="detail", stem=2)).eval()
    image = 0.25 + 0.5 * images(1, 3, 32, 32)
    with torch.no_grad():
        guidance = network.guide(image)
        change = network.restore(image, guidance) - image
        brighter = network.restore(image + 0.2, guidance) - (image + 0.2)
    torch.testing.assert_close(brighter, change, rtol=0, atol=1e-5)


def test_stages_see_the_finer_scale_if_skips_join_after_the_upsampling() -> None:
    """What the encoder's first scale makes reaches the last stage's blocks, not the tail alone."""
    seen = {}
    for skips in ("before", "after"):
        network = small_dagn(replace(SMALL, skips=skips)).eval()
        inputs: list[Tensor] = []
        network.stages[-1].get_submodule("sensitive.0").register_forward_hook(
            lambda _m, a, _o, i=inputs: i.append(a[0])
        )
        image = images(1, 3, 32, 32)
        with torch.no_grad():
            guidance = network.guide(image)
            network.restore(image, guidance)
            network.get_parameter("downs.0.weight").zero_()  # from the first scale on, only the skip goes further
            network.restore(image, guidance)
            network.get_parameter("head.weight").zero_()
            network.restore(image, guidance)
        seen[skips] = float((inputs[2] - inputs[1]).abs().max())
    assert seen["before"] < 1e-6
    assert seen["after"] > 1e-3


# --- fusion -----------------------------------------------------------------------------------------------------


def average_cells(features: Tensor, size: int) -> Tensor:
    """Means over a ``size`` x ``size`` grid of cells that cover ``(C, H, W)``, as ``(C, size * size)``."""
    _, height, width = features.shape
    cells = []
    for row in range(size):
        for column in range(size):
            top, bottom = row * height // size, math.ceil((row + 1) * height / size)
            left, right = column * width // size, math.ceil((column + 1) * width / size)
            cells.append(features[:, top:bottom, left:right].mean((1, 2)))
    return torch.stack(cells, dim=1)


@pytest.mark.parametrize(("height", "width"), [(128, 128), (96, 176), (48, 64)])
def test_fusion_is_eq_10(height: int, width: int) -> None:
    """C3(F_bf) x Pool(C1(F_cif)) x Pool(C2(F_cif))^T + F_bf^T, positions as rows, over the mean of the 85 tokens."""
    network = small_dagn().double().eval()
    for conv in (network.fusion_matrix.conv1, network.fusion_matrix.conv2, network.fusion_conv3):
        nn.init.normal_(conv.weight)
        assert conv.bias is not None
        nn.init.normal_(conv.bias)
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda _module, arguments, output: seen.update({name: output, f"into {name}": arguments[0]})

    network.insensitive_encoder.register_forward_hook(keep("insensitive"))
    network.encoder_scales[-1].register_forward_hook(keep("base"))
    network.bottleneck.register_forward_hook(keep("bottleneck"))
    with torch.no_grad():
        network(images(2, 3, height, width).double())
        for n in range(2):
            cif, bf = seen["insensitive"][n], seen["base"][n]
            conv1, conv2, conv3 = (
                functional.conv2d(x[None], conv.weight, conv.bias)[0]
                for x, conv in (
                    (cif, network.fusion_matrix.conv1),
                    (cif, network.fusion_matrix.conv2),
                    (bf, network.fusion_conv3),
                )
            )
            pool1, pool2 = (torch.cat([average_cells(x, k) for k in (1, 2, 4, 8)], dim=1) for x in (conv1, conv2))
            assert pool1.shape == pool2.shape == (SMALL.bottleneck_channels, 85)
            rows = conv3.flatten(1).T  # (positions, C_b)
            fused = rows @ pool1 @ pool2.T / 85 + bf.flatten(1).T
            torch.testing.assert_close(seen["into bottleneck"][n], fused.T.reshape(bf.shape))


# --- the whole network ------------------------------------------------------------------------------------------

CONFIGS = [
    SMALL,
    replace(SMALL, scales=2),
    replace(SMALL, scales=4, blocks=1),
    replace(SMALL, stem=2),
    replace(SMALL, stem=4, scales=2),
    replace(SMALL, insensitive_guidance=False),
    replace(SMALL, sensitive_guidance=False),
    replace(SMALL, fusion=False),
    replace(SMALL, skips="after"),
    replace(SMALL, skips="after", input="detail", norm="none"),
    replace(SMALL, stated=True),
    replace(SMALL, insensitive_guidance=False, sensitive_guidance=False, fusion=False),
    replace(SMALL, insensitive_guidance=False, off="printed"),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_shapes_and_split_of_forward(config: DagnConfig) -> None:
    network = small_dagn(config).eval()
    image = images(2, 3, 3 * config.total_stride, 5 * config.total_stride)
    features = config.encoder.feature_channels
    with torch.no_grad():
        guidance, quality = network.guide_and_read(image)
        whole = network(image)
        assert whole.shape == image.shape
        assert guidance.insensitive.shape == guidance.sensitive.shape == (2, features)
        assert guidance.fusion.shape == (2, config.bottleneck_channels, config.bottleneck_channels)
        assert torch.equal(network.restore(image, guidance), whole)
    assert quality.shape == (2, 100)
    torch.testing.assert_close(quality.sum(1), torch.ones(2))


def test_what_the_file_states_shifts_the_features_once_learned() -> None:
    network = small_dagn(replace(SMALL, stated=True)).eval()
    image, stated = images(2, 3, 32, 32), torch.rand(2, STATED_FEATURES)
    assert network.stated is not None
    with torch.no_grad():
        assert torch.equal(network(image, None, stated), network(image)), "a new network does not look at it"
        nn.init.normal_(network.get_parameter("stated.2.weight"))
        assert not torch.allclose(network(image, None, stated), network(image))
        assert torch.equal(network(image, None, stated), network(image, network.guide(image, stated)))
        swapped = network(image.flip(0), None, stated.flip(0)).flip(0)
        torch.testing.assert_close(swapped, network(image, None, stated))


def test_guidance_of_a_whole_serves_a_part() -> None:
    """Guidance has no size: one image's can restore another shape."""
    network = small_dagn().eval()
    with torch.no_grad():
        guidance = network.guide(images(1, 3, 37, 51))
        assert network.restore(images(1, 3, 16, 24), guidance).shape == (1, 3, 16, 24)


def test_batch_items_do_not_touch_each_other_in_eval_mode() -> None:
    network = small_dagn().eval()
    batch = images(3, 3, 32, 32)
    with torch.no_grad():
        together = network(batch)
        alone = torch.cat([network(item[None]) for item in batch])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_untrained_network_nearly_returns_the_image() -> None:
    image = images(1, 3, 32, 32)
    with torch.no_grad():
        assert (small_dagn().eval()(image) - image).abs().max() < 0.1


def test_guiders_start_near_scale_1_and_shift_0() -> None:
    network = small_dagn()
    for guider in (network.insensitive_guider, network.sensitive_guider):
        for scale, shift in guider(torch.ones(1, SMALL.encoder.feature_channels)):
            assert (scale - 1).abs().max() < 0.05
            assert shift.abs().max() < 0.05


def test_each_guidance_reaches_its_own_blocks() -> None:
    """(epsilon, eta) go to the sensitive blocks, (beta, gamma) to the insensitive ones, the sensitive ones first."""
    network = small_dagn().eval()
    calls: list[tuple[str, int, Tensor, Tensor]] = []
    for number, stage in enumerate(network.stages):
        for kind in ("sensitive", "insensitive"):
            for block in stage.get_submodule(kind).children():
                block.register_forward_hook(
                    lambda _m, a, _o, kind=kind, number=number: calls.append((kind, number, a[1], a[2]))
                )
    image = images(1, 3, 32, 32)
    with torch.no_grad():
        guidance = network.guide(image)
        network.restore(image, guidance)
        vectors = {
            "sensitive": network.sensitive_guider(guidance.sensitive),
            "insensitive": network.insensitive_guider(guidance.insensitive),
        }
    order = [(kind, i) for i in range(2) for kind in ("sensitive", "insensitive") for _ in range(SMALL.blocks)]
    assert [(kind, number) for kind, number, _, _ in calls] == order
    for kind, number, scale, shift in calls:
        assert torch.equal(scale, vectors[kind][number][0])
        assert torch.equal(shift, vectors[kind][number][1])


# --- learning ---------------------------------------------------------------------------------------------------


def gradients(network: Dagn) -> dict[str, Tensor | None]:
    network.train()
    compressed, original = images(2, 3, 32, 32, seed=1), images(2, 3, 32, 32, seed=2)
    functional.l1_loss(network(compressed), original).backward()  # type: ignore[no-untyped-call]
    return {name: parameter.grad for name, parameter in network.named_parameters()}


FROZEN = ("insensitive_encoder.", "sensitive_encoder.", "quality_predictor.")


@pytest.mark.parametrize("stem", [1, 2])
def test_gradients_reach_every_trainable_part(stem: int) -> None:
    for name, gradient in gradients(small_dagn(replace(SMALL, stem=stem))).items():
        if name.startswith(FROZEN):
            assert gradient is None, name
        else:
            assert gradient is not None, name
            assert gradient.isfinite().all(), name
            assert gradient.any(), name


FLAGS = {
    "insensitive_guidance": (("insensitive_guider.",), "insensitive"),
    "sensitive_guidance": (("sensitive_guider.",), "sensitive"),
    "fusion": (("fusion_matrix.", "fusion_conv3."), "fusion"),
}


@pytest.mark.parametrize("flag", FLAGS)
def test_a_module_that_is_off_neither_learns_nor_acts(flag: str) -> None:
    parts, field = FLAGS[flag]
    changes: dict[str, Any] = {flag: False}
    network = small_dagn(replace(SMALL, **changes))
    for name, gradient in gradients(network).items():
        silent = name.startswith(FROZEN + parts)
        assert (gradient is None) == silent, name
        assert network.get_parameter(name).requires_grad == (not silent), name

    network.eval()
    on = small_dagn().eval()
    image = images(1, 3, 32, 32)
    with torch.no_grad():
        guidance = network.guide(image)
        noise: dict[str, Tensor] = {field: getattr(guidance, field) + 10 * torch.randn_like(getattr(guidance, field))}
        other = GuidanceTensors(**{**guidance._asdict(), **noise})
        assert torch.equal(network.restore(image, guidance), network.restore(image, other))
        assert not torch.equal(on.restore(image, guidance), on.restore(image, other))
        for name, parameter in network.named_parameters():
            if name.startswith(parts):
                nn.init.normal_(parameter)
        assert torch.equal(network.restore(image, guidance), network.restore(image, other))


def test_a_module_that_is_off_as_printed_adds_its_ones() -> None:
    """(O, J): sensitive blocks as without guidance; of the insensitive ones each adds one, its convolutions nothing."""
    config = replace(SMALL, insensitive_guidance=False, sensitive_guidance=False, off="printed")
    network = small_dagn(config)
    for name, gradient in gradients(network).items():
        silent = name.startswith((*FROZEN, "insensitive_guider.", "sensitive_guider.")) or ".insensitive." in name
        assert (gradient is None) == silent, name
    stage = network.eval().stages[0]
    assert isinstance(stage, GuidedStage)
    channels = config.stage_channels[0]
    features, skip = torch.rand(2, 1, 2 * channels, 4, 4)
    one, zero = torch.ones(()), torch.zeros(())
    seen = []
    hook = stage.register_forward_hook(lambda _module, given, _out: seen.append(given[2:]))
    network(images(1, 3, 32, 32))
    hook.remove()
    assert seen == [((one, zero), (zero, one))]
    with torch.no_grad():
        x = stage.up(features + skip)
        for block in stage.sensitive:
            x = block(x, one, zero)
        torch.testing.assert_close(stage(features, skip, (one, zero), (zero, one)), x + config.blocks)


def test_encoders_stay_frozen_while_the_restorer_learns() -> None:
    network = small_dagn()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.1)
    for step in range(3):
        network.train()
        functional.l1_loss(network(images(2, 3, 32, 32, seed=step)), images(2, 3, 32, 32, seed=9)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    assert network.training
    assert not network.insensitive_encoder.training
    assert network.bottleneck.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith(FROZEN), name


def test_encoders_are_frozen_from_the_start() -> None:
    network = small_dagn()
    before = {name: value.clone() for name, value in network.insensitive_encoder.state_dict().items()}
    network(images(2, 3, 32, 32))
    assert network.training
    for name, value in network.insensitive_encoder.state_dict().items():
        assert torch.equal(value, before[name]), name


# --- configuration ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [("width", 0), ("width", -8), ("blocks", 0), ("stem", 0), ("encoder_width", 0), ("scales", 1), ("scales", 0)],
)
def test_config_rejects_bad_values(name: str, value: int) -> None:
    changes: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=name):
        DagnConfig(**changes)


def test_config_rejects_unknown_keys() -> None:
    changes: dict[str, Any] = {"depth": 3}
    with pytest.raises(TypeError, match="depth"):
        DagnConfig(**changes)


def test_networks_load_no_decoder(child_environment: dict[str, str]) -> None:
    """They compute on tensors: what reads files is for others to load."""
    code = """
import sys
import unjpeg.models, unjpeg.models.exported
print(sorted({"PIL", "jpeglib", "simplejpeg", "unjpeg.jpeg", "unjpeg.picture"} & sys.modules.keys()))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=child_environment
    )
    assert ran.stdout == "[]\n"
