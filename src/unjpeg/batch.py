"""Many pictures: what goes where, who works on what, and what is done already.

::

    plan ─▶ jobs ─▶ (journal: done?) ─▶ worker processes ─▶ outcomes, one per job, as they come
                                           │
                                           └─ Restorer.begin ─▶ Restoration.save

Several pictures are restored in worker processes: native code that a broken file takes down costs that file alone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import queue
import secrets
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Literal, TypeVar

from unjpeg.errors import BadImageError, OutputError, TooLargeError, UnjpegError
from unjpeg.jpeg import DEFAULT_LIMITS, Limits
from unjpeg.network import ModelFile, Precision, Runtime, chosen_engine
from unjpeg.output import FORMATS, format_of, without_place
from unjpeg.picture import Source
from unjpeg.restore import ConsistencyPolicy, Report, Restoration, Restorer
from unjpeg.version import __version__

__all__ = [
    "JOURNAL",
    "LEFT_OUT",
    "PICTURE_SUFFIXES",
    "Job",
    "JournalEntry",
    "Outcome",
    "Plan",
    "Settings",
    "output_names",
    "plan",
    "restore_batch",
    "resumed",
    "worker_count",
]

P = TypeVar("P", bound=PurePath)

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".avif"})
"""What counts as a picture when a folder is given; a file that is named is tried whatever it is called."""

NO_PICTURE, HIDDEN = "no picture by its name", "hidden"
EARLIER_RESULT, LINKED_FOLDER = "an earlier result", "a link to a folder"
LEFT_OUT = (NO_PICTURE, HIDDEN, EARLIER_RESULT, LINKED_FOLDER)
"""Why something in a folder is no input. What is named itself is tried, whatever it is."""

JOURNAL = ".unjpeg-journal.jsonl"
"""One line per finished picture, in the folder that a batch is mirrored to."""

MEMORY_BASE_MIB = 1150
MEMORY_PER_MEGAPIXEL_MIB = 15
"""Peak memory of one worker on a picture of any size, a little more than measured (4:4:4 in OpenVINO, 4:2:0 in ONNX
Runtime): docs/robustness.md, docs/results.md."""

CORES_PER_WORKER = 4
"""Measured on two cores only, where one worker for each does a tenth more than one for both: docs/results.md."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to restore: as ``Restorer``, ``Restorer.begin`` and ``Restoration.save`` take it."""

    model: str = "default"
    runtime: Runtime | None = None
    device: str = "cpu"
    precision: Precision = "auto"
    strength: float = 1.0
    quality: int | None = None
    consistency: ConsistencyPolicy = "auto"
    bit_depth: Literal[8, 16] = 8
    output_quality: int | None = None
    salvage: bool = False
    tta: bool = False
    strip: bool = False
    limits: Limits = DEFAULT_LIMITS
    overwrite: bool = False
    keep_times: bool = False

    @property
    def fingerprint(self) -> str:
        """Equal when a picture would come out the same but for rounding: options, weights and version.

        Raises:
            ModelError: the model is not there, or does not run as these settings say.
        """
        model = ModelFile.read(self.model)
        chosen_engine(model, self.runtime, self.device, self.precision)
        relevant = asdict(self) | {"model": model.hash, "version": __version__}
        for elsewhere in ("overwrite", "keep_times", "device", "runtime", "precision", "limits"):
            del relevant[elsewhere]
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]

    def begin(self, restorer: Restorer, source: Source, progress: Callable[[float], None] | None = None) -> Restoration:
        """``Restorer.begin`` as these settings say; the same errors."""
        return restorer.begin(
            source,
            strength=self.strength,
            quality=self.quality,
            consistency=self.consistency,
            bit_depth=self.bit_depth,
            salvage=self.salvage,
            tta=self.tta,
            progress=progress,
        )

    def save(
        self,
        work: Restoration,
        target: Path | BinaryIO,
        format: str,
        *,
        overwrite: bool = False,
        about_to_place: Callable[[], None] | None = None,
    ) -> Report:
        """``Restoration.save`` as these settings say; the same errors. Returns what was done."""
        work.save(
            target,
            format=format,
            quality=self.output_quality,
            overwrite=overwrite,
            strip=self.strip,
            about_to_place=about_to_place,
        )
        report = work.report
        if self.strip:
            turned = work.metadata.orientation >= 5  # a quarter turn
            return replace(report, width=report.height, height=report.width) if turned else report
        lost = without_place(work.metadata, format)
        if not lost:
            return report
        return replace(report, notes=(*report.notes, f"{format} has no place for {' and '.join(lost)}: lost"))


