"""How far a model's work is to be trusted, measured on pictures that it was not trained on.

``unjpeg export`` does this. ``python -m unjpeg.train.calibrate MODEL --data DIR --out FILE`` does it to a model file
that was exported without. The pictures are the validation split of the folders.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from unjpeg.console import run_safely, say
from unjpeg.files import check_target
from unjpeg.modelfile import ModelFile
from unjpeg.picture import read_picture
from unjpeg.projection import Calibration, OffsetSums, measure_offsets
from unjpeg.restorer import Restorer
from unjpeg.train.config import VALIDATION_FRACTION
from unjpeg.train.degrade import Pixels8
from unjpeg.train.run import open_images

__all__ = [
    "CALIBRATED_QUALITIES",
    "CROP_SIDE",
    "DataOption",
    "ModelArgument",
    "OutOption",
    "calibrate_file",
    "main",
    "measure_calibration",
    "rewrite",
]

CALIBRATED_QUALITIES: Final = (5, 10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95, 98, 100)
SAMPLINGS: Final = ("4:2:0", "4:4:4")
CROP_SIDE: Final = 384

STEEPEST: Final = (1.25, 1.0)
"""Inner shares of luma and chroma at most. Those of chroma that came out above 1 did not hold on other pictures."""

RIDGE: Final = 0.01
TINY: Final = 1e-9
"""How firmly both shares are held to what one for both would be, in parts of each equation's and of all weight."""

STEPS: Final = 512
"""Outer shares are multiples of one part in so many: what the cell leaves the inner one is exact in fp16, too."""

_DIAGONALS: Final = np.add.outer(np.arange(8), np.arange(8))


def measure_calibration(
    restorer: Restorer,
    originals: Sequence[Pixels8],
    qualities: Sequence[int] = CALIBRATED_QUALITIES,
) -> Calibration:
    """Compress pictures, run the network on them and compare the coefficients with the originals'.

    Args:
        originals: ``(H, W, 3)``, not trained on.
        qualities: at which they are compressed, at each of ``SAMPLINGS``; ascending, two or more.

    Returns:
        Shares measured over the frequencies of a diagonal together, from so many coefficients that they hold on other
        pictures: docs/research/training-log.md.
    """
    shares = [[_shares(restorer, originals, quality, sampling) for sampling in SAMPLINGS] for quality in qualities]
    return Calibration(tuple(qualities), np.array(shares, np.float32))


def _shares(restorer: Restorer, originals: Sequence[Pixels8], quality: int, sampling: str) -> NDArray[np.float64]:
    """Of luma and chroma, in the inner and the outer half of the cell, ``(2, 2, 8, 8)``."""
    total = OffsetSums(np.zeros((2, 2, 8, 8)), np.zeros((2, 2, 2, 8, 8)))
    for original in originals:
        buffer = io.BytesIO()
        Image.fromarray(original).save(buffer, "JPEG", quality=quality, subsampling=sampling)
        picture = read_picture(buffer.getvalue())
        assert picture.jpeg is not None
        output = restorer.run_network(picture, consistency="strict")  # the file alone, whatever the photograph was
        space = picture.jpeg.header.colour_space
        sums = measure_offsets(output.layers[0], original, picture.jpeg.components, space)
        for part, of_picture in zip(total, sums, strict=True):
            part += of_picture
    shares = np.empty((2, 2, 8, 8))
    for kind, steepest in enumerate(STEEPEST):
        for diagonal in range(15):
            where = np.nonzero(np.equal(_DIAGONALS, diagonal))
            products = total.products[kind][:, *where].sum(axis=-1)
            squares = total.squares[kind][:, :, *where].sum(axis=-1)
            shares[kind][:, *where] = _fitted(products, squares, steepest)[:, None]
    return shares


def _fitted(products: NDArray[np.float64], squares: NDArray[np.float64], steepest: float) -> NDArray[np.float64]:
    """The inner and the outer share, ``(2,)``, by least squares, held a little to what one share for both would be."""
    if not squares.sum() > 0:
        return np.ones(2)
    alike = np.full(2, np.clip(products.sum() / squares.sum(), 0, 1))
    ridge = RIDGE * np.diag(squares) + TINY * squares.sum()
    inner, outer = alike + np.linalg.solve(squares + np.diag(ridge), products - squares @ alike)
    outer = np.rint(np.clip(outer, 0, 1) * STEPS) / STEPS
    return np.array([np.clip(inner, 0, min(steepest, 2 - outer)), outer])


def calibrate_file(path: Path, originals: Sequence[Pixels8]) -> ModelFile:
    """A model file with a fresh calibration, not written yet.

    Args:
        originals: as ``measure_calibration``.
    """
    return ModelFile.read(path).of_each_set(
        lambda weights: weights.calibrated(measure_calibration(Restorer(weights, precision="full"), originals))
    )


ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL", help="A model file (.unjpeg).")]
DataOption = Annotated[list[str], typer.Option("--data", metavar="DIR[=WEIGHT]", help="What it was trained on.")]
OutOption = Annotated[Path, typer.Option("--out", metavar="FILE", help="The model file to write.")]


def rewrite(
    model: Path, data: list[str], out: Path, side: int, change: Callable[[Path, list[Pixels8]], ModelFile]
) -> ModelFile:
    """Write what ``change`` makes of a model file and of the validation split's crops of that side."""
    check_target(out, overwrite=True)
    made = change(model, open_images(data, VALIDATION_FRACTION).cut_validation_crops(side))
    made.write(out)
    say(f"wrote {out}")
    return made


def main(model: ModelArgument, data: DataOption, out: OutOption) -> None:
    """Measure how far a model is to be trusted, and store that with it."""
    rewrite(model, data, out, CROP_SIDE, calibrate_file)


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
