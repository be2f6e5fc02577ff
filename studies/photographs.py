"""Training photographs made anew from the repositories that hold them, by the list of those that were trained on.

``python -m studies.photographs docs/research/training-pictures.csv CLONES OUT`` reads each picture of the list at its
commit from ``CLONES/OWNER/NAME``, a clone (bare or not), or from ``CLONES/PACKAGE``, an unpacked Debian package. They
are turned upright, converted to sRGB, made smaller by the list's factor and written as JPEGs of quality 95, 4:4:4. What
is there already is kept; what is missing is named.
"""

from __future__ import annotations

import csv
import io
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image, ImageCms, ImageOps

from unjpeg.console import run_safely, say
from unjpeg.errors import TrainingDataError
from unjpeg.files import place_file

__all__ = ["Photograph", "make_smaller", "read_list", "rebuild"]

QUALITY = 95
"""Of the JPEGs that are written."""


@dataclass(frozen=True, slots=True)
class Photograph:
    """A row of the list.

    Attributes:
        file: where it goes, below the folder of all.
        width, height: in pixels, made smaller.
        repository: ``OWNER/NAME``, or ``Debian PACKAGE VERSION``.
        commit: that holds it; ``-`` in a package.
        path: there.
        original_size: ``WxH``, in pixels, as it lies there.
        author, licence: as the repository states them.
    """

    file: str
    width: int
    height: int
    repository: str
    commit: str
    path: str
    original_size: str
    author: str
    licence: str

    @property
    def source(self) -> str:
        """The folder that it is read from, below that of all clones."""
        return self.repository if self.commit != "-" else self.repository.split()[1]

    def read(self, clones: Path) -> bytes:
        """Raises TrainingDataError if it is not there."""
        folder = clones / self.source
        try:
            if self.commit == "-":
                return (folder / self.path).read_bytes()
            command = ["git", "-C", str(folder), "cat-file", "blob", f"{self.commit}:{self.path}"]
            return subprocess.run(command, capture_output=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise TrainingDataError(f"{folder}: has no {self.path} at {self.commit}") from error


def read_list(file: Path) -> list[Photograph]:
    """Raises TrainingDataError if it is not such a list."""
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        return [Photograph(**{**row, "width": int(row["width"]), "height": int(row["height"])}) for row in rows]  # type: ignore[arg-type]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingDataError(f"{file}: is not a list of photographs ({error})") from error


def make_smaller(data: bytes, photograph: Photograph) -> Image.Image:
    """Upright, in sRGB, and smaller by a whole factor; what does not fill it is cut off at the edges, half at each.

    Raises TrainingDataError if it is not the picture of the list.
    """
    with Image.open(io.BytesIO(data)) as image:
        profile = image.info.get("icc_profile")
        upright = ImageOps.exif_transpose(image)
        if profile and upright.mode in ("RGB", "CMYK"):
            profiles = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(upright, *profiles, outputMode="RGB")
            upright = converted if converted is not None else upright
        pixels = upright.convert("RGB")
    size = photograph.width, photograph.height
    factor = pixels.width // size[0]
    if factor < 1 or (pixels.width // factor, pixels.height // factor) != size:
        raise TrainingDataError(f"{photograph.path}: has {pixels.size} pixels, which does not come to {size}")
    left, top = ((whole - factor * part) // 2 for whole, part in zip(pixels.size, size, strict=True))
    box = left, top, left + factor * size[0], top + factor * size[1]
    return pixels.resize(size, Image.Resampling.LANCZOS, box)


def rebuild(listed: Path, clones: Path, out: Path) -> list[str]:
    """Write all pictures of the list that can be had; returns why others cannot.

    Raises:
        TrainingDataError: there is no such list.
        OutputError: a file cannot be written.
    """
    failures = []
    for photograph in read_list(listed):
        target = out / photograph.file
        if target.exists():
            continue
        try:
            smaller = make_smaller(photograph.read(clones), photograph)
        except (TrainingDataError, OSError, ImageCms.PyCMSError) as error:
            failures.append(f"{photograph.file}: {error}")
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with place_file(target, overwrite=True) as stream:
            smaller.save(stream, "JPEG", quality=QUALITY, subsampling=0)
    return failures


def main(
    listed: Annotated[Path, typer.Argument(metavar="LIST", help="A list of photographs (.csv).")],
    clones: Annotated[Path, typer.Argument(help="Folder of clones, each OWNER/NAME.")],
    out: Annotated[Path, typer.Argument(help="Folder of the pictures; what is there already is kept.")],
) -> None:
    """Make training photographs anew from the repositories that hold them."""
    failures = rebuild(listed, clones, out)
    for failure in failures:
        say(failure)
    say(f"{out}: {len(read_list(listed)) - len(failures)} pictures, {len(failures)} are missing")
    if failures:
        raise typer.Exit(1)


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
