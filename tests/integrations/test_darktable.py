"""The folder for darktable-ai: what its pipeline calls, and the graph as darktable's tiles call it."""

from __future__ import annotations

import importlib.util
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from jpegs import decoded, encoded, picture

pytest.importorskip("onnx", reason="needs the extra: export")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra: onnxruntime")

FOLDER = Path(__file__).parents[2] / "integrations" / "darktable" / "unjpeg-fast"
OVERLAP = 64
"""darktable's, of its task "denoise"."""


def import_script(name: str) -> Any:
    """As the pipeline does."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_plain_values(text: str) -> dict[str, str]:
    """The mapping's scalar values: all that the file needs of YAML."""
    return dict(re.findall(r'^(\w+): "?([^"\n]+?)"?$', text, re.MULTILINE))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pipeline's step makes."""
    text = (FOLDER / "model.yaml").read_text(encoding="utf-8")
    script, arguments = re.search(r"- script: (\S+)\n {4}args:\n((?: {6}.*\n?)+)", text).groups()  # type: ignore[union-attr]
    output = tmp_path_factory.mktemp("output")
    named = {key: value.format(output=output) for key, value in re.findall(r'(\w+): "([^"]*)"', arguments)}
    import_script(script.removesuffix(".py")).convert(**named)
    return output / "model.onnx"


def test_the_description_is_what_darktable_reads() -> None:
    values = read_plain_values((FOLDER / "model.yaml").read_text(encoding="utf-8"))
    config = import_script("convert").CONFIG
    assert {key: values[key] for key in ("id", "name", "description", "task", "arch")} == {
        key: config[key] for key in ("id", "name", "description", "task", "arch")
    }
    assert (values["type"], values["tiling"], config["tiling"], config["backend"]) == ("single", "true", True, "onnx")
    assert values["task"] == "denoise"  # one of darktable's: pictures of the same size


def linear_of(srgb: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


def srgb_of(linear: NDArray[np.float32]) -> NDArray[np.float32]:
    gamma = 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, 12.92 * np.maximum(linear, 0), gamma).astype(np.float32)


def run_as_darktable(
    session: Any, linear: NDArray[np.float32], tile: int, start: tuple[int, int] = (0, 0)
) -> NDArray[np.float32]:
    """Linear light in and out, ``(H, W, 3)``: mirrored at the edges, tiles of one size, overlaps thrown away.

    Args:
        start: of the first tile's kept part, 0 or less.
    """
    height, width = linear.shape[:2]
    step = tile - 2 * OVERLAP
    pad = tile
    around = np.pad(linear, ((pad, pad), (pad, pad), (0, 0)), "reflect")
    out = np.zeros_like(around)
    for top in range(start[0], height, step):
        for left in range(start[1], width, step):
            y, x = top - OVERLAP + pad, left - OVERLAP + pad
            seen = srgb_of(around[y : y + tile, x : x + tile]).transpose(2, 0, 1)[None]
            made = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(seen)})[0]
            kept = made[0, :, OVERLAP:-OVERLAP, OVERLAP:-OVERLAP].transpose(1, 2, 0)
            out[top + pad : top + pad + step, left + pad : left + pad + step] = linear_of(kept)
    return out[pad : pad + height, pad : pad + width]


def open_session(graph: Path, tile: int | None = None) -> Any:
    """As darktable does, with the sizes fixed by their names."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for name in ("height", "width"):
        if tile:
            options.add_free_dimension_override_by_name(name, tile)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def test_darktable_s_tiles_give_the_whole_picture(graph: Path) -> None:
    pixels = decoded(encoded(picture(280, 300), quality=20)).astype(np.float32) / np.float32(255)
    session = open_session(graph)
    whole = session.run(None, {"input": pixels.transpose(2, 0, 1)[None]})[0][0].transpose(1, 2, 0)
    tiled = srgb_of(run_as_darktable(open_session(graph, 256), linear_of(pixels), 256))
    assert 255 * np.abs(whole - pixels).max() > 2
    apart = 255 * np.abs(tiled - whole)
    assert apart[96:200, 96:200].max() < 1  # near its edges darktable mirrors, and the grid does not go on there


def test_the_demo_cuts_as_darktable_does(graph: Path, tmp_path: Path) -> None:
    demo = import_script("demo")
    assert demo.OVERLAP == OVERLAP
    Image.fromarray(picture(200, 150)).save(tmp_path / "a.jpg", quality=20)
    demo.demo(model=str(graph), image=str(tmp_path / "a.jpg"), output=str(tmp_path / "out" / "a.png"), tile=256)
    made = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    pixels = np.asarray(Image.open(tmp_path / "a.jpg").convert("RGB"), np.float32) / np.float32(255)
    as_darktable = srgb_of(run_as_darktable(open_session(graph), linear_of(pixels), 256)) * 255
    assert np.abs(made - as_darktable).max() < 1


@pytest.mark.parametrize("length", [1, 2, 5, 300])
def test_mirrored_places_stay_in_the_picture(length: int) -> None:
    mirror: Callable[..., Any] = import_script("demo")._mirror
    places = mirror(np.arange(-64, length + 64), length)
    assert places.min() >= 0
    assert places.max() < length
    np.testing.assert_array_equal(places[64 : 64 + length], np.arange(length))


def test_an_archive_for_darktable_s_preferences(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = import_script("convert")
    target = tmp_path / "a.dtmodel"
    monkeypatch.setattr("sys.argv", ["convert.py", "--output", str(target), "--model", str(tiny_model)])
    convert.main()
    with zipfile.ZipFile(target) as archive:
        name = convert.CONFIG["id"]
        assert sorted(archive.namelist()) == [f"{name}/config.json", f"{name}/model.onnx"]
        assert json.loads(archive.read(f"{name}/config.json")) == convert.CONFIG
        (tmp_path / "model.onnx").write_bytes(archive.read(f"{name}/model.onnx"))
    assert [one.name for one in open_session(tmp_path / "model.onnx").get_inputs()] == ["input"]


@pytest.mark.parametrize("tile", [0, 100, 128, 250])
def test_tiles_that_keep_nothing_or_miss_the_blocks_are_refused(tile: int) -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        import_script("demo").restore_tiled(None, np.zeros((8, 8, 3), np.float32), tile)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--output", "a.zip"], ".onnx or .dtmodel"),
        (["--output", "a.onnx", "--quality", "300"], "1..100"),
        (["--output", "a.dtmodel", "--model", "nowhere.unjpeg"], "nowhere.unjpeg"),
    ],
)
def test_what_cannot_be_made_is_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["convert.py", *arguments])
    with pytest.raises(SystemExit):
        import_script("convert").main()
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
