"""Every line of a run tells time, level, run, stage and experiment, as text and as JSON."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.logging.handlers import PrefectConsoleHandler

from pipeline.flow import compress
from pipeline.logs import stop_log
from tests.pipeline.conftest import change_stage


@pytest.fixture(autouse=True)
def _log_closed():
    yield
    stop_log()


@pytest.mark.usefixtures("prefect_server")
def test_a_run_writes_lines_that_tell_run_stage_and_experiment(project, monkeypatch):
    monkeypatch.setenv("ACKD_LOG", "logs/run.jsonl")
    monkeypatch.setenv("DVC_EXP_NAME", "sweep.kd.seed1")
    change_stage(project, "cp first.txt right.txt", '"exit 3"')
    start = datetime.now(UTC)
    state = compress(project, return_state=True)
    assert state.is_failed()
    lines = [json.loads(line) for line in Path("logs/run.jsonl").read_text().splitlines()]
    assert {tuple(line) for line in lines} == {
        ("time", "level", "run", "stage", "experiment", "message")
    }
    assert len({line["run"] for line in lines}) == 1
    assert {line["experiment"] for line in lines} == {"sweep.kd.seed1"}
    said = {(line["stage"], line["level"], line["message"]) for line in lines}
    assert ("first", "INFO", "hello from first") in said
    assert any(stage == "right" and level == "ERROR" for stage, level, _ in said)
    assert {None, "first", "left", "right"} <= {line["stage"] for line in lines}
    times = [datetime.fromisoformat(line["time"]) for line in lines]
    assert start - timedelta(seconds=1) < min(times) <= max(times) < datetime.now(UTC)
    (console,) = (h for h in logging.getLogger().handlers if isinstance(h, PrefectConsoleHandler))
    record = logging.makeLogRecord({"levelname": "INFO", "msg": "hello", "task_name": "first"})
    assert f" | INFO    | {lines[0]['run']} | sweep.kd.seed1 | first | hello" in console.format(
        record
    )


@pytest.mark.usefixtures("prefect_server")
def test_a_log_that_cannot_be_written_is_one_sentence(project, monkeypatch):
    (project / "taken").touch()
    monkeypatch.setenv("ACKD_LOG", "taken/run.jsonl")
    state = compress(project, return_state=True)
    assert state.is_failed()
    assert str(state.message).startswith("ACKD_LOG is 'taken/run.jsonl', which cannot be written")
    assert not (project / "first.txt").exists()
