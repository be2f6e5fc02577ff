"""What a batch survives: ``python tests/stress/fault_series.py`` (``make faults``) tries it and prints a table.

Each fault is done to ``unjpeg restore -r`` itself, on small pictures with a small model. Counted are originals changed,
outputs half-written, files left behind, inputs that nothing was said about, tracebacks. All must be zero, or the exit
code is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from PIL import Image

from jpegs import encoded, picture
from unjpeg.batch import JOURNAL
from unjpeg.version import source_commit

MODEL = Path(__file__).parents[1] / "data" / "tiny.unjpeg"
NAMES = (
    "plain.jpg",
    "below/Ünïcödé ß.jpg",
    "below/日本語 写真.JPG",
    "below/further/العربية.jpeg",
    "עברית.jpg",
    "किताब.jpg",
    "emoji 🦄.jpg",
    "two\nlines\r.jpg",
    "tab\tand \x1b[31mred.jpg",
    " leading and trailing .jpg",
    "-o.jpg",
    "%s {0} $HOME `id`.jpg",
    "x" * 240 + ".jpg",
)
FAULTS = (
    *("names", "links", "two_batches", "deleted_folders", "full_disk", "file_size_limit", "read_only"),
    *("interrupts", "terminations", "kills"),
)
RAW_NAME = b"not utf-8 \xff\xfe.jpg"


@dataclass
class Tally:
    """What must not be."""

    originals_changed: int = 0
    half_written: int = 0
    left_behind: int = 0
    silent_skips: int = 0
    tracebacks: int = 0
    unexpected: int = 0
    """Exit codes, counts of successes and outputs, resumed batches that are not what they should be."""

    def expect(self, *conditions: bool) -> None:
        self.unexpected += conditions.count(False)


class Album:
    """Pictures, their hashes, and an output folder."""

    def __init__(self, folder: Path, *, side: int = 48, count: int = 8) -> None:
        self.source, self.out = folder / "album", folder / "out"
        names = [os.fsencode(name) for name in NAMES] + [RAW_NAME] + [b"%d.jpg" % n for n in range(count)]
        for number, name in enumerate(names):
            path = os.path.join(os.fsencode(self.source), name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(encoded(picture(side, side + 8, number), quality=20))
        self.paths = sorted(path for path in self.source.rglob("*") if path.is_file())
        self.hashes = self._hashes()

    def _hashes(self) -> dict[Path, str]:
        return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.paths}

    def check(self, tally: Tally) -> int:
        """Count what is wrong; the number of outputs that are whole."""
        tally.originals_changed += sum(
            before != after for before, after in zip(self.hashes.values(), self._hashes().values(), strict=True)
        )
        whole = 0
        for path in self.out.rglob("*") if self.out.is_dir() else ():
            if path.is_dir() or path.name == JOURNAL:
                continue
            if path.name.endswith(".partial"):
                tally.left_behind += 1
                continue
            try:
                with Image.open(path) as image:
                    image.load()
                whole += 1
            except OSError:
                tally.half_written += 1
        return whole

    def command(self, *options: str) -> list[str]:
        where = [str(self.source), "-r", "-o", str(self.out), "--model", str(MODEL)]
        return [sys.executable, "-m", "unjpeg", "restore", *where, *options]

    def start(self, *options: str, limit: Callable[[], None] | None = None) -> subprocess.Popen[bytes]:
        """In a process group of its own, and with Ctrl-C as in a terminal: a background job's children ignore it."""

        def prepare() -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if limit:
                limit()

        return subprocess.Popen(
            self.command(*options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=prepare,
        )

    def run(self, tally: Tally, *options: str, limit: Callable[[], None] | None = None) -> tuple[int, int, int]:
        """To the end, with a JSON line for each picture: exit code, successes, failures."""
        process = self.start("--json", *options, limit=limit)
        said, errors = process.communicate(timeout=600)
        lines = [json.loads(line) for line in said.decode().splitlines()]
        tally.tracebacks += b"Traceback" in errors
        tally.silent_skips += len(self.paths) - len({line["input"] for line in lines} & set(map(str, self.paths)))
        succeeded, failed = (sum(line["ok"] is ok for line in lines) for ok in (True, False))
        return process.returncode, succeeded, failed


def kills(folder: Path, count: int, choice: random.Random) -> tuple[Tally, str]:
    """SIGKILL at random moments, every third time to the parent alone; then the batch is resumed to its end."""
    album, tally = Album(folder), Tally()
    start = time.monotonic()
    album.run(tally, "--workers", "1")
    whole_run = time.monotonic() - start
    finished = killed = 0
    moments = []
    while killed < count:
        if album.check(tally) == len(album.paths):
            shutil.rmtree(album.out)
            finished += 1
        process = album.start("--resume", "--workers", "1")
        moment = choice.uniform(0.3, 1) * whole_run  # before, it has not looked at a picture
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=moment)
            continue
        if killed % 3 == 2:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        killed += 1
        moments.append(moment)
        tally.left_behind += _group_lives(process.pid)
    album.check(tally)
    code, succeeded, failed = album.run(tally, "--resume")
    whole = album.check(tally)
    tally.expect(code == 0, failed == 0, succeeded == whole == len(album.paths))
    return tally, (
        f"{killed} kills, {min(moments):.1f} to {max(moments):.1f} s after a start; {finished} whole passes; resumed: "
        f"exit {code}, {succeeded} done, {failed} failed, {whole} of {len(album.paths)} outputs whole"
    )


