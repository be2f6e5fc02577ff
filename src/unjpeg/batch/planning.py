"""What goes where: inputs to jobs, one output each."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TypeVar

from unjpeg.batch.entries import JOURNAL, JournalEntry, read_entries
from unjpeg.errors import BadImageError, ExistsError, OutputError, UnjpegError
from unjpeg.files import fold_case, ignores_case, is_same_file
from unjpeg.heif import HEIF_SUFFIXES, can_read_heif
from unjpeg.output import FORMATS, default_format, format_of
from unjpeg.segments import count_components

__all__ = ["LEFT_OUT", "NO_PICTURE", "SUBFOLDER", "Job", "Plan", "output_names", "picture_suffixes", "plan"]

P = TypeVar("P", bound=PurePath)

_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".avif"})

NO_PICTURE, HIDDEN = "no picture by its name", "hidden"
EARLIER_RESULT, LINKED_FOLDER = "an earlier result", "a link to a folder"
SUBFOLDER, NAMED_BEFORE = "a subfolder", "named before"
LEFT_OUT = {
    NO_PICTURE: "no picture by their names",
    HIDDEN: "hidden",
    EARLIER_RESULT: "earlier results",
    LINKED_FOLDER: "links to folders",
    SUBFOLDER: "subfolders",
    NAMED_BEFORE: "named before",
}
"""Why something that is there is no input, of one and of several. What is named itself is tried, whatever it is."""

CMYK_NOTE = "a TIFF, since it is CMYK, which PNG cannot hold"


@dataclass(frozen=True, slots=True)
class Job:
    """One input and where its result goes.

    Attributes:
        source: a path, or ``-`` for standard input.
        target: None is standard output.
        format: of the result, a name in ``output.FORMATS``.
        root: the output folder of the batch, or None if the results go beside their inputs.
        interrupted: what is in the target's place was left there by a batch that was cut off, and may be replaced.
        note: why the format is not the usual one, if it is not.
        kept: what is in the target's place is named itself, if only by a wildcard, and is never replaced.
    """

    source: str
    target: Path | None
    format: str
    root: Path | None = None
    interrupted: bool = False
    note: str | None = None
    kept: bool = False

    def check(self, overwrite: bool) -> None:
        """Fail before the work, not after it. Raises OutputError."""
        if self.target is None:
            return
        exists = os.path.exists(self.target)  # Path.exists raises for names that are too long
        if not exists:
            try:
                os.lstat(self.target)
            except OSError as error:
                if error.errno == errno.ENAMETOOLONG:
                    raise OutputError(f"{self.target}: cannot be written (the name is too long)") from error
        if self.source != "-" and exists and is_same_file(self.target, self.source):
            raise OutputError(f"{self.target}: is the input itself; choose another output")
        if exists and os.path.isdir(self.target):
            raise OutputError(f"{self.target}: is a folder; choose another output")
        if exists and overwrite and self.kept:
            raise OutputError(f"{self.target}: is an input itself; choose another output, or name {self.source} alone")
        is_there = self.source == "-" or os.path.lexists(self.source)  # else that is what is wrong
        if exists and not overwrite and is_there:
            raise ExistsError(f"{self.target}: exists already; pass --overwrite to replace it")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, and which inputs go nowhere.

    Attributes:
        left_out: what is in the given folders and is no input, and what is given twice, each with the reason: one of
            ``LEFT_OUT``.
    """

    jobs: tuple[Job, ...]
    failures: tuple[tuple[str, UnjpegError], ...]
    left_out: tuple[tuple[Path, str], ...] = ()


