"""What came before: made here, so that the truth is known."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from unjpeg.history import History, read_history
from unjpeg.jpeg import JpegImage
from unjpeg.tables import standard_table

Pixels = NDArray[np.uint8]


@cache
def photograph(height: int = 320, width: int = 384, seed: int = 1) -> Pixels:
    """Something like one: soft shapes of all sizes, edges, grain."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]) + 1 / max(height, width)
    planes = []
    for _ in range(3):
        noise = np.fft.fft2(rng.normal(size=(height, width)))
        plane = np.fft.ifft2(noise / frequency**1.3).real
        planes.append(plane / plane.std())
    mixed = np.stack([planes[0], 0.8 * planes[0] + 0.4 * planes[1], 0.8 * planes[0] + 0.4 * planes[2]], axis=2)
    rows, columns = np.mgrid[:height, :width]
    mixed[(rows - 120) ** 2 + (columns - 200) ** 2 < 60**2] += 1.0
    out = 128 + 32 * mixed + rng.normal(scale=2.0, size=mixed.shape)
    return np.clip(out, 8, 247).astype(np.uint8)


def jpeg(pixels: Pixels, quality: int, subsampling: int = 2, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling=subsampling, **options)
    return stream.getvalue()


def decoded(pixels: Pixels, quality: int, subsampling: int = 2, **options: object) -> Pixels:
    return JpegImage.decode(jpeg(pixels, quality, subsampling, **options)).pixels


def of_file(data: bytes) -> History:
    image = JpegImage.decode(data)
    return read_history(image.pixels, image)


@pytest.mark.parametrize("quality", [10, 30, 60, 90])
@pytest.mark.parametrize("crop", [(0, 0), (3, 5), (12, 9)])
def test_png_of_a_jpeg(quality: int, crop: tuple[int, int]) -> None:
    history = read_history(decoded(photograph(), quality)[crop[0] :, crop[1] :])
    assert history.verdict == "compressed"
    assert history.covers_all
    (region,) = history.regions
    earlier = region.earlier
    assert (earlier.top, earlier.left) == (-crop[0] % 16, -crop[1] % 16)
    assert earlier.quality == quality
    assert earlier.is_standard
    assert earlier.is_proven
    assert (earlier.chroma_scale, earlier.upsampling) == ((2, 2), "triangle")
    assert np.array_equal(earlier.luma_88, standard_table(quality))
    assert earlier.chroma_88 is not None
    assert np.array_equal(earlier.chroma_88, standard_table(quality, chroma=True))


@pytest.mark.parametrize(("subsampling", "scale"), [(0, (1, 1)), (1, (1, 2))])
def test_chroma_sampling(subsampling: int, scale: tuple[int, int]) -> None:
    (region,) = read_history(decoded(photograph(), 50, subsampling)[3:, 5:]).regions
    assert region.earlier.chroma_scale == scale


def test_grey() -> None:
    (region,) = read_history(decoded(photograph()[..., 0], 40)[2:, 2:]).regions
    assert region.earlier.quality == 40
    assert region.earlier.chroma_88 is None


def test_turned() -> None:
    (region,) = read_history(np.ascontiguousarray(np.rot90(decoded(photograph(), 60))[3:, 2:])).regions
    assert region.earlier.is_transposed
    assert np.array_equal(region.earlier.luma_88, standard_table(60).T)


def test_mirrored() -> None:
    pixels = decoded(photograph(), 60)[:, :-5]
    (region,) = read_history(np.ascontiguousarray(pixels[:, ::-1])).regions
    assert region.earlier.left == pixels.shape[1] % 16
    assert not region.earlier.is_transposed


def test_own_table() -> None:
    table = np.clip(np.rint(standard_table(60) ** 0.8 * 1.5), 1, 255).astype(int)
    image = JpegImage.decode(jpeg(photograph(), 60, qtables=[table.ravel().tolist()] * 2))
    (region,) = read_history(image.pixels[5:, 3:]).regions
    table = image.tables[0].astype(int)  # Pillow scales what it is given
    known = region.earlier.known_88
    assert not region.earlier.is_standard
    assert known.sum() > 10
    assert (region.earlier.luma_88[known] == table[known]).mean() > 0.9


