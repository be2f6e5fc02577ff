"""Which precision ``auto`` is: how it is timed, when, what is kept, and who asks. Engines and clocks are made up."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from commands import put, run
from jpegs import encoded, picture
from unjpeg import precision, restorer
from unjpeg.batch import plan, restore_batch, workers
from unjpeg.errors import ModelError
from unjpeg.inspection import inspect_machine
from unjpeg.machine import hold_lock
from unjpeg.modelfile import ModelFile
from unjpeg.network import Model
from unjpeg.precision import BUDGET_SECONDS, SIDES, Choice, choose_precision, decide, try_in_turns
from unjpeg.restorer import Options, Restorer
from unjpeg.runtimes import ChosenPrecision, compile_guide, compile_restore
from unjpeg.settings import Settings
from unjpeg.tiling import Tiling

ALL = get_args(ChosenPrecision)

REALLY_MEASURE = precision._measure
"""What tests are spared elsewhere."""


# Deciding


@pytest.mark.parametrize(
    ("full", "bf16", "int8", "expected"),
    [
        ([10, 10, 10], [5, 5, 5], [4, 4, 4], "int8"),
        ([10, 10, 10], [20, 20, 20], [4, 4, 4], "int8"),  # bf16 that is slower than float32
        ([10, 10, 10], [5, 5, 5], [4.6, 4.6, 4.6], "bf16"),  # nearly as fast, and more exact
        ([10, 10, 10], [9.5, 9.5, 9.5], [9.2, 9.2, 9.2], "full"),
        ([10, 10, 90, 10, 10], [5, 70, 5, 5, 5], [4, 4, 4, 4, 50], "int8"),  # single turns that something else met
        ([10, 10, 10], [10.9, 11.1, 11.0], [10, 10, 10], "full"),
        ([10, 2, 10, 2], [2, 10, 2, 10], [9, 3, 9, 3], None),
    ],
)
def test_the_fastest_or_what_is_nearly_so_and_more_exact(
    full: list[float], bf16: list[float], int8: list[float], expected: str | None
) -> None:
    assert decide({"full": full, "bf16": bf16, "int8": int8}) == expected


@given(st.data())
def test_what_is_decided_is_never_much_slower(data: st.DataObject) -> None:
    turns = data.draw(st.integers(3, 7))
    some = st.lists(st.floats(0.01, 10), min_size=turns, max_size=turns)
    scores: Mapping[Any, list[float]] = data.draw(st.dictionaries(st.sampled_from(ALL), some, min_size=1))
    best = decide(scores)
    order: list[int] = data.draw(st.permutations(range(turns)))
    assert decide({name: [given[turn] for turn in order] for name, given in scores.items()}) == best
    assert decide({name: [4 * seconds for seconds in given] for name, given in scores.items()}) == best
    if best is not None:
        medians = {name: np.median(given) for name, given in scores.items()}
        assert medians[best] <= precision.UNSURE * min(medians.values())


@given(st.floats(0.01, 10), st.floats(0.01, 10), st.floats(0.01, 10))
def test_steady_turns_always_tell(full: float, bf16: float, int8: float) -> None:
    assert decide({"full": [full] * 3, "bf16": [bf16] * 3, "int8": [int8] * 3}) is not None


# Timing


@dataclass
class Bench:
    """Engines whose time is made up.

    Attributes:
        rates: seconds per megapixel of each.
        compiling: seconds that each takes to be made.
        preparing: times as long the first tile of a size takes.
        odd: what an engine adds to its pixels, of 255.
        broken: those that cannot be made, or fail at tiles of more pixels a side than that.
    """

    rates: Mapping[str, float]
    compiling: float = 0.3
    preparing: float = 1
    odd: Mapping[str, float] = field(default_factory=dict)
    broken: Mapping[str, int] = field(default_factory=dict)
    now: float = 1000.0
    asked: list[tuple[str, int]] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def load(self, name: ChosenPrecision) -> precision.Engine:
        self.now += self.compiling
        if self.broken.get(name) == 0:
            raise RuntimeError("could not create\na primitive descriptor")

        def restore(side: int) -> NDArray[np.float32]:
            first = (name, side) not in self.asked
            self.asked.append((name, side))
            self.now += self.rates[name] * side**2 / 1e6 * (self.preparing if first else 1)
            if side > self.broken.get(name, side):
                raise MemoryError("too large")
            return np.full((1, 3, side, side), self.odd.get(name, 0) / 255, np.float32)

        return restore

    def run(self) -> precision.Trial:
        return try_in_turns(self.load, ALL, clock=self.clock)


def test_precisions_take_turns_and_what_prepares_a_size_is_not_counted() -> None:
    bench = Bench({"full": 0.4, "bf16": 0.8, "int8": 0.2})
    trial = bench.run()
    assert (trial.side, trial.failed) == (SIDES[0], {})
    for name, seconds in trial.seconds.items():
        assert seconds == pytest.approx([bench.rates[name] * SIDES[0] ** 2 / 1e6] * precision.MOST_TURNS)
    timed = [name for name, side in bench.asked if side == SIDES[0]]
    rounds = [timed[start : start + 3] for start in range(0, len(timed), 3)]
    assert len(rounds) == 1 + precision.MOST_TURNS
    assert {frozenset(names) for names in rounds} == {frozenset(ALL)}
    assert len({tuple(names) for names in rounds}) == 2, "no precision comes first each time"


def test_a_slow_processor_is_asked_with_a_smaller_tile() -> None:
    """Where preparing a size takes as long as three turns, there is still time for enough of them."""
    trial = Bench({"full": 3.0, "bf16": 3.0, "int8": 1.2}, preparing=3).run()
    assert SIDES[-1] < trial.side < SIDES[0]
    assert all(len(seconds) >= precision.FEWEST_TURNS for seconds in trial.seconds.values())
    assert decide(trial.seconds) == "int8"


@given(
    st.fixed_dictionaries({name: st.floats(1e-3, 300) for name in ALL}), st.floats(0.01, 3), st.sampled_from([*ALL, ""])
)
def test_it_takes_as_long_as_it_may(rates: dict[str, float], compiling: float, broken: str) -> None:
    bench = Bench(rates, compiling, broken={broken: 0})
    trial = bench.run()
    one_step = compiling + 2 * max(rates.values()) * SIDES[-1] ** 2 / 1e6
    assert bench.now - 1000 <= max(BUDGET_SECONDS, 2 * one_step) + 1e-6
    counts = {len(seconds) for seconds in trial.seconds.values()}
    assert not counts or counts in [{n} for n in range(precision.FEWEST_TURNS, precision.MOST_TURNS + 1)]
    assert broken not in trial.seconds


def test_slow_processors_get_smaller_tiles_and_the_slowest_none() -> None:
    assert Bench({"full": 2, "bf16": 2, "int8": 2}).run().side in SIDES[2:-1]
    assert Bench({"full": 200, "bf16": 200, "int8": 200}).run().seconds == {}
    assert Bench({"full": 1, "bf16": 1, "int8": 1}, compiling=2).run().seconds == {}


def test_what_fails_is_passed_over() -> None:
    trial = Bench({"full": 0.4, "bf16": 0.1, "int8": 0.2}, broken={"bf16": 0}).run()
    assert list(trial.seconds) == ["full", "int8"]
    assert trial.failed == {"bf16": "could not create a primitive descriptor"}
    assert list(Bench({"full": 0.4, "bf16": 0.1, "int8": 0.2}, broken={"int8": 200}).run().seconds) == ["full", "bf16"]
    assert Bench(dict.fromkeys(ALL, 0.1), broken=dict.fromkeys(ALL, 0)).run().seconds == {}
    assert Bench(dict.fromkeys(ALL, 0.1), broken=dict.fromkeys(ALL, 200)).run().seconds == {}


@pytest.mark.parametrize("odd", [30.0, float("nan"), float("inf")])
def test_what_gives_other_pixels_is_passed_over(odd: float) -> None:
    trial = Bench({"full": 0.4, "bf16": 0.4, "int8": 0.1}, odd={"bf16": 0.5, "int8": odd}).run()
    assert list(trial.seconds) == ["full", "bf16"]
    assert "of 255 from those of full" in trial.failed["int8"]


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_halos_count(height: int, width: int) -> None:
    tiling = Tiling(480, 96)
    plan = tiling.plan(height, width, 1)
    seen = [sum(span.seen.stop - span.seen.start for span in spans) for spans in plan]
    computed = seen[0] * seen[1]
    assert tiling.computed_share(height, width) == pytest.approx(computed / (height * width))


# Keeping


@pytest.fixture
def file(tiny_model: Path) -> ModelFile:
    return ModelFile.read(tiny_model)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and a processor that has two precisions."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setenv("LOCALAPPDATA", str(folder))
    monkeypatch.setattr(precision, "list_precisions", lambda *_: ("full", "bf16"))
    return folder


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were measured; each measurement finds the same."""
    models: list[str] = []

    def find(file: ModelFile, _: object, unmeasured: Choice) -> Choice:
        models.append(file.description.name)
        return replace(unmeasured, why="measured", precision="bf16", seconds_per_megapixel={"full": 2.0, "bf16": 1.0})

    monkeypatch.setattr(precision, "_measure", find)
    return models


