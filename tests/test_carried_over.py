"""What a file says beside its pixels, of the less usual kinds: carried over where there is a place, else said."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from jpegs import encoded, frame_header, picture, saved, with_segment
from unjpeg.errors import BadImageError, OutputError, UnsupportedImageError
from unjpeg.jpeg import Limits
from unjpeg.picture import read_picture
from unjpeg.pngfile import read_png
from unjpeg.restorer import Options, Restorer
from unjpeg.settings import Settings, fit_options

PHOTO = picture(16, 24)
RGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = RGB_PROFILE[:16] + b"GRAY" + RGB_PROFILE[20:]
FORMATS = ("png", "jpeg", "webp", "tiff")


def png_with(chunks: Iterable[tuple[bytes, bytes]], pixels: NDArray[np.uint8] = PHOTO, *, late: bool = False) -> bytes:
    """A PNG with further chunks, before its pixels or behind them."""
    data = saved(pixels, "PNG")
    at = len(data) - 12 if late else data.index(b"IDAT") - 4
    made = [struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks]
    return data[:at] + b"".join(made) + data[at:]


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    found, position = [], 8
    while position < len(data):
        size = int.from_bytes(data[position : position + 4])
        found.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + size]))
        position += 12 + size
    return found


def segments_of(data: bytes) -> list[tuple[int, bytes]]:
    found, position = [], 2
    while data[position + 1] != 0xDA:
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4])
        found.append((data[position + 1], data[position + 4 : end]))
        position = end
    return found


def written(restorer: Restorer, source: Any, format: str, **options: Any) -> tuple[bytes, str]:
    """The file, and all notes in a line."""
    settings, buffer = Settings(options=Options(strength=0), **options), io.BytesIO()
    report = settings.save(restorer.begin(source, fit_options(settings.options, format)), buffer, format)
    return buffer.getvalue(), "; ".join(report.notes)


# PNG

COLOURS = {
    b"gAMA": struct.pack(">I", 100_000),
    b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000),
    b"sRGB": b"\0",
    b"cICP": bytes((12, 13, 0, 1)),
}


@pytest.mark.parametrize("names", [(name,) for name in COLOURS] + [(b"gAMA", b"cHRM"), (b"cICP", b"gAMA", b"sRGB")])
@pytest.mark.parametrize("pixels", [PHOTO, PHOTO[..., 0]], ids=["colour", "grey"])
def test_a_png_s_colours(names: tuple[bytes, ...], pixels: NDArray[np.uint8], tiny_restorer: Restorer) -> None:
    data = png_with([(name, COLOURS[name]) for name in names], pixels)
    for format in FORMATS:
        result, notes = written(tiny_restorer, data, format)
        if format == "png":
            kinds = [kind for kind, _ in chunks_of(result)]
            assert [(name, COLOURS[name]) for name in names] == [c for c in chunks_of(result) if c[0] in COLOURS]
            assert max(map(kinds.index, names)) < kinds.index(b"IDAT")
            assert notes == ""
        else:
            assert all(name.decode() in notes for name in names)
        assert written(tiny_restorer, data, format, strip=True)[1] == ""


def test_a_png_that_somebody_else_has_opened(tiny_restorer: Restorer) -> None:
    names = (b"gAMA", b"cHRM", b"sRGB")
    data = png_with([(name, COLOURS[name]) for name in names] + [text(b"tEXt", b"Title", b"a view")])
    result, _ = written(tiny_restorer, Image.open(io.BytesIO(data)), "png")
    assert {*((name, COLOURS[name]) for name in names), (b"tEXt", b"Title\0a view")} <= {*chunks_of(result)}


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_is_carried_over_or_refused(transfer: int, tiny_restorer: Restorer, tmp_path: Path) -> None:
    data = png_with([(b"cICP", bytes((9, transfer, 0, 1)))])
    assert (b"cICP", bytes((9, transfer, 0, 1))) in chunks_of(written(tiny_restorer, data, "png")[0])
    for format in FORMATS[1:]:
        with pytest.raises(OutputError, match="HDR"):
            written(tiny_restorer, data, format)
        with pytest.raises(OutputError, match="choose png"):
            tiny_restorer.restore(data, strength=0).save(tmp_path / "x", format=format)


def text(kind: bytes, keyword: bytes, content: bytes) -> tuple[bytes, bytes]:
    if kind == b"tEXt":
        return kind, keyword + b"\0" + content
    if kind == b"zTXt":
        return kind, keyword + b"\0\0" + zlib.compress(content)
    return kind, keyword + b"\0\1\0\0\0" + zlib.compress(content)


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt"])
@pytest.mark.parametrize("size", [10, 2**20 + 1, 3 * 2**20])
@pytest.mark.parametrize("late", [False, True])
def test_png_texts_of_any_size(kind: bytes, size: int, late: bool, tiny_restorer: Restorer) -> None:
    chunk = text(kind, b"workflow", b"{}" * (size // 2))
    comment = text(kind, b"Comment", b"c" * size)
    data = png_with([chunk, comment], late=late)
    result, notes = written(tiny_restorer, data, "png")
    assert chunk in chunks_of(result)
    assert (b"tEXt", b"Comment\0" + b"c" * size) in chunks_of(result)
    assert notes == ""
    assert "workflow" in written(tiny_restorer, data, "tiff")[1]


def test_a_large_profile_and_xmp_of_a_png(tiny_restorer: Restorer) -> None:
    profile, xmp = RGB_PROFILE + bytes(2**21), b"<x/>" + b" " * 2**21
    data = png_with([(b"iCCP", b"name\0\0" + zlib.compress(profile)), text(b"iTXt", b"XML:com.adobe.xmp", xmp)])
    metadata = read_picture(data).metadata
    assert (metadata.icc_profile, metadata.xmp) == (profile, xmp)
    assert zlib.decompress(dict(chunks_of(written(tiny_restorer, data, "png")[0]))[b"iCCP"][13:]) == profile


def test_metadata_beyond_the_limit_are_refused_before_they_are_unpacked() -> None:
    bomb = text(b"zTXt", b"workflow", bytes(2**23))
    data = png_with([bomb])
    assert len(data) < 2**16
    with pytest.raises(UnsupportedImageError, match="metadata"):
        read_picture(data, limits=Limits(metadata_bytes=2**20))
    several = png_with([text(b"zTXt", b"a", bytes(2**19))] * 3)
    with pytest.raises(UnsupportedImageError, match="metadata"):
        read_picture(several, limits=Limits(metadata_bytes=2**20))
    with pytest.raises(UnsupportedImageError, match="chunks"):
        read_picture(png_with([text(b"tEXt", b"a", b"")] * 20_001))


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
@pytest.mark.parametrize("body", [b"", b"name", b"name\0", b"name\0\1", b"name\0\0nonsense", b"name\0\0x\x9c\xed"])
def test_damaged_metadata_of_a_png_cost_themselves(kind: bytes, body: bytes, tiny_restorer: Restorer) -> None:
    result, notes = written(tiny_restorer, png_with([(kind, body)]), "png")
    assert "damaged: lost" in notes
    assert kind not in dict(chunks_of(result))


@pytest.mark.parametrize("size", [8, 9, 20, 33, 40, 100])
def test_a_png_that_is_cut_can_be_taken_apart(size: int) -> None:
    data = png_with([text(b"tEXt", b"a", b"b")])[:size]
    assert len(read_png(data, "x", 2**20).plain) <= size
    with pytest.raises(BadImageError):
        read_picture(data)


# JPEG


def at_frame(data: bytes, code: int, payload: bytes) -> bytes:
    """A segment behind the frame header."""
    start = frame_header(data)
    return with_segment(data, code, payload, at=start + 2 + int.from_bytes(data[start + 2 : start + 4]))


def at_end(data: bytes, code: int, payload: bytes) -> bytes:
    """A segment behind the scans."""
    return with_segment(data, code, payload, at=len(data) - 2)


@pytest.mark.parametrize("place", [at_frame, at_end])
@pytest.mark.parametrize("progressive", [False, True])
def test_metadata_behind_the_frame_header(place: Any, progressive: bool, tiny_restorer: Restorer) -> None:
    data = encoded(PHOTO, progressive=progressive)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = place(data, 0xE2, b"ICC_PROFILE\0\1\1" + RGB_PROFILE)
    data = place(data, 0xFE, b"hello")
    data = place(data, 0xE1, b"Exif\0\0" + exif.tobytes()[6:])
    metadata = tiny_restorer.restore(data, strength=0).metadata
    assert (metadata.icc_profile, metadata.comment, metadata.orientation) == (RGB_PROFILE, b"hello", 6)


@pytest.mark.parametrize("comments", [[b"first", b"second", b"third"], [b"a", b"a"], ["Grüße".encode(), b"\xff\xfe"]])
def test_all_comments(comments: list[bytes], tiny_restorer: Restorer) -> None:
    data = encoded(PHOTO)
    for comment in reversed(comments):
        data = with_segment(data, 0xFE, comment)
    metadata = read_picture(data).metadata
    assert (metadata.comments, metadata.comment) == (tuple(comments), comments[-1])
    assert [body for code, body in segments_of(written(tiny_restorer, data, "jpeg")[0]) if code == 0xFE] == comments
    again = read_picture(written(tiny_restorer, data, "png")[0]).metadata
    assert again.comments == tuple(comments)
    tiff = Image.open(io.BytesIO(written(tiny_restorer, data, "tiff")[0]))
    if all(comment.isascii() for comment in comments):
        assert tiff.getexif()[0x010E] == b"\n".join(comments).decode()
    assert f"the {len(comments)} comments: lost" in written(tiny_restorer, data, "webp")[1]


def test_a_comment_beside_a_description_is_said(tiny_restorer: Restorer) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a view"
    data = with_segment(encoded(PHOTO, exif=exif), 0xFE, b"hello", at=20)
    assert "comment" in written(tiny_restorer, data, "tiff")[1]


@pytest.mark.parametrize("pad", [0, 1, 0x20, 0xFF])
@pytest.mark.parametrize("format", FORMATS)
def test_exif_with_any_padding(pad: int, format: str, tiny_restorer: Restorer) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    exif[0x010F] = "ACME"
    block = exif.tobytes()[6:]
    data = with_segment(encoded(PHOTO), 0xE1, b"Exif\0" + bytes([pad]) + block)
    result = Image.open(io.BytesIO(written(tiny_restorer, data, format)[0])).getexif()
    assert (result[0x0112], result[0x010F]) == (8, "ACME")


@pytest.mark.parametrize("aspect", [(1, 2), (2, 1), (10, 11), (59, 54)])
def test_pixels_that_are_not_square(aspect: tuple[int, int], tiny_restorer: Restorer) -> None:
    across, down = aspect
    data = bytearray(encoded(PHOTO))
    data[13:18] = struct.pack(">BHH", 0, across, down)
    source = bytes(data)
    jpeg, notes = written(tiny_restorer, source, "jpeg")
    assert (jpeg[13:18], notes) == (source[13:18], "")
    png, notes = written(tiny_restorer, source, "png")
    assert (dict(chunks_of(png))[b"pHYs"], notes) == (struct.pack(">IIB", across, down, 0), "")
    tiff, notes = written(tiny_restorer, source, "tiff")
    tags = Image.open(io.BytesIO(tiff)).tag_v2  # type: ignore[attr-defined]
    assert (tags[282], tags[283], tags[296], notes) == (across, down, 1, "")
    assert "not square" in written(tiny_restorer, source, "webp")[1]
    for further in (png, tiff):
        assert read_picture(further).metadata.aspect == aspect


def test_square_pixels_say_nothing(tiny_restorer: Restorer) -> None:
    assert read_picture(encoded(PHOTO)).metadata.aspect is None
    assert written(tiny_restorer, encoded(PHOTO), "webp")[1] == ""


@pytest.mark.parametrize(
    ("code", "payload", "name"),
    [
        (0xE1, b"FLIR\0\1\0\1" + bytes(1000), "FLIR"),
        (0xE3, b"Meta\0\0x", "Meta"),
        (0xE4, b"\0\1\2", "APP4"),
        (0xEC, b"[picture info]", "picture info"),
        (0xE0, b"Ocad$Rev", "Ocad"),
    ],
)
def test_other_programs_segments(code: int, payload: bytes, name: str, tiny_restorer: Restorer) -> None:
    data = with_segment(with_segment(encoded(PHOTO), code, payload, at=20), code, payload + b"2", at=20)
    result, notes = written(tiny_restorer, data, "jpeg")
    kept = [body for number, body in segments_of(result) if number == code and body.startswith(payload)]
    assert (kept, notes) == ([payload + b"2", payload], "")
    for format in ("png", "webp", "tiff"):
        notes = written(tiny_restorer, data, format)[1]
        assert name in notes
        assert "\0" not in notes


@pytest.mark.parametrize("payload", [b"MPF\0xx", b"urn:iso:std:iso:ts:21496:-1\0x"])
def test_what_would_not_be_true_any_more_is_left_out(payload: bytes, tiny_restorer: Restorer) -> None:
    data = with_segment(encoded(PHOTO), 0xE2, payload, at=20)
    assert payload not in written(tiny_restorer, data, "jpeg")[0]


# Profiles that are not for these pixels


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("grey", [False, True])
def test_a_profile_is_for_the_pixels_or_left_out(grey: bool, format: str, tiny_restorer: Restorer) -> None:
    for profile in (RGB_PROFILE, GREY_PROFILE, b"no profile"):
        data = encoded(PHOTO, "grey" if grey else "4:2:0", icc_profile=profile)
        result, notes = written(tiny_restorer, data, format)
        fits = profile == b"no profile" or (profile == GREY_PROFILE) == grey or (grey and format == "webp")
        found = Image.open(io.BytesIO(result)).info.get("icc_profile") or None
        assert found == (profile if fits else None)
        assert ("colour profile" in notes) != fits
        buffer = io.BytesIO()
        tiny_restorer.restore(data, strength=0).save(buffer, format=format)
        assert (Image.open(io.BytesIO(buffer.getvalue())).info.get("icc_profile") or None) == found
