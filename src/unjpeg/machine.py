"""What this process may use of its machine, what the machine is, and where something can be kept on it."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["FORCED_INSTRUCTIONS", "allowed_cores", "hold_lock", "make_cache_folder", "name_processor"]

FORCED_INSTRUCTIONS: Final = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Variables that keep an engine from instructions which the processor has."""

_POLL_SECONDS = 0.05

_CPUINFO = Path("/proc/cpuinfo")
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def allowed_cores() -> int:
    """Cores that this process may keep busy, 1 at least: of the machine, of its affinity, of its groups' quotas.

    A container on a large machine sees all cores and may use few; as many threads as cores then take turns.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        cores = min(cores, len(os.sched_getaffinity(0)))
    return max(1, min([cores, *_quotas()]))


def _quotas() -> list[int]:
    """Whole cores that Linux's control groups grant, of each group that sets a limit."""
    try:
        lines = _OWN_CGROUPS.read_text(errors="replace").splitlines()
    except OSError:
        return []
    quotas = []
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        # A container sees its own group as the root: then the path from outside leads nowhere, and the root counts.
        own = PurePosixPath("/") / path
        for group in (own, *own.parents):
            below = str(group).lstrip("/")
            if controllers:  # version 1
                folders = [_CGROUPS / name / below for name in (controllers, "cpu")]
                quotas += [
                    _cores(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))
                    for folder in folders
                ]
            else:
                quota, _, period = _read(_CGROUPS / below / "cpu.max").partition(" ")
                quotas.append(_cores(quota, period))
    return [cores for cores in quotas if cores is not None]


def _cores(quota: str, period: str) -> int | None:
    """None where nothing is limited ("max", -1) or nothing is said."""
    try:
        return max(1, int(quota) // int(period)) if int(quota) > 0 else None
    except (ValueError, ZeroDivisionError):
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def name_processor() -> str:
    """The processor's name as the system tells it, and its architecture."""
    architecture = platform.machine()
    facts = dict(re.findall(r"^(model name|CPU implementer|CPU part)\s*:[ \t]*(.*)$", _read(_CPUINFO), re.MULTILINE))
    name = facts.get("model name") or " ".join(facts.values()) or platform.processor()
    return f"{name} ({architecture})" if name and name != architecture else architecture


def make_cache_folder(name: str) -> Path | None:
    """A folder of that name in the user's cache folder, made if need be; None where nothing can be written there.

    ``$XDG_CACHE_HOME/unjpeg`` or ``~/.cache/unjpeg``, on Windows ``%LOCALAPPDATA%\\unjpeg``.
    """
    variable, default = ("LOCALAPPDATA", "AppData/Local") if sys.platform == "win32" else ("XDG_CACHE_HOME", ".cache")
    try:
        base = Path(os.environ.get(variable) or Path.home() / default)
        if not base.is_absolute():
            return None
        folder = base / "unjpeg" / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home
        return None
    return folder if os.access(folder, os.W_OK) else None


@contextmanager
def hold_lock(path: Path, wait_seconds: float, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Around what one process, and one thread of it, shall do at a time. The system lets go for one that dies.

    Args:
        path: of the lock's file, which is made and stays.
        wait_seconds: how long to wait for others, at most.

    Raises:
        OSError: the file cannot be made, or its disk has no locks.
        TimeoutError: another held it for too long; an OSError, too.
    """
    deadline = clock() + wait_seconds
    with path.open("ab") as file:
        while not _try_lock(file):
            if clock() >= deadline:
                raise TimeoutError(f"{path}: held by another process")
            time.sleep(_POLL_SECONDS)
        yield  # closing the file lets go


def _try_lock(file: BinaryIO) -> bool:
    """Whether the file is this holder's now. Raises OSError where there are no locks."""
    try:
        if sys.platform == "win32":
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # what POSIX and Windows say of a lock that another holds
        return False
    return True
