"""A file whole or not at all: what every writer uses.

It is written without a name (or under a hidden one, where the system has none such) and put in its place in one step,
so that a full disk or a kill at any moment leaves no half file.
"""

from __future__ import annotations

import errno
import filecmp
import json
import os
import secrets
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from unjpeg.errors import ExistsError, OutputError

__all__ = [
    "check_target",
    "fold_case",
    "ignores_case",
    "is_same_file",
    "make_file_key",
    "place_file",
    "put_in_place",
    "put_json",
    "report_errors",
]

_NAMES_PROBED = 1000
"""Of a folder, to find one with letters."""


def ignores_case(folder: str) -> bool | None:
    """Whether names that differ in case alone are one file in a folder, or in the nearest above it that exists.

    Asked of the folder itself: a mount, and with some file systems each folder, has its own answer. None where it
    cannot be told, because no name in it has letters.
    """
    while not os.path.isdir(folder):
        above = os.path.dirname(folder)
        if above == folder:
            return None
        folder = above
    try:
        with os.scandir(folder) as entries:
            names = {entry.name for entry in islice(entries, _NAMES_PROBED)}
        name = next((name for name in sorted(names) if name.swapcase() != name), None)
        if name is not None:
            return _is_spelled_also(os.path.join(folder, name), os.path.join(folder, name.swapcase()))
        above, name = os.path.split(folder)  # empty: as the folder that it lies in, if that is of the same disk
        if name.swapcase() == name or os.path.ismount(folder):
            return None
        return _is_spelled_also(folder, os.path.join(above, name.swapcase()))
    except OSError:
        return None


def _is_spelled_also(path: str, other: str) -> bool:
    """Whether the second name, which differs in case alone, leads to the same file.

    Not by inode numbers alone: exFAT by FUSE makes them up, one for each spelling. There both spellings exist, and the
    folder lists one of them.
    """
    if not os.path.lexists(other):
        return False
    if os.path.samefile(path, other):
        return True
    return os.path.basename(other) not in os.listdir(os.path.dirname(other))


def make_file_key(path: str | os.PathLike[str]) -> str:
    """Equal for paths that may be one file by their names: links followed, case ignored unless the folder tells it."""
    real = os.path.realpath(path)
    return real if ignores_case(os.path.dirname(real)) is False else fold_case(real)


def is_same_file(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> bool:
    """Whether two paths lead to one file that exists: by links, mounts, or another spelling of its name."""
    try:
        if os.path.samefile(first, second):
            return True
        if fold_case(os.path.realpath(first)) != fold_case(os.path.realpath(second)):
            return False
        return make_file_key(first) == make_file_key(second) or _holds_the_same(first, second)
    except OSError:  # one is not there
        return False


def fold_case(path: str) -> str:
    """Equal for spellings that some file system takes for one: in case, in how an accent is composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _holds_the_same(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> bool:
    return os.path.isfile(first) and os.path.isfile(second) and filecmp.cmp(first, second, shallow=False)


@contextmanager
def report_errors(name: str) -> Iterator[None]:
    """Turn what the operating system refuses into OutputError, in whose line the name comes first."""
    try:
        yield
    except FileExistsError as error:
        raise ExistsError(f"{name}: exists already; pass overwrite=True to replace it") from error
    except OSError as error:
        raise OutputError(f"{name}: cannot be written ({error.strerror or error})") from error


def check_target(path: Path, overwrite: bool) -> None:
    """Raises OutputError if a file cannot be put there for a reason that is known before it is made."""
    with report_errors(str(path)):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if os.path.lexists(path) and not overwrite:
            raise FileExistsError
        if path.exists() and not path.is_file():
            # Replacing would put a file where a device or a pipe was.
            raise OSError(errno.EINVAL, "Not a regular file")


def put_in_place(path: Path, data: bytes, overwrite: bool) -> None:
    """Write a file whole or not at all: a kill or a full disk at any time leaves what was there. Raises OutputError."""
    with place_file(path, overwrite) as file:
        file.write(data)


def put_json(path: Path, record: Any) -> None:
    """Write a record as ``put_in_place`` does, one indented line for each value. Raises OutputError."""
    put_in_place(path, json.dumps(record, indent=1).encode() + b"\n", overwrite=True)


@contextmanager
def place_file(path: Path, overwrite: bool, about_to_place: Callable[[], None] | None = None) -> Iterator[BinaryIO]:
    """A file to write to that appears under its name, whole, when the block ends, and never if the block fails.

    Args:
        path: where it appears.
        overwrite: whether it may replace a file there.
        about_to_place: called before it appears.

    Raises:
        OutputError: it cannot be written, or there is a file already.
    """
    # Without the target's name, which may be as long as names can be.
    temporary = path.with_name(f".unjpeg-{secrets.token_hex(8)}.partial")
    try:
        with report_errors(str(path)):
            file = _nameless(path.parent) or _new_file(temporary)
            with file:
                yield file
                _to_disk(file)
                if about_to_place:
                    about_to_place()
                if not os.path.lexists(temporary):
                    if not overwrite and _link_open_file(file, path):
                        return
                    if not _link_open_file(file, temporary):
                        with _new_file(temporary) as copy:
                            file.seek(0)
                            shutil.copyfileobj(file, copy)
                            _to_disk(copy)
            if overwrite:
                os.replace(temporary, path)
            else:
                _link(temporary, path)
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def _nameless(folder: Path) -> BinaryIO | None:
    """A new file of which a kill leaves nothing; None where there are no such files."""
    try:
        return open(os.open(folder, os.O_RDWR | os.O_TMPFILE, 0o666), "w+b")
    except (OSError, AttributeError):  # Linux has them, but not on every file system
        return None


def _new_file(path: Path) -> BinaryIO:
    # The mode is subject to the umask, as for any new file (tempfile would make it the owner's alone).
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    return open(os.open(path, flags, 0o666), "w+b")


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _link_open_file(file: BinaryIO, path: Path) -> bool:
    """Give a nameless file a name. False if the system refuses; raises FileExistsError if the name is taken."""
    try:
        folder = os.open("/proc/self/fd", os.O_RDONLY)
        try:
            # Relative to a folder: without one, Python's link() does not follow links.
            os.link(str(file.fileno()), path, src_dir_fd=folder, follow_symlinks=True)
        finally:
            os.close(folder)
    except FileExistsError:
        raise
    except OSError:
        return False
    return True


def _link(temporary: Path, path: Path) -> None:
    """Give the file its name unless that is taken. Raises FileExistsError if it is."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        # No hard links here (FAT, some network shares): an empty file, made exclusively, takes the name first.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            os.replace(temporary, path)
        except BaseException:
            os.unlink(path)
            raise
