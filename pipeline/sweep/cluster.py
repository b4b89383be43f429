"""The Dask cluster that runs a sweep: one of this machine's processes, or one that is there."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import logging
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from models.errors import InputError
from pipeline.dvc_command import dvc
from pipeline.dvc_config import shared_remote
from pipeline.experiments import list_refs
from pipeline.git_command import git
from pipeline.resources import listed_gpus
from pipeline.sweep.commits import message
from pipeline.sweep.plan import Plan
from pipeline.sweep.worker import FOLDER, Workshop

_CONNECT_S = 20
_WORKERS_S = 60


class Cluster(NamedTuple):
    """Where experiments run.

    Attributes:
        client: of Dask.
        workshop: the name by which its workers know theirs.
        slots: how many experiments at once, at this moment.
    """

    client: Any
    workshop: str
    slots: Callable[[], int]


@contextlib.contextmanager
def only_one(sweep: str) -> Iterator[None]:
    """Hold the name of a sweep, which no other process may run here meanwhile.

    Raises:
        InputError: one does.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{sweep}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"the sweep {sweep} is running already in this project; wait until it ends, or"
                " interrupt it"
            ) from None
        yield


@contextlib.contextmanager
def start_here(plan: Plan, jobs: int | None, report: Callable[[str], None]) -> Iterator[Cluster]:
    """Processes of this machine, each with a GPU where ACKD_GPUS lists some.

    ``jobs`` of them, or one for each GPU, or one. ``report`` takes a line where fewer run, or where
    times are measured.
    """
    import dask
    from distributed import Client, LocalCluster

    gpus = listed_gpus()
    jobs = jobs or max(1, len(gpus))
    if 0 < len(gpus) < jobs:
        report(f"{len(gpus)} at once: ACKD_GPUS lists no more GPUs")
        jobs = len(gpus)
    if plan.measuring and jobs > 1:
        report(
            f"{', '.join(plan.measuring)}: measured beside {jobs - 1} other"
            f" experiment{'s' * (jobs > 2)}, so that times are those of a busy machine"
        )
    folder = FOLDER / plan.name
    try:
        # Left to itself, Dask gives every process below a worker one thread to compute with.
        with (
            dask.config.set({"distributed.nanny.pre-spawn-environ": {}}),
            LocalCluster(
                n_workers=jobs,
                threads_per_worker=1,
                memory_limit=None,
                security=True,  # or other users of this machine could send it work
                # None would be port 8787, which another sweep has.
                scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
                local_directory=str(folder / "workers"),
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
            _open(client, plan, None) as name,
        ):
            yield Cluster(client, name, lambda: jobs)
    finally:
        for part in ("clones", "workers"):
            shutil.rmtree(folder / part, ignore_errors=True)


@contextlib.contextmanager
def connect(plan: Plan, address: str, url: str) -> Iterator[Cluster]:
    """A cluster whose workers clone the git repository ``url``, and push to it.

    Raises:
        InputError: the scheduler does not answer or has no workers, or the workers could not get at
            the commit or at the data.
    """
    from distributed import Client

    if not _has_commit(url, plan.commit):
        raise InputError(f"{url} does not have the commit {plan.commit[:8]}; `git push` it first")
    shared_remote(Path())
    try:
        client = Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--dask {address}: no scheduler answers there ({error}); start one by `dask scheduler`"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=_WORKERS_S)
        except TimeoutError:
            raise InputError(
                f"--dask {address}: the scheduler has no workers; start some by"
                f" `dask worker {address} --nthreads 1`"
            ) from None
        with _open(client, plan, url) as name:
            yield Cluster(client, name, lambda: max(1, sum(client.nthreads().values())))


@contextlib.contextmanager
def _open(client: Any, plan: Plan, url: str | None) -> Iterator[str]:
    """Give every worker its workshop; yields its name. Without a URL, they are this machine's."""
    try:
        author = git(Path(), "config", "user.name"), git(Path(), "config", "user.email")
    except InputError:
        author = None
    workshop = Workshop(
        url=url or str(Path.cwd()),
        here=plan.name if url is None else None,
        commit=plan.commit,
        until=plan.until,
        message=message(plan),
        author=author,
        lock=_lock(plan.commit, here=url is None),
    )
    name = f"sweep-{uuid.uuid4().hex}"
    client.register_plugin(workshop, name=name)
    try:
        yield name
    finally:
        with contextlib.suppress(OSError, ValueError, TimeoutError):  # Dask itself has gone
            client.unregister_worker_plugin(name)


def _lock(commit: str, *, here: bool) -> str | None:
    """``dvc.lock`` without the stages whose results are lost, here or in the remote.

    DVC restores a stage of the lock with the results that stand there and no others. It would not
    see that another experiment has just run it, on a processor that gives other last bits, and run
    it again.
    """
    try:
        text = git(Path(), "show", f"{commit}:dvc.lock")
    except InputError:
        return None
    lines = dvc(Path(), "data", "status", "--json", *([] if here else ["--not-in-remote"]))
    status = json.loads(next(line for line in lines.splitlines() if line.startswith("{")))
    places = status.get("not_in_cache" if here else "not_in_remote", [])
    lost = {place.rstrip("/") for place in places}  # folders end in a slash
    content = YAML().load(text)
    for name, stage in list(content["stages"].items()):
        if not lost.isdisjoint(out["path"] for out in stage.get("outs", [])):
            del content["stages"][name]
    changed = io.StringIO()
    YAML().dump(content, changed)
    return changed.getvalue()


def _has_commit(url: str, commit: str) -> bool:
    """Whether a branch or tag of the repository contains it."""
    for line in git(Path(), "ls-remote", url).splitlines():
        with contextlib.suppress(InputError):  # it does not, or is not known here
            git(Path(), "merge-base", "--is-ancestor", commit, line.split("\t")[0])
            return True
    return False


def fetch(url: str, names: Sequence[str]) -> None:
    """Bring experiments here from the git remote, without their data."""
    refs = [f"{item.path}:{item.path}" for item in list_refs(Path(), url) if item.name in names]
    if refs:
        git(Path(), "fetch", "--quiet", "--no-tags", url, *refs)
