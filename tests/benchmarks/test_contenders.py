"""Each contender's own loop, at the clock's pace."""

import dataclasses
import json
import os
from typing import Any

import pytest
import torch

import models
from benchmarks.contenders import ours, processor
from benchmarks.networks import load_pair
from benchmarks.training import run_contender
from benchmarks.worker import Clock, Task
from models.measures import count_macs
from tests.benchmarks.conftest import CLASSES, COUNT, SIZE

BATCH = 32  # three an epoch, and a rest


@pytest.fixture
def task(data_folder, weights):
    return Task("", "resnet14", "resnet8", str(data_folder), str(weights[0]), CLASSES, BATCH, 0.0)


def measured(train: Any, capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, Any]:
    """What a contender prints before it ends: of two steps after three."""
    with pytest.raises(SystemExit):
        train(options.pop("task"), Clock(0.0), **options)
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["steps"] == 2
    assert 0 <= found["waited_seconds"] <= found["seconds"]
    return found


def test_the_clock_counts_what_comes_after_the_warm_up(capsys):
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


def test_contenders_have_the_same_weights_whose_logits_are_sane(task, weights):
    teacher, student = load_pair(task)
    with torch.no_grad():
        assert float(teacher.eval()(torch.randn(4, 3, SIZE, SIZE)).abs().max()) < 1000
    again, _ = load_pair(task)
    assert torch.equal(again.state_dict()["fc.weight"], teacher.state_dict()["fc.weight"])
    assert student.name == "resnet8"

    macs = weights[1]["macs"]
    forward = {
        name: count_macs(models.build(name, CLASSES), SIZE) for name in ("resnet14", "resnet8")
    }
    assert macs["teacher"] == forward["resnet14"]
    stem = 3 * 3 * 3 * 16 * SIZE * SIZE  # whose input needs no gradient
    assert macs["kd"] == 3 * forward["resnet8"] - stem
    assert 1.5 * macs["kd"] < macs["ackd"] < 3 * macs["kd"]


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
