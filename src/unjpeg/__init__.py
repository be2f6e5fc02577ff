"""Take compression artifacts out of JPEG images.

>>> import unjpeg
>>> restored = unjpeg.restore("photo.jpg")
>>> restored.save("photo.png")
"""

from unjpeg.errors import (
    BadImageError,
    BusyError,
    ClusterError,
    ExistsError,
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

TYPE_CHECKING = False  # importing typing, or importlib, would be most of what importing this costs
if TYPE_CHECKING:
    from unjpeg.inspection import Inspection, Verification, inspect, verify
    from unjpeg.jpeg import Limits
    from unjpeg.restorer import Options, Report, Restoration, Restored, Restorer, restore

del TYPE_CHECKING

__all__ = [
    "BadImageError",
    "BusyError",
    "ClusterError",
    "ExistsError",
    "Inspection",
    "Limits",
    "MeasurementError",
    "ModelError",
    "Options",
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
    "Options": "restorer",
    "Report": "restorer",
    "Restoration": "restorer",
    "Restored": "restorer",
    "Restorer": "restorer",
    "Verification": "inspection",
    "inspect": "inspection",
    "restore": "restorer",
    "verify": "inspection",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
