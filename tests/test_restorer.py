from __future__ import annotations

import copy
import io
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import unjpeg
from jpegs import SAMPLINGS, beyond_cells, decoded, encoded, opened, picture, saved
from restorers import Pixels, difference, network_of, with_tiling
from unjpeg.belief import load_judges, measure_caution
from unjpeg.errors import BadImageError, ModelError, OutputError
from unjpeg.modelfile import MAX_GUIDE_WINDOWS
from unjpeg.network import Guidance, Model
from unjpeg.picture import NamedBytes, read_picture
from unjpeg.precision import Choice
from unjpeg.projection import Calibration, Trust, project
from unjpeg.restorer import Restored, Restorer
from unjpeg.tables import standard_table, stated_features

# Strength


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_strength_0_is_the_decoded_picture_and_runs_no_network(
    sampling: str, tiny_model: Path, no_network: None
) -> None:
    data = encoded(picture(37, 50), sampling, quality=20)
    result = Restorer(tiny_model).restore(data, strength=0, consistency="strict")
    np.testing.assert_array_equal(result.pixels, decoded(data))
    assert result.pixels.dtype == np.uint8
    report = result.report
    assert (report.model, report.model_hash, report.read_quality, report.guided_quality) == (None,) * 4
    assert (report.stated_quality, report.projected, report.strength) == (20, False, 0)
    deep = Restorer(tiny_model).restore(data, strength=0, bit_depth=16).pixels
    np.testing.assert_array_equal(deep, decoded(data).astype(np.uint16) * 257)


def test_strength_0_leaves_every_other_picture_alone(tiny_model: Path, no_network: None) -> None:
    restorer = Restorer(tiny_model)
    for channels in ("L", "LA", "RGB", "RGBA"):
        image = Image.fromarray(picture(20, 30)).convert(channels)
        np.testing.assert_array_equal(restorer.restore(image, strength=0).pixels, np.asarray(image))


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("options", [{}, {"strength": 0.3}, {"strength": 0}, {"consistency": "off", "bit_depth": 16}])
def test_finishing_a_network_s_output_is_restoring(
    options: dict[str, Any], tta: bool, lively_restorer: Restorer
) -> None:
    data = encoded(picture(1000, 40), quality=20)  # two strips
    output = lively_restorer.run_network(read_picture(data), quality=30, tta=tta)
    expected = lively_restorer.restore(data, quality=30, tta=tta, **options)
    for _ in range(2):  # the first leaves the output as it was
        finished = lively_restorer.finish(output, **options)
        np.testing.assert_array_equal(finished.pixels, expected.pixels)
        assert finished.report == expected.report
    with pytest.raises(ValueError, match="strength"):
        lively_restorer.finish(output, strength=2)


def test_strength_mixes(lively_restorer: Restorer) -> None:
    data = encoded(picture(64, 64), quality=10)
    full, half = (
        lively_restorer.restore(data, strength=s, consistency="off", bit_depth=16).pixels.astype(float)
        for s in (1, 0.5)
    )
    start = decoded(data).astype(float) * 257
    assert np.abs(full - start).max() > 257
    inside = (full > 0) & (full < 65535)  # what is clipped was mixed before
    assert np.abs(half - (start + full) / 2)[inside].max() <= 1


@pytest.mark.parametrize(
    "options",
    [
        {"strength": -0.1},
        {"strength": 1.1},
        {"strength": float("nan")},
        {"quality": 0},
        {"quality": 101},
        {"quality": 50.5},
        {"consistency": "maybe"},
        {"bit_depth": 10},
    ],
)
def test_options_out_of_range(options: dict[str, Any], tiny_restorer: Restorer, no_network: None) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must"):
        tiny_restorer.restore(picture(8, 8), **options)


# Calibration


@pytest.fixture(scope="module")
def calibrated(lively_restorer: Restorer) -> Restorer:
    """The lively network, followed half-way in luma and not at all in chroma, less at higher quality."""
    restorer = network_of(lively_restorer, lambda tile: tile)
    restorer._network = lively_restorer.network
    shares = np.zeros((2, 2, 2, 2, 8, 8), np.float32)
    shares[:, :, 0] = np.array([0.5, 0.1], np.float32)[:, None, None, None, None]
    restorer.model_file = lively_restorer.model_file.calibrated(Calibration((20, 100), shares))
    return restorer


