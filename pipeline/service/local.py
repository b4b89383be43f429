"""The local Prefect server and its worker: on loopback, quiet, and ended with all below them."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import InputError
from pipeline.guard import run_guarded

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

HOST, PORT = "127.0.0.1", 4200
_PREFECT = (sys.executable, "-m", "prefect", "--no-prompt")


def api_url() -> str:
    """Where the server is: ``PREFECT_API_URL``, or what ``ackd server`` starts by default."""
    from prefect.settings import get_current_settings

    return get_current_settings().api.url or f"http://{HOST}:{PORT}/api"


def require_server(url: str | None) -> None:
    """See that a server answers at an address of its API; None needs none.

    Raises:
        InputError: it does not, within two seconds.
    """
    if url and (problem := _problem_of(url)):
        raise InputError(
            f"no Prefect server answers at {url} ({problem}); start one with `ackd server` in"
            " another terminal, or correct PREFECT_API_URL, without which `ackd run` starts its own"
        )


@contextlib.contextmanager
def connect() -> Iterator[SyncPrefectClient]:
    """A client of the server.

    Raises:
        InputError: none answers.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    url = api_url()
    require_server(url)
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        yield client


def run_server(port: int, echo: Callable[[str], None]) -> int:
    """Run a server here until a signal stops it; its database is in ``PREFECT_HOME``.

    Args:
        port: of the loopback interface.
        echo: takes one line when it answers.

    Returns:
        The exit status.

    Raises:
        InputError: the port is taken.
    """
    address = f"http://{HOST}:{port}"
    _require_free(port)
    over = threading.Event()
    named = "" if port == PORT else f"PREFECT_API_URL={address}/api "

    def announce() -> None:
        while not over.wait(0.2):
            if _problem_of(f"{address}/api") is None:
                echo(
                    f"Prefect's pages are at {address}; next, `{named}ackd worker` in another"
                    " terminal. Ctrl-C ends the server."
                )
                return

    threading.Thread(target=announce, daemon=True).start()
    # Without it, the pages ask the default port, whichever the server has.
    pages = {"PREFECT_SERVER_UI_API_URL": f"{address}/api"}
    command = [*_PREFECT, "server", "start", "--host", HOST, "--port", str(port)]
    try:
        return run_guarded(command, {**pages, **os.environ})
    finally:
        over.set()


def run_worker(pool: str, root: Path) -> int:
    """Run a worker of a pool here until a signal stops it, and with it the runs it has begun.

    Args:
        pool: its name; it is created, of type process, where it is missing.
        root: the project that its runs work on.

    Returns:
        The exit status.
    """
    return run_guarded(
        [*_PREFECT, "worker", "start", "--type", "process", "--pool", pool],
        {**worker_variables(root), **os.environ, "PREFECT_API_URL": api_url()},
        with_children=True,
    )


def worker_variables(root: Path) -> dict[str, str]:
    """What ``prefect.yaml`` leaves to the worker: the variables by which it finds a project."""
    from pipeline.dvc_config import cache_folder
    from pipeline.git_command import git

    def ask(*arguments: str) -> str:
        with contextlib.suppress(InputError):  # a project without git has no nights in clones
            return git(root, *arguments)
        return ""

    root = root.resolve()
    origin = ask("config", "--get", "remote.origin.url")
    if not origin or (root / origin).exists():
        origin = str((root / origin).resolve())
    found = {
        "ACKD_PROJECT": str(root),
        "ACKD_CHECKPOINTS": str(root / ".checkpoints"),
        "ACKD_DVC_CACHE": str(cache_folder(root)),
        "ACKD_REPOSITORY": origin,
    }
    branch = ask("branch", "--show-current")
    return {**found, "ACKD_BRANCH": branch} if branch else found


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            why = str(error.strerror).lower()
            if _problem_of(f"http://{HOST}:{port}/api") is None:
                why = "a Prefect server is there, which you can use"
            raise InputError(
                f"port {port} of {HOST} is not free ({why}); name another by --port"
            ) from None


def _problem_of(url: str) -> str | None:
    """Why no server answers at an address of its API; None where one does."""
    import httpx

    try:
        status = httpx.get(f"{url.rstrip('/')}/health", timeout=2).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return str(error) or type(error).__name__
    # One that wants a user and a password is a server as well.
    return None if status in (200, 401, 403) else f"status {status}"
