import itertools
import json
import re
from pathlib import Path

import pytest

from stages.report_page.learner_warnings import warnings
from tests.stages import chain_files
from tests.stages.html_page import PAGE, SUMMARY, Page, change, made, reasons


@pytest.mark.parametrize("method", ["kd", "scratch"])
def test_a_method_without_learners_has_no_section_for_them(here, method):
    chain_files.write_chain(method)
    summary, page = made()
    assert "learners" not in page.order
    assert reasons(summary)["auxiliary learners"] == f"the method {method} has none"
    assert "Only the student was trained" in page.text["prune"]


@pytest.mark.parametrize("names", [["D3B1"], ["D3B1", "D2B2", "D1B3"]])
def test_one_epoch_and_any_number_of_learners(chain, names):
    chain_files.write_training(epochs=1, learners=names)
    pairs = [f"{a}~{b}" for a, b in itertools.combinations(names, 2)]
    analysed = {
        "cka": dict.fromkeys(pairs, 0.5),
        "agreement": dict.fromkeys([*pairs, f"target~{names[0]}"], 0.9),
        "accuracy": dict.fromkeys(["target", *names, "ensemble"], 0.8),
        "attention": dict.fromkeys(names, 1 / len(names)),
    }
    change("reports/analysis.json", learners=analysed)
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
        ({"d": [0.9] * 8 + [0.51, 0.49]}, ["pinned at 50 % in each of the last 2 epochs"]),
        ({"d": [0.7] * 8 + [0.5, 0.99]}, []),
        ({"d": [0.985]}, ["pinned at 100 % in the last epoch"]),
        ({"a": [0.5, 0.9], "b": [0.5, 0.1]}, ["collapsed on D3B1, with 90.00 % of the weight"]),
        ({"a": [0.99, 0.8], "b": [0.01, 0.2]}, []),
        ({"a": [1.0]}, []),  # a single learner has all of it
    ],
)
def test_warns_of_learners_or_discriminators_without_effect(columns, expected):
    found = warnings(history(**columns))
    assert len(found) == len(expected)
    for sentence, part in zip(found, expected, strict=True):
        assert part in sentence


def test_warnings_stand_in_the_summary_and_above_the_results(chain, reported):
    assert json.loads((reported / SUMMARY).read_text())["warnings"] == []
    path = Path("reports/distill/history.csv")
    rows = [line.split(",") for line in path.read_text().splitlines()]
    column = rows[0].index("attention/D3B1")
    for row in rows[1:]:
        row[column] = "0.97"
    path.write_text("".join(",".join(row) + "\n" for row in rows))
    summary, page = made()
    (sentence,) = summary["warnings"]
    assert "collapsed on D3B1, with 97.00 %" in sentence
    assert sentence in page.text["results"]


def test_attention_by_class_shows_the_extremes(chain):
    chain_files.write_class_figures(100)
    _, page = made()
    table = page.tables["learners"][2]
    shown = [int(row[0].removeprefix("class ")) for row in table[1:]]
    assert sorted(shown) == [*range(10), *range(90, 100)]
    assert ["class 99", "64.9 %", "35.1 %"] in table
    assert "Attention by class (20 of 100, those farthest" in page.text["learners"]


def test_the_student_is_compared_with_the_teacher_class_by_class(reported):
    page = Page((reported / PAGE).read_text())
    (table,) = page.tables["classes"]
    assert table[1] == ["red", "90", "99.00 %", "90.00 %", "−9.00"]
    assert table[-1] == ["a <b> & $c$", "90", "99.00 %", "96.00 %", "−3.00"]
    assert "analyze.baseline" in page.text["classes"]


def test_gains_over_a_baseline_show_the_largest_and_the_smallest(chain):
    gain = {"gain": 0.0123, "low": -0.002, "high": 0.031}
    change("reports/analysis.json", baseline={"path": "kd.csv", "paired": True, **gain})
    chain_files.write_class_figures(100, gains=True)
    summary, page = made()
    assert summary["baseline"]["gain"] == 0.0123
    reading = page.text["classes"]
    assert "Against kd.csv the student gains +1.23 points on average over the" in reading
    assert "interval −0.20 to +3.10; paired on" in reading
    (label,) = re.findall(r'aria-label="(Gain over kd.csv[^"]+)"', PAGE.read_text())
    assert "class 99 +5.00 (+3.00 to +7.00)" in label
    assert "class 0 −5.00 (−7.00 to −3.00)" in label
    assert "class 50" not in label
    assert label.count("class ") == 20
