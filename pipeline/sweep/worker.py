"""What a worker of Dask does for a sweep: each experiment in a clone that nothing else touches.

It is imported on the worker from its own installation of this project. A worker that dies takes
what it has started with it (:mod:`pipeline.guard`); Dask then gives the experiment to another.
"""

from __future__ import annotations

import configparser
import contextlib
import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import WorkerPlugin, get_worker

from models.errors import InputError
from pipeline.dvc_output import StageError
from pipeline.dvc_runner import Runner
from pipeline.experiments import list_refs
from pipeline.git_command import git
from pipeline.sweep.run_cache import push_copies


@dataclass(frozen=True)
class Here:
    """What workers on the project's own machine share with it.

    Attributes:
        folder: for clones and logs.
        cache: DVC's. Elsewhere, results travel by the default remote.
        config: the text of ``.dvc/config.local``, which git does not know.
        gpus: one for each worker, or none.
    """

    folder: Path
    cache: Path
    config: str
    gpus: tuple[str, ...]


@dataclass(frozen=True)
class Order:
    """One experiment.

    Attributes:
        name: of the experiment.
        params: the text of its ``params.yaml``.
        leads: whether others wait for what it makes.
    """

    name: str
    params: str
    leads: bool


@dataclass(frozen=True)
class Outcome:
    """How an experiment ended.

    Attributes:
        seconds: that it took.
        reason: why it failed; None where it did not.
        where: the worker, or an empty text on the project's own machine.
    """

    name: str
    seconds: float
    reason: str | None = None
    where: str = ""


@dataclass(eq=False)
class Workshop(WorkerPlugin):  # type: ignore[misc]  # distributed's types are partial
    """What a worker has for one sweep; Dask gives it to every worker, also to one that comes later.

    Attributes:
        url: of the git repository that is cloned, or its folder.
        commit: that the experiments start from.
        until: the last stage.
        message: of the experiments' commits.
        author: name and address, as git has them; None leaves it to the machine.
        lock: ``dvc.lock`` to start from; None where the commit has none.
        here: None where the worker may be on another machine than the project.
    """

    url: str
    commit: str
    until: str
    message: str
    author: tuple[str, str] | None
    lock: str | None
    here: Here | None

    def setup(self, worker: Any) -> None:
        self._name, self._closed = str(worker.name), False
        self._runners: list[Runner] = []
        own = Path(worker.local_directory).resolve()
        self._folder = self.here.folder if self.here else own / "sweep"
        self._cache = self.here.cache if self.here else own / "cache"
        checkpoints = Path(".checkpoints") if self.here else own / "checkpoints"
        # What must outlive a clone, which goes when its experiment fails.
        self._env = {"ACKD_CHECKPOINTS": str(checkpoints.resolve())}
        for name in ("ACKD_CHECKPOINTS", "ACKD_LOGITS"):
            if os.environ.get(name):
                self._env[name] = str(Path(os.environ[name]).resolve())
        if self.here:
            # The terminal sends an interrupt here too; it is the command that ends this worker.
            signal.signal(signal.SIGINT, lambda *_: None)
            if self.here.gpus:
                self._env["CUDA_VISIBLE_DEVICES"] = self.here.gpus[int(worker.name)]

    def teardown(self, worker: Any) -> None:
        """Stop what runs here; nothing starts afterwards."""
        self._closed = True
        for runner in list(self._runners):
            runner.stop_all()

    def run(self, order: Order) -> Outcome:
        began, reason = time.monotonic(), None
        log = self._folder / f"{order.name}.log"
        try:
            self._run(order, log)
        except (InputError, StageError) as error:
            reason = f"{error} ({log})"
        except OSError as error:
            reason = f"{error.strerror} ({error.filename})"
        where = "" if self.here else self._name
        return Outcome(order.name, time.monotonic() - began, reason, where)

    def _run(self, order: Order, log: Path) -> None:
        clone = (self._folder / "clones" / order.name).resolve()
        log.unlink(missing_ok=True)
        with Runner(clone) as runner:
            self._runners.append(runner)
            try:
                if self._closed:
                    raise StageError("stopped before it began")
                self._make(clone, order)
                self._run_and_push(order, clone, runner, log)
            finally:
                self._runners.remove(runner)
                shutil.rmtree(clone, ignore_errors=True)

    def _make(self, clone: Path, order: Order) -> None:
        """A clone at the commit, with the experiment's parameters and the cache to share."""
        shutil.rmtree(clone, ignore_errors=True)
        clone.parent.mkdir(parents=True, exist_ok=True)
        git(Path(), "clone", "--quiet", "--no-checkout", self.url, str(clone))
        git(clone, "checkout", "--quiet", "--detach", self.commit)
        for key, value in zip(("user.name", "user.email"), self.author or (), strict=False):
            git(clone, "config", key, value)
        settings = configparser.ConfigParser(interpolation=None)
        settings.read_string(self.here.config if self.here else "")
        # DVC's notes on a clone go with it.
        own = {"site_cache_dir": str(clone / ".dvc/tmp/site")}
        settings.read_dict({"cache": {"dir": str(self._cache)}, "core": own})
        with (clone / ".dvc/config.local").open("w", encoding="utf-8") as handle:
            settings.write(handle)
        (clone / "params.yaml").write_text(order.params, encoding="utf-8")
        if self.lock is not None:
            (clone / "dvc.lock").write_text(self.lock, encoding="utf-8")

    def _run_and_push(self, order: Order, clone: Path, runner: Runner, log: Path) -> None:
        def dvc(*arguments: str) -> None:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a", encoding="utf-8", buffering=1) as handle:
                runner.dvc(arguments, lambda line: print(line, file=handle), env=self._env)

        if not self.here:
            if any(found.name == order.name for found in list_refs(Path(), self.url)):
                # Another worker died after it had pushed the commit; perhaps the data as well.
                with contextlib.suppress(StageError):
                    return dvc("exp", "pull", self.url, order.name)
            dvc("fetch", "--with-deps", self.until)
        pull = [] if self.here else ["--pull"]
        dvc("exp", "run", *pull, "-n", order.name, "-m", self.message, self.until)
        refs = [found.ref for found in list_refs(clone) if found.name == order.name]
        if not refs:
            raise InputError("dvc made no experiment of this name")
        if self.here:
            git(clone, "push", "--quiet", "--force", self.url, f"{refs[0]}:{refs[0]}")
            return None
        run_cache = ["--run-cache"] if order.leads else []
        dvc("exp", "push", "--force", *run_cache, self.url, order.name)
        return push_copies(clone) if order.leads else None


def run_experiment(workshop: str, order: Order) -> Outcome:
    """Run one experiment on this worker to its end."""
    found: Workshop = get_worker().plugins[workshop]
    return found.run(order)
