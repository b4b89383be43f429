"""What is costly to make and is only read: made once a session, by whichever worker comes first."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_PLACE = "TESTS_SHARED"


def begin() -> None:
    """Choose the folder; the workers of xdist inherit it from the process that starts them."""
    if _PLACE not in os.environ:
        os.environ[_PLACE] = tempfile.mkdtemp(prefix="ackd-tests-shared-")


def end() -> None:
    """Terminate what :func:`keep_running` was given, and remove all that was made."""
    shared = Path(os.environ.pop(_PLACE))
    for path in shared.glob("*.pid"):
        with suppress(ProcessLookupError):
            os.killpg(int(path.name.removesuffix(".pid")), signal.SIGTERM)
    shutil.rmtree(shared, ignore_errors=True)


def once(name: str, make: Callable[[Path], object]) -> Path:
    """The folder of this name, which every worker shares and none may change.

    Args:
        name: of the folder.
        make: fills the folder, which is there and empty.
    """
    shared = Path(os.environ[_PLACE])
    folder, made = shared / name, shared / f"{name}.made"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed half-way
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


def keep_running(process: subprocess.Popen[bytes]) -> None:
    """Let the leader of a session of its own run until all tests have ended."""
    Path(os.environ[_PLACE], f"{process.pid}.pid").touch()
    process.returncode = 0  # this worker may end before, and will not wait for it


def repository(folder: Path) -> Path:
    """``git init`` and ``dvc init`` in a folder, which may have files already."""
    shutil.copytree(once("repository", _init), folder, symlinks=True, dirs_exist_ok=True)
    return folder


def _init(folder: Path) -> None:
    dvc = [sys.executable, "-m", "dvc"]
    for command in (["git", "init", "--initial-branch=main"], [*dvc, "init"]):
        subprocess.run([*command, "--quiet"], cwd=folder, check=True)
    for key, value in (("user.name", "Tester"), ("user.email", "tester@example.org")):
        subprocess.run(["git", "config", key, value], cwd=folder, check=True)
