"""What is compressed how, and which pictures a set has."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from conftest import synthetic_photo
from jpegs import decoded, encoded, picture

pytest.importorskip("skimage")

from unjpeg.errors import BadImageError, SettingError, TrainingDataError
from unjpeg.evaluate.metrics import psnr_db
from unjpeg.evaluate.pairs import Degradation, EncoderName, TestSet, decode, encode_jpeg, load_images
from unjpeg.inspection import inspect, verify


@pytest.mark.parametrize(
    "name",
    [
        "jpeg-10",
        "jpeg-10-4:4:4",
        "mozjpeg-30",
        "webp-20",
        "avif-30",
        "jpeg-90-after-30",
        "jpeg-90-after-30-shift-3-5",
        "jpeg-90-4:2:2-after-30",
        "webp-50-after-30",
    ],
)
def test_degradations_are_what_their_names_say(name: str) -> None:
    degradation = Degradation.parse(name)
    assert degradation.name == name
    original = synthetic_photo(48, 64, 0)
    made = degradation.apply(original)
    down, right = degradation.shift
    assert np.array_equal(made.original, original[down:, right:])
    assert decode(made.file).shape == made.original.shape
    assert 20 < psnr_db(decode(made.file), made.original) < 50
    assert degradation.apply(original).file == made.file
    if "jpeg" in name:
        facts = inspect(made.file, model=None)
        assert facts.subsampling == degradation.sampling


def test_the_second_compression_is_of_the_first_one_s_pixels() -> None:
    original = synthetic_photo(48, 64, 0)
    first = decoded(encoded(original, quality=30))
    assert Degradation.parse("jpeg-90-after-30").apply(original).file == encoded(first, quality=90)
    shifted = Degradation.parse("jpeg-90-after-30-shift-3-5").apply(original)
    assert shifted.file == encoded(np.ascontiguousarray(first[3:, 5:]), quality=90)


@pytest.mark.parametrize(
    "name", ["jpeg", "jpeg-0", "jpeg-101", "bmp-3", "webp-20-4:4:4", "jpeg-90-shift-1-1", "jpeg-9-after-0", "jpeg-x"]
)
def test_other_degradations_are_refused(name: str) -> None:
    with pytest.raises(SettingError):
        Degradation.parse(name)


def test_a_trellis_leaves_the_cells() -> None:
    noise = np.random.default_rng(0).normal(0, 12, (128, 128, 3))
    original = np.clip(picture(128, 128, low=60, high=190) + noise, 20, 235).astype(np.uint8)
    files = {encoder: encode_jpeg(original, 75, encoder) for encoder in get_args(EncoderName)}
    shares = {encoder: verify(file, original).consistency.share_inside for encoder, file in files.items()}
    assert shares["libjpeg"] > 0.99
    assert shares["mozjpeg"] < shares["libjpeg"] - 0.005
    assert len(files["mozjpeg"]) < len(files["libjpeg"])
    assert inspect(files["mozjpeg"], model=None).subsampling == "4:2:0"


def test_load_images(image_folder: Path, tmp_path: Path) -> None:
    (image_folder / "notes.txt").write_text("no picture")
    loaded = list(load_images(image_folder))
    assert [name for name, _ in loaded] == [f"picture-{i}.png" for i in range(6)]
    assert all(pixels.dtype == np.uint8 and pixels.ndim == 3 for _, pixels in loaded)
    (tmp_path / "empty").mkdir()
    for empty in (tmp_path / "missing", tmp_path / "empty"):
        with pytest.raises(TrainingDataError, match=r"no images|no such folder"):
            list(load_images(empty))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_originals_of_more_than_8_bits_are_refused(tmp_path: Path, dtype: type) -> None:
    deep = synthetic_photo(32, 32, 0)[..., 0].astype(dtype) * dtype(257)
    Image.fromarray(deep).save(tmp_path / "deep.png" if dtype is np.uint16 else tmp_path / "deep.tif")
    with pytest.raises(BadImageError, match=r"deep\..*: has more than 8 bits per sample; convert it to 8 bits first"):
        list(load_images(tmp_path))


def test_a_folder_s_broken_picture_is_named(image_folder: Path) -> None:
    (image_folder / "picture-3.png").write_bytes(b"\x89PNG")
    with pytest.raises(BadImageError, match=r"picture-3\.png: is no picture"):
        list(load_images(image_folder))


def test_sets_are_named_by_their_folders(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(originals)
    assert TestSet.parse(".").name == "originals"
    for folder in ("a/x", "b/x", "c/y"):
        (tmp_path / folder).mkdir(parents=True)
    named = TestSet.parse_all([str(tmp_path / folder) for folder in ("a/x", "b/x", "c/y")])
    assert [test_set.name for test_set in named] == ["a/x", "b/x", "y"]
    pairs = TestSet.parse_all([f"{tmp_path / 'a/x'}={originals}", f"{tmp_path / 'b/x'}={originals}"])
    assert [test_set.name for test_set in pairs] == ["a/x", "b/x"]
    with pytest.raises(SettingError, match="named twice"):
        TestSet.parse_all([str(originals), "."])
    for nothing in ("liv1", f"nowhere={originals}", f"{originals}=nowhere"):
        with pytest.raises(SettingError, match=r"nowhere|liv1: neither a folder nor one of the data sets"):
            TestSet.parse(nothing)
