"""A small web server in a thread, which bears with clients that stall or come in crowds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

#: The head of a request must have come within so many seconds; what follows it is the app's to
#: limit.
HEAD_SECONDS = 10.0
#: So many connections are kept that have got nothing but refusals; one more ends the oldest.
MAX_STRANGERS = 64
#: What a request's head may take, in bytes.
_MAX_HEAD = 16 * 1024
_SHUTDOWN_SECONDS = 2


class _Protocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, but less patient.

    uvicorn ends a connection that falls silent only after an answer. Here one that says nothing, or
    the head of its request byte by byte, ends after HEAD_SECONDS, and a crowd of them cannot keep
    others out.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        #: In the order of their arrival.
        self._strangers: dict[_Protocol, None] = self.app_state.setdefault("strangers", {})
        self._serve = self.app
        self.app = self._recognise

    async def _recognise(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                self._strangers.pop(self, None)
            await send(message)

        await self._serve(scope, receive, watch)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEAD_SECONDS, self._end_if_silent)
        self._strangers[self] = None
        if len(self._strangers) > MAX_STRANGERS:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._strangers.pop(self, None)
        super().connection_lost(exc)

    def _end_if_silent(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._end_if_silent)


@contextlib.contextmanager
def serving(
    app: ASGIApp, listener: socket.socket, encryption: ssl.SSLContext | None
) -> Iterator[None]:
    """Have ``app`` served in a thread of its own until the block ends.

    Args:
        listener: already listening; it is closed at the end.
        encryption: for HTTPS.
    """
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,  # addresses hold the token
        proxy_headers=False,
        server_header=False,
        date_header=False,
        h11_max_incomplete_event_size=_MAX_HEAD,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        ssl_context_factory=None if encryption is None else lambda *_: encryption,
    )
    # What others send is no news; what fails here is.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="probe", daemon=True
    )
    with listener:
        thread.start()
        try:
            yield
        finally:
            server.should_exit = True
            thread.join()
