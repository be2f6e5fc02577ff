"""Work that is started, watched and cancelled; models with the time they take; parts of large pictures."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import unjpeg
from jpegs import decoded, encoded, opened, picture, saved
from unjpeg.errors import BusyError
from unjpeg.jpeg import Limits
from unjpeg.modelfile import ModelFile
from unjpeg.network import Guidance
from unjpeg.picture import read_picture
from unjpeg.restorer import Options, Restorer
from unjpeg.tiling import TiledNetwork, Tiling

pytest.importorskip("fastapi", reason="needs the extra web")
from fastapi.testclient import TestClient

from unjpeg.precision import Choice
from unjpeg.web import darkroom, words
from unjpeg.web.app import create_app, is_private
from unjpeg.web.darkroom import Darkroom
from unjpeg.web.gauges import Gauges, Pace, Sight, expect_seconds, left_of
from unjpeg.web.jobs import Jobs
from unjpeg.web.workers import ServerLimits, Workers

JPEG = encoded(picture(96, 144), quality=20)
LIMITS = ServerLimits(upload_bytes=2**20, pixels=1_000_000, seconds=None, requests=12)


@pytest.fixture(scope="module")
def client(tiny_model: Path) -> Iterator[TestClient]:
    """With two models."""
    app = create_app(str(tiny_model), "fast", limits=LIMITS, threads=1)
    with TestClient(app, base_url="http://localhost") as client:
        yield client


def held(client: TestClient, data: bytes) -> str:
    response = client.post("/api/pictures", content=data)
    assert response.status_code == 201, response.text
    key: str = response.json()["key"]
    return key


def finished(client: TestClient, key: str, query: str = "") -> dict[str, Any]:
    """The last answer about a picture's work, which is started."""
    answer = client.post(f"/api/pictures/{key}/work{query}")
    while answer.status_code == 202:
        time.sleep(0.05)
        answer = client.get(f"/api/pictures/{key}/work")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


# Work


def test_work_is_started_and_watched(client: TestClient, tiny_model: Path) -> None:
    key = held(client, JPEG)
    assert client.get(f"/api/pictures/{key}/work").status_code == 404
    assert finished(client, key, "?strength=0.5") == {"state": "done", "share": 1.0, "seconds_left": 0.0}
    expected = unjpeg.restore(JPEG, model=tiny_model, strength=0.5).pixels
    shown = client.get(f"/api/pictures/{key}/restored?strength=0.5")
    np.testing.assert_array_equal(decoded(shown.content), expected)
    assert client.get("/api/health").json()["requests_at_work"] == 0
    assert client.post("/api/pictures/7-AAAAAAAAAAAAAAAAAAAAAA/work").status_code == 404
    client.delete(f"/api/pictures/{key}")
    assert client.post(f"/api/pictures/{key}/work").status_code in (202, 404)


@pytest.fixture
def slow_team(tiny_model: Path) -> Iterator[Workers]:
    """One worker without a limit."""
    limits = ServerLimits(requests=2, seconds=None)
    team = Workers({str(tiny_model): Choice("full", "measured")}, count=1, threads=1, limits=limits)
    yield team
    team.stop()


