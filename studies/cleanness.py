"""Train the small network that weighs whether a picture was never compressed: ``src/unjpeg/cleanness.npz``.

Run from a checkout: ``python -m studies.cleanness data/train``. Lossless pictures are taken as they are, others scaled
down first; drawings of ``studies/drawings.py``, patterns above all, come on top. Each is also made smaller and larger
without compression, compressed and scaled, or compressed by another codec. Weakly compressed ones count less: little is
to be gained there. Prints what five-fold cross-validation over pictures gives. Pictures without a licence (``bsds500``)
are left out.
"""

from __future__ import annotations

import argparse
import io
import os
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from studies.drawings import KINDS
from unjpeg.cleanness import features, looks_drawn
from unjpeg.files import place_file

LOSSLESS = ("cid22", "clic2025")
SCALED = {"photos": 0.5, "cameras": 0.6, "drone": 0.5, "odm": 0.5, "gb82": 0.6, "xubuntu": 0.5}
SIDE = (900, 750)
FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
SEEDS = {"patterns": (300, 301, 302), "gradients": (300,), "dithers": (300,), "vector art": (300,)}
"""Of the kinds of drawings that may pass for photographs."""

GREY = 0.12
"""Share of the variants that are also looked at in grey."""

OUT = Path(__file__).parents[1] / "src/unjpeg/cleanness.npz"


class Sample(NamedTuple):
    """What the network learns of one variant of a picture; ``quality`` 0: it was never compressed."""

    number: int
    scale: float
    quality: int
    measured: NDArray[np.float64]


def variants(image: Image.Image, rng: np.random.Generator) -> Iterator[tuple[float, int, Image.Image]]:
    """About what scale, quality (0: never compressed), picture."""
    yield 1.0, 0, image
    yield 1.0, 0, _scale(image, float(rng.choice([0.6, 0.8])), Image.Resampling.LANCZOS)
    for scale in (0.5, 0.75, 1.25, 1.5):
        exact = scale if rng.random() < 0.5 else scale * float(rng.uniform(0.85, 1.15))
        quality, stream = int(rng.choice([10, 20, 30, 30, 40, 50, 60, 75, 85])), io.BytesIO()
        image.save(stream, "JPEG", quality=quality, subsampling=int(rng.choice([0, 2, 2])))
        yield scale, quality, _scale(Image.open(stream), exact, FILTERS[rng.integers(3)])
    for codec in ("WEBP", "AVIF"):
        quality, stream = int(rng.choice([20, 30, 40, 60, 80])), io.BytesIO()
        image.save(stream, codec, quality=quality, **({"speed": 8} if codec == "AVIF" else {}))
        yield 1.0, quality, Image.open(stream).convert("RGB")


def _scale(picture: Image.Image, scale: float, how: Image.Resampling) -> Image.Image:
    return picture.resize((max(64, int(picture.width * scale)), max(64, int(picture.height * scale))), how)


def enlarge(image: Image.Image, number: int) -> Image.Image:
    """A picture that lacks the finest detail, and was never compressed all the same."""
    return _scale(image, (1.1, 1.2, 1.35, 1.5)[number % 4], FILTERS[number % 3])


def photographs(folder: Path) -> list[tuple[Path, float]]:
    """Paths and how far to scale each down first, shuffled."""
    out = [(path, 1.0) for name in LOSSLESS for path in sorted((folder / name).glob("*.webp"))]
    out += [(path, scale) for name, scale in SCALED.items() for path in sorted((folder / name).glob("*.jpg"))]
    random.Random(0).shuffle(out)  # noqa: S311 (no secret)
    return out


def drawings() -> list[tuple[str, int, int]]:
    """Kind, seed and number of each."""
    return [(kind, seed, which) for kind, seeds in SEEDS.items() for seed in seeds for which in range(KINDS[kind][1])]


