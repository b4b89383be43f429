"""Each contender's own loop, at the clock's pace."""

import dataclasses
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from benchmarks.contenders import ours, processor
from benchmarks.networks import load_pair
from benchmarks.process import Contender
from benchmarks.worker import WARM_UP_STEPS, Clock, Task
from models.measures import count_macs
from tests.benchmarks.conftest import CLASSES, SIZE

BATCH = 16


@pytest.fixture
def task(data_folder: Path, weights: tuple[Path, Any]) -> Task:
    return Task("", "resnet14", "resnet8", str(data_folder), str(weights[0]), CLASSES, BATCH)


def answers(train: Any, task: Task, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    """What a contender replies to each request, the warm-up first, until it ends."""
    lines = "".join(json.dumps({"profile": False} | request) + "\n" for request in requests)
    replies = io.StringIO()
    with pytest.raises(SystemExit):
        train(task, Clock(io.StringIO(lines), replies))
    return [json.loads(line) for line in replies.getvalue().splitlines()]


def test_the_clock_counts_what_was_asked_for_and_no_warm_up() -> None:
    seen: list[int] = []
    replies = io.StringIO()
    requests = io.StringIO('{"steps": 2, "profile": false}\n{"steps": 1, "profile": false}\n')
    with pytest.raises(SystemExit):
        seen.extend(Clock(requests, replies).pace(range(100), lambda number: 10.0 * number))
    first, second = (json.loads(line) for line in replies.getvalue().splitlines()[1:])
    start = WARM_UP_STEPS
    assert first["amount"] == 10 * (start + start + 1)
    assert second["amount"] == 10 * (start + 2)
    assert (first["steps"], second["steps"]) == (2, 1)
    assert 0 <= first["waited_seconds"] <= first["seconds"]


@pytest.mark.parametrize("method", ["kd", "ackd"])
@pytest.mark.parametrize("store", [True, False])
def test_our_loop_trains_full_batches_over_the_end_of_an_epoch(
    task: Task, method: str, store: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"method": method, "store": store, "compile": False}
    chosen = dataclasses.replace(task, options=options)
    _, six, one = answers(ours.train, chosen, {"steps": 6}, {"steps": 1, "profile": True})
    assert (six["amount"], one["amount"]) == (6 * BATCH, BATCH)
    assert six["waited_seconds"] < six["seconds"]
    assert six["peak_memory_mb"] > 50
    assert "convolution" in one["profile"]
    assert (tmp_path / "logits").exists() == store


def test_the_limit_counts_operations(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_SIZE", 16)
    chosen = dataclasses.replace(task, options={"dtype": "bfloat16"})
    _, reply = answers(processor.train, chosen, {"steps": 3})
    assert reply["amount"] == 3 * 2 * 16**3


def test_contenders_share_weights_whose_logits_are_sane(
    task: Task, weights: tuple[Path, Any]
) -> None:
    teacher, student = load_pair(task)
    with torch.no_grad():
        assert float(teacher.eval()(torch.randn(4, 3, SIZE, SIZE)).abs().max()) < 1000
    assert student.name == "resnet8"
    again, _ = load_pair(task)
    assert torch.equal(again.state_dict()["fc.weight"], teacher.state_dict()["fc.weight"])


def test_a_step_costs_three_forward_passes_of_what_is_trained(weights: tuple[Path, Any]) -> None:
    macs = weights[1]["macs"]
    teacher, student = (
        count_macs(models.build(name, CLASSES), SIZE) for name in ("resnet14", "resnet8")
    )
    assert macs["teacher"] == teacher
    stem = 3 * 3 * 3 * 16 * SIZE * SIZE  # whose input needs no gradient
    assert macs["kd"] == 3 * student - stem
    assert 1.5 * macs["kd"] < macs["ackd"] < 3 * macs["kd"]


def peer(task: Task, name: str, options: dict[str, Any], folder: Path, **python: str) -> float:
    """The images of two steps."""
    chosen = dataclasses.replace(task, module=f"benchmarks.contenders.{name}", options=options)
    with Contender(name, chosen, folder, folder, **python) as contender:
        contender.warm_up()
        amount: float = contender.run(2)["amount"]
        return amount


def test_repdistillers_loop(task: Task, tmp_path: Path) -> None:
    checkout = os.environ.get("REPDISTILLER")
    if checkout is None:
        pytest.skip("REPDISTILLER names no checkout of RepDistiller")
    options = {"checkout": checkout, "workers": 1}
    assert peer(task, "repdistiller", options, tmp_path) == 2 * BATCH


def test_torchdistills_box(task: Task, tmp_path: Path) -> None:
    python = os.environ.get("TORCHDISTILL_PYTHON")
    if python is None:
        pytest.skip("TORCHDISTILL_PYTHON names no interpreter that has torchdistill")
    assert peer(task, "torchdistill", {"workers": 1}, tmp_path, python=python) == 2 * BATCH
