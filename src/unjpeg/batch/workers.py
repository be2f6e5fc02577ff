"""Who works on what: worker processes, each with a ``Restorer`` of its own.

Native code that a broken file takes down costs that file alone.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

from unjpeg.batch.journal import Journal
from unjpeg.batch.planning import Job
from unjpeg.errors import BadImageError, ExistsError, OutputError, TooLargeError, UnjpegError
from unjpeg.jpeg import Limits
from unjpeg.machine import allowed_cores
from unjpeg.modelfile import shorten_reason
from unjpeg.picture import NamedBytes, read_bytes
from unjpeg.precision import WORTH_BYTES
from unjpeg.restorer import Report
from unjpeg.runtimes import check_engine, default_runtime
from unjpeg.settings import Settings, fit_options

__all__ = ["CORES_PER_WORKER", "Outcome", "count_known", "find_done", "restore_batch", "worker_count"]

MEMORY_BASE_MIB = 1150
MEMORY_PER_MEGAPIXEL_MIB = 15
"""Peak memory of one worker on a picture of any size, a little more than measured (4:4:4 in OpenVINO, 4:2:0 in ONNX
Runtime): docs/robustness.md, docs/research/results.md."""

CORES_PER_WORKER = 4
"""Measured on two cores: one worker for each does a tenth more than one for both: docs/research/results.md."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job: a report, an error, or ``skipped``: done earlier, from the same content, the same way.

    With an ExistsError, ``skipped`` means that there is a file already which was to be passed over.
    """

    job: Job
    report: Report | None = None
    error: UnjpegError | None = None
    skipped: bool = False


def restore_batch(
    jobs: Sequence[Job],
    settings: Settings,
    *,
    workers: int | None = None,
    max_memory_mib: int | None = None,
    resume: bool = False,
    skip_existing: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Iterator[Outcome]:
    """Restore pictures and write them, in worker processes if there are several.

    Args:
        workers: processes; None takes one per ``CORES_PER_WORKER`` cores, as far as memory allows.
        max_memory_mib: all workers together; what does not fit beside others is restored alone at the end, what does
            not fit at all fails.
        resume: skip what the journal says is done. A journal is kept in the batch's output folder; results beside their
            inputs have one only if this is set.
        skip_existing: what exists where a result would go, whatever it is, is ``skipped`` and no mere error.
        progress: called with the number of finished pictures, parts of them included.

    Raises:
        ModelError: the model is not there, or does not run as the settings say.
        KeyboardInterrupt: the pictures at work were dropped, without traces.
    """
    journal = Journal(settings.fingerprint, beside_inputs=resume)
    check_engine(settings.runtime or default_runtime(settings.device), settings.device)
    waiting = []
    for job, done in journal.find_done(jobs) if resume else ((job, False) for job in jobs):
        if done:
            yield Outcome(job, skipped=True)
            continue
        try:
            job.check(settings.overwrite or job.interrupted)
            waiting.append(job)
        except ExistsError as error:  # known without a worker
            yield Outcome(job, error=error, skipped=skip_existing)
        except OutputError as error:
            yield Outcome(job, error=error)
    finished = len(jobs) - len(waiting)

    def show(parts: float) -> None:
        if progress:
            progress(finished + parts)

    def passed_over(outcome: Outcome) -> Outcome:
        """Another program may have put a file there since."""
        return replace(outcome, skipped=True) if skip_existing and isinstance(outcome.error, ExistsError) else outcome

    show(0)
    if not waiting:
        return
    if len(waiting) == 1:
        worker = _Worker(settings, journal, None, _limits_in(max_memory_mib, settings.limits))
        for job in waiting:
            yield passed_over(worker.run(job, show))
        return

    worth_it = settings.options.strength > 0 and _count_bytes(waiting) >= WORTH_BYTES
    settings = settings.settled(measure=worth_it)  # once, for all of them
    count = worker_count(workers, max_memory_mib)
    cores = allowed_cores()
    share = None if max_memory_mib is None else max_memory_mib // count
    too_large: list[Job] = []
    with _Pool(count, settings, journal, max(1, cores // count), _limits_in(share, settings.limits)) as pool:
        for outcome in pool.map(waiting, show):
            if count > 1 and share is not None and isinstance(outcome.error, TooLargeError):
                too_large.append(outcome.job)
                continue
            finished += 1
            yield passed_over(outcome)
    if too_large:
        with _Pool(1, settings, journal, cores, _limits_in(max_memory_mib, settings.limits)) as pool:
            for outcome in pool.map(too_large, show):
                finished += 1
                yield passed_over(outcome)


def _count_bytes(jobs: Sequence[Job]) -> int:
    """Of the files, as far as they are there."""
    total = 0
    for job in jobs:
        with suppress(OSError):
            total += os.stat(job.source).st_size
    return total


def find_done(jobs: Sequence[Job], settings: Settings) -> Iterator[tuple[Job, bool]]:
    """Jobs as a batch that goes on would do them, and whether each is done already. Raises ModelError."""
    return Journal(settings.fingerprint, beside_inputs=True).find_done(jobs)


def count_known(jobs: Sequence[Job], settings: Settings) -> int:
    """How many outputs a journal knows as made in the same way, from whatever content. Raises ModelError."""
    journal = Journal(settings.fingerprint, beside_inputs=True)
    return sum(map(journal.knows, jobs))


def worker_count(wanted: int | None, max_memory_mib: int | None) -> int:
    """How many processes restore: as many as wanted, one per ``CORES_PER_WORKER`` else, as far as memory goes."""
    count = wanted or max(1, allowed_cores() // CORES_PER_WORKER)
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

    def __init__(self, settings: Settings, journal: Journal, threads: int | None, limits: Limits) -> None:
        self._settings, self._journal = settings, journal
        self._by_memory, self._limits = limits != settings.limits, limits
        self._restorer = settings.restorer(threads, limits=limits)

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
        except (ImportError, RuntimeError) as error:  # libraries that the machine's limits stop: threads, open files
            return Outcome(job, error=BadImageError(f"{job.source}: cannot be restored here ({shorten_reason(error)})"))

    def _run(self, job: Job, progress: Callable[[float], None]) -> Report:
        settings = self._settings
        overwrite = settings.overwrite or job.interrupted
        job.check(overwrite)
        self._journal.check(job)
        data, name = read_bytes(job.source, self._limits.file_bytes)
        # Of what was read: the file may be another one before the result is there.
        source_sha256 = hashlib.sha256(data).hexdigest()
        options = fit_options(settings.options, job.format)
        work = self._restorer.begin(NamedBytes(data, name), options, progress=progress)
        del data
        target = sys.stdout.buffer if job.target is None else job.target
        if job.target is not None:
            _make_folder(job.target.parent)
        begun = False

        def about_to_place() -> None:
            nonlocal begun
            begun = True
            self._journal.begin(job, source_sha256)

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
        return report if job.note is None else replace(report, notes=(job.note, *report.notes))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made a folder ({error.strerror or error})") from error


_CONTEXT = multiprocessing.get_context("spawn")
"""Not forked: the runtimes' threads do not survive a fork."""

