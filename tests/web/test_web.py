"""The HTTP interface, in its own processes, with the small model."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import unjpeg
from exif_blocks import exif_block
from jpegs import claiming, decoded, encoded, frame_header, opened, picture, saved, with_segment
from unjpeg.errors import BadImageError, BusyError, PictureGoneError, TimeLimitError, TooLargeError
from unjpeg.jpeg import Limits as PictureLimits
from unjpeg.layers import EarlierJpeg
from unjpeg.picture import read_picture
from unjpeg.precision import Choice
from unjpeg.projection import measure_consistency
from unjpeg.restorer import Report, Restorer

pytest.importorskip("fastapi", reason="needs the extra web")
from fastapi.testclient import TestClient

from unjpeg.cli import app as command
from unjpeg.restorer import Options
from unjpeg.web import words
from unjpeg.web.app import create_app
from unjpeg.web.darkroom import Darkroom, FileKind
from unjpeg.web.workers import ServerLimits, Workers

ROOT = Path(__file__).parents[2]
FULL = Choice("full", "measured")
LIMITS = ServerLimits(upload_bytes=2**20, pixels=1_000_000, seconds=300, requests=12)

JPEG = encoded(picture(48, 72), quality=20)


def with_exif(data: bytes, orientation: int = 1) -> bytes:
    image = opened(data)
    exif = image.getexif()
    exif[0x0112] = orientation
    exif[0x010F] = "A camera"
    return saved(image, exif=exif, icc_profile=b"not a profile, but carried over", quality=30)


@pytest.fixture(scope="module")
def client(tiny_model: Path) -> Iterator[TestClient]:
    app = create_app(str(tiny_model), limits=LIMITS, workers=2, threads=1, allowed_hosts=["Pictures.Example"])
    with TestClient(app, base_url="http://localhost") as client:
        yield client


def error_of(response: Any) -> tuple[int, str]:
    """Status and kind; the answer has the one shape that errors have."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() - {"salvageable"} == {"kind", "message"}
    return response.status_code, body["error"]["kind"]


def held(client: TestClient, data: bytes) -> str:
    response = client.post("/api/pictures", content=data)
    assert response.status_code == 201, response.text
    key: str = response.json()["key"]
    return key


def expected_file(data: bytes, model: Path, options: dict[str, Any], **saving: Any) -> bytes:
    buffer = io.BytesIO()
    unjpeg.restore(data, model=model, **options).save(buffer, **saving)
    return buffer.getvalue()


# The same as the library


@pytest.mark.parametrize(
    ("query", "options", "saving"),
    [
        ("", {}, {"format": "png"}),
        ("strength=0.4&quality=30&consistency=off", {"strength": 0.4, "quality": 30, "consistency": "off"}, {}),
        ("strength=0", {"strength": 0}, {}),
        ("format=tiff&bit_depth=16", {"bit_depth": 16}, {"format": "tiff"}),
        ("format=jpeg&output_quality=60", {}, {"format": "jpeg", "quality": 60}),
        ("format=webp", {}, {"format": "webp"}),
        ("format=avif&output_quality=50", {}, {"format": "avif", "quality": 50}),
        ("detail=0.25&dither=true&tag=true", {"detail": 0.25, "dither": True}, {"tag": True}),
        ("format=jpeg&output_size=input", {}, {"format": "jpeg", "output_size": "input"}),
        ("format=jpeg&output_size=3KB", {}, {"format": "jpeg", "output_size": 3000}),
    ],
)
def test_files_are_those_of_the_library(
    query: str, options: dict[str, Any], saving: dict[str, Any], client: TestClient, tiny_model: Path
) -> None:
    data = with_exif(JPEG, orientation=6)
    expected = expected_file(data, tiny_model, options, **saving)
    response = client.post(f"/api/restore?{query}", content=data)
    assert response.status_code == 200, response.text
    assert response.content == expected
    report = json.loads(response.headers["unjpeg-report"])
    assert (report["stated_quality"], report["strength"]) == (30, options.get("strength", 1.0))
    again = client.get(f"/api/pictures/{held(client, data)}/file?{query}")
    assert again.content == expected
    note = json.loads(again.headers.get("unjpeg-note", "null"))
    assert note == (report["notes"][-1] if "output_size" in query else None)
    name = re.search('filename="(.+)"', again.headers["content-disposition"])
    assert name is not None
    assert name[1].startswith("restored.")
    assert again.headers["cache-control"] == "no-store"


