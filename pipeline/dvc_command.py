"""A command of DVC that is run to its end, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from models.errors import InputError
from pipeline.git_command import without_password

_ERROR = re.compile(r"^ERROR: (?:failed to transfer '[^']*' - |unexpected error - )?(.*)$", re.M)
_ERRNO = re.compile(r"\[Errno -?\d+\] ")


def dvc(root: Path, *arguments: str, timeout_s: float | None = None) -> str:
    """What a command of DVC prints in ``root``, its warnings included.

    Raises:
        InputError: it failed, with DVC's own reason but no password; or it took too long.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments],
            cwd=root,
            env={**os.environ, "DVC_NO_ANALYTICS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"dvc {arguments[0]}: no answer within {timeout_s:g} s") from None
    if done.returncode:
        error = _ERROR.search(done.stdout)
        reason = error[1] if error else f"exit status {done.returncode}"
        reason = without_password(_ERRNO.sub("", reason)).rstrip(".")
        raise InputError(f"dvc {arguments[0]}: {reason}")
    return done.stdout
