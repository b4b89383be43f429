"""Reads the chain's graph and state from DVC, and runs DVC commands."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from models.errors import InputError
from pipeline.dvc_command import HOUSEKEEPING, Outcome, StageError, failure, outcome
from pipeline.environment import prepare
from pipeline.git_command import without_password
from pipeline.guard import start, stop
from pipeline.resources import Needs, parse_needs
from stages.params import read_yaml


@dataclass(frozen=True)
class Stage:
    """A stage of ``dvc.yaml`` and the names of the stages that it directly depends on."""

    name: str
    upstream: tuple[str, ...]
    needs: Needs
    always_runs: bool


@dataclass(frozen=True)
class StageStatus:
    """Whether the next run executes the stage, with a short phrase for each reason."""

    name: str
    state: Literal["up to date", "will run", "may run", "always runs"]
    reasons: tuple[str, ...]


def load_graph(root: Path) -> list[Stage]:
    """Return the stages in topological order; raises InputError if this is no valid project."""
    with _open(root) as repo:
        return _graph(repo)


def _graph(repo: Any) -> list[Stage]:
    import networkx

    graph = repo.index.graph
    order = networkx.lexicographical_topological_sort(
        graph.reverse(copy=True), key=lambda stage: stage.addressing
    )
    return [
        Stage(
            name=stage.addressing,
            upstream=tuple(sorted(above.addressing for above in graph.successors(stage))),
            needs=parse_needs(stage.addressing, stage.meta),
            always_runs=bool(stage.always_changed),
        )
        for stage in order
    ]


def load_status(root: Path) -> list[StageStatus]:
    """Return what the next run would do with every stage, in the order of the chain.

    A stage downstream of one that will run may run, depending on that one's results. Stages that
    always run, such as ``identify_device``, do not make their downstream stages uncertain.

    Raises:
        InputError: as :func:`load_graph`, or another DVC process holds the project.
    """
    with _open(root) as repo:
        return _status(repo, root / "dvc.lock")


def nothing_to_do(root: Path) -> bool:
    """Return whether a run would change nothing; to find out, run the stages that always run.

    Raises:
        InputError: as :func:`load_graph`.
    """
    from dvc.repo import lock_repo
    from dvc.stage.exceptions import StageCmdFailedError
    from dvc.stage.run import cmd_run

    logging.getLogger("dvc").setLevel(logging.WARNING)
    try:
        with _open(root) as repo, lock_repo(repo):
            if any(status.reasons for status in _status(repo, root / "dvc.lock")):
                return False
            for stage in repo.index.stages:
                if stage.always_changed:
                    try:
                        cmd_run(stage)
                    except StageCmdFailedError:  # the run reports why
                        return False
                    if any(out.changed() for out in stage.outs):
                        return False
            return True
    except ProjectBusyError:  # the run waits for its lock
        return False


def _status(repo: Any, lock: Path) -> list[StageStatus]:
    from dvc.repo import lock_repo

    with lock_repo(repo):  # or each of the two would read all files
        stages, changes = _graph(repo), repo.status()
    recorded = read_yaml(lock).get("stages", {}) if lock.exists() else {}
    statuses: dict[str, StageStatus] = {}
    for stage in stages:
        reasons = tuple(_reasons(changes.get(stage.name, [])))
        if reasons and stage.name not in recorded and not stage.name.endswith(".dvc"):
            reasons = ("never run",)
        moving = [up for up in stage.upstream if statuses[up].state in ("will run", "may run")]
        if stage.always_runs:
            status = StageStatus(stage.name, "always runs", reasons)
        elif reasons:
            status = StageStatus(stage.name, "will run", reasons)
        elif moving:
            gives = "gives" if len(moving) == 1 else "give"
            why = f"if {' or '.join(moving)} {gives} other results"
            status = StageStatus(stage.name, "may run", (why,))
        else:
            status = StageStatus(stage.name, "up to date", ())
        statuses[stage.name] = status
    return list(statuses.values())


class Runner:
    """Runs each command in its own process, and stops all of them on exit.

    ``up_to_date`` are the stages that :func:`load_status` has just reported so.
    """

    def __init__(self, root: Path, up_to_date: Iterable[str] = ()) -> None:
        prepare()
        self._root = root
        self._up_to_date = frozenset(up_to_date)
        self._unchanged: set[str] = set()
        self._lock = threading.Lock()
        self._live: set[int] = set()
        self._stopping = False

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop_all()

    def stop_all(self) -> None:
        """Stop every running stage by interrupt, terminate, then kill; no other starts."""
        with self._lock:
            self._stopping = True
            groups = sorted(self._live)
        stop(groups)

    def is_settled(self, stage: Stage) -> bool:
        """Return whether the stage was up to date at first and no upstream stage has run since.

        A dvc process would take a second to find out.
        """
        with self._lock:
            settled = stage.name in self._up_to_date and self._unchanged.issuperset(stage.upstream)
            if settled:
                self._unchanged.add(stage.name)
        return settled

    def repro(
        self, stage: str, log: Callable[[str], None], env: Mapping[str, str] | None = None
    ) -> Outcome:
        """Bring one stage up to date with its current inputs, without running upstream stages.

        ``log`` receives each line that the stage writes; ``env`` extends this process's own.

        Raises:
            StageError: as :meth:`dvc`.
        """
        happened = outcome(stage, self.dvc(["repro", "--single-item", stage], log, env))
        if happened == "unchanged":
            with self._lock:
                self._unchanged.add(stage)
        return happened

    def dvc(
        self,
        arguments: Sequence[str],
        log: Callable[[str], None],
        env: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Run a dvc command with the arguments of :meth:`repro`; return all lines that it wrote.

        Raises:
            StageBusyError: another DVC process is using the same files.
            RemoteError: a git or DVC remote cannot be reached.
            StageError: it failed or was stopped.
        """
        own = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", **(env or {})}
        with self._lock:
            if self._stopping:
                raise StageError("stopped before it began")
            # Without --wait-for-lock, which must precede the command, dvc discards a finished
            # training if another process holds the lock at that moment.
            process = start(
                "dvc",
                "--wait-for-lock",
                *arguments,
                cwd=self._root,
                env=own,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
            )
            self._live.add(-process.pid)
        lines: list[str] = []
        for line in process.stdout or ():
            lines.append(without_password(line.rstrip()))
            if lines[-1] and not line.startswith(HOUSEKEEPING):
                log(lines[-1])
        code = process.wait()
        with process, self._lock:  # closes its pipes
            self._live.discard(-process.pid)
        if code and self._stopping:
            raise StageError("stopped")
        if code:
            raise failure(lines, code)
        return lines


