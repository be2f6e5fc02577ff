"""Many machines: pictures in any store, restored by the workers of a Ray cluster, and one table of what became of them.

::

    plan ─▶ one row per input ─▶ Ray Data ─▶ a task on some machine ─▶ result rows, as they come ─▶ Parquet table
                                               │
                                               ├─ the journal beside the outputs: done? begun? how often tried?
                                               └─ read ─▶ Restorer (one per worker process) ─▶ write ─▶ journal

Ray runs a task again when its worker or machine dies. What makes that harmless is the journal: a record per output,
written before the work and again behind the output. A task that finds its own run's finished record gives the same row
once more without work; one that finds a begun record may replace what is there. So every input has one output and one
row, whatever died. A second run with the same settings finds the records of the first and skips what is unchanged.

Stores are fsspec's: local paths, ``s3://``, ``gs://``, ``az://``, ``memory://``, ...
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import posixpath
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

import fsspec
import pyarrow
import pyarrow.parquet
from fsspec.implementations.local import LocalFileSystem

# Ray's reports of its use to its makers are for its users to turn on, not for us.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
import ray.data
import ray.exceptions

from unjpeg.batch import JournalEntry, output_names, picture_suffixes
from unjpeg.batch.workers import CORES_PER_WORKER
from unjpeg.errors import BadImageError, ClusterError, ExistsError, OutputError, TooLargeError, UnjpegError
from unjpeg.files import make_file_key, place_file
from unjpeg.machine import allowed_cores
from unjpeg.modelfile import ModelFile
from unjpeg.output import FORMATS
from unjpeg.picture import NamedBytes
from unjpeg.precision import choose_precision
from unjpeg.runtimes import ChosenPrecision
from unjpeg.settings import Settings, fit_options
from unjpeg.version import __version__

__all__ = ["JOURNAL_FOLDER", "TABLE", "ClusterPlan", "Input", "Result", "plan", "restore_on_cluster"]

T = TypeVar("T")

JOURNAL_FOLDER = ".unjpeg-journal"
"""In the output folder: a record per output, in a file named by the hash of the output's path below that folder."""

TABLE = "unjpeg-results.parquet"
"""The table's name in the output folder, unless another is given."""

INPUTS_PER_TASK = 16
MAX_TASKS = 10_000
"""Small tasks lose little when a machine dies; many cost the scheduler."""

ROWS_PER_GROUP = 10_000

LOCAL_OBJECT_STORE_BYTES = 100 * 2**20
"""Of a Ray that is started here: what passes through it are rows of text and the model."""

FIRST_PAUSE_SECONDS = 0.5
"""Before a store that failed is asked again; doubled each time."""

Status = Literal["restored", "done earlier", "failed"]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one input: a row of the table.

    Attributes:
        source, output: path or URI. The output is None if the input was given none.
        source_sha256, output_sha256: of the files' content; None where it was not read or written.
        seconds: from reading the source to the output in its place; of an earlier run if it was done then.
        stated_quality, read_quality, precision: as in ``Report``.
        model_hash: of the weights; None where none were used.
        settings: ``Settings.fingerprint``.
        error: one line if it failed.
    """

    source: str
    output: str | None
    status: Status
    source_sha256: str | None = None
    output_sha256: str | None = None
    seconds: float | None = None
    stated_quality: int | None = None
    read_quality: int | None = None
    precision: str | None = None
    model_hash: str | None = None
    settings: str | None = None
    error: str | None = None


_COLUMN_TYPES = {"float | None": pyarrow.float64(), "int | None": pyarrow.int16()}
_SCHEMA = pyarrow.schema(
    [(field.name, _COLUMN_TYPES.get(str(field.type), pyarrow.string())) for field in fields(Result)]
)


@dataclass(frozen=True, slots=True)
class Input:
    """A source and its output's path below the output folder."""

    source: str
    name: str


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """What to do, and the rows of inputs that go nowhere."""

    inputs: tuple[Input, ...]
    failures: tuple[Result, ...]


