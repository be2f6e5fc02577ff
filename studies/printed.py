"""What both papers print beside ``unjpeg.evaluate.printed``, as plain data. Nothing here was measured by us."""

from __future__ import annotations

__all__ = ["ABLATION", "CARN_TABLE_1", "CARN_TABLE_2", "COSTS", "TABLE_4", "compute_ablation_gains"]

COSTS = {
    "DMCNN": (687.1, 4.7, 31.3),
    "IPT": (70243.5, 114.2, 5413.7),
    "SwinIR": (50768.5, 11.5, 3643.4),
    "QGAC": (249.9, 0.0, 113.1),
    "FBCNN": (728.9, 71.9, 13.0),
    "DAGN": (952.8, 109.9, 29.7),
}
"""Table III, colour images of 512x512 on one Tesla P100: "FLOPs" in G (multiply-adds), parameters in M, time in ms."""

ABLATION = {
    "live1": {
        10: {
            "psnr_db": (27.46, 27.82, 27.74, 27.72, 27.95),
            "ssim": (0.798, 0.803, 0.801, 0.799, 0.807),
            "psnr_b_db": (27.11, 27.57, 27.50, 27.47, 27.70),
        },
        20: {
            "psnr_db": (29.82, 30.15, 30.08, 30.03, 30.27),
            "ssim": (0.866, 0.870, 0.868, 0.866, 0.873),
            "psnr_b_db": (29.34, 29.73, 29.68, 29.6, 29.87),
        },
        30: {
            "psnr_db": (31.12, 31.47, 31.40, 31.53, 31.60),
            "ssim": (0.894, 0.898, 0.897, 0.895, 0.900),
            "psnr_b_db": (30.57, 30.95, 30.92, 30.83, 31.10),
        },
        40: {
            "psnr_db": (32.01, 32.37, 32.31, 32.20, 32.50),
            "ssim": (0.910, 0.914, 0.913, 0.911, 0.916),
            "psnr_b_db": (31.44, 31.81, 31.77, 31.64, 31.94),
        },
    },
    "bsds500": {
        10: {
            "psnr_db": (27.68, 27.96, 27.92, 27.86, 28.07),
            "ssim": (0.792, 0.795, 0.793, 0.792, 0.799),
            "psnr_b_db": (27.26, 27.64, 27.6, 27.54, 27.74),
        },
        20: {
            "psnr_db": (30.00, 30.25, 30.21, 30.13, 30.36),
            "ssim": (0.862, 0.865, 0.863, 0.861, 0.868),
            "psnr_b_db": (29.36, 29.67, 29.65, 29.54, 29.77),
        },
        30: {
            "psnr_db": (31.31, 31.56, 31.52, 31.39, 31.68),
            "ssim": (0.893, 0.895, 0.894, 0.891, 0.898),
            "psnr_b_db": (30.54, 30.82, 30.81, 30.65, 30.91),
        },
        40: {
            "psnr_db": (32.05, 32.47, 32.44, 32.22, 32.58),
            "ssim": (0.907, 0.912, 0.911, 0.910, 0.914),
            "psnr_b_db": (31.20, 31.61, 31.60, 31.36, 31.69),
        },
    },
}
"""Table V, by set, quality and metric: baseline, with CIGM, with CSGM, with CFM, with all three."""


def compute_ablation_gains(set_name: str, quality: int, metric: str) -> dict[str, float]:
    """What Table V prints as gains over its baseline, by the variant's name; nothing where it prints none."""
    printed = ABLATION.get(set_name, {}).get(quality, {}).get(metric)
    if printed is None:
        return {}
    base, *others = printed
    return {name: value - base for name, value in zip(("CIGM", "CSGM", "CFM", "all"), others, strict=True)}


_QUALITIES = (10, 20, 30, 40)

TABLE_4 = {
    "detection": {
        name: dict(zip(_QUALITIES, values, strict=True))
        for name, values in {
            "JPEG": (9.5, 23.8, 30.0, 32.2),
            "ARCNN": (19.3, 29.1, 31.7, 32.7),
            "DMCNN": (22.1, 29.2, 31.9, 32.9),
            "IPT": (23.7, 29.6, 32.1, 33.1),
            "SwinIR": (23.9, 29.8, 32.2, 33.3),
            "QGAC": (24.7, 29.8, 32.0, 33.4),
            "FBCNN": (24.5, 30.5, 32.7, 33.4),
            "DAGN": (26.1, 31.6, 33.7, 34.7),
        }.items()
    },
    "segmentation": {
        name: dict(zip(_QUALITIES, values, strict=True))
        for name, values in {
            "JPEG": (51.8, 66.9, 71.7, 72.9),
            "ARCNN": (55.9, 67.4, 72.3, 73.1),
            "DMCNN": (56.2, 67.8, 72.0, 72.8),
            "IPT": (56.7, 68.2, 72.1, 73.2),
            "SwinIR": (56.5, 68.3, 72.5, 73.2),
            "QGAC": (56.8, 68.2, 72.5, 73.3),
            "FBCNN": (56.9, 68.3, 72.3, 73.7),
            "DAGN": (57.9, 69.3, 73.1, 74.3),
        }.items()
    },
}
"""Table IV, percent, by method and quality: mean average precision of boxes on MS COCO, mean IoU on PASCAL VOC."""

