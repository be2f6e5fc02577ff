"""Files that are odd but whole, ended early, or of rare kinds: each kind in siblings made here."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

import unjpeg
from jpegs import (
    PILLOW_SAMPLINGS,
    claiming,
    decoded,
    encoded,
    frame_header,
    one_component_a_scan,
    picture,
    planes_of,
    saved,
    scan_ends,
    with_segment,
    without_segments,
)
from unjpeg import BadImageError, Restorer, TooLargeError
from unjpeg.jpeg import NOTHING_SENT, JpegImage, Limits, salvage
from unjpeg.projection import measure_consistency
from unjpeg.restorer import ConsistencyPolicy
from unjpeg.tables import standard_table
from unjpeg.tiling import Tiling

EXAMPLE = Path(__file__).parent.parent / "examples" / "kitten-original.webp"
ORIGINAL = picture(88, 120, 3, low=60, high=190)
BASE = encoded(ORIGINAL, quality=60)
PROGRESSIVE = encoded(ORIGINAL, quality=60, progressive=True)
RESTARTS = encoded(ORIGINAL, quality=60, restart_marker_blocks=3)
SCAN = BASE.index(b"\xff\xda")
RESTART = re.compile(rb"\xff[\xd0-\xd7]")


def assert_same(data: bytes, plain: bytes, word: str | None) -> None:
    """Pixels, coefficients and cells are those of the plain file, and a note says what is odd if it is worth one."""
    ours, theirs = JpegImage.decode(data), JpegImage.decode(plain)
    np.testing.assert_array_equal(ours.pixels, theirs.pixels)
    for one, other in zip(ours.components, theirs.components, strict=True):
        np.testing.assert_array_equal(one.coefficients_VU88, other.coefficients_VU88)
        np.testing.assert_array_equal(one.table_88, other.table_88)
        assert one.unsent_bits_88 is None
    assert len(ours.notes) == (word is not None)
    assert word is None or word in ours.notes[0]
    assert theirs.notes == ()


def is_consistent(pixels: NDArray[Any], data: bytes) -> bool:
    jpeg = JpegImage.decode(data)
    return measure_consistency(pixels, jpeg.components, jpeg.header.colour_space, jpeg.pixels).is_consistent


# Warnings that are not damage


@pytest.mark.parametrize("fields", [b"\0\0\0", b"\0\x3f\1", b"\1\x3f\0", b"\xff\xff\xff", b"\0\x3e\0"])
@pytest.mark.parametrize("grey", [False, True])
def test_sequential_scans_may_state_any_selection(fields: bytes, grey: bool) -> None:
    plain = encoded(ORIGINAL, "grey" if grey else "4:2:0", quality=60)
    at = plain.index(b"\xff\xda") + (7 if grey else 11)
    assert_same(plain[:at] + fields + plain[at + 3 :], plain, "selection of coefficients")


@pytest.mark.parametrize("version", [(0, 2), (2, 1), (255, 0)])
def test_any_version_of_jfif(version: tuple[int, int]) -> None:
    assert_same(BASE[:11] + bytes(version) + BASE[13:], BASE, f"JFIF ({version[0]}.{version[1]:02})")


@pytest.mark.parametrize("transform", [2, 3, 255])
def test_unknown_colour_transforms_are_ycc(transform: int) -> None:
    adobe = b"Adobe\0\x64\0\0\0\0" + bytes((transform,))
    for data in (with_segment(without_segments(BASE, 0xE0), 0xEE, adobe), with_segment(BASE, 0xEE, adobe, at=SCAN)):
        assert_same(data, BASE, "colour transform")
        [note] = JpegImage.decode(data).notes
        assert ("four-component" if transform == 2 else "unknown") in note


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
HALVES = PROFILE[:200], PROFILE[200:]


@pytest.mark.parametrize(
    ("numbers", "whole"),
    [
        ([(1, 2), (2, 2)], True),
        ([(2, 2), (1, 2)], True),
        ([(0, 2), (1, 2)], True),
        ([(1, 3), (2, 3)], True),
        ([(7, 0), (9, 0)], True),
        ([(1, 2)], False),
        ([(2, 2)], False),
        ([(1, 2), (1, 2)], False),
    ],
)
@pytest.mark.parametrize("after_frame", [False, True])
def test_a_profile_s_parts_are_counted_in_any_way(
    numbers: list[tuple[int, int]], whole: bool, after_frame: bool
) -> None:
    data = BASE
    for number, total in numbers:
        part = HALVES[number > min(numbers)[0] or number == total == 2]
        at = data.index(b"\xff\xda") if after_frame else 2
        data = with_segment(data, 0xE2, b"ICC_PROFILE\0" + bytes((number, total)) + part, at=at)
    right = whole and numbers[0][1] == 2 and min(numbers)[0] == 1
    assert_same(data, BASE, None if right else "misnumbered" if whole else "incomplete")
    assert JpegImage.decode(data).metadata.icc_profile == (PROFILE if whole else None)


def test_a_profile_given_twice_is_one() -> None:
    part = b"ICC_PROFILE\0\1\1" + PROFILE
    data = with_segment(with_segment(BASE, 0xE2, part), 0xE2, part)
    assert JpegImage.decode(data).metadata.icc_profile == PROFILE


TRAILERS = {
    "nothing": b"",
    "half of it": b"\xff",
    "nul": bytes(64),
    "few": b"abc",
    "text": b"a trailer of some camera, SEFT",
    "marker-like": b"\x12\x34\xff\x07\x56" * 9,
    "another picture": encoded(ORIGINAL[:40]),
}


@pytest.mark.parametrize("trailer", TRAILERS.values(), ids=TRAILERS)
@pytest.mark.parametrize("plain", [BASE, PROGRESSIVE, RESTARTS, encoded(ORIGINAL, "grey")], ids=["4", "p", "r", "g"])
def test_the_end_marker_may_be_missing(plain: bytes, trailer: bytes) -> None:
    assert_same(plain[:-2] + trailer, plain, "no end marker")


@pytest.mark.parametrize("stray", [b"\0", b"ab", bytes(30), b"\xaa" * 200])
def test_stray_bytes_between_scans_are_harmless(stray: bytes) -> None:
    data = PROGRESSIVE
    for end in reversed(scan_ends(PROGRESSIVE)):
        data = data[:end] + stray + data[end:]
        assert_same(data, PROGRESSIVE, None)


def test_few_stray_bytes_between_segments_are_harmless() -> None:
    for at in (20, frame_header(BASE), SCAN):
        assert_same(BASE[:at] + b"\0ab" + BASE[at:], BASE, None)


def test_restart_markers_may_be_misnumbered() -> None:
    assert len(RESTART.findall(RESTARTS)) > 9
    assert_same(RESTART.sub(b"\xff\xd3", RESTARTS), RESTARTS, "misnumbered")
    lost = [found.span() for found in RESTART.finditer(RESTARTS)]
    with pytest.raises(BadImageError, match="found marker"):  # a part between two of them is gone
        JpegImage.decode(RESTARTS[: lost[3][0]] + RESTARTS[lost[4][0] :])


@pytest.mark.parametrize("odd", [BASE[: SCAN + 11] + bytes(3) + BASE[SCAN + 14 :], BASE[:-2]])
def test_odd_files_are_restored_as_plain_ones_with_a_note(odd: bytes, lively_restorer: Restorer) -> None:
    ours, theirs = lively_restorer.restore(odd), lively_restorer.restore(BASE)
    np.testing.assert_array_equal(ours.pixels, theirs.pixels)
    assert ours.report.projected
    assert set(ours.report.notes) - set(theirs.report.notes) == set(JpegImage.decode(odd).notes)
    assert unjpeg.verify(odd, ours.pixels).is_consistent


@pytest.mark.parametrize("share", [0.9, 0.5])
@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_a_truncated_file_s_line_names_the_way_out(share: float, end: bytes, tiny_restorer: Restorer) -> None:
    data = BASE[: int(len(BASE) * share)] + end
    rows = salvage(data).sound_rows
    assert 0 < rows < 88
    with pytest.raises(BadImageError, match=re.escape(f"salvage=True restores {rows} of its 88 rows")):
        tiny_restorer.restore(data)
    coarse = PROGRESSIVE[: int(len(PROGRESSIVE) * share)] + end
    with pytest.raises(BadImageError, match="salvage=True restores its 88 rows, in part"):
        tiny_restorer.restore(coarse)
    with pytest.raises(BadImageError) as caught:
        tiny_restorer.restore(BASE[: SCAN - 5])
    assert "salvage" not in str(caught.value)


# Tables in force


def by_scans(qualities: tuple[int, int, int]) -> bytes:
    """4:2:0 in three scans, whose tables all go to one place."""
    luma, blue, red = planes_of(ORIGINAL)
    small = [plane.reshape(44, 2, 60, 2).mean(axis=(1, 3)) for plane in (blue, red)]
    planes = [np.rint(plane + 128).clip(0, 255).astype(np.uint8) for plane in (luma, *small)]
    return one_component_a_scan(planes, ((2, 2), (1, 1), (1, 1)), qualities)


@pytest.mark.parametrize("qualities", [(50, 80, 95), (90, 10, 40)])
@pytest.mark.parametrize("last", [None, 1, 200])
def test_a_component_s_table_is_that_of_its_first_scan(
    qualities: tuple[int, int, int], last: int | None, lively_restorer: Restorer
) -> None:
    data = by_scans(qualities)
    if last:
        data = data[:-2] + with_segment(b"", 0xDB, b"\0" + bytes((last,)) * 64, at=0) + data[-2:]
    jpeg = JpegImage.decode(data)
    for component, quality in zip(jpeg.components, qualities, strict=True):
        np.testing.assert_array_equal(component.table_88, standard_table(quality))
    np.testing.assert_array_equal(jpeg.pixels, decoded(data))
    assert is_consistent(ORIGINAL, data)
    assert unjpeg.verify(data, lively_restorer.restore(data, consistency="strict").pixels).is_consistent


def test_a_table_redefined_between_a_component_s_scans_changes_nothing() -> None:
    for end in scan_ends(PROGRESSIVE)[3:]:
        data = with_segment(PROGRESSIVE, 0xDB, b"\0" + b"\7" * 64 + b"\1" + b"\7" * 64, at=end)
        assert_same(data, PROGRESSIVE, None)


def test_wide_tables_and_several_in_a_segment() -> None:
    tables = {code: standard_table(60, chroma=bool(code)) for code in (0, 1)}
    order = [8 * v + u for v, u in sorted(np.ndindex(8, 8), key=lambda at: (sum(at), at[1 - sum(at) % 2]))]
    wide = b"".join(
        bytes((16 + code,)) + table.ravel()[order].astype(">u2").tobytes() for code, table in tables.items()
    )
    bare = without_segments(BASE, 0xDB)
    assert_same(with_segment(bare, 0xDB, wide, at=bare.index(b"\xff\xc0")), BASE, None)


# Progressive files that ended early


@given(st.sampled_from(PILLOW_SAMPLINGS), st.integers(1, 100), st.integers(0, 10), st.booleans())
@settings(max_examples=40, deadline=None)
def test_cells_of_what_was_sent_hold_what_was_not(sampling: str, quality: int, scans: int, end: bool) -> None:
    original = ORIGINAL[..., 1] if sampling == "grey" else ORIGINAL
    whole = encoded(ORIGINAL, sampling, quality=quality, progressive=True)
    ends = scan_ends(whole)
    early = whole[: ends[min(scans, len(ends) - 1)]] + (b"\xff\xd9" if end else b"")
    jpeg, full = JpegImage.decode(early), JpegImage.decode(whole)
    everything = (slice(None), slice(None))
    for sent, true in zip(jpeg.components, full.components, strict=True):
        low, high = sent.cells(*everything)
        inner_low, inner_high = true.cells(*everything)
        assert (low <= inner_low).all()
        assert (high >= inner_high).all()
    ended_early = scans < len(ends) - 1
    assert any("ends early" in note for note in jpeg.notes) == ended_early
    assert any(part.unsent_bits_88 is not None for part in jpeg.components) == ended_early
    assert jpeg.quality.value == full.quality.value
    np.testing.assert_array_equal(jpeg.pixels, decoded(early + b"\xff\xd9"))
    assert is_consistent(original, early)


def test_what_ended_early_is_restored_and_verified_alike(lively_restorer: Restorer) -> None:
    for quality in (30, 90):
        whole = encoded(ORIGINAL, quality=quality, progressive=True)
        for end in scan_ends(whole)[:-1]:
            early = whole[:end] + b"\xff\xd9"
            result = lively_restorer.restore(early, consistency="strict")
            assert result.report.projected
            assert unjpeg.verify(early, result.pixels).is_consistent
            assert unjpeg.verify(early, ORIGINAL).is_consistent
            assert not unjpeg.verify(early, ORIGINAL[::-1]).is_consistent


def test_bits_that_were_not_sent_are_no_earlier_compression(lively_restorer: Restorer) -> None:
    photo = np.asarray(Image.open(EXAMPLE).convert("RGB").reduce(2))[:256, :320]
    for quality in (20, 75, 90):
        whole = encoded(photo, quality=quality, progressive=True)
        for end in scan_ends(whole)[:-1]:
            early = whole[:end] + b"\xff\xd9"
            result = lively_restorer.restore(early)
            assert (result.report.history, result.report.projected) == ("undecided", True)
            assert unjpeg.verify(early, result.pixels).is_consistent


def test_a_component_without_a_scan_is_unbounded() -> None:
    data = by_scans((60, 60, 60))
    for number, end in enumerate(scan_ends(data)[:2], 1):
        jpeg = JpegImage.decode(data[:end] + b"\xff\xd9")
        for component in jpeg.components[number:]:
            assert component.unsent_bits_88 is not None
            assert (component.unsent_bits_88 == NOTHING_SENT).all()
        assert all(component.unsent_bits_88 is None for component in jpeg.components[:number])
        assert is_consistent(ORIGINAL, data[:end])


# Samplings

UNUSUAL = [
    ((3, 1), (1, 1), (1, 1)),
    ((3, 2), (1, 1), (1, 1)),
    ((4, 2), (1, 1), (1, 1)),
    ((2, 4), (1, 1), (1, 1)),
    ((1, 3), (1, 1), (1, 1)),
    ((1, 4), (1, 1), (1, 1)),
    ((3, 3), (1, 1), (1, 1)),
    ((4, 4), (1, 1), (1, 1)),
    ((4, 1), (2, 1), (2, 1)),
    ((2, 4), (1, 2), (1, 2)),
    ((3, 1), (3, 1), (3, 1)),
    ((2, 1), (1, 1), (2, 1)),
    ((2, 2), (1, 1), (2, 2)),
    ((4, 2), (2, 1), (1, 2)),
    ((2, 2), (2, 1), (1, 2)),
]


def sampled(pixels: NDArray[np.uint8], factors: tuple[tuple[int, int], ...], quality: int = 60) -> bytes:
    planes = []
    for plane, (across, down) in zip(planes_of(pixels), factors, strict=True):
        x, y = factors[0][0] // across, factors[0][1] // down
        grown = np.pad(plane, ((0, -plane.shape[0] % y), (0, -plane.shape[1] % x)), mode="edge")
        small = grown.reshape(grown.shape[0] // y, y, grown.shape[1] // x, x).mean(axis=(1, 3))
        planes.append(np.rint(small + 128).clip(0, 255).astype(np.uint8))
    planes[0] = np.rint(planes_of(pixels)[0] + 128).clip(0, 255).astype(np.uint8)
    return one_component_a_scan(planes, factors, (quality,) * 3)


@pytest.mark.parametrize("factors", UNUSUAL)
@pytest.mark.parametrize("size", [(88, 120), (75, 101)])
def test_any_sampling_in_whole_ratios(
    factors: tuple[tuple[int, int], ...], size: tuple[int, int], lively_restorer: Restorer
) -> None:
    original = ORIGINAL[: size[0], : size[1]]
    data = sampled(original, factors)
    jpeg = JpegImage.decode(data)
    np.testing.assert_array_equal(jpeg.pixels, decoded(data))
    expected = [(factors[0][1] // down, factors[0][0] // across) for across, down in factors]
    assert [component.scale for component in jpeg.components] == expected
    assert unjpeg.verify(data, original).is_consistent
    result = lively_restorer.restore(data, consistency="strict")
    assert unjpeg.verify(data, result.pixels).is_consistent
    cut = data[:-20]
    with pytest.raises(BadImageError, match="premature end"):
        JpegImage.decode(cut)
    assert salvage(cut).pixels.shape == jpeg.pixels.shape


def test_equal_ratios_have_one_name() -> None:
    names = {((4, 1), (2, 1), (2, 1)): "4:2:2", ((2, 4), (1, 2), (1, 2)): "4:2:0", ((3, 1), (3, 1), (3, 1)): "4:4:4"}
    for factors, name in names.items():
        assert JpegImage.decode(sampled(ORIGINAL, factors)).header.subsampling == name


@pytest.mark.parametrize("factors", [((3, 1), (1, 1), (1, 1)), ((3, 3), (1, 1), (1, 1)), ((4, 4), (1, 1), (1, 1))])
def test_tiles_that_blocks_do_not_fit_into(
    factors: tuple[tuple[int, int], ...], tiny_model: Any, tiny_restorer: Restorer
) -> None:
    """Blocks of 24 pixels and tiles of 64, on a picture of several."""
    data = sampled(picture(150, 210, 1, low=60, high=190), factors)
    tiled = Restorer(tiny_model, precision="full", tiling=Tiling(64, 96)).restore(data, consistency="strict")
    whole = tiny_restorer.restore(data, consistency="strict")
    assert np.abs(tiled.pixels.astype(int) - whole.pixels).max() <= 1
    assert unjpeg.verify(data, tiled.pixels).is_consistent


# Neutral


@pytest.mark.parametrize("consistency", ["auto", "strict", "off"])
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_what_has_no_colour_gets_none(
    consistency: ConsistencyPolicy, strength: float, lively_restorer: Restorer
) -> None:
    grey = Image.fromarray(ORIGINAL[..., 1]).convert("RGB")
    sources: list[Any] = [saved(grey, quality=quality, subsampling=sub) for quality in (10, 80) for sub in (0, 2)]
    sources += [saved(grey, quality=40, keep_rgb=True), saved(grey, "PNG"), np.asarray(grey)]
    for number, source in enumerate(sources):
        insist = 40 if number >= 5 else None  # what is no JPEG passes for never compressed
        result = lively_restorer.restore(source, quality=insist, consistency=consistency, strength=strength)
        assert (result.pixels == result.pixels[..., :1]).all()
        assert (result.pixels != lively_restorer.restore(source, strength=0).pixels).any()
        deep = lively_restorer.restore(source, quality=insist, consistency=consistency, strength=strength, bit_depth=16)
        assert (deep.pixels == deep.pixels[..., :1]).all()


def test_one_coloured_block_is_enough_for_a_colour_picture(lively_restorer: Restorer) -> None:
    pixels = np.repeat(ORIGINAL[..., 1:2], 3, axis=2)
    pixels[40:56, 48:64, 0] = 250
    result = lively_restorer.restore(saved(pixels, quality=40)).pixels
    assert (result != result[..., :1]).any(axis=2).mean() > 0.1


# The height in a DNL marker


@pytest.mark.parametrize("plain", [BASE, PROGRESSIVE, encoded(ORIGINAL, "grey"), by_scans((50, 60, 70))])
@pytest.mark.parametrize("in_header", [False, True])
def test_the_height_may_come_after_the_first_scan(plain: bytes, in_header: bool) -> None:
    data = plain if in_header else claiming(plain, width=120, height=0)
    data = with_segment(data, 0xDC, struct.pack(">H", 88), at=scan_ends(plain)[0])
    assert_same(data, plain, None)
    assert JpegImage.decode(data).header.height == 88


def test_a_late_height_is_within_the_limits_too() -> None:
    data = claiming(BASE, width=60000, height=0)
    late = with_segment(data, 0xDC, struct.pack(">H", 60000), at=scan_ends(BASE)[0])
    with pytest.raises(TooLargeError, match="60000x60000"):
        JpegImage.decode(late)
    missing = claiming(BASE, width=120, height=0)
    for data in (missing, with_segment(missing, 0xDC, b"\0\0", at=scan_ends(BASE)[0])):
        with pytest.raises(BadImageError, match="120x0 pixels"):
            JpegImage.decode(data)
    taller = with_segment(claiming(BASE, width=120, height=0), 0xDC, struct.pack(">H", 200), at=scan_ends(BASE)[0])
    with pytest.raises(BadImageError, match="premature end"):
        JpegImage.decode(taller)


# XYB


def in_xyb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """jpegli's, by its documented constants."""
    encoded_rgb = pixels / 255
    linear = np.where(encoded_rgb <= 0.04045, encoded_rgb / 12.92, ((encoded_rgb + 0.055) / 1.055) ** 2.4)
    matrix = [[0.3, 0.622, 0.078], [0.23, 0.692, 0.078], [0.24342269, 0.20476744, 0.55180987]]
    long, medium, short = np.moveaxis(np.cbrt(linear @ np.transpose(matrix) + 0.00379307325), 2, 0) - 0.155954200
    y = (long + medium) / 2
    shifted = np.stack([(long - medium) / 2 + 0.015386134, y, short - y + 0.27770459], axis=2)
    return (shifted * [22.995788804, 1.183000077, 1.502141333] * 255).round().clip(0, 255).astype(np.uint8)


