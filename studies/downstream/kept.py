"""What a method has made of each file, kept on the disk: tasks share it, and a stopped measurement goes on with it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from unjpeg.errors import BadImageError
from unjpeg.evaluate.method import Complexity, Method
from unjpeg.evaluate.pairs import Pixels8, load_image
from unjpeg.files import place_file

__all__ = ["KeptMethod"]


class KeptMethod(Method):
    """A method whose results are PNG files in a folder, by the hash of the method's identity and the file.

    Args:
        method: what restores.
        folder: of the results; made where it lacks.
    """

    def __init__(self, method: Method, folder: Path) -> None:
        self.name, self.spec, self.identity = method.name, method.spec, method.identity
        self._method, self._folder = method, folder

    def restore(self, file: bytes) -> Pixels8:
        key = hashlib.sha256(f"{self.identity}\n".encode() + file).hexdigest()[:32]
        path = self._folder / f"{key}.png"
        if path.is_file():
            try:
                return load_image(path)
            except BadImageError:  # a full disk's, or another program's: made anew
                path.unlink()
        pixels = self._method.restore(file)
        self._folder.mkdir(parents=True, exist_ok=True)
        with place_file(path, overwrite=True) as placed:
            Image.fromarray(np.ascontiguousarray(pixels)).save(placed, "PNG", compress_level=1)
        return pixels

    def count_complexity(self) -> Complexity | None:
        return self._method.count_complexity()
