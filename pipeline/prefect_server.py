"""Connects to the Prefect server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from models.errors import InputError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

HOST, PORT = "127.0.0.1", 4200  # the default address of ackd server


def api_url() -> str:
    """Return ``PREFECT_API_URL``, or the address of the default server."""
    from prefect.settings import get_current_settings

    return get_current_settings().api.url or f"http://{HOST}:{PORT}/api"


def require_server(url: str | None) -> None:
    """Raise InputError unless a server responds at the API's URL, if any, within two seconds.

    A server that requires authentication counts as responding.
    """
    if not url:
        return
    import httpx

    try:
        status = httpx.get(f"{url.rstrip('/')}/health", timeout=2).status_code
        problem = "" if status in (200, 401, 403) else f"status {status}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        problem = str(error) or type(error).__name__
    if problem:
        raise InputError(
            f"no Prefect server answers at {url} ({problem}); start one with `ackd server` in"
            " another terminal, or correct or unset PREFECT_API_URL: without it, `ackd run` starts"
            " its own server"
        )


@contextlib.contextmanager
def connect() -> Iterator[SyncPrefectClient]:
    """Open a client of the server; raises InputError if none responds."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    url = api_url()
    require_server(url)
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        yield client
