"""Run the flow on a real Prefect server, with real DVC processes."""

import contextvars
import json
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.states import Cancelling

from pipeline.dvc_runner import Runner
from pipeline.flow import compress
from tests.pipeline.conftest import artifacts_of, change_stage, set_temperature
from tests.waiting import wait_for

pytestmark = pytest.mark.usefixtures("prefect_server")

STAGES = ["first", "left", "right", "last"]
# Both trainings must run in parallel, and measurements alone.
BUSY = """\
stages:
""" + "".join(
    f"""\
  {mine}:
    cmd: >-
      echo $CUDA_VISIBLE_DEVICES > {mine}.txt; touch {mine}.on {mine}.busy;
      timeout 60 sh -c 'until test -e {other}.on; do sleep 0.1; done'; rm {mine}.busy
    outs: [{mine}.txt]
    meta: {{prefect: {{gpu: 1}}}}
  measure_{mine}:
    cmd: >-
      (echo $CUDA_VISIBLE_DEVICES; ls | grep busy) > measured_{mine}.txt;
      touch {mine}.m.busy; sleep 0.3; rm {mine}.m.busy
    outs: [measured_{mine}.txt]
    meta: {{prefect: {{alone: true}}}}
"""
    for mine, other in (("left", "right"), ("right", "left"))
)
FLAKY = """\
stages:
  fetch:
    cmd: >-
      if test -e tries.txt; then cp source.txt out.txt;
      else echo once > tries.txt; echo 'error: Connection refused' >&2; exit 1; fi
    deps: [source.txt]
    outs: [out.txt]
"""


def run(project: Path) -> tuple[State[Any], dict[str, tuple[str, str]]]:
    state: State[Any] = compress(project, return_state=True)
    rows = state.result(raise_on_failure=False)
    return state, {row["stage"]: (row["state"], row["message"]) for row in rows}


def words(rows: dict[str, tuple[str, str]]) -> dict[str, str]:
    return {stage: word for stage, (word, _) in rows.items()}


@pytest.fixture
def asked(monkeypatch):
    """Return the stages that dvc was started for."""
    found: list[str] = []
    repro = Runner.repro

    def noted(self: Runner, stage: str, *arguments: Any, **options: Any) -> Any:
        found.append(stage)
        return repro(self, stage, *arguments, **options)

    monkeypatch.setattr(Runner, "repro", noted)
    return found


def test_stages_run_once_and_dvc_starts_only_for_possible_changes(project, asked):
    state, rows = run(project)
    assert state.is_completed()
    assert words(rows) == dict.fromkeys(STAGES, "Completed")
    assert (project / "last.txt").read_text() == "1\n1\n"
    assert sorted(asked) == sorted(STAGES)
    with get_client(sync_client=True) as client:
        ours = FlowRunFilterId(any_=[state.state_details.flow_run_id])
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=ours))
    assert sorted(task.name for task in tasks) == sorted(STAGES)
    table = json.loads(str(artifacts_of(state)["stages"].data))
    assert [row["stage"] for row in table] == STAGES

    asked.clear()
    state, rows = run(project)
    assert state.is_completed()
    assert words(rows) == dict.fromkeys(STAGES, "Cached")
    assert all(message.startswith("unchanged") for _, message in rows.values())
    assert asked == []

    set_temperature(project, 2.0)
    (project / "last.txt").unlink()
    _, rows = run(project)
    assert asked == ["left", "last"]
    # left.txt is unchanged, so DVC only restores its downstream stages.
    assert words(rows) == dict.fromkeys(STAGES, "Cached") | {"left": "Completed"}


def test_dvc_checks_the_readers_of_stages_that_always_run(finished, asked):
    change_stage(finished, "outs: [first.txt]\n", "outs: [first.txt]\n    always_changed: true\n")
    _, rows = run(finished)
    assert asked[0] == "first"
    assert sorted(asked) == ["first", "left", "right"]
    assert words(rows) == dict.fromkeys(STAGES, "Cached") | {"first": "Completed"}


def test_parallel_trainings_have_a_gpu_each_and_measurements_run_alone(project, monkeypatch):
    monkeypatch.setenv("ACKD_GPUS", "3, 5")
    (project / "dvc.yaml").write_text(BUSY)
    state, rows = run(project)
    assert state.is_completed(), rows
    seen = {(project / f"{stage}.txt").read_text().strip() for stage in ("left", "right")}
    assert seen == {"3", "5"}
    beside = [(project / f"measured_{stage}.txt").read_text() for stage in ("left", "right")]
    assert beside == ["3,5\n", "3,5\n"]


def test_unreachable_remotes_and_busy_files_are_retried(project):
    (project / "dvc.yaml").write_text(FLAKY)
    other = subprocess.Popen(["sleep", "3"])
    held = {str(project / "out.txt"): {"pid": other.pid, "cmd": "another dvc"}}
    (project / ".dvc/tmp").mkdir(exist_ok=True)
    (project / ".dvc/tmp/rwlock").write_text(json.dumps({"write": held, "read": {}}))
    # dvc checks whether the holder lives, and a zombie counts as alive.
    waiter = threading.Thread(target=other.wait)
    waiter.start()
    state, rows = run(project)
    assert not waiter.is_alive()
    assert state.is_completed(), rows
    assert words(rows) == {"fetch": "Completed"}
    assert (project / "tries.txt").read_text() == "once\n"
    assert (project / "out.txt").read_text() == "1\n"


def test_a_run_without_a_worker_can_be_cancelled(finished):
    change_stage(finished, "cp first.txt left.txt", "touch started && sleep 120")

    def cancel() -> None:
        wait_for(finished / "started")
        with get_client(sync_client=True) as client:
            runs = client.read_flow_runs()
            (own,) = (run for run in runs if str(run.parameters.get("root")) == str(finished))
            client.set_flow_run_state(own.id, Cancelling())

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=[cancel])
    thread.start()
    state, rows = run(finished)
    thread.join()
    assert state.is_cancelled()
    assert words(rows)["left"] == "Failed"
    assert words(rows)["last"] == "Not run"
    assert json.loads((finished / ".dvc/tmp/rwlock").read_text()) == {}


def test_invalid_projects_fail_before_anything_runs(project):
    change_stage(project, "outs: [last.txt]", "outs: [last.txt]\n    meta: {prefect: {gpus: 2}}")
    state, rows = run(project)
    assert state.is_failed()
    assert state.message == "dvc.yaml: meta.prefect of stage last: expected gpu or alone"
    assert rows == {}
    assert not (project / "first.txt").exists()
