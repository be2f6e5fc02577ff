"""Training data: samples that depend on nothing but their number, and a store that holds what the files hold."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unjpeg.datasets import ImageFolder
from unjpeg.errors import SettingError, TrainingDataError
from unjpeg.files import place_file
from unjpeg.train.data import ImageStore, PairedPatches, PatchPair, Sample, is_validation, make_sample_loader
from unjpeg.train.degrade import JpegDegradation, Pixels8, compress_jpeg, standard_stated
from unjpeg.train.patterns import PATTERNS, draw_pattern
from unjpeg.train.run import TrainingImages


def open_patches(
    folder: Path,
    *,
    patch: int = 24,
    seed: int = 7,
    resize: bool = False,
    candidates: int = 1,
    shrink: float = 0.0,
    patterns: float = 0.0,
    blind: float = 0.0,
    degradation: JpegDegradation | None = None,
) -> PairedPatches:
    store = ImageStore(ImageFolder(folder).files(), folder.parent / "cache")
    weights = [height * width for height, width in store.shapes]
    return PairedPatches(
        store,
        weights,
        patch=patch,
        degradation=degradation or JpegDegradation(),
        seed=seed,
        resize=resize,
        candidates=candidates,
        shrink=shrink,
        patterns=patterns,
        blind=blind,
    )


def same(a: PatchPair, b: PatchPair) -> bool:
    numbers = (a.quality, a.picture) == (b.quality, b.picture)
    arrays = ((a.compressed, b.compressed), (a.original, b.original), (a.stated, b.stated))
    return numbers and all(np.array_equal(one, other) for one, other in arrays)


def fill(folder: Path, pixels: Pixels8, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.fromarray(pixels).save(folder / name)
    return folder


def flat(value: int, side: int = 16) -> Pixels8:
    return np.full((side, side, 3), value, np.uint8)


# --- samples ----------------------------------------------------------------------------------------------------


def test_sample_is_a_function_of_seed_and_number(image_folder: Path) -> None:
    first, again, other = open_patches(image_folder), open_patches(image_folder), open_patches(image_folder, seed=8)
    numbers = [3, 0, 1000, 3, 2**31 + 5]
    expected = {n: first[n] for n in numbers}
    for n in reversed(numbers):
        assert same(again[n], expected[n])
    assert not any(same(other[n], expected[n]) for n in set(numbers))
    assert not same(expected[0], expected[1000])


def batches(patches: PairedPatches, **options: int) -> list[Sample]:
    return list(make_sample_loader(patches, **{"first_step": 0, "steps": 3, "batch": 8, "workers": 0, **options}))


def joined(parts: list[Sample]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        torch.cat([part.compressed for part in parts]),
        torch.cat([part.original for part in parts]),
        torch.cat([part.quality for part in parts]),
    )


def assert_same_samples(a: list[Sample], b: list[Sample]) -> None:
    for mine, theirs in zip(joined(a), joined(b), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("workers", [1, 2])
def test_samples_do_not_depend_on_workers(image_folder: Path, workers: int) -> None:
    patches = open_patches(image_folder)
    assert_same_samples(batches(patches, workers=workers), batches(patches))


@pytest.mark.parametrize(("world_size", "micro_batches"), [(1, 1), (1, 4), (2, 1), (2, 2), (4, 2), (8, 1)])
def test_samples_do_not_depend_on_how_a_batch_is_divided(
    image_folder: Path, world_size: int, micro_batches: int
) -> None:
    patches = open_patches(image_folder)
    ranks = [
        batches(patches, world_size=world_size, rank=rank, micro_batches=micro_batches) for rank in range(world_size)
    ]
    assert {len(parts) for parts in ranks} == {3 * micro_batches}
    assert {len(part.quality) for parts in ranks for part in parts} == {8 // world_size // micro_batches}
    in_order = [
        part
        for step in range(3)
        for parts in ranks
        for part in parts[step * micro_batches : (step + 1) * micro_batches]
    ]
    assert_same_samples(in_order, batches(patches))


def test_resumed_samples_are_those_of_the_later_steps(image_folder: Path) -> None:
    patches = open_patches(image_folder)
    assert_same_samples(batches(patches, first_step=2, steps=5), batches(patches, steps=5)[2:])


def test_batch_that_cannot_be_divided_is_refused(image_folder: Path) -> None:
    with pytest.raises(SettingError, match="batch 8 cannot be divided over 3 processes"):
        batches(open_patches(image_folder), world_size=3)


def test_batch_shapes(image_folder: Path) -> None:
    sample = batches(open_patches(image_folder, patch=20))[0]
    assert sample.compressed.shape == sample.original.shape == (8, 3, 20, 20)
    assert sample.compressed.dtype == sample.original.dtype == torch.uint8
    assert sample.quality.shape == (8,)
    assert sample.quality.dtype == torch.int64


def test_original_is_a_patch_of_a_picture(image_folder: Path, pictures: list[Pixels8]) -> None:
    patches = open_patches(image_folder, patch=40)
    turned = [
        view for picture in pictures for k in range(4) for view in (np.rot90(picture, k), np.rot90(picture, k)[:, ::-1])
    ]
    windows = [np.lib.stride_tricks.sliding_window_view(view[:, :, 0], (40, 40)) for view in turned]
    for number in range(6):
        _, original, *_ = patches[number]
        found = 0
        for view, window in zip(turned, windows, strict=True):
            corners = np.argwhere(
                (window[:, :, 0, 0] == original[0, 0, 0]) & (window[:, :, -1, -1] == original[-1, -1, 0])
            )
            found += sum(np.array_equal(view[y : y + 40, x : x + 40], original) for y, x in corners)
        assert found == 1


def test_all_eight_orientations_occur(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    patches = open_patches(fill(tmp_path / "one", picture, "one.png"), patch=16)
    seen = {patches[number][1].tobytes() for number in range(100)}
    turned = [np.rot90(picture, k) for k in range(4)]
    assert seen == {np.ascontiguousarray(view).tobytes() for t in turned for view in (t, t[:, ::-1])}


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 300), (40, 7), (31, 32)])
def test_pictures_smaller_than_the_patch(tmp_path: Path, height: int, width: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    patches = open_patches(fill(tmp_path / "small", picture, "small.png"), patch=32)
    known = {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()}
    for number in range(8):
        compressed, original, *_ = patches[number]
        assert compressed.shape == original.shape == (32, 32, 3)
        assert {tuple(pixel) for pixel in original.reshape(-1, 3).tolist()} <= known


def test_resize_scales_the_whole_picture_before_compression(tmp_path: Path, photo: Pixels8) -> None:
    patches = open_patches(fill(tmp_path / "one", photo, "one.png"), patch=48, resize=True)
    scaled = np.asarray(Image.fromarray(photo).resize((48, 48), Image.Resampling.BICUBIC))
    turned = [view for k in range(4) for view in (np.rot90(scaled, k), np.rot90(scaled, k)[:, ::-1])]
    for number in range(4):
        compressed, original, quality, *_ = patches[number]
        assert any(np.array_equal(original, view) for view in turned)
        assert np.array_equal(compressed, pillow_jpeg(original, quality))


def test_last_picture_is_drawn_even_if_the_weights_do_not_add_up(image_folder: Path) -> None:
    """Rounding can leave the sum of the shares below 1, and a draw above it."""
    patches = open_patches(image_folder)
    patches._cumulative = patches._cumulative * 1e-9
    assert patches[0][1].shape == (24, 24, 3)


# --- degradation ------------------------------------------------------------------------------------------------


def pillow_jpeg(pixels: Pixels8, quality: int, subsampling: str = "4:2:0") -> Pixels8:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality, subsampling=subsampling)
    buffer.seek(0)
    with Image.open(buffer) as image:
        return np.array(image)


def test_compressed_patch_is_pillows(image_folder: Path) -> None:
    patches = open_patches(image_folder)
    for number in range(20):
        compressed, original, quality, *_ = patches[number]
        assert np.array_equal(compressed, pillow_jpeg(original, quality))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("quality", [1, 10, 50, 95, 100])
def test_compress_jpeg_is_pillows(photo: Pixels8, quality: int, subsampling: str) -> None:
    assert np.array_equal(compress_jpeg(photo, quality, subsampling), pillow_jpeg(photo, quality, subsampling))


def test_compress_jpeg_takes_grey(photo: Pixels8) -> None:
    grey = np.ascontiguousarray(photo[:, :, 1])
    out = compress_jpeg(grey, 30)
    assert out.shape == grey.shape
    assert np.array_equal(out, pillow_jpeg(grey, 30))


def test_lower_quality_is_worse(photo: Pixels8) -> None:
    errors = [np.square(compress_jpeg(photo, q).astype(float) - photo).mean() for q in (5, 10, 20, 40, 80, 100)]
    assert errors == sorted(errors, reverse=True)


@given(st.tuples(st.integers(1, 100), st.integers(1, 100)).map(sorted), st.integers(0, 2**32))
def test_quality_stays_in_range(ends: list[int], seed: int) -> None:
    low, high = ends
    degraded = JpegDegradation(low, high).apply(np.zeros((8, 8, 3), np.uint8), np.random.default_rng(seed))
    assert low <= degraded.quality <= high
    assert type(degraded.quality) is int


def test_quality_takes_every_value_of_its_range(image_folder: Path) -> None:
    patches = open_patches(image_folder, patch=8, degradation=JpegDegradation(30, 34))
    assert {patches[number][2] for number in range(100)} == {30, 31, 32, 33, 34}


def test_skew_draws_low_qualities_more_often(photo: Pixels8) -> None:
    rng = np.random.default_rng(0)
    drawn = [JpegDegradation(1, 100, skew=2.0).apply(photo[:8, :8], rng).quality for _ in range(400)]
    assert 0.44 < np.mean(np.array(drawn) <= 25) < 0.56  # half of them in the lowest quarter
    assert max(drawn) > 90
    with pytest.raises(ValueError, match="skew"):
        JpegDegradation(skew=0.0)


@pytest.mark.parametrize(("low", "high"), [(0, 10), (10, 101), (50, 49), (-5, 5)])
def test_bad_quality_range_is_refused(low: int, high: int) -> None:
    with pytest.raises(ValueError, match="quality range"):
        JpegDegradation(low, high)


# --- the store --------------------------------------------------------------------------------------------------


def test_store_holds_the_decoded_pixels(image_folder: Path, pictures: list[Pixels8], tmp_path: Path) -> None:
    store = ImageStore(ImageFolder(image_folder).files(), tmp_path / "cache")
    assert len(store) == len(pictures)
    for i, picture in enumerate(pictures):
        assert np.array_equal(store[i], picture)
        assert store.shapes[i] == picture.shape[:2]
        assert not store[i].flags.writeable


def test_store_turns_and_converts_pictures(tmp_path: Path, photo: Pixels8) -> None:
    folder = tmp_path / "kinds"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    Image.fromarray(photo).save(folder / "a-turned.png", exif=exif)
    Image.fromarray(photo[:, :, 0]).save(folder / "b-grey.png")
    Image.fromarray(photo).quantize(16).save(folder / "c-palette.png")
    Image.fromarray(photo).save(folder / "d-lossy.JPG", quality=90)
    store = ImageStore(ImageFolder(folder).files(), tmp_path / "cache")
    assert np.array_equal(store[0], np.rot90(photo, -1))
    assert np.array_equal(store[1], np.repeat(photo[:, :, :1], 3, axis=2))
    assert store[2].shape == photo.shape
    assert np.array_equal(store[3], pillow_jpeg(photo, 90))


def test_store_is_made_once(image_folder: Path, tmp_path: Path) -> None:
    files = ImageFolder(image_folder).files()
    first = ImageStore(files, tmp_path / "cache")
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    again = ImageStore(files, tmp_path / "cache")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == made
    assert len(made) == 2
    assert again.checksum == first.checksum


def test_store_is_remade_when_a_file_changes(image_folder: Path, tmp_path: Path) -> None:
    files = ImageFolder(image_folder).files()
    first = ImageStore(files, tmp_path / "cache")
    before = files[2].stat()
    Image.fromarray(flat(9)).save(files[2])
    os.utime(files[2], ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))
    second = ImageStore(files, tmp_path / "cache")
    assert np.array_equal(second[2], flat(9))
    assert second.checksum != first.checksum
    assert np.array_equal(second[3], first[3])


@pytest.mark.parametrize("suffix", ["json", "u8"])
def test_store_is_remade_when_a_part_was_deleted(image_folder: Path, tmp_path: Path, suffix: str) -> None:
    files = ImageFolder(image_folder).files()
    checksum = ImageStore(files, tmp_path / "cache").checksum
    (part,) = (tmp_path / "cache").glob(f"*.{suffix}")
    part.unlink()
    remade = ImageStore(files, tmp_path / "cache")
    assert remade.checksum == checksum
    assert np.array_equal(remade[0], np.asarray(Image.open(files[0])))


def test_store_survives_a_kill_while_its_index_is_written(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, record: object) -> None:
        with place_file(path, overwrite=True) as file:
            file.write(json.dumps(record).encode()[:20])
            raise KeyboardInterrupt

    files = ImageFolder(image_folder).files()
    with monkeypatch.context() as patch:
        patch.setattr("unjpeg.train.data.put_json", killed)
        with pytest.raises(KeyboardInterrupt):
            ImageStore(files, tmp_path / "cache")
    store = ImageStore(files, tmp_path / "cache")
    assert np.array_equal(store[5], np.asarray(Image.open(files[5])))


def test_half_made_stores_that_nobody_writes_to_are_removed(image_folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    abandoned = [cache / f".unjpeg-{number:016x}.partial" for number in range(2)]
    others = [
        cache / ".unjpeg-00000000000000ff.partial",  # somebody, on whatever machine, is still at work
        cache / "images-0.u8",
        cache / "notes.txt",
    ]
    for file in (*abandoned, *others):
        file.write_bytes(b"half")
    for file in (*abandoned, *others[1:]):
        os.utime(file, (0, 0))
    store = ImageStore(ImageFolder(image_folder).files(), cache)
    assert len(store) == 6
    assert not any(file.exists() for file in abandoned)
    assert all(file.read_bytes() == b"half" for file in others)


@pytest.mark.parametrize("left", [0, 1])
def test_a_kill_while_pictures_are_decoded_leaves_nothing_for_ever(
    image_folder: Path, tmp_path: Path, child_environment: dict[str, str], left: int
) -> None:
    """Nothing at all, or where the file system has no nameless files (and Linux does not forget them) for a day."""
    script = """
