"""New figures of one method in a result file of many."""

from __future__ import annotations

from typing import Any

import pytest

from studies.renewed import renew
from unjpeg.errors import MeasurementError
from unjpeg.evaluate.benchmark import summarise


def record(psnr: dict[str, float], commit: str) -> dict[str, Any]:
    """Two pictures at one quality."""
    rows = [
        {
            "set": "live1",
            "degradation": "jpeg-10",
            "method": name,
            "image": image,
            "psnr_db": value,
            "size_bytes": 1000,
            "megapixels": 0.1,
        }
        for name, value in psnr.items()
        for image in ("a", "b")
    ]
    return {
        "commit": commit,
        "machine": {"processor": commit},
        "sets": {"live1": 2},
        "degradations": ["jpeg-10"],
        "metrics": ["psnr_db"],
        "methods": {name: {"spec": name, "identity": f"{name} {commit}"} for name in psnr},
        "costs": {name: {"seconds_per_megapixel": 1.0} for name in psnr},
        "summary": summarise(rows, list(psnr)),
        "rows": rows,
    }


def test_only_that_method_is_renewed() -> None:
    old = record({"jpeg": 25.0, "fast": 26.0, "default": 27.0}, "old")
    made = renew(old, record({"jpeg": 25.0, "fast": 26.5}, "new"), "fast")
    expected = record({"jpeg": 25.0, "fast": 26.5, "default": 27.0}, "old")
    assert made["rows"] == expected["rows"]
    assert made["summary"] == expected["summary"]
    differences = made["summary"]["live1"]["jpeg-10"]["differences"]
    assert differences["fast - jpeg"]["psnr_db"]["mean"] == pytest.approx(1.5)
    assert differences["default - fast"]["psnr_db"]["mean"] == pytest.approx(0.5)
    assert made["costs"] == old["costs"]
    assert made["methods"]["default"] == old["methods"]["default"]
    assert made["methods"]["fast"] == {
        "spec": "fast",
        "identity": "fast new",
        "commit": "new",
        "machine": {"processor": "new"},
    }
    assert old["methods"]["fast"]["identity"] == "fast old"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"sets": {"live1": 1}}, "other sets"),
        ({"degradations": ["jpeg-20"]}, "other degradations"),
        ({"metrics": ["ssim"]}, "other metrics"),
        ({"methods": {}}, "no fast in both"),
    ],
)
def test_other_pictures_are_refused(change: dict[str, Any], line: str) -> None:
    old, new = record({"jpeg": 25.0, "fast": 26.0}, "old"), record({"jpeg": 25.0, "fast": 26.5}, "new")
    with pytest.raises(MeasurementError, match=line):
        renew(old, new | change, "fast")


def test_other_files_are_refused() -> None:
    old, new = record({"jpeg": 25.0, "fast": 26.0}, "old"), record({"jpeg": 25.1, "fast": 26.5}, "new")
    with pytest.raises(MeasurementError, match="the decoder's figures differ"):
        renew(old, new, "fast")
