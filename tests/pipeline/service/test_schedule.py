"""Schedules before any server is asked, and the deployments of prefect.yaml."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from typer.testing import CliRunner

from models.errors import InputError
from pipeline import cli
from pipeline.service.local import whereabouts
from pipeline.service.schedule import NAMES, parse_cron, read_pool
from stages.params import read_yaml
from tests.pipeline.conftest import ROOT


def test_a_schedule_has_five_fields_and_a_zone() -> None:
    schedule = parse_cron("0 2 * * 1-5", "Europe/Berlin")
    assert (schedule.cron, schedule.timezone) == ("0 2 * * 1-5", "Europe/Berlin")
    assert parse_cron("0 2 * * *", None).timezone


@pytest.mark.parametrize("cron", ["2", "0 25 * * *", "@daily", "* * * * * *", "0 2 * *", ""])
def test_a_wrong_expression_is_refused_before_a_server_is_asked(cron: str) -> None:
    with pytest.raises(InputError, match='is no cron expression; expected .* "0 2 \\* \\* \\*"'):
        parse_cron(cron, "UTC")


def test_a_wrong_zone_is_refused() -> None:
    for zone in ("Berlin", "../UTC", "Europe"):
        with pytest.raises(InputError, match="--timezone: .* is no time zone; expected a name"):
            parse_cron("0 2 * * *", zone)


def test_the_deployments_say_what_a_night_needs() -> None:
    entries = read_yaml(ROOT / "prefect.yaml")["deployments"]
    assert [entry["name"] for entry in entries] == list(NAMES)
    for entry in entries:
        assert entry["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
        (schedule,) = entry["schedules"]
        assert schedule["slug"] == entry["name"]
        assert isinstance(schedule["active"], bool)
        parse_cron(schedule["cron"], schedule["timezone"])
        assert entry["entrypoint"] == "pipeline.flow.compress"
    # Only what is thrown away must be published.
    assert [entry["parameters"] for entry in entries] == [{"keep": False}, {"keep": True}]
    steps = [list(step) for step in entries[1]["pull"]]
    assert steps[0] == ["prefect.deployments.steps.git_clone"]


@pytest.fixture
def planned(project: Path) -> Path:
    shutil.copy(ROOT / "prefect.yaml", project)
    return project


@pytest.mark.parametrize("command", [["worker"], ["schedule"], ["schedule", "0 2 * * *"]])
def test_without_a_server_it_says_how_to_start_one(planned: Path, command: list[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/api"
    with temporary_settings({PREFECT_API_URL: url}):
        done = CliRunner().invoke(cli.app, command)
    assert done.exit_code == 1
    assert f"error: no Prefect server answers at {url}" in done.output
    assert "start one with `ackd server`" in done.output
    assert "Traceback" not in done.output


def test_one_thing_at_a_time(planned: Path) -> None:
    for arguments in (["0 2 * * *", "--pause"], ["--pause", "--remove"], ["--timezone", "UTC"]):
        done = CliRunner().invoke(cli.app, ["schedule", *arguments])
        assert done.exit_code == 1
        assert "error: give a cron expression (and its --timezone), or one of" in done.output


def test_a_project_without_deployments_is_one_sentence(planned: Path) -> None:
    (planned / "prefect.yaml").write_text("deployments:\n- {name: nightly}\n")
    with pytest.raises(InputError, match="deployment nightly has no description and no entrypoint"):
        read_pool()
    (planned / "prefect.yaml").write_text("deployments: []\n")
    with pytest.raises(InputError, match="has no deployment nightly"):
        read_pool()
    (planned / "prefect.yaml").unlink()
    with pytest.raises(InputError, match="prefect.yaml: not found here"):
        read_pool()


def test_a_port_that_another_program_has_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = CliRunner().invoke(cli.app, ["server", "--port", str(port)])
    assert done.exit_code == 1
    assert f"port {port} of 127.0.0.1 cannot be had (address already in use); name" in done.output


def test_a_worker_knows_its_project(planned: Path) -> None:
    found = whereabouts(planned)
    assert found["ACKD_PROJECT"] == found["ACKD_REPOSITORY"] == str(planned.resolve())
    assert found["ACKD_DVC_CACHE"] == str(planned.resolve() / ".dvc/cache")
    assert found["ACKD_BRANCH"] in ("main", "master")
    (planned / ".git/config").write_text('[remote "origin"]\n\turl = git@host:team/students\n')
    assert whereabouts(planned)["ACKD_REPOSITORY"] == "git@host:team/students"
