"""The page over HTTP: three files, a stream of what changes, and orders for whoever has the token.

`GET /events` is a stream of server-sent events: `hello`, then `step` after `step` (see `view`), at
most two in a second. `POST /orders` takes `{"server": ..., "command": "cancel", "transfer": 7}`,
or "drain" or "resume"; `POST /token` only says whether the token is right. The token comes in a
header, `Authorization: Bearer TOKEN` (percent-encoded), which no other site can have a browser
send: there is no cookie, so there is nothing to forge a request with.

It knows nothing of sockets; what it serves comes from a `Watch`.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tftp.events import printable
from tftp.monitor.dashboard.view import View
from tftp.monitor.dashboard.watch import Watch
from tftp.monitor.feed import OrderError

__all__ = ["Settings", "make_app"]

logger = logging.getLogger("tftp")

# Seconds between two steps, and after which a stream without one says that it is alive.
_STEP_EVERY, _ALIVE_EVERY = 0.5, 10.0
# Browsers at once. Each costs a connection, and a look at two hundred rows at every step.
_MOST_BROWSERS = 32
# The longest order, in octets, and how many seconds a server may take to answer it.
_LONGEST, _ANSWER = 4096, 5.0

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_COMMANDS = frozenset({"cancel", "drain", "resume"})

# Nothing from elsewhere, nothing inline, nothing that a file name could become.
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a page is served.

    Attributes:
        token: whoever shows it may act; None lets nobody act.
        local: only this host can reach the page, so whoever comes may look. Without it, looking
            needs the token too.
        version: of the program.
        ending: tells that the page is about to end, and streams with it.
    """

    token: str | None
    local: bool
    version: str
    ending: Callable[[], bool]


def make_app(watch: Watch, settings: Settings) -> ASGIApp:
    """The application for an ASGI server."""
    page = _Page(watch, settings)
    routes = [
        *(Route(path, page.file, methods=["GET"]) for path in _FILES),
        Route("/events", page.events, methods=["GET"]),
        Route("/token", page.token, methods=["POST"]),
        Route("/orders", page.orders, methods=["POST"]),
    ]
    return _Guarded(
        Starlette(routes=routes, exception_handlers={HTTPException: _explain}),
        local=settings.local,
    )


class _Guarded:
    """Gives every answer the headers, and keeps out whoever comes under another name.

    A page of the web can have its own name lead to 127.0.0.1, and would then be of the same origin
    as this page. But it cannot choose the header Host.
    """

    def __init__(self, app: ASGIApp, *, local: bool) -> None:
        self._app = app
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        app = self._app
        if self._local and scope["type"] == "http" and not _is_local(Request(scope)):
            app = _refusal(421, "this page is for this host alone: open it as http://127.0.0.1")
        await app(scope, receive, send_guarded)


def _is_local(request: Request) -> bool:
    try:
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Page:
    """The endpoints."""

    def __init__(self, watch: Watch, settings: Settings) -> None:
        self._watch = watch
        self._settings = settings
        self._browsers = 0
        folder = files("tftp.monitor.dashboard") / "static"
        self._contents = {path: (folder / name).read_bytes() for path, (name, _) in _FILES.items()}
        digest = hashlib.sha256(settings.version.encode())
        for content in self._contents.values():
            digest.update(content)
        # A browser that has been open since before an update has other files than these.
        self._build = digest.hexdigest()[:16]

    async def file(self, request: Request) -> Response:
        """One of the files."""
        path, tag = request.url.path, f'"{self._build}"'
        headers = {"etag": tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(self._contents[path], media_type=_FILES[path][1], headers=headers)

    async def events(self, request: Request) -> Response:
        """The stream."""
        if not self._settings.local:
            self._check_token(request)
        if self._browsers >= _MOST_BROWSERS:
            raise HTTPException(503, f"{_MOST_BROWSERS} browsers look already")
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[bytes]:
        self._browsers += 1
        try:
            with self._watch.looking():
                view, clock = View(self._watch), asyncio.get_running_loop().time
                yield _event("hello", self._hello())
                said = clock()
                while not self._settings.ending():
                    if step := view.step():
                        yield _event("step", step)
                        said = clock()
                    elif clock() - said >= _ALIVE_EVERY:
                        yield b": alive\n\n"
                        said = clock()
                    await asyncio.sleep(_STEP_EVERY)
        finally:
            self._browsers -= 1

    def _hello(self) -> dict[str, Any]:
        return {
            "build": self._build,
            "version": self._settings.version,
            "acting": self._settings.token is not None,
            "servers": self._watch.servers,
        }

    async def token(self, request: Request) -> Response:
        """Whether the token is right; it changes nothing."""
        self._check_token(request)
        return Response(status_code=204)

    async def orders(self, request: Request) -> Response:
        """An order for a server."""
        self._check_token(request)
        server, command, members = await self._order(request)
        try:
            answer = await asyncio.to_thread(self._watch.send, server, command, **members)
            reply = await asyncio.wait_for(asyncio.wrap_future(answer), _ANSWER)
        except OrderError as error:
            raise HTTPException(409, str(error)) from None
        except TimeoutError:
            raise HTTPException(504, f"{server} does not answer") from None
        except ConnectionError as error:
            raise HTTPException(502, str(error)) from None
        return JSONResponse({"result": reply.get("result")})

    def _check_token(self, request: Request) -> None:
        """Raise `HTTPException` unless the request has the token."""
        token = self._settings.token
        if token is None:
            raise HTTPException(403, "nobody may act here: the page was started without a token")
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not shown:
            raise HTTPException(401, "this needs the token", {"www-authenticate": "Bearer"})
        if not hmac.compare_digest(_octets(unquote(shown.strip())), _octets(token)):
            client = printable(request.client.host) if request.client else "somebody"
            logger.warning("%s has shown a wrong token to the page", client)
            raise HTTPException(403, "this is not the token")

    async def _order(self, request: Request) -> tuple[str, str, dict[str, Any]]:
        """Server, command and members, or `HTTPException`."""
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > _LONGEST:
                raise HTTPException(413, "this is too long for an order")
        try:
            order = json.loads(bytes(body))
        except (ValueError, RecursionError):
            order = None
        if not isinstance(order, dict) or not isinstance(order.get("server"), str):
            raise HTTPException(400, 'an order is {"server": ..., "command": ...}')
        server, command, number = order["server"], order.get("command"), order.get("transfer")
        if not isinstance(command, str) or command not in _COMMANDS:
            raise HTTPException(400, f"the orders are {', '.join(sorted(_COMMANDS))}")
        if server not in self._watch.servers:
            raise HTTPException(404, "this page does not watch such a server")
        if command != "cancel":
            return server, command, {}
        if not isinstance(number, int) or isinstance(number, bool):
            raise HTTPException(400, '"transfer" is the number of the one to cancel')
        return server, command, {"transfer": number}


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _event(name: str, data: dict[str, Any]) -> bytes:
    # The JSON is ASCII without line ends, so a name from the network can end no line of the stream.
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode("ascii")


def _refusal(status: int, message: str) -> ASGIApp:
    return JSONResponse({"error": message}, status)


async def _explain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  (what it is registered for)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)
