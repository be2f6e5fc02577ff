"""Menus are put in place and taken away; what others wrote, or changed, stays as it is."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import run
from unjpeg.desktop import install, list_menus, remove, thunar
from unjpeg.desktop.menus import FILE_MANAGERS, Places, open_places
from unjpeg.errors import ModelError, OutputError, UnjpegError

COMMAND = ("/opt/unjpeg", "desktop", "restore", "--")
LINUX = tuple(one.name for one in FILE_MANAGERS.values() if one.system == "linux")

OTHERS = b"""<?xml version="1.0" encoding="UTF-8"?>
<!-- mine -->
<actions>
<action>
\t<icon>utilities-terminal</icon>
    <name>Open   Terminal &amp; Co</name>
\t<unique-id>1521317528494802-1</unique-id>
\t<command>exo-open --working-directory %f</command>
\t<directories/>
</action>
</actions>
"""


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "home").mkdir()
    return open_places({"HOME": str(tmp_path / "home"), "XDG_CONFIG_DIRS": str(tmp_path / "xdg")}, "linux")


def tree(places: Places) -> dict[str, bytes]:
    files = (path for path in places.home.rglob("*") if path.is_file())
    return {path.relative_to(places.home).as_posix(): path.read_bytes() for path in files}


def states(places: Places, command: tuple[str, ...] = COMMAND, system: str = "linux") -> dict[str, str]:
    return {one.file_manager: one.what for one in list_menus(places, command, system=system)}


def test_all_of_it_comes_and_goes(places: Places) -> None:
    assert set(states(places).values()) == {"absent"}
    planned = install(LINUX, places, COMMAND, dry_run=True, system="linux")
    assert list(places.home.iterdir()) == []
    done = install(LINUX, places, COMMAND, system="linux")
    assert done == planned
    assert [one.file_manager for one in done] == list(LINUX)
    assert set(states(places).values()) == {"installed"}
    for one in done:
        assert bool(one.path.stat().st_mode & stat.S_IXUSR) == (one.file_manager != "thunar")
    assert install(LINUX, places, COMMAND, system="linux") == []
    assert len(remove((), places, dry_run=True, system="linux")) == len(LINUX)
    assert set(states(places).values()) == {"installed"}
    assert len(remove((), places, system="linux")) == len(LINUX)
    assert list(places.home.iterdir()) == []  # no folder either
    assert remove((), places, system="linux") == []


def test_another_command_replaces_the_first(places: Places) -> None:
    install(LINUX, places, COMMAND, system="linux")
    other = ("/elsewhere/unjpeg", *COMMAND[1:])
    assert set(states(places, other).values()) == {"outdated"}
    assert len(install(LINUX, places, other, system="linux")) == len(LINUX)
    assert set(states(places, other).values()) == {"installed"}
    remove((), places, system="linux")
    assert list(places.home.iterdir()) == []


def test_somebody_s_own_file_is_never_touched(places: Places) -> None:
    own = places.data / "nautilus/scripts/Restore JPEG"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    with pytest.raises(OutputError, match=r"Restore JPEG: is there already, .* move it away first"):
        install(("nemo", "nautilus"), places, COMMAND, system="linux")
    assert list(tree(places)) == [own.relative_to(places.home).as_posix()]  # nothing of nemo's either
    assert remove((), places, system="linux") == []
    assert own.read_text() == "mine"
    assert states(places)["nautilus"] == "foreign"


def test_what_was_changed_since_stays(places: Places) -> None:
    (done,) = install(("caja",), places, COMMAND, system="linux")
    done.path.write_text("#!/bin/sh\nmy own way\n")
    (left,) = remove((), places, system="linux")
    assert left.what == "left alone"
    assert done.path.read_text() == "#!/bin/sh\nmy own way\n"
    with pytest.raises(OutputError):
        install(("caja",), places, COMMAND, system="linux")
    done.path.unlink()
    assert remove((), places, system="linux") == []
    assert list(places.home.iterdir()) == []


def test_a_folder_in_the_way_is_said(places: Places) -> None:
    (places.data / "nemo/scripts/Restore JPEG").mkdir(parents=True)
    with pytest.raises(OutputError, match="move it away"):
        install(("nemo",), places, COMMAND, system="linux")


def test_thunar_s_other_actions_stay_byte_by_byte(places: Places) -> None:
    file = places.config / "Thunar/uca.xml"
    real = places.home / "dotfiles/uca.xml"  # as some keep them
    real.parent.mkdir()
    real.write_bytes(OTHERS)
    real.chmod(0o600)
    file.parent.mkdir(parents=True)
    file.symlink_to(real)
    install(("thunar",), places, COMMAND, system="linux")
    data = real.read_bytes()
    entry = thunar.find_entry(data, "")
    assert entry is not None
    assert data.replace(entry + b"\n", b"") == OTHERS
    assert file.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    remove((), places, system="linux")
    assert real.read_bytes() == OTHERS


def test_thunar_keeps_the_actions_of_the_system(places: Places) -> None:
    """Which it no longer reads once the user has a file."""
    defaults = places.defaults[0] / "Thunar/uca.xml"
    defaults.parent.mkdir(parents=True)
    defaults.write_bytes(OTHERS)
    (done,) = install(("thunar",), places, COMMAND, system="linux")
    assert b"Open   Terminal" in done.path.read_bytes()
    remove((), places, system="linux")
    assert not done.path.exists()
    install(("thunar",), places, COMMAND, system="linux")
    done.path.write_bytes(done.path.read_bytes().replace(b"Open   Terminal", b"Terminal"))
    remove((), places, system="linux")
    assert done.path.read_bytes() == OTHERS.replace(b"Open   Terminal", b"Terminal")  # the user's by now


@pytest.mark.parametrize("data", [b"", b"<actions>", b"no xml", b"<other/>", b"<?xml version='1.0'?><a><actions/></a>"])
def test_what_is_no_file_of_actions_is_left(data: bytes, places: Places) -> None:
    file = places.config / "Thunar/uca.xml"
    file.parent.mkdir(parents=True)
    file.write_bytes(data)
    with pytest.raises(OutputError, match=r"uca.xml: (is no XML|holds no custom actions)"):
        install(("nemo", "thunar"), places, COMMAND, system="linux")
    assert list(tree(places)) == [file.relative_to(places.home).as_posix()]  # nothing of nemo's either
    assert states(places)["thunar"] == "foreign"
    install(("nemo",), places, COMMAND, system="linux")
    (done,) = remove((), places, system="linux")
    assert done.what == "removed"
    file.unlink()
    install(("thunar",), places, COMMAND, system="linux")
    file.write_bytes(data)
    (left,) = remove((), places, system="linux")
    assert left.what == "left alone"
    assert file.read_bytes() == data


ACTION = st.builds(
    lambda name, filler, ident: f"<action>{filler}<name>{name}</name><unique-id>{ident}</unique-id></action>",
    st.sampled_from(["a", "&lt;action&gt;", "<![CDATA[<action><unique-id>unjpeg-restore]]>"]),
    st.sampled_from(["", "\n\t", "<!-- <action> -->", "<patterns>*</patterns>"]),
    st.sampled_from(["1-1", "unjpeg", "unjpeg-restore-2"]),
)


@given(st.lists(ACTION, max_size=4), st.sampled_from(["", "\n", "\r\n\t", "<!-- </actions> -->"]), st.booleans())
def test_putting_and_taking_leaves_nothing(actions: list[str], between: str, declared: bool) -> None:
    head = '<?xml version="1.0"?>\n<!-- <actions> -->' if declared else ""
    data = (head + "<actions>" + between + between.join([*actions, ""]) + "</actions>" + between).encode()
    entry = thunar.make_entry(COMMAND)
    put = thunar.put_entry(data, entry, "")
    assert thunar.find_entry(put, "") == entry
    assert thunar.put_entry(put, entry, "") == put
    assert thunar.take_entry(put, "") == data
    assert thunar.take_entry(data, "") == data


def test_finder_s_bundle_comes_and_goes(tmp_path: Path) -> None:
    places = open_places({"HOME": str(tmp_path / "home")}, "darwin")
    assert len(install((), places, COMMAND, system="darwin")) == 2
    assert states(places, system="darwin") == {"finder": "installed"}
    assert len(remove(("finder",), places, system="darwin")) == 2
    assert not places.home.exists()


def test_explorer_s_shortcut_comes_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for PowerShell, which keeps what it is told."""
    shell = tmp_path / "bin/powershell"
    shell.parent.mkdir()
    shell.write_text('#!/bin/sh\nprintf "%s %s" "$UNJPEG_TARGET" "$UNJPEG_ARGUMENTS" > "$UNJPEG_LINK"\n')
    shell.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shell.parent}:{os.environ['PATH']}")
    places = open_places({"HOME": str(tmp_path / "home")}, "win32")
    (done,) = install((), places, COMMAND, system="win32")
    assert done.path == places.home / "AppData/Roaming/Microsoft/Windows/SendTo/Restore JPEG.lnk"
    assert done.path.read_text() == "/opt/unjpeg desktop restore --"
    assert states(places, system="win32") == {"explorer": "installed"}
    assert states(places, ("/other", "--"), system="win32") == {"explorer": "outdated"}
    remove((), places, system="win32")
    assert not places.home.exists()
    shell.write_text("#!/bin/sh\necho no COM here >&2; exit 1\n")
    with pytest.raises(OutputError, match=r"made no shortcut .no COM here."):
        install((), places, COMMAND, system="win32")


