"""Train the small network that weighs whether a photograph was never compressed: ``src/unjpeg/cleanness.npz``.

Run from a checkout: ``python -m studies.cleanness data/train``. Lossless pictures are taken as they are, others scaled
down first; each is also compressed and scaled, or compressed by another codec. What is scaled to half from a quality of
75 or more hardly counts: nothing is to be gained there. Prints what five-fold cross-validation over pictures gives.
Pictures without a licence (``bsds500``) are left out.
"""

from __future__ import annotations

import argparse
import io
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from unjpeg.cleanness import features
from unjpeg.files import place_file

LOSSLESS = ("cid22", "clic2025")
SCALED = {"photos": 0.5, "cameras": 0.6, "drone": 0.5, "odm": 0.5, "gb82": 0.6, "xubuntu": 0.5}
SIDE = (900, 750)
FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
OUT = Path(__file__).parents[1] / "src/unjpeg/cleanness.npz"


def variants(image: Image.Image, rng: np.random.Generator) -> Iterator[tuple[float, int, Image.Image]]:
    """Scale, quality (0: never compressed), picture."""

    def scaled(picture: Image.Image, scale: float, how: Image.Resampling) -> Image.Image:
        return picture.resize((max(64, int(picture.width * scale)), max(64, int(picture.height * scale))), how)

    yield 1.0, 0, image
    yield 1.0, 0, scaled(image, float(rng.choice([0.6, 0.8])), Image.Resampling.LANCZOS)
    for scale in (0.5, 0.75, 1.25, 1.5):
        quality, stream = int(rng.choice([10, 20, 30, 40, 50, 60, 75, 85])), io.BytesIO()
        image.save(stream, "JPEG", quality=quality, subsampling=int(rng.choice([0, 2, 2])))
        yield scale, quality, scaled(Image.open(stream), scale, FILTERS[rng.integers(3)])
    for codec in ("WEBP", "AVIF"):
        quality, stream = int(rng.choice([20, 40, 60, 80])), io.BytesIO()
        image.save(stream, codec, quality=quality, **({"speed": 8} if codec == "AVIF" else {}))
        yield 1.0, quality, Image.open(stream).convert("RGB")


def pictures(folder: Path) -> list[tuple[Path, float]]:
    """Paths and how far to scale each down first, shuffled."""
    out = [(path, 1.0) for name in LOSSLESS for path in sorted((folder / name).glob("*.webp"))]
    out += [(path, scale) for name, scale in SCALED.items() for path in sorted((folder / name).glob("*.jpg"))]
    random.Random(0).shuffle(out)  # noqa: S311 (no secret)
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


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    rows, facts = [], []
    for number, (path, first) in enumerate(pictures(parser.parse_args().folder)):
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        if first != 1:
            image = image.resize((int(image.width * first), int(image.height * first)), Image.Resampling.LANCZOS)
        image = image.crop((0, 0, min(SIDE[0], image.width), min(SIDE[1], image.height)))
        rng = np.random.default_rng(number)
        for scale, quality, variant in variants(image, rng):
            for picture in (variant, *([variant.convert("L")] if rng.random() < 0.15 else [])):
                measured = features(np.asarray(picture))
                if measured is not None:
                    rows.append(measured)
                    facts.append((number, scale, quality))
    measured_NF = np.array(rows)
    number_N, scale_N, quality_N = np.array(facts).T
    mean, spread = np.nanmean(measured_NF, axis=0), np.nanstd(measured_NF, axis=0) + 1e-6
    inputs_NF = np.clip(np.where(np.isnan(measured_NF), 0, (measured_NF - mean) / spread), -4, 4)
    clean_N = (quality_N == 0).astype(np.float64)
    easy = (scale_N == 0.5) & (quality_N >= 75)
    weights_N = np.where(clean_N > 0, 1.5, np.where(easy, 0.05, 1.0))
    odds_N = np.zeros(len(clean_N))
    for fold in range(5):
        held = number_N % 5 == fold
        network = train(inputs_NF[~held], clean_N[~held], weights_N[~held])
        odds_N[held] = network(torch.tensor(inputs_NF[held], dtype=torch.float32))[:, 0].detach().numpy()
    print(f"{len(set(number_N))} pictures, {len(clean_N)} variants")
    for threshold in (-0.5, 0.0, 0.3, 0.5, 1.0, 2.0):
        kept = (odds_N[clean_N > 0] > threshold).mean()
        lossy = odds_N[(clean_N == 0) & ~easy] > threshold
        print(f"{threshold:5.1f}: clean called so {kept:.3f}, lossy called clean {lossy.mean():.4f}")
    state = {name: value.detach().numpy() for name, value in train(inputs_NF, clean_N, weights_N).state_dict().items()}
    with place_file(OUT, overwrite=True) as file:
        np.savez_compressed(
            file,
            mean=mean.astype(np.float32),
            scale=spread.astype(np.float32),
            first=state["0.weight"],
            first_bias=state["0.bias"],
            second=state["2.weight"][0],
            second_bias=state["2.bias"][0],
        )


if __name__ == "__main__":
    main()
