from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

import unjpeg
from commands import JPEG, PNG, files_below, only_line, put, real, run, told
from jpegs import claiming, decoded, encoded, frame_header, opened, picture, saved, with_segment
from unjpeg.batch import JOURNAL
from unjpeg.errors import BadImageError, ModelError


@pytest.fixture
def decode(tiny_model: Path) -> Any:
    """``unjpeg restore`` at strength 0: everything but the network."""

    def command(*arguments: str | Path, code: int = 0, stdin: bytes | None = None) -> Result:
        return run("restore", "--model", tiny_model, "--strength", "0", *arguments, code=code, stdin=stdin)

    return command


# Where the result goes


def test_beside_the_input_by_default(folder: Path, decode: Any) -> None:
    put("photo.jpg")
    put("sub/archive.tar.JPEG")
    put("sub/no suffix")
    result = decode("photo.jpg", "sub/archive.tar.JPEG", "sub/no suffix")
    assert files_below(folder) == [
        "photo.jpg",
        "photo.restored.png",
        "sub/archive.tar.JPEG",
        "sub/archive.tar.restored.png",
        "sub/no suffix",
        "sub/no suffix.restored.png",
    ]
    np.testing.assert_array_equal(decoded(Path("photo.restored.png").read_bytes()), decoded(JPEG))
    assert result.stdout == ""
    assert result.stderr.splitlines()[0].startswith("photo.jpg -> photo.restored.png (40x24, ")
    assert len(told(result.stderr)) == 3
    assert result.stderr.splitlines()[-1] == "3 restored, 0 done earlier, 0 failed"


@pytest.mark.parametrize(
    ("format", "suffix"), [("png", ".png"), ("jpeg", ".jpg"), ("webp", ".webp"), ("tiff", ".tif"), ("avif", ".avif")]
)
def test_the_format_chooses_the_suffix(format: str, suffix: str, folder: Path, decode: Any) -> None:
    put("photo.jpg")
    decode("photo.jpg", "--format", format)
    assert opened(Path(f"photo.restored{suffix}").read_bytes()).format == format.upper()


@pytest.mark.parametrize("name", ["out.webp", "out.TIFF", "new/below/out.jpeg"])
def test_a_file_by_name(name: str, folder: Path, decode: Any) -> None:
    put("photo.jpg")
    decode("photo.jpg", "-o", name)
    assert files_below(folder) == sorted(["photo.jpg", name])
    assert (opened(Path(name).read_bytes()).format or "").lower() in name.lower()


def test_a_format_wins_over_the_file_s_suffix(folder: Path, decode: Any) -> None:
    put("photo.jpg")
    decode("photo.jpg", "-o", "out.dat", "--format", "webp")
    assert opened(Path("out.dat").read_bytes()).format == "WEBP"
    assert "end it in .png" in decode("photo.jpg", "-o", "out", code=2).stderr.replace("\n", " ")


@pytest.mark.parametrize("output", ["existing", "existing/", "new/", "new/below/"])
def test_a_folder(output: str, folder: Path, decode: Any) -> None:
    put("photos/photo.jpg")
    Path("existing").mkdir()
    decode("photos/photo.jpg", "-o", output)
    assert files_below(folder) == sorted(["photos/photo.jpg", Path(output, "photo.png").as_posix()])


def test_several_pictures_go_to_a_folder(folder: Path, decode: Any) -> None:
    put("a.jpg")
    put("b.png", PNG)
    decode("a.jpg", "b.png", "-o", "out", "--format", "tiff")
    assert files_below(folder) == ["a.jpg", "b.png", "out/a.tif", "out/b.tif"]
    put("file")
    assert "is a file" in decode("a.jpg", "b.png", "-o", "file", code=2).stderr


