"""Schedules without a server."""

import shutil

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from models.errors import InputError
from pipeline.service.schedule import parse_cron, worker_variables
from tests.pipeline.conftest import ROOT, invoke
from tests.sshd import free_port


@pytest.mark.parametrize(
    ("cron", "zone", "sentence"),
    [
        *((cron, "UTC", "is no cron expression;") for cron in ("2", "0 25 * * *", "0 0 2 * * *")),
        *(("0 2 * * *", zone, "is no time zone; expected a name") for zone in ("Berlin", "../UTC")),
    ],
)
def test_a_wrong_schedule_is_refused(cron, zone, sentence):
    with pytest.raises(InputError, match=sentence):
        parse_cron(cron, zone)


@pytest.fixture
def planned(project):
    shutil.copy(ROOT / "prefect.yaml", project)
    return project


@pytest.mark.parametrize("command", [["worker"], ["schedule"], ["schedule", "0 2 * * *"]])
def test_a_missing_server_is_reported_with_a_remedy(planned, command):
    url = f"http://127.0.0.1:{free_port()}/api"
    with temporary_settings({PREFECT_API_URL: url}):
        code, _, error = invoke(*command)
    assert code == 1
    assert error.startswith(f"error: no Prefect server answers at {url}")
    assert "start one with `ackd server`" in error


def test_conflicting_options_are_refused(planned):
    for arguments in (["0 2 * * *", "--remove"], ["--timezone", "UTC"]):
        code, _, error = invoke("schedule", *arguments)
        assert code == 1
        assert error.startswith("error: give a cron expression (and its --timezone), or --remove")


def test_a_worker_knows_its_project(planned, monkeypatch):
    for name in ("ACKD_CHECKPOINTS", "ACKD_PROJECT"):
        monkeypatch.setenv(name, "")  # counts as unset
    monkeypatch.setenv("ACKD_LOGITS", "logits")
    found = worker_variables()
    assert found["ACKD_PROJECT"] == found["ACKD_REPOSITORY"] == str(planned.resolve())
    assert found["ACKD_DVC_CACHE"] == str(planned.resolve() / ".dvc/cache")
    assert found["ACKD_CHECKPOINTS"] == str(planned.resolve() / ".checkpoints")
    assert found["ACKD_LOGITS"] == str(planned.resolve() / "logits"), "not in a clone"
    monkeypatch.setenv("ACKD_BRANCH", "release")
    assert worker_variables()["ACKD_BRANCH"] == "release"
    monkeypatch.delenv("ACKD_BRANCH")
    assert found["ACKD_BRANCH"] in ("main", "master")
    (planned / ".git/config").write_text('[remote "origin"]\n\turl = git@host:team/students\n')
    assert worker_variables()["ACKD_REPOSITORY"] == "git@host:team/students"
