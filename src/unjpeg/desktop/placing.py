"""Menus put in place and taken away. What was written is recorded; all else, and what was changed, is left alone."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from typing import Any, Literal

from unjpeg.desktop.menus import FILE_MANAGERS, FileManager, MenuFile, Places, describe_shortcut
from unjpeg.desktop.thunar import (
    find_actions_file,
    find_entry,
    make_entry,
    put_entry,
    start_actions,
    take_entry,
)
from unjpeg.errors import OutputError, UnjpegError
from unjpeg.files import put_in_place, put_json, report_errors

__all__ = ["Change", "State", "describe_changes", "install", "list_menus", "remove"]

State = Literal["absent", "installed", "outdated", "foreign"]
"""Of a file: not there; as it should be; ours, but of another command or version; somebody else's, or changed since."""

_SYSTEMS = {"linux": "Linux", "darwin": "macOS", "win32": "Windows"}


@dataclass(frozen=True, slots=True)
class Change:
    """What was done to one file, or would be.

    Attributes:
        what: "written", "removed", "entry written" or "entry removed", of a file that others have a part in, or
            "left alone", with the reason in ``why``; of ``list_menus`` a ``State``.
        found: whether the file manager itself is installed here.
    """

    file_manager: str
    path: Path
    what: str
    why: str = ""
    found: bool = True