def plan(inputs: Sequence[str], output: str, format: str) -> ClusterPlan:
    """Which file goes where: folders are looked through to the bottom and mirrored. Two inputs never share an output.

    Args:
        inputs: paths or URIs of pictures, or of folders of them.
        output: path or URI of a folder.
        format: a name in ``output.FORMATS``.

    Raises:
        ClusterError: there is no way to reach such a store.
    """
    folder = _Location.of(output)
    found: list[tuple[str, PurePosixPath]] = []
    failures: list[Result] = []
    for given in inputs:
        place = _Location.of(given)
        try:
            below = _pictures_below(place, folder)
        except Exception as error:  # the stores' own are of every kind
            failures.append(Result(given, None, "failed", error=f"{given}: cannot be listed ({_reason(error)})"))
            continue
        if below is None:
            found.append((str(place), PurePosixPath(posixpath.basename(place.path.rstrip("/")) or "unnamed")))
        elif not below:
            why = (
                ": it is the output folder, whose files are results; choose another" if place.key == folder.key else ""
            )
            failures.append(Result(given, None, "failed", error=f"{given}: no pictures in this folder{why}"))
        else:
            found += [(str(place / name), PurePosixPath(name)) for name in below]
    sources = {_Location.of(source).key for source, _ in found}
    taken: dict[str, str] = {}
    todo = []
    names = output_names([relative for _, relative in found], [FORMATS[format].suffix] * len(found))
    for (source, _), name in zip(found, map(str, names), strict=True):
        target = str(folder / name)
        key = (folder / name).key
        if key in sources or key in taken:
            clash = "is an input itself" if key in sources else f"is where {taken[key]} goes"
            problem = f"{source}: would be written to {target}, which {clash}; choose another output"
            failures.append(Result(source, None, "failed", error=problem))
            continue
        taken[key] = source
        todo.append(Input(source, name))
    return ClusterPlan(tuple(todo), tuple(failures))


def _pictures_below(place: _Location, output: _Location) -> list[str] | None:
    """Paths of pictures below a folder, sorted; None for what is no folder. Without what the output folder holds."""
    if not place.store.isdir(place.path):
        return None
    root = place.path.rstrip("/")
    out = f"{output.path.rstrip('/')}/" if output.store == place.store else None
    names, suffixes = [], picture_suffixes()
    for path in place.store.find(root):
        name = PurePosixPath(path[len(root) :].lstrip("/"))
        hidden = any(part.startswith(".") for part in name.parts)
        if name.suffix.lower() in suffixes and not hidden and not (out and path.startswith(out)):
            names.append(str(name))
    return sorted(names)


def restore_on_cluster(
    inputs: Sequence[str],
    output: str,
    settings: Settings,
    *,
    format: str = "png",
    table: str | None = None,
    address: str | None = None,
    workers: int | None = None,
    cores_per_worker: int | None = None,
    retries: int = 3,
    progress: Callable[[float], None] | None = None,
) -> Iterator[Result]:
    """Restore pictures on a Ray cluster; one row per input, as they come, and a Parquet table of them at the end.

    Args:
        inputs, output, format: as for ``plan``.
        settings: how to restore. With ``device="cuda"`` each worker takes a GPU. ``keep_times`` is not for stores.
        table: the table's path or URI; ``TABLE`` in the output folder if None.
        address: of the cluster; None takes ``RAY_ADDRESS``, or this machine alone. A Ray that this process is connected
            to already is used as it is.
        workers: at most so many at once; None is as many as the cluster has room for.
        cores_per_worker: None takes ``CORES_PER_WORKER``, or what the smallest machine has.
        retries: how often a picture is tried anew whose worker died under it, and how often a store is asked again.
        progress: called with the number of finished inputs.

    Raises:
        ClusterError: the cluster or a store cannot be reached, has no room for a worker, or gave up. What is done is
            done: the same call goes on from there.
        ModelError: the model is not there.
        OutputError: the table cannot be written.
    """
    todo = plan(inputs, output, format)
    order = _Order(
        settings=settings,
        fingerprint=settings.fingerprint,
        model=ModelFile.read(settings.model),
        output=str(_Location.of(output)),
        format=format,
        retries=retries,
        run=secrets.token_hex(8),
        threads=1,
        stores=dict(fsspec.config.conf),
        version=__version__,
    )
    finished = 0
    with _table(_Location.of(table) if table else _Location.of(output) / TABLE) as write:
        for result in todo.failures:
            write(result)
            yield result
        if todo.inputs:
            for result in _results(todo.inputs, order, address, workers, cores_per_worker):
                write(result)
                finished += 1
                if progress:
                    progress(finished)
                yield result


