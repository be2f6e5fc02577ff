"""The weights that ship: what they must be able to do, on the bundled picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import unjpeg
from unjpeg.modelfile import ModelFile, shipped_models
from unjpeg.network import Model
from unjpeg.picture import read_picture
from unjpeg.restorer import Restorer
from unjpeg.tiling import guide_windows

EXAMPLES = Path(__file__).parent.parent / "examples"
MAX_TOTAL_BYTES = 28_000_000


@pytest.fixture(scope="module")
def default() -> Restorer:
    return Restorer("default")


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(a.astype(float) - b).mean()))


def test_shipped_files_are_small_and_whole() -> None:
    files = shipped_models()
    assert {"default", "fast"} <= set(files)
    assert sum(file.stat().st_size for file in files.values()) < MAX_TOTAL_BYTES
    for name in files:
        assert ModelFile.read(name).description.name == name


@pytest.mark.parametrize(("name", "most"), [("fast", 6e9), ("default", 70e9)])
def test_models_are_within_their_cost(name: str, most: float) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from unjpeg.models import Dagn, DagnConfig

    file = ModelFile.read(name)
    side = file.description.guide_window
    picture = np.zeros((512, 512, 3), np.uint8)
    windows = len(list(guide_windows(picture, side, file.description.guide_windows)))
    with torch.device("meta"):
        network = Dagn(DagnConfig(**file.description.network)).eval()
        image = torch.empty(1, 3, 512, 512)
    with FlopCounterMode(display=False) as restoring, torch.no_grad():
        network.restore(image, network.guide(image[..., :side, :side]))
    with FlopCounterMode(display=False) as guiding, torch.no_grad():
        network.guide(image[..., :side, :side])
    assert (restoring.get_total_flops() + (windows - 1) * guiding.get_total_flops()) / 2 <= most


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_shipped_weights_load_back_into_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    from unjpeg.models import GuidanceTensors
    from unjpeg.models.exported import load_exported

    network = load_exported(ModelFile.read(name))
    model = Model(ModelFile.read(name), precision="full")
    window = model.guide_window
    windows = np.random.default_rng(0).random((1, 3, window, window), np.float32)
    with torch.no_grad():
        theirs = network.guide(torch.from_numpy(windows))
        restored = network.restore(torch.from_numpy(windows), GuidanceTensors(*theirs))
    ours = model.restore(windows, model.guide(windows))
    np.testing.assert_allclose(ours, restored, atol=1 / 255)


def test_integers_change_little(kitten: Path) -> None:
    """Thousandths of a decibel: docs/research/training-log.md."""
    picture = read_picture(kitten)
    outputs = [Restorer("default", precision=p).run_network(picture).layers[0] for p in ("full", "int8")]
    change = float(np.sqrt(np.square(outputs[0] - outputs[1]).mean()))
    assert 0 < change < 0.5


@pytest.mark.parametrize(("name", "gain_db"), [("fast", 0.5), ("default", 0.7)])
def test_the_bundled_picture_gets_better_and_stays_consistent(name: str, gain_db: float) -> None:
    original = np.asarray(Image.open(EXAMPLES / "kitten-original.webp").convert("RGB"))
    decoded = np.asarray(Image.open(EXAMPLES / "kitten.jpg"))
    restored = Restorer(name).restore(EXAMPLES / "kitten.jpg")
    assert psnr_db(restored.pixels, original) > psnr_db(decoded, original) + gain_db
    assert restored.report.projected
    assert unjpeg.verify(EXAMPLES / "kitten.jpg", restored.pixels).is_consistent


def test_lower_quality_smooths_more(default: Restorer) -> None:
    def roughness(quality: int) -> float:
        pixels = default.restore(EXAMPLES / "kitten.jpg", quality=quality, consistency="off").pixels.astype(float)
        return float(np.abs(np.diff(pixels, axis=0)).mean() + np.abs(np.diff(pixels, axis=1)).mean())

    values = [roughness(quality) for quality in (5, 10, 20, 40, 80)]
    assert values == sorted(values)


@pytest.mark.parametrize("quality", [10, 20, 40, 60, 80, 95])
def test_quality_is_read_from_the_pixels(default: Restorer, quality: int) -> None:
    from unjpeg.evaluate.pairs import encode_jpeg

    original = np.asarray(Image.open(EXAMPLES / "kitten-original.webp").convert("RGB"))
    read = default.guide(read_picture(encode_jpeg(original, quality))).quality
    assert abs(read - quality) <= 15


def test_best_is_the_mean_over_the_flips_of_default(kitten: Path) -> None:
    with Image.open(kitten) as image:
        crop = np.asarray(image.convert("RGB"))[:96, :96]
    default, best = (Restorer(name, precision="full") for name in ("default", "best"))
    assert best.model_file.description.name == "best"
    assert best.model_file.hash != default.model_file.hash  # what is resumed or cached under one is not the other's
    ours = best.restore(crop)
    assert (ours.report.model, ours.report.tta) == ("best", True)
    windows = crop.transpose(2, 0, 1)[None].astype(np.float32) / 255
    guidance = default.guide(read_picture(crop))
    flips = [(slice(None, None, down), slice(None, None, across)) for down in (1, -1) for across in (1, -1)]
    each = [default.model.restore(np.ascontiguousarray(windows[..., *flip]), guidance)[..., *flip] for flip in flips]
    mean = np.mean(each, axis=0)[0].transpose(1, 2, 0) * 255
    np.testing.assert_allclose(best.run_network(read_picture(crop)).layers[0], mean, atol=1e-3)
    eight = default.restore(crop, tta=True).pixels
    assert not np.array_equal(eight, ours.pixels)
    np.testing.assert_array_equal(best.restore(crop, tta=True).pixels, eight)
