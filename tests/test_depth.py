"""More than 8 bits: by the header, at full depth through the restoration, and never cut without a word."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray
from PIL import Image

from jpegs import picture, saved
from unjpeg.depth import rounded
from unjpeg.errors import BadImageError, OutputError, UnsupportedImageError
from unjpeg.jpeg import Limits
from unjpeg.metadata import Metadata
from unjpeg.output import write_image
from unjpeg.picture import read_picture
from unjpeg.restorer import Options, Restorer
from unjpeg.settings import Settings, fit_options


def deep_picture(channels: int, height: int = 40, width: int = 56) -> NDArray[np.uint16]:
    """Soft, with all the depth in use."""
    rng = np.random.default_rng(channels)
    y, x = np.mgrid[0:height, 0:width]
    planes = [
        (np.sin(x / 9 + i) * np.cos(y / 7) + 1) / 2 * 60000 + rng.integers(0, 5000, x.shape) for i in range(channels)
    ]
    pixels = np.stack(planes, axis=2).astype(np.uint16)
    return pixels[..., 0] if channels == 1 else pixels


def file_of(pixels: NDArray[np.uint16], kind: str) -> bytes:
    if kind in ("png", "tiff"):
        buffer = io.BytesIO()
        write_image(buffer, pixels, Metadata(), format=kind)
        return buffer.getvalue()
    header = f"P{6 if pixels.ndim == 3 else 5}\n# a comment 7\n{pixels.shape[1]} {pixels.shape[0]}\n65535\n"
    return header.encode() + pixels.astype(">u2").tobytes()


# Pillow opens no TIFF of 16 bits with grey and alpha.
KINDS = [(kind, channels) for kind in ("png", "tiff") for channels in (1, 2, 3, 4) if (kind, channels) != ("tiff", 2)]
KINDS += [("ppm", 1), ("ppm", 3)]


def colours(pixels: NDArray[Any], channels: int) -> NDArray[Any]:
    if channels in (2, 4):
        pixels = pixels[..., :-1]
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels


def test_rounding_is_to_the_nearest() -> None:
    every = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(rounded(every), np.rint(every / 257))


@pytest.mark.parametrize(("kind", "channels"), KINDS)
def test_full_depth_comes_through(kind: str, channels: int, lively_restorer: Restorer) -> None:
    pixels = deep_picture(channels)
    data = file_of(pixels, kind)
    untouched = lively_restorer.restore(data, strength=0)
    np.testing.assert_array_equal(untouched.pixels, pixels)
    result = lively_restorer.restore(data)
    assert result.pixels.dtype == np.uint16
    # What the network changes in the rounded copy is what it changes here.
    eight = rounded(np.ascontiguousarray(colours(pixels, channels)))
    change = lively_restorer.restore(eight, bit_depth=16).pixels.astype(int) - eight.astype(int) * 257
    inside = np.abs(eight.astype(int) - 128) < 100
    got = colours(result.pixels, channels).astype(int) - colours(pixels, channels).astype(int)
    assert np.abs(got - change)[inside].max() <= 1
    assert np.abs(change).max() > 100
    if channels in (2, 4):
        np.testing.assert_array_equal(result.pixels[..., -1], pixels[..., -1])


def avif_of(pixels: NDArray[np.uint16], bits: int) -> bytes:
    image = pyvips.Image.new_from_array(pixels).copy(interpretation="rgb16")
    data: bytes = image.heifsave_buffer(compression="av1", bitdepth=bits, lossless=True, effort=0)
    return data


DEEP_FILES = {f"{kind}{channels}": file_of(deep_picture(channels), kind) for kind, channels in KINDS}
DEEP_FILES |= {f"avif{bits}": avif_of(deep_picture(3), bits) for bits in (10, 12)}


@pytest.mark.parametrize("kind", DEEP_FILES)
@pytest.mark.parametrize("how", ["stream", "path", "loaded path"])
def test_an_image_of_a_deep_file_is_that_file(kind: str, how: str, lively_restorer: Restorer, tmp_path: Path) -> None:
    data = DEEP_FILES[kind]
    (tmp_path / "a").write_bytes(data)
    image = Image.open(io.BytesIO(data) if how == "stream" else tmp_path / "a")
    if how == "loaded path":
        image.load()
    result, expected = lively_restorer.restore(image), lively_restorer.restore(data)
    assert result.pixels.dtype == np.uint16
    np.testing.assert_array_equal(result.pixels, expected.pixels)
    assert result.report.notes == expected.report.notes
    assert np.asarray(image).shape[:2] == expected.pixels.shape[:2]  # it can be used on


@pytest.mark.parametrize("kind", ["png3", "png4", "png2", "tiff3", "ppm3", "avif10"])
@pytest.mark.parametrize("how", ["edited", "let go"])
def test_an_image_that_was_cut_to_eight_bits_says_so(
    kind: str, how: str, tiny_restorer: Restorer, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(DEEP_FILES[kind])
    stream = io.BytesIO(DEEP_FILES[kind])
    image = Image.open(tmp_path / "a" if how == "edited" else stream)
    image.load()
    stream.close()
    if how == "edited":
        image.paste(0, (0, 0, 3, 3))
    result = tiny_restorer.restore(image, strength=0)
    np.testing.assert_array_equal(result.pixels, np.asarray(image))
    [note] = [note for note in result.report.notes if "give the file itself" in note]
    known = "10 bits" if kind == "avif10" else "16 bits"
    assert (known if how == "edited" or kind == "tiff3" else "cannot be seen any more") in note


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM", "AVIF", "WEBP", "BMP"])
def test_an_image_of_a_file_of_eight_bits_has_no_such_note(
    format: str, tiny_restorer: Restorer, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(saved(picture(24, 32), format))
    for load in (False, True):
        image = Image.open(tmp_path / "a")
        if load:
            image.load()
        result = tiny_restorer.restore(image)
        assert result.pixels.dtype == np.uint8
        assert not [note for note in result.report.notes if "bits" in note]


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_eight_bits_on_request_are_rounded_and_noted(strength: float, lively_restorer: Restorer) -> None:
    data = file_of(deep_picture(3), "png")
    deep = lively_restorer.restore(data, strength=strength)
    eight = lively_restorer.restore(data, strength=strength, bit_depth=8)
    assert eight.pixels.dtype == np.uint8
    assert np.abs(eight.pixels.astype(int) * 257 - deep.pixels).max() <= 130
    assert [note for note in eight.report.notes if "16 bits per sample, and the result 8" in note]
    assert not deep.report.notes


@pytest.mark.parametrize("largest", [256, 1023, 4095, 65535])
def test_any_largest_value_of_a_ppm(largest: int, tiny_restorer: Restorer) -> None:
    values = np.linspace(0, largest, 8 * 8 * 3).round().astype(np.uint16)
    data = f"P6 8 8 {largest}\n".encode() + values.astype(">u2").tobytes()
    read = read_picture(data)
    assert read.bits == largest.bit_length()
    expected = np.rint(values.astype(float) * 65535 / largest).reshape(8, 8, 3)
    assert np.abs(tiny_restorer.restore(data, strength=0).pixels - expected).max() <= 1


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("alpha", [False, True])
def test_deep_avif(bits: int, alpha: bool, tiny_restorer: Restorer) -> None:
    pixels = deep_picture(4 if alpha else 3, 64, 64)
    data = avif_of(pixels, bits)
    read = read_picture(data)
    assert read.bits == bits
    assert read.deep is not None
    assert np.abs(read.deep.astype(int) - pixels[..., :3]).max() <= 2 * 65535 / (2**bits - 1)
    assert len(np.unique(read.deep)) > 300
    assert (read.alpha is not None) == alpha
    assert tiny_restorer.restore(data).pixels.dtype == np.uint16


def test_an_avif_of_eight_bits_stays_one(tiny_restorer: Restorer) -> None:
    assert tiny_restorer.restore(saved(picture(32, 32), "AVIF")).pixels.dtype == np.uint8


def test_colours_of_an_avif_that_are_not_the_usual_are_carried_over(tiny_restorer: Restorer) -> None:
    data = saved(picture(32, 32), "AVIF")
    assert b"nclx" in data
    at = data.index(b"nclx") + 4
    for primaries, transfer, expected in ((9, 16, (9, 16, 0, 1)), (12, 13, (12, 13, 0, 1)), (1, 13, None)):
        changed = data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]
        found = dict(read_picture(changed).metadata.colour).get(b"cICP")
        assert found == (bytes(expected) if expected else None)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_deep_tiff_is_turned_once(orientation: int, tiny_restorer: Restorer) -> None:
    pixels = deep_picture(3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    write_image(buffer, pixels, Metadata(exif=exif.tobytes()[6:]), format="tiff")
    restored = tiny_restorer.restore(buffer.getvalue(), strength=0)
    eight = io.BytesIO()
    write_image(eight, rounded(pixels), Metadata(exif=exif.tobytes()[6:]), format="tiff")
    expected = tiny_restorer.restore(eight.getvalue(), strength=0)
    np.testing.assert_array_equal(rounded(restored.pixels), expected.pixels)
    assert restored.metadata.orientation == expected.metadata.orientation


@pytest.mark.parametrize(
    ("format", "dtype"), [("png", "ushort"), ("tiff", "ushort"), ("jpeg", "uchar"), ("webp", "uchar")]
)
def test_files_have_what_their_format_holds(
    format: Literal["png", "tiff", "jpeg", "webp"], dtype: str, tiny_restorer: Restorer, tmp_path: Path
) -> None:
    data = file_of(deep_picture(3), "png")
    tiny_restorer.restore(data).save(tmp_path / "whole", format=format)
    settings = Settings()
    work = tiny_restorer.begin(data, fit_options(settings.options, format))
    report = settings.save(work, tmp_path / "strips", format)
    for name in ("whole", "strips"):
        assert pyvips.Image.new_from_file(str(tmp_path / name)).format == dtype
    assert bool([note for note in report.notes if "result 8" in note]) == (dtype == "uchar")
    if dtype == "uchar":
        asked = tiny_restorer.restore(data, bit_depth=16)
        with pytest.raises(OutputError, match="16-bit"):
            asked.save(tmp_path / "asked", format=format)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about the damage
@pytest.mark.parametrize("size", [20, 200, 1000])
def test_a_deep_file_that_is_cut_is_refused(size: int, tiny_restorer: Restorer) -> None:
    for kind in ("png", "ppm", "tiff"):
        with pytest.raises(BadImageError, match=r"damaged|not a picture"):
            tiny_restorer.restore(file_of(deep_picture(3), kind)[:size], strength=0)


def test_what_nothing_here_reads_at_its_depth_is_refused(tiny_restorer: Restorer) -> None:
    deep = pyvips.Image.new_from_array(deep_picture(3)).copy(interpretation="rgb16")
    refused = [b"P3 1 1 65535 1 2 3\n"]
    if "jp2ksave" in dir(pyvips) or pyvips.type_find("VipsOperation", "jp2ksave_buffer"):
        refused.append(deep.jp2ksave_buffer(lossless=True))
    for data in refused:
        with pytest.raises(UnsupportedImageError, match="bits"):
            tiny_restorer.restore(data)


@pytest.mark.parametrize("format", ["png", "tiff", "jpeg", "webp"])
def test_the_page_gives_the_library_s_file(format: str, lively_restorer: Restorer) -> None:
    pytest.importorskip("fastapi", reason="needs the extra: web")
    from unjpeg.web.darkroom import Darkroom, FileKind

    data = file_of(deep_picture(4 if format != "jpeg" else 3), "png")
    expected = io.BytesIO()
    lively_restorer.restore(data).save(expected, format=format)
    room = Darkroom(lively_restorer, limits=Limits(), held_bytes=2**24, held_seconds=900)
    facts = room.open(data, "a")
    assert [fact for fact in facts["facts"] if "16 bits" in fact["text"]]
    made, _, report = room.restore(data, Options(), FileKind(format))
    saved, _, note = room.save("a", Options(), FileKind(format))
    assert note is None
    by_page = [Image.open(io.BytesIO(file)) for file in (made, saved)]
    for image in by_page:
        if format == "jpeg":  # rounded once or twice: no more than a level
            apart = np.asarray(image).astype(int) - np.asarray(Image.open(io.BytesIO(expected.getvalue())))
            assert np.abs(apart).mean() < 0.5
        assert image.size == (56, 40)
    if format in ("png", "tiff"):
        assert made == expected.getvalue() == saved
    assert bool([note for note in report["notes"] if "result 8" in note]) == (format in ("jpeg", "webp"))
    room.show("a", "residual", Options(), 8.0)
