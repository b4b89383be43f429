"""What scheduled and shared runs need: server, workers, remotes.

Nothing is changed anywhere, and no check takes longer than some seconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from models.errors import InputError
from pipeline.dvc_command import dvc
from pipeline.dvc_config import remotes
from pipeline.prefect_server import connect

_REMOTE_S = 10.0


class Finding(NamedTuple):
    """A line of ``ackd doctor``; ``missing``: what an absence means, and what to do."""

    what: str
    usable: bool
    found: str
    missing: str


def findings(root: Path) -> Iterator[Finding]:
    """The server and its workers, and in a project its remotes."""
    yield from _server()
    if (root / ".dvc").is_dir():
        yield from _remotes(root)


def _server() -> Iterator[Finding]:
    import httpx
    from prefect.client.schemas.objects import WorkerStatus
    from prefect.settings import get_current_settings

    what, url = "Prefect server", get_current_settings().api.url
    if not url:
        why = "nothing is scheduled, and each `ackd run` starts a server for itself: `ackd server`"
        yield Finding(what, False, "PREFECT_API_URL is not set", why)
        return
    try:
        with connect() as client:
            yield Finding(what, True, f"{client.api_version()} at {url}", "")
            pools = [pool.name for pool in client.read_work_pools()]
            workers = {pool: client.read_workers_for_work_pool(pool) for pool in pools}
    except (httpx.HTTPError, ValueError) as error:  # an InputError, or what is no API of Prefect
        yield Finding(what, False, str(error), "`ackd run` fails, and so do scheduled runs")
        return
    if not workers:
        why = "nothing that is scheduled would run: `ackd worker`"
        yield Finding("worker", False, "the server has no work pool", why)
    for pool, known in workers.items():
        online = [worker.name for worker in known if worker.status == WorkerStatus.ONLINE]
        found = ", ".join(online) or "none is online"
        why = "runs that are scheduled there wait: `ackd worker`"
        yield Finding(f"worker of {pool}", bool(online), found, why)


def _remotes(root: Path) -> Iterator[Finding]:
    try:
        known = remotes(root)
    except InputError as error:
        yield Finding("DVC remote", False, str(error), "nothing is pushed or pulled")
        return
    if not known:
        why = "results stay on this machine: `dvc remote add --default NAME URL`"
        yield Finding("DVC remote", False, "none", why)
    for remote in known:
        what, why = f"DVC remote {remote.name}", "results are neither pushed nor pulled: "
        if "://" not in remote.url:
            usable = os.access(remote.url, os.W_OK)
            found = f"{remote.url}{'' if usable else ', which is not there or not yours to write'}"
            yield Finding(what, usable, found, f"{why}mount or make it, or have it opened to you")
            continue
        try:
            dvc(root, "status", "--cloud", "--remote", remote.name, timeout_s=_REMOTE_S)
        except InputError as error:
            why += f"look at the network, its URL and login, then `dvc push -r {remote.name}`"
            yield Finding(what, False, str(error), why)
        else:
            yield Finding(what, True, "answers, and lets you in", "")
