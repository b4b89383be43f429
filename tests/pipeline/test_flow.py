"""The flow on a real Prefect server, with real DVC processes below it."""

from __future__ import annotations

import contextvars
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelling

from pipeline.dvc_runner import Runner
from pipeline.flow import compress
from tests.pipeline.conftest import change_stage, wait_for

pytestmark = [
    pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning"),
    pytest.mark.usefixtures("prefect_server"),
]


def run(project: Path) -> tuple[State[Any], dict[str, tuple[str, str]]]:
    state: State[Any] = compress(project, return_state=True)
    rows = state.result(raise_on_failure=False)
    return state, {row["stage"]: (row["state"], row["message"]) for row in rows}


def words(rows: dict[str, tuple[str, str]]) -> dict[str, str]:
    return {stage: word for stage, (word, _) in rows.items()}


def test_stages_run_once_and_then_show_as_cached(project: Path) -> None:
    state, rows = run(project)
    assert state.is_completed()
    assert words(rows) == dict.fromkeys(["first", "left", "right", "last"], "Completed")
    assert (project / "last.txt").read_text() == "1\n1\n"

    state, rows = run(project)
    assert state.is_completed()
    assert words(rows) == dict.fromkeys(["first", "left", "right", "last"], "Cached")
    assert all(message.startswith("unchanged") for _, message in rows.values())

    params = project / "params.yaml"
    params.write_text(params.read_text().replace("temperature: 4.0", "temperature: 2.0"))
    _, rows = run(project)
    assert words(rows) == {
        "first": "Cached",
        "left": "Completed",
        "right": "Cached",
        # The same left.txt came out, so DVC has nothing to do below it.
        "last": "Cached",
    }
    (project / "last.txt").unlink()
    (project / "dvc.lock").unlink()
    _, rows = run(project)
    assert rows["last"][0] == "Cached"
    assert rows["last"][1].startswith("restored from the run cache")


def test_only_what_may_have_changed_is_asked_of_dvc(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    repro = Runner.repro

    def noted(self: Runner, stage: str, *arguments: Any, **options: Any) -> Any:
        asked.append(stage)
        return repro(self, stage, *arguments, **options)

    monkeypatch.setattr(Runner, "repro", noted)
    run(project)
    assert sorted(asked) == ["first", "last", "left", "right"]
    asked.clear()
    run(project)
    assert asked == []

    params = project / "params.yaml"
    params.write_text(params.read_text().replace("temperature: 4.0", "temperature: 2.0"))
    _, rows = run(project)
    # The last one only seems up to date: what is above it runs.
    assert asked == ["left", "last"]
    assert words(rows)["last"] == "Cached"

    # What always runs puts in doubt what reads of it.
    asked.clear()
    change_stage(
        project, "    outs: [first.txt]\n", "    outs: [first.txt]\n    always_changed: true\n"
    )
    run(project)
    asked.clear()
    _, rows = run(project)
    assert asked[0] == "first"
    assert sorted(asked) == ["first", "left", "right"]
    assert words(rows) == {
        "first": "Completed",
        "left": "Cached",
        "right": "Cached",
        "last": "Cached",
    }


def test_tasks_are_named_after_their_stages(project: Path) -> None:
    state, _ = run(project)
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs()
        ours = [r for r in runs if r.flow_run_id == state.state_details.flow_run_id]
        assert sorted(r.name for r in ours) == ["first", "last", "left", "right"]
        artifacts = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["stages"]))
        )
    tables = [a for a in artifacts if a.flow_run_id == state.state_details.flow_run_id]
    assert len(tables) == 1
    table = json.loads(str(tables[0].data))
    assert [row["stage"] for row in table] == ["first", "left", "right", "last"]


