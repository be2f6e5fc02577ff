"""Each menu as its host reads it, and run as its host would run it: every name arrives as it is."""

from __future__ import annotations

import json
import os
import plistlib
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unjpeg.desktop import menus, thunar
from unjpeg.desktop.menus import FILE_MANAGERS, MenuFile, Places, find_program, open_places, quote_exec

NAMES = (
    *("plain.jpg", "two words.jpg", "it's.jpg", 'a "quote".jpg', "line\nbreak.jpg", "-dash.jpg", "--dry-run", "-"),
    *(
        "$HOME.jpg",
        "`id`.jpg",
        "a&b;c|d.jpg",
        "100%F%%.jpg",
        "back\\slash.jpg",
        "ü 写真.jpg",
        "*.jpg",
        "<b>&amp;.jpg",
    ),
)
SCRIPTS = ("nautilus", "nemo", "caja")

RECORDER = """#!{python}
import json, pathlib, sys
pathlib.Path(__file__ + ".heard").write_text(json.dumps(sys.argv[1:]))
"""


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return open_places({"HOME": str(tmp_path / "home")}, "linux")


@pytest.fixture
def recorder(tmp_path: Path) -> Path:
    """A command whose own path is hard to write down. It keeps what it is called with."""
    file = tmp_path / 'it\'s 100% "un" $jpeg `\\ ü' / "unjpeg"
    file.parent.mkdir()
    file.write_text(RECORDER.format(python=sys.executable))
    file.chmod(0o755)
    return file


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    folder = tmp_path / "my pictures"
    folder.mkdir()
    for name in NAMES:
        (folder / name).touch()
    return [str(folder / name) for name in NAMES]


def heard(recorder: Path) -> list[str]:
    words: list[str] = json.loads(Path(f"{recorder}.heard").read_text())
    return words


def menu_of(name: str, places: Places, command: tuple[str, ...]) -> tuple[MenuFile, ...]:
    menu = FILE_MANAGERS[name].menu
    assert menu is not None
    return menu(places, command)


def written(file: MenuFile) -> Path:
    assert file.content is not None
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(file.content)
    if file.executable:
        file.path.chmod(0o755)
    return file.path


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_get_names_in_the_folder_that_is_shown(
    name: str, places: Places, recorder: Path, pictures: list[str]
) -> None:
    (file,) = menu_of(name, places, (str(recorder), "desktop", "restore", "--"))
    environment = {**os.environ, f"{name.upper()}_SCRIPT_SELECTED_FILE_PATHS": "\n".join(pictures) + "\n"}
    subprocess.run([written(file), *NAMES], cwd=Path(pictures[0]).parent, env=environment, check=True)
    assert heard(recorder) == ["desktop", "restore", "--", *NAMES]


def split_exec(line: str) -> list[str]:
    """An ``Exec`` value as the Desktop Entry Specification reads it: a string's escapes first, then quoted words."""
    escapes = {"s": " ", "n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
    text, position = "", 0
    while position < len(line):
        if line[position] == "\\":
            position += 1
            text += escapes[line[position]]
        else:
            text += line[position]
        position += 1
    words, position = [], 0
    while position < len(text):
        word = ""
        if text[position] == '"':
            position += 1
            while text[position] != '"':
                if text[position] == "\\":
                    position += 1
                    assert text[position] in '"`$\\'
                else:
                    assert text[position] not in "`$"
                word += text[position]
                position += 1
            position += 1
        else:
            while position < len(text) and text[position] != " ":
                assert text[position] not in "\t\n\"'\\><~|&;$*?#()`"
                word += text[position]
                position += 1
        assert position == len(text) or text[position] == " "
        position += 1
        words.append(word)
    return words


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), min_size=1))
def test_words_of_exec_lines_come_back(words: list[str]) -> None:
    line = " ".join(map(quote_exec, words))
    assert "\n" not in line
    assert [word.replace("%%", "%") for word in split_exec(line)] == words
    assert all("%" not in word.replace("%%", "") for word in split_exec(line))


def test_dolphin_runs_the_line_with_every_file(places: Places, recorder: Path, pictures: list[str]) -> None:
    (file,) = menu_of("dolphin", places, (str(recorder), "desktop", "restore", "--"))
    text = written(file).read_text(encoding="utf-8")
    (line,) = [line.removeprefix("Exec=") for line in text.splitlines() if line.startswith("Exec=")]
    words = split_exec(line)
    assert words.pop() == "%F"
    subprocess.run([*(word.replace("%%", "%") for word in words), *pictures], check=True)
    assert heard(recorder) == ["desktop", "restore", "--", *pictures]
    assert file.executable  # Plasma refuses the user's menus otherwise
    assert "MimeType=image/jpeg;" in text