def _results(
    inputs: Sequence[Input], order: _Order, address: str | None, workers: int | None, cores: int | None
) -> Iterator[Result]:
    """One for each input, whatever Ray repeats."""
    waiting = set(range(len(inputs)))
    try:
        with _connected(address):
            gpu = order.settings.device == "cuda"
            cores = _room(cores, gpu=gpu)
            order = _settled(replace(order, threads=cores))
            context = ray.data.DataContext.get_current().copy()
            context.enable_progress_bars = False
            logging.getLogger("ray.data").setLevel(
                logging.ERROR
            )  # it tells how it goes about it; Ray keeps its own logs
            with ray.data.DataContext.current(context):
                rows = ray.data.from_items(
                    [{"number": number, **asdict(given)} for number, given in enumerate(inputs)],
                    override_num_blocks=min(MAX_TASKS, -(-len(inputs) // INPUTS_PER_TASK)),
                )
                # Tasks, not actors: a task of a dead machine is run on any other, an actor's waits for the actor.
                # Ray Data runs them again without end; the journal counts the tries, picture by picture.
                done = rows.map(
                    partial(_restored_row, order=order),
                    num_cpus=cores,
                    num_gpus=1 if gpu else None,
                    compute=ray.data.TaskPoolStrategy(workers),
                    max_calls=0,  # the process keeps its model, with a GPU, too
                )
                for row in done.iter_rows():
                    if row["number"] in waiting:
                        waiting.remove(row["number"])
                        yield Result(**json.loads(row["result"]))
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise ClusterError(
            f"the cluster gave up with {len(waiting)} of {len(inputs)} pictures to do ({_reason(_first(error))}); "
            "run the same again: what is done is not done anew"
        ) from error
    if waiting:
        raise ClusterError(f"the cluster returned no result for {len(waiting)} of {len(inputs)} pictures; run it again")


def _settled(order: _Order) -> _Order:
    """The same at one precision for all workers: what one of them chooses, for this machine may be another kind."""
    if order.settings.precision != "auto":
        return order
    choose = ray.remote(num_cpus=order.threads, num_gpus=1 if order.settings.device == "cuda" else None)(_choose)
    chosen: ChosenPrecision = ray.get(choose.remote(order))
    return replace(order, settings=replace(order.settings, precision=chosen))


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    here: dict[str, Any] = {}
    if address == "local":
        here = {
            "include_dashboard": False,
            "object_store_memory": LOCAL_OBJECT_STORE_BYTES,
            "num_cpus": allowed_cores(),
        }
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **here)
    except Exception as error:  # a plain one where Ray did not start in time
        where = "Ray cannot be started here" if here else f"{address}: no Ray cluster answers there"
        raise ClusterError(f"{where} ({_reason(error)})") from error
    try:
        yield
    finally:
        ray.shutdown()


def _room(cores: int | None, *, gpu: bool) -> int:
    """Cores for each worker, such that some machine has room for one."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if gpu and not any(machine.get("GPU") for machine in machines):
        raise ClusterError("no machine of the cluster has a GPU; leave --device cuda out")
    most = [int(machine["CPU"]) for machine in machines if machine.get("GPU") or not gpu]
    if not most or max(most) < (cores or 1):
        raise ClusterError(f"no machine of the cluster has {cores or 1} cores for a worker; ask for fewer")
    return cores or max(1, min(CORES_PER_WORKER, *most))


@contextmanager
def _table(place: _Location) -> Iterator[Callable[[Result], None]]:
    """Something that takes rows; the table appears, whole, when the block ends, and never if the block fails."""
    rows: list[dict[str, Any]] = []

    def flush(writer: pyarrow.parquet.ParquetWriter) -> None:
        writer.write_table(pyarrow.Table.from_pylist(rows, _SCHEMA))
        rows.clear()

    with tempfile.TemporaryFile() as file:
        with pyarrow.parquet.ParquetWriter(file, _SCHEMA) as writer:

            def write(result: Result) -> None:
                rows.append(asdict(result))
                if len(rows) == ROWS_PER_GROUP:
                    flush(writer)

            yield write
            flush(writer)
        file.seek(0)
        place.write(file.read(), replacing=True, retries=1)


# On the workers


@dataclass(frozen=True, slots=True)
class _Order:
    """All that a worker has to know.

    Attributes:
        run: made up for each run: whose tries are counted, and whose rows may be given again.
        stores: fsspec's configuration of the machine that gives the order, keys to stores included.
        version: of the program there.
    """

    settings: Settings
    fingerprint: str
    model: ModelFile
    output: str
    format: str
    retries: int
    run: str
    threads: int
    stores: Mapping[str, Any]
    version: str


_worker: _Worker | None = None
"""In a worker process: kept from task to task, the model loaded."""


def _choose(order: _Order) -> ChosenPrecision:
    """What Ray runs once, before the inputs."""
    _check_version(order)
    return choose_precision(order.model, order.settings.runtime, order.settings.device, measure=True).precision


def _check_version(order: _Order) -> None:
    if order.version != __version__:
        raise ClusterError(
            f"a worker has unjpeg {__version__}, and the run is of {order.version}: install one everywhere"
        )


def _restored_row(row: dict[str, Any], order: _Order) -> dict[str, Any]:
    """What Ray runs for each input. The result as JSON: no column's type is guessed from its first rows."""
    global _worker
    _check_version(order)
    if _worker is None or _worker.order.run != order.run:
        _worker = _Worker(order)
    result = _worker.run(Input(row["source"], row["name"]))
    return {"number": row["number"], "result": json.dumps(asdict(result))}


class _Worker:
    """Restores one picture after another, from store to store."""

    def __init__(self, order: _Order) -> None:
        self.order = order
        fsspec.config.conf.update(order.stores)
        self._restorer = order.settings.restorer(order.threads, model=order.model)
        self._output = _Location.of(order.output)

    def run(self, given: Input) -> Result:
        """One picture. Whatever is wrong with it is in the result."""
        target = self._output / given.name
        failed = Result(given.source, str(target), "failed", settings=self.order.fingerprint)
        try:
            return self._run(_Location.of(given.source), target, _Record(self._output, given.name, self.order.retries))
        except UnjpegError as error:
            return replace(failed, error=_line(error))
        except MemoryError:
            return replace(failed, error=f"{given.source}: not enough memory to restore it")
        except Exception as error:  # one picture must not end the run of a million
            return replace(failed, error=f"{given.source}: {type(error).__name__}: {_reason(error)}")

    def _run(self, source: _Location, target: _Location, record: _Record) -> Result:
        order, settings = self.order, self.order.settings
        start = time.perf_counter()
        data = source.read(settings.limits.file_bytes, order.retries)
        source_sha256 = hashlib.sha256(data).hexdigest()
        entry, kept = record.read()
        exists = target.exists(order.retries)
        ours = kept.get("run") == order.run
        if (
            exists
            and entry.is_made_from(source_sha256, order.fingerprint)
            and entry.output == hashlib.sha256(target.read(None, order.retries)).hexdigest()
        ):
            made = Result(**kept["row"])
            return replace(made, source=str(source), output=str(target), status="restored" if ours else "done earlier")
        if exists and not (settings.overwrite or entry.begun):
            raise ExistsError(f"{target}: exists already; pass --overwrite to replace it")
        tries = kept.get("tries", 0) if ours and entry.begun else 0
        if tries > order.retries:
            raise BadImageError(
                f"{source}: the process that restored it died, {tries} times (a crash, or out of memory)"
            )
        record.write(JournalEntry(begun=True), run=order.run, tries=tries + 1, process=os.getpid())
        encoded = io.BytesIO()
        try:
            work = self._restorer.begin(NamedBytes(data, str(source)), fit_options(settings.options, order.format))
            settings.save(work, encoded, order.format)
        except Exception:  # nothing was put there; once writing has begun, something may have been
            with suppress(UnjpegError):
                record.write(JournalEntry())
            raise
        target.write(encoded.getvalue(), replacing=exists or tries > 0, retries=order.retries)
        output_sha256 = hashlib.sha256(encoded.getbuffer()).hexdigest()
        result = Result(
            source=str(source),
            output=str(target),
            status="restored",
            source_sha256=source_sha256,
            output_sha256=output_sha256,
            seconds=time.perf_counter() - start,
            stated_quality=work.report.stated_quality,
            read_quality=work.report.read_quality,
            precision=work.report.precision,
            model_hash=work.report.model_hash,
            settings=order.fingerprint,
        )
        entry = JournalEntry(False, source_sha256, output_sha256, order.fingerprint)
        record.write(entry, run=order.run, row=asdict(result))
        return result


class _Record:
    """What the journal holds of one output. Only one worker at a time is at it."""

    def __init__(self, output: _Location, name: str, retries: int) -> None:
        key = hashlib.sha256(name.encode()).hexdigest()
        self._name, self._retries = name, retries
        self._place = output / f"{JOURNAL_FOLDER}/{key[:2]}/{key}.json"

    def read(self) -> tuple[JournalEntry, dict[str, Any]]:
        """The entry, and what else was kept with it. What cannot be understood counts as not there."""
        if not self._place.exists(self._retries):
            return JournalEntry(), {}
        try:
            kept = json.loads(self._place.read(None, self._retries))
            entry = JournalEntry.of(kept)
            if entry.output is not None:
                Result(**kept["row"])
        except (ValueError, TypeError, KeyError, AttributeError):
            return JournalEntry(), {}
        return entry, kept

    def write(self, entry: JournalEntry, **more: Any) -> None:
        """Raises OutputError."""
        facts = {"name": self._name, **entry.facts(), **more}
        self._place.write(json.dumps(facts).encode(), replacing=True, retries=self._retries)


@dataclass(frozen=True, slots=True)
class _Location:
    """A file or folder in a store."""

    store: fsspec.AbstractFileSystem
    path: str

    @classmethod
    def of(cls, uri: str) -> _Location:
        """Raises ClusterError if there is no way to such a store."""
        try:
            return cls(*fsspec.core.url_to_fs(uri))
        except (ValueError, ImportError) as error:
            raise ClusterError(f"{uri}: cannot be reached ({_reason(error)})") from error

    def __truediv__(self, name: str) -> _Location:
        return replace(self, path=f"{self.path.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.path if self._is_local else str(self.store.unstrip_protocol(self.path))

    @property
    def key(self) -> str:
        """Equal for places that may be one file."""
        return make_file_key(self.path) if self._is_local else str(self)

    @property
    def _is_local(self) -> bool:
        return isinstance(self.store, LocalFileSystem)

    def exists(self, retries: int) -> bool:
        """Raises BadImageError if the store cannot say."""
        with self._reported("looked for", BadImageError):
            return bool(_persistently(lambda: self.store.exists(self.path), retries))

    def read(self, most: int | None, retries: int) -> bytes:
        """The content. Raises BadImageError if it cannot be read, TooLargeError if it has more bytes than ``most``."""
        with self._reported("read", BadImageError):
            size = _persistently(lambda: self.store.size(self.path), retries) if most is not None else None
            if size is not None and most is not None and size > most:
                raise TooLargeError(f"{self}: has more than the limit of {most:,} bytes")
            return bytes(_persistently(lambda: self.store.cat_file(self.path), retries))

    def write(self, data: bytes, *, replacing: bool, retries: int) -> None:
        """Whole or not at all on a local disk and where the store's own writes are so. Raises OutputError."""
        with self._reported("written", OutputError):
            if self._is_local:
                path = Path(self.path)
                path.parent.mkdir(parents=True, exist_ok=True)
                with place_file(path, replacing) as file:
                    file.write(data)
                return
            self.store.makedirs(posixpath.dirname(self.path), exist_ok=True)
            mode = "overwrite" if replacing else "create"
            _persistently(lambda: self.store.pipe_file(self.path, data, mode=mode), retries)

    @contextmanager
    def _reported(self, what: str, kind: type[UnjpegError]) -> Iterator[None]:
        """Turn what the store says into one of our errors."""
        try:
            yield
        except (UnjpegError, MemoryError):
            raise
        except FileNotFoundError as error:
            raise kind(f"{self}: no such file") from error
        except FileExistsError as error:
            raise kind(f"{self}: exists already; pass --overwrite to replace it") from error
        except Exception as error:  # the stores' own are of every kind
            raise kind(f"{self}: cannot be {what} ({_reason(error)})") from error


def _persistently(call: Callable[[], T], retries: int) -> T:
    """The call's result, tried again where trying again may help."""
    for number in range(retries):
        try:
            return call()
        except (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError):
            raise
        except OSError:
            time.sleep(FIRST_PAUSE_SECONDS * 2**number)
    return call()


def _reason(error: BaseException) -> str:
    """In one line of bearable length."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = " ".join(text.split()) or type(error).__name__
    return line if len(line) <= 200 else f"{line[:197]}..."


def _first(error: BaseException) -> BaseException:
    """What Ray wrapped, perhaps several times, with a worker's traceback."""
    while (cause := getattr(error, "cause", None) or error.__cause__) is not None:
        error = cause
    return error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
