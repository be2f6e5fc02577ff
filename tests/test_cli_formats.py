"""What the command adds to files: their size, their tag, their grain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

import unjpeg
from commands import JPEG, only_line, put, run
from heics import heic_bytes
from jpegs import decoded, encoded, opened, picture, saved
from unjpeg.heif import can_read_heif


@pytest.fixture
def restore(tiny_model: Path) -> Any:
    def command(*arguments: str | Path, code: int = 0) -> Result:
        return run("restore", "--model", tiny_model, "--precision", "full", *arguments, code=code)

    return command


def test_a_jpeg_within_the_size_of_its_input(folder: Path, restore: Any) -> None:
    put("a.jpg")
    said = restore("a.jpg", "-o", "out.jpg", "--output-size", "input").stderr
    size = Path("out.jpg").stat().st_size
    assert size <= len(JPEG)
    assert f": {size:,} bytes, of at most {len(JPEG):,}" in said
    row = json.loads(restore("a.jpg", "-o", "small.jpg", "--output-size", "1.2KB", "--json").stdout)
    assert Path("small.jpg").stat().st_size <= 1200
    assert "of at most 1,200" in row["notes"][-1]
    too_small = only_line(restore("a.jpg", "-o", "none.jpg", "--output-size", "300", code=1).stderr)
    assert "even at quality 1; allow more than 300" in too_small
    assert not Path("none.jpg").exists()


def test_detail_and_grain_are_those_of_the_library(folder: Path, tiny_model: Path, restore: Any) -> None:
    put("a.jpg")
    restore("a.jpg", "-o", "out.png", "--detail", "0.25", "--dither", "--tag")
    expected = unjpeg.restore("a.jpg", model=tiny_model, detail=0.25, dither=True)
    made = Image.open("out.png")
    difference = np.abs(np.asarray(made).astype(int) - expected.pixels)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.05
    assert "detail 0.25" in made.info["xmp"].decode()
    assert run("verify", "a.jpg", "out.png").exit_code == 0


def test_settings_that_differ_are_not_done_earlier(folder: Path, restore: Any) -> None:
    put("in/a.jpg")
    restore("in", "-o", "out")
    assert json.loads(restore("in", "-o", "out", "--resume", "--json").stdout)["skipped"]
    for more in (["--detail", "0.5"], ["--dither"], ["--tag"]):
        assert "exists already" in restore("in", "-o", "out", "--resume", *more, code=1).stderr


@pytest.mark.skipif(not can_read_heif(), reason="needs the extra: formats")
def test_an_album_of_heics(folder: Path, restore: Any) -> None:
    luma = picture(32, 48)[..., 0].astype(int)
    neutral = np.full((16, 24), 128)
    put("in/a.HEIC", heic_bytes(luma, neutral, neutral))
    put("in/b.jpg")
    restore("in", "-o", "out", "--strength", "0")
    np.testing.assert_array_equal(decoded(Path("out/a.png").read_bytes())[..., 0], luma)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-o", "out.png"], "true to the file"),
        (["-o", "out.webp"], "true to the file"),
        (["-o", "out.webp", "--output-quality", "80"], "compressed again"),
        (["-o", "out.jpg"], "compressed again"),
        (["-o", "out.avif"], "compressed again"),
        (["-o", "out.png", "--strength", "0"], "only decoded"),
        (["-o", "out.jpg", "--consistency", "off"], "not kept true to the file, compressed again"),
    ],
)
def test_the_line_promises_only_what_the_output_holds(
    options: list[str], words: str, folder: Path, restore: Any
) -> None:
    put("photo.jpg")
    assert f", {words})" in restore("photo.jpg", *options).stderr


@pytest.mark.parametrize(
    ("options", "projected", "tag"),
    [
        (["-o", "out.png"], True, "detail 1, true to the file<"),
        (["-o", "out.webp"], True, "detail 1, true to the file<"),
        (["-o", "out.webp", "--output-quality", "80"], False, "detail 1, then compressed again<"),
        (["-o", "out.jpg"], False, "detail 1, then compressed again<"),
        (["-o", "out.avif"], False, "detail 1, then compressed again<"),
        (["-o", "out.png", "--consistency", "off"], False, "detail 1, not kept true to the file<"),
        (["-o", "out.jpg", "--consistency", "off"], False, "not kept true to the file, then compressed again<"),
    ],
)
def test_report_and_tag_promise_no_more_than_the_line(
    options: list[str], projected: bool, tag: str, folder: Path, restore: Any
) -> None:
    put("photo.jpg")
    report = json.loads(restore("photo.jpg", *options, "--tag", "--json").stdout)
    assert (report["projected"], report["compressed_again"]) == (projected, "compressed again" in tag)
    assert tag in opened(Path(options[1]).read_bytes()).info["xmp"].decode()


def test_a_lossy_output_may_contradict_the_file_and_verify_says_why(folder: Path, restore: Any) -> None:
    put("photo.jpg", encoded(picture(48, 64), quality=60))
    restore("photo.jpg", "-o", "out.jpg", "--output-quality", "5")
    *_, why = run("verify", "photo.jpg", "out.jpg", code=1).stdout.splitlines()
    assert why.startswith("  it was compressed again when it was written, which alone can do this")
    restore("photo.jpg", "-o", "out.png")
    assert "compressed again" not in run("verify", "photo.jpg", "out.png").stdout
    assert json.loads(run("verify", "photo.jpg", "out.jpg", "--json", code=1).stdout)["compressed_again"]


def test_an_earlier_jpeg_is_nearly_kept_to_in_a_lossy_output(folder: Path, restore: Any) -> None:
    put("twice.jpg", saved(opened(encoded(picture(128, 128), quality=20)), quality=97))
    exact = "note: true to the earlier file, not to the last one, which came after the damage"
    assert exact in restore("twice.jpg", "-o", "out.png").stderr.splitlines()[-1]
    nearly = restore("twice.jpg", "-o", "out.jpg").stderr.splitlines()
    assert nearly[0].endswith("restored as the JPEG that it was before, compressed again)")
    assert nearly[-1].endswith("; the output was compressed again, and only nearly is")


@pytest.mark.parametrize("name", ["out.png", "out.tiff"])
def test_a_lossless_output_has_no_quality(name: str, folder: Path, restore: Any) -> None:
    put("photo.jpg")
    said = " ".join(restore("photo.jpg", "-o", name, "--output-quality", "60", code=2).stderr.split())
    assert "--output-quality is for JPEG, AVIF and WebP" in said
    assert not Path(name).exists()


def test_inspect_and_restore_say_the_same_of_the_pixels(folder: Path, tiny_model: Path, restore: Any) -> None:
    once = encoded(picture(128, 128), quality=20)
    files = {
        "once.jpg": once,
        "twice.jpg": saved(opened(once), quality=97),
        "shot.png": saved(decoded(once), "PNG"),
        "lossy.webp": saved(picture(64, 64), "WEBP", quality=20),
        "lossy.avif": saved(picture(64, 64), "AVIF", quality=20),
    }
    for name, data in files.items():
        put(name, data)
        seen = json.loads(run("inspect", name, "--json", "--model", tiny_model).stdout)
        done = json.loads(restore(name, "--json", "--overwrite").stdout)
        for fact in ("read_quality", "comparable_quality", "history", "earlier"):
            assert seen[fact] == done[fact], (name, fact)
        assert (seen["comparable_quality"] is not None) is name.startswith("lossy")
        text = run("inspect", name, "--model", tiny_model).stdout
        if name.startswith("lossy"):
            assert done["guided_quality"] == seen["comparable_quality"]
            words = f"compares to a JPEG of quality {seen['comparable_quality']}"
            assert words in text
            assert words in restore(name, "--overwrite").stderr
        else:
            assert f"{seen['read_quality']} by its pixels" in text