def test_dolphin_s_menu_is_a_desktop_entry(places: Places, recorder: Path) -> None:
    validator = shutil.which("desktop-file-validate")
    if validator is None:
        pytest.skip("no desktop-file-validate here; Debian's package is desktop-file-utils")
    (file,) = menu_of("dolphin", places, (str(recorder), "desktop", "restore", "--"))
    ran = subprocess.run([validator, written(file)], capture_output=True, text=True, check=False)
    # KDE's service menus are of a type that the specification leaves to KDE; the validator says just that.
    of_kde = 'but the type is "Service" while this key is only valid for type "Application"'
    complaints = (ran.stdout + ran.stderr).splitlines()
    assert [line for line in complaints if of_kde not in line] == []
    assert len(complaints) == 2  # MimeType and Actions


def test_thunar_runs_the_line_with_every_file(recorder: Path, pictures: list[str], tmp_path: Path) -> None:
    entry = thunar.make_entry((str(recorder), "desktop", "restore", "--"))
    data = thunar.put_entry(b"<actions/>", entry, "uca.xml")
    line = ET.fromstring(data).findtext("action/command")
    assert line is not None
    expanded = line.removesuffix("%F").replace("%%", "%") + shlex.join(pictures)
    subprocess.run(shlex.split(expanded), check=True)  # as GLib splits it
    assert heard(recorder) == ["desktop", "restore", "--", *pictures]
    lint = shutil.which("xmllint")
    if lint is None:
        pytest.skip("no xmllint here; Debian's package is libxml2-utils")
    (tmp_path / "uca.xml").write_bytes(data)
    subprocess.run([lint, "--noout", tmp_path / "uca.xml"], check=True)


def test_finder_runs_the_script_with_every_file(places: Places, recorder: Path, pictures: list[str]) -> None:
    info, workflow = menu_of("finder", places, (str(recorder), "desktop", "restore", "--"))
    assert info.path.parent == workflow.path.parent == places.home / "Library/Services/Restore JPEG.workflow/Contents"
    assert info.content is not None
    assert workflow.content is not None
    (service,) = plistlib.loads(info.content)["NSServices"]
    assert service["NSSendFileTypes"] == ["public.jpeg"]
    assert service["NSMenuItem"] == {"default": "Restore JPEG"}
    (step,) = plistlib.loads(workflow.content)["actions"]
    parameters = step["action"]["ActionParameters"]
    assert parameters["inputMethod"] == 1
    subprocess.run([parameters["shell"], "-c", parameters["COMMAND_STRING"], "-", *pictures], check=True)
    assert heard(recorder) == ["desktop", "restore", "--", *pictures]


def test_windows_is_told_by_variables_and_never_by_words_of_a_script() -> None:
    file, command = Path("C:/Users/it's me/Send To/Restore JPEG.lnk"), ("C:\\a b\\un'jpeg.exe", "--model", "my model")
    line, variables = menus.describe_shortcut(file, command)
    assert "it's" not in line[-1]
    assert variables == {
        "UNJPEG_LINK": str(file),
        "UNJPEG_TARGET": "C:\\a b\\un'jpeg.exe",
        "UNJPEG_ARGUMENTS": '--model "my model"',
    }


def test_the_command_is_found_where_it_was_called(
    recorder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    link = tmp_path / "unjpeg"
    link.symlink_to(recorder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["unjpeg"])
    assert find_program() == (str(link),)
    for called in ("elsewhere/unjpeg", "src/unjpeg/__main__.py"):
        monkeypatch.setattr(sys, "argv", [called])
        assert find_program() == (sys.executable, "-m", "unjpeg")


def test_folders_are_the_environment_s(tmp_path: Path) -> None:
    given = {"HOME": "/h", "XDG_DATA_HOME": "/d", "XDG_CONFIG_HOME": "relative", "XDG_CONFIG_DIRS": "/x:/y"}
    places = open_places(given, "linux")
    assert (places.data, places.config) == (Path("/d"), Path("/h/.config"))
    assert places.defaults == (Path("/x"), Path("/y"))
    assert places.own == Path("/d/unjpeg")
    assert open_places({"HOME": "/h"}, "linux").defaults == (Path("/etc/xdg"),)
    assert open_places({"HOME": "/h", "APPDATA": "/r"}, "win32").own == Path("/r/unjpeg")
    assert open_places({"HOME": "/h"}, "darwin").own == Path("/h/Library/Application Support/unjpeg")
