"""Batches: resuming, memory, and workers that a picture takes down."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jpegs import encoded, picture
from unjpeg.batch import JOURNAL, Job, Outcome, plan, planning, restore_batch, workers
from unjpeg.batch.journal import Journal
from unjpeg.errors import BadImageError, OutputError, TooLargeError
from unjpeg.restorer import Options, Restoration, Restorer
from unjpeg.settings import Settings

DECODED = Options(strength=0)
DEEP = Options(strength=0, bit_depth=16)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.jpg").write_bytes(encoded(picture(16, 24, i)))
    return folder


@pytest.fixture
def settings(tiny_model: Path) -> Settings:
    return Settings(model=str(tiny_model), options=DECODED)


def jobs_of(album: Path, out: Path) -> tuple[Job, ...]:
    todo = plan([str(album)], str(out), None, recursive=True)
    assert not todo.failures
    return todo.jobs


def run(album: Path, out: Path, settings: Settings, **options: Any) -> list[Outcome]:
    outcomes = list(restore_batch(jobs_of(album, out), settings, **options))
    return sorted(outcomes, key=lambda outcome: outcome.job.source)


def states(outcomes: list[Outcome]) -> str:
    return "".join("s" if o.skipped else "e" if o.error else "r" for o in outcomes)


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare a test the start of worker processes."""

    class Direct:
        def __init__(self, count: int, *making: Any) -> None:
            self._worker = workers._Worker(*making)

        def __enter__(self) -> Direct:
            return self

        def __exit__(self, *exception: object) -> None:
            pass

        def map(self, jobs: list[Job], progress: Any) -> Any:
            for job in jobs:
                yield self._worker.run(job, progress)

    monkeypatch.setattr(workers, "_Pool", Direct)


