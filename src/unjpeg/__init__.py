"""Take compression artifacts out of JPEG images.

>>> import unjpeg
>>> restored = unjpeg.restore("photo.jpg")
>>> restored.save("photo.png")
"""

from unjpeg.errors import (
    BadImageError,
    BusyError,
    MeasurementError,
    ModelError,
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
from unjpeg.inspection import Inspection, Verification, inspect, verify
from unjpeg.jpeg import Limits
from unjpeg.restore import Report, Restoration, Restored, Restorer, restore
from unjpeg.version import __version__

__all__ = [
    "BadImageError",
    "BusyError",
    "Inspection",
    "Limits",
    "MeasurementError",
    "ModelError",
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
