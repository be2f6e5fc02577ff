"""What a click does: the selected files are restored beside themselves, and what became of them is shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from commands import JPEG, files_below, put
from unjpeg.batch import Settings
from unjpeg.desktop import install, notices, open_places, restore_selection
from unjpeg.desktop.selection import list_selected
from unjpeg.restorer import Options


class Notices(list[tuple[str, str, bool]]):
    def __call__(self, title: str, text: str, *, failed: bool) -> bool:
        self.append((title, text, failed))
        return True


@pytest.fixture
def settings(tiny_model: Path) -> Settings:
    return Settings(model=str(tiny_model), options=Options(strength=0))


def test_what_is_selected(folder: Path) -> None:
    put("here.jpg")
    put("-")
    paths = {"NAUTILUS_SCRIPT_SELECTED_FILE_PATHS": f"{folder}/found/a b.jpg\n{folder}/found/c.jpg\n"}
    assert list_selected(["here.jpg", "-"], paths) == [f"{folder}/here.jpg", f"{folder}/-"]
    found = [f"{folder}/found/a b.jpg", f"{folder}/found/c.jpg"]
    assert list_selected(["a b.jpg", "c.jpg"], paths) == found  # of a search: not in the folder that is shown
    assert list_selected([], paths) == found
    assert list_selected(["gone.jpg"], {}) == [f"{folder}/gone.jpg"]


def test_results_lie_beside(folder: Path, settings: Settings) -> None:
    for name in ("one.jpg", "two words.jpg", "-three.jpg", "-"):
        put(name)
    shown = Notices()
    assert restore_selection(["one.jpg"], settings, {}, shown)[0]
    assert restore_selection(["one.jpg", "two words.jpg", "-three.jpg", "-"], settings, {}, shown)[0]
    assert files_below(folder) == sorted(
        [
            *("one.jpg", "two words.jpg", "-three.jpg", "-"),
            *("one.restored.png", "two words.restored.png", "-three.restored.png", "-.restored.png"),
        ]
    )
    assert shown == [
        ("Restore JPEG", "one.restored.png is written", False),
        ("Restore JPEG", "3 pictures are restored\none.restored.png is there already", False),
    ]


def test_failures_are_shown(folder: Path, settings: Settings) -> None:
    put("good.jpg")
    for number in range(7):
        put(f"bad {number}.jpg", b"no picture")
    shown = Notices()
    names = ["good.jpg", *(f"bad {number}.jpg" for number in range(7))]
    assert not restore_selection(names, settings, {}, shown)[0]
    ((title, text, failed),) = shown
    assert failed
    assert title == "Restore JPEG: not everything was restored"
    lines = text.splitlines()
    assert lines[0] == "good.restored.png is written"
    assert "bad 0.jpg: is not a picture" in lines[1]
    assert lines[-1] == "and 2 more failed"
    assert restore_selection([], settings, {}, shown) == (False, "nothing is selected")
    assert not restore_selection(["good.jpg"], Settings(model="nowhere.unjpeg"), {}, shown)[0]
    assert "nowhere.unjpeg" in shown[-1][1]


def test_the_whole_way_from_the_menu(
    folder: Path, tiny_model: Path, tmp_path: Path, child_environment: dict[str, str]
) -> None:
    """Nautilus's script, as it stands after an installation, with a desktop that shows notices."""
    places = open_places({"HOME": str(tmp_path / "home")}, "linux")
    command = (sys.executable, "-m", "unjpeg", "desktop", "restore", "--model", str(tiny_model), "--")
    (done,) = install(("nautilus",), places, command, system="linux")
    notify = put(str(tmp_path / "bin/notify-send"), b'#!/bin/sh\nprintf "%s\\n" "$@" >> "$0.shown"\n')
    notify.chmod(0o755)
    put("it's mine.jpg")
    put("broken.jpg", JPEG[:100])
    environment = {**child_environment, "PATH": f"{notify.parent}:{os.environ['PATH']}"}
    ran = subprocess.run([done.path, "it's mine.jpg", "broken.jpg"], env=environment, check=False, timeout=300)
    assert ran.returncode == 1
    assert "it's mine.restored.png" in files_below(folder)
    shown = Path(f"{notify}.shown").read_text().splitlines()
    assert shown[:4] == [
        *("--app-name=unjpeg", "--urgency=critical", "--"),
        "Restore JPEG: not everything was restored",
    ]
    assert shown[4] == "it's mine.restored.png is written"
    assert "broken.jpg: " in shown[5]


def tool(folder: Path, name: str, code: int) -> None:
    put(str(folder / name), f'#!/bin/sh\nprintf "%s\\n" "$@" > "$0.shown"\nexit {code}\n'.encode()).chmod(0o755)


def test_a_notice_finds_what_can_show_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    assert not notices.show_notice("Title", "text", failed=True)
    tool(folder, "notify-send", 1)  # is there, but no desktop listens
    tool(folder, "zenity", 0)
    assert notices.show_notice("Title", "<b> & co", failed=True)
    assert (folder / "notify-send.shown").read_text().splitlines()[-1] == "&lt;b&gt; &amp; co"
    assert "--text=<b> & co" in (folder / "zenity.shown").read_text().splitlines()
    monkeypatch.setattr(sys, "platform", "darwin")
    tool(folder, "osascript", 0)
    assert notices.show_notice("Title", 'say "hi"', failed=False)
    assert (folder / "osascript.shown").read_text().splitlines()[-2:] == ["Title", 'say "hi"']
