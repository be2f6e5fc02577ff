"""Makes darktable's model of the package unjpeg: one ONNX graph, or a whole archive for darktable's preferences.

The pipeline of darktable-ai calls ``convert``. By hand::

    python convert.py --output denoise-unjpeg-fast.dtmodel

Needs the extra ``export`` of unjpeg.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from unjpeg.blind import export_blind
from unjpeg.errors import UnjpegError

__all__ = ["CONFIG", "convert", "main", "pack"]

CONFIG: Final = {
    "id": "denoise-unjpeg-fast",
    "name": "denoise unjpeg fast",
    "description": "unjpeg's small network, which takes out JPEG artifacts",
    "task": "denoise",
    "arch": "generic",
    "backend": "onnx",
    "version": "1.0",
    "tiling": True,
}
"""What darktable-ai makes of ``model.yaml``."""


def convert(output: str, model: str = "fast", quality: int | None = None) -> None:
    """Write the graph ``model.onnx``.

    Args:
        output: where it goes.
        model: a shipped model of unjpeg, or a model file's path.
        quality: what the pictures look like, 1..100; None for pictures of any quality.
    """
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    export_blind(model, Path(output), quality=quality)


def pack(output: Path, model: str = "fast", quality: int | None = None) -> None:
    """Write the archive that darktable's preferences install: the graph, and what it is for."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "model.onnx"
        convert(str(graph), model, quality)
        with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{CONFIG['id']}/config.json", json.dumps(CONFIG, indent=4) + "\n")
            archive.write(graph, f"{CONFIG['id']}/model.onnx")


def main() -> None:
    """Write a graph (.onnx) or an archive (.dtmodel), by the file's name."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, required=True, help="FILE.onnx or FILE.dtmodel")
    parser.add_argument("--model", default="fast", help="a shipped model, or a model file's path")
    parser.add_argument("--quality", type=int, help="what the pictures look like, 1 to 100 [any]")
    given = parser.parse_args()
    if given.output.suffix not in (".onnx", ".dtmodel"):
        parser.error(f"{given.output}: name a file that ends in .onnx or .dtmodel")
    try:
        if given.output.suffix == ".dtmodel":
            pack(given.output, given.model, given.quality)
        else:
            convert(str(given.output), given.model, given.quality)
    except (UnjpegError, ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
