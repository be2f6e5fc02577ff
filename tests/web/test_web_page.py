"""The page in a real browser: `make test-web`."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

import unjpeg
from jpegs import decoded, encoded, picture

pytest.importorskip("playwright", reason="needs the extra browser: make test-web")
from browsing import (
    DESKTOP,
    PHONE,
    choose,
    downloaded,
    keep,
    problems_of,
    seen,
    upload,
    upload_and_key,
    wait_until_restored,
)
from playwright.sync_api import expect

from unjpeg.heif import list_readable_formats

pytestmark = pytest.mark.browser


def test_upload_compare_adjust_download(
    page: Any, kitten: Path, tmp_path: Path, child_environment: dict[str, str]
) -> None:
    upload(page, kitten)
    keep(page, "desktop")
    assert "True to the file? Yes." in page.locator("#status").inner_text()
    expect(page.locator("#facts")).to_contain_text("JPEG quality 12 of 100")

    box = page.locator("#stage").bounding_box()
    middle = box["y"] + box["height"] / 2
    views = {}
    for share in (0.5, 0.9, 0.1):
        page.mouse.move(box["x"] + page.locator("#handle").evaluate("e => e.offsetLeft + 22"), middle)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * share, middle, steps=4)
        page.mouse.up()
        assert abs(int(page.locator("#divider").input_value()) - 100 * share) <= 1
        page.evaluate("document.getElementById('handle').style.visibility = 'hidden'")
        views[share] = seen(page)
        page.evaluate("document.getElementById('handle').style.visibility = ''")
    width = views[0.5].shape[1]
    parts = [slice(int(width * low), int(width * high)) for low, high in ((0.15, 0.45), (0.55, 0.85))]
    left, right = parts
    changed = views[0.9][50:-60].astype(int) - views[0.1][50:-60]
    assert np.abs(changed[:, left]).mean() > 1  # before on one, after on the other
    np.testing.assert_array_equal(views[0.5][50:-60, left], views[0.9][50:-60, left])
    np.testing.assert_array_equal(views[0.5][50:-60, right], views[0.1][50:-60, right])

    with page.expect_response(re.compile(r"/restored\?strength=0\.5&")):
        page.locator("#strength").fill("50")
    wait_until_restored(page)
    page.click("#advanced summary")
    page.locator("input[name=consistency][value=off]").check(force=True)
    wait_until_restored(page)
    got = downloaded(page, "#download")
    wanted = tmp_path / "wanted.png"
    program = [
        sys.executable,
        "-m",
        "unjpeg",
        "restore",
        str(kitten),
        "-o",
        str(wanted),
        "--strength=0.5",
        "--consistency=off",
    ]
    subprocess.run(program, env=child_environment, check=True, capture_output=True, timeout=300)
    np.testing.assert_array_equal(decoded(got), decoded(wanted.read_bytes()))
    assert got == wanted.read_bytes()


def test_what_is_shown_at_one_to_one_is_the_picture(page: Any, kitten: Path) -> None:
    upload(page, kitten)
    page.click("#zoom-pixel")
    expect(page.locator("#zoom")).to_have_text("100 %")
    page.locator("input[name=view][value=after]").check(force=True)
    page.evaluate("document.querySelectorAll('.tag').forEach(e => e.style.visibility = 'hidden')")
    shown = seen(page)
    place = page.locator("#after .base").evaluate(
        "e => [new DOMMatrix(e.style.transform).e, new DOMMatrix(e.style.transform).f]"
    )
    restored = unjpeg.restore(kitten).pixels
    height, width = restored.shape[:2]
    left, top = (round(n) for n in place)
    assert (left, top) == tuple(place)
    low, high = max(0, -top), min(height, shown.shape[0] - top)
    assert high - low > 200
    np.testing.assert_array_equal(shown[top + low : top + high, left : left + width, :3], restored[low:high])


def test_changes_and_quality(page: Any, kitten: Path) -> None:
    upload(page, kitten)
    with page.expect_response(re.compile(r"/residual\?.*gain=8")):
        page.locator("input[name=view][value=residual]").check(force=True)
    wait_until_restored(page)
    keep(page, "desktop-changes")
    with page.expect_response(re.compile(r"/residual\?.*gain=16")):
        page.select_option("#gain", "16")
    page.click("#advanced summary")
    page.locator("#quality-auto").uncheck()
    with page.expect_response(re.compile(r"/restored\?.*quality=5")):
        page.locator("#quality").fill("5")
    wait_until_restored(page)


def test_many_and_the_zip(page: Any, kitten: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    names = ("one.jpg", "b/one.jpg", "broken.jpg", "größe 写真.png")
    one, two, broken, three = (tmp_path / name for name in names)
    one.write_bytes(encoded(picture(48, 72, 1), quality=20))
    two.write_bytes(encoded(picture(48, 80, 2), quality=20))
    broken.write_bytes(encoded(picture(48, 80, 2), quality=20)[:-200])
    three.write_bytes(kitten.read_bytes())
    upload(page, one, two, broken, three)
    expect(page.locator("#film li")).to_have_count(4)
    archive = zipfile.ZipFile(io.BytesIO(downloaded(page, "#download-all")))
    assert archive.testzip() is None
    assert archive.namelist() == ["one.restored.png", "one (2).restored.png", "größe 写真.restored.png"]
    # A Unix entry with UTF-8 names: MS-DOS ones come out mangled with some programs.
    assert {(entry.create_system, entry.flag_bits) for entry in archive.infolist()} == {(3, 0x800)}
    for name, file in zip(archive.namelist(), (one, two, three), strict=True):
        np.testing.assert_array_equal(decoded(archive.read(name)), unjpeg.restore(file).pixels)
    expect(page.locator("#problem")).to_contain_text("Not in the zip: broken.jpg: is a damaged JPEG")
    keep(page, "desktop-many")
    page.get_by_label("Remove größe 写真.png").click()
    expect(page.locator("#film li")).to_have_count(3)


def test_a_bad_file_gets_its_words_and_the_page_goes_on(page: Any, kitten: Path, tmp_path: Path) -> None:
    bad = tmp_path / "notes.jpg"
    bad.write_bytes(b"These are notes.")
    choose(page, bad)
    expect(page.locator("#stopped-words")).to_have_text(f"notes.jpg is not a picture; {list_readable_formats()}")
    expect(page.locator("#salvage")).to_be_hidden()
    expect(page.locator("#handle")).to_be_hidden()
    keep(page, "desktop-problem")
    assert problems_of(page) == []
    upload(page, kitten)
    expect(page.locator("#stopped")).to_be_hidden()
    page.get_by_role("button", name="Remove notes.jpg").click()
    expect(page.locator("#queue")).to_be_hidden()
    expect(page.locator("#stage")).to_be_visible()


@pytest.mark.parametrize("page", [PHONE], indirect=True)
def test_a_long_name_is_there_to_be_read(page: Any, tmp_path: Path) -> None:
    first, second = (tmp_path / f"{'Holiday_2026_' * 12}{number}.jpg" for number in (1, 2))
    first.write_bytes(encoded(picture(48, 72, 1), quality=20))
    second.write_bytes(b"These are notes.")
    choose(page, first, second)
    expect(page.locator("#queue-words")).to_have_text("1 of 2 done, 1 failed")
    expect(page.locator("#facts dd").first).to_have_text(first.name)
    assert page.locator("#film .name").all_inner_texts() == ["Holida…026_1.jpg", "Holida…026_2.jpg"]
    assert page.locator("#film .pick").first.get_attribute("title") == first.name
    keep(page, "phone-long-name", full_page=True)
    for pick in page.locator("#film .pick").all():
        pick.click()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    expect(page.locator("#stopped-words")).to_contain_text(second.name)
    keep(page, "phone-long-name-failed")
    assert problems_of(page) == []


def test_every_bad_file_keeps_its_words(page: Any, kitten: Path, tmp_path: Path) -> None:
    bad = [tmp_path / name for name in ("one.jpg", "two.jpg", "three.jpg")]
    for file in bad:
        file.write_bytes(kitten.read_bytes()[: 900 + len(file.name)])
    choose(page, *bad, kitten)
    expect(page.locator("#queue-words")).to_have_text("1 of 4 done, 3 failed")
    for file in bad:
        page.locator("#film .pick", has_text=file.name).click()
        expect(page.locator("#stopped-words")).to_contain_text(file.name)


def test_a_picture_that_the_server_forgot_is_sent_again(page: Any, kitten: Path) -> None:
    key = upload_and_key(page, kitten)
    assert page.request.delete(f"{page.url}api/pictures/{key}").status == 204
    with (
        page.expect_response(re.compile(r"/api/pictures$")),
        page.expect_response(re.compile(r"/restored\?strength=0\.3")),
    ):
        page.locator("#strength").fill("30")
    wait_until_restored(page)
    expect(page.locator("#problem")).to_be_empty()


def test_a_closed_page_s_pictures_are_forgotten(page: Any, address: str, kitten: Path) -> None:
    key = upload_and_key(page, kitten)
    page.goto(f"{address}icon.svg")
    for _ in range(50):
        status = page.request.get(f"{address}api/pictures/{key}/decoded").status
        if status == 404:
            return
        page.wait_for_timeout(100)
    raise AssertionError("still held")


def test_by_keyboard_alone(page: Any) -> None:
    def tab_to(selector: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"no way to {selector}")

    tab_to("[data-example='kitten.jpg']")
    page.keyboard.press("Enter")
    wait_until_restored(page)
    tab_to("#divider")
    before = page.locator("#after").evaluate("e => getComputedStyle(e).clipPath")
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert page.locator("#divider").get_attribute("aria-valuetext") == "60 % before, 40 % after"
    assert page.locator("#after").evaluate("e => getComputedStyle(e).clipPath") != before
    keep(page, "desktop-focus")
    page.keyboard.press("Shift+Tab")
    expect(page.locator("#stage")).to_be_focused()
    fitted = page.locator("#zoom").inner_text()
    page.keyboard.press("1")
    expect(page.locator("#zoom")).to_have_text("100 %")
    for _ in range(5):
        page.keyboard.press("+")
    expect(page.locator("#zoom")).to_have_text("759 %")
    keep(page, "desktop-zoom")
    place = page.locator("#before .base").evaluate("e => e.style.transform")
    page.keyboard.press("ArrowRight")
    assert page.locator("#before .base").evaluate("e => e.style.transform") != place
    page.keyboard.press("0")
    expect(page.locator("#zoom")).to_have_text(fitted)
    tab_to("#strength")
    with page.expect_response(re.compile(r"/restored\?strength=0\.99")):
        page.keyboard.press("ArrowLeft")
    tab_to("#download")
    with page.expect_download():
        page.keyboard.press("Enter")


@pytest.mark.parametrize(("page", "name"), [(DESKTOP, "desktop"), (PHONE, "phone")], indirect=["page"])
def test_accessible_at_every_step(page: Any, name: str, kitten: Path) -> None:
    keep(page, f"{name}-welcome")
    assert problems_of(page) == []
    page.click("[data-example='beach-saved-twice.jpg']")
    wait_until_restored(page)
    expect(page.locator("#check")).to_contain_text("before this file was saved")
    upload(page, kitten)
    keep(page, f"{name}-view")
    if name == "phone":
        keep(page, "phone-whole", full_page=True)
    assert problems_of(page) == []
    page.locator("input[name=view][value=residual]").check(force=True)
    wait_until_restored(page)
    assert problems_of(page) == []


@pytest.mark.parametrize("page", [PHONE], indirect=True)
def test_a_phone(page: Any, kitten: Path) -> None:
    upload(page, kitten)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    expect(page.locator("#download")).to_be_in_viewport()
    small = page.evaluate(
        "[...document.querySelectorAll('button, select, label')].filter(e => e.checkVisibility())"
        ".filter(e => e.getBoundingClientRect().height < 24).map(e => e.outerHTML)"
    )
    assert small == []
    box = page.locator("#stage").bounding_box()
    y = box["y"] + box["height"] / 2
    touch = page.context.new_cdp_session(page)

    def fingers(kind: str, *places: float) -> None:
        points = [{"x": x, "y": y, "id": n} for n, x in enumerate(places)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    fingers("touchStart", 195)
    for x in range(195, 300, 15):
        fingers("touchMove", x)
    fingers("touchEnd")
    assert int(page.locator("#divider").input_value()) > 65
    fitted = page.locator("#zoom").inner_text()
    fingers("touchStart", 150, 250)
    for apart in range(50, 150, 10):
        fingers("touchMove", 200 - apart, 200 + apart)
    fingers("touchEnd")
    assert int(page.locator("#zoom").inner_text()[:-2]) > 2 * int(fitted[:-2])
    keep(page, "phone-zoom")


def test_under_a_path_of_a_proxy(address: str) -> None:
    """Every address in the page and its script is relative."""
    root = Path(unjpeg.__file__).parent / "web" / "page"
    for name in ("index.html", "page.js", "server.js", "page.css"):
        assert not re.search(r"""(?:src|href)="/|(?:request|fetch)\([`"']/""", (root / name).read_text())
    assert urlsplit(address).path == "/"
