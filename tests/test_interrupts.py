"""Ctrl-C at every moment, and what a terminal shows meanwhile."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from commands import files_below, put
from jpegs import encoded
from unjpeg.console import progress_bar

pty = pytest.importorskip("pty", reason="needs terminals")

LARGE = encoded(
    np.kron(np.random.default_rng(0).integers(0, 255, (400, 500)), np.ones((8, 8))).astype(np.uint8), "grey"
)


@pytest.fixture(autouse=True)
def _hears_interrupts() -> Iterator[None]:
    """What is started in the background ignores Ctrl-C, and so do its children: these tests' are to hear it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def ran(program: str, environment: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import signal\nfrom unjpeg.interrupts import *\n{program}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "moment",
    [
        "take_over()\n",
        "take_over()\nraise_on_ctrl_c()\nwith loading():\n  ",
        "take_over()\nfrom unjpeg.cli import app\n",  # the command's own imports are over
    ],
)
def test_while_libraries_are_loaded_it_ends_at_once(moment: str, child_environment: dict[str, str]) -> None:
    """Also where a library would take an exception for an error of its own."""
    lines = f"{moment}exec('try:\\n signal.raise_signal(signal.SIGINT)\\nexcept BaseException: pass')\nprint('on')"
    assert ran(lines, child_environment) == (130, "unjpeg: interrupted\n")


def test_at_work_it_is_an_exception_once(child_environment: dict[str, str]) -> None:
    program = (
        "take_over()\nraise_on_ctrl_c()\nwith loading(): pass\n"
        "try:\n signal.raise_signal(signal.SIGINT)\n raise SystemExit(3)\nexcept KeyboardInterrupt: pass\n"
        "assert was_interrupted()\n"
        "signal.raise_signal(signal.SIGINT)\n"  # while the work ends itself a second one changes nothing
        "raise SystemExit(4)\n"
    )
    assert ran(program, child_environment)[0] == 4


def test_a_background_job_stays_deaf(child_environment: dict[str, str]) -> None:
    program = (
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\ntake_over()\nraise_on_ctrl_c()\nwith loading(): pass\n"
        "signal.raise_signal(signal.SIGINT)\nraise SystemExit(5)\n"
    )
    assert ran(program, child_environment)[0] == 5


def test_an_error_that_an_interrupt_became_is_said_as_one(child_environment: dict[str, str]) -> None:
    program = (
        "take_over()\nraise_on_ctrl_c()\n"
        "from unjpeg.console import run_safely\n"
        "def command():\n"
        "  try: signal.raise_signal(signal.SIGINT)\n"
        "  except KeyboardInterrupt as error: raise ImportError('initialization failed') from error\n"
        "run_safely(command)\n"
    )
    assert ran(program, child_environment) == (130, "unjpeg: interrupted\n")


def terminal(arguments: list[str], environment: dict[str, str], interrupt_at: str | None = None) -> tuple[int, str]:
    """The command on a terminal of its own: its exit code and all that was drawn, colours and movements left out."""
    ours, theirs = pty.openpty()
    environment = {**environment, "TERM": "xterm", "COLUMNS": "80"}
    process = subprocess.Popen(
        [sys.executable, "-m", "unjpeg", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
    )
    os.close(theirs)
    drawn, until = b"", time.monotonic() + 120
    while time.monotonic() < until:
        if select.select([ours], [], [], 0.05)[0]:
            try:
                drawn += os.read(ours, 65536)
            except OSError:  # closed at the other end
                break
        elif process.poll() is not None:
            break
        if interrupt_at is not None and interrupt_at.encode() in drawn:
            os.killpg(process.pid, signal.SIGINT)
            interrupt_at = None
    os.close(ours)
    return process.wait(60), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.decode()).replace("\r", "\n")


def test_progress_inside_a_picture_with_the_time_left(folder: Path, child_environment: dict[str, str]) -> None:
    put("large.jpg", LARGE)
    code, drawn = terminal(["large.jpg", "--model", "fast"], child_environment)
    assert code == 0
    shares = [int(share) for share in re.findall(r"(\d+)%", drawn)]
    assert shares == sorted(shares)
    assert len(set(shares)) > 2
    assert re.search(r"\d%, \d+:\d\d left", drawn)
    assert "getting ready" in drawn
    assert "large.jpg -> large.restored.png (4000x3200, " in drawn


@pytest.mark.parametrize("moment", ["getting ready", "%"])
@pytest.mark.parametrize("inputs", [["large.jpg"], ["large.jpg", "other.jpg", "-o", "out/"]])
def test_ctrl_c_on_a_terminal_leaves_one_line_and_no_file(
    moment: str, inputs: list[str], folder: Path, child_environment: dict[str, str]
) -> None:
    put("large.jpg", LARGE)
    put("other.jpg", LARGE)
    code, drawn = terminal([*inputs, "--model", "fast"], child_environment, moment if len(inputs) == 1 else "restoring")
    assert code == 130
    lines = [line for line in drawn.splitlines() if line.strip() and not line.startswith("restoring ")]
    assert [line.partition(";")[0] for line in lines] == ["unjpeg: interrupted"]
    assert files_below(folder) == ["large.jpg", "other.jpg"]


def test_the_bar_takes_any_numbers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting starts anywhere, stands still and ends early, as when pictures are skipped or fail."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    for total, finished in ((1, [0, 0.5, 0.5, 1]), (3, [2, 2.5, 3]), (0, [0]), (5, [4.0])):
        with progress_bar(total) as show:
            for count in finished:
                show(count)
    assert capsys.readouterr().out == ""