def test_two_inputs_with_one_output_name(folder: Path, decode: Any) -> None:
    put("a/photo.jpg")
    put("b/photo.jpg", encoded(picture(8, 8)))
    put("c/photo.png", PNG)
    result = decode("a/photo.jpg", "b/photo.jpg", "c/photo.png", "-o", "out", "--overwrite", code=1)
    assert files_below(folder / "out") == ["photo.jpg.png", "photo.png.png"]
    assert opened(Path("out/photo.jpg.png").read_bytes()).size == (40, 24)
    complaints = [line for line in result.stderr.splitlines() if line.startswith("unjpeg: ")]
    assert [line.split(": ")[1] for line in complaints] == ["b/photo.jpg"]


# Folders


def test_a_folder_means_the_pictures_in_it(folder: Path, decode: Any) -> None:
    for name in ("in/a.jpg", "in/B.JPEG", "in/.hidden.jpg", "in/old.restored.jpg", "in/below/c.jpg"):
        put(name)
    put("in/d.png", PNG)
    put("in/notes.txt", b"no picture")
    decode("in", "-o", "out")
    assert files_below(folder / "out") == ["B.png", "a.png", "d.png"]
    decode("in")
    assert {"a.restored.png", "B.restored.png", "d.restored.png"} <= set(files_below(folder / "in"))
    assert not Path("in/below/c.restored.png").exists()
    again = decode("in", code=1)  # the results are no inputs, and exist
    left_out, below, in_the_way = told(again.stderr)
    assert left_out == "6 left out: 1 no picture by its name (1 .txt), 1 hidden, 4 earlier results"
    assert below == "1 subfolder left out; -r takes it, too"
    assert in_the_way.startswith("unjpeg: 3 results are there already and were left alone; --skip-existing ")


def test_recursive_mirrors_the_tree(folder: Path, decode: Any) -> None:
    for name in ("in/a.jpg", "in/x/a.jpg", "in/x/y/b.jpg", "in/z/c.jpg"):
        put(name)
    decode("in", "-o", "out", "--recursive", "--format", "webp")
    assert files_below(folder / "out") == ["a.webp", "x/a.webp", "x/y/b.webp", "z/c.webp"]
    decode("-r", "in")
    assert len([name for name in files_below(folder / "in") if name.endswith(".restored.png")]) == 4


def test_a_folder_with_one_picture_is_still_a_folder(folder: Path, decode: Any) -> None:
    put("in/a.jpg")
    decode("in", "-o", "out.d")
    assert files_below(folder / "out.d") == ["a.png"]


def test_empty_folders(folder: Path, decode: Any) -> None:
    Path("empty").mkdir()
    put("texts/notes.txt", b"")
    put("a.jpg")
    assert only_line(decode("empty", code=1).stderr).startswith("unjpeg: empty: no pictures")
    result = decode("empty", "texts", "a.jpg", code=1)
    assert len(told(result.stderr)) == 4
    assert result.stderr.splitlines()[-1] == "1 restored, 0 done earlier, 2 failed"
    assert Path("a.restored.png").exists()


