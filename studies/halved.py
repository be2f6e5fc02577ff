"""Pictures at half their size, each pixel the mean of four: what an earlier compression left in them is gone.

``python -m studies.halved bsds500 runs/bsds-halved`` writes them as PNG files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from unjpeg.console import run_safely, say
from unjpeg.datasets import resolved
from unjpeg.evaluate.pairs import load_images
from unjpeg.files import place_file

__all__ = ["main"]


def main(
    data: Annotated[str, typer.Argument(help="A data set or a folder of pictures.")],
    out: Annotated[Path, typer.Argument(help="Folder of the halved ones; what is there already is kept.")],
) -> None:
    """Halve pictures by averaging 2x2 pixels; an odd last row or column is the mean of two."""
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    for name, pixels in load_images(resolved(data)):
        file = out / f"{Path(name).stem}.png"
        if not file.exists():
            with place_file(file, overwrite=True) as stream:
                Image.fromarray(pixels).reduce(2).save(stream, "PNG")
        count += 1
    say(f"{out}: {count} pictures at half their size")


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
