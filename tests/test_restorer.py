from __future__ import annotations

import copy
import io
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
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
from jpegs import SAMPLINGS, beyond_cells, decoded, encoded, opened, picture, saved, with_segment
from unjpeg.errors import BadImageError, ModelError, OutputError, TooLargeError, UnsupportedImageError
from unjpeg.jpeg import Limits
from unjpeg.modelfile import MAX_GUIDE_WINDOWS, ModelFile, shipped_models
from unjpeg.network import Guidance, Model
from unjpeg.picture import read_picture
from unjpeg.projection import Calibration, Trust, project
from unjpeg.restorer import Restored, Restorer, shared_restorer
from unjpeg.runtimes import BF16_FEATURES, ChosenPrecision, processor_features
from unjpeg.tables import standard_table, stated_features
from unjpeg.tiling import CORE_IN_HALOS, HALOS, MAX_CORE, TiledNetwork, Tiling, ahead_by_one

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


def difference(a: Pixels, b: Pixels) -> float:
    """The largest, in levels of 255."""
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    return float(np.abs(a.astype(float) - b.astype(float)).max() * 255 / np.iinfo(a.dtype).max)


def with_tiling(restorer: Restorer, core: int, halo: int | None = None) -> Restorer:
    """The same restorer with other tiles: of a core, and of the halo that its precision needs if none is given."""
    other = copy.copy(restorer)
    halo = restorer.network.tiling.halo if halo is None else halo
    other._network = TiledNetwork(restorer.model, Tiling(core, halo))
    return other


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*args: object) -> None:
        raise AssertionError("the network ran")

    for name in ("__init__", "guide", "restore"):
        monkeypatch.setattr(Model, name, called)


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


# Tiles


def whole_and_tiled(
    restorer: Restorer,
    source: Any,
    core: int,
    halo: int | None = None,
    *,
    tta: bool = False,
) -> tuple[Pixels, Pixels]:
    options: dict[str, Any] = {"consistency": "off", "bit_depth": 16, "tta": tta}
    tiled = with_tiling(restorer, core, halo)
    return with_tiling(restorer, 1 << 20).restore(source, **options).pixels, tiled.restore(source, **options).pixels


