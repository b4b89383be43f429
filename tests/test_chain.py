"""Run the whole chain with `dvc repro` on the embedded digits, with a small schedule."""

import csv
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.dvc_runner import Runner
from stages.files import read_json, sha256
from tests.once import once, repository
from tests.pages import ROOT, list_files, set_params
from tests.warm_python import warm_dvc, warm_python

SMALL: dict[str, dict[str, Any]] = {
    "data": {"image_size": 16, "train_per_class": 60},
    "teacher": {"network": "resnet14", "epochs": 3, "learning_rate": 0.03},
    "proxy": {"early_stopped": {"epochs": 1}},
    "distill": {"epochs": 3, "learning_rate": 0.03},
    "export": {"calibration_images": 64},
    "validate": {"min_agreement_int8": 0.5},
    "profile": {"threads": [1], "warmup_seconds": 0.0, "min_seconds": 0.05},
    "analyze": {"grad_cam_images": 2},
    "gate": {"min_accuracy": 0.15, "max_drop_from_teacher": None, "max_export_drop": None},
}
TO_EXPORT = ("prepare_data", "train_teacher", "train_proxy", "distill", "prune", "export_onnx")


def call(root: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run ``dvc`` (or another command) as a user would in ``root``."""
    command = warm_dvc(*arguments[1:]) if arguments[0] == "dvc" else arguments
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def write_project(root: Path) -> None:
    """Copy this project's code as a clone has it, with small parameters and a warm Python."""
    for name in list_files():
        made = name.startswith(("reports/", "dvc.lock")) and "reports/devices/" not in name
        if not made:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, root / name)
    set_params(root, **SMALL)
    (root / "stages/python.sh").write_text(f'exec {warm_python()} "$@"\n')


def repro(root: Path, *arguments: str, check: bool = True) -> tuple[list[str], str]:
    """Run ``dvc repro``; return the stages that ran, and the output."""
    done = call(root, "dvc", "repro", *arguments, check=check)
    return re.findall(r"Running stage '(\w+)'", done.stdout), done.stdout + done.stderr


def _run_chain(root: Path) -> None:
    repository(root)
    write_project(root)
    for message in ("start", "first run"):
        call(root, "git", "add", "--all")
        call(root, "git", "commit", "--quiet", "--message", message)
        if message == "start":
            ran, _ = repro(root)
            assert sorted(ran) == sorted(YAML().load(ROOT / "dvc.yaml")["stages"])


@pytest.fixture(scope="module")
def chain():
    """The chain after its first run, committed."""
    return once("chain", _run_chain)