@dataclass(slots=True)
class _Record:
    """What was written where, and the folders that were made for it.

    Attributes:
        files: path to SHA-256 and command.
        folders: made by us, to be taken away when they are empty.
        started: of files of Thunar that we began, the SHA-256 of what they held before our entry.
    """

    path: Path
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    started: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, places: Places) -> _Record:
        path = places.own / "desktop.json"
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            return cls(path, dict(held["files"]), list(held["folders"]), dict(held["started"]))
        except FileNotFoundError:
            return cls(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            way_out = "remove it, and the entries by hand"
            raise OutputError(f"{path}: the record of what was put in place cannot be read; {way_out}") from error

    def write(self) -> None:
        if self.files or self.started:
            self.make_folder(self.path.parent)
            put_json(self.path, {"files": self.files, "folders": self.folders, "started": self.started})
            return
        with suppress(FileNotFoundError):
            self.path.unlink()
        self.drop_folders()

    def make_folder(self, folder: Path) -> None:
        missing = [one for one in (folder, *folder.parents) if not one.exists()]
        with report_errors(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
        self.folders += [str(one) for one in reversed(missing)]

    def drop_folders(self) -> None:
        for folder in sorted(self.folders, key=len, reverse=True):
            with suppress(OSError):  # something else lies in it by now, or somebody removed it
                os.rmdir(folder)
        self.folders = [folder for folder in self.folders if os.path.isdir(folder)]


def install(
    names: Sequence[str],
    places: Places,
    command: tuple[str, ...],
    *,
    dry_run: bool = False,
    system: str = sys.platform,
) -> list[Change]:
    """Put the menus of these file managers in place, or of all that are found here.

    Args:
        names: of ``FILE_MANAGERS``; none for those that are installed.
        command: that restores the files which follow it; absolute.

    Raises:
        ValueError: there is no such file manager, or none on this system.
        OutputError: something is in the way that this did not write, or the system refuses.
        UnjpegError: no file manager was found.
    """
    chosen = _choose(names, system) or [one for one in _of_system(system) if _is_here(one)]
    if not chosen:
        raise UnjpegError(
            f"no file manager was found here; name one: {', '.join(one.name for one in _of_system(system))}"
        )
    try:
        "".join(command).encode()
    except UnicodeEncodeError as error:
        raise OutputError(
            f"{command[0]!r}: its path is no text that a menu could hold; install it elsewhere"
        ) from error
    record = _Record.read(places)
    work = [(one, file) for one in chosen for file in _files_of(one, places, command)]
    for one, file in work:  # before anything is written
        if one.menu is None:
            _entry_state(file)  # refuses what is no file of actions
        elif _state(file, command, record) == "foreign":
            raise OutputError(f"{file.path}: is there already, and is not as unjpeg wrote it; move it away first")
    changes: list[Change] = []
    for one, file in work:
        if one.menu is None:
            changes += _put_entry(places, file, record, dry_run)
        elif _state(file, command, record) != "installed" or str(file.path) not in record.files:
            changes.append(Change(one.name, file.path, "written"))
            if not dry_run:
                _put_file(file, command, record)
    return changes


def remove(names: Sequence[str], places: Places, *, dry_run: bool = False, system: str = sys.platform) -> list[Change]:
    """Take away what ``install`` put in place for these file managers, or for all. What was changed since stays.

    Raises:
        ValueError: there is no such file manager, or none on this system.
        OutputError: the system refuses.
    """
    record = _Record.read(places)
    changes: list[Change] = []
    for one in _choose(names, system) or _of_system(system):
        for file in _files_of(one, places, ("unjpeg",)):
            if one.menu is None:
                changes += _take_entry(places, file, record, dry_run)
                continue
            known = record.files.get(str(file.path))
            if known is None:
                continue
            there = file.path.exists()
            if there and _hash_file(file.path) != known["sha256"]:
                changes.append(Change(one.name, file.path, "left alone", "it was changed since it was written"))
                continue
            if there:
                changes.append(Change(one.name, file.path, "removed"))
            if not dry_run:
                with report_errors(str(file.path)), suppress(FileNotFoundError):
                    file.path.unlink()
                del record.files[str(file.path)]
    if not dry_run:
        record.drop_folders()
        record.write()
    return changes


def list_menus(places: Places, command: tuple[str, ...], *, system: str = sys.platform) -> list[Change]:
    """The state of each file of each menu of this system."""
    record = _Record.read(places)
    found = []
    for one in _of_system(system):
        for file in _files_of(one, places, command):
            try:
                state = _state(file, command, record) if one.menu else _entry_state(file)
            except OutputError:
                state = "foreign"
            found.append(Change(one.name, file.path, state, found=_is_here(one)))
    return found


def describe_changes(changes: Sequence[Change], *, dry_run: bool = False) -> list[str]:
    """One line for each file, aligned; or that there is nothing to do."""
    words = {"absent": "not installed", "outdated": "of another unjpeg or model", "foreign": "not as unjpeg wrote it"}
    lines = []
    for one in changes:
        what = words.get(one.what, one.what) + (f" ({one.why})" if one.why else "")
        not_here = "" if one.found else "; this file manager is not here"
        what = re.sub(r"(written|removed)$", r"would be \1", what) if dry_run else what
        lines.append(f"{one.file_manager:9s} {what}{not_here}: {one.path}")
    return lines or ["nothing to do"]


def _of_system(system: str) -> list[FileManager]:
    """Where none is at home, as on the BSDs, those of Linux are used."""
    home = system if system in _SYSTEMS else "linux"
    return [one for one in FILE_MANAGERS.values() if one.system == home]


def _choose(names: Sequence[str], system: str) -> list[FileManager]:
    here = {one.name: one for one in _of_system(system)}
    for name in names:
        if name not in FILE_MANAGERS:
            raise ValueError(f"there is no file manager {name!r}; there are: {', '.join(here)}")
        if name not in here:
            raise ValueError(f"{name} is of {_SYSTEMS[FILE_MANAGERS[name].system]}; here there are: {', '.join(here)}")
    return [here[name] for name in dict.fromkeys(names)]


def _is_here(one: FileManager) -> bool:
    return one.program is None or which(one.program) is not None


def _files_of(one: FileManager, places: Places, command: tuple[str, ...]) -> tuple[MenuFile, ...]:
    if one.menu is None:
        return (MenuFile(find_actions_file(places), make_entry(command)),)
    return one.menu(places, command)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _hash_file(path: Path) -> str:
    with report_errors(str(path)):
        return _hash(path.read_bytes())


def _state(file: MenuFile, command: tuple[str, ...], record: _Record) -> State:
    if not os.path.lexists(file.path):
        return "absent"
    known = record.files.get(str(file.path))
    if not file.path.is_file():
        return "foreign"
    held = _hash_file(file.path)
    if file.content is not None and held == _hash(file.content):
        return "installed"
    if known is None or held != known["sha256"]:
        return "foreign"
    return "installed" if file.content is None and known["command"] == list(command) else "outdated"


def _put_file(file: MenuFile, command: tuple[str, ...], record: _Record) -> None:
    record.make_folder(file.path.parent)
    if file.content is None:
        _make_shortcut(file.path, command)
    else:
        put_in_place(file.path, file.content, overwrite=True)
    if file.executable:
        with report_errors(str(file.path)):
            file.path.chmod(file.path.stat().st_mode | 0o111)
    record.files[str(file.path)] = {"sha256": _hash_file(file.path), "command": list(command)}
    record.write()


def _make_shortcut(path: Path, command: tuple[str, ...]) -> None:
    line, variables = describe_shortcut(path, command)
    program = which(line[0])
    if program is None:
        raise OutputError(f"{path}: a shortcut is made with PowerShell, which is not here; make it by hand")
    ran = subprocess.run(
        [program, *line[1:]], env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=60
    )
    if ran.returncode or not path.exists():
        raise OutputError(f"{path}: PowerShell made no shortcut ({' '.join(ran.stderr.split()) or ran.returncode})")


def _read_actions(path: Path) -> bytes | None:
    with report_errors(str(path)), suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def _entry_state(file: MenuFile) -> State:
    """Raises OutputError if it is no file of actions."""
    held = _read_actions(file.path)
    entry = None if held is None else find_entry(held, str(file.path))
    if entry is None:
        return "absent"
    return "installed" if entry == file.content else "outdated"


def _put_entry(places: Places, file: MenuFile, record: _Record, dry_run: bool) -> Iterator[Change]:
    path, entry = file.path, file.content or b""
    held = _read_actions(path)
    base = start_actions(places) if held is None else held
    changed = put_entry(base, entry, str(path))
    if changed == held:
        return
    yield Change("thunar", path, "entry written")
    if dry_run:
        return
    record.make_folder(path.parent)
    if held is None:
        record.started[str(path)] = _hash(base)
    _write_actions(path, changed)
    record.files[str(path)] = {"sha256": _hash(entry), "command": []}
    record.write()


def _take_entry(places: Places, file: MenuFile, record: _Record, dry_run: bool) -> Iterator[Change]:  # noqa: ARG001
    path = file.path
    held = _read_actions(path)
    try:
        left = held if held is None else take_entry(held, str(path))
    except OutputError:
        if str(path) in record.files:  # else nothing of ours was ever there
            yield Change("thunar", path, "left alone", "it is no file of actions any more")
        return
    if held != left and left is not None:
        yield Change("thunar", path, "entry removed")
    if dry_run:
        return
    started = record.started.pop(str(path), None)
    record.files.pop(str(path), None)
    if left is not None and left != held:
        if started == _hash(left):
            with report_errors(str(path)):
                path.unlink()
        else:
            _write_actions(path, left)


def _write_actions(path: Path, data: bytes) -> None:
    mode = path.stat().st_mode if path.exists() else None
    put_in_place(path, data, overwrite=True)
    if mode is not None:
        path.chmod(mode & 0o777)
