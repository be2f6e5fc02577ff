from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import unjpeg
from jpegs import decoded, encoded, opened, picture, saved, with_segment
from unjpeg.errors import BadImageError, TooLargeError
from unjpeg.jpeg import Limits
from unjpeg.restorer import Restorer


def test_inspect(tiny_model: Path, kitten: Path) -> None:
    facts = unjpeg.inspect(kitten, model=None)
    assert (facts.width, facts.height, facts.components) == (720, 560, 3)
    assert (facts.colour_space, facts.subsampling, facts.progressive) == ("YCbCr", "4:2:0", False)
    assert (facts.stated_quality, facts.table_distance, facts.orientation) == (12, 0.0, 1)
    assert (facts.read_quality, facts.looks_compressed_twice) == (None, None)
    assert (facts.has_exif, facts.has_icc_profile, facts.has_xmp) == (False, False, False)
    assert len(facts.tables) == 2
    assert facts.tables[0][0][:2] == (67, 46)
    read = unjpeg.inspect(encoded(picture(64, 64), quality=50), model=tiny_model)
    assert read.read_quality is not None
    assert read.looks_compressed_twice is not None
    other = unjpeg.inspect(saved(picture(8, 8), "PNG"), model=None)
    assert (other.kind, other.width, other.stated_quality, other.subsampling) == ("PNG", 8, None, None)
    assert (other.history, other.earlier, other.tables) == ("undecided", (), ())


def test_inspect_sees_metadata() -> None:
    data = with_segment(encoded(picture(8, 8)), 0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")
    facts = unjpeg.inspect(data, model=None)
    assert (facts.has_exif, facts.has_xmp, facts.has_photoshop, facts.has_comment) == (False, True, False, False)
    iptc = with_segment(
        encoded(picture(8, 8)), 0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0\x05\x1c\x02\x78\0\0\0"
    )
    facts = unjpeg.inspect(with_segment(iptc, 0xFE, b"a word"), model=None)
    assert (facts.has_photoshop, facts.has_comment) == (True, True)


def test_verify_reads_every_format(tmp_path: Path) -> None:
    pixels = picture(32, 32, low=60, high=190)
    colour, grey = encoded(pixels, "4:4:4", quality=70), encoded(pixels, "grey", quality=70)
    for data in (colour, grey):
        for format, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
            assert unjpeg.verify(data, saved(decoded(data), format, **options)).is_consistent
        assert unjpeg.verify(data, data).is_consistent
    with_alpha = saved(Image.fromarray(decoded(colour)).convert("RGBA"), "PNG")
    assert unjpeg.verify(colour, with_alpha).is_consistent
    assert not unjpeg.verify(colour, saved(picture(32, 32, 1, low=60, high=190), "PNG")).is_consistent


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA"])
def test_verify_takes_what_restore_returns_and_images(mode: str, tiny_restorer: Restorer) -> None:
    data = encoded(picture(32, 32, low=60, high=190), "grey" if mode in ("L", "LA") else "4:4:4", quality=70)
    other = Image.fromarray(picture(32, 32, 1, low=60, high=190)).convert(mode)
    image = Image.fromarray(decoded(data)).convert(mode)
    for good in (image, np.asarray(image), opened(saved(image, "PNG"))):
        assert unjpeg.verify(data, good).is_consistent
    for bad in (other, np.asarray(other)):
        assert unjpeg.verify(data, bad).contradicts
    for bits in (8, 16):
        result = tiny_restorer.restore(data, consistency="strict", bit_depth=bits)
        assert unjpeg.verify(data, result).is_consistent
    if mode == "L":
        assert unjpeg.verify(data, result.to_pil()).is_consistent  # 16 bits
    with_alpha = tiny_restorer.restore(image, strength=0)
    assert unjpeg.verify(data, with_alpha).is_consistent
    assert unjpeg.verify(data, opened(data)).restored == "image"


def test_verify_names_what_it_cannot_take() -> None:
    with pytest.raises(TypeError, match="cannot check a dict"):
        unjpeg.verify(encoded(picture(8, 8)), {})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot check against a ndarray"):
        unjpeg.verify(picture(8, 8), picture(8, 8))  # type: ignore[arg-type]


def test_verify_refuses_what_it_cannot_compare(tmp_path: Path) -> None:
    data = encoded(picture(32, 32))
    png = saved(picture(32, 32), "PNG")
    for restored, words in (
        (b"", "not a picture"),
        (b"nothing", "not a picture"),
        (png[: len(png) // 2], "not a picture"),
        (png[:-30], "not a picture"),
        (saved(picture(32, 33), "PNG"), "not the same picture"),
        (saved(picture(32, 32)[..., 0], "PNG"), "not the same picture"),
        (tmp_path / "missing.png", "no such file"),
    ):
        with pytest.raises(BadImageError, match=words) as caught:
            unjpeg.verify(data, restored)
        assert "\n" not in str(caught.value)
        assert "  " not in str(caught.value)
    with pytest.raises(BadImageError, match="type float64"):
        unjpeg.verify(data, np.zeros((32, 32, 3)))  # type: ignore[arg-type]
    with pytest.raises(BadImageError, match="not a JPEG"):
        unjpeg.verify(png, png)
    with pytest.raises(TooLargeError):
        unjpeg.verify(encoded(picture(8, 8)), png, limits=Limits(pixels=100))
