"""Pictures made from formulas, a small model, the folder of test data, and one thread for torch."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from PIL import Image

from unjpeg.modelfile import ModelFile
from unjpeg.network import Guidance, Model
from unjpeg.precision import Choice
from unjpeg.restorer import Restorer

if TYPE_CHECKING:
    from torch import Tensor

    from trainings import Train
    from unjpeg.train.run import TrainingImages

# The same examples on every run: a test that fails only now and then tells nobody what broke it. Other examples:
# pytest --hypothesis-profile=random
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("random", deadline=None)
settings.load_profile("repeatable")

HAS_TORCH = importlib.util.find_spec("torch") is not None

NEED_TORCH = (
    "adapt",
    "evaluate/test_networks.py",
    "models",
    "studies/test_ablation.py",
    "studies/test_carn_recipes.py",
    "studies/test_carn_tables.py",
    "studies/test_complexity.py",
    "studies/test_decoupling.py",
    "studies/test_noise.py",
    "studies/test_windowed.py",
    "test_settings.py",
    "train",
)
collect_ignore = [] if HAS_TORCH else list(NEED_TORCH)

PICTURE_SIZES = ((72, 104), (96, 64), (65, 83), (48, 48), (128, 80), (80, 120))
"""Height and width of the pictures in ``image_folder``."""


def synthetic_photo(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """A picture with what photographs have: soft light, an edge, a fine texture, grain. ``(height, width, 3)``."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    light = 0.5 + 0.25 * np.sin(2 * np.pi * (rng.random() + x)) * np.cos(np.pi * (rng.random() + y))
    disc = np.hypot(x - rng.uniform(0.3, 0.7), y - rng.uniform(0.3, 0.7)) < 0.25
    stripes = 0.08 * np.sin(2 * np.pi * (0.11 * width * x + 0.07 * height * y)) * (y > 0.5)
    channels = [
        light + rng.uniform(-0.3, 0.3) * disc + stripes * rng.uniform(0.5, 1) + rng.uniform(-0.15, 0.15)
        for _ in range(3)
    ]
    picture = np.stack(channels, axis=2) + rng.normal(0, 0.015, (height, width, 1))
    return (picture * 255).round().clip(0, 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def _subnormal_floats() -> None:
    """Trainings flush them to zero, for the whole process; hypothesis will not draw floats there."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_flush_denormal(False)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch = sys.modules.get("torch")  # the tests that use it have imported it; the others are spared the wait
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled graphs are kept for these tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test gets does not hang on how busy the machine is: measurements end with the fixed default."""

    def untimed(_file: ModelFile, _candidates: object, unmeasured: Choice) -> Choice:
        return replace(unmeasured, why="measured")

    monkeypatch.setattr("unjpeg.precision._measure", untimed)


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """A model file of 0.4 MB, hardly trained: it moves pixels by less than one level."""
    return Path(__file__).parent / "data" / "tiny.unjpeg"


@pytest.fixture(scope="session")
def rounded_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with an int8 graph."""
    pytest.importorskip("torch", reason="needs the extra: train")
    from unjpeg.train.int8 import round_file

    crops = [synthetic_photo(64, 64, seed) for seed in range(3)]
    path = tmp_path_factory.mktemp("rounded") / "rounded.unjpeg"
    round_file(ModelFile.read(tiny_model), crops, photographs_db=1, worst_db=1).write(path)
    return path


@pytest.fixture(scope="session")
def tiny_restorer(tiny_model: Path) -> Restorer:
    """A restorer of that model in the default runtime, computing in float32 on whatever processor."""
    return Restorer(tiny_model, precision="full")


@pytest.fixture(scope="session")
def lively_restorer(tiny_model: Path) -> Restorer:
    """The same with its changes made twenty times as large, so that a test can see them."""
    restorer = Restorer(tiny_model, precision="full")
    plain = restorer.model.restore

    def exaggerated(tile: NDArray[np.float32], guidance: Guidance) -> NDArray[np.float32]:
        return tile + np.float32(20) * (plain(tile, guidance) - tile)

    restorer.model.restore = exaggerated  # type: ignore[method-assign]
    return restorer


@pytest.fixture(scope="session")
def child_environment() -> dict[str, str]:
    """For processes of their own: they find the package where this one does."""
    root = Path(__file__).parents[1]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}


@pytest.fixture(scope="session")
def kitten() -> Path:
    """A real photograph of 720x560 pixels, a JPEG of quality 12."""
    return Path(__file__).parents[1] / "examples" / "kitten.jpg"


@pytest.fixture
def photo() -> NDArray[np.uint8]:
    """A small picture, sides no multiples of 8."""
    return synthetic_photo(100, 149, seed=0)


@pytest.fixture(scope="session")
def pictures() -> list[NDArray[np.uint8]]:
    """Six small pictures of different shapes."""
    return [synthetic_photo(height, width, seed) for seed, (height, width) in enumerate(PICTURE_SIZES)]


@pytest.fixture
def image_folder(tmp_path: Path, pictures: list[NDArray[np.uint8]]) -> Path:
    """The six pictures as PNG files ``picture-0.png`` to ``picture-5.png``."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"picture-{number}.png")
    return folder


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with the training and test sets: ``$UNJPEG_DATA``, or ``shared/data`` beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("UNJPEG_DATA", beside))
    if not root.is_dir():
        pytest.skip(f"no data sets in {root}; set UNJPEG_DATA to their folder")
    return root