def test_resume_knows_content_and_settings(
    album: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    out = tmp_path / "out"
    assert states(run(album, out, settings)) == "rrr"
    assert states(run(album, out, settings, resume=True)) == "sss"
    assert states(run(album, out, settings)) == "eee"  # they exist

    (album / "1.jpg").write_bytes(encoded(picture(16, 24, 9)))
    (out / "2.png").write_bytes(b"changed by hand")
    again = Settings(settings.model, DECODED, overwrite=True)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert states(run(album, out, again, resume=True)) == "srr"
    after = {path.name: path.read_bytes() for path in out.iterdir()}
    assert after["0.png"] == before["0.png"]
    assert after["1.png"] != before["1.png"]
    assert after["2.png"] != b"changed by hand"

    other = Settings(settings.model, DEEP, overwrite=True)
    assert states(run(album, out, other, resume=True)) == "rrr"
    (out / "0.png").unlink()
    assert states(run(album, out, other, resume=True)) == "rss"


def test_a_damaged_journal_costs_work_and_nothing_else(
    album: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    out = tmp_path / "out"
    run(album, out, settings)
    journal = out / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["name"] for line in lines] == ["0.png", "0.png", "1.png", "1.png", "2.png", "2.png"]
    journal.write_bytes(b"".join(lines[:2]) + b"\xff\xfe\n[]\n{}\nnull\n" + lines[5][: len(lines[5]) // 2])
    again = Settings(settings.model, DECODED, overwrite=True)
    assert states(run(album, out, again, resume=True)) == "srr"
    assert states(run(album, out, again, resume=True)) == "sss"


def test_each_batch_ends_what_it_has_begun_itself(
    album: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches: one begins what the other is just placing, finds it there, and gives up after the other's end."""
    in_this_process(monkeypatch)
    out = tmp_path / "out"
    other = Journal(settings.fingerprint, beside_inputs=False)
    job = jobs_of(album, out)[0]
    out.mkdir()
    other.begin(job)
    run(album, out, settings)
    other.give_up(job)
    assert states(run(album, out, settings, resume=True)) == "sss"
    other.begin(job)  # and was killed then: the result is still the first batch's
    assert states(run(album, out, settings, resume=True)) == "sss"
    assert states(run(album, out, Settings(settings.model, DEEP), resume=True)) == "eee"


@pytest.mark.parametrize(
    "line", [b'{"name":' + b"[" * 200_000, b'{"name": []}', b'{"name": "0.png", "begun": [], "ended": 3}']
)
def test_a_journal_may_say_anything(
    line: bytes, album: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    out = tmp_path / "out"
    out.mkdir()
    (out / JOURNAL).write_bytes(line + b"\n")
    assert states(run(album, out, settings, resume=True)) == "rrr"
    assert states(run(album, out, settings, resume=True)) == "sss"


def test_a_journal_that_cannot_be_written_is_what_fails(
    album: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    monkeypatch.setattr(Restorer, "begin", failing)  # not reached
    (tmp_path / "out" / JOURNAL).mkdir(parents=True)
    outcomes = run(album, tmp_path / "out", settings)
    assert {str(outcome.error) for outcome in outcomes} == {
        f"{tmp_path / 'out' / JOURNAL}: the journal cannot be written (Is a directory)"
    }


def test_what_a_kill_left_is_replaced_and_nothing_else(
    album: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        # Killed between the output and the journal's second line.
        patch.setattr(Journal, "finish", lambda journal, job: None)
        run(album, out, settings)
    (out / JOURNAL).write_bytes(b"".join((out / JOURNAL).read_bytes().splitlines(keepends=True)[:2]))
    assert states(run(album, out, settings)) == "eee"
    assert states(run(album, out, settings, resume=True)) == "rre"  # of the third the journal knows nothing
    with monkeypatch.context() as patch:
        patch.setattr(Restoration, "save", failing)
        (out / "1.png").unlink()
        assert states(run(album, out, settings, resume=True)) == "see"
    (out / "1.png").write_bytes(b"somebody's own")
    assert states(run(album, out, settings, resume=True)) == "see"
    assert (out / "1.png").read_bytes() == b"somebody's own"


def failing(*_: object, about_to_place: Callable[[], None], **__: object) -> None:
    about_to_place()
    raise OutputError("no space left")


def test_results_beside_their_inputs_are_journalled_on_request_only(
    album: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    todo = plan([str(album)], None, None, recursive=False)
    assert states(list(restore_batch(todo.jobs, settings))) == "rrr"
    assert not (album / JOURNAL).exists()
    again = Settings(settings.model, DECODED, overwrite=True)
    assert states(list(restore_batch(todo.jobs, again, resume=True))) == "rrr"
    assert states(list(restore_batch(todo.jobs, again, resume=True))) == "sss"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_worker_that_dies_costs_one_picture(album: Path, settings: Settings, tmp_path: Path) -> None:
    endless = tmp_path / "endless.jpg"
    os.mkfifo(endless)  # whoever opens it waits
    first, _, last = jobs_of(album, tmp_path / "out")
    jobs = [first, Job(str(endless), tmp_path / "out" / "endless.png", "png"), last]
    shares: list[float] = []
    outcomes = []
    for outcome in restore_batch(jobs, settings, workers=1, progress=shares.append):
        outcomes.append(outcome)
        if len(outcomes) == 1:
            (worker,) = multiprocessing.active_children()
            worker.kill()
    assert [outcome.job for outcome in outcomes] == jobs
    assert states(outcomes) == "rer"
    assert isinstance(outcomes[1].error, BadImageError)
    assert "died" in str(outcomes[1].error)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [JOURNAL, "0.png", "2.png"]
    assert not multiprocessing.active_children()
    assert shares == sorted(shares)


@pytest.mark.parametrize("end", ["import ctypes; ctypes.string_at(0)", "import signal; signal.raise_signal(15)"])
def test_a_worker_that_crashes_or_is_told_to_end_costs_one_picture(
    end: str, album: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that dies of one file, planted in the workers: they import this module before they start."""
    planted = tmp_path / "planted"
    planted.mkdir()
    marker = encoded(picture(16, 24, 1))
    (planted / "sitecustomize.py").write_text(
        "import simplejpeg\n"
        "plain = simplejpeg.decode_jpeg\n"
        "def decode(data, *args, **options):\n"
        f"    if bytes(data) == {marker!r}:\n"
        f"        {end}\n"
        "    return plain(data, *args, **options)\n"
        "simplejpeg.decode_jpeg = decode\n"
    )
    before = {path: path.read_bytes() for path in album.iterdir()}
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(planted), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PYTHONFAULTHANDLER", "")
    outcomes = run(album, tmp_path / "out", settings, workers=1)
    assert states(outcomes) == "rer"
    assert "died" in str(outcomes[1].error)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [JOURNAL, "0.png", "2.png"]
    assert {path: path.read_bytes() for path in album.iterdir()} == before


def test_an_interrupted_batch_leaves_no_worker_and_no_trace(album: Path, settings: Settings, tmp_path: Path) -> None:
    batch_of_three = restore_batch(jobs_of(album, tmp_path / "out"), settings, workers=1)
    next(batch_of_three)
    with pytest.raises(KeyboardInterrupt):
        batch_of_three.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()
    assert {path.suffix for path in (tmp_path / "out").iterdir()} <= {".png", ".jsonl"}


def test_names_that_differ_in_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("photo.jpg", "Photo.jpg"):
        (tmp_path / name).write_bytes(b"")
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system ignores case")
    assert len(plan([str(tmp_path)], None, None, recursive=False).jobs) == 2
    monkeypatch.setattr(planning, "ignores_case", lambda folder: True)
    todo = plan([str(tmp_path)], None, None, recursive=False)
    assert len(todo.jobs) == len(todo.failures) == 1


def test_memory_sets_the_largest_picture(
    album: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    (album / "1.jpg").write_bytes(encoded(picture(300, 400)))
    monkeypatch.setattr(workers, "MEMORY_BASE_MIB", 1)
    monkeypatch.setattr(workers, "MEMORY_PER_MEGAPIXEL_MIB", 100)
    outcomes = run(album, tmp_path / "a", settings, max_memory_mib=10)
    assert states(outcomes) == "rer"
    assert isinstance(outcomes[1].error, TooLargeError)
    assert str(outcomes[1].error).endswith("as much as --max-memory leaves room for")
    # Two workers share 14 MiB, too little for it; alone it has them all.
    assert states(run(album, tmp_path / "b", settings, max_memory_mib=14, workers=2)) == "rrr"


def test_nothing_to_do(settings: Settings) -> None:
    assert list(restore_batch([], settings)) == []
