"""A small project whose stages are shell lines, in a git and DVC repository of its own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from pipeline import cli
from tests.once import keep_running, once, repository
from tests.sshd import free_port

ROOT = Path(__file__).parents[2]
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
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: ``first``, then ``left`` beside ``right``, then ``last``."""
    monkeypatch.chdir(tmp_path)
    return _write_project(tmp_path)


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As :func:`project`, after ``dvc repro``."""
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
    command = [sys.executable, "-m", "dvc", "repro", "--quiet"]
    subprocess.run(command, cwd=_write_project(folder), check=True)


def invoke(*arguments: str, answers: str = "") -> tuple[int, str, str]:
    """A command of ackd in the working directory: status, stdout, stderr."""
    result = CliRunner().invoke(cli.app, list(arguments), input=answers)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def change_stage(project: Path, old: str, new: str) -> None:
    """Replace a part of the chain that occurs once."""
    text = (project / "dvc.yaml").read_text()
    assert text.count(old) == 1
    (project / "dvc.yaml").write_text(text.replace(old, new))


def wait_for(path: Path) -> None:
    """Until the file exists."""
    end = time.monotonic() + 240
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


def set_temperature(project: Path, value: float) -> None:
    """Of ``distill``, which ``left`` depends on."""
    params = project / "params.yaml"
    params.write_text(re.sub(r"(\n  temperature:) 4.0", rf"\1 {value}", params.read_text()))


@pytest.fixture
def prefect_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One Prefect server for all flows of all workers."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    url = (once("prefect", _serve) / "url").read_text()
    monkeypatch.setenv("PREFECT_API_URL", url)
    with temporary_settings({PREFECT_API_URL: url}):
        yield


def _serve(folder: Path) -> None:
    port = free_port()
    server = [sys.executable, "-m", "prefect", "--no-prompt", "server", "start", "--no-ui"]
    own = {**os.environ, "PREFECT_HOME": str(folder)}
    keep_running([*server, "--port", str(port)], folder / "log", own)
    url = f"http://127.0.0.1:{port}/api"
    end = time.monotonic() + 240
    while not answers(f"{url}/health"):
        assert time.monotonic() < end, (folder / "log").read_text()
        time.sleep(0.1)
    (folder / "url").write_text(url)


def answers(url: str) -> bool:
    """Whether a server on this machine says that it is well."""
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url, trust_env=False, timeout=2).is_success
    return False
