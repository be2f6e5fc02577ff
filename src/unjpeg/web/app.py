"""The HTTP side: who may ask, what is refused, which worker does it. docs/page.md lists the addresses.

Uploads are the bytes of a request's body, read into memory up to a limit: no file name, path or form is taken from a
client, and nothing that a client sends is opened, served or kept as a file.
"""

from __future__ import annotations

import asyncio
import importlib.resources
import ipaddress
import json
import re
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unjpeg.errors import (
    BadImageError,
    BusyError,
    OutputError,
    PictureGoneError,
    TimeLimitError,
    TooLargeError,
    UnjpegError,
    UnsupportedImageError,
)
from unjpeg.machine import allowed_cores
from unjpeg.modelfile import ModelFile
from unjpeg.output import FORMATS
from unjpeg.precision import choose_precision
from unjpeg.restorer import DEFAULTS, Options
from unjpeg.settings import parse_size
from unjpeg.version import __version__
from unjpeg.web import darkroom
from unjpeg.web.darkroom import FileKind, Frame
from unjpeg.web.jobs import Job, Jobs
from unjpeg.web.workers import ARRIVAL_SECONDS, ServerLimits, Workers, check_machine

__all__ = ["OFFERED", "create_app", "is_private", "serve"]

OFFERED: Final = ("default", "fast", "best")
"""The models that visitors choose among, if none is named."""

_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/server.js": ("server.js", "text/javascript; charset=utf-8"),
    "/zip.js": ("zip.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/examples/kitten.jpg": ("examples/kitten.jpg", "image/jpeg"),
    "/examples/beach-saved-twice.jpg": ("examples/beach-saved-twice.jpg", "image/jpeg"),
}
"""Everything that the page consists of, by address: no folder is served."""

_MEDIA_TYPES = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "tiff": "image/tiff",
    "avif": "image/avif",
}

_STATUS: tuple[tuple[type[UnjpegError], int], ...] = (
    (TooLargeError, 413),
    (UnsupportedImageError, 415),
    (BadImageError, 422),
    (OutputError, 422),
    (PictureGoneError, 404),
    (BusyError, 503),
    (TimeLimitError, 504),
    (UnjpegError, 500),
)
"""The first that fits counts."""

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

_RETRY_SECONDS = 2
_EXPIRE_EVERY_SECONDS = 30
_SPARE_CONNECTIONS = 200
"""Beyond the requests at work: idle browsers, and those who are told that the server is busy."""

_KEY = r"^\d{1,4}-[\w-]{22}$"


class LookQuery(BaseModel):
    """How to restore."""

    model_config = ConfigDict(extra="forbid")
    strength: float = Field(1.0, ge=0, le=1, allow_inf_nan=False, description="0 decodes only, 1 restores fully.")
    quality: int | None = Field(
        None, ge=1, le=100, description="Restore as if it looked like this JPEG quality: lower is smoother."
    )
    consistency: Literal["auto", "strict", "off"] = Field(
        "auto", description="Keep the result among the pictures that could have produced the file."
    )
    detail: float = Field(
        1.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Less than 1 smooths fine detail less: texture, and its noise.",
    )
    dither: bool = Field(False, description="Round to 8 bits with fine grain, against bands in skies.")

    model: str | None = Field(None, max_length=4096, description="One of those that `GET api/models` lists.")

    def options(self) -> Options:
        return Options(
            strength=self.strength,
            quality=self.quality,
            consistency=self.consistency,
            detail=self.detail,
            dither=self.dither,
        )


def _bits(value: str) -> int:
    """Of a query: pydantic takes no "8" for 8 among literals."""
    try:
        return int(value)
    except ValueError:
        raise ValueError("must be 8 or 16") from None


