"""Experiments on this machine, several at once, each with a GPU where some are listed."""

from __future__ import annotations

import contextlib
import fcntl
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from models.errors import InputError
from pipeline.dvc_config import cache_folder
from pipeline.dvc_output import StageError
from pipeline.git_refs import git
from pipeline.processes import memory_below
from pipeline.resources import Needs, Resources
from pipeline.sizes import show_bytes
from pipeline.sweep.clone import Clone, Clones, Order, Source, author, places
from pipeline.sweep.commits import list_experiments
from pipeline.sweep.run import Outcome

FOLDER = Path(".dvc/tmp/sweeps")
_EVERY_SECONDS = 0.5


class LocalEngine:
    """Runs experiments in clones beside the project, with the project's DVC cache.

    Args:
        sweep: its name.
        commit: that the experiments start from.
        jobs: how many at once.
        resources: the GPUs.
        memory: bytes of main memory for all at once: the first experiment runs alone, and beside it
            as many as fit, by what the largest took so far. None is no limit.
        tell: takes a line where memory allows fewer than ``jobs``.
    """

    def __init__(
        self,
        sweep: str,
        commit: str,
        jobs: int,
        resources: Resources,
        memory: float | None,
        tell: Callable[[str], None],
    ) -> None:
        self._jobs = jobs
        self._memory, self._tell = memory, tell
        self._largest, self._told = 0, jobs
        self._one_ended = False
        self._needs = Needs(gpu=1 if resources.total else 0)
        self._resources = resources
        self._logs = FOLDER / sweep
        self._env = places(Path(".checkpoints"))
        self._ended: queue.Queue[Outcome] = queue.Queue()
        self._fetching = threading.Lock()
        self._clones = Clones(
            (self._logs / "clones").resolve(),
            Source(str(Path.cwd()), commit, author()),
            cache=cache_folder(Path()),
            config=Path(".dvc/config.local"),
        )

    @property
    def slots(self) -> int:
        if self._memory is None or self._jobs == 1:
            return self._jobs
        if not self._one_ended:
            return 1
        slots = max(1, min(self._jobs, int(self._memory // max(self._largest, 1))))
        if slots < self._told:
            self._told = slots
            self._tell(
                f"{slots} at once from here: an experiment takes up to"
                f" {show_bytes(self._largest)}, of {show_bytes(self._memory)} for all"
            )
        return slots

    def start(self, order: Order) -> None:
        # A daemon: an interrupt must not wait for one that waits for its GPU.
        threading.Thread(target=self._work, args=[order], daemon=True).start()

    def wait(self) -> Outcome:
        return self._ended.get()

    def close(self) -> None:
        """Stop what runs, and remove the clones."""
        self._clones.close()

    def _work(self, order: Order) -> None:
        began, reason = time.monotonic(), None
        log = self._logs / f"{order.name}.log"
        log.unlink(missing_ok=True)
        try:
            with self._resources.hold(self._needs) as gpus, self._clones.hold() as clone:
                began = time.monotonic()
                with self._watched(clone.folder):
                    clone.run(order, log, {**self._env, **gpus})
                self._fetch(clone, order.name)
        except (InputError, StageError) as error:
            reason = f"{error} ({log})"
        except OSError as error:
            reason = f"{error.strerror} ({error.filename})"
        self._one_ended = True
        self._ended.put(Outcome(order.name, time.monotonic() - began, reason))

    @contextlib.contextmanager
    def _watched(self, folder: Path) -> Iterator[None]:
        """Keep the most memory that anything there takes, where there is a limit."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(_EVERY_SECONDS):
                self._largest = max(self._largest, memory_below(folder))

        if self._memory is not None:
            threading.Thread(target=look, daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def _fetch(self, clone: Clone, name: str) -> None:
        """Take an experiment over from its clone; its data are in the shared cache."""
        (found,) = list_experiments(root=clone.folder)[name]
        with self._fetching:
            git(
                Path(),
                "fetch",
                "--quiet",
                "--no-tags",
                str(clone.folder),
                f"{found.ref}:{found.ref}",
            )


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
