"""At which precision a model runs here: measured once per machine, runtime and model, and kept.

::

    kept in the cache folder? ──yes──▶ that
           │ no
    enough work to be worth it, a folder to keep it in? ──no──▶ the fixed default of ``runtimes.choose_engine``
           │ yes
    time each precision on a tile, taking turns ─▶ too noisy, too slow to tell? ──yes──▶ the default; keep that, the
           │ no                                                                          last time it is tried
    the fastest for whole pictures, or one within 10 % of it that is more exact ─▶ keep it

No list of a processor's features tells what is fast on it. The choice is made once, so that pixels do not change from
run to run. A machine that has not measured yet takes the default for small pictures, which shall not wait; they may
change once, by rounding, when it has. Who cannot have that names a precision.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from unjpeg.errors import OutputError
from unjpeg.files import put_json
from unjpeg.machine import FORCED_INSTRUCTIONS, allowed_cores, hold_lock, make_cache_folder, name_processor
from unjpeg.modelfile import ModelFile, shorten_reason
from unjpeg.network import SHAPED_PIXELS, Model, to_network
from unjpeg.runtimes import ChosenPrecision, Runtime, choose_engine, list_precisions, processor_features
from unjpeg.tiling import Tiling

__all__ = [
    "BUDGET_SECONDS",
    "SCORED_HEIGHT",
    "SCORED_WIDTH",
    "WORTH_BYTES",
    "WORTH_PIXELS",
    "Choice",
    "Engine",
    "Trial",
    "choose_precision",
    "decide",
    "try_in_turns",
]

WORTH_PIXELS = 4_000_000
"""A picture of so many is worth a measurement: restoring it takes about as long."""

WORTH_BYTES = 1_000_000
"""So are files of so many bytes, several together."""

BUDGET_SECONDS = 4.0
"""Of a whole measurement, compilation included."""

LOCK_SECONDS = 3 * BUDGET_SECONDS
"""How long to wait for other processes that measure."""

SIDES: Final = (480, 384, 288, 192, 96)
"""Of the tile that is timed, in pixels: the largest that leaves time for enough turns."""

MOST_TURNS, FEWEST_TURNS = 7, 3

PREPARING_TURNS: Final = 3
"""As many turns the first at a size takes, which prepares it."""

_METHOD: Final = "tiles of one shape"
"""What is timed. A measurement of anything else is made anew."""

MOST_TRIES = 3
"""Measurements that told nothing, on a busy machine for instance, until the fixed default stays."""

NEARLY = 1.10
"""A precision that takes so many times the fastest's time counts as fast, if it is more exact."""

UNSURE = 1.20
"""Where some turns say that a precision takes so many times the fastest's time, it is not chosen."""

MOST_DIFFERENCE = 2.0
"""Root mean square between a precision's tile and float32's, of 255. The shipped models come to 0.3."""

SCORED_HEIGHT, SCORED_WIDTH = 3000, 4000
"""Of the picture for whose tiles, halos included, times are compared."""

Why = Literal["measured", "not yet", "only one", "no place", "noisy", "slow", "busy"]

