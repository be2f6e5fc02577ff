"""A file whole or not at all: what every writer uses.

It is written without a name (or under a hidden one, where the system has none such) and put in its place in one step,
so that a full disk or a kill at any moment leaves no half file.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from unjpeg.errors import OutputError

__all__ = ["check_target", "placed", "put_in_place", "put_json", "reported"]


@contextmanager
def reported(name: str) -> Iterator[None]:
    """Turn what the operating system refuses into OutputError, in whose line the name comes first."""
    try:
        yield
    except FileExistsError as error:
        raise OutputError(f"{name}: exists already; pass --overwrite to replace it") from error
    except OSError as error:
        raise OutputError(f"{name}: cannot be written ({error.strerror or error})") from error


def check_target(path: Path, overwrite: bool) -> None:
    """Raises OutputError if a file cannot be put there for a reason that is known before it is made."""
    with reported(str(path)):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if os.path.lexists(path) and not overwrite:
            raise FileExistsError
        if path.exists() and not path.is_file():
            # Replacing would put a file where a device or a pipe was.
            raise OSError(errno.EINVAL, "Not a regular file")


def put_in_place(path: Path, data: bytes, overwrite: bool) -> None:
    """Write a file whole or not at all: a kill or a full disk at any time leaves what was there. Raises OutputError."""
    with placed(path, overwrite) as file:
        file.write(data)


def put_json(path: Path, record: Any) -> None:
    """Write a record as ``put_in_place`` does, one indented line for each value. Raises OutputError."""
    put_in_place(path, json.dumps(record, indent=1).encode() + b"\n", overwrite=True)


@contextmanager
def placed(path: Path, overwrite: bool, about_to_place: Callable[[], None] | None = None) -> Iterator[BinaryIO]:
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
        with reported(str(path)):
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
