"""What is done already, in ``JOURNAL`` files."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from unjpeg.batch.entries import JOURNAL, JournalEntry, read_entries
from unjpeg.batch.planning import Job
from unjpeg.errors import OutputError

__all__ = ["Journal"]


class Journal:
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
        self._read: dict[Job, str] = {}

    def find_done(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, bool]]:
        """The jobs, and whether each is done already; what an earlier batch was cut off at is marked as such."""
        for job in jobs:
            done = self._is_done(job)
            yield (replace(job, interrupted=True) if not done and self._is_interrupted(job) else job), done

    def knows(self, job: Job) -> bool:
        """Whether it says that the output was made in the same way; of which content is not looked at."""
        return self._entry(job).settings == self._fingerprint

    def check(self, job: Job) -> None:
        """Fail before the work, not after it. Raises OutputError if there can be no journal."""
        place = self._place(job)
        if place is not None and place[0].is_dir():
            with suppress(FileNotFoundError), _about(place[0] / JOURNAL), (place[0] / JOURNAL).open("r+b"):
                pass

    def _is_done(self, job: Job) -> bool:
        """Whether the job's output is there, unchanged, made from this content with these settings."""
        entry = self._entry(job)
        if job.target is None or entry.settings != self._fingerprint or not os.path.isfile(job.source):
            return False  # a pipe's content can be read once only
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

    def begin(self, job: Job, source_sha256: str | None = None) -> None:
        """A result of what was read, by its hash, is about to be put there. Raises OutputError."""
        if source_sha256 is not None:
            self._read[job] = source_sha256
        self._append(job, {"begun": self._writer})

    def give_up(self, job: Job) -> None:
        """Nothing was put there. A full disk, the likeliest reason, may keep the line out, too."""
        self._read.pop(job, None)
        with suppress(OutputError):
            self._append(job, {"ended": self._writer})

    def finish(self, job: Job) -> None:
        """What was begun is there. Raises OSError, or OutputError if the journal cannot be written."""
        source_sha256 = self._read.pop(job, None)
        if source_sha256 is not None and job.target is not None and job.source != "-":
            entry = JournalEntry(False, source_sha256, _sha256(job.target), self._fingerprint)
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
            self._entries[folder] = read_entries(folder / JOURNAL)
        return self._entries[folder].get(name, JournalEntry())


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
