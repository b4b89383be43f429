"""How a stage fails: one sentence for a mistake, a traceback for a defect."""

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from models.errors import InputError
from stages.entry import run_stage
from stages.params import Params


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("{}\n")
    return tmp_path


def raising(error: BaseException):
    def stage(params: Params) -> None:
        raise error

    return stage


def test_a_mistake_is_one_sentence() -> None:
    with pytest.raises(SystemExit) as caught:
        run_stage(raising(InputError("a.txt: no such file")))
    assert caught.value.code == "error: a.txt: no such file"  # printed to stderr, status 1


def test_a_full_disk_is_one_sentence() -> None:
    with pytest.raises(SystemExit) as caught:
        run_stage(raising(OSError(errno.ENOSPC, "No space left on device", "artifacts/x")))
    assert "no space left on the disk while writing artifacts/x" in str(caught.value.code)


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(PermissionError):
        run_stage(raising(PermissionError(errno.EACCES, "denied")))
    with pytest.raises(ZeroDivisionError):
        run_stage(raising(ZeroDivisionError()))


def test_an_interruption_has_the_status_of_sigint() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as caught:
            run_stage(raising(KeyboardInterrupt()))
        assert caught.value.code == 130
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN, "it ends in peace"
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "stage",
    [
        "prepare_data",
        "train_teacher",
        "train_proxy",
        "distill",
        "prune",
        "export_litert",
        "export_onnx",
        "identify_device",
        "validate",
        "profile_latency",
        "analyze",
        "report",
        "gate",
        "package",
    ],
)
def test_every_stage_checks_all_parameters_first(stage: str, project: Path) -> None:
    (project / "params.yaml").write_text("gate:\n  min_acuracy: 0.9\n")
    command = [sys.executable, "-m", f"stages.{stage}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "error: params.yaml: gate.min_acuracy is not a parameter; did you mean 'min_accuracy'?\n"
    )
    assert sorted(path.name for path in project.iterdir()) == ["params.yaml"]
