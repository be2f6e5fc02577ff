"""What training pairs are degraded by: each file is what its encoding says, and nothing changed for older trainings."""

from __future__ import annotations

import io
import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conftest import synthetic_photo
from unjpeg.dct import RGB_TO_YCC, blocks_from_plane, dct_blocks
from unjpeg.jpeg import JpegImage
from unjpeg.othercodecs import comparable_quality
from unjpeg.picture import read_picture
from unjpeg.tables import standard_table
from unjpeg.train import degrade
from unjpeg.train.degrade import Degraded, Encoding, JpegDegradation, Pixels8, compress_jpeg, standard_stated
from unjpeg.train.quantisation import STYLES

WILD = JpegDegradation(5, 100, real_life=1.0)


@pytest.fixture(scope="module")
def patch() -> Pixels8:
    return synthetic_photo(64, 64, seed=3)


def encoding(style: str, quality: int, sampling: str = "4:2:0") -> Encoding:
    return Encoding(STYLES[style](quality, sampling, np.random.default_rng(0)), sampling)


def difference(a: Pixels8, b: Pixels8) -> float:
    """Root mean square, in levels."""
    return float(np.sqrt(np.square(a.astype(float) - b).mean()))


# What a file states


@pytest.mark.parametrize("sampling", ["4:2:0", "4:2:2", "4:4:4", "grey"])
def test_an_encoding_states_what_its_file_states(patch: Pixels8, sampling: str) -> None:
    made = encoding("mozjpeg", 40, sampling)
    np.testing.assert_array_equal(made.stated, JpegImage.decode(made.encode(patch)).stated)


def test_of_two_files_the_last_one_speaks(patch: Pixels8, monkeypatch: pytest.MonkeyPatch) -> None:
    last, first = encoding("jpegli", 80, "4:4:4"), encoding("standard", 20)
    waiting = iter([last, first])
    monkeypatch.setattr(Encoding, "draw", lambda *_args, **_options: next(waiting))
    monkeypatch.setattr(degrade, "HISTORIES", {"aligned": 1.0})
    pair = WILD.apply(patch, np.random.default_rng(0))
    np.testing.assert_array_equal(pair.stated, last.stated)
    np.testing.assert_array_equal(pair.compressed, last.apply(first.apply(patch)))


# Tables


@given(st.sampled_from(sorted(STYLES)), st.integers(1, 100), st.sampled_from(["4:2:0", "4:4:4"]), st.integers(0, 9))
def test_tables_fit_a_baseline_file(style: str, quality: int, sampling: str, seed: int) -> None:
    for table in STYLES[style](quality, sampling, np.random.default_rng(seed)):
        assert table.shape == (8, 8)
        assert table.dtype == np.int64
        assert table.min() >= 1
        assert table.max() <= 255


@pytest.mark.parametrize("style", sorted(STYLES))
@pytest.mark.parametrize("sampling", ["4:2:0", "4:4:4"])
def test_lower_quality_never_has_a_finer_step(style: str, sampling: str) -> None:
    steps = [
        np.stack(STYLES[style](q, sampling, np.random.default_rng(1))) for q in (1, 5, 20, 29, 30, 50, 80, 95, 100)
    ]
    assert all((worse >= better).all() for worse, better in itertools.pairwise(steps))
    assert (steps[0] > steps[-1]).any()


def test_standard_tables_are_libjpeg_s() -> None:
    luma, chroma = STYLES["standard"](37, "4:2:0", np.random.default_rng(0))
    assert np.array_equal(luma, standard_table(37))
    assert np.array_equal(chroma, standard_table(37, chroma=True))


def test_mozjpeg_s_table_is_scaled_by_libjpeg_s_rule() -> None:
    """Base 16, 37 and 418 in the first column's first, the first row's sixth and the last entry: by hand."""
    for quality, entries in ((50, (16, 37, 255)), (75, (8, 19, 209)), (25, (32, 74, 255)), (100, (1, 1, 1))):
        luma, chroma = STYLES["mozjpeg"](quality, "4:2:0", np.random.default_rng(0))
        assert (luma[0, 0], luma[0, 5], luma[7, 7]) == entries
        assert np.array_equal(luma, chroma)


