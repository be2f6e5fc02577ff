"""How hard WebP and AVIF files were compressed, and what a restorer makes of it."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from conftest import synthetic_photo
from unjpeg.av1 import avif_quantiser
from unjpeg.othercodecs import comparable_quality
from unjpeg.picture import read_picture
from unjpeg.restorer import Options, Restorer
from unjpeg.vp8 import webp_quantiser

needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


def encode(codec: str, quality: int, side: tuple[int, int] = (96, 80), mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(synthetic_photo(*side, 7)).convert(mode).save(stream, codec, quality=quality, **options)
    return stream.getvalue()


@pytest.mark.parametrize("method", [0, 4, 6])
def test_quantiser_of_webp_falls_with_its_quality(method: int) -> None:
    found = [webp_quantiser(encode("WEBP", quality, method=method)) for quality in (0, 10, 30, 50, 75, 90, 100)]
    assert all(value is not None for value in found)
    values = [value or 0.0 for value in found]
    assert values[0] == 127
    assert values[-1] == 0
    assert all(a > b for a, b in itertools.pairwise(values))


def test_webp_with_alpha_and_metadata_says_the_same() -> None:
    plain = webp_quantiser(encode("WEBP", 40))
    assert plain == webp_quantiser(encode("WEBP", 40, icc_profile=b"x" * 33))
    assert webp_quantiser(encode("WEBP", 40, mode="RGBA")) == pytest.approx(plain, abs=1)


def test_lossless_animated_and_other_files_say_nothing() -> None:
    animated = io.BytesIO()
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(animated, "WEBP", save_all=True, append_images=frames[1:])
    others = [encode("PNG", 1), encode("JPEG", 50), b"", b"RIFF"]
    for data in (encode("WEBP", 50, lossless=True), animated.getvalue(), *others):
        assert webp_quantiser(data) is None
        assert avif_quantiser(data) is None
        assert comparable_quality(data) is None


@needs_avif
@pytest.mark.parametrize("options", [{}, {"subsampling": "4:4:4"}, {"mode": "L"}, {"mode": "RGBA"}], ids=str)
def test_quantiser_of_avif(options: dict[str, Any]) -> None:
    """The indices that libaom's table gives for libavif's quantisers 63, 44, 31 and 0."""
    found = [avif_quantiser(encode("AVIF", quality, speed=10, **options)) for quality in (0, 30, 50, 100)]
    assert found == [255, 196, 148, 0]


@needs_avif
@pytest.mark.parametrize("side", [(64, 64), (200, 4200)])
def test_tiles_of_avif_are_read_over(side: tuple[int, int]) -> None:
    data = encode("AVIF", 30, side, speed=10, tile_rows=1, tile_cols=1)
    assert avif_quantiser(data) == 196


@given(st.binary(max_size=80), st.integers(0, 400), st.integers(0, 255))
def test_damaged_headers_are_no_error(tail: bytes, cut: int, byte: int) -> None:
    for data in (WEBP, AVIF):
        damaged = bytearray(data[:cut] + tail)
        if damaged:
            damaged[cut // 2 % len(damaged)] = byte
        quality = comparable_quality(bytes(damaged))
        assert quality is None or 1 <= quality <= 100


WEBP = encode("WEBP", 40)
AVIF = encode("AVIF", 40, speed=10) if features.check("avif") else WEBP


@pytest.mark.parametrize("codec", ["WEBP", pytest.param("AVIF", marks=needs_avif)])
def test_stronger_compression_compares_to_a_worse_jpeg(codec: str) -> None:
    found = [comparable_quality(encode(codec, quality)) or 0 for quality in (5, 20, 40, 60, 80)]
    assert all(1 <= a < b <= 100 for a, b in itertools.pairwise(found))


def test_a_lossy_webp_is_restored_as_the_jpeg_that_it_compares_to(tiny_model: Path) -> None:
    data = encode("WEBP", 20)
    picture = read_picture(data)
    quality = comparable_quality(data)
    assert picture.comparable_quality == quality
    restorer = Restorer(tiny_model)
    restored = restorer.restore(data)
    assert restored.report.guided_quality == quality
    assert np.array_equal(restored.pixels, restorer.restore(data, Options(quality=quality)).pixels)
    assert restorer.restore(picture.pixels).report.guided_quality == restored.report.read_quality
    assert restorer.restore(data, Options(quality=70)).report.guided_quality == 70