def test_views_are_upright_and_have_the_profile(client: TestClient, tiny_model: Path) -> None:
    data = with_exif(encoded(picture(48, 72), quality=20), orientation=6)
    key = held(client, data)
    for view, pixels in (
        ("decoded", decoded(data)),
        ("restored?strength=0.7", unjpeg.restore(data, model=tiny_model, strength=0.7).pixels),
    ):
        response = client.get(f"/api/pictures/{key}/{view}")
        shown = opened(response.content)
        np.testing.assert_array_equal(np.asarray(shown), np.rot90(pixels, -1))
        assert shown.info["icc_profile"] == b"not a profile, but carried over"
        assert not shown.getexif()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
def test_the_residual_is_the_amplified_change(mode: str, tiny_model: Path, lively_restorer: Restorer) -> None:
    colour = opened(encoded(picture(40, 56), quality=10)).convert(mode)
    data = saved(colour, "PNG")
    room = Darkroom(lively_restorer, limits=PictureLimits(pixels=10_000), held_bytes=2**20, held_seconds=60)
    room.open(data, "a")
    shown = np.asarray(opened(room.show("a", "residual", Options(), 4))).astype(float)
    restored = lively_restorer.restore(data).pixels.astype(float)
    before = decoded(data).astype(float)
    if mode in ("RGBA", "LA"):
        restored, before = restored[..., :-1].squeeze(), before[..., :-1].squeeze()
    assert np.abs(restored - before).max() > 5
    np.testing.assert_array_equal(shown, np.clip(128 + 4 * (restored - before), 0, 255))


def test_the_check_is_verify_s(client: TestClient, tiny_model: Path) -> None:
    key = held(client, JPEG)
    for query, options in (("", {}), ("?consistency=off&strength=0.9", {"consistency": "off", "strength": 0.9})):
        answer = client.get(f"/api/pictures/{key}/check{query}").json()
        result = unjpeg.restore(JPEG, model=tiny_model, **options)  # type: ignore[arg-type]
        verification = unjpeg.verify(JPEG, result.pixels)
        assert answer["consistent"] is verification.is_consistent
        assert answer["share_inside"] == verification.consistency.share_inside
        assert answer["report"]["projected"] is result.report.projected
    blind = client.get(f"/api/pictures/{held(client, saved(picture(16, 16), 'PNG'))}/check").json()
    assert (blind["consistent"], blind["share_inside"]) == (None, None)


def test_inspect(client: TestClient, tiny_model: Path) -> None:
    answer = client.post("/api/inspect", content=JPEG).json()
    inspection = unjpeg.inspect(JPEG, model=tiny_model)
    assert (answer["width"], answer["height"], answer["read_quality"]) == (72, 48, inspection.read_quality)
    assert answer["inspection"]["stated_quality"] == 20
    assert answer["inspection"]["tables"] == [[list(row) for row in table] for table in inspection.tables]


# What is computed once


