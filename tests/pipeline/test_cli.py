"""The commands, through typer's own runner, and once as a process."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.main import get_command

from pipeline import cli
from pipeline.upkeep.doctor import examine
from pipeline.upkeep.finding import Finding
from tests.pipeline.conftest import ROOT, change_stage, invoke, set_temperature

SUMMARY: dict[str, Any] = {
    "data": {
        "source": "digits",
        "train": 1294,
        "val": 143,
        "test": 360,
        "classes": 10,
        "image_size": 32,
    },
    "teacher": {
        "network": "resnet20",
        "accuracy": 0.9944,
        "parameters": 272474,
        "macs": 40551232,
        "size_mb": 1.089896,
    },
    "student": {
        "network": "resnet8",
        "method": "ackd",
        "accuracy": 0.9833,
        "parameters": 78042,
        "macs": 12239616,
        "size_mb": 0.312168,
    },
    "drop_from_teacher": 0.0111,
    "exports": {
        "fp32": {
            "made_by": None,
            "size_mb": 0.33,
            "accuracy": 0.9833,
            "drop": 0.0,
            "drop_low": -0.0076,
            "drop_high": 0.0076,
            "max_relative_error": 2.5e-7,
            "agreement": 1.0,
            "status": "passed",
            "p50_ms": 0.31,
            "p90_ms": 0.334,
            "threads": 1,
            "noisy": True,
            "speedup": 1.0,
            "dominated_by": ["int8_u8s8"],
        },
        "fp16": {
            "made_by": None,
            "size_mb": None,
            "accuracy": None,
            "drop": None,
            "drop_low": None,
            "drop_high": None,
            "max_relative_error": None,
            "agreement": None,
            "status": "failed",
            "reason": "not exported [why]",
            "p50_ms": None,
            "p90_ms": None,
            "threads": 1,
            "noisy": None,
            "speedup": None,
            "dominated_by": [],
        },
        "int8_u8s8": {
            "made_by": "fine-tuning",
            "size_mb": 0.11,
            "accuracy": 0.9833,
            "drop": 0.0,
            "drop_low": -0.0076,
            "drop_high": 0.0076,
            "max_relative_error": 0.021,
            "agreement": 0.9972,
            "status": "passed",
            "p50_ms": 0.155,
            "p90_ms": 0.161,
            "threads": 1,
            "noisy": False,
            "speedup": 2.0,
            "dominated_by": [],
        },
    },
    "recommended": {"precision": "int8_u8s8", "reason": "the quickest of [all]"},
    "devices": {
        "local:": {"cpu": "Desk CPU", "exports": {}},
        "ssh://pi@[board]": {
            "cpu": "Board [1.4]",
            "exports": {
                "fp32": {
                    "status": "passed",
                    "threads": 1,
                    "p50_ms": 4.2,
                    "p90_ms": 4.9,
                    "noisy": True,
                },
                "fp16": {
                    "status": "failed",
                    "threads": 4,
                    "p50_ms": None,
                    "p90_ms": None,
                    "noisy": None,
                },
            },
        },
    },
    "litert": {
        "versions": {"ai-edge-litert": "2.3.1"},
        "exports": {
            "fp32": {
                "size_mb": 0.327,
                "accuracy": 0.9833,
                "drop": 0.0,
                "drop_low": -0.0076,
                "drop_high": 0.0076,
                "max_relative_error": 3.1e-7,
                "agreement": 1.0,
                "status": "passed",
                "p50_ms": 0.248,
                "p90_ms": 0.26,
                "threads": 1,
                "noisy": False,
                "speedup": 1.25,
            },
        },
    },
    "warnings": ["The attention has collapsed on [D3B1]."],
    "skipped": [{"what": "tensorrt [fp32]", "reason": "no NVIDIA GPU that torch can use"}],
}


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "console", Console(width=200, emoji=False))


def cells(output: str) -> list[list[str]]:
    lines = [line.replace("│", "  ").strip() for line in output.splitlines()]
    return [[cell for cell in line.split("  ") if cell.strip()] for line in lines]


def test_help_of_every_command() -> None:
    todo = [((), get_command(cli.app))]
    for path, command in todo:
        code, output, _ = invoke(*path, "--help")
        assert code == 0
        assert "Usage" in output
        for name, below in getattr(command, "commands", {}).items():
            assert name in output
            todo.append(((*path, name), below))
    assert len(todo) > 25


def test_help_imports_no_heavy_package() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom pipeline.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print([n for n in ('torch', 'prefect', 'dvc', 'onnxruntime', 'datasets', 'numpy')"
        " if n in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["use", "run", "status", "show"])
def test_outside_a_project_it_is_one_sentence(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output, error = invoke(command)
    assert (code, output) == (1, "")
    name = tmp_path.name
    assert error == f"error: dvc.yaml: not found in {name}; run ackd in the project's root\n"
    assert list(tmp_path.iterdir()) == []


def test_use_lists_changes_and_sets(project: Path) -> None:
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
    assert len(error.splitlines()) == 1


def test_use_takes_a_pair_a_method_a_schedule_and_a_source(project: Path) -> None:
    (project / "presets").symlink_to(ROOT / "presets")
    names = ("cifar100/resnet110_resnet20", "methods/eskd")
    code, output, _ = invoke("use", *names, "--schedule", "short", "--epochs", "40")
    assert code == 0
    assert "distill.method: ackd -> kd" in output
    assert "proxy.method: teacher -> early_stopped" in output
    assert "distill.milestones: [] -> [20, 30]" in output
    code, output, _ = invoke("use", "--data", "hf:/data/cifar100", "-S", "data.seed=1")
    assert "data.source: hf:uoft-cs/cifar100 -> hf:/data/cifar100" in output
    code, output, error = invoke("use", *names, "--epochs", "40")
    assert (code, output) == (1, "")
    assert error == "error: --epochs 40: the paper's schedule has its own; add --schedule short\n"


def test_status_is_a_table_of_all_stages(project: Path) -> None:
    code, output, _ = invoke("status")
    assert code == 0
    rows = [[cell.strip() for cell in row] for row in cells(output) if row]
    assert rows[1:] == [[s, "will run", "never run"] for s in ("first", "left", "right", "last")]


def test_status_and_run_refuse_wrong_params(project: Path) -> None:
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


def test_many_reasons_are_cut_short(project: Path) -> None:
    (project / "dvc.lock").write_text("schema: '2.0'\nstages: {first: {cmd: other}}\n")
    change_stage(project, "deps: [source.txt]", "deps: [source.txt, a, b, c, d]")
    code, output, _ = invoke("status")
    assert code == 0
    (row,) = [line for line in output.splitlines() if line.split()[:1] == ["first"]]
    assert "command changed" in row or "more" in row
    assert row.rstrip().endswith("more")
    assert row.count(";") == 4


def test_show_before_a_run_is_one_sentence(project: Path) -> None:
    code, output, error = invoke("show")
    assert (code, output) == (1, "")
    assert error == "error: reports/summary.json: no such file; run `dvc repro` to make it\n"


def test_show_has_every_figure_and_place(project: Path) -> None:
    (project / "reports").mkdir()
    (project / "reports/summary.json").write_text(json.dumps(SUMMARY))
    (project / "reports/index.html").write_text("")
    code, output, _ = invoke("show")
    assert code == 0
    rows = [[cell.strip() for cell in row] for row in cells(output)]
    assert ["teacher", "resnet20", "99.44%", "272,474", "40,551,232", "1.09"] in rows
    assert ["student", "resnet8 (ackd)", "98.33%", "78,042", "12,239,616", "0.31"] in rows
    assert ["fp32", "passed", "98.33%", "0.33", "0.310", "0.334 *", "1.00"] in rows
    assert ["fp16", "failed", "-", "-", "-", "-", "-"] in rows
    assert "left out     fp16: not exported [why]" in output
    assert ["int8_u8s8", "passed", "98.33%", "0.11", "0.155", "0.161", "2.00"] in rows
    drop = "0.00 (−0.76 to +0.76)"
    assert ["fp32", "2.5e-07", "100.00%", drop] in rows
    assert ["fp16", "-", "-", "-"] in rows
    assert ["int8_u8s8", "2.1e-02", "99.72%", drop] in rows
    assert ["fp32", "passed", "98.33%", "0.33", "0.248", "0.260", "1.25"] in rows
    assert ["fp32", "3.1e-07", "100.00%", drop] in rows
    assert "LiteRT against torch" in output
    assert "made         int8_u8s8 by fine-tuning" in output
    assert "recommended  int8_u8s8, the quickest of [all]" in output
    assert "dominated    fp32 by int8_u8s8" in output
    assert ["ssh://pi@[board]", "Board [1.4]", "fp32", "1", "4.200", "4.900 *"] in rows
    assert ["fp16 (failed)", "4", "-", "-"] in rows
    assert "drop from teacher to student: 1.11%" in output
    assert "warning  The attention has collapsed on [D3B1]." in output
    assert "tensorrt [fp32]: no NVIDIA GPU that torch can use" in output
    assert "report  reports/index.html" in output
    assert "bundle  none; see the goals in reports/gate.json" in output
    (project / "artifacts").mkdir()
    (project / "artifacts/bundle.tar.gz").write_bytes(b"")
    assert "bundle  artifacts/bundle.tar.gz" in invoke("show")[1]
    summary = SUMMARY | {"recommended": None}
    (project / "reports/summary.json").write_text(json.dumps(summary))
    assert "recommended  none: no export has its accuracy, size and" in invoke("show")[1]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("litert", None), "has no litert, so another version of ackd wrote it"),
        (("exports", "fp32", "speedup"), "has no exports.fp32.speedup, so another version of ackd"),
        (("teacher", "accuracy", "high"), "teacher.accuracy is 'high', expected a valid number"),
        (("teacher", "accuracy", 1.5), "teacher.accuracy is 1.5, expected less than or equal to 1"),
        (("exports", []), "exports is [], expected a JSON object"),
    ],
)
def test_show_of_another_versions_summary_is_one_sentence(
    change: tuple[Any, ...], problem: str, project: Path
) -> None:
    summary: Any = copy.deepcopy(SUMMARY)
    part = summary
    if problem.startswith("has no"):
        keys = [key for key in change if key is not None]
        for key in keys[:-1]:
            part = part[key]
        del part[keys[-1]]
    else:
        *keys, value = change
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value
    (project / "reports").mkdir()
    (project / "reports/summary.json").write_text(json.dumps(summary))
    code, output, error = invoke("show")
    assert (code, output) == (1, "")
    assert error.startswith(f"error: reports/summary.json: {problem}")
    assert error.endswith("; run `dvc repro` to make it anew\n")
    assert error.count("\n") == 1


def test_doctor_works_anywhere_and_says_what_is_missing_for_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output, _ = invoke("doctor")
    assert code == 0
    findings = {finding.what: finding for finding in examine()}
    assert all(what in output for what in findings)
    assert findings["Python"].found == ".".join(map(str, sys.version_info[:3]))
    assert findings["torch"].usable
    assert findings["onnxruntime on"].found.split(", ")[-1] == "CPU"
    assert findings["adb"].usable == (shutil.which("adb") is not None)
    assert findings["dvc.yaml"] == Finding(
        "dvc.yaml", False, "not here", "this is not the root of a project: nothing runs here"
    )
    assert all(finding.missing for finding in findings.values() if not finding.usable)
    monkeypatch.chdir(ROOT)
    assert {f.what: f.usable for f in examine()}["dvc.yaml"]


def test_with_nothing_to_do_run_needs_no_server(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setitem(sys.modules, "prefect", None)
    code, output, _ = invoke("run")
    assert (code, output) == (0, "nothing to do: every stage is up to date\n")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "PREFECT_API_URL",
            "http://127.0.0.1:9/api",
            "no Prefect server answers at http://127.0.0.",
        ),
        ("PREFECT_API_URL", "ftp://prefect", "no Prefect server answers at ftp://prefect (Request"),
        ("PREFECT_HOME", "params.yaml/prefect", "PREFECT_HOME is 'params.yaml/prefect', which can"),
    ],
)
def test_what_prefect_lacks_is_one_sentence_before_anything_runs(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(name, value)
    code, output, error = invoke("run")
    assert (code, output) == (1, "")
    assert error.startswith(f"error: {sentence}")
    assert error.count("\n") == 1
    assert not (project / "first.txt").exists()


def test_show_says_whose_result_it_is(finished: Path) -> None:
    (finished / "reports").mkdir()
    (finished / "reports/summary.json").write_text(json.dumps(SUMMARY))
    assert "these results" not in invoke("show")[1]
    set_temperature(finished, 2.5)
    output = " ".join(invoke("show")[1].split())
    assert "made with distill.temperature 4.0 (now 2.5); `ackd run` makes those of" in output
    (finished / "source.txt").write_text("2\n")
    command = [sys.executable, "-m", "dvc", "repro", "--quiet", "--single-item", "first"]
    subprocess.run(command, check=True)
    assert "warning first.txt: made anew since" in " ".join(invoke("show")[1].split())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_lacks_a_character_shows_its_code(project: Path, encoding: str) -> None:
    (project / "reports").mkdir()
    (project / "reports/summary.json").write_text(json.dumps(SUMMARY))
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "show"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )
    assert rb"0.00 (\u22120.76 to +0.76)" in done.stdout


def test_run_as_a_process_ends_with_its_table_and_status(
    finished: Path, prefect_server: None
) -> None:
    (finished / "source.txt").write_text("2\n")
    change_stage(
        finished, "cmd: cp first.txt left.txt", "cmd: 'echo \"error: no ink\" >&2; exit 3'"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "run"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("disk: ")
    rows = [row[:2] for row in cells(done.stdout)]
    assert [[cell.strip() for cell in row] for row in rows[2:]] == [
        ["first", "Completed"],
        ["left", "Failed"],
        ["right", "Completed"],
        ["last", "Not run"],
    ]
    assert "hello from first" in done.stderr
    assert "Updating lock file" not in done.stderr
    assert "error: left failed: no ink; not run: last\n" in done.stderr
    assert "Traceback" not in done.stderr
