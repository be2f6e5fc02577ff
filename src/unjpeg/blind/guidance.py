"""The guidance of no picture in particular."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from unjpeg.modelfile import ModelFile
from unjpeg.network import Guidance, Model, to_network
from unjpeg.tables import STATED_FEATURES, standard_table, stated_features

__all__ = ["UNKNOWN_QUALITY", "find_typical_guidance", "guide_as"]

UNKNOWN_QUALITY: Final = 70
"""Where nothing is known of a picture, the network is shown the mean features of this quality, and that no file states
anything. Chosen on held-out pictures: ``python -m studies.blind choose``."""

SHOWN_WINDOWS: Final = 12
SHOWN_QUALITIES: Final = (20, 50, 80)
"""How many made-up pictures the typical guidance is the mean over, and how they are compressed."""


def find_typical_guidance(model: Model) -> Guidance:
    """What the guide sees in made-up pictures that are as smooth and as rough as photographs, on average.

    On held-out pictures the network does as well with it as with the mean over photographs, and far better than with
    zeros: ``python -m studies.blind choose``.
    """
    rng = np.random.default_rng(0)
    windows = [_draw_window(rng, model.guide_window) for _ in range(SHOWN_WINDOWS)]
    seen = [_compress(window, quality) for window in windows for quality in SHOWN_QUALITIES]
    return model.guide(np.concatenate([to_network(window) for window in seen]))


def guide_as(guidance: Guidance, file: ModelFile, quality: int | None) -> Guidance:
    """The same for pictures of a quality, 1..100: mean features and standard tables; or where none is known."""
    levels = file.description.quality_levels
    shown = UNKNOWN_QUALITY if quality is None else quality
    sensitive = np.array([[np.interp(shown, levels, feature) for feature in file.quality_features.T]], np.float32)
    stated = np.zeros(STATED_FEATURES, np.float32)
    if quality is not None:
        stated = stated_features(standard_table(quality), standard_table(quality, chroma=True), (2, 2))
    return replace(guidance, sensitive=sensitive, stated=stated[None])


def _draw_window(rng: np.random.Generator, side: int) -> NDArray[np.uint8]:
    """Noise whose amplitudes fall with the frequency as photographs' do, mostly grey. Shape: ``(side, side, 3)``."""
    frequencies = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    frequencies[0, 0] = 1
    planes = np.fft.ifft2(np.fft.fft2(rng.normal(size=(3, side, side))) / frequencies**1.2).real
    planes -= planes.mean((1, 2), keepdims=True)
    planes /= planes.std((1, 2), keepdims=True)
    levels = (0.45 + 0.18 * planes[:1] + 0.05 * planes) * 255
    return np.ascontiguousarray(levels.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def _compress(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    data = simplejpeg.encode_jpeg(pixels, quality, "RGB", "420")
    decoded: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False)
    return decoded
