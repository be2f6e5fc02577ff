"""Restorers with other tiles, and how far results are apart."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from unjpeg import network
from unjpeg.network import Model
from unjpeg.restorer import Restorer
from unjpeg.tiling import TiledNetwork, Tiling

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
    if restorer.model_file.strong:
        other._strong = TiledNetwork(restorer._strong_network().model, Tiling(core, halo))
    return other


def whole_and_tiled(
    restorer: Restorer,
    source: Any,
    core: int,
    halo: int | None = None,
    *,
    tta: bool = False,
) -> tuple[Pixels, Pixels]:
    """By one graph for both: another rounds in another way."""
    options: dict[str, Any] = {"consistency": "off", "bit_depth": 16, "tta": tta}
    whole, tiled = with_tiling(restorer, 1 << 20), with_tiling(restorer, core, halo)
    with patch.object(network, "SHAPED_PIXELS", 1 << 40):
        return whole.restore(source, **options).pixels, tiled.restore(source, **options).pixels


def network_of(restorer: Restorer, function: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Restorer:
    """A restorer whose network is a function of the tile alone, ``(1, 3, H, W)``."""
    other = Restorer.__new__(Restorer)
    other.__dict__.update(restorer.__dict__)
    model = Model.__new__(Model)
    model.__dict__.update(restorer.model.__dict__)
    model.restore = lambda tile, guidance: function(tile)  # type: ignore[method-assign]
    other._network = TiledNetwork(model)
    return other
