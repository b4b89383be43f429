"""Runs a Prefect server on the loopback interface, and a worker, with their child processes."""

import contextlib
import os
from pathlib import Path

from models.errors import InputError
from pipeline.guard import run_guarded
from pipeline.prefect_server import HOST, api_url


def run_server(port: int) -> int:
    """Run a server on this port until a signal stops it; return its exit status."""
    # By default, the pages call the default port even if the server uses another one.
    pages = {"PREFECT_SERVER_UI_API_URL": f"http://{HOST}:{port}/api"}
    command = ("--no-prompt", "server", "start", "--host", HOST, "--port", str(port))
    return run_guarded("prefect", *command, env={**pages, **os.environ})


def run_worker(pool: str, root: Path) -> int:
    """Run a worker for the project ``root`` until a signal stops it and its runs.

    Creates the work pool, of type process, if it is missing. Returns the exit status.
    """
    command = ("--no-prompt", "worker", "start", "--type", "process", "--pool", pool)
    env = {**worker_variables(root), **os.environ, "PREFECT_API_URL": api_url()}
    return run_guarded("prefect", *command, env=env, with_children=True)


def worker_variables(root: Path) -> dict[str, str]:
    """Return the variables that ``prefect.yaml`` takes from its worker to locate the project."""
    from pipeline.dvc_config import cache_folder
    from pipeline.git_command import git

    def ask(*arguments: str) -> str:
        with contextlib.suppress(InputError):  # without git, there are no runs in clones
            return git(root, *arguments)
        return ""

    root = root.resolve()
    origin = ask("config", "--get", "remote.origin.url")
    if not origin or (root / origin).exists():
        origin = str((root / origin).resolve())
    found = {
        "ACKD_PROJECT": str(root),
        "ACKD_CHECKPOINTS": str(root / ".checkpoints"),
        "ACKD_DVC_CACHE": str(cache_folder(root)),
        "ACKD_REPOSITORY": origin,
    }
    branch = ask("branch", "--show-current")
    return {**found, "ACKD_BRANCH": branch} if branch else found
