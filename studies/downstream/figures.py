"""What a network makes of any picture, its JPEG and what is restored of that, on one sheet: Figs. 10 and 11.

::

    python -m studies.downstream.figures yolox_nano.onnx examples/kitten-original.webp --quality 10 --out boxes.webp
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from studies.downstream.detection import SHOWN_SCORE, draw_boxes
from studies.downstream.recognition import Kind, Recogniser, open_recogniser
from studies.downstream.segmentation import draw_classes
from unjpeg.console import run_safely
from unjpeg.errors import SettingError
from unjpeg.evaluate.method import shape_like
from unjpeg.evaluate.methods import find_method
from unjpeg.evaluate.pairs import Degradation, Pixels8, load_image
from unjpeg.evaluate.sheets import Panel, fit, set_side_by_side, stack
from unjpeg.files import place_file

__all__ = ["draw_found", "main"]


def draw_found(network: Recogniser, kind: Kind, pixels: Pixels8) -> Image.Image:
    """A picture under the boxes that a network is sure of, or under its classes of pixels."""
    if kind == "segmentation":
        return draw_classes(pixels, network.find_labels(pixels), [*network.labels.values()])
    boxes = [
        {"bbox": [left, top, right - left, bottom - top], "category_id": label, "score": score}
        for (left, top, right, bottom), label, score in zip(*network.find_boxes(pixels), strict=True)
        if score >= SHOWN_SCORE
    ]
    return draw_boxes(pixels, sorted(boxes, key=lambda box: float(box["score"])), network.labels)


def main(
    network: Annotated[str, typer.Argument(metavar="NETWORK", help="An ONNX file, or a checkpoint's folder.")],
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE...", help="Originals.")],
    kind: Annotated[str, typer.Option(help="detection or segmentation.")] = "detection",
    description: Annotated[Path | None, typer.Option(metavar="FILE", help="Of an ONNX file.")] = None,
    method: Annotated[list[str], typer.Option("--method", metavar="M", help="As unjpeg benchmark takes them.")] = [  # noqa: B006
        "jpeg",
        "default",
    ],
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of the JPEGs.")] = 10,
    width: Annotated[int, typer.Option(min=50, help="Of each picture on the sheet, at most.")] = 380,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The sheet, .png or .webp.")] = Path("runs/figures.png"),
) -> None:
    """Draw what a network finds in originals, in their JPEGs, and in what is restored of those."""
    if kind not in ("detection", "segmentation"):
        raise SettingError(f"--kind {kind}: there are detection and segmentation")
    if out.suffix not in (".png", ".webp"):
        raise SettingError(f"--out {out}: the sheet ends in .png or .webp")
    chosen: Kind = "detection" if kind == "detection" else "segmentation"
    finder = open_recogniser(network, chosen, description)
    methods = [find_method(spec) for spec in method]
    degradation, rows = Degradation("jpeg", quality), []
    for path in pictures:
        original = load_image(path)
        file = degradation.apply(original).file
        versions = {f"{path.name}, original": original}
        versions |= {f"{degradation.name}, {each.name}": shape_like(each.restore(file), original) for each in methods}
        panels = [Panel((title,), fit(draw_found(finder, chosen, pixels), width)) for title, pixels in versions.items()]
        rows.append(set_side_by_side(panels))
    out.parent.mkdir(parents=True, exist_ok=True)
    with place_file(out, overwrite=True) as placed:
        stack(rows).save(placed, out.suffix[1:].upper(), quality=80)
    typer.echo(f"wrote {out}")


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