@pytest.mark.parametrize("core", [32, 96])
@pytest.mark.parametrize("size", [(150, 203), (96, 65), (33, 300)])
def test_tiles_give_what_the_whole_picture_gives(
    lively_restorer: Restorer, core: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(picture(*size), quality=10)
    whole, tiled = whole_and_tiled(lively_restorer, data, core)
    assert difference(whole, tiled) <= 1
    assert difference(whole, decoded(data).astype(np.uint16) * np.uint16(257)) > 5


def test_without_a_halo_tiles_would_show(lively_restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(picture(150, 203), quality=10)
    whole, tiled = whole_and_tiled(lively_restorer, data, 32, halo=0)
    assert difference(whole, tiled) > 1


def test_tiles_start_on_the_grid_and_fit_the_network(tiny_restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    plain = Model.restore

    def recorded(self: Model, tile: NDArray[np.float32], guidance: Guidance) -> NDArray[np.float32]:
        shapes.append(tile.shape)
        return plain(self, tile, guidance)

    monkeypatch.setattr(Model, "restore", recorded)
    tiny_restorer = with_tiling(tiny_restorer, 96)
    tiny_restorer.restore(picture(150, 203))
    assert len(shapes) == 2 * 3
    assert all(side % tiny_restorer.model.total_stride == 0 for shape in shapes for side in shape[2:])
    assert max(max(shape) for shape in shapes) <= 96 + 2 * HALOS["full"]
    for side in (MAX_CORE, *HALOS.values()):
        assert side % 16 == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(shipped_models()) or [pytest.param(None, marks=pytest.mark.skip("no models"))])
@pytest.mark.parametrize("quality", [1, 5])
@pytest.mark.parametrize("precision", ["full", "bf16", "int8"])
def test_tiles_of_every_shipped_model(name: str, precision: ChosenPrecision, quality: int, kitten: Path) -> None:
    """Where the network changes most, with many seams."""
    if precision == "int8" and ModelFile.read(name).restore_int8 is None:
        pytest.skip("has no such graph")
    if precision == "bf16" and not processor_features() & BF16_FEATURES:
        pytest.skip("this processor does not multiply them")
    original = np.asarray(Image.open(kitten.with_name("kitten-original.webp")).convert("RGB"))
    restorer = Restorer(name, precision=precision)
    whole, tiled = whole_and_tiled(restorer, encoded(original, quality=quality), 128)
    assert difference(whole, tiled) <= 1


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
    calibrated = with_tiling(calibrated, core)
    lively_restorer = with_tiling(lively_restorer, core)
    data = encoded(picture(150, 203), quality=quality)
    output = lively_restorer.run_network(read_picture(data))
    jpeg = output.picture.jpeg
    assert jpeg is not None
    assert calibrated.model_file.calibration is not None
    trust = Trust(jpeg.pixels, calibrated.model_file.calibration.at(quality, jpeg.components))
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


# Self-ensemble

TURNS: tuple[tuple[int, bool], ...] = tuple((turns, flipped) for turns in range(4) for flipped in (False, True))


def turn(pixels: NDArray[Any], turns: int, flipped: bool) -> NDArray[Any]:
    """Turned, then flipped. Rows and columns first."""
    turned = np.rot90(pixels, turns)
    return turned[:, ::-1] if flipped else turned


def turn_back(pixels: NDArray[Any], turns: int, flipped: bool) -> NDArray[Any]:
    return np.rot90(pixels[:, ::-1] if flipped else pixels, -turns)


def test_the_eight_turns_are_eight_and_come_back() -> None:
    sample = picture(3, 5)
    assert len({turn(sample, *how).tobytes() + bytes(turn(sample, *how).shape) for how in TURNS}) == 8
    assert all(np.array_equal(turn_back(turn(sample, *how), *how), sample) for how in TURNS)


def network_of(restorer: Restorer, function: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Restorer:
    """A restorer whose network is a function of the tile alone, ``(1, 3, H, W)``."""
    other = Restorer.__new__(Restorer)
    other.__dict__.update(restorer.__dict__)
    model = Model.__new__(Model)
    model.__dict__.update(restorer.model.__dict__)
    model.restore = lambda tile, guidance: function(tile)  # type: ignore[method-assign]
    other._network = TiledNetwork(model)
    return other


def blurred(tile: NDArray[np.float32], down: tuple[float, ...], across: tuple[float, ...]) -> NDArray[np.float32]:
    """Filtered with three taps each way, the border repeated."""
    for axis, taps in ((2, down), (3, across)):
        pad = [(0, 0)] * 4
        pad[axis] = (1, 1)
        wide, size = np.pad(tile, pad, mode="edge"), tile.shape[axis]
        shifted = [np.float32(tap) * wide.take(range(i, i + size), axis) for i, tap in enumerate(taps)]
        tile = np.sum(shifted, axis=0)
    return tile


@given(size=st.tuples(st.integers(1, 70), st.integers(1, 70)), sampling=st.sampled_from(SAMPLINGS))
@settings(max_examples=20, deadline=None)
def test_the_ensemble_of_a_network_that_turns_with_its_picture_is_the_network(
    tiny_restorer: Restorer, size: tuple[int, int], sampling: str
) -> None:
    symmetric = network_of(tiny_restorer, lambda tile: blurred(tile, (0.25, 0.5, 0.25), (0.25, 0.5, 0.25)))
    data = encoded(picture(*size), sampling, quality=20)
    plain, ensemble = (symmetric.restore(data, bit_depth=16, consistency="off", tta=t).pixels for t in (False, True))
    assert difference(plain, ensemble) <= 0.01


@pytest.mark.parametrize("core", [96, 1 << 20])
@pytest.mark.parametrize("size", [(96, 160), (101, 203)])
def test_the_ensemble_is_the_mean_of_eight_passes(
    tiny_restorer: Restorer, size: tuple[int, int], core: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_restorer = with_tiling(tiny_restorer, core)
    skewed = network_of(tiny_restorer, lambda tile: blurred(tile, (0.1, 0.7, 0.2), (0, 0.6, 0.4)))
    pixels = picture(*size)
    ensemble = skewed.restore(pixels, bit_depth=16, tta=True).pixels
    # Pass by pass over the whole picture: blocks that hang over its edge do not matter to so small a filter.
    passes = [turn_back(skewed.restore(turn(pixels, *how), bit_depth=16).pixels, *how) for how in TURNS]
    assert difference(ensemble, np.rint(np.mean(passes, axis=0)).astype(np.uint16)) <= 0.01
    assert difference(ensemble, passes[0]) > 1


@pytest.mark.parametrize("core", [32, 96])
@pytest.mark.parametrize("size", [(150, 203), (33, 300)])
def test_the_ensemble_of_tiles_is_that_of_the_whole_picture(
    lively_restorer: Restorer, core: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(picture(*size), quality=10)
    whole, tiled = whole_and_tiled(lively_restorer, data, core, tta=True)
    assert difference(whole, tiled) <= 1
    assert difference(whole, decoded(data).astype(np.uint16) * np.uint16(257)) > 5


def test_the_ensemble_sees_whole_blocks_and_one_guidance(
    tiny_restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[tuple[int, ...], bytes]] = []
    guided = []
    plain, guide = Model.restore, Model.guide

    def recorded(self: Model, tile: NDArray[np.float32], guidance: Guidance) -> NDArray[np.float32]:
        seen.append((tile.shape[2:], guidance.sensitive.tobytes()))
        return plain(self, tile, guidance)

    def counted(self: Model, windows: NDArray[np.float32], stated: NDArray[np.float32] | None = None) -> Guidance:
        guided.append(len(windows))
        return guide(self, windows, stated)

    monkeypatch.setattr(Model, "restore", recorded)
    monkeypatch.setattr(Model, "guide", counted)
    tiny_restorer = with_tiling(tiny_restorer, 96)
    tiny_restorer.restore(encoded(picture(150, 203), quality=30), tta=True)
    assert len(guided) == 1
    assert len({guidance for _, guidance in seen}) == 1
    assert len(seen) == 8 * 2 * 3
    assert all(side % 32 == 0 for shape, _ in seen for side in shape)
    assert max(max(shape) for shape, _ in seen) <= 96 + 2 * HALOS["full"]
    for shape, _ in seen:
        assert sum(other == shape for other, _ in seen) == sum(other == shape[::-1] for other, _ in seen)


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


@pytest.mark.parametrize("kind", ["colour", "grey"])
def test_what_no_file_says_is_read_from_the_pixels(
    tiny_restorer: Restorer, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Model.guide

    def misled(self: Model, windows: NDArray[np.float32], stated: NDArray[np.float32] | None = None) -> Guidance:
        return replace(plain(self, windows, stated), quality_probabilities=np.eye(100, dtype=np.float32)[19])

    monkeypatch.setattr(Model, "guide", misled)
    pixels = picture(40, 40)
    sources: dict[str, Any] = {"colour": pixels, "grey": pixels[..., 0]}
    stated = tiny_restorer.guide(read_picture(sources[kind])).stated[0]
    luma, chroma = standard_table(20), standard_table(20, chroma=True)
    np.testing.assert_array_equal(stated, stated_features(luma, None if kind == "grey" else chroma, (2, 2)))


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


def test_progress_ends_at_one(tiny_restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_restorer = with_tiling(tiny_restorer, 32)
    shares: list[float] = []
    tiny_restorer.restore(picture(100, 40), progress=shares.append)
    assert len(shares) == 4
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


# What goes in


def test_every_kind_of_file_source_gives_the_same(lively_restorer: Restorer, tmp_path: Path) -> None:
    data = encoded(picture(40, 60), quality=15)
    path = tmp_path / "holiday photo.png"  # the content decides what it is
    path.write_bytes(data)
    named = path.open("rb")
    sources: list[tuple[Any, str]] = [
        (path, str(path)),
        (str(path), str(path)),
        (data, "image"),
        (io.BytesIO(data), "stream"),
        (named, str(path)),
    ]
    results = [lively_restorer.restore(source) for source, _ in sources]
    named.close()
    for result, (_, name) in zip(results, sources, strict=True):
        np.testing.assert_array_equal(result.pixels, results[0].pixels)
        assert result.report.name == name
        assert result.report.projected


def test_every_kind_of_blind_source_gives_the_same(lively_restorer: Restorer) -> None:
    pixels = decoded(encoded(picture(40, 60), quality=15))
    files = [saved(pixels, format) for format in ("PNG", "BMP", "TIFF", "PPM")]
    sources: list[Any] = [pixels, Image.fromarray(pixels), *files, saved(pixels, "WEBP", lossless=True)]
    results = [lively_restorer.restore(source) for source in sources]
    for result in results:
        np.testing.assert_array_equal(result.pixels, results[0].pixels)
        assert not result.report.projected
        assert result.report.stated_quality is None
    blind = lively_restorer.restore(encoded(picture(40, 60), quality=15), consistency="off")
    np.testing.assert_array_equal(blind.pixels, results[0].pixels)


def test_sources_are_left_as_they_were(lively_restorer: Restorer) -> None:
    pixels = picture(40, 40)
    before = pixels.copy()
    lively_restorer.restore(pixels)
    np.testing.assert_array_equal(pixels, before)
    view = picture(80, 80)[::-2, ::2]
    np.testing.assert_array_equal(
        lively_restorer.restore(view).pixels, lively_restorer.restore(np.ascontiguousarray(view)).pixels
    )


def test_a_phone_s_pictures_behind_the_first_are_no_animation(tiny_restorer: Restorer) -> None:
    buffer = io.BytesIO()
    first, second = (Image.fromarray(picture(24, 24, seed)) for seed in (0, 1))
    first.save(buffer, "MPO", save_all=True, append_images=[second])
    image = opened(buffer.getvalue())
    assert getattr(image, "n_frames", 1) == 2
    from_file = tiny_restorer.restore(buffer.getvalue())
    assert from_file.report.stated_quality == 75
    np.testing.assert_array_equal(tiny_restorer.restore(image, strength=0).pixels, decoded(buffer.getvalue()))


def test_progressive_gives_what_baseline_gives(lively_restorer: Restorer) -> None:
    files = [encoded(picture(50, 50), quality=30, progressive=progressive) for progressive in (False, True)]
    baseline, progressive = (lively_restorer.restore(data).pixels for data in files)
    np.testing.assert_array_equal(baseline, progressive)


def no_pictures() -> Iterator[tuple[Any, type[BadImageError], str]]:
    frames = [Image.fromarray(picture(8, 8, seed)) for seed in (0, 1)]
    png = saved(picture(50, 50), "PNG")
    yield b"", BadImageError, "empty"
    yield b"hello, world", BadImageError, "not a picture"
    yield b"\xff\xd8\xff", BadImageError, "damaged"
    yield saved(picture(8, 8), "EPS"), BadImageError, "not a picture"
    yield png[:-200], BadImageError, "damaged"
    yield png[:20], BadImageError, "picture"
    yield saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), UnsupportedImageError, "animation"
    yield saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]), UnsupportedImageError, "pages"
    yield saved(Image.new("CMYK", (8, 8))), UnsupportedImageError, "CMYK"
    yield saved(Image.new("CMYK", (8, 8)), "TIFF"), UnsupportedImageError, "CMYK"
    yield Image.open(io.BytesIO(saved(Image.new("I;16", (8, 8)), "PNG"))), UnsupportedImageError, "16 bits"
    yield Image.new("F", (8, 8)), UnsupportedImageError, "'F'"
    yield np.zeros((8, 8), np.float32), UnsupportedImageError, "float32"
    yield np.zeros((8, 8, 5), np.uint8), UnsupportedImageError, "(8, 8, 5)"
    yield np.zeros((8,), np.uint8), UnsupportedImageError, "(8,)"
    yield np.zeros((0, 8, 3), np.uint8), UnsupportedImageError, "(0, 8, 3)"


@pytest.mark.parametrize(("source", "error", "words"), [*no_pictures()])
def test_what_is_no_picture(
    source: Any, error: type[BadImageError], words: str, tiny_restorer: Restorer, no_network: None
) -> None:
    with pytest.raises(BadImageError) as caught:
        tiny_restorer.restore(source)
    assert type(caught.value) is error
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paths_that_lead_nowhere(tiny_restorer: Restorer, tmp_path: Path) -> None:
    loop = tmp_path / "loop.jpg"
    loop.symlink_to(loop)
    for path, words in (
        (tmp_path / "missing.jpg", "no such file"),
        (tmp_path, "is a folder"),
        (loop, "cannot be read"),
        (tmp_path / ("x" * 300), "cannot be read"),
        (loop.parent / "loop.jpg" / "below.jpg", "cannot be read"),
    ):
        with pytest.raises(BadImageError) as caught:
            tiny_restorer.restore(path)
        assert str(caught.value).startswith(f"{path}: {words}")


def test_what_is_no_source_at_all(tiny_restorer: Restorer) -> None:
    with pytest.raises(TypeError, match="NoneType"):
        tiny_restorer.restore(None)  # type: ignore[arg-type]


def test_the_limit_on_pixels_holds_for_every_source(tiny_model: Path, no_network: None) -> None:
    restorer = Restorer(tiny_model, limits=Limits(pixels=20 * 20))
    for size in ((20, 20), (20, 21)):
        pixels = picture(*size)
        for source in (pixels, Image.fromarray(pixels), saved(pixels), saved(pixels, "PNG")):
            if size == (20, 20):
                restorer.restore(source, strength=0)
            else:
                with pytest.raises(TooLargeError):
                    restorer.restore(source, strength=0)


def test_a_picture_beyond_what_pillow_opens_is_refused_in_our_own_words() -> None:
    header = bytearray(saved(picture(8, 8), "PNG"))
    header[16:24] = struct.pack(">II", 20_000, 20_000)
    header[29:33] = struct.pack(">I", zlib.crc32(header[12:29]))
    with pytest.raises(TooLargeError, match=r"^image: has more than the \d+ pixels .*; make it smaller, or cut it$"):
        read_picture(bytes(header))


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


def test_a_stream_of_text_is_a_mistake_in_the_program(tiny_restorer: Restorer) -> None:
    with pytest.raises(TypeError, match="binary mode"):
        tiny_restorer.restore(io.StringIO("text"))  # type: ignore[arg-type]


def test_a_stride_that_tiles_cannot_keep_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    file = ModelFile.read(tiny_model)
    path = tmp_path / "wide.unjpeg"
    replace(file, description=replace(file.description, total_stride=64)).write(path)
    with pytest.raises(ModelError, match="total stride of 64"):
        Restorer(path, precision="full").restore(picture(8, 8))


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


# Inspection


def test_inspect(tiny_model: Path, kitten: Path) -> None:
    facts = unjpeg.inspect(kitten, model=None)
    assert (facts.width, facts.height, facts.components) == (720, 560, 3)
    assert (facts.colour_space, facts.subsampling, facts.progressive) == ("YCbCr", "4:2:0", False)
    assert (facts.stated_quality, facts.table_distance, facts.orientation) == (12, 0.0, 1)
    assert (facts.read_quality, facts.looks_compressed_twice) == (None, None)
    assert (facts.has_exif, facts.has_icc_profile, facts.has_xmp) == (False, False, False)
    assert len(facts.tables) == 2
    assert facts.tables[0][0][:2] == (67, 46)
    read = unjpeg.inspect(encoded(picture(64, 64), quality=50), model=tiny_model)
    assert read.read_quality is not None
    assert read.looks_compressed_twice is not None
    other = unjpeg.inspect(saved(picture(8, 8), "PNG"), model=None)
    assert (other.kind, other.width, other.stated_quality, other.subsampling) == ("PNG", 8, None, None)
    assert (other.history, other.earlier, other.tables) == ("undecided", (), ())


def test_inspect_sees_metadata() -> None:
    data = with_segment(encoded(picture(8, 8)), 0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")
    facts = unjpeg.inspect(data, model=None)
    assert (facts.has_exif, facts.has_xmp, facts.has_photoshop, facts.has_comment) == (False, True, False, False)
    iptc = with_segment(
        encoded(picture(8, 8)), 0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0\x05\x1c\x02\x78\0\0\0"
    )
    facts = unjpeg.inspect(with_segment(iptc, 0xFE, b"a word"), model=None)
    assert (facts.has_photoshop, facts.has_comment) == (True, True)


def test_verify_reads_every_format(tmp_path: Path) -> None:
    pixels = picture(32, 32, low=60, high=190)
    colour, grey = encoded(pixels, "4:4:4", quality=70), encoded(pixels, "grey", quality=70)
    for data in (colour, grey):
        for format, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
            assert unjpeg.verify(data, saved(decoded(data), format, **options)).is_consistent
        assert unjpeg.verify(data, data).is_consistent
    with_alpha = saved(Image.fromarray(decoded(colour)).convert("RGBA"), "PNG")
    assert unjpeg.verify(colour, with_alpha).is_consistent
    assert not unjpeg.verify(colour, saved(picture(32, 32, 1, low=60, high=190), "PNG")).is_consistent


def test_verify_refuses_what_it_cannot_compare(tmp_path: Path) -> None:
    data = encoded(picture(32, 32))
    png = saved(picture(32, 32), "PNG")
    for restored, words in (
        (b"", "not a picture"),
        (b"nothing", "not a picture"),
        (png[: len(png) // 2], "not a picture"),
        (png[:-30], "not a picture"),
        (saved(picture(32, 33), "PNG"), "not the same picture"),
        (saved(picture(32, 32)[..., 0], "PNG"), "not the same picture"),
        (tmp_path / "missing.png", "no such file"),
    ):
        with pytest.raises(BadImageError, match=words) as caught:
            unjpeg.verify(data, restored)
        assert "\n" not in str(caught.value)
        assert "  " not in str(caught.value)
    with pytest.raises(BadImageError, match="type float64"):
        unjpeg.verify(data, np.zeros((32, 32, 3)))  # type: ignore[arg-type]
    with pytest.raises(BadImageError, match="not a JPEG"):
        unjpeg.verify(png, png)
    with pytest.raises(TooLargeError):
        unjpeg.verify(encoded(picture(8, 8)), png, limits=Limits(pixels=100))


# Overlapping


def test_the_next_is_made_while_one_is_in_use() -> None:
    second_made = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        second_made.set()
        yield 2

    got = []
    for item in ahead_by_one(items()):
        assert second_made.wait(10)
        got.append(item)
    assert got == [1, 2]


def test_what_fails_ahead_is_raised_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise BadImageError("the second")

    ahead = ahead_by_one(items())
    assert next(ahead) == 1
    with pytest.raises(BadImageError, match="the second"):
        next(ahead)


def test_nothing_is_made_any_more_once_nobody_asks() -> None:
    made = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    before = threading.active_count()
    ahead = ahead_by_one(items())
    assert next(ahead) == 0
    ahead.close()
    assert made == [0, 1]
    assert threading.active_count() == before


# The package


def test_all_is_exact() -> None:
    assert unjpeg.__all__ == sorted(unjpeg.__all__)
    assert len(set(unjpeg.__all__)) == len(unjpeg.__all__)
    for name in unjpeg.__all__:
        assert getattr(unjpeg, name) is not None
    public = {
        name for name, value in vars(unjpeg).items() if not name.startswith("_") and not isinstance(value, type(sys))
    }
    assert public | {"__version__"} == set(unjpeg.__all__)
    from unjpeg import errors

    assert set(errors.__all__) <= set(unjpeg.__all__)


def test_the_function_keeps_its_model(tiny_model: Path) -> None:
    data = encoded(picture(24, 24), quality=20)
    first = unjpeg.restore(data, model=tiny_model, strength=0.5, quality=30, consistency="strict", bit_depth=16)
    assert (first.report.strength, first.report.guided_quality, first.report.projected) == (0.5, 30, True)
    assert first.pixels.dtype == np.uint16
    assert shared_restorer(str(tiny_model)) is shared_restorer(str(tiny_model))
    expected = Restorer(tiny_model).restore(data, strength=0.5, quality=30, consistency="strict", bit_depth=16)
    np.testing.assert_array_equal(first.pixels, expected.pixels)


def test_the_command_starts_without_what_restores(child_environment: dict[str, str]) -> None:
    program = (
        "import sys\n"
        "import unjpeg.cli\n"
        "heavy = {'numpy', 'PIL', 'jpeglib', 'simplejpeg', 'openvino', 'rich', 'ray', 'fsspec', 'pyarrow'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "import unjpeg.restorer\n"
        "print(callable(unjpeg.restore), unjpeg.restore is unjpeg.restorer.restore)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], env=child_environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines() == ["[]", "True True"]


def test_restoring_imports_no_torch(tiny_model: Path, child_environment: dict[str, str], kitten: Path) -> None:
    program = (
        "import sys, unjpeg\n"
        f"unjpeg.Restorer({str(tiny_model)!r}).restore({str(kitten)!r}, consistency='strict')\n"
        f"unjpeg.inspect({str(kitten)!r}, model={str(tiny_model)!r})\n"
        "import unjpeg.cli\n"
        "heavy = {'torch', 'lightning', 'onnx', 'onnxruntime', 'scipy', 'skimage', 'fastapi', 'uvicorn', 'pebble'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], env=child_environment, capture_output=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"[]\n", b"")


# Damaged files


def test_a_damaged_file_is_salvaged_on_request_only(lively_restorer: Restorer) -> None:
    whole = encoded(picture(160, 96), quality=30)
    cut = whole[: len(whole) // 2]
    with pytest.raises(BadImageError, match="damaged"):
        lively_restorer.restore(cut)
    result = lively_restorer.restore(cut, salvage=True)
    plain = lively_restorer.restore(cut, salvage=True, strength=0)
    salvaged, missing = result.report.notes
    assert salvaged.startswith("salvaged from a damaged file, and not held to its cells: ")
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
    lively_restorer = with_tiling(lively_restorer, 64)
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
    lively_restorer = with_tiling(lively_restorer, 32)
    seen: list[list[str]] = []

    def fail(share: float) -> None:
        seen.append([path.name for path in tmp_path.iterdir() if not path.name.startswith(".unjpeg-")])
        if share > 0.5:
            raise MemoryError

    for suffix in ("png", "tif", "webp"):
        with pytest.raises(MemoryError):
            lively_restorer.begin(encoded(picture(150, 40)), progress=fail).save(tmp_path / f"out.{suffix}")
    assert list(tmp_path.iterdir()) == []
    assert len(seen) > 6
    assert not any(seen)


@pytest.mark.parametrize("precision", ["full", "bf16", "int8"])
def test_wide_networks_get_smaller_tiles(tiny_model: Path, precision: ChosenPrecision) -> None:
    plain = ModelFile.read(tiny_model).description
    networks: tuple[dict[str, Any], ...] = (
        {"width": 8, "stem": 2},
        {"width": 32, "stem": 1},
        {"width": 64, "stem": 1},
        {"width": 512},
        {},
    )
    tilings = [Tiling.suited_to(replace(plain, network=network), precision) for network in networks]
    cores = [tiling.core for tiling in tilings]
    assert cores[0] == MAX_CORE
    assert cores[:4] == sorted(cores[:4], reverse=True)
    assert cores[2] == cores[4] <= cores[1] < cores[0]
    assert precision != "full" or cores[2] < cores[1]  # with the halos of others both are the smallest
    assert all(core % 96 == 0 for core in cores)
    halo = HALOS[precision]
    assert {tiling.halo for tiling in tilings} == {halo}
    assert cores[3] == CORE_IN_HALOS * halo // 96 * 96
    assert ((cores[3] + 2 * halo) / cores[3]) ** 2 < 2.1
