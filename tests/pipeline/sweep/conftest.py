"""A small project for sweeps, whose shell commands for teacher and student log each run."""

import hashlib
import os
import shlex
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.experiments import list_refs
from pipeline.git_command import git
from tests.once import once, repository
from tests.pipeline.conftest import ROOT

CHAIN = """\
stages:
  train_teacher:
    cmd: sh stage.sh teacher
    deps: [source.txt, stage.sh]
    params: [teacher]
    outs: [teacher.txt]
    metrics: [teacher.json: {cache: false}]
  distill:
    cmd: sh stage.sh student
    deps: [teacher.txt, stage.sh]
    params: [distill]
    outs: [student.txt]
  measure:
    cmd: cp student.txt measured.txt
    deps: [student.txt]
    outs: [measured.txt]
    meta:
      prefect: {alone: true}
"""
SCRIPT = """\
set -e
if [ "$1" = teacher ]; then
    { cat source.txt; echo "on ${SWEEP_PROCESSOR:-this one}"; } > teacher.txt
    echo '{}' > teacher.json
    echo teacher >> "$SWEEP_LOG"
else
    echo "$CUDA_VISIBLE_DEVICES" >> "$SWEEP_LOG.gpus"
    touch "$SWEEP_LOG.started"
    if grep -q '^  temperature: 13$' params.yaml; then
        echo 'error: too hot' >&2
        exit 3
    fi
    sleep "${SWEEP_SLEEP:-0}"
    sed -n '/^distill:/,/^export:/p' params.yaml | sed 's/ *#.*//' > student.txt
    cat teacher.txt >> student.txt
    echo "student $(cksum < student.txt)" >> "$SWEEP_LOG"
fi
"""
LOG = "runs.log"
PAGE = ROOT / "docs/how-to-sweep.md"
_PROGRAMS = ("    ackd ", "    dvc ", "    git ", "    dask ")
COMMANDS = [line[4:] for line in PAGE.read_text().splitlines() if line.startswith(_PROGRAMS)]
"""Of the page; each is the argument of a :func:`documented` in a test."""


def documented(command: str, **instead: str) -> list[str]:
    """Return a command of the page with some of its words replaced."""
    assert command in COMMANDS
    program, *arguments = [
        own
        for word in shlex.split(command)
        for own in (shlex.split(instead[word]) if word in instead else [word])
    ]
    module = {"ackd": "pipeline.cli"}.get(program, program)
    return [program, *arguments] if program == "git" else [sys.executable, "-m", module, *arguments]


def make_project(root: Path) -> Path:
    """Create ``root/project`` with one commit; runs are logged in ``root/runs.log``."""
    shutil.copytree(once("sweep", _write_project), root / "project", symlinks=True)
    return root / "project"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The working directory."""
    made = make_project(tmp_path)
    monkeypatch.chdir(made)
    monkeypatch.setenv("SWEEP_LOG", str(tmp_path / LOG))
    return made


def _write_project(project: Path) -> None:
    repository(project)
    (project / "dvc.yaml").write_text(CHAIN)
    (project / "stage.sh").write_text(SCRIPT)
    (project / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (project / "source.txt").write_text("the images\n")
    (project / "presets").mkdir()
    (project / "presets/kd.yaml").write_text("# KD\ndistill: {method: kd}\n")
    (project / ".gitignore").write_text("/*.txt\n!/source.txt\n/sweep.yaml\n")
    commit(project)


def commit(project: Path) -> None:
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "change")


def write_sweep(project: Path, text: str) -> Path:
    (project / "sweep.yaml").write_text(text)
    return project / "sweep.yaml"


def runs(project: Path) -> Counter[str]:
    """Return how often each result was computed."""
    log = project.parent / LOG
    return Counter(log.read_text().splitlines() if log.exists() else [])


def environment(project: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "SWEEP_LOG": str(project.parent / LOG), **more}


def results(project: Path) -> dict[str, str]:
    """Return the checksum of each experiment's student by experiment."""
    found = {}
    for item in list_refs(project):
        lock = YAML(typ="safe").load(git(project, "show", f"{item.revision}:dvc.lock"))
        found[item.name] = lock["stages"]["distill"]["outs"][0]["md5"]
    return found


def cached(project: Path, md5: str) -> bool:
    """Return whether intact data with this checksum are in the project's cache."""
    path = project / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    return path.exists() and hashlib.md5(path.read_bytes()).hexdigest() == md5
