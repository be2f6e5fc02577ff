"""The command ``unjpeg`` in this process, and what it leaves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from jpegs import encoded, picture, saved
from unjpeg.batch import JOURNAL
from unjpeg.cli import app

JPEG = encoded(picture(24, 40), quality=20)
PNG = saved(picture(24, 40, 1), "PNG")


def run(*arguments: str | Path, code: int = 0, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def files_below(folder: Path) -> list[str]:
    """All but the batch's journal."""
    files = (path for path in folder.rglob("*") if not path.is_dir() and path.name != JOURNAL)
    return sorted(path.relative_to(folder).as_posix() for path in files)


def put(path: str, data: bytes = JPEG) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def told(text: str) -> list[str]:
    """What is said of each picture: all but the summary."""
    return [line for line in text.splitlines() if " done earlier, " not in line]


def only_line(text: str) -> str:
    (line,) = text.splitlines()
    return line


def real(
    *arguments: str, environment: dict[str, str], command: list[str], stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "unjpeg", *command, *arguments],
        env=environment,
        input=stdin,
        capture_output=True,
        check=False,
        timeout=300,
    )
