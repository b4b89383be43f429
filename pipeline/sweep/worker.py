"""Runs a sweep's experiments on Dask workers, each in its own clone.

Workers import this module from their own installation of this project. If a worker dies, its child
processes end too (:mod:`pipeline.guard`), and Dask gives the experiment to another worker.
"""

import configparser
import contextlib
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import WorkerPlugin, get_worker

from models.errors import InputError
from pipeline.dvc_command import StageError
from pipeline.dvc_config import cache_folder
from pipeline.dvc_runner import Runner
from pipeline.environment import folders
from pipeline.experiments import list_refs
from pipeline.git_command import git
from pipeline.resources import listed_gpus
from pipeline.sweep.run_cache import push_copies

FOLDER = Path(".dvc/tmp/sweeps")
_LOCAL = Path(".dvc/config.local")


@dataclass(frozen=True)
class Outcome:
    name: str
    seconds: float
    reason: str | None = None  # why it failed
    where: str = ""  # the worker; empty on the project's own machine


@dataclass(eq=False)
class Workshop(WorkerPlugin):  # type: ignore[misc]  # distributed's types are partial
    """A worker's setup for one sweep; Dask installs it on every worker, including later ones."""

    url: str  # of the git repository to clone, or its folder
    here: str | None
    """The sweep's name if workers run in the project's folder and share its cache, checkpoints and
    ``.dvc/config.local``; None on a cluster."""
    commit: str  # that experiments start from
    until: str  # the last stage
    message: str  # of the experiments' commits
    author: tuple[str, str] | None  # name and e-mail address; None uses the worker's own
    lock: str | None  # content of dvc.lock to start from; None if the commit has none

    def setup(self, worker: Any) -> None:
        self._name, self._closed = str(worker.name), False
        self._runners: list[Runner] = []
        own = Path(worker.local_directory).resolve()
        self._folder = FOLDER / self.here if self.here else own / "sweep"
        self._cache = cache_folder(Path()) if self.here else own / "cache"
        # Checkpoints must outlive the clone, which is deleted even if its experiment fails.
        checkpoints = Path(".checkpoints") if self.here else own / "checkpoints"
        self._env = {"ACKD_CHECKPOINTS": str(checkpoints.resolve()), **folders()}
        if self.here:
            # Ignore the terminal's interrupt, because the command ends this worker.
            signal.signal(signal.SIGINT, lambda *_: None)
            if gpus := listed_gpus():
                self._env["CUDA_VISIBLE_DEVICES"] = gpus[int(worker.name)]

    def teardown(self, worker: Any) -> None:
        """Stop all running experiments; no other starts."""
        self._closed = True
        for runner in list(self._runners):
            runner.stop_all()

    def run(self, name: str, params: str, leads: bool) -> Outcome:
        began, reason = time.monotonic(), None
        log = self._folder / f"{name}.log"
        clone = (self._folder / "clones" / name).resolve()
        log.unlink(missing_ok=True)
        try:
            with Runner(clone) as runner:
                self._runners.append(runner)
                try:
                    if self._closed:
                        raise StageError("stopped before it began")
                    self._make(clone, params)
                    self._run_and_push(name, clone, runner, log, leads)
                finally:
                    self._runners.remove(runner)
                    shutil.rmtree(clone, ignore_errors=True)
        except (InputError, StageError) as error:
            reason = f"{error} ({log})"
        except OSError as error:
            reason = f"{error.strerror} ({error.filename})"
        where = "" if self.here else self._name
        return Outcome(name, time.monotonic() - began, reason, where)

    def _make(self, clone: Path, params: str) -> None:
        """Clone the commit with the experiment's parameters and the shared cache."""
        shutil.rmtree(clone, ignore_errors=True)
        clone.parent.mkdir(parents=True, exist_ok=True)
        git(Path(), "clone", "--quiet", "--no-checkout", self.url, str(clone))
        git(clone, "checkout", "--quiet", "--detach", self.commit)
        for key, value in zip(("user.name", "user.email"), self.author or (), strict=False):
            git(clone, "config", key, value)
        settings = configparser.ConfigParser(interpolation=None)
        if self.here:
            settings.read(_LOCAL, encoding="utf-8")  # not in git; may not exist
        # Keep DVC's state of the clone inside it, so that both are deleted together.
        own = {"site_cache_dir": str(clone / ".dvc/tmp/site")}
        settings.read_dict({"cache": {"dir": str(self._cache)}, "core": own})
        with (clone / _LOCAL).open("w", encoding="utf-8") as handle:
            settings.write(handle)
        (clone / "params.yaml").write_text(params, encoding="utf-8")
        if self.lock is not None:
            (clone / "dvc.lock").write_text(self.lock, encoding="utf-8")

    def _run_and_push(self, name: str, clone: Path, runner: Runner, log: Path, leads: bool) -> None:
        def dvc(*arguments: str) -> None:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a", encoding="utf-8", buffering=1) as handle:
                runner.dvc(arguments, lambda line: print(line, file=handle), env=self._env)

        if not self.here and any(item.name == name for item in list_refs(Path(), self.url)):
            # Another worker died after pushing the commit and perhaps the data.
            with contextlib.suppress(StageError):
                return dvc("exp", "pull", self.url, name)
        pull = [] if self.here else ["--pull"]
        dvc("exp", "run", *pull, "-n", name, "-m", self.message, self.until)
        refs = [item.path for item in list_refs(clone) if item.name == name]
        if not refs:
            raise InputError("dvc made no experiment of this name")
        if self.here:
            git(clone, "push", "--quiet", "--force", self.url, f"{refs[0]}:{refs[0]}")
            return None
        run_cache = ["--run-cache"] if leads else []
        dvc("exp", "push", "--force", *run_cache, self.url, name)
        return push_copies(clone) if leads else None


def run_experiment(workshop: str, name: str, params: str, leads: bool) -> Outcome:
    """Run one experiment on this worker, with the sweep's :class:`Workshop`.

    ``leads`` states whether other experiments wait for its results.
    """
    found: Workshop = get_worker().plugins[workshop]
    return found.run(name, params, leads)