@pytest.fixture
def originals(tmp_path: Path) -> Path:
    """A folder of three small pictures, to be measured."""
    folder = tmp_path / "originals"
    folder.mkdir()
    for number, size in enumerate(((48, 64), (40, 56), (64, 48))):
        Image.fromarray(synthetic_photo(*size, number)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def training_images(tmp_path_factory: pytest.TempPathFactory, pictures: list[NDArray[np.uint8]]) -> TrainingImages:
    """The six pictures, half of them held out."""
    from trainings import open_training_images

    folder = tmp_path_factory.mktemp("pictures")
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"picture-{number}.png")
    return open_training_images(folder, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def train_stage1(training_images: TrainingImages) -> Train:
    from trainings import run_stage1

    return partial(run_stage1, training_images)


@pytest.fixture(scope="session")
def encoders() -> dict[str, Tensor]:
    """Stage 1's result before its first step, by the network's names."""
    from trainings import fresh_encoders

    return fresh_encoders()


@pytest.fixture(scope="session")
def train_stage2(training_images: TrainingImages, encoders: dict[str, Tensor]) -> Train:
    from trainings import run_stage2

    return partial(run_stage2, training_images, encoders)


@pytest.fixture(scope="session")
def stage1_and_log(train_stage1: Train, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """The checkpoint of an uninterrupted stage 1, and the figures that it logged last."""
    from trainings import recorded_log, small_recipe

    with pytest.MonkeyPatch.context() as patch:
        log = recorded_log(patch)
        return train_stage1(small_recipe(), tmp_path_factory.mktemp("stage1")), log


@pytest.fixture(scope="session")
def stage1(stage1_and_log: tuple[Path, dict[str, float]]) -> Path:
    """The checkpoint of an uninterrupted stage 1."""
    return stage1_and_log[0]


@pytest.fixture(scope="session")
def stage2(train_stage2: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of an uninterrupted stage 2."""
    from trainings import small_recipe

    return train_stage2(small_recipe(), tmp_path_factory.mktemp("stage2"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which a test fails that runs the network."""

    def called(*args: object) -> None:
        raise AssertionError("the network ran")

    for name in ("__init__", "guide", "restore"):
        monkeypatch.setattr(Model, name, called)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


# The page: a server of its own, and a browser


BROWSER_PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def address(child_environment: dict[str, str]) -> Iterator[str]:
    """Of a server of its own, with the shipped models."""
    program = [sys.executable, "-m", "unjpeg", "serve", "--port", "0"]
    with subprocess.Popen(program, env=child_environment, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        found = re.search(r"http://\S+/", server.stderr.readline())
        assert found is not None
        yield found[0]
        server.terminate()
        assert "Traceback" not in server.stderr.read()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import expect, sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium here; Debian's package is called so")
    expect.set_options(timeout=BROWSER_PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page, opened; nothing may go elsewhere, and nothing may go wrong in its script."""
    context = browser.new_context(**getattr(request, "param", {"viewport": {"width": 1280, "height": 800}}))
    context.set_default_timeout(BROWSER_PATIENCE_MS)
    page = context.new_page()
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if "Content Security" in message.text else None)
    page.goto(address)
    yield page
    context.close()
    elsewhere = [url for url in asked if not url.startswith(("blob:", address))]
    assert (elsewhere, wrong) == ([], [])