def test_only_another_quality_runs_the_network_again(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restorer = Restorer(tiny_model)
    ran = []
    run_network = restorer.run_network

    def counted(*arguments: Any, **options: Any) -> Any:
        ran.append(arguments[-1].quality)
        return run_network(*arguments, **options)

    monkeypatch.setattr(restorer, "run_network", counted)
    room = Darkroom(restorer, limits=PictureLimits(pixels=10_000), held_bytes=2**20, held_seconds=60)
    room.open(JPEG, "a")
    for look in (Options(), Options(strength=0.5), Options(strength=0), Options(strength=0.5, consistency="off")):
        room.show("a", "restored", look, 1)
        room.check("a", look)
        room.show("a", "residual", look, 8)
        room.save("a", look, FileKind())
        room.save("a", replace(look, bit_depth=16), FileKind("tiff"))
    assert ran == [None]
    room.show("a", "restored", Options(quality=40), 1)
    assert ran == [None, 40]


def test_pictures_make_room_for_newer_ones(tiny_restorer: Restorer) -> None:
    room = Darkroom(tiny_restorer, limits=PictureLimits(pixels=10_000), held_bytes=60_000, held_seconds=60)
    for key in "abc":  # 24 kB each before the network ran
        room.open(JPEG, key)
        room.show("a", "decoded", Options(), 1)  # keeps it the latest used
    with pytest.raises(PictureGoneError):
        room.show("b", "decoded", Options(), 1)
    room.show("c", "restored", Options(), 1)  # too much together with the other
    with pytest.raises(PictureGoneError):
        room.show("a", "decoded", Options(), 1)
    room.open(encoded(picture(96, 100)), "too large for all, held alone")
    room.show("too large for all, held alone", "restored", Options(), 1)


def test_pictures_expire(tiny_restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    room = Darkroom(tiny_restorer, limits=PictureLimits(pixels=10_000), held_bytes=2**20, held_seconds=60)
    room.open(JPEG, "old")
    now += 40
    room.open(JPEG, "new")
    now += 30
    room.expire()
    room.show("new", "decoded", Options(), 1)
    with pytest.raises(PictureGoneError):
        room.show("old", "decoded", Options(), 1)


def test_closed_pictures_are_gone(client: TestClient) -> None:
    key = held(client, JPEG)
    assert client.delete(f"/api/pictures/{key}").status_code == 204
    assert error_of(client.get(f"/api/pictures/{key}/decoded")) == (404, "PictureGoneError")
    assert client.delete(f"/api/pictures/{key}").status_code == 204
    for stranger in (f"0{key[1:-1]}_", f"1{key[1:]}", f"999{key[1:]}"):
        assert error_of(client.get(f"/api/pictures/{stranger}/file")) == (404, "PictureGoneError")


# What is refused


def progressive(scans: int) -> bytes:
    data = saved(opened(JPEG), progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * scans + data[-2:]


CORRUPT = JPEG[:-300] + b"\xff\xd0\x00\x13" * 20 + JPEG[-300:]
HOSTILE: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", 422, "BadImageError"),
    "text": (b"#!/bin/sh\nrm -rf /\n", 422, "BadImageError"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 422, "BadImageError"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='/etc/passwd'/></svg>", 422, "BadImageError"),
    "most of a JPEG": (JPEG[:-200], 422, "BadImageError"),
    "a corrupt JPEG": (CORRUPT, 422, "BadImageError"),
    "a JPEG bomb": (claiming(JPEG, width=65_000, height=65_000), 413, "TooLargeError"),
    "a PNG bomb": (saved(np.zeros((1100, 1000), np.uint8), "PNG"), 413, "TooLargeError"),
    "thousands of scans": (progressive(2000), 415, "UnsupportedImageError"),
    "too many bytes": (JPEG + b"\0" * 2**20, 413, "TooLargeError"),
    "a lossless JPEG": (
        JPEG[: frame_header(JPEG)] + b"\xff\xc3" + JPEG[frame_header(JPEG) + 2 :],
        415,
        "UnsupportedImageError",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("address", ["/api/restore", "/api/pictures", "/api/inspect"])
def test_hostile_files_get_their_error(kind: str, address: str, client: TestClient) -> None:
    data, status, error = HOSTILE[kind]
    assert error_of(client.post(address, content=data)) == (status, error)


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("strength=1.01", "strength: must be less than or equal to 1"),
        ("strength=nan", "strength: "),
        ("quality=0", "quality: "),
        ("quality=high", "quality: must be a valid integer"),
        ("consistency=maybe", "consistency: "),
        ("format=gif", "format: "),
        ("bit_depth=12", "bit_depth: "),
        ("bit_depth=x", "bit_depth: must be 8 or 16"),
        ("output_quality=101", "output_quality: "),
        ("format=jpeg&output_size=many", "output_size: 'many' is no size"),
        ("output_quality=60", "png is lossless and has no output_quality"),
        ("format=jpeg&output_size=10", "this file: cannot be written as jpeg"),
        ("output_size=input", "a size can be asked of jpeg only, not of png"),
        ("path=/etc/passwd", "path: is no parameter of this address; api/openapi.json"),
        ("format=jpeg&bit_depth=16", "jpeg holds no 16-bit"),
    ],
)
def test_wrong_parameters_are_named(query: str, problem: str, client: TestClient) -> None:
    response = client.post(f"/api/restore?{query}", content=JPEG)
    assert error_of(response)[0] == 422
    assert response.json()["error"]["message"].startswith(problem)


def test_uploads_are_bytes(client: TestClient, kitten: Path) -> None:
    form = client.post("/api/restore", files={"file": ("../../photo.jpg", JPEG)})
    assert error_of(form) == (415, "RequestError")
    assert "--data-binary" in form.json()["error"]["message"]
    assert error_of(client.post("/api/restore", content=str(kitten).encode())) == (422, "BadImageError")


def test_a_body_without_a_length_is_limited_too(client: TestClient) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b"\xff" * 2**17

    assert error_of(client.post("/api/restore", content=chunks())) == (413, "TooLargeError")


@pytest.mark.parametrize(
    "address",
    [
        "/page/",
        "/examples/",
        "/examples",
        "/../pyproject.toml",
        "/%2e%2e/app.py",
        "/app.py",
        "/docs",
        "/examples/x.jpg",
    ],
)
def test_nothing_else_is_served(address: str, client: TestClient) -> None:
    response = client.get(address)
    assert error_of(response) == (404, "RequestError")
    assert "the page is at /" in response.json()["error"]["message"]


def test_wrong_methods_and_keys(client: TestClient) -> None:
    assert error_of(client.get("/api/restore")) == (405, "RequestError")
    assert client.get("/api/restore").headers["allow"] == "POST"
    assert client.get("/api/restore").json()["error"]["message"] == "this address takes POST"
    assert client.head("/").status_code == 200
    assert error_of(client.get("/api/pictures/..%2F..%2Fetc/file"))[0] in (404, 422)
    short = client.get("/api/pictures/0-short/file")
    assert error_of(short) == (422, "ParameterError")
    assert short.json()["error"]["message"] == "key: is none that POST api/pictures gave"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8484", 200),
        ("127.0.0.1:8484", 200),
        ("[::1]:8484", 200),
        ("192.168.1.5", 200),
        ("pictures.example", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
def test_only_known_names(host: str, status: int, client: TestClient) -> None:
    response = client.get("/api/health", headers={"host": host})
    assert response.status_code == status
    if status != 200:
        assert error_of(response) == (421, "HostError")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://localhost"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_other_sites_pages_cannot_ask(headers: dict[str, str], status: int, client: TestClient) -> None:
    assert client.post("/api/restore?strength=0", content=JPEG, headers=headers).status_code == status


# Many at once


def test_requests_at_once_are_not_mixed_up(client: TestClient, tiny_model: Path) -> None:
    files = [encoded(picture(40 + 8 * n, 64, n), quality=15 + n) for n in range(6)]
    expected = [unjpeg.restore(data, model=tiny_model).pixels for data in files]

    def both(data: bytes) -> list[NDArray[np.uint8]]:
        key = held(client, data)
        views = [client.get(f"/api/pictures/{key}/restored") for _ in range(2)]
        return [decoded(answer.content) for answer in (client.post("/api/restore", content=data), *views)]

    with ThreadPoolExecutor(6) as threads:
        for answers, right in zip(threads.map(both, files * 2), expected * 2, strict=True):
            for answer in answers:
                np.testing.assert_array_equal(answer, right)
    assert client.get("/api/health").json()["requests_at_work"] == 0


@pytest.fixture
def team(tiny_model: Path, request: pytest.FixtureRequest) -> Iterator[Workers]:
    """One worker, with the limit in seconds that the test names."""
    limits = ServerLimits(seconds=request.param, requests=2)
    workers = Workers({str(tiny_model): FULL}, count=1, threads=1, limits=limits)
    yield workers
    workers.stop()


def leave_a_file_and_sleep(seconds: float) -> None:
    import tempfile

    tempfile.mkstemp()
    time.sleep(seconds)


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("team", [2], indirect=True)
def test_a_worker_that_hangs_or_crashes_is_replaced(team: Workers) -> None:
    folder = team._folder

    async def trial() -> None:
        with pytest.raises(TimeLimitError, match="2 seconds"):
            await team.run(0, leave_a_file_and_sleep, 10_000)
        assert files_below(folder) == []
        with pytest.raises(BadImageError, match="brought down"):
            await team.run(0, crash)
        assert await team.run(0, abs, -3) == 3

    asyncio.run(trial())
    team.stop()
    assert not folder.exists()


def test_idle_workers_take_turns(tiny_model: Path) -> None:
    team = Workers({str(tiny_model): FULL}, count=3, threads=1, limits=LIMITS)
    try:
        assert [team.idlest() for _ in range(5)] == [0, 1, 2, 0, 1]
    finally:
        team.stop()


@pytest.mark.parametrize("team", [2], indirect=True)
def test_a_file_is_not_blamed_for_a_worker_that_died_before_it_came(team: Workers) -> None:
    async def trial() -> None:
        number = await team.run(0, os.getpid)
        os.kill(number, signal.SIGKILL)
        assert await team.run(0, abs, -3) == 3

    asyncio.run(trial())
    team.stop()


@pytest.mark.parametrize("team", [0.2], indirect=True)
def test_who_waits_too_long_or_left_is_not_served(team: Workers) -> None:
    async def left() -> bool:
        return True

    async def trial() -> None:
        lock = team._slots[0].lock
        async with lock:  # somebody else is at it
            with pytest.raises(BusyError, match="too busy"):
                await team.run(0, abs, 1)
        with pytest.raises(BusyError, match="given up"):
            await team.run(0, abs, 1, abandoned=left)
        await asyncio.sleep(0)
        assert not lock.locked()
        with team.admitted(), team.admitted():
            assert team.at_work == 2
            with pytest.raises(BusyError, match="2 requests"), team.admitted():
                pass
        assert team.at_work == 0

    asyncio.run(trial())


@pytest.mark.parametrize("team", [300], indirect=True)
def test_a_given_up_job_keeps_the_worker_until_it_is_done(team: Workers) -> None:
    async def trial() -> None:
        process = await team.run(0, os.getpid)
        job = asyncio.create_task(team.run(0, time.sleep, 0.5))
        await asyncio.sleep(0.1)
        job.cancel()
        await asyncio.sleep(0.1)
        assert team._slots[0].lock.locked()
        assert await team.run(0, os.getpid) == process

    asyncio.run(trial())


@pytest.mark.parametrize("team", [300], indirect=True)
def test_a_worker_that_was_killed_at_rest_is_replaced(team: Workers) -> None:
    async def trial() -> None:
        process = await team.run(0, os.getpid)
        os.kill(process, signal.SIGKILL)
        while team._slots[0]._pool.active:
            await asyncio.sleep(0.05)
        assert await team.run(0, os.getpid) != process

    asyncio.run(trial())


def test_a_full_queue_says_so(tiny_model: Path) -> None:
    app = create_app(str(tiny_model), limits=ServerLimits(requests=0), threads=1)
    with TestClient(app, base_url="http://localhost") as client:
        for response in (client.post("/api/restore", content=JPEG), client.post("/api/inspect", content=JPEG)):
            assert error_of(response) == (503, "BusyError")
            assert response.headers["retry-after"] == "2"
        assert client.get("/api/health").status_code == 200


# The page


def test_the_page_brings_everything_along(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert page.headers["x-content-type-options"] == "nosniff"
    named = set(re.findall(r'(?:src|href)="([^"#]+)"', page.text))
    assert {"page.css", "page.js", "icon.svg", "examples/kitten.jpg"} <= named
    for address in named:
        assert client.get(f"/{address}").status_code == 200
    assert not re.search(r"\bstyle=|\bon[a-z]+=|<script>|<style>", page.text)
    for address in ("", "page.css", "page.js", "server.js", "zip.js"):
        assert not re.search(r"(https?:)?//[\w-]+\.\w|@import", client.get(f"/{address}").text)


def test_the_examples(client: TestClient, kitten: Path) -> None:
    assert client.get("/examples/kitten.jpg").content == kitten.read_bytes()
    inspection = unjpeg.inspect(client.get("/examples/beach-saved-twice.jpg").content)
    assert (inspection.stated_quality, inspection.looks_compressed_twice) == (85, True)


def test_the_interface_is_documented(client: TestClient) -> None:
    described = client.get("/api/openapi.json").json()["paths"]
    documented = (ROOT / "docs" / "page.md").read_text()
    for address, methods in described.items():
        for method in methods:
            assert f"`{method.upper()} {address}`" in documented


# Words


def fact(facts: list[words.Fact], title: str) -> words.Fact:
    return next(fact for fact in facts if fact.title == title)


def in_words(data: bytes, model: Path) -> list[words.Fact]:
    source = read_picture(data)
    return words.file_in_words(source, unjpeg.inspect(data, model=model))


def test_a_file_in_words(tiny_model: Path) -> None:
    facts = in_words(with_exif(encoded(picture(300, 400), quality=20)), tiny_model)
    assert fact(facts, "Size").text == "400 x 300 pixels, 0.1 megapixels."
    assert fact(facts, "Saved at").text.startswith("JPEG quality 30 of 100: strong compression")
    assert "4:2:0" in fact(facts, "Colour detail").text
    assert fact(facts, "Also in the file").text == "Camera data (EXIF) and colour profile: kept in the download."
    grey = in_words(encoded(picture(48, 72), "grey", quality=95), tiny_model)
    assert "no colour" in fact(grey, "Colour detail").text
    assert "very light" in fact(grey, "Saved at").text
    assert fact(grey, "Also in the file").text == "Nothing."
    said = in_words(with_segment(encoded(picture(48, 72)), 0xFE, b"a word"), tiny_model)
    only_in_some = "A comment: kept in the download. WebP and AVIF have no place for captions and comments."
    assert fact(said, "Also in the file").text == only_in_some
    blind = in_words(saved(picture(16, 16), "PNG"), tiny_model)
    assert fact(blind, "Kind of file").tone == "careful"


def test_a_result_in_words(tiny_restorer: Restorer) -> None:
    data = encoded(picture(48, 72), quality=85)
    source = read_picture(data)
    assert source.jpeg is not None
    earlier = EarlierJpeg(0, 0, 48, 72, 4, 4, 20, True, "4:2:0", False, False, ())
    report = Report("x", 72, 48, "m", "h", 1.0, 85, 20, 20, False, history="compressed", earlier=(earlier,))

    def said(pixels: NDArray[np.uint8]) -> list[words.Fact]:
        assert source.jpeg is not None
        jpeg = source.jpeg
        return words.check_in_words(
            report, measure_consistency(pixels, jpeg.components, jpeg.header.colour_space, jpeg.pixels)
        )

    strict = tiny_restorer.restore(data, consistency="strict").pixels
    (true,) = said(strict.astype(np.uint8))
    assert (true.tone, true.text[:4]) == ("good", "Yes.")
    other, twice = said(source.pixels // 2)
    assert twice.text.startswith("The damage was done before this file was saved.")
    assert other.tone == "careful"
    assert re.match(r"Not quite: [\d.]+ % of its details", other.text)
    assert words.check_in_words(report, None)[0].text.startswith("Cannot be said: only a JPEG")


# The command


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(command, ["serve", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stderr


def test_serve_says_what_is_wrong(
    tiny_model: Path, child_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def line(*arguments: str, code: int = 1) -> str:
        program = [sys.executable, "-m", "unjpeg", "serve", *arguments]
        ran = subprocess.run(program, env=child_environment, capture_output=True, text=True, check=False, timeout=300)
        assert (ran.returncode, ran.stdout) == (code, "")
        (only,) = ran.stderr.splitlines()
        return only

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert re.match(rf"unjpeg: 127.0.0.1:{port}: cannot be listened on \(.+\); choose", line("--port", port))
    assert "no such model" in line("--model", "missing.unjpeg", code=2)
    assert "cannot be listened on" in line("--host", "no.such.host.invalid", "--port", "0")
    assert run("--port", "70000")[0] == 2
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "unjpeg.web.app")
    with pytest.raises(unjpeg.UnjpegError, match=r"pip install 'unjpeg\[web\]'"):
        run()


@pytest.mark.parametrize(
    ("how", "code"),
    [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGHUP, -signal.SIGTERM)],
)
def test_serve_ends_when_told(
    how: signal.Signals, code: int, tiny_model: Path, child_environment: dict[str, str], tmp_path: Path
) -> None:
    program = [sys.executable, "-m", "unjpeg", "serve", "--port", "0", "--model", str(tiny_model)]
    environment = child_environment | {"TMPDIR": str(tmp_path)}

    def hear_all() -> None:  # the tests themselves may run under nohup
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    with subprocess.Popen(program, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=hear_all) as server:
        assert server.stderr is not None
        said = server.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", said)
        assert found is not None, said
        import httpx2

        answer = httpx2.post(f"http://127.0.0.1:{found[1]}/api/restore", content=JPEG, timeout=300)
        assert answer.status_code == 200
        assert files_below(tmp_path) == []
        assert list(tmp_path.iterdir()) != []
        server.send_signal(how)
        assert server.wait(120) == code
        assert "Traceback" not in server.stderr.read()
    assert list(tmp_path.iterdir()) == []


def test_too_large_is_said_before_it_is_read(tiny_restorer: Restorer) -> None:
    room = Darkroom(tiny_restorer, limits=PictureLimits(pixels=1000), held_bytes=0, held_seconds=1)
    with pytest.raises(TooLargeError, match="this file: its header says"):
        room.open(JPEG, "a")


def test_exif_survives(client: TestClient) -> None:
    data = saved(opened(JPEG), exif=b"Exif\0\0" + exif_block("<"), quality=50)
    result = opened(client.post("/api/restore", content=data).content)
    assert result.getexif()


def test_what_is_left_of_a_damaged_file_is_offered(client: TestClient, tiny_model: Path) -> None:
    cut = encoded(picture(120, 80), quality=80)[:-900]
    for address in ("/api/restore", "/api/pictures"):
        refused = client.post(address, content=cut)
        assert error_of(refused) == (422, "BadImageError")
        assert re.search(r"salvage=true restores \d+ of its 120 rows", refused.json()["error"]["message"])
    expected = expected_file(cut, tiny_model, {"salvage": True}, format="png")
    assert client.post("/api/restore?salvage=true", content=cut).content == expected
    opened_anyway = client.post("/api/pictures?salvage=true", content=cut).json()
    assert client.get(f"/api/pictures/{opened_anyway['key']}/file").content == expected
    assert "A damaged JPEG" in json.dumps(opened_anyway["facts"])
    assert "It is restored as that JPEG" not in json.dumps(opened_anyway["facts"])
    assert client.post("/api/inspect?salvage=true", content=cut).json()["facts"] == opened_anyway["facts"]
    said = client.get(f"/api/pictures/{opened_anyway['key']}/check").json()["facts"]
    assert any(fact["title"] == "Note" and "rows are missing" in fact["text"] for fact in said)
    assert not any(fact["title"] == "Saved twice" for fact in said)
    assert "amaged" not in json.dumps(said)  # the file's facts say it
