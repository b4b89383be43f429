"""A small web server in a thread, robust against crowds of stalling clients."""

import asyncio
import contextlib
import logging
import socket
import ssl
import sys
import threading
from collections.abc import Iterator, Mapping

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

#: Time limit for a TLS handshake, and for the head of a request; the app limits the rest.
HEAD_SECONDS = 10.0
#: The most connections without a successful request; one more ends the oldest.
MAX_STRANGERS = 64
_MAX_HEAD = 16 * 1024  # bytes of a request's head
_SHUTDOWN_SECONDS = 2
#: Pause before accepting again when this process has too many open files.
_PAUSE_SECONDS = 0.2


class _Server(uvicorn.Server):
    """uvicorn with its own accept loop.

    asyncio's server waits a minute for each of any number of TLS handshakes, and logs every failed
    connection.

    Attributes:
        strangers: connections without a successful request, oldest first.
        failures: number of connections that could not be accepted or failed their handshake.
    """

    def __init__(
        self, config: uvicorn.Config, listener: socket.socket, encryption: ssl.SSLContext | None
    ) -> None:
        super().__init__(config)
        self.listener, self.encryption = listener, encryption
        self.strangers: dict[_Protocol, None] = {}
        self.failures = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        self._accepting = asyncio.create_task(self._accept())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._accepting.cancel()
        await super().shutdown(sockets=[])

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        self.listener.setblocking(False)
        async with asyncio.TaskGroup() as opening:
            while True:
                try:
                    connection, _ = await loop.sock_accept(self.listener)
                except OSError:
                    self.failures += 1
                    await asyncio.sleep(_PAUSE_SECONDS)
                else:
                    opening.create_task(self._open(connection))
                    await asyncio.sleep(0)  # let it end the oldest before the next is accepted

    async def _open(self, connection: socket.socket) -> None:
        protocol = _Protocol(self)
        self.strangers[protocol] = None
        if len(self.strangers) > MAX_STRANGERS:
            next(iter(self.strangers)).end()
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=self.encryption,
                ssl_handshake_timeout=HEAD_SECONDS if self.encryption else None,
                # A browser with the page still open need not answer the end of TLS.
                ssl_shutdown_timeout=_SHUTDOWN_SECONDS / 2 if self.encryption else None,
            )
        except Exception:  # clients may send anything
            self.failures += 1
        finally:
            if protocol.transport is None:
                self.strangers.pop(protocol, None)


class _Protocol(H11Protocol):
    """uvicorn's HTTP/1.1 with a time limit for the head of a request.

    uvicorn ends idle connections only after an answer. Here, a client that sends nothing or
    trickles its head is cut off after HEAD_SECONDS, so a crowd of them locks nobody out.
    """

    def __init__(self, server: _Server) -> None:
        super().__init__(server.config, server.server_state, {})
        self._strangers = server.strangers
        self._opening = asyncio.current_task()
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

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._strangers.pop(self, None)
        super().connection_lost(exc)

    def end(self) -> None:
        """Close the connection at once."""
        del self._strangers[self]
        if self.transport is not None:
            self.transport.abort()
        elif self._opening is not None:
            self._opening.cancel()

    def _end_if_silent(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._end_if_silent)


@contextlib.contextmanager
def serving(
    app: ASGIApp,
    headers: Mapping[str, str],
    listener: socket.socket,
    encryption: ssl.SSLContext | None,
) -> Iterator[None]:
    """Serve ``app`` in a thread until the block ends, and then close ``listener``."""
    config = uvicorn.Config(
        app,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,  # paths contain the token
        proxy_headers=False,
        headers=[*headers.items()],
        server_header=False,
        date_header=False,
        h11_max_incomplete_event_size=_MAX_HEAD,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    # uvicorn logs invalid requests as warnings.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    server = _Server(config, listener, encryption)
    thread = threading.Thread(target=server.run, name="probe", daemon=True)
    with listener:
        thread.start()
        try:
            yield
        finally:
            server.should_exit = True
            thread.join()
            if server.failures:
                print(
                    f"probe: {server.failures} connections failed before any request: no TLS"
                    " handshake, or too many open files",
                    file=sys.stderr,
                )
