"""One entry in Thunar's file of custom actions, where others have theirs: put in and taken out, byte by byte.

The rest of the file stays as it is, comments and indentation, too. Our entry is known by its ``unique-id``, which
Thunar keeps when it writes the file anew.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from xml.parsers import expat
from xml.sax.saxutils import escape

from unjpeg.desktop.menus import TITLE, Places
from unjpeg.errors import OutputError

__all__ = ["find_actions_file", "find_entry", "make_entry", "put_entry", "start_actions", "take_entry"]

_ID = "unjpeg-restore"
_EMPTY = b'<?xml version="1.0" encoding="UTF-8"?>\n<actions>\n</actions>\n'
_PATTERNS = "*.jpg;*.jpeg;*.jpe;*.jfif;*.JPG;*.JPEG"


def find_actions_file(places: Places) -> Path:
    """The file itself: where it is a link, what that leads to."""
    return (places.config / "Thunar/uca.xml").resolve()


def start_actions(places: Places) -> bytes:
    """What the file holds for Thunar while the user has none: once there is one, the system's no longer counts."""
    for folder in places.defaults:
        file = folder / "Thunar/uca.xml"
        if file.is_file():
            return file.read_bytes()
    return _EMPTY


def make_entry(command: tuple[str, ...]) -> bytes:
    """The entry as XML. Thunar quotes the files of ``%F`` itself, and splits the line as a shell does."""
    line = shlex.join(command).replace("%", "%%") + " %F"
    fields = [
        ("icon", "image-jpeg"),
        ("name", TITLE),
        ("unique-id", _ID),
        ("command", line),
        ("description", "Take the compression artifacts out, into a new file beside it"),
        ("patterns", _PATTERNS),
    ]
    lines = [f"\t<{name}>{escape(text)}</{name}>" for name, text in fields]
    return "\n".join(["<action>", *lines, "\t<image-files/>", "</action>"]).encode("ascii", "xmlcharrefreplace")


def put_entry(data: bytes, entry: bytes, name: str) -> bytes:
    """The file with our entry, as the last one or where it was. Raises OutputError if it is no file of actions."""
    ours, (start, end) = _scan(data, name)
    if ours:
        return data[: ours[0]] + entry + data[ours[1] :]
    if data[end : end + 2] == b"</":
        return _checked(data[:end] + entry + b"\n" + data[end:], name)
    close = data.index(b">", start) + 1  # <actions/>
    return _checked(data[:start] + b"<actions>\n" + entry + b"\n</actions>" + data[close:], name)


def take_entry(data: bytes, name: str) -> bytes:
    """The file without our entry. Raises OutputError if it is no file of actions."""
    ours, _ = _scan(data, name)
    if not ours:
        return data
    start, end = ours
    return _checked(data[:start] + data[end + (data[end : end + 1] == b"\n") :], name)


def find_entry(data: bytes, name: str) -> bytes | None:
    """Our entry as it stands there, if it does. Raises OutputError if it is no file of actions."""
    ours, _ = _scan(data, name)
    return data[ours[0] : ours[1]] if ours else None


def _checked(data: bytes, name: str) -> bytes:
    _scan(data, name)
    return data


def _scan(data: bytes, name: str) -> tuple[tuple[int, int] | None, tuple[int, int]]:
    """Where our entry starts and ends, and where the root starts and its end begins."""
    parser = expat.ParserCreate()
    path: list[str] = []
    starts: list[int] = []
    texts: list[str] = []
    ours: list[tuple[int, int]] = []
    root: list[tuple[int, int]] = []

    def start(tag: str, _: dict[str, str]) -> None:
        path.append(tag)
        starts.append(parser.CurrentByteIndex)
        if path == ["actions", "action", "unique-id"]:
            texts.clear()

    def text(words: str) -> None:
        if path == ["actions", "action", "unique-id"]:
            texts.append(words)

    def end(_: str) -> None:
        at = parser.CurrentByteIndex
        if path == ["actions", "action"]:
            if "".join(texts).strip() == _ID:
                ours.append((starts[-1], data.index(b">", at) + 1))
            texts.clear()
        elif path == ["actions"]:
            root.append((starts[-1], at))
        path.pop()
        starts.pop()

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise OutputError(f"{name}: is no XML ({error}); mend it or move it away first") from error
    if not root:
        raise OutputError(f"{name}: holds no custom actions of Thunar; move it away first")
    return (ours[0] if ours else None), root[0]
