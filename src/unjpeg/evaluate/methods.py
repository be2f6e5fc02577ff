"""What can be measured: the decoder, our models, other programs, other people's networks, and printed figures.

A method is named on the command line::

    jpeg                            the file as decoded
    default, mine.unjpeg            our models, as ``unjpeg restore`` runs them
    default@off                     the same without the projection (strict, auto and off)
    default@full                    the same in float32 (bf16 and int8: in those)
    default@tta                     the same as the mean over the eight flips and rotations
    jpeg-quantsmooth                a program of ``PROGRAMS``, if it is installed
    mine=tool {input} {output.png}  any shell command, under a name; {output} alone is a PNG file
    network.safetensors             ARCNN, DnCNN or RDN, as our recipes train them (needs torch)
    fbcnn.safetensors               whatever spandrel can load (extra ``spandrel``)
    printed:QGAC                    the DAGN paper's figures, for what cannot be run
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import cast, get_args

import numpy as np
import PIL

from unjpeg.errors import MeasurementError, SettingError
from unjpeg.evaluate.method import Complexity, Method
from unjpeg.evaluate.pairs import Pixels8, decode
from unjpeg.evaluate.printed import TABLE_1
from unjpeg.evaluate.processes import run_whole
from unjpeg.modelfile import model_names
from unjpeg.picture import read_picture
from unjpeg.restorer import ConsistencyPolicy, Restorer
from unjpeg.runtimes import Precision
from unjpeg.tiling import WHOLE_ENSEMBLE, guide_windows
from unjpeg.version import source_hash

__all__ = [
    "PROGRAMS",
    "Command",
    "Decoder",
    "Printed",
    "UnjpegModel",
    "find_installed_methods",
    "find_method",
    "guess_suffix",
]

COMMAND_SECONDS = 900
"""A program that takes longer for one picture has failed."""

PROGRAMS = {
    "jpeg-quantsmooth": "jpegqs --quality 6 --info 0 {input} {output.jpg}",
    "jpeg2png": "jpeg2png --quiet --force --output {output.png} {input}",
    "knusperli": "knusperli {input} {output.png}",
    "djpegli": "djpegli {input} {output.png}",
}
"""Programs that take artifacts out of JPEGs, or decode them better, by the name that tables give them."""

RESTORING = (
    *(
        "av1",
        "belief",
        "cleanness",
        "dct",
        "depth",
        "finishing",
        "heif",
        "isobmff",
        "history",
        "inks",
        "jpeg",
        "layers",
        "machine",
    ),
    *("modelfile", "network", "othercodecs", "parallel", "picture", "pngfile", "precision", "projection"),
    *("recovery", "restorer", "runtimes", "runtimes.graph", "runtimes.openvino", "runtimes.rewrite"),
    *("segments", "tables", "tiling", "upsampling", "vp8", "xyb"),
)
"""Modules of this package that decide what pixels a model's restoration has."""

_OUTPUT = re.compile(r"\{output(\.[a-z0-9]+)?\}")

_PLAIN_WORD = re.compile(r"[\w./+-]+")


class Decoder(Method):
    """The file as decoded: what every gain is counted from."""

    def __init__(self) -> None:
        self.name = self.spec = "jpeg"
        self.identity = f"Pillow {PIL.__version__}"

    def restore(self, file: bytes) -> Pixels8:
        return decode(file)


