"""Pictures at work: started by one request, watched by others, so that no connection need last as long as the work.

A picture on a phone that sleeps, or behind a proxy with little patience, is finished all the same.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

from unjpeg.errors import PictureGoneError, UnjpegError
from unjpeg.restorer import Options
from unjpeg.web.darkroom import prepare_picture
from unjpeg.web.workers import Workers

__all__ = ["Job", "Jobs", "State"]

State = Literal["waiting", "working", "done", "failed", "cancelled"]

_AT_ONCE_SECONDS = 0.25
"""So long a start waits for its end: what was prepared already is answered with one request."""


@dataclass
class Job:
    """One picture that is prepared: the network runs, and it is rendered.

    Attributes:
        number: of the worker.
        model: number of the model, and its name if it is not the first.
        began: when its turn came, by ``time.monotonic``.
        asked: when somebody last asked about it.
        error: why it failed.
        shown: the largest share that was told: none goes back when tiles get slower.
    """

    number: int
    model: tuple[int, str | None]
    options: Options
    state: State = "waiting"
    began: float = 0
    asked: float = field(default_factory=time.monotonic)
    error: UnjpegError | None = None
    shown: float = 0
    task: asyncio.Task[None] | None = None

    @property
    def is_over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")


class Jobs:
    """All pictures at work, by their keys, one job each. For use within one event loop.

    Args:
        forgotten_seconds: what nobody asks about for so long is cancelled and forgotten.
    """

    def __init__(self, team: Workers, forgotten_seconds: float) -> None:
        self._team, self._forgotten_seconds = team, forgotten_seconds
        self._jobs: dict[str, Job] = {}

    async def start(self, key: str, number: int, options: Options, model: tuple[int, str | None]) -> Job:
        """Prepare a picture, unless that is being done already; another job of its own is cancelled.

        Args:
            number: of the worker that holds it.
            model: number, and name if it is not the first.

        Raises:
            BusyError: too much is at work.
        """
        job = self._jobs.get(key)
        if job is None or job.is_over or (job.options, job.model) != (options, model):
            self.cancel(key)
            admission = ExitStack()
            admission.enter_context(self._team.admitted())
            job = self._jobs[key] = Job(number, model, options)
            job.task = asyncio.create_task(self._work(key, job, admission))
        job.asked = time.monotonic()
        assert job.task is not None
        await asyncio.wait([job.task], timeout=_AT_ONCE_SECONDS)
        return job

    def find(self, key: str) -> Job:
        """The last job of a picture. Raises PictureGoneError where there is none."""
        job = self._jobs.get(key)
        if job is None:
            raise PictureGoneError("nothing is done for this picture; send it again")
        job.asked = time.monotonic()
        return job

    def cancel(self, key: str) -> None:
        """End a picture's job, if there is one: at once while it waits, at the next tile while it is at work."""
        job = self._jobs.get(key)
        if job is None or job.is_over:
            return
        if job.state == "working":
            self._team.stop_work(job.number)
        elif job.task is not None:
            job.task.cancel()
        job.state = "cancelled"

    def describe(self, job: Job) -> dict[str, Any]:
        """What a page shows: the state, the share that is done, and the seconds left if they are known."""
        share, left = (1.0, 0.0) if job.state == "done" else (0.0, None)
        if job.state == "working":
            share, left = self._team.progress(job.number, job.model[0], time.monotonic() - job.began)
            share = job.shown = max(share, job.shown)
        return {"state": job.state, "share": share, "seconds_left": left}

    def expire(self) -> None:
        """Cancel and forget what nobody asks about any more."""
        now = time.monotonic()
        for key in [key for key, job in self._jobs.items() if now - job.asked > self._forgotten_seconds]:
            self.cancel(key)
            del self._jobs[key]

    def stop(self) -> None:
        """Wait for none of them any more."""
        for job in self._jobs.values():
            if job.task is not None:
                job.task.cancel()

    async def _work(self, key: str, job: Job, admission: ExitStack) -> None:
        async def on_turn() -> bool:
            if job.state == "cancelled":
                return True
            job.state, job.began = "working", time.monotonic()
            return False

        with admission:
            try:
                await self._team.run(job.number, prepare_picture, key, job.options, job.model[1], abandoned=on_turn)
                if job.state != "cancelled":
                    job.state = "done"
            except UnjpegError as error:
                if job.state != "cancelled":
                    job.state, job.error = "failed", error
            except Exception as error:  # a job has nobody else to tell
                job.state, job.error = "failed", UnjpegError(f"the server failed ({type(error).__name__})")
