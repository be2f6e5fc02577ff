"""The recipes run as they stand, and do what they say."""

from __future__ import annotations

import importlib.util
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import unjpeg
from jpegs import encoded, picture

PAGE = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")


def recipes() -> list[tuple[str, str]]:
    """Of each block the heading above it, numbered, and the program."""
    found: list[tuple[str, str]] = []
    for section in PAGE.split("\n## ")[1:]:
        heading = section.partition("\n")[0]
        blocks = re.findall(r"^```python\n(.*?)^```$", section, re.M | re.S)
        found += [(f"{heading} {number}", block) for number, block in enumerate(blocks, 1)]
    return found


def stand_in_for_opencv() -> ModuleType:
    """Three of its names: pictures are arrays ``(H, W, 3)`` in the order blue, green, red."""
    module = ModuleType("cv2")

    def imread(name: str, flags: int = 1) -> NDArray[np.uint8]:
        assert flags == 1
        return np.asarray(read(name).convert("RGB"))[..., ::-1].copy()

    def imwrite(name: str, pixels: NDArray[np.uint8]) -> bool:
        assert pixels.flags.c_contiguous
        Image.fromarray(pixels[..., ::-1]).save(name)
        return True

    vars(module).update(imread=imread, imwrite=imwrite, IMREAD_COLOR=1)
    return module


def read(name: str) -> Image.Image:
    """Of a file that is closed again."""
    with Image.open(name) as image:
        image.load()
    return image


def restored_file() -> NDArray[Any]:
    return unjpeg.restore("photo.jpg").pixels


def check_opencv_file(_: dict[str, Any]) -> None:
    np.testing.assert_array_equal(np.asarray(read("by-opencv.png")), restored_file())


def check_opencv_frame(names: dict[str, Any]) -> None:
    frame = np.ascontiguousarray(names["cv2"].imread("photo.jpg")[..., ::-1])
    np.testing.assert_array_equal(names["frame"][..., ::-1], unjpeg.restore(frame).pixels)


def check_pillow(names: dict[str, Any]) -> None:
    np.testing.assert_array_equal(np.asarray(names["restored"]), restored_file())  # as the file, not by its pixels
    assert read("small.png").size == (44, 64)  # upright


def check_kept(_: dict[str, Any]) -> None:
    assert read("kept.png").getexif()[0x0112] == 6


def check_floats(names: dict[str, Any]) -> None:
    np.testing.assert_allclose(names["values"] * 255, restored_file(), atol=0.51)
    assert len(np.unique(names["values"])) > 256


def check_bytes(names: dict[str, Any]) -> None:
    with Image.open(io.BytesIO(names["result"])) as image:
        assert (image.format, image.size) == ("WEBP", (104, 72))
    with pytest.raises(unjpeg.UnjpegError):
        names["restore_bytes"](b"no picture")


def check_worth(_: dict[str, Any]) -> None:
    assert sorted(path.name for path in Path().glob("*.webp")) == ["photo.jpg.webp"]


def check_several(names: dict[str, Any]) -> None:
    first, second, missing = names["results"]
    assert (first.report.name, second.report.name) == ("photo.jpg", "other.jpg")
    assert isinstance(missing, unjpeg.BadImageError)


def check_cancelled(names: dict[str, Any]) -> None:
    """A task that is cancelled while its picture is at work ends the thread with it."""
    import asyncio
    import threading

    raised = []
    started = threading.Event()

    class Slow:
        def restore(self, name: str, *, progress: Callable[[float], None]) -> None:
            started.set()
            try:
                while True:
                    progress(0.5)
            except InterruptedError as error:
                raised.append(str(error))
                raise

    async def cancel() -> None:
        task = asyncio.create_task(names["restore"]("photo.jpg"))
        await asyncio.to_thread(started.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert names["restored"].report.name == "photo.jpg"
    names["restorer"] = Slow()
    asyncio.run(cancel())  # waits for the thread
    assert raised == ["photo.jpg"]


CHECKS = {
    "OpenCV 1": check_opencv_file,
    "OpenCV 2": check_opencv_frame,
    "Pillow 1": check_pillow,
    "Pillow 2": check_kept,
    "Floating point 1": check_floats,
    "Bytes in, bytes out 1": check_bytes,
    "Only what is worth it 1": check_worth,
    "Async 1": check_several,
    "Async 2": check_cancelled,
}


def test_every_recipe_is_checked() -> None:
    assert [name for name, _ in recipes()] == list(CHECKS)


@pytest.mark.parametrize(("name", "program"), recipes(), ids=[name for name, _ in recipes()])
def test_recipes_do_what_they_say(name: str, program: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    exif = b"" if name.startswith("OpenCV") else turned.tobytes()  # which turns what it reads
    Path("photo.jpg").write_bytes(encoded(picture(72, 104), quality=20, exif=exif))
    Path("other.jpg").write_bytes(encoded(picture(72, 104, seed=1), quality=97))
    if importlib.util.find_spec("cv2") is None:
        monkeypatch.setitem(sys.modules, "cv2", stand_in_for_opencv())
    names: dict[str, Any] = {"__name__": "recipe"}
    exec(compile(program, name, "exec"), names)
    CHECKS[name](names)