class UnjpegModel(Method):
    """One of our models, through ``Restorer.restore``, as a user's file would go.

    Its identity holds the model's hash and a hash over the source of ``RESTORING``, so that what an older version of
    this program has measured is never taken for this one's; and OpenVINO's version.

    Args:
        model: a shipped model's name or a model file's path.
        policy: of consistency.
        precision: as ``Restorer``.
        tta: self-ensemble.

    Raises:
        ModelError: there is no such model, or it does not run at that precision.
    """

    def __init__(
        self,
        model: str | Path,
        policy: ConsistencyPolicy = "auto",
        *,
        precision: Precision = "auto",
        tta: bool = False,
    ) -> None:
        self._restorer = Restorer(model, precision=precision)
        self._policy: ConsistencyPolicy = policy
        self._tta = tta
        options = [option for option in (policy, precision) if option != "auto"] + ["tta"] * tta
        suffix = "".join(f"@{option}" for option in options)
        self.name = f"{self._restorer.model_file.description.name}{suffix}"
        self.spec = f"{model}{suffix}"
        how = f"{policy} {self._restorer.load(measure=True)}{' tta' if tta else ''}"
        code = f"{source_hash(*RESTORING)} OpenVINO {importlib.metadata.version('openvino')}"
        self.identity = f"{self._restorer.model_file.hash} {code} {how}"

    def restore(self, file: bytes) -> Pixels8:
        pixels = self._restorer.restore(file, consistency=self._policy, tta=self._tta).pixels
        return pixels.astype(np.uint8, copy=False)

    def count_complexity(self) -> Complexity | None:
        try:
            from unjpeg.evaluate.complexity import SIDE, count_multiply_adds
            from unjpeg.models import DagnConfig
        except ModuleNotFoundError:
            return None
        file = self._restorer.model_file
        figures = count_multiply_adds(DagnConfig(**file.description.network))
        passes = WHOLE_ENSEMBLE if self._tta else file.description.passes
        restoring = figures["restoring_multiply_adds_g"]
        side = file.description.guide_window
        most = file.description.guide_windows
        windows = sum(1 for _ in guide_windows(np.zeros((SIDE, SIDE, 3), np.uint8), side, most))
        # Counted for guidance from all of the picture.
        guiding = (figures["multiply_adds_g"] - restoring) * windows * (side / SIDE) ** 2
        return Complexity(figures["parameters_m"], passes * restoring + guiding)


