"""Learners on the page: their attention by class, and the warnings."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from stages.report_page.learners import warnings
from stages.report_page.tables import attention
from tests.stages import chain_files
from tests.stages.html_page import PAGE, change, made


@pytest.mark.parametrize("method", ["kd", "scratch"])
def test_a_method_without_learners_has_no_section_for_them(tmp_path, monkeypatch, method):
    monkeypatch.chdir(tmp_path)
    chain_files.write_chain(method)
    summary, page = made()
    assert "learners" not in page.order
    assert {"what": "auxiliary learners", "reason": f"the method {method} has none"} in summary[
        "skipped"
    ]
    assert "Nothing but the student was trained" in page.text["prune"]
    origin = "trained from scratch" if method == "scratch" else "distilled from resnet20 by KD"
    assert f"resnet8, {origin}" in page.text[""]


@pytest.mark.parametrize("names", [["D3B1"], ["D3B1", "D2B2", "D1B3"]])
def test_one_epoch_and_any_number_of_learners(chain, names):
    chain_files.write_training(epochs=1, learners=names)
    pairs = [f"{a}~{b}" for a, b in itertools.combinations(names, 2)]

    def analysed(content):
        content["learners"] = {
            "cka": dict.fromkeys(pairs, 0.5),
            "agreement": dict.fromkeys([*pairs, f"target~{names[0]}"], 0.9),
            "accuracy": dict.fromkeys(["target", *names, "ensemble"], 0.8),
            "attention": dict.fromkeys(names, 1 / len(names)),
        }

    change("reports/analysis.json", analysed)
    _, page = made()
    rows = [row[0] for row in page.tables["learners"][0]]
    assert rows == ["", "target (the student)", *names, "ensemble"]
    assert len(page.tables["learners"][1]) == 1 + len(pairs) + 1


def history(**columns: list[float]) -> dict[str, list[float]]:
    names = {"d": "discriminator_accuracy", "a": "attention/D3B1", "b": "attention/D2B2"}
    epochs = [float(n) for n in range(1, 1 + max([len(v) for v in columns.values()], default=0))]
    return {"epoch": epochs} | {names[key]: values for key, values in columns.items()}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, []),
        ({"d": [0.5] * 9 + [0.7] * 2}, []),
        ({"d": [0.9] * 8 + [0.51, 0.49]}, ["pinned at 50 % in each of the last 2 epochs"]),
        ({"d": [0.7] * 8 + [0.99, 1.0]}, ["pinned at 100 % in each of the last 2 epochs"]),
        ({"d": [0.7] * 8 + [0.5, 0.99]}, []),
        ({"d": [0.985]}, ["pinned at 100 % in the last epoch"]),
        ({"a": [0.5, 0.9], "b": [0.5, 0.1]}, ["collapsed on D3B1, with 90.00 % of the weight"]),
        ({"a": [0.99, 0.8], "b": [0.01, 0.2]}, []),
        ({"a": [1.0]}, []),  # a learner alone has all of it
    ],
)
def test_warns_where_learners_or_discriminators_no_longer_work(columns, expected):
    found = warnings(history(**columns))
    assert len(found) == len(expected)
    for sentence, part in zip(found, expected, strict=True):
        assert part in sentence


def test_warnings_stand_in_the_summary_and_above_the_charts(chain):
    summary, page = made()
    assert summary["warnings"] == []
    assert "Warning" not in page.text["learners"]
    path = Path("reports/distill/history.csv")
    rows = [line.split(",") for line in path.read_text().splitlines()]
    column = rows[0].index("attention/D3B1")
    for row in rows[1:]:
        row[column] = "0.97"
    path.write_text("".join(",".join(row) + "\n" for row in rows))
    summary, page = made()
    (sentence,) = summary["warnings"]
    assert "collapsed on D3B1, with 97.00 %" in sentence
    assert sentence in page.text["learners"]


def test_attention_by_class_shows_the_extremes(chain):
    chain_files.write_class_figures(100)
    _, page = made()
    table = page.tables["learners"][2]
    shown = [int(row[0].removeprefix("class ")) for row in table[1:]]
    assert sorted(shown) == [*range(10), *range(90, 100)]
    assert ["class 99", "64.9 %", "35.1 %"] in table
    assert "Attention by class (20 of 100, those farthest" in page.text["learners"]
    assert 'style="--heat: 100%">64.9 %</td>' in PAGE.read_text()


@pytest.mark.parametrize("weights", [{"a": [0.5, 0.5], "b": [0.5, 0.5]}, {"a": [1.0, 1.0]}, {}])
def test_attention_that_is_the_same_everywhere_is_left_out(weights):
    classes = [
        {"class": str(n), "images": 3} | {f"attention/{name}": w[n] for name, w in weights.items()}
        for n in range(2)
    ]
    assert attention(classes) is None
