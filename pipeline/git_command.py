"""Commands of git, and what the top floor asks of a repository."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from models.errors import InputError

_NOISE = ("hint:", "warning:", "remote:", "To ", "Please make sure", "and the repository exists")

_UNKNOWN_USER = ("auto-detect email", "empty ident", "was given and auto-detection is disabled")


def git(root: Path, *arguments: str) -> str:
    """What a git command prints.

    Args:
        root: a folder of the repository.
        arguments: of the command.

    Raises:
        InputError: with git's own reason.
    """
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        raise InputError("git: not installed here; install it") from None
    if done.returncode:
        raise InputError(f"git {arguments[0]}: {_reason(done.stderr)}")
    return done.stdout.strip()


def head(root: Path) -> str:
    """The commit that is checked out."""
    try:
        return git(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    except InputError:
        raise InputError(
            "git: nothing is committed here; run `git init`, `git add` and `git commit`"
        ) from None


def git_remote(root: Path) -> str:
    """The git remote to share through: ``origin``, or the only one there is.

    Raises:
        InputError: there is none, or several without an ``origin``.
    """
    names = git(root, "remote").split()
    if "origin" in names:
        return "origin"
    if len(names) == 1:
        return names[0]
    if names:
        raise InputError(
            f"git: the remotes are {', '.join(names)} and none is origin; rename the one to share"
            " through, by `git remote rename`"
        )
    raise InputError("git: this repository has no remote; run `git remote add origin URL`")


def changed_files(root: Path) -> list[str]:
    """Tracked files that differ from the last commit."""
    lines = git(root, "status", "--porcelain", "--untracked-files=no").splitlines()
    return [line.strip().split(maxsplit=1)[1] for line in lines]


def without_password(text: str) -> str:
    """A URL, or a text with URLs in it, with the passwords and tokens in them left out."""
    # A token stands where the user would, in a URL of http.
    text = re.sub(r"(https?://)[^/@\s]*@", r"\1", text)
    return re.sub(r"(://[^/@:\s]*):[^/@\s]*@", r"\1@", text)


def _reason(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any(unknown in text for unknown in _UNKNOWN_USER):
        return (
            "does not know who you are; run `git config user.name NAME` and"
            " `git config user.email ADDRESS`"
        )
    if "not a git repository (or" in text:
        return "not a repository; run ackd in the project's root, and `git init` where it is new"
    if remedy := next((line for line in lines if "--add safe.directory" in line), None):
        return f"this repository is another user's; if you trust it, run `{remedy}`"
    own = [line for line in lines if not line.startswith(_NOISE)]
    marked = [line for line in own if line.startswith(("fatal:", "error:", "!"))]
    chosen = (marked or own or lines or ["failed"])[0]
    return without_password(chosen.removeprefix("fatal: ").removeprefix("error: "))
