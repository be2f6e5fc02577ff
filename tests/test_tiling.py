from __future__ import annotations

import math
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
from unjpeg.errors import ModelError
from unjpeg.modelfile import ModelFile, shipped_models
from unjpeg.network import Guidance, Model
from unjpeg.restorer import Restorer
from unjpeg.runtimes import BF16_FEATURES, ChosenPrecision, processor_features
from unjpeg.tiling import CORE_IN_HALOS, HALOS, MAX_CORE, SEAM_GRID, Span, Tiling

# Tiles


SMALL_HALO = 32
"""What the tests' networks need, which reach less far."""


@given(
    size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    core=st.integers(1, 30).map(lambda n: 32 * n),
    halo=st.integers(0, 12).map(lambda n: 16 * n),
    multiple=st.sampled_from([8, 16, 32]),
    grid=st.sampled_from([32, 96, 64]),
)
def test_cores_tile_the_picture_and_see_their_halos(
    size: tuple[int, int], core: int, halo: int, multiple: int, grid: int
) -> None:
    plan = Tiling(core, halo).plan(*size, multiple, grid)
    for length, side, spans in zip(size, plan.shape, plan, strict=True):
        end = -(-length // multiple) * multiple
        assert [span.core.start for span in spans] == [0, *(span.core.stop for span in spans[:-1])]
        assert spans[-1].core.stop == length
        for span in spans:
            assert span.core.start < span.core.stop
            assert span.seen.stop - span.seen.start == side
            assert span.seen.start % multiple == 0 == side % multiple
            assert span.core.start % grid == 0
            assert 0 <= span.seen.start <= max(0, span.core.start - halo)
            assert min(length, span.core.stop + halo) <= span.seen.stop <= end
    most = (core + 2 * halo) ** 2
    smallest = 2 * halo + 3 * math.lcm(grid, multiple)  # where the grid is coarser than the core
    assert plan.shape[0] * plan.shape[1] <= max(most, smallest**2)


def test_a_picture_that_one_tile_holds_is_one_tile() -> None:
    plan = Tiling(96, 16).plan(100, 150, 8)
    assert plan.rows == (Span(slice(0, 100), slice(0, 104)),)
    assert plan.columns == (Span(slice(0, 150), slice(0, 152)),)
    assert len(Tiling(96, 16).plan(100, 168, 8).columns) == 2


@pytest.mark.parametrize(
    ("name", "precision", "most"),
    [
        ("fast", "full", 1.12),
        ("fast", "bf16", 1.14),
        ("fast", "int8", 1.18),
        ("default", "full", 1.18),
        ("default", "bf16", 1.18),
        ("default", "int8", 1.21),
    ],
)
def test_halos_cost_little_at_12_megapixels(
    name: str, precision: ChosenPrecision, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name not in shipped_models():
        pytest.skip("no such model")
    monkeypatch.setattr("unjpeg.runtimes._multiplies_bf16", lambda: True)
    tiling = Tiling.suited_to(ModelFile.read(name).description, precision)
    for size in ((3000, 4000), (4000, 3000)):
        assert tiling.plan(*size, 8).computed_pixels < most * 12e6


def test_integers_beside_floats_of_32_bits_get_smaller_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    description = ModelFile.read("default").description
    cores = []
    for multiplies in (False, True):
        monkeypatch.setattr("unjpeg.runtimes._multiplies_bf16", lambda known=multiplies: known)
        cores.append(Tiling.suited_to(description, "int8").core)
    assert cores[0] < cores[1]


@pytest.mark.parametrize("core", [32, 96])
@pytest.mark.parametrize("size", [(150, 203), (113, 245), (33, 900)])
def test_tiles_give_what_the_whole_picture_gives(lively_restorer: Restorer, core: int, size: tuple[int, int]) -> None:
    data = encoded(picture(*size), quality=10)
    assert count_tiles(lively_restorer, core, SMALL_HALO, size) > 1
    whole, tiled = whole_and_tiled(lively_restorer, data, core, SMALL_HALO)
    assert difference(whole, tiled) <= 1
    assert difference(whole, decoded(data).astype(np.uint16) * np.uint16(257)) > 5


def count_tiles(restorer: Restorer, core: int, halo: int, size: tuple[int, ...]) -> int:
    plan = with_tiling(restorer, core, halo).network.plan(size)
    return len(plan.rows) * len(plan.columns)


def test_without_a_halo_tiles_would_show(lively_restorer: Restorer) -> None:
    data = encoded(picture(150, 203), quality=10)
    whole, tiled = whole_and_tiled(lively_restorer, data, 32, halo=0)
    assert difference(whole, tiled) > 1


def test_tiles_have_one_shape_that_fits_the_network(tiny_restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    plain = Model.restore

    def recorded(self: Model, tile: NDArray[np.float32], guidance: Guidance) -> NDArray[np.float32]:
        shapes.append(tile.shape)
        return plain(self, tile, guidance)

    monkeypatch.setattr(Model, "restore", recorded)
    tiny_restorer = with_tiling(tiny_restorer, 96, SMALL_HALO)
    tiny_restorer.restore(picture(150, 403), quality=50)
    assert len(shapes) == 4
    assert len(set(shapes)) == 1
    assert all(side % tiny_restorer.model.total_stride == 0 for side in shapes[0][2:])
    for side in (MAX_CORE, *HALOS.values()):
        assert side % SEAM_GRID == 0


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
    assert all(core % SEAM_GRID == 0 for core in cores)
    halo = HALOS[precision]
    assert {tiling.halo for tiling in tilings} == {halo}
    assert cores[3] == CORE_IN_HALOS * halo // SEAM_GRID * SEAM_GRID
    assert ((cores[3] + 2 * halo) / cores[3]) ** 2 < 2.1


@pytest.mark.parametrize("precision", ["full", "bf16", "int8"])
def test_networks_that_reach_less_far_get_smaller_halos(tiny_model: Path, precision: ChosenPrecision) -> None:
    plain = ModelFile.read(tiny_model).description
    networks = [{"scales": 2, "blocks": 1}, {"scales": 3, "blocks": 2, "stem": 2}, {"scales": 4, "blocks": 4}]
    halos = [Tiling.suited_to(replace(plain, network=network), precision).halo for network in networks]
    assert halos == sorted(halos)
    assert halos[0] <= 32
    assert halos[2] == HALOS[precision]
    assert all(halo % SEAM_GRID == 0 for halo in halos)


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
    ensemble = skewed.restore(pixels, bit_depth=16, quality=50, tta=True).pixels
    # Pass by pass over the whole picture: blocks that hang over its edge do not matter to so small a filter.
    passes = [turn_back(skewed.restore(turn(pixels, *how), bit_depth=16, quality=50).pixels, *how) for how in TURNS]
    assert difference(ensemble, np.rint(np.mean(passes, axis=0)).astype(np.uint16)) <= 0.01
    assert difference(ensemble, passes[0]) > 1


@pytest.mark.parametrize("core", [32, 96])
@pytest.mark.parametrize("size", [(150, 203), (33, 900)])
def test_the_ensemble_of_tiles_is_that_of_the_whole_picture(
    lively_restorer: Restorer, core: int, size: tuple[int, int]
) -> None:
    data = encoded(picture(*size), quality=10)
    whole, tiled = whole_and_tiled(lively_restorer, data, core, SMALL_HALO, tta=True)
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
    tiny_restorer = with_tiling(tiny_restorer, 96, SMALL_HALO)
    tiny_restorer.restore(encoded(picture(150, 403), quality=30), tta=True)
    assert len(guided) == 1
    assert len({guidance for _, guidance in seen}) == 1
    assert len(seen) == 8 * 4
    assert all(side % 32 == 0 for shape, _ in seen for side in shape)
    assert len({tuple(sorted(shape)) for shape, _ in seen}) == 1
    for shape, _ in seen:
        assert sum(other == shape for other, _ in seen) == sum(other == shape[::-1] for other, _ in seen)


def test_a_stride_that_tiles_cannot_keep_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    file = ModelFile.read(tiny_model)
    path = tmp_path / "wide.unjpeg"
    replace(file, description=replace(file.description, total_stride=64)).write(path)
    with pytest.raises(ModelError, match="total stride of 64"):
        Restorer(path, precision="full").restore(picture(8, 8))
