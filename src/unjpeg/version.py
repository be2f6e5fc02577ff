"""Which unjpeg this is, and where it runs. Costs nothing to import."""

from __future__ import annotations

__all__ = ["__version__", "machine", "source_commit", "source_hash"]

__version__ = "0.2.0"


def source_commit() -> str | None:
    """The commit of the source tree that runs, marked if its code was changed; None for an installed package."""
    import subprocess
    from pathlib import Path

    root = Path(__file__).parents[2]
    if not (root / "pyproject.toml").is_file():  # site-packages may lie inside somebody else's repository
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # Results and documents that are being written change nothing that is measured.
        changed = git("status", "--porcelain", "--", "src", "studies", "pyproject.toml", "constraints.txt")
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def source_hash(*modules: str) -> str:
    """A hash, 16 digits, over the source of modules of this package: another one whenever they may do otherwise.

    Args:
        modules: names below the package, as "restorer" or "evaluate.metrics"; a package's name is its ``__init__``.
    """
    import hashlib
    from importlib.resources import files

    digest = hashlib.sha256()
    for module in modules:
        *folders, name = module.split(".")
        folder = files("unjpeg").joinpath(*folders)
        file = folder.joinpath(f"{name}.py")
        source = file if file.is_file() else folder.joinpath(name, "__init__.py")
        digest.update(f"{module}\n".encode() + source.read_bytes())
        data = folder.joinpath(f"{name}.npz")  # numbers that a module computes with
        if data.is_file():
            digest.update(data.read_bytes())
    return digest.hexdigest()[:16]


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    import os
    import platform
    from pathlib import Path

    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return {"processor": model, "cores": os.cpu_count(), "python": platform.python_version()}
