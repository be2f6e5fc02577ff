"""Many machines: what a task does when it is run again, and a cluster of two machines of which one is killed."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from jpegs import encoded, picture
from unjpeg.cli import app
from unjpeg.errors import ClusterError
from unjpeg.modelfile import ModelFile
from unjpeg.precision import Choice
from unjpeg.restorer import Options, Restorer
from unjpeg.settings import Settings
from unjpeg.version import __version__

pytest.importorskip("fsspec")
pytest.importorskip("pyarrow")
pytest.importorskip("ray")

import fsspec
import pyarrow.parquet

from unjpeg import cluster
from unjpeg.cluster import JOURNAL_FOLDER, TABLE, Input, Result, plan


@pytest.fixture
def store() -> Iterator[Any]:
    """Objects in memory, as in a bucket."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield memory
    memory.store.clear()


@pytest.fixture
def album(store: Any) -> Any:
    for number in range(3):
        store.pipe_file(f"/in/sub/{number}.jpg", encoded(picture(16, 24, number)))
    return store


@pytest.fixture
def order(tiny_model: Path) -> cluster._Order:
    settings = Settings(str(tiny_model), Options(strength=0.5))
    return cluster._Order(
        settings=settings,
        fingerprint=settings.fingerprint,
        model=ModelFile.read(tiny_model),
        output="memory://out",
        format="png",
        retries=2,
        run="first",
        threads=1,
        stores={},
        version=__version__,
    )


def done(order: cluster._Order, number: int = 0) -> Result:
    """One input's result, from a worker that has just started."""
    return cluster._Worker(order).run(Input(f"memory://in/sub/{number}.jpg", f"sub/{number}.png"))


def record_of(store: Any, name: str) -> str:
    key = hashlib.sha256(name.encode()).hexdigest()
    return f"/out/{JOURNAL_FOLDER}/{key[:2]}/{key}.json"


def test_a_folder_is_mirrored_and_no_two_inputs_share_an_output(album: Any) -> None:
    album.pipe_file("/in/sub/0.png", b"")
    album.pipe_file("/in/notes.txt", b"")
    album.pipe_file("/in/.hidden/9.jpg", b"")
    album.pipe_file("/in/out/8.jpg", b"")
    todo = plan(["memory://in", "memory://in/sub/1.jpg", "memory://nothing/x.jpg"], "memory://in/out", "png")
    assert [given.name for given in todo.inputs] == [
        "sub/0.jpg.png",
        "sub/0.png.png",
        "sub/1.png",
        "sub/2.png",
        "1.png",
        "x.png",
    ]
    assert [given.source for given in todo.inputs][:2] == ["memory:///in/sub/0.jpg", "memory:///in/sub/0.png"]
    (clash,) = plan(["memory://in/sub", "memory://in/sub/1.jpg"], "memory://in/out", "png").failures
    assert clash.error is not None
    assert "is where memory:///in/sub/1.jpg goes" in clash.error
    (own,) = plan(["memory://in/sub/0.png"], "memory://in/sub", "png").failures
    assert own.error is not None
    assert "is an input itself" in own.error


def test_an_empty_folder_and_an_unknown_store(store: Any) -> None:
    store.mkdir("/empty")
    (nothing,) = plan(["memory://empty"], "memory://out", "png").failures
    assert nothing.error == "memory://empty: no pictures in this folder"
    (same,) = plan(["memory://empty"], "memory://empty/", "png").failures
    assert (same.error or "").endswith("it is the output folder, whose files are results; choose another")
    with pytest.raises(ClusterError, match="sky://x: cannot be reached"):
        plan(["sky://x"], "memory://out", "png")


