"""How a whole batch is restored: model, engine, options and output."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

from unjpeg.jpeg import DEFAULT_LIMITS, Limits
from unjpeg.modelfile import ModelFile
from unjpeg.output import FORMATS, list_without_place
from unjpeg.precision import Choice, choose_precision
from unjpeg.restorer import DEFAULTS, Options, Report, Restoration, Restorer
from unjpeg.runtimes import Precision, Runtime, choose_engine
from unjpeg.version import __version__

__all__ = ["Settings", "fit_options"]


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
        output_quality, strip, overwrite: as ``Restoration.save``.
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

    @property
    def fingerprint(self) -> str:
        """Equal when a picture would come out the same but for rounding: options, weights and version.

        Raises:
            ModelError: the model is not there, or does not run as these settings say.
        """
        model = ModelFile.read(self.model)
        named = "auto" if isinstance(self.precision, Choice) else self.precision
        choose_engine(model, self.runtime, self.device, named)
        relevant = asdict(self.options) | {"output_quality": self.output_quality, "strip": self.strip}
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
        work.save(
            target,
            format=format,
            quality=self.output_quality,
            overwrite=overwrite,
            strip=self.strip,
            about_to_place=about_to_place,
        )
        report = work.report
        if self.strip:
            turned = work.metadata.orientation >= 5  # a quarter turn
            return replace(report, width=report.height, height=report.width) if turned else report
        lost = list_without_place(work.metadata, format, work.channels)
        if not lost:
            return report
        return replace(report, notes=(*report.notes, f"{format} has no place for {' and '.join(lost)}: lost"))
