"""A small project with results to share, and the remotes to share them through."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pipeline.git_command import git
from tests.bundles import make_bundle, pack
from tests.once import once, repository
from tests.sshd import free_port
from tests.waiting import wait_until
from tests.warm_python import warm_dvc

DVC_YAML = """\
stages:
  prepare_data:
    cmd: cp source.bin artifacts/data.bin
    deps: [source.bin]
    outs: [artifacts/data.bin]
  gate:
    cmd: cp goals.json reports/gate.json
    deps: [goals.json]
    params: [gate]
    outs:
    - reports/gate.json:
        cache: false
  package:
    cmd: cp made.tar.gz artifacts/bundle.tar.gz
    deps:
    - made.tar.gz
    - reports/gate.json
    outs: [artifacts/bundle.tar.gz]

artifacts:
  student:
    path: artifacts/bundle.tar.gz
    type: model
    desc: The student as a bundle for devices
"""


def dvc(folder: Path, *arguments: str) -> str:
    command = warm_dvc(*arguments)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def commit(project: Path) -> None:
    git(project, "add", ".")
    git(project, "commit", "--quiet", "-m", "Change")
    git(project, "push", "--quiet", "origin", "HEAD")


def _make_project(folder: Path) -> None:
    """Create ``folder/project`` with results, committed and pushed to ``folder/origin.git``."""
    project = folder / "project"
    (project / "artifacts").mkdir(parents=True)
    (project / "reports").mkdir()
    git(folder, "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
    repository(project)
    git(project, "remote", "add", "origin", "../origin.git")
    (project / "dvc.yaml").write_text(DVC_YAML)
    (project / "params.yaml").write_text("gate: {min_accuracy: 0.9}\n")
    (project / "goals.json").write_text('{"passed": true, "goals": []}\n')
    (project / "source.bin").write_bytes(os.urandom(1_000_000))
    shutil.copy(pack(make_bundle(folder / "made")), project / "made.tar.gz")
    dvc(project, "repro", "--quiet")
    commit(project)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The working directory: a project with results, whose git remote is ``../origin.git``."""
    shutil.copytree(once("sharing", _make_project), tmp_path / "work", symlinks=True)
    monkeypatch.chdir(tmp_path / "work/project")
    return tmp_path / "work/project"


def clone(project: Path) -> Path:
    """Clone what was pushed, and copy the settings that are not in git."""
    elsewhere = project.parent / "elsewhere"
    git(project.parent, "clone", "--quiet", "origin.git", str(elsewhere))
    if (local := project / ".dvc/config.local").exists():
        shutil.copy(local, elsewhere / ".dvc/config.local")
    return elsewhere


def assert_up_to_date(folder: Path) -> None:
    """Check that nothing would run, and that the data equal the project's."""
    assert "Data and pipelines are up to date." in dvc(folder, "status")
    assert "Running stage" not in dvc(folder, "repro", "--dry")


@contextlib.contextmanager
def s3_server() -> Iterator[int]:
    """The port of a server that speaks S3, with a bucket ``students``."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def has_bucket() -> bool:
        assert process.poll() is None
        with contextlib.suppress(httpx.TransportError):
            url = f"http://127.0.0.1:{port}/students"
            return httpx.put(url, trust_env=False, timeout=5).is_success
        return False

    try:
        wait_until(has_bucket, "the S3 server", within_s=60)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=10)
