"""What is measured of a picture, to tell whether it was never compressed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from jpegs import decoded, encoded
from unjpeg.cleanness import FEATURES, cleanness, features, is_exactly_drawn, is_white_noise, looks_drawn


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_statistics_are_finite(data: st.DataObject) -> None:
    """Of whatever picture: flat, dark, clipped, grey, thin."""
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    height, width = data.draw(st.integers(32, 150)), data.draw(st.integers(32, 150))
    shape = (height, width, 3) if data.draw(st.booleans()) else (height, width)
    middle, spread = data.draw(st.integers(0, 255)), data.draw(st.sampled_from([0, 1, 4, 40, 400]))
    pixels = np.clip(middle + spread * rng.normal(size=shape), 0, 255).astype(np.uint8)
    measured = features(pixels)
    if measured is not None:
        assert measured.shape == (FEATURES,)
        assert np.isfinite(measured).all()
    assert np.isfinite(cleanness(pixels))


@pytest.mark.parametrize("scale", [0.75, 1.0, 1.25, 1.5])
def test_lines_of_a_scaled_grid_are_seen(kitten: Path, scale: float) -> None:
    """The third statistic: how clearly bends repeat along both axes at one pitch."""
    with Image.open(kitten.with_name("kitten-original.webp")) as image:
        pixels = np.asarray(image.convert("RGB").reduce(2))

    def repetition(shown: NDArray[np.uint8]) -> float:
        size = (round(shown.shape[1] * scale), round(shown.shape[0] * scale))
        measured = features(np.asarray(Image.fromarray(shown).resize(size, Image.Resampling.BICUBIC)))
        assert measured is not None
        return float(measured[2])

    assert repetition(decoded(encoded(pixels, quality=20))) > repetition(pixels) + 0.5


def test_drawings_are_told_from_photographs() -> None:
    letters = np.random.default_rng(3).random((160, 160)) < 0.05
    assert looks_drawn(np.where(letters, 0, 255).astype(np.uint8))
    assert not looks_drawn(np.random.default_rng(3).integers(0, 256, (160, 160), np.uint8))


def test_dense_text_is_clean_until_it_is_compressed() -> None:
    """Between the lines of a full page there is hardly room for anything smooth."""
    page = Image.new("RGB", (480, 400), "white")
    for top in range(6, 400, 14):
        ImageDraw.Draw(page).text(
            (10, top), "The quick brown fox jumps over the lazy dog, again. " * 2, fill=(20, 20, 20)
        )
    assert is_exactly_drawn(np.asarray(page))
    for quality in (5, 30, 60, 90, 97):
        shown = Image.fromarray(decoded(encoded(np.asarray(page), quality=quality)))
        assert not is_exactly_drawn(np.asarray(shown))
        assert not is_exactly_drawn(np.asarray(shown.resize((360, 300), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize("shape", [(160, 160), (160, 160, 3)])
def test_white_noise_is_clean_until_it_is_compressed_or_scaled(shape: tuple[int, ...]) -> None:
    """It reaches from black to white, so no window is fit for the network."""
    noise = np.random.default_rng(5).integers(0, 256, shape, np.uint8)
    assert is_white_noise(noise)
    assert not is_white_noise(np.where(noise < 128, 0, 255).astype(np.uint8))  # a dither's kind
    for quality in (10, 30, 60):
        shown = decoded(encoded(noise, quality=quality))
        for size in (80, 120, 160, 200):
            scaled = Image.fromarray(shown).resize((size, size), Image.Resampling.LANCZOS)
            assert not is_white_noise(np.asarray(scaled))
