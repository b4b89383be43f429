"""The multiply-adds of the paper's tables, held to those that the benchmark of training counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import cost
from benchmarks.cost import Counter, Training, count_table, find_preset, total
from benchmarks.page import markers
from models.errors import InputError
from stages.files import read_json
from tests.pipeline.conftest import ROOT


@pytest.fixture(autouse=True)
def _root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_table_6_is_what_the_benchmark_counted_and_table_7_shares_with_it() -> None:
    counter = Counter()
    table = {t.what: t for t in count_table(6, counter)}
    macs = read_json(cost.MEASURED)["pairs"]["resnet110-resnet20"]["macs"]
    taught = "from cifar100, resnet110"
    kd = table[f"cifar100, resnet20, ackd_without_collaboration {taught}"]
    ackd = table[f"cifar100, resnet20, ackd {taught}"]
    teacher = table["cifar100, resnet110, alone"]
    assert len(table) == 6
    assert (kd.step, ackd.step, kd.answer) == (macs["kd"], macs["ackd"], macs["teacher"])
    assert teacher.step == 3 * macs["teacher"]
    assert {(t.images, t.epochs) for t in table.values()} == {(50_000, 200)}
    assert kd.store == ackd.store == "cifar100, resnet110"
    pair = "cifar100/resnet110_resnet20"
    assert find_preset("cifar100", "resnet110", "resnet20") == pair
    content = {"data": "cifar100", "train_images": 50_000}
    assert cost.rate_of(pair, "kd", 10.0, counter) == 10 * (macs["kd"] + macs["teacher"])
    # Two of the paper's names for one training.
    (*_, again) = counter.trainings(pair, "ackd_d3b1_d2b2", content)
    assert again == ackd
    # Who stands between teacher and student is trained too.
    eskd = list(counter.trainings(pair, "eskd", content))
    assert [t.epochs for t in eskd] == [200, 65, 200]
    assert eskd[-1].store == "cifar100, resnet110, early-stopped"
    takd = list(counter.trainings(pair, "takd", content))
    assert [t.what for t in takd[1:]] == [
        "cifar100, resnet44, assistant of cifar100, resnet110",
        "cifar100, resnet20, takd from cifar100, resnet110, resnet44",
    ]
    # Features are never kept, and a memory of all images costs something.
    crd = list(counter.trainings(pair, "crd", content))[-1]
    assert crd.store is None
    assert crd.step > kd.step + 4 * 49_000 * 128
    assert [t.answer for t in counter.trainings(pair, "scratch", content)] == [0.0]
    with pytest.raises(InputError, match="no preset trains resnet8 from resnet110"):
        find_preset("cifar100", "resnet110", "resnet8")


def test_answers_that_are_kept_are_computed_once() -> None:
    trainings = [
        Training("teacher", 10, 2, 30.0),
        Training("kd", 10, 2, 3.0, 10.0, "teacher"),
        Training("longer", 10, 3, 3.0, 10.0, "teacher"),
        Training("at", 10, 2, 3.0, 10.0),
    ]
    own = 600 + 60 + 90 + 60
    assert total(trainings) == {
        "trainings": 4,
        "live": own + 200 + 300 + 200,
        "stored": own + 300 + 200,
        "answers": 700.0,
    }


def test_the_command_writes_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, output = tmp_path / "page.md", tmp_path / "cost.json"
    begin, end = markers("cost")
    page.write_text(f"{begin}\n{end}\n")
    given = ["--tables", "7", "--output", str(output)]
    cost.main([*given, "--page", str(page)])
    results = json.loads(output.read_text())
    (low, *_, high) = sorted(results["rates"])
    whole = results["tables"]["7"]
    assert whole["trainings"] == 6
    hours = f"{whole['live'] / high / 3600:,.0f} to {whole['live'] / low / 3600:,.0f}"
    assert hours in page.read_text()
    assert "| all, each training once | 6 |" in page.read_text()
    pair = "cifar100/resnet110_resnet20"
    cost.main([*given, "--measured", "my [GPU]", pair, "kd", "20000"])
    shown = capsys.readouterr().out
    assert "hours of my [GPU] at 7503 billion multiply-adds a second" in shown


def test_wrong_measurements_are_one_sentence(tmp_path: Path) -> None:
    given = ["--output", str(tmp_path / "cost.json"), "--measured", "mine"]
    for preset, rate, sentence in (
        ("cifar100/resnet110_resnet20", "fast", "'fast' are no images a second"),
        ("digits", "10", "--measured digits: expected a preset of cifar100"),
        ("cifar100/none", "10", "no such file"),
    ):
        with pytest.raises(SystemExit, match=sentence):
            cost.main([*given, preset, "kd", rate])