@pytest.fixture
def copy(chain, tmp_path):
    """A copy of the finished chain for a test that changes it, with the same cache."""
    shutil.copytree(chain, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def test_it_ends_with_a_report_and_a_verifiable_bundle(chain, tmp_path):
    summary = read_json(chain / "reports/summary.json")
    assert summary["student"]["network"] == "resnet8"
    assert summary["student"]["accuracy"] > 0.15
    assert set(summary["exports"]) == {"fp32", "fp16", "int8_u8s8", "int8_s8s8"}
    assert "<html" in (chain / "reports/index.html").read_text()
    with tarfile.open(chain / "artifacts/bundle.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    (runner,) = tmp_path.rglob("runner.py")
    checked = subprocess.run(
        [sys.executable, "-I", str(runner), "--check"], cwd=tmp_path, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_second_run_only_identifies_inputs_and_device(copy, tmp_path):
    ran, _ = repro(copy)
    assert set(ran) == {"identify_device", "identify_inputs"}
    assert call(copy, "git", "status", "--porcelain").stdout == ""
    call(tmp_path, "git", "clone", "--quiet", str(copy), "clone")
    ran, _ = repro(tmp_path / "clone", "--dry", "--allow-missing")
    assert set(ran) == {"identify_device", "identify_inputs"}


def test_results_are_identical_in_another_folder_and_process(chain, tmp_path):
    write_project(tmp_path)
    lines = ["from stages.params import load_params"]
    for stage in TO_EXPORT:
        lines += [f"from stages import {stage}", f"{stage}.main(load_params())"]
    call(tmp_path, "env", "PYTHONHASHSEED=7", sys.executable, "-c", "\n".join(lines))
    found = 0
    for path in sorted((chain / "artifacts").rglob("*")):
        if path.suffix in {".npy", ".safetensors", ".onnx", ".npz"} and "bundle" not in path.parts:
            twin = tmp_path / path.relative_to(chain)
            assert sha256(twin) == sha256(path), path
            found += 1
    assert found == 6 + 4 + 8 + 1


def test_an_experiment_with_another_method_does_not_train_the_teacher_again(copy):
    settings = ["distill.method=one", "distill.epochs=2", "proxy.method=early_stopped"]
    settings += ["export.precisions=[fp32]", "gate.min_accuracy=null"]
    arguments = [part for text in settings for part in ("--set-param", text)]
    done = call(copy, "dvc", "exp", "run", *arguments)
    ran = re.findall(r"Running stage '(\w+)'", done.stdout)
    assert not {"prepare_data", "train_teacher"} & set(ran)
    assert {"train_proxy", "distill", "prune", "export_onnx", "report", "package"} <= set(ran)
    assert YAML().load(copy / "params.yaml")["distill"]["method"] == "one"
    assert read_json(copy / "reports/distill/metrics.json")["method"] == "one"
    assert read_json(copy / "reports/proxy/metrics.json")["method"] == "early_stopped"
    with (copy / "reports/distill/history.csv").open() as handle:
        assert len(list(csv.DictReader(handle))) == 2
    exports = read_json(copy / "reports/summary.json")["exports"]
    assert {name: export["status"] for name, export in exports.items()} == {"fp32": "passed"}
    # Typical next commands of DVC users.
    assert re.search(r"distill\.epochs\s+3\s+2", call(copy, "dvc", "params", "diff").stdout)
    assert "reports/summary.json" in call(copy, "dvc", "metrics", "diff").stdout
    assert "reports/distill/metrics.json" in call(copy, "dvc", "metrics", "show").stdout
    call(copy, "dvc", "plots", "show")
    assert "Validation accuracy" in (copy / "dvc_plots/index.html").read_text()


def test_trainings_are_restored_from_the_run_cache(copy):
    # Else a sweep would train the teacher for each experiment. DVC also restores their metrics and
    # plots, which are in git.
    stages = TO_EXPORT[:4]
    reports = [copy / "reports/data.json", *copy.glob("reports/*/metrics.json")]
    assert len(reports) == 4
    made = [path.read_bytes() for path in reports]
    (copy / "dvc.lock").unlink()  # as in an experiment from a commit before it
    for path in reports:
        path.unlink()
    with Runner(copy) as runner:
        happened = {stage: runner.repro(stage, print) for stage in stages}
    assert happened == dict.fromkeys(stages, "restored")
    assert [path.read_bytes() for path in reports] == made


def test_a_measurement_by_hand_reaches_the_report_and_leaves_the_bundle(copy):
    before = (copy / "artifacts/bundle.tar.gz").read_bytes()
    url = "local:?threads=2"
    call(copy, sys.executable, "-m", "pipeline.cli", "profile", url)
    ran, _ = repro(copy)
    assert set(ran[:2]) == {"identify_device", "identify_inputs"}
    assert ran[2:] == ["report", "gate", "package"]
    devices = read_json(copy / "reports/summary.json")["devices"]
    assert list(devices) == ["local:", url]
    # In int8, a student that has hardly been trained may miss the limits.
    assert devices[url]["exports"]["fp32"]["status"] == "passed"
    assert devices[url]["exports"].keys() == devices["local:"]["exports"].keys()
    assert (copy / "artifacts/bundle.tar.gz").read_bytes() == before


def test_a_missed_goal_stops_the_bundle_and_keeps_the_measurements(copy):
    set_params(copy, gate={"min_accuracy": 1.0, "max_size_mb": 0.001})
    ran, output = repro(copy, check=False)
    assert ran[-1] == "gate"
    assert "package" not in ran
    assert "min_accuracy" in output
    assert "max_size_mb" in output
    assert read_json(copy / "reports/gate.json")["passed"] is False
    assert (copy / "reports/summary.json").is_file()
