"""The whole chain by `dvc repro`, on the embedded digits with a small schedule."""

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.sections.methods import Distill

ROOT = Path(__file__).parent.parent
METHODS = [m for m in Distill.model_fields["method"].annotation.__args__ if m != "ackd"]
SMALL: dict[str, dict[str, Any]] = {
    "data": {"image_size": 16},
    "teacher": {"network": "resnet14", "epochs": 3, "learning_rate": 0.03},
    "proxy": {"epochs": 1, "assistants": ["resnet8"]},
    "distill": {"epochs": 3, "learning_rate": 0.03},
    "export": {"calibration_images": 64},
    "validate": {"min_agreement_int8": 0.5},
    "profile": {"threads": [1], "warmup_seconds": 0.0, "min_seconds": 0.05},
    "analyze": {"grad_cam_images": 2},
    "gate": {"min_accuracy": 0.2, "max_drop_from_teacher": None, "max_export_drop": None},
}


def call(root: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run ``dvc`` (or another command of the environment) as a user would in ``root``."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        arguments, cwd=root, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def change(root: Path, **sections: dict[str, Any]) -> None:
    yaml = YAML()
    params = yaml.load(root / "params.yaml")
    for section, values in sections.items():
        params[section].update(values)
    yaml.dump(params, root / "params.yaml")


def project(root: Path) -> Path:
    """A repository of its own with this project's code and small parameters."""
    files = call(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard").stdout
    for name in files.splitlines():
        made = name.startswith(("reports/", "dvc.lock")) and "reports/devices/" not in name
        if not made and (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, root / name)
    change(root, **SMALL)
    call(root, "git", "init", "--quiet")
    call(root, "git", "config", "user.email", "test@example.org")
    call(root, "git", "config", "user.name", "Test")
    call(root, "git", "add", "--all")
    call(root, "git", "commit", "--quiet", "--message", "start")
    return root


def repro(root: Path, *arguments: str, check: bool = True) -> tuple[list[str], str]:
    """The stages that ran, and all that was printed."""
    done = call(root, "dvc", "repro", *arguments, check=check)
    return re.findall(r"Running stage '(\w+)'", done.stdout), done.stdout + done.stderr


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chain after its first run, committed."""
    root = project(tmp_path_factory.mktemp("chain"))
    ran, _ = repro(root)
    assert len(ran) == 14
    call(root, "git", "add", "--all")
    call(root, "git", "commit", "--quiet", "--message", "first run")
    return root


@pytest.fixture
def copy(chain: Path, tmp_path: Path) -> Path:
    """A copy of the finished chain for a test that changes it, with the same cache."""
    shutil.copytree(chain, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_it_ends_with_a_report_and_a_bundle_that_proves_itself(chain: Path, tmp_path: Path) -> None:
    summary = read(chain / "reports/summary.json")
    assert summary["student"]["network"] == "resnet8"
    assert summary["student"]["accuracy"] > 0.2
    assert set(summary["exports"]) == {"fp32", "fp16", "int8_u8s8", "int8_s8s8"}
    assert "<html" in (chain / "reports/index.html").read_text()
    with tarfile.open(chain / "artifacts/bundle.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    (runner,) = tmp_path.rglob("runner.py")
    checked = subprocess.run(
        [sys.executable, "-I", str(runner), "--check"], cwd=tmp_path, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_second_run_asks_only_who_measures(chain: Path) -> None:
    ran, _ = repro(chain)
    assert ran == ["identify_device"]
    assert call(chain, "git", "status", "--porcelain").stdout == ""


def test_a_clone_without_data_has_nothing_to_do(chain: Path, tmp_path: Path) -> None:
    call(tmp_path, "git", "clone", "--quiet", str(chain), "clone")
    ran, _ = repro(tmp_path / "clone", "--dry", "--allow-missing")
    assert ran == ["identify_device"]


def test_another_clone_makes_the_same_bytes(chain: Path, tmp_path: Path) -> None:
    other = project(tmp_path)
    repro(other, "prune", "export_onnx")
    found = 0
    for path in sorted((chain / "artifacts").rglob("*")):
        if path.suffix in {".npy", ".safetensors", ".onnx", ".npz"} and "bundle" not in path.parts:
            twin = other / path.relative_to(chain)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            assert hashlib.sha256(twin.read_bytes()).hexdigest() == digest, path
            found += 1
    assert found == 6 + 4 + 8 + 1


def test_more_epochs_of_distillation_do_not_train_the_teacher_again(copy: Path) -> None:
    change(copy, distill={"epochs": 4})
    ran, _ = repro(copy)
    assert ran[0] == "distill"
    assert {"prune", "export_onnx", "report", "package"} <= set(ran)
    assert not {"prepare_data", "train_teacher", "train_proxy"} & set(ran)
    with (copy / "reports/distill/history.csv").open() as handle:
        assert len(list(csv.DictReader(handle))) == 4
    # What a DVC user asks next.
    assert re.search(r"distill\.epochs\s+3\s+4", call(copy, "dvc", "params", "diff").stdout)
    assert "reports/summary.json" in call(copy, "dvc", "metrics", "diff").stdout
    assert "reports/distill/metrics.json" in call(copy, "dvc", "metrics", "show").stdout
    call(copy, "dvc", "plots", "show")
    assert "Validation accuracy" in (copy / "dvc_plots/index.html").read_text()


@pytest.mark.parametrize(
    ("method", "proxy"),
    [(method, "teacher") for method in METHODS] + [("kd", "early_stopped"), ("kd", "assistants")],
)
def test_every_method_comes_to_a_bundle(copy: Path, method: str, proxy: str) -> None:
    change(
        copy,
        proxy={"method": proxy},
        distill={"method": method, "epochs": 1},
        gate={"min_accuracy": None},
    )
    ran, _ = repro(copy)
    assert ("train_proxy" in ran) == (proxy != "teacher")
    assert {"distill", "prune", "export_onnx", "package"} <= set(ran)
    assert read(copy / "reports/distill/metrics.json")["method"] == method
    assert read(copy / "reports/proxy/metrics.json")["method"] == proxy
    summary = read(copy / "reports/summary.json")
    assert {export["status"] for export in summary["exports"].values()} == {"passed"}
    assert (copy / "artifacts/bundle.tar.gz").is_file()


def test_an_experiment_changes_a_parameter(copy: Path) -> None:
    done = call(copy, "dvc", "exp", "run", "--set-param", "distill.temperature=2")
    ran = re.findall(r"Running stage '(\w+)'", done.stdout)
    assert "distill" in ran
    assert "train_teacher" not in ran
    assert YAML().load(copy / "params.yaml")["distill"]["temperature"] == 2


def test_a_measurement_by_hand_reaches_the_report_and_leaves_the_bundle(copy: Path) -> None:
    before = (copy / "artifacts/bundle.tar.gz").read_bytes()
    url = "local:?threads=2"
    call(copy, sys.executable, "-m", "pipeline.cli", "profile", url)
    ran, _ = repro(copy)
    assert ran == ["identify_device", "report", "gate", "package"]
    devices = read(copy / "reports/summary.json")["devices"]
    assert list(devices) == ["local:", url]
    assert {row["status"] for row in devices[url]["exports"].values()} == {"passed"}
    assert (copy / "artifacts/bundle.tar.gz").read_bytes() == before
    assert repro(copy)[0] == ["identify_device"]


def test_a_missed_goal_stops_the_bundle_and_keeps_the_measurements(copy: Path) -> None:
    change(copy, gate={"min_accuracy": 1.0, "max_size_mb": 0.001})
    ran, output = repro(copy, check=False)
    assert ran[-1] == "gate"
    assert "package" not in ran
    assert "min_accuracy" in output
    assert "max_size_mb" in output
    assert read(copy / "reports/gate.json")["passed"] is False
    assert (copy / "reports/summary.json").is_file()
    assert call(copy, "dvc", "repro", check=False).returncode != 0


def test_a_changed_export_is_made_again(copy: Path) -> None:
    file = copy / "artifacts/onnx/fp32.static.onnx"
    good = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    # Asked directly, the stage names the file; DVC notices by itself and restores it.
    done = call(copy, sys.executable, "-m", "stages.validate", check=False)
    assert done.returncode == 1
    assert "fp32.static.onnx" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    repro(copy)
    assert file.read_bytes() == good


def test_a_misspelt_parameter_stops_the_first_stage(copy: Path) -> None:
    change(copy, data={"sorce": "digits"})
    done = call(copy, "dvc", "repro", check=False)
    assert done.returncode != 0
    wanted = "error: params.yaml: data.sorce is not a parameter; did you mean 'source'?"
    assert wanted in done.stdout + done.stderr
