"""Experiments on a Dask cluster: each worker works in a clone of its own, and pushes what it made.

What runs on a worker is imported there from its own installation of this project. A worker that
dies takes its processes with it (:mod:`pipeline.guard`); Dask then gives the experiment to
another one.
"""

from __future__ import annotations

import configparser
import queue
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from models.errors import InputError
from pipeline.dvc_output import StageError
from pipeline.dvc_runner import Runner
from pipeline.git_refs import git
from pipeline.resources import Needs, Resources
from pipeline.sweep.clone import Clone, Clones, Order, Source, author, places
from pipeline.sweep.commits import list_experiments
from pipeline.sweep.run import Outcome

_CONNECT_S = 20
_WORKERS_S = 60


class DaskEngine:
    """Hands experiments to the workers of a cluster.

    Args:
        address: of the scheduler, such as ``tcp://host:8786``.
        url: of the git repository that the workers clone, and push experiments to.
        commit: that the experiments start from.

    Raises:
        InputError: Dask is not installed, the scheduler does not answer or has no workers, or the
            workers could not get at the commit or at the data.
    """

    def __init__(self, address: str, url: str, commit: str) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise InputError(
                "--dask needs the package distributed: pip install -e '.[dask]'"
            ) from None
        check_reachable(url, commit)
        self._source = Source(url, commit, author())
        self._token = uuid.uuid4().hex
        self._ended: queue.Queue[Outcome] = queue.Queue()
        self._began: dict[str, float] = {}
        try:
            self._client = Client(address, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"--dask {address}: no scheduler answers there ({error}); start one by"
                " `dask scheduler`"
            ) from None
        try:
            self._client.wait_for_workers(1, timeout=_WORKERS_S)
        except TimeoutError:
            self._client.close()
            raise InputError(
                f"--dask {address}: the scheduler has no workers; start some by"
                f" `dask worker {address} --nthreads 1`"
            ) from None

    @property
    def slots(self) -> int:
        return max(1, sum(map(int, self._client.nthreads().values())))

    def start(self, order: Order) -> None:
        self._began[order.name] = time.monotonic()
        future = self._client.submit(
            work,
            self._token,
            asdict(self._source),
            asdict(order),
            key=f"{order.name}-{self._token}",
            pure=False,
        )
        future.add_done_callback(lambda ended: self._take(order.name, ended))

    def wait(self) -> Outcome:
        return self._ended.get()

    def close(self) -> None:
        """Stop what runs on the workers, and remove their clones."""
        try:
            self._client.run(close_workshop, self._token, on_error="ignore")
        finally:
            self._client.close()

    def _take(self, name: str, future: Any) -> None:
        seconds = time.monotonic() - self._began[name]
        if future.status == "finished":
            outcome = Outcome(name, **future.result())
        elif future.status == "error":
            error = future.exception()
            outcome = Outcome(name, seconds, f"{type(error).__name__}: {error}")
        else:
            outcome = Outcome(name, seconds, "Dask has given it up; is its scheduler alive?")
        self._ended.put(outcome)


def check_reachable(url: str, commit: str) -> None:
    """See that workers can have the commit from git, and the data from a DVC remote.

    Raises:
        InputError: they cannot.
    """
    tips = {line.split("\t")[0] for line in git(Path(), "ls-remote", url).splitlines()}
    if not any(_contains(tip, commit) for tip in tips):
        raise InputError(f"{url} does not have the commit {commit[:8]}; `git push` it first")
    config = configparser.ConfigParser(interpolation=None)
    config.read_string(git(Path(), "show", f"{commit}:.dvc/config"))
    if not config.get("core", "remote", fallback=""):
        raise InputError(
            ".dvc/config names no default remote, by which the workers share data; add one by"
            " `dvc remote add --default` and commit it"
        )


def fetch(url: str, names: Iterable[str]) -> None:
    """Bring experiments here from the git remote, without their data."""
    found = list_experiments(url)
    refs = [f"{item.ref}:{item.ref}" for name in names for item in found.get(name, [])]
    if refs:
        git(Path(), "fetch", "--quiet", "--no-tags", url, *refs)


def pull(url: str, names: Iterable[str]) -> None:
    """Bring the data of experiments here.

    Raises:
        InputError: they cannot be had.
    """
    with Runner(Path()) as runner:
        try:
            runner.dvc(["exp", "pull", url, *names], lambda _: None)
        except StageError as error:
            raise InputError(
                f"the experiments are in git, and their data could not be pulled ({error}); try"
                f" `dvc exp pull {url}` again"
            ) from None


def _contains(tip: str, commit: str) -> bool:
    try:
        git(Path(), "merge-base", "--is-ancestor", commit, tip)
    except InputError:  # or a tip that is not known here
        return False
    return True


# What follows runs on the workers.


class _Workshop:
    """What one worker has for one sweep."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.resources = Resources.from_environment()
        self.clones: Clones | None = None
        self.closed = False


_workshops: dict[str, _Workshop] = {}
_lock = threading.Lock()


def work(token: str, source: dict[str, Any], order: dict[str, Any]) -> dict[str, Any]:
    """Run one experiment on this worker, and push it, unless another worker has done so.

    Returns:
        The fields of an :class:`~pipeline.sweep.run.Outcome` but its name.
    """
    from distributed import get_worker

    worker = get_worker()
    began, reason = time.monotonic(), None
    try:
        _work(
            Path(worker.local_directory).resolve(),
            _workshop(token),
            Source(**source),
            Order(**order),
        )
    except (InputError, StageError) as error:
        reason = str(error)
    except OSError as error:
        reason = f"{error.strerror} ({error.filename})"
    return {
        "seconds": time.monotonic() - began,
        "reason": reason,
        "where": str(worker.name),
    }


def close_workshop(token: str) -> None:
    """Stop what this worker does for a sweep, which does nothing for it afterwards."""
    shop = _workshop(token)
    with shop.lock:
        shop.closed = True
    if shop.clones is not None:
        shop.clones.close()


def _workshop(token: str) -> _Workshop:
    with _lock:
        return _workshops.setdefault(token, _Workshop())


def _work(folder: Path, shop: _Workshop, source: Source, order: Order) -> None:
    with shop.lock:
        if shop.closed:
            raise StageError("stopped before it began")
        if shop.clones is None:
            shop.clones = Clones(folder / f"sweep-{uuid.uuid4().hex[:8]}", source)
    log = folder / "logs" / f"{order.name}.log"
    env = places(folder / "checkpoints")
    needs = Needs(gpu=1 if shop.resources.total else 0)
    with shop.resources.hold(needs) as gpus, shop.clones.hold() as clone:
        _run_and_push(clone, source.url, order, log, {**env, **gpus})


def _run_and_push(clone: Clone, url: str, order: Order, log: Path, env: Mapping[str, str]) -> None:
    force: list[str] = []
    if order.name in list_experiments(url):
        # Another worker died after it had pushed the commit; perhaps the data as well.
        try:
            clone.dvc(["exp", "pull", url, order.name], log, env)
        except StageError:
            force = ["--force"]
        else:
            return
    clone.forget(order.name)
    clone.run(order, log, env, ["--pull"])
    shared = ["--run-cache"] if order.leads else []
    clone.dvc(["exp", "push", *force, *shared, url, order.name], log, env)
    if order.leads:
        clone.push_run_cache()
