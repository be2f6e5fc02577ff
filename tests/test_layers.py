"""Pictures that were JPEGs before: each part on the grid of what compressed it, all else as decoded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import unjpeg
from jpegs import decoded, encoded, saved
from unjpeg.evaluate.metrics import psnr_db
from unjpeg.history import History
from unjpeg.layers import CAREFUL_CHANGE, Layer, lay_out, merge_strips
from unjpeg.picture import read_picture
from unjpeg.restorer import Options, Restorer


@pytest.fixture(scope="module")
def photo(kitten: Path) -> NDArray[np.uint8]:
    """A real photograph, 373x480, made smaller: with detail in its colours, too."""
    with Image.open(kitten.with_name("kitten-original.webp")) as image:
        return np.asarray(image.convert("RGB").resize((480, 373), Image.Resampling.LANCZOS))


def cut(pixels: NDArray[np.uint8], top: int, left: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(pixels[top:, left:])


# Merging


def in_strips(pixels: NDArray[np.uint8], rows: int) -> Iterator[NDArray[np.uint8]]:
    yield from (pixels[top : top + rows] for top in range(0, len(pixels), rows))


@settings(deadline=None)
@given(data=st.data())
def test_layers_lie_over_each_other(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    decoded_pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    expected = decoded_pixels.copy()
    layers = []
    for _ in range(data.draw(st.integers(0, 3))):
        top, left = data.draw(st.integers(-9, height - 1)), data.draw(st.integers(-9, width - 1))
        shape = data.draw(st.integers(max(1, 1 - top), 50)), data.draw(st.integers(max(1, 1 - left), 50))
        pixels = rng.integers(0, 256, (*shape, 3), np.uint8)
        fits = rng.random((-(-shape[0] // 8), -(-shape[1] // 8))) > 0.5 if data.draw(st.booleans()) else None
        layer = Layer(pixels, None, top, left, fits)
        layers.append((layer, in_strips(pixels, data.draw(st.integers(1, 20)))))
        for y in range(max(0, top), min(height, top + shape[0])):
            for x in range(max(0, left), min(width, left + shape[1])):
                if fits is None or fits[(y - top) // 8, (x - left) // 8]:
                    expected[y, x] = pixels[y - top, x - left]
    strips = list(merge_strips(decoded_pixels, layers, data.draw(st.integers(1, 20)), 8))
    np.testing.assert_array_equal(np.concatenate(strips), expected)


def test_merging_changes_no_decoded_pixel() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    before = pixels.copy()
    layer = Layer(np.zeros((2, 2, 3), np.uint8), None, 1, 1)
    merged = np.concatenate(list(merge_strips(pixels, [(layer, in_strips(layer.pixels, 1))], 3, 8)))
    assert (merged[1:3, 1:3] == 0).all()
    np.testing.assert_array_equal(pixels, before)
    deep = np.concatenate(list(merge_strips(pixels, [], 3, 16)))
    np.testing.assert_array_equal(deep, pixels.astype(np.uint16) * 257)


# Laying out


def test_a_file_is_one_layer(photo: NDArray[np.uint8]) -> None:
    picture = read_picture(encoded(photo, quality=30))
    (layer,) = lay_out(picture).layers
    assert picture.jpeg is not None
    assert (layer.top, layer.left, layer.fits_VU) == (0, 0, None)
    assert layer.compression is not None
    assert all(mine is its for mine, its in zip(layer.compression.components, picture.jpeg.components, strict=True))


@pytest.mark.parametrize("sampling", ["4:2:0", "4:4:4", "grey"])
@pytest.mark.parametrize(("quality", "top", "left"), [(10, 3, 5), (40, 0, 0), (75, 12, 9)])
def test_a_screenshot_of_a_jpeg_is_restored_as_that_jpeg(
    photo: NDArray[np.uint8], sampling: str, quality: int, top: int, left: int
) -> None:
    source = photo[..., 1] if sampling == "grey" else photo
    data = encoded(source, sampling, quality=quality)
    layout = lay_out(read_picture(saved(cut(decoded(data), top, left), "PNG")))
    (layer,) = layout.layers
    assert layer.compression is not None
    assert layout.history is not None
    (earlier,) = layout.earlier
    assert (earlier.quality, earlier.sampling, earlier.is_proven) == (quality, sampling, True)
    step = 16 if sampling == "4:2:0" else 8
    assert (layer.top % step, layer.left % step) == (-top % step, -left % step)
    # Its cells are the JPEG's own: where only one coefficient fits, it is the file's.
    jpeg = read_picture(data).jpeg
    assert jpeg is not None
    first = (layer.top + top) // step * (step // 8), (layer.left + left) // step * (step // 8)
    own = jpeg.components[0].coefficients_VU88
    low, high = layer.compression.components[0].cells(slice(None), slice(None))
    theirs = own[first[0] : first[0] + low.shape[0], first[1] : first[1] + low.shape[1]] * jpeg.tables[0].astype(int)
    low, high = low[: theirs.shape[0], : theirs.shape[1]], high[: theirs.shape[0], : theirs.shape[1]]
    assert ((low <= theirs) & (theirs <= high)).mean() > 0.999
    certain = high - low <= jpeg.tables[0]
    assert certain.mean() > 0.5


# Restoring


def test_what_came_from_a_screenshot_could_have_produced_its_jpeg(
    photo: NDArray[np.uint8], lively_restorer: Restorer
) -> None:
    data = encoded(photo, quality=25)
    result = lively_restorer.restore(saved(decoded(data), "PNG"))
    assert result.report.history == "compressed"
    assert unjpeg.verify(data, result.pixels).is_consistent
    blind = lively_restorer.restore(saved(decoded(data), "PNG"), consistency="strict")
    assert not unjpeg.verify(data, blind.pixels).is_consistent


def test_around_a_photograph_in_a_page_nothing_is_touched(photo: NDArray[np.uint8], lively_restorer: Restorer) -> None:
    page = np.full((700, 900, 3), 255, np.uint8)
    page[20:660:9, 30:870] = 0  # ruled
    page[101 : 101 + 320, 203 : 203 + 440] = decoded(encoded(photo, quality=20))[:320, :440]
    result = lively_restorer.restore(saved(page, "PNG"))
    (earlier,) = result.report.earlier
    assert earlier.quality == 20
    changed = (result.pixels != page).any(axis=2)
    inside = np.zeros_like(changed)
    inside[101:421, 203:643] = True
    assert not changed[~inside].any()
    assert changed[inside].mean() > 0.5


def test_what_may_never_have_been_compressed_is_changed_with_care(
    photo: NDArray[np.uint8], lively_restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unjpeg.layers.read_history", lambda *_: History("undecided", may_be_clean=True))
    shown = saved(photo, "PNG")
    careful = lively_restorer.restore(shown)
    changed = careful.pixels.astype(np.int16) - photo
    assert 0 < np.abs(changed).max() <= CAREFUL_CHANGE
    assert psnr_db(careful.pixels.astype(np.uint8), photo) >= 45
    assert any("may never have been compressed" in note for note in careful.report.notes)
    deep = lively_restorer.restore(shown, bit_depth=16).pixels.astype(np.float64) / 257
    assert np.abs(deep - photo).max() <= CAREFUL_CHANGE + 0.01
    insisted = lively_restorer.restore(shown, quality=30)
    assert np.abs(insisted.pixels.astype(np.int16) - photo).max() > 2
    assert not any("may never have been compressed" in note for note in insisted.report.notes)
    # What its file says to have been compressed needs no care.
    lossy = lay_out(read_picture(saved(photo, "WEBP", quality=80)))
    assert [layer.most_change for layer in lossy.layers] == [None]


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_a_lossy_file_is_never_left_as_clean(
    photo: NDArray[np.uint8], format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unjpeg.layers.read_history", lambda *_: History("clean"))
    options = {"quality": 90} if format == "WEBP" else {}
    assert len(lay_out(read_picture(saved(photo, format, **options))).layers) == (format == "WEBP")


def test_only_lossless_files_are_called_never_compressed() -> None:
    drawing = np.full((128, 160, 3), 250, np.uint8)
    drawing[40:90, 30:120] = (200, 30, 40)
    assert unjpeg.inspect(saved(drawing, "PNG"), model=None).in_words == (
        "never compressed, as far as the pixels show",
    )
    assert unjpeg.inspect(saved(drawing, "WEBP", quality=95), model=None).in_words == ()


def test_who_insists_is_told_what_the_pixels_show(lively_restorer: Restorer) -> None:
    drawing = np.full((128, 160, 3), 250, np.uint8)
    drawing[40:90, 30:120] = (200, 30, 40)
    (note,) = lively_restorer.restore(drawing, quality=50).report.notes
    assert note.startswith("never compressed")
    assert note.endswith("since a quality was given")


def test_strict_looks_at_the_file_alone(photo: NDArray[np.uint8], tiny_restorer: Restorer) -> None:
    twice = encoded(cut(decoded(encoded(photo, quality=15)), 4, 4), quality=90)
    assert tiny_restorer.restore(twice).report.history == "compressed"
    strict = tiny_restorer.restore(twice, consistency="strict")
    assert (strict.report.history, strict.report.projected) == (None, True)
    assert unjpeg.verify(twice, strict.pixels).is_consistent
    output = tiny_restorer.run_network(read_picture(twice))
    with pytest.raises(ValueError, match="anew"):
        tiny_restorer.finish(output, consistency="strict")


def test_verify_says_why_the_file_s_own_cells_are_left(photo: NDArray[np.uint8], lively_restorer: Restorer) -> None:
    twice = encoded(cut(decoded(encoded(photo, quality=15)), 4, 4), quality=90)
    verification = unjpeg.verify(twice, lively_restorer.restore(twice).pixels)
    assert not verification.is_consistent
    assert [earlier.quality for earlier in verification.earlier] == [15]
    once = encoded(photo, quality=40)
    assert unjpeg.verify(once, lively_restorer.restore(once).pixels).earlier == ()
    assert unjpeg.verify(once, np.zeros_like(photo)).earlier == ()


def test_noise_on_top_does_not_hide_the_first_quality_from_the_network(
    photo: NDArray[np.uint8], tiny_restorer: Restorer
) -> None:
    """On the first grid a second compression looks like noise, which the network would read as high quality."""
    shifted = read_picture(encoded(cut(decoded(encoded(photo, quality=15)), 4, 4), quality=90))
    (layer,) = lay_out(shifted).layers
    assert layer.seen_quality == 15
    assert layer.compression is not None
    (guidance,), read = tiny_restorer._guide_layers(lay_out(shifted), Options())
    unmoved = tiny_restorer._guide_pixels(layer.pixels, layer.compression)
    assert read == unmoved.quality
    np.testing.assert_array_equal(guidance.sensitive, tiny_restorer.model.shifted(unmoved, 15).sensitive)
    np.testing.assert_array_equal(guidance.stated[0], layer.compression.stated)
    for other in (
        encoded(photo, quality=15),
        encoded(decoded(encoded(photo, quality=15)), quality=90),
        saved(cut(decoded(encoded(photo, quality=15)), 4, 4), "PNG"),
    ):
        assert [layer.seen_quality for layer in lay_out(read_picture(other)).layers] == [None]