def test_refusals_name_what_there_is(places: Places, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file manager 'ranger'; there are: nautilus, nemo"):
        install(("ranger",), places, COMMAND, system="linux")
    with pytest.raises(ValueError, match="finder is of macOS; here there are: nautilus"):
        remove(("finder",), places, system="linux")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnjpegError, match="no file manager was found here; name one: nautilus"):
        install((), places, COMMAND, system="linux")
    with pytest.raises(OutputError, match="install it elsewhere"):
        install(("nemo",), places, ("/odd\udcff/unjpeg",), system="linux")
    places.own.mkdir(parents=True)
    (places.own / "desktop.json").write_text("[]")
    with pytest.raises(OutputError, match=r"record .* cannot be read"):
        install(("nemo",), places, COMMAND, system="linux")


@pytest.mark.skipif(sys.platform != "linux", reason="the file managers of Linux")
def test_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nemo").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    script = tmp_path / "data/nemo/scripts/Restore JPEG"
    assert run("desktop", "install", "--dry-run").stderr == f"nemo      would be written: {script}\n"
    with pytest.raises(ModelError, match="no such model"):
        run("desktop", "install", "--model", "fastt")
    assert not script.exists()
    assert run("desktop", "install", "--model", "fast").stderr == f"nemo      written: {script}\n"
    assert script.read_text().endswith(' desktop restore --model fast -- "$@"\n')
    shown = run("desktop", "show").stdout.splitlines()
    assert f"nemo      of another unjpeg or model: {script}" in shown
    assert sum("not installed; this file manager is not here" in line for line in shown) == 4
    assert run("desktop", "show", "--model", "fast").stdout.splitlines()[1] == f"nemo      installed: {script}"
    assert "there is no file manager 'ranger'" in " ".join(run("desktop", "install", "ranger", code=2).stderr.split())
    assert "goes with install and remove" in run("desktop", "restore", "a.jpg", "--dry-run", code=2).stderr
    planned = run("desktop", "install", "thunar", "--dry-run").stderr
    assert planned.startswith("thunar    entry would be written: ")
    assert run("desktop", "remove").stderr == f"nemo      removed: {script}\n"
    assert run("desktop", "remove").stderr == "nothing to do\n"
