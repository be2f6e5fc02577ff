"""Fuzzing for as long as wanted: mutated files through inspect, verify and restore in a process that may die.

``python tests/stress/fuzz.py --count 20000 --seed 1`` (``make fuzz``) gives every file to a child process and counts
what must not be: crashes (the child died), hangs (more than ten seconds of processor time, or five minutes), errors
that are not the package's own, outputs left half-written, originals changed. Any of them ends in exit code 1 and
leaves the file in ``--keep``. With ``--coverage`` atheris chooses the mutations that reach new code (``pip install
'unjpeg[fuzz]'``), and no network runs. ``--out`` keeps the counts, for docs/research/robustness.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from PIL import Image

if "--by-coverage" in sys.argv:
    import atheris

    with atheris.instrument_imports(include=["unjpeg"]):
        import unjpeg.inspection
else:
    import unjpeg
from mutations import mutated, seeds

from unjpeg.jpeg import Limits
from unjpeg.version import source_commit

HANG_SECONDS = 10
PATIENCE_SECONDS = 300
LIMITS = Limits(pixels=2**24)
SEEDS = seeds()
NAMES = sorted(SEEDS)
FINE = ("restored", "refused", "salvaged")
SMALL = 250_000
"""Pixels up to which a file is restored by the network; larger ones are only decoded and written."""


def fuzzed_file(seed: int, number: int) -> bytes:
    """The number-th file of a series."""
    choice = random.Random(f"{seed}/{number}")  # not the sum: series would overlap
    return mutated(SEEDS[choice.choice(NAMES)], SEEDS[choice.choice(NAMES)], choice)


def fate_of(data: bytes, folder: Path, restorer: unjpeg.Restorer, *, network: bool = True) -> str:
    """Give one file to everything, but for the network unless it is wanted; say what became of it."""
    source, target = folder / "fuzzed.jpg", folder / "fuzzed.png"
    source.write_bytes(data)
    target.unlink(missing_ok=True)
    fate = "restored"
    try:
        unjpeg.inspect(source, model=None, limits=LIMITS)
        work = restorer.begin(source, strength=0)
        if network and work.report.width * work.report.height <= SMALL:
            work = restorer.begin(source)
        work.save(target)
        unjpeg.verify(source, target, limits=LIMITS)
    except unjpeg.UnjpegError as error:
        fate = "refused" if "\n" not in str(error) else "a message of several lines"
    except Exception as error:  # what must not be
        fate = f"not ours: {type(error).__name__}: {error}"
    if fate == "refused":
        try:
            restorer.begin(source, strength=0, salvage=True).save(target, overwrite=True)
            fate = "salvaged"
        except unjpeg.UnjpegError:
            pass
        except Exception as error:
            fate = f"not ours: {type(error).__name__}: {error}"
    if target.exists():
        try:
            with Image.open(target) as image:
                image.load()
        except OSError:
            fate = "half-written"
    if {path.name for path in folder.iterdir()} - {source.name, target.name}:
        fate = "left something behind"
    if source.read_bytes() != data:
        fate = "original changed"
    return fate


def child(seed: int, first: int, count: int) -> None:
    """One line before each file, one after."""
    restorer = unjpeg.Restorer(Path(__file__).parents[1] / "data" / "tiny.unjpeg", threads=1, limits=LIMITS)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, count):
            print(json.dumps({"number": number}), flush=True)
            print(json.dumps({"fate": fate_of(fuzzed_file(seed, number), Path(folder), restorer)}), flush=True)


def series(seed: int, count: int, keep: Path, until: float) -> Counter[str]:
    """A series through child processes until a time; a dead or stuck one is replaced at the next file."""
    fates: Counter[str] = Counter()
    number = 0
    while number < count and time.monotonic() < until:
        command = [sys.executable, __file__, "--child", "--seed", str(seed), "--first", str(number)]
        process = subprocess.Popen([*command, "--count", str(count)], stdout=subprocess.PIPE)
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=_forward, args=(process, lines), daemon=True).start()
        started, used = time.monotonic(), float("inf")  # it may take its time to start
        while number < count and time.monotonic() < until:
            try:
                line = lines.get(timeout=1)
            except queue.Empty:
                if _cpu_seconds(process.pid) < used + HANG_SECONDS and time.monotonic() < started + PATIENCE_SECONDS:
                    continue
                fate = "hang"
                process.kill()
            else:
                if not line:
                    fate = f"crash ({process.wait()})"
                else:
                    said: dict[str, Any] = json.loads(line)
                    if "number" in said:
                        started, used = time.monotonic(), _cpu_seconds(process.pid)
                        continue
                    fate = said["fate"]
            fates[fate.split(":")[0]] += 1
            if fate not in FINE:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{seed}-{number}.jpg").write_bytes(fuzzed_file(seed, number))
                print(f"{seed}-{number}.jpg: {fate}", flush=True)
            number += 1
            if process.poll() is not None or fate == "hang":
                break
        process.kill()
        process.wait()
    return fates


def _cpu_seconds(pid: int) -> float:
    """Of a process so far, where the system says; a busy machine makes any file seem to hang by the clock."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _forward(process: subprocess.Popen[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(b"")


