"""Worker processes with a queue, a time limit and a folder for temporary files each.

Pebble ends a process that takes too long or that a broken file brought down, and starts another. A picture belongs to
one worker for as long as it is held; each worker does one thing at a time.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import TimeoutError as TookTooLong
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from unjpeg.errors import BadImageError, BusyError, TimeLimitError, UnjpegError
from unjpeg.precision import Choice
from unjpeg.web.darkroom import calibrate, expire_pictures, open_darkroom, warm_up
from unjpeg.web.gauges import Gauges, expect_seconds, left_of

__all__ = ["ARRIVAL_SECONDS", "ServerLimits", "Workers", "check_machine"]

T = TypeVar("T")

_CONTEXT = multiprocessing.get_context("spawn")
"""Not forked: the runtimes' threads do not survive a fork."""

_STOP_SECONDS = 5
_IDLE_SECONDS = 1

ARRIVAL_SECONDS = 120
"""For a file to arrive, where work has no limit."""


def check_machine() -> None:
    """Fail at the start, not with the first request. Raises UnjpegError where processes can share no semaphores."""
    try:
        _CONTEXT.RLock()
    except (OSError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnjpegError(f"the page needs /dev/shm, which is missing or full here ({reason}); mount it") from error


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What a server takes on.

    Attributes:
        upload_bytes: the largest file.
        pixels: the largest picture.
        seconds: how long one step on one picture may take; also how long it may wait, and how long sending it may take.
            None sets no limit on work and waiting.
        requests: how many may be at work or waiting at once.
        held_bytes: memory of each worker for pictures that are held between requests.
        held_seconds: how long an unused picture is held.
    """

    upload_bytes: int = 32 * 2**20
    pixels: int = 50_000_000
    seconds: float | None = 120
    requests: int = 32
    held_bytes: int = 512 * 2**20
    held_seconds: float = 900


class _Slot:
    """One worker process, what waits for it, and its folder."""

    def __init__(self, models: Mapping[str, Choice], threads: int, limits: ServerLimits, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.lock = asyncio.Lock()  # first come, first served
        self.waiting = 0
        self.gauges = Gauges(len(models))
        limited = (limits.pixels, limits.held_bytes, limits.held_seconds)
        self._making = (dict(models), threads, str(folder), *limited, self.gauges)
        self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPool:
        return ProcessPool(1, context=_CONTEXT, initializer=open_darkroom, initargs=self._making)

    @property
    def pool(self) -> ProcessPool:
        """A new one if the process died while it had nothing to do, which ends Pebble's pool."""
        if not self._pool.active:
            self.stop()
            self._pool = self._new_pool()
        return self._pool

    def stop(self) -> None:
        """End the process, whatever it is at."""
        with suppress(RuntimeError, TimeoutError):
            self._pool.stop()  # type: ignore[no-untyped-call]
            self._pool.join(_STOP_SECONDS)

    def tidy(self) -> None:
        """Remove what a process that was ended left. Only while none is at work."""
        for path in self.folder.iterdir():
            path.unlink(missing_ok=True)


class Workers:
    """All worker processes of a server. For use within one event loop.

    Args:
        models: shipped models' names or model files' paths, the first one the usual one, and each one's precision.
        count: of processes.
        threads: CPU threads of each.
    """

    def __init__(self, models: Mapping[str, Choice], *, count: int, threads: int, limits: ServerLimits) -> None:
        self._limits, self._models = limits, models
        self._at_work = 0
        self._last_chosen = -1
        self._folder = Path(tempfile.mkdtemp(prefix="unjpeg-serve-"))
        self._slots = [_Slot(models, threads, limits, self._folder / str(n)) for n in range(count)]

    @property
    def at_work(self) -> int:
        """Requests that were admitted and are not answered yet."""
        return self._at_work

    @property
    def count(self) -> int:
        return len(self._slots)

    def expect_seconds(self, height: int, width: int) -> list[float | None]:
        """How long each model would take with such a picture, as far as it was measured here."""
        return [
            expect_seconds([slot.gauges.pace(model) for slot in self._slots], height, width)
            for model in range(len(self._models))
        ]

    def progress(self, number: int, model: int, elapsed: float) -> tuple[float, float | None]:
        """The share that a worker has finished, 0..1, and the seconds left if they are known.

        Args:
            number: of the worker.
            model: number of the one at work.
            elapsed: seconds since its turn came.
        """
        sight = self._slots[number].gauges.sight
        expected = self.expect_seconds(*sight.size)[model] if all(sight.size) else None
        return left_of(sight, elapsed, expected)

    def stop_work(self, number: int) -> None:
        """Ask a worker to end what it is at, at the next tile: it then raises BusyError."""
        self._slots[number].gauges.stop()

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Around one request: raises BusyError if there are too many already."""
        if self._at_work >= self._limits.requests:
            raise BusyError(f"the server is busy with {self._at_work} requests; try again in a moment")
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1

    def idlest(self) -> int:
        """Number of the worker with the shortest queue; of several, the one that was chosen longest ago."""
        order = [(self._last_chosen + 1 + step) % self.count for step in range(self.count)]
        self._last_chosen = min(order, key=lambda number: self._slots[number].waiting)
        return self._last_chosen

    async def run(
        self,
        number: int,
        function: Callable[..., T],
        *arguments: Any,
        abandoned: Callable[[], Awaitable[bool]] | None = None,
    ) -> T:
        """Have a worker do something, when its turn comes.

        Args:
            number: of the worker.
            function: one of ``darkroom``'s.
            abandoned: says, when the turn comes, whether nobody waits for the result any more.

        Raises:
            BusyError: its turn did not come in time, or nobody waits any more.
            TimeLimitError: it took too long.
            BadImageError: it brought the worker down.
            UnjpegError: whatever the function raises.
        """
        slot, limit = self._slots[number], self._limits.seconds
        slot.waiting += 1
        try:
            try:
                async with asyncio.timeout(limit):
                    await slot.lock.acquire()
            except TimeoutError:
                assert limit is not None
                raise BusyError(
                    f"the server was too busy to start within {limit:.0f} seconds; try again later"
                ) from None
            # A request that is given up while it runs must not hand the worker on before the worker is done.
            job = asyncio.create_task(self._run(slot, function, arguments, abandoned))

            def hand_on(done: asyncio.Task[T]) -> None:
                slot.lock.release()
                if not done.cancelled():
                    done.exception()  # looked at, so that it is not reported as never retrieved

            job.add_done_callback(hand_on)
            return await asyncio.shield(job)
        finally:
            slot.waiting -= 1

    async def _run(
        self,
        slot: _Slot,
        function: Callable[..., T],
        arguments: tuple[Any, ...],
        abandoned: Callable[[], Awaitable[bool]] | None,
    ) -> T:
        if abandoned is not None and await abandoned():
            raise BusyError("the request was given up")
        slot.gauges.reset()
        try:
            try:
                return await self._scheduled(slot, function, arguments)
            except (ProcessExpired, BrokenProcessPool):
                # It may have died before, for want of memory for instance: the file is to blame if it dies again.
                slot.tidy()
                return await self._scheduled(slot, function, arguments)
        except TookTooLong:
            slot.tidy()
            raise TimeLimitError(
                f"this file: took more than the {self._limits.seconds:g} seconds that this server allows "
                "(unjpeg serve --time-limit)"
            ) from None
        except (ProcessExpired, BrokenProcessPool):
            slot.tidy()
            problem = "brought down the process that restored it (a crash in a decoder, or out of memory)"
            raise BadImageError(f"this file: {problem}") from None
        except MemoryError:
            raise BadImageError("this file: needs more memory than there is") from None

    async def _scheduled(self, slot: _Slot, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        return await asyncio.wrap_future(slot.pool.schedule(function, arguments, timeout=self._limits.seconds))

    async def warm_up(self) -> None:
        """Start all processes, load the model, and measure once how long each model takes here.

        What goes wrong there, the first request will be told. Requests that come meanwhile go first.
        """
        for number in range(self.count):
            with suppress(UnjpegError):
                await self.run(number, warm_up)
        for model in (None, *list(self._models)[1:]):
            while self._at_work:
                await asyncio.sleep(_IDLE_SECONDS)
            with suppress(UnjpegError):
                await self.run(0, calibrate, model)

    async def expire(self, every_seconds: float) -> None:
        """Drop pictures that are not used any more, for ever."""
        while True:
            await asyncio.sleep(every_seconds)
            for number, slot in enumerate(self._slots):
                if not slot.lock.locked():
                    with suppress(UnjpegError):
                        await self.run(number, expire_pictures)

    def stop(self) -> None:
        """End all processes, whatever they are at, and remove their files."""
        for slot in self._slots:
            slot.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
