"""Pictures whose rows are encoded in several bands, by several threads."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from jpegs import picture
from unjpeg.metadata import Metadata
from unjpeg.output import Pixels, Rows, jpeg, png, tiff, write_image


def written(pixels: Pixels, format: str, threads: int = 2, strip: int = 50) -> bytes:
    """The file, from strips of so many rows."""
    strips = (pixels[top : top + strip] for top in range(0, len(pixels), strip))
    stream = io.BytesIO()
    write_image(stream, Rows(pixels.shape, pixels.dtype, strips, threads), Metadata(), format=format)
    return stream.getvalue()


def read(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


@pytest.fixture
def _small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "_BAND_PIXELS", 1600)
    monkeypatch.setattr(png, "_BAND_BYTES", 3000)
    monkeypatch.setattr(tiff, "_STRIP_BYTES", 3000)


@pytest.mark.usefixtures("_small_bands")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(300, 57), (9, 200), (17, 201), (333, 8), (160, 100)])
def test_bands_of_a_jpeg_are_one_picture(size: tuple[int, int], channels: int) -> None:
    pixels = picture(*size) if channels == 3 else np.ascontiguousarray(picture(*size)[..., 0])
    whole = io.BytesIO()
    Image.fromarray(pixels).save(whole, "JPEG", quality=95, subsampling="4:4:4")
    data = written(pixels, "jpeg")
    np.testing.assert_array_equal(read(data), read(whole.getvalue()))
    assert (b"\xff\xdd\x00\x04" in data) == (size[0] > max(1, 1600 // (8 * size[1])) * 8)


def test_a_small_jpeg_has_no_restart_markers() -> None:
    pixels = picture(100, 80)
    whole = io.BytesIO()
    Image.fromarray(pixels).save(whole, "JPEG", quality=95, subsampling="4:4:4")
    assert written(pixels, "jpeg") == whole.getvalue()


def test_the_widest_band_is_within_a_restart_interval() -> None:
    for width in (1, 7, 8, 9, 1000, 16385, 65500):
        rows = max(1, jpeg._BAND_PIXELS // (width * 8)) * 8
        assert 0 < rows // 8 * -(-width // 8) < 2**16 or rows >= 65500


@pytest.mark.usefixtures("_small_bands")
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    channels=st.sampled_from([1, 2, 3, 4]),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_checksums_of_bands_join_to_that_of_the_whole(
    size: tuple[int, int], channels: int, dtype: type, seed: int
) -> None:
    pixels: Any = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (*size, channels), dtype, endpoint=True)
    pixels = pixels[..., 0] if channels == 1 else pixels
    data = written(pixels, "png", strip=1 + seed)
    if dtype is np.uint8:
        np.testing.assert_array_equal(read(data), pixels)
    import pyvips

    vips = pyvips.Image.new_from_buffer(data, "", fail_on="warning").numpy()
    np.testing.assert_array_equal(vips.reshape(pixels.shape), pixels)


@pytest.mark.usefixtures("_small_bands")
@pytest.mark.parametrize("format", ["png", "jpeg", "tiff"])
def test_the_number_of_threads_leaves_no_trace(format: str) -> None:
    pixels = picture(400, 90)
    assert written(pixels, format, 1) == written(pixels, format, 4, strip=77)


def test_bands_cost_hardly_any_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.tile(picture(600, 700), (2, 1, 1))
    whole: dict[str, int] = {}
    cut: dict[str, int] = {}
    for size, sizes in ((2**30, whole), (2**20, cut)):
        monkeypatch.setattr(png, "_BAND_BYTES", size)
        monkeypatch.setattr(jpeg, "_BAND_PIXELS", size // 4)
        for format in ("png", "jpeg"):
            sizes[format] = len(written(pixels, format))
    for format in ("png", "jpeg"):
        assert whole[format] != cut[format]
        assert cut[format] < 1.002 * whole[format]


@pytest.mark.parametrize("format", ["png", "jpeg", "tiff"])
def test_rows_are_encoded_as_they_come(format: str) -> None:
    """What is held is a few bands, not the picture."""
    height, width = 6000, 1500

    def strips() -> Iterator[NDArray[np.uint8]]:
        for top in range(0, height, 100):
            yield np.full((100, width, 3), top % 251, np.uint8)

    class Nowhere(io.BytesIO):
        def write(self, data: object) -> int:
            return len(data)  # type: ignore[arg-type]

    tracemalloc.start()
    try:
        module = {"png": png, "jpeg": jpeg, "tiff": tiff}[format]
        module.encode(Rows((height, width, 3), np.dtype(np.uint8), strips(), 2), Metadata(), None, Nowhere())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < height * width * 3 * 0.8
