"""HEIC files whose samples are known: see ``heics``."""

from __future__ import annotations

import importlib.util
import io
import re
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from exif_blocks import exif_block
from heics import heic_bytes
from jpegs import picture
from unjpeg import batch, heif
from unjpeg.dct import ycc_from_rgb
from unjpeg.errors import BadImageError, TooLargeError, UnsupportedImageError
from unjpeg.jpeg import Limits
from unjpeg.metadata import Metadata
from unjpeg.picture import read_picture
from unjpeg.restorer import Restorer

installed = pytest.mark.skipif(not heif.can_read_heif(), reason="needs the extra: formats")


def grey_heic(luma: NDArray[np.integer], *, depth: int = 8, **options: object) -> bytes:
    height, width = luma.shape
    neutral = np.full((height // 2, width // 2), 1 << (depth - 1))
    return heic_bytes(luma, neutral, neutral, depth=depth, **options)  # type: ignore[arg-type]


@installed
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([8, 10]), st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_every_sample_arrives(height: int, width: int, depth: int, seed: int) -> None:
    luma = np.random.default_rng(seed).integers(0, 1 << depth, (2 * height, 2 * width))
    read = read_picture(grey_heic(luma, depth=depth))
    assert (read.kind, read.bits, read.jpeg, read.alpha) == ("HEIF", depth, None, None)
    if depth == 8:
        assert read.deep is None
        np.testing.assert_array_equal(read.pixels, luma[..., None].repeat(3, axis=2))
    else:
        assert read.deep is not None
        np.testing.assert_array_equal(read.deep[..., 1], (luma * 65535 + 511) // 1023)


@installed
def test_colours_are_those_of_the_samples() -> None:
    rgb = np.empty((64, 64, 3), np.uint8)
    rgb[:, :32], rgb[:32, 32:], rgb[32:, 32:] = (200, 60, 40), (30, 160, 90), (60, 70, 220)
    ycc = np.rint(ycc_from_rgb(rgb.astype(np.float32)) + np.array([0, 128, 128])).astype(int)
    read = read_picture(heic_bytes(ycc[..., 0], ycc[::2, ::2, 1], ycc[::2, ::2, 2]))
    inner = np.abs(read.pixels.astype(int) - rgb)[4:-4, 4:28]
    assert inner.max() <= 3


@installed
@pytest.mark.parametrize("turns", range(4))
def test_metadata_come_along_and_the_pixels_are_upright(turns: int) -> None:
    luma = np.random.default_rng(0).integers(0, 256, (48, 80))
    exif = exif_block(orientation=(1, 8, 3, 6)[turns])
    xmp, profile = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>", b"a profile" * 20
    read = read_picture(grey_heic(luma, turns=turns, exif=exif, xmp=xmp, icc_profile=profile))
    np.testing.assert_array_equal(read.pixels[..., 0], np.rot90(luma, turns))
    assert read.metadata.orientation == 1  # else it would be turned twice
    assert read.metadata.exif == exif_block(orientation=1)
    assert (read.metadata.xmp, read.metadata.icc_profile) == (xmp, profile)


@installed
@pytest.mark.parametrize("depth", [8, 10])
def test_from_heic_to_every_format(depth: int, tiny_restorer: Restorer, tmp_path: Path) -> None:
    luma = picture(40, 56)[..., 0].astype(int) << (depth - 8)
    data = grey_heic(luma, depth=depth, exif=exif_block(orientation=6))
    result = tiny_restorer.restore(data, quality=50)
    assert result.pixels.dtype == (np.uint8 if depth == 8 else np.uint16)
    for suffix in ("png", "jpg", "webp", "tif", "avif"):
        target = tmp_path / f"out.{suffix}"
        result.save(target)
        again = read_picture(target)
        assert (again.pixels.shape, again.bits) == ((40, 56, 3), 16 if depth == 10 and suffix in ("png", "tif") else 8)
        assert again.metadata.orientation == 1
        assert np.abs(again.pixels.astype(int) - (luma >> (depth - 8))[..., None]).mean() < 6


@installed
def test_a_jpeg_in_a_heic_is_found(kitten: Path, tiny_restorer: Restorer) -> None:
    """A phone that saves a downloaded JPEG as HEIC: its grid shows, if the HEIC is good enough."""
    grey = simplejpeg.decode_jpeg(kitten.read_bytes(), colorspace="GRAY")[..., 0]
    report = tiny_restorer.restore(grey_heic(grey[:256, :384]), strength=0.5).report
    assert report.history == "compressed"
    assert report.earlier[0].quality == pytest.approx(12, abs=1)


@installed
def test_what_is_wrong_is_one_line() -> None:
    data = grey_heic(np.zeros((64, 64), int))
    with pytest.raises(TooLargeError, match="has 64x64 pixels, more than the limit of 4,095"):
        read_picture(data, limits=Limits(pixels=4095))
    for size in (60, 200, 400, len(data) - 3000):
        with pytest.raises(BadImageError, match="damaged") as caught:
            read_picture(data[:size])
        assert "\n" not in str(caught.value)


def test_without_the_extra_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UnsupportedImageError, match=r"HEIC picture; pip install 'unjpeg\[formats\]' reads it; or"):
        read_picture(grey_heic(np.zeros((32, 32), int)))


@pytest.mark.parametrize("there", [False, True])
def test_folders_hold_heics_where_they_can_be_read(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unjpeg.batch.planning.can_read_heif", lambda: there)
    (tmp_path / "a.HEIC").write_bytes(b"")
    (tmp_path / "b.jpg").write_bytes(b"")
    plan = batch.plan([str(tmp_path)], None, None, recursive=False)
    assert [Path(job.source).name for job in plan.jobs] == (["a.HEIC", "b.jpg"] if there else ["b.jpg"])
    assert [file.name for file, _ in plan.left_out] == ([] if there else ["a.HEIC"])


def test_an_avif_is_none_of_them() -> None:
    stream = io.BytesIO()
    Image.fromarray(picture(16, 16)).save(stream, "AVIF")
    assert not heif.is_heif(stream.getvalue())
    assert read_picture(stream.getvalue()).kind == "AVIF"


def test_upright_says_so_and_moves_no_byte() -> None:
    for order in ("<", ">"):
        exif = exif_block(order, orientation=6)
        assert Metadata(exif=exif).upright().exif == exif_block(order, orientation=1)
    assert Metadata(exif=b"damaged").upright() == Metadata(exif=b"damaged")
    assert Metadata().upright() == Metadata()


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (True, "JPEG, PNG, TIFF, WebP, AVIF, HEIC and BMP are read"),
        (False, "JPEG, PNG, TIFF, WebP, AVIF and BMP are read, and HEIC after: pip install 'unjpeg[formats]'"),
    ],
)
def test_the_list_of_formats_names_heic_where_it_is_read(
    there: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heif, "can_read_heif", lambda: there)
    with pytest.raises(BadImageError, match=re.escape(f"image: is not a picture; {words}") + "$"):
        read_picture(b"hello")
