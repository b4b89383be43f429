"""The commands, with typer's runner and once as a process."""

import errno
import os
import shutil
import subprocess
import sys

import pytest
from typer.main import get_command

from pipeline import cli
from pipeline.doctor import examine
from tests.pipeline.conftest import ROOT, change_stage, invoke


def cells(output: str) -> list[list[str]]:
    lines = [line.replace("│", "  ").strip() for line in output.splitlines()]
    return [[cell for cell in line.split("  ") if cell.strip()] for line in lines]


def test_help_of_every_command():
    todo = [((), get_command(cli.app))]
    for path, command in todo:
        code, output, _ = invoke(*path, "--help")
        assert code == 0
        assert "Usage" in output
        for name, below in getattr(command, "commands", {}).items():
            assert name in output
            todo.append(((*path, name), below))
    assert len(todo) > 20


def test_help_imports_no_heavy_package():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom pipeline.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print([n for n in ('torch', 'prefect', 'dvc', 'onnxruntime', 'datasets', 'numpy')"
        " if n in sys.modules])"
    )
    found = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert found.strip() == "[]"


@pytest.mark.parametrize("command", ["use", "run", "status", "show"])
def test_outside_a_project_the_error_is_one_sentence(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output, error = invoke(command)
    assert (code, output) == (1, "")
    name = tmp_path.name
    assert error == f"error: dvc.yaml: not found in {name}; run ackd in the project's root\n"
    assert list(tmp_path.iterdir()) == []


def test_use_lists_changes_and_sets(project):
    (project / "presets").symlink_to(ROOT / "presets")
    code, output, _ = invoke("use")
    assert code == 0
    assert "cifar100/trial" in output
    code, output, _ = invoke("use", "cifar100/trial", "-S", "data.source=hf:/data/cifar100")
    assert code == 0
    assert "data.source: digits -> hf:/data/cifar100" in output
    assert "network: resnet56" in (project / "params.yaml").read_text()
    code, output, error = invoke("use", "-S", "distill.temprature=1")
    assert (code, output) == (1, "")
    assert error.startswith("error: params.yaml: distill.temprature is not a parameter; did you")
    assert error.count("\n") == 1
    names = ("cifar100/resnet110_resnet20", "methods/eskd")
    code, output, _ = invoke("use", *names, "--epochs", "40", "--data", "hf:/data/own")
    assert code == 0
    assert "distill.milestones: [] -> [20, 30]" in output
    assert "data.source: hf:/data/cifar100 -> hf:/data/own" in output


def test_a_project_of_another_user_is_one_sentence(project, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", ".dvc/tmp/lock")

    monkeypatch.setattr("dvc.repo.Repo.status", refuse)
    code, _, error = invoke("run")
    assert code == 1
    assert error.startswith("error: .dvc/tmp/lock: permission denied; run ackd as the owner")


def test_a_reader_that_stops_early_is_no_error(monkeypatch):
    def stop(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("pipeline.doctor.examine", stop)
    code, _, error = invoke("doctor")
    assert (code, error) == (1, "")


def test_status_is_a_table_of_all_stages(project):
    code, output, _ = invoke("status")
    assert code == 0
    rows = [[cell.strip() for cell in row] for row in cells(output) if row]
    assert rows[1:-1] == [[s, "will run", "never run"] for s in ("first", "left", "right", "last")]
    assert rows[-1][0].startswith("disk: ")


def test_status_and_run_refuse_wrong_params(project):
    params = project / "params.yaml"
    text = params.read_text()
    for old, new, said in (
        ("epochs: 15", "epochs: 0", "params.yaml: distill.epochs is 0, expected"),
        ("network: resnet8", "network: resent8", "network 'resent8' is not known"),
    ):
        params.write_text(text.replace(old, new))
        for command in ("status", "run"):
            code, output, error = invoke(command)
            assert (code, output) == (1, "")
            assert error.startswith(f"error: {said}")
    assert not (project / "first.txt").exists()


def test_long_lists_of_reasons_are_shortened(project):
    (project / "dvc.lock").write_text("schema: '2.0'\nstages: {first: {cmd: other}}\n")
    change_stage(project, "deps: [source.txt]", "deps: [source.txt, a, b, c, d]")
    code, output, _ = invoke("status")
    assert code == 0
    (row,) = [line for line in output.splitlines() if line.split()[:1] == ["first"]]
    assert row.rstrip().endswith(" and 4 more")
    assert row.count(",") == 2


def test_doctor_works_anywhere_and_explains_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output, _ = invoke("doctor")
    assert code == 0
    findings = {finding.what: finding for finding in examine()}
    assert all(what in output for what in findings)
    assert findings["CPU"].usable
    assert findings["onnxruntime on"].found.split(", ")[-1] == "CPU"
    assert findings["adb"].usable == (shutil.which("adb") is not None)
    assert all(finding.missing for finding in findings.values() if not finding.usable)


def test_with_nothing_to_do_run_needs_no_server(finished, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setitem(sys.modules, "prefect", None)
    code, output, _ = invoke("run")
    assert (code, output) == (0, "nothing to do: every stage is up to date\n")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", "ftp://prefect"])
def test_a_missing_server_is_reported_before_anything_runs(project, monkeypatch, url):
    monkeypatch.setenv("PREFECT_API_URL", url)
    code, output, error = invoke("run")
    assert (code, output) == (1, "")
    assert error.startswith(f"error: no Prefect server answers at {url} (")
    assert error.count("\n") == 1
    assert not (project / "first.txt").exists()


def test_run_as_a_process_ends_with_its_table_and_status(finished, prefect_server):
    (finished / "source.txt").write_text("2\n")
    change_stage(
        finished, "cmd: cp first.txt left.txt", "cmd: 'echo \"error: no ink\" >&2; exit 3'"
    )
    command, own = [sys.executable, "-m", "pipeline.cli", "run"], {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    rows = [row[:2] for row in cells(done.stdout)]
    ends = {"first": "Completed", "left": "Failed", "right": "Completed", "last": "Not run"}
    assert [tuple(cell.strip() for cell in row) for row in rows[1:]] == list(ends.items())
    assert "hello from first" in done.stderr
    assert "Updating lock file" not in done.stderr
    assert "error: left failed: no ink; not run: last\n" in done.stderr
    assert "Traceback" not in done.stderr
