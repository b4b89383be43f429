"""Commands of git."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from models.errors import InputError


def git(root: Path, *arguments: str) -> str:
    """What a git command in the folder ``root`` prints.

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


def changed_files(root: Path) -> list[str]:
    """Tracked files that differ from the last commit."""
    lines = git(root, "status", "--porcelain", "--untracked-files=no").splitlines()
    return [line.strip().split(maxsplit=1)[1] for line in lines]


def without_password(text: str) -> str:
    """A text without the passwords and tokens of its URLs."""
    # In a URL of http, a token stands in place of the user.
    text = re.sub(r"(https?://)[^/@\s]*@", r"\1", text)
    return re.sub(r"(://[^/@:\s]*):[^/@\s]*@", r"\1@", text)


def _reason(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["failed"]
    marked = [line for line in lines if line.startswith(("fatal:", "error:", "!"))]
    reason = [*marked, lines[-1]][0]
    return without_password(reason.removeprefix("fatal: ").removeprefix("error: "))
