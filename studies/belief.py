"""Train the small networks that weigh how far a model is to be believed about a block: ``src/unjpeg/belief.npz``.

``python -m studies.belief fast default --data DIR ...`` compresses pictures that the models were not trained on (the
folders' validation split), the same under grain, patterns, drawings of ``studies/drawings.py``. Each model restores
them; of each block it is noted what the network did, what the file says, and what the original is. One judge for luma
and one for chroma are trained so that the pictures, each weighed by its own error, come out nearest to the originals.
Every other picture is kept for the figures that are printed; ``--unseen`` prints them for drawings and patterns of
kinds that the judges have not seen, too.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from studies.drawings import draw_all
from unjpeg.belief import EVIDENCE, Judge, gather_evidence, weigh_evidence
from unjpeg.console import run_safely, say
from unjpeg.evaluate.pairs import Pixels8
from unjpeg.files import place_file
from unjpeg.picture import read_picture
from unjpeg.projection import compare_blocks
from unjpeg.restorer import Restorer
from unjpeg.runtimes import Precision
from unjpeg.train.config import VALIDATION_FRACTION
from unjpeg.train.patterns import PATTERNS
from unjpeg.train.run import open_images

__all__ = [
    "Blocks",
    "Restored",
    "draw_pictures",
    "main",
    "measure_gain_db",
    "measure_shares",
    "restore_all",
    "train_judge",
]

QUALITIES: Final = (5, 10, 20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 93, 95, 97, 98, 99, 100)
SAMPLINGS: Final = (2, 2, 0)
"""4:2:0 for two files of three, else 4:4:4."""

GRAIN: Final = (3, 6, 10, 15, 20, 25)
DRAWINGS: Final = (21, 22)
"""Seeds."""

SHARES: Final = {"photograph": 0.7, "grain": 0.1, "pattern": 0.1, "drawing": 0.1}
"""How much each kind of picture counts."""

KEPT: Final = (0, 0.7, 0.8, 0.9, 0.95, 0.98, 1.01)
SHOWN: Final = 95
"""Between which shares of energy, and at which quality, ``measure_shares`` is printed."""

SIDE: Final = 256
DRAWING_SIDE: Final = 192
DRAWING_EVERY: Final = 6
"""Pixels, of what is cut from photographs and from drawings; of drawings, which are many, only so many-th files."""

MOST_DB: Final = 60.0
"""What is nearer to the original counts as that near: exact pictures would outweigh all others."""

HIDDEN: Final = 16
STEPS: Final = 3000
BATCH: Final = 16384
RATE: Final = 1e-2
KINDS: Final = ("luma", "chroma")
OUT: Final = Path(__file__).parents[1] / "src/unjpeg/belief.npz"


@dataclass(frozen=True)
class Blocks:
    """What is known of a component's blocks under a model, or of both chroma components' together.

    Attributes:
        evidence_NE: of each block.
        moves_N, products_N, errors_N: sums over a block's coefficients, and the pixels that a sample covers, of the
            network's offset squared, of it times the true one, and of the true one squared.
    """

    evidence_NE: NDArray[np.float32]
    moves_N: NDArray[np.float32]
    products_N: NDArray[np.float32]
    errors_N: NDArray[np.float32]

    def measure_error(self, belief: NDArray[np.float32] | float) -> float:
        """Squared, summed."""
        return float((self.errors_N - 2 * belief * self.products_N + np.square(belief) * self.moves_N).sum())


@dataclass(frozen=True)
class Restored:
    """One file under one model.

    Attributes:
        kind, name: of the picture: a key of ``SHARES``, and which pattern or drawing it is.
        least: the squared error, summed, of a picture as near to its original as counts.
        parts: luma and chroma.
        seen: whether it is trained on.
    """

    kind: str
    name: str
    model: str
    quality: int
    least: float
    parts: tuple[Blocks, Blocks]
    seen: bool

    def measure_error(self, beliefs: Sequence[NDArray[np.float32] | float]) -> float:
        """Squared, summed over the picture: luma and chroma count about alike in RGB."""
        errors = (part.measure_error(belief) for part, belief in zip(self.parts, beliefs, strict=True))
        return max(sum(errors), self.least)


def main(
    models: Annotated[list[str], typer.Argument(help="Names or paths.")],
    data: Annotated[list[str], typer.Option("--data", metavar="DIR[=WEIGHT]", help="What they were trained on.")],
    precision: Annotated[Precision, typer.Option(help="Of the models.")] = "auto",
    unseen: Annotated[bool, typer.Option("--unseen", help="Also judge kinds that were not trained on.")] = False,
    out: Annotated[Path, typer.Option(help="Where the judges go.")] = OUT,
) -> None:
    """Train both judges, and print what they are worth."""
    photographs = open_images(data, VALIDATION_FRACTION).cut_validation_crops(SIDE)
    known = [one for model in models for one in restore_all(Restorer(model, precision=precision), model, photographs)]
    _print_shares(known)
    judges = _train_judges([one for one in known if one.seen])
    _print_gains("pictures that were not trained on", judges, [one for one in known if not one.seen])
    arrays: dict[str, NDArray[np.float32]] = {}
    for kind, judge in zip(KINDS, judges, strict=True):
        arrays |= {f"{kind}_mean": judge.mean_E, f"{kind}_scale": judge.scale_E}
        for layer, (weight, bias) in enumerate(zip(judge.weights, judge.biases, strict=True)):
            arrays |= {f"{kind}_weight{layer}": weight, f"{kind}_bias{layer}": bias}
    with place_file(out, overwrite=True) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    say(f"wrote {out}")
    for fold in range(2 if unseen else 0):
        names = sorted({one.name for one in known if one.kind in ("pattern", "drawing")})[fold::2]
        others = _train_judges([one for one in known if one.seen and one.name not in names])
        _print_gains("kinds that were not trained on", others, [one for one in known if one.name in names])


def measure_shares(known: Sequence[Restored]) -> list[float]:
    """Of luma's changes the share that is true, by least squares, for blocks between ``KEPT``'s shares of energy."""
    blocks = [one.parts[0] for one in known]
    kept = np.concatenate([one.evidence_NE[:, 0] for one in blocks])
    moves, products = (np.concatenate([getattr(one, name) for one in blocks]) for name in ("moves_N", "products_N"))
    places = [(kept >= low) & (kept < high) for low, high in pairwise(KEPT)]
    return [float(products[place].sum() / max(moves[place].sum(), 1e-9)) for place in places]


def _print_shares(known: Sequence[Restored]) -> None:
    say(f"true share of luma's change at quality {SHOWN}, by the energy that the cells keep of a block's: {KEPT}")
    for model in dict.fromkeys(one.model for one in known):
        for kind in SHARES:
            shares = measure_shares([o for o in known if (o.model, o.kind, o.quality) == (model, kind, SHOWN)])
            say(f"  {model} {kind}: " + ", ".join(f"{share:.2f}" for share in shares))


def _train_judges(known: Sequence[Restored]) -> tuple[Judge, Judge]:
    """Of luma and of chroma."""
    return train_judge(known, 0), train_judge(known, 1)


def draw_pictures(photographs: Sequence[Pixels8]) -> Iterator[tuple[str, str, Pixels8]]:
    """Kind, name, pixels ``(H, W, 3)``."""
    rng = np.random.default_rng(5)
    for photograph in photographs:
        yield "photograph", "photograph", photograph
    for number, photograph in enumerate(photographs):
        noise = rng.standard_normal((*photograph.shape[:2], 3 if number % 3 == 2 else 1)) * GRAIN[number % len(GRAIN)]
        yield "grain", "grain", (photograph + noise).round().clip(0, 255).astype(np.uint8)
    for name, draw in PATTERNS.items():
        for photograph in photographs[:4]:
            yield "pattern", name, draw(photograph, rng)
    for seed in DRAWINGS:
        for name, drawing in draw_all(seed):
            pixels = drawing[:DRAWING_SIDE, :DRAWING_SIDE]
            yield "drawing", name, np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else pixels


def restore_all(restorer: Restorer, model: str, photographs: Sequence[Pixels8]) -> Iterator[Restored]:
    """Each picture at each quality."""
    for number, (kind, name, original) in enumerate(draw_pictures(photographs)):
        for turn, quality in enumerate(QUALITIES):
            if kind == "drawing" and (number + turn) % DRAWING_EVERY:
                continue
            buffer = io.BytesIO()
            sampling = SAMPLINGS[(number + turn) % len(SAMPLINGS)]
            Image.fromarray(original).save(buffer, "JPEG", quality=quality, subsampling=sampling)
            picture = read_picture(buffer.getvalue())
            assert picture.jpeg is not None
            output = restorer.run_network(picture, consistency="strict")  # the file alone, whatever the photograph was
            shares = None
            calibration = restorer.model_file.for_quality(quality).calibration
            if calibration:
                shares = calibration.at(quality, picture.jpeg.components)
            compared = compare_blocks(
                output.layers[0], original, picture.jpeg.components, picture.jpeg.header.colour_space, shares
            )
            least = original.shape[0] * original.shape[1] * 255**2 / 10 ** (MOST_DB / 10)
            found: tuple[list[Blocks], list[Blocks]] = ([], [])
            for (chroma, (change, followed, truth)), component in zip(compared, picture.jpeg.components, strict=True):
                area = np.float32(component.scale[0] * component.scale[1])
                found[chroma].append(
                    Blocks(
                        gather_evidence(change).reshape(-1, len(EVIDENCE)),
                        area * np.square(followed).sum(axis=(2, 3)).ravel(),
                        area * (followed * truth).sum(axis=(2, 3)).ravel(),
                        area * np.square(truth).sum(axis=(2, 3)).ravel(),
                    )
                )
            parts = _join(found[0]), _join(found[1])
            yield Restored(kind, name, model, quality, least, parts, number % 2 == 0)


def _join(parts: Sequence[Blocks]) -> Blocks:
    names = ("evidence_NE", "moves_N", "products_N", "errors_N")
    return Blocks(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def train_judge(known: Sequence[Restored], part: int, steps: int = STEPS) -> Judge:
    """Learn beliefs b that make ``errors - 2 b products + b^2 moves`` least, each file's in parts of its whole error.

    Args:
        part: 0 of luma, 1 of chroma.
    """
    torch.manual_seed(0)
    files: dict[tuple[str, int], int] = {}
    for one in known:
        files[one.kind, one.quality] = files.get((one.kind, one.quality), 0) + 1
    blocks = [one.parts[part] for one in known]
    evidence = np.concatenate([one.evidence_NE for one in blocks])
    weights = [SHARES[one.kind] / files[one.kind, one.quality] / one.measure_error((1.0, 1.0)) for one in known]
    moves, products = (
        torch.from_numpy(np.concatenate([getattr(one, name) * w for one, w in zip(blocks, weights, strict=True)]))
        for name in ("moves_N", "products_N")
    )
    mean = evidence.mean(axis=0)
    scale = 1 / (evidence.std(axis=0) + np.float32(1e-3))
    standard = torch.from_numpy((evidence - mean) * scale)
    network = nn.Sequential(
        nn.Linear(len(EVIDENCE), HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1)
    )
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    draw = torch.Generator().manual_seed(1)
    for _ in range(steps):
        batch = torch.randint(0, len(standard), (BATCH,), generator=draw)
        belief: Tensor = torch.sigmoid(network(standard[batch])[:, 0])
        loss = (belief.square() * moves[batch] - 2 * belief * products[batch]).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    return Judge(
        mean,
        scale,
        tuple(layer.weight.detach().numpy().T.copy() for layer in layers),
        tuple(layer.bias.detach().numpy().copy() for layer in layers),
    )


def measure_gain_db(one: Restored, judges: tuple[Judge, Judge] | None) -> float:
    """Of the whole picture over the plain decode; without judges all is believed."""
    beliefs: list[NDArray[np.float32] | float] = [1.0, 1.0]
    if judges:
        beliefs = [weigh_evidence(judge, part.evidence_NE) for judge, part in zip(judges, one.parts, strict=True)]
    return float(10 * np.log10(one.measure_error((0.0, 0.0)) / one.measure_error(beliefs)))


def _print_gains(title: str, judges: tuple[Judge, Judge], known: Sequence[Restored]) -> None:
    say(f"{title}: gain over the decode, mean (worst), as it was and judged; the judge's worst")
    for model in dict.fromkeys(one.model for one in known):
        for kind in SHARES:
            for quality in QUALITIES:
                some = [one for one in known if (one.model, one.kind, one.quality) == (model, kind, quality)]
                if some:
                    before, after = (np.array([measure_gain_db(one, by) for one in some]) for by in (None, judges))
                    say(
                        f"  {model} {kind} {quality}: {before.mean():+.3f} ({before.min():+.2f}) "
                        f"{after.mean():+.3f} ({after.min():+.2f}); {(after - before).min():+.2f}"
                    )


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
