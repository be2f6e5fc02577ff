"""What every command line here shares: running safely, one clear line for each error, a bar on a terminal."""

from __future__ import annotations

import os
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from unjpeg.errors import BadImageError, ModelError, OutputError, SettingError, UnjpegError
from unjpeg.interrupts import loading, was_interrupted

__all__ = [
    "complain",
    "describe_error",
    "escape_line",
    "in_options",
    "needing_extra",
    "progress_bar",
    "run_safely",
    "say",
]


_KEYWORDS = re.compile(r"(?<=[ (])(overwrite|salvage|device|runtime|bit_depth)=(?:True|\"?(\w+)\"?)")


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
        lambda found: f"--{found[1].replace('_', '-')}" + (f" {found[2]}" if found[2] else ""), message
    )


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
    columns = (TextColumn(doing), BarColumn(), TextColumn("{task.fields[words]}", markup=False))
    with Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal) as bar:
        task = bar.add_task(doing, total=None, words="getting ready")
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
            if finished > first[1]:
                left = (now - first[0]) / (finished - first[1]) * (total - finished)
                words += f", {_in_minutes(left)} left"
            bar.update(task, completed=finished, total=float(total), words=words)

        yield show


def _in_minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
