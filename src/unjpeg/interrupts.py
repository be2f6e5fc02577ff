"""Ctrl-C, clean at every moment of the command. Imports nothing that takes time.

While libraries are loaded it ends the program at once: nothing is written yet, and an exception there is taken by some
library for an error of its own. While there is work it is a KeyboardInterrupt, which leaves no half file.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def loading() -> Iterator[None]:
    """Around imports: Ctrl-C ends the program at once. Does nothing unless this module has taken over."""
    if not _is_ours():
        yield
        return
    before = signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def was_interrupted() -> bool:
    """Whether there was a Ctrl-C, whatever has become of its exception: some libraries make an error of it."""
    return _interrupted_at is not None


def _is_ours() -> bool:
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
