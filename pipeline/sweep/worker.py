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
from pipeline.dvc_command import StageError
from pipeline.dvc_config import cache_folder
from pipeline.dvc_runner import Runner
from pipeline.experiments import list_refs
from pipeline.git_command import git
from pipeline.resources import listed_gpus
from pipeline.sweep.run_cache import push_copies

FOLDER = Path(".dvc/tmp/sweeps")
_LOCAL = Path(".dvc/config.local")


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
        here: the sweep's name where the worker runs in the project's folder; it then shares its
            cache, its checkpoints and its ``.dvc/config.local``. None elsewhere.
        commit: that the experiments start from.
        until: the last stage.
        message: of the experiments' commits.
        author: name and address, as git has them; None leaves it to the machine.
        lock: ``dvc.lock`` to start from; None where the commit has none.
    """

    url: str
    here: str | None
    commit: str
    until: str
    message: str
    author: tuple[str, str] | None
    lock: str | None

    def setup(self, worker: Any) -> None:
        self._name, self._closed = str(worker.name), False
        self._runners: list[Runner] = []
        own = Path(worker.local_directory).resolve()
        self._folder = FOLDER / self.here if self.here else own / "sweep"
        self._cache = cache_folder(Path()) if self.here else own / "cache"
        # What must outlive a clone, which goes when its experiment fails.
        checkpoints = Path(".checkpoints") if self.here else own / "checkpoints"
        self._env = {"ACKD_CHECKPOINTS": str(checkpoints.resolve())}
        for name in ("ACKD_CHECKPOINTS", "ACKD_LOGITS"):
            if os.environ.get(name):
                self._env[name] = str(Path(os.environ[name]).resolve())
        if self.here:
            # The terminal sends an interrupt here too; it is the command that ends this worker.
            signal.signal(signal.SIGINT, lambda *_: None)
            if gpus := listed_gpus():
                self._env["CUDA_VISIBLE_DEVICES"] = gpus[int(worker.name)]

    def teardown(self, worker: Any) -> None:
        """Stop what runs here; nothing starts afterwards."""
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
        """A clone at the commit, with the experiment's parameters and the cache to share."""
        shutil.rmtree(clone, ignore_errors=True)
        clone.parent.mkdir(parents=True, exist_ok=True)
        git(Path(), "clone", "--quiet", "--no-checkout", self.url, str(clone))
        git(clone, "checkout", "--quiet", "--detach", self.commit)
        for key, value in zip(("user.name", "user.email"), self.author or (), strict=False):
            git(clone, "config", key, value)
        settings = configparser.ConfigParser(interpolation=None)
        if self.here:
            settings.read(_LOCAL, encoding="utf-8")  # which git does not know, and may not exist
        # DVC's notes on a clone go with it.
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
            # Another worker died after it had pushed the commit; perhaps the data as well.
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
    """Run one experiment on this worker to its end, by the workshop that it has for the sweep.

    ``leads`` says whether others wait for what it makes.
    """
    found: Workshop = get_worker().plugins[workshop]
    return found.run(name, params, leads)