def test_folders_that_cannot_be_read(folder: Path, decode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put("closed/a.jpg")
    put("open/a.jpg")
    put("open/closed/b.jpg")
    plain = os.scandir

    def refused(path: Any) -> Any:
        if os.path.basename(os.fspath(path)) == "closed":
            raise PermissionError(13, "Permission denied", path)
        return plain(path)

    monkeypatch.setattr(os, "scandir", refused)
    assert only_line(decode("closed", code=1).stderr) == "unjpeg: closed: cannot be read (Permission denied)"
    first, second = told(decode("open", "-r", code=1).stderr)
    assert first == "unjpeg: open/closed: cannot be read (Permission denied)"
    assert second.startswith("open/a.jpg -> open/a.restored.png")


# Batches


def test_a_dry_run_says_and_does_nothing(folder: Path, decode: Any) -> None:
    put("in/a.jpg")
    put("in/b.jpg")
    put("out/b.png", b"there already")
    result = decode("in", "-o", "out", "--dry-run", code=1)
    assert result.stderr.splitlines() == [
        "in/a.jpg -> out/a.png",
        "in/b.jpg -> out/b.png: there already, left alone",
        "unjpeg: one result is there already and would be left alone; --skip-existing passes over all, --overwrite "
        "makes them anew",
    ]
    assert files_below(folder) == ["in/a.jpg", "in/b.jpg", "out/b.png"]
    assert not Path("out", JOURNAL).exists()
    assert "out/b.png: exists already" in only_line(decode("in/b.jpg", "-o", "out/", "--dry-run", code=1).stderr)
    lines = decode("in", "-o", "out", "--dry-run", "--overwrite", "--json").stdout.splitlines()
    assert [json.loads(line)["dry_run"] for line in lines] == [True, True]
    assert Path("out/b.png").read_bytes() == b"there already"


def test_resuming(folder: Path, decode: Any) -> None:
    put("in/a.jpg")
    decode("in", "-o", "out")
    put("in/b.jpg")
    result = decode("in", "-o", "out", "--resume")
    assert told(result.stderr)[0].startswith("in/b.jpg -> out/b.png")
    assert result.stderr.splitlines()[1:] == ["1 restored, 1 done earlier, 0 failed"]
    facts = [json.loads(line) for line in decode("in", "-o", "out", "--resume", "--json").stdout.splitlines()]
    assert [(fact["ok"], fact["skipped"]) for fact in facts] == [(True, True)] * 2

    put("in/c.jpg")
    put("out/c.png", b"somebody's own")
    plan = decode("in", "-o", "out", "--resume", "--dry-run", code=1)
    assert plan.stderr.splitlines() == [
        "in/a.jpg -> out/a.png: done earlier",
        "in/b.jpg -> out/b.png: done earlier",
        "in/c.jpg -> out/c.png: there already, left alone",
        "unjpeg: one result is there already and would be left alone; --skip-existing passes over all, --overwrite "
        "makes them anew",
    ]
    lines = decode("in", "-o", "out", "--resume", "--dry-run", "--overwrite", "--json").stdout.splitlines()
    assert [json.loads(line)["skipped"] for line in lines] == [True, True, False]


def test_nothing_in_a_folder_is_passed_over_in_silence(
    folder: Path, decode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unjpeg.batch.planning.can_read_heif", lambda: False)
    for name in ("a.jpg", "b.heic", "c.HEIC", "clip.mov", "README", ".hidden.jpg", ".trash/e.jpg", "sub/d.gif"):
        put(f"in/{name}")
    put("in/a.restored.png")
    Path("in/linked").symlink_to("sub")
    said = decode("in", "-o", "out", "-r").stderr.splitlines()
    assert said[0] == (
        "9 left out: 5 no picture by their names (2 .heic, 1 no suffix, 1 .mov, 1 .gif), 2 hidden, 1 earlier result, "
        "1 link to a folder"
    )
    assert files_below(folder / "out") == ["a.png"]
    rows = [json.loads(line) for line in decode("in", "-o", "out", "-r", "--overwrite", "--json").stdout.splitlines()]
    assert {row["input"]: row["left_out"] for row in rows if row["ok"] is None} == {
        "in/README": "no picture by its name",
        "in/b.heic": "no picture by its name",
        "in/c.HEIC": "no picture by its name",
        "in/clip.mov": "no picture by its name",
        "in/sub/d.gif": "no picture by its name",
        "in/.hidden.jpg": "hidden",
        "in/.trash": "hidden",
        "in/a.restored.png": "an earlier result",
        "in/linked": "a link to a folder",
    }


def test_names_that_differ_in_their_suffix_alone(folder: Path, decode: Any) -> None:
    for name in ("a.jpg", "a.JPG", "a.png", "b.jpg", "sub/a.jpg"):
        put(f"in/{name}", JPEG)
    decode("in", "-o", "out", "-r")
    assert [name for name in files_below(folder) if name.endswith(".png") and name.startswith("out")] == [
        "out/a.JPG.png",
        "out/a.jpg.png",
        "out/a.png.png",
        "out/b.png",
        "out/sub/a.png",
    ]
    decode("in/a.jpg", "in/a.png")
    assert {"in/a.jpg.restored.png", "in/a.png.restored.png"} < set(files_below(folder))


def test_what_lies_behind_a_picture_is_said_to_be_lost(folder: Path, decode: Any) -> None:
    put("a.jpg", JPEG + bytes(5000))
    put("b.jpg", JPEG + bytes(100))
    assert (
        "note: 5,000 bytes behind the picture (a video, further pictures) are not carried over"
        in decode("a.jpg").stderr
    )
    assert "note" not in decode("b.jpg").stderr


def test_stripped_and_turned_the_size_is_the_files(folder: Path, decode: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    put("a.jpg", encoded(picture(24, 40), exif=exif.tobytes()))
    (line,) = decode("a.jpg", "--strip", "--json").stdout.splitlines()
    assert opened(Path("a.restored.png").read_bytes()).size == (24, 40)
    assert (json.loads(line)["width"], json.loads(line)["height"]) == (24, 40)
    with pytest.raises(BadImageError, match="it was turned upright"):
        unjpeg.verify("a.jpg", "a.restored.png")


def test_a_name_that_is_too_long_for_its_result_fails_before_the_work(folder: Path, decode: Any) -> None:
    name = "x" * 245 + ".jpg"
    put(name)
    result = decode(name, "--dry-run", code=1)
    assert "cannot be written (the name is too long); choose another output with -o" in only_line(result.stderr)


def test_what_a_format_has_no_place_for_is_said(folder: Path, decode: Any) -> None:
    put("a.jpg", with_segment(JPEG, 0xFE, b"a comment"))
    assert "note" not in decode("a.jpg").stderr
    assert decode("a.jpg", "--format", "webp").stderr.splitlines()[1:] == [
        "  note: webp has no place for the comment: lost"
    ]
    assert "note" not in decode("a.jpg", "--format", "webp", "--overwrite", "--strip").stderr


# Standard input and output


def test_standard_input_and_output(folder: Path, decode: Any) -> None:
    for arguments in (["-"], ["-", "-o", "-"]):
        result = decode(*arguments, stdin=JPEG)
        np.testing.assert_array_equal(decoded(result.stdout_bytes), decoded(JPEG))
        assert result.stderr == ""
    put("photo.jpg")
    from_file = decode("photo.jpg", "-o", "-", "--format", "webp")
    assert opened(from_file.stdout_bytes).format == "WEBP"
    assert files_below(folder) == ["photo.jpg"]
    decode("-", "-o", "out.png", stdin=JPEG)
    decode("-", "-o", "out/", stdin=JPEG)
    assert files_below(folder) == ["out.png", "out/stdin.png", "photo.jpg"]


@pytest.mark.parametrize("data", [b"", b"nonsense", JPEG[:-100]])
def test_bad_standard_input(data: bytes, folder: Path, decode: Any) -> None:
    result = decode("-", code=1, stdin=data)
    assert result.stdout_bytes == b""
    assert only_line(result.stderr).startswith("unjpeg: standard input: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.jpg", "b.jpg", "-o", "-"],
        ["folder", "-o", "-"],
        ["-", "a.jpg"],
        ["-", "a.jpg", "-o", "out/"],
        ["-", "-"],
        ["-", "--json"],
        ["a.jpg", "-o", "-", "--json"],
        ["a.jpg", "--strength", "2"],
        ["a.jpg", "--strength", "nan"],
        ["a.jpg", "--as-quality", "0"],
        ["a.jpg", "--output-quality", "101"],
        ["a.jpg", "--format", "gif"],
        ["a.jpg", "--bit-depth", "10"],
        ["a.jpg", "--bit-depth", "16", "--format", "jpeg"],
        ["a.jpg", "--bit-depth", "16", "-o", "out.webp"],
        ["a.jpg", "--consistency", "never"],
        ["a.jpg", "--detail", "nan"],
        ["a.jpg", "--dither", "--bit-depth", "16"],
        ["a.jpg", "--output-size", "input"],
        ["a.jpg", "--output-size", "many", "-o", "out.jpg"],
        ["a.jpg", "--no-such-option"],
    ],
)
def test_wrong_usage_is_2_and_does_nothing(arguments: list[str], folder: Path, decode: Any) -> None:
    for name in ("a.jpg", "b.jpg", "folder/c.jpg", "folder/d.jpg"):
        put(name)
    before = files_below(folder)
    result = decode(*arguments, code=2, stdin=JPEG)
    assert result.stdout_bytes == b""
    assert files_below(folder) == before


# What exists already


def test_nothing_is_overwritten_unless_asked(folder: Path, decode: Any) -> None:
    put("photo.jpg")
    put("photo.restored.png", b"precious")
    result = decode("photo.jpg", code=1)
    assert only_line(result.stderr).startswith("unjpeg: photo.restored.png: exists already")
    assert Path("photo.restored.png").read_bytes() == b"precious"
    decode("photo.jpg", "--overwrite")
    assert opened(Path("photo.restored.png").read_bytes()).size == (40, 24)


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_an_input_is_never_an_output(overwrite: list[str], folder: Path, decode: Any) -> None:
    put("photo.jpg")
    put("picture.png", PNG)
    Path("link.jpg").symlink_to("photo.jpg")
    os.link("photo.jpg", "hard.jpg")
    put("other.restored.png", PNG)
    put("other.jpg")
    for arguments in (
        ["photo.jpg", "-o", "photo.jpg"],
        ["photo.jpg", "-o", "./photo.jpg"],
        ["photo.jpg", "-o", "link.jpg"],
        ["photo.jpg", "-o", "hard.jpg"],
        ["link.jpg", "-o", "photo.jpg"],
        ["photo.jpg", "-o", ".", "--format", "jpeg"],
        ["picture.png", "-o", "."],
        [".", "-o", ".", "--format", "jpeg"],
    ):
        result = decode(*arguments, *overwrite, code=1)
        assert "input" in result.stderr
        assert Path("photo.jpg").read_bytes() == JPEG
        assert Path("picture.png").read_bytes() == PNG
    both = decode("other.jpg", "other.restored.png", *overwrite, code=1)
    assert ("is an input itself" if overwrite else "exists already") in both.stderr
    assert told(both.stderr)[0] == "1 left out: earlier result"
    assert Path("other.restored.png").read_bytes() == PNG


def test_a_folder_in_the_output_s_place(folder: Path, decode: Any) -> None:
    put("photo.jpg")
    Path("photo.restored.png").mkdir()
    for overwrite in ([], ["--overwrite"]):
        assert "photo.restored.png" in only_line(decode("photo.jpg", *overwrite, code=1).stderr)
    assert files_below(folder) == ["photo.jpg"]


# Bad input


def bad_inputs() -> dict[str, bytes]:
    twelve_bits, lossless = bytearray(JPEG), bytearray(JPEG)
    twelve_bits[frame_header(JPEG) + 4] = 12
    lossless[frame_header(JPEG) + 1] = 0xC3
    return {
        "empty.jpg": b"",
        "garbage.jpg": b"this is no picture",
        "cut.jpg": JPEG[:-80],
        "header only.jpg": JPEG[: frame_header(JPEG)],
        "huge.jpg": claiming(JPEG, width=65535, height=65535),
        "twelve bits.jpg": bytes(twelve_bits),
        "lossless.jpg": bytes(lossless),
        "cmyk.tif": saved(Image.new("CMYK", (8, 8)), "TIFF"),
        "cut picture.png": PNG[:-100],
    }


def test_each_bad_input_is_one_line_and_the_next_goes_on(folder: Path, decode: Any) -> None:
    names = bad_inputs()
    for name, data in names.items():
        put(f"in/{name}", data)
    put("in/good 1.jpg")
    put("in/good 2.jpg")
    Path("in/folder.jpg").mkdir()
    inputs = ["in/good 1.jpg", *(f"in/{name}" for name in names), "in/missing.jpg", "in/good 2.jpg"]
    result = decode(*inputs, "-o", "out", code=1)
    lines = told(result.stderr)
    assert [line.split(" -> ")[0] for line in (lines[0], lines[-1])] == ["in/good 1.jpg", "in/good 2.jpg"]
    assert [line.split(": ")[1] for line in lines[1:-1]] == inputs[1:-1]
    assert all(line.startswith("unjpeg: ") for line in lines[1:-1])
    assert files_below(folder / "out") == ["good 1.png", "good 2.png"]


def test_a_missing_file_leaves_no_folder_behind(folder: Path, decode: Any) -> None:
    assert only_line(decode("nowhere.jpg", "-o", "out/", code=1).stderr) == "unjpeg: nowhere.jpg: no such file"
    assert files_below(folder) == []
    assert not Path("out").exists()


@pytest.mark.parametrize("name", ["missing/..", "x" * 300 + ".jpg", "x/" * 3000 + "y.jpg", "a.jpg/b.jpg", "loop.jpg"])
def test_impossible_paths(name: str, folder: Path, decode: Any) -> None:
    put("a.jpg")
    Path("loop.jpg").symlink_to("loop.jpg")
    for arguments in ([name], [name, "-o", "out/"], [name, "-o", "out.png"], [name, "-o", "out/", "--overwrite"]):
        assert only_line(decode(*arguments, code=1).stderr).startswith("unjpeg: ")
    assert files_below(folder) == ["a.jpg", "loop.jpg"]


def test_unwritable_outputs(folder: Path, decode: Any) -> None:
    put("photo.jpg")
    put("file", b"")
    for output in ("file/out.png", "file/below/out.png", "x" * 300 + ".png", "/proc/unjpeg/out.png"):
        line = only_line(decode("photo.jpg", "-o", output, code=1).stderr)
        assert line.startswith("unjpeg: ")
        assert output.split("/")[0] in line
    assert files_below(folder) == ["file", "photo.jpg"]


def test_a_format_that_cannot_hold_the_picture(folder: Path, decode: Any) -> None:
    put("glass.png", saved(Image.fromarray(picture(8, 8)).convert("RGBA"), "PNG"))
    assert "transparency" in only_line(decode("glass.png", "--format", "jpeg", code=1).stderr)
    assert files_below(folder) == ["glass.png"]


def test_no_such_model(folder: Path, child_environment: dict[str, str]) -> None:
    put("photo.jpg")
    for arguments in (["restore", "photo.jpg"], ["inspect", "photo.jpg"]):
        ran = real("--model", "nothing.unjpeg", environment=child_environment, command=arguments)
        assert ran.returncode == 2
        assert ran.stdout == b""
        assert only_line(ran.stderr.decode()).startswith("unjpeg: nothing.unjpeg: no such model")


# Names


@pytest.mark.parametrize(
    "name",
    [
        "two\nlines.jpg",
        "emoji 🐈.jpg",
        "-dash.jpg",
        "--version.jpg",
        "[red]x[/nothing].jpg",
        "esc\x1b[31m.jpg",
        "ü ñ.jpg",
    ],
)
def test_unusual_names(name: str, folder: Path, decode: Any) -> None:
    put(name)
    good = decode("--", name)
    assert files_below(folder) == sorted([name, f"{name[:-4]}.restored.png"])
    bad = decode("--", name, code=1)
    for line in (only_line(good.stderr), only_line(bad.stderr)):
        assert line.isprintable()
        if name.isprintable():
            assert name[:-4] in line
    assert json.loads(decode("--json", "--overwrite", "--", name).stdout)["input"] == name


def test_a_name_that_is_no_unicode(folder: Path, decode: Any, tiny_model: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    try:
        put(name)
    except OSError:
        pytest.skip("this file system has only Unicode names")
    assert only_line(decode(name).stderr).startswith("caf")
    assert run("inspect", name, "--model", tiny_model).stdout.startswith("caf")
    assert json.loads(decode(name, "--json", "--overwrite").stdout)["input"] == name


# JSON


def test_json_lines(folder: Path, decode: Any) -> None:
    put("photo.jpg")
    put("picture.png", PNG)
    put("bad.jpg", b"")
    result = decode("--json", "photo.jpg", "bad.jpg", "picture.png", code=1)
    first, second, third = (json.loads(line) for line in result.stdout.splitlines())
    assert result.stderr == ""
    assert first["ok"] is third["ok"] is True
    assert (first["input"], first["output"]) == ("photo.jpg", "photo.restored.png")
    assert (first["width"], first["height"], first["strength"]) == (40, 24, 0)
    assert (first["stated_quality"], third["stated_quality"]) == (20, None)
    assert second == {
        "input": "bad.jpg",
        "ok": False,
        "error": "bad.jpg: is empty, without a single byte; copy or download it anew",
        "kind": "BadImageError",
    }


# The network's part


def test_options_reach_the_restorer(folder: Path, tiny_model: Path) -> None:
    put("photo.jpg")
    result = run(
        *("restore", "photo.jpg", "--model", tiny_model, "--json", "--as-quality", "33", "--bit-depth", "16"),
        *("--consistency", "strict", "--strength", "0.5", "-o", "out.tiff", "--runtime", "openvino"),
    )
    report = json.loads(result.stdout)
    assert (report["guided_quality"], report["strength"], report["projected"]) == (33, 0.5, True)
    assert report["model"] == "tiny"
    assert 1 <= report["read_quality"] <= 100
    assert unjpeg.verify("photo.jpg", "out.tiff").is_consistent
    expected = unjpeg.restore(
        "photo.jpg", model=tiny_model, quality=33, bit_depth=16, consistency="strict", strength=0.5
    )
    expected.save("expected.tiff")
    assert Path("out.tiff").read_bytes() == Path("expected.tiff").read_bytes()


def test_self_ensemble(folder: Path, tiny_model: Path) -> None:
    put("photo.jpg")
    options = ("--model", tiny_model, "--bit-depth", "16", "--json", "-o", "out.tiff", "--overwrite")
    plain = json.loads(run("restore", "photo.jpg", *options).stdout)
    before = Path("out.tiff").read_bytes()
    ensemble = json.loads(run("restore", "photo.jpg", "--tta", *options).stdout)
    assert (plain["tta"], ensemble["tta"]) == (False, True)
    assert Path("out.tiff").read_bytes() != before
    unjpeg.restore("photo.jpg", model=tiny_model, bit_depth=16, tta=True).save("expected.tiff")
    assert Path("out.tiff").read_bytes() == Path("expected.tiff").read_bytes()


@pytest.mark.parametrize("precision", ["full", "int8"])
def test_precision(folder: Path, rounded_model: Path, precision: str) -> None:
    put("1.jpg")
    put("2.jpg")
    options = ("--model", rounded_model, "--precision", precision, "--json")
    one = json.loads(run("restore", "1.jpg", *options).stdout)
    two = run("restore", "1.jpg", "2.jpg", "-o", "out", "--workers", "2", *options).stdout.splitlines()
    assert {one["precision"], *(json.loads(line)["precision"] for line in two)} == {precision}


def test_what_does_not_go_together_is_said_once(folder: Path, tiny_model: Path) -> None:
    put("1.jpg")
    put("2.jpg")
    with pytest.raises(ModelError, match="the model tiny has no int8 graph"):  # before any picture
        run("restore", "1.jpg", "2.jpg", "-o", "out", "--model", tiny_model, "--precision", "int8")
    assert not Path("out").exists()


def test_output_quality(folder: Path, decode: Any) -> None:
    put("photo.jpg")
    for quality in (None, 40):
        option = [] if quality is None else ["--output-quality", str(quality)]
        decode("photo.jpg", "-o", "out.jpg", "--overwrite", *option)
        assert unjpeg.inspect("out.jpg", model=None).stated_quality == (quality or 95)


def test_keep_times(folder: Path, decode: Any) -> None:
    put("photo.jpg")
    os.utime("photo.jpg", ns=(1_000_000_000, 1_234_567_890_123_456_789))
    decode("photo.jpg")
    assert os.stat("photo.restored.png").st_mtime_ns != 1_234_567_890_123_456_789
    decode("photo.jpg", "--overwrite", "--keep-times")
    assert os.stat("photo.restored.png").st_mtime_ns == 1_234_567_890_123_456_789
    decode("-", "-o", "out.png", "--keep-times", stdin=JPEG)


# inspect, verify, help


def test_inspect(folder: Path, tiny_model: Path) -> None:
    put("photo.jpg")
    put("picture.png", PNG)
    text = run("inspect", "photo.jpg", "--model", tiny_model).stdout
    for words in ("40 x 24", "baseline, YCbCr, 4:2:0", "20 by its tables (standard tables)", "by its pixels"):
        assert words in text
    result = run("inspect", "--json", "photo.jpg", "picture.png", "-", "--model", tiny_model, stdin=JPEG)
    first, second, third = (json.loads(line) for line in result.stdout.splitlines())
    assert (first["name"], third["name"]) == ("photo.jpg", "standard input")
    assert (first["stated_quality"], first["subsampling"], len(first["tables"])) == (20, "4:2:0", 2)
    assert (second["ok"], second["kind"], second["stated_quality"]) == (True, "PNG", None)
    text = run("inspect", "picture.png", "--model", tiny_model).stdout
    assert "PNG, RGB" in text
    (Path("no.png")).write_bytes(b"no picture")
    assert "is not a picture" in run("inspect", "no.png", "--model", tiny_model, code=1).stderr


@pytest.mark.parametrize("what", ["clips", "edge"])
def test_verify_says_what_cannot_be_told(what: str, folder: Path) -> None:
    """Nothing contradicts the file: that is no failure."""
    drawing = np.kron(np.random.default_rng(0).integers(0, 2, (12, 12)) * 255, np.ones((4, 4))).astype(np.uint8)
    if what == "edge":
        drawing = drawing[:7]
    put("drawing.jpg", encoded(drawing, "grey", quality=60))
    drawing[::8, ::8] = 128  # beyond some cells, in blocks that clip
    put("drawing.png", saved(drawing, "PNG"))
    told = run("verify", "drawing.jpg", "drawing.png").stdout
    assert told.startswith("drawing.png: nothing contradicts drawing.jpg: more cannot be told")
    assert "100.0000%" not in told
    report = json.loads(run("verify", "drawing.jpg", "drawing.png", "--json").stdout)
    assert (report["consistent"], report["contradicts"]) == (None, False)


def test_verify(folder: Path) -> None:
    put("photo.jpg")
    put("other.png", saved(picture(24, 40, 5, low=60, high=190), "PNG"))
    put("grey.jpg", encoded(picture(24, 40, low=60, high=190), "grey", quality=60))
    put("grey.png", saved(decoded(Path("grey.jpg").read_bytes()), "PNG"))
    assert run("verify", "grey.jpg", "grey.png").stdout.startswith("grey.png: consistent with grey.jpg: 100.0000%")
    report = json.loads(run("verify", "photo.jpg", "other.png", "--json", code=1).stdout)
    assert report["consistent"] is False
    assert 0 < report["share_inside"] < 1
    assert {part["name"] for part in report["consistency"]["components"]} == {"Y", "Cb", "Cr"}
    worst = run("verify", "photo.jpg", "other.png", code=1).stdout
    assert "not consistent" in worst
    assert "steps beyond, block" in worst
    for arguments in (["photo.jpg", "grey.png"], ["photo.jpg", "missing.png"], ["other.png", "photo.jpg"]):
        assert only_line(run("verify", *arguments, code=1).stderr).startswith("unjpeg: ")
    assert json.loads(run("verify", "photo.jpg", "missing.png", "--json", code=1).stdout)["ok"] is False


def test_version_and_help() -> None:
    assert run("--version").stdout == f"unjpeg {unjpeg.__version__}\n"
    for command in ("restore", "inspect", "verify"):
        assert command in run("--help").stdout
        assert "--json" in run(command, "-h").stdout
    run("nonsense", code=2)
    run("restore", code=2)
