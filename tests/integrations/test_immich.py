"""The script for Immich against a stand-in for its server that knows only calls which read, upload and stack."""

from __future__ import annotations

import email
import email.policy
import hashlib
import importlib.util
import io
import json
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jpegs import encoded, picture, saved

FILE = Path(__file__).parents[2] / "integrations" / "immich" / "restore_immich.py"
KEY, USER = "a-key", "a-user"


def load() -> Any:
    specification = importlib.util.spec_from_file_location("restore_immich", FILE)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["restore_immich"] = module
    specification.loader.exec_module(module)
    return module


script = load()


class Server(ThreadingHTTPServer):
    """Assets and stacks, with the answers and the merging of Immich's own."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.assets: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.stacks: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.fails: dict[str, int] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, data: bytes, media_type: str = "image/jpeg", **facts: Any) -> str:
        ident = str(uuid.uuid4())
        self.files[ident] = data
        self.assets[ident] = {
            "id": ident,
            "type": "IMAGE",
            "originalFileName": name,
            "originalMimeType": media_type,
            "fileCreatedAt": "2009-05-01T10:00:00.000Z",
            "fileModifiedAt": "2010-05-01T10:00:00.000Z",
            "isTrashed": False,
            "isOffline": False,
            "ownerId": USER,
            **facts,
        }
        return ident

    def stack_of(self, asset: str) -> dict[str, Any] | None:
        return next((stack for stack in self.stacks.values() if asset in stack["ids"]), None)

    def shown(self, asset: str) -> dict[str, Any]:
        stack = self.stack_of(asset)
        short = stack and {"id": stack["id"], "primaryAssetId": stack["ids"][0], "assetCount": len(stack["ids"])}
        return {**self.assets[asset], "stack": short}

    def make_stack(self, ids: list[str]) -> None:
        assert len(ids) == len(set(ids)) >= 2
        merged = list(ids)
        for key, stack in list(self.stacks.items()):
            if stack["ids"][0] in ids:
                merged += [one for one in stack["ids"] if one not in merged]
                del self.stacks[key]
            else:
                stack["ids"] = [one for one in stack["ids"] if one not in ids]
        ident = str(uuid.uuid4())
        self.stacks[ident] = {"id": ident, "ids": merged}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def _answer(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        call = f"{method} {self.path.removeprefix('/api')}"
        self.server.calls.append(call.partition("/assets/")[0] if "original" in call else call)
        if self.headers["x-api-key"] != KEY:
            return self._send(401, {"message": "Invalid API key"})
        if self.server.fails.get(call):
            self.server.fails[call] -= 1
            return self._send(500, {"message": "on purpose"})
        parts = self.path.removeprefix("/api/").split("/")
        if call == "POST /search/metadata":
            asked = json.loads(body)
            assert asked["type"] == "IMAGE"
            found = [self.server.shown(one) for one in self.server.assets]
            end = asked["page"] * asked["size"]
            more = str(asked["page"] + 1) if end < len(found) else None
            return self._send(200, {"assets": {"items": found[end - asked["size"] : end], "nextPage": more}})
        if call == "POST /assets":
            return self._take(body)
        if call == "POST /stacks":
            self.server.make_stack(json.loads(body)["assetIds"])
            return self._send(201, {})
        if call == "GET /users/me":
            return self._send(200, {"id": USER})
        if method == "GET" and parts[0] == "stacks":
            stack = self.server.stacks[parts[1]]
            members = [self.server.assets[one] for one in stack["ids"]]
            return self._send(200, {"id": parts[1], "primaryAssetId": stack["ids"][0], "assets": members})
        if method == "GET" and parts[0] == "assets" and parts[-1] == "original":
            return self._send(200, self.server.files[parts[1]])
        assert (method, parts[0]) == ("GET", "assets"), call
        return self._send(200, self.server.shown(parts[1]))

    def _take(self, body: bytes) -> None:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
        fields = {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}
        data = fields["assetData"].get_payload(decode=True)
        assert isinstance(data, bytes)
        assert self.headers["x-immich-checksum"] == hashlib.sha1(data, usedforsecurity=False).hexdigest()
        for ident, held in self.server.files.items():
            if held == data:
                self._send(200, {"id": ident, "status": "duplicate"})
                return
        values = {str(name): part.get_content().strip() for name, part in fields.items() if name != "assetData"}
        name = fields["assetData"].get_filename()
        assert {"fileCreatedAt", "fileModifiedAt", "deviceAssetId", "deviceId"} <= values.keys()
        times = {name: values[name] for name in ("fileCreatedAt", "fileModifiedAt")}
        assert name is not None
        ident = self.server.add(name, data, fields["assetData"].get_content_type(), **times)
        self._send(201, {"id": ident, "status": "created"})

    def _send(self, code: int, body: Any) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("IMMICH_API_KEY", KEY)
        monkeypatch.setenv("IMMICH_INSTANCE_URL", f"{running.address}/api/")
        yield running
        running.shutdown()
        thread.join()


Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def run(server: Server, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, list[str]]:
        usual = ["--model", str(tiny_model), "--journal", str(tmp_path / "state/immich.jsonl")]
        code = script.main([*usual, *arguments])
        said = capsys.readouterr()
        assert KEY not in said.out + said.err
        return code, [*said.out.splitlines(), *said.err.splitlines()]

    return call


def low(seed: int = 0) -> bytes:
    return encoded(picture(48, 64, seed), quality=20)


def test_results_are_stacked_with_their_originals(server: Server, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "PAGE", 2)
    photo = server.add('IMG "1" ü.jpg', low())
    fine = server.add("fine.jpg", encoded(picture(48, 64, 1), quality=97))
    server.add("film.mov", b"", "video/quicktime", type="VIDEO")
    server.add("drawing.png", saved(picture(48, 64), "PNG"), "image/png")
    server.add("gone.jpg", low(2), isTrashed=True)
    server.add("partner's.jpg", low(3), ownerId="another-user")
    before = set(server.assets)
    code, lines = run()
    assert code == 0
    assert lines == [
        'IMG "1" ü.jpg: restored: IMG "1" ü.restored.webp',
        "fine.jpg: left: states quality 97",
        "1 restored, 0 failed",
    ]
    (result,) = set(server.assets) - before
    facts = server.assets[result]
    assert facts["originalMimeType"] == "image/webp"
    assert facts["fileCreatedAt"] == "2009-05-01T10:00:00.000Z"
    (stack,) = server.stacks.values()
    assert stack["ids"] == [result, photo]
    with Image.open(io.BytesIO(server.files[result])) as image:
        assert image.size == (64, 48)
        assert "restored by unjpeg" in str(image.info["xmp"])
    assert server.stack_of(fine) is None


def test_a_second_run_does_nothing(server: Server, run: Run, tmp_path: Path) -> None:
    server.add("photo.jpg", low())
    run()
    held = dict(server.files)
    assert run()[1] == ["0 restored, 0 failed"]
    (tmp_path / "state/immich.jsonl").unlink()
    server.calls.clear()
    assert run()[1] == ["0 restored, 0 failed"]  # the stack says so, too
    assert server.files == held
    assert not any("original" in call or call == "POST /assets" for call in server.calls)


def test_it_goes_on_where_it_was_cut_off(server: Server, run: Run, tmp_path: Path) -> None:
    server.add("photo.jpg", low())
    server.fails["POST /stacks"] = 1
    code, lines = run()
    assert code == 1
    assert "POST /stacks failed (500" in lines[0]
    assert len(server.assets) == 2
    server.calls.clear()
    with (tmp_path / "state/immich.jsonl").open("a") as file:
        file.write('{"server": ')  # the machine went down
    assert run()[1] == ["photo.jpg: stacked", "1 restored, 0 failed"]
    assert "POST /assets" not in server.calls
    assert len(server.stacks) == 1
    server.stacks.clear()
    assert run()[1] == ["0 restored, 0 failed"]  # the line after the one that was cut off counts


def test_an_upload_that_was_forgotten_is_found_by_its_bytes(server: Server, run: Run, tmp_path: Path) -> None:
    server.add("photo.jpg", low())
    run()
    server.stacks.clear()
    (tmp_path / "state/immich.jsonl").unlink()
    run()
    assert len(server.assets) == 2
    assert len(server.stacks) == 1


def test_a_result_in_the_trash_stays_there(server: Server, run: Run, tmp_path: Path) -> None:
    photo = server.add("photo.jpg", low())
    run()
    (result,) = set(server.assets) - {photo}
    server.stacks.clear()
    server.assets[result]["isTrashed"] = True
    assert run()[1] == ["0 restored, 0 failed"]
    (tmp_path / "state/immich.jsonl").unlink()
    assert run()[1] == ["photo.jpg: left: its result lies in the trash", "0 restored, 0 failed"]
    assert not server.stacks


@pytest.mark.parametrize("shows", ["restored", "original"])
def test_stacks_that_are_there_stay_together(shows: str, server: Server, run: Run) -> None:
    raw, photo = server.add("photo.dng", b"raw", "image/x-adobe-dng"), server.add("photo.jpg", low())
    first, second = server.add("burst1.jpg", low(1)), server.add("burst2.jpg", low(2))
    server.make_stack([raw, photo])
    server.make_stack([first, second])
    assert run("--shows", shows)[0] == 0
    names = [[server.assets[one]["originalFileName"] for one in stack["ids"]] for stack in server.stacks.values()]
    assert sorted(map(sorted, names)) == [
        ["burst1.jpg", "burst1.restored.webp", "burst2.jpg", "burst2.restored.webp"],
        ["photo.dng", "photo.jpg", "photo.restored.webp"],
    ]
    tops = {stack[0] for stack in names}
    assert tops == {"photo.dng", "burst1.restored.webp" if shows == "restored" else "burst1.jpg"}


def test_a_dry_run_changes_nothing(server: Server, run: Run, tmp_path: Path) -> None:
    server.add("photo.jpg", low())
    assert run("--dry-run")[1] == [
        "photo.jpg: would be restored (states quality 20): photo.restored.webp",
        "1 would be restored, 0 failed",
    ]
    assert len(server.assets) == 1
    assert not any(call in ("POST /assets", "POST /stacks") for call in server.calls)
    assert not (tmp_path / "state").exists()


def test_one_bad_picture_does_not_end_the_run(server: Server, run: Run) -> None:
    server.add("bad.jpg", b"no picture")
    server.add("photo.jpg", low())
    server.add("more.jpg", low(1))
    code, lines = run("--limit", "1", "--format", "png")
    assert code == 1
    assert lines[0] == "photo.jpg: restored: photo.restored.png"
    assert lines[1].startswith("bad.jpg: ")
    assert lines[2] == "1 restored, 1 failed"
    assert len(server.stacks) == 1


def test_refusals_are_one_line(server: Server, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("--server", "immich.local")[0] == 2
    assert run("--strength", "3") == (2, ["restore_immich: strength must lie in 0..1, got 3.0"])
    assert run("--model", "nowhere.unjpeg")[0] == 2
    code, (line,) = run("--server", "http://127.0.0.1:9")
    assert code == 1
    assert "cannot be reached" in line
    monkeypatch.setenv("IMMICH_API_KEY", "wrong")
    code, (line,) = run()
    assert code == 1
    assert "IMMICH_API_KEY" in line
    monkeypatch.delenv("IMMICH_API_KEY")
    with pytest.raises(SystemExit):
        run()


@pytest.mark.parametrize("key", ["secret\nsecret", "clé"])
def test_a_key_that_is_none_is_not_said(key: str, server: Server, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMMICH_API_KEY", key)
    code, (line,) = run()
    assert code == 2
    assert "copy it anew" in line
    assert key.split()[0] not in line
    monkeypatch.setenv("IMMICH_API_KEY", f"{KEY}\r\n")  # as it comes from a file of Windows
    assert run()[0] == 0


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"{}"])
def test_another_program_at_the_address_is_one_line(
    answer: bytes, server: Server, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "_answer", lambda handler, method: handler._send(200, answer))
    code, (line,) = run()
    assert code == 1
    assert "not Immich's" in line


@pytest.mark.parametrize("answer", [b"SSH-2.0\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort"])
def test_what_breaks_off_is_one_line(answer: bytes, server: Server, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer_so(handler: Handler, method: str) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        handler.wfile.write(answer)

    monkeypatch.setattr(Handler, "_answer", answer_so)
    code, (line,) = run()
    assert code == 1
    assert "cannot be reached" in line
    code, (line,) = run("--server", "http://127.0.0.1:port")
    assert code == 1
    assert "cannot be reached" in line


def test_a_journal_that_cannot_be_written_is_said_first(server: Server, run: Run, tmp_path: Path) -> None:
    server.add("photo.jpg", low())
    (tmp_path / "file").touch()
    for journal in (tmp_path, tmp_path / "file" / "below"):
        code, (line,) = run("--journal", str(journal))
        assert code == 1
        assert str(journal) in line
    assert len(server.assets) == 1