@dataclass(frozen=True, slots=True)
class Job:
    """One input and where its result goes.

    Attributes:
        source: a path, or ``-`` for standard input.
        target: None is standard output.
        format: of the result, a name in ``output.FORMATS``.
        root: the output folder of the batch, or None if the results go beside their inputs.
        interrupted: what is in the target's place was left there by a batch that was cut off, and may be replaced.
    """

    source: str
    target: Path | None
    format: str
    root: Path | None = None
    interrupted: bool = False

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
        if self.source != "-" and exists and self.target.samefile(self.source):
            raise OutputError(f"{self.target}: is the input itself; choose another output")
        if exists and not overwrite:
            raise OutputError(f"{self.target}: exists already; pass --overwrite to replace it")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, and which inputs go nowhere.

    Attributes:
        left_out: what is in the given folders and is no input, with the reason: one of ``LEFT_OUT``.
    """

    jobs: tuple[Job, ...]
    failures: tuple[tuple[str, UnjpegError], ...]
    left_out: tuple[tuple[Path, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job: a report, an error, or ``skipped`` (done earlier, from the same content, the same way)."""

    job: Job
    report: Report | None = None
    error: UnjpegError | None = None
    skipped: bool = False


# What goes where


def plan(inputs: Sequence[str], output: str | None, format: str | None, *, recursive: bool) -> Plan:
    """Which file goes where. Two inputs never share an output: see ``output_names``; else the later one fails.

    Args:
        inputs: files, folders, or ``-``.
        output: a file, a folder, ``-``, or None for beside each input.
        format: a name in ``output.FORMATS``; None goes by the output's suffix, else PNG.
        recursive: folders below folders, too.

    Raises:
        ValueError: the arguments contradict each other.
    """
    sources: list[tuple[str, Path]] = []  # input, and its path below the output folder
    failures: list[tuple[str, UnjpegError]] = []
    left_out: list[tuple[Path, str]] = []
    for given in inputs:
        if not given:
            failures.append((given, BadImageError("an input's name is empty")))
        elif _is_dir(given):
            found, others, unreadable = _pictures_in(Path(given), recursive=recursive, without=output)
            left_out += others
            for error in unreadable:
                where = str(error.filename or given)
                failures.append((where, BadImageError(f"{where}: cannot be read ({error.strerror or error})")))
            if not found and not unreadable:
                hint = "" if recursive else "; --recursive looks below it, too"
                failures.append((given, BadImageError(f"{given}: no pictures in this folder{hint}")))
            sources += [(str(path), path.relative_to(given)) for path in found]
        else:
            # A path that ends in .. and is no folder names no file, but the reader says what is wrong with it.
            name = "stdin" if given == "-" else Path(given).name
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
        len(sources) > 1 or output.endswith(("/", os.sep)) or _is_dir(output) or any(map(_is_dir, inputs))
    )
    if output is not None and not to_folder:
        chosen = format or format_of(Path(output))
        if chosen is None:
            raise ValueError(
                f"{output}: end it in .png, .jpg, .webp or .tiff, give --format, or name a folder (with a slash)"
            )
        target = Path(output)
        return Plan(tuple(Job(source, target, chosen) for source, _ in sources), tuple(failures), tuple(left_out))
    if output is not None and not _is_dir(output) and (os.path.exists(output) or format_of(Path(output)) is not None):
        raise ValueError(f"{output}: is a file's name, but several pictures or a folder need a folder")

    chosen = format or "png"
    root = None if output is None else Path(output)
    if root is None:
        ending, bases = f".restored{FORMATS[chosen].suffix}", [Path(source).with_name(r.name) for source, r in sources]
    else:
        ending, bases = FORMATS[chosen].suffix, [root / relative for _, relative in sources]
    jobs: list[Job] = []
    originals = {_same_file_key(Path(source)) for source, _ in sources if source != "-"}
    taken: dict[str, str] = {}
    for (source, _), target in zip(sources, output_names(bases, ending), strict=True):
        key = _same_file_key(target)
        if key in originals or key in taken:
            clash = "is an input itself" if key in originals else f"is where {taken[key]} goes"
            problem = f"{source}: would be written to {target}, which {clash}; choose another output"
            failures.append((source, OutputError(problem)))
            continue
        taken[key] = source
        jobs.append(Job(source, target, chosen, root))
    return Plan(tuple(jobs), tuple(failures), tuple(left_out))


