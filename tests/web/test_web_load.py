"""Thirty requests at once, ten of them hostile, again and again: `pytest -s` on this file shows what it took."""

from __future__ import annotations

import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_web import HOSTILE

from jpegs import decoded, encoded

pytest.importorskip("fastapi", reason="needs the extra web")
import httpx2

from unjpeg.restorer import Restorer

pytestmark = pytest.mark.slow

ROUNDS = 4
SENDING_SECONDS = 5
"""The server's time limit. The slow sender below never gets done."""


def resident_mib(process: int) -> float:
    """Of a process and all below it."""
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        pytest.skip("memory is read from /proc")
    found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text())
    below = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return (int(found[1]) / 1024 if found else 0) + sum(resident_mib(int(child)) for child in below)


@pytest.fixture(scope="module")
def server(child_environment: dict[str, str], tiny_model: Path) -> Iterator[tuple[str, int]]:
    """Its address and process."""
    options = ["--port", "0", "--model", str(tiny_model), "--max-upload", "1", "--max-megapixels", "1"]
    limits = ["--time-limit", "300", "--max-requests", "40", "--hold", "16"]
    program = [sys.executable, "-m", "unjpeg", "serve", *options, *limits]
    with subprocess.Popen(program, env=child_environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = re.search(r"http://\S+/", process.stderr.readline())
        assert found is not None
        yield found[0], process.pid
        process.terminate()
        assert "Traceback" not in process.stderr.read()


def test_thirty_at_once_ten_of_them_hostile(
    server: tuple[str, int], tiny_model: Path, pictures: list[np.ndarray[Any, Any]]
) -> None:
    address, process = server
    restorer = Restorer(tiny_model)
    good = [encoded(np.tile(pixels, (3, 3, 1)), quality=10 + 4 * n) for n in range(20) for pixels in [pictures[n % 6]]]
    right = [restorer.restore(data).pixels for data in good]
    hostile = list(HOSTILE.values())[:9]

    def ask(number: int) -> tuple[str, float]:
        start = time.monotonic()
        kind = number % 3
        with httpx2.Client(base_url=address, timeout=600) as client:
            if kind < 2:  # good ones, alone and held, between the others
                which = number // 3 * 2 + kind
                if kind == 0:
                    answer = client.post("/api/restore", content=good[which])
                else:
                    key = client.post("/api/pictures", content=good[which]).json()["key"]
                    answer = client.get(f"/api/pictures/{key}/restored")
                    if answer.status_code == 404:  # others took its place: as the page does
                        key = client.post("/api/pictures", content=good[which]).json()["key"]
                        answer = client.get(f"/api/pictures/{key}/restored")
                assert answer.status_code == 200, answer.text
                np.testing.assert_array_equal(decoded(answer.content), right[which])
                return "good", time.monotonic() - start
            if number // 3 < len(hostile):
                data, status, error = hostile[number // 3]
                answer = client.post("/api/restore", content=data)
                assert (answer.status_code, answer.json()["error"]["kind"]) == (status, error)
            else:
                go_away_in_the_middle(address)
            return "hostile", time.monotonic() - start

    resident = []
    for turn in range(ROUNDS):
        start = time.monotonic()
        with ThreadPoolExecutor(30) as threads:
            taken = list(threads.map(ask, range(30)))
        resident.append(resident_mib(process))
        good_s, hostile_s = ([s for kind, s in taken if kind == which] for which in ("good", "hostile"))
        assert (len(good_s), len(hostile_s)) == (20, 10)
        print(
            f"round {turn + 1}: 30 answers in {time.monotonic() - start:.1f} s; "
            f"good: median {statistics.median(good_s):.1f}, "
            f"longest {max(good_s):.1f} s; hostile: longest {max(hostile_s):.1f} s; {resident[-1]:.0f} MiB resident"
        )
        health = httpx2.get(f"{address}api/health", timeout=600).json()
        assert (health["status"], health["requests_at_work"]) == ("ok", 0)
    assert resident[-1] < resident[0] * 1.1 + 20


def go_away_in_the_middle(address: str) -> None:
    """Promise a file, send a part, hang up."""
    host, port = address.removeprefix("http://").strip("/").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /api/restore HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100000\r\n\r\n"
        connection.sendall(head.encode() + b"\xff\xd8\xff" * 100)


def test_a_sender_that_never_ends_is_not_waited_for(tiny_model: Path, child_environment: dict[str, str]) -> None:
    program = [sys.executable, "-m", "unjpeg", "serve", "--port", "0", "--model", str(tiny_model)]
    program += ["--time-limit", str(SENDING_SECONDS), "--max-requests", "1"]
    with subprocess.Popen(program, env=child_environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = re.search(r"http://([\d.]+):(\d+)/", process.stderr.readline())
        assert found is not None
        with socket.create_connection((found[1], int(found[2])), timeout=120) as connection:
            head = f"POST /api/restore HTTP/1.1\r\nHost: {found[1]}\r\nContent-Length: 100000\r\n\r\n"
            connection.sendall(head.encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
        assert httpx2.get(f"{found[0]}api/health", timeout=120).json()["requests_at_work"] == 0
        process.terminate()
