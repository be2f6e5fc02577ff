"""The model file (``.unjpeg``): a zip archive of graphs, what they are, and how far they are to be trusted.

It holds ``model.json``, ``guide.onnx``, ``restore.onnx``, ``quality_features.npy`` and, where they were made,
``calibration.npy`` and ``restore-int8.onnx``. A folder ``strong`` has weights of their own for strong compression, if
the model has such: all that differs. The graphs are checked against the hashes in ``model.json`` before a runtime sees
them.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import io
import json
import os
import textwrap
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unjpeg.errors import ModelError
from unjpeg.files import put_in_place
from unjpeg.projection import Calibration

__all__ = [
    "FORMAT_VERSION",
    "MAX_GUIDE_WINDOWS",
    "SELF_ENSEMBLES",
    "SUFFIX",
    "Description",
    "ModelFile",
    "model_names",
    "shipped_models",
    "shorten_reason",
]

FORMAT_VERSION = 1
SUFFIX = ".unjpeg"

# What zipfile, json and numpy raise over damaged files; RuntimeError is an archive that claims to be encrypted.
_UNREADABLE = (
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
)

_GRAPHS: Final = {"guide": "guide.onnx", "restore": "restore.onnx", "restore_int8": "restore-int8.onnx"}
"""Members of the archive, by the names of ``ModelFile``'s attributes."""

_FEATURES: Final = "quality_features.npy"

_STRONG: Final = "strong/"
"""Where in the archive the weights for strong compression lie."""

SELF_ENSEMBLES: Final[Mapping[str, tuple[str, int]]] = {"best": ("default", 4)}
"""Names under which shipped models are always run as a self-ensemble: the model, and the passes."""

MAX_GUIDE_WINDOWS = 32
"""Windows that guidance is averaged over, unless the file says otherwise: all of a small picture, an even sample of a
large one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What ``model.json`` says.

    Attributes:
        sha256: of each graph.
        network: the fields of ``models.DagnConfig`` that it was made with; the others have their defaults.
        guide_window: side in pixels of the windows that ``guide`` takes.
        total_stride: sides of the tiles that ``restore`` takes are multiples of it.
        quality_levels: of ``ModelFile.quality_features``, ascending.
        training, validation: steps, configuration and pictures; figures on the validation pictures. For people.
        guide_windows: how many of a picture its guidance is averaged over, at most. Few, where the network is small:
            there they are much of the work.
        calibration_levels: qualities of ``ModelFile.calibration``, ascending.
        int8: how ``restore_int8`` was made, and what it costs. For people.
        passes: over how many flips (4), or flips and rotations (8), it always takes the mean; 1 is a plain model.
        strong_up_to: the highest quality whose pictures ``ModelFile.strong`` restores; 0 if there is no such.
    """

    format_version: int = FORMAT_VERSION
    name: str
    unjpeg_version: str = ""
    sha256: Mapping[str, str]
    network: Mapping[str, Any] = field(default_factory=dict)
    guide_window: int
    total_stride: int
    quality_levels: tuple[int, ...]
    training: Mapping[str, Any] = field(default_factory=dict)
    validation: Mapping[str, float] = field(default_factory=dict)
    guide_windows: int = MAX_GUIDE_WINDOWS
    calibration_levels: tuple[int, ...] = ()
    int8: Mapping[str, Any] | None = None
    passes: int = 1
    strong_up_to: int = 0

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Description:
        """From ``model.json``; what it has besides is left out. Raises LookupError, TypeError or ValueError."""
        absent = [
            key for key in ("name", "sha256", "guide_window", "total_stride", "quality_levels") if key not in facts
        ]
        if absent:
            raise LookupError(f"its description lacks {', '.join(absent)}")
        known = {key: facts[key] for key in cls.__dataclass_fields__ if facts.get(key) is not None}
        for key in ("quality_levels", "calibration_levels"):
            if key in known:
                known[key] = tuple(int(level) for level in known[key])
        for key in ("guide_window", "total_stride", "guide_windows", "passes", "strong_up_to"):
            if key in known:
                known[key] = int(known[key])
        return cls(**known)

    def facts(self) -> dict[str, Any]:
        """``model.json``. What says nothing is left out."""
        optional = {
            "guide_windows": MAX_GUIDE_WINDOWS,
            "calibration_levels": (),
            "int8": None,
            "passes": 1,
            "strong_up_to": 0,
        }
        return {key: value for key, value in asdict(self).items() if key not in optional or value != optional[key]}