def output_names(pictures: Sequence[P], ending: str) -> list[P]:
    """What the results are called: photo.png of photo.jpg; photo.jpg.png and photo.tif.png where there are both."""
    plain = [path.with_suffix(ending) for path in pictures]
    different = Counter(name for name, _ in set(zip(plain, pictures, strict=True)))
    return [
        name if different[name] == 1 else path.with_name(path.name + ending)
        for name, path in zip(plain, pictures, strict=True)
    ]


def _same_file_key(path: Path) -> str:
    """Equal for paths that may be one file."""
    real = os.path.realpath(path)
    return real.casefold() if _ignores_case(os.path.dirname(real)) else real


@cache
def _ignores_case(folder: str) -> bool:
    """Whether names that differ in case are one file in this folder, or the nearest one above it that exists."""
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    parent, name = os.path.split(folder)
    if name.swapcase() == name:
        return False if parent == folder else _ignores_case(parent)
    other = os.path.join(parent, name.swapcase())
    return os.path.exists(other) and os.path.samefile(folder, other)


def _is_dir(given: str) -> bool:
    return given != "-" and os.path.isdir(given)  # Path.is_dir raises for names that are too long


def _pictures_in(
    folder: Path, *, recursive: bool, without: str | None
) -> tuple[list[Path], list[tuple[Path, str]], list[OSError]]:
    """Pictures by suffix, what else is there and why it is left out, both sorted, and what could not be looked into.

    Links to folders are not followed. What lies in the output folder, and journals, are not looked at.
    """
    unreadable: list[OSError] = []
    output = os.path.realpath(without) if without else None
    found: list[Path] = []
    others: list[tuple[Path, str]] = []
    for here, folders, names in os.walk(folder, onerror=unreadable.append):
        if not recursive:
            folders.clear()
        folders[:] = [name for name in folders if os.path.realpath(Path(here, name)) != output]
        for path in map(Path(here).joinpath, folders):
            if path.name.startswith("."):
                others.append((path, HIDDEN))
            elif path.is_symlink():
                others.append((path, LINKED_FOLDER))
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in map(Path(here).joinpath, names):
            if path.name == JOURNAL:
                continue
            if path.name.startswith("."):
                others.append((path, HIDDEN))
            elif path.stem.endswith(".restored"):
                others.append((path, EARLIER_RESULT))
            elif path.suffix.lower() not in PICTURE_SUFFIXES:
                others.append((path, NO_PICTURE))
            elif path.is_file():
                found.append(path)
            else:
                unreadable.append(OSError(errno.EINVAL, "a broken link, or no regular file", str(path)))
    return sorted(found), sorted(others), unreadable


