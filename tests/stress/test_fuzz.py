"""Mutated files through everything that reads files: nothing but this package's own errors, in one line."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import mutated, seeds
from PIL import Image

import unjpeg
from unjpeg import BadImageError, Restorer, UnjpegError
from unjpeg.jpeg import JpegImage, Limits, salvage
from unjpeg.picture import read_picture

SEEDS = seeds()
LIMITS = Limits(pixels=2**20)
REFUSED = {"arithmetic", "zero in a table", "frame twice", "scans", "chroma finer"}
SAME_PICTURE = {
    "no end marker": "sampling 4:2:0",
    "no end marker, trailer": "sampling 4:2:0",
    "height after the scan": "sampling 4:2:0",
    "restarts misnumbered": "restarts",
}
"""What Pillow refuses or reads otherwise, and what it is to be like."""


@pytest.mark.parametrize("name", SEEDS)
def test_every_kind_of_file_is_restored_or_refused(name: str, tiny_restorer: Restorer) -> None:
    if name in REFUSED:
        with pytest.raises(BadImageError):
            tiny_restorer.restore(SEEDS[name], strength=0)
    else:
        result = tiny_restorer.restore(SEEDS[name], strength=0)
        with Image.open(io.BytesIO(SEEDS[SAME_PICTURE.get(name, name)])) as image:
            expected = np.asarray(image)
        np.testing.assert_array_equal(result.pixels, expected)


def said_by(read: Callable[[], object]) -> str:
    try:
        read()
    except UnjpegError as error:
        return str(error)
    return ""


@given(st.sampled_from(sorted(SEEDS)), st.sampled_from(sorted(SEEDS)), st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_damaged_files_raise_one_line_or_nothing(name: str, other: str, seed: int) -> None:
    data = mutated(SEEDS[name], SEEDS[other], random.Random(seed))
    before = hashlib.sha256(data).digest()
    for read in (
        lambda: JpegImage.decode(data, "photo.jpg", LIMITS),
        lambda: salvage(data, "photo.jpg", LIMITS),
        lambda: read_picture(data, limits=LIMITS, salvage_damaged=True),
        lambda: unjpeg.inspect(data, model=None, limits=LIMITS),
        lambda: unjpeg.verify(SEEDS["sampling 4:2:0"], data, limits=LIMITS),
    ):
        assert "\n" not in said_by(read)
    assert hashlib.sha256(data).digest() == before


@given(st.sampled_from(sorted(SEEDS)), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_what_is_salvaged_can_be_saved(tiny_model: Path, name: str, seed: int) -> None:
    data = mutated(SEEDS[name], SEEDS["metadata"], random.Random(seed))
    restorer = Restorer(tiny_model, limits=LIMITS)
    try:
        restoration = restorer.begin(data, strength=0, salvage=True)
    except UnjpegError:
        return
    for format in ("jpeg" if restoration.is_cmyk else "png", "tiff"):
        buffer = io.BytesIO()
        restorer.begin(data, strength=0, salvage=True).save(buffer, format=format)
        with Image.open(buffer) as image:
            size = restoration.report.width, restoration.report.height
            turned = format == "tiff" and restoration.metadata.orientation >= 5  # by Pillow, as it opens one
            assert image.size == (size[::-1] if turned else size)
            image.load()
