"""What a measurement has found so far, a line of JSON each: an interrupted one goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["Journal"]


class Journal:
    """A file of records that only grows; each is there whole, or not at all.

    Args:
        path: of the file; it and its folder are made where they lack.

    Attributes:
        found: the records of earlier runs, in order. A line that a kill has cut off is left out.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        self.found: list[Any] = []
        for line in text.splitlines():
            try:
                self.found.append(json.loads(line))
            except ValueError:
                continue
        self._file = path.open("a", encoding="utf-8")
        if text and not text.endswith("\n"):
            self._file.write("\n")

    def add(self, record: Any) -> None:
        """Write a record down, as far as the operating system at once."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
