"""The diagnosis of server, workers and remotes, each real."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings import PREFECT_API_URL, temporary_settings

from pipeline.upkeep.doctor import Finding, services
from tests.once import repository
from tests.warm_python import warm_dvc


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(".dvc/tmp").mkdir(parents=True)


def found(what: str) -> Finding:
    (finding,) = (finding for finding in services(Path()) if finding.what == what)
    return finding


@pytest.mark.usefixtures("prefect_server")
def test_a_real_server_and_its_workers():
    from prefect import __version__

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="local", type="process"), overwrite=True)
        idle = found("worker of local")
        assert (idle.usable, idle.found) == (False, "none is online")
        assert "`ackd worker`" in idle.missing
        beat = {"name": "desk", "heartbeat_interval_seconds": 30}
        client._client.post("/work_pools/local/workers/heartbeat", json=beat)
    assert found("Prefect server").found.startswith(f"{__version__} at http://")
    online = found("worker of local")
    assert (online.usable, online.found) == (True, "desk")


def test_a_server_that_is_not_there_and_one_that_is_silent():
    def finding(url: str | None) -> Finding:
        with temporary_settings({PREFECT_API_URL: url}):
            return found("Prefect server")

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        start = time.monotonic()
        assert not finding(url).usable
        assert time.monotonic() - start < 10
    assert finding(url).found.startswith(f"no Prefect server answers at {url}")
    assert "each `ackd run` starts a server for itself" in finding(None).missing


def test_remotes_that_are_there_and_that_are_not(tmp_path):
    assert "`dvc remote add" in found("DVC remote").missing
    repository(tmp_path)
    (tmp_path / "store").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    Path(".dvc/config").write_text(
        "['remote \"folder\"']\n    url = ../store\n"
        "['remote \"gone\"']\n    url = /no/such/place\n"
        f"['remote \"board\"']\n    url = ssh://me:word@127.0.0.1:{port}/x\n"
    )
    (tmp_path / "dvc.yaml").write_text("stages:\n  a:\n    cmd: echo 1 > a\n    outs: [a]\n")
    subprocess.run(warm_dvc("repro", "--quiet"), check=True)
    all_of_them = {finding.what: finding for finding in services(Path())}
    assert all_of_them["DVC remote folder"].usable
    gone, board = all_of_them["DVC remote gone"], all_of_them["DVC remote board"]
    assert gone.found == "/no/such/place, which is not there or not yours to write"
    assert board.found.startswith("dvc status: ")
    assert not board.usable
    assert "word" not in board.found
    assert "then `dvc push -r board`" in board.missing
    Path(".dvc/config").write_text("nonsense")
    assert "correct DVC's configuration" in found("DVC remote").found
