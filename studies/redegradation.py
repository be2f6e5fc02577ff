"""``unjpeg adapt`` by re-degradation, measured against originals that it never sees.

``python -m studies.redegradation`` compresses a folder of pictures as the target, adapts a model to the files, with
clean pictures of other kinds and with the target's own at half their size, and measures a test set in the same
codec and as JPEGs, before and after. A journal (``redegradation.jsonl``) keeps what is done; all of it goes to
``results/redegradation.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from studies.carn.codecs import measure
from unjpeg.adapt.redegrade import Redegradation, redegrade_model
from unjpeg.console import run_safely, say
from unjpeg.datasets import data_root
from unjpeg.evaluate.journal import Journal
from unjpeg.evaluate.method import Method
from unjpeg.evaluate.methods import Decoder, UnjpegModel
from unjpeg.evaluate.pairs import Degradation, Pixels8, load_images
from unjpeg.evaluate.results import describe_origin, put_results
from unjpeg.files import put_in_place
from unjpeg.modelfile import ModelFile
from unjpeg.version import source_commit

__all__ = ["main"]

JPEGS: Final = ("jpeg-10", "jpeg-30", "jpeg-75")
SOURCES: Final = ("photos", "cid22", "clic2025", "cameras")
PAIRS: Final = ("clean", "halved")


def main(
    target: Annotated[list[str], typer.Option(help="Degradations of one target, between commas.")] = [  # noqa: B006
        "webp-10,webp-20,webp-40,webp-60,webp-80",
        "avif-20,avif-30,avif-40,avif-50,avif-60",
    ],
    seed: Annotated[list[int], typer.Option(min=0, help="Of the adaptations.")] = [0, 1, 2],  # noqa: B006
    pairs: Annotated[list[str], typer.Option(help="clean, halved.")] = list(PAIRS),  # noqa: B006
    model: Annotated[str, typer.Option(help="Model name or path.")] = "fast",
    steps: Annotated[int, typer.Option(min=1, help="Of each adaptation.")] = 500,
    pictures: Annotated[int, typer.Option(min=1, help="In the target.")] = 100,
    data: Annotated[Path | None, typer.Option(help="Folder with train/ and test/. [$UNJPEG_DATA]")] = None,
    work: Annotated[Path, typer.Option(help="Folder of the targets and the adaptations.")] = Path("runs/redegradation"),
    out: Annotated[Path, typer.Option(help="Folder of the result file.")] = Path("results"),
) -> None:
    """Adapt a model to other codecs and measure what it gains."""
    root, file = data or data_root(), ModelFile.read(model)
    originals = list(load_images(root / "train/bsds500/train"))[:pictures]
    test = dict(load_images(root / "test/live1"))
    sources = [str(root / "train" / name) for name in SOURCES]
    work.mkdir(parents=True, exist_ok=True)
    with Journal(work / "redegradation.jsonl") as journal:
        # Without its commit a figure is measured again.
        rows = {_name(row): row for row in journal.found if row.get("commit")}
        for named in target:
            codecs = named.split(",")
            folder = _write_target(originals, codecs, work)
            for kind in pairs:
                for number in seed:
                    key = {"target": named, "pairs": kind, "seed": number, "start": file.hash, "steps": steps}
                    if _name(key) in rows:
                        continue
                    place = work / f"{codecs[0]}-{len(codecs)}-{kind}-{number}-{file.hash}-{steps}"
                    report = redegrade_model(
                        model,
                        folder,
                        sources if kind == "clean" else [],
                        place,
                        config=Redegradation(steps=steps),
                        seed=number,
                        say=say,
                    )
                    methods = {"decoder": Decoder(), "before": UnjpegModel(model), "after": UnjpegModel(report.model)}
                    found = {}
                    for which in (*codecs, *JPEGS):
                        known = _find_before(rows.values(), file.hash, which)
                        found[which] = {
                            name: known[name] if name in known else _measure(test, which, method)
                            for name, method in methods.items()
                        }
                    row = key | {"kept_steps": report.steps, "commit": source_commit(), "psnr_db": found}
                    journal.add(row)
                    rows[_name(key)] = row
                    gains = {which: figures["after"] - figures["before"] for which, figures in found.items()}
                    say(f"{kind}, seed {number}: " + ", ".join(f"{which} {gain:+.3f}" for which, gain in gains.items()))
    put_results(out / "redegradation.json", {**describe_origin(), "model": model, "rows": list(rows.values())})


def _name(row: Mapping[str, Any]) -> str:
    return json.dumps([row[name] for name in ("target", "pairs", "seed", "start", "steps")])


def _find_before(rows: Iterable[Mapping[str, Any]], start: str, degradation: str) -> dict[str, float]:
    """What earlier rows hold of this degradation that no adaptation changes: the decoder, and the model as it was."""
    for row in rows:
        if row["start"] == start and degradation in row["psnr_db"]:
            figures = row["psnr_db"][degradation]
            return {name: figures[name] for name in ("decoder", "before")}
    return {}


def _measure(pictures: Mapping[str, Pixels8], degradation: str, method: Method) -> float:
    """Mean PSNR in dB."""
    made = Degradation.parse(degradation)
    return round(measure((made.apply(pixels) for pixels in pictures.values()), method)["psnr_db"], 4)


def _write_target(originals: list[tuple[str, Pixels8]], codecs: list[str], work: Path) -> Path:
    """The pictures, each in one of the codecs in turn."""
    folder = work / f"target-{'-'.join(codecs)}"
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, pixels) in enumerate(originals):
        degradation = Degradation.parse(codecs[number % len(codecs)])
        place = folder / f"{name}.{degradation.codec}"
        if not place.exists():
            put_in_place(place, degradation.apply(pixels).file, overwrite=True)
    return folder


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
