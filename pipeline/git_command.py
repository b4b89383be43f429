"""Runs git commands."""

import os
import re
import subprocess
from pathlib import Path

from models.errors import InputError

_NOISE = ("hint:", "warning:", "remote:", "To ", "Please make sure", "and the repository exists")

_NO_ORIGIN = "this repository has no origin; run `git remote add origin URL`"
_REMEDIES = {
    "Please tell me who you are": "does not know who you are; run `git config user.name NAME` and"
    " `git config user.email ADDRESS`",
    "'origin' does not appear": _NO_ORIGIN,
    "No such remote 'origin'": _NO_ORIGIN,
    "not a git repository (or": "not a repository; run ackd in the project's root, and `git init`"
    " where it is new",
}  # remedies for git's errors, by a part of the message


def git(root: Path, *arguments: str) -> str:
    """Run git in ``root`` and return its output; raises InputError with git's reason."""
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


def changed_files(root: Path) -> list[str]:
    """List the tracked files that differ from the last commit."""
    lines = git(root, "status", "--porcelain", "--untracked-files=no").splitlines()
    return [line.strip().split(maxsplit=1)[1] for line in lines]


def without_password(text: str) -> str:
    """Remove the passwords and tokens from the URLs in a text."""
    # In HTTP URLs, a token may take the place of the user.
    text = re.sub(r"(https?://)[^/@\s]*@", r"\1", text)
    return re.sub(r"(://[^/@:\s]*):[^/@\s]*@", r"\1@", text)


def _reason(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if known := next((_REMEDIES[part] for part in _REMEDIES if part in text), None):
        return known
    if remedy := next((line for line in lines if "--add safe.directory" in line), None):
        return f"this repository is another user's; if you trust it, run `{remedy}`"
    own = [line for line in lines if not line.startswith(_NOISE)]
    marked = [line for line in own if line.startswith(("fatal:", "error:", "!"))]
    chosen = (marked or own or lines or ["failed"])[0]
    return without_password(chosen.removeprefix("fatal: ").removeprefix("error: "))
