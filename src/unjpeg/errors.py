"""The one exception tree. Every message names the file, what is wrong and, where there is something, what to do."""

from __future__ import annotations

__all__ = [
    "BadImageError",
    "BusyError",
    "ClusterError",
    "ExistsError",
    "MeasurementError",
    "ModelError",
    "OtherTrainingError",
    "OutputError",
    "PictureGoneError",
    "SettingError",
    "TimeLimitError",
    "TooLargeError",
    "TrainingDataError",
    "TrainingError",
    "UnjpegError",
    "UnsupportedImageError",
]


class UnjpegError(Exception):
    """Base of everything that unjpeg raises on purpose."""


class BadImageError(UnjpegError):
    """The input is missing, unreadable, truncated, corrupt, or no picture at all.

    Attributes:
        salvageable: what ``salvage=True`` would restore of it ("97 of its 120 rows"); None where nothing decodes.
    """

    salvageable: str | None = None


class UnsupportedImageError(BadImageError):
    """A valid picture of a kind that cannot be restored (12-bit or lossless JPEG, for instance)."""


class TooLargeError(BadImageError):
    """The header promises more pixels than the limit allows."""


class OutputError(UnjpegError):
    """The result cannot be written there."""


class ExistsError(OutputError):
    """There is a file already where the result would go, and nobody asked for it to be replaced."""


class ModelError(UnjpegError):
    """A model file is missing, damaged, of another version, or cannot run on the device asked for."""


class ClusterError(UnjpegError):
    """A cluster or a store cannot be reached, has no room for a worker, or gave up. What is done is done."""


class MeasurementError(UnjpegError):
    """A benchmark cannot run: a program or an extra is missing, or what it made cannot be compared."""


class TrainingError(UnjpegError):
    """A training cannot start or go on."""


class SettingError(TrainingError):
    """There is no such recipe, data set, setting or device, or no such value of it: wrong usage, exit code 2."""


class OtherTrainingError(TrainingError):
    """A folder of checkpoints belongs to a training of another configuration, or on other pictures."""


class TrainingDataError(TrainingError):
    """A folder of training or test images is missing, empty or unreadable."""


class BusyError(UnjpegError):
    """The server has more to do than it may queue, or could not start in time. Try again later."""


class TimeLimitError(UnjpegError):
    """A request to the server took longer than it may."""


class PictureGoneError(UnjpegError):
    """The server holds no such picture (any more). Send it again."""
