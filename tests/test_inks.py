"""CMYK JPEGs: decoded as others decode them, restored plane by plane, true to the file, written where there is room."""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import unjpeg
from commands import only_line, put, run, told
from exif_blocks import exif_block
from jpegs import decoded, encoded, opened, picture, saved, with_segment, without_segments
from studies.inks import encode_cmyk, encode_ycck, separate
from unjpeg.errors import BadImageError, OutputError
from unjpeg.inks import INK_CODINGS, group_inks, show_inks
from unjpeg.jpeg import JpegHeader, JpegImage, salvage
from unjpeg.layers import lay_out
from unjpeg.metadata import Metadata
from unjpeg.picture import read_picture
from unjpeg.projection import measure_consistency
from unjpeg.restorer import Restorer
from unjpeg.segments import count_components

PROFILE = bytes(pyvips.Operation.call("profile_load", "cmyk"))
INKS = separate(picture(70, 90, 3))


def coarse_inks(quality: int = 60) -> bytes:
    """Cyan at full, the others at half resolution: rare, and allowed."""
    return saved(Image.fromarray(INKS, mode="CMYK"), quality=quality, subsampling="4:2:0")


FILES: dict[str, bytes] = {
    "CMYK": encode_cmyk(INKS, 40, PROFILE),
    "YCCK 4:4:4": encode_ycck(INKS, 40, "4:4:4"),
    "YCCK 4:2:0": encode_ycck(INKS, 40),
    "progressive": saved(Image.fromarray(INKS, mode="CMYK"), quality=40, progressive=True),
    "without Adobe's marker": without_segments(encode_cmyk(INKS, 40), 0xEE),
    "of coarse inks": coarse_inks(),
}
files = pytest.mark.parametrize("name", FILES)


def written(restored: unjpeg.Restored, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    restored.save(stream, format=format, **options)
    return stream.getvalue()


# Reading


@files
def test_pixels_are_those_of_other_decoders(name: str) -> None:
    jpeg = JpegImage.decode(FILES[name])
    assert jpeg.pixels.shape == INKS.shape
    np.testing.assert_array_equal(jpeg.pixels, decoded(FILES[name]))
    np.testing.assert_array_equal(jpeg.pixels, pyvips.Image.new_from_buffer(FILES[name], "").numpy())
    assert jpeg.header.inks == ("YCCK" if "YCCK" in name else "CMYK")
    assert len(jpeg.components) == 4
    assert not jpeg.is_neutral


@files
def test_a_file_s_own_pixels_lie_in_its_cells(name: str) -> None:
    jpeg = JpegImage.decode(FILES[name])
    for pixels in (jpeg.pixels, jpeg.pixels.astype(np.uint16) * 257):
        found = measure_consistency(pixels, jpeg.components, jpeg.header.colour_space, jpeg.pixels)
        assert found.share_inside > (0.9 if name == "of coarse inks" else 0.999)  # decoders smooth what is coarse
    other = measure_consistency(255 - jpeg.pixels, jpeg.components, jpeg.header.colour_space, 255 - jpeg.pixels)
    assert other.contradicts
    names = "".join(part.name for part in other.components)
    assert names == ("YCbCrK" if "YCCK" in name else "CMYK")


@pytest.mark.parametrize(("transform", "space"), [(0, "CMYK"), (2, "YCCK"), (1, "YCCK"), (7, "YCCK")])
def test_adobe_s_marker_says_which_it_is(transform: int, space: str) -> None:
    plain = without_segments(encode_cmyk(INKS, 90), 0xEE)
    data = with_segment(plain, 0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))
    jpeg = JpegImage.decode(data)
    assert jpeg.header.colour_space == space
    np.testing.assert_array_equal(jpeg.pixels, pyvips.Image.new_from_buffer(data, "").numpy())
    assert any("colour transform" in note for note in jpeg.notes) == (transform not in (0, 2))


@pytest.mark.parametrize(
    ("name", "sampling"), [("CMYK", "4:4:4"), ("YCCK 4:2:0", "4:2:0"), ("of coarse inks", "2x2 1x1 1x1 1x1")]
)
def test_samplings_have_names_where_there_is_chroma(name: str, sampling: str) -> None:
    assert JpegHeader.parse(FILES[name], name).subsampling == sampling


