"""Take compression artifacts out of JPEG images.

>>> import unjpeg
>>> restored = unjpeg.restore("photo.jpg")
>>> restored.save("photo.png")
"""

from unjpeg.errors import (
    BadImageError,
    MeasurementError,
    ModelError,
    OutputError,
    SettingError,
    TooLargeError,
    TrainingDataError,
    TrainingError,
    UnjpegError,
    UnsupportedImageError,
)
from unjpeg.inspection import Inspection, Verification, inspect, verify
from unjpeg.restore import Report, Restored, Restorer, restore
from unjpeg.version import __version__

__all__ = [
    "BadImageError",
    "Inspection",
    "MeasurementError",
    "ModelError",
    "OutputError",
    "Report",
    "Restored",
    "Restorer",
    "SettingError",
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
