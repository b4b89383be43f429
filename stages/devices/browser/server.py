"""A web server in a thread."""

from __future__ import annotations

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


@contextlib.contextmanager
def serving(
    app: ASGIApp,
    headers: Mapping[str, str],
    listener: socket.socket,
    encryption: ssl.SSLContext | None,
) -> Iterator[None]:
    """Serve ``app`` in a thread until the block ends.

    Args:
        listener: a listening socket; closed at the end.
    """
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
        ssl_context_factory=None if encryption is None else lambda *_: encryption,
        h11_max_incomplete_event_size=_MAX_HEAD,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    # Invalid requests are only warnings.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), name="probe", daemon=True)
    with listener:
        thread.start()
        try:
            yield
        finally:
            server.should_exit = True
            thread.join()