@dataclass(frozen=True)
class ModelFile:
    """A model file's contents, not yet loaded into a runtime.

    Attributes:
        description: ``model.json``.
        guide, restore: the two ONNX graphs, serialised.
        quality_features: mean sensitive features of the validation pictures compressed at each of
            ``description.quality_levels``, ``(levels, C)``.
        calibration: how far its work is to be trusted, if that was measured; its qualities are
            ``description.calibration_levels``.
        restore_int8: ``restore`` once more, most of its convolutions in 8-bit integers, if that was made.
        strong: the same network with weights of its own for strong compression, if there are such; see
            ``for_quality``. Guide and mean features are the same.
    """

    description: Description
    guide: bytes
    restore: bytes
    quality_features: NDArray[np.float32]
    calibration: Calibration | None = None
    restore_int8: bytes | None = None
    strong: ModelFile | None = None

    @classmethod
    def read(cls, name_or_path: str | os.PathLike[str]) -> ModelFile:
        """Open a shipped model by name, or any model file by path.

        Raises:
            ModelError: it does not exist, is damaged, or was made for another version of this program.
        """
        name = os.fspath(name_or_path)
        shipped, passes = SELF_ENSEMBLES.get(name, (name, 1))
        source = shipped_models().get(shipped, Path(name))
        if not os.path.isfile(source):  # Path.is_file raises for names that are too long
            known, near = ", ".join(model_names()), get_close_matches(name, model_names(), 1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise ModelError(f"{name}: no such model{meant}; shipped are: {known}; or give the path of a {SUFFIX} file")
        try:
            with zipfile.ZipFile(io.BytesIO(source.read_bytes())) as archive:
                file = _read_members(archive, name)
                up_to = file.description.strong_up_to
                if up_to:
                    strong = _read_members(archive, name, beside=file)
                    try:
                        file = file.with_strong(strong, up_to)
                    except ModelError as error:
                        raise ValueError(f"its part {_STRONG} {error}") from error
        except _UNREADABLE as error:
            raise ModelError(f"{name}: is not a readable model file ({shorten_reason(error)})") from error
        return replace(file, description=replace(file.description, name=name, passes=passes)) if passes > 1 else file

    def write(self, path: Path) -> None:
        """Write the archive, whole or not at all; equal contents give equal bytes. Raises OutputError."""
        members = self._members()
        if self.strong:
            same = (_GRAPHS["guide"], _FEATURES)
            members |= {f"{_STRONG}{name}": data for name, data in self.strong._members().items() if name not in same}
        archive_bytes = io.BytesIO()
        with zipfile.ZipFile(archive_bytes, "w", zipfile.ZIP_STORED) as archive:
            for name, data in members.items():
                archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
        put_in_place(path, archive_bytes.getvalue(), overwrite=True)

    def _members(self) -> dict[str, bytes]:
        description = self.description if self.strong else replace(self.description, strong_up_to=0)
        features = io.BytesIO()
        np.save(features, self.quality_features.astype(np.float16), allow_pickle=False)
        members = {
            "model.json": json.dumps(description.facts(), indent=2).encode(),
            _GRAPHS["guide"]: self.guide,
            _GRAPHS["restore"]: self.restore,
            _FEATURES: features.getvalue(),
        }
        if self.calibration:
            shares = io.BytesIO()
            np.save(shares, self.calibration.shares_L22288.astype(np.float16), allow_pickle=False)
            members["calibration.npy"] = shares.getvalue()
        if self.restore_int8 is not None:
            members[_GRAPHS["restore_int8"]] = self.restore_int8
        return members

    @property
    def graphs(self) -> dict[str, bytes]:
        """Those that there are, by their names in ``description.sha256``."""
        return {part: data for part in _GRAPHS if (data := getattr(self, part)) is not None}

    @property
    def hash(self) -> str:
        """Identifies what it computes: a hash over the graphs, the calibration, and whether it is a self-ensemble."""
        return self._identify(self.description.passes)

    @property
    def network_hash(self) -> str:
        """The same for a model and its self-ensembles, which run one network."""
        return self._identify(1)

    def _identify(self, passes: int) -> str:
        parts = self.description.sha256
        digest = hashlib.sha256("".join(parts[part] for part in _GRAPHS if part in parts).encode())
        if self.calibration:
            digest.update(self.calibration.shares_L22288.astype(np.float16).tobytes())
        if self.strong:
            digest.update(f"up to {self.description.strong_up_to}: {self.strong.hash}".encode())
        if passes > 1:
            digest.update(f"self-ensemble of {passes}".encode())
        return digest.hexdigest()[:16]

    def without_graphs(self) -> ModelFile:
        """All but the bytes that a runtime has compiled, which may be hundreds of megabytes.

        The weights for strong compression keep theirs, since they are compiled when they are first needed.
        """
        strong = replace(self.strong, guide=b"") if self.strong else None
        return replace(self, guide=b"", restore=b"", restore_int8=None, strong=strong)

    def with_strong(self, strong: ModelFile, up_to: int) -> ModelFile:
        """The same with weights of their own for pictures of this quality and below.

        Raises:
            ModelError: they are of another network, or have another guide, or not the same graphs and calibration.
            ValueError: the quality is not in 1..99.
        """
        if not 1 <= up_to <= 99:
            raise ValueError(f"a quality in 1..99 leaves pictures to both sets of weights, got {up_to}")
        ours, theirs = self.description, strong.description
        known = ours.network.keys() & theirs.network.keys()  # older files do not name what has its default
        for part, same in {
            "network": all(ours.network[name] == theirs.network[name] for name in known),
            "guide": ours.sha256["guide"] == theirs.sha256["guide"],
            "number of windows": ours.guide_windows == theirs.guide_windows,
            "stride": ours.total_stride == theirs.total_stride,
            "choice of graphs": set(self.graphs) == set(strong.graphs),
            "kind of calibration": (self.calibration is None) == (strong.calibration is None),
        }.items():
            if not same:
                raise ModelError(f"has another {part} than the model that it is to be a part of")
        described = replace(theirs, name=ours.name, quality_levels=ours.quality_levels, strong_up_to=0)
        strong = replace(strong, description=described, quality_features=self.quality_features, strong=None)
        return replace(self, description=replace(ours, strong_up_to=up_to), strong=strong)

    def of_each_set(self, change: Callable[[ModelFile], ModelFile]) -> ModelFile:
        """What ``change`` makes of it; where there are two sets of weights, of each alone, put together again."""
        if self.strong is None:
            return change(self)
        up_to = self.description.strong_up_to
        alone = replace(self, strong=None, description=replace(self.description, strong_up_to=0))
        return change(alone).with_strong(change(self.strong), up_to)

    def without_integers(self) -> ModelFile:
        """The same without its int8 graph."""

        def change(file: ModelFile) -> ModelFile:
            hashes = {part: value for part, value in file.description.sha256.items() if part != "restore_int8"}
            return replace(file, restore_int8=None, description=replace(file.description, sha256=hashes, int8=None))

        return self.of_each_set(change)

    def for_quality(self, quality: int) -> ModelFile:
        """The weights that restore pictures of a quality: these, or ``strong``."""
        return self.strong if self.strong and quality <= self.description.strong_up_to else self

    def calibrated(self, calibration: Calibration) -> ModelFile:
        """The same with another calibration."""
        description = replace(self.description, calibration_levels=calibration.qualities)
        return replace(self, description=description, calibration=calibration)


def _read_members(archive: zipfile.ZipFile, name: str, beside: ModelFile | None = None) -> ModelFile:
    """A model, or the weights for strong compression beside one.

    Raises what is in ``_UNREADABLE``, and ModelError if it is of another version or a graph has another hash.
    """
    folder = _STRONG if beside else ""
    facts = json.loads(archive.read(f"{folder}model.json"))
    version = facts["format_version"]
    if version != FORMAT_VERSION:
        raise ModelError(f"{name}: has format {version}, this version of unjpeg reads format {FORMAT_VERSION}")
    description = Description.of(facts)
    if beside:
        guide, features = beside.guide, beside.quality_features
    else:
        guide = archive.read(_GRAPHS["guide"])
        features = np.load(io.BytesIO(archive.read(_FEATURES)), allow_pickle=False).astype(np.float32)
    is_rounded = f"{folder}{_GRAPHS['restore_int8']}" in archive.namelist()
    file = ModelFile(
        description,
        guide,
        archive.read(f"{folder}{_GRAPHS['restore']}"),
        features,
        _read_calibration(archive, folder, description.calibration_levels),
        archive.read(f"{folder}{_GRAPHS['restore_int8']}") if is_rounded else None,
    )
    for part, data in file.graphs.items():
        if hashlib.sha256(data).hexdigest() != description.sha256[part]:
            raise ModelError(f"{name}: is damaged (the graph {part!r} does not match its hash)")
    return file


def _read_calibration(archive: zipfile.ZipFile, folder: str, levels: tuple[int, ...]) -> Calibration | None:
    """Raises ValueError if it is not what it must be."""
    if f"{folder}calibration.npy" not in archive.namelist():
        return None
    shares = np.load(io.BytesIO(archive.read(f"{folder}calibration.npy")), allow_pickle=False)
    if shares.ndim == 5:  # of older files: one share for both halves of a cell
        shares = np.stack([shares, shares], axis=3)
    if shares.shape != (len(levels), 2, 2, 2, 8, 8) or len(levels) < 2 or not (np.diff(levels) > 0).all():
        raise ValueError("its calibration does not fit its levels")
    if not ((shares >= 0).all() and (shares.sum(axis=3) <= 2).all()):
        raise ValueError("its calibration leaves the cells")
    return Calibration(levels, shares.astype(np.float32))


def shorten_reason(error: Exception) -> str:
    """In one line of bearable length: some of these messages quote the file."""
    return textwrap.shorten(str(error), 200) or type(error).__name__


def shipped_models() -> dict[str, Path]:
    """Names and files of the models that come with the package."""
    folder = Path(str(importlib.resources.files("unjpeg"))) / "weights"
    return {file.stem: file for file in sorted(folder.glob(f"*{SUFFIX}"))}


def model_names() -> list[str]:
    """All that ``ModelFile.read`` takes beside paths: a file may have two names."""
    return sorted([*shipped_models(), *SELF_ENSEMBLES])
