from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from exif_blocks import MAKER_SECRET, exif_block, thumbnail_jpeg
from unjpeg.metadata import ExifBlock, Metadata

ORDERS: tuple[Literal["<", ">"], ...] = ("<", ">")
both_orders = pytest.mark.parametrize("order", ORDERS)
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/">Grüße</x:xmpmeta>'.encode()


def reopened(image: Image.Image, format: str, **options: Any) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return Image.open(buffer)


def pillow_exif(exif: bytes | None) -> Image.Exif:
    result = Image.Exif()
    result.load(exif or b"")
    return result


def directory_after_main(exif: bytes) -> dict[int, Any]:
    block = pillow_exif(exif)
    dict(block)  # Pillow learns of the next directory by reading this one
    return block.get_ifd(ExifTags.IFD.IFD1)


def small() -> Image.Image:
    return Image.new("RGB", (5, 3), "teal")


# Orientation


@both_orders
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_read_in_both_byte_orders(order: Literal["<", ">"], orientation: int) -> None:
    assert Metadata(exif=exif_block(order, orientation=orientation)).orientation == orientation


@pytest.mark.parametrize("exif", [None, b"", b"II*\0", exif_block(orientation=0), exif_block(orientation=9)])
def test_absent_or_invalid_orientation_is_upright(exif: bytes | None) -> None:
    assert Metadata(exif=exif).orientation == 1


def test_orientation_that_pillow_wrote() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    assert Metadata.from_pillow(reopened(small(), "JPEG", exif=exif)).orientation == 8


# Size


@both_orders
@pytest.mark.parametrize("size_type", [3, 4])
def test_with_size_sets_every_size_and_moves_nothing(order: Literal["<", ">"], size_type: Literal[3, 4]) -> None:
    before = exif_block(order, size_type=size_type, thumbnail=thumbnail_jpeg())
    after = Metadata(exif=before).with_size(801, 602).exif
    assert after == exif_block(order, size_type=size_type, size=(801, 602), thumbnail=thumbnail_jpeg())


@both_orders
def test_with_size_beyond_a_short(order: Literal["<", ">"]) -> None:
    after = Metadata(exif=exif_block(order)).with_size(70_000, 65_536)
    assert after.exif == exif_block(order, size_type=4, size=(70_000, 65_536))


def test_with_size_adds_no_tag_and_drops_nothing() -> None:
    exif = Image.Exif()
    exif[0x010E] = "a view"
    before = Metadata(exif.tobytes()[6:], ICC, XMP, b"hello", (300.0, 300.0))
    assert before.with_size(7, 8) == before
    block = replace(before, exif=exif_block())
    assert replace(block.with_size(7, 8), exif=block.exif) == block
    assert Metadata().with_size(7, 8) == Metadata()


def test_with_size_leaves_damaged_exif_alone() -> None:
    whole = exif_block()
    for end in (0, 4, 8, 9, 20, 100, 170):  # inside the header, IFD0, the Exif IFD
        cut = Metadata(exif=whole[:end])
        assert cut.with_size(7, 8) == cut


# Thumbnail


@both_orders
def test_without_thumbnail_unlinks_and_blanks(order: Literal["<", ">"]) -> None:
    thumbnail = thumbnail_jpeg()
    before = exif_block(order, thumbnail=thumbnail)
    after = Metadata(exif=before).without_thumbnail().exif
    assert after is not None
    assert len(after) == len(before)
    assert directory_after_main(before)[0x0202] == len(thumbnail)
    assert directory_after_main(after) == {}
    start = before.index(thumbnail)
    assert after[start : start + len(thumbnail)] == bytes(len(thumbnail))
    changed = [position for position in range(len(before)) if before[position] != after[position]]
    link = ExifBlock(before).main()[1]
    assert link is not None
    assert all(link <= position < link + 4 or start <= position < start + len(thumbnail) for position in changed)


