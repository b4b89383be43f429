"""Scheduled runs with a real server and worker, by the commands of docs/how-to-nightly.md."""

import contextlib
import json
import re
import shlex
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import torch
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import filters
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling

import models
from models.networks.checkpoint import save_network
from tests.once import repository
from tests.pipeline.conftest import ROOT, answers, invoke, needs_proc, prefect_home, spawn
from tests.pipeline.service.test_nightly import BRING, NAME
from tests.pipeline.test_guard import MARK, left, none_left
from tests.sshd import free_port
from tests.stages.conftest import write_data
from tests.waiting import wait_until
from tests.warm_python import warm_python

pytestmark = needs_proc

PAGE = ROOT / "docs/how-to-nightly.md"
SET = 'ackd schedule "0 2 * * *" --timezone Europe/Berlin'
PAUSE = "prefect deployment schedule pause --all"
SET_CLONE = 'ackd schedule "0 3 * * *" --clone'
LONGEST = 400.0  # seconds, on a machine that has other work to do

# Trains a student that waits in its third epoch while a file called slow exists.
TRAINING = """\
import runpy, time
from pathlib import Path
from stages.display import Display
quick = Display.epoch
def epoch(self, row):
    quick(self, row)
    while Path("slow").exists() and self.done > 2 * self.steps:
        time.sleep(0.1)
Display.epoch = epoch
runpy.run_module("stages.distill", run_name="__main__")
"""
CHAIN = """\
stages:
  distill:
    cmd: python training.py
    deps: [artifacts/data, artifacts/proxy]
    params: [distill]
    outs: [artifacts/distilled]
  sleeper:
    cmd: "test ! -e wait || sleep 120; cp source.txt sleeper.txt"
    deps: [source.txt]
    outs: [sleeper.txt]
"""
PARAMS = {
    "augmentation": {"crop_padding": 1},
    "training": {"precision": "fp32"},
    "teacher": {"batch_size": 10},
    "distill": {"method": "kd", "epochs": 4, "batch_size": 10, "learning_rate": 0.01},
}


def documented() -> list[str]:
    """Return the commands of the page, whose output is indented too."""
    lines = [line.removeprefix("    ") for line in PAGE.read_text().splitlines()]
    return [line for line in lines if line.startswith(("ackd ", "dvc "))]


def ackd(line: str) -> str:
    """Run a command of the page and return its output."""
    code, output, error = invoke(*shlex.split(line)[1:])
    assert code == 0, error
    return output


