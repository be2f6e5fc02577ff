"""Networks in torch under windows' guidance: what a model file gives, and what none can hold."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from conftest import synthetic_photo
from studies.dagn.windowed import WindowedDagn
from unjpeg.evaluate.method import Method
from unjpeg.evaluate.methods import UnjpegModel
from unjpeg.models import Dagn, DagnConfig
from unjpeg.models.exported import load_exported
from unjpeg.train.degrade import compress_jpeg
from unjpeg.train.export import export_network
from unjpeg.train.run import to_unit_range

PLAIN = DagnConfig(width=4, scales=3, blocks=1, encoder_width=2)


def make_file(pixels: NDArray[np.uint8], quality: int = 20) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def make_network(config: DagnConfig) -> Dagn:
    """One whose guidance does something: all of it is random, and its change is of some levels."""
    torch.manual_seed(0)
    network = Dagn(config).eval()
    for guider in (network.insensitive_guider, network.sensitive_guider):
        last = guider.mlp[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=0.3)
    nn.init.normal_(network.tail.weight, std=0.05)
    nn.init.normal_(network.fusion_matrix.conv2.weight, std=0.3)
    nn.init.normal_(network.fusion_conv3.weight, std=0.3)
    return network


def open_method(config: DagnConfig, window: int = 32) -> Method:
    return WindowedDagn(make_network(config), window, "toy")


@pytest.mark.parametrize("config", [PLAIN, replace(PLAIN, stated=True)], ids=["plain", "told"])
def test_it_is_what_a_model_file_gives(config: DagnConfig, tmp_path: Path) -> None:
    """So figures of either stand side by side."""
    network = make_network(config)
    features = np.zeros((11, config.encoder.feature_channels), np.float32)
    file = export_network(
        network,
        tmp_path / "toy.unjpeg",
        name="toy",
        guide_window=32,
        quality_features=features,
        training={},
        validation={},
    )
    stored = load_exported(file)  # weights rounded as in the file
    exported = UnjpegModel(tmp_path / "toy.unjpeg", "off", precision="full")
    for pixels in (synthetic_photo(83, 130, 0), synthetic_photo(40, 24, 1)[..., 0]):
        jpeg = make_file(pixels)
        ours, theirs = (method.restore(jpeg).astype(int) for method in (WindowedDagn(stored, 32, ""), exported))
        assert ours.shape == theirs.shape == pixels.shape
        assert np.abs(ours - theirs).max() <= 1
        assert np.abs(ours - np.asarray(Image.open(io.BytesIO(jpeg)))).max() >= 3


@pytest.mark.parametrize("changes", [{"fusion_kind": "softmax"}, {"insensitive_features": "map"}], ids=str)
@pytest.mark.parametrize("shape", [(48, 64), (50, 71), (24, 90)])
def test_odd_sizes_and_grey(changes: dict[str, str], shape: tuple[int, int]) -> None:
    method = open_method(replace(PLAIN, **changes))  # type: ignore[arg-type]
    pixels = synthetic_photo(*shape, 3)
    assert method.restore(make_file(pixels)).shape == pixels.shape
    assert method.restore(make_file(pixels[..., 0])).shape == shape


def test_a_picture_of_one_window_is_a_patch_as_in_training() -> None:
    config = replace(PLAIN, fusion_kind="softmax", insensitive_features="map")
    network = make_network(config)
    pixels = compress_jpeg(synthetic_photo(32, 32, 5), 20)
    with torch.no_grad():
        image = to_unit_range(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])
        expected = (network(image)[0].permute(1, 2, 0).numpy() * 255).round().clip(0, 255)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    restored = WindowedDagn(network, 32, "").restore(buffer.getvalue())
    assert np.abs(restored - expected).max() <= 1


def test_the_map_is_put_together_of_windows() -> None:
    """Each window's cells are those of the window by itself: no window sees another."""
    network = make_network(replace(PLAIN, insensitive_features="map"))
    seen: list[Tensor] = []
    network.insensitive_guider.register_forward_hook(lambda _m, given, _o: seen.append(given[0]))
    pixels = synthetic_photo(96, 70, 7)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    WindowedDagn(network, 32, "").restore(buffer.getvalue())
    (found,) = seen
    assert found.shape[2:] == (6, 5)  # 70 columns are 5 cells
    for row, column in ((0, 0), (1, 1), (2, 0)):
        window = pixels[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        with torch.no_grad():
            alone = network.insensitive_encoder(to_unit_range(torch.from_numpy(window.copy()).permute(2, 0, 1)[None]))
        torch.testing.assert_close(found[..., 2 * row : 2 * row + 2, 2 * column : 2 * column + 2], alone)


def test_a_softmax_sees_the_tokens_of_all_windows() -> None:
    network = make_network(replace(PLAIN, fusion_kind="softmax"))
    method = WindowedDagn(network, 32, "")
    pixels = synthetic_photo(64, 96, 7)
    guidance = method._guide(pixels)
    assert guidance.fusion.shape == (1, 2 * PLAIN.bottleneck_channels, 6 * 85)
    with torch.no_grad():
        last = network.guide(to_unit_range(torch.from_numpy(pixels[32:, 64:].copy()).permute(2, 0, 1)[None]))
    torch.testing.assert_close(guidance.fusion[..., 5 * 85 :], last.fusion)


@pytest.mark.parametrize("window", [0, 8, 40])
def test_windows_lie_on_the_cells(window: int) -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        open_method(PLAIN, window)