def test_a_worker_restores_as_the_library_does(album: Any, order: cluster._Order, tiny_model: Path) -> None:
    result = done(order)
    data = album.cat_file("/in/sub/0.jpg")
    expected = Restorer(tiny_model, threads=1).restore(data, strength=0.5)
    with Image.open(io.BytesIO(album.cat_file("/out/sub/0.png"))) as image:
        assert np.array_equal(np.asarray(image), expected.pixels)
    assert (result.status, result.error) == ("restored", None)
    assert result.source_sha256 == hashlib.sha256(data).hexdigest()
    assert result.output_sha256 == hashlib.sha256(album.cat_file("/out/sub/0.png")).hexdigest()
    assert result.stated_quality == expected.report.stated_quality
    assert result.read_quality == expected.report.read_quality
    assert result.model_hash == expected.report.model_hash
    assert result.seconds is not None
    assert result.seconds > 0


@pytest.mark.parametrize("precision", ["full", "int8"])
def test_a_worker_runs_at_the_precision_it_is_told(
    album: Any, order: cluster._Order, rounded_model: Path, precision: Any
) -> None:
    settings = replace(order.settings, precision=precision)
    assert done(replace(order, settings=settings, model=ModelFile.read(rounded_model))).precision == precision


def test_one_worker_chooses_for_all(order: cluster._Order, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself is made up here: what it runs is run at once."""

    class Remote:
        def __init__(self, function: Any) -> None:
            self._function = function

        def remote(self, *arguments: Any) -> Any:
            return self._function(*arguments)

    rooms: list[dict[str, Any]] = []

    def remote(**room: Any) -> type[Remote]:
        rooms.append(room)
        return Remote

    monkeypatch.setattr("ray.remote", remote)
    monkeypatch.setattr("ray.get", lambda value: value)
    measured: list[bool] = []

    def choose(*_: object, measure: bool) -> Choice:
        measured.append(measure)
        return Choice("bf16", "measured")

    monkeypatch.setattr(cluster, "choose_precision", choose)
    order = replace(order, threads=3)
    assert cluster._settled(order).settings == replace(order.settings, precision="bf16")
    assert (measured, rooms) == ([True], [{"num_cpus": 3, "num_gpus": None}])
    named = replace(order, settings=replace(order.settings, precision="full"))
    assert cluster._settled(named) is named
    with pytest.raises(ClusterError, match="install one everywhere"):
        cluster._settled(replace(order, version="0"))
    assert len(measured) == 1


def test_run_again_it_gives_the_same_row_without_work(
    album: Any, order: cluster._Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = done(order)
    with monkeypatch.context() as patch:
        patch.setattr(Restorer, "begin", None)
        assert done(order) == first
        later = done(replace(order, run="second"))
    assert later == replace(first, status="done earlier")


def test_content_and_settings_decide_what_is_done(album: Any, order: cluster._Order) -> None:
    done(order)
    again = replace(order, run="second", settings=replace(order.settings, overwrite=True))
    album.pipe_file("/in/sub/0.jpg", encoded(picture(16, 24, 7)))
    assert done(again).status == "restored"
    again = replace(again, run="third")
    assert done(again).status == "done earlier"
    album.pipe_file("/out/sub/0.png", b"changed by hand")
    assert done(again).status == "restored"
    settings = replace(again.settings, options=replace(again.settings.options, bit_depth=16))
    assert done(replace(again, run="4", settings=settings, fingerprint=settings.fingerprint)).status == "restored"


def test_foreign_files_stay_and_begun_ones_are_replaced(
    album: Any, order: cluster._Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    album.pipe_file("/out/sub/0.png", b"somebody else's")
    refused = done(order)
    assert refused.status == "failed"
    assert refused.error == "memory:///out/sub/0.png: exists already; pass --overwrite to replace it"
    assert album.cat_file("/out/sub/0.png") == b"somebody else's"

    class Killed(BaseException):
        pass

    def killed(record: cluster._Record, entry: Any, **more: Any) -> None:
        if entry.output is not None:
            raise Killed  # the output is there, the record of it is not
        write(record, entry, **more)

    write = cluster._Record.write
    with monkeypatch.context() as patch:
        patch.setattr(cluster._Record, "write", killed)
        with pytest.raises(Killed):
            done(order, 1)
    assert album.exists("/out/sub/1.png")
    assert done(replace(order, run="second"), 1).status == "restored"


def test_a_picture_that_kills_its_worker_again_and_again_is_given_up(
    album: Any, order: cluster._Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Restorer, "begin", killed)
        for _ in range(1 + order.retries):
            with pytest.raises(Killed):
                done(order)
        given_up = done(order)
    assert given_up.status == "failed"
    assert given_up.error == (
        "memory:///in/sub/0.jpg: the process that restored it died, 3 times (a crash, or out of memory)"
    )
    assert done(replace(order, run="second")).status == "restored"


def test_what_fails_is_one_line_and_is_tried_in_the_next_run(album: Any, order: cluster._Order) -> None:
    whole = album.cat_file("/in/sub/0.jpg")
    album.pipe_file("/in/sub/0.jpg", whole[:-20])
    failed = done(order)
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error.startswith("memory:///in/sub/0.jpg: is a damaged JPEG")
    assert not album.exists("/out/sub/0.png")
    album.pipe_file("/in/sub/0.jpg", whole)
    assert done(order).status == "restored"
    album.rm("/in/sub/1.jpg")
    assert done(order, 1).error == "memory:///in/sub/1.jpg: no such file"


@pytest.mark.parametrize("damage", [b"", b"[]", b"null", b'{"source": 3}', b'{"output": "x", "row": {"no": 1}}'])
def test_a_damaged_record_costs_work_and_nothing_else(album: Any, order: cluster._Order, damage: bytes) -> None:
    first = done(order)
    album.pipe_file(record_of(album, "sub/0.png"), damage)
    again = replace(order, run="second", settings=replace(order.settings, overwrite=True))
    assert done(replace(order, run="second")).status == "failed"  # whose it is, nobody knows any more
    assert done(again).output_sha256 == first.output_sha256


def test_a_store_that_fails_is_asked_again(album: Any, order: cluster._Order, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "FIRST_PAUSE_SECONDS", 0)
    plain, failures = type(album).cat_file, iter([True, True, False])

    def failing(self: Any, path: str, *arguments: Any, **options: Any) -> Any:
        if path.endswith("0.jpg") and next(failures, True):
            raise OSError("connection reset")
        return plain(self, path, *arguments, **options)

    monkeypatch.setattr(type(album), "cat_file", failing)
    assert done(order).status == "restored"
    assert done(order).error == "memory:///in/sub/0.jpg: cannot be read (connection reset)"


def test_the_table_has_one_row_each_or_is_not_there(store: Any) -> None:
    rows = [Result("a", "b", "restored", "1", "2", 0.5, 30, None, "hash", "settings"), Result("c", None, "failed")]
    place = cluster._Location.of(f"memory://out/{TABLE}")

    def broken_off() -> None:
        with cluster._table(place) as write:
            write(rows[0])
            raise ClusterError("the run broke off")

    with pytest.raises(ClusterError):
        broken_off()
    assert not store.exists(f"/out/{TABLE}")
    with cluster._table(place) as write:
        for row in rows:
            write(row)
    table = pyarrow.parquet.read_table(io.BytesIO(store.cat_file(f"/out/{TABLE}")))
    assert table.to_pylist() == [asdict(row) for row in rows]
    assert str(table.schema.field("seconds").type) == "double"


def test_the_command(album: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(inputs: Sequence[Input], order: cluster._Order, *_: Any) -> Iterator[Result]:
        worker = cluster._Worker(replace(order, stores={}))
        return map(worker.run, inputs)

    monkeypatch.setattr(cluster, "_results", here)
    command = ["cluster", "memory://in", "-o", "memory://out", "--model", str(tiny_model), "--strength", "0"]
    ran = CliRunner().invoke(app, [*command, "--json"])
    assert (ran.exit_code, ran.stderr) == (0, "")
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [row["status"] for row in rows] == ["restored"] * 3
    assert pyarrow.parquet.read_table(io.BytesIO(album.cat_file(f"/out/{TABLE}"))).to_pylist() == rows
    album.pipe_file("/in/sub/1.jpg", b"")
    ran = CliRunner().invoke(app, [*command, "--overwrite"])
    assert ran.exit_code == 1
    assert ran.stderr.splitlines() == [
        "unjpeg: memory:///in/sub/1.jpg: is empty, without a single byte; copy or download it anew",
        "0 restored, 2 done earlier, 1 failed",
    ]
    assert CliRunner().invoke(app, [*command, "--bit-depth", "16", "--format", "webp"]).exit_code == 2


def test_the_command_without_its_extra(tmp_path: Path, child_environment: dict[str, str]) -> None:
    (tmp_path / "ray.py").write_text("raise ModuleNotFoundError(\"No module named 'ray'\", name='ray')")
    ran = subprocess.run(
        [sys.executable, "-m", "unjpeg", "cluster", "in", "-o", "out"],
        env={**child_environment, "PYTHONPATH": f"{tmp_path}:{child_environment['PYTHONPATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "unjpeg: this command needs ray: pip install 'unjpeg[cluster]'\n"


def test_a_cluster_that_does_not_answer_is_one_line(
    album: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: Any) -> None:
        raise Exception("The current node timed out\nduring startup.")

    monkeypatch.setattr("ray.init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    settings = Settings(model=str(tiny_model))
    with pytest.raises(ClusterError, match=r"^head:6379: no Ray cluster answers there \(The current node timed out d"):
        list(cluster.restore_on_cluster(["memory://in"], "memory://out", settings, address="head:6379"))
    with pytest.raises(ClusterError, match=r"^Ray cannot be started here"):
        list(cluster.restore_on_cluster(["memory://in"], "memory://out", settings))
    assert not album.exists(f"/out/{TABLE}")


@pytest.mark.slow
def test_one_of_two_machines_is_killed_half_way(
    tmp_path: Path, tiny_model: Path, child_environment: dict[str, str]
) -> None:
    album, out = tmp_path / "album", tmp_path / "out"
    album.mkdir()
    for number in range(24):
        (album / f"{number:02}.jpg").write_bytes(encoded(picture(160, 200, number)))
    (album / "broken.jpg").write_bytes((album / "00.jpg").read_bytes()[:200])
    script = Path(__file__).parent / "stress" / "two_machines.py"
    ran = subprocess.run(
        [sys.executable, str(script), str(album), str(out), str(tiny_model)],
        env=child_environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    (answer,) = (line for line in ran.stdout.splitlines() if line.startswith("{"))  # Ray may print lines around it
    said = json.loads(answer)
    assert said["worker_killed"]
    assert said["machines"] == [2, 1]

    table = pyarrow.parquet.read_table(out / TABLE).to_pylist()
    assert sorted(row["source"] for row in table) == sorted(map(str, album.iterdir()))
    assert sorted(row["source"] for row in said["results"]) == sorted(row["source"] for row in table)
    assert Counter(row["status"] for row in table) == {"restored": 24, "failed": 1}
    restorer = Restorer(tiny_model, threads=1)
    for row in table:
        source = Path(row["source"])
        target = out / f"{source.stem}.png"
        if row["status"] == "failed":
            assert source.name == "broken.jpg"
            assert not target.exists()
            continue
        assert row["output"] == str(target)
        assert row["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
        assert row["output_sha256"] == hashlib.sha256(target.read_bytes()).hexdigest()
        with Image.open(target) as image:
            assert np.array_equal(np.asarray(image), restorer.restore(source).pixels)
    left = {path.name for path in out.iterdir()} - {f"{number:02}.png" for number in range(24)}
    assert left == {TABLE, JOURNAL_FOLDER}
