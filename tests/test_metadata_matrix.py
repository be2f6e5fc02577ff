"""Every kind of metadata into every output format, through the restorer; read back by Pillow and by exiftool."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageCms, ImageOps, PngImagePlugin
from PIL.TiffImagePlugin import TiffImageFile

from exif_blocks import MAKER_SECRET, exif_block, thumbnail_jpeg
from jpegs import encoded, picture, with_segment
from unjpeg import Restorer
from unjpeg.metadata import Metadata
from unjpeg.output import FORMATS

PHOTO = picture(40, 56)
EXIF = exif_block(orientation=1, size=(56, 40), thumbnail=thumbnail_jpeg())
NAMESPACES = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:dc="http://purl.org/dc/elements/1.1/"'
FURTHER_XMP = (
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {NAMESPACES} xmlns:g="http://ns.google.com/photos/1.0/depthmap/">'
    f'<rdf:Description rdf:about="" g:Data="{"depth" * 30_000}"/></rdf:RDF></x:xmpmeta>'
).encode()
FURTHER_NAME = hashlib.md5(FURTHER_XMP, usedforsecurity=False).hexdigest().upper()
XMP = (
    f'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {NAMESPACES}>'
    f'<rdf:Description rdf:about="" dc:source="Grüße" xmlns:xmpNote="http://ns.adobe.com/xmp/note/" '
    f'xmpNote:HasExtendedXMP="{FURTHER_NAME}"/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
).encode()
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
CAPTION = b"A caption"
IPTC = b"\x1c\x02\x78" + struct.pack(">H", len(CAPTION)) + CAPTION


def resource(kind: int, data: bytes) -> bytes:
    return b"8BIM" + struct.pack(">HHI", kind, 0, len(data)) + data + bytes(len(data) % 2)


RESOURCES = resource(0x0404, IPTC) + resource(0x040B, b"https://example.org")
STALE = resource(0x040C, bytes(28) + thumbnail_jpeg())


def extension_segments() -> list[bytes]:
    step = 60_000
    return [
        b"http://ns.adobe.com/xmp/extension/\0"
        + FURTHER_NAME.encode()
        + struct.pack(">II", len(FURTHER_XMP), start)
        + FURTHER_XMP[start : start + step]
        for start in range(0, len(FURTHER_XMP), step)
    ]


def full_jpeg(exif: bytes = EXIF, icc: bytes | None = None) -> bytes:
    """With everything that the matrix has rows for."""
    options: dict[str, Any] = {
        "exif": b"Exif\0\0" + exif,
        "xmp": XMP,
        "comment": "Grüße".encode(),
        "dpi": (300, 300),
    }
    if icc is not None:
        options["icc_profile"] = icc
    data = encoded(PHOTO, **options)
    for segment in extension_segments():
        data = with_segment(data, 0xE1, segment, at=20)
    return with_segment(data, 0xED, b"Photoshop 3.0\0" + STALE + RESOURCES, at=20)


def written(restorer: Restorer, source: bytes, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    restorer.begin(source, strength=0).save(buffer, format=format, **options)
    return buffer.getvalue()


def colour_profile(name: str) -> bytes:
    if name == "grey":  # nothing at hand makes one; readers go by the header
        header = bytearray(132)
        header[0:4], header[12:24], header[36:40] = struct.pack(">I", 132), b"mntrGRAYXYZ ", b"acsp"
        return bytes(header)
    if name == "Adobe RGB":  # sRGB with another name: to us a profile is its bytes
        return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes().replace(b"sRGB", b"aRGB")
    profile: bytes = bytes(
        pyvips.Operation.call("profile_load", {"sRGB": "srgb", "Display P3": "p3", "CMYK": "cmyk"}[name])
    )
    return profile


WITHOUT_PLACE = ("webp", "avif")
"""For comments, resolution and Photoshop's data."""

formats = pytest.mark.parametrize("format", FORMATS)


