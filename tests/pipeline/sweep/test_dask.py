"""Sweep on two Dask workers, real processes with a clone each, and kill one of them."""

import contextlib
import signal
import subprocess
from pathlib import Path

import pytest

from pipeline.git_command import git
from tests.pipeline.conftest import invoke, needs_proc
from tests.pipeline.sweep.conftest import (
    LOG,
    cached,
    commit,
    documented,
    environment,
    make_project,
    results,
    runs,
    write_sweep,
)
from tests.pipeline.test_guard import MARK, left, none_left
from tests.sshd import free_port
from tests.waiting import wait_until
from tests.warm_python import warm_dvc

pytestmark = needs_proc
SWEEP = "name: {}\nuntil: distill\npresets: [kd]\nseeds: {}\nvariants: {{a: }}\n"


def shared(root: Path) -> Path:
    """A project with a git remote and a DVC remote, both folders."""
    project = make_project(root)
    git(Path(), "init", "--quiet", "--bare", str(root / "origin.git"))
    git(project, "remote", "add", "origin", str(root / "origin.git"))
    (root / "data").mkdir()
    data = {"/mnt/shared/dvc": str(root / "data")}
    for command in (
        documented("dvc remote add --default shared /mnt/shared/dvc", **data),
        documented('git commit --message "Share data" .dvc/config'),
        documented("git push origin HEAD"),
    ):
        subprocess.run(command, cwd=project, check=True, capture_output=True)
    return project


def start(project: Path, command: list[str], folder: Path, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(project, **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def cluster(tmp_path):
    """A project, the scheduler's address, and two workers."""
    project = shared(tmp_path / "main")
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    here = {"10.0.0.1": f"127.0.0.1 --port {port} --no-dashboard"}
    scheduler = documented("dask scheduler --host 10.0.0.1", **here)
    there = {"tcp://10.0.0.1:8786": address}
    worker = documented("dask worker tcp://10.0.0.1:8786 --nthreads 1", **there)
    processes = [start(project, scheduler, tmp_path)]
    for name in ("one", "two"):
        options = ["--no-nanny", "--no-dashboard", "--name", name, "--local-directory", name]
        mark = {"SWEEP_SLEEP": "1", MARK: f"worker-{name}"}
        processes.append(start(project, [*worker, *options], tmp_path, **mark))
    try:
        yield project, address, processes[1:]
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            try:
                process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def sweep(project: Path, address: str) -> subprocess.Popen[str]:
    command = documented(
        "ackd sweep docs/examples/sweep.yaml --dask tcp://10.0.0.1:8786",
        **{"docs/examples/sweep.yaml": "sweep.yaml", "tcp://10.0.0.1:8786": address},
    )
    return start(project, command, project)


@pytest.mark.timeout(3000)  # on a busy machine
def test_each_experiment_runs_once_even_if_a_worker_dies(cluster, tmp_path):
    project, address, (first, _) = cluster
    write_sweep(project, SWEEP.format("t", 3))
    process = sweep(project, address)
    # Halfway through an experiment of the worker to kill.
    wait_until(
        lambda: (
            process.poll() is not None
            or (runs(project).total() > 1 and any("sleep" in c for c in left("worker-one")))
        ),
        "half of the sweep",
    )
    assert process.poll() is None, process.communicate()[0]
    first.kill()
    assert none_left("worker-one", within_s=20), "the guard ends what a dead worker has started"
    output = process.communicate(timeout=1400)[0]
    assert process.returncode == 0, output
    assert "t: 3 of 3 in" in output
    assert output.count(" done in ") == 3
    assert " on two; " in output
    made = runs(project)
    assert made["teacher"] == 1
    assert len(made) == 4
    assert set(made.values()) == {1}, "none came to its end twice"
    found = results(project)
    assert len(found) == 3
    assert all(cached(project, md5) for md5 in found.values()), "the data were pulled"

    # A clone elsewhere finds the finished experiments.
    other = tmp_path / "other"
    origin = str(project.parent / "origin.git")
    git(Path(), "clone", "--quiet", "--branch", "main", origin, str(other))
    write_sweep(other, SWEEP.format("t", 3))
    with contextlib.chdir(other):
        code, output, error = invoke("sweep", "sweep.yaml", "--dask", address)
    assert (code, error) == (0, "")
    assert "started" not in output
    assert results(other) == found
    assert all(cached(other, md5) for md5 in found.values())

    # The committed teacher is shared, as if another processor had rounded differently.
    (project / "source.txt").write_text("other images\n")
    commit(project)
    own = environment(project, SWEEP_PROCESSOR="another")
    for command in (["repro", "--quiet", "distill"], ["push", "--quiet"]):
        subprocess.run(warm_dvc(*command), cwd=project, env=own, check=True)
    commit(project)
    git(project, "push", "--quiet", "origin", "HEAD")
    started = project.parent / f"{LOG}.started"
    started.unlink()
    write_sweep(project, SWEEP.format("u", 9))
    process = sweep(project, address)
    wait_until(lambda: started.exists() or process.poll() is not None, "a student")

    # An interrupt reaches the workers.
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "interrupted" in output
    wait_until(lambda: not any("dvc" in c for c in left("worker-two")), "the end", 20)
    wait_until(lambda: not list((tmp_path / "two").rglob("clones/*")), "the end", 20)
    assert runs(project)["teacher"] == 2, "that of the commit, and no other"