def named_profile(name: str) -> bytes:
    """No more than a header and a description in UTF-16."""
    text = name.encode("utf-16-be")
    described = b"mluc" + bytes(4) + struct.pack(">II", 1, 12) + b"enUS" + struct.pack(">II", len(text), 28) + text
    body = bytes(124) + struct.pack(">I", 1) + b"desc" + struct.pack(">II", 144, len(described)) + described
    return struct.pack(">I", len(body) + 4) + body


@pytest.mark.parametrize("quality", [10, 50, 95])
def test_xyb_is_left_as_decoded_with_a_note(quality: int, kitten: Any, lively_restorer: Restorer) -> None:
    photo = np.asarray(Image.open(kitten).resize((180, 140)))
    for pixels in (photo, photo[:, :, ::-1]):
        bare = saved(in_xyb(pixels), keep_rgb=True, quality=quality)
        named = saved(in_xyb(pixels), keep_rgb=True, quality=quality, icc_profile=named_profile("XYB_Per"))
        for data in (bare, named):
            result = lively_restorer.restore(data)
            np.testing.assert_array_equal(result.pixels, decoded(data))
            assert not result.report.projected
            assert any("XYB" in note for note in result.report.notes)
        for profile in (None, named_profile("RGB built-in")):
            rgb = saved(pixels, keep_rgb=True, quality=quality, icc_profile=profile)
            result = lively_restorer.restore(rgb, consistency="strict")
            assert result.report.projected
            assert not any("XYB" in note for note in result.report.notes)
    output = lively_restorer.run_network(unjpeg.picture.read_picture(bare))
    np.testing.assert_array_equal(lively_restorer.finish(output).pixels, decoded(bare))


def test_no_dark_or_flat_picture_is_taken_for_xyb(lively_restorer: Restorer) -> None:
    for pixels in (ORIGINAL // 8, ORIGINAL // 4 + 96, np.full((40, 40, 3), 128, np.uint8), ORIGINAL * 0):
        data = saved(pixels, keep_rgb=True)
        assert not any("XYB" in note for note in lively_restorer.restore(data).report.notes)


def test_limits_hold_for_files_that_are_mended() -> None:
    with pytest.raises(TooLargeError):
        JpegImage.decode(BASE[:-2], limits=Limits(pixels=88 * 120 - 1))