import os, signal, sys
from pathlib import Path
from unjpeg import files
from unjpeg.datasets import ImageFolder
from unjpeg.train import data

decode, seen = data._decode, []
def killed(file):
    seen.append(file)
    if len(seen) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(file)
data._decode = killed
if sys.argv[3] == "1":
    files._nameless = lambda _folder: None
data.ImageStore(ImageFolder(Path(sys.argv[1])).files(), Path(sys.argv[2]))
"""
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", script, str(image_folder), str(cache), str(left)]
    ran = subprocess.run(command, env=child_environment, check=False)
    assert ran.returncode == -signal.SIGKILL
    assert len(list(cache.iterdir())) == left
    for partial in cache.iterdir():
        os.utime(partial, (0, 0))
    ImageStore(ImageFolder(image_folder).files(), cache)
    assert sorted(file.suffix for file in cache.iterdir()) == [".json", ".u8"]


# --- folders and the split --------------------------------------------------------------------------------------


def test_folder_lists_pictures_at_any_depth_in_order(tmp_path: Path) -> None:
    fill(tmp_path / "z", flat(1), "b.png", "a.webp")
    fill(tmp_path / "a", flat(2), "c.PNG")
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    (tmp_path / "a" / "folder.png").mkdir()
    assert [p.relative_to(tmp_path).as_posix() for p in ImageFolder(tmp_path).files()] == [
        "a/c.PNG",
        "z/a.webp",
        "z/b.png",
    ]


@pytest.mark.parametrize(
    ("text", "path", "weight"),
    [
        ("photos", "photos", None),
        ("photos=2.5", "photos", 2.5),
        ("a=b", "a=b", None),
        ("a=b=3", "a=b", 3.0),
        ("/data/x", "/data/x", None),
    ],
)
def test_folder_parses_its_weight(text: str, path: str, weight: float | None) -> None:
    assert ImageFolder.parse(text) == ImageFolder(Path(path), weight)


@pytest.mark.parametrize("weight", ["-1", "0", "nan", "inf"])
def test_folder_weight_that_is_no_share_is_refused(weight: str) -> None:
    with pytest.raises(TrainingDataError, match=r"photos.*weight"):
        ImageFolder.parse(f"photos={weight}")


def test_missing_empty_and_bad_folders_are_named(tmp_path: Path) -> None:
    empty = tmp_path / "nothing-here"
    empty.mkdir()
    file = tmp_path / "file.png"
    Image.fromarray(flat(0)).save(file)
    for path in (tmp_path / "missing", empty, file):
        with pytest.raises(TrainingDataError) as caught:
            TrainingImages.open([ImageFolder(path)], validation_fraction=0.1, cache_dir=tmp_path / "cache")
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["text", "empty", "truncated", "huge"])
def test_unreadable_picture_is_named(
    image_folder: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = image_folder / "picture-3.png"
    whole = bad.read_bytes()
    bad.write_bytes({"text": b"no picture", "empty": b"", "truncated": whole[: len(whole) // 2], "huge": whole}[kind])
    if kind == "huge":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        for other in image_folder.iterdir():
            if other != bad:
                other.unlink()
    with pytest.raises(TrainingDataError, match=r"picture-3\.png: cannot be read"):
        TrainingImages.open([ImageFolder(image_folder)], validation_fraction=0.0, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_split_is_disjoint_and_stable(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    for number in range(40):
        fill(folder, flat(number), f"{number}.png")

    def split() -> tuple[set[int], set[int]]:
        images = TrainingImages.open([ImageFolder(folder)], validation_fraction=0.25, cache_dir=tmp_path / "cache")
        training, validation = (
            [int(store[i][0, 0, 0]) for i in range(len(store))] for store in (images.training, images.validation)
        )
        assert len(set(training)) == len(training) == images.manifest["training_images"] == len(images.weights)
        assert len(set(validation)) == len(validation) == images.manifest["validation_images"]
        return set(training), set(validation)

    training, validation = split()
    assert not training & validation
    assert training | validation == set(range(40))
    assert 3 <= len(validation) <= 20
    for number in range(40, 60):  # more pictures do not move the others
        fill(folder, flat(number), f"{number}.png")
    moved = tmp_path / "elsewhere"
    folder = folder.rename(moved)
    for number in (3, 17):
        (folder / f"{number}.png").unlink()
    grown_training, grown_validation = split()
    assert training - {3, 17} == grown_training & set(range(40))
    assert validation - {3, 17} == grown_validation & set(range(40))


@given(st.text(st.characters(exclude_characters="/\0"), min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_larger_fraction_only_adds_to_the_validation_split(name: str, a: float, b: float) -> None:
    small, large = sorted((a, b))
    file = Path("folder") / name
    assert is_validation(file, large) or not is_validation(file, small)
    assert not is_validation(file, 0)
    assert is_validation(file, 1)


def test_validation_fraction_is_met_on_average() -> None:
    names = [Path(f"{number:05}.png") for number in range(4000)]
    assert 0.05 < np.mean([is_validation(name, 0.06) for name in names]) < 0.07


def test_one_picture_serves_for_both(tmp_path: Path, photo: Pixels8) -> None:
    folder = fill(tmp_path / "one", photo, "one.png")
    images = TrainingImages.open([ImageFolder(folder)], validation_fraction=0.0, cache_dir=tmp_path / "cache")
    assert len(images.training) == len(images.validation) == 1


def test_no_training_picture_left_is_an_error(tmp_path: Path, photo: Pixels8) -> None:
    folder = fill(tmp_path / "one", photo, "one.png")
    with pytest.raises(TrainingDataError, match="no training images are left"):
        TrainingImages.open([ImageFolder(folder)], validation_fraction=1.0, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ((None, None), (0.2, 0.8)),  # by pixels: 4 pictures of 16 x 16 and one of 64 x 64
        ((3.0, 1.0), (0.75, 0.25)),
        ((1.0, 1.0), (0.5, 0.5)),
        ((1.0, None), (1 / 1.8, 0.8 / 1.8)),  # as much as all pixels, beside a folder with 4/5 of them
    ],
)
def test_folders_are_drawn_by_their_weights(
    tmp_path: Path, weights: tuple[float | None, float | None], shares: tuple[float, float]
) -> None:
    small = fill(tmp_path / "small", flat(50), *(f"s{number}.png" for number in range(4)))
    large = fill(tmp_path / "large", flat(200, side=64), "l.png")
    images = TrainingImages.open(
        [ImageFolder(small, weights[0]), ImageFolder(large, weights[1])],
        validation_fraction=0.0,
        cache_dir=tmp_path / "cache",
    )
    # Small is a quarter of large's pixels: 4 x 256 against 4096, a fifth of all.
    patches = PairedPatches(images.training, images.weights, patch=8, degradation=JpegDegradation(90, 90), seed=1)
    draws = 1500
    counts = Counter(int(patches[number][1][0, 0, 0]) for number in range(draws))
    tolerance = 4 * np.sqrt(shares[0] * shares[1] / draws)
    assert counts[50] / draws == pytest.approx(shares[0], abs=tolerance)
    assert counts[200] / draws == pytest.approx(shares[1], abs=tolerance)


def test_manifest_tells_what_was_trained_on(image_folder: Path, tmp_path: Path) -> None:
    def manifest() -> dict[str, object]:
        images = TrainingImages.open(
            [ImageFolder(image_folder, 2.0)], validation_fraction=0.0, cache_dir=tmp_path / "cache"
        )
        return images.manifest

    before = manifest()
    assert before["folders"] == [{"name": "pictures", "weight": 2.0}]
    assert before["training_images"] == 6
    assert json.loads(json.dumps(before)) == before
    Image.fromarray(flat(1)).save(image_folder / "picture-0.png")
    assert manifest()["training_sha256"] != before["training_sha256"]


def test_validation_crops_are_centred_and_on_the_grid(image_folder: Path, tmp_path: Path) -> None:
    images = TrainingImages.open([ImageFolder(image_folder)], validation_fraction=0.5, cache_dir=tmp_path / "cache")
    crops = images.cut_validation_crops(64)
    assert len(crops) == len(images.validation) > 0
    for i, crop in enumerate(crops):
        image = images.validation[i]
        height, width = (min(64, n) // 16 * 16 for n in image.shape[:2])
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        assert np.array_equal(crop, image[top : top + height, left : left + width])


def test_the_most_detailed_of_the_candidates_is_taken(image_folder: Path) -> None:
    def detail(number: int, candidates: int) -> float:
        green = open_patches(image_folder, patch=16, candidates=candidates)[number][1][:, :, 1].astype(int)
        return float(np.abs(np.diff(green, axis=0)).mean() + np.abs(np.diff(green, axis=1)).mean())

    plain, chosen = ([detail(number, candidates) for number in range(40)] for candidates in (1, 4))
    # The same picture and the same first patch, so never less, up to the turning that follows.
    assert all(b >= a - 1e-9 for a, b in zip(plain, chosen, strict=True))
    assert np.mean(chosen) > 1.1 * np.mean(plain)


def test_a_halved_patch_is_twice_the_side_scaled_down(image_folder: Path, pictures: list[Pixels8]) -> None:
    _, original, _, number, _ = open_patches(image_folder, patch=16, shrink=1.0)[5]
    picture = pictures[number]
    height, width = (n - 32 + 1 for n in picture.shape[:2])
    candidates = (
        np.asarray(Image.fromarray(picture[y : y + 32, x : x + 32]).resize((16, 16), Image.Resampling.BICUBIC))
        for y in range(height)
        for x in range(width)
    )
    turned = [np.rot90(flipped, turns) for flipped in (original, original[:, ::-1]) for turns in range(4)]
    assert any(np.array_equal(cut, patch) for cut in candidates for patch in turned)


def test_what_is_not_like_its_picture_guides_itself(image_folder: Path) -> None:
    degradation = JpegDegradation(10, 95, real_life=0.5)
    plain, mixed = (open_patches(image_folder, patch=32, degradation=d) for d in (JpegDegradation(10, 95), degradation))
    alone = 0
    for number in range(60):
        assert same(mixed[number], mixed[number])
        picture = mixed[number][3]
        assert picture in (-1, plain[number][3])
        alone += picture == -1
    assert 8 < alone < 30


def test_what_the_file_states_comes_with_it_unless_it_is_blind(image_folder: Path) -> None:
    told, blind = open_patches(image_folder), open_patches(image_folder, blind=0.5)
    unknown = 0
    for number in range(40):
        np.testing.assert_array_equal(told[number].stated, standard_stated(told[number].quality))
        assert np.array_equal(blind[number].compressed, told[number].compressed)
        if blind[number].stated.any():
            assert same(blind[number], told[number])
        else:
            unknown += 1
    assert 8 < unknown < 32
    assert len({standard_stated(quality).tobytes() for quality in range(1, 101)}) == 100


def test_patterns_come_as_often_as_asked_and_half_of_them_alone(image_folder: Path) -> None:
    samples = open_patches(image_folder, patch=16, patterns=0.5)
    without = open_patches(image_folder, patch=16)
    numbers = range(400)
    changed = [not np.array_equal(np.sort(samples[n][1], None), np.sort(without[n][1], None)) for n in numbers]
    alone = [samples[n][3] == -1 for n in numbers]
    assert 0.4 < np.mean(changed) < 0.6
    assert 0.17 < np.mean(alone) < 0.33
    assert all(was for was, by_itself in zip(changed, alone, strict=True) if by_itself)


@pytest.mark.parametrize("kind", PATTERNS)
def test_patterns_are_pictures_that_differ_from_draw_to_draw(kind: str, photo: Pixels8) -> None:
    patch = photo[:40, :56]
    drawn = [PATTERNS[kind](patch, np.random.default_rng(n)) for n in range(12)]
    assert all(p.shape == patch.shape and p.dtype == np.uint8 for p in drawn)
    assert len({p.tobytes() for p in drawn}) > len(drawn) / 2
    assert np.array_equal(drawn[3], PATTERNS[kind](patch, np.random.default_rng(3)))


def test_every_kind_of_pattern_is_drawn(photo: Pixels8, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()

    def noting(kind: str) -> Callable[[Pixels8, np.random.Generator], Pixels8]:
        def draw(patch: Pixels8, _: np.random.Generator) -> Pixels8:
            seen.add(kind)
            return patch

        return draw

    for kind in PATTERNS:
        monkeypatch.setitem(PATTERNS, kind, noting(kind))
    for number in range(200):
        draw_pattern(photo, np.random.default_rng(number))
    assert seen == set(PATTERNS)
