"""What this process may use of its machine."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

__all__ = ["allowed_cores"]

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
