"""A small project whose stages are shell lines, in a git and DVC repository of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

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
    subprocess.run(["git", "init", "--quiet"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], check=True)
    (tmp_path / "dvc.yaml").write_text(CHAIN)
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (tmp_path / "source.txt").write_text("1\n")
    return tmp_path


def change_stage(project: Path, old: str, new: str) -> None:
    """Replace a part of the chain that occurs once."""
    text = (project / "dvc.yaml").read_text()
    assert text.count(old) == 1
    (project / "dvc.yaml").write_text(text.replace(old, new))


def wait_for(path: Path) -> None:
    """Until the file exists."""
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """One temporary Prefect server for all flows of the session."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield
