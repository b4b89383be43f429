"""A small project with shell commands as stages, in its own git and DVC repository."""

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from pipeline import cli
from tests.once import keep_running, once, repository
from tests.sshd import free_port
from tests.waiting import wait_until
from tests.warm_python import warm_dvc

ROOT = Path(__file__).parents[2]
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="finds what is left by its environment in /proc"
)
CHAIN = """\
stages:
  first:
    cmd: echo hello from first && cp source.txt first.txt
    deps: [source.txt]
    outs: [first.txt]
  left:
    cmd: cp first.txt left.txt
    deps: [first.txt]
    params: [distill.temperature]
    outs: [left.txt]
  right:
    cmd: cp first.txt right.txt
    deps: [first.txt]
    outs: [right.txt]
  last:
    cmd: cat left.txt right.txt > last.txt
    deps: [left.txt, right.txt]
    outs: [last.txt]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The working directory; its stages are ``first``, ``left`` beside ``right``, and ``last``."""
    monkeypatch.chdir(tmp_path)
    return _write_project(tmp_path)


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """Like :func:`project`, after ``dvc repro``."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(once("finished", _run_project), tmp_path, symlinks=True, dirs_exist_ok=True)
    return tmp_path


def _write_project(folder: Path) -> Path:
    repository(folder)
    (folder / "dvc.yaml").write_text(CHAIN)
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (folder / "source.txt").write_text("1\n")
    return folder


def _run_project(folder: Path) -> None:
    subprocess.run(warm_dvc("repro", "--quiet"), cwd=_write_project(folder), check=True)


def invoke(*arguments: str) -> tuple[int, str, str]:
    """Run an ackd command in the working directory; return its status, stdout and stderr."""
    result = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


def spawn(command: list[str], folder: Path, output: Path, **env: str) -> subprocess.Popen[bytes]:
    """Start Python like in a terminal, where Ctrl-C reaches the whole process group."""
    with output.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def change_stage(project: Path, old: str, new: str) -> None:
    """Replace a unique part of dvc.yaml."""
    text = (project / "dvc.yaml").read_text()
    assert text.count(old) == 1
    (project / "dvc.yaml").write_text(text.replace(old, new))


def set_temperature(project: Path, value: float) -> None:
    """Set ``distill.temperature``, which ``left`` depends on."""
    params = project / "params.yaml"
    params.write_text(re.sub(r"(\n  temperature:) 4.0", rf"\1 {value}", params.read_text()))


@pytest.fixture
def prefect_server(monkeypatch):
    """One Prefect server for all flows of all workers."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    url = (once("prefect", _serve) / "url").read_text()
    monkeypatch.setenv("PREFECT_API_URL", url)
    with temporary_settings({PREFECT_API_URL: url}):
        yield


def artifacts_of(state: Any) -> dict[str, Any]:
    """Return the artifacts of a flow run by key."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    ours = ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id])
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ours))
    return {str(artifact.key): artifact for artifact in found}


def prefect_home(folder: Path) -> Path:
    """A new ``PREFECT_HOME`` with a database, which a first start takes many seconds to create."""
    folder.mkdir()
    shutil.copy(once("prefect", _serve) / "new.db", folder / "prefect.db")
    return folder


def _serve(folder: Path) -> None:
    port = free_port()
    server = [sys.executable, "-m", "prefect", "--no-prompt", "server", "start", "--no-ui"]
    own = {**os.environ, "PREFECT_HOME": str(folder)}
    keep_running([*server, "--port", str(port)], folder / "log", own)
    url = f"http://127.0.0.1:{port}/api"
    wait_until(lambda: answers(f"{url}/health"), f"Prefect ({folder}/log)")
    with (
        contextlib.closing(sqlite3.connect(folder / "prefect.db")) as used,
        contextlib.closing(sqlite3.connect(folder / "new.db")) as copy,
    ):
        used.backup(copy)
    (folder / "url").write_text(url)


def answers(url: str) -> bool:
    """Return whether a server on this machine is healthy."""
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url, trust_env=False, timeout=2).is_success
    return False
