"""Clones of the project in which experiments run, untouched by what the user does meanwhile.

Each experiment that runs has a clone to itself: ``dvc exp run`` queues what it will run in the
repository, and then takes from there what it finds, be it another process's.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from models.errors import InputError
from pipeline.dvc_output import StageBusyError, StageError
from pipeline.dvc_runner import Runner
from pipeline.git_refs import git
from pipeline.sweep.commits import list_experiments

_TRIES = 5
_CONFIG = Path(".dvc/config.local")
_LOCK = Path("dvc.lock")


@dataclass(frozen=True)
class Source:
    """What is cloned, and in whose name experiments are committed.

    Attributes:
        url: of the git repository, or its folder.
        commit: that the experiments start from.
        author: name and address, as git has them; None leaves it to the machine.
    """

    url: str
    commit: str
    author: tuple[str, str] | None


@dataclass(frozen=True)
class Order:
    """One experiment, as a clone runs it.

    Attributes:
        name: of the experiment.
        overrides: of the parameters of the commit, see :func:`pipeline.sweep.plan.as_override`.
        until: the last stage.
        message: of the experiment's commit.
        leads: whether others wait for what it makes.
    """

    name: str
    overrides: tuple[str, ...]
    until: str
    message: str
    leads: bool


class Clone:
    """A clone at one commit; one experiment after the other runs in it, each in a workspace.

    Args:
        folder: of the clone, which is made; what is there is removed.
        source: what is cloned.
        cache: the DVC cache to share; by default the clone has its own, and what others have made
            comes from the default remote.
        config: ``.dvc/config.local`` of the project, which git does not know.

    Raises:
        InputError: git cannot clone it, or the commit is not there.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        *,
        cache: Path | None = None,
        config: Path | None = None,
    ) -> None:
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        git(Path(), "clone", "--quiet", "--no-checkout", source.url, str(folder))
        git(folder, "checkout", "--quiet", "--detach", source.commit)
        if source.author is not None:
            git(folder, "config", "user.name", source.author[0])
            git(folder, "config", "user.email", source.author[1])
        settings = configparser.ConfigParser(interpolation=None)
        if config is not None and config.exists():
            settings.read(config, encoding="utf-8")
        if cache is not None:
            if not settings.has_section("cache"):
                settings.add_section("cache")
            settings.set("cache", "dir", str(cache))
            with (folder / _CONFIG).open("w", encoding="utf-8") as handle:
                settings.write(handle)
        self._runner = Runner(folder)
        self._has_remote = cache is None
        self._is_ready = False

    def run(
        self, order: Order, log: Path, env: Mapping[str, str], options: Sequence[str] = ()
    ) -> None:
        """Run an experiment to its end; it is then one of the clone's.

        Args:
            order: which.
            log: takes what it prints.
            env: variables in addition to this process's own.
            options: for ``dvc exp run``.

        Raises:
            StageError: it failed, or was stopped.
        """
        if not self._is_ready:
            self._forget_what_is_lost()
            if self._has_remote:
                self.dvc(["fetch", "--with-deps", order.until], log, env)
            self._is_ready = True
        settings = [part for text in order.overrides for part in ("-S", text)]
        named = ["-n", order.name, "-m", order.message]
        self.dvc(["exp", "run", "--temp", *options, *named, *settings, order.until], log, env)
        if order.name not in list_experiments(root=self.folder):
            raise InputError(f"dvc made no experiment of this name; {log} has what it said")

    def _forget_what_is_lost(self) -> None:
        """Take the stages whose results nobody has any more out of ``dvc.lock``.

        Of a stage that stands there DVC takes these results and no others. That another experiment
        has just run it, on a processor that gives other last bits, it would not see, and run it
        again.
        """
        path = self.folder / _LOCK
        if not path.exists():
            return
        remote = ["--not-in-remote"] if self._has_remote else []
        lines = self._runner.dvc(["data", "status", "--json", *remote], lambda _: None)
        status = json.loads(next(line for line in lines if line.startswith("{")))
        lost = set(status.get("not_in_cache", []))
        if self._has_remote:
            lost &= set(status.get("not_in_remote", []))
        if not lost:
            return
        places = {place.rstrip("/") for place in lost}  # folders are told with a slash
        yaml = YAML()
        content = yaml.load(path)
        for name, stage in list(content["stages"].items()):
            if places.intersection(out["path"] for out in stage.get("outs", [])):
                del content["stages"][name]
        yaml.dump(content, path)

    def push_run_cache(self) -> None:
        """Let other clones restore the runs that were made here; outputs are pushed already.

        Raises:
            StageError: the remote did not take it.
        """
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.sweep.run_cache"],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise StageError(said[-1].removeprefix("error: "))

    def dvc(self, arguments: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        """Run a command of dvc here; another of its processes is waited for."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as handle:

            def write(line: str) -> None:
                handle.write(f"{line}\n")
                handle.flush()

            for left in reversed(range(_TRIES)):
                try:
                    self._runner.dvc(arguments, write, env=env)
                except StageBusyError:
                    if not left:
                        raise
                else:
                    return

    def forget(self, name: str) -> None:
        """Remove an experiment that was begun anew elsewhere."""
        for found in list_experiments(root=self.folder).get(name, []):
            git(self.folder, "update-ref", "-d", found.ref)

    def close(self) -> None:
        """Stop what runs here, and remove the clone."""
        self._runner.__exit__(None, None, None)
        shutil.rmtree(self.folder, ignore_errors=True)


class Clones:
    """As many clones as experiments run at once.

    Args:
        folder: that they are made in.
        source: what is cloned.
        cache: as for :class:`Clone`, and so is ``config``.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        *,
        cache: Path | None = None,
        config: Path | None = None,
    ) -> None:
        self._source, self._cache, self._config = source, cache, config
        self._folder = folder
        self._lock = threading.Lock()
        self._all: list[Clone] = []
        self._free: list[Clone] = []
        self._closed = False
        shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def hold(self) -> Iterator[Clone]:
        """A clone for one experiment.

        Raises:
            InputError: as :class:`Clone`.
            StageError: they are closed.
        """
        with self._lock:
            if self._closed:
                raise StageError("stopped before it began")
            if not self._free:
                made = Clone(
                    self._folder / str(len(self._all)),
                    self._source,
                    cache=self._cache,
                    config=self._config,
                )
                self._free.append(made)
                self._all.append(made)
            clone = self._free.pop()
        try:
            yield clone
        finally:
            with self._lock:
                self._free.append(clone)

    def close(self) -> None:
        """Stop what runs, and remove them; experiments that were not fetched go with them."""
        with self._lock:
            self._closed = True
            threads = [threading.Thread(target=clone.close) for clone in self._all]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)


def places(checkpoints: Path) -> dict[str, str]:
    """Where trainings keep what must outlive a workspace, which goes when its experiment fails.

    Args:
        checkpoints: where no environment variable says otherwise.
    """
    found = {"ACKD_CHECKPOINTS": str(checkpoints.resolve())}
    for name in ("ACKD_CHECKPOINTS", "ACKD_LOGITS"):
        if os.environ.get(name):
            found[name] = str(Path(os.environ[name]).resolve())
    return found


def author() -> tuple[str, str] | None:
    """Name and address of the user, where git has both."""
    try:
        return git(Path(), "config", "user.name").strip(), git(Path(), "config", "user.email")
    except InputError:
        return None
