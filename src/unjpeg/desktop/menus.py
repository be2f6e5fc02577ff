"""Which files put 'Restore JPEG' into which file manager's menu, and what they hold.

Nothing is written here. A host hands over files in its own way; each menu turns that into the arguments of
``unjpeg desktop restore -- FILES``, so that no name, whatever is in it, is ever read as a command or an option.
"""

from __future__ import annotations

import os
import plistlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "FILE_MANAGERS",
    "TITLE",
    "FileManager",
    "MenuFile",
    "Places",
    "describe_shortcut",
    "find_program",
    "open_places",
    "quote_exec",
]

TITLE = "Restore JPEG"
"""What the menus say."""

_DESCRIPTION = "Take the compression artifacts out, into a new file beside it"
_PLAIN = re.compile(r"[A-Za-z0-9_@+=:,./-]+")


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of one user.

    Attributes:
        data, config: ``$XDG_DATA_HOME`` and ``$XDG_CONFIG_HOME``, or their defaults.
        defaults: ``$XDG_CONFIG_DIRS``: what holds where a user has set nothing.
        own: where is written down what was put where.
    """

    home: Path
    data: Path
    config: Path
    defaults: tuple[Path, ...]
    roaming: Path
    own: Path


def open_places(environment: Mapping[str, str], system: str = sys.platform) -> Places:
    """The folders as the environment names them. Relative ones count as not given, as the XDG specification says."""
    home = Path(environment.get("HOME") or Path.home())

    def named(variable: str, default: Path) -> Path:
        given = Path(environment.get(variable, ""))
        return given if given.is_absolute() else default

    data, config = named("XDG_DATA_HOME", home / ".local/share"), named("XDG_CONFIG_HOME", home / ".config")
    roaming = named("APPDATA", home / "AppData/Roaming")
    own = {"darwin": home / "Library/Application Support", "win32": roaming}.get(system, data) / "unjpeg"
    defaults = [Path(one) for one in environment.get("XDG_CONFIG_DIRS", "").split(":") if os.path.isabs(one)]
    return Places(home, data, config, tuple(defaults or [Path("/etc/xdg")]), roaming, own)


def find_program() -> tuple[str, ...]:
    """How this program is started from anywhere: an absolute path, and arguments if need be.

    The path is that of the command that runs, links not followed: a link stays when what it leads to is renewed.
    """
    called = Path(sys.argv[0])
    for candidate in (called, called.with_suffix(".exe")):
        if candidate.stem == "unjpeg" and candidate.is_file() and os.access(candidate, os.X_OK):
            return (os.path.abspath(candidate),)
    return (sys.executable, "-m", "unjpeg")


@dataclass(frozen=True, slots=True)
class MenuFile:
    """One file that a menu consists of.

    Attributes:
        content: what it holds; None for a shortcut of Windows, which Windows makes itself.
        executable: whether its host runs it, or trusts it only if it could be run.
    """

    path: Path
    content: bytes | None
    executable: bool = False


@dataclass(frozen=True, slots=True)
class FileManager:
    """One file manager.

    Attributes:
        system: where it is at home, as ``sys.platform`` says.
        program: by which it is found here; None where it is a part of the system.
        menu: its files, of the user's folders and the command that restores. None of Thunar: its menu is one entry of
            a file that others have entries in, see ``unjpeg.desktop.thunar``.
    """

    name: str
    system: str
    program: str | None
    menu: Callable[[Places, tuple[str, ...]], tuple[MenuFile, ...]] | None


def quote_exec(word: str) -> str:
    """A word of an ``Exec`` line, by the Desktop Entry Specification: quoted, then escaped as any string there."""
    word = word.replace("%", "%%")
    if _PLAIN.fullmatch(word):
        return word
    quoted = '"' + re.sub(r'(["`$\\])', r"\\\1", word) + '"'
    return quoted.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")


def _script(command: tuple[str, ...]) -> str:
    return f'exec {shlex.join(command)} "$@"\n'


def _scripts_menu(folder: Path, command: tuple[str, ...]) -> tuple[MenuFile, ...]:
    """A script in a folder of scripts: Nautilus, and what came of it. They pass names, and paths in a variable."""
    text = f"#!/bin/sh\n# {_DESCRIPTION}.\n{_script(command)}"
    return (MenuFile(folder / TITLE, text.encode(), executable=True),)


def _dolphin_menu(places: Places, command: tuple[str, ...]) -> tuple[MenuFile, ...]:
    """A service menu. KDE Frameworks 5 wants ``X-KDE-ServiceTypes``, 6 looks at ``MimeType``."""
    lines = [
        "[Desktop Entry]",
        "Type=Service",
        f"Name={TITLE}",
        "MimeType=image/jpeg;",
        "Actions=restore;",
        "X-KDE-ServiceTypes=KonqPopupMenu/Plugin",
        "",
        "[Desktop Action restore]",
        f"Name={TITLE}",
        "Icon=image-jpeg",
        f"Exec={' '.join(map(quote_exec, command))} %F",
        "",
    ]
    path = places.data / "kio/servicemenus/unjpeg-restore.desktop"
    return (MenuFile(path, "\n".join(lines).encode(), executable=True),)


def _finder_menu(places: Places, command: tuple[str, ...]) -> tuple[MenuFile, ...]:
    """A Quick Action: a workflow of one shell script that gets the files as its arguments."""
    service = {
        "NSMenuItem": {"default": TITLE},
        "NSMessage": "runWorkflowAsService",
        "NSRequiredContext": {"NSApplicationIdentifier": "com.apple.finder"},
        "NSSendFileTypes": ["public.jpeg"],
    }
    strings = {"Container": "List", "Types": ["com.apple.cocoa.string"]}
    action: dict[str, Any] = {
        "AMAccepts": {**strings, "Optional": True},
        "AMProvides": strings,
        "AMActionVersion": "2.0.3",
        "AMApplication": ["Automator"],
        "ActionBundlePath": "/System/Library/Automator/Run Shell Script.action",
        "ActionName": "Run Shell Script",
        "ActionParameters": {
            "COMMAND_STRING": _script(command),
            "CheckedForUserDefaultShell": True,
            "inputMethod": 1,  # as arguments, not on standard input
            "shell": "/bin/sh",
            "source": "",
        },
        "BundleIdentifier": "com.apple.RunShellScript",
        "CFBundleVersion": "2.0.3",
        "Class Name": "RunShellScriptAction",
        "InputUUID": "6A5C1D0E-7B0B-4B0E-9C55-0F5A6E0C4B01",
        "OutputUUID": "6A5C1D0E-7B0B-4B0E-9C55-0F5A6E0C4B02",
        "UUID": "6A5C1D0E-7B0B-4B0E-9C55-0F5A6E0C4B03",
    }
    workflow = {
        "AMApplicationBuild": "523",
        "AMApplicationVersion": "2.10",
        "AMDocumentVersion": "2",
        "actions": [{"action": action, "isViewVisible": 1}],
        "connectors": {},
        "workflowMetaData": {
            "applicationBundleID": "com.apple.finder",
            "inputTypeIdentifier": "com.apple.Automator.fileSystemObject.image",
            "outputTypeIdentifier": "com.apple.Automator.nothing",
            "processesInput": False,
            "serviceApplicationBundleID": "com.apple.finder",
            "serviceInputTypeIdentifier": "com.apple.Automator.fileSystemObject.image",
            "serviceOutputTypeIdentifier": "com.apple.Automator.nothing",
            "serviceProcessesInput": False,
            "workflowTypeIdentifier": "com.apple.Automator.servicesMenu",
        },
    }
    folder = places.home / "Library/Services" / f"{TITLE}.workflow" / "Contents"
    return (
        MenuFile(folder / "Info.plist", plistlib.dumps({"NSServices": [service]})),
        MenuFile(folder / "document.wflow", plistlib.dumps(workflow)),
    )


def _explorer_menu(places: Places, command: tuple[str, ...]) -> tuple[MenuFile, ...]:  # noqa: ARG001
    """A shortcut under 'Send to'. A .cmd file would not do: Explorer leaves ``a&b.jpg`` unquoted there."""
    return (MenuFile(places.roaming / "Microsoft/Windows/SendTo" / f"{TITLE}.lnk", None),)


def describe_shortcut(file: Path, command: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """What makes a shortcut on Windows: a command, and the variables that it reads everything from."""
    script = (
        "$ErrorActionPreference = 'Stop'; "
        "$link = (New-Object -ComObject WScript.Shell).CreateShortcut($env:UNJPEG_LINK); "
        "$link.TargetPath = $env:UNJPEG_TARGET; $link.Arguments = $env:UNJPEG_ARGUMENTS; "
        f"$link.Description = '{_DESCRIPTION}'; $link.Save()"
    )
    variables = {
        "UNJPEG_LINK": str(file),
        "UNJPEG_TARGET": command[0],
        "UNJPEG_ARGUMENTS": subprocess.list2cmdline(command[1:]),
    }
    return ["powershell", "-NoProfile", "-NonInteractive", "-Command", script], variables


FILE_MANAGERS = {
    one.name: one
    for one in (
        FileManager("nautilus", "linux", "nautilus", lambda at, run: _scripts_menu(at.data / "nautilus/scripts", run)),
        FileManager("nemo", "linux", "nemo", lambda at, run: _scripts_menu(at.data / "nemo/scripts", run)),
        FileManager("caja", "linux", "caja", lambda at, run: _scripts_menu(at.config / "caja/scripts", run)),
        FileManager("dolphin", "linux", "dolphin", _dolphin_menu),
        FileManager("thunar", "linux", "thunar", None),
        FileManager("finder", "darwin", None, _finder_menu),
        FileManager("explorer", "win32", None, _explorer_menu),
    )
}
