"""Run sweeps on this machine, with real DVC experiments."""

import os
import shutil
import signal
import subprocess
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipeline import cli
from pipeline.git_command import git
from tests.pipeline.conftest import spawn
from tests.pipeline.sweep.conftest import (
    LOG,
    cached,
    commit,
    documented,
    environment,
    results,
    runs,
    write_sweep,
)
from tests.pipeline.test_guard import MARK, left, none_left
from tests.waiting import wait_for, wait_until
from tests.warm_python import warm_dvc

# The last of these fails.
SWEEP = """\
name: t
until: distill
presets: [kd]
variants:
  cold: {set: {distill.temperature: 2}}
  warm: {set: {distill.temperature: 3}}
  hot: {set: {distill.temperature: 13}}
"""


def sweep(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["sweep", "sweep.yaml", *arguments])


def test_a_sweep_runs_skips_resumes_and_lists_failures(project, monkeypatch):
    monkeypatch.setenv("ACKD_GPUS", "4,7")
    write_sweep(project, SWEEP)
    first = sweep()  # one at a time per GPU
    assert first.exit_code == 1
    assert "failed: t.hot.seed0: too hot (.dvc/tmp/sweeps/t/t.hot.seed0.log)" in first.output
    assert "error: 1 of 3 experiments failed; the same command runs them again" in first.output
    assert set(results(project)) == {"t.cold.seed0", "t.warm.seed0"}
    assert all(cached(project, md5) for md5 in results(project).values())
    assert "too hot" in (project / ".dvc/tmp/sweeps/t/t.hot.seed0.log").read_text()
    made = runs(project)
    assert len(made) == 3
    assert set(made.values()) == {1}, "the teacher, and each student, once"
    gpus = set((project.parent / f"{LOG}.gpus").read_text().split())
    assert gpus == {"4", "7"}, "each experiment has one GPU for itself"
    assert git(Path(), "status", "--porcelain", "--untracked-files=no") == ""
    assert not (project / ".dvc/tmp/sweeps/t/clones").exists()

    # Only failed experiments run again.
    write_sweep(project, SWEEP.replace("13", "12"))
    second = sweep("--jobs", "1")
    assert second.exit_code == 0, second.output
    assert "cold" not in second.output
    assert "t.hot.seed0: started, 1 of 1" in second.output
    assert "t: 1 of 1 in" in second.output
    assert runs(project)["teacher"] == 1
    assert runs(project).total() == 4

    *_, option = documented("ackd sweep docs/examples/sweep.yaml --plan")
    assert sweep(option).output.endswith("3 experiments, 3 done, 0 to run\n")
    listed = documented("dvc exp show --only-changed")
    assert "t.cold.seed0" in subprocess.run(listed, capture_output=True, text=True).stdout
    assert sweep().output == "3 experiments; `dvc exp show` lists them\n"

    # A name taken by other settings is refused before anything runs.
    write_sweep(project, SWEEP.replace("13", "11"))
    refused = sweep()
    assert refused.exit_code == 1
    assert refused.output == (
        "error: t.hot.seed0 exists with other settings (distill.temperature: 12, not 11); give"
        " the sweep another name, or remove it with `dvc exp remove t.hot.seed0`\n"
    )
    assert runs(project).total() == 4


def test_an_interrupt_stops_all_and_the_same_command_resumes(project, monkeypatch):
    # Like in a fresh clone: dvc.lock names a lost teacher, from another processor.
    subprocess.run(warm_dvc("repro", "--quiet", "distill"), env=environment(project), check=True)
    commit(project)
    lock = (project / "dvc.lock").read_bytes()
    for path in (project.parent / LOG, project.parent / f"{LOG}.started", project / "teacher.txt"):
        path.unlink()
    shutil.rmtree(project / ".dvc/cache")
    monkeypatch.setenv("SWEEP_PROCESSOR", "another")

    two = SWEEP.partition("  hot:")[0].replace("until: distill", "until: measure")
    write_sweep(project, two)
    mark = uuid.uuid4().hex
    _, *command = documented(
        "ackd sweep docs/examples/sweep.yaml --jobs 2", **{"docs/examples/sweep.yaml": "sweep.yaml"}
    )
    log = project / "output.log"
    process = spawn(command, project, log, SWEEP_SLEEP="120", **{MARK: mark})
    wait_for(project.parent / f"{LOG}.started")
    wait_until(lambda: any("sleep" in command for command in left(mark)), "a training")

    # The name is locked while it runs.
    second = sweep()
    assert second.exit_code == 1
    assert "the sweep t is already running in this project" in second.output

    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert time.monotonic() - began < 20
    assert none_left(mark, within_s=1), left(mark)
    output_text = log.read_text()
    assert "measure: measured beside 1 other experiment, so times are those of" in output_text
    assert "interrupted: all experiments are stopped; the same command resumes" in output_text
    assert "Traceback" not in output_text
    assert results(project) == {}
    assert git(Path(), "status", "--porcelain", "--untracked-files=no") == ""

    # The teacher is not trained again after the interrupt or for the second student.
    assert runs(project) == Counter(["teacher"])
    done = sweep()
    assert done.exit_code == 0, done.output
    assert len(results(project)) == 2
    assert len(runs(project)) == 3
    assert set(runs(project).values()) == {1}
    assert (project / "dvc.lock").read_bytes() == lock


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--dask", "tcp://127.0.0.1:1", "--jobs", "2"], "--jobs is for this machine"),
        (["--dask", "tcp://127.0.0.1:1"], "this repository has no origin; run `git remote add"),
    ],
)
def test_a_mistake_is_one_sentence(project, arguments, sentence):
    write_sweep(project, SWEEP)
    done = sweep(*arguments)
    assert done.exit_code == 1
    assert sentence in done.output
    assert done.output.count("\n") == 1
