"""What the lines of ``JOURNAL`` files say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

__all__ = ["JOURNAL", "JournalEntry", "read_entries"]

JOURNAL = ".unjpeg-journal.jsonl"
"""One line per finished picture, in the folder that a batch is mirrored to."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """What a journal says of one output.

    Attributes:
        begun: a result was about to be put there; that it is there was not written down any more.
        source, output: SHA-256 of both files' content once the output is there; None before.
        settings: ``Settings.fingerprint`` of how it was made.
    """

    begun: bool = False
    source: str | None = None
    output: str | None = None
    settings: str | None = None

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> JournalEntry:
        """From a journal's line, which may say anything."""
        known = (facts.get(name) for name in ("source", "output", "settings"))
        return cls(facts.get("begun") is True, *(value if isinstance(value, str) else None for value in known))

    def is_made_from(self, source: str, settings: str) -> bool:
        """Whether the output was made from this content in this way; whether it still is there is another matter."""
        return self.output is not None and self.source == source and self.settings == settings

    def facts(self) -> dict[str, Any]:
        """What ``of`` reads, and nothing else."""
        if self.begun:
            return {"begun": True}
        return {} if self.output is None else {"source": self.source, "output": self.output, "settings": self.settings}


def read_entries(journal: Path) -> dict[str, JournalEntry]:
    """What the journal says of each output; begun if any batch has begun it and not said how that ended."""
    entries: dict[str, JournalEntry] = {}
    open_by: dict[str, set[str]] = {}
    try:
        lines = journal.read_bytes().splitlines()
    except OSError:
        return entries
    for line in lines:
        try:
            facts = json.loads(line)
            name, writers = facts["name"], open_by.setdefault(facts["name"], set())
            entry = JournalEntry.of(facts)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue
        writers.discard(str(facts.get("ended")))
        if "begun" in facts:
            writers.add(str(facts["begun"]))
        if entry.output is not None:
            writers.clear()  # whatever was there before, now it is this
        if entry.output is not None or name not in entries:
            entries[name] = entry
    return {name: replace(entry, begun=bool(open_by[name])) for name, entry in entries.items()}
