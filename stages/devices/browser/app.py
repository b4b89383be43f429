"""The web application of a probe: serves the page and the models, and takes results."""

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from stages.devices.browser import measurement, web_runtime
from stages.devices.browser.measurement import Browser, Sent, WrongMessageError
from stages.devices.browser.runs import Runs

PAGE = Path(__file__).parent / "page"
_PAGE_FILES = ("index.html", "style.css", "page.js", "measuring.js", "picture.js", "worker.js")
# The system's table varies, so it is not used.
_MEDIA_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
}

#: Time limits for a request body and for an answer.
BODY_SECONDS = 30.0
ANSWER_SECONDS = 900.0
_MAX_INTRODUCTION = 16 * 1024

#: Sent with every answer, including the server's refusals.
HEADERS = {
    # Browsers give shared memory and the precise clock only to a page that is isolated from other
    # windows and loads nothing from elsewhere.
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval';"
    " worker-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self' data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}

M = TypeVar("M", bound=measurement.Message)


def create_app(token: str, runs: Runs, runtime: Path) -> ASGIApp:
    """Serve everything below ``/<token>/`` and answer any other request with 404."""
    routes = [Route("/", _file(PAGE / "index.html"))]
    routes += [Route(f"/{name}", _file(PAGE / name)) for name in _PAGE_FILES]
    routes += [Route(f"/models/{path.name}", _file(path)) for path in runs.models]
    routes += [
        Route(f"/runtime/{name}", _file(runtime / name, compressed=True))
        for name in web_runtime.FILES
    ]
    golden = runs.images.tobytes()

    async def begin(request: Request) -> Response:
        browser = await _read(request, Browser, _MAX_INTRODUCTION)
        return JSONResponse(runs.begin(browser))

    async def take(request: Request) -> Response:
        sent = await _read(request, Sent, runs.max_message)
        run, number = request.path_params["run"], request.path_params["number"]
        try:
            # Not Starlette's converter, which fails on more than 4,300 digits.
            return JSONResponse(runs.take(run, int(number), sent.result))
        except (KeyError, ValueError):
            raise HTTPException(404) from None
        except WrongMessageError as error:
            raise HTTPException(400, str(error)) from None

    routes += [
        Route("/golden", lambda _: Response(golden, media_type="application/octet-stream")),
        Route("/about", lambda _: JSONResponse(runs.about)),
        Route("/runs", begin, methods=["POST"]),
        Route("/runs/{run:str}/{number:str}", take, methods=["POST"]),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _refuse})
    app.router.redirect_slashes = False
    return _guarded(app, token)


def _file(path: Path, *, compressed: bool = False) -> Callable[[Request], FileResponse]:
    """Serve a file; with ``compressed``, its gzipped copy with the suffix ``.gz``."""
    media_type = _MEDIA_TYPES[path.suffix]
    sent = path.with_name(f"{path.name}.gz") if compressed else path
    headers = {"content-encoding": "gzip"} if compressed else {}
    return lambda _: FileResponse(sent, media_type=media_type, headers=headers)


async def _read(request: Request, kind: type[M], limit: int) -> M:
    """Parse a request's body; raises HTTPException if it is too long, too slow or invalid."""
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared[:20]) > limit:
        raise HTTPException(413, f"a body of {declared[:20]} bytes, expected {limit} at most")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise HTTPException(413, f"a body of more than {limit} bytes")
    except TimeoutError:
        raise HTTPException(408, "the body took too long") from None
    try:
        return kind.model_validate_json(bytes(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part)[:40] for part in first["loc"])
        raise HTTPException(400, f"{where or 'the body'}: {first['msg'].lower()}") from None


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # Close the connection: the client may go on sending, and nothing more is read.
    return PlainTextResponse(
        error.detail.lower(), error.status_code, headers={"connection": "close"}
    )


def _guarded(app: ASGIApp, token: str) -> ASGIApp:
    """Pass on requests whose path begins with the token."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        _, _, rest = scope["path"].partition("/")
        given, slash, rest = rest.partition("/")
        answer: ASGIApp = app
        if not secrets.compare_digest(given.encode(), token.encode()) or not slash:
            answer = PlainTextResponse("not found", 404, headers={"connection": "close"})
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await answer({**scope, "path": f"/{rest}", "root_path": ""}, receive, send)
        except (TimeoutError, ClientDisconnect):
            return  # the client has gone or reads too slowly

    return guarded
