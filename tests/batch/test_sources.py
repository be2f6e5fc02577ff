"""What a batch reads: files that are replaced while they are at work, pipes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from jpegs import encoded, picture
from unjpeg import picture as reading
from unjpeg.batch import plan, restore_batch, workers
from unjpeg.errors import BadImageError
from unjpeg.picture import read_bytes
from unjpeg.restorer import Options, Restoration, Restorer
from unjpeg.settings import Settings

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")

FIRST, SECOND = encoded(picture(16, 24, 1)), encoded(picture(16, 24, 2))


@pytest.mark.parametrize("moment", ["restored", "placed"])
def test_a_source_replaced_at_work_is_done_anew(
    moment: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal holds the hash of what was read, not of what lies there when the result does."""
    source, out = tmp_path / "in" / "a.jpg", tmp_path / "out"
    source.parent.mkdir()
    source.write_bytes(FIRST)
    settings = Settings(str(tiny_model), Options(strength=0), overwrite=True)

    def run(resume: bool) -> bool:
        jobs = plan([str(source.parent)], str(out), None, recursive=False).jobs
        (outcome,) = restore_batch(jobs, settings, resume=resume)
        assert outcome.error is None
        return outcome.skipped

    with monkeypatch.context() as patch:
        save = Restoration.save

        def replacing(restoration: Restoration, *args: object, **options: object) -> None:
            if moment == "restored":
                source.write_bytes(SECOND)
            save(restoration, *args, **options)  # type: ignore[arg-type]
            source.write_bytes(SECOND)

        patch.setattr(Restoration, "save", replacing)
        assert not run(resume=False)
    first = (out / "a.png").read_bytes()
    assert not run(resume=True)
    assert (out / "a.png").read_bytes() != first
    assert run(resume=True)
    source.write_bytes(FIRST)
    assert not run(resume=True)


def test_a_source_is_read_once(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(FIRST)
    read = []

    def counted(source: str, most: int) -> tuple[bytes, str]:
        read.append(source)
        return read_bytes(source, most)

    monkeypatch.setattr(workers, "read_bytes", counted)
    jobs = plan([str(tmp_path / "a.jpg")], str(tmp_path / "out.png"), None, recursive=False).jobs
    assert next(restore_batch(jobs, Settings(str(tiny_model), Options(strength=0)))).error is None
    assert read == [str(tmp_path / "a.jpg")]


@needs_pipes
def test_a_pipe_among_several_inputs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(FIRST)
    os.mkfifo(tmp_path / "pipe.jpg")
    for inputs in ([str(tmp_path / "a.jpg"), str(tmp_path / "pipe.jpg")], [str(tmp_path)]):
        todo = plan(inputs, str(tmp_path / "out/"), None, recursive=False)
        assert [job.source for job in todo.jobs] == [str(tmp_path / "a.jpg")]
        ((source, error),) = todo.failures
        assert source == str(tmp_path / "pipe.jpg")
        assert "regular file" in str(error)


@needs_pipes
def test_a_pipe_alone_is_read_once(tmp_path: Path, tiny_restorer: Restorer) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    writer = threading.Timer(0.2, pipe.write_bytes, (FIRST,))
    writer.start()
    restored = tiny_restorer.restore(pipe, strength=0)
    writer.join()
    np.testing.assert_array_equal(restored.pixels, tiny_restorer.restore(FIRST, strength=0).pixels)


@needs_pipes
def test_a_pipe_that_nobody_writes_to_hangs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PIPE_SECONDS", 0.2)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(BadImageError, match="nobody writes to"):
        read_bytes(tmp_path / "pipe.jpg")


@needs_pipes
def test_the_command_takes_a_pipe_with_a_journal(
    tmp_path: Path, tiny_model: Path, child_environment: dict[str, str]
) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "unjpeg", "restore", "pipe.jpg", "-o", "out/", "--model", str(tiny_model)]
    for options in ([], ["--resume", "--overwrite"]):
        running = subprocess.Popen(
            [*command, *options], cwd=tmp_path, env=child_environment, stderr=subprocess.PIPE, text=True
        )
        pipe.write_bytes(FIRST)
        _, told = running.communicate(timeout=60)
        assert running.returncode == 0, told
