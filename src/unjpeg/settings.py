"""How a whole batch is restored: model, engine, options and output."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

from unjpeg.jpeg import DEFAULT_LIMITS, Limits
from unjpeg.modelfile import ModelFile
from unjpeg.output import FORMATS, list_without_place
from unjpeg.precision import Choice, choose_precision
from unjpeg.restorer import DEFAULTS, Options, Report, Restoration, Restorer
from unjpeg.runtimes import Precision, Runtime, choose_engine
from unjpeg.version import __version__

__all__ = ["Settings", "fit_options", "parse_size"]

_LATER_OPTIONS = ("detail", "dither")


_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "kib": 2**10, "mib": 2**20}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.ASCII)


def parse_size(text: str) -> int | Literal["input"]:
    """``Settings.output_size`` of what a person writes: "input", 200000, 300KB (a thousand each), 1.5MB, 300KiB.

    Raises:
        ValueError: it is no size, or less than one byte.
    """
    plain = text.strip().lower()
    if plain == "input":
        return "input"
    found = _SIZE.fullmatch(plain)
    size = int(float(found[1]) * _UNITS[found[2]]) if found and found[2] in _UNITS else 0
    if not 1 <= size < 2**40:
        raise ValueError(f"{text!r} is no size: write input, or bytes as in 200000, 300KB or 1.5MB")
    return size


def fit_options(options: Options, format: str) -> Options:
    """The options for a file of that format: without a bit depth, none deeper than it holds."""
    if options.bit_depth is None and 16 not in FORMATS[format].bit_depths:
        return replace(options, bit_depth=8)
    return options


@dataclass(frozen=True, slots=True)
class Settings:
    """How a batch is restored: as ``Restorer``, ``Restorer.begin`` and ``Restoration.save`` take it.

    Attributes:
        model, runtime, device, precision, limits: as ``Restorer``.
        options: how each picture is restored.
        output_quality, strip, overwrite, output_size, tag: as ``Restoration.save``.
        keep_times: give outputs their input's times.
    """

    model: str = "default"
    options: Options = DEFAULTS
    runtime: Runtime | None = None
    device: str = "cpu"
    precision: Precision | Choice = "auto"
    limits: Limits = DEFAULT_LIMITS
    output_quality: int | None = None
    strip: bool = False
    overwrite: bool = False
    keep_times: bool = False
    output_size: int | Literal["input"] | None = None
    tag: bool = False

    @property
    def fingerprint(self) -> str:
        """Equal when a picture would come out the same but for rounding: options, weights and version.

        Raises:
            ModelError: the model is not there, or does not run as these settings say.
        """
        model = ModelFile.read(self.model)
        named = "auto" if isinstance(self.precision, Choice) else self.precision
        choose_engine(model, self.runtime, self.device, named)
        options = asdict(self.options)
        for name in _LATER_OPTIONS:  # unset, they leave what older versions stored as it is
            if options[name] == getattr(DEFAULTS, name):
                del options[name]
        relevant = options | {"output_quality": self.output_quality, "strip": self.strip}
        relevant |= {} if self.output_size is None else {"output_size": self.output_size}
        relevant |= {"tag": True} if self.tag else {}
        relevant |= {"model": model.hash, "version": __version__}
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]

    def settled(self, *, measure: bool) -> Settings:
        """The same with ``auto`` decided, here and for all workers. Raises ModelError.

        Args:
            measure: if it was not done yet on this machine.
        """
        if self.precision != "auto":
            return self
        choice = choose_precision(ModelFile.read(self.model), self.runtime, self.device, measure=measure)
        return replace(self, precision=choice)

    def restorer(
        self, threads: int | None, *, limits: Limits | None = None, model: ModelFile | None = None
    ) -> Restorer:
        """One that works as these settings say, within other limits if such are given. Raises ModelError.

        Args:
            model: the model's file, where it has been read already.
        """
        return Restorer(
            model or self.model,
            runtime=self.runtime,
            device=self.device,
            threads=threads,
            precision=self.precision,
            limits=limits or self.limits,
        )

    def save(
        self,
        work: Restoration,
        target: Path | BinaryIO,
        format: str,
        *,
        overwrite: bool = False,
        about_to_place: Callable[[], None] | None = None,
    ) -> Report:
        """``Restoration.save`` as these settings say; the same errors. Returns what was done."""
        said = work.save(
            target,
            format=format,
            quality=self.output_quality,
            overwrite=overwrite,
            strip=self.strip,
            output_size=self.output_size,
            tag=self.tag,
            about_to_place=about_to_place,
        )
        report = work.report.as_written(format, self.output_quality)
        report = replace(report, notes=(*report.notes, *([said] if said else [])))
        if self.strip:
            turned = work.metadata.orientation >= 5  # a quarter turn
            return replace(report, width=report.height, height=report.width) if turned else report
        lost = list_without_place(work.metadata, format, work.channels, is_cmyk=work.is_cmyk)
        if not lost:
            return report
        return replace(report, notes=(*report.notes, f"{format} has no place for {' and '.join(lost)}: lost"))
