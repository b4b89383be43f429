"""Failing stages print one sentence for a mistake, and a traceback for a defect."""

import errno
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from models.errors import InputError
from stages.entry import run_stage
from stages.params import Params
from tests.processes import assert_gone, linux
from tests.stages.conftest import exit_of
from tests.test_dvc_yaml import STAGES

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def project(here):
    (here / "params.yaml").write_text("{}\n")
    return here


def raising(error: BaseException):
    def stage(params: Params) -> None:
        raise error

    return stage


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("a.txt: no such file"), "error: a.txt: no such file"),  # to stderr, status 1
        (OSError(errno.ENOSPC, "No space", "a/x"), "error: no space left on the disk .* a/x"),
    ],
)
def test_a_users_mistake_is_one_sentence(error, code):
    with pytest.raises(SystemExit, match=code):
        run_stage(raising(error))


def test_other_errors_keep_their_traceback():
    with pytest.raises(PermissionError):
        run_stage(raising(PermissionError(errno.EACCES, "denied")))


def test_an_interruption_has_the_status_of_sigint():
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as caught:
            run_stage(raising(KeyboardInterrupt()))
        assert caught.value.code == 130
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN, "it ends in peace"
    finally:
        signal.signal(signal.SIGINT, before)


STAGE = """
import os, pathlib, time
from stages.entry import run_stage
def main(params):
    pathlib.Path('pid').write_text(str(os.getpid()))
    print('caf\xe9', flush=True)
    time.sleep(120)
run_stage(main)
"""


@linux
def test_a_stage_finds_its_python_and_ends_with_dvc(project, monkeypatch):
    programs = project / "bin"
    programs.mkdir()
    for name in ("git", "sh", "tr", "head"):
        (programs / name).symlink_to(str(shutil.which(name)))
    (programs / "python").write_text("#!/bin/sh\nexit 1\n")  # another project's
    (programs / "python").chmod(0o755)
    (project / "own.py").write_text(STAGE)
    command = f"exec sh {ROOT}/stages/python.sh own.py"
    (project / "dvc.yaml").write_text(f"stages: {{own: {{cmd: '{command}'}}}}\n")
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    monkeypatch.delenv("SHELL", raising=False)
    (project / ".dvc").mkdir()
    (project / ".dvc/config").write_text("[core]\n    no_scm = True\n")  # as after `dvc init`
    dvc = subprocess.Popen([sys.executable, "-m", "dvc", "repro"], stdout=subprocess.PIPE)
    assert any(line == b"caf\\xe9\n" for line in iter(dvc.stdout.readline, b""))
    stage = int((project / "pid").read_text())
    assert Path(f"/proc/{stage}").exists()
    dvc.kill()
    dvc.wait()
    dvc.stdout.close()
    assert_gone(stage)  # or dvc would start a second training


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_checks_all_parameters_first(stage, project):
    (project / "params.yaml").write_text("gate:\n  min_acuracy: 0.9\n")
    assert exit_of(stage) == (
        "error: params.yaml: gate.min_acuracy is not a parameter; did you mean 'min_accuracy'?"
    )
    assert sorted(path.name for path in project.iterdir()) == ["params.yaml"]
