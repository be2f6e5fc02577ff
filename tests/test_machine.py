"""The machine's limits: cores that are allowed, engines that are kept from instructions, no /dev/shm, few files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from jpegs import encoded, picture
from unjpeg import machine
from unjpeg.batch import worker_count
from unjpeg.errors import ModelError, UnjpegError
from unjpeg.machine import allowed_cores, hold_lock, name_processor
from unjpeg.modelfile import ModelFile
from unjpeg.network import Model
from unjpeg.restorer import Restorer
from unjpeg.runtimes import Runtime, check_engine

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")


def with_machine(
    patch: pytest.MonkeyPatch, folder: Path, groups: str, files: dict[str, str], cores: int, affinity: int
) -> None:
    """A machine of so many cores, the process in these control groups."""
    (folder / "own").write_text(groups)
    for name, content in files.items():
        path = folder / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    patch.setattr(machine, "_OWN_CGROUPS", folder / "own")
    patch.setattr(machine, "_CGROUPS", folder / "groups")
    patch.setattr(os, "cpu_count", lambda: cores)
    patch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)


@pytest.mark.parametrize(
    ("groups", "files", "affinity", "expected"),
    [
        ("", {}, 64, 64),
        ("", {}, 2, 2),  # taskset
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64, 64),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 64, 2),  # in a container
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 64, 1),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 64, 2),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 64, 3),  # the group above it
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "300000 100000"}, 2, 2),
        ("0::/not/seen/from/here\n", {"cpu.max": "200000 100000"}, 64, 2),
        (
            "4:cpu,cpuacct:/d\n1:memory:/d\n",
            {"cpu,cpuacct/d/cpu.cfs_quota_us": "200000\n", "cpu,cpuacct/d/cpu.cfs_period_us": "100000\n"},
            64,
            2,
        ),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64, 64),
        ("nonsense\n\xff", {"cpu.max": "nonsense"}, 64, 64),
        ("0::/\n", {"cpu.max": "200000 0"}, 64, 64),
    ],
)
def test_cores_are_those_that_are_allowed(
    groups: str, files: dict[str, str], affinity: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_machine(monkeypatch, tmp_path, groups, files, 64, affinity)
    assert allowed_cores() == expected
    assert worker_count(None, None) == max(1, expected // 4)


@linux_only
def test_a_process_tied_to_one_core_says_so(child_environment: dict[str, str]) -> None:
    program = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    program += "from unjpeg.machine import allowed_cores; print(allowed_cores())"
    ran = subprocess.run([sys.executable, "-c", program], env=child_environment, capture_output=True, text=True)
    assert ran.stdout.strip() == "1", ran.stderr


def test_processors_are_named_as_the_system_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    assert name_processor() == "aarch64"
    part = "processor\t: {}\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n\n"
    (tmp_path / "cpuinfo").write_text(part.format(0) + part.format(1))
    assert name_processor() == "0x41 0xd0c (aarch64)"
    (tmp_path / "cpuinfo").write_text("model name\t: A Fast One 9000\n")
    assert name_processor() == "A Fast One 9000 (aarch64)"


def test_a_lock_is_one_holder_s(tmp_path: Path) -> None:
    place = tmp_path / "lock"
    with hold_lock(place, 0), pytest.raises(TimeoutError, match="held by another"), hold_lock(place, 0):
        pass
    with hold_lock(place, 0):
        pass
    with pytest.raises(FileNotFoundError), hold_lock(tmp_path / "nowhere" / "lock", 0):
        pass


def test_a_lock_of_a_process_that_died_is_free(tmp_path: Path, child_environment: dict[str, str]) -> None:
    program = (
        "import os, pathlib, sys\n"
        "from unjpeg.machine import hold_lock\n"
        "with hold_lock(pathlib.Path(sys.argv[1]), 0):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "lock")]
    with subprocess.Popen(command, env=child_environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held" + os.linesep.encode()
        with pytest.raises(TimeoutError), hold_lock(tmp_path / "lock", 0):
            pass
        child.kill()
    with hold_lock(tmp_path / "lock", 0):
        pass


# Engines


def test_auto_falls_back_where_the_engine_does_not_run(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor of which it is said that it has bf16, and an engine that is kept from it."""
    from unjpeg.runtimes import openvino

    asked = []
    plain = openvino.compile_openvino

    def kept(graph: bytes, device: str, threads: int | None, precision: str) -> object:
        asked.append(precision)
        if precision == "bf16":
            raise RuntimeError("could not create\na primitive descriptor")
        return plain(graph, device, threads, "full")

    monkeypatch.setattr(openvino, "compile_openvino", kept)
    monkeypatch.setattr("unjpeg.runtimes.processor_features", lambda: frozenset({"amx_bf16", "avx512_vnni"}))
    file = ModelFile.read(tiny_model)
    assert Model(file).precision == "full"
    assert "bf16" in asked
    with pytest.raises(ModelError, match="primitive descriptor") as refused:
        Model(file, precision="bf16")
    assert "\n" not in str(refused.value)
    assert Restorer(tiny_model).restore(picture(16, 16)).report.precision == "full"


