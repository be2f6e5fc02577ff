"""What ``unjpeg adapt`` reads and writes, looked at before any work: without torch, which takes seconds to load."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unjpeg.datasets import ImageFolder, resolved
from unjpeg.errors import OutputError, TrainingDataError
from unjpeg.files import check_target

__all__ = ["AdaptationFolders"]


@dataclass(frozen=True, slots=True)
class AdaptationFolders:
    """Folders that an adaptation can work with.

    Attributes:
        target: of compressed pictures.
        source: of clean pictures, others than the target's.
        checkpoint, model, report: files in the output folder, which is there.
    """

    target: Path
    source: tuple[ImageFolder, ...]
    checkpoint: Path
    model: Path
    report: Path

    @classmethod
    def open(cls, target: Path, source: Sequence[str], out: Path) -> AdaptationFolders:
        """Make the output folder if it lacks, and look into the others.

        Args:
            target: a folder, or a data set's name.
            source: folders or data sets, each ``DIR`` or ``DIR=WEIGHT``.

        Raises:
            OutputError: nothing can be written to ``out``.
            TrainingDataError: a folder is missing, or has no pictures; or a picture of the target is in the source,
                too: what passes for its own original would teach the wrong thing.
        """
        checkpoint, model, report = _outputs(out)
        found = cls(resolved(str(target)), tuple(ImageFolder.parse(text) for text in source), checkpoint, model, report)
        _refuse_same_pictures(found.target, found.source)
        return found


def _outputs(out: Path) -> tuple[Path, Path, Path]:
    """The checkpoint, the model and the report in a folder, made if it lacks. Raises OutputError before any work."""
    paths = out / "adapt.safetensors", out / "adapted.unjpeg", out / "report.json"
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file; give a folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise OutputError(f"{out}: cannot be written to ({error.strerror or error})") from error
    for path in paths:
        check_target(path, overwrite=True)
    return paths


def _refuse_same_pictures(target: Path, source: Sequence[ImageFolder]) -> None:
    theirs: dict[int, list[Path]] = {}
    for folder in source:
        a, b = folder.path.resolve(), target.resolve()
        if a == b or a in b.parents or b in a.parents:
            how = "is the source itself" if a == b else f"{'lies in' if a in b.parents else 'holds'} the source {a}"
            raise TrainingDataError(f"{target}: {how}; the source must be other, clean pictures")
        for file in folder.files():
            theirs.setdefault(file.stat().st_size, []).append(file)
    for file in ImageFolder(target).files():
        for other in theirs.get(file.stat().st_size, ()):
            if _digest(file) == _digest(other):
                raise TrainingDataError(f"{file}: is also in the source, as {other}; remove it from one of them")


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise TrainingDataError(f"{file}: cannot be read ({error.strerror or error})") from error
