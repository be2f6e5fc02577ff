"""Who works on what: worker processes, each with a ``Restorer`` of its own.

Native code that a broken file takes down costs that file alone.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from unjpeg.batch.journal import Journal
from unjpeg.batch.planning import Job
from unjpeg.errors import BadImageError, OutputError, TooLargeError, UnjpegError
from unjpeg.jpeg import Limits
from unjpeg.restorer import Report
from unjpeg.settings import Settings

__all__ = ["CORES_PER_WORKER", "Outcome", "restore_batch", "resumed", "worker_count"]

MEMORY_BASE_MIB = 1150
MEMORY_PER_MEGAPIXEL_MIB = 15
"""Peak memory of one worker on a picture of any size, a little more than measured (4:4:4 in OpenVINO, 4:2:0 in ONNX
Runtime): docs/robustness.md, docs/results.md."""

CORES_PER_WORKER = 4
"""Measured on two cores only, where one worker for each does a tenth more than one for both: docs/results.md."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job: a report, an error, or ``skipped`` (done earlier, from the same content, the same way)."""

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
    journal = Journal(settings.fingerprint, beside_inputs=resume)
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
    return Journal(settings.fingerprint, beside_inputs=True).resumed(jobs)


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

    def __init__(self, settings: Settings, journal: Journal, threads: int | None, limits: Limits) -> None:
        self._settings, self._journal = settings, journal
        self._by_memory = limits != settings.limits
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

    def _run(self, job: Job, progress: Callable[[float], None]) -> Report:
        settings = self._settings
        overwrite = settings.overwrite or job.interrupted
        job.check(overwrite)
        self._journal.check(job)
        work = self._restorer.begin(job.source, settings.options, progress=progress)
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

    def __init__(self, count: int, settings: Settings, journal: Journal, threads: int, limits: Limits) -> None:
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
    settings: Settings, journal: Journal, threads: int, limits: Limits, share: Synchronized[float]
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
