"""Run the GPU benchmark on the CPU with small settings."""

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import gpu
from benchmarks.gpu_checks import difference, repeats
from benchmarks.gpu_plan import Pair, Plan, attempt
from benchmarks.gpu_speed import at_once
from benchmarks.results import FOLDER, ROOT, Json
from benchmarks.worker import Task
from models.errors import InputError
from stages.files import read_json, write_csv
from stages.sections.methods import Distill

#: Our dependencies that a GPU machine has, with a few small wheels.
THERE = {"torch", "torchvision", "timm", "accelerate", "safetensors", "pillow", "numpy", "psutil"}
THERE |= {"huggingface-hub", "packaging", "pydantic", "ruamel.yaml", "typer", "rich", "networkx"}
MODULES = {"scikit-learn": "sklearn", "cyclonedx-python-lib": "cyclonedx"}
ONE = {"title": "one", "second run": "", "killed and resumed": ""}
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["accelerate", "stages.distill", "benchmarks.gpu"])
PAIRS = {"CIFAR": Pair("resnet14", "resnet8", 16, 40, ("D3B1", "D2B2"))}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "work").mkdir()
    small: Json = {"batch_size": 16, "seconds": 0.0, "students": (), "compiled": (False,)}
    work = str(tmp_path / "work")
    return Plan(work, PAIRS, precisions=("fp32",), start="forkserver", **small)


def test_the_command_measures_all_parts_and_writes_json_and_page(
    plan: Plan, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = {"name": "a GPU", "driver": "1.2", "memory_mb": 8}
    monkeypatch.setattr(gpu, "gpu", lambda: device)
    monkeypatch.setattr(gpu, "Plan", lambda *_: plan)
    parts = {name: (part, 300.0) for name, (part, _) in gpu.PARTS.items()}
    # Nested processes would each import torch; the next test covers this part.
    monkeypatch.setattr(gpu, "PARTS", parts | {"repeats": (fails, 300.0)})
    monkeypatch.setattr(gpu, "SPEED_SECONDS", 300.0)
    gpu.main()

    content = read_json(FOLDER / "gpu.json")
    found = content["parts"]
    assert content["machine"]["gpu"] == device
    speeds = [row["images_per_second"] for row in found["CIFAR, fp32"]["rows"]]
    assert len(speeds) == 5
    assert min(speeds) > 0
    methods = get_args(Distill.model_fields["method"].annotation)
    assert [row["title"] for row in found["losses"]["rows"]] == list(methods)
    for row in found["losses"]["rows"]:
        assert row["without TF32"] == row["as in training"] == 0, row
    assert found["repeats"]["rows"] == [ONE]
    assert "no NVIDIA GPU" in found["tensorrt"]["reason"]
    assert "--repdistiller" in found["peer"]["reason"]
    assert found["idle"]["rows"][-1]["reason"] == "a CUDA graph needs a GPU"
    text = page.read_text()
    assert "| KD, live teacher, fp32 |" in text
    assert "| ackd | 0.0e+00 | 0.0e+00 |" in text
    assert "- repeats: KeyError: 'two'\n" in text


@pytest.mark.usefixtures("page")
def test_runs_with_one_seed_are_identical_even_if_killed(plan: Plan) -> None:
    same = {"second run": "same bytes", "killed and resumed": "same bytes"}
    assert list(repeats(plan)) == [{"title": "KD"} | same, {"title": "ACKD"} | same]


def test_the_budget_is_below_eight_minutes() -> None:
    planned = gpu.parts(Plan("", gpu.PAIRS))
    assert sum(seconds for _, seconds in planned.values()) < 480 - 10  # the command's own start


def test_it_imports_only_what_a_training_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {line.split(">")[0].split("<")[0].split("[")[0] for line in project["dependencies"]}
    absent = {MODULES.get(name, name.replace("-", "_")) for name in names - THERE}
    assert {"dvc", "prefect", "onnx", "sklearn"} <= absent
    code = f"import sys; sys.modules |= dict.fromkeys({absent!r}); import benchmarks.gpu"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def ends_itself(_plan: Plan) -> Iterator[Json]:
    yield ONE
    os.kill(os.getpid(), signal.SIGKILL)


def fails(_plan: Plan) -> Iterator[Json]:
    yield ONE
    raise KeyError("two")


def hangs(_plan: Plan) -> Iterator[Json]:
    yield ONE
    time.sleep(1000)


@pytest.mark.parametrize(
    ("part", "seconds", "reason"),
    [
        (ends_itself, 60, "ended with -9"),
        (fails, 60, "KeyError: 'two'"),
        (hangs, 5, "stopped at its time limit"),
    ],
)
def test_a_part_that_fails_keeps_its_rows(
    plan: Plan, part: gpu.Part, seconds: float, reason: str
) -> None:
    imports = FORKSERVER.Process(target=int)  # which the limit does not include
    imports.start()
    imports.join()
    assert gpu.run_part(plan, part, time.monotonic() + seconds) == ([ONE], reason)


def test_without_a_gpu_it_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "gpu", lambda: None)
    with pytest.raises(InputError, match="run this on a machine that has one"):
        gpu.main()


def test_throughputs_of_parallel_students_are_added() -> None:
    task = Task("tests.benchmarks.fake", "", "", "", "", 3, 4, 0.0)
    found = at_once(task, 2)
    assert found["steps"] == 2 * 2
    assert 0 < found["images_per_second"] < 2 * 4 / 0.001
    with pytest.raises(InputError, match="the fake is broken"):
        at_once(dataclasses.replace(task, options={"fails": True}), 2)


def test_the_first_difference_is_named(tmp_path: Path) -> None:
    def project(name: str, bias: float, loss: float) -> Path:
        folder = tmp_path / name
        (folder / "artifacts/distilled").mkdir(parents=True)
        weights = {"a.weight": torch.ones(2), "b.bias": torch.tensor([1.0, bias])}
        save_file(weights, folder / "artifacts/distilled/model.safetensors")
        rows: list[dict[str, Any]] = [{"epoch": 1, "seconds": bias, "loss": 1.0}]
        rows.append({"epoch": 2, "seconds": bias, "loss": loss})
        write_csv(folder / "reports/distill/history.csv", rows)
        return folder

    one, same = project("one", 1.0, 0.5), project("same", 1.0, 0.5)
    assert difference(one, same) == "same bytes"
    other = project("other", 1.5, 0.25)
    expected = "differs from epoch 2 on; first tensor b.bias, by up to 5.0e-01"
    assert difference(one, other) == expected
    late = project("late", 1.5, 0.5)
    assert difference(one, late).startswith("differs not in the history; first tensor b.bias")


def test_a_row_that_fails_has_its_reason() -> None:
    def broken(number: int) -> Json:
        raise ValueError(f"no | of {number}")

    found = attempt({"title": "one"}, broken, 3)
    assert found == {"title": "one", "reason": "ValueError: no / of 3"}