def measure_photograph(number: int, path: Path, scale: float) -> list[Sample]:
    """Of one photograph."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    if scale != 1:
        image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.LANCZOS)
    return _measure(number, image.crop((0, 0, min(SIDE[0], image.width), min(SIDE[1], image.height))))


def measure_drawing(number: int, kind: str, seed: int, which: int) -> list[Sample]:
    """Of one drawing."""
    place = list(KINDS).index(kind)
    pixels = KINDS[kind][0](np.random.default_rng([seed, place, which]), which)
    return _measure(number, Image.fromarray(pixels).convert("RGB"))


def _measure(number: int, image: Image.Image) -> list[Sample]:
    rng = np.random.default_rng(number)
    out = []
    for scale, quality, variant in list(variants(image, rng)):
        for picture in (variant, *([variant.convert("L")] if rng.random() < GREY else [])):
            pixels = np.asarray(picture)
            # What looks drawn is never shown to the network.
            measured = None if number >= FIRST_DRAWING and looks_drawn(pixels) else features(pixels)
            if measured is not None:
                out.append(Sample(number, scale, quality, measured))
    pixels = np.asarray(enlarge(image, number))
    measured = None if number >= FIRST_DRAWING and looks_drawn(pixels) else features(pixels)
    return out if measured is None else [*out, Sample(number, 1.5, 0, measured)]


FIRST_DRAWING = 10000


def collect(folder: Path) -> list[Sample]:
    """Of all pictures, on all cores."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        parts = [pool.submit(measure_photograph, n, *one) for n, one in enumerate(photographs(folder))]
        parts += [pool.submit(measure_drawing, FIRST_DRAWING + n, *one) for n, one in enumerate(drawings())]
        return [sample for part in parts for sample in part.result()]


def weigh(scale_N: NDArray[np.float64], quality_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much each sample counts: about as much as is to be gained, or lost, if it is misread."""
    lossy = np.select([quality_N <= 40, quality_N <= 60, quality_N <= 75], [1.0, 0.7, 0.4], 0.2)
    lossy = np.where(scale_N == 0.5, lossy * np.where(quality_N <= 40, 0.6, 0.2), lossy)
    out: NDArray[np.float64] = np.where(quality_N == 0, 1.5, lossy)
    return out


def train(
    inputs_NF: NDArray[np.float64], clean_N: NDArray[np.float64], weights_N: NDArray[np.float64]
) -> torch.nn.Sequential:
    """Twelve hidden units, weights kept few."""
    torch.manual_seed(0)
    entry, exit = torch.nn.Linear(inputs_NF.shape[1], 12), torch.nn.Linear(12, 1)
    network = torch.nn.Sequential(entry, torch.nn.Tanh(), exit)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    inputs, clean, weights = (torch.tensor(one, dtype=torch.float32) for one in (inputs_NF, clean_N, weights_N))
    for _ in range(700):
        optimiser.zero_grad()
        losses = torch.nn.functional.binary_cross_entropy_with_logits(network(inputs)[:, 0], clean, reduction="none")
        loss = (losses * weights).mean() + 1e-3 * entry.weight.abs().sum() + 1e-3 * exit.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return network


def fit(samples: list[Sample], out: Path) -> None:
    """Cross-validate, print, train on everything and write the weights."""
    measured_NF = np.array([sample.measured for sample in samples])
    number_N, scale_N, quality_N = np.array([sample[:3] for sample in samples]).T
    mean, spread = measured_NF.mean(axis=0), measured_NF.std(axis=0) + 1e-6
    inputs_NF = np.clip((measured_NF - mean) / spread, -4, 4)
    clean_N, weights_N = (quality_N == 0).astype(np.float64), weigh(scale_N, quality_N)
    odds_N = np.zeros(len(clean_N))
    for fold in range(5):
        held = number_N % 5 == fold
        network = train(inputs_NF[~held], clean_N[~held], weights_N[~held])
        odds_N[held] = network(torch.tensor(inputs_NF[held], dtype=torch.float32))[:, 0].detach().numpy()
    drawn_N = number_N >= FIRST_DRAWING
    for name, some_N in (("photographs", ~drawn_N), ("drawings", drawn_N)):
        print(f"{len(set(number_N[some_N]))} {name}, {some_N.sum()} variants")
        clean, lossy = some_N & (clean_N > 0), some_N & (clean_N == 0)
        for threshold in (-4.0, -3.0, -2.5, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0):
            strong, weak = lossy & (quality_N <= 40), lossy & (quality_N > 40)
            shares = [float((odds_N[which] > threshold).mean()) for which in (clean, strong, weak)]
            words = "clean called so {:.3f}, up to quality 40 called clean {:.4f}, above {:.4f}".format(*shares)
            print(f"{threshold:5.1f}: {words}")
    state = {name: value.detach().numpy() for name, value in train(inputs_NF, clean_N, weights_N).state_dict().items()}
    with place_file(out, overwrite=True) as file:
        np.savez_compressed(
            file,
            mean=mean.astype(np.float32),
            scale=spread.astype(np.float32),
            first=state["0.weight"],
            first_bias=state["0.bias"],
            second=state["2.weight"][0],
            second_bias=state["2.bias"][0],
        )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    fit(collect(parser.parse_args().folder), OUT)


if __name__ == "__main__":
    main()