class Command(Method):
    """A program that reads one file and writes another.

    Its identity holds the command and a hash over every file that the command names: programs on the PATH, scripts,
    weights.

    Args:
        name: in tables.
        command: for the shell, with ``{input}`` and ``{output}`` or ``{output.SUFFIX}`` where the paths go.

    Attributes:
        suffix: of the file that it writes.

    Raises:
        SettingError: it does not say where its input and output go.
        MeasurementError: its program is not installed.
    """

    def __init__(self, name: str, command: str) -> None:
        found = _OUTPUT.findall(command)
        if "{input}" not in command or len(found) != 1:
            raise SettingError(f"{name}: a command needs {{input}} and one {{output}} or {{output.SUFFIX}}")
        self.name, self.spec = name, f"{name}={command}"
        self._command, self.suffix = command, found[0] or ".png"
        try:
            words = _split_words(command)
        except ValueError as error:
            raise SettingError(f"{name}: the shell would not understand its quotes ({error})") from error
        # Of anything but a plain word (an assignment, a parenthesis) only the shell knows what it will start.
        if words and _PLAIN_WORD.fullmatch(words[0]) and not _is_known_to_the_shell(words[0]):
            raise MeasurementError(f"{name}: not installed ({words[0]} is not on the PATH)")
        # Another version of the program is another method.
        self.identity = f"{command} {_hash_files(words)}"

    def restore(self, file: bytes) -> Pixels8:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, f"in{guess_suffix(file)}"), Path(folder, f"out{self.suffix}")
            source.write_bytes(file)
            self._run(self.fill_in(source, target))
            if not target.is_file():
                raise MeasurementError(f"{self.name}: wrote no {target.name}")
            return read_picture(target.read_bytes()).pixels

    def fill_in(self, source: Path, target: Path) -> str:
        """For the shell. ``target`` should end in ``suffix``."""
        line = _OUTPUT.sub(lambda _: shlex.quote(str(target)), self._command)
        return line.replace("{input}", shlex.quote(str(source)))

    def _run(self, line: str) -> None:
        try:
            ran = run_whole(["/bin/sh", "-c", line], seconds=COMMAND_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise MeasurementError(f"{self.name}: took more than {COMMAND_SECONDS} seconds") from error
        if ran.returncode:
            last = ran.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise MeasurementError(f"{self.name}: failed with code {ran.returncode} {' '.join(last)}".rstrip())


class Printed(Method):
    """A row of the DAGN paper's Table I: it can be shown beside others, and not be run.

    Raises SettingError, if the paper prints no such row.
    """

    def __init__(self, name: str) -> None:
        if name not in TABLE_1:
            raise SettingError(f"printed:{name}: the paper prints {', '.join(TABLE_1)}")
        self.row = name
        self.name = f"{name}, as printed"
        self.spec = f"printed:{name}"
        self.identity = "DAGN, Table I"

    def restore(self, file: bytes) -> Pixels8:  # noqa: ARG002
        raise MeasurementError(f"{self.name}: cannot be run")


def find_method(spec: str) -> Method:
    """What the command line names, as described above.

    Raises:
        SettingError: nothing is called that.
        MeasurementError: it needs a program or an extra that is not installed.
        ModelError: a model file cannot be used.
    """
    if spec == "jpeg":
        return Decoder()
    if spec.startswith("printed:"):
        return Printed(spec.removeprefix("printed:"))
    if "{input}" in spec or "{output" in spec:
        name, separator, command = spec.partition("=")
        if not separator:
            raise SettingError(f"{spec}: give the command a name: NAME=COMMAND")
        return Command(name, command)
    if spec in PROGRAMS:
        return Command(spec, PROGRAMS[spec])
    if spec.endswith((".safetensors", ".pth", ".pt", ".ckpt")):
        return _load_network(Path(spec))
    kinds = {"tta": ("tta",), "policy": get_args(ConsistencyPolicy), "precision": get_args(Precision)}
    model, options = spec, dict[str, str]()
    while True:
        before, separator, option = model.rpartition("@")
        kind = next((kind for kind, known in kinds.items() if option in known), None)
        if not separator or kind is None:
            break
        if kind in options:
            raise SettingError(f"{spec}: {option} and {options[kind]} do not go together")
        model, options[kind] = before, option
    if model not in model_names() and not Path(model).is_file():
        known = ", ".join(["jpeg", *model_names(), *PROGRAMS])
        raise SettingError(f"no method {spec!r}; there are {known}, files of networks, and NAME=COMMAND")
    policy = cast(ConsistencyPolicy, options.get("policy", "auto"))
    precision = cast(Precision, options.get("precision", "auto"))
    return UnjpegModel(model, policy, precision=precision, tta="tta" in options)


def find_installed_methods(specs: Iterable[str]) -> tuple[list[Method], list[str]]:
    """The methods that can be run, each once, and why the others cannot.

    Raises SettingError or ModelError as ``find_method`` does.
    """
    found, missing = [], []
    for spec in dict.fromkeys(specs):
        try:
            found.append(find_method(spec))
        except MeasurementError as error:
            missing.append(str(error))
    return found, missing


def guess_suffix(file: bytes) -> str:
    """What a compressed picture's name should end in, by its content."""
    if file[:2] == b"\xff\xd8":
        return ".jpg"
    return ".webp" if file[8:12] == b"WEBP" else ".avif" if file[4:8] == b"ftyp" else ".png"


def _split_words(command: str) -> list[str]:
    """A command's words, what joins commands (``&&``, ``|``, ``(``) apart. Raises ValueError for open quotes."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    return list(lexer)


def _is_known_to_the_shell(word: str) -> bool:
    """Whether it is a program, or a word of the shell's own (``cd``, ``if``)."""
    if shutil.which(word) is not None:
        return True
    return run_whole(["/bin/sh", "-c", 'command -v "$1"', "sh", word]).returncode == 0


def _hash_files(words: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for word in words:
        for name in dict.fromkeys((word, word.partition("=")[2])):  # also of --weights=FILE
            found = name if Path(name).is_file() else shutil.which(name) if name else None
            if found is not None:
                with open(found, "rb") as file:
                    digest.update(f"{name}\n".encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _load_network(path: Path) -> Method:
    try:
        from unjpeg.evaluate import networks
    except ModuleNotFoundError as error:
        raise MeasurementError(f"{path}: needs {error.name}: pip install 'unjpeg[train]'") from error
    if not path.is_file():
        raise SettingError(f"{path}: no such file")
    network: Method = networks.load_network(path)
    return network
