"""What the DAGN paper prints, as plain data, to stand beside what we measure. Nothing here was measured by us."""

from __future__ import annotations

__all__ = ["ABLATION", "COSTS", "LIVE1_DAGN"]

LIVE1_DAGN = {
    10: (27.95, 0.807, 27.70),
    20: (30.27, 0.873, 29.87),
    30: (31.60, 0.900, 31.10),
    40: (32.50, 0.916, 31.94),
}
"""Table I, DAGN on LIVE1, by quality: PSNR in dB, SSIM, PSNR-B in dB. 110 M parameters, 953 G multiply-adds."""

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
