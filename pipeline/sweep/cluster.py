"""Provides the Dask cluster that runs a sweep: processes of this machine, or an existing one."""

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
from pipeline.dvc_config import shared_remote
from pipeline.dvc_runner import dvc
from pipeline.experiments import list_refs
from pipeline.git_command import git
from pipeline.resources import listed_gpus
from pipeline.sweep.commits import message
from pipeline.sweep.plan import Plan
from pipeline.sweep.worker import FOLDER, Workshop

_CONNECT_S = 20
_WORKERS_S = 60


class Cluster(NamedTuple):
    client: Any
    workshop: str  # name of the plugin Workshop on all workers
    slots: Callable[[], int]  # how many experiments can run at once at this moment


@contextlib.contextmanager
def only_one(sweep: str) -> Iterator[None]:
    """Lock the name of a sweep in this project; raises InputError if another process runs it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{sweep}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"the sweep {sweep} is already running in this project; wait until it ends, or"
                " interrupt it"
            ) from None
        yield


@contextlib.contextmanager
def start_here(plan: Plan, jobs: int | None, report: Callable[[str], None]) -> Iterator[Cluster]:
    """Start worker processes on this machine, each with one of the GPUs in ACKD_GPUS, if any.

    ``jobs`` defaults to the number of these GPUs, or 1. ``report`` receives a line if fewer can run
    or if measured times will be affected.
    """
    import dask
    from distributed import Client, LocalCluster

    gpus = listed_gpus()
    jobs = jobs or max(1, len(gpus))
    if 0 < len(gpus) < jobs:
        report(f"running {len(gpus)} at once, because ACKD_GPUS lists no more GPUs")
        jobs = len(gpus)
    if plan.measuring and jobs > 1:
        report(
            f"{', '.join(plan.measuring)}: measured beside {jobs - 1} other"
            f" experiment{'s' * (jobs > 2)}, so times are those of a busy machine"
        )
    folder = FOLDER / plan.name
    try:
        # By default, Dask limits all child processes of a worker to one compute thread.
        with (
            dask.config.set({"distributed.nanny.pre-spawn-environ": {}}),
            LocalCluster(
                n_workers=jobs,
                threads_per_worker=1,
                memory_limit=None,
                security=True,  # or other users of this machine could send it work
                # The default port 8787 may be taken by another sweep.
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
    """Connect to a cluster whose workers clone the git repository ``url`` and push to it.

    Raises:
        InputError: the scheduler does not answer or has no workers, or the workers cannot access
            the commit or the data.
    """
    from distributed import Client

    if not _has_commit(url, plan.commit):
        raise InputError(f"{url} does not have the commit {plan.commit[:8]}; `git push` it first")
    shared_remote(Path())
    try:
        client = Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--dask {address}: no scheduler answers ({error}); start one with `dask scheduler`"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=_WORKERS_S)
        except TimeoutError:
            raise InputError(
                f"--dask {address}: the scheduler has no workers; start some with"
                f" `dask worker {address} --nthreads 1`"
            ) from None
        with _open(client, plan, url) as name:
            yield Cluster(client, name, lambda: max(1, sum(client.nthreads().values())))


@contextlib.contextmanager
def _open(client: Any, plan: Plan, url: str | None) -> Iterator[str]:
    """Install the workshop on all workers, on this machine if there is no URL; yield its name."""
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
        with contextlib.suppress(OSError, ValueError, TimeoutError):  # Dask is gone
            client.unregister_worker_plugin(name)


def _lock(commit: str, *, here: bool) -> str | None:
    """Return ``dvc.lock`` without the stages whose results are missing here or in the remote.

    DVC restores a stage in the lock only with exactly the recorded results. It would rerun such a
    stage even if another experiment has just run it, on a processor that rounds differently.
    """
    try:
        text = git(Path(), "show", f"{commit}:dvc.lock")
    except InputError:
        return None
    lines = dvc(Path(), "data", "status", "--json", *([] if here else ["--not-in-remote"]))
    status = json.loads(next(line for line in lines if line.startswith("{")))
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
    for line in git(Path(), "ls-remote", url).splitlines():
        with contextlib.suppress(InputError):  # not contained, or unknown here
            git(Path(), "merge-base", "--is-ancestor", commit, line.split("\t")[0])
            return True
    return False


def fetch(url: str, names: Sequence[str]) -> None:
    """Fetch experiments from the git remote, without their data."""
    refs = [f"{item.path}:{item.path}" for item in list_refs(Path(), url) if item.name in names]
    if refs:
        git(Path(), "fetch", "--quiet", "--no-tags", url, *refs)
