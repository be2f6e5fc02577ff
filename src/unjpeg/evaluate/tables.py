"""The documentation's tables, made from ``results/``: ``python -m unjpeg.evaluate.tables`` writes them anew.

A test fails when a table in ``README.md`` or ``docs/results.md`` is not what this makes of the result files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unjpeg.evaluate import carn_tables

__all__ = ["main", "tables", "with_tables"]

ROOT = Path(__file__).parents[3]
DOCUMENTS = ("README.md", "docs/results.md", "docs/carn-da.md")

PRINTED_DAGN = {
    10: (27.95, 0.807, 27.70),
    20: (30.27, 0.873, 29.87),
    30: (31.60, 0.900, 31.10),
    40: (32.50, 0.916, 31.94),
}
"""LIVE1, as the DAGN paper's Table I prints it: 110 M parameters, 953 G multiply-adds."""


def tables(results: Path) -> dict[str, str]:
    """Each table's Markdown, by the name that its place in the documents has."""
    files = {name: results / f"{name}-default.json" for name in ("live1", "bsds500")}
    records = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    return {
        "short": _short(records["live1"]),
        **{f"quality-{name}": _quality(record) for name, record in records.items()},
        **{f"projection-{name}": _projection(record) for name, record in records.items()},
        **_cost(results / "cost.json"),
        **carn_tables.tables(results),
    }


def with_tables(text: str, made: Mapping[str, str]) -> str:
    """The document with every ``<!-- table: NAME -->`` ... ``<!-- end -->`` filled anew."""
    parts = text.split("<!-- table: ")
    out = [parts[0]]
    for part in parts[1:]:
        name, rest = part.split(" -->", 1)
        after = rest.split("<!-- end -->", 1)[1]
        out.append(f"{name} -->\n\n{made[name]}\n\n<!-- end -->{after}")
    return "<!-- table: ".join(out)


def main() -> None:
    """Rewrite the documents."""
    made = tables(ROOT / "results")
    for document in DOCUMENTS:
        path = ROOT / document
        path.write_text(with_tables(path.read_text(encoding="utf-8"), made), encoding="utf-8")


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _method(record: Mapping[str, Any], policy: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = record["summary"][f"{record['model']}, consistency {policy}"]
    return found


def _figures(row: Mapping[str, float]) -> str:
    return f"{row['psnr_db']:.2f} / {row['ssim']:.3f} / {row['psnr_b_db']:.2f}"


def _short(record: Mapping[str, Any]) -> str:
    qualities = ("10", "20", "30", "40")
    jpeg, ours = record["summary"]["jpeg"], _method(record, "auto")
    return _table(
        ["LIVE1, PSNR in dB", *(f"quality {q}" for q in qualities)],
        [
            ["JPEG", *(f"{jpeg[q]['psnr_db']:.2f}" for q in qualities)],
            ["unjpeg, `default`", *(f"**{ours[q]['psnr_db']:.2f}**" for q in qualities)],
            ["DAGN as printed (110 M parameters)", *(f"{PRINTED_DAGN[int(q)][0]:.2f}" for q in qualities)],
        ],
    )


def _quality(record: Mapping[str, Any]) -> str:
    jpeg, ours = record["summary"]["jpeg"], _method(record, "auto")
    rows = []
    for q in jpeg:
        per_image: dict[str, dict[str, float]] = {}
        for row in record["rows"]:
            if str(row["quality"]) == q:
                per_image.setdefault(row["image"], {})[row["method"]] = row["psnr_db"]
        name = f"{record['model']}, consistency auto"
        worse = sum(image[name] < image["jpeg"] for image in per_image.values())
        gain = ours[q]["psnr_db"] - jpeg[q]["psnr_db"]
        rows.append([q, _figures(jpeg[q]), _figures(ours[q]), f"{gain:+.2f}", f"{worse} of {len(per_image)}"])
    return _table(["quality", "JPEG", "`default`", "gain, dB", "worse than JPEG"], rows)


def _projection(record: Mapping[str, Any]) -> str:
    rows = []
    for q in record["summary"]["jpeg"]:
        on, off = _method(record, "auto")[q], _method(record, "off")[q]
        rows.append(
            [
                q,
                f"{off['psnr_db']:.3f}",
                f"{on['psnr_db']:.3f}",
                f"{off['share_inside']:.4%}",
                f"{on['share_inside']:.4%}",
                f"{on['consistent']:.0%}",
            ]
        )
    return _table(
        [
            "quality",
            "PSNR off",
            "PSNR auto",
            "in their cells, off",
            "in their cells, auto",
            "consistent pictures, auto",
        ],
        rows,
    )


def _cost(path: Path) -> dict[str, str]:
    record = json.loads(path.read_text())
    runs = [
        [
            f"{run['megapixels']:.1f}",
            run["runtime"],
            f"{run['seconds_per_megapixel']:.2f}",
            f"{run['share_outside_network']:.0%}",
            f"{run['peak_mib']:.0f}",
        ]
        for run in record["runs"]
    ]
    halos = [
        [
            str(row["halo"]),
            f"{row['largest']:.3f}",
            f"{row['mean']:.5f}",
            f"{row['extra_pixels']:.0%}",
        ]
        for row in record["halo"]
    ]
    return {
        "cost": _table(
            ["megapixels", "runtime", "seconds per megapixel", "outside the network", "peak memory, MiB"], runs
        ),
        "halo": _table(["halo, pixels", "largest difference, of 255", "mean", "more pixels to compute"], halos),
    }


if __name__ == "__main__":
    main()
