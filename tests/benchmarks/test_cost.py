"""The multiply-adds of the paper's tables, held to those that the benchmark of training counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import cost
from benchmarks.cost import Training, find_preset, total, trainings
from benchmarks.results import ROOT, markers
from models.errors import InputError
from stages.files import read_json


@pytest.fixture(autouse=True)
def _root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_the_trainings_of_a_pair_are_what_the_benchmark_counted() -> None:
    macs = read_json(cost.MEASURED)["pairs"]["resnet110-resnet20"]["macs"]
    pair = find_preset("cifar100", "resnet110", "resnet20")
    assert pair == "cifar100/resnet110_resnet20"
    found = {method: list(trainings(pair, method)) for method in ("kd", "ackd", "takd", "crd")}
    teacher, kd = found["kd"]
    _, ackd = found["ackd"]
    assert (kd.step, ackd.step, kd.answer) == (macs["kd"], macs["ackd"], macs["teacher"])
    assert teacher.step == 3 * macs["teacher"]
    assert {training.images for training in (teacher, kd, ackd)} == {50_000 * 200}
    assert kd.store == ackd.store == "cifar100, resnet110"
    # Two of the paper's names for one training.
    assert list(trainings(pair, "ackd_d3b1_d2b2"))[-1] == ackd
    assistant, student = found["takd"][1:]
    assert assistant.what == "cifar100, resnet44, assistant of cifar100, resnet110"
    assert student.store == "cifar100, resnet110, resnet44"
    # Features are never kept, and a memory of all images costs something.
    crd = found["crd"][-1]
    assert crd.store is None
    assert crd.step > kd.step + 4 * 49_000 * 128
    assert [training.answer for training in trainings(pair, "scratch")] == [0.0]
    with pytest.raises(InputError, match="no preset trains resnet8 from resnet110"):
        find_preset("cifar100", "resnet110", "resnet8")


def test_answers_that_are_kept_are_computed_once() -> None:
    made = [
        Training("teacher", 20, 30.0),
        Training("kd", 20, 3.0, 10.0, "teacher"),
        Training("longer", 30, 3.0, 10.0, "teacher"),
        Training("at", 20, 3.0, 10.0),
    ]
    own = 600 + 60 + 90 + 60
    assert total(made) == {
        "trainings": 4,
        "live": own + 200 + 300 + 200,
        "stored": own + 300 + 200,
        "answers": 700.0,
    }


def test_the_command_writes_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "TABLES", (7,))
    page, output = tmp_path / "page.md", tmp_path / "cost.json"
    page.write_text("\n".join([*markers("cost"), ""]))
    cost.main(output, page)
    measured = read_json(ROOT / "benchmarks/results/cost.json")["tables"]
    tables = read_json(output)["tables"]
    assert tables["7"] == pytest.approx(measured["7"])
    assert tables["7"] == tables["all, each training once"]
    assert "| all, each training once | 6 |" in page.read_text()
