"""The documentation says what the result files say."""

from __future__ import annotations

from pathlib import Path

import pytest

from unjpeg.evaluate.tables import DOCUMENTS, tables, with_tables

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tables_are_made_from_the_results(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    assert "<!-- table: " in text
    assert with_tables(text, tables(ROOT / "results")) == text


def test_a_changed_figure_is_noticed() -> None:
    made = tables(ROOT / "results")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    made["short"] = made["short"].replace("LIVE1", "LIVE2")
    assert with_tables(text, made) != text