def test_without_thumbnail_where_there_is_none() -> None:
    for metadata in (Metadata(), Metadata(exif=exif_block()), Metadata(exif=b"nonsense")):
        assert metadata.without_thumbnail() is metadata


@both_orders
def test_a_thumbnail_that_reaches_into_other_data_is_only_unlinked(order: Literal["<", ">"]) -> None:
    before = exif_block(order, thumbnail=thumbnail_jpeg())
    # The maker note's own bytes made to look like a JPEG's start, and named as the thumbnail.
    position = before.index(b"ACME")
    block = before.replace(b"ACME", b"\xff\xd8ME")
    block = block.replace(
        struct.pack(f"{order}HHII", 0x0201, 4, 1, before.index(thumbnail_jpeg())),
        struct.pack(f"{order}HHII", 0x0201, 4, 1, position),
    )
    after = Metadata(exif=block).without_thumbnail().exif
    assert after is not None
    assert after != block
    link = ExifBlock(block).main()[1]
    assert link is not None
    assert after == block[:link] + bytes(4) + block[link + 4 :]


# Damage


@st.composite
def damaged_exif(draw: st.DrawFn) -> bytes:
    """Garbage, garbage after a header, and blocks with some bytes overwritten or cut off."""
    order = draw(st.sampled_from(ORDERS))
    header = (b"II*\0\x08\0\0\0" if order == "<" else b"MM\0*\0\0\0\x08") + struct.pack(f"{order}H", 3)
    garbage = st.binary(max_size=200)
    if draw(st.booleans()):
        return draw(st.one_of(garbage, garbage.map(lambda tail: header + tail)))
    block = bytearray(exif_block(order, thumbnail=thumbnail_jpeg()))
    for position in draw(st.lists(st.integers(0, 330), max_size=6)):
        block[position] = draw(st.sampled_from((0, 1, 3, 8, 0x7F, 0xFF)))
    return bytes(block[: draw(st.integers(0, len(block)))] if draw(st.booleans()) else block)


@given(damaged_exif())
@settings(max_examples=300, deadline=None)
def test_damaged_exif_never_raises_and_keeps_its_length(exif: bytes) -> None:
    metadata = Metadata(exif=exif)
    assert metadata.orientation in range(1, 9)
    for changed in (metadata.with_size(11, 12), metadata.without_thumbnail()):
        assert changed.exif is not None
        assert len(changed.exif) == len(exif)
        assert replace(changed, exif=exif) == metadata


@given(damaged_exif())
@settings(max_examples=50, deadline=None)
def test_damaged_exif_is_read_verbatim(exif: bytes) -> None:
    image = reopened(small(), "PNG", exif=b"Exif\0\0" + exif)
    assert (Metadata.from_pillow(image).exif or b"") == exif


# Reading


@both_orders
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_from_pillow_gives_the_bytes_verbatim(format: str, order: Literal["<", ">"]) -> None:
    exif = exif_block(order, thumbnail=thumbnail_jpeg())
    options: dict[str, Any] = {"exif": b"Exif\0\0" + exif, "icc_profile": ICC, "dpi": (300, 150)}
    if format == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
        options["pnginfo"].add_text("Comment", "Grüße")
    else:
        options |= {"xmp": XMP, "comment": "Grüße".encode("latin-1")}
    read = Metadata.from_pillow(reopened(small(), format, **options))
    assert (read.exif, read.icc_profile, read.xmp) == (exif, ICC, XMP)
    assert read.orientation == 6
    assert read.comment == (None if format == "WEBP" else "Grüße".encode("latin-1"))
    assert read.dpi == (None if format == "WEBP" else pytest.approx((300, 150), abs=0.02))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_from_pillow_of_a_bare_picture_is_empty(format: str) -> None:
    assert Metadata.from_pillow(reopened(small(), format)) == Metadata()


