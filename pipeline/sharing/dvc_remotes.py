"""The DVC remotes of a project: what is configured, what answers, and what is sent there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import InputError
from pipeline.git_refs import git, without_password
from pipeline.sharing import dvc_probe

CONFIG = ".dvc/config"
CONFIG_LOCAL = ".dvc/config.local"

_REASON = re.compile(r"^ERROR: (?:failed to transfer '[^']*'|unexpected error) - (.*)$", re.M)
_SYSTEM_ERROR = re.compile(r"^\[Errno \d+\] ([^:]+): '.*$", re.S)
_PUSHED = re.compile(r"^(\d+) files? pushed", re.M)


@dataclass(frozen=True)
class Remote:
    """A remote as it is configured; what is secret of it is left out."""

    name: str
    url: str
    default: bool
    shared: bool
    """Whether all of it but secrets stands in ``.dvc/config``, which git carries to others."""


def remotes(root: Path) -> list[Remote]:
    """All remotes of the project, in the order of the files.

    Raises:
        InputError: ``root`` is no DVC project, or a file of its configuration is damaged.
    """
    config, shared = _config(root), _config(root).load_one("repo")["remote"]
    default = config["core"].get("remote")
    return [
        Remote(
            name,
            without_password(str(settings["url"])),
            name == default,
            "url" in shared.get(name, {}),
        )
        for name, settings in config["remote"].items()
    ]


def find_remote(root: Path, name: str | None) -> Remote:
    """The remote of this name, or the default one.

    Raises:
        InputError: there is none; as :func:`remotes`.
    """
    known = remotes(root)
    for remote in known:
        if remote.name == name or (name is None and remote.default):
            return remote
    if not known:
        raise InputError("no remote is set up; run `ackd remote add NAME URL`")
    names = ", ".join(remote.name for remote in known)
    if name is None:
        raise InputError(f"none of the remotes ({names}) is the default; name one by --remote")
    raise InputError(f"{name}: no such remote; expected one of {names}")


def save_remote(
    root: Path, name: str, shared: Mapping[str, str], private: Mapping[str, str], default: bool
) -> None:
    """Write a remote's settings, those that are private into a file that git ignores.

    Raises:
        InputError: git would track that file.
    """
    config = _config(root)
    if private:
        try:
            git(root, "check-ignore", "--quiet", CONFIG_LOCAL)
        except InputError:
            raise InputError(
                f"{CONFIG_LOCAL}: git does not ignore this file, which is to hold what is secret;"
                " add /config.local to .dvc/.gitignore"
            ) from None
    # The private part alone would not be valid.
    with config.edit("repo") as repo:
        repo["remote"][name] = dict(shared)
        if default:
            repo["core"]["remote"] = name
    if private:
        path = root / CONFIG_LOCAL
        path.touch(mode=0o600)
        path.chmod(0o600)
        with config.edit("local") as local:
            local["remote"][name] = dict(private)


def drop_remote(root: Path, name: str) -> None:
    """Forget a remote, its secrets too; what is stored there stays.

    Raises:
        InputError: there is none of this name.
    """
    find_remote(root, name)
    config = _config(root)
    for level in ("local", "repo"):
        # A file that is not there is not made.
        if not Path(config.files[level]).exists():
            continue
        with config.edit(level) as edited:
            edited["remote"].pop(name, None)
            if edited["core"].get("remote") == name:
                del edited["core"]["remote"]


def problem_of(root: Path, name: str, settings: Mapping[str, str] | None = None) -> str | None:
    """Why a remote cannot be written to and read from; None where it can.

    Args:
        root: of the project.
        name: of the remote.
        settings: of one that is not configured yet.
    """
    # Secrets go through a pipe: the arguments of a process can be read by others.
    done = subprocess.run(
        [sys.executable, "-P", dvc_probe.__file__],
        input=json.dumps({"root": str(root.resolve()), "name": name, "settings": settings}),
        env={**os.environ, "DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise InputError(f"{name}: the check of the remote ended early ({last})") from None
    problem = answer["problem"]
    return None if problem is None else str(problem)


def require_answer(root: Path, remote: Remote) -> None:
    """Raises InputError unless the remote can be written to and read from."""
    problem = problem_of(root, remote.name)
    if problem is not None:
        raise InputError(
            f"{remote.name}: the remote {remote.url} cannot be used ({problem}); nothing was sent"
            " there and nothing is lost, so try again once it answers"
        )


def run_dvc(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of dvc in ``root``, with all that it says in lines that are not broken."""
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=root,
        env={**os.environ, "DVC_NO_ANALYTICS": "1", "COLUMNS": "1000"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


def push(root: Path, remote: Remote, targets: Sequence[str] = ()) -> int:
    """Send what ``dvc.lock`` names and the remote lacks; what is there already stays as it is.

    A file appears there whole or not at all, so that a second try goes on where the first ended.

    Args:
        root: of the project.
        remote: where to.
        targets: outputs; without one, all.

    Returns:
        How many files were sent.

    Raises:
        InputError: the remote broke off, or the files are neither here nor there.
    """
    done = run_dvc(root, "--wait-for-lock", "push", "-r", remote.name, *targets)
    said = f"{done.stdout}\n{done.stderr}"
    if "Some of the cache files do not exist neither locally nor on remote" in said:
        raise InputError(
            f"{remote.name}: some results are neither in the cache nor on the remote; run"
            " `ackd run` to make them, or `dvc fetch` from where they are"
        )
    if done.returncode == 0:
        pushed = _PUSHED.search(said)
        return int(pushed[1]) if pushed else 0
    reasons = _REASON.findall(said)
    errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if "ERROR: " in line]
    reason = (reasons or errors or [f"exit status {done.returncode}"])[0]
    # Of an error of the system the words, without its number and the paths of the cache.
    reason = without_password(_SYSTEM_ERROR.sub(r"\1", reason))
    raise InputError(
        f"{remote.name}: sending to {remote.url} broke off ({reason.rstrip('.')}); nothing is lost,"
        " and the same command goes on from there"
    )


def _config(root: Path) -> Any:
    from dvc.config import Config, ConfigError

    if not (root / ".dvc").is_dir():
        raise InputError(
            f"{root.resolve().name}: this folder is not a DVC project;"
            " run `git init` and `dvc init` in it"
        )
    try:
        return Config(str(root / ".dvc"))
    except ConfigError as error:
        raise InputError(f"{CONFIG}: {' '.join(str(error).split())}") from None