# What is done already


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """What a journal says of one output.

    Attributes:
        begun: a result was about to be put there; that it is there was not written down any more.
        source, output: SHA-256 of both files' content once the output is there; None before.
        settings: ``Settings.fingerprint`` of how it was made.
    """

    begun: bool = False
    source: str | None = None
    output: str | None = None
    settings: str | None = None

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> JournalEntry:
        """From a journal's line, which may say anything."""
        known = (facts.get(name) for name in ("source", "output", "settings"))
        return cls(facts.get("begun") is True, *(value if isinstance(value, str) else None for value in known))

    def is_made_from(self, source: str, settings: str) -> bool:
        """Whether the output was made from this content in this way; whether it still is there is another matter."""
        return self.output is not None and self.source == source and self.settings == settings

    def facts(self) -> dict[str, Any]:
        """What ``of`` reads, and nothing else."""
        if self.begun:
            return {"begun": True}
        return {} if self.output is None else {"source": self.source, "output": self.output, "settings": self.settings}


class _Journal:
    """What is made from what, in ``JOURNAL`` files.

    A line is appended just before an output is put in its place, and another once it is there, or is not after all: the
    output's path below the journal's folder, who writes, hashes of the source's and the output's content, the settings'
    fingerprint. What was begun and neither finished nor given up may be replaced when the batch is resumed. Several
    batches may write: each ends what it has begun itself. Unreadable lines (a kill while writing) count as not there.
    """

    def __init__(self, fingerprint: str, *, beside_inputs: bool) -> None:
        self._fingerprint, self._beside_inputs = fingerprint, beside_inputs
        self._writer = secrets.token_hex(8)
        self._entries: dict[Path, dict[str, JournalEntry]] = {}

    def resumed(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, bool]]:
        """The jobs, and whether each is done already; what an earlier batch was cut off at is marked as such."""
        for job in jobs:
            done = self._is_done(job)
            yield (replace(job, interrupted=True) if not done and self._is_interrupted(job) else job), done

    def check(self, job: Job) -> None:
        """Fail before the work, not after it. Raises OutputError if there can be no journal."""
        place = self._place(job)
        if place is not None and place[0].is_dir():
            with suppress(FileNotFoundError), _about(place[0] / JOURNAL), (place[0] / JOURNAL).open("r+b"):
                pass

    def _is_done(self, job: Job) -> bool:
        """Whether the job's output is there, unchanged, made from this content with these settings."""
        entry = self._entry(job)
        if job.target is None or entry.settings != self._fingerprint:
            return False
        try:
            made = entry.is_made_from(_sha256(Path(job.source)), self._fingerprint)
            return made and entry.output == _sha256(job.target)
        except OSError:
            return False

    def _is_interrupted(self, job: Job) -> bool:
        """Whether what is in the output's place may be what a batch was putting there when it was cut off."""
        entry = self._entry(job)
        if not entry.begun or job.target is None:
            return False
        try:
            return entry.output is None or entry.output != _sha256(job.target)
        except OSError:
            return True

    def begin(self, job: Job) -> None:
        """Raises OutputError."""
        self._append(job, {"begun": self._writer})

    def give_up(self, job: Job) -> None:
        """Nothing was put there. A full disk, the likeliest reason, may keep the line out, too."""
        with suppress(OutputError):
            self._append(job, {"ended": self._writer})

    def finish(self, job: Job) -> None:
        """Raises OSError, or OutputError if the journal cannot be written."""
        if job.target is not None and job.source != "-":
            entry = JournalEntry(False, _sha256(Path(job.source)), _sha256(job.target), self._fingerprint)
            self._append(job, {"ended": self._writer, **entry.facts()})

    def _append(self, job: Job, facts: Mapping[str, Any]) -> None:
        place = self._place(job)
        if place is None:
            return
        folder, name = place
        with _about(folder / JOURNAL), (folder / JOURNAL).open("a+b") as file:
            cut_off = False
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                cut_off = file.read(1) != b"\n"  # by a kill while writing: the next line begins on its own
            file.write(b"\n" * cut_off + json.dumps({"name": name, **facts}).encode() + b"\n")

    def _place(self, job: Job) -> tuple[Path, str] | None:
        """The folder of the job's line, and what the output is called there; None if nothing is kept of it."""
        if job.target is None or job.source == "-" or (job.root is None and not self._beside_inputs):
            return None
        folder = job.root or job.target.parent
        return folder, os.path.relpath(job.target, folder)

    def _entry(self, job: Job) -> JournalEntry:
        place = self._place(job)
        if place is None:
            return JournalEntry()
        folder, name = place
        if folder not in self._entries:
            self._entries[folder] = _last_lines(folder / JOURNAL)
        return self._entries[folder].get(name, JournalEntry())


