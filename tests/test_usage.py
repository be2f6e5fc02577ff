"""What a person types, and what is said of it: help, near misses, refusals, a folder run twice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import Result

from commands import JPEG, PNG, files_below, only_line, put, run, told
from jpegs import claiming, picture, saved
from unjpeg import usage
from unjpeg.cli import app
from unjpeg.console import explain, in_options
from unjpeg.errors import BadImageError, TooLargeError, UnsupportedImageError

COMMANDS = {name for group in [typer.main.get_command(app)] for name in group.commands}  # type: ignore[attr-defined]


@pytest.fixture
def plain(tiny_model: Path) -> Callable[..., Result]:
    """The command without its name, at strength 0: everything but the network."""

    def command(*arguments: str | Path, code: int = 0, stdin: bytes | None = None) -> Result:
        return run(*arguments, "--model", tiny_model, "--strength", "0", code=code, stdin=stdin)

    return command


# unjpeg photo.jpg


def test_a_picture_is_restored_without_the_command_s_name(folder: Path, plain: Any) -> None:
    put("photo.jpg")
    put("album/a.jpg")
    put("name without suffix")
    plain("photo.jpg")
    plain("name without suffix")
    plain("album")
    plain("--format", "webp", "photo.jpg")
    assert files_below(folder) == sorted(
        [
            *("photo.jpg", "photo.restored.png", "photo.restored.webp"),
            *("album/a.jpg", "album/a.restored.png"),
            *("name without suffix", "name without suffix.restored.png"),
        ]
    )
    assert plain("-", stdin=JPEG).stdout_bytes[:4] == b"\x89PNG"
    assert only_line(plain("nowhere.jpg", code=1).stderr) == "unjpeg: nowhere.jpg: no such file"


def test_a_command_s_name_is_a_command_whatever_lies_there(folder: Path) -> None:
    put("verify")
    assert "ORIGINAL.jpg" in run("verify", code=2).stderr


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("restor", "did you mean restore?"),
        ("Serve", "did you mean serve?"),
        ("qqqq", "--help"),
        ("-q", "No such option"),
    ],
)
def test_neither_command_nor_picture(typed: str, words: str, folder: Path) -> None:
    assert words in run(typed, code=2).stderr


@given(st.text(max_size=8), st.lists(st.text(max_size=5), max_size=3))
def test_a_suffix_or_a_folder_makes_it_a_picture(name: str, others: list[str]) -> None:
    for written in (f"{name}.jpg", f"./{name}", f"{name}*"):
        if not written.startswith("-"):
            assert usage._implies_restoring([written.replace("\0", ""), *others], COMMANDS, set())
    for command in COMMANDS:
        assert not usage._implies_restoring([command, f"{name}.jpg", *others], COMMANDS, set())


# Help


def test_help_shows_every_option_whole_within_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    group: Any = typer.main.get_command(app)
    texts = {name: run(name, "--help").stdout for name in COMMANDS} | {"": run("--help").stdout}
    for name, text in texts.items():
        assert max(map(len, text.splitlines())) <= 80, name
        if name:
            words = "".join(text.split())
            for param in group.commands[name].params:
                if not getattr(param, "hidden", False):
                    assert all(option in words for option in param.opts) or param.param_type_name == "argument"
                    assert "".join((param.help or "").split()) in words, (name, param.name)
    for name in COMMANDS:
        assert f"\n  {name} " in texts[""]
    assert "\nExamples:\n" in texts["restore"]
    assert texts["restore"].count("\n  unjpeg ") == 5
    titles = re.findall(r"^(\w+):$", texts["restore"], re.MULTILINE)
    assert titles == ["Arguments", "Everyday", "Output", "Batches", "Limits", "Engine", "Options", "Examples"]
    assert texts[""].index("  serve ") < texts[""].index("research:") < texts[""].index("  train ")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("unjpeg re", {"restore"}),
        ("unjpeg photo.jpg --as", {"--as-quality"}),
        ("unjpeg restore photo.jpg --model d", {"default"}),
        ("unjpeg restore photo.jpg --consistency s", {"strict"}),
        ("unjpeg photo", set()),  # the shell offers files
    ],
)
def test_completion(
    line: str, expected: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_UNJPEG_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
    with pytest.raises(SystemExit):
        app(prog_name="unjpeg")
    assert set(capsys.readouterr().out.split()) == expected


# Names that have changed


def test_the_old_name_of_as_quality(folder: Path, plain: Any) -> None:
    put("photo.jpg")
    said = plain("photo.jpg", "--quality", "30", "--strength", "1", "--json").stderr
    assert only_line(said) == "unjpeg: note: --quality is called --as-quality now, and goes away with the next release"
    result = plain("photo.jpg", "-o", "small.jpg", "--quality", "30")
    assert "the quality of the jpeg that is written is --output-quality" in result.stderr.splitlines()[0]
    assert "old name" in plain("photo.jpg", "--quality", "30", "--as-quality", "30", code=2).stderr
    assert "--quality" not in re.sub("--(as|output)-quality", "", run("restore", "--help").stdout)


def test_an_unknown_option_is_not_sent_to_an_old_name(folder: Path, plain: Any) -> None:
    put("photo.jpg")
    said = " ".join(plain("photo.jpg", "--qualty", "30", code=2).stderr.split())
    assert "--as-quality" in said
    assert "--quality," not in said


def test_the_line_says_as_what_quality_it_was_restored(folder: Path, tiny_model: Path) -> None:
    put("photo.jpg")
    insisted = run("photo.jpg", "--model", tiny_model, "--as-quality", "3", "-o", "a.png").stderr
    assert re.search(r"looks like quality \d+, restored as quality 3, file states", insisted)
    assert "restored as" not in run("photo.jpg", "--model", tiny_model, "-o", "b.png").stderr


# A folder run again


def test_a_folder_run_again_says_how_to_go_on(folder: Path, plain: Any) -> None:
    for number in range(3):
        put(f"in/{number}.jpg")
    plain("in", "-o", "out")
    put("in/new.jpg")
    again = plain("in", "-o", "out", code=1).stderr.splitlines()
    assert again[0].startswith("in/new.jpg -> out/new.png")
    assert again[1:] == [
        "1 restored, 0 done earlier, 0 failed, 3 there already",
        "unjpeg: 3 results are there already and were left alone; an earlier run made all of them this way: --resume "
        "passes over those whose pictures are unchanged; --skip-existing passes over all, --overwrite makes them anew",
    ]
    assert plain("in", "-o", "out", "--resume").stderr.splitlines() == ["0 restored, 4 done earlier, 0 failed"]
    planned = plain("in", "-o", "out", "--dry-run", code=1).stderr.splitlines()
    assert planned[0] == "in/0.jpg -> out/0.png: there already, left alone"
    assert planned[4:] == [
        "unjpeg: 4 results are there already and would be left alone; an earlier run made all of them this way: "
        "--resume passes over those whose pictures are unchanged; --skip-existing passes over all, --overwrite makes "
        "them anew"
    ]
    other = plain("in", "-o", "out", "--strip", code=1).stderr
    assert "--resume" not in other  # which would find that they were made in another way


def test_skipping_what_exists(folder: Path, plain: Any) -> None:
    put("in/a.jpg")
    put("in/b.jpg")
    put("out/b.png", b"somebody's own")
    said = plain("in", "-o", "out", "--skip-existing").stderr.splitlines()
    assert said[1:] == ["1 restored, 0 done earlier, 0 failed, 1 there already"]
    assert Path("out/b.png").read_bytes() == b"somebody's own"
    rows = [json.loads(line) for line in plain("in", "-o", "out", "--skip-existing", "--json").stdout.splitlines()]
    assert [(row["ok"], row["skipped"]) for row in rows] == [(True, True)] * 2
    plan = plain("in", "-o", "out", "--skip-existing", "--dry-run").stderr.splitlines()
    assert plan == ["in/a.jpg -> out/a.png: there already", "in/b.jpg -> out/b.png: there already"]
    assert plain("in/a.jpg", "-o", "out/b.png", "--skip-existing").stderr == ""
    assert "contradict" in plain("in", "-o", "out", "--skip-existing", "--overwrite", code=2).stderr


def test_a_folder_in_a_result_s_place_is_never_passed_over(folder: Path, plain: Any) -> None:
    put("in/a.jpg")
    put("in/b.jpg")
    Path("out/b.png").mkdir(parents=True)
    said = plain("in", "-o", "out", "--skip-existing", code=1).stderr
    assert "unjpeg: out/b.png: is a folder; choose another output" in said


def test_quiet_says_what_went_wrong_and_nothing_else(folder: Path, plain: Any) -> None:
    put("in/a.jpg")
    put("in/b.jpg", JPEG + bytes(5000))  # with a note
    put("in/notes.txt", b"")
    assert plain("in", "-o", "out", "--quiet").stderr == ""
    assert files_below(folder / "out") == ["a.png", "b.png"]
    put("in/c.jpg", b"no picture")
    said = plain("in", "-o", "out", "-q", "--overwrite", code=1).stderr
    assert only_line(said).startswith("unjpeg: in/c.jpg: is not a picture")
    assert len(told(plain("in", "-o", "out", "-q", "--resume", "--json", code=1).stdout)) == 4


# Near misses and refusals


def test_a_name_that_reads_as_options(folder: Path, plain: Any) -> None:
    put("-ocean.jpg")
    put("photo.jpg")
    for arguments in (["-ocean.jpg"], ["restore", "-ocean.jpg"], ["photo.jpg", "-ocean.jpg"]):
        assert "write ./-ocean.jpg" in plain(*arguments, code=2).stderr
    assert files_below(folder) == ["-ocean.jpg", "photo.jpg"]
    plain("./-ocean.jpg")
    assert "-ocean.restored.png" in files_below(folder)


def test_what_may_have_been_meant(folder: Path, plain: Any) -> None:
    put("holiday/photo.jpeg")
    put("holiday/other.jpeg")
    ends = {
        "holiday/photo.jpg": "; did you mean holiday/photo.jpeg?",
        "holiday/*.jpeg": "; without the quotes the wildcard fits 2 files",
        "*.bmp": ", and nothing that this wildcard fits",
        "none/photo.jpg": "",
    }
    for typed, end in ends.items():
        assert only_line(plain(typed, code=1).stderr) == f"unjpeg: {typed}: no such file{end}"
        assert run("inspect", typed, code=1).stderr.rstrip().endswith(f"no such file{end}")
    address = "https://example.org/a.jpg"
    for command in ([], ["inspect"], ["restore"]):
        said = only_line(run(*command, address, code=1).stderr)
        assert said.endswith("no such file; it is an address, and nothing is fetched: download the picture first")


def test_a_missing_picture_is_said_before_a_result_that_is_there(folder: Path, plain: Any) -> None:
    put("photo.jpg")
    put("photo.restored.png", b"somebody's own")
    said = only_line(plain("photo.jpeg", code=1).stderr)
    assert said == "unjpeg: photo.jpeg: no such file; did you mean photo.jpg?"
    assert Path("photo.restored.png").read_bytes() == b"somebody's own"


def test_a_model_s_name_nearly(folder: Path) -> None:
    from unjpeg.errors import ModelError
    from unjpeg.modelfile import ModelFile

    with pytest.raises(ModelError, match=r"^defualt: no such model \(did you mean default\?\); shipped are: "):
        ModelFile.read("defualt")


REFUSED = {
    "phone.heic": (
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64),
        "is a HEIC picture; pip install 'unjpeg[formats]'",
    ),
    "new.jxl": (b"\xff\x0a" + bytes(64), "is a JPEG XL picture"),
    "raw.cr2": (b"II*\0\x10\0\0\0CR\x02\0" + bytes(64), "is a camera's raw file"),
    "drawing.jpg": (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "is a drawing (SVG)"),
    "page.jpg": (b"<!DOCTYPE html><html>", "is a web page, saved in the picture's stead"),
    "paper.jpg": (b"%PDF-1.7\n", "is a PDF document"),
    "clip.jpg": (b"\0\0\0\x18ftypisom" + bytes(64), "is a video"),
    "album.zip": (b"PK\x03\x04" + bytes(64), "is an archive"),
    "notes.jpg": (b"hello", "AVIF and BMP are read, and HEIC after: pip install 'unjpeg[formats]'"),
    "cut.jpg": (JPEG[:-80], "--salvage restores "),
    "huge.jpg": (claiming(JPEG, width=65535, height=65535), "; --max-pixels 4294836225 lets it in"),
    "cmyk.tif": (
        saved(Image.fromarray(picture(16, 16)).convert("CMYK"), "TIFF"),
        "vips icc_transform cmyk.tif rgb.png srgb",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_the_way_out(name: str, folder: Path, plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unjpeg.heif.can_read_heif", lambda: False)  # as after a plain install
    data, words = REFUSED[name]
    put(name, data)
    line = only_line(plain(name, code=1).stderr)
    assert line.startswith(f"unjpeg: {name}: ")
    assert words in line
    assert json.loads(plain(name, "--json", code=1).stdout)["error"] == line.removeprefix("unjpeg: ")


def test_limits_name_their_options(folder: Path, plain: Any) -> None:
    put("photo.png", PNG)
    line = only_line(plain("photo.png", "--max-pixels", "10", code=1).stderr)
    assert line.endswith("; --max-pixels 960 lets it in, if there is memory for it")
    plain("photo.png", "--max-pixels", "960")
    here = str(Path("photo.png"))
    too_long = explain(TooLargeError("photo.png: has more than the limit of 1,024 bytes"), here)
    assert too_long.endswith("; --max-file lets it in")
    rich = explain(UnsupportedImageError("a: has 9 bytes of metadata, more than the limit of 1"), here)
    assert rich.endswith("; --max-metadata lets it in")
    by_memory = "a.jpg: its header says 10x10 pixels, more than the limit of 9: as much as --max-memory leaves room for"
    assert explain(TooLargeError(by_memory), here) == by_memory
    assert explain(BadImageError("a.jpg: is empty"), here) == "a.jpg: is empty"


def test_what_was_never_compressed_says_how_to_insist(folder: Path) -> None:
    assert in_options("give a quality (quality=90) to restore it") == "give a quality (--as-quality 90) to restore it"
    noise = np.random.default_rng(0).normal(128, 30, (256, 256, 3)).clip(0, 255).astype(np.uint8)
    put("noise.png", saved(noise, "PNG"))
    said = run("noise.png", "--model", "fast").stderr
    if "left as it is" in said:
        assert "give a quality (--as-quality 90) to restore it all the same" in said
        lossy = run("noise.png", "--model", "fast", "-o", "noise.jpg").stderr.splitlines()[0]
        assert lossy.endswith("left as it is, compressed)")  # not "again"
    else:
        pytest.fail(f"the noise counts as compressed: {said}")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["inspect", "in"], 1, "in: is a folder; name the pictures in it, as in in/*.jpg"),
        (["verify", "in", "a.jpg"], 1, "in: is a folder; name the pictures in it, as in in/*.jpg"),
        (["inspect", "cut.jpg"], 1, "; unjpeg restore --salvage restores "),
        (["inspect", "empty.jpg"], 1, "empty.jpg: is empty, without a single byte; copy or download it anew"),
        (["verify", "b.png", "a.jpg"], 1, "b.png: is not a JPEG; the JPEG comes first, then what was restored from it"),
        (["verify", "a.jpg", "text.jpg"], 1, "text.jpg: is not a picture that can be read; give the restored PNG"),
        (["verify", "a.jpg", "empty.jpg"], 1, "empty.jpg: is empty, and not a picture"),
        (
            ["verify", "a.jpg", "other.png"],
            1,
            "is 9x8 pixels in colour, but a.jpg 40x24 pixels in colour: not the same",
        ),
        (["restore", "empty"], 1, "empty: no pictures in this folder; it is empty, or"),
        (["restore", "texts"], 1, "texts: no pictures in this folder, going by the names; name files to try them"),
        (
            ["restore", "a.jpg", "-o", "text.jpg/x.png"],
            1,
            "cannot be made a folder (File exists); choose another output",
        ),
        (["restore", "a.jpg", "--strength", "2"], 2, "'--strength': must be at most 1"),
        (["restore", "a.jpg", "--strength", "half"], 2, "'--strength': must be a valid number"),
        (["restore", "a.jpg", "--as-quality", "0"], 2, "'--as-quality': must be at least 1"),
        (["restore", "a.jpg", "--format", "gif"], 2, "'--format': 'gif' is not one of 'png', 'jpeg', "),
        (["restore", "a.jpg", "b.png", "-o", "one.png"], 2, "is a file's name, but several pictures"),
        (["restore", "a.jpg", "--output-quality", "50"], 2, "add --format jpeg, or end the output in .jpg"),
    ],
)
def test_wrong_uses_name_the_way_out(
    arguments: list[str], code: int, words: str, folder: Path, tiny_model: Path
) -> None:
    for name, data in {"a.jpg": JPEG, "b.png": PNG, "empty.jpg": b"", "text.jpg": b"no picture"}.items():
        put(name, data)
    put("cut.jpg", JPEG[:-80])
    put("other.png", saved(picture(8, 9), "PNG"))
    put("in/a.jpg")
    put("texts/notes.txt", b"")
    Path("empty").mkdir()
    model = ["--model", str(tiny_model)] if arguments[0] != "verify" else []
    said = run(*arguments, *model, code=code).stderr
    assert words in " ".join(said.split())
    assert "Value error" not in said
