"""Reading: tesseract on pages of small print, the share of characters that it gets wrong.

The pages are rendered here from common words, so that nothing but tesseract needs to be installed: dark on light, dark
on coloured, and light on coloured paper, where chroma subsampling hurts most. They are enlarged twice before they are
read, as small print has to be.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rapidfuzz.distance import Levenshtein

from studies.downstream.task import DrawnTask
from unjpeg.errors import MeasurementError
from unjpeg.evaluate.pairs import Pixels8
from unjpeg.evaluate.sheets import Panel, set_side_by_side

__all__ = ["PAGES", "Reading", "render_page"]

PAGES = 24
SIDES = (480, 320)
"""Width and height of a page."""

SIZES = (11, 13, 15)
PAPERS = (((20, 20, 20), (250, 250, 245)), ((40, 20, 110), (250, 225, 150)), ((250, 240, 120), (150, 30, 50)))
"""Ink and paper."""

_VOCABULARY = """
the of and to in is that it was for on are as with his they be at one have this from or had by hot but some what
there we can out other were all your when up use word how said an each she which do their time if will way about
many then them would write like so these her long make thing see him two has look more day could go come did my
sound no most number who over know water than call first people may down side been now find any new work part take
get place made live where after back little only round man year came show every good me give our under name very
through just form much great think say help low line before turn cause same mean differ move right boy old too does
tell sentence set three want air well also play small end put home read hand port large spell add even land here
must big high such follow act why ask men change went light kind off need house picture try us again animal point
"""


class Reading(DrawnTask[str, tuple[int, int]]):
    """Character error rate: edits that turn what was read into what was written, per character written.

    Raises MeasurementError if tesseract is not installed.
    """

    name: ClassVar = "text"
    figures: ClassVar = ("character_error_rate",)
    resamples: ClassVar = 1000

    def __init__(self, pages: int = PAGES) -> None:
        program = shutil.which("tesseract")
        if program is None:
            raise MeasurementError("text: not installed (tesseract is not on the PATH)")
        self._program, self._pages = program, pages
        self.identity = f"tesseract {hashlib.sha256(Path(program).read_bytes()).hexdigest()[:16]}"

    def list_names(self) -> Sequence[str]:
        return [f"page {number}" for number in range(self._pages)]

    def load(self, name: str) -> tuple[Pixels8, str]:
        return render_page(int(name.removeprefix("page ")))

    def examine(self, pixels: Pixels8, truth: str) -> tuple[int, int]:
        """Edits and characters."""
        return Levenshtein.distance(self._read(pixels), truth), len(truth)

    def draw_truth(self, pixels: Pixels8, truth: str) -> Image.Image:
        """The page above what is written on it."""
        return _draw_with_text(pixels, truth)

    def draw(self, pixels: Pixels8) -> Image.Image:
        """The page above what was read."""
        return _draw_with_text(pixels, self._read(pixels))

    def _read(self, pixels: Pixels8) -> str:
        """With single blanks. Raises MeasurementError."""
        image = Image.fromarray(pixels)
        buffer = io.BytesIO()
        image.resize((2 * image.width, 2 * image.height), Image.Resampling.BICUBIC).save(buffer, "PNG")
        command = [self._program, "stdin", "stdout", "-l", "eng", "--psm", "6", "--dpi", "200"]
        environment = {**os.environ, "OMP_THREAD_LIMIT": "1"}
        ran = subprocess.run(command, input=buffer.getvalue(), capture_output=True, check=False, env=environment)
        if ran.returncode:
            last = ran.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise MeasurementError(f"tesseract failed: {' '.join(last)}")
        return " ".join(ran.stdout.decode(errors="replace").split())

    def to_json(self, result: tuple[int, int]) -> Any:
        return list(result)

    def from_json(self, stored: Any) -> tuple[int, int]:
        edits, characters = stored
        return edits, characters

    def summarise(self, results: Sequence[tuple[int, int]]) -> dict[str, float]:
        edits, characters = np.sum(results, axis=0)
        return {"character_error_rate": float(edits / characters)}


def _draw_with_text(pixels: Pixels8, text: str) -> Image.Image:
    return set_side_by_side([Panel((text,), Image.fromarray(pixels))])


def render_page(number: int) -> tuple[Pixels8, str]:
    """A page, ``(H, W, 3)``, and what is written on it with single blanks; the same ones for a number."""
    rng = np.random.default_rng(number)
    words = _VOCABULARY.split()
    ink, paper = PAPERS[number % len(PAPERS)]
    size = SIZES[number // len(PAPERS) % len(SIZES)]
    font = ImageFont.load_default(size)
    image = Image.new("RGB", SIDES, paper)
    draw, written = ImageDraw.Draw(image), []
    for top in range(16, SIDES[1] - 16 - size, round(1.5 * size)):
        line = ""
        while True:
            word = str(rng.choice(words))
            longer = f"{line} {word}".strip()
            if font.getlength(longer) > SIDES[0] - 32:
                break
            line = longer
        draw.text((16, top), line, fill=ink, font=font)
        written.append(line)
    return np.asarray(image), " ".join(written)