_Cell = tuple[float, float, float]

_CARN_SETS = ("div2k", "bsd68", "set12")


def _name_sets(*cells: _Cell) -> dict[str, _Cell]:
    return dict(zip(_CARN_SETS, cells, strict=True))


_CARN_JPEG = {
    10: _name_sets((23.99, 23.77, 0.42), (26.96, 26.50, 0.42), (27.65, 27.20, 0.38)),
    70: _name_sets((28.12, 27.99, 0.65), (34.07, 33.56, 0.76), (35.00, 34.41, 0.69)),
}

CARN_TABLE_1: dict[int, dict[str, dict[str, _Cell]]] = {
    10: {
        "JPEG": _CARN_JPEG[10],
        "SQ": _name_sets((24.50, 24.98, 0.46), (28.14, 28.10, 0.46), (29.50, 29.48, 0.43)),
        "DQ": _name_sets((24.29, 24.16, 0.44), (27.39, 27.12, 0.44), (28.24, 28.00, 0.41)),
        "BQ": _name_sets((24.95, 24.93, 0.46), (28.10, 28.05, 0.46), (29.44, 29.41, 0.43)),
        "ours": _name_sets((25.03, 25.01, 0.47), (28.14, 28.10, 0.46), (29.52, 29.50, 0.43)),
    },
    70: {
        "JPEG": _CARN_JPEG[70],
        "SQ": _name_sets((29.15, 29.14, 0.68), (34.40, 34.35, 0.75), (35.28, 35.25, 0.68)),
        "DQ": _name_sets((27.19, 27.19, 0.58), (31.11, 31.11, 0.62), (31.83, 31.82, 0.53)),
        "BQ": _name_sets((29.09, 29.09, 0.68), (34.36, 34.31, 0.75), (35.32, 35.28, 0.68)),
        "ours": _name_sets((29.26, 29.23, 0.68), (34.39, 34.23, 0.76), (35.27, 35.17, 0.68)),
    },
}
"""CARN-DA's Table 1: PSNR in dB, PSNR-B in dB, SSIM, by test quality, method and set.

SQ's 24.50 dB at quality 10 on DIV2K is a misprint: the gain beside it, 1.01 dB, makes it 25.00.
"""

CARN_TABLE_2: dict[int, dict[str, dict[int, dict[str, _Cell]]]] = {
    10: {
        "BQ": {
            100: _name_sets((24.93, 24.91, 0.46), (28.08, 28.03, 0.46), (29.38, 29.36, 0.43)),
            400: _name_sets((24.95, 24.93, 0.46), (28.11, 28.06, 0.46), (29.44, 29.41, 0.43)),
            800: _name_sets((25.02, 24.99, 0.46), (28.15, 28.11, 0.46), (29.50, 29.48, 0.43)),
        },
        "ours": {
            100: _name_sets((24.92, 24.90, 0.46), (28.05, 28.00, 0.46), (29.31, 29.29, 0.43)),
            400: _name_sets((24.97, 24.95, 0.46), (28.08, 28.04, 0.46), (29.45, 29.43, 0.43)),
            800: _name_sets((25.01, 24.99, 0.47), (28.14, 28.10, 0.47), (29.47, 29.45, 0.43)),
        },
    },
    70: {
        "BQ": {
            100: _name_sets((29.07, 29.07, 0.67), (34.34, 34.30, 0.75), (35.29, 35.26, 0.68)),
            400: _name_sets((29.09, 29.09, 0.68), (34.36, 34.32, 0.75), (35.35, 35.31, 0.68)),
            800: _name_sets((29.18, 29.17, 0.68), (34.38, 34.29, 0.75), (35.30, 35.23, 0.68)),
        },
        "ours": {
            100: _name_sets((29.14, 29.13, 0.68), (34.43, 34.37, 0.76), (35.29, 35.25, 0.68)),
            400: _name_sets((29.16, 29.15, 0.68), (34.41, 34.34, 0.75), (35.33, 35.27, 0.68)),
            800: _name_sets((29.25, 29.24, 0.68), (34.48, 34.37, 0.76), (35.44, 35.37, 0.68)),
        },
    },
}
"""Its Table 2, by the number of pictures of the test's quality, too, beside 400 of the other. JPEG as in Table 1."""
