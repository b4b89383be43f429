"""The diagnosis of server, worker, remote, clock and locks, each real, and quick without any."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate

from pipeline.dvc_config import Remote
from pipeline.upkeep import services
from pipeline.upkeep.finding import Finding


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".dvc/tmp").mkdir(parents=True)


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "_settings", lambda: None)


def found(what: str) -> Finding:
    (finding,) = (finding for finding in services.findings(Path()) if finding.what == what)
    return finding


@pytest.mark.usefixtures("prefect_server")
def test_a_real_server_tells_its_version_its_workers_and_its_time() -> None:
    from prefect import __version__

    Path("prefect.yaml").write_text(
        "deployments:\n- work_pool: {name: local}\n- work_pool: {name: none such}\n"
    )
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="local", type="process"), overwrite=True)
        before = found("worker of local")
        beat = {"name": "desk", "heartbeat_interval_seconds": 30}
        client._client.post("/work_pools/local/workers/heartbeat", json=beat)
    assert not before.usable
    assert "`ackd worker`" in before.missing
    all_of_them = {finding.what: finding for finding in services.findings(Path())}
    assert all_of_them["Prefect server"].found.startswith(f"{__version__} at http://")
    assert (all_of_them["worker of local"].usable, all_of_them["worker of local"].found) == (
        True,
        "desk",
    )
    assert all_of_them["worker of none such"].found == "the server has no such pool"
    assert all_of_them["clock, and the server's"].usable


def test_a_server_that_is_not_there_and_one_that_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        server = services._Server(f"http://127.0.0.1:{port}/api", None)
        monkeypatch.setattr(services, "_settings", lambda: server)
        start = time.monotonic()
        finding = found("Prefect server")
        assert time.monotonic() - start < 3
        assert not finding.usable
        assert "timed out" in finding.found or "no answer" in finding.found
    finding = found("Prefect server")
    assert "does not answer as one: Connection refused" in finding.found
    assert "start it, or correct PREFECT_API_URL" in finding.missing


@pytest.mark.usefixtures("no_server")
def test_without_anything_it_says_what_that_means() -> None:
    assert "each `ackd run` starts a server for itself" in found("Prefect server").missing
    assert "`dvc remote add" in found("DVC remote").missing
    assert found("DVC's locks").found == "free"
    assert found("clock, and the file system's").usable


@pytest.mark.usefixtures("no_server")
def test_remotes_that_are_there_and_that_are_not(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        Path(".dvc/config").write_text(
            "['remote \"folder\"']\n    url = ../store\n"
            "['remote \"gone\"']\n    url = /no/such/place\n"
            f"['remote \"bucket\"']\n    url = s3://b/x\n    endpointurl = http://127.0.0.1:{port}\n"
        )
        assert found("DVC remote folder").usable
        assert found("DVC remote gone").found == "/no/such/place: no such folder"
        assert (
            f"127.0.0.1:{port} answers; whether it lets you in" in found("DVC remote bucket").found
        )
    refused = services._remote(Remote("board", f"ssh://me@127.0.0.1:{port}/x"), tmp_path)
    assert not refused.usable
    assert f"127.0.0.1:{port} does not answer: Connection refused" in refused.found
    Path(".dvc/config").write_text("nonsense")
    assert "not readable" in found("DVC remote").found


@pytest.mark.usefixtures("no_server")
def test_locks_of_the_living_and_of_the_dead() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    lock = Path(".dvc/tmp/rwlock")

    def held_by(pid: int) -> Finding:
        holder = {"pid": pid, "cmd": "dvc repro"}
        lock.write_text(json.dumps({"write": {"a": holder}, "read": {"b": [holder]}}))
        return found("DVC's locks")

    alive = held_by(os.getpid())
    assert (alive.usable, alive.found) == (
        True,
        f"process {os.getpid()} (dvc repro) is at work on some files",
    )
    dead = held_by(gone.pid)
    assert not dead.usable
    assert "which is gone" in dead.found
    assert "`rm .dvc/tmp/rwlock`" in dead.missing
    lock.write_text('{"write": ')
    assert found("DVC's locks").found == ".dvc/tmp/rwlock is damaged"


HOLD = """\
import sys, zc.lockfile
lock = zc.lockfile.LockFile(sys.argv[1])
print("held", flush=True)
input()
"""


@pytest.mark.usefixtures("no_server")
def test_the_repositorys_lock_held_and_left_behind() -> None:
    path = Path(".dvc/tmp/lock")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=-1, stdout=-1, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert f"held by process {holder.pid}" in found("DVC's lock").found
        holder.kill()
    assert found("DVC's locks").found == "free"
    # Left by a hard link, which no kernel takes away.
    path.write_text(f"/x/lock|{socket.gethostname()}|{holder.pid}|123")
    left = found("DVC's lock")
    assert not left.usable
    assert left.missing == "every DVC command waits: `rm .dvc/tmp/lock`"


@pytest.mark.usefixtures("no_server")
def test_a_clock_that_was_set_back() -> None:
    Path("dvc.lock").touch()
    later = time.time() + 3600
    os.utime("dvc.lock", (later, later))
    finding = found("clock")
    assert not finding.usable
    assert finding.found.startswith("dvc.lock is 3")
    behind = services._skew("clock", -60.0, "schedules are late")
    assert (behind.usable, behind.found) == (False, "this one is 60 s behind")