def _last_lines(journal: Path) -> dict[str, JournalEntry]:
    """What the journal says of each output; begun if any batch has begun it and not said how that ended."""
    entries: dict[str, JournalEntry] = {}
    open_by: dict[str, set[str]] = {}
    try:
        lines = journal.read_bytes().splitlines()
    except OSError:
        return entries
    for line in lines:
        try:
            facts = json.loads(line)
            name, writers = facts["name"], open_by.setdefault(facts["name"], set())
            entry = JournalEntry.of(facts)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue
        writers.discard(str(facts.get("ended")))
        if "begun" in facts:
            writers.add(str(facts["begun"]))
        if entry.output is not None:
            writers.clear()  # whatever was there before, now it is this
        if entry.output is not None or name not in entries:
            entries[name] = entry
    return {name: replace(entry, begun=bool(open_by[name])) for name, entry in entries.items()}


@contextmanager
def _about(journal: Path) -> Iterator[None]:
    """Errors name the journal, not the picture whose line it was."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OutputError(f"{journal}: the journal cannot be written ({error.strerror or error})") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Who works on what


def restore_batch(
    jobs: Sequence[Job],
    settings: Settings,
    *,
    workers: int | None = None,
    max_memory_mib: int | None = None,
    resume: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Iterator[Outcome]:
    """Restore pictures and write them, in worker processes if there are several.

    Args:
        workers: processes; None takes one per ``CORES_PER_WORKER`` cores, as far as memory allows.
        max_memory_mib: all workers together; what does not fit beside others is restored alone at the end, what does
            not fit at all fails.
        resume: skip what the journal says is done. A journal is kept in the batch's output folder; results beside their
            inputs have one only if this is set.
        progress: called with the number of finished pictures, parts of them included.

    Raises:
        ModelError: the model is not there, or does not run as the settings say.
        KeyboardInterrupt: the pictures at work were dropped, without traces.
    """
    journal = _Journal(settings.fingerprint, beside_inputs=resume)
    waiting = []
    for job, done in journal.resumed(jobs) if resume else ((job, False) for job in jobs):
        if done:
            yield Outcome(job, skipped=True)
        else:
            waiting.append(job)
    finished = len(jobs) - len(waiting)

    def show(parts: float) -> None:
        if progress:
            progress(finished + parts)

    show(0)
    if len(waiting) <= 1:
        worker = _Worker(settings, journal, None, _limits_in(max_memory_mib, settings.limits))
        for job in waiting:
            yield worker.run(job, show)
        return

    count = worker_count(workers, max_memory_mib)
    cores = os.cpu_count() or 1
    share = None if max_memory_mib is None else max_memory_mib // count
    too_large: list[Job] = []
    with _Pool(count, settings, journal, max(1, cores // count), _limits_in(share, settings.limits)) as pool:
        for outcome in pool.map(waiting, show):
            if count > 1 and share is not None and isinstance(outcome.error, TooLargeError):
                too_large.append(outcome.job)
                continue
            finished += 1
            yield outcome
    if too_large:
        with _Pool(1, settings, journal, cores, _limits_in(max_memory_mib, settings.limits)) as pool:
            for outcome in pool.map(too_large, show):
                finished += 1
                yield outcome


def resumed(jobs: Sequence[Job], settings: Settings) -> Iterator[tuple[Job, bool]]:
    """Jobs as a batch that goes on would do them, and whether each is done already. Raises ModelError."""
    return _Journal(settings.fingerprint, beside_inputs=True).resumed(jobs)


def worker_count(wanted: int | None, max_memory_mib: int | None) -> int:
    """How many processes restore: as many as wanted, one per ``CORES_PER_WORKER`` else, as far as memory goes."""
    count = wanted or max(1, (os.cpu_count() or 1) // CORES_PER_WORKER)
    return count if max_memory_mib is None else max(1, min(count, max_memory_mib // MEMORY_BASE_MIB))


def _limits_in(memory_mib: int | None, limits: Limits) -> Limits:
    """The same, with the largest picture and the largest file that a worker restores in so much memory."""
    if memory_mib is None:
        return limits
    free_mib = memory_mib - MEMORY_BASE_MIB
    pixels = int(free_mib / MEMORY_PER_MEGAPIXEL_MIB * 1e6)
    file_bytes = free_mib * 2**20  # a file of this size leaves no room for a large picture, but such files are small
    return replace(
        limits, pixels=max(1, min(limits.pixels, pixels)), file_bytes=max(1, min(limits.file_bytes, file_bytes))
    )


class _Worker:
    """Restores one picture after another, from file to file."""

    def __init__(self, settings: Settings, journal: _Journal, threads: int | None, limits: Limits) -> None:
        self._settings, self._journal = settings, journal
        self._by_memory = limits != settings.limits
        self._restorer = Restorer(
            settings.model,
            runtime=settings.runtime,
            device=settings.device,
            threads=threads,
            precision=settings.precision,
            limits=limits,
        )

    def run(self, job: Job, progress: Callable[[float], None]) -> Outcome:
        """One job. Whatever is wrong with it is in the outcome."""
        try:
            return Outcome(job, report=self._run(job, progress))
        except TooLargeError as error:
            if self._by_memory:
                error = TooLargeError(f"{error}: as much as --max-memory leaves room for")
            return Outcome(job, error=error)
        except UnjpegError as error:
            return Outcome(job, error=error)
        except MemoryError:
            return Outcome(job, error=BadImageError(f"{job.source}: not enough memory to restore it"))
        except BrokenPipeError:  # the reader of standard output went away: not this file's fault
            raise
        except OSError as error:
            return Outcome(job, error=OutputError(f"{job.source}: {error.strerror or error}"))

    def _run(self, job: Job, progress: Callable[[float], None]) -> Report:
        settings = self._settings
        overwrite = settings.overwrite or job.interrupted
        job.check(overwrite)
        self._journal.check(job)
        work = settings.begin(self._restorer, job.source, progress)
        target = sys.stdout.buffer if job.target is None else job.target
        if job.target is not None:
            _make_folder(job.target.parent)
        begun = False

        def about_to_place() -> None:
            nonlocal begun
            begun = True
            self._journal.begin(job)

        try:
            report = settings.save(work, target, job.format, overwrite=overwrite, about_to_place=about_to_place)
        except UnjpegError:
            if begun:
                self._journal.give_up(job)
            raise
        if settings.keep_times and job.target is not None and job.source != "-":
            times = os.stat(job.source)
            os.utime(job.target, ns=(times.st_atime_ns, times.st_mtime_ns))
        self._journal.finish(job)
        return report


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made a folder ({error.strerror or error})") from error


_CONTEXT = multiprocessing.get_context("spawn")
"""Not forked: the runtimes' threads do not survive a fork."""

