"""Commands side by side, and their memory: counted right, kept with the machine, failures said."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jpegs import picture
from studies.documents.tables import make_tables
from studies.speed import memory, throughput
from unjpeg.errors import MeasurementError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def photo(tmp_path: Path, child_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", child_environment["PYTHONPATH"])
    path = tmp_path / "photo.png"
    Image.fromarray(picture(60, 80)).save(path)
    return path


def test_turns_are_rotated_and_the_median_counts(tmp_path: Path) -> None:
    log = tmp_path / "log"
    commands = {name: [sys.executable, "-c", f"open({str(log)!r}, 'a').write({name!r})"] for name in ("a", "b", "c")}
    times = iter(np.cumsum([0] + [1] * 100).tolist())
    assert throughput.take_turns(commands, 2, clock=lambda: next(times)) == {"a": 1, "b": 1, "c": 1}
    assert log.read_text() == "abc" + "bca" + "cab"
    with pytest.raises(MeasurementError, match=r"^bad failed: no$"):
        throughput.take_turns({"bad": [sys.executable, "-c", "raise SystemExit('no')"]}, 1)


def test_commands_may_keep_their_compiled_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    told = tmp_path / "told"
    program = f"import sys; open({str(told)!r}, 'w').write(str(sys.dont_write_bytecode))"
    throughput.take_turns({"python": [sys.executable, "-c", program]}, 1)
    assert told.read_text() == "False"


def test_workers_and_programs_are_kept_side_by_side(photo: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    throughput.workers(photo, out, str(tiny_model), [1, 2], pictures=2, megapixels=0.01, rounds=1)
    throughput.against(photo, [str(tiny_model), "copy=cp {input} {output}"], out, megapixels=0.01, rounds=1)
    record = json.loads((out / "throughput.json").read_text())
    assert record["workers-0.01"]["a_minute"].keys() == {"1", "2"}
    assert record["against-0.01"]["seconds"].keys() == {tiny_model.stem, "copy"}
    for name in ("live1.json", "cost.json"):
        (out / name).write_bytes((ROOT / "results" / name).read_bytes())
    made = make_tables(out)
    assert made["workers"].splitlines()[0] == f"| pictures a minute, {os.cpu_count()} cores | 1 workers | 2 workers |"
    assert made["against"].splitlines()[3].endswith("| 1.0 |")  # copying is the fastest


def test_auto_stands_beside_what_it_chose_from(photo: Path, tiny_model: Path, tmp_path: Path) -> None:
    throughput.precisions(photo, [str(tiny_model)], tmp_path, megapixels=0.01, rounds=1)
    record = json.loads((tmp_path / "throughput.json").read_text())["precisions-0.01"]["models"][tiny_model.stem]
    forced = {name: value for name, value in record["seconds"].items() if name != "auto"}
    assert record["auto"] in forced
    assert record["auto_over_fastest"] == record["seconds"]["auto"] / min(forced.values())


def test_an_album_is_given_to_programs_picture_by_picture(photo: Path, tiny_model: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    copied.mkdir()
    keep = f"copy=cp {{input}} {copied}"
    throughput.album(photo, [str(tiny_model), keep], tmp_path, pictures=3, megapixels=0.01, rounds=1)
    record = json.loads((tmp_path / "throughput.json").read_text())["album-3"]
    assert record["seconds"].keys() == record["cores"].keys() == {tiny_model.stem, "copy"}
    assert sorted(path.name for path in copied.iterdir()) == ["0.jpg", "1.jpg", "2.jpg"]
    with pytest.raises(MeasurementError, match=r"^bad failed"):
        throughput.album(photo, ["bad=false {input}"], tmp_path, pictures=2, megapixels=0.01, rounds=1)


def test_models_can_write_what_programs_write(photo: Path, tiny_model: Path, tmp_path: Path) -> None:
    throughput.against(photo, [str(tiny_model)], tmp_path, megapixels=0.01, rounds=1, suffix=".jpg")
    record = json.loads((tmp_path / "throughput.json").read_text())["against-0.01.jpg"]
    assert record["output"] == ".jpg"
    assert 0 < record["cores"][tiny_model.stem] <= (os.cpu_count() or 1) + 0.1


def test_an_untrained_network_is_timed_like_a_model(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complexity = pytest.importorskip("studies.dagn.complexity")
    small = complexity.DagnConfig(width=8, scales=2, blocks=1, stem=2, encoder_width=2)
    monkeypatch.setitem(complexity.UNTRAINED, "fbcnn-sized", small)
    throughput.against(photo, ["fbcnn-sized"], tmp_path, megapixels=0.01, rounds=1)
    record = json.loads((tmp_path / "throughput.json").read_text())
    assert record["against-0.01"]["seconds"].keys() == {"fbcnn-sized"}


def test_untrained_networks_have_names() -> None:
    complexity = pytest.importorskip("studies.dagn.complexity")
    assert set(throughput.UNTRAINED_NAMES) == set(complexity.UNTRAINED)


@pytest.mark.parametrize("stop_after", [1.0, 60.0])
def test_memory_of_a_whole_command(photo: Path, tiny_model: Path, tmp_path: Path, stop_after: float) -> None:
    megapixels = 20.0 if stop_after == 1 else 0.01
    memory.main(photo, tmp_path, str(tiny_model), [megapixels], sampling="4:4:4", stop_after=stop_after)
    (run,) = json.loads((tmp_path / "memory.json").read_text())["runs"]
    assert run["stopped"] is (stop_after == 1)
    assert 8 < run["peak_mib"] < 2000  # a busy machine stops it while it starts
    assert (run["megapixels"], run["sampling"], run["output"]) == (megapixels, "4:4:4", ".png")


def test_memory_is_the_commands_own(photo: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Not that of the process that makes the picture, or has held another before."""
    memory.main(photo, tmp_path, str(tiny_model), [0.01], options="--dry-run")
    held = np.ones(800 * 2**20, np.uint8)
    del held
    memory.main(photo, tmp_path, str(tiny_model), [30, 0.01], options="--dry-run")
    first, *later = (run["peak_mib"] for run in json.loads((tmp_path / "memory.json").read_text())["runs"])
    assert max(later) < first + 50
