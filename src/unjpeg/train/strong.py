"""Weights of their own for strong compression: two trainings of one network in one model file.

``python -m unjpeg.train.strong MODEL STRONG --up-to QUALITY --out FILE`` puts two exported models together. The second
was trained from the first on low qualities alone (``--start MODEL --set dagn.degradation.max_quality=26``); it restores
what is of that quality and below.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unjpeg.console import run_safely, say
from unjpeg.errors import ModelError
from unjpeg.files import check_target
from unjpeg.modelfile import ModelFile
from unjpeg.train.calibrate import ModelArgument, OutOption

__all__ = ["main"]


def main(
    model: ModelArgument,
    strong: Annotated[Path, typer.Argument(metavar="STRONG", help="The same network, trained on low qualities.")],
    up_to: Annotated[int, typer.Option(min=1, max=99, metavar="QUALITY", help="The highest that STRONG restores.")],
    out: OutOption,
) -> None:
    """Put the weights of two models into one."""
    check_target(out, overwrite=True)
    common, low = ModelFile.read(model), ModelFile.read(strong)
    try:
        common.with_strong(low, up_to).write(out)
    except ModelError as error:
        raise ModelError(f"{strong}: {error} ({model}); train it from that one, and export both alike") from error
    say(f"wrote {out}")


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