def dvc(root: Path, *arguments: str) -> list[str]:
    """Run a DVC command in ``root`` and return its output; raises InputError with DVC's reason."""
    try:
        with Runner(root) as runner:
            return runner.dvc(arguments, lambda _: None)
    except StageError as error:
        raise InputError(f"dvc {arguments[0]}: {error}") from None


class ProjectBusyError(InputError):
    """Another DVC process holds the project."""


@contextlib.contextmanager
def _open(root: Path) -> Iterator[Any]:
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo
    from dvc.rwlock import RWLockFileCorruptedError, RWLockFileFormatError
    from dvc.scm import SCMError

    try:
        with Repo(str(root)) as repo:
            yield repo
    except LockError:
        raise ProjectBusyError(
            "another DVC process holds this project; try again when it has ended"
        ) from None
    except (RWLockFileCorruptedError, RWLockFileFormatError):
        path = root / ".dvc/tmp/rwlock"
        raise InputError(f"{path}: damaged; remove it when no DVC command is running") from None
    except SCMError as error:
        raise InputError(
            f"{error}; run `git init` in it, or `dvc config core.no_scm true` to go without"
        ) from None
    except DvcException as error:
        raise InputError(f"dvc: {' '.join(str(error).split())}") from None


def _reasons(changes: Sequence[str | Mapping[str, Mapping[str, Any]]]) -> Iterator[str]:
    for change in changes:
        if isinstance(change, str):
            if change != "always changed":
                yield {"changed command": "command changed"}.get(change, change)
            continue
        for kind, entries in change.items():
            for path, what in entries.items():
                if isinstance(what, Mapping):
                    yield from (f"{key} {how}" for key, how in what.items())
                else:
                    yield f"{path} {_PLAIN.get(what, what)}{' (output)' * (kind == 'changed outs')}"


_PLAIN = {"deleted": "missing", "not in cache": "not in the cache"}