class FileQuery(LookQuery):
    """How to restore, and into what file."""

    format: Literal["png", "jpeg", "webp", "tiff", "avif"] | None = Field(
        None, description="PNG if none is named, and TIFF of CMYK, which only TIFF and JPEG hold."
    )
    bit_depth: Annotated[Literal[8, 16] | None, BeforeValidator(_bits)] = Field(
        None, description="16 for PNG and TIFF only, where it is the default for files of more than 8 bits."
    )
    output_quality: int | None = Field(None, ge=1, le=100, description="Of JPEG (95), AVIF (90) or WebP (lossless).")
    output_size: Annotated[int | Literal["input"] | None, BeforeValidator(parse_size)] = Field(
        None, description="The best JPEG that is not larger: bytes, as in 200000 or 200KB, or input for the input's."
    )
    tag: bool = Field(False, description="Say in the XMP what restored the picture, and how.")

    def options(self) -> Options:
        return replace(super().options(), bit_depth=self.bit_depth)

    def kind(self) -> FileKind:
        if self.bit_depth is not None and self.format and self.bit_depth not in FORMATS[self.format].bit_depths:
            raise OutputError(f"{self.format} holds no {self.bit_depth}-bit pixels; choose png or tiff, or 8 bits")
        if self.output_quality is not None and not (self.format and FORMATS[self.format].has_quality):
            raise OutputError(
                f"{self.format or 'png'} is lossless and has no output_quality; choose jpeg, webp or avif"
            )
        if self.output_size is not None and self.format != "jpeg":
            raise OutputError(f"a size can be asked of jpeg only, not of {self.format or 'png'}")
        return FileKind(self.format, self.output_quality, self.output_size, self.tag)


_SALVAGE = Field(False, description="Take what decodes of a damaged JPEG instead of refusing it.")


class RestoreQuery(FileQuery):
    """How to restore, into what file, and what of a damaged one."""

    salvage: bool = _SALVAGE

    def options(self) -> Options:
        return replace(super().options(), salvage=self.salvage)


class OpenQuery(BaseModel):
    """What to take of a damaged file."""

    model_config = ConfigDict(extra="forbid")
    salvage: bool = _SALVAGE


def _check_area(value: str) -> str:
    """Of a query: "left,top,width,height"."""
    if re.fullmatch(r"\d{1,9},\d{1,9},[1-9]\d{0,8},[1-9]\d{0,8}", value, re.ASCII) is None:
        raise ValueError("must be left,top,width,height in pixels, the latter two at least 1")
    return value


Area = Annotated[
    str | None,
    AfterValidator(lambda value: value if value is None else _check_area(value)),
    Field(description="Show this part alone: left,top,width,height in pixels of the upright picture."),
]
Reduce = Annotated[int, Field(ge=1, le=64, description="Show the mean of so many by so many pixels as one.")]


def _frame(area: str | None, reduce: int) -> Frame:
    if area is None:
        return Frame(reduce=reduce)
    left, top, width, height = (int(part) for part in area.split(","))
    return Frame((left, top, width, height), reduce)


class FrameQuery(BaseModel):
    """What part to show, how small."""

    model_config = ConfigDict(extra="forbid")
    area: Area = None
    reduce: Reduce = 1

    def frame(self) -> Frame:
        return _frame(self.area, self.reduce)


class ViewQuery(LookQuery):
    """How to restore, and what part to show, how small."""

    area: Area = None
    reduce: Reduce = 1

    def frame(self) -> Frame:
        return _frame(self.area, self.reduce)


class SizeQuery(BaseModel):
    """Of a picture, in pixels."""

    model_config = ConfigDict(extra="forbid")
    width: int = Field(1000, ge=1, le=100_000)
    height: int = Field(1000, ge=1, le=100_000)


class ResidualQuery(ViewQuery):
    """How to restore, what to show, and how much to amplify the difference."""

    gain: float = Field(8.0, ge=1, le=64, allow_inf_nan=False, description="Middle grey plus this times the change.")


Key = Annotated[str, Path(pattern=_KEY, description="As `POST api/pictures` gave it.")]

_UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The file itself, as it is: no form around it.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class _Guard:
    """In front of everything: whose requests are taken, and the headers of every answer."""

    def __init__(self, app: ASGIApp, allowed_hosts: frozenset[str]) -> None:
        self._app, self._allowed_hosts = app, allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        if not self._is_host_allowed(headers.get("host", "")):
            problem = "the server does not know itself by this name; start it with --allow-host NAME"
            await _error(421, "HostError", problem)(scope, receive, send_with_headers)
        elif scope["method"] not in ("GET", "HEAD") and _is_cross_site(headers):
            problem = "requests of other sites' pages are refused"
            await _error(403, "CrossSiteError", problem)(scope, receive, send_with_headers)
        else:
            try:
                await self._app(scope, receive, send_with_headers)
            except asyncio.CancelledError:  # by a server that ends while this is at work: nothing to report as a fault
                if not begun:
                    await _error(503, "BusyError", "the server is ending")(scope, receive, send_with_headers)

    def _is_host_allowed(self, host: str) -> bool:
        """Numeric addresses, localhost and what was allowed: another name may be a stranger's page's."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._allowed_hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _is_cross_site(headers: Headers) -> bool:
    """Whether a browser sends this for a page from elsewhere; programs say nothing about that."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site not in ("same-origin", "none")
    return origin is not None and urlsplit(origin).netloc != headers.get("host")


