"""What may be given, and what is refused."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jpegs import decoded, encoded, opened, picture, saved
from unjpeg.errors import BadImageError, TooLargeError, UnsupportedImageError
from unjpeg.jpeg import Limits
from unjpeg.picture import read_picture
from unjpeg.restorer import Restorer


def test_every_kind_of_file_source_gives_the_same(lively_restorer: Restorer, tmp_path: Path) -> None:
    data = encoded(picture(40, 60), quality=15)
    path = tmp_path / "holiday photo.png"  # the content decides what it is
    path.write_bytes(data)
    named = path.open("rb")
    sources: list[tuple[Any, str]] = [
        (path, str(path)),
        (str(path), str(path)),
        (data, "image"),
        (io.BytesIO(data), "stream"),
        (named, str(path)),
    ]
    results = [lively_restorer.restore(source) for source, _ in sources]
    named.close()
    for result, (_, name) in zip(results, sources, strict=True):
        np.testing.assert_array_equal(result.pixels, results[0].pixels)
        assert result.report.name == name
        assert result.report.projected


def test_every_kind_of_blind_source_gives_the_same(lively_restorer: Restorer) -> None:
    pixels = decoded(encoded(picture(40, 60), quality=15))
    files = [saved(pixels, format) for format in ("PNG", "BMP", "TIFF", "PPM")]
    sources: list[Any] = [pixels, Image.fromarray(pixels), *files, saved(pixels, "WEBP", lossless=True)]
    results = [lively_restorer.restore(source) for source in sources]
    for result in results:
        np.testing.assert_array_equal(result.pixels, results[0].pixels)
        assert not result.report.projected
        assert result.report.stated_quality is None
    blind = lively_restorer.restore(encoded(picture(40, 60), quality=15), consistency="off")
    np.testing.assert_array_equal(blind.pixels, results[0].pixels)


def test_sources_are_left_as_they_were(lively_restorer: Restorer) -> None:
    pixels = picture(40, 40)
    before = pixels.copy()
    lively_restorer.restore(pixels)
    np.testing.assert_array_equal(pixels, before)
    view = picture(80, 80)[::-2, ::2]
    np.testing.assert_array_equal(
        lively_restorer.restore(view).pixels, lively_restorer.restore(np.ascontiguousarray(view)).pixels
    )


def test_a_phone_s_pictures_behind_the_first_are_no_animation(tiny_restorer: Restorer) -> None:
    buffer = io.BytesIO()
    first, second = (Image.fromarray(picture(24, 24, seed)) for seed in (0, 1))
    first.save(buffer, "MPO", save_all=True, append_images=[second])
    image = opened(buffer.getvalue())
    assert getattr(image, "n_frames", 1) == 2
    from_file = tiny_restorer.restore(buffer.getvalue())
    assert from_file.report.stated_quality == 75
    np.testing.assert_array_equal(tiny_restorer.restore(image, strength=0).pixels, decoded(buffer.getvalue()))


def test_progressive_gives_what_baseline_gives(lively_restorer: Restorer) -> None:
    files = [encoded(picture(50, 50), quality=30, progressive=progressive) for progressive in (False, True)]
    baseline, progressive = (lively_restorer.restore(data).pixels for data in files)
    np.testing.assert_array_equal(baseline, progressive)


def no_pictures() -> Iterator[tuple[Any, type[BadImageError], str]]:
    frames = [Image.fromarray(picture(8, 8, seed)) for seed in (0, 1)]
    png = saved(picture(50, 50), "PNG")
    yield b"", BadImageError, "empty"
    yield b"hello, world", BadImageError, "not a picture"
    yield b"\xff\xd8\xff", BadImageError, "damaged"
    yield saved(picture(8, 8), "EPS"), BadImageError, "not a picture"
    yield png[:-200], BadImageError, "damaged"
    yield png[:20], BadImageError, "picture"
    yield saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), UnsupportedImageError, "animation"
    yield saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]), UnsupportedImageError, "pages"
    yield saved(Image.new("CMYK", (8, 8)), "TIFF"), UnsupportedImageError, "CMYK"
    deep = Image.open(io.BytesIO(saved(Image.new("I;16", (8, 8)), "PNG")))
    deep.load()  # and its file is out of reach
    yield deep, UnsupportedImageError, "16 bits"
    yield Image.new("F", (8, 8)), UnsupportedImageError, "'F'"
    yield np.zeros((8, 8), np.float32), UnsupportedImageError, "float32"
    yield np.zeros((8, 8, 5), np.uint8), UnsupportedImageError, "(8, 8, 5)"
    yield np.zeros((8,), np.uint8), UnsupportedImageError, "(8,)"
    yield np.zeros((0, 8, 3), np.uint8), UnsupportedImageError, "(0, 8, 3)"


@pytest.mark.parametrize(("source", "error", "words"), [*no_pictures()])
def test_what_is_no_picture(
    source: Any, error: type[BadImageError], words: str, tiny_restorer: Restorer, no_network: None
) -> None:
    with pytest.raises(BadImageError) as caught:
        tiny_restorer.restore(source)
    assert type(caught.value) is error
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paths_that_lead_nowhere(tiny_restorer: Restorer, tmp_path: Path) -> None:
    loop = tmp_path / "loop.jpg"
    loop.symlink_to(loop)
    for path, words in (
        (tmp_path / "missing.jpg", "no such file"),
        (tmp_path, "is a folder"),
        (loop, "cannot be read"),
        (tmp_path / ("x" * 300), "cannot be read"),
        (loop.parent / "loop.jpg" / "below.jpg", "cannot be read"),
    ):
        with pytest.raises(BadImageError) as caught:
            tiny_restorer.restore(path)
        assert str(caught.value).startswith(f"{path}: {words}")


def test_what_is_no_source_at_all(tiny_restorer: Restorer) -> None:
    with pytest.raises(TypeError, match="NoneType"):
        tiny_restorer.restore(None)  # type: ignore[arg-type]


def test_the_limit_on_pixels_holds_for_every_source(tiny_model: Path, no_network: None) -> None:
    restorer = Restorer(tiny_model, limits=Limits(pixels=20 * 20))
    for size in ((20, 20), (20, 21)):
        pixels = picture(*size)
        for source in (pixels, Image.fromarray(pixels), saved(pixels), saved(pixels, "PNG")):
            if size == (20, 20):
                restorer.restore(source, strength=0)
            else:
                with pytest.raises(TooLargeError):
                    restorer.restore(source, strength=0)


def test_a_picture_beyond_what_pillow_opens_is_refused_in_our_own_words() -> None:
    header = bytearray(saved(picture(8, 8), "PNG"))
    header[16:24] = struct.pack(">II", 20_000, 20_000)
    header[29:33] = struct.pack(">I", zlib.crc32(header[12:29]))
    with pytest.raises(TooLargeError, match=r"^image: has more than the \d+ pixels .*; make it smaller, or cut it$"):
        read_picture(bytes(header))


def test_a_stream_of_text_is_a_mistake_in_the_program(tiny_restorer: Restorer) -> None:
    with pytest.raises(TypeError, match="binary mode"):
        tiny_restorer.restore(io.StringIO("text"))  # type: ignore[arg-type]