def plan(inputs: Sequence[str], output: str | None, format: str | None, *, recursive: bool) -> Plan:
    """Which file goes where. Two inputs never share an output: see ``output_names``; else the later one fails.

    A picture that is given twice, by itself or by its folder, is taken once: where it came first.

    Args:
        inputs: files, folders, or ``-``.
        output: a file, a folder, ``-``, or None for beside each input.
        format: a name in ``output.FORMATS``; None goes by the output's suffix, else PNG, or TIFF for what a look into
            the file finds to be CMYK.
        recursive: folders below folders, too.

    Raises:
        ValueError: the arguments contradict each other.
    """
    sources: list[tuple[str, Path]] = []  # input, and its path below the output folder
    failures: list[tuple[str, UnjpegError]] = []
    left_out: list[tuple[Path, str]] = []
    given_before: set[str] = set()

    def is_new(path: str) -> bool:
        """Whether it was not given before. Of two names of one file, linked to each other, each is a picture."""
        folder, name = os.path.split(path)
        key = os.path.join(os.path.realpath(folder), name)
        if path == "-" or key not in given_before:
            given_before.add(key)
            return True
        left_out.append((Path(path), NAMED_BEFORE))
        return False

    several = len(set(inputs)) > 1
    results = _Results()
    # A shell's wildcard fits results, too. Where nothing else is named, they are meant.
    named_results = {given for given in inputs if several and given not in ("", "-") and Path(given) in results}
    if named_results.issuperset(inputs):
        named_results = set()
    for given in inputs:
        if not given:
            failures.append(
                (given, BadImageError("an input's name is empty: a variable of the shell that is not set?"))
            )
        elif _is_dir(given):
            found = _Found.of(Path(given), results, recursive=recursive, without=output)
            for error in found.unreadable:
                where = str(error.filename or given)
                failures.append((where, BadImageError(f"{where}: cannot be read ({error.strerror or error})")))
            if not found.pictures and not found.unreadable:
                failures.append((given, BadImageError(found.why_none(given))))
                found.left_out = [(path, reason) for path, reason in found.left_out if reason != SUBFOLDER]
            left_out += found.left_out
            sources += [(str(path), path.relative_to(given)) for path in found.pictures if is_new(str(path))]
        elif given in named_results and os.path.isfile(given):
            left_out.append((Path(given), EARLIER_RESULT))
        else:
            if several and _is_special(given):
                failures.append(
                    (given, BadImageError(f"{given}: is no regular file (a pipe, a device); restore it alone"))
                )
                continue
            # A path that ends in .. and is no folder names no file, but the reader says what is wrong with it.
            name = "stdin" if given == "-" else Path(given).name
            if is_new(given):
                sources.append((given, Path(name if name.strip(".") else "unnamed")))

    to_stdout = output == "-" or (output is None and list(inputs) == ["-"])
    if "-" in inputs and len(inputs) > 1:  # several pictures are restored in processes that do not have it
        raise ValueError("standard input comes alone; restore the others in a command of their own")
    if to_stdout:
        if len(sources) + len(failures) > 1:
            raise ValueError("standard output can hold one picture only")
        return Plan(
            tuple(Job(source, None, format or "png") for source, _ in sources), tuple(failures), tuple(left_out)
        )

    to_folder = output is not None and (
        len(sources) + len(failures) > 1
        or output.endswith(("/", os.sep))
        or _is_dir(output)
        or any(map(_is_dir, inputs))
    )
    if output is not None and not to_folder:
        chosen = format or format_of(Path(output))
        if chosen is None:
            raise ValueError(
                f"{output}: end it in .png, .jpg, .webp, .tiff or .avif, give --format, or name a folder (with a slash)"
            )
        target = Path(output)
        return Plan(tuple(Job(source, target, chosen) for source, _ in sources), tuple(failures), tuple(left_out))
    if output is not None and not _is_dir(output) and (os.path.exists(output) or format_of(Path(output)) is not None):
        raise ValueError(f"{output}: is a file's name, but several pictures or a folder need a folder")

    formats = [format or default_format(_is_cmyk(source)) for source, _ in sources]
    root = None if output is None else Path(output)
    if root is None:
        bases, before = [Path(source).with_name(relative.name) for source, relative in sources], ".restored"
    else:
        bases, before = [root / relative for _, relative in sources], ""
    endings = [before + FORMATS[chosen].suffix for chosen in formats]
    jobs: list[Job] = []
    case: dict[str, bool] = {}
    originals = {_same_file_key(Path(source), case) for source, _ in sources if source != "-"}
    identities = {_identity(Path(source)) for source, _ in sources if source != "-"} - {None}
    kept = {_same_file_key(Path(given), case) for given in named_results}
    taken: dict[str, str] = {}
    for (source, _), chosen, target in zip(sources, formats, output_names(bases, endings), strict=True):
        key = _same_file_key(target, case)
        is_input = key in originals or _identity(target) in identities
        if is_input or key in taken:
            clash = "is an input itself" if is_input else f"is where {taken[key]} goes"
            problem = f"{source}: would be written to {target}, which {clash}; choose another output"
            failures.append((source, OutputError(problem)))
            continue
        taken[key] = source
        note = CMYK_NOTE if format is None and chosen == default_format(True) else None
        jobs.append(Job(source, target, chosen, root, note=note, kept=key in kept))
    return Plan(tuple(jobs), tuple(failures), tuple(left_out))


def picture_suffixes() -> frozenset[str]:
    """What counts as a picture when a folder is given; a file that is named is tried whatever it is called.

    HEIC only where it can be read: albums of phones hold as many of them as of JPEGs.
    """
    return _SUFFIXES | HEIF_SUFFIXES if can_read_heif() else _SUFFIXES


def output_names(pictures: Sequence[P], endings: Sequence[str]) -> list[P]:
    """What the results are called: photo.png of photo.jpg; photo.jpg.png and photo.tif.png where there are both.

    Args:
        endings: of each result.
    """
    plain = [path.with_suffix(ending) for path, ending in zip(pictures, endings, strict=True)]
    different = Counter(name for name, _ in set(zip(plain, pictures, strict=True)))
    return [
        name if different[name] == 1 else path.with_name(path.name + ending)
        for name, path, ending in zip(plain, pictures, endings, strict=True)
    ]