@formats
def test_everything_that_the_format_has_a_place_for_comes_back(tiny_restorer: Restorer, format: str) -> None:
    data = written(tiny_restorer, full_jpeg(), format)
    image = Image.open(io.BytesIO(data))
    read = Metadata.from_pillow(image)
    if format != "tiff":  # there it lies in the file itself: test_output checks its offsets
        assert read.exif == Metadata(exif=EXIF).without_thumbnail().exif
    assert MAKER_SECRET in data
    assert thumbnail_jpeg() not in data
    assert read.photoshop == (None if format in WITHOUT_PLACE else RESOURCES)
    if isinstance(image, TiffImageFile):  # Pillow says nothing of a TIFF's description
        assert image.tag_v2[270].encode("latin-1") == "Grüße".encode()
    else:
        assert read.comment == (None if format in WITHOUT_PLACE else "Grüße".encode())
    assert read.dpi == (None if format in WITHOUT_PLACE else pytest.approx((300, 300), abs=0.02))
    if format == "jpeg":
        assert (read.xmp, read.extended_xmp) == (XMP, FURTHER_XMP)
    else:
        assert read.xmp is not None
        assert b"HasExtendedXMP" not in read.xmp
        assert read.xmp.count(b"depth" * 30_000) == 1
        first, second = ElementTree.fromstring(read.xmp).iter(f"{RDF}Description")
        assert first.attrib == {f"{RDF}about": "", "{http://purl.org/dc/elements/1.1/}source": "Grüße"}
        assert set(second.attrib) == {f"{RDF}about", "{http://ns.google.com/photos/1.0/depthmap/}Data"}
    if isinstance(image, TiffImageFile):
        assert image.tag_v2[33723] == IPTC


@formats
@pytest.mark.parametrize("name", ["sRGB", "Adobe RGB", "Display P3", "grey", "CMYK"])
def test_colour_profiles_of_every_kind_come_back(tiny_restorer: Restorer, format: str, name: str) -> None:
    profile = colour_profile(name)
    source = encoded(PHOTO, "grey" if name == "grey" else "4:2:0", icc_profile=profile)
    result = Image.open(io.BytesIO(written(tiny_restorer, source, format)))
    assert result.info["icc_profile"] == profile


@formats
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("strip", [False, True])
def test_the_picture_is_seen_upright(tiny_restorer: Restorer, format: str, orientation: int, strip: bool) -> None:
    source = encoded(PHOTO, exif=b"Exif\0\0" + exif_block(orientation=orientation, size=(56, 40)))
    lossy = format in ("jpeg", "avif")
    data = written(tiny_restorer, source, format, strip=strip, quality=100 if lossy else None)
    image = Image.open(io.BytesIO(data))
    assert image.getexif().get(0x0112) == (None if strip else orientation)
    with Image.open(io.BytesIO(source)) as before:
        expected = np.asarray(ImageOps.exif_transpose(before))
    seen = image if format == "tiff" else ImageOps.exif_transpose(image)  # Pillow turns a TIFF as it loads it
    np.testing.assert_allclose(np.asarray(seen).astype(int), expected, atol=3 if lossy else 0)


@formats
def test_strip_leaves_nothing(tiny_restorer: Restorer, format: str) -> None:
    data = written(tiny_restorer, full_jpeg(icc=colour_profile("Display P3")), format, strip=True)
    assert Metadata.from_pillow(Image.open(io.BytesIO(data))) == Metadata()
    for trace in (
        b"Acme",
        MAKER_SECRET,
        b"8BIM",
        b"caption",
        b"Photoshop",
        b"xmpmeta",
        b"Gr\xc3\xbc",
        b"Exif",
        b"ICC_PROFILE",
    ):
        assert trace not in data


@formats
def test_iptc_and_xmp_go_from_any_format_to_any_other(tiny_restorer: Restorer, format: str) -> None:
    source = with_segment(encoded(PHOTO), 0xED, b"Photoshop 3.0\0" + RESOURCES, at=20)
    again = written(tiny_restorer, written(tiny_restorer, source, "png"), format)
    read = Metadata.from_pillow(Image.open(io.BytesIO(again)))
    assert read.iptc == (None if format in WITHOUT_PLACE else IPTC)
    back = written(tiny_restorer, written(tiny_restorer, full_jpeg(), "tiff"), "png")
    assert Metadata.from_pillow(Image.open(io.BytesIO(back))).photoshop == RESOURCES


