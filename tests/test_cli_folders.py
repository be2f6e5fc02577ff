"""What the command takes of folders: no results, nothing twice, nothing passed over in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from commands import PNG, files_below, only_line, put, run, told
from jpegs import picture, saved


@pytest.fixture
def decode(tiny_model: Path) -> Any:
    """``unjpeg restore`` at strength 0: everything but the network."""

    def command(*arguments: str | Path, code: int = 0) -> Result:
        return run("restore", "--model", tiny_model, "--strength", "0", *arguments, code=code)

    return command


def test_results_in_the_folder_of_their_inputs_are_no_inputs(folder: Path, decode: Any) -> None:
    put("in/a.jpg")
    put("in/sub/b.jpg")
    first = ["in/a.jpg", "in/a.png", "in/sub/b.jpg", "in/sub/b.png"]
    decode("in", "-r", "-o", "in")
    assert files_below(folder) == first
    put("in/a.tif", saved(picture(24, 40, 2), "TIFF"))
    again = decode("in", "-r", "-o", "in", "--resume")
    assert told(again.stderr)[0] == "2 left out: earlier results"
    assert files_below(folder) == sorted([*first, "in/a.tif", "in/a.jpg.png", "in/a.tif.png"])
    for wherever in (["in/sub"], ["in/sub", "-o", "out"]):  # the journal lies above
        assert told(decode(*wherever, "--dry-run").stderr)[0] == "1 left out: earlier result"
    Path("in/sub/b.jpg").unlink()
    none = only_line(decode("in/sub", code=1).stderr.splitlines()[0])
    assert none == (
        "unjpeg: in/sub: no pictures in this folder but earlier results; name their files to restore them again"
    )
    decode("in/sub/b.png")  # named alone
    assert Path("in/sub/b.restored.png").exists()
    put("in/own.png", PNG)  # no journal knows it
    assert "in/own.png -> " in decode("in", "--dry-run").stderr


def test_results_that_a_wildcard_names_are_no_inputs(folder: Path, decode: Any) -> None:
    put("a.jpg")
    put("b.jpg")
    decode("a.jpg", "b.jpg")
    left_out, in_the_way = told(decode(*sorted(files_below(folder)), code=1).stderr)
    assert left_out == "2 left out: earlier results"
    assert in_the_way.startswith("unjpeg: 2 results are there already")
    assert len(files_below(folder)) == 4
    decode("a.restored.png", "b.restored.png")  # nothing else is named: they are meant
    assert len(files_below(folder)) == 6


def test_a_picture_that_is_named_twice_is_taken_once(folder: Path, decode: Any) -> None:
    put("in/a.jpg")
    put("in/b.jpg")
    Path("linked").symlink_to("in")
    for inputs in (["in/a.jpg", "in/a.jpg"], ["in/a.jpg", "./in/a.jpg"], ["in/a.jpg", "linked/a.jpg"]):
        said = decode(*inputs, "-o", "one.png", "--dry-run").stderr.splitlines()
        assert said == ["1 left out: named before", "in/a.jpg -> one.png"]
    both = decode("in", "in/a.jpg", "-o", "out")
    assert both.stderr.splitlines()[0] == "1 left out: named before"
    assert both.stderr.splitlines()[-1] == "2 restored, 0 done earlier, 0 failed"
    rows = map(json.loads, decode("in/a.jpg", "in/a.jpg", "--json").stdout.splitlines())
    assert [(row["ok"], row.get("left_out")) for row in rows] == [(None, "named before"), (True, None)]


def test_subfolders_are_named(folder: Path, decode: Any) -> None:
    for name in ("in/a.jpg", "in/x/b.jpg", "in/y/c.jpg", "in/y/z/d.jpg", "in/.hidden/e.jpg", "out/f.jpg"):
        put(name)
    said = told(decode("in", "--dry-run").stderr)
    assert said[:2] == ["1 left out: hidden", "2 subfolders left out; -r takes them, too"]
    assert told(decode("in/y", "--dry-run").stderr)[0] == "1 subfolder left out; -r takes it, too"
    assert "subfolder" not in decode("in", "-r", "--dry-run").stderr
    assert "subfolder" not in decode("in/y", "-o", "in/y/z", "--dry-run").stderr  # where results go
    rows = [json.loads(line) for line in decode("in", "--dry-run", "--json").stdout.splitlines()]
    assert [row["input"] for row in rows if row.get("left_out") == "a subfolder"] == ["in/x", "in/y"]
    Path("in/a.jpg").unlink()
    Path("in/.hidden/e.jpg").unlink()
    Path("in/.hidden").rmdir()
    assert only_line(decode("in", code=1).stderr) == (
        "unjpeg: in: no pictures in this folder; -r takes those in its 2 subfolders"
    )