def test_it_is_measured_once_and_kept(file: ModelFile, measured: list[str]) -> None:
    before = choose_precision(file)
    assert (before.why, before.precision, before.kept) == ("not yet", "full", None)
    first = choose_precision(file, measure=True)
    assert (first.precision, first.why) == ("bf16", "measured")
    for later in (choose_precision(file), choose_precision(file, measure=True)):
        assert later == first
    assert measured == ["tiny"]
    assert choose_precision(file, again=True) == first
    assert measured == ["tiny"] * 2


def test_it_holds_for_this_machine_and_these_graphs(
    file: ModelFile, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_precision(file, measure=True)
    named = replace(file, description=replace(file.description, name="other", passes=4))
    assert choose_precision(named).why == "measured", "the same graphs under another name"
    retrained = replace(file, description=replace(file.description, sha256={**file.description.sha256, "restore": ""}))
    assert choose_precision(retrained).why == "not yet"
    changes: list[tuple[str, Callable[[], object]]] = [
        ("allowed_cores", lambda: 77),
        ("name_processor", lambda: "another"),
        ("processor_features", lambda: frozenset({"sse9"})),
    ]
    for name, other in changes:
        with monkeypatch.context() as patch:
            patch.setattr(precision, name, other)
            assert choose_precision(file).why == "not yet"
    with monkeypatch.context() as patch:
        patch.setattr("importlib.metadata.version", lambda _: "2099.1")
        assert choose_precision(file).why == "not yet"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert choose_precision(file).why == "not yet"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"precision": "int4", "why": "measured"}', b"\xff"])
