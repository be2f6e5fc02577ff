from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from commands import JPEG, files_below, only_line, put, real, told
from jpegs import decoded
from unjpeg.cli import app
from unjpeg.errors import OutputError, TrainingError


def test_a_pipe_sees_nothing_but_the_summary(
    folder: Path, tiny_model: Path, child_environment: dict[str, str], kitten: Path
) -> None:
    put("exif.jpg", JPEG[:2] + b"\xff\xe1\x00\x10Exif\0\0II*\0\xff\xff\xff\xff" + JPEG[2:])
    put("stray.jpg", JPEG[:-2] + b"\0\0\0" + JPEG[-2:])
    put("bad.jpg", JPEG[:-60])
    inputs = ["exif.jpg", "stray.jpg", "bad.jpg", str(kitten)]
    ran = real(*inputs, "--model", str(tiny_model), "-o", "out", environment=child_environment, command=["restore"])
    assert ran.returncode == 1
    assert ran.stdout == b""
    lines = told(ran.stderr.decode())
    assert [line.split(" -> ")[0].split(": ")[:2][-1] for line in lines] == inputs
    assert "true to the file" in lines[-1]
    assert files_below(folder / "out") == ["exif.png", "kitten.png", "stray.png"]


def test_a_terminal_s_progress_bar_takes_any_name(
    folder: Path, tiny_model: Path, child_environment: dict[str, str]
) -> None:
    put("[/red] x.jpg")
    environment = {**child_environment, "FORCE_COLOR": "1", "TERM": "xterm"}
    options = ["--model", str(tiny_model), "--strength", "0"]
    ran = real("[/red] x.jpg", *options, environment=environment, command=["restore"])
    assert ran.returncode == 0, ran.stderr
    assert files_below(folder) == ["[/red] x.jpg", "[/red] x.restored.png"]


def test_pictures_through_real_pipes(folder: Path, tiny_model: Path, child_environment: dict[str, str]) -> None:
    options = ["--model", str(tiny_model), "--strength", "0"]
    ran = real("-", *options, environment=child_environment, command=["restore"], stdin=JPEG)
    assert (ran.returncode, ran.stderr) == (0, b"")
    np.testing.assert_array_equal(decoded(ran.stdout), decoded(JPEG))
    bad = real("-", *options, environment=child_environment, command=["restore"], stdin=JPEG[:50])
    assert (bad.returncode, bad.stdout) == (1, b"")
    assert only_line(bad.stderr.decode()).startswith("unjpeg: standard input: ")


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal")
def test_a_terminal_is_sent_no_picture(folder: Path, tiny_model: Path, child_environment: dict[str, str]) -> None:
    put("photo.jpg")
    ours, theirs = os.openpty()
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "unjpeg", "photo.jpg", "-o", "-", "--model", str(tiny_model)],
            env=child_environment,
            stdout=theirs,
            stderr=subprocess.PIPE,
            check=False,
            timeout=300,
        )
    finally:
        os.close(theirs)
        os.close(ours)
    assert ran.returncode == 2
    assert b"standard output is a terminal; add > photo.png, or name a file with -o" in b" ".join(ran.stderr.split())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--precision", "13-bit"], "no precision '13-bit'"),
        (["--accelerator", "abacus"], "'abacus'"),
        ([], "no images in this folder"),
    ],
)
def test_a_training_that_cannot_start(folder: Path, options: list[str], words: str) -> None:
    pytest.importorskip("lightning.fabric")
    with pytest.raises(TrainingError, match=words):
        CliRunner().invoke(
            app,
            ["train", "tiny", "--data", str(folder), "--out", str(folder / "run"), *options],
            catch_exceptions=False,
        )
    assert not (folder / "run").exists()


def test_exporting_to_a_folder_fails_before_the_work(folder: Path) -> None:
    pytest.importorskip("lightning.fabric")
    with pytest.raises(OutputError, match="Is a directory"):
        CliRunner().invoke(
            app, ["export", "none.safetensors", "--data", "nowhere", "--out", str(folder)], catch_exceptions=False
        )


def test_training_without_its_extra(folder: Path, child_environment: dict[str, str]) -> None:
    put("torch.py", b"raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    environment = {**child_environment, "PYTHONPATH": f"{folder}{os.pathsep}{child_environment['PYTHONPATH']}"}
    ran = real("smoke", "--data", ".", "--out", "run", environment=environment, command=["train"])
    assert ran.returncode == 1
    assert only_line(ran.stderr.decode()) == "unjpeg: this command needs torch: pip install 'unjpeg[train]'"
