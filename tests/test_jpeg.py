from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jpeglib
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, JpegImagePlugin
from scipy.fft import idctn

from jpegs import (
    PILLOW_SAMPLINGS,
    SAMPLINGS,
    SCALES,
    claiming,
    decoded,
    encoded,
    frame_header,
    opened,
    picture,
    saved,
    with_segment,
    without_segments,
)
from unjpeg.errors import BadImageError, TooLargeError, UnjpegError, UnsupportedImageError
from unjpeg.jpeg import MAX_SCANS, JpegHeader, JpegImage, Limits, salvage
from unjpeg.tables import QualityEstimate, standard_table

SIZES = st.tuples(st.integers(1, 70), st.integers(1, 70))
ADOBE_RGB = b"Adobe\0\x64\0\0\0\0\0"
ADOBE_YCC = ADOBE_RGB[:-1] + b"\1"


def failure(data: bytes) -> UnjpegError:
    """What decoding raises, checked to be one line that names the file."""
    with pytest.raises(UnjpegError) as caught:
        JpegImage.decode(data, "photo.jpg", Limits(pixels=10**6))
    message = str(caught.value)
    assert message.startswith("photo.jpg: ")
    assert "\n" not in message
    return caught.value


# Against an independent decoder


@given(SIZES, st.sampled_from(SAMPLINGS), st.booleans(), st.integers(1, 100), st.integers(0, 2**32 - 1))
@settings(max_examples=120, deadline=None)
def test_pixels_tables_and_facts_are_pillow_s(
    size: tuple[int, int], sampling: str, progressive: bool, quality: int, seed: int
) -> None:
    options = {"progressive": progressive} if sampling in PILLOW_SAMPLINGS else {}
    data = encoded(picture(*size, seed), sampling, quality=quality, **options)
    jpeg = JpegImage.decode(data)
    image = opened(data)
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    np.testing.assert_array_equal(jpeg.pixels, np.asarray(image))
    assert (jpeg.header.height, jpeg.header.width) == size
    assert jpeg.header.subsampling == sampling
    assert jpeg.header.colour_space == ("grey" if sampling == "grey" else "YCbCr")
    assert jpeg.header.progressive == bool(options and progressive) == ("progressive" in image.info)
    tables = [np.array(table).reshape(8, 8) for table in image.quantization.values()]
    distinct = [t for i, t in enumerate(tables) if not any((t == earlier).all() for earlier in tables[:i])]
    np.testing.assert_array_equal(jpeg.tables, distinct)
    for index, component in enumerate(jpeg.components):
        scale = SCALES[sampling] if index else (1, 1)
        assert component.scale == scale
        assert component.coefficients_VU88.shape[:2] == tuple(
            -(-side // (8 * by)) for side, by in zip(size, scale, strict=True)
        )
        np.testing.assert_array_equal(component.table_88, tables[min(index, 1)])


@given(SIZES, st.booleans(), st.integers(1, 100), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_coefficients_are_the_pixels_transform(
    size: tuple[int, int], progressive: bool, quality: int, seed: int
) -> None:
    jpeg = JpegImage.decode(encoded(picture(*size, seed), "grey", quality=quality, progressive=progressive))
    (component,) = jpeg.components
    blocks = idctn(component.coefficients_VU88 * component.table_88.astype(float), axes=(2, 3), norm="ortho")
    rows, columns = blocks.shape[:2]
    plane = (blocks.swapaxes(1, 2).reshape(rows * 8, columns * 8) + 128).clip(0, 255)[: size[0], : size[1]]
    assert np.abs(plane - jpeg.pixels).max() <= 1


def test_rgb_files_keep_their_components() -> None:
    data = saved(picture(30, 45), keep_rgb=True, quality=80)
    jpeg = JpegImage.decode(data)
    np.testing.assert_array_equal(jpeg.pixels, decoded(data))
    assert jpeg.header.colour_space == "RGB"
    dc = [component.coefficients_VU88[0, 0, 0, 0] * int(component.table_88[0, 0]) for component in jpeg.components]
    means = jpeg.pixels[:8, :8].mean(axis=(0, 1))
    np.testing.assert_allclose(np.array(dc) / 8 + 128, means, atol=2)
    assert jpeg.quality == QualityEstimate(80, 0.0)


@pytest.mark.parametrize("jfif", [True, False], ids=["jfif", "no jfif"])
@pytest.mark.parametrize("adobe", [ADOBE_RGB, ADOBE_YCC, None], ids=["adobe rgb", "adobe ycc", "no adobe"])
@pytest.mark.parametrize("ids", [b"\1\2\3", b"RGB", b"\0\1\2"], ids=["123", "RGB", "012"])
def test_colour_space_is_decided_as_libjpeg_does(jfif: bool, adobe: bytes | None, ids: bytes) -> None:
    changed = bytearray(encoded(picture(16, 24), "4:4:4"))
    frame = frame_header(bytes(changed))
    scan = changed.index(b"\xff\xda")
    for index, component in enumerate(ids):
        changed[frame + 10 + 3 * index] = component
        changed[scan + 5 + 2 * index] = component
    data = bytes(changed)
    if adobe:
        data = with_segment(data, 0xEE, adobe, at=20)
    if not jfif:
        data = without_segments(data, 0xE0)
    # The decoder says it by what it makes of the same components.
    as_rgb = decoded(with_segment(without_segments(without_segments(data, 0xE0), 0xEE), 0xEE, ADOBE_RGB))
    jpeg = JpegImage.decode(data)
    np.testing.assert_array_equal(jpeg.pixels, decoded(data))
    assert jpeg.header.colour_space == ("RGB" if (jpeg.pixels == as_rgb).all() else "YCbCr")


def with_factors(data: bytes, *factors: int) -> bytes:
    """Other sampling factors in the header, ``horizontal << 4 | vertical`` for each component."""
    changed = bytearray(data)
    for index, factor in enumerate(factors):
        changed[frame_header(data) + 11 + 3 * index] = factor
    return bytes(changed)


def test_one_component_s_sampling_factors_mean_nothing() -> None:
    data = encoded(picture(20, 30), "grey")
    plain, changed = JpegImage.decode(data), JpegImage.decode(with_factors(data, 0x22))
    np.testing.assert_array_equal(changed.pixels, plain.pixels)
    assert changed.components[0].scale == (1, 1)
    np.testing.assert_array_equal(changed.components[0].coefficients_VU88, plain.components[0].coefficients_VU88)


# An RGB file's components share their tables, so its blocks can be dealt out anew if their number is right.


def test_equal_factors_of_any_size_are_no_subsampling() -> None:
    data = with_factors(saved(picture(8, 16), keep_rgb=True), 0x21, 0x21, 0x21)
    jpeg = JpegImage.decode(data)
    np.testing.assert_array_equal(jpeg.pixels, decoded(data))
    assert jpeg.header.subsampling == "4:4:4"
    assert [component.scale for component in jpeg.components] == [(1, 1)] * 3


@pytest.mark.parametrize(
    ("factors", "width", "name"),
    [
        ((0x31, 0x21, 0x21), 56, "3x1 2x1 2x1"),
        ((0x11, 0x21, 0x21), 40, "1x1 2x1 2x1"),
        ((0x21, 0x12, 0x11), 40, "2x1 1x2 1x1"),
    ],
)
def test_unusual_sampling_is_refused(factors: tuple[int, int, int], width: int, name: str) -> None:
    raised = failure(with_factors(saved(picture(8, width), keep_rgb=True), *factors))
    assert type(raised) is UnsupportedImageError
    assert name in str(raised)


# Quality


def test_the_standard_tables_are_pillow_s() -> None:
    flat = Image.new("RGB", (8, 8))
    for quality in range(1, 101):
        image = opened(saved(flat, quality=quality))
        assert isinstance(image, JpegImagePlugin.JpegImageFile)
        luma, chroma = (np.array(image.quantization[i]).reshape(8, 8) for i in (0, 1))
        np.testing.assert_array_equal(standard_table(quality), luma)
        np.testing.assert_array_equal(standard_table(quality, chroma=True), chroma)


@pytest.mark.parametrize("grey", [True, False])
def test_every_standard_quality_is_recognised(grey: bool) -> None:
    for quality in range(1, 101):
        luma, chroma = standard_table(quality), standard_table(quality, chroma=True)
        estimate = QualityEstimate.of_tables(luma, None if grey else chroma)
        assert estimate.distance == 0
        assert estimate.is_standard
        np.testing.assert_array_equal(standard_table(estimate.value), luma)
        if not grey:
            np.testing.assert_array_equal(standard_table(estimate.value, chroma=True), chroma)


def test_tables_that_are_not_standard_have_a_distance_and_a_near_quality() -> None:
    stated = [standard_table(30), standard_table(30, chroma=True)]
    stated[0][0, 0] += 3
    tables = [table.ravel().tolist() for table in stated]
    quality = JpegImage.decode(saved(picture(20, 20), qtables=tables)).quality
    assert quality.value == 30
    assert 0 < quality.distance < 0.05
    assert not quality.is_standard
    flat = JpegImage.decode(saved(picture(20, 20), qtables=[[10] * 64] * 2)).quality
    assert 60 < flat.value < 98
    assert flat.distance > 0.2


def test_one_table_for_luma_and_chroma_is_not_standard() -> None:
    jpeg = JpegImage.decode(saved(picture(20, 20), qtables=[standard_table(50).ravel().tolist()]))
    assert len(jpeg.tables) == 1
    assert not jpeg.quality.is_standard
    assert JpegImage.decode(encoded(picture(20, 20), quality=100)).quality == QualityEstimate(100, 0.0)


def test_three_tables_are_all_listed() -> None:
    tables = [[10 + i] * 64 for i in range(3)]
    found = JpegImage.decode(saved(picture(20, 20), qtables=tables)).tables
    assert [int(table[0, 0]) for table in found] == [10, 11, 12]


# Metadata


def test_metadata_is_the_file_s() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = saved(picture(9, 9), exif=exif, icc_profile=profile, xmp=b"<x/>", comment=b"hello", dpi=(72, 36))
    metadata = JpegImage.decode(data).metadata
    assert metadata.orientation == 6
    assert metadata.exif == exif.tobytes().removeprefix(b"Exif\0\0")
    assert (metadata.icc_profile, metadata.xmp, metadata.comment) == (profile, b"<x/>", b"hello")
    assert metadata.dpi == (72, 36)
    assert JpegImage.decode(data).pixels.shape == (9, 9, 3)  # not turned


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # as the package has it, and pytest sets its own
@pytest.mark.parametrize("exif", [b"", b"garbage", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"])
def test_damaged_exif_does_not_keep_a_picture_from_being_restored(exif: bytes) -> None:
    data = with_segment(encoded(picture(9, 9)), 0xE1, b"Exif\0\0" + exif)
    assert (JpegImage.decode(data).metadata.exif or b"") == exif


def test_many_segments_also_between_scans() -> None:
    data = encoded(picture(30, 30), progressive=True)
    plain = JpegImage.decode(data)
    markers = [match.start() for match in re.finditer(rb"\xff[\xc4\xda]", data)]
    after_first_scan = next(at for at in markers if at > data.index(b"\xff\xda"))
    for _ in range(60):
        data = with_segment(data, 0xFE, b"comment", at=after_first_scan)
    for _ in range(60):
        data = with_segment(data, 0xED, b"more", at=20)
    crowded = JpegImage.decode(data)
    np.testing.assert_array_equal(crowded.pixels, plain.pixels)
    for ours, theirs in zip(crowded.components, plain.components, strict=True):
        np.testing.assert_array_equal(ours.coefficients_VU88, theirs.coefficients_VU88)


def test_a_marker_s_fill_bytes_and_what_follows_the_end_are_harmless() -> None:
    data = encoded(picture(30, 30))
    changed = data[:2] + b"\xff\xff\xff" + data[2:] + encoded(picture(50, 50))
    np.testing.assert_array_equal(JpegImage.decode(changed).pixels, decoded(data))


def test_threads() -> None:
    files = [with_segment(encoded(picture(40, 40, seed), progressive=True), 0xEE, ADOBE_YCC) for seed in range(4)]
    expected = [JpegImage.decode(data) for data in files]
    failures: list[BaseException] = []

    def work(start: int) -> None:
        try:
            for i in range(start, start + 40):
                ours, theirs = JpegImage.decode(files[i % 4]).components, expected[i % 4].components
                for a, b in zip(ours, theirs, strict=True):
                    np.testing.assert_array_equal(a.coefficients_VU88, b.coefficients_VU88)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# Refused from the header

BASE = encoded(picture(40, 56))


def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*args: object, **kwargs: object) -> None:
        raise AssertionError("a decoder ran")

    monkeypatch.setattr(simplejpeg, "decode_jpeg", called)
    monkeypatch.setattr(jpeglib, "read_dct", called)
    monkeypatch.setattr(JpegImagePlugin, "JpegImageFile", called)


def with_frame(code: int = 0xC0, *, precision: int = 8) -> bytes:
    changed = bytearray(BASE)
    frame = frame_header(BASE)
    changed[frame + 1], changed[frame + 4] = code, precision
    return bytes(changed)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (claiming(BASE, width=65535, height=65535), TooLargeError, "65535x65535"),
        (claiming(BASE, width=16385, height=16384), TooLargeError, "16385x16384"),
        (claiming(BASE, width=0, height=40), BadImageError, "0x40"),
        (claiming(BASE, width=56, height=0), BadImageError, "56x0"),
        (with_frame(precision=12), UnsupportedImageError, "12 bits"),
        (with_frame(0xC1, precision=12), UnsupportedImageError, "12 bits"),
        (with_frame(0xC3), UnsupportedImageError, "lossless"),
        (with_frame(0xC5), UnsupportedImageError, "hierarchical"),
        (with_frame(0xC9), UnsupportedImageError, "arithmetic"),
        (with_frame(0xCA), UnsupportedImageError, "arithmetic"),
        (BASE[:3], BadImageError, "no frame header"),
        (BASE[: frame_header(BASE)], BadImageError, "no frame header"),
        (BASE[: frame_header(BASE) + 8], BadImageError, "cut short"),
        (BASE[: frame_header(BASE) + 12], BadImageError, "cut short"),
        (b"", BadImageError, "not a JPEG"),
        (b"\xff\xd8", BadImageError, "not a JPEG"),
        (b"GIF89a" + BASE, BadImageError, "not a JPEG"),
        (BASE[:2] + bytes(50) + BASE[2:], BadImageError, "not a JPEG"),
        (BASE[:20] + bytes(50) + BASE[20:], BadImageError, "no marker"),
    ],
)
def test_what_the_header_rules_out_reaches_no_decoder(
    data: bytes, error: type[BadImageError], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_decoder(monkeypatch)
    with pytest.raises(UnjpegError) as caught:
        JpegImage.decode(data, "photo.jpg")
    assert type(caught.value) is error
    assert words in str(caught.value)
    assert str(caught.value).startswith("photo.jpg: ")


def test_the_limit_on_pixels_is_the_caller_s() -> None:
    assert JpegHeader.parse(BASE, "a", limits=Limits(pixels=40 * 56)).width == 56
    with pytest.raises(TooLargeError, match="2,239"):
        JpegHeader.parse(BASE, "a", limits=Limits(pixels=40 * 56 - 1))


def test_no_size_is_hidden_behind_a_marker_without_length() -> None:
    """A reader that takes these two bytes for a length would see another frame than the decoder does."""
    hidden = BASE[:2] + b"\xff\x01" + claiming(BASE, width=65535, height=65535)[2:]
    assert type(failure(hidden)) is TooLargeError


def test_impossible_sampling_and_odd_numbers_of_components() -> None:
    frame = frame_header(BASE)
    changed = bytearray(BASE)
    changed[frame + 11] = 0x05
    assert "impossible sampling" in str(failure(bytes(changed)))
    two = BASE[: frame + 2] + struct.pack(">H", 14) + BASE[frame + 4 : frame + 9] + b"\2" + BASE[frame + 10 :]
    raised = failure(two)
    assert type(raised) is UnsupportedImageError
    assert "2 components" in str(raised)


def test_too_many_scans() -> None:
    data = encoded(picture(16, 16), progressive=True)
    start = data.rindex(b"\xff\xda")
    scan = data[start:-2]
    raised = failure(data[:-2] + scan * MAX_SCANS + data[-2:])
    assert type(raised) is UnsupportedImageError
    assert "scans" in str(raised)


# Damaged


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("metadata", [False, True])
def test_a_file_cut_off_anywhere_is_refused(progressive: bool, metadata: bool) -> None:
    options: dict[str, Any] = {"exif": b"Exif\0\0" + bytes(300), "comment": b"x" * 40} if metadata else {}
    data = encoded(picture(40, 56), progressive=progressive, **options)
    JpegImage.decode(data)
    # But for cuts between two segments behind a scan: what was sent is whole there, and the end marker is missing.
    behind = data.index(b"\xff\xda") + 2
    between = [behind + found.start() for found in re.finditer(rb"\xff[\xc4\xda\xd9]", data[behind:])]
    whole = {end + part for end in between for part in (0, 1)}
    for end in [*range(0, 40, 3), *range(40, len(data) - 40, 29), *range(len(data) - 40, len(data))]:
        if end not in whole:
            assert isinstance(failure(data[:end]), BadImageError)
    for end in whole:
        jpeg = JpegImage.decode(data[:end])
        assert "has no end marker, but all of its data" in jpeg.notes
        assert any("ends early" in note for note in jpeg.notes) == (end < len(data) - 2)


def test_a_quantisation_table_with_a_zero() -> None:
    changed = bytearray(BASE)
    changed[BASE.index(b"\xff\xdb") + 5 + 20] = 0
    assert "quantisation table" in str(failure(bytes(changed)))


@given(st.lists(st.tuples(st.integers(2, len(BASE) - 1), st.integers(0, 255)), min_size=1, max_size=8))
@settings(max_examples=300, deadline=None)
def test_overwritten_bytes_raise_nothing_but_one_line(changes: list[tuple[int, int]]) -> None:
    changed = bytearray(BASE)
    for position, value in changes:
        changed[position] = value
    try:
        jpeg = JpegImage.decode(bytes(changed), "photo.jpg", Limits(pixels=10**6))
    except BadImageError:
        failure(bytes(changed))
    else:
        assert jpeg.pixels.shape[:2] == (jpeg.header.height, jpeg.header.width)


def test_coded_data_that_stop_making_sense() -> None:
    start = BASE.index(b"\xff\xda") + 14
    middle = (start + len(BASE)) // 2
    zeros = BASE[:middle] + bytes(len(BASE) - 2 - middle) + BASE[-2:]
    noise = np.random.default_rng(0).integers(0, 255, len(BASE) - 2 - middle, np.uint8).tobytes()
    for data in (zeros, BASE[:middle] + noise + BASE[-2:], BASE[:start] + BASE[-2:], BASE[:middle] + BASE[-2:]):
        assert isinstance(failure(data), BadImageError)


@pytest.mark.parametrize("stray", [b"\0", b"ab", bytes(3000), b"\xaa" * 100])
def test_a_few_stray_bytes_before_the_end_are_harmless(stray: bytes) -> None:
    data = BASE[:-2] + stray + BASE[-2:]
    jpeg, plain = JpegImage.decode(data), JpegImage.decode(BASE)
    np.testing.assert_array_equal(jpeg.pixels, plain.pixels)
    np.testing.assert_array_equal(jpeg.components[0].coefficients_VU88, plain.components[0].coefficients_VU88)


def test_coded_data_left_over_are_damage() -> None:
    left_over = BASE[:-2] + BASE[-60:-2] + BASE[-2:]
    assert "extraneous" in str(failure(left_over))
    cut_as_well = encoded(picture(40, 56), progressive=True)
    assert isinstance(failure(cut_as_well[:-40] + b"\0" + cut_as_well[-2:]), BadImageError)


def test_the_native_libraries_write_nothing(tmp_path: Path, child_environment: dict[str, str]) -> None:
    """Their file descriptors, not Python's: so in a process of its own."""
    middle = len(BASE) - 300
    inputs = {
        **{f"stray{n}": BASE[:-2] + bytes(n) + BASE[-2:] for n in range(1, 20)},
        "cut": BASE[:middle],
        "corrupt": BASE[:middle] + bytes(298) + BASE[-2:],
        "left-over": BASE[:-2] + BASE[-60:],
        "exif": with_segment(BASE, 0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
        "scans": encoded(picture(20, 20), progressive=True)[:-90] + b"\xff\xd9",
    }
    for name, data in inputs.items():
        (tmp_path / f"{name}.jpg").write_bytes(data)
    program = (
        "import pathlib, unjpeg.jpeg as j\n"
        "for f in sorted(pathlib.Path('.').glob('*.jpg')):\n"
        "    try: j.JpegImage.decode(f.read_bytes())\n"
        "    except j.BadImageError: pass\n"
    )
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, cwd=tmp_path, env=child_environment, capture_output=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")


@pytest.mark.parametrize("in_memory", [True, False])
def test_reading_leaves_no_file_behind(in_memory: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    expected = JpegImage.decode(BASE)
    if not in_memory:
        monkeypatch.setattr("unjpeg.jpeg._DESCRIPTORS", tmp_path / "absent")
    for ours, theirs in zip(JpegImage.decode(BASE).components, expected.components, strict=True):
        np.testing.assert_array_equal(ours.coefficients_VU88, theirs.coefficients_VU88)
    for end in (100, 400, len(BASE) - 100):
        failure(BASE[:end])
    assert list(tmp_path.iterdir()) == []


def test_the_real_photograph(kitten: Path) -> None:
    data = kitten.read_bytes()
    jpeg = JpegImage.decode(data, str(kitten))
    assert (jpeg.header.width, jpeg.header.height) == (720, 560)
    assert jpeg.quality == QualityEstimate(12, 0.0)
    np.testing.assert_array_equal(jpeg.pixels, np.asarray(Image.open(io.BytesIO(data))))


# Salvaging


def test_what_decodes_of_a_cut_off_file_is_salvaged() -> None:
    whole = encoded(picture(120, 56), quality=90)
    plain = decoded(whole)
    rows = []
    for share in (0.95, 0.6, 0.3):
        saved = salvage(whole[: int(len(whole) * share)])
        assert saved.pixels.shape == plain.shape
        rows.append(saved.sound_rows)
        sound = saved.sound_rows - 32  # chroma above a cut is blended with what is missing
        np.testing.assert_array_equal(saved.pixels[:sound], plain[:sound])
        assert (saved.pixels[saved.sound_rows :] == 128).all()
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] < 60 < rows[0]


def test_a_cut_off_progressive_file_is_salvaged_coarse() -> None:
    whole = encoded(picture(120, 56), progressive=True)
    saved = salvage(whole[: len(whole) // 2])
    assert saved.sound_rows == 120
    assert 0 < np.abs(saved.pixels.astype(int) - decoded(whole)).mean() < 40


def test_nothing_is_salvaged_where_nothing_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    start = BASE.index(b"\xff\xda") + 14
    with pytest.raises(BadImageError, match="nothing can be salvaged"):
        salvage(BASE[: start - 20], "photo.jpg")
    with monkeypatch.context() as patch:
        patch.setattr(simplejpeg, "decode_jpeg", lambda data, **options: np.full((40, 56, 3), 128, np.uint8))
        with pytest.raises(BadImageError, match="no block of it decodes"):
            salvage(BASE[:-200])
    with pytest.raises(BadImageError, match="no frame header"):
        salvage(BASE[: frame_header(BASE)])
    with pytest.raises(TooLargeError):
        salvage(claiming(BASE, width=65000, height=65000))


# Limits


def test_limits_on_metadata_and_segments_hold_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    no_decoder(monkeypatch)
    flood = BASE[:20] + with_segment(b"", 0xE5, bytes(60_000), at=0) * 20 + BASE[20:]
    with pytest.raises(UnsupportedImageError, match="bytes of metadata, more than the limit of 1,000,000"):
        JpegImage.decode(flood, limits=Limits(metadata_bytes=10**6))
    many = BASE[:20] + b"\xff\xe5\0\2" * 100_000 + BASE[20:]
    for read in (JpegHeader.parse, JpegImage.decode):
        with pytest.raises(UnsupportedImageError, match="segments"):
            read(many, "photo.jpg")


def test_larger_pictures_may_have_fewer_scans() -> None:
    data = encoded(picture(64, 64), progressive=True)
    JpegImage.decode(data, limits=Limits(pixels=64 * 64))
    scans = data.count(b"\xff\xda")
    with pytest.raises(UnsupportedImageError, match=f"has {scans} scans"):
        JpegImage.decode(data, limits=Limits(scans=scans - 1))
    start = data.rindex(b"\xff\xda")
    bomb = data[:-2] + data[start:-2] * 20 + data[-2:]
    with pytest.raises(BadImageError, match="progression"):  # it comes as far as the decoder
        JpegImage.decode(bomb, limits=Limits(pixels=64 * 64 * 4))
    with pytest.raises(UnsupportedImageError, match="more than the limit of 24"):
        JpegImage.decode(bomb, limits=Limits(pixels=64 * 64))


def test_a_header_that_claims_far_more_than_the_file_holds_reaches_no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    no_decoder(monkeypatch)
    assert "too short for its 16000x16000 pixels" in str(failure_of_any_size(claiming(BASE, width=16000, height=16000)))


def failure_of_any_size(data: bytes) -> UnjpegError:
    with pytest.raises(UnjpegError) as caught:
        JpegImage.decode(data, "photo.jpg")
    return caught.value


def test_fill_bytes_cost_no_time() -> None:
    data = BASE[:20] + b"\xff" * 30_000_000 + BASE[20:]
    start = time.monotonic()
    np.testing.assert_array_equal(JpegImage.decode(data).pixels, decoded(BASE))
    assert time.monotonic() - start < 5


def test_a_flood_of_exif_is_refused_before_it_is_joined() -> None:
    data = encoded(picture(16, 16))
    some = with_segment(data, 0xE1, b"Exif\0\0" + bytes(60_000))
    assert JpegImage.decode(some).metadata.exif is not None
    flood = data[:2] + b"".join(some[2 : 2 + 60_010] for _ in range(80)) + data[2:]
    with pytest.raises(UnsupportedImageError, match="bytes of EXIF, more than the limit of 4,194,304"):
        JpegImage.decode(flood)


def test_bytes_behind_the_picture_are_counted() -> None:
    data = encoded(picture(16, 16))
    assert JpegImage.decode(data).trailing_bytes == 0
    assert JpegImage.decode(data + bytes(300)).trailing_bytes == 300