@given(st.integers(0, 2**32), st.sampled_from(INK_CODINGS))
def test_the_planes_of_a_picture_are_all_of_it(seed: int, coding: Any) -> None:
    inks = np.random.default_rng(seed).integers(0, 256, (5, 7, 4), np.uint8)
    again = np.zeros_like(inks)
    for group in group_inks(coding):
        taken = group.take(inks)
        again[..., group.channels] = 255 - taken if group.is_inverted else taken
    np.testing.assert_array_equal(again, inks)


def test_components_are_counted_without_reading_all() -> None:
    plain = saved(picture(16, 16))
    assert count_components(io.BytesIO(plain)) == 3
    assert count_components(io.BytesIO(with_segment(FILES["CMYK"], 0xE1, bytes(60_000)))) == 4
    for none in (b"", b"\xff\xd8", plain[:30], b"\x89PNG", plain[:2] + b"\0" + plain[2:]):
        assert count_components(io.BytesIO(none)) is None


@pytest.mark.parametrize("name", ["CMYK", "YCCK 4:2:0"])
def test_what_decodes_of_a_damaged_file_is_salvaged(name: str, tiny_restorer: Restorer) -> None:
    tall = separate(picture(160, 48, 5))
    data = (encode_cmyk if name == "CMYK" else encode_ycck)(tall, 60)
    # Of YCCK black comes in a scan of its own, last: cut, it is missing from some row on.
    cut = data[: len(data) // 2] if name == "CMYK" else data[:-200]
    with pytest.raises(BadImageError, match="rows"):
        tiny_restorer.restore(cut)
    found = salvage(cut)
    assert found.inks == name[:4]
    assert 16 <= found.sound_rows <= 160
    if name == "CMYK":
        assert found.sound_rows < 160
    restored = tiny_restorer.restore(cut, salvage=True)
    assert restored.is_cmyk
    assert restored.pixels.shape == tall.shape
    assert not restored.report.projected


# Restoring


@files
def test_restored_pixels_are_true_to_the_file(name: str, lively_restorer: Restorer) -> None:
    restored = lively_restorer.restore(FILES[name])
    assert restored.is_cmyk
    assert restored.report.projected
    assert restored.report.history is None
    assert any("whether it was a JPEG before is not looked at" in note for note in restored.report.notes)
    before = JpegImage.decode(FILES[name]).pixels
    changed = (restored.pixels != before).any(axis=(0, 1))
    assert changed[before.reshape(-1, 4).std(axis=0) > 0].all()
    assert unjpeg.verify(FILES[name], restored).is_consistent
    assert unjpeg.verify(FILES[name], lively_restorer.restore(FILES[name], dither=True)).is_consistent
    free = lively_restorer.restore(FILES[name], consistency="off")
    assert not free.report.projected
    assert unjpeg.verify(FILES[name], free).contradicts


@files
def test_strength_0_is_the_decoded_picture(name: str, tiny_restorer: Restorer) -> None:
    restored = tiny_restorer.restore(FILES[name], strength=0)
    np.testing.assert_array_equal(restored.pixels, decoded(FILES[name]))
    deep = tiny_restorer.restore(FILES[name], strength=0, bit_depth=16)
    np.testing.assert_array_equal(deep.pixels, decoded(FILES[name]).astype(np.uint16) * 257)


def test_each_plane_comes_out_as_the_grey_jpeg_that_it_is(lively_restorer: Restorer) -> None:
    restored = lively_restorer.restore(encode_cmyk(INKS, 40))
    for ink in range(4):
        plane = np.ascontiguousarray(255 - INKS[..., ink])
        alone = lively_restorer.restore(saved(plane, quality=40), consistency="strict")
        np.testing.assert_allclose(255 - restored.pixels[..., ink].astype(int), alone.pixels, atol=1)


def test_the_colours_of_ycck_come_out_as_the_colour_jpeg_that_they_are(lively_restorer: Restorer) -> None:
    restored = lively_restorer.restore(encode_ycck(INKS, 40))
    alone = lively_restorer.restore(
        encoded(np.ascontiguousarray(INKS[..., :3]), "4:2:0", quality=40), consistency="strict"
    )
    np.testing.assert_allclose(restored.pixels[..., :3].astype(int), alone.pixels, atol=1)


def test_inks_that_are_not_there_cost_nothing(tiny_restorer: Restorer) -> None:
    plain = np.dstack([INKS[..., 0], *[np.zeros_like(INKS[..., 0])] * 3])
    data = encode_cmyk(plain, 50)
    assert len(lay_out(read_picture(data)).layers) == 1
    assert not tiny_restorer.restore(data).pixels[..., 1:].any()
    blank = encode_cmyk(np.zeros_like(INKS), 50)
    assert tiny_restorer.restore(blank).pixels.max() <= 1


@pytest.mark.parametrize("encode", [encode_cmyk, encode_ycck])
def test_restoring_comes_nearer_to_the_original(
    encode: Callable[[NDArray[np.uint8], int], bytes], photo: NDArray[np.uint8]
) -> None:
    inks = separate(photo)
    data = encode(inks, 30)
    restored = unjpeg.restore(data, model="fast")
    errors = [np.square(p.astype(float) - inks).mean(axis=(0, 1)) for p in (restored.pixels, decoded(data))]
    gains = 10 * np.log10(errors[1] / errors[0])
    assert (gains > 0.1).all(), gains
    assert unjpeg.verify(data, restored).is_consistent


def test_an_image_that_pillow_opened_is_its_file(tmp_path: Path, tiny_restorer: Restorer) -> None:
    (tmp_path / "a.jpg").write_bytes(FILES["CMYK"])
    restored = tiny_restorer.restore(Image.open(tmp_path / "a.jpg"))
    assert restored.report.projected
    image = restored.to_pil()
    assert image.mode == "CMYK"
    assert image.info["icc_profile"] == PROFILE
    np.testing.assert_array_equal(np.asarray(image), restored.pixels)
    assert unjpeg.verify(FILES["CMYK"], image).is_consistent
    assert unjpeg.verify(FILES["CMYK"], restored.pixels).is_consistent


# Writing


@files
@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_holds_inks_and_profile(name: str, bits: Any, tiny_restorer: Restorer) -> None:
    restored = tiny_restorer.restore(FILES[name], bit_depth=bits)
    data = written(restored, "tiff")
    image = pyvips.Image.new_from_buffer(data, "")
    assert image.interpretation == "cmyk"
    np.testing.assert_array_equal(image.numpy(), restored.pixels)
    if bits == 8:
        read = opened(data)
        assert read.mode == "CMYK"
        np.testing.assert_array_equal(np.asarray(read), restored.pixels)
        assert read.info.get("icc_profile") == (PROFILE if name == "CMYK" else None)
    assert unjpeg.verify(FILES[name], data).is_consistent


def test_a_jpeg_holds_inks_metadata_and_resolution(tiny_restorer: Restorer) -> None:
    exif = exif_block(orientation=6, size=(90, 70))
    source = saved(
        Image.fromarray(INKS, mode="CMYK"),
        quality=60,
        icc_profile=PROFILE,
        exif=b"Exif\0\0" + exif,
        comment=b"inks",
        xmp=b"<x/>",
    )
    jfif = b"JFIF\0\1\1\1" + struct.pack(">2H2B", 300, 300, 0, 0)
    restored = tiny_restorer.restore(with_segment(source, 0xE0, jfif))
    data = written(restored, "jpeg", quality=100)
    image = opened(data)
    assert (image.mode, image.info["adobe_transform"]) == ("CMYK", 0)
    read = Metadata.from_pillow(image)
    assert (read.icc_profile, read.comment, read.xmp, read.dpi) == (PROFILE, b"inks", b"<x/>", (300, 300))
    np.testing.assert_allclose(np.asarray(image).astype(int), restored.pixels, atol=4)
    again = JpegImage.decode(data)
    assert again.header.colour_space == "CMYK"
    assert set(again.header.sampling) == {(1, 1)}
    upright = opened(written(restored, "jpeg", quality=100, strip=True))
    assert (upright.size, upright.mode) == ((70, 90), "CMYK")


def test_a_jpeg_of_several_bands_is_one_picture(tiny_restorer: Restorer) -> None:
    inks = np.tile(INKS, (26, 8, 1))
    data = written(tiny_restorer.restore(encode_cmyk(inks, 50), strength=0), "jpeg", quality=100)
    np.testing.assert_allclose(decoded(data).astype(int), decoded(encode_cmyk(inks, 50)), atol=4)


def test_a_jpeg_within_the_size_of_its_input(tiny_restorer: Restorer) -> None:
    restored = tiny_restorer.restore(FILES["CMYK"])
    data = written(restored, "jpeg", output_size="input")
    assert len(data) <= len(FILES["CMYK"])
    assert set(JpegImage.decode(data).header.sampling) == {(1, 1)}


@pytest.mark.parametrize("format", ["png", "webp", "avif"])
def test_what_holds_no_inks_refuses_them(format: str, tiny_restorer: Restorer) -> None:
    restored = tiny_restorer.restore(FILES["CMYK"], strength=0, bit_depth=8)
    with pytest.raises(
        OutputError, match=f"{format} holds no CMYK; choose tiff or jpeg; a TIFF becomes RGB with: vips "
    ):
        written(restored, format)


def test_a_profile_of_other_pixels_is_left_out(tiny_restorer: Restorer) -> None:
    rgb = bytes(pyvips.Operation.call("profile_load", "srgb"))
    restored = tiny_restorer.restore(encode_cmyk(INKS, 50, rgb), strength=0)
    assert "icc_profile" not in opened(written(restored, "tiff")).info


# The command


@pytest.fixture
def restore(tiny_model: Path) -> Any:
    return lambda *given, code=0: run("restore", "--model", tiny_model, "--precision", "full", *given, code=code)


def test_the_command_makes_a_tiff_of_it(folder: Path, restore: Any) -> None:
    put("in/a.jpg", FILES["CMYK"])
    put("in/b.jpg", saved(picture(24, 24)))
    put("in/a.png", saved(picture(24, 24), "PNG"))
    planned = told(restore("in", "-o", "out", "--dry-run").stderr)
    assert "in/a.jpg -> out/a.tif" in planned
    lines = restore("in", "-o", "out").stderr
    assert "in/a.jpg -> out/a.tif" in lines
    assert "note: a TIFF, since it is CMYK, which PNG cannot hold" in lines
    assert opened(Path("out/a.tif").read_bytes()).mode == "CMYK"
    assert sorted(path.name for path in Path("out").glob("[!.]*")) == ["a.png", "a.tif", "b.png"]
    rows = [json.loads(line) for line in restore("in", "-o", "out", "--resume", "--json").stdout.splitlines()]
    assert len(rows) == 3
    assert all(row["skipped"] for row in rows)
    assert run("verify", "in/a.jpg", "out/a.tif").exit_code == 0
    restore("in/a.jpg")
    assert Path("in/a.restored.tif").is_file()


def test_a_wrong_output_is_refused_with_the_way_out(folder: Path, restore: Any) -> None:
    put("a.jpg", FILES["CMYK"])
    for target in ("out.png", "out.webp", "out.avif"):
        line = only_line(restore("a.jpg", "-o", target, code=1).stderr)
        assert line.startswith(f"unjpeg: {target}: {target[4:]} holds no CMYK; choose tiff (-o photo.tif) or jpeg;")
        assert "vips icc_transform photo.tif photo.png srgb" in line
        assert not Path(target).exists()
    restore("a.jpg", "-o", "out.jpg")
    assert opened(Path("out.jpg").read_bytes()).mode == "CMYK"


@pytest.mark.skipif(shutil.which("vips") is None, reason="needs the vips command")
def test_the_command_that_converts_does_so(folder: Path, restore: Any) -> None:
    put("a.jpg", FILES["CMYK"])
    restore("a.jpg", "-o", "photo.tif")
    subprocess.run("vips icc_transform photo.tif photo.png srgb", shell=True, check=True)
    assert opened(Path("photo.png").read_bytes()).mode == "RGB"


def test_inspect_tells_of_inks(folder: Path) -> None:
    put("a.jpg", FILES["YCCK 4:2:0"])
    said = run("inspect", "a.jpg").stdout
    assert "baseline, YCCK, 4:2:0" in said
    assert "before that  not looked at: it is CMYK" in said
    found = unjpeg.inspect(FILES["CMYK"], model=None)
    assert (found.colour_space, found.components, found.history) == ("CMYK", 4, "undecided")
    assert found.stated_quality == 40


# To look at


def test_inks_are_shown_in_their_profile() -> None:
    original = picture(40, 40, 3, low=60, high=180)
    shown = show_inks(separate(original), PROFILE)
    plain = show_inks(separate(original), None)
    assert shown.shape == plain.shape == original.shape
    near, far = (np.abs(pixels.astype(int) - original).mean() for pixels in (shown, plain))
    assert near < far
    np.testing.assert_array_equal(show_inks(separate(original), PROFILE[:200]), plain)
