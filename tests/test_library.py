"""The library's surface: what may be given, what results are, and that a restorer can be sent elsewhere."""

from __future__ import annotations

import copy
import io
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

import unjpeg
from jpegs import decoded, encoded, opened, picture, saved
from unjpeg.console import in_options
from unjpeg.errors import OutputError, UnjpegError
from unjpeg.modelfile import ModelFile
from unjpeg.restorer import Restorer, shared_restorer

JPEG = encoded(picture(40, 56), quality=30)


def test_a_restorer_is_pickled_by_what_it_was_made_of(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here.unjpeg").write_bytes(tiny_model.read_bytes())
    monkeypatch.chdir(tmp_path)
    for model in (tiny_model, Path("here.unjpeg"), "here.unjpeg", ModelFile.read(tiny_model)):
        restorer = Restorer(model, precision="full", threads=1)
        expected = restorer.restore(JPEG).pixels  # its graphs are let go here
        data = pickle.dumps(restorer)
        with monkeypatch.context() as patch:
            patch.chdir("/")
            again = pickle.loads(data)
        assert again.model_file.hash == restorer.model_file.hash
        np.testing.assert_array_equal(again.restore(JPEG).pixels, expected)
        np.testing.assert_array_equal(copy.deepcopy(restorer).restore(JPEG).pixels, expected)
    assert copy.copy(restorer).network is restorer.network
    assert len(pickle.dumps(Restorer(tiny_model))) < 2000


def _restored(restorer: Restorer, data: bytes) -> np.ndarray[Any, Any]:
    return restorer.restore(data).pixels


def test_a_restorer_goes_to_another_process(tiny_restorer: Restorer) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        result = pool.submit(_restored, tiny_restorer, JPEG).result()
    np.testing.assert_array_equal(result, tiny_restorer.restore(JPEG).pixels)


class PathLike:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


def test_whatever_holds_bytes_or_names_a_path(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(JPEG)
    restorer = Restorer(PathLike(tiny_model))
    expected = restorer.restore(JPEG).pixels
    stream = io.BytesIO(JPEG)
    for source in (
        bytearray(JPEG),
        memoryview(JPEG),
        memoryview(bytearray(JPEG)),
        PathLike(tmp_path / "a.jpg"),
        stream,
    ):
        np.testing.assert_array_equal(restorer.restore(source).pixels, expected)
    restored = unjpeg.restore(PathLike(tmp_path / "a.jpg"), model=PathLike(tiny_model))
    restored.save(PathLike(tmp_path / "a.png"))
    assert unjpeg.verify(PathLike(tmp_path / "a.jpg"), PathLike(tmp_path / "a.png")).is_consistent
    assert unjpeg.verify(bytearray(JPEG), memoryview((tmp_path / "a.png").read_bytes())).is_consistent
    assert unjpeg.inspect(memoryview(JPEG), model=PathLike(tiny_model)).stated_quality == 30


@pytest.mark.parametrize("kind", ["path", "stream", "loaded path"])
@pytest.mark.parametrize("sampling", ["4:2:0", "grey"])
def test_an_image_of_a_jpeg_file_is_that_file(
    kind: str, sampling: str, lively_restorer: Restorer, tmp_path: Path
) -> None:
    data = encoded(picture(40, 56), sampling, quality=30)
    (tmp_path / "a.jpg").write_bytes(data)
    image = Image.open(io.BytesIO(data) if kind == "stream" else tmp_path / "a.jpg")
    if kind == "loaded path":
        image.load()
    restored = lively_restorer.restore(image)
    expected = lively_restorer.restore(data)
    np.testing.assert_array_equal(restored.pixels, expected.pixels)
    assert (restored.report.stated_quality, restored.report.projected) == (30, True)
    np.testing.assert_array_equal(np.asarray(image), decoded(data))  # it can be used on


def edits() -> dict[str, Any]:
    def paste(image: Image.Image) -> Image.Image:
        image.paste(0, (0, 0, 3, 3))
        return image

    def draft(image: Image.Image) -> Image.Image:
        image.draft("RGB", (20, 28))
        return image

    def thumbnail(image: Image.Image) -> Image.Image:
        image.thumbnail((20, 20))
        return image

    return {
        "paste": paste,
        "draft": draft,
        "thumbnail": thumbnail,
        "resize": lambda image: image.resize((56, 40)),
        "crop": lambda image: image.crop((0, 0, 48, 40)),
        "turned": lambda image: ImageOps.mirror(image),
        "grey": lambda image: image.convert("L"),
    }


@pytest.mark.parametrize("edit", edits())
def test_an_image_that_was_changed_is_pixels(edit: str, lively_restorer: Restorer, tmp_path: Path) -> None:
    """It may still call itself a JPEG."""
    (tmp_path / "a.jpg").write_bytes(encoded(picture(80, 112), quality=30))
    image = edits()[edit](Image.open(tmp_path / "a.jpg"))
    restored = lively_restorer.restore(image)
    assert (restored.report.stated_quality, restored.report.projected) == (None, False)
    np.testing.assert_array_equal(restored.pixels, lively_restorer.restore(np.asarray(image)).pixels)


@pytest.mark.parametrize("now", [encoded(picture(40, 56, 5)), b"", b"nonsense", None])
def test_an_image_whose_file_is_another_now_is_pixels(
    now: bytes | None, tiny_restorer: Restorer, tmp_path: Path
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEG)
    image = Image.open(path)
    image.load()
    if now is None:
        path.unlink()
    else:
        path.write_bytes(now)
    assert tiny_restorer.restore(image).report.stated_quality is None


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_results_as_arrays_and_as_images(mode: str, tiny_restorer: Restorer) -> None:
    image = Image.fromarray(picture(16, 24)).convert(mode)
    restored = tiny_restorer.restore(saved(image, "PNG", dpi=(300, 300), exif=Image.Exif()))
    array = np.asarray(restored)
    assert array is restored.pixels or np.shares_memory(array, restored.pixels)
    assert np.asarray(restored, np.float32).dtype == np.float32
    assert not np.shares_memory(np.array(restored), restored.pixels)
    shown = restored.to_pil()
    assert shown.mode == mode
    np.testing.assert_array_equal(np.asarray(shown), restored.pixels)
    assert shown.info["dpi"] == pytest.approx((300, 300), abs=0.02)


def test_an_image_takes_its_metadata_along(tiny_restorer: Restorer) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    restored = tiny_restorer.restore(encoded(picture(16, 24), exif=exif, icc_profile=b"profile", comment=b"hello"))
    image = restored.to_pil()
    assert (image.getexif()[0x0112], image.info["icc_profile"], image.info["comment"]) == (6, b"profile", b"hello")
    assert opened(saved(image, "PNG", exif=image.info["exif"])).getexif()[0x0112] == 6


def test_sixteen_bits_as_an_image(tiny_restorer: Restorer) -> None:
    grey = tiny_restorer.restore(picture(16, 24)[..., 0], bit_depth=16)
    np.testing.assert_array_equal(np.asarray(grey.to_pil()), grey.pixels)
    with pytest.raises(ValueError, match="bit_depth=8"):
        tiny_restorer.restore(picture(16, 24), bit_depth=16).to_pil()


def test_messages_speak_the_language_of_who_reads_them(tiny_restorer: Restorer, tmp_path: Path) -> None:
    restored = tiny_restorer.restore(JPEG, strength=0)
    restored.save(tmp_path / "a.png")
    with pytest.raises(OutputError) as caught:
        restored.save(tmp_path / "a.png")
    message = str(caught.value)
    assert message == f"{tmp_path / 'a.png'}: exists already; pass overwrite=True to replace it"
    assert in_options(message) == f"{tmp_path / 'a.png'}: exists already; pass --overwrite to replace it"
    assert in_options('try device="cpu", or salvage=True') == "try --device cpu, or --salvage"
    assert in_options("a=True.jpg: is fine") == "a=True.jpg: is fine"
    for original, other in ((b"nonsense", JPEG), (JPEG, b"nonsense"), (JPEG, picture(8, 8)), (os.devnull, JPEG)):
        with pytest.raises(UnjpegError) as refused:
            unjpeg.verify(original, other)
        assert "--" not in str(refused.value)


# The package


def test_all_is_exact() -> None:
    assert unjpeg.__all__ == sorted(unjpeg.__all__)
    assert len(set(unjpeg.__all__)) == len(unjpeg.__all__)
    for name in unjpeg.__all__:
        assert getattr(unjpeg, name) is not None
    public = {
        name for name, value in vars(unjpeg).items() if not name.startswith("_") and not isinstance(value, type(sys))
    }
    assert public | {"__version__"} == set(unjpeg.__all__)
    from unjpeg import errors

    assert set(errors.__all__) <= set(unjpeg.__all__)


def test_the_function_keeps_its_model(tiny_model: Path) -> None:
    data = encoded(picture(24, 24), quality=20)
    first = unjpeg.restore(data, model=tiny_model, strength=0.5, quality=30, consistency="strict", bit_depth=16)
    assert (first.report.strength, first.report.guided_quality, first.report.projected) == (0.5, 30, True)
    assert first.pixels.dtype == np.uint16
    assert shared_restorer(str(tiny_model)) is shared_restorer(str(tiny_model))
    expected = Restorer(tiny_model).restore(data, strength=0.5, quality=30, consistency="strict", bit_depth=16)
    np.testing.assert_array_equal(first.pixels, expected.pixels)


def test_the_command_starts_without_what_restores(child_environment: dict[str, str]) -> None:
    program = (
        "import sys\n"
        "import unjpeg.cli\n"
        "heavy = {'numpy', 'PIL', 'jpeglib', 'simplejpeg', 'openvino', 'rich', 'ray', 'fsspec', 'pyarrow'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "import unjpeg.restorer\n"
        "print(callable(unjpeg.restore), unjpeg.restore is unjpeg.restorer.restore)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], env=child_environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines() == ["[]", "True True"]


def test_restoring_imports_no_torch(tiny_model: Path, child_environment: dict[str, str], kitten: Path) -> None:
    program = (
        "import sys, unjpeg\n"
        f"unjpeg.Restorer({str(tiny_model)!r}).restore({str(kitten)!r}, consistency='strict')\n"
        f"unjpeg.inspect({str(kitten)!r}, model={str(tiny_model)!r})\n"
        "import unjpeg.cli\n"
        "heavy = {'torch', 'lightning', 'onnx', 'onnxruntime', 'scipy', 'skimage', 'fastapi', 'uvicorn', 'pebble'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], env=child_environment, capture_output=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"[]\n", b"")