def _is_cmyk(source: str) -> bool:
    """Whether a file's header says so. What cannot be told here is found out when it is read."""
    try:
        if source == "-" or not os.path.isfile(source):  # a pipe gives its bytes once
            return False
        with open(source, "rb") as file:
            return count_components(file) == 4
    except (OSError, ValueError):
        return False


def _same_file_key(path: Path, case: dict[str, bool]) -> str:
    """Equal for paths that may be one file. ``case`` holds what folders have said already."""
    real = os.path.realpath(path)
    folder = os.path.dirname(real)
    if folder not in case:
        case[folder] = _ignores_case(folder)
    return fold_case(real) if case[folder] else real


def _ignores_case(folder: str) -> bool:
    """Whether names that differ in case are one file in this folder, or may be."""
    return ignores_case(folder) is not False


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells an existing file from all others, by whatever path it is reached: links, mounts."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _is_special(given: str) -> bool:
    """Whether it is there and neither a file nor a folder.

    Several pictures are restored in other processes, which may not have it, and would wait as long as it says nothing.
    """
    return given != "-" and os.path.exists(given) and not os.path.isfile(given)


def _is_dir(given: str) -> bool:
    return given != "-" and os.path.isdir(given)  # Path.is_dir raises for names that are too long


@dataclass(slots=True)
class _Found:
    """What is in a folder.

    Attributes:
        pictures: by suffix, sorted, without what was made here from others of them.
        left_out: what else is there, and why it is no input, sorted.
        unreadable: what could not be looked into.
    """

    pictures: list[Path]
    left_out: list[tuple[Path, str]]
    unreadable: list[OSError]

    @classmethod
    def of(cls, folder: Path, results: _Results, *, recursive: bool, without: str | None) -> _Found:
        """Links to folders are not followed, and another folder that results go to is not looked at: ``without``."""
        found = cls([], [], [])
        suffixes = picture_suffixes()
        output = Path(without) if without and _is_dir(without) else None
        for here, folders, names in os.walk(folder, onerror=found.unreadable.append):
            if output is not None:
                folders[:] = [name for name in folders if not is_same_file(Path(here, name), output)]
            for path in map(Path(here).joinpath, folders):
                if path.name.startswith("."):
                    found.left_out.append((path, HIDDEN))
                elif path.is_symlink():
                    found.left_out.append((path, LINKED_FOLDER))
                elif not recursive:
                    found.left_out.append((path, SUBFOLDER))
            folders[:] = [name for name in folders if recursive and not name.startswith(".")]
            for path in map(Path(here).joinpath, names):
                if path.name == JOURNAL:
                    continue
                if path.name.startswith("."):
                    found.left_out.append((path, HIDDEN))
                elif path.suffix.lower() not in suffixes:
                    found.left_out.append((path, NO_PICTURE))
                elif path in results:
                    found.left_out.append((path, EARLIER_RESULT))
                elif path.is_file():
                    found.pictures.append(path)
                else:
                    found.unreadable.append(OSError(errno.EINVAL, "a broken link, or no regular file", str(path)))
        found.pictures.sort()
        found.left_out.sort()
        return found

    def why_none(self, folder: str) -> str:
        """Of a folder without pictures: what to do."""
        counts = Counter(reason for _, reason in self.left_out)
        if counts[SUBFOLDER]:
            here = "its subfolder" if counts[SUBFOLDER] == 1 else f"its {counts[SUBFOLDER]} subfolders"
            return f"{folder}: no pictures in this folder; -r takes those in {here}"
        if counts[EARLIER_RESULT]:
            return f"{folder}: no pictures in this folder but earlier results; name their files to restore them again"
        if counts[NO_PICTURE]:
            return f"{folder}: no pictures in this folder, going by the names; name files to try them all the same"
        return f"{folder}: no pictures in this folder; it is empty, or what it holds is hidden or linked"


class _Results:
    """What this program made: ``*.restored.*``, and what a journal says so of, in the file's folder or any above it."""

    def __init__(self) -> None:
        self._entries: dict[Path, dict[str, JournalEntry]] = {}

    def __contains__(self, path: Path) -> bool:
        if path.stem.endswith(".restored"):
            return True
        path = Path(os.path.abspath(path))
        for folder in path.parents:
            if folder not in self._entries:
                self._entries[folder] = read_entries(folder / JOURNAL)
            if not self._entries[folder]:
                continue
            entry = self._entries[folder].get(str(path.relative_to(folder)))
            if entry is not None and (entry.begun or entry.output is not None):
                return True
        return False
