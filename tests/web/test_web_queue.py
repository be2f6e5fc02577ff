"""The page's queue in a real browser: many pictures, a broken one, slow ones, cancelled ones, large ones."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unjpeg
from jpegs import decoded, encoded, picture

pytest.importorskip("playwright", reason="needs the extra browser: make test-web")
from browsing import DESKTOP, PHONE, choose, downloaded, keep, problems_of, seen, upload, wait_until_restored
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

SLOW = {"state": "working", "share": 0.25, "seconds_left": 90.0}


@pytest.fixture
def album(tmp_path: Path, kitten: Path) -> list[Path]:
    """Six pictures, the third of them cut off."""
    files = [tmp_path / f"{number}.jpg" for number in range(1, 7)]
    for number, file in enumerate(files):
        file.write_bytes(encoded(picture(200 + 16 * number, 320, number), quality=20))
    files[0].write_bytes(kitten.read_bytes())
    files[2].write_bytes(kitten.read_bytes()[:9000])
    return files


def hold_work(page: Page, answer: dict[str, Any] | None = None) -> Callable[[], None]:
    """The server seems to be slow: work goes on and on, until the function is called."""
    holding = [True]

    def go_on() -> None:
        holding[0] = False

    def answered(route: Any) -> None:
        if holding[0] and route.request.method != "DELETE":
            route.fulfill(status=202, json=answer or SLOW)
        else:
            route.continue_()

    page.route(re.compile(r"/work(\?.*)?$"), answered)
    return go_on


def states(page: Page) -> list[str]:
    return [item.get_attribute("class") or "" for item in page.locator("#film li").all()]


@pytest.mark.parametrize(("page", "name"), [(DESKTOP, "desktop"), (PHONE, "phone")], indirect=["page"])
def test_six_pictures_one_of_them_broken(page: Any, name: str, album: list[Path]) -> None:
    go_on = hold_work(page)
    choose(page, *album)
    expect(page.locator("#busy-words")).to_have_text("Restoring, 25 %, about 2 min left")
    assert states(page) == ["working", *["waiting"] * 5]
    expect(page.locator("#film li").first).to_contain_text("Restoring 25 %")
    expect(page.locator(".tag.right")).to_have_text("After, working on it")
    expect(page.locator("#veil")).to_be_visible()
    expect(page.locator("#check dd")).to_have_count(0)
    keep(page, f"{name}-queue-working")
    assert problems_of(page) == []
    go_on()
    expect(page.locator("#queue-words")).to_have_text("5 of 6 done, 1 failed")
    assert states(page) == ["done", "done", "failed", "done", "done", "done"]
    keep(page, f"{name}-queue-done")
    page.locator("#film .pick").nth(2).click()
    expect(page.locator("#stopped-words")).to_contain_text("3.jpg is a damaged JPEG")
    expect(page.locator("#stopped-words")).not_to_contain_text("salvage")
    keep(page, f"{name}-queue-failed")
    assert problems_of(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("button", name="Restore what is left").click()
    wait_until_restored(page)
    expect(page.locator("#queue-words")).to_have_text("6 of 6 done")
    expect(page.locator("#facts")).to_contain_text("A damaged JPEG.")
    archive = zipfile.ZipFile(io.BytesIO(downloaded(page, "#download-all")))
    assert len(archive.namelist()) == 6
    np.testing.assert_array_equal(decoded(archive.read("4.restored.png")), unjpeg.restore(album[3]).pixels)
    saved = unjpeg.restore(album[2], salvage=True).pixels
    np.testing.assert_array_equal(decoded(archive.read("3.restored.png")), saved)


def test_a_finished_picture_is_there_while_others_are_at_work(page: Any, album: list[Path]) -> None:
    upload(page, album[0])
    hold_work(page)
    choose(page, *album[3:5])
    expect(page.locator("#film li.working")).to_have_count(1)
    page.locator("#film .pick").first.click()
    expect(page.locator("#busy")).to_be_hidden()
    expect(page.locator(".tag.right")).to_have_text("After")
    expect(page.locator("#check dd").first).to_contain_text("Yes.")
    got = downloaded(page, "#download")
    np.testing.assert_array_equal(decoded(got), unjpeg.restore(album[0]).pixels)


def test_cancel_while_waiting_and_at_work(page: Any, album: list[Path]) -> None:
    go_on = hold_work(page)
    choose(page, *album[3:6])
    expect(page.locator("#busy-share")).to_be_visible()
    page.get_by_role("button", name="Cancel 6.jpg").click()
    assert states(page) == ["working", "waiting", "cancelled"]
    with page.expect_request(lambda request: request.method == "DELETE" and request.url.endswith("/work")):
        page.locator("#cancel").click()
    expect(page.locator("#stopped-title")).to_have_text("Cancelled")
    expect(page.locator("#film li.working")).to_contain_text("5.jpg")
    keep(page, "desktop-cancelled")
    assert problems_of(page) == []
    go_on()
    expect(page.locator("#queue-words")).to_have_text("1 of 3 done, 2 cancelled")
    page.locator("#again").click()
    wait_until_restored(page)
    expect(page.locator("#queue-words")).to_have_text("2 of 3 done, 1 cancelled")
    page.get_by_role("button", name="Remove 6.jpg").click()
    expect(page.locator("#queue-words")).to_have_text("2 of 2 done")


def test_a_real_cancel_frees_the_server(page: Any, address: str, kitten: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    large.write_bytes(encoded(np.tile(decoded(kitten.read_bytes()), (4, 4, 1)), quality=20))
    choose(page, large)
    expect(page.locator("#busy-share")).to_be_visible()
    page.locator("#cancel").click()
    expect(page.locator("#stopped-title")).to_have_text("Cancelled")
    for _ in range(600):
        if page.request.get(f"{address}api/health").json()["requests_at_work"] == 0:
            break
        page.wait_for_timeout(100)
    page.locator("#remove").click()
    upload(page, kitten)


def test_a_slow_picture_on_a_slow_machine_is_never_dropped(page: Any, album: list[Path]) -> None:
    page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": 6})
    answers = iter(
        [
            (503, {"error": {"kind": "BusyError", "message": "the server is busy with 32 requests"}}),
            (202, {"state": "waiting", "share": 0, "seconds_left": None}),
            (202, SLOW),
            (None, {}),
            (404, {"error": {"kind": "PictureGoneError", "message": "this picture is no longer held"}}),
            (202, {"state": "working", "share": 0.9, "seconds_left": None}),
            (200, {"state": "cancelled", "share": 0, "seconds_left": None}),
        ]
    )

    def answered(route: Any) -> None:
        status, body = next(answers, (0, {}))
        if status is None:
            route.abort()
        elif status == 0:
            route.continue_()
        else:
            route.fulfill(status=status, json=body, headers={"retry-after": "1"})

    page.route(re.compile(r"/work(\?.*)?$"), answered)
    upload(page, album[0])
    assert next(answers, None) is None
    expect(page.locator("#check dd").first).to_contain_text("Yes.")
    expect(page.locator("#problem")).to_be_empty()


def test_the_check_mark_goes_while_rendering(page: Any, kitten: Path) -> None:
    upload(page, kitten)
    expect(page.locator("#check dd.good")).to_have_count(1)
    go_on = hold_work(page)
    page.locator("#strength").fill("40")
    expect(page.locator("#check dd")).to_have_count(0)
    expect(page.locator("#check-waits")).to_have_text("Checked when it is restored.")
    expect(page.locator(".tag.right")).to_have_text("After, being renewed")
    go_on()
    wait_until_restored(page)
    expect(page.locator("#check dd.good")).to_have_count(1)
    np.testing.assert_array_equal(decoded(downloaded(page, "#download")), unjpeg.restore(kitten, strength=0.4).pixels)


def test_models_with_their_times(page: Any, kitten: Path) -> None:
    upload(page, kitten)
    expect(page.locator("#model-choices label")).to_have_count(3)
    expect(page.locator("#model-choices")).not_to_contain_text("measuring")
    assert re.fullmatch(
        r"Fast\s+(under|about) \d+ (s|min)\s+Default\s+(under|about) \d+ (s|min)\s+Best\s+(under|about) \d+ (s|min)",
        page.locator("#model-choices").inner_text(),
    )
    page.get_by_role("radio", name="Fast").check(force=True)
    wait_until_restored(page)
    np.testing.assert_array_equal(decoded(downloaded(page, "#download")), unjpeg.restore(kitten, model="fast").pixels)


def test_settings_are_a_picture_s_own_until_they_are_for_all(page: Any, album: list[Path]) -> None:
    choose(page, *album[3:5])
    expect(page.locator("#queue-words")).to_have_text("2 of 2 done")
    expect(page.locator("#for-all")).to_be_hidden()
    page.locator("#strength").fill("30")
    wait_until_restored(page)
    page.locator("#film .pick").nth(1).click()
    expect(page.locator("#strength")).to_have_value("100")
    page.locator("#film .pick").nth(0).click()
    expect(page.locator("#strength")).to_have_value("30")
    page.locator("#for-all").click()
    expect(page.locator("#for-all")).to_be_hidden()
    archive = zipfile.ZipFile(io.BytesIO(downloaded(page, "#download-all")))
    for name, file in zip(archive.namelist(), album[3:5], strict=True):
        np.testing.assert_array_equal(decoded(archive.read(name)), unjpeg.restore(file, strength=0.3).pixels)


def test_a_large_picture_is_shown_reduced_and_sharp_where_one_looks(page: Any, tmp_path: Path, kitten: Path) -> None:
    large = tmp_path / "large.jpg"
    pixels = np.tile(decoded(kitten.read_bytes()), (1, 4, 1))[:300]
    large.write_bytes(encoded(pixels, quality=30))
    with page.expect_request(re.compile(r"/decoded\?reduce=2$")):
        choose(page, large)
    page.get_by_role("radio", name="Fast").check(force=True)
    wait_until_restored(page)
    assert page.locator("#after .base").evaluate("e => e.naturalWidth") == 1440
    with page.expect_response(re.compile(r"/restored\?.*area=.*reduce=1")):
        page.click("#zoom-pixel")
    page.locator("input[name=view][value=after]").check(force=True)
    expect(page.locator("#after .detail")).to_have_attribute("src", re.compile("^blob:"))
    page.evaluate("document.querySelectorAll('.tag').forEach(e => e.style.visibility = 'hidden')")
    shown = seen(page)
    x, y = page.locator("#after .base").evaluate(
        "e => [new DOMMatrix(e.style.transform).e, new DOMMatrix(e.style.transform).f]"
    )
    restored = decoded(downloaded(page, "#download"))
    top = round(y)
    there = shown[top : top + 300, :, :3]
    np.testing.assert_array_equal(there, restored[:, -round(x) : -round(x) + shown.shape[1]])
