"""Interrupt, terminate and kill real processes: none may be left."""

import contextlib
import os
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from pipeline.guard import run_guarded, stop
from stages.files import read_json
from tests.pipeline.conftest import change_stage, needs_proc, prefect_home, spawn
from tests.waiting import wait_for, wait_until

pytestmark = needs_proc

MARK = "ACKD_TEST_MARK"
OUTPUT = "output.log"
GUARDED = "import os; from pipeline.guard import run_guarded as r; exit(r({!r}, env=os.environ))"


def left(mark: str) -> list[str]:
    """Return the command lines of all processes, except zombies, that inherited the mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def none_left(mark: str, within_s: float) -> bool:
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not left(mark), "the end of all processes", within_s)
    return not left(mark)


def start(command: list[str], project: Path, **env: str) -> tuple[subprocess.Popen[bytes], str]:
    mark = uuid.uuid4().hex
    process = spawn(command, project, project / OUTPUT, **{MARK: mark}, **env)
    wait_for(project / "started")
    return process, mark


@pytest.fixture
def long_project(project):
    """A project whose first stage is a shell that waits for a sleeping Python."""
    change_stage(
        project,
        "echo hello from first && cp source.txt first.txt",
        "touch started; python -c 'import time; time.sleep(120)'; touch first.txt",
    )
    return project


def test_an_interrupt_stops_the_run_and_its_children(long_project, prefect_server):
    process, mark = start(["-m", "pipeline.cli", "run"], long_project)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 128 + signal.SIGINT
    assert time.monotonic() - began < 20
    assert none_left(mark, within_s=5), left(mark)
    assert read_json(long_project / ".dvc/tmp/rwlock") == {}
    output = (long_project / OUTPUT).read_text()
    assert "interrupted: all stages are stopped" in output
    assert "prefect/" not in output, "a traceback"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stop_signals_are_passed_on_as_an_interrupt(tmp_path, number):
    shell = "trap 'echo interrupted; exit' INT; touch started; sleep 60 & wait"
    (tmp_path / "waits.py").write_text(f"import os\nos.execlp('sh', 'sh', '-c', {shell!r})\n")
    process, mark = start(["-c", GUARDED.format("waits")], tmp_path)
    process.send_signal(number)
    assert process.wait(timeout=20) == 128 + number
    assert (tmp_path / OUTPUT).read_text() == "interrupted\n"
    assert none_left(mark, within_s=5), left(mark)


def test_under_nohup_a_closed_terminal_stops_nothing(tmp_path):
    (tmp_path / "waits.py").write_text("import time; open('started', 'w'); time.sleep(60)\n")
    nohup = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    process, mark = start(["-c", nohup + GUARDED.format("waits")], tmp_path)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 128 + signal.SIGTERM
    assert none_left(mark, within_s=5), left(mark)


def test_a_killed_run_leaves_neither_stages_nor_a_server(long_project, tmp_path_factory):
    home = prefect_home(tmp_path_factory.mktemp("prefect") / "home")
    code = GUARDED.format("pipeline.flow")
    process, mark = start(["-c", code], long_project, PREFECT_HOME=str(home))
    assert any("uvicorn" in command for command in left(mark))
    assert any("time.sleep(120)" in command for command in left(mark))
    process.kill()
    process.wait()
    assert none_left(mark, within_s=30), left(mark)
    assert read_json(long_project / ".dvc/tmp/rwlock") == {}


def test_processes_that_ignore_signals_are_killed(tmp_path):
    stubborn = subprocess.Popen(
        ["sh", "-c", "trap '' INT TERM; touch started; while :; do sleep 0.1; done"],
        cwd=tmp_path,
        start_new_session=True,
    )
    wait_for(tmp_path / "started")
    began = time.monotonic()
    stop([-stubborn.pid], grace_s=0.3)
    assert stubborn.wait(timeout=5) == -signal.SIGKILL
    assert time.monotonic() - began >= 0.6
    stop([-stubborn.pid])  # gone


def test_exit_statuses_are_passed_on_and_leftovers_stopped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fails.py").write_text(
        "import subprocess, sys\nsubprocess.Popen(['sleep', '120'])\nsys.exit(int(sys.argv[1]))\n"
    )
    (tmp_path / "dies.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    mark = uuid.uuid4().hex
    assert run_guarded("fails", "3", env={**os.environ, MARK: mark}) == 3
    assert none_left(mark, within_s=5), left(mark)
    assert run_guarded("dies", env=os.environ) == 128 + signal.SIGKILL