_POLL_SECONDS = 0.1


@dataclass
class _Slot:
    """One worker process and how far it is with its picture. A dead process is replaced for the next picture."""

    share: Synchronized[float] = field(default_factory=lambda: _CONTEXT.Value("d", 0.0))
    executor: ProcessPoolExecutor | None = None


class _Pool:
    """Worker processes, one picture at a time each."""

    def __init__(self, count: int, settings: Settings, journal: _Journal, threads: int, limits: Limits) -> None:
        self._making = (settings, journal, threads, limits)
        self._slots = [_Slot() for _ in range(count)]
        self._stopped = threading.Event()

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped.set()
        for slot in self._slots:
            if slot.executor is not None:
                slot.executor.shutdown(wait=True, cancel_futures=True)

    def map(self, jobs: Sequence[Job], progress: Callable[[float], None]) -> Iterator[Outcome]:
        """Outcomes as they come; with one worker in the order of the jobs."""
        waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for job in jobs:
            waiting.put(job)
        outcomes: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
        threads = [
            threading.Thread(target=self._drain, args=(slot, waiting, outcomes), daemon=True) for slot in self._slots
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in jobs:
                while True:
                    try:
                        outcome = outcomes.get(timeout=_POLL_SECONDS)
                        break
                    except queue.Empty:
                        progress(sum(slot.share.value for slot in self._slots))
                if isinstance(outcome, BaseException):
                    raise outcome
                yield outcome
        finally:
            self._stopped.set()

    def _drain(
        self, slot: _Slot, waiting: queue.SimpleQueue[Job], outcomes: queue.SimpleQueue[Outcome | BaseException]
    ) -> None:
        _hold_ctrl_c(True)  # a terminal sends it to all processes: until a worker can, none shall say something of it
        while not self._stopped.is_set():
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                outcomes.put(self._run(slot, job))
            except BaseException as error:  # raised again where the outcomes are read
                outcomes.put(error)
                return

    def _run(self, slot: _Slot, job: Job) -> Outcome:
        if slot.executor is None:
            slot.executor = ProcessPoolExecutor(
                1,
                _CONTEXT,
                initializer=_start_worker,
                initargs=(*self._making, slot.share),
            )
        try:
            return slot.executor.submit(_work, job).result()
        except BrokenProcessPool:
            slot.executor.shutdown(wait=False)
            slot.executor = None
            problem = "the process that restored it died (a crash in a decoder, or out of memory)"
            return Outcome(job, error=BadImageError(f"{job.source}: {problem}"))
        finally:
            slot.share.value = 0


_worker: tuple[_Worker, Synchronized[float]] | None = None
"""In a worker process: what ``_start_worker`` made."""

_at_work = False


def _start_worker(
    settings: Settings, journal: _Journal, threads: int, limits: Limits, share: Synchronized[float]
) -> None:
    global _worker
    threading.Thread(target=_die_with_parent, daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a script's background job has Ctrl-C
            signal.signal(number, _leave)
    _hold_ctrl_c(False)
    _worker = _Worker(settings, journal, threads, limits), share


def _leave(*_: object) -> None:
    """The picture at work is left by an exception, and its temporary file goes. Elsewhere one would be printed."""
    if _at_work:
        sys.exit(1)
    os._exit(1)


def _hold_ctrl_c(hold: bool) -> None:
    """Whether Ctrl-C waits, in this thread and in the processes that it starts."""
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK if hold else signal.SIG_UNBLOCK, [signal.SIGINT])


def _die_with_parent() -> None:
    """A killed batch cannot stop its workers, and they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(job: Job) -> Outcome:
    global _at_work
    assert _worker is not None
    worker, share = _worker

    def progress(done: float) -> None:
        share.value = done

    _at_work = True
    try:
        return worker.run(job, progress)
    except SystemExit:  # of _leave: sent to the parent, it would end the whole batch there
        os._exit(1)
    finally:
        _at_work = False
