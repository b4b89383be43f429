"""What scheduled and shared runs need besides this machine: server, worker, remote, clock, locks.

Each look has a limit of time, and all of them go on at once: without a network the diagnosis says
so after two seconds. Nothing is changed anywhere.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import fcntl
import json
import os
import queue
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from models.errors import InputError
from pipeline.dvc_config import Remote, remotes
from pipeline.processes import holders, is_alive
from pipeline.upkeep.finding import Finding
from stages.params import read_yaml

_LIMIT_S = 2.0
_ANSWER_S = 1.5  # one request's, so that it says more than that the time was over
_SKEW_S = 5.0
_HOSTS = {"s3": "s3.amazonaws.com", "gs": "storage.googleapis.com"}
_PORTS = {"ssh": 22, "http": 80, "https": 443, "s3": 443, "gs": 443, "webdav": 80, "webdavs": 443}
# Their dates say what this clock should have passed by now.
_DATED = ("dvc.yaml", "params.yaml", "dvc.lock", ".git/index")


def findings(root: Path) -> list[Finding]:
    """Server and worker, each remote, clock and locks, within about two seconds."""
    server = _settings()  # what that imports is not part of the time
    looks: dict[str, Callable[[], list[Finding]]] = {
        "Prefect server": lambda: _server_worker_and_clock(server),
        "locks": lambda: _locks(root),
        "clock": lambda: _clock(root),
    }
    try:
        for remote in remotes(root):
            looks[f"DVC remote {remote.name}"] = _looking_at(remote, root)
        found: list[Finding] = []
    except InputError as error:
        found = [Finding("DVC remote", False, str(error), "nothing is pushed or pulled")]
    else:
        if (root / ".dvc").is_dir() and not any(name.startswith("DVC") for name in looks):
            why = "results stay on this machine: `dvc remote add --default NAME URL`"
            found = [Finding("DVC remote", False, "none", why)]
    done: queue.SimpleQueue[tuple[str, list[Finding]]] = queue.SimpleQueue()

    def answer(name: str, look: Callable[[], list[Finding]]) -> None:
        done.put((name, look()))

    for asked in looks.items():
        threading.Thread(target=answer, args=asked, daemon=True).start()
    end, waiting = time.monotonic() + _LIMIT_S, set(looks)
    with contextlib.suppress(queue.Empty):
        while waiting:
            name, results = done.get(timeout=max(0.0, end - time.monotonic()))
            waiting.discard(name)
            found += results
    for name in waiting:
        found.append(
            Finding(
                name, False, f"no answer within {_LIMIT_S:g} s", "look at the network, or ask again"
            )
        )
    return sorted(found, key=lambda finding: finding.what)


@dataclass(frozen=True)
class _Server:
    """Prefect's API, as this machine's settings name it."""

    url: str
    auth: str | None

    def ask(self, path: str, content: Any = None) -> tuple[Any, str]:
        """The JSON of an answer, and the time that the server gives; OSError without an answer."""
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{self.url}{path}", data=data)
        request.add_header("Content-Type", "application/json")
        if self.auth:
            request.add_header("Authorization", self.auth)
        with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:
            return json.load(answer), answer.headers.get("Date", "")


def _settings() -> _Server | None:
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if not url:
        return None
    string, key = PREFECT_API_AUTH_STRING.value(), PREFECT_API_KEY.value()
    auth = None
    if string:
        auth = "Basic " + base64.b64encode(string.get_secret_value().encode()).decode()
    elif key:
        auth = f"Bearer {key.get_secret_value()}"
    return _Server(str(url).rstrip("/"), auth)


def _server_worker_and_clock(server: _Server | None) -> list[Finding]:
    without = "nothing is scheduled, and each `ackd run` starts a server for itself"
    if server is None:
        why = f"{without}: `ackd server`, then set PREFECT_API_URL"
        return [Finding("Prefect server", False, "PREFECT_API_URL is not set", why)]
    try:
        told, date = server.ask("/admin/version")
    except (OSError, ValueError) as error:
        found = f"{server.url} does not answer as one: {_reason(error)}"
        why = "`ackd run` fails, and so do scheduled runs: start it, or correct PREFECT_API_URL"
        return [Finding("Prefect server", False, found, why)]
    own = version("prefect")
    found = f"{told} at {server.url}" + ("" if told == own else f", where this is {own}")
    results = [Finding("Prefect server", True, found, ""), *_workers(server)]
    with contextlib.suppress(ValueError, TypeError):  # it tells no time
        skew = time.time() - email.utils.parsedate_to_datetime(date).timestamp()
        results.append(_skew("clock, and the server's", skew, "schedules start at another time"))
    return results


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"status {error.code}"
    if isinstance(error, urllib.error.URLError):
        error = error.reason if isinstance(error.reason, Exception) else error
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _workers(server: _Server) -> Iterator[Finding]:
    """For each pool that ``prefect.yaml`` names, or that the server has."""
    why = "runs that are scheduled there wait: `ackd worker`"
    try:
        pools = _named_pools() or [pool["name"] for pool in server.ask("/work_pools/filter", {})[0]]
        for pool in pools:
            quoted = urllib.parse.quote(pool, safe="")
            try:
                workers, _ = server.ask(f"/work_pools/{quoted}/workers/filter", {})
            except urllib.error.HTTPError:
                yield Finding(f"worker of {pool}", False, "the server has no such pool", why)
                continue
            online = [worker["name"] for worker in workers if worker.get("status") == "ONLINE"]
            shown = ", ".join(online) or "none is online"
            yield Finding(f"worker of {pool}", bool(online), shown, why)
        if not pools:
            yield Finding("worker", False, "no work pool", "nothing that is scheduled would run")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield Finding("worker", False, f"not told: {_reason(error)}", why)


def _named_pools() -> list[str]:
    path = Path("prefect.yaml")
    if not path.is_file():
        return []
    try:
        deployments = read_yaml(path).get("deployments") or []
        named = {deployment.get("work_pool", {}).get("name") for deployment in deployments}
    except (InputError, AttributeError):
        return []
    return sorted(name for name in named if isinstance(name, str))


def _looking_at(remote: Remote, root: Path) -> Callable[[], list[Finding]]:
    return lambda: [_remote(remote, root)]


def _remote(remote: Remote, root: Path) -> Finding:
    what = f"DVC remote {remote.name}"
    why = "results are neither pushed nor pulled: "
    scheme, separator, _ = remote.url.partition("://")
    if not separator:
        folder = root.resolve() / ".dvc" / remote.url  # a relative one is relative to that
        if not folder.is_dir():
            return Finding(what, False, f"{folder}: no such folder", f"{why}mount or make it")
        usable = os.access(folder, os.W_OK)
        found = f"{folder}" + ("" if usable else ", not to be written by you")
        return Finding(what, usable, found, f"{why}have the folder opened to you")
    address = urllib.parse.urlsplit(remote.endpoint or remote.url)
    host = address.hostname if remote.endpoint or scheme not in _HOSTS else _HOSTS[scheme]
    port = address.port or remote.port or _PORTS.get(address.scheme)
    if host is None or port is None:
        return Finding(what, True, f"{scheme}://, which only `dvc status --cloud` can ask", "")
    try:
        socket.create_connection((host, port), timeout=_ANSWER_S).close()
    except OSError as error:
        found = f"{host}:{port} does not answer: {_reason(error)}"
        return Finding(what, False, found, f"{why}look at the network, or at its URL")
    found = f"{host}:{port} answers; whether it lets you in, `dvc status --cloud` shows"
    return Finding(what, True, found, "")


def _clock(root: Path) -> list[Finding]:
    results = []
    newest = max(
        ((path.stat().st_mtime, name) for name in _DATED if (path := root / name).is_file()),
        default=(0.0, ""),
    )
    ahead = newest[0] - time.time()
    if ahead > _SKEW_S:
        found = f"{newest[1]} is {ahead:.0f} s younger than now"
        why = "this clock, or that of who wrote it, is wrong: set both by NTP"
        results.append(Finding("clock", False, found, why))
    place = root / ".dvc" / "tmp"
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=place) as file:
        before = time.time()
        file.write(b"0")
        file.flush()
        skew = before - os.fstat(file.fileno()).st_mtime
        meaning = "ages and schedules are wrong"
        results.append(_skew("clock, and the file system's", skew, meaning))
    return results


def _skew(what: str, seconds: float, meaning: str) -> Finding:
    """Whether this clock agrees with another, which it is so many seconds ahead of."""
    if abs(seconds) <= _SKEW_S:
        return Finding(what, True, f"agree to {_SKEW_S:g} s", "")
    found = f"this one is {abs(seconds):.0f} s {'ahead' if seconds > 0 else 'behind'}"
    return Finding(what, False, found, f"{meaning}: set both by NTP")


def _locks(root: Path) -> list[Finding]:
    folder = root / ".dvc" / "tmp"
    if not folder.is_dir():
        return []
    results = [*_rwlock(root), *_repository_lock(folder / "lock")]
    return results or [Finding("DVC's locks", True, "free", "")]


def _rwlock(root: Path) -> Iterator[Finding]:
    path = root / ".dvc/tmp/rwlock"
    with contextlib.suppress(OSError):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            why = f"no stage runs: `rm {path}` when no DVC command is running"
            yield Finding("DVC's locks", False, f"{path} is damaged", why)
            return
    for holder in holders(root):
        name = f"process {holder.pid} ({holder.command})"
        if holder.alive:
            yield Finding("DVC's locks", True, f"{name} is at work on some files", "")
        else:
            why = f"DVC drops it when it needs the files; if a stage says busy, `rm {path}`"
            yield Finding("DVC's locks", False, f"left by {name}, which is gone", why)


def _repository_lock(path: Path) -> Iterator[Finding]:
    """The one that every command takes for a moment: by ``flock``, or by a hard link."""
    try:
        handle = path.open("r+", encoding="utf-8", errors="replace")
    except OSError:
        return
    with handle:
        content = handle.read().strip()
        if content.count("|") >= 3:  # of a hard link: name|host|process|number
            host, pid = content.split("|")[-3:-1]
            mine = host in (socket.getfqdn(), socket.gethostname())
            if mine and pid.isdecimal() and not is_alive(int(pid)):
                why = f"every DVC command waits: `rm {path}`"
                yield Finding("DVC's lock", False, f"left by process {pid}, which is gone", why)
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            by = f" by process {content}" if content.isdecimal() else ""
            where = "" if not by or is_alive(int(content)) else ", of another machine"
            yield Finding("DVC's lock", True, f"held{by}{where}: a DVC command is running", "")