def test_jpegli_s_tables_by_hand() -> None:
    """Quality 90 is distance 1: the rounded product of scale and matrix; 50 is 4.6, beyond the kink at 1.5."""
    luma, chroma = STYLES["jpegli"](90, "4:4:4", np.random.default_rng(0))
    assert (luma[0, 0], luma[0, 1], luma[7, 7]) == (2, 3, 8)
    assert (chroma[0, 0], chroma[7, 7]) == (5, 200)
    luma, _ = STYLES["jpegli"](50, "4:4:4", np.random.default_rng(0))
    assert luma[0, 0] == round(1.7397 * 4.6 * 1.24)
    assert luma[0, 1] == round(1.7397 * 1.5**0.49 * 4.6**0.51 * 1.72)
    subsampled = STYLES["jpegli"](50, "4:2:0", np.random.default_rng(0))
    assert subsampled[0][0, 0] == round(1.7397 * 1.22 * 4.6 * 1.24)
    assert subsampled[1][0, 0] == round(1.7397 * 1.22 * 4.6 / 3 * 2.92)


def test_a_camera_s_tables_differ_from_draw_to_draw_around_the_quality() -> None:
    rng = np.random.default_rng(0)
    read = [Encoding(STYLES["camera"](60, "4:2:0", rng), "4:2:0").quality for _ in range(40)]
    assert len(set(read)) > 10
    assert 50 < np.median(read) < 70


# Encodings


@given(
    style=st.sampled_from(sorted(STYLES)),
    quality=st.integers(1, 100),
    sampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0", "grey"]),
)
def test_a_file_is_what_its_encoding_says(style: str, quality: int, sampling: str) -> None:
    pixels = synthetic_photo(24, 40, seed=1)
    drawn = encoding(style, quality, sampling)
    file = JpegImage.decode(drawn.encode(pixels))
    assert file.header.subsampling == sampling
    tables = [component.table_88 for component in file.components]
    assert np.array_equal(tables[0], drawn.tables[0])
    assert all(np.array_equal(table, drawn.tables[1]) for table in tables[1:])
    assert drawn.quality == file.quality.value
    decoded = np.asarray(Image.open(io.BytesIO(drawn.encode(pixels))).convert("RGB"))
    assert np.array_equal(drawn.apply(pixels), decoded)


@pytest.mark.parametrize("quality", [5, 50, 100])
@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_the_standard_encoding_is_libjpeg_s(patch: Pixels8, quality: int, sampling: str) -> None:
    drawn = encoding("standard", quality, sampling)
    assert np.array_equal(drawn.apply(patch), compress_jpeg(patch, quality, sampling))
    assert drawn.quality == quality
    assert drawn.halves_chroma == (sampling != "4:4:4")


# Degradations


@given(st.integers(0, 2**32), st.integers(1, 100))
def test_without_real_life_pairs_are_those_of_earlier_trainings(seed: int, low: int) -> None:
    pixels = synthetic_photo(16, 16, seed=2)
    rng, same = np.random.default_rng(seed), np.random.default_rng(seed)
    degraded = JpegDegradation(low, 100).apply(pixels, rng)
    quality = low + int((101 - low) * same.random())
    assert rng.bit_generator.state == same.bit_generator.state
    assert degraded.quality == quality
    assert degraded.like_picture
    assert degraded.original is pixels
    assert np.array_equal(degraded.compressed, compress_jpeg(pixels, quality))