def test_twelve_independent_stages_at_once_all_succeed(project: Path) -> None:
    names = [f"quick_{number}" for number in range(12)]
    stages = [
        f"  {name}:\n    cmd: echo {name} > {name}.txt\n    outs: [{name}.txt]\n" for name in names
    ]
    (project / "dvc.yaml").write_text("stages:\n" + "".join(stages))
    state, rows = run(project)
    assert state.is_completed(), rows
    assert words(rows) == dict.fromkeys(names, "Completed")
    assert all((project / f"{name}.txt").read_text() == f"{name}\n" for name in names)
    lock = (project / "dvc.lock").read_text()
    assert all(f"  {name}:\n" in lock for name in names)
    listed = subprocess.run(
        [sys.executable, "-m", "dvc", "stage", "list", "--name-only"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    with get_client(sync_client=True) as client:
        ours = [
            task.name
            for task in client.read_task_runs()
            if task.flow_run_id == state.state_details.flow_run_id
        ]
    assert sorted(ours) == sorted(listed)


def test_a_remote_that_does_not_answer_is_tried_again(project: Path) -> None:
    change_stage(
        project,
        "cmd: cp first.txt left.txt",
        'cmd: "if test -e tries.txt; then cp first.txt left.txt; else echo once > tries.txt;'
        " echo 'error: Connection refused' >&2; exit 1; fi\"",
    )
    state, rows = run(project)
    assert state.is_completed(), rows
    assert words(rows)["left"] == "Completed"
    assert (project / "tries.txt").read_text() == "once\n"


def test_cancelled_without_a_worker_it_stops_too(project: Path) -> None:
    change_stage(project, "cp first.txt left.txt", "touch started && sleep 120")
    before = {run.id for run in _runs()}

    def cancel() -> None:
        wait_for(project / "started")
        (own,) = (run for run in _runs() if run.id not in before)
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(own.id, Cancelling())

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=[cancel])
    thread.start()
    state, rows = run(project)
    thread.join()
    assert state.is_cancelled()
    assert words(rows)["left"] == "Failed"
    assert words(rows)["last"] == "Not run"
    assert json.loads((project / ".dvc/tmp/rwlock").read_text()) == {}


def _runs() -> list[FlowRun]:
    with get_client(sync_client=True) as client:
        return client.read_flow_runs()


def test_a_failing_stage_fails_the_flow_and_names_what_did_not_run(project: Path) -> None:
    change_stage(project, "cmd: cp first.txt left.txt", "cmd: 'echo \"error: no ink\" >&2; exit 3'")
    state, rows = run(project)
    assert state.is_failed()
    assert state.message == "left failed: no ink; not run: last"
    assert words(rows) == {
        "first": "Completed",
        "left": "Failed",
        "right": "Completed",
        "last": "Not run",
    }


def test_independent_stages_run_at_the_same_time(project: Path) -> None:
    # Each waits for the other: one after the other they would both fail.
    for mine, other in (("left", "right"), ("right", "left")):
        change_stage(
            project,
            f"cp first.txt {mine}.txt",
            f"touch {mine}.on && timeout 20 sh -c 'until test -e {other}.on; do sleep 0.1; done'"
            f" && cp first.txt {mine}.txt",
        )
    state, _ = run(project)
    assert state.is_completed()


def test_a_stage_that_measures_has_the_machine_to_itself(project: Path) -> None:
    change_stage(
        project, "    outs: [left.txt]", "    outs: [left.txt]\n    meta: {prefect: {alone: true}}"
    )
    for stage in ("left", "right"):
        change_stage(
            project,
            f"cp first.txt {stage}.txt",
            f"echo {stage} >> times.txt && sleep 0.5 && echo {stage} >> times.txt"
            f" && cp first.txt {stage}.txt",
        )
    state, _ = run(project)
    assert state.is_completed()
    lines = (project / "times.txt").read_text().split()
    assert lines in (["left", "left", "right", "right"], ["right", "right", "left", "left"])


def test_gpus_are_handed_out_one_training_at_a_time(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACKD_GPUS", "3, 5")
    for stage in ("left", "right"):
        change_stage(
            project,
            f"    outs: [{stage}.txt]",
            f"    outs: [{stage}.txt]\n    meta: {{prefect: {{gpu: 1}}}}",
        )
        change_stage(
            project,
            f"cp first.txt {stage}.txt",
            f"echo $CUDA_VISIBLE_DEVICES > {stage}.txt && sleep 1.5",
        )
    state, _ = run(project)
    assert state.is_completed()
    seen = {(project / f"{stage}.txt").read_text().strip() for stage in ("left", "right")}
    assert seen == {"3", "5"}


def test_more_gpus_than_there_are_fail_before_anything_runs(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACKD_GPUS", "0")
    change_stage(
        project, "    outs: [last.txt]", "    outs: [last.txt]\n    meta: {prefect: {gpu: 2}}"
    )
    state, rows = run(project)
    assert state.is_failed()
    assert "stage last needs 2 GPUs and ACKD_GPUS lists 1" in str(state.message)
    assert rows == {}
    assert not (project / "first.txt").exists()


def test_wrong_params_fail_before_anything_runs(project: Path) -> None:
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("temperature:", "temprature:"))
    state, rows = run(project)
    assert state.is_failed()
    assert "did you mean 'temperature'?" in str(state.message)
    assert rows == {}
    assert not (project / "first.txt").exists()


def test_a_lock_of_another_dvc_process_is_waited_for(project: Path) -> None:
    other = subprocess.Popen(["sleep", "1.5"])
    held = {str(project / "first.txt"): {"pid": other.pid, "cmd": "another dvc"}}
    (project / ".dvc/tmp").mkdir(exist_ok=True)
    (project / ".dvc/tmp/rwlock").write_text(json.dumps({"write": held, "read": {}}))
    # dvc asks the system whether the holder lives, and one that nobody has waited for does.
    waiter = threading.Thread(target=other.wait)
    waiter.start()
    state, rows = run(project)
    assert not waiter.is_alive()
    assert state.is_completed(), rows
    assert (project / "last.txt").read_text() == "1\n1\n"
