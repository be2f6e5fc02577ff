"""What every command line here shares: running safely, one clear line for each error, a bar on a terminal."""

from __future__ import annotations

import os
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from unjpeg.errors import BadImageError, ModelError, OutputError, SettingError, UnjpegError

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
        complain(error)
        sys.exit(2 if isinstance(error, SettingError | ModelError) else 1)
    except KeyboardInterrupt:
        complain(UnjpegError("interrupted"))
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # standard output on a full disk, say
        complain(OutputError(f"{error.filename or 'standard output'}: {error.strerror or error}"))
        sys.exit(1)
    except ImportError as error:  # a library that cannot be opened: too few file descriptors, say
        complain(UnjpegError(f"a part of the program cannot be loaded ({error})"))
        sys.exit(1)


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
        yield
    except ModuleNotFoundError as error:
        raise UnjpegError(f"this command needs {error.name}: pip install 'unjpeg[{extra}]'") from error


@contextmanager
def progress_bar(total: int, *, hidden: bool = False, doing: str = "restoring") -> Iterator[Callable[[float], None]]:
    """A function that takes the number of what is finished; a bar on a terminal, silence in a pipe."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(doing), BarColumn(), TextColumn("{task.fields[count]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal) as bar:
        task = bar.add_task(doing, total=float(total), count="")
        start = time.monotonic()

        def show(finished: float) -> None:
            rate = finished / max(time.monotonic() - start, 1e-3) * 60
            bar.update(task, completed=finished, count=f"{int(finished)} of {total}, {rate:.0f} a minute")

        yield show