def test_a_tiff_with_iptc_alone(tiny_restorer: Restorer) -> None:
    tags = Image.Exif()
    tags[33723] = IPTC
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).save(buffer, "TIFF", exif=tags)
    read = Metadata.from_pillow(Image.open(io.BytesIO(written(tiny_restorer, buffer.getvalue(), "png"))))
    assert read.iptc == IPTC


def test_xmp_that_is_incomplete_or_hostile_is_not_joined() -> None:
    first, *rest = extension_segments()
    for segments in ([first], [segment.replace(FURTHER_NAME.encode(), b"0" * 32) for segment in (first, *rest)]):
        data = encoded(PHOTO, xmp=XMP)
        for segment in segments:
            data = with_segment(data, 0xE1, segment, at=20)
        read = Metadata.from_pillow(Image.open(io.BytesIO(data)))
        assert (read.xmp, read.extended_xmp) == (XMP, None)
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + FURTHER_XMP
    for damaged in (bomb, FURTHER_XMP[:-20], b"", b"\xff\xfe\0"):
        assert Metadata(xmp=XMP, extended_xmp=damaged).joined_xmp == XMP
    assert Metadata(xmp=b"<x/>", extended_xmp=FURTHER_XMP).joined_xmp == b"<x/>"


@pytest.mark.parametrize("damage", [RESOURCES[:-5], b"8BIM", b"garbage", RESOURCES + b"8BIM\4\4\xff"])
def test_damaged_resources_are_left_alone(damage: bytes) -> None:
    assert Metadata(photoshop=damage).without_thumbnail().photoshop == damage
    assert Metadata(photoshop=damage[:3]).iptc is None


def test_png_text_of_nonsense_is_no_iptc(tiny_restorer: Restorer) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type iptc", "\niptc\n 3\nnothex\n")
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).save(buffer, "PNG", pnginfo=info)
    assert Metadata.from_pillow(Image.open(io.BytesIO(buffer.getvalue()))).photoshop is None


# By another reader


OF_THE_FILE = (
    "SourceFile",
    "ExifTool:",
    "System:",
    "File:",
    "Composite:",
    "JFIF:",
    "PNG",
    "RIFF:",
    "ICC-header:",
    "IFD1:",
)
OF_THE_PIXELS = {
    "ImageWidth",
    "ImageHeight",
    "BitsPerSample",
    "Compression",
    "PhotometricInterpretation",
    "StripOffsets",
}
OF_THE_PIXELS |= {
    "SamplesPerPixel",
    "RowsPerStrip",
    "StripByteCounts",
    "PlanarConfiguration",
    "Predictor",
    "ExtraSamples",
}


def facts_of(path: Path) -> dict[str, Any]:
    ran = subprocess.run(["exiftool", "-j", "-G1", "-a", "-u", str(path)], capture_output=True, check=False)
    (facts,) = json.loads(ran.stdout)
    return {
        name: value
        for name, value in facts.items()
        if not name.startswith(OF_THE_FILE) and name.split(":")[-1] not in OF_THE_PIXELS
    }


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
@formats
def test_exiftool_reads_what_it_read_before(tiny_restorer: Restorer, format: str, tmp_path: Path) -> None:
    before = full_jpeg(
        exif_block(orientation=6, size=(56, 40), thumbnail=thumbnail_jpeg()), colour_profile("Display P3")
    )
    source, target = tmp_path / "before.jpg", tmp_path / f"after{FORMATS[format].suffix}"
    source.write_bytes(before)
    target.write_bytes(written(tiny_restorer, before, format))
    had, has = facts_of(source), facts_of(target)
    lost = {name for name in had if name not in has or (has[name] != had[name])}
    allowed = {"Adobe:", "XMP-xmpNote:"} if format != "jpeg" else set()
    if format in WITHOUT_PLACE:
        allowed |= {"IPTC:", "Photoshop:"}
    # The thumbnail, stale, is left out on purpose; where XMP is joined, its toolkit's name is the one that is added.
    assert {name for name in lost if not name.startswith(tuple(allowed | {"Photoshop:PhotoshopThumbnail"}))} == set()
    assert {"GPS", "ExifIFD", "IFD0", "XMP-dc", "ICC_Profile"} <= {name.split(":")[0] for name in has}
