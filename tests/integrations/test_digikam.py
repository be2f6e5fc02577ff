"""digiKam's custom script, run as its batch queue manager runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from commands import JPEG

SCRIPT = Path(__file__).parents[2] / "integrations" / "digikam" / "restore.sh"


@pytest.fixture
def unjpeg_on_path(tmp_path: Path, tiny_model: Path, child_environment: dict[str, str]) -> dict[str, str]:
    """The command, at strength 0."""
    command = tmp_path / "bin" / "unjpeg"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m unjpeg "$@" --model "{tiny_model}" --strength 0\n')
    command.chmod(0o755)
    return {**child_environment, "PATH": f"{command.parent}:{child_environment['PATH']}"}


def run_as_digikam(script: str, source: Path, target: Path, environment: dict[str, str]) -> int:
    """It puts both paths, between quotes, into the text, and gives that to a shell."""
    text = script.replace("$INPUT", f'"{source}"').replace("$OUTPUT", f'"{target}"')
    return subprocess.run(["/bin/sh", "-c", text], env=environment, check=False, timeout=300).returncode


def test_the_queue_gets_its_file(folder: Path, unjpeg_on_path: dict[str, str]) -> None:
    source, target = folder / "it's a photo.jpg", folder / ".digikam batch-AbCdEf.digikamtempfile.png"
    source.write_bytes(JPEG)
    target.touch()  # digiKam makes it first
    assert run_as_digikam(SCRIPT.read_text(), source, target, unjpeg_on_path) == 0
    with Image.open(target) as image:
        assert (image.format, image.size) == ("PNG", (40, 24))


def test_a_failure_is_one_that_digikam_sees(folder: Path, unjpeg_on_path: dict[str, str]) -> None:
    """Of all exit codes it takes 127 alone for a failure of the script."""
    (folder / "bad.jpg").write_bytes(b"no picture")
    assert run_as_digikam(SCRIPT.read_text(), folder / "bad.jpg", folder / "out.png", unjpeg_on_path) == 127


def test_it_is_one_line_for_both_kinds_of_shells() -> None:
    """On Windows digiKam joins lines by &, and cmd knows no #."""
    (line,) = SCRIPT.read_text().splitlines()
    assert "#" not in line
    page = (SCRIPT.parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
    assert f"\n{line}\n" in page
