"""Creates expensive read-only folders once a session, in whichever worker comes first."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

_PLACE, _OWNER = "TESTS_SHARED", "TESTS_PROCESS"
_GUARDED = '"$@" & while kill -0 "$0"; do sleep 1; done 2>/dev/null; kill $!'


def begin() -> None:
    """Choose the base folder, which xdist's workers inherit from their parent process."""
    if _PLACE not in os.environ:
        os.environ[_PLACE] = tempfile.mkdtemp(prefix="ackd-tests-shared-")
        os.environ[_OWNER] = str(os.getpid())


def end() -> None:
    """Remove all folders."""
    shutil.rmtree(os.environ[_PLACE], ignore_errors=True)


def once(name: str, make: Callable[[Path], object]) -> Path:
    """Return the folder of this name, which all workers share and none but ``make`` may change."""
    shared = Path(os.environ[_PLACE])
    folder, made, failed = shared / name, shared / f"{name}.made", shared / f"{name}.failed"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not failed.exists(), f"{name} was not made: {failed.read_text()}"
        if not made.exists():
            folder.mkdir()
            try:
                make(folder)
            except BaseException as error:
                failed.write_text(str(error))
                raise
            made.touch()
    return folder


def keep_running(command: list[str], log: Path, env: Mapping[str, str]) -> None:
    """Start a server that stops with the tests, however these end."""
    guarded = ["sh", "-c", _GUARDED, os.environ[_OWNER], *command]
    with log.open("wb") as log_file:
        output = {"stdout": log_file, "stderr": log_file}
        process = subprocess.Popen(guarded, env=env, **output, start_new_session=True)
    process.returncode = 0  # this worker may end first and does not wait


def repository(folder: Path) -> Path:
    """Run ``git init`` and ``dvc init`` in a folder, which may already have files."""
    shutil.copytree(once("repository", _init), folder, symlinks=True, dirs_exist_ok=True)
    return folder


def _init(folder: Path) -> None:
    dvc = [sys.executable, "-m", "dvc"]
    for command in (["git", "init", "--initial-branch=main"], [*dvc, "init"]):
        subprocess.run([*command, "--quiet"], cwd=folder, check=True)
    for key, value in (("user.name", "Tester"), ("user.email", "tester@example.org")):
        subprocess.run(["git", "config", key, value], cwd=folder, check=True)