@pytest.mark.parametrize("core", [96, 1 << 20])
@pytest.mark.parametrize("quality", [20, 60])
def test_a_calibrated_model_is_followed_as_far_as_it_is_to_be_trusted(
    calibrated: Restorer, lively_restorer: Restorer, core: int, quality: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrated = with_tiling(calibrated, core, 16)
    lively_restorer = with_tiling(lively_restorer, core, 16)
    data = encoded(picture(150, 203), quality=quality)
    output = lively_restorer.run_network(read_picture(data))
    jpeg = output.picture.jpeg
    assert jpeg is not None
    assert calibrated.model_file.calibration is not None
    shares = calibrated.model_file.calibration.at(quality, jpeg.components)
    trust = Trust(jpeg.pixels, shares, load_judges(), measure_caution(quality))
    expected = project(output.layers[0], jpeg.components, jpeg.header.colour_space, trust=trust)
    result = calibrated.restore(data, consistency="strict", bit_depth=16).pixels
    assert difference(result, np.rint(np.clip(expected, 0, 255) * 257).astype(np.uint16)) < 0.02
    assert difference(result, lively_restorer.restore(data, consistency="strict", bit_depth=16).pixels) > 1


def test_what_a_calibrated_model_makes_is_consistent(calibrated: Restorer, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(picture(40, 72, low=40, high=215), quality=30))
    calibrated.restore(tmp_path / "a.jpg", consistency="strict", bit_depth=16).save(tmp_path / "a.png")
    assert unjpeg.verify(tmp_path / "a.jpg", tmp_path / "a.png").is_consistent


def test_without_cells_a_calibration_says_nothing(calibrated: Restorer, lively_restorer: Restorer) -> None:
    data, blind = encoded(picture(40, 72), quality=30), picture(40, 72)
    for source, policy in ((data, "off"), (blind, "auto")):
        options: dict[str, Any] = {"consistency": policy, "bit_depth": 16}
        one, other = (r.restore(source, **options).pixels for r in (calibrated, lively_restorer))
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(calibrated.restore(data, strength=0).pixels, decoded(data))


# What comes out


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    sampling=st.sampled_from(SAMPLINGS),
    quality=st.integers(1, 100),
    bit_depth=st.sampled_from([8, 16]),
)
@settings(max_examples=30, deadline=None)
def test_any_size_and_sampling(
    lively_restorer: Restorer, size: tuple[int, int], sampling: str, quality: int, bit_depth: Literal[8, 16]
) -> None:
    data = encoded(picture(*size, quality), sampling, quality=quality)
    result = lively_restorer.restore(data, consistency="strict", bit_depth=bit_depth)
    assert result.pixels.shape == (size if sampling == "grey" else (*size, 3))
    assert result.pixels.dtype == (np.uint8 if bit_depth == 8 else np.uint16)
    assert (result.report.height, result.report.width) == size
    assert (result.report.projected, result.report.strength) == (True, 1.0)
    consistency = unjpeg.verify(data, result.pixels).consistency
    assert consistency.share_inside == 1.0
    assert consistency.is_consistent == consistency.can_tell


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (40, 5), (32, 32), (32, 4000), (4000, 32), (33, 70), (700, 900)])
def test_guidance_is_taken_from_a_bounded_number_of_windows(
    size: tuple[int, int], tiny_restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut out where blocks begin, from end to end of the picture."""
    taken: list[NDArray[np.float32]] = []
    plain = Model.guide

    def recorded(self: Model, windows: NDArray[np.float32], stated: NDArray[np.float32] | None = None) -> Guidance:
        taken.append(windows)
        return plain(self, windows[:1], stated)

    monkeypatch.setattr(Model, "guide", recorded)
    y, x = np.mgrid[: size[0], : size[1]]
    places = np.dstack([y // 16, x // 16, y * 0]).astype(np.uint8)
    tiny_restorer.guide(read_picture(places))
    (windows,) = taken
    side = tiny_restorer.model.guide_window
    fewer = copy.copy(tiny_restorer)  # a model file may ask for fewer
    fewer.model_file = replace(fewer.model_file, description=replace(fewer.model_file.description, guide_windows=5))
    fewer.guide(read_picture(places))
    assert 1 <= len(taken.pop()) <= 5
    assert windows.shape[1:] == (3, side, side)
    needed = -(-size[0] // side) * -(-size[1] // side)
    assert min(needed, MAX_GUIDE_WINDOWS) / 2 <= len(windows) <= MAX_GUIDE_WINDOWS
    rows, columns = (np.unique(np.rint(windows[:, i, 0, 0] * 255)) for i in (0, 1))
    for starts, length in ((rows, size[0]), (columns, size[1])):
        if len(starts) > 1:
            assert starts[0] == 0
            assert starts[-1] == (length - side) // 16
    if min(size) >= side:
        inside = np.rint(windows[0, :2] * 255)
        np.testing.assert_array_equal(inside[0, 15], inside[0, 0])  # a block of 16 begins with the window
        np.testing.assert_array_equal(inside[1, :, 15], inside[1, :, 0])


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (7, 9), (8, 8), (31, 33)])
def test_extreme_shapes(tiny_restorer: Restorer, size: tuple[int, int]) -> None:
    assert tiny_restorer.restore(picture(*size)).pixels.shape == (*size, 3)


def test_sixteen_bits_hold_more_than_eight(lively_restorer: Restorer, kitten: Path) -> None:
    crop = encoded(np.asarray(Image.open(kitten))[:96, :96], quality=12)
    deep = lively_restorer.restore(crop, bit_depth=16).pixels
    plain = lively_restorer.restore(crop).pixels
    assert np.abs(deep / 257 - plain).max() <= 0.5 + 1e-6
    assert len(np.unique(deep % 257)) > 100


def test_strict_is_consistent_and_off_is_not(lively_restorer: Restorer) -> None:
    data = encoded(picture(96, 96, 3, low=50, high=200), quality=30)
    jpeg = read_picture(data).jpeg
    assert jpeg is not None
    for consistency in ("auto", "strict", "off"):
        result = lively_restorer.restore(data, consistency=consistency, bit_depth=16)
        inside = max(float(part.max()) for part in beyond_cells(result.pixels / 257, jpeg.components)) < 0.05
        assert result.report.projected == inside == (consistency != "off")
        assert unjpeg.verify(data, result.pixels).is_consistent == inside
        assert unjpeg.verify(data, saved_png(result)).is_consistent == inside


def saved_png(result: Restored) -> bytes:
    stream = io.BytesIO()
    result.save(stream)
    return stream.getvalue()


def test_what_the_network_reads_moves_no_cells(tiny_restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawings look worse to it than they are: only the pixels' own history takes a file's word away."""
    data = encoded(picture(32, 32), quality=92)
    plain = Model.guide

    def misled(self: Model, windows: NDArray[np.float32], stated: NDArray[np.float32] | None = None) -> Guidance:
        return replace(plain(self, windows, stated), quality_probabilities=np.eye(100, dtype=np.float32)[19])

    monkeypatch.setattr(Model, "guide", misled)  # the pixels look like quality 20
    report = tiny_restorer.restore(data).report
    assert report.projected
    assert report.read_quality == report.guided_quality == 20
    assert report.notes == ()
    assert unjpeg.verify(data, tiny_restorer.restore(data).pixels).is_consistent


def test_quality_shifts_the_guidance(tiny_restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    given_to_network: list[Guidance] = []
    plain = Model.restore

    def recorded(self: Model, tile: NDArray[np.float32], guidance: Guidance) -> NDArray[np.float32]:
        given_to_network.append(guidance)
        return plain(self, tile, guidance)

    monkeypatch.setattr(Model, "restore", recorded)
    source = picture(32, 32)
    reports = [tiny_restorer.restore(source, quality=quality).report for quality in (None, 10, 90)]
    unshifted, low, high = given_to_network
    read = reports[0].read_quality
    assert read is not None
    assert [report.read_quality for report in reports] == [read] * 3
    assert [report.guided_quality for report in reports] == [read, 10, 90]
    for shifted in (low, high):
        np.testing.assert_array_equal(shifted.insensitive, unshifted.insensitive)
        np.testing.assert_array_equal(shifted.fusion, unshifted.fusion)
    features = tiny_restorer.model_file.quality_features
    levels = tiny_restorer.model_file.description.quality_levels
    np.testing.assert_allclose(
        (low.sensitive - high.sensitive)[0], features[levels.index(10)] - features[levels.index(90)], atol=1e-5
    )
    same = tiny_restorer.model.shifted(unshifted, unshifted.quality)
    np.testing.assert_array_equal(same.sensitive, unshifted.sensitive)


@pytest.mark.parametrize("sampling", ["4:2:0", "4:2:2", "4:4:4", "grey"])
def test_the_guidance_has_what_the_file_states(tiny_restorer: Restorer, sampling: str) -> None:
    image, buffer = Image.fromarray(picture(40, 40)), io.BytesIO()
    if sampling == "grey":
        image.convert("L").save(buffer, "JPEG", quality=30)
    else:
        image.save(buffer, "JPEG", quality=30, subsampling=sampling)
    guidance = tiny_restorer.guide(read_picture(buffer.getvalue()))
    luma, chroma = standard_table(30), standard_table(30, chroma=True)
    scale = {"4:2:0": (2, 2), "4:2:2": (1, 2), "4:4:4": (1, 1)}
    expected = stated_features(luma, None) if sampling == "grey" else stated_features(luma, chroma, scale[sampling])
    np.testing.assert_array_equal(guidance.stated[0], expected)
    shifted = tiny_restorer.model.shifted(guidance, 70).stated[0]
    luma, chroma = standard_table(70), standard_table(70, chroma=True)
    as_70 = stated_features(luma, None) if sampling == "grey" else stated_features(luma, chroma, scale[sampling])
    np.testing.assert_array_equal(shifted, as_70)


@pytest.mark.parametrize("read", [20, 90, 91, 99])
@pytest.mark.parametrize("kind", ["colour", "grey"])
def test_what_no_file_says_is_read_from_the_pixels_within_reason(
    tiny_restorer: Restorer, kind: str, read: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Model.guide

    def misled(self: Model, windows: NDArray[np.float32], stated: NDArray[np.float32] | None = None) -> Guidance:
        return replace(plain(self, windows, stated), quality_probabilities=np.eye(100, dtype=np.float32)[read - 1])

    def tables(quality: int) -> NDArray[np.float32]:
        chroma = None if kind == "grey" else standard_table(quality, chroma=True)
        return stated_features(standard_table(quality), chroma, (2, 2))

    monkeypatch.setattr(Model, "guide", misled)
    pixels = picture(40, 40)
    source = pixels if kind == "colour" else pixels[..., 0]
    stated = tiny_restorer.guide(read_picture(source)).stated[0]
    np.testing.assert_array_equal(stated, tables(min(read, 90)))
    seen: list[NDArray[np.float32]] = []
    restore = Model.restore

    def recorded(self: Model, tile: NDArray[np.float32], guidance: Guidance) -> NDArray[np.float32]:
        seen.append(guidance.stated[0])
        return restore(self, tile, guidance)

    monkeypatch.setattr(Model, "restore", recorded)
    tiny_restorer.restore(source, quality=40)
    np.testing.assert_array_equal(seen[0], tables(40))


def test_turned_tiles_have_turned_tables(tiny_restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    plain = Model.restore

    def recorded(self: Model, tile: NDArray[np.float32], guidance: Guidance) -> NDArray[np.float32]:
        seen.append(guidance.stated.tobytes())
        return plain(self, tile, guidance)

    monkeypatch.setattr(Model, "restore", recorded)
    data = encoded(picture(40, 40), "4:2:2", quality=30)
    tiny_restorer.restore(data, tta=True)
    stated = tiny_restorer.guide(read_picture(data))
    turned = stated.transposed().stated.tobytes()
    assert turned != stated.stated.tobytes()
    assert seen == [stated.stated.tobytes(), turned] * 4


@pytest.mark.parametrize("quality", [1, 5, 7, 33, 100])
def test_qualities_between_and_beyond_the_levels(tiny_restorer: Restorer, quality: int) -> None:
    guidance = tiny_restorer.guide(read_picture(picture(32, 32)))
    shifted = tiny_restorer.model.shifted(guidance, quality)
    assert np.isfinite(shifted.sensitive).all()
    looks_so = replace(shifted, quality_probabilities=np.eye(100, dtype=np.float32)[quality - 1])
    back = tiny_restorer.model.shifted(looks_so, guidance.quality)
    np.testing.assert_allclose(back.sensitive, guidance.sensitive, atol=1e-5)


def test_grey_stays_grey_and_colour_colour(lively_restorer: Restorer) -> None:
    grey = picture(40, 40)[..., 0]
    assert lively_restorer.restore(saved(grey)).pixels.shape == (40, 40)
    assert lively_restorer.restore(grey).pixels.shape == (40, 40)
    assert lively_restorer.restore(grey[..., None]).pixels.shape == (40, 40)
    assert lively_restorer.restore(np.dstack([grey] * 3)).pixels.shape == (40, 40, 3)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("bit_depth", [8, 16])
def test_alpha_is_kept(lively_restorer: Restorer, mode: str, bit_depth: Literal[8, 16]) -> None:
    image = Image.fromarray(picture(40, 40)).convert(mode)
    alpha = picture(40, 40, 9)[..., 0]
    image.putalpha(Image.fromarray(alpha))
    with_alpha = np.asarray(image)
    for source in (with_alpha, image, saved(image, "PNG"), saved(image, "TIFF")):
        result = lively_restorer.restore(source, bit_depth=bit_depth)
        expected = alpha if bit_depth == 8 else alpha.astype(np.uint16) * 257
        np.testing.assert_array_equal(result.pixels[..., -1], expected)
        opaque = lively_restorer.restore(np.ascontiguousarray(with_alpha[..., :-1]), bit_depth=bit_depth).pixels
        np.testing.assert_array_equal(result.pixels[..., :-1].squeeze(), opaque)


def test_transparency_of_a_palette_becomes_an_alpha_channel(tiny_restorer: Restorer) -> None:
    image = Image.fromarray(picture(16, 16)).quantize(8)
    assert tiny_restorer.restore(saved(image, "PNG"), strength=0).pixels.shape == (16, 16, 3)
    see_through = saved(image, "PNG", transparency=3)
    pixels = tiny_restorer.restore(see_through, strength=0).pixels
    np.testing.assert_array_equal(pixels, np.asarray(opened(see_through).convert("RGBA")))


def test_progress_ends_at_one(tiny_restorer: Restorer) -> None:
    tiny_restorer = with_tiling(tiny_restorer, 32, 16)
    shares: list[float] = []
    size = (200, 200)
    plan = tiny_restorer.network.plan(size)
    assert min(len(plan.rows), len(plan.columns)) > 1
    tiny_restorer.restore(picture(*size), quality=50, progress=shares.append)
    assert len(shares) == len(plan.rows) * len(plan.columns)
    assert shares == sorted(set(shares))
    assert shares[-1] == 1.0
    shares.clear()
    tiny_restorer.restore(picture(100, 40), strength=0, progress=shares.append)
    assert shares[-1] == 1.0


# Threads and runtimes


def test_two_threads_give_what_one_gives(lively_restorer: Restorer) -> None:
    sources = [encoded(picture(60 + 8 * i, 50, i), quality=20) for i in range(3)]
    expected = [lively_restorer.restore(source).pixels for source in sources]
    results: dict[tuple[int, int], Pixels] = {}

    def work(thread: int) -> None:
        for i in range(len(sources)):
            results[thread, i] = lively_restorer.restore(sources[i]).pixels

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2 * len(sources)
    for (_, i), pixels in results.items():
        np.testing.assert_array_equal(pixels, expected[i])


def join_loaders() -> None:
    for thread in threading.enumerate():
        if thread.name == "unjpeg model":
            thread.join(60)


@pytest.mark.parametrize("kind", [bytes, lambda data: NamedBytes(data, "a.jpg")])
def test_the_model_is_loaded_while_the_first_jpeg_is_read(
    kind: Callable[[bytes], Any], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restorer = Restorer(tiny_model, threads=1, precision="full")
    seen: list[str] = []

    def read_late(*given: Any, **named: Any) -> Any:
        join_loaders()
        seen.append("loaded" if restorer._network else "not loaded")
        return read_picture(*given, **named)

    monkeypatch.setattr("unjpeg.restorer.read_picture", read_late)
    data = encoded(picture(24, 40), quality=30)
    assert restorer.restore(kind(data)).report.precision == "full"
    assert seen == ["loaded"]


def test_a_model_is_not_loaded_ahead_where_nothing_may_need_it(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or where a large picture may have its precision measured first."""
    ahead: list[Restorer] = []
    monkeypatch.setattr(Restorer, "_try_to_load", lambda restorer: ahead.append(restorer))
    data, pixels = encoded(picture(24, 40), quality=30), picture(24, 40)
    Restorer(tiny_model, threads=1, precision="full").restore(data, strength=0)
    Restorer(tiny_model, threads=1, precision="full").restore(pixels)
    monkeypatch.setattr("unjpeg.restorer.choose_precision", lambda *_, **__: Choice("full", "not yet"))
    Restorer(tiny_model, threads=1).restore(data)
    join_loaders()
    assert ahead == []
    monkeypatch.setattr("unjpeg.restorer.choose_precision", lambda *_, **__: Choice("full", "measured"))
    Restorer(tiny_model, threads=1).restore(data)
    join_loaders()
    assert len(ahead) == 1


def test_what_is_wrong_with_a_model_is_said_where_it_is_used(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restorer = Restorer(tiny_model, threads=1, precision="full")

    def fail(measure: bool) -> Any:
        raise ModelError("no engine")

    monkeypatch.setattr(restorer, "_load", fail)
    with pytest.raises(ModelError, match="no engine"):
        restorer.restore(encoded(picture(24, 40), quality=30))
    with pytest.raises(BadImageError):
        restorer.restore(b"\xff\xd8 and nothing more")


def test_a_model_is_loaded_once_and_on_first_use(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Restorer] = []
    plain: Callable[..., None] = Model.__init__

    def counted(self: Any, *args: Any, **options: Any) -> None:
        loaded.append(self)
        plain(self, *args, **options)

    monkeypatch.setattr(Model, "__init__", counted)
    restorer = Restorer(tiny_model, threads=1)
    assert loaded == []
    threads = [threading.Thread(target=lambda: restorer.model) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 1


def test_both_runtimes_agree(tiny_restorer: Restorer, tiny_model: Path) -> None:
    pytest.importorskip("onnxruntime")
    other = Restorer(tiny_model, runtime="onnxruntime", threads=1, precision="full")
    assert (tiny_restorer.model.runtime, other.model.runtime) == ("openvino", "onnxruntime")
    for source in (encoded(picture(100, 120), quality=10), picture(33, 47)[..., 0]):
        ours, theirs = tiny_restorer.restore(source), other.restore(source)
        assert difference(ours.pixels, theirs.pixels) <= 1
        assert ours.report == theirs.report
    tile = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    guidance = tiny_restorer.guide(read_picture(picture(64, 64)))
    np.testing.assert_allclose(
        tiny_restorer.model.restore(tile, guidance), other.model.restore(tile, guidance), atol=1 / 255
    )


# Saving


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_saving_keeps_the_metadata_and_corrects_it(tiny_restorer: Restorer, tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x0100] = 1
    data = saved(picture(24, 40), exif=exif, icc_profile=b"profile", dpi=(300, 300))
    target = tmp_path / f"out{suffix}"
    result = tiny_restorer.restore(data)
    result.save(target)
    image = opened(target.read_bytes())
    assert image.getexif()[0x0112] == 6  # not turned, and still says so
    assert image.size == ((24, 40) if suffix == ".tif" else (40, 24))  # of a TIFF Pillow gives the turned size
    assert image.getexif()[0x0100] == 40
    assert image.info["icc_profile"] == b"profile"
    with pytest.raises(OutputError, match="exists already"):
        result.save(target)
    result.save(str(target), overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == [target.name]


def test_saving_needs_a_format(tiny_restorer: Restorer, tmp_path: Path) -> None:
    result = tiny_restorer.restore(picture(8, 8), strength=0)
    with pytest.raises(OutputError, match="name a format"):
        result.save(tmp_path / "picture")
    result.save(tmp_path / "picture", format="tiff")
    assert opened((tmp_path / "picture").read_bytes()).format == "TIFF"
    np.testing.assert_array_equal(decoded(saved_png(result)), result.pixels)
    assert list(tmp_path.iterdir()) == [tmp_path / "picture"]


def test_a_saved_file_has_the_pixels(lively_restorer: Restorer, tmp_path: Path) -> None:
    data = encoded(picture(40, 40), quality=20)
    deep = lively_restorer.restore(data, bit_depth=16)
    deep.save(tmp_path / "deep.png")
    assert unjpeg.verify(data, tmp_path / "deep.png").consistency == unjpeg.verify(data, deep.pixels).consistency


# Damaged files


def test_a_damaged_file_is_salvaged_on_request_only(lively_restorer: Restorer) -> None:
    whole = encoded(picture(160, 96), quality=30)
    cut = whole[: len(whole) // 2]
    with pytest.raises(BadImageError, match="damaged"):
        lively_restorer.restore(cut)
    result = lively_restorer.restore(cut, salvage=True)
    plain = lively_restorer.restore(cut, salvage=True, strength=0)
    salvaged, missing = result.report.notes
    assert salvaged.startswith("salvaged from a damaged file, and not made true to it: ")
    rows = 160 - int(missing.split()[2])
    assert missing == f"the last {160 - rows} of 160 rows are missing and left grey"
    assert 30 < rows < 130
    assert not result.report.projected
    assert (result.pixels[rows:] == 128).all()
    assert difference(result.pixels[:rows], plain.pixels[:rows]) > 0
    np.testing.assert_array_equal(plain.pixels[: rows - 32], decoded(whole)[: rows - 32])
    # Guided by what there is, not by the grey.
    alone = lively_restorer.restore(plain.pixels[:rows].astype(np.uint8), consistency="strict")
    assert difference(result.pixels[: rows - 1], alone.pixels[: rows - 1]) <= 1


def test_salvaging_changes_nothing_for_a_sound_file(lively_restorer: Restorer) -> None:
    data = encoded(picture(40, 56), quality=20)
    with_it, without = (lively_restorer.restore(data, salvage=salvage) for salvage in (True, False))
    np.testing.assert_array_equal(with_it.pixels, without.pixels)
    assert with_it.report == without.report


# Streaming


@pytest.mark.parametrize(
    ("format", "sampling"), [("png", "grey"), ("png", "4:2:0"), ("jpeg", "4:4:4"), ("webp", "4:2:2"), ("tiff", "4:1:1")]
)
def test_what_is_written_while_restoring_is_what_restore_gives(
    lively_restorer: Restorer, format: str, sampling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lively_restorer = with_tiling(lively_restorer, 64, 16)
    data = encoded(picture(100, 70), sampling, quality=20)
    streamed, whole = io.BytesIO(), io.BytesIO()
    restoration = lively_restorer.begin(data)
    restoration.save(streamed, format=format)
    lively_restorer.restore(data).save(whole, format=format)
    assert streamed.getvalue() == whole.getvalue()
    with pytest.raises(ValueError, match="taken already"):
        restoration.finish()


def test_a_failure_half_way_leaves_no_file(
    lively_restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lively_restorer = with_tiling(lively_restorer, 32, 16)
    seen: list[list[str]] = []

    def fail(share: float) -> None:
        seen.append([path.name for path in tmp_path.iterdir() if not path.name.startswith(".unjpeg-")])
        if share > 0.5:
            raise MemoryError

    for suffix in ("png", "tif", "jpg", "webp"):
        with pytest.raises(MemoryError):
            lively_restorer.begin(encoded(picture(250, 40)), progress=fail).save(tmp_path / f"out.{suffix}")
    assert list(tmp_path.iterdir()) == []
    assert len(seen) >= 8
    assert not any(seen)