def _error(status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return _answer_error(status, {"kind": kind, "message": message}, headers)


def _answer_error(status: int, error: Mapping[str, str], headers: Mapping[str, str] | None = None) -> JSONResponse:
    if status == 503:
        headers = {"retry-after": str(_RETRY_SECONDS), **(headers or {})}
    return JSONResponse({"error": error}, status, headers)


_IN_PARAMETERS = (("salvage=True", "salvage=true"), ("output stream: ", "this file: "))
"""What the library says, and how it is said to whoever sends requests."""


def _describe_error(error: UnjpegError) -> dict[str, str]:
    message = str(error)
    for ours, theirs in _IN_PARAMETERS:
        message = message.replace(ours, theirs)
    described = {"kind": type(error).__name__, "message": message}
    salvageable = error.salvageable if isinstance(error, BadImageError) else None
    return described | ({"salvageable": salvageable} if salvageable else {})


def create_app(
    *models: str,
    limits: ServerLimits = ServerLimits(),  # noqa: B008 (frozen)
    workers: int = 1,
    threads: int | None = None,
    allowed_hosts: Sequence[str] = (),
) -> FastAPI:
    """The application, for any ASGI server, in one process of it: pictures are held per process.

    Args:
        models: shipped models' names or model files' paths to choose among, the first one the usual one. ``OFFERED`` if
            none is named.
        workers: processes that restore, one picture at a time each.
        threads: CPU threads of each; by default the cores are shared out.
        allowed_hosts: names that the server is reached by, beside numeric addresses and localhost.

    Raises:
        ModelError: the model is not there.
        UnjpegError: the machine has no semaphores for the processes.
    """
    check_machine()
    files = {model: ModelFile.read(model) for model in models or OFFERED}
    names = [file.description.name for file in files.values()]
    team: Workers | None = None
    jobs: Jobs | None = None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        nonlocal team, jobs
        share = threads or max(1, allowed_cores() // workers)
        # Decided here, for all workers. A first start takes up to 4 seconds for the usual model; the others are taken
        # as they were measured elsewhere.
        usual = next(iter(files))
        chosen = {
            name: await asyncio.to_thread(choose_precision, file, measure=name == usual) for name, file in files.items()
        }
        team = Workers(chosen, count=workers, threads=share, limits=limits)
        jobs = Jobs(team, limits.held_seconds)
        chores = [
            asyncio.create_task(team.warm_up()),
            asyncio.create_task(team.expire(_EXPIRE_EVERY_SECONDS)),
            asyncio.create_task(_expire(jobs)),
        ]
        try:
            yield
        finally:
            for chore in chores:
                chore.cancel()
            jobs.stop()
            team.stop()

    app = FastAPI(
        title="unjpeg",
        version=__version__,
        summary="Takes compression artifacts out of JPEG images.",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=lifespan,
    )
    app.add_middleware(_Guard, allowed_hosts=frozenset({"localhost", *(name.lower() for name in allowed_hosts)}))
    _answer_errors(app)
    _add_page(app)

    def the_team() -> Workers:
        assert team is not None, "the application has not been started"
        return team

    def the_jobs() -> Jobs:
        assert jobs is not None, "the application has not been started"
        return jobs

    def chosen(query: LookQuery) -> tuple[int, str | None]:
        """The model's number, and its name if it is not the first."""
        if query.model is None:
            return 0, None
        if query.model not in names:
            raise HTTPException(422, f"model: this server offers {', '.join(names)}")
        number = names.index(query.model)
        return number, models[number] if number else None

    def holder(key: str) -> int:
        """Number of the worker that holds a picture."""
        number = int(key.partition("-")[0])
        if number >= the_team().count:
            raise PictureGoneError("this picture is no longer held; send it again")
        return number

    async def on_upload(request: Request, function: Callable[..., Any], *arguments: Any) -> Any:
        data = await _read_upload(request, limits)
        number = the_team().idlest()  # only now: while they are sent, many uploads would all find the same one
        return await the_team().run(number, function, data, *arguments, abandoned=request.is_disconnected)

    async def on_held(request: Request, key: str, function: Callable[..., Any], *arguments: Any) -> Any:
        number = holder(key)
        with the_team().admitted():
            return await the_team().run(number, function, key, *arguments, abandoned=request.is_disconnected)

    @app.head("/api/health", include_in_schema=False)
    @app.get("/api/health", tags=["server"])
    async def health() -> dict[str, Any]:
        """Whether the server is there, how busy it is, and its limits."""
        return {
            "status": "ok",
            "version": __version__,
            "model": names[0],
            "workers": the_team().count,
            "requests_at_work": the_team().at_work,
            "limits": asdict(limits),
        }

    @app.get("/api/models", tags=["server"])
    async def list_models(query: Annotated[SizeQuery, Query()]) -> list[dict[str, Any]]:
        """The models to choose among, the usual one first, and the seconds each takes here with such a picture.

        As measured with what was restored since the server started; null until something was.
        """
        seconds = the_team().expect_seconds(query.height, query.width)
        return [{"name": name, "seconds": took} for name, took in zip(names, seconds, strict=True)]

    @app.post("/api/restore", tags=["one request"], openapi_extra=_UPLOAD, response_class=Response)
    async def restore(request: Request, query: Annotated[RestoreQuery, Query()]) -> Response:
        """A file in, the restored file out. The report is in the header `unjpeg-report`, as JSON."""
        kind = query.kind()
        with the_team().admitted():
            data, format, report = await on_upload(
                request, darkroom.restore_once, query.options(), kind, chosen(query)[1]
            )
        return _file_response(data, format, {"unjpeg-report": json.dumps(report)})

    @app.post("/api/inspect", tags=["one request"], openapi_extra=_UPLOAD)
    async def inspect(request: Request, query: Annotated[OpenQuery, Query()]) -> dict[str, Any]:
        """What a file says about itself, in figures and in words."""
        with the_team().admitted():
            facts: dict[str, Any] = await on_upload(request, darkroom.inspect_once, query.salvage)
        return facts

    @app.post("/api/pictures", tags=["held pictures"], openapi_extra=_UPLOAD, status_code=201)
    async def open_picture(request: Request, query: Annotated[OpenQuery, Query()]) -> dict[str, Any]:
        """Send a picture, to render it more than once. What `inspect` says, and the key to ask by."""
        with the_team().admitted():
            data = await _read_upload(request, limits)
            number = the_team().idlest()
            key = f"{number}-{secrets.token_urlsafe(16)}"
            facts: dict[str, Any] = await the_team().run(
                number, darkroom.open_picture, data, key, query.salvage, abandoned=request.is_disconnected
            )
        return {"key": key, **facts}

    def tell(job: Job) -> JSONResponse:
        if job.error is not None:
            raise job.error
        return JSONResponse(the_jobs().describe(job), 202 if job.state in ("waiting", "working") else 200)

    @app.post("/api/pictures/{key}/work", tags=["held pictures"])
    async def start_work(key: Key, query: Annotated[LookQuery, Query()]) -> JSONResponse:
        """Start restoring, so that what is asked for next is there at once. Answers as `GET` does, without waiting.

        Another work on the same picture is given up.
        """
        return tell(await the_jobs().start(key, holder(key), query.options(), chosen(query)))

    @app.get("/api/pictures/{key}/work", tags=["held pictures"])
    async def watch_work(key: Key) -> JSONResponse:
        """How far it is: `state` (waiting, working, done, cancelled), `share` 0..1, `seconds_left` or null."""
        return tell(the_jobs().find(key))

    @app.delete("/api/pictures/{key}/work", tags=["held pictures"], status_code=204)
    async def cancel_work(key: Key) -> None:
        """Give up restoring: at once while it waits, else at the next tile."""
        the_jobs().cancel(key)

    @app.get("/api/pictures/{key}/decoded", tags=["held pictures"], response_class=Response)
    async def decoded(request: Request, key: Key, query: Annotated[FrameQuery, Query()]) -> Response:
        """The picture as the file has it: a PNG to look at, upright."""
        return _view(await on_held(request, key, darkroom.show_picture, "decoded", DEFAULTS, 1.0, None, query.frame()))

    @app.get("/api/pictures/{key}/restored", tags=["held pictures"], response_class=Response)
    async def restored(request: Request, key: Key, query: Annotated[ViewQuery, Query()]) -> Response:
        """The result: a PNG to look at, upright, without metadata."""
        arguments = (query.options(), 1.0, chosen(query)[1], query.frame())
        return _view(await on_held(request, key, darkroom.show_picture, "restored", *arguments))

    @app.get("/api/pictures/{key}/residual", tags=["held pictures"], response_class=Response)
    async def residual(request: Request, key: Key, query: Annotated[ResidualQuery, Query()]) -> Response:
        """What was changed, amplified, around middle grey: a PNG to look at, upright."""
        arguments = (query.options(), query.gain, chosen(query)[1], query.frame())
        return _view(await on_held(request, key, darkroom.show_picture, "residual", *arguments))

    @app.get("/api/pictures/{key}/check", tags=["held pictures"])
    async def check(request: Request, key: Key, query: Annotated[LookQuery, Query()]) -> dict[str, Any]:
        """What was done, and what `verify` says of the result, in figures and in words."""
        facts: dict[str, Any] = await on_held(request, key, darkroom.check_picture, query.options(), chosen(query)[1])
        return facts

    @app.get("/api/pictures/{key}/file", tags=["held pictures"], response_class=Response)
    async def file(request: Request, key: Key, query: Annotated[FileQuery, Query()]) -> Response:
        """The result as a file, with the metadata: what `POST api/restore` answers.

        What its user should know of it, if anything, is in the header `unjpeg-note`, as JSON: the quality that a size
        led to, for instance.
        """
        kind = query.kind()
        arguments = (query.options(), kind, chosen(query)[1])
        data, format, note = await on_held(request, key, darkroom.save_picture, *arguments)
        return _file_response(data, format, {"unjpeg-note": json.dumps(note)} if note else None)

    @app.delete("/api/pictures/{key}", tags=["held pictures"], status_code=204)
    async def close_picture(request: Request, key: Key) -> None:
        """Forget a picture now; unused ones are forgotten by themselves."""
        the_jobs().cancel(key)
        await on_held(request, key, darkroom.close_picture)

    return app


def _view(png: bytes) -> Response:
    return Response(png, media_type="image/png")


def _file_response(data: bytes, format: str, headers: dict[str, str] | None = None) -> Response:
    disposition = f'attachment; filename="restored{FORMATS[format].suffix}"'
    return Response(
        data, media_type=_MEDIA_TYPES[format], headers={"content-disposition": disposition, **(headers or {})}
    )


async def _read_upload(request: Request, limits: ServerLimits) -> bytes:
    """The body, no longer than it may be and no later."""
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise HTTPException(415, "send the file itself as the body, not a form (curl: --data-binary @photo.jpg)")
    too_long = TooLargeError(f"this file: has more than the limit of {limits.upload_bytes:,} bytes")
    if int(request.headers.get("content-length", 0)) > limits.upload_bytes:
        raise too_long
    data = bytearray()
    try:
        async with asyncio.timeout(limits.seconds or ARRIVAL_SECONDS):
            async for chunk in request.stream():
                data += chunk
                if len(data) > limits.upload_bytes:
                    raise too_long
    except TimeoutError:
        raise HTTPException(
            408, f"the file did not arrive within {limits.seconds or ARRIVAL_SECONDS:.0f} seconds"
        ) from None
    except ClientDisconnect:
        raise HTTPException(400, "the file did not arrive whole") from None
    return bytes(data)


def _answer_errors(app: FastAPI) -> None:
    """Every error is JSON of one shape."""

    async def ours(_: Request, error: Exception) -> Response:
        status = next(status for kind, status in _STATUS if isinstance(error, kind))
        assert isinstance(error, UnjpegError)
        return _answer_error(status, _describe_error(error))

    async def not_valid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _error(422, "ParameterError", "; ".join(map(_describe_problem, error.errors())))

    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, StarletteHTTPException)
        words = error.detail
        if error.status_code == 404:
            words = (
                "there is nothing at this address; the page is at /, and api/openapi.json lists what programs ask for"
            )
        elif error.status_code == 405 and error.headers:
            words = f"this address takes {error.headers.get('allow') or error.headers.get('Allow')}"
        return _error(error.status_code, "RequestError", words, error.headers)

    async def unexpected(_: Request, error: Exception) -> Response:
        return _error(500, "InternalError", f"the server failed ({type(error).__name__})")

    app.add_exception_handler(UnjpegError, ours)
    app.add_exception_handler(RequestValidationError, not_valid)
    app.add_exception_handler(StarletteHTTPException, http)
    app.add_exception_handler(Exception, unexpected)


def _describe_problem(problem: Mapping[str, Any]) -> str:
    """What is wrong with a parameter, in words of this server instead of pydantic's."""
    name, words = problem["loc"][-1], problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        words = "is no parameter of this address; api/openapi.json lists them"
    elif problem["type"] == "string_pattern_mismatch" and name == "key":
        words = "is none that POST api/pictures gave"
    elif problem["type"] == "missing":
        words = "is missing"
    return f"{name}: {words.replace('Input should be', 'must be').partition(', unable to')[0]}"


def _add_page(app: FastAPI) -> None:
    folder = importlib.resources.files("unjpeg.web") / "page"

    def add(address: str, data: bytes, media_type: str) -> None:
        async def part() -> Response:
            return Response(data, media_type=media_type, headers={"cache-control": "no-cache"})

        app.add_api_route(address, part, methods=["GET", "HEAD"], include_in_schema=False)

    for address, (name, media_type) in _PAGE.items():
        add(address, (folder / name).read_bytes(), media_type)


async def _expire(jobs: Jobs) -> None:
    while True:
        await asyncio.sleep(_EXPIRE_EVERY_SECONDS)
        jobs.expire()


def is_private(host: str, allowed_hosts: Sequence[str]) -> bool:
    """Whether a server is for its own computer alone: not reached from elsewhere, and not behind a proxy."""
    if allowed_hosts:
        return False
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(
    host: str,
    port: int,
    *,
    models: Sequence[str] = OFFERED,
    limits: ServerLimits = ServerLimits(),  # noqa: B008 (frozen)
    workers: int = 1,
    allowed_hosts: Sequence[str] = (),
    say: Callable[[str], None],
) -> None:
    """Answer requests until interrupted.

    Args:
        host, port: where to listen; port 0 takes a free one.
        say: told the address, and what to be careful of.

    Raises:
        ModelError: the model is not there.
        OutputError: the address cannot be listened on.
    """
    app = create_app(*models, limits=limits, workers=workers, allowed_hosts=allowed_hosts)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = str(error.strerror if isinstance(error, OSError) else error).partition(" (while ")[0]
        raise OutputError(
            f"{host}:{port}: cannot be listened on ({reason}); choose another --port or --host"
        ) from error
    shown = f"[{host}]" if ":" in host else host
    say(f"open http://{shown}:{listener.getsockname()[1]}/ in a browser; Ctrl-C ends it")
    if not ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
        say("anybody who reaches this address can use it: there is no password (see docs/page.md)")
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        limit_concurrency=limits.requests + _SPARE_CONNECTIONS,
        timeout_graceful_shutdown=1,
    )
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # not under nohup
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        say("ended")
    finally:
        listener.close()
