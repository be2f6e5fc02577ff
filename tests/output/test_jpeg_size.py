"""JPEGs within a size: the best that fits, by trying all."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from exif_blocks import exif_block
from jpegs import encoded, picture, saved
from unjpeg.errors import OutputError
from unjpeg.metadata import Metadata
from unjpeg.output import write_image
from unjpeg.restorer import Restorer
from unjpeg.settings import Settings, parse_size
from unjpeg.tables import standard_table


def within(pixels: np.ndarray, max_bytes: int, metadata: Metadata | None = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    said = write_image(stream, pixels, metadata or Metadata(), format="jpeg", max_bytes=max_bytes, **options)
    assert said is not None
    assert f"{len(stream.getvalue()):,} bytes, of at most {max_bytes:,}" in said
    return stream.getvalue()


def quality_of(data: bytes) -> int:
    """By its luma table, which libjpeg makes of the quality."""
    table = Image.open(io.BytesIO(data)).quantization[0]  # type: ignore[attr-defined]
    return max(q for q in range(1, 101) if sorted(standard_table(q, chroma=False).ravel().tolist()) == sorted(table))


def error(data: bytes, pixels: np.ndarray) -> float:
    return float(np.square(np.asarray(Image.open(io.BytesIO(data))).astype(float) - pixels).mean())


@given(
    seed=st.integers(0, 100), share=st.floats(0.02, 0.9), grey=st.booleans(), exif=st.sampled_from([None, exif_block()])
)
@settings(max_examples=12, deadline=None)
def test_nothing_that_fits_is_better(seed: int, share: float, grey: bool, exif: bytes | None) -> None:
    pixels = picture(48, 64, seed)
    pixels = pixels[..., 0] if grey else pixels
    samplings = ("4:4:4",) if grey else ("4:4:4", "4:2:0")
    all_of_them = [
        saved(pixels, quality=quality, subsampling=sampling, optimize=True, progressive=True)
        for sampling in samplings
        for quality in range(1, 101)
    ]
    room = 0 if exif is None else len(exif) + 10
    sizes = [len(data) + room for data in all_of_them]
    max_bytes = int(min(sizes[0], sizes[-100]) + share * max(sizes))
    data = within(pixels, max_bytes, Metadata(exif=exif))
    assert len(data) <= max_bytes
    assert Metadata.from_pillow(Image.open(io.BytesIO(data))).exif == exif
    best = min(error(other, pixels) for other, size in zip(all_of_them, sizes, strict=True) if size <= max_bytes)
    assert error(data, pixels) <= best * 1.02  # a size may fall where the quality rises: not all is tried


def test_a_quality_is_the_highest_that_is_tried() -> None:
    assert quality_of(within(picture(40, 40), 10**6)) == 100
    assert quality_of(within(picture(40, 40), 10**6, quality=70)) == 70


def test_what_cannot_be_reached_is_said() -> None:
    with pytest.raises(OutputError, match=r"it has [\d,]+ bytes even at quality 1; allow more than 100"):
        within(picture(64, 64), 100)
    with pytest.raises(OutputError, match=r"bytes, 5,0\d\d of them metadata, even at|of them metadata even at"):
        within(picture(64, 64), 3000, Metadata(comment=bytes(5000)))
    with pytest.raises(OutputError, match="of jpeg only, not of png"):
        write_image(io.BytesIO(), picture(8, 8), Metadata(), format="png", max_bytes=1000)


def test_not_larger_than_the_input(tiny_restorer: Restorer, tmp_path: Any) -> None:
    data = encoded(picture(72, 96), quality=40, exif=b"Exif\0\0" + exif_block())
    restored = tiny_restorer.restore(data)
    target = tmp_path / "out.jpg"
    said = restored.save(target, output_size="input")
    assert said is not None
    assert target.stat().st_size <= len(data)
    assert said.startswith("quality ")
    settings = Settings(output_size="input")
    stream = io.BytesIO()
    report = settings.save(tiny_restorer.begin(data), stream, "jpeg")
    assert stream.getvalue() == target.read_bytes()
    assert report.notes[-1] == said
    with pytest.raises(OutputError, match="was no file"):
        tiny_restorer.restore(picture(16, 16)).save(tmp_path / "array.jpg", output_size="input")
    assert not (tmp_path / "array.jpg").exists()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *[("input", "input"), (" Input", "input"), ("200000", 200_000), ("300KB", 300_000), ("1.5 MB", 1_500_000)],
        *[("64KiB", 65_536), ("7b", 7)],
    ],
)
def test_sizes_as_people_write_them(text: str, size: int | str) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "KB", "-5", "5GB", "1e5", "many", "0.4"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)
