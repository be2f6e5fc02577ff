"""Ctrl-C, clean at every moment of the command. Imports next to nothing: until it is there, Ctrl-C is Python's.

While libraries are loaded it ends the program at once: nothing is written yet, and an exception there is taken by some
library for an error of its own. While there is work it is a KeyboardInterrupt, which leaves no half file.
"""

from __future__ import annotations

import os
import signal
import time

__all__ = ["LINE", "loading", "raise_on_ctrl_c", "take_over", "was_interrupted"]

LINE = "unjpeg: interrupted"

_PATIENCE_SECONDS = 10.0
"""How long the work may take to end itself; a Ctrl-C after it ends the program in any case."""

_interrupted_at: float | None = None


def take_over() -> None:
    """From here on Ctrl-C ends the program at once. Not where it is ignored, as a script's background job has it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def raise_on_ctrl_c() -> None:
    """From here on Ctrl-C is a KeyboardInterrupt. Does nothing unless this module has taken over."""
    if _is_ours():
        signal.signal(signal.SIGINT, _raise)


class loading:  # noqa: N801
    """Around imports: Ctrl-C ends the program at once. Does nothing unless this module has taken over."""

    def __enter__(self) -> None:
        self._ours = _is_ours()
        if self._ours:
            self._before = signal.signal(signal.SIGINT, _leave)

    def __exit__(self, *_: object) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, self._before)


def was_interrupted() -> bool:
    """Whether there was a Ctrl-C, whatever has become of its exception: some libraries make an error of it."""
    return _interrupted_at is not None


def _is_ours() -> bool:
    import threading

    here = threading.current_thread() is threading.main_thread()
    return here and signal.getsignal(signal.SIGINT) in (_leave, _raise)


def _leave(*_: object) -> None:
    os.write(2, f"{LINE}\n".encode())
    os._exit(130)


def _raise(*_: object) -> None:
    global _interrupted_at
    if _interrupted_at is None:
        _interrupted_at = time.monotonic()
        raise KeyboardInterrupt
    if time.monotonic() - _interrupted_at > _PATIENCE_SECONDS:
        _leave()