def test_a_resolution_that_only_the_exif_states_counts_and_one_made_up_does_not() -> None:
    stated = reopened(small(), "JPEG", exif=b"Exif\0\0" + exif_block(resolution=180))
    assert Metadata.from_pillow(stated).dpi == (180, 180)
    silent = reopened(small(), "JPEG", exif=b"Exif\0\0" + exif_block(resolution=None))
    assert silent.info["dpi"] == (72, 72)
    assert Metadata.from_pillow(silent).dpi is None


@pytest.mark.parametrize("dpi", [(0, 0), (-1, 5), (float("nan"), 1.0), (float("inf"), 1.0), (1,), "ab", None])
def test_a_senseless_resolution_is_none(dpi: object) -> None:
    image = small()
    image.info["dpi"] = dpi
    assert Metadata.from_pillow(image).dpi is None


def test_a_doubled_exif_prefix_is_taken_off_whole() -> None:
    exif = exif_block()
    assert Metadata.from_pillow(reopened(small(), "JPEG", exif=b"Exif\0\0Exif\0\0" + exif)).exif == exif


def test_exif_over_several_jpeg_segments_is_joined() -> None:
    exif = exif_block() + bytes(range(256)) * 300
    parts = (exif[:60_000], exif[60_000:])
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 8) + b"Exif\0\0" + part for part in parts)
    buffer = io.BytesIO()
    small().save(buffer, "JPEG")
    data = buffer.getvalue()
    assert Metadata.from_pillow(Image.open(io.BytesIO(data[:20] + segments + data[20:]))).exif == exif


def test_png_metadata_after_the_pixels_is_found() -> None:
    exif = exif_block()
    buffer = io.BytesIO()
    small().save(buffer, "PNG")
    chunk = b"eXIf" + exif
    data = buffer.getvalue()
    late = data[:-12] + struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[-12:]
    assert Metadata.from_pillow(Image.open(io.BytesIO(late))).exif == exif
    cut = Metadata.from_pillow(Image.open(io.BytesIO(data[:-20])))
    assert cut == Metadata()


def test_png_exif_in_text_as_imagemagick_writes_it() -> None:
    exif = exif_block()
    info = PngImagePlugin.PngInfo()
    info.add_text(
        "Raw profile type exif", f"\nexif\n{len(exif) + 6:8}\n{(b'Exif' + bytes(2) + exif).hex()}\n", zip=True
    )
    assert Metadata.from_pillow(reopened(small(), "PNG", pnginfo=info)).exif == exif
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n 3\nnothex\n")
    assert Metadata.from_pillow(reopened(small(), "PNG", pnginfo=info)).exif is None


@both_orders
@pytest.mark.parametrize("loaded", [False, True])
def test_a_tiff_s_tags_become_a_block_and_its_pixels_are_upright(order: Literal["<", ">"], loaded: bool) -> None:
    exif = pillow_exif(exif_block(order, size=(5, 3)))  # Pillow takes the size from here
    image = reopened(small(), "TIFF", exif=exif, icc_profile=ICC, dpi=(300, 150))
    if loaded:
        image.load()
    read = Metadata.from_pillow(image)
    assert read.orientation == 1
    assert (read.icc_profile, read.dpi) == (ICC, (300, 150))
    block = pillow_exif(read.exif)
    assert block[0x010F] == "Acme Optics"
    assert {0x0100, 0x0103, 0x0111, 0x8773}.isdisjoint(block)
    assert block.get_ifd(0x8769)[0x829A] == pytest.approx(1 / 250)
    assert block.get_ifd(0x8769)[0x927C] == exif.get_ifd(0x8769)[0x927C]
    assert block.get_ifd(0x8825)[0] == b"\x02\x03\0\0"
    assert MAKER_SECRET not in (read.exif or b"")  # lies outside all that a TIFF reader sees


def test_tiff_xmp() -> None:
    tags = Image.Exif()
    tags[700] = XMP
    read = Metadata.from_pillow(reopened(small(), "TIFF", exif=tags))
    assert read.xmp == XMP
    assert read.exif is None