def _group_lives(group: int) -> bool:
    """Whether a process is still there a minute later: a worker without its parent."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True


def interrupts(folder: Path, count: int, choice: random.Random) -> tuple[Tally, str]:
    """SIGINT to the whole process group, as Ctrl-C in a terminal does, once the batch has begun to write.

    (Before, while modules are imported, it is Python's own to answer.)
    """
    return _signals(folder, count, choice, lambda process: os.killpg(process.pid, signal.SIGINT), 130)


def terminations(folder: Path, count: int, choice: random.Random) -> tuple[Tally, str]:
    """SIGTERM to the command alone, as ``kill`` and service managers send it; its workers find themselves alone."""
    return _signals(folder, count, choice, subprocess.Popen.terminate, -signal.SIGTERM)


def _signals(
    folder: Path, count: int, choice: random.Random, send: Callable[[subprocess.Popen[bytes]], None], expected: int
) -> tuple[Tally, str]:
    album, tally = Album(folder, count=100), Tally()
    codes: dict[int, int] = {}
    slowest = 0.0
    for _ in range(count):
        shutil.rmtree(album.out, ignore_errors=True)
        process = album.start("--workers", "2")
        while process.poll() is None and not album.out.exists():
            time.sleep(0.01)
        time.sleep(choice.uniform(0, 1))
        if process.poll() is None:
            send(process)
        start = time.monotonic()
        _, errors = process.communicate(timeout=120)
        slowest = max(slowest, time.monotonic() - start)
        codes[process.returncode] = codes.get(process.returncode, 0) + 1
        tally.expect(process.returncode in (expected, 0))  # 0: it was done already
        tally.tracebacks += b"Traceback" in errors
        tally.left_behind += _group_lives(process.pid)
        album.check(tally)
    tally.expect(expected in codes)
    said = ", ".join(f"{number} times exit {code}" for code, number in sorted(codes.items()))
    return tally, f"{said}; gone within {slowest:.1f} s"


def file_size_limit(folder: Path) -> tuple[Tally, str]:
    """No file may grow beyond 12 KiB: some outputs fit, some do not."""
    album, tally = Album(folder), Tally()
    for number, path in enumerate(album.paths[:5]):
        path.write_bytes(encoded(picture(200, 200, number), quality=90))
    album.hashes = album._hashes()
    code, succeeded, failed = album.run(
        tally, limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (12 * 1024, 12 * 1024))
    )
    whole = album.check(tally)
    tally.expect(code == 1, succeeded == whole > 0, failed == 5)
    return tally, f"exit {code}, {succeeded} done, {failed} failed, {whole} outputs whole"


def full_disk(folder: Path) -> tuple[Tally, str]:
    """A disk of 64 KiB."""
    album, tally = Album(folder, side=120), Tally()
    album.out.mkdir()
    if not _mounted(album.out, "size=64k"):
        return tally, "not tried: no right to mount"
    try:
        code, succeeded, failed = album.run(tally)
        whole = album.check(tally)
    finally:
        subprocess.run(["umount", str(album.out)], check=True)
    tally.expect(code == 1, succeeded == whole > 0, succeeded + failed == len(album.paths))
    return tally, f"exit {code}, {succeeded} done, {failed} failed, {whole} outputs whole"


def read_only(folder: Path) -> tuple[Tally, str]:
    """The output folder lies on a disk that is read-only."""
    album, tally = Album(folder), Tally()
    album.out.mkdir()
    if not _mounted(album.out, "ro"):
        return tally, "not tried: no right to mount"
    try:
        code, succeeded, failed = album.run(tally)
        album.check(tally)
    finally:
        subprocess.run(["umount", str(album.out)], check=True)
    tally.expect(code == 1, failed == len(album.paths))
    return tally, f"exit {code}, {succeeded} done, {failed} failed"


def _mounted(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0


def deleted_folders(folder: Path) -> tuple[Tally, str]:
    """The output folder goes again and again while the batch runs, and half of the originals once."""
    album, tally = Album(folder, count=20), Tally()
    process = album.start("--json", "--workers", "1")
    removed = 0
    gone = album.source / "below"
    while process.poll() is None:
        time.sleep(0.2)
        if album.out.exists():
            shutil.rmtree(album.out, ignore_errors=True)
            shutil.rmtree(gone, ignore_errors=True)
            removed += 1
    said, errors = process.communicate()
    lines = [json.loads(line) for line in said.decode().splitlines()]
    tally.tracebacks += b"Traceback" in errors
    tally.silent_skips += len(album.paths) - len(lines)
    album.paths = [path for path in album.paths if gone not in path.parents]
    album.hashes = {path: digest for path, digest in album.hashes.items() if path in album.paths}
    album.check(tally)
    return (
        tally,
        f"exit {process.returncode}; removed {removed} times; {sum(line['ok'] is False for line in lines)} failed",
    )


def two_batches(folder: Path) -> tuple[Tally, str]:
    """Both of one album into one folder at once."""
    album, tally = Album(folder), Tally()
    processes = [album.start("--json", "--workers", "1") for _ in range(2)]
    done = []
    for process in processes:
        said, errors = process.communicate(timeout=600)
        lines = [json.loads(line) for line in said.decode().splitlines()]
        tally.tracebacks += b"Traceback" in errors
        tally.silent_skips += len(album.paths) - len(lines)
        done.append(sum(line["ok"] is True for line in lines))
    whole = album.check(tally)
    code, resumed, failed = album.run(tally, "--resume")
    tally.expect(sum(done) == whole == len(album.paths), code == 0, failed == 0, resumed == whole)
    return tally, (
        f"{done[0]} + {done[1]} done, {whole} of {len(album.paths)} outputs whole; resumed: exit {code}, {resumed} done"
    )


def links(folder: Path) -> tuple[Tally, str]:
    """Links to folders above, to themselves, to nowhere, and to a picture."""
    album, tally = Album(folder), Tally()
    (album.source / "up").symlink_to("..")
    (album.source / "below" / "round").symlink_to("../below")
    (album.source / "self.jpg").symlink_to("self.jpg")
    (album.source / "nowhere.jpg").symlink_to("missing")
    (album.source / "again.jpg").symlink_to("plain.jpg")
    further = ["self.jpg", "nowhere.jpg", "again.jpg", "up", "below/round"]
    album.paths += [album.source / name for name in further]
    code, succeeded, failed = album.run(tally)
    del album.paths[-len(further) :]
    whole = album.check(tally)
    tally.expect(code == 1, succeeded == whole == len(album.paths) + 1, failed == 2)
    return tally, f"exit {code}, {succeeded} done, {failed} failed, {whole} outputs whole"


def names(folder: Path) -> tuple[Tally, str]:
    """Every script, line breaks, control characters, no UTF-8, as long as names can be; lines for people as well."""
    album, tally = Album(folder), Tally()
    code, succeeded, failed = album.run(tally)
    whole = album.check(tally)
    shutil.rmtree(album.out)
    process = album.start()
    _, errors = process.communicate(timeout=600)
    lines = errors.decode(errors="replace").splitlines()
    tally.expect(code == 0, succeeded == whole == len(album.paths), process.returncode == 0)
    tally.silent_skips += len(album.paths) - sum(" -> " in line for line in lines)
    return tally, f"exit {code}, {succeeded} done, {failed} failed, {whole} of {len(album.paths)} outputs whole"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--interrupts", type=int, default=10, help="and as many terminations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(FAULTS), help="one fault by its name")
    parser.add_argument("--out", type=Path, help="results/faults.json, say; faults that were tried are replaced in it")
    options = parser.parse_args()
    choice = random.Random(options.seed)
    faults: dict[str, Callable[[Path], tuple[Tally, str]]] = {
        "names": names,
        "links": links,
        "two_batches": two_batches,
        "deleted_folders": deleted_folders,
        "full_disk": full_disk,
        "file_size_limit": file_size_limit,
        "read_only": read_only,
        "interrupts": lambda folder: interrupts(folder, options.interrupts, choice),
        "terminations": lambda folder: terminations(folder, options.interrupts, choice),
        "kills": lambda folder: kills(folder, options.kills, choice),
    }
    counted = [field.name for field in fields(Tally)]
    print("| fault | " + " | ".join(name.replace("_", " ") for name in counted) + " | |")
    print("| --- |" + " ---: |" * len(counted) + " --- |", flush=True)
    bad = False
    kept = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
    for name, fault in faults.items():
        if options.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            tally, said = fault(Path(folder))
        counts = [getattr(tally, field) for field in counted]
        print(f"| {name.replace('_', ' ')} | " + " | ".join(map(str, counts)) + f" | {said} |", flush=True)
        bad = bad or any(counts)
        kept[name] = {**asdict(tally), "said": said, "commit": source_commit()}
    if options.out:
        options.out.write_text(json.dumps(kept, indent=1) + "\n")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
