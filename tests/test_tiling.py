from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from jpegs import SAMPLINGS, decoded, encoded, picture
from restorers import difference, network_of, whole_and_tiled, with_tiling
from unjpeg.errors import BadImageError, ModelError
from unjpeg.modelfile import ModelFile, shipped_models
from unjpeg.network import Guidance, Model
from unjpeg.restorer import Restorer
from unjpeg.runtimes import BF16_FEATURES, ChosenPrecision, processor_features
from unjpeg.tiling import CORE_IN_HALOS, HALOS, MAX_CORE, Tiling, work_ahead

# Tiles


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


# Overlapping


def test_the_next_is_made_while_one_is_in_use() -> None:
    second_made = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        second_made.set()
        yield 2

    got = []
    for item in work_ahead(items()):
        assert second_made.wait(10)
        got.append(item)
    assert got == [1, 2]


def test_what_fails_ahead_is_raised_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise BadImageError("the second")

    ahead = work_ahead(items())
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
    ahead = work_ahead(items())
    assert next(ahead) == 0
    ahead.close()
    assert made == [0, 1]
    assert threading.active_count() == before


def test_a_stride_that_tiles_cannot_keep_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    file = ModelFile.read(tiny_model)
    path = tmp_path / "wide.unjpeg"
    replace(file, description=replace(file.description, total_stride=64)).write(path)
    with pytest.raises(ModelError, match="total stride of 64"):
        Restorer(path, precision="full").restore(picture(8, 8))
