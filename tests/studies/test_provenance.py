"""Every result file says which commit measured it, and the commit can be looked up."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

NOT_MEASURED_AGAIN = {
    "ablation-modules-small-textbook",
    "carn-small-convolved-table1",
    "carn-small-convolved-tenfold-lambda-1-table1",
    "carn-small-lambda-0-table1",
    "carn-small-probe",
    "carn-small-table1",
    "cost",
    "downstream-detection",
    "faults",
    "fuzz",
    "learning-curves",
    "memory",
}
"""Of a changed or unknown source: the laboratory's first page says why each is kept."""


def find_commits(value: Any) -> Iterator[Any]:
    """Whatever is called a commit, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "commit":
                yield inner
            else:
                yield from find_commits(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from find_commits(inner)


def is_clean(record: Any) -> bool:
    commits = list(find_commits(record))
    return bool(commits) and all(isinstance(one, str) and re.fullmatch("[0-9a-f]{12}", one) for one in commits)


def test_what_is_no_commit_is_noticed() -> None:
    clean = {"commit": "0123456789ab", "rows": [{"commit": "ba9876543210"}]}
    assert is_clean(clean)
    assert not is_clean({"rows": []})
    assert not is_clean(clean | {"commit": "0123456789ab-dirty"})
    assert not is_clean(clean | {"rows": [{"commit": None}]})


def test_results_name_their_commits() -> None:
    records = {file.stem: json.loads(file.read_text()) for file in (ROOT / "results").glob("*.json")}
    # A file that was measured again must leave the list.
    assert {name for name, record in records.items() if not is_clean(record)} == NOT_MEASURED_AGAIN


def test_the_exceptions_are_told() -> None:
    page = (ROOT / "docs/research/README.md").read_text(encoding="utf-8")
    told = page.split("## Figures of an unknown commit")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `([^`]+)` \|", told, re.MULTILINE)) == NOT_MEASURED_AGAIN


def test_commits_are_of_this_history() -> None:
    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)

    if not (ROOT / ".git").exists() or ask("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("the whole history is not at hand")
    commits = {
        one.removesuffix("-dirty")
        for file in (ROOT / "results").glob("*.json")
        for one in find_commits(json.loads(file.read_text()))
        if one is not None
    }
    known = {line[:12] for line in ask("rev-list", "HEAD").stdout.split()}
    assert commits
    assert commits <= known
