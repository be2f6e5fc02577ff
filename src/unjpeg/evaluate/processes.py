"""Other programs' processes: run to their end or ended whole, and the memory that they took."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

__all__ = ["Peak", "interrupting_on_signals", "measure_peak", "read_own_peak_mib", "run_whole"]

# By a process so small that it does not count: a command's peak starts with that of the process that it is forked from.
_PEAK_OF_COMMAND = """
import json, resource, subprocess, sys
command = subprocess.Popen(sys.argv[2:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
stopped = False
try:
    said = command.communicate(timeout=float(sys.argv[1]) if sys.argv[1] else None)[1]
except subprocess.TimeoutExpired:
    command.terminate()
    said, stopped = command.communicate()[1], True
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(json.dumps([peak, command.returncode, stopped, said.decode(errors="replace")]))
"""


@dataclass(frozen=True, slots=True)
class Peak:
    """What a command took.

    Attributes:
        mib: the most memory that it has held.
        code: its exit status.
        stopped: whether it was ended before its time.
        said: its standard error.
    """

    mib: float
    code: int
    stopped: bool
    said: str


def run_whole(command: Sequence[str], *, seconds: float | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run a command with nothing to read, and take what it writes.

    It is ended, with all that it has started, when its time is over or this process is interrupted.

    Raises subprocess.TimeoutExpired after so many seconds.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # so that what it starts can be ended with it
    )
    try:
        out, complaint = process.communicate(timeout=seconds)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return subprocess.CompletedProcess(command, process.returncode, out, complaint)


def measure_peak(command: Sequence[str], *, stop_after: float | None = None) -> Peak | None:
    """Run a command, for so many seconds at most, and ask the system for its peak memory.

    None where that cannot be read (outside Unix).
    """
    limit = "" if stop_after is None else str(stop_after)
    ran = run_whole([sys.executable, "-I", "-S", "-c", _PEAK_OF_COMMAND, limit, *command])
    try:
        return Peak(*json.loads(ran.stdout))
    except (ValueError, TypeError):
        return None


def read_own_peak_mib() -> float | None:
    """Most memory that this process has held; None where that cannot be read (outside Linux, say)."""
    # Not getrusage: its peak is inherited from the process that started this one.
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)


@contextlib.contextmanager
def interrupting_on_signals() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP raise KeyboardInterrupt: programs are ended, temporary folders removed.

    A signal that is ignored (under nohup, say) stays so. In another than the main thread nothing changes.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
