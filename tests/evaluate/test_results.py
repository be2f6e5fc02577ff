"""Result files: what is read is what was written, in less room."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unjpeg.errors import MeasurementError, OutputError
from unjpeg.evaluate.results import group, load_results, make_finite, put_results

BY = ("set", "method")

figures = st.none() | st.integers(0, 3) | st.sampled_from([1.0, 0.25, 30.123456])
rows = st.lists(
    st.fixed_dictionaries(
        {"set": st.sampled_from("ab"), "method": st.sampled_from("xyz"), "psnr_db": figures, "size_bytes": figures},
        optional={"share_inside": st.sampled_from([1.0, 0.5])},
    ),
    max_size=12,
)


@given(rows)
def test_rows_come_back_by_their_groups(tmp_path_factory: pytest.TempPathFactory, given_rows: list[Any]) -> None:
    path = tmp_path_factory.mktemp("results") / "results.json"
    numbered = [{**row, "image": f"{number}.png"} for number, row in enumerate(given_rows)]
    record: dict[str, Any] = {"unjpeg": "0.1.0", "rows": numbered}
    for _ in range(2):  # also of what was read
        put_results(path, record, BY)
        record = load_results(path)
        assert record["unjpeg"] == "0.1.0"
        assert sorted(record["rows"], key=lambda row: int(row["image"][:-4])) == numbered
        for of_one in group(record["rows"], BY).values():
            places = [record["rows"].index(row) for row in of_one]
            assert places == list(range(places[0], places[0] + len(places)))


def test_what_groups_share_is_stored_once(tmp_path: Path) -> None:
    def store(*methods: str) -> int:
        rows = [
            {"set": "mine", "method": method, "image": f"{n:050}.png", "consistent": 1.0, "psnr_db": 30.0 + n}
            for n in range(20)
            for method in methods
        ]
        put_results(tmp_path / "results.json", {"rows": rows}, BY)
        assert load_results(tmp_path / "results.json")["rows"][20:] == rows[1::2][: 20 * (len(methods) - 1)]
        return (tmp_path / "results.json").stat().st_size

    assert store("a", "b") < store("a") + 300


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    put_results(path, {"mean": math.inf, "rows": [{"psnr_db": math.nan, "pictures": (1, 2)}]})
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "mean": None,
        "rows": [{"psnr_db": None, "pictures": [1, 2]}],
    }
    assert make_finite({"a": [math.inf, 1.5, "x", None]}) == {"a": [None, 1.5, "x", None]}


def test_long_files_take_several_lines(tmp_path: Path) -> None:
    record = {"rows": [{"name": "n" * 50, "figures": [1.5, 2.5]} for _ in range(4)], "long": list(range(200))}
    put_results(tmp_path / "results.json", record)
    lines = (tmp_path / "results.json").read_text().splitlines()
    assert json.loads("\n".join(lines)) == record
    assert len(lines) == 1 + 6 + 1 + 1  # a row on each line, a list of figures on one


def test_what_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    for text in ("{", "[]", '{"rows": {"columns": 3}}', '{"rows": {"other": []}}'):
        path.write_text(text)
        with pytest.raises(MeasurementError, match=r"results\.json: is no readable result file"):
            load_results(path)
    with pytest.raises(MeasurementError, match=r"nowhere\.json"):
        load_results(tmp_path / "nowhere.json")
    for refused in (tmp_path, path / "below" / "results.json"):
        with pytest.raises(OutputError, match=r"cannot be written"):
            put_results(refused, {})
    assert path.read_text() == text
