"""Restore the JPEGs of an Immich library: each result is uploaded, and stacked with its original.

::

    search ─▶ asset ─▶ download ─▶ worth it? ─▶ restore ─▶ upload ─▶ journal ─▶ stack ─▶ journal

It only reads, uploads and stacks. Nothing is deleted, replaced or changed, and no call here could do so. It can be
stopped at any time: what is uploaded is in the journal, and a second upload of the same bytes is known to the server.

    export IMMICH_INSTANCE_URL=http://localhost:2283 IMMICH_API_KEY=...
    python restore_immich.py --dry-run
    python restore_immich.py --album 2b7c1b1e-... --limit 20

The key needs the permissions user.read, asset.read, asset.download, asset.upload, stack.read and stack.create.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import io
import json
import os
import re
import secrets
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import unjpeg

__all__ = ["Immich", "ImmichError", "Journal", "main"]

FORMATS = {"webp": "image/webp", "png": "image/png", "jpeg": "image/jpeg", "avif": "image/avif"}
MARK = ".restored"
"""Before the suffix of what is uploaded: by this results are known, and never restored themselves."""

DEVICE = "unjpeg"
PAGE = 250
PATIENCE_SECONDS = 300


class ImmichError(unjpeg.UnjpegError):
    """The server cannot be reached, or refuses.

    Attributes:
        is_final: whether it will refuse everything else, too.
    """

    def __init__(self, message: str, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The key is for this server alone: it follows nobody elsewhere."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:  # noqa: ARG002
        return None


class Immich:
    """The few calls of Immich's HTTP interface that are needed: it reads, uploads and stacks.

    Args:
        address: of the server, with or without ``/api``.
        key: an API key.

    Raises:
        ValueError: the address or the key is none. All methods raise ImmichError.
    """

    def __init__(self, address: str, key: str) -> None:
        if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
            raise ValueError(f"{address}: is no address of a server; write http://... or https://...")
        self.address = address.rstrip("/").removesuffix("/api")
        self._key = key.strip()
        if not re.fullmatch(r"[!-~]+", self._key):  # it would stand in the error of what sends it
            raise ValueError("IMMICH_API_KEY holds characters that no key has; copy it anew from Account Settings")
        self._opener = urllib.request.build_opener(_NoRedirects)

    def find_user(self) -> str:
        """The id of the key's user."""
        return str(self._ask("GET", "/users/me", needs=("id",))["id"])

    def search(self, filters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """All pictures that fit, oldest first, page by page; also those of partners, if the timeline shows them."""
        page: int | None = 1
        while page:
            asked = {"type": "IMAGE", "order": "asc", "size": PAGE, "page": page, "withStacked": True, **filters}
            found = self._ask("POST", "/search/metadata", asked, needs=("assets",))["assets"]
            yield from found["items"]
            page = int(found["nextPage"]) if found.get("nextPage") else None

    def read_asset(self, asset: str) -> dict[str, Any]:
        """What the server knows of it, its stack, too."""
        return self._ask("GET", f"/assets/{urllib.parse.quote(asset)}", needs=("id", "originalFileName"))

    def read_stack(self, stack: str) -> dict[str, Any]:
        """Its ``primaryAssetId`` and ``assets``."""
        return self._ask("GET", f"/stacks/{urllib.parse.quote(stack)}", needs=("primaryAssetId", "assets"))

    def download(self, asset: str) -> bytes:
        """The original file."""
        return self._send("GET", f"/assets/{urllib.parse.quote(asset)}/original")

    def upload(self, name: str, data: bytes, media_type: str, original: Mapping[str, Any]) -> dict[str, Any]:
        """A new asset of the same time as its original: its ``id``, and ``status``, which may be "duplicate"."""
        fields = {
            "deviceAssetId": f"{original['id']}{MARK}",  # Immich before version 3 asks for these two
            "deviceId": DEVICE,
            "fileCreatedAt": original["fileCreatedAt"],
            "fileModifiedAt": original["fileModifiedAt"],
            "filename": name,
        }
        boundary = secrets.token_hex(16)
        quoted = name.replace("\\", "\\\\").replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'.encode()
            for field, value in fields.items()
        ]
        parts += [
            f'--{boundary}\r\nContent-Disposition: form-data; name="assetData"; filename="{quoted}"\r\n'.encode(),
            f"Content-Type: {media_type}\r\n\r\n".encode(),
            data,
            f"\r\n--{boundary}--\r\n".encode(),
        ]
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "x-immich-checksum": hashlib.sha1(data, usedforsecurity=False).hexdigest(),
        }
        answer = self._send("POST", "/assets", b"".join(parts), headers)
        return self._read_answer(answer, "POST /assets", ("id", "status"))

    def stack(self, assets: Sequence[str]) -> None:
        """Make them one stack, of which the first is what the timeline shows."""
        self._ask("POST", "/stacks", {"assetIds": list(assets)})

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, needs: Sequence[str] = ()
    ) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        answer = self._send(method, path, data, {"Content-Type": "application/json"} if data else {})
        return self._read_answer(answer, f"{method} {path}", needs)

    def _read_answer(self, answer: bytes, call: str, needs: Sequence[str]) -> dict[str, Any]:
        """Raises ImmichError if it is not what Immich answers: another program, or a proxy's page of words."""
        try:
            facts = json.loads(answer)
        except ValueError:
            facts = None
        if not isinstance(facts, dict) or not facts.keys() >= set(needs):
            raise ImmichError(f"{self.address}: what {call} answers is not Immich's; is that the address?", True)
        return facts

    def _send(
        self, method: str, path: str, data: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        request = urllib.request.Request(  # noqa: S310  # the scheme was looked at
            f"{self.address}/api{path}", data, {"Accept": "*/*", **(headers or {})}, method=method
        )
        request.add_unredirected_header("x-api-key", self._key)
        try:
            with self._opener.open(request, timeout=PATIENCE_SECONDS) as answer:
                body: bytes = answer.read()
                return body
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                hint = "is IMMICH_API_KEY right, and does it have the permissions?"
                raise ImmichError(f"{self.address}: refuses {method} {path} ({error.code}); {hint}", True) from error
            if error.code in (301, 302, 303, 307, 308):
                where = error.headers.get("Location", "elsewhere")
                raise ImmichError(f"{self.address}: sends us to {where}; give that address", True) from error
            said = " ".join(error.read(2000).decode(errors="replace").split())
            raise ImmichError(f"{self.address}: {method} {path} failed ({error.code}: {said[:200]})") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = " ".join(str(getattr(error, "reason", error)).split())
            hint = "is it the server's address, and does it run?"
            raise ImmichError(f"{self.address}: cannot be reached ({reason}); {hint}", True) from error


class Journal:
    """What was uploaded and stacked, one line each, so that no run does anything twice.

    Args:
        path: of the file.
        server: lines of other servers are passed over.

    Raises:
        OSError: the file is there, and cannot be read.
    """

    def __init__(self, path: Path, server: str) -> None:
        self._path, self._server = path, server
        self._uploaded: dict[str, str] = {}
        self._stacked: set[str] = set()
        held = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        self._is_cut_off = bool(held) and not held.endswith("\n")
        for line in held.splitlines():
            try:
                facts = json.loads(line)
            except ValueError:
                continue  # cut off when the machine went down
            if facts.get("server") == server:
                self._uploaded[facts["original"]] = facts["restored"]
                self._stacked |= {facts["original"]} if facts["stacked"] else set()

    def check(self) -> None:
        """Raises OSError if it cannot be written: better now than after an upload."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.open("a", encoding="utf-8").close()

    def is_done(self, original: str) -> bool:
        return original in self._stacked

    def uploaded(self, original: str) -> str | None:
        """The asset that was uploaded for it, in this run or an earlier one."""
        return self._uploaded.get(original)

    def add(self, original: str, restored: str, *, stacked: bool) -> None:
        self._uploaded[original] = restored
        self._stacked |= {original} if stacked else set()
        facts = {"server": self._server, "original": original, "restored": restored, "stacked": stacked}
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n" * self._is_cut_off + json.dumps(facts) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._is_cut_off = False


@dataclass(frozen=True, slots=True)
class Choices:
    """What a person chose: see ``--help``."""

    format: str
    max_quality: int
    shows: str
    dry_run: bool
    options: unjpeg.Options


def is_candidate(asset: Mapping[str, Any], user: str) -> bool:
    """A JPEG of that user that is there, and no result. Stacks can hold no pictures of others."""
    name = PurePath(asset["originalFileName"])
    media_type = asset.get("originalMimeType") or ("image/jpeg" if name.suffix.lower() in (".jpg", ".jpeg") else "")
    is_gone = asset.get("isTrashed") or asset.get("isOffline")
    is_jpeg = asset.get("type") == "IMAGE" and media_type == "image/jpeg"
    return is_jpeg and asset["ownerId"] == user and not is_gone and not is_result(str(name))


def is_result(name: str) -> bool:
    return PurePath(name).stem.endswith(MARK)


def restore_asset(
    immich: Immich, restorer: unjpeg.Restorer, journal: Journal, asset: Mapping[str, Any], choices: Choices
) -> str | None:
    """Do what is left to do for one picture. Returns what was done, in words; None if it was done before.

    Raises:
        UnjpegError: the picture cannot be read, or the server refuses.
    """
    original = immich.read_asset(asset["id"])  # as it is now: it may be in a stack since the search
    stack = immich.read_stack(original["stack"]["id"]) if original.get("stack") else None
    members = stack["assets"] if stack else []
    result_name = f"{PurePath(original['originalFileName']).stem}{MARK}.{choices.format}"
    if any(is_result(member["originalFileName"]) and _stem(member) == _stem(original) for member in members):
        return None
    restored = journal.uploaded(original["id"])
    words = "stacked"
    if restored is None:
        data = immich.download(original["id"])
        inspection = unjpeg.inspect(data, model=None)
        quality = inspection.stated_quality
        if quality is not None and quality > choices.max_quality and not inspection.earlier:
            return f"left: states quality {quality}"
        if choices.dry_run:
            return f"would be restored (states quality {quality}): {result_name}"
        picture = restorer.restore(data, choices.options)
        if picture.report.model is None:
            return "left as it is"
        file = io.BytesIO()
        picture.save(file, format=choices.format, tag=True)
        answer = immich.upload(result_name, file.getvalue(), FORMATS[choices.format], original)
        if answer["status"] == "duplicate" and immich.read_asset(answer["id"]).get("isTrashed"):
            return "left: its result lies in the trash"
        restored, words = answer["id"], f"restored: {result_name}"
        journal.add(original["id"], restored, stacked=False)
    elif choices.dry_run:
        return "is uploaded, would be stacked"
    immich.stack(_order(original["id"], restored, stack, choices.shows))
    journal.add(original["id"], restored, stacked=True)
    return words


def _stem(asset: Mapping[str, Any]) -> str:
    return PurePath(asset["originalFileName"]).stem.removesuffix(MARK)


def _order(original: str, restored: str, stack: Mapping[str, Any] | None, shows: str) -> list[str]:
    """The new stack: all of the old one, so that none is torn apart. Another picture that it shows stays shown."""
    shown = stack["primaryAssetId"] if stack else original
    first = restored if shows == "restored" and shown == original else shown
    others = [member["id"] for member in stack["assets"]] if stack else []
    return list(dict.fromkeys([first, original, *others, restored]))


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Restore the JPEGs of an Immich library, stacked with their originals."
    )
    parser.add_argument("--server", default=os.environ.get("IMMICH_INSTANCE_URL"), help="[$IMMICH_INSTANCE_URL]")
    parser.add_argument("--album", metavar="ID", help="only of this album")
    parser.add_argument("--taken-after", metavar="DATE", help="only pictures taken after 2009-12-31, say")
    parser.add_argument("--taken-before", metavar="DATE", help="and before")
    parser.add_argument("--limit", type=int, metavar="N", help="stop after so many new results")
    parser.add_argument("--max-quality", type=int, default=90, help="leave files that state a higher quality [90]")
    parser.add_argument("--model", default="default", help="fast, default, best or a model file's path [default]")
    parser.add_argument("--strength", type=float, default=1.0, help="0..1 [1]")
    parser.add_argument("--format", choices=FORMATS, default="webp", help="of the results; webp and png lose nothing")
    parser.add_argument("--shows", choices=("restored", "original"), default="restored", help="on top of the stack")
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    parser.add_argument(
        "--journal", type=Path, default=state / "unjpeg/immich.jsonl", help="what is done [%(default)s]"
    )
    parser.add_argument("--dry-run", action="store_true", help="look, and say what would be done")
    given = parser.parse_args(arguments)
    if not given.server:
        parser.error("give --server, or set IMMICH_INSTANCE_URL")
    if not os.environ.get("IMMICH_API_KEY"):
        parser.error("set IMMICH_API_KEY to a key from Account Settings; it is taken from the environment alone")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if all went well, 1 if some pictures failed, 2 for wrong usage, 130 if it was interrupted."""
    given = parse_arguments(arguments)
    filters: dict[str, Any] = {"albumIds": [given.album]} if given.album else {}
    for name, value in (("takenAfter", given.taken_after), ("takenBefore", given.taken_before)):
        if value:
            filters[name] = value if "T" in value else f"{value}T00:00:00.000Z"
    done = failed = 0
    try:
        options = unjpeg.Options(strength=given.strength)
        choices = Choices(given.format, given.max_quality, given.shows, given.dry_run, options)
        immich = Immich(given.server, os.environ["IMMICH_API_KEY"])
        restorer = unjpeg.Restorer(given.model)
        journal = Journal(given.journal, immich.address)
        if not given.dry_run:
            journal.check()
        user = immich.find_user()
        # All of it first: what is uploaded meanwhile would move the pages.
        found = [one for one in immich.search(filters) if is_candidate(one, user)]
        for asset in (one for one in found if not journal.is_done(one["id"])):
            if given.limit is not None and done >= given.limit:
                break
            name = asset["originalFileName"]
            try:
                words = restore_asset(immich, restorer, journal, asset, choices)
            except unjpeg.ModelError:
                raise
            except unjpeg.UnjpegError as error:
                if isinstance(error, ImmichError) and error.is_final:
                    raise
                failed += 1
                print(f"{name}: {error}", file=sys.stderr)
                continue
            if words is not None:
                done += not words.startswith("left")
                print(f"{name}: {words}")
    except (ValueError, unjpeg.ModelError) as error:
        print(f"restore_immich: {error}", file=sys.stderr)
        return 2
    except unjpeg.UnjpegError as error:
        print(f"restore_immich: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"restore_immich: {given.journal}: {error.strerror or error}; name another --journal", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("restore_immich: interrupted; the same command goes on", file=sys.stderr)
        return 130
    print(f"{done} {'would be restored' if given.dry_run else 'restored'}, {failed} failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
