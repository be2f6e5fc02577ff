"""What every command line here shares: running safely, one clear line for each error, a bar on a terminal."""

from __future__ import annotations

import os
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from glob import iglob
from itertools import islice
from typing import NoReturn

import typer

from unjpeg.errors import BadImageError, ModelError, OutputError, SettingError, UnjpegError
from unjpeg.interrupts import loading, was_interrupted

__all__ = [
    "WILDCARDS",
    "complain",
    "describe_error",
    "escape_line",
    "explain",
    "in_options",
    "needing_extra",
    "progress_bar",
    "run_safely",
    "say",
]


WILDCARDS = frozenset("*?[")

_KEYWORDS = re.compile(r"(?<=[ (])(overwrite|salvage|device|runtime|bit_depth|quality)=(?:True|\"?(\w+)\"?)")
_RENAMED = {"quality": "as_quality"}

_SIZE = re.compile(r"(\d+)x(\d+) pixels, more than the limit of [\d,]+$")
_INKS = "holds no CMYK; choose tiff"
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.I)
_NOT_WRITTEN = re.compile(r": cannot be (written|made a folder) \([^()]*\)$")
_LIMITS = (
    (re.compile(r"bytes of metadata, more than the limit of [\d,]+$"), "--max-metadata"),
    (re.compile(r"more than the limit of [\d,]+ bytes of metadata$"), "--max-metadata"),
    (re.compile(r"more than the limit of [\d,]+ bytes$"), "--max-file"),
)


def run_safely(command: Callable[[], object]) -> None:
    """Run a command line; exit with its code. Never shows a traceback for an error of unjpeg's own."""
    try:
        command()
    except UnjpegError as error:
        if was_interrupted():  # a consequence
            _end_interrupted()
        complain(error)
        sys.exit(2 if isinstance(error, SettingError | ModelError) else 1)
    except KeyboardInterrupt:
        _end_interrupted()
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # standard output on a full disk, say
        complain(OutputError(f"{error.filename or 'standard output'}: {error.strerror or error}"))
        sys.exit(1)
    except ImportError as error:  # a library that cannot be opened: too few file descriptors, say
        if was_interrupted():
            _end_interrupted()
        complain(UnjpegError(f"a part of the program cannot be loaded ({error})"))
        sys.exit(1)


def _end_interrupted() -> NoReturn:
    complain(UnjpegError("interrupted"))
    sys.exit(130)


def complain(error: BaseException) -> None:
    """One line on standard error."""
    say(" ".join(in_options(str(error)).split()))


def in_options(message: str) -> str:
    """A message of the library as the command says it: its keywords are options here."""
    return _KEYWORDS.sub(
        lambda found: f"--{_RENAMED.get(found[1], found[1]).replace('_', '-')}" + (f" {found[2]}" if found[2] else ""),
        message,
    )


def explain(error: BaseException, source: str) -> str:
    """A message about an input as the command says it: in options, and with the way out where the command knows one."""
    message = in_options(str(error)).replace(_INKS, "holds no CMYK; choose tiff (-o photo.tif)")
    if isinstance(error, BadImageError) and source != "-" and not os.path.lexists(source):
        return message + _suggest_file(source)
    size = _SIZE.search(message)
    if size:
        return f"{message}; --max-pixels {int(size[1]) * int(size[2])} lets it in, if there is memory for it"
    if isinstance(error, OutputError) and _NOT_WRITTEN.search(message):
        return f"{message}; choose another output with -o"
    option = next((option for limit, option in _LIMITS if limit.search(message)), None)
    return f"{message}; {option} lets it in" if option else message


def _suggest_file(missing: str) -> str:
    """What may have been meant by a path where nothing is, as the end of a sentence; nothing if there is no idea."""
    if _ADDRESS.match(missing):
        return "; it is an address, and nothing is fetched: download the picture first"
    if WILDCARDS & set(missing):
        count = sum(1 for _ in islice(iglob(missing), 1000))
        if count == 0:
            return ", and nothing that this wildcard fits"
        return f"; without the quotes the wildcard fits {count} {'file' if count == 1 else 'files'}"
    folder, name = os.path.split(missing)
    try:
        near = get_close_matches(name, os.listdir(folder or "."), 1, 0.75)
    except (OSError, ValueError):
        return ""
    return f"; did you mean {os.path.join(folder, near[0])}?" if near else ""


def say(line: str) -> None:
    """A line on standard error, signed."""
    typer.echo(f"unjpeg: {escape_line(line)}", err=True)


def escape_line(text: str) -> str:
    """One line whatever a file is called: line breaks, control characters and undecodable bytes escaped."""
    unsafe = ("Cc", "Cs", "Zl", "Zp")
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in unsafe else c for c in text)


def describe_error(error: BaseException, source: str) -> BaseException:
    """The error, or one that names the file where it is not ours."""
    if isinstance(error, MemoryError):
        return BadImageError(f"{source}: not enough memory to restore it")
    if isinstance(error, OSError):
        return OutputError(f"{source}: {error.strerror or error}")
    return error


@contextmanager
def needing_extra(extra: str) -> Iterator[None]:
    """Around imports: what is not installed is an error that names the extra. Raises UnjpegError."""
    try:
        with loading():
            yield
    except ModuleNotFoundError as error:
        raise UnjpegError(f"this command needs {error.name}: pip install 'unjpeg[{extra}]'") from error


@contextmanager
def progress_bar(total: int, *, hidden: bool = False, doing: str = "restoring") -> Iterator[Callable[[float], None]]:
    """A function that takes the number of what is finished, parts included; a bar on a terminal, silence in a pipe.

    The time left is reckoned from when the first part was finished: before that, files are read and models loaded.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    words = TextColumn("{task.fields[words]}{task.fields[left]}", markup=False)
    columns = (TextColumn(doing, markup=False), BarColumn(), words)
    with Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal) as bar:
        task = bar.add_task(doing, total=None, words="getting ready", left="")
        start = time.monotonic()
        first: tuple[float, float] | None = None

        def show(finished: float) -> None:
            nonlocal first
            if not finished:
                return
            now = time.monotonic()
            first = first or (now, finished)
            if total == 1:
                words = f"{finished:4.0%}"
            else:
                words = f"{int(finished)} of {total}, {finished / max(now - start, 1e-3) * 60:.0f} a minute"
            ends = None
            if first[1] < finished < total:
                ends = now + (now - first[0]) / (finished - first[1]) * (total - finished)
            bar.update(task, completed=finished, total=float(total), words=words, left=_Countdown(ends))

        yield show


class _Countdown:
    """How long it is until a moment of the monotonic clock, whenever it is drawn; nothing for no moment."""

    def __init__(self, ends: float | None) -> None:
        self._ends = ends

    def __format__(self, specification: str) -> str:
        if self._ends is None:
            return ""
        minutes, seconds = divmod(max(0, round(self._ends - time.monotonic())), 60)
        hours, minutes = divmod(minutes, 60)
        return f", {hours}:{minutes:02d}:{seconds:02d} left" if hours else f", {minutes}:{seconds:02d} left"