_REASONS: Final[Mapping[Why, str]] = {
    "measured": "the fastest here, or nearly so and more exact",
    "not yet": "fixed, until it is measured with the first large picture or folder",
    "only one": "there is no other for this model, runtime and device",
    "no place": "fixed, for there is no cache folder to keep a measurement in",
    "noisy": "fixed, for times differed too much to tell: is the machine busy?",
    "slow": f"fixed, for trying all took more than {BUDGET_SECONDS:.0f} seconds: is the machine busy?",
    "busy": "fixed, for other processes are measuring",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """A precision, and why it is the one.

    Attributes:
        precision: the one.
        why: how it was found.
        seconds_per_megapixel: of whole pictures, by precision, halos included; empty where nothing was measured.
        failed: precisions that were passed over, and why.
        model, runtime, processor, cores: of what it holds for. The cores are those that may be used.
        tries: measurements that told nothing, this one included.
        kept: the file that holds it; None where there is none.
    """

    precision: ChosenPrecision
    why: Why
    seconds_per_megapixel: Mapping[ChosenPrecision, float] = field(default_factory=dict)
    failed: Mapping[ChosenPrecision, str] = field(default_factory=dict)
    model: str = ""
    runtime: str = ""
    processor: str = ""
    cores: int = 0
    tries: int = 0
    kept: Path | None = None

    @property
    def in_words(self) -> str:
        """Why, as a clause."""
        return _REASONS[self.why]

    @property
    def is_final(self) -> bool:
        """Whether it is not measured again by itself."""
        return self.why not in ("noisy", "slow") or self.tries >= MOST_TRIES


def choose_precision(
    file: ModelFile,
    runtime: Runtime | None = None,
    device: str = "cpu",
    *,
    measure: bool = False,
    again: bool = False,
) -> Choice:
    """What ``auto`` is for a model on this machine.

    Args:
        measure: measure now if that was not done yet: up to ``BUDGET_SECONDS``, once.
        again: measure now in any case, and keep that.

    Raises:
        ModelError: model, runtime and device do not go together.
    """
    engine, default = choose_engine(file, runtime, device, "auto")
    unmeasured = Choice(default, "only one", {}, {}, file.description.name, engine, name_processor(), allowed_cores())
    if engine != "openvino" or device != "cpu":
        return unmeasured
    folder = make_cache_folder("precision")
    if folder is None:
        return replace(unmeasured, why="no place")
    place = folder / f"{_identify(file, unmeasured)}.json"
    kept = None if again else _read(place)
    if kept is not None and (kept.is_final or not measure):
        return kept
    if not (measure or again):
        return replace(unmeasured, why="not yet")
    candidates = list_precisions(file, engine, device)
    if len(candidates) == 1:
        return unmeasured
    try:
        with hold_lock(folder / "lock", LOCK_SECONDS):
            now = _read(place)
            if not again and now is not None and (now.is_final or now != kept):  # the process that was waited for
                return now
            choice = replace(_measure(file, candidates, unmeasured), kept=place)
            if not choice.is_final:
                choice = replace(choice, tries=1 + (0 if again or now is None else now.tries))
            put_json(place, {name: value for name, value in asdict(choice).items() if name != "kept"})
            return choice
    except TimeoutError:
        return replace(unmeasured, why="busy")
    except (OSError, OutputError):  # no locks there, a full disk
        return replace(unmeasured, why="no place")


def _identify(file: ModelFile, here: Choice) -> str:
    """Equal where a measurement holds: the same processor, cores, runtime and graphs."""
    version = importlib.metadata.version(here.runtime)
    forced = {name: os.environ[name] for name in FORCED_INSTRUCTIONS if name in os.environ}
    graphs = [file.description.sha256.get(part) for part in ("restore", "restore_int8")]
    facts = [here.processor, sorted(processor_features()), here.cores, here.runtime, version, forced, graphs, _METHOD]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _read(place: Path) -> Choice | None:
    """What is kept there; None if that is nothing, or nothing that can be understood."""
    with suppress(OSError, ValueError, TypeError):
        choice = Choice(**json.loads(place.read_bytes()), kept=place)
        if choice.precision in get_args(ChosenPrecision) and choice.why in _REASONS and choice.tries >= 0:
            return choice
    return None


# Measuring

Engine = Callable[[int], NDArray[np.float32]]
"""Restores a tile of so many pixels a side, always the same one, at some precision."""


@dataclass(frozen=True, slots=True)
class Trial:
    """How long each precision took.

    Attributes:
        seconds: of each turn, of a tile; as many for each precision. Empty where there was no time to tell.
        side: of the tile, in pixels.
        failed: precisions that were passed over, and why.
    """

    seconds: Mapping[ChosenPrecision, Sequence[float]]
    side: int
    failed: Mapping[ChosenPrecision, str]


def _measure(file: ModelFile, candidates: Sequence[ChosenPrecision], unmeasured: Choice) -> Choice:
    trial = try_in_turns(partial(_load, file), candidates, _sides(file))
    scores = {
        precision: [
            taken / trial.side**2 * 1e6 * _computed_share(file, precision) for taken in trial.seconds[precision]
        ]
        for precision in trial.seconds
    }
    medians = {precision: float(f"{statistics.median(some):.3g}") for precision, some in scores.items()}
    told = replace(unmeasured, seconds_per_megapixel=medians, failed=trial.failed)
    if not scores:
        return replace(told, why="slow")
    best = decide(scores)
    return replace(told, why="noisy") if best is None else replace(told, why="measured", precision=best)


def try_in_turns(
    load: Callable[[ChosenPrecision], Engine],
    candidates: Sequence[ChosenPrecision],
    sides: Sequence[int] = SIDES,
    *,
    clock: Callable[[], float] = time.perf_counter,
    budget: float = BUDGET_SECONDS,
) -> Trial:
    """Time precisions on a tile, taking turns, so that what else the machine does meets all of them.

    Args:
        load: makes an engine. What it, or the engine, raises is why a precision is passed over.
        candidates: most exact first. What differs much from the first that runs is passed over.
        sides: of the tile, in pixels, largest first: the largest is taken that leaves time for enough turns.
        clock: tells seconds.
        budget: seconds for all. What has begun is not cut short.
    """
    end = clock() + budget
    engines: dict[ChosenPrecision, Engine] = {}
    failed: dict[ChosenPrecision, str] = {}
    small, rough, longest_load = sides[-1], 0.0, 0.0
    reference: NDArray[np.float32] | None = None
    for precision in candidates:
        if clock() + longest_load > end:
            return Trial({}, 0, failed)
        began = clock()
        try:
            engine = load(precision)
            tile = engine(small)  # what is prepared with the first tile is not the work
            prepared = clock()
            engine(small)
        except Exception as error:  # the runtimes' own, RuntimeError for most
            failed[precision] = shorten_reason(error)
            continue
        rough += clock() - prepared
        longest_load = max(longest_load, clock() - began)
        reference = tile if reference is None else reference
        difference = 255 * float(np.sqrt(np.mean(np.square(tile - reference, dtype=np.float64))))
        if not difference <= MOST_DIFFERENCE:
            failed[precision] = f"its pixels are {difference:.1f} of 255 from those of {next(iter(engines))}"
            continue
        engines[precision] = engine
    left = end - clock()
    needed = rough * (PREPARING_TURNS + FEWEST_TURNS) / small**2
    side = next((side for side in sides if needed * side**2 <= left), 0)
    if side == 0:
        return Trial({}, 0, failed)
    seconds: dict[ChosenPrecision, list[float]] = {precision: [] for precision in engines}
    for turn in range(1 + MOST_TURNS):
        began = clock()
        order = list(engines) if turn % 2 else list(engines)[::-1]
        for precision in order:
            start = clock()
            try:
                engines[precision](side)
            except Exception as error:
                failed[precision] = shorten_reason(error)
                del engines[precision], seconds[precision]
                continue
            if turn:  # the first prepares this size
                seconds[precision].append(clock() - start)
        if clock() + (clock() - began if turn else 0) > end:
            break
    enough = turn >= FEWEST_TURNS and bool(engines)
    return Trial(seconds if enough else {}, side, failed)


def decide(scores: Mapping[ChosenPrecision, Sequence[float]]) -> ChosenPrecision | None:
    """The fastest by the median of its turns, or the most exact that is nearly as fast; None if the turns cannot tell.

    They can if leaving out any one of them changes nothing, or makes what is chosen slower by ``UNSURE`` at most.

    Args:
        scores: seconds of each turn, as many for each precision.
    """
    turns = len(next(iter(scores.values())))
    samples = [
        {name: statistics.median([*some[:turn], *some[turn + 1 :]]) for name, some in scores.items()}
        for turn in range(turns + 1)  # the last leaves out none
    ]
    sound = [
        name
        for name in set(map(_choose, samples))
        if all(medians[name] <= UNSURE * min(medians.values()) for medians in samples)
    ]
    return min(sound, key=get_args(ChosenPrecision).index, default=None)


def _choose(medians: Mapping[ChosenPrecision, float]) -> ChosenPrecision:
    fast = [name for name, seconds in medians.items() if seconds <= NEARLY * min(medians.values())]
    return min(fast, key=get_args(ChosenPrecision).index)


def _computed_share(file: ModelFile, precision: ChosenPrecision) -> float:
    return Tiling.suited_to(file.description, precision).computed_share(SCORED_HEIGHT, SCORED_WIDTH)


def _sides(file: ModelFile) -> tuple[int, ...]:
    stride = file.description.total_stride
    return tuple(dict.fromkeys(-(-side // stride) * stride for side in SIDES))


def _load(file: ModelFile, precision: ChosenPrecision) -> Engine:
    model = Model(file, precision=precision)
    guidance = model.guide(to_network(_tile(file.description.guide_window)))
    smallest = _sides(file)[-1]

    def restore(side: int) -> NDArray[np.float32]:
        # The smallest is only to see that it runs: not worth a graph.
        shaped = model.shaped((side, side), SHAPED_PIXELS) if side > smallest else None
        return model.restore_pixels(_tile(side), guidance, shaped) / np.float32(255)

    return restore


def _tile(side: int) -> NDArray[np.uint8]:
    """Soft light, an edge, and blocks that differ a little, ``(side, side, 3)``."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    light = [0.5 + 0.3 * np.sin(x / 17 + channel) * np.cos(y / 23) for channel in range(3)]
    edge = np.float32(0.15) * (np.hypot(x - side / 2, y - side / 2) < side / 3)
    blocks = np.float32(0.02) * ((x // 8 * 7 + y // 8 * 5) % 5 - 2)
    tile: NDArray[np.float32] = np.clip(np.stack(light, axis=-1) + (edge + blocks)[..., None], 0, 1)
    return (255 * tile).round().astype(np.uint8)