_POLL_SECONDS = 0.1

_Making = tuple[Settings, Journal, int | None, Limits]
"""What a ``_Worker`` is made of."""


class _Slot:
    """One worker process and how far it is with its picture. A dead process is replaced for the next picture.

    A process and a pipe, and no semaphores, as the standard pools have them: those need ``/dev/shm``, which not every
    container has, and a kill leaves them there.
    """

    def __init__(self) -> None:
        self.share = 0.0
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None

    def run(self, job: Job, making: _Making) -> Outcome:
        """Raises UnjpegError if no worker can be started, and what it lets through."""
        if self._connection is None:
            try:
                self._connection = self._start(making)
            except (OSError, RuntimeError) as error:  # no more files, processes or threads
                raise UnjpegError(
                    f"no worker process can be started ({getattr(error, 'strerror', None) or error}); ask for fewer"
                ) from error
        try:
            self._connection.send(job)
            while not isinstance(answer := self._connection.recv(), Outcome):
                if isinstance(answer, BaseException):
                    raise answer
                self.share = answer
            return answer
        except (EOFError, OSError):
            self.stop()
            problem = "the process that restored it died (a crash in a decoder, or out of memory)"
            return Outcome(job, error=BadImageError(f"{job.source}: {problem}"))
        finally:
            self.share = 0.0

    def _start(self, making: _Making) -> Connection:
        if hasattr(signal, "pthread_sigmask"):
            resource_tracker.ensure_running()  # the process would start it, and that lets Ctrl-C through again
            _hold_ctrl_c(True)
        ours, theirs = _CONTEXT.Pipe()
        process = _CONTEXT.Process(target=_work, args=(theirs, making))
        try:
            process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()  # what the process alone has open ends when it does
        self._process = process
        return ours

    def stop(self) -> None:
        """Let the process end what it is at, and itself."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.join()
        self._process = self._connection = None


class _Pool:
    """Worker processes, one picture at a time each."""

    def __init__(self, count: int, settings: Settings, journal: Journal, threads: int, limits: Limits) -> None:
        self._making = (settings, journal, threads, limits)
        self._slots = [_Slot() for _ in range(count)]
        self._threads: list[threading.Thread] = []
        self._stopped = threading.Event()

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        for slot in self._slots:
            slot.stop()

    def map(self, jobs: Sequence[Job], progress: Callable[[float], None]) -> Iterator[Outcome]:
        """Outcomes as they come; with one worker in the order of the jobs."""
        waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for job in jobs:
            waiting.put(job)
        outcomes: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
        for slot in self._slots:
            thread = threading.Thread(target=self._drain, args=(slot, waiting, outcomes), daemon=True)
            thread.start()
            self._threads.append(thread)
        try:
            for _ in jobs:
                while True:
                    try:
                        outcome = outcomes.get(timeout=_POLL_SECONDS)
                        break
                    except queue.Empty:
                        progress(sum(slot.share for slot in self._slots))
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
                outcomes.put(slot.run(job, self._making))
            except BaseException as error:  # raised again where the outcomes are read
                outcomes.put(error)
                return


_at_work = False


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


def _work(connection: Connection, making: _Making) -> None:
    """A worker process: jobs come, outcomes go, and between them the share of the job that is done."""
    global _at_work
    threading.Thread(target=_die_with_parent, daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a script's background job has Ctrl-C
            signal.signal(number, _leave)
    _hold_ctrl_c(False)
    worker: _Worker | None = None
    while True:
        try:
            job: Job = connection.recv()
        except (EOFError, OSError):  # no more of them
            return
        _at_work = True
        try:
            worker = worker or _Worker(*making)
            answer: Outcome | Exception = worker.run(job, connection.send)
        except SystemExit:  # of _leave
            os._exit(1)
        except UnjpegError as error:  # raised again in the parent
            answer = error
        except Exception as error:  # others' may not survive the way
            answer = RuntimeError(f"{type(error).__name__}: {error}")
        finally:
            _at_work = False
        try:
            connection.send(answer)
        except OSError:  # nobody waits for it
            return
