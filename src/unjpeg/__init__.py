"""Take compression artifacts out of JPEG images.

>>> import unjpeg
>>> restored = unjpeg.restore("photo.jpg")
>>> restored.save("photo.png")
"""

import importlib
import sys
import types
import typing

from unjpeg.errors import (
    BadImageError,
    BusyError,
    ClusterError,
    MeasurementError,
    ModelError,
    OtherTrainingError,
    OutputError,
    PictureGoneError,
    SettingError,
    TimeLimitError,
    TooLargeError,
    TrainingDataError,
    TrainingError,
    UnjpegError,
    UnsupportedImageError,
)
from unjpeg.version import __version__

if typing.TYPE_CHECKING:
    from unjpeg.inspection import Inspection, Verification, inspect, verify
    from unjpeg.jpeg import Limits
    from unjpeg.restore import Report, Restoration, Restored, Restorer, restore

__all__ = [
    "BadImageError",
    "BusyError",
    "ClusterError",
    "Inspection",
    "Limits",
    "MeasurementError",
    "ModelError",
    "OtherTrainingError",
    "OutputError",
    "PictureGoneError",
    "Report",
    "Restoration",
    "Restored",
    "Restorer",
    "SettingError",
    "TimeLimitError",
    "TooLargeError",
    "TrainingDataError",
    "TrainingError",
    "UnjpegError",
    "UnsupportedImageError",
    "Verification",
    "__version__",
    "inspect",
    "restore",
    "verify",
]

# What works on pictures is imported when it is first used: numpy and the decoders are most of the command's start.
_HOMES = {
    "Inspection": "inspection",
    "Limits": "jpeg",
    "Report": "restore",
    "Restoration": "restore",
    "Restored": "restore",
    "Restorer": "restore",
    "Verification": "inspection",
    "inspect": "inspection",
    "restore": "restore",
    "verify": "inspection",
}


class _Package(types.ModuleType):
    """This module's type: it can find names later, and keep one from being taken."""

    def __getattr__(self, name: str) -> typing.Any:
        if name not in _HOMES:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{self.__name__}.{_HOMES[name]}"), name)
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: typing.Any) -> None:
        # The import of the module unjpeg.restore would put it where the function of that name is.
        if not (name in _HOMES and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_HOMES})


sys.modules[__name__].__class__ = _Package