@pytest.mark.parametrize("part", ["_guide", "_restore"])
def test_an_engine_that_fails_while_it_runs_is_one_clear_line(
    part: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restorer = Restorer(tiny_model)

    def failing(_: object) -> None:
        raise RuntimeError("Exception from node.cpp:823:\n[CPU] bad combination\n")

    monkeypatch.setattr(restorer.model, part, failing)
    with pytest.raises(ModelError, match="bad combination") as caught:
        restorer.restore(picture(16, 16))
    assert "\n" not in str(caught.value)


def test_an_engine_that_gives_nothing_is_one_clear_line(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restorer = Restorer(tiny_model)
    monkeypatch.setattr(restorer.model, "_restore", lambda _: [np.empty((1, 3, 0, 0), np.float32)])
    with pytest.raises(ModelError, match="cannot run the model"):
        restorer.restore(picture(16, 16))


@linux_only
@pytest.mark.parametrize("instructions", ["AVX2", "SSE41", "AVX512_CORE"])
def test_a_forced_instruction_set(
    instructions: str, tiny_model: Path, tmp_path: Path, child_environment: dict[str, str]
) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(picture(16, 24)))
    command = [sys.executable, "-m", "unjpeg", "restore", "a.jpg", "--model", str(tiny_model), "--json"]
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment = child_environment | cache | {"ONEDNN_MAX_CPU_ISA": instructions}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "Traceback" not in ran.stderr
    facts = json.loads(ran.stdout)
    assert facts["ok"] == (ran.returncode == 0)
    if instructions != "SSE41":
        assert facts["ok"], facts
    elif not facts["ok"]:
        assert facts["error"].startswith("openvino cannot run the model")
    # What it compiled is kept apart: processes that may use all instructions would compute otherwise.
    subprocess.run(
        [*command, "--overwrite"], cwd=tmp_path, env=child_environment | cache, check=True, capture_output=True
    )
    assert len(list((tmp_path / "cache" / "unjpeg").glob("openvino-*"))) == 2


@pytest.mark.parametrize("runtime", get_args(Runtime))
def test_an_engine_that_is_not_installed_is_said_at_once(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, runtime, None)
    with pytest.raises(ModelError, match="pip install"):
        check_engine(runtime, "cpu")


# Albums


@linux_only
@pytest.mark.parametrize("limit", ["no semaphores", "12 files", "24 files"])
def test_albums_run_or_say_why_not(
    limit: str, tiny_model: Path, tmp_path: Path, child_environment: dict[str, str]
) -> None:
    """Without /dev/shm there are no semaphores; what has no files left says so, in lines of its own."""
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(encoded(picture(16, 24, number)))
    program = "import sys, resource, _multiprocessing\n"
    if limit == "no semaphores":
        program += "def none(*_, **__): raise FileNotFoundError(2, 'No such file or directory')\n"
        program += "_multiprocessing.SemLock = none\n"
    else:
        program += f"resource.setrlimit(resource.RLIMIT_NOFILE, ({limit.split()[0]},) * 2)\n"
    program += "if __name__ == '__main__':\n    from unjpeg.cli import main; main()\n"
    (tmp_path / "limited.py").write_text(program)
    arguments = ["restore", ".", "-o", "out", "--model", str(tiny_model), "--workers", "2"]
    ran = subprocess.run(
        [sys.executable, "limited.py", *arguments], cwd=tmp_path, env=child_environment, capture_output=True, text=True
    )
    assert "Traceback" not in ran.stderr
    if limit == "12 files" and ran.returncode:
        assert "open files" in ran.stderr
    else:
        assert ran.returncode == 0, ran.stderr
        assert len(list((tmp_path / "out").glob("*.png"))) == 3


def test_the_page_says_at_once_that_it_has_no_semaphores(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pebble", reason="needs the extra: web")
    from unjpeg.web import workers
    from unjpeg.web.app import create_app

    class Without:
        def RLock(self) -> None:
            raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(workers, "_CONTEXT", Without())
    with pytest.raises(UnjpegError, match="/dev/shm"):
        create_app("fast")
