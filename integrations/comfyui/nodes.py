"""The two nodes. ComfyUI's IMAGE is a tensor ``(B, H, W, C)`` of float32 in 0..1, on the processor as a rule.

What is only there inside of ComfyUI is imported where it is used: there it shows progress and ends cancelled work, and
elsewhere the nodes run without.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

import unjpeg
from unjpeg.depth import rounded
from unjpeg.inks import show_inks
from unjpeg.restorer import turn_upright

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "RestoreJpegArtifacts", "RestoreJpegFile"]

MODELS = ["default", "fast", "best"]
STEPS = 1000
"""Of a progress bar, for one picture."""

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".avif", ".heic")


@lru_cache(maxsize=1)
def _load_restorer(model: str) -> unjpeg.Restorer:
    """The one that is in use stays loaded between runs."""
    return unjpeg.Restorer(model)


def _optional(module: str) -> Any:
    """One of ComfyUI's modules; None outside of it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


class _Watch:
    """Shows how far so many pictures are, and ends the work when it is cancelled, between tiles."""

    def __init__(self, count: int) -> None:
        utils, self._management = _optional("comfy.utils"), _optional("comfy.model_management")
        self._bar = utils.ProgressBar(count * STEPS) if utils else None

    def of(self, number: int) -> Callable[[float], None]:
        """What is told the finished share of that picture. Raises what ComfyUI raises for what is cancelled."""

        def show(share: float) -> None:
            if self._management:
                self._management.throw_exception_if_processing_interrupted()
            if self._bar:
                self._bar.update_absolute(round((number + share) * STEPS))

        return show


def _settings() -> dict[str, Any]:
    """The inputs that both nodes have."""
    share = {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.05}
    return {
        "model": (MODELS, {"default": MODELS[0], "tooltip": "fast is quicker, best takes the mean of four passes"}),
        "strength": ("FLOAT", {**share, "tooltip": "0 changes nothing, 1 restores fully"}),
        "detail": ("FLOAT", {**share, "tooltip": "Less than 1 smooths fine detail less"}),
        "as_quality": (
            "INT",
            {
                "default": 0,
                "min": 0,
                "max": 100,
                "tooltip": "Restore as if it looked like this JPEG quality: lower is smoother. 0 goes by its looks",
            },
        ),
    }


def _options(strength: float, detail: float, as_quality: int) -> unjpeg.Options:
    """Results of 16 bits: nothing is rounded to 8 on the way to floating point."""
    return unjpeg.Options(strength=strength, detail=detail, quality=as_quality or None, bit_depth=16)


def _to_float(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Shape ``(H, W, C)``, range 0..1."""
    shared: NDArray[np.float32] = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    return shared if shared.ndim == 3 else shared[..., None]


def _describe(report: unjpeg.Report) -> str:
    what = report.in_words if report.model else "left as it is"
    return "\n".join([f"{report.name}: {what}", *report.notes])


class RestoreJpegFile:
    """A file of ComfyUI's input folder, restored as a file: within its cells, or as what it was before."""

    CATEGORY = "image/restoration"
    DESCRIPTION = "Takes compression artifacts out of a JPEG file. Knows the file, so it is better than by the pixels."
    FUNCTION = "restore"
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("image", "report")
    SEARCH_ALIASES: ClassVar[list[str]] = ["jpeg", "deblock", "compression artifacts", "dejpeg"]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        folder = Path(_optional("folder_paths").get_input_directory())
        files = sorted(file.name for file in folder.iterdir() if file.is_file() and file.suffix.lower() in SUFFIXES)
        return {"required": {"image": (files, {"image_upload": True}), **_settings()}}

    @classmethod
    def IS_CHANGED(cls, image: str, **_: object) -> str:
        """ComfyUI runs the node again when this differs: another content under the same name."""
        with open(_optional("folder_paths").get_annotated_filepath(image), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @classmethod
    def VALIDATE_INPUTS(cls, image: str) -> bool | str:
        there = _optional("folder_paths").exists_annotated_filepath(image)
        return True if there else f"{image}: there is no such file in the input folder; upload it again"

    def restore(
        self, image: str, model: str, strength: float, detail: float, as_quality: int
    ) -> tuple[torch.Tensor, str]:
        """Shape ``(1, H, W, 3)``, upright. Raises UnjpegError: one line, which ComfyUI shows at the node."""
        path = _optional("folder_paths").get_annotated_filepath(image)
        watch = _Watch(1).of(0)
        watch(0)
        restored = _load_restorer(model).restore(
            os.fspath(path), _options(strength, detail, as_quality), progress=watch
        )
        shown = restored.pixels
        if restored.is_cmyk:  # an IMAGE holds no inks
            shown = show_inks(rounded(restored.pixels), restored.metadata.icc_profile)
        pixels = _to_float(turn_upright(shown, restored.metadata.orientation))
        if pixels.shape[2] in (2, 4):
            pixels = pixels[..., :-1]
        if pixels.shape[2] == 1:
            pixels = np.repeat(pixels, 3, axis=2)
        return torch.from_numpy(np.ascontiguousarray(pixels))[None], _describe(restored.report)


class RestoreJpegArtifacts:
    """A picture that comes without its file: what compressed it is told from its pixels."""

    CATEGORY = "image/restoration"
    DESCRIPTION = "Takes compression artifacts out of pictures. Where there is a file, Restore JPEG File is better."
    FUNCTION = "restore"
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("image", "report")
    SEARCH_ALIASES: ClassVar[list[str]] = RestoreJpegFile.SEARCH_ALIASES

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",), **_settings()}}

    def restore(
        self, image: torch.Tensor, model: str, strength: float, detail: float, as_quality: int
    ) -> tuple[torch.Tensor, str]:
        """Shape ``(B, H, W, C)`` as given, C from 1 to 4; on the same device. Raises UnjpegError."""
        options, restorer, watch = _options(strength, detail, as_quality), _load_restorer(model), _Watch(len(image))
        results, reports = [], []
        for number, single in enumerate(image):
            progress = watch.of(number)
            progress(0)
            given = np.nan_to_num(single.detach().cpu().float().numpy()).clip(0, 1)
            levels = np.rint(given * 255).astype(np.uint8)  # exactly what it was, if it was decoded from 8 bits
            restored = restorer.restore(levels, options, progress=progress)
            # What lies between the levels is kept, as the restorer keeps that of files with more than 8 bits.
            beyond = given - levels.astype(np.float32) / np.float32(255)
            result = (_to_float(restored.pixels).reshape(given.shape) + beyond).clip(0, 1)
            results.append(torch.from_numpy(result.astype(np.float32)))
            reports.append(f"{number + 1} of {len(image)}: {_describe(restored.report).removeprefix('array: ')}")
        batch = torch.stack(results).to(image.device) if results else image
        return batch, "\n".join(reports)


NODE_CLASS_MAPPINGS = {"RestoreJpegFile": RestoreJpegFile, "RestoreJpegArtifacts": RestoreJpegArtifacts}
NODE_DISPLAY_NAME_MAPPINGS = {
    "RestoreJpegFile": "Restore JPEG File",
    "RestoreJpegArtifacts": "Restore JPEG Artifacts",
}
