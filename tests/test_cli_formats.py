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
from jpegs import decoded, picture
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
        (["-o", "out.jpg", "--consistency", "off"], "not kept true to the file"),
    ],
)
def test_the_line_promises_only_what_the_output_holds(
    options: list[str], words: str, folder: Path, restore: Any
) -> None:
    put("photo.jpg")
    assert f", {words})" in restore("photo.jpg", *options).stderr
