"""AVIF as written here: pixels near, metadata whole, turned as the original."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from exif_blocks import exif_block
from jpegs import picture
from unjpeg.metadata import Metadata
from unjpeg.output import list_without_place, write_image

ICC, XMP = b"an ICC profile" * 10, b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"


def written(pixels: np.ndarray, metadata: Metadata | None = None, quality: int | None = None) -> Image.Image:
    stream = io.BytesIO()
    write_image(stream, pixels, metadata or Metadata(), format="avif", quality=quality)
    return Image.open(io.BytesIO(stream.getvalue()))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pixels_are_near_and_alpha_is_whole(channels: int) -> None:
    colours = picture(45, 62)
    pixels = np.dstack([colours, colours[::-1, :, 0]])[..., :channels] if channels != 2 else colours[..., :2]
    pixels = pixels[..., 0] if channels == 1 else pixels
    image = written(pixels, quality=100)
    assert image.mode == {1: "L", 2: "RGBA", 3: "RGB", 4: "RGBA"}[channels]
    again = np.asarray(image).astype(int)
    shown = np.dstack([pixels[..., :1]] * 3 + [pixels[..., 1:]]) if channels == 2 else pixels
    assert np.abs(again - shown).max() <= 3  # the matrix to YCbCr and back
    if channels in (2, 4):
        np.testing.assert_array_equal(again[..., 3], pixels[..., -1])


def test_quality_counts() -> None:
    pixels = picture(64, 64)
    errors = [np.square(np.asarray(written(pixels, quality=q)).astype(float) - pixels).mean() for q in (20, 60, 100)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_exif_is_whole_and_says_the_same_as_the_file(order: str, orientation: int) -> None:
    exif = exif_block("<" if order == "<" else ">", orientation=orientation)
    pixels = picture(24, 40)
    image = written(pixels, Metadata(exif=exif, icc_profile=ICC, xmp=XMP), 100)
    read = Metadata.from_pillow(image)
    assert (read.exif, read.icc_profile, read.xmp) == (exif, ICC, XMP)
    before = Image.fromarray(pixels)
    before.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(before))
    np.testing.assert_allclose(np.asarray(ImageOps.exif_transpose(image)).astype(int), expected, atol=3)


def test_what_has_no_place_is_said() -> None:
    metadata = Metadata(exif=b"no EXIF", comment=b"a comment", photoshop=b"8BIM")
    said = " ".join(list_without_place(metadata, "avif"))
    assert all(word in said for word in ("EXIF, which is damaged", "the comment", "Photoshop"))
    assert Metadata.from_pillow(written(picture(8, 8), metadata)) == Metadata()
