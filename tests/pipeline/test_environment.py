"""The environment of processes on unusual machines."""

import getpass
import os
import pwd
import sys
import urllib.request
from pathlib import Path

import pytest

from pipeline.environment import choose_prefect_home, prepare


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in ("no_proxy", "NO_PROXY", "PREFECT_HOME"):
        os.environ.pop(name, None)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "intern.example, localhost"}, "intern.example,localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "a", "no_proxy": "b"}, "b,127.0.0.1,localhost,::1"),
    ],
)
def test_loopback_bypasses_proxies(before, after):
    os.environ.update(before, http_proxy="http://127.0.0.1:9")
    prepare()
    prepare()
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == after
    assert urllib.request.proxy_bypass_environment("127.0.0.1:4200")
    assert not urllib.request.proxy_bypass_environment("huggingface.co")


def test_this_python_comes_first_and_existing_variables_stay():
    os.environ.update(PATH="/usr/bin", PREFECT_SERVER_ANALYTICS_ENABLED="true")
    os.environ.pop("DO_NOT_TRACK", None)
    prepare()
    prepare()
    assert os.environ["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "true"
    assert os.environ["DO_NOT_TRACK"] == "1"


def test_a_user_unknown_to_the_system_gets_a_home_and_a_name(monkeypatch):
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        os.environ.pop(name, None)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    prepare()
    assert os.environ["HOME"] == "/"
    assert getpass.getuser() == str(os.getuid())


def test_prefects_home_is_where_it_can_be_written(tmp_path, capsys):
    os.environ["HOME"] = str(tmp_path / "home")
    choose_prefect_home()
    assert capsys.readouterr().out == ""
    assert "PREFECT_HOME" not in os.environ
    (tmp_path / "file").touch()
    os.environ["PREFECT_HOME"] = str(tmp_path / "file/prefect")
    choose_prefect_home()
    assert os.environ["PREFECT_HOME"] == str(tmp_path / ".dvc/tmp/prefect")
    assert capsys.readouterr().out == (
        f"{tmp_path}/file/prefect is not writable: Prefect's database is in .dvc/tmp/prefect\n"
    )