@contextlib.contextmanager
def started(line: str, folder: Path, ready: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``ackd server`` or ``ackd worker``, and terminate it after the block."""
    log = folder / f"{line.split()[1]}.log"
    process = spawn(["-m", "pipeline.cli", *line.split()[1:]], folder, log, **env)
    try:
        wait_until(lambda: ready in log.read_text() or process.poll() is not None, ready)
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.terminate()
        process.wait(timeout=LONGEST)


@pytest.fixture
def student(tmp_path, monkeypatch):
    """The working directory, a project that trains a student for a few seconds."""
    root = tmp_path / "project"
    write_data(root / "artifacts/data")
    torch.manual_seed(3)
    (root / "artifacts/proxy").mkdir()
    save_network(root / "artifacts/proxy/model.safetensors", models.build("resnet8", 3))
    (root / "training.py").write_text(TRAINING)
    (root / "dvc.yaml").write_text(CHAIN)
    (root / "params.yaml").write_text(json.dumps(PARAMS))
    (root / "source.txt").write_text("1\n")
    shutil.copy(ROOT / "prefect.yaml", root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return repository(root)


def in_state(client: SyncPrefectClient, name: str) -> list[FlowRun]:
    return [run for run in client.read_flow_runs() if run.state and run.state.name == name]


def state_name(client: SyncPrefectClient, run: FlowRun) -> str | None:
    state = client.read_flow_run(run.id).state
    return state and state.name


def stages_of(mark: str) -> list[str]:
    return [c for c in left(mark) if "training.py" in c or "sleep 120" in c]


def has_checkpoints(root: Path) -> bool:
    return len(list(root.glob(".checkpoints/distill/*/*.checkpoint"))) == 2


@pytest.mark.timeout(3000)
def test_a_night(student, tmp_path):
    # The same training without interruption runs in parallel.
    other = shutil.copytree(student, tmp_path / "uninterrupted")
    reference = subprocess.Popen([warm_python(), "-m", "training"], cwd=other)
    (student / "slow").touch()
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    mark = uuid.uuid4().hex
    own = {
        MARK: mark,
        "PREFECT_API_URL": url,
        "PREFECT_HOME": str(prefect_home(tmp_path / "prefect")),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    with contextlib.ExitStack() as stack:
        line, ready = f"ackd server --port {port}", f"http://127.0.0.1:{port}"
        server = stack.enter_context(started(line, student, ready, **own))
        stack.enter_context(temporary_settings({PREFECT_API_URL: url}))
        client = stack.enter_context(get_client(sync_client=True))
        wait_until(lambda: answers(f"{url}/health"), "the server")
        told = httpx.get(f"http://127.0.0.1:{port}/ui-settings").json()
        assert told["api_url"] == f"http://127.0.0.1:{port}/api", "what the pages ask"
        said = ackd(SET)
        assert "compress/nightly: 0 2 * * * Europe/Berlin\n  next  2" in said
        assert said.count(" 02:00") == 3
        deployment = client.read_deployment_by_name("compress/nightly")
        assert [(s.slug, s.active) for s in deployment.schedules] == [("nightly", True)]
        # The server is this project's: another project's runs would start in the wrong folder.
        with contextlib.chdir(other):
            for command in (["schedule", "0 5 * * *"], ["worker"]):
                code, _, error = invoke(*command)
                assert code == 1
                assert f"compress/nightly on this server belongs to the project {student}" in error
        worker = stack.enter_context(started("ackd worker", student, "started!", **own))

        # A run that is due in a few seconds starts; the next one, due while it is running, is
        # cancelled.
        soon = IntervalSchedule(
            interval=timedelta(seconds=10), anchor_date=datetime.now(UTC) + timedelta(seconds=5)
        )
        client.create_deployment_schedules(
            deployment.id, [DeploymentScheduleCreate(schedule=soon, active=True)]
        )
        wait_until(lambda: has_checkpoints(student), "the training of the planned run")
        (first,) = wait_until(lambda: in_state(client, "Running"), "the planned run")
        assert first.auto_scheduled
        (second, *_) = wait_until(lambda: in_state(client, "Cancelled"), "the end of the second")
        assert second.auto_scheduled
        assert state_name(client, first) == "Running"
        for schedule in client.read_deployment(deployment.id).schedules:  # like PAUSE
            client.update_deployment_schedule(deployment.id, schedule.id, active=False)
        assert "paused\n  next  none" in ackd("ackd schedule")

        key = filters.ArtifactFilterKey(any_=["progress-distill"])
        bars = client.read_artifacts(artifact_filter=filters.ArtifactFilter(key=key))
        assert bars, "no bar of progress"
        assert 0 < json.loads(str(bars[0].data)) < 100

        began = time.monotonic()
        # Like the button in Prefect's pages.
        client.set_flow_run_state(first.id, Cancelling())
        wait_until(lambda: not stages_of(mark), "the end of the cancelled training")
        took = time.monotonic() - began
        wait_until(lambda: state_name(client, first) == "Cancelled", "the end of the first run")
        assert json.loads((student / ".dvc/tmp/rwlock").read_text()) == {}
        assert has_checkpoints(student), "nothing to resume from"
        assert took < 15, f"cancelled only after {took:.1f} s"

        assert "compress/nightly: 0 2 * * *" in ackd("ackd schedule")
        assert "last  " in ackd("ackd schedule")
        # Setting the schedule again replaces it and ends the pause.
        assert ackd(SET).count(" 02:00") == 3
        assert len(client.read_deployment(deployment.id).schedules) == 1

        # The next run resumes the training, while another stage waits.
        (student / "slow").unlink()
        (student / "wait").touch()
        (student / "source.txt").write_text("2\n")
        third = client.create_flow_run_from_deployment(deployment.id)
        its_logs = filters.LogFilter(flow_run_id=filters.LogFilterFlowRunId(any_=[third.id]))
        of_third = filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[third.id]))

        def told(line: str) -> bool:
            return any(line in log.message for log in client.read_logs(its_logs))

        def ended(stage: str) -> bool:
            tasks = client.read_task_runs(flow_run_filter=of_third)
            return any(t.name == stage and t.state and t.state.is_completed() for t in tasks)

        wait_until(lambda: ended("distill"), "the end of the training")
        wait_until(lambda: told("resuming an interrupted training at"), "the line that says so", 60)
        assert reference.wait() == 0
        weights = "artifacts/distilled/model.safetensors"
        assert (student / weights).read_bytes() == (other / weights).read_bytes()
        wait_until(lambda: stages_of(mark), "the stage that waits")
        # When the worker ends, its runs end too.
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=LONGEST) == 128 + signal.SIGTERM
        wait_until(lambda: all("server" in c for c in left(mark)), "the end of the worker's run")
        assert json.loads((student / ".dvc/tmp/rwlock").read_text()) == {}

        assert "compress/nightly-clone: 0 3 * * *" in ackd(SET_CLONE)
        clone = client.read_deployment_by_name("compress/nightly-clone")
        assert clone.parameters == {"keep": True}
        assert ackd("ackd schedule --clone --remove") == "compress/nightly-clone: removed\n"

        assert ackd("ackd schedule --remove") == "compress/nightly: removed\n"
        assert "nothing is scheduled" in ackd("ackd schedule")
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=LONGEST) == 128 + signal.SIGTERM
        assert none_left(mark, within_s=LONGEST), left(mark)
        # Prefect's worker logs one if a pause deletes a run that it is about to submit.
        ours = re.search(r'File ".*/(pipeline|stages)/', (student / "worker.log").read_text())
        assert not ours, "a traceback of ours"


def test_every_command_of_the_page_is_run_by_a_test():
    here = ["ackd server", "ackd worker", SET, SET_CLONE, "ackd schedule", "ackd schedule --remove"]
    assert f"`{PAUSE}`" in PAGE.read_text()
    there = [line.replace(NAME, "nightly-2026-11-27-0300") for line in BRING]
    assert sorted(documented()) == sorted(here + there)