def test_what_cannot_be_understood_is_measured_again(file: ModelFile, measured: list[str], content: bytes) -> None:
    kept = choose_precision(file, measure=True).kept
    assert kept is not None
    kept.write_bytes(content)
    assert choose_precision(file).why == "not yet"
    assert choose_precision(file, measure=True).why == "measured"
    assert json.loads(kept.read_bytes())["precision"] == "bf16"


@pytest.mark.parametrize("home", ["", "relative/folder", "/proc/no/such/home"])
def test_without_a_place_it_is_fixed_and_never_measured(
    file: ModelFile, measured: list[str], monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    monkeypatch.setenv("LOCALAPPDATA", home)
    if not home:

        def homeless() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", homeless)
    for again in (False, True):
        choice = choose_precision(file, measure=True, again=again)
        assert (choice.why, choice.precision) == ("no place", "full")
    assert measured == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(file: ModelFile, measured: list[str], cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o500)
    assert choose_precision(file, measure=True).why == "no place"
    assert measured == []


def test_a_disk_without_locks_or_without_room(
    file: ModelFile, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bool:
        raise OSError(37, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr("unjpeg.machine._try_lock", refuse)
        assert choose_precision(file, measure=True).why == "no place"
    assert measured == []


def test_a_busy_machine_is_tried_a_few_times_only(file: ModelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def told_nothing(_: ModelFile, __: object, unmeasured: Choice) -> Choice:
        tries.append(unmeasured)
        return replace(unmeasured, why="noisy")

    monkeypatch.setattr(precision, "_measure", told_nothing)
    found = [choose_precision(file, measure=True) for _ in range(6)]
    assert len(tries) == precision.MOST_TRIES
    assert {(choice.precision, choice.why) for choice in found} == {("full", "noisy")}
    assert choose_precision(file) == found[-1]
    assert choose_precision(file, again=True).tries == 1


def test_one_measures_and_the_others_wait(file: ModelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    begun, may_end = threading.Event(), threading.Event()

    def find(_: ModelFile, __: object, unmeasured: Choice) -> Choice:
        measured.append(threading.current_thread().name)
        begun.set()
        assert may_end.wait(60)
        return replace(unmeasured, why="measured", precision="bf16")

    monkeypatch.setattr(precision, "_measure", find)
    monkeypatch.setattr(precision, "LOCK_SECONDS", 60)
    found: list[Choice] = []
    threads = [threading.Thread(target=lambda: found.append(choose_precision(file, measure=True))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert begun.wait(60)
    may_end.set()
    for thread in threads:
        thread.join()
    assert len(measured) == 1
    assert {choice.precision for choice in found} == {"bf16"}


def test_who_waits_too_long_takes_the_default(
    file: ModelFile, measured: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_precision(file)
    monkeypatch.setattr(precision, "LOCK_SECONDS", 0)
    with hold_lock(cache / "unjpeg" / "precision" / "lock", 0):
        choice = choose_precision(file, measure=True)
    assert (choice.why, choice.precision, choice.kept, measured) == ("busy", "full", None, [])


def test_where_there_is_one_precision_nothing_is_measured(
    file: ModelFile, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_precision(file, "onnxruntime", measure=True).why == "only one"
    assert choose_precision(file, device="gpu", measure=True).why == "only one"
    monkeypatch.setattr(precision, "list_precisions", lambda *_: ("full",))
    assert choose_precision(file, measure=True).why == "only one"
    assert measured == []


def test_the_real_engines_are_measured(rounded_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only the engines move: what else this machine does takes no time."""
    rounded = ModelFile.read(rounded_model)
    load, now = precision._load, [0.0]

    def timed(file: ModelFile, name: ChosenPrecision) -> precision.Engine:
        engine = load(file, name)

        def restore(side: int) -> NDArray[np.float32]:
            now[0] += {"full": 0.02, "int8": 0.01}[name]
            return engine(side)

        return restore

    monkeypatch.setattr(precision, "_load", timed)
    monkeypatch.setattr(precision, "list_precisions", lambda *_: ("full", "int8"))
    monkeypatch.setattr(precision, "SIDES", (96, 32))
    monkeypatch.setattr(precision, "try_in_turns", partial(try_in_turns, clock=lambda: now[0]))
    monkeypatch.setattr(precision, "_measure", REALLY_MEASURE)
    halos = {"full": 32, "int8": 96}
    monkeypatch.setattr(Tiling, "suited_to", lambda _, precision: Tiling(480, halos[precision]))
    choice = choose_precision(rounded, measure=True)
    assert (choice.precision, choice.why, choice.failed) == ("int8", "measured", {})
    # Not twice as fast for a whole picture: its halo is wider.
    assert 0.5 < choice.seconds_per_megapixel["int8"] / choice.seconds_per_megapixel["full"] < 0.8
    assert Restorer(rounded).restore(picture(24, 40)).report.precision == "int8"


# Asking


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each choice was allowed to measure. All are float32."""
    answers: list[bool] = []

    def choose(*_: object, measure: bool = False) -> Choice:
        answers.append(measure)
        return Choice("full", "measured")

    monkeypatch.setattr("unjpeg.restorer.choose_precision", choose)
    monkeypatch.setattr("unjpeg.settings.choose_precision", choose)
    return answers


def test_small_pictures_do_not_wait_and_large_ones_do(
    tiny_model: Path, asked: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restorer, "WORTH_PIXELS", 24 * 40)
    for size, waits in (((24, 39), False), ((24, 40), True)):
        ours = Restorer(tiny_model, threads=1)
        ours.restore(picture(*size))
        ours.restore(picture(48, 48))
        assert asked == [waits], "once loaded, it keeps its precision"
        asked.clear()
    ours = Restorer(tiny_model, threads=1)
    assert ours.load(measure=True) == "full"
    assert asked == [True]


def test_who_names_a_precision_or_runs_no_network_asks_nothing(tiny_model: Path, asked: list[bool]) -> None:
    Restorer(tiny_model, threads=1, precision="full").restore(picture(24, 40))
    Restorer(tiny_model, threads=1).restore(picture(24, 40), strength=0)
    Restorer(tiny_model, threads=1, precision=Choice("full", "measured")).restore(picture(24, 40))
    assert asked == []


def test_what_was_chosen_and_does_not_run_falls_back(file: ModelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine was kept from instructions since."""
    from unjpeg.runtimes import openvino

    plain = openvino.compile_openvino

    def kept(graph: bytes, device: str, threads: int | None, name: ChosenPrecision) -> object:
        if name == "bf16":
            raise RuntimeError("no such instruction")
        return plain(graph, device, threads, name)

    monkeypatch.setattr(openvino, "compile_openvino", kept)
    monkeypatch.setattr("unjpeg.runtimes.processor_features", lambda: frozenset({"avx512_bf16"}))
    assert Restorer(file, threads=1, precision=Choice("bf16", "measured")).load() == "full"
    with pytest.raises(ModelError, match="no such instruction"):
        Model(file, threads=1, precision="bf16")


def test_a_batch_decides_once_for_all_workers(
    tiny_model: Path, tmp_path: Path, asked: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(encoded(picture(24, 40, number)))
    size = sum(path.stat().st_size for path in tmp_path.glob("*.jpg"))
    jobs = plan([str(tmp_path)], str(tmp_path / "out"), None, recursive=False).jobs
    told: list[object] = []

    class Recorded(workers._Pool):
        def __init__(self, count: int, settings: Settings, *more: Any) -> None:
            told.append(settings.precision)
            super().__init__(count, settings, *more)

    monkeypatch.setattr(workers, "_Pool", Recorded)
    for worth, strength, waits in ((size + 1, 1.0, False), (size, 1.0, True), (size, 0.0, False)):
        monkeypatch.setattr(workers, "WORTH_BYTES", worth)
        settings = Settings(str(tiny_model), Options(strength=strength), overwrite=True)
        assert all(outcome.report for outcome in restore_batch(jobs, settings, workers=1))
        assert asked == [waits]
        asked.clear()
    assert told == [Choice("full", "measured")] * 3
    named = Settings(str(tiny_model), precision="full")
    assert named.settled(measure=True) is named
    assert asked == []
    decided = replace(named, precision=Choice("bf16", "measured"))
    assert decided.fingerprint == named.fingerprint


def test_the_page_decides_once_for_all_processes(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi", reason="needs the extra: web")
    from fastapi.testclient import TestClient

    from unjpeg.web.app import create_app
    from unjpeg.web.workers import Workers

    asked: list[bool] = []
    told: list[Any] = []
    chosen = Choice("full", "measured")

    def choose(*_: object, measure: bool) -> Choice:
        asked.append(measure)
        return chosen

    class Recorded(Workers):
        def __init__(self, models: Mapping[str, Choice], **settings: Any) -> None:
            told.append(models)
            super().__init__(models, **settings)

    monkeypatch.setattr("unjpeg.web.app.choose_precision", choose)
    monkeypatch.setattr("unjpeg.web.app.Workers", Recorded)
    with TestClient(create_app(str(tiny_model), "fast", workers=2)):
        assert asked == [True, False], "one measurement is enough to wait for"
    assert told == [{str(tiny_model): chosen, "fast": chosen}]


def test_the_machine_is_shown(file: ModelFile, measured: list[str]) -> None:
    machine = inspect_machine([file])
    assert machine.cores >= 1
    assert "cpu" in machine.devices["openvino"]
    assert [choice.why for choice in machine.choices] == ["not yet"]
    assert [choice.why for choice in inspect_machine([file], measure=True).choices] == ["measured"]
    assert measured == ["tiny"]


def test_inspect_machine(folder: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(_file: object, _candidates: object, unmeasured: Choice) -> Choice:
        return replace(
            unmeasured,
            why="measured",
            precision="full",
            seconds_per_megapixel={"full": 1.25},
            failed={"bf16": "no such instruction"},
        )

    monkeypatch.setattr(precision, "_measure", find)
    machine = ("inspect", "--machine", "--model", tiny_model)
    assert "tiny: full (fixed, until it is measured" in run(*machine).stdout
    lines = run(*machine, "--measure").stdout.splitlines()
    for line in (
        "openvino: cpu",
        "tiny: full (the fastest here, or nearly so and more exact)",
        "  full: 1.2 seconds per megapixel",
        "  bf16: passed over (no such instruction)",
    ):
        assert any(line in shown for shown in lines), lines
    kept = next(line.removeprefix("  kept in ") for line in lines if line.startswith("  kept in "))
    assert json.loads(Path(kept).read_bytes())["seconds_per_megapixel"] == {"full": 1.25}
    (choice,) = json.loads(run(*machine, "--json").stdout)["choices"]
    assert (choice["why"], choice["kept"]) == ("measured", kept)
    shown = run("inspect", "--machine").stdout
    assert "default: " in shown
    assert "fast: " in shown


def test_inspect_asks_for_pictures_or_the_machine(folder: Path) -> None:
    put("photo.jpg")
    for arguments in ((), ("photo.jpg", "--machine"), ("photo.jpg", "--measure"), ("--measure",)):
        assert "--machine" in run("inspect", *arguments, code=2).stderr


@pytest.mark.parametrize(
    ("name", "device", "multiplies", "features"),
    [
        ("int8", "cpu", True, "bf16"),
        ("int8", "cpu", False, "int8"),
        ("int8", "gpu", True, "int8"),
        ("full", "cpu", True, "full"),
        ("bf16", "cpu", True, "bf16"),
    ],
)
def test_beside_integers_features_are_16_bit_floats_where_the_processor_has_them(
    file: ModelFile,
    monkeypatch: pytest.MonkeyPatch,
    name: ChosenPrecision,
    device: str,
    multiplies: bool,
    features: str,
) -> None:
    asked: list[str] = []

    def recorded(_graph: bytes, _device: str, _threads: int | None, features: str) -> None:
        asked.append(features)

    monkeypatch.setattr("unjpeg.runtimes.openvino.compile_openvino", recorded)
    monkeypatch.setattr("unjpeg.runtimes._multiplies_bf16", lambda: multiplies)
    compile_guide(file.guide, "openvino", device, None)
    compile_restore(file, "openvino", device, None, name)
    assert asked == ["full", features]
