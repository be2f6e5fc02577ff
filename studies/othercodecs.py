"""Which JPEG quality a WebP or an AVIF compares to: the tables in ``src/unjpeg/othercodecs.py``.

``python -m studies.othercodecs --data DIR`` compresses crops of the validation split at several qualities, restores
each as if it looked like every quality in turn, and prints a line for each: the header's quantiser, the gain over the
decoded picture as the network reads it, and of every told quality. The tables hold the best ones.
"""

from __future__ import annotations

import io
from typing import Annotated, Final

import numpy as np
import typer
from PIL import Image

from unjpeg.av1 import avif_quantiser
from unjpeg.console import run_safely, say
from unjpeg.evaluate.metrics import psnr_db
from unjpeg.restorer import Options, Restorer
from unjpeg.train.config import VALIDATION_FRACTION
from unjpeg.train.run import open_images
from unjpeg.vp8 import webp_quantiser

__all__ = ["main"]

QUANTISER: Final = {"WEBP": webp_quantiser, "AVIF": avif_quantiser}
QUALITIES: Final = (5, 10, 20, 30, 40, 50, 60, 70, 80, 90)
TOLD: Final = (*range(10, 100, 5), 98)
SIDE: Final = 256


def main(
    data: Annotated[list[str], typer.Option("--data", metavar="DIR", help="What the model was trained on.")],
    model: Annotated[str, typer.Option(help="Model name or path.")] = "fast",
    every: Annotated[int, typer.Option(min=1, help="Only every so manieth held-out picture.")] = 2,
) -> None:
    """Measure which told quality restores WebPs and AVIFs best."""
    crops = open_images(data, VALIDATION_FRACTION).cut_validation_crops(SIDE)[::every]
    restorer = Restorer(model)
    for codec, quantiser in QUANTISER.items():
        for quality in QUALITIES:
            gains: dict[int | None, list[float]] = {told: [] for told in (None, *TOLD)}
            found = []
            for crop in crops:
                buffer = io.BytesIO()
                Image.fromarray(crop).save(buffer, codec, quality=quality)
                found.append(quantiser(buffer.getvalue()) or 0)
                decoded = np.asarray(Image.open(buffer).convert("RGB"))
                before = psnr_db(decoded, crop)
                for told, of_told in gains.items():
                    # An array has no header: without a quality the network goes by what it reads.
                    options = Options(quality=told, bit_depth=8)
                    of_told.append(psnr_db(restorer.restore(decoded, options).pixels.astype(np.uint8), crop) - before)
            means = {told: float(np.mean(values)) for told, values in gains.items()}
            best = max(TOLD, key=lambda told: means[told])
            all_told = " ".join(f"{told}:{means[told]:+.2f}" for told in TOLD)
            say(
                f"{codec} {quality}: quantiser {np.mean(found):.1f}, as read {means[None]:+.3f} dB, best {best} "
                f"({means[best]:+.3f} dB); {all_told}"
            )


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
