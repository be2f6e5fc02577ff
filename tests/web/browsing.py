"""What the tests in a browser do again and again. `UNJPEG_SCREENSHOTS=DIR` keeps what they looked like."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from axe_playwright_python.sync_playwright import Axe
from numpy.typing import NDArray
from playwright.sync_api import Page, expect

from jpegs import decoded

DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}


def wait_until_restored(page: Page) -> None:
    expect(page.locator("#busy")).to_be_hidden()
    expect(page.locator("#check dd").first).to_be_visible()


def choose(page: Page, *files: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.locator("#choose, #add").locator("visible=true").click()
    chooser.value.set_files(list(files))


def upload(page: Page, *files: Path) -> None:
    choose(page, *files)
    wait_until_restored(page)


def upload_and_key(page: Page, file: Path) -> Any:
    with page.expect_request(re.compile(r"/decoded$")) as asked:
        upload(page, file)
    return asked.value.url.split("/")[-2]


def keep(page: Page, name: str, **options: Any) -> None:
    folder = os.environ.get("UNJPEG_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png", **options)


def seen(page: Page, selector: str = "#stage") -> NDArray[np.uint8]:
    return decoded(page.locator(selector).screenshot())


def problems_of(page: Page) -> list[tuple[str, list[str]]]:
    found = Axe().run(page).response["violations"]
    return [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found]


def downloaded(page: Page, button: str) -> bytes:
    with page.expect_download() as download:
        page.click(button)
    return Path(download.value.path()).read_bytes()