def by_coverage(count: int, minutes: float, corpus: Path, keep: Path) -> None:
    """Let atheris look for new paths through the Python code; it ends the process at the first failure.

    Args:
        corpus: files to start from; those that reach new code are added.
    """
    restorer = unjpeg.Restorer(Path(__file__).parents[1] / "data" / "tiny.unjpeg", threads=1, limits=LIMITS)
    folder = Path(tempfile.mkdtemp())

    def one(data: bytes) -> None:
        choice = random.Random(hashlib.sha256(data).digest())
        for file in (data, mutated(SEEDS[choice.choice(NAMES)], data or b"\xff\xd8", choice)):
            fate = fate_of(file, folder, restorer, network=False)
            if fate not in FINE:
                raise AssertionError(fate)

    ends = [f"-runs={count}", f"-max_total_time={max(1, round(60 * minutes))}", f"-timeout={PATIENCE_SECONDS}"]
    options = [*ends, f"-artifact_prefix={keep}/", str(corpus)]
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


def coverage_series(count: int, minutes: float, keep: Path) -> dict[str, int]:
    """``by_coverage`` in processes that atheris ends in its own way: files tried, code reached, failures (0 or 1).

    One after the other, a thousand runs each: the instrumentation holds on to half a megabyte a run.
    """
    keep.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes
    done = reached = code = 0
    with tempfile.TemporaryDirectory() as corpus:
        for name, data in SEEDS.items():
            Path(corpus, name).write_bytes(data)
        while done < count and time.monotonic() < end and not code:
            limits = ["--count", str(min(1000, count - done)), "--minutes", str((end - time.monotonic()) / 60)]
            command = [sys.executable, __file__, "--by-coverage", corpus, "--keep", str(keep), *limits]
            process = subprocess.Popen(command, stderr=subprocess.PIPE)
            runs = 0
            assert process.stderr is not None
            with process.stderr:
                for line in process.stderr:
                    sys.stderr.buffer.write(line)
                    if progress := re.match(rb"#(\d+)\s.*\bcov: (\d+)", line):
                        runs, reached = int(progress[1]), max(reached, int(progress[2]))
            done += runs
            code = process.wait() != 0
    # Each run is two files: the bytes as they are, and mixed into another picture.
    return {"files": 2 * done, "reached": reached, "failures": int(code)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, default=60, help="end there, whatever the count")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--coverage", action="store_true")
    parser.add_argument("--out", type=Path, help="results/fuzz.json, say: the run is added")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--by-coverage", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.seed, options.first, options.count)
    if options.by_coverage:
        return by_coverage(options.count, options.minutes, options.by_coverage, options.keep)
    start = time.monotonic()
    if options.coverage:
        run: dict[str, Any] = {"kind": "coverage", **coverage_series(options.count, options.minutes, options.keep)}
        bad = run["failures"]
    else:
        fates = series(options.seed, options.count, options.keep, start + 60 * options.minutes)
        bad = fates.total() - sum(fates[fate] for fate in FINE)
        run = {"kind": "mutations", "seed": options.seed, "files": fates.total(), "fates": dict(fates)}
    run |= {"seconds": round(time.monotonic() - start), "commit": source_commit()}
    print(json.dumps(run))
    if options.out:
        kept = json.loads(options.out.read_text()) if options.out.exists() else {"runs": []}
        kept["runs"].append(run)
        options.out.write_text(json.dumps(kept, indent=1) + "\n")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
