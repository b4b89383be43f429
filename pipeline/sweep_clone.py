"""A clone of the project in which experiments run, untouched by what the user does meanwhile."""

from __future__ import annotations

import configparser
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.errors import InputError
from pipeline.dvc_runner import Runner, StageBusyError
from pipeline.sweep_git import git, list_experiments

_TRIES = 5
_CONFIG = Path(".dvc/config.local")


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
        overrides: of the parameters of the commit, see :func:`pipeline.sweep.as_override`.
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
    """A clone at one commit; several experiments may run in it at once, each in a workspace.

    Args:
        folder: of the clone, which is made; what is there is removed.
        source: what is cloned.
        cache: the DVC cache to share; by default the clone has its own.
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
        git("clone", "--quiet", "--no-checkout", source.url, str(folder))
        git("checkout", "--quiet", "--detach", source.commit, root=folder)
        if source.author is not None:
            git("config", "user.name", source.author[0], root=folder)
            git("config", "user.email", source.author[1], root=folder)
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
        settings = [part for text in order.overrides for part in ("-S", text)]
        named = ["-n", order.name, "-m", order.message]
        self.dvc(["exp", "run", "--temp", *options, *named, *settings, order.until], log, env)
        if order.name not in list_experiments(root=self.folder):
            raise InputError(f"dvc made no experiment of this name; {log} has what it said")

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
            git("update-ref", "-d", found.ref, root=self.folder)

    def stop(self) -> None:
        """End whatever runs here; nothing starts afterwards."""
        self._runner.stop_all()

    def close(self) -> None:
        """Stop, and remove the clone; experiments that were not fetched go with it."""
        self._runner.__exit__(None, None, None)
        shutil.rmtree(self.folder, ignore_errors=True)


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
        return git("config", "user.name").strip(), git("config", "user.email").strip()
    except InputError:
        return None
