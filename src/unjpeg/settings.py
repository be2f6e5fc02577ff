"""How a whole batch is restored: model, engine, options and output."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

from unjpeg.jpeg import DEFAULT_LIMITS, Limits
from unjpeg.modelfile import ModelFile
from unjpeg.output import FORMATS, without_place
from unjpeg.picture import Source
from unjpeg.restorer import ConsistencyPolicy, Report, Restoration, Restorer
from unjpeg.runtimes import Precision, Runtime, choose_engine
from unjpeg.version import __version__

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How to restore: as ``Restorer``, ``Restorer.begin`` and ``Restoration.save`` take it."""

    model: str = "default"
    runtime: Runtime | None = None
    device: str = "cpu"
    precision: Precision = "auto"
    strength: float = 1.0
    quality: int | None = None
    consistency: ConsistencyPolicy = "auto"
    bit_depth: Literal[8, 16] | None = None
    output_quality: int | None = None
    salvage: bool = False
    tta: bool = False
    strip: bool = False
    limits: Limits = DEFAULT_LIMITS
    overwrite: bool = False
    keep_times: bool = False

    @property
    def fingerprint(self) -> str:
        """Equal when a picture would come out the same but for rounding: options, weights and version.

        Raises:
            ModelError: the model is not there, or does not run as these settings say.
        """
        model = ModelFile.read(self.model)
        choose_engine(model, self.runtime, self.device, self.precision)
        relevant = asdict(self) | {"model": model.hash, "version": __version__}
        for elsewhere in ("overwrite", "keep_times", "device", "runtime", "precision", "limits"):
            del relevant[elsewhere]
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]

    def begin(
        self,
        restorer: Restorer,
        source: Source,
        progress: Callable[[float], None] | None = None,
        *,
        format: str = "png",
    ) -> Restoration:
        """``Restorer.begin`` as these settings say, for a file of that format; the same errors."""
        only_8 = 16 not in FORMATS[format].bit_depths
        return restorer.begin(
            source,
            strength=self.strength,
            quality=self.quality,
            consistency=self.consistency,
            bit_depth=8 if self.bit_depth is None and only_8 else self.bit_depth,
            salvage=self.salvage,
            tta=self.tta,
            progress=progress,
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
        lost = without_place(work.metadata, format, work.channels)
        if not lost:
            return report
        return replace(report, notes=(*report.notes, f"{format} has no place for {' and '.join(lost)}: lost"))
