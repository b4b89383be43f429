"""Each contender's own training loop, timed by the common clock."""

import dataclasses
import itertools
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from benchmarks.contenders import ours, processor, timm_train
from benchmarks.networks import load_pair
from benchmarks.results import ROOT
from benchmarks.training import run_contender
from benchmarks.worker import Clock, Task
from models.measures import count_macs
from models.networks.checkpoint import save_network
from stages.files import read_json, write_json
from stages.params import read_yaml
from tests.benchmarks.conftest import CLASSES, COUNT, SIZE

BATCH = 32  # three an epoch, and a rest


@pytest.fixture
def task(data_folder, weights):
    return Task("", "resnet14", "resnet8", str(data_folder), str(weights[0]), CLASSES, BATCH, 0.0)


def measured(train: Any, capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, Any]:
    """Return what a contender prints after three warm-up steps and two timed ones."""
    with pytest.raises(SystemExit):
        train(options.pop("task"), Clock(0.0), **options)
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["steps"] == 2
    assert 0 <= found["waited_seconds"] <= found["seconds"]
    return found


def test_the_clock_starts_after_the_warm_up(capsys):
    def train(_task: None, clock: Clock) -> None:
        for _ in clock.pace(range(100), lambda number: 10.0 * number):
            pass

    assert measured(train, capsys, task=None)["amount"] == 10 * (3 + 4)


@pytest.mark.parametrize(("method", "store"), [("kd", True), ("ackd", False)])
def test_our_loop_trains_full_batches_over_the_end_of_an_epoch(
    task, method, store, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    options = {"method": method, "store": store, "compile": False}
    found = measured(ours.train, capsys, task=dataclasses.replace(task, options=options))
    assert found["amount"] == 2 * BATCH
    assert found["peak_memory_mb"] > 50
    assert (tmp_path / "logits").exists() == store


def test_the_limit_counts_operations(task, monkeypatch, capsys):
    monkeypatch.setattr(processor, "_SIZE", 16)
    chosen = dataclasses.replace(task, options={"dtype": "bfloat16"})
    assert measured(processor.train, capsys, task=chosen)["amount"] == 2 * 2 * 16**3


def test_contenders_start_with_the_same_sane_weights(task, weights):
    teacher, student = load_pair(task)
    with torch.no_grad():
        assert float(teacher.eval()(torch.randn(4, 3, SIZE, SIZE)).abs().max()) < 1000
    again, _ = load_pair(task)
    assert torch.equal(again.state_dict()["fc.weight"], teacher.state_dict()["fc.weight"])
    assert student.name == "resnet8"

    macs = weights[1]["macs"]
    assert macs["teacher"] == count_macs(teacher, SIZE)
    stem = 3 * 3 * 3 * 16 * SIZE * SIZE  # whose input needs no gradient
    assert macs["kd"] == 3 * count_macs(student, SIZE) - stem
    assert 1.5 * macs["kd"] < macs["ackd"] < 3 * macs["kd"]


#: Replaces timm's train.py: takes the same flags, and prints what they select.
STAND_IN = """
import csv, json, sys
from pathlib import Path
import timm

flags = sys.argv[1:]
def given(name):
    return flags[flags.index(name) + 1]
teacher = timm.create_model(given("--kd-model-name"), pretrained=True, num_classes=6)
student = timm.create_model(
    given("--model"), pretrained=True, num_classes=6,
    pretrained_cfg_overlay={"file": given("--pretrained-path")},
)
print("Train: 0 [0/3]  Time: 0.5s,   64.00/s  (0.500s,   64.00/s)  LR: 1", file=sys.stderr)
print("Train: 1 [2/3]  Time: 0.5s,   64.00/s  (0.400s,   80.00/s)  LR: 1", file=sys.stderr)
Path("seen.json").write_text(json.dumps({
    "flags": flags,
    "mean": teacher.pretrained_cfg["mean"],
    "bias": teacher.get_classifier().bias.tolist(),
    "stem": float(student.conv_stem.weight.sum()),
    "images": sorted(str(p.parent) for p in Path(given("--data-dir")).rglob("*.png")),
}))
folder = Path(given("--output"), given("--experiment"))
folder.mkdir()
(folder / "summary.csv").write_text("epoch,eval_top1\\n0,20.0\\n1,30.0\\n")
"""


@pytest.mark.parametrize("real", [False, True])
def test_timms_script_is_given_our_images_weights_and_settings(
    real, data_folder, tmp_path, monkeypatch
):
    checkout = os.environ.get("TIMM_CHECKOUT") if real else str(tmp_path)
    if checkout is None:
        pytest.skip("TIMM_CHECKOUT names no checkout of timm")
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(STAND_IN)
    Path("artifacts/proxy").mkdir(parents=True)
    Path("artifacts/data").symlink_to(data_folder)
    torch.manual_seed(0)
    network, student = "timm:test_efficientnet", models.build("timm:test_efficientnet", 9)
    teacher = models.build(network, CLASSES)
    save_network(Path("artifacts/proxy/model.safetensors"), teacher)
    save_network(Path("student.safetensors"), student)
    plan = read_yaml(ROOT / "benchmarks/comparisons/photos_timm.yaml")["params"]
    plan["teacher"]["network"] = network
    plan["distill"] |= {"network": network, "weights": "student.safetensors"}
    plan["distill"] |= {"epochs": 2, "seed": 3}
    write_json(Path("params.yaml"), plan)
    timm_train.main(checkout)
    measured = read_json(Path("timm_train.json"))
    assert 0 <= measured["accuracy"] <= 1
    if real:
        assert measured["images_per_second"] > 0
        return
    assert measured == {"accuracy": 0.3, "images_per_second": 80.0}
    seen = read_json(Path("seen.json"))
    assert seen["mean"] == [0.498] * 3
    assert seen["bias"] == pytest.approx(teacher.state_dict()["classifier.bias"].tolist())
    assert seen["stem"] == pytest.approx(float(student.state_dict()["conv_stem.weight"].sum()))
    folders = Counter(seen["images"])
    assert len(folders) == 2 * CLASSES
    assert set(folders.values()) == {COUNT // CLASSES}
    assert {"--lr", "0.001", "--seed", "3", "--scale", "0.35"} <= set(seen["flags"])
    # timm counts warm-up epochs besides the others.
    flags = dict(itertools.pairwise(seen["flags"]))
    assert (flags["--warmup-epochs"], flags["--epochs"], flags["--val-interval"]) == ("1", "1", "2")


@pytest.mark.parametrize("name", ["repdistiller", "torchdistill"])
def test_a_peers_loop(name, task, tmp_path):
    checkout = os.environ.get("REPDISTILLER")
    if checkout is None:
        pytest.skip("REPDISTILLER names no checkout of RepDistiller")
    if name == "torchdistill":
        pytest.importorskip("torchdistill")
    options = {"checkout": checkout, "workers": 1}
    chosen = dataclasses.replace(task, module=f"benchmarks.contenders.{name}", options=options)
    assert run_contender(name, chosen, tmp_path)["amount"] == COUNT % BATCH + BATCH