@pytest.mark.parametrize(("first", "second"), [(10, 30), (20, 90), (30, 90), (60, 90)])
def test_twice_on_shifted_grids(first: int, second: int) -> None:
    history = of_file(jpeg(decoded(photograph(), first)[4:, 4:], second))
    (region,) = history.regions
    assert (region.earlier.top % 8, region.earlier.left % 8) == (4, 4)
    assert region.earlier.quality == first
    assert not region.earlier.is_same_grid


@pytest.mark.parametrize("crop", [(1, 6), (7, 7), (1, 0), (0, 3)])
@pytest.mark.parametrize(("first", "second"), [(10, 30), (10, 75), (20, 90)])
def test_twice_on_grids_beside_each_other(crop: tuple[int, int], first: int, second: int) -> None:
    (region,) = of_file(jpeg(decoded(photograph(), first)[crop[0] :, crop[1] :], second)).regions
    assert (region.earlier.top % 8, region.earlier.left % 8) == (-crop[0] % 8, -crop[1] % 8)
    assert region.earlier.quality == first
    assert not region.earlier.is_same_grid


@pytest.mark.parametrize(("first", "second"), [(10, 30), (30, 50), (20, 90), (75, 90)])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_twice_on_one_grid(first: int, second: int, subsampling: int) -> None:
    (region,) = of_file(jpeg(decoded(photograph(), first, subsampling), second, subsampling)).regions
    assert region.earlier.is_same_grid
    assert region.earlier.quality == first


@pytest.mark.parametrize("quality", [5, 20, 50, 75, 90, 98])
def test_single_jpegs_have_no_history(quality: int) -> None:
    assert not of_file(jpeg(photograph(), quality)).regions


@pytest.mark.parametrize("step", [1, 10, 40])
def test_flat_tables_are_no_history(step: int) -> None:
    assert not of_file(jpeg(photograph(), 50, qtables=[[step] * 64] * 2)).regions


