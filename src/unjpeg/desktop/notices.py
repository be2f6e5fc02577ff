"""Saying something to a person who looks at a file manager: a notice on the desktop, with what there is to show one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from shutil import which
from xml.sax.saxutils import escape

__all__ = ["show_notice"]


def show_notice(title: str, text: str, *, failed: bool) -> bool:
    """Show it. What failed stays until it is read, where the desktop can do that. Whether anything could show it."""
    if sys.platform == "win32":
        return _show_on_windows(title, text, failed)
    return any(_runs(line) for line in _list_ways(title, text, failed))


def _list_ways(title: str, text: str, failed: bool) -> Iterator[list[str]]:
    if sys.platform == "darwin":
        show = "display notification (item 2 of argv) with title (item 1 of argv)"
        alert = "display alert (item 1 of argv) message (item 2 of argv) as critical"
        yield ["osascript", "-e", "on run argv", "-e", alert if failed else show, "-e", "end run", title, text]
        return
    # A name may hold what reads as markup. Notices show it; dialogs are told not to look for any.
    urgency = "critical" if failed else "normal"
    yield ["notify-send", "--app-name=unjpeg", f"--urgency={urgency}", "--", title, escape(text)]
    if failed:
        yield ["kdialog", "--title", title, "--error", escape(text)]
        yield ["zenity", "--error", "--no-markup", f"--title={title}", f"--text={text}"]
        yield ["xmessage", "-center", f"{title}\n\n{text}"]
    else:
        yield ["kdialog", "--title", title, "--passivepopup", escape(text), "5"]
        yield ["zenity", "--notification", f"--text={title}\n{escape(text)}"]


def _runs(line: list[str]) -> bool:
    program = which(line[0])
    if program is None:
        return False
    try:
        ran = subprocess.run([program, *line[1:]], capture_output=True, check=False)  # a dialog waits for its reader
    except OSError:
        return False
    return ran.returncode == 0


def _show_on_windows(title: str, text: str, failed: bool) -> bool:
    """The window of the command shows what goes well; it closes at the end, so what failed gets one of its own."""
    if failed:
        import ctypes

        ctypes.windll.user32.MessageBoxW(None, text, title, 0x10)  # type: ignore[attr-defined]
    return True