@given(st.integers(0, 2**32))
def test_pairs_are_decided_by_the_random_numbers(seed: int) -> None:
    pixels = synthetic_photo(32, 48, seed=2)
    kept = pixels.copy()
    one, two = (WILD.apply(pixels, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(one.compressed, two.compressed)
    assert np.array_equal(one.original, two.original)
    assert one[2:4] == two[2:4]
    assert np.array_equal(one.stated, two.stated)
    assert np.array_equal(pixels, kept)
    for image in one[:2]:
        assert image.shape == pixels.shape
        assert image.dtype == np.uint8
    assert 1 <= one.quality <= 100
    assert type(one.quality) is int


def test_every_kind_of_file_is_drawn_as_often_as_it_should(monkeypatch: pytest.MonkeyPatch, patch: Pixels8) -> None:
    drawn: list[Encoding] = []
    names: Counter[str] = Counter()
    plain, apply = degrade._draw, Encoding.apply

    def counted(shares: dict[str, float], rng: np.random.Generator) -> str:
        name = plain(shares, rng)
        names[name] += 1
        return name

    def recorded(self: Encoding, pixels: Pixels8) -> Pixels8:
        drawn.append(self)
        return apply(self, pixels)

    monkeypatch.setattr(degrade, "_draw", counted)
    monkeypatch.setattr(Encoding, "apply", recorded)
    pairs = [WILD.apply(patch[:16, :16], np.random.default_rng(n)) for n in range(600)]
    for name, share in degrade.HISTORIES.items():
        assert names[name] / 600 == pytest.approx(share, abs=0.06)
    assert len(drawn) == 600 + names["aligned"] + names["shifted"] + names["resized"]
    for name, share in degrade.STYLE_SHARES.items():
        assert names[name] / len(drawn) == pytest.approx(share, abs=0.06)
    coloured = sum(one.sampling != "grey" for one in drawn)
    assert coloured / len(drawn) == pytest.approx(1 - degrade.GREY_SHARE, abs=0.04)
    for name, share in degrade.SAMPLINGS.items():
        assert names[name] / coloured == pytest.approx(share, abs=0.06)
    alike = sum(pair.like_picture for pair in pairs)
    assert alike / 600 == pytest.approx(0.9 * (0.6 * 0.65 + 0.14 * 0.65**2), abs=0.06)


def test_shares_add_up() -> None:
    for shares in (degrade.SAMPLINGS, degrade.STYLE_SHARES, degrade.HISTORIES, degrade.OTHER_CODECS):
        assert sum(shares.values()) == pytest.approx(1)
    assert degrade.STYLE_SHARES.keys() == STYLES.keys()


def test_the_share_of_real_life_is_met(patch: Pixels8) -> None:
    half = JpegDegradation(20, 60, real_life=0.5)
    plain = 0
    for number in range(200):
        degraded = half.apply(patch, np.random.default_rng(number))
        plain += np.array_equal(degraded.compressed, compress_jpeg(patch, degraded.quality))
    assert plain / 200 == pytest.approx(0.5 + 0.5 * 0.9 * 0.6 * 0.4 * 0.5, abs=0.1)


@given(st.integers(0, 2**32))
def test_at_the_best_quality_little_is_lost_whatever_the_history(seed: int) -> None:
    """The original has gone through the same resizing and the same loss of colour: what is left is rounding."""
    y, x = np.mgrid[:48, :48] / 48  # soft in colour: what chroma subsampling loses is not at stake here
    pixels = np.stack([255 * x, 200 * y, 120 + 100 * x * y], axis=2).astype(np.uint8)
    degraded = JpegDegradation(100, 100, real_life=1.0).apply(pixels, np.random.default_rng(seed))
    assert degraded.quality >= 95
    assert difference(degraded.compressed, degraded.original) < 1.5


@given(st.integers(0, 2**32))
def test_what_another_codec_made_counts_as_a_jpeg_that_lost_as_much(seed: int) -> None:
    pixels = synthetic_photo(40, 56, seed=2)
    others = JpegDegradation(5, 100, real_life=1.0, other_codecs=1.0)
    with pytest.MonkeyPatch.context() as changed:
        files: list[bytes] = []

        def read(data: bytes) -> int | None:
            files.append(data)
            return comparable_quality(data)

        changed.setattr(degrade, "comparable_quality", read)
        pair, same = (others.apply(pixels, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(pair.compressed, same.compressed)
    picture = read_picture(files[0])
    rows, columns = (after - before for after, before in zip(picture.pixels.shape, pixels.shape[:2], strict=False))
    assert 0 <= rows < 64
    assert 0 <= columns < 64
    assert np.array_equal(pair.compressed, picture.pixels[rows:, columns:])
    assert pair.original is pixels
    assert picture.comparable_quality == pair.quality
    assert np.array_equal(pair.stated, standard_stated(pair.quality))


def test_other_codecs_come_as_often_as_they_should(patch: Pixels8, monkeypatch: pytest.MonkeyPatch) -> None:
    codecs: Counter[str] = Counter()
    plain = degrade._draw

    def counted(shares: dict[str, float], rng: np.random.Generator) -> str:
        name = plain(shares, rng)
        codecs[name] += 1
        return name

    monkeypatch.setattr(degrade, "_draw", counted)
    for number in range(300):
        JpegDegradation(5, 100, other_codecs=0.4).apply(patch[:16, :16], np.random.default_rng([7, number]))
    assert codecs.keys() == degrade.OTHER_CODECS.keys()
    assert codecs.total() / 300 == pytest.approx(0.4, abs=0.08)
    assert codecs["WEBP"] / codecs.total() == pytest.approx(degrade.OTHER_CODECS["WEBP"], abs=0.12)


def test_the_original_of_a_grey_file_is_grey(patch: Pixels8) -> None:
    pairs = [WILD.apply(patch, np.random.default_rng(n)) for n in range(60)]
    grey = [pair for pair in pairs if (pair.compressed == pair.compressed[..., :1]).all()]
    assert 0 < len(grey) < 20
    luma = np.asarray(Image.fromarray(patch).convert("L"))
    assert all((pair.original == pair.original[..., :1]).all() for pair in grey)
    assert any(np.array_equal(pair.original[..., 0], luma) for pair in grey)


def test_a_shifted_grid_is_that_of_a_larger_picture(patch: Pixels8) -> None:
    drawn = encoding("standard", 20)
    larger = np.pad(patch, ((3, 0), (10, 0), (0, 0)), mode="symmetric")
    expected = compress_jpeg(larger, 20)[3:, 10:]
    assert np.array_equal(degrade._compressed_on_grid(patch, drawn, 3, 10), expected)
    assert np.array_equal(degrade._compressed_on_grid(patch, drawn, 0, 0), compress_jpeg(patch, 20))


@pytest.mark.parametrize("history", ["aligned", "shifted", "resized"])
def test_two_compressions_do_more_harm_than_the_second(
    history: str, monkeypatch: pytest.MonkeyPatch, patch: Pixels8
) -> None:
    encodings = [encoding("standard", 95, "4:4:4"), encoding("standard", 10)]  # last, first
    monkeypatch.setattr(degrade, "GREY_SHARE", 0.0)
    monkeypatch.setattr(degrade, "HISTORIES", {history: 1.0})
    monkeypatch.setattr(Encoding, "draw", lambda *_args, **_grey: encodings.pop(0))
    degraded = WILD.apply(patch, np.random.default_rng(0))
    assert not encodings
    assert degraded.quality == 10
    assert not degraded.like_picture  # one of them at 4:4:4
    once = difference(compress_jpeg(patch, 95, "4:4:4"), patch)
    assert difference(degraded.compressed, degraded.original) > 1.5 * once


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_shares_beyond_everything_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match="real_life"):
        JpegDegradation(real_life=share)


# Looking back


def pairs_of(degradation: JpegDegradation, count: int) -> list[Degraded]:
    pixels = synthetic_photo(96, 96, seed=4)
    return [degradation.apply(pixels, np.random.default_rng(number)) for number in range(count)]


def test_looking_back_changes_nothing_unless_asked() -> None:
    plain, asked = (pairs_of(JpegDegradation(5, 100, real_life=1.0, look_back=share), 40) for share in (0.0, 1.0))
    before = pairs_of(JpegDegradation(5, 100, real_life=1.0), 40)
    for one, other in zip(plain, before, strict=True):
        np.testing.assert_array_equal(one.compressed, other.compressed)
    assert any(not np.array_equal(one.compressed, other.compressed) for one, other in zip(plain, asked, strict=True))


def test_what_is_looked_back_on_starts_on_the_first_grid_and_states_the_first_tables() -> None:
    """On its first grid the coefficients lie nearer to multiples of the stated steps than anywhere else."""
    found = 0
    for pair in pairs_of(JpegDegradation(5, 60, real_life=1.0, look_back=1.0), 60):
        if not pair.stated.any():
            continue
        steps = np.rint(2 ** (4 * (pair.stated[:64].astype(np.float64) + 1))).reshape(8, 8)
        luma = pair.compressed.astype(np.float32) @ RGB_TO_YCC[0] - 128

        def off(top: int, left: int, luma: Any = luma, steps: Any = steps) -> float:
            blocks = dct_blocks(blocks_from_plane(np.ascontiguousarray(luma[top : top + 80, left : left + 80])))
            return float(np.abs(blocks / steps - np.rint(blocks / steps))[:, :, :3, :3].mean())

        found += off(0, 0) < min(off(4, 4), off(3, 5))
    assert found > 30


def test_a_scaled_picture_states_nothing() -> None:
    pairs = pairs_of(JpegDegradation(5, 60, real_life=1.0, look_back=1.0), 80)
    blind = [pair for pair in pairs if not pair.stated.any()]
    assert 2 <= len(blind) <= 25
    assert all(pair.compressed.shape == pair.original.shape for pair in blind)


def test_a_share_beyond_1_is_refused() -> None:
    with pytest.raises(ValueError, match="look_back is a share"):
        JpegDegradation(look_back=1.5)
