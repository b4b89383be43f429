"""Run in a clone by the steps of prefect.yaml; its results outlive the clone."""

import asyncio
import os
import shlex
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State
from prefect.deployments.steps.core import run_steps

from pipeline.flow import compress
from pipeline.git_command import git
from pipeline.service.schedule import worker_variables
from stages.params import read_yaml
from tests.pipeline.conftest import ROOT, change_stage
from tests.warm_python import warm_dvc

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "NAME"
BRING = [f"dvc exp pull origin {NAME}", f"dvc exp apply {NAME}"]
"""How docs/how-to-nightly.md brings the results of a clone into the project."""


def dvc(*arguments: str) -> None:
    done = subprocess.run(warm_dvc(*arguments), check=False, capture_output=True, text=True)
    # Fetch everything except the failed stage's outputs.
    missing = [line for line in done.stderr.splitlines() if line.startswith("last.txt")]
    assert done.returncode == 0 or (arguments[:2] == ("exp", "apply") and missing), done.stderr


@pytest.fixture
def committed(project, monkeypatch):
    """The project with everything committed; git has the author only from the environment."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "tester")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "tester@localhost")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    shutil.copy(ROOT / "prefect.yaml", project)
    git(Path(), "add", "--all")
    git(Path(), "commit", "--quiet", "--message", "The chain")
    return project


def run_in_clone(project: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> State[Any]:
    """Run like a worker: in an empty folder, which is deleted afterwards."""
    for name, value in worker_variables().items():
        # From a path, unlike from a URL, git makes no shallow clone.
        address = f"file://{value}" if name == "ACKD_REPOSITORY" and "://" not in value else value
        monkeypatch.setenv(name, address)
    place.mkdir()
    monkeypatch.chdir(place)
    steps = read_yaml(ROOT / "prefect.yaml")["deployments"][1]["pull"]
    asyncio.run(run_steps(steps))
    assert Path.cwd().parent == place
    state: State[Any] = compress(Path(), keep=True, return_state=True)
    monkeypatch.chdir(project)
    shutil.rmtree(place)
    return state


def experiment_of(state: State[Any]) -> str:
    rows = state.result(raise_on_failure=False)
    assert rows[-1]["stage"] == "publish"
    assert rows[-1]["state"] == "Completed", rows[-1]
    name = str(rows[-1]["message"]).removeprefix("kept as the experiment ")
    assert datetime.strptime(name, "nightly-%Y-%m-%d-%H%M"), "by the time it was planned for"
    return name


def test_the_results_of_a_clone_come_back_to_a_project_without_remotes(
    committed, tmp_path_factory, monkeypatch
):
    place = tmp_path_factory.mktemp("worker") / "run"
    state = run_in_clone(committed, place, monkeypatch)
    assert state.is_completed(), state.message
    name = experiment_of(state)
    assert not (committed / "last.txt").exists()
    assert git(Path(), "status", "--porcelain") == ""
    dvc(*shlex.split(BRING[1].replace(NAME, name))[1:])
    assert (committed / "last.txt").read_text() == "1\n1\n"


def test_the_results_of_a_clone_go_to_the_remotes_also_where_a_stage_failed(
    committed, tmp_path_factory, monkeypatch
):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    change_stage(committed, "cmd: cat left.txt", "cmd: exit 3; cat left.txt")
    dvc("remote", "add", "--default", "store", str(elsewhere / "store"))
    git(Path(), "commit", "--quiet", "--all", "--message", "A last stage that fails")
    git(Path(), "clone", "--quiet", "--bare", ".", str(elsewhere / "origin.git"))
    git(Path(), "remote", "add", "origin", str(elsewhere / "origin.git"))
    state = run_in_clone(committed, elsewhere / "run", monkeypatch)
    assert state.is_failed()
    assert str(state.message).startswith("last failed: ")
    name = experiment_of(state)
    shutil.rmtree(committed / ".dvc/cache")
    for line in BRING:
        dvc(*shlex.split(line.replace(NAME, name))[1:])
    assert (committed / "right.txt").read_text() == "1\n"
