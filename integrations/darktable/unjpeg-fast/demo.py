"""Restores a picture with the graph alone, tile by tile as darktable does.

The pipeline of darktable-ai calls ``demo``. By hand::

    python demo.py --model model.onnx --image photo.jpg --output restored.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageOps

__all__ = ["OVERLAP", "TILE", "demo", "main", "restore_tiled"]

TILE: Final = 1024
"""Side of a tile. darktable takes 256 to 2048, as its memory allows."""

BLOCK: Final = 8
"""Side of a JPEG's blocks."""

OVERLAP: Final = 64
"""Pixels that a tile sees beyond what is kept of it, on each side: darktable's of its task "denoise"."""


def restore_tiled(
    session: Any, image: NDArray[np.float32], tile: int = TILE, overlap: int = OVERLAP
) -> NDArray[np.float32]:
    """A picture of any size, ``(H, W, 3)``, RGB, range 0..1, to the same. Beyond its edges it is mirrored.

    What is kept of tiles starts on multiples of ``tile - 2 * overlap``: a multiple of 8, or the blocks do not fit.

    Raises:
        ValueError: nothing is kept of such tiles, or the blocks do not fit.
    """
    height, width = image.shape[:2]
    step = tile - 2 * overlap
    if step <= 0 or step % BLOCK or overlap % BLOCK:
        raise ValueError(f"a tile is {2 * overlap} pixels more than a multiple of {BLOCK}, as {TILE}; got {tile}")
    name = session.get_inputs()[0].name
    restored = np.empty_like(image)
    for top in range(0, height, step):
        rows = _mirror(np.arange(top - overlap, top - overlap + tile), height)
        for left in range(0, width, step):
            columns = _mirror(np.arange(left - overlap, left - overlap + tile), width)
            seen = image[rows[:, None], columns].transpose(2, 0, 1)[None]
            (made,) = session.run(None, {name: np.ascontiguousarray(seen)})
            kept = made[0, :, overlap : overlap + step, overlap : overlap + step].transpose(1, 2, 0)
            place = restored[top : top + step, left : left + step]
            place[...] = kept[: place.shape[0], : place.shape[1]]
    return restored


def _mirror(places: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Places beyond either edge, mirrored at the edge's pixel once, and held to the picture after that."""
    places = np.abs(places)
    places = np.where(places >= length, 2 * length - 2 - places, places)
    return places.clip(0, length - 1)


def demo(model: str, image: str, output: str, **kwargs: Any) -> None:
    """Restore a file, upright.

    Args:
        kwargs: ``tile``, see ``restore_tiled``.
    """
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    picture = ImageOps.exif_transpose(Image.open(image)).convert("RGB")
    pixels = np.asarray(picture, np.float32) / np.float32(255)
    restored = restore_tiled(session, pixels, int(kwargs.get("tile", TILE)))
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((restored.clip(0, 1) * 255).round().astype(np.uint8)).save(output)


def main() -> None:
    """Restore a picture with a graph that ``convert.py`` made."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    for name in ("--model", "--image", "--output"):
        parser.add_argument(name, required=True)
    parser.add_argument(
        "--tile", type=int, default=TILE, help="side of a tile in pixels: 128 more than a multiple of 8"
    )
    given = parser.parse_args()
    try:
        demo(given.model, given.image, given.output, tile=given.tile)
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
