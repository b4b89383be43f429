"""Serve a web application in a thread."""

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping

import uvicorn
from starlette.types import ASGIApp

_MAX_HEAD = 16 * 1024  # bytes of a request's head
_SHUTDOWN_SECONDS = 2


class _Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # A browser with the page still open need not answer the end of TLS.
        asyncio.get_running_loop().call_later(_SHUTDOWN_SECONDS / 2, self._abort)
        await super().shutdown(sockets)

    def _abort(self) -> None:
        for connection in [*self.server_state.connections]:
            connection.transport.abort()


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
        http="h11",
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
    config.load()
    config.ssl = encryption  # uvicorn would load it from files
    # uvicorn logs invalid requests as warnings.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    server = _Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), name="probe", daemon=True)
    with listener:
        thread.start()
        try:
            yield
        finally:
            server.should_exit = True
            thread.join()