def test_work_is_cancelled_while_it_waits_and_while_it_runs(
    slow_team: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops: list[int] = []
    release = asyncio.Event()

    def stop_work(number: int) -> None:
        stops.append(number)
        release.set()

    async def run(number: int, function: Any, *arguments: Any, abandoned: Any) -> None:
        async with slow_team._slots[number].lock:
            if await abandoned():
                raise BusyError("the request was given up")
            await release.wait()
            if stops:
                raise BusyError("the work was given up")

    async def trial() -> None:
        monkeypatch.setattr(slow_team, "run", run)
        monkeypatch.setattr(slow_team, "stop_work", stop_work)
        jobs = Jobs(slow_team, 60)
        first = await jobs.start("a", 0, Options(), (0, None))
        second = await jobs.start("b", 0, Options(), (0, None))
        assert [jobs.describe(job)["state"] for job in (first, second)] == ["working", "waiting"]
        assert slow_team.at_work == 2
        assert await jobs.start("a", 0, Options(), (0, None)) is first
        with pytest.raises(BusyError):
            await jobs.start("c", 0, Options(), (0, None))
        jobs.cancel("b")
        await asyncio.sleep(0.01)
        assert (second.state, stops, slow_team.at_work) == ("cancelled", [], 1)
        jobs.cancel("a")
        await asyncio.sleep(0.01)
        assert (first.state, stops, slow_team.at_work) == ("cancelled", [0], 0)
        assert jobs.find("a") is first

    asyncio.run(trial())


def test_what_nobody_asks_about_is_forgotten(slow_team: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(number: int, *_: Any, abandoned: Any) -> None:
        await abandoned()
        await asyncio.sleep(60)

    async def trial() -> None:
        monkeypatch.setattr(slow_team, "run", run)
        jobs = Jobs(slow_team, 100)
        job = await jobs.start("a", 0, Options(), (0, None))
        jobs.expire()
        assert jobs.find("a") is job
        job.asked -= 101
        jobs.expire()
        assert job.state == "cancelled"
        with pytest.raises(unjpeg.UnjpegError):
            jobs.find("a")
        jobs.stop()
        assert job.task is not None
        job.task.cancel()

    asyncio.run(trial())


def test_a_stopped_network_leaves_the_room_as_it_was(tiny_model: Path) -> None:
    gauges = Gauges(1)
    restorer = Restorer(tiny_model, tiling=Tiling(32, 0))
    room = Darkroom(restorer, limits=Limits(), held_bytes=2**20, held_seconds=60, gauges=gauges)
    room.open(JPEG, "a")
    shares = []
    begin = gauges.begin

    def begun(height: int, width: int) -> Any:
        report = begin(height, width)

        def watched(share: float, following: float) -> None:
            assert share < following <= 1 or share == 1
            shares.append(share)
            if len(shares) == 5:
                gauges.stop()
            report(share, following)

        return watched

    gauges.begin = begun  # type: ignore[method-assign]
    with pytest.raises(BusyError, match="given up"):
        room.prepare("a", Options())
    assert 0 < shares[-1] < 0.5
    assert gauges.sight.size == (96, 144)
    assert gauges.pace(0) is None
    gauges.reset()
    room.prepare("a", Options())
    assert shares[-1] == gauges.sight.share == 1
    assert shares[5:] == sorted(shares[5:])
    assert gauges.pace(0) is not None
    shown = decoded(room.show("a", "restored", Options(), 1))
    np.testing.assert_array_equal(shown, restorer.restore(JPEG).pixels)


def test_a_network_tells_each_tile(tiny_restorer: Restorer) -> None:
    told: list[float] = []
    network = TiledNetwork(tiny_restorer.model, Tiling(32, 32))
    pixels = picture(250, 200)
    guidance: Guidance = tiny_restorer.guide(read_picture(pixels))
    whole = network.restore_whole(pixels, guidance, progress=told.append)
    assert told[0] == 0
    assert told[-1] == 1
    plan = network.plan(pixels.shape)
    tiles = len(plan.rows) * len(plan.columns)
    assert len(told) == 1 + tiles > 3
    np.testing.assert_array_equal(whole, network.restore_whole(pixels, guidance))
    told.clear()
    network.restore_whole(pixels, guidance, passes=4, progress=told.append)
    plan = network.plan(pixels.shape, passes=4)
    assert told == pytest.approx(np.linspace(0, 1, 1 + 4 * len(plan.rows) * len(plan.columns)))


def test_what_was_rendered_outlives_what_the_network_made(tiny_restorer: Restorer) -> None:
    """A queue's finished pictures are still there when the next ones come."""
    room = Darkroom(tiny_restorer, limits=Limits(), held_bytes=600_000, held_seconds=60)
    ran = []
    run_network = tiny_restorer.run_network

    def counted(*arguments: Any, **options: Any) -> Any:
        ran.append(1)
        return run_network(*arguments, **options)

    tiny_restorer.run_network = counted  # type: ignore[method-assign]
    try:
        for key in "abc":  # 290 kB each, of which the network's output is 166
            room.open(encoded(picture(96, 144, ord(key))), key)
            room.prepare(key, Options())
        for key in "bc":
            room.show(key, "restored", Options(), 1)
        assert len(ran) == 3
    finally:
        del tiny_restorer.run_network


# Models and times


def test_models_are_offered_and_chosen(client: TestClient) -> None:
    first, second = (model["name"] for model in client.get("/api/models").json())
    assert second == "fast"
    key = held(client, JPEG)
    by_name = client.get(f"/api/pictures/{key}/restored?model={first}")
    assert by_name.content == client.get(f"/api/pictures/{key}/restored").content
    fast = client.get(f"/api/pictures/{key}/restored?model=fast")
    np.testing.assert_array_equal(decoded(fast.content), unjpeg.restore(JPEG, model="fast").pixels)
    assert client.get(f"/api/pictures/{key}/check?model=fast").json()["report"]["model"] == "fast"
    assert (
        client.post("/api/restore?model=fast", content=JPEG).content
        != client.post("/api/restore", content=JPEG).content
    )
    refused = client.post("/api/restore?model=/etc/passwd", content=JPEG)
    assert (refused.status_code, refused.json()["error"]["message"]) == (
        422,
        f"model: this server offers {first}, fast",
    )
    assert client.get(f"/api/pictures/{key}/restored?model=best").status_code == 422


def test_times_are_measured_once_the_server_is_idle(client: TestClient) -> None:
    def times(side: int) -> list[float | None]:
        return [model["seconds"] for model in client.get(f"/api/models?width={side}&height={side}").json()]

    for _ in range(600):
        if None not in times(100):
            break
        time.sleep(0.1)
    small, large = times(100), times(2000)
    for few, many in zip(small, large, strict=True):
        assert few is not None
        assert many is not None
        assert 0 < few < many < 10_000
    assert client.get("/api/models?width=0").status_code == 422


sides = st.integers(1, 5000)
tilings = st.builds(Tiling, st.sampled_from([32, 96, 1440]), st.sampled_from([0, 32, 192]))


@given(height=sides, width=sides, tiling=tilings)
def test_seen_pixels_are_those_of_the_tiles(height: int, width: int, tiling: Tiling) -> None:
    seen = tiling.seen_pixels(height, width)
    assert seen >= height * width
    if max(height, width) <= tiling.core:
        assert seen == height * width
    plan = tiling.plan(height, width, 8)  # of a network's stride, to which pictures are padded
    down, across = (sum(span.seen.stop - span.seen.start for span in spans) for spans in plan)
    assert seen <= down * across
    assert down * across - seen < 8 * (down + across)


@given(
    seconds=st.floats(0.01, 1000),
    rest=st.floats(0, 100),
    sizes=st.lists(st.tuples(st.integers(600, 3000), st.integers(600, 3000)), min_size=1, max_size=4),
    tiling=tilings,
)
def test_what_was_measured_is_what_is_expected(
    seconds: float, rest: float, sizes: list[tuple[int, int]], tiling: Tiling
) -> None:
    gauges = Gauges(2)
    assert expect_seconds([gauges.pace(0), None], 10, 10) is None
    for size in sizes:  # all at one pace
        pixels = size[0] * size[1]
        gauges.measured(1, tiling, size, 1, seconds * tiling.seen_pixels(*size) / 1e6, rest * pixels / 1e6)
    assert gauges.pace(0) is None
    pace = gauges.pace(1)
    assert pace is not None
    height, width = sizes[0]
    expected = (seconds * tiling.seen_pixels(height, width) + rest * height * width) / 1e6
    assert pace.seconds(height, width) == pytest.approx(expected)
    assert expect_seconds([pace, None, pace], height, width) == pytest.approx(expected)
    gauges.measured(1, tiling, (8, 8), 1, 1000.0, 1000.0)  # tiny pictures say nothing any more
    assert gauges.pace(1) == pace


@given(
    share=st.floats(0, 0.999),
    step=st.floats(0.001, 1),
    at=st.floats(0, 100),
    later=st.floats(0, 100),
    expected=st.none() | st.floats(0.1, 1000),
)
def test_progress_moves_and_never_overtakes_the_next_tile(
    share: float, step: float, at: float, later: float, expected: float | None
) -> None:
    following = min(1.0, share + step)
    sight = Sight(share, following, at, (10, 10))
    shown, left = left_of(sight, at + later, expected)
    again, _ = left_of(sight, at + later + 1, expected)
    assert share <= shown <= following
    assert left is None or left > 0
    if expected and share < 0.2:
        assert share <= shown < again < following  # also where it takes much longer than expected
        assert (left is None) == (later >= expected * (following - share))


def test_half_done_in_ten_seconds_leaves_ten() -> None:
    assert left_of(Sight(0.5, 0.6, 10, (10, 10)), 10, 1000) == (0.5, 10)
    assert left_of(Sight(0.5, 0.6, 10, (10, 10)), 11, None) == pytest.approx((0.55, 9))
    assert left_of(Sight(0, 0.5, 0, (10, 10)), 11, None) == (0, None)
    assert left_of(Sight(1, 1, 20, (10, 10)), 20, 10) == (1, None)
    assert Pace(1e-6, 1e-6, Tiling(1440, 0)).seconds(1000, 1000) == pytest.approx(2)


def test_what_is_presumed_gives_way_to_what_is_measured() -> None:
    gauges, tiling = Gauges(1), Tiling(1440, 0)
    gauges.presume(0, tiling, 1e-6)
    assert expect_seconds([gauges.pace(0)], 1000, 1000) == pytest.approx(1)
    gauges.presume(0, tiling, 5e-6)  # the first counts, which was of a larger picture
    gauges.measured(0, tiling, (8, 8), 1, 1000.0, 1000.0)
    assert expect_seconds([gauges.pace(0)], 1000, 1000) == pytest.approx(1)
    assert not gauges.is_measured(0)
    gauges.measured(0, tiling, (1000, 1000), 1, 3.0, 0.5)
    assert gauges.is_measured(0)
    assert expect_seconds([gauges.pace(0)], 1000, 1000) == pytest.approx(3.5)


def test_a_self_ensemble_shares_the_network_and_its_pace(tiny_restorer: Restorer, tiny_model: Path) -> None:
    file = ModelFile.read(tiny_model)
    ensemble = replace(file, description=replace(file.description, name="often", passes=4))
    often = tiny_restorer.sharing(ensemble)
    assert often.network is tiny_restorer.network
    alone = Restorer(ensemble, precision="full")
    np.testing.assert_array_equal(often.restore(JPEG).pixels, alone.restore(JPEG).pixels)
    assert often.restore(JPEG).report == alone.restore(JPEG).report
    with pytest.raises(ValueError, match="another network"):
        tiny_restorer.sharing("fast")
    gauges = Gauges(2)
    others = {"often": often}
    room = Darkroom(tiny_restorer, limits=Limits(), held_bytes=2**20, held_seconds=60, others=others, gauges=gauges)
    room.calibrate()
    one, four = gauges.pace(0), gauges.pace(1)
    assert one is not None
    assert four is not None
    assert four.seconds_per_seen == pytest.approx(4 * one.seconds_per_seen)
    room.calibrate("often")  # which is known already
    assert gauges.pace(1) == four


def test_times_are_presumed_from_the_choice_of_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(darkroom, "_darkroom", None)
    gauges = Gauges(3)
    full = Choice("full", "measured", {"full": 2.0}, cores=2)
    darkroom.open_darkroom({"default": full, "fast": full, "best": full}, 1, str(tmp_path), 10**6, 2**20, 60, gauges)
    paces = [gauges.pace(number) for number in range(3)]
    default, fast, best = (pace.seconds(3000, 4000) if pace else None for pace in paces)
    assert default == fast == pytest.approx(2 * 2.0 * 12)  # one core of two
    assert best == pytest.approx(4 * 2 * 2.0 * 12)


def test_a_server_that_ends_at_work_reports_no_fault(tiny_model: Path, child_environment: dict[str, str]) -> None:
    program = [sys.executable, "-m", "unjpeg", "serve", "--port", "0", "--model", str(tiny_model)]
    with subprocess.Popen(program, env=child_environment, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        found = re.search(r"127\.0\.0\.1:(\d+)/", server.stderr.readline())
        assert found is not None
        with socket.create_connection(("127.0.0.1", int(found[1])), timeout=60) as connection:
            header = (
                "POST /api/inspect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
            )
            connection.sendall(header.encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 100")  # it waits for the file
            server.terminate()
            assert connection.recv(100).startswith(b"HTTP/1.1 503")
        assert "Traceback" not in server.stderr.read()


# Parts of a picture


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_part_is_cut_from_the_upright_picture(orientation: int, client: TestClient) -> None:
    image = opened(JPEG)
    exif = image.getexif()
    exif[0x0112] = orientation
    key = held(client, saved(image, exif=exif, quality=30))
    for view in ("decoded?", "restored?strength=0.5&", "residual?gain=16&"):
        whole = decoded(client.get(f"/api/pictures/{key}/{view}").content)
        part = decoded(client.get(f"/api/pictures/{key}/{view}area=16,8,40,500").content)
        np.testing.assert_array_equal(part, whole[8:, 16:56])
        small: NDArray[np.uint8] = decoded(client.get(f"/api/pictures/{key}/{view}reduce=4").content)
        assert small.shape[:2] == (whole.shape[0] // 4, whole.shape[1] // 4)
        mean = whole.reshape(small.shape[0], 4, small.shape[1], 4, 3).mean((1, 3))
        assert np.abs(small - mean).max() <= 0.51
    beyond = decoded(client.get(f"/api/pictures/{key}/decoded?area=9999,9999,5,5").content)
    assert beyond.shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("area=1,2,3", "area: must be"),
        ("area=-1,0,5,5", "area: must be"),
        ("area=0,0,0,5", "area: must be"),
        ("reduce=0", ""),
    ],
)
def test_wrong_parts_are_named(query: str, problem: str, client: TestClient) -> None:
    refused = client.get(f"/api/pictures/0-AAAAAAAAAAAAAAAAAAAAAA/decoded?{query}")
    assert refused.status_code == 422
    assert refused.json()["error"]["message"].startswith(problem)


# Limits


@pytest.mark.parametrize(
    ("host", "names", "private"),
    [
        ("127.0.0.1", (), True),
        ("::1", (), True),
        ("localhost", (), True),
        ("127.0.0.1", ("pictures.example",), False),
        ("0.0.0.0", (), False),
        ("192.168.1.5", (), False),
        ("some.host", (), False),
    ],
)
def test_only_its_own_computer_s_server_has_no_time_limit(host: str, names: tuple[str, ...], private: bool) -> None:
    assert is_private(host, names) is private


def test_without_a_limit_nothing_is_ended(slow_team: Workers) -> None:
    async def trial() -> None:
        waiting = asyncio.create_task(slow_team.run(0, time.sleep, 0.3))
        assert await slow_team.run(0, abs, -2) == 2
        await waiting
        async with slow_team._slots[0].lock:
            behind = asyncio.create_task(slow_team.run(0, abs, -3))
            await asyncio.sleep(0.1)
            assert not behind.done()
        assert await behind == 3

    asyncio.run(trial())


def test_the_page_s_notes_name_what_the_page_has(tiny_restorer: Restorer) -> None:
    noise = np.random.default_rng(0).normal(128, 30, (256, 256, 3)).clip(0, 255).astype(np.uint8)
    report = tiny_restorer.restore(saved(noise, "PNG")).report
    assert "quality=90" in report.notes[0]
    _, note = words.check_in_words(report, None)
    assert note.text.endswith('left as it is; choose one under "Smooth as for quality" to restore it all the same.')
    page = (Path(words.__file__).parent / "page" / "index.html").read_text(encoding="utf-8")
    assert ">Smooth as for quality<" in page


def test_a_damaged_file_says_what_can_be_saved(client: TestClient) -> None:
    error = client.post("/api/pictures", content=JPEG[:-400]).json()["error"]
    assert error["message"].endswith(f"salvage=true restores {error['salvageable']}")
    assert "salvageable" not in client.post("/api/pictures", content=b"text").json()["error"]


# Words


def before_that(data: bytes, model: Path) -> words.Fact:
    source = read_picture(data)
    facts = words.file_in_words(source, unjpeg.inspect(data, model=model))
    return next(fact for fact in facts if fact.title == "Before that")


def test_what_history_found_in_words(tiny_model: Path) -> None:
    photo = picture(320, 480)
    once = encoded(photo, quality=20)
    assert before_that(once, tiny_model).text == "Nothing can be told: no earlier JPEG shows in the pixels."
    twice = saved(opened(once), quality=92)
    whole = before_that(twice, tiny_model)
    assert whole.text.startswith("The picture was a JPEG before, saved at quality 20: very strong compression")
    assert whole.text.endswith("It is restored as that JPEG.")
    assert whole.tone == "careful"
    cropped = saved(opened(once).crop((3, 5, 480, 320)), "PNG")
    assert "Then it was cropped." in before_that(cropped, tiny_model).text
