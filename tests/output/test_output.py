from __future__ import annotations

import errno
import io
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import pyvips
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps, JpegImagePlugin

from exif_blocks import MAKER_SECRET, exif_block, thumbnail_jpeg
from unjpeg.errors import OutputError
from unjpeg.metadata import ExifBlock, Metadata
from unjpeg.output import FORMATS, Pixels, format_of, list_without_place, write_image

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/">Grüße</x:xmpmeta>'.encode()
COMMENT = b"CREATOR: a camera"
ORDERS: tuple[Literal["<", ">"], ...] = ("<", ">")

# All that can be written: format, dtype, channels.
KINDS = [
    (name, dtype, channels)
    for name, format in FORMATS.items()
    for dtype in (np.uint8, np.uint16)
    for channels in (1, 2, 3, 4)
    if np.dtype(dtype).itemsize * 8 in format.bit_depths and (format.alpha or channels in (1, 3))
]
every_kind = pytest.mark.parametrize(
    ("format", "dtype", "channels"),
    KINDS,
    ids=[f"{name}-{dtype.__name__}-{channels}" for name, dtype, channels in KINDS],
)


def noise(height: int, width: int, channels: int, dtype: type[np.uint8 | np.uint16], seed: int = 0) -> Pixels:
    """Shape (H, W) for one channel, else (H, W, channels); full range."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    pixels: Pixels = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    return pixels


def encoded(pixels: Pixels, metadata: Metadata | None = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    write_image(stream, pixels, metadata or Metadata(), **options)
    return stream.getvalue()


def decoded(data: bytes, channels: int) -> NDArray[Any]:
    """By libvips, which knows 16 bits and does not turn; WebP has no grey, so that comes back as RGB."""
    image: NDArray[Any] = pyvips.Image.new_from_buffer(data, "").numpy()
    if data[8:12] == b"WEBP" and channels < 3:
        assert (image[..., :1] == image[..., :3]).all()
        image = image[..., :1] if channels == 1 else image[..., 2:]
    return image[..., 0] if image.ndim == 3 and channels == 1 else image


def reopened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def readable_by_pillow(format: str, dtype: type, channels: int) -> bool:
    return (format, dtype, channels) != ("tiff", np.uint16, 2)


def tags(exif: Image.Exif) -> dict[Any, Any]:
    """Everything in IFD0, the Exif and the GPS IFD, without the offsets."""
    inner = {ifd: dict(exif.get_ifd(ifd)) for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)}
    return {tag: value for tag, value in exif.items() if tag not in inner} | inner


# Names


def test_format_of() -> None:
    names = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".tif": "tiff", ".tiff": "tiff"}
    names |= {".avif": "avif"}
    for suffix, name in names.items():
        assert format_of(Path(f"a.b{suffix}")) == format_of(Path(f"x/A{suffix.upper()}")) == name
    for path in ("a", "png", ".png", "a.gif", "a.png.bak"):
        assert format_of(Path(path)) is None
    assert [format.suffix for format in FORMATS.values()] == [".png", ".jpg", ".webp", ".tif", ".avif"]


# Pixels


@given(
    kind=st.sampled_from([kind for kind in KINDS if kind[0] not in ("jpeg", "avif")]),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 2**32 - 1),
    order=st.sampled_from(ORDERS),
)
@settings(max_examples=150, deadline=None)
def test_lossless_formats_give_the_pixels_back(
    kind: tuple[str, type[np.uint8 | np.uint16], int], size: tuple[int, int], seed: int, order: Literal["<", ">"]
) -> None:
    format, dtype, channels = kind
    pixels = noise(*size, channels, dtype, seed)
    data = encoded(pixels, Metadata(exif=exif_block(order, orientation=1 + seed % 8)), format=format)
    again = decoded(data, channels)
    assert again.dtype == dtype
    np.testing.assert_array_equal(again, pixels)


def test_pillow_opens_what_it_can() -> None:
    for format, dtype, channels in KINDS:
        if readable_by_pillow(format, dtype, channels):
            image = reopened(encoded(noise(9, 7, channels, dtype), format=format))
            assert image.format is not None
            assert image.format.lower() == format
            assert image.size == (7, 9)
            image.load()


@pytest.mark.parametrize("format", ["png", "tiff"])
def test_pillow_gives_the_same_8_bit_pixels(format: str) -> None:
    for channels in (1, 2, 3, 4):
        pixels = noise(30, 50, channels, np.uint8)
        np.testing.assert_array_equal(np.asarray(reopened(encoded(pixels, format=format))), pixels)


def test_pixels_that_are_not_contiguous() -> None:
    pixels = noise(20, 30, 3, np.uint16)[::-2, 1::3]
    for format in ("png", "tiff"):
        np.testing.assert_array_equal(decoded(encoded(pixels, format=format), 3), pixels)


def test_a_tiff_of_many_strips() -> None:
    pixels = noise(700, 501, 3, np.uint16)
    data = encoded(pixels, format="tiff")
    np.testing.assert_array_equal(decoded(data, 3), pixels)


def test_webp_keeps_the_colour_under_full_transparency_and_with_a_quality_the_alpha() -> None:
    pixels = noise(16, 16, 4, np.uint8)
    pixels[4:12, 4:12, 3] = 0
    np.testing.assert_array_equal(np.asarray(reopened(encoded(pixels, format="webp"))), pixels)
    lossy = np.asarray(reopened(encoded(pixels, format="webp", quality=30)))
    np.testing.assert_array_equal(lossy[..., 3], pixels[..., 3])
    assert (lossy[..., :3] != pixels[..., :3]).any()


def test_jpeg_is_quality_95_without_subsampling() -> None:
    pixels = noise(32, 48, 3, np.uint8)
    image, coarse = (reopened(encoded(pixels, format="jpeg", quality=quality)) for quality in (None, 20))
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    assert isinstance(coarse, JpegImagePlugin.JpegImageFile)
    assert JpegImagePlugin.get_sampling(image) == JpegImagePlugin.get_sampling(coarse) == 0  # 4:4:4
    assert image.quantization[0][0] == 2
    assert coarse.quantization[0][0] == 40
    assert np.abs(np.asarray(image).astype(int) - pixels).mean() < 4


# Metadata


@every_kind
@pytest.mark.parametrize("order", ORDERS)
def test_metadata_comes_back(
    format: str, dtype: type[np.uint8 | np.uint16], channels: int, order: Literal["<", ">"]
) -> None:
    exif = exif_block(order, orientation=6, size=(7, 9), thumbnail=thumbnail_jpeg())
    given_metadata = Metadata(exif, ICC, XMP, COMMENT, (300.0, 300.0))
    data = encoded(noise(9, 7, channels, dtype), given_metadata, format=format)
    if not readable_by_pillow(format, dtype, channels):
        by_vips = pyvips.Image.new_from_buffer(data, "")
        assert (by_vips.get("icc-profile-data"), by_vips.get("xmp-data")) == (ICC, XMP)
        assert by_vips.get("orientation") == 6
        return
    image = reopened(data)
    read = Metadata.from_pillow(image)
    assert (read.icc_profile, read.xmp) == (ICC, XMP)
    if format == "tiff":
        expected = Image.Exif()
        expected.load(exif)
        wanted = {tag: value for tag, value in tags(expected).items() if tag not in (0x0100, 0x0101)}
        found = tags(image.getexif())
        assert {tag: found[tag] for tag in wanted} == wanted
        assert found[0x0112] == 6
        assert found[0x010E] == COMMENT.decode()
    else:
        assert read.exif == exif
        assert read.orientation == 6
        assert read.comment == (None if format in ("webp", "avif") else COMMENT)
    assert read.dpi == (None if format in ("webp", "avif") else pytest.approx((300, 300), abs=0.02))


@pytest.mark.parametrize("order", ORDERS)
def test_a_tiff_leaves_the_exif_block_where_its_offsets_are_true(order: Literal["<", ">"]) -> None:
    exif = exif_block(order)
    data = encoded(noise(9, 7, 3, np.uint16), Metadata(exif=exif), format="tiff")
    assert data[:4] == exif[:4]
    assert data[8 : len(exif)] == exif[8:]
    maker_note = reopened(data).getexif().get_ifd(ExifTags.IFD.Exif)[0x927C]
    start, size = struct.unpack(f"{order}II", maker_note[4:])
    assert data[start : start + size] == MAKER_SECRET


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_s_orientation_counts_once(orientation: int) -> None:
    pixels = noise(9, 7, 3, np.uint8)
    data = encoded(pixels, Metadata(exif=exif_block(orientation=orientation)), format="tiff")
    np.testing.assert_array_equal(decoded(data, 3), pixels)
    entries, following = ExifBlock(data).main()
    assert [ExifBlock(data).integer([entry], 0x0112) for entry in entries if entry.tag == 0x0112] == [orientation]
    assert following is not None
    assert ExifBlock(data).offset_at(following) == 0
    upright = np.asarray(reopened(data))  # Pillow turns as it loads
    jpeg = Image.fromarray(np.asarray(pixels))
    jpeg.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(upright, np.asarray(ImageOps.exif_transpose(jpeg)))


def test_a_tiff_keeps_what_its_exif_says_of_resolution_and_description() -> None:
    tagged = Image.Exif()
    tagged[0x010E] = "a view"
    exif = exif_block(resolution=180)
    said = reopened(encoded(noise(3, 3, 1, np.uint8), Metadata(exif=exif, dpi=(72, 72)), format="tiff"))
    assert said.info["dpi"] == (180, 180)
    metadata = Metadata(exif=tagged.tobytes()[6:], comment=b"other")
    assert reopened(encoded(noise(3, 3, 1, np.uint8), metadata, format="tiff")).getexif()[0x010E] == "a view"


@pytest.mark.parametrize("format", ["png", "jpeg"])
@pytest.mark.parametrize("comment", [b"plain", "Grüße".encode(), "Grüße".encode("latin-1"), b"a\0b", b"\xff\xfe\0"])
def test_comments_in_any_encoding_come_back(format: str, comment: bytes) -> None:
    read = Metadata.from_pillow(reopened(encoded(noise(3, 3, 3, np.uint8), Metadata(comment=comment), format=format)))
    assert read.comment == comment


def test_a_png_shows_a_utf8_comment_as_it_was_meant() -> None:
    image = reopened(encoded(noise(3, 3, 3, np.uint8), Metadata(comment="Grüße".encode()), format="png"))
    image.load()
    assert image.info["Comment"] == "Grüße"


@given(
    kind=st.sampled_from([kind for kind in KINDS if kind[0] not in ("tiff", "avif")]),
    exif=st.binary(min_size=1, max_size=50).filter(lambda exif: not exif.startswith(b"Exif\0\0")),
    icc_profile=st.binary(min_size=1, max_size=50),
    xmp=st.binary(min_size=1, max_size=50),
)
@settings(max_examples=60, deadline=None)
def test_any_metadata_bytes_come_back(
    kind: tuple[str, type[np.uint8 | np.uint16], int], exif: bytes, icc_profile: bytes, xmp: bytes
) -> None:
    format, dtype, channels = kind
    metadata = Metadata(exif, icc_profile, xmp)
    assert Metadata.from_pillow(reopened(encoded(noise(2, 3, channels, dtype), metadata, format=format))) == metadata


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about the damage
@given(st.lists(st.tuples(st.integers(0, 250), st.integers(0, 255)), max_size=6), st.sampled_from(ORDERS))
@settings(max_examples=100, deadline=None)
def test_a_tiff_with_damaged_exif_still_opens(damage: list[tuple[int, int]], order: Literal["<", ">"]) -> None:
    exif = bytearray(exif_block(order, orientation=1, thumbnail=thumbnail_jpeg()))
    for position, value in damage:
        exif[position] = value
    metadata = Metadata(exif=bytes(exif))
    pixels = noise(5, 4, 3, np.uint8)
    data = encoded(pixels, metadata, format="tiff")
    np.testing.assert_array_equal(decoded(data, 3), pixels)
    if metadata.orientation == 1:
        np.testing.assert_array_equal(np.asarray(reopened(data)), pixels)


def test_large_metadata_is_split_over_jpeg_segments() -> None:
    metadata = Metadata(exif=exif_block() + bytes(200_000), icc_profile=ICC * 400)
    read = Metadata.from_pillow(reopened(encoded(noise(3, 3, 3, np.uint8), metadata, format="jpeg")))
    assert (read.exif, read.icc_profile) == (metadata.exif, metadata.icc_profile)


@pytest.mark.parametrize(
    ("metadata", "what"),
    [
        (Metadata(xmp=bytes(65_600)), "XMP"),
        (Metadata(comment=bytes(65_600)), "comment"),
        (Metadata(icc_profile=bytes(17_000_000)), "ICC profile"),
    ],
)
def test_metadata_that_no_jpeg_can_hold(metadata: Metadata, what: str) -> None:
    with pytest.raises(OutputError, match=rf"output stream: .*the {what} is too large; choose png, webp or tiff"):
        encoded(noise(3, 3, 3, np.uint8), metadata, format="jpeg")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dpi", [(1e12, 1e12), (1e-9, 1e-9), (0.0, 0.0), (-5.0, 5.0), (float("nan"), 1.0)])
def test_a_resolution_beyond_the_format_is_left_out(format: str, dpi: tuple[float, float]) -> None:
    image = reopened(encoded(noise(3, 3, 3, np.uint8), Metadata(dpi=dpi), format=format))
    assert Metadata.from_pillow(image).dpi is None


def test_nothing_is_written_that_was_not_given() -> None:
    for format, dtype, channels in KINDS:
        if readable_by_pillow(format, dtype, channels):
            assert Metadata.from_pillow(reopened(encoded(noise(3, 3, channels, dtype), format=format))) == Metadata()


# Limits


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (noise(3, 3, 3, np.uint8), {"format": "bmp"}, "unknown format 'bmp'; choose one of png, jpeg, webp, tiff"),
        (noise(3, 3, 4, np.uint8), {"format": "jpeg"}, "jpeg holds no transparency; choose png"),
        (noise(3, 3, 2, np.uint8), {"format": "jpeg"}, "jpeg holds no transparency; choose png"),
        (noise(3, 3, 3, np.uint16), {"format": "jpeg"}, "jpeg holds no 16-bit pixels; choose 8 bits, or png or tiff"),
        (noise(3, 3, 3, np.uint16), {"format": "webp"}, "webp holds no 16-bit pixels; choose 8 bits, or png or tiff"),
        (noise(1, 16384, 1, np.uint8), {"format": "webp"}, "webp ends at 16383 pixels a side, not 16384; choose"),
        (noise(65501, 1, 1, np.uint8), {"format": "jpeg"}, "jpeg ends at 65500 pixels a side, not 65501; choose"),
        (noise(3, 3, 3, np.uint8), {"format": "jpeg", "quality": 0}, "quality must be from 1 to 100, not 0"),
        (noise(3, 3, 3, np.uint8), {"format": "webp", "quality": 101}, "quality must be from 1 to 100, not 101"),
    ],
)
def test_what_a_format_cannot_hold(tmp_path: Path, pixels: Pixels, options: dict[str, Any], message: str) -> None:
    path = tmp_path / "out.img"
    with pytest.raises(OutputError) as caught:
        write_image(path, pixels, Metadata(), **options)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_the_largest_sides_can_be_written() -> None:
    for format, side in (("jpeg", 65500), ("webp", 16383), ("png", 70000), ("tiff", 70000)):
        assert reopened(encoded(noise(1, side, 1, np.uint8), format=format)).size == (side, 1)
    assert decoded(encoded(noise(70000, 1, 3, np.uint16), format="png"), 3).shape == (70000, 1, 3)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 3), np.float32),
        np.zeros((3, 3, 5), np.uint8),
        np.zeros((3, 3, 1), np.uint8),
        np.zeros((0, 3), np.uint8),
        np.zeros(3, np.uint8),
    ],
)
def test_an_array_that_is_no_picture(array: Any) -> None:
    with pytest.raises(ValueError, match="pixels must"):
        encoded(array, format="png")


# Files


PIXELS = noise(4, 5, 3, np.uint8)


def write(path: Path, **options: Any) -> None:
    write_image(path, PIXELS, Metadata(), format="png", **options)


def test_a_file_is_written_alone_with_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        write(tmp_path / "out.png")
    finally:
        os.umask(previous)
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    assert (tmp_path / "out.png").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "out.png").read_bytes() == encoded(PIXELS, format="png")


def test_a_name_as_long_as_names_can_be(tmp_path: Path) -> None:
    write(tmp_path / ("x" * 251 + ".png"))
    with pytest.raises(OutputError, match=r"cannot be written \("):
        write(tmp_path / ("x" * 252 + ".png"))


def test_an_existing_file_stays_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(b"mine")
    message = f"{path}: exists already; pass overwrite=True to replace it"
    with pytest.raises(OutputError) as caught:
        write(path)
    assert str(caught.value) == message
    # The same if it comes into being while the picture is encoded.
    monkeypatch.setattr("unjpeg.output.check_target", lambda path, overwrite: None)
    with pytest.raises(OutputError) as caught:
        write(path)
    assert str(caught.value) == message
    assert path.read_bytes() == b"mine"
    write(path, overwrite=True)
    assert path.read_bytes() == encoded(PIXELS, format="png")
    assert list(tmp_path.iterdir()) == [path]


def test_a_dangling_link_counts_as_existing(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="exists already"):
        write(path)
    assert path.is_symlink()


def no_links(source: object, target: object, **options: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "out.png"
    write(path)
    assert path.read_bytes() == encoded(PIXELS, format="png")
    monkeypatch.setattr("unjpeg.output.check_target", lambda path, overwrite: None)
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        write(path)
    assert path.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [path]


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*args: object, **options: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("step", ["fsync", "rename"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_a_failure_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool, step: str, error: BaseException
) -> None:
    path = tmp_path / "out.png"
    if overwrite:
        path.write_bytes(b"mine")
    if step == "rename":
        monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(os, "fsync" if step == "fsync" else "replace", raising(error))
    with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        write(path, overwrite=overwrite)
    if isinstance(error, OSError):
        assert str(caught.value) == f"{path}: cannot be written (No space left on device)"
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("out.png", b"mine")] * overwrite


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    before = sorted(tmp_path.iterdir())
    for name, reason in (
        ("missing/out.png", "No such file or directory"),
        ("file/out.png", "Not a directory"),
        ("folder.png", "Is a directory"),
        ("pipe.png", "Not a regular file"),
    ):
        with pytest.raises(OutputError) as caught:
            write(tmp_path / name, overwrite=True)
        assert str(caught.value) == f"{tmp_path / name}: cannot be written ({reason})"
    assert sorted(tmp_path.iterdir()) == before


def test_a_picture_that_cannot_be_encoded_touches_no_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jpg"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"out\.jpg: cannot be written as jpeg \(the XMP is too large"):
        write_image(path, PIXELS, Metadata(xmp=bytes(70_000)), format="jpeg", overwrite=True)
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("out.jpg", b"mine")]


class _Stream(io.BytesIO):
    def __init__(self, error: OSError | None = None) -> None:
        super().__init__()
        self.error = error
        self.writes: list[int] = []

    def write(self, data: Any) -> int:
        if self.error:
            raise self.error
        self.writes.append(len(data))
        return super().write(data)


def test_a_stream_gets_everything_at_once_or_the_reason() -> None:
    stream = _Stream()
    write_image(stream, PIXELS, Metadata(), format="tiff")
    assert stream.writes == [len(stream.getvalue())]
    with pytest.raises(OutputError, match=r"^output stream: cannot be written \(Broken pipe\)$"):
        write_image(_Stream(BrokenPipeError(errno.EPIPE, "Broken pipe")), PIXELS, Metadata(), format="png")
    empty = _Stream()
    with pytest.raises(OutputError):
        write_image(empty, noise(3, 3, 4, np.uint8), Metadata(), format="jpeg")
    assert empty.writes == []


def test_exif_that_is_none_is_said_to_be_lost_in_a_tiff() -> None:
    assert list_without_place(Metadata(exif=b"no EXIF"), "tiff") == ("its EXIF, which is damaged,",)
    assert list_without_place(Metadata(exif=b"no EXIF"), "png") == ()
