"""What the users' pages promise: examples run, commands and links exist, the laboratory keeps to its own folder."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

import unjpeg
from jpegs import encoded, picture
from unjpeg.cli import app

ROOT = Path(__file__).parents[1]
USERS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CARD = ROOT / "src" / "unjpeg" / "weights" / "README.md"
ALL = [
    *USERS,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs" / "research").glob("*.md")),
    CARD,
    *sorted((ROOT / "integrations").rglob("README.md")),
]


def name_document(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def make_anchor(heading: str) -> str:
    """As Git servers make them of headings."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def find_anchors(document: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)
    return {make_anchor(heading) for heading in re.findall(r"^#+ (.+)$", text, re.M)}


@pytest.mark.parametrize("document", ALL, ids=name_document)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            path, _, anchor = target.partition("#")
            file = (document.parent / path).resolve() if path else document
            assert file.exists(), target
            assert not anchor or anchor in find_anchors(file), target


def list_commands(document: Path) -> list[list[str]]:
    """What stands after ``unjpeg`` in fenced blocks and between back-ticks, word by word."""
    text = document.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```$", text, re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [line.replace("\n", " ") for line in re.findall(r"`(unjpeg [^`]+)`", text)]
    found = []
    for line in lines:
        match = re.search(r"(?:^|[|;] )unjpeg (.*)", line.split(" #")[0])
        if match:
            found.append(shlex.split(re.split(r" [|;&>] ", match[1])[0]))
    return found


@pytest.mark.parametrize("document", ALL, ids=name_document)
def test_commands_and_their_options_exist(document: Path) -> None:
    group: Any = typer.main.get_command(app)
    commands = group.commands
    for words in list_commands(document):
        command = commands.get(words[0], commands["restore"])
        known = {
            name
            for parameter in [*command.params, *group.params]
            for name in [*parameter.opts, *parameter.secondary_opts]
        }
        options = {word.split("=")[0] for word in words if re.match("--?[a-z]", word)} - {"--help", "--version"}
        assert options <= known, " ".join(words)


@pytest.mark.parametrize("document", USERS, ids=name_document)
def test_users_pages_hold_no_history(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert not re.search(r"\bcommit [0-9a-f]{7}|weights of then|\([^()]*\([^()\]]*\)[^()]*\)(?!\])", strip_code(text))


def strip_code(text: str) -> str:
    """Without blocks, code between back-ticks, pictures and the addresses of links."""
    for pattern in (r"^```.*?^```$", r"`[^`]*`", r"!?\[([^]]*)\]\([^)]*\)"):
        text = re.sub(pattern, r"\1" if "(" in pattern[:6] else "", text, flags=re.M | re.S)
    return text


def test_the_library_s_page_names_every_public_name() -> None:
    text = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    assert [name for name in unjpeg.__all__ if not re.search(rf"(?<!\w){name}\b", text)] == []


@pytest.mark.slow
def test_the_library_s_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("photo.jpg", 0), ("other.jpg", 1)):
        (tmp_path / name).write_bytes(encoded(picture(72, 104, seed=seed), quality=20))
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    examples = doctest.DocTestParser().get_doctest(page, {}, "library.md", None, 0)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    failed, tried = runner.run(examples, out=said.append)
    assert failed == 0, "".join(said)
    assert tried > 25