def drawings() -> list[Pixels]:
    rows, columns = np.mgrid[:256, :256]
    rng = np.random.default_rng(3)
    checks = [((rows // size + columns // size) % 2 * 255).astype(np.uint8) for size in (1, 4, 5, 8)]
    code = np.kron(rng.integers(0, 2, (32, 32)), np.full((8, 8), 255)).astype(np.uint8)
    art = np.kron(rng.integers(0, 256, (12, 3))[rng.integers(0, 12, (40, 40))].transpose(2, 0, 1), np.ones((8, 8)))
    ruled = np.full((256, 256, 3), 250, np.uint8)
    ruled[::16], ruled[:, ::64] = (120, 120, 200), (200, 120, 120)
    dither = ((columns + rng.integers(0, 256, rows.shape)) > 255).astype(np.uint8) * 255
    flat = np.full((256, 256, 3), 77, np.uint8)
    return [*checks, code, art.transpose(1, 2, 0).astype(np.uint8), ruled, dither, flat]


def test_drawings_have_no_history() -> None:
    for drawing in drawings():
        assert not read_history(drawing).regions
        assert not of_file(jpeg(drawing, 60)).regions


def squares(size: int, seed: int) -> Pixels:
    """A few colours in squares, placed so that a grid half a block off is the picture's own."""
    rng = np.random.default_rng(seed)
    count = 192 // size
    art = rng.integers(0, 256, (10, 3))[rng.integers(0, 10, (count, count)) * (rng.random((count, count)) < 0.4)]
    return np.kron(art.transpose(2, 0, 1), np.ones((size, size))).transpose(1, 2, 0).astype(np.uint8)


@pytest.mark.parametrize("quality", [30, 70, 95, 98])
def test_squares_of_a_drawing_are_no_grid(quality: int) -> None:
    for size, seed in ((2, 1), (4, 2), (4, 3), (8, 4)):
        for tables in ({}, {"qtables": [[16] * 64] * 2}):
            assert not of_file(jpeg(squares(size, seed), quality, 0, **tables)).regions


def test_of_a_drawing_compressed_twice_the_first_is_found() -> None:
    for size, seed in ((3, 1), (5, 2), (7, 3)):
        (region,) = of_file(jpeg(decoded(squares(size, seed), 20)[3:, 5:], 90)).regions
        assert (region.earlier.top % 8, region.earlier.left % 8, region.earlier.quality) == (5, 3, 20)


def test_a_gradient_that_repeats_has_no_table_of_its_own() -> None:
    rows, columns = np.mgrid[:256, :256]
    for across, down in ((7, 6), (8, 6), (5, 4)):
        sawtooth = (columns * across // 4 + rows * down // 3) % 256
        assert not read_history(np.stack([sawtooth] * 3, axis=2).astype(np.uint8)).regions


def test_a_clean_drawing_is_clean() -> None:
    for drawing in drawings()[1:7]:
        assert read_history(drawing).verdict == "clean"


def smooth_drawings() -> list[Pixels]:
    """Gradients, flat, and shapes with soft edges on a gradient."""
    rows, columns = np.mgrid[:256, :256]
    gradient = np.stack([rows / 2 + 40, columns / 3 + 60, (rows + columns) / 4 + 30], axis=2)
    shapes = gradient.copy()
    for row, column, reach in ((80, 90, 50), (170, 180, 40)):
        cover = np.clip(reach - np.hypot(rows - row, columns - column) + 0.5, 0, 1)[..., None]
        shapes += cover * (np.array([220, 30, 90]) - shapes)
    dots = np.where((rows * 7 + columns * 3) % 11 < 4, 0, 255)
    return [np.rint(one).astype(np.uint8) for one in (gradient, gradient[..., 0], shapes, np.full((96, 96), 90), dots)]


def test_what_is_exactly_smooth_is_clean() -> None:
    for drawing in smooth_drawings():
        assert read_history(drawing).verdict == "clean"


@pytest.mark.parametrize(("codec", "quality"), [("WEBP", 50), ("WEBP", 90), ("JPEG", 50), ("JPEG", 90)])
@pytest.mark.parametrize("scale", [0.75, 1.0, 1.25])
def test_smooth_drawings_of_a_codec_are_not_clean(codec: str, quality: int, scale: float) -> None:
    stream = io.BytesIO()
    Image.fromarray(smooth_drawings()[2]).save(stream, codec, quality=quality)
    picture = Image.open(stream).convert("RGB")
    size = (round(picture.width * scale), round(picture.height * scale))
    assert read_history(np.asarray(picture.resize(size, Image.Resampling.BICUBIC))).verdict != "clean"


def waves() -> list[Pixels]:
    """Waves, rings, a zone plate and a weave: nothing in them is flat, and nothing is noise."""
    rows, columns = np.mgrid[:320, :360].astype(np.float64)
    along, square = 0.31 * rows + 0.17 * columns, np.square(rows - 150) + np.square(columns - 170)
    values = [np.sin(along), np.cos(np.sqrt(square) / 3), np.cos(square / 190), np.sin(rows / 2) * np.sin(columns / 3)]
    colours = np.array([[30, 60, 110], [220, 170, 140]])
    return [
        np.rint(colours[0] + (value[..., None] + 1) / 2 * (colours[1] - colours[0])).astype(np.uint8)
        for value in values
    ]


def test_waves_are_clean() -> None:
    for pattern in waves():
        assert read_history(pattern).verdict == "clean"


@pytest.mark.parametrize("scale", [0.8, 1.25])
def test_waves_of_a_scaled_jpeg_are_rarely_clean(scale: float) -> None:
    """Most are told; the documentation says that not all are."""
    verdicts = []
    for pattern in waves():
        picture = Image.fromarray(decoded(pattern, 30))
        size = (round(picture.width * scale), round(picture.height * scale))
        verdicts.append(read_history(np.asarray(picture.resize(size, Image.Resampling.BICUBIC))).verdict)
    assert verdicts.count("clean") <= 1


def test_a_photograph_with_grain_was_not_compressed() -> None:
    assert not read_history(photograph()).regions


def test_scaled_afterwards_is_not_clean() -> None:
    for quality in (20, 50):
        picture = Image.fromarray(decoded(photograph(), quality))
        for scale in (0.75, 1.3):
            size = (round(picture.width * scale), round(picture.height * scale))
            assert read_history(np.asarray(picture.resize(size, Image.Resampling.LANCZOS))).verdict == "undecided"


def test_two_photographs_on_a_page() -> None:
    page = np.full((640, 800, 3), 250, np.uint8)
    letters = np.random.default_rng(5).random((640, 800)) < 0.4
    letters &= np.arange(640)[:, None] % 20 < 8
    page[letters] = 30
    page[37:317, 21:381] = decoded(photograph(), 20)[3:283, 4:364]
    page[340:620, 410:770] = decoded(photograph(seed=2), 60)[10:290, 5:365]
    history = read_history(page)
    assert history.verdict == "compressed"
    assert not history.covers_all
    found = {region.earlier.quality: region for region in history.regions}
    assert set(found) == {20, 60}
    for quality, (top, left), origin in ((20, (37, 21), (3, 4)), (60, (340, 410), (10, 5))):
        region = found[quality]
        assert (region.earlier.top, region.earlier.left) == ((top - origin[0]) % 16, (left - origin[1]) % 16)
        assert abs(region.top - top) <= 24
        assert abs(region.left - left) <= 24
        assert abs(region.height - 280) <= 48
        assert abs(region.width - 360) <= 48


def test_small_pictures() -> None:
    assert read_history(photograph()[:63, :200]).verdict == "undecided"
    (region,) = read_history(decoded(photograph(), 30)[100:164, 100:164]).regions
    assert region.earlier.quality == 30


@pytest.mark.parametrize("side", [48, 63])
def test_icons_are_clean_until_they_are_compressed(side: int) -> None:
    """Soft edges, and flat up to them, at a size at which no grid is looked for."""
    rows, columns = np.mgrid[:side, :side]
    cover = np.clip(side / 2.6 - np.hypot(rows - side / 2 + 0.3, columns - side / 2) + 0.5, 0, 1)[..., None]
    icon = np.rint(240 + cover * (np.array([30, 90, 200]) - 240)).astype(np.uint8)
    assert read_history(icon).verdict == "clean"
    for quality in (10, 30, 60, 90):
        assert read_history(decoded(icon, quality)).verdict == "undecided"


def comic(side: int = 160, shapes: int = 14) -> Pixels:
    """Flat colours between black and white ink: hardly a block that does not clip."""
    rng = np.random.default_rng(8)
    rows, columns = np.mgrid[:side, :side]
    out = np.full((side, side, 3), 255, np.uint8)
    for row, column, size in rng.integers(10, side - 10, (shapes, 3)):
        distance = np.hypot(rows - row, columns - column) - size / 4
        out[distance < 0] = rng.integers(0, 256, 3)
        out[np.abs(distance) < 2] = 0
    return out


@pytest.mark.parametrize("quality", [10, 40, 75, 95, 98])
@pytest.mark.parametrize("side", [160, 320])
def test_a_screenshot_of_a_comic_is_not_clean(side: int, quality: int) -> None:
    assert read_history(comic(side)).verdict == "clean"
    history = read_history(decoded(comic(side), quality)[3:, 5:])
    assert history.verdict != "clean"
    for region in history.regions:
        assert (region.earlier.top % 8, region.earlier.left % 8) == (5, 3)


def test_the_same_each_time() -> None:
    pixels = decoded(photograph(), 40)[1:, 6:]
    first, second = (read_history(pixels).regions[0].earlier for _ in range(2))
    assert first.evidence == second.evidence


@pytest.mark.parametrize(("left", "right"), [(20, 50), (75, 30), (30, None)])
def test_photographs_side_by_side_on_one_grid(left: int, right: int | None) -> None:
    """The second may fit much of the first's table, or was never compressed: each stays by itself."""
    pixels = [photograph(height=256, width=320), photograph(height=256, width=320, seed=2)]
    parts = [
        one if quality is None else decoded(one, quality) for one, quality in zip(pixels, (left, right), strict=True)
    ]
    history = read_history(np.concatenate(parts, axis=1))
    found = {region.earlier.quality: region for region in history.regions}
    assert set(found) == {left, right} - {None}
    for quality, region in found.items():
        start = 0 if quality == left else 320
        assert abs(region.left - start) <= 32
        assert abs(region.width - 320) <= 32
    assert history.covers_all == (right is not None)
