"""What a worker process shows the server while it is at work: how far it is, and how fast it has been.

Memory that both share, so that the server can read while the worker computes, and ask it to stop.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from unjpeg.errors import BusyError
from unjpeg.tiling import Tiling

__all__ = ["Gauges", "Pace", "Sight", "expect_seconds", "left_of"]

_CONTEXT = multiprocessing.get_context("spawn")

_SHARE, _SHARE_SECONDS, _NEXT, _STOP, _HEIGHT, _WIDTH, _REST, _HEAD = range(8)
_RATE, _CORE, _HALO, _PER_MODEL = range(4)

_TELLING_PIXELS = 200_000
"""What takes a measurement with it: smaller pictures are mostly overhead, and only count while there is no other."""

_STEADY: Final = 0.7
"""Of the way to the next report the clock goes on steadily; then ever slower, so that it never gets there before it."""

_NEWEST: Final = 0.5
"""Weight of the newest measurement."""

_TRUSTED_SHARE = 0.2
"""From here on the share that is done says more about the time left than earlier pictures do."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a model takes here, as measured.

    Attributes:
        seconds_per_seen: for each pixel that the network sees, all its passes counted.
        seconds_per_pixel: for each pixel of the picture, of all that is not the network.
        tiling: what the network sees is halos too.
    """

    seconds_per_seen: float
    seconds_per_pixel: float
    tiling: Tiling

    def seconds(self, height: int, width: int) -> float:
        """For a picture of this size."""
        return self.seconds_per_seen * self.tiling.seen_pixels(height, width) + self.seconds_per_pixel * height * width


@dataclass(frozen=True, slots=True)
class Sight:
    """How far a worker is with a picture.

    Attributes:
        share: finished, 0..1, at ``seconds`` after it began. Then a tile or a strip was complete.
        next: the share when the next one will be.
        size: (height, width) in pixels; (0, 0) before it is known.
    """

    share: float
    next: float
    seconds: float
    size: tuple[int, int]


class Gauges:
    """Of one worker, which writes; the server reads, and may ask to stop. It outlives the process.

    Args:
        models: how many the worker has.
    """

    def __init__(self, models: int) -> None:
        self._cells = _CONTEXT.RawArray("d", _HEAD + models * _PER_MODEL)
        self._models = models

    # The server's side

    def reset(self) -> None:
        """Before a job: nothing is done, and nobody asks to stop."""
        self._cells[:_REST] = [0.0] * _REST

    def stop(self) -> None:
        """Ask the job to end at the next tile."""
        self._cells[_STOP] = 1

    @property
    def sight(self) -> Sight:
        cells = self._cells
        size = int(cells[_HEIGHT]), int(cells[_WIDTH])
        return Sight(cells[_SHARE], cells[_NEXT], cells[_SHARE_SECONDS], size)

    def pace(self, model: int) -> Pace | None:
        """Of the model of this number; None before anything was measured or presumed."""
        rate, core, halo = self._cells[_HEAD + model * _PER_MODEL : _HEAD + (model + 1) * _PER_MODEL]
        return Pace(abs(rate), self._cells[_REST], Tiling(int(core), int(halo))) if rate else None

    def is_measured(self, model: int) -> bool:
        """Whether a picture of some size has told the pace of this model."""
        rate: float = self._cells[_HEAD + model * _PER_MODEL + _RATE]
        return rate > 0

    # The worker's side

    def begin(self, height: int, width: int) -> Callable[[float, float], None]:
        """Start with a picture. The function takes the share that is done, and what it will be with the next report.

        It raises BusyError when asked to stop.
        """
        start = time.monotonic()
        self._cells[_HEIGHT], self._cells[_WIDTH] = height, width

        def report(share: float, following: float) -> None:
            if self._cells[_STOP]:
                raise BusyError("the work was given up")
            self._cells[_SHARE_SECONDS] = time.monotonic() - start
            self._cells[_SHARE], self._cells[_NEXT] = share, following

        return report

    def presume(self, model: int, tiling: Tiling, seconds_per_seen: float) -> None:
        """Note how long a model may take, until a picture tells."""
        at = _HEAD + model * _PER_MODEL
        if not self._cells[at + _RATE]:
            self._cells[at : at + _PER_MODEL] = [-seconds_per_seen, tiling.core, tiling.halo]

    def measured(
        self, model: int, tiling: Tiling, size: tuple[int, int], layers: int, network_seconds: float, rest: float
    ) -> None:
        """Note how long a picture took.

        Args:
            size: (height, width).
            layers: how many times the network saw it.
            rest: seconds of all that was not the network.
        """
        seen, pixels = tiling.seen_pixels(*size) * layers, size[0] * size[1]
        at = _HEAD + model * _PER_MODEL
        if seen < _TELLING_PIXELS:
            self.presume(model, tiling, network_seconds / seen)
            return
        self._cells[at + _CORE], self._cells[at + _HALO] = tiling.core, tiling.halo
        for cell, value in ((at + _RATE, network_seconds / seen), (_REST, rest / pixels)):
            old = self._cells[cell]
            self._cells[cell] = value if old <= 0 else old + _NEWEST * (value - old)


def expect_seconds(paces: Sequence[Pace | None], height: int, width: int) -> float | None:
    """The mean over the workers that have measured; None if none has."""
    known = [pace.seconds(height, width) for pace in paces if pace is not None]
    return sum(known) / len(known) if known else None


def left_of(sight: Sight, elapsed: float, expected: float | None) -> tuple[float, float | None]:
    """The share to show, 0..1, and the seconds left; None where nothing is known, or a tile takes longer than expected.

    Between two tiles the clock goes on, as far as earlier pictures or the tiles before tell how long they take. What is
    shown never stands still while that is known, and never overtakes the next tile.

    Args:
        elapsed: seconds since it began.
        expected: seconds it should take in all, from earlier pictures.
    """
    whole = sight.seconds / sight.share if sight.share >= (_TRUSTED_SHARE if expected else 1e-9) else expected
    if not whole:
        return sight.share, None
    step, since = sight.next - sight.share, max(0.0, elapsed - sight.seconds)
    takes = whole * step
    if takes <= 0:
        return sight.share, None
    way = since / takes
    if way > _STEADY:
        rest = 1 - _STEADY
        way = 1 - rest / (1 + (way - _STEADY) / rest)
    shown = sight.share + step * way
    return shown, whole * (1 - shown) if since < takes else None
