import json
from pathlib import Path
from typing import Any

import pytest

from models.errors import InputError
from stages import gate
from stages.params import Params
from stages.sections.result import Gate
from tests.stages.conftest import exit_of


def export(status: str = "passed", **more: Any) -> dict[str, Any]:
    figures = {"size_mb": 0.3, "accuracy": 0.97, "drop": 0.0, "p50_ms": 0.4, "p90_ms": 0.5}
    return {"status": status, **figures, **more}


@pytest.fixture
def summary(tmp_path, monkeypatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    Path("reports").mkdir()
    return {
        "student": {"network": "resnet8", "accuracy": 0.96},
        "drop_from_teacher": 0.98 - 0.96,  # 0.020000000000000018
        "exports": {
            "fp32": export(),
            "fp16": export(size_mb=0.16, drop=0.001, p90_ms=0.8),
            "int8": export(size_mb=0.1, drop=0.01, p90_ms=0.2),
        },
    }


def judged(summary: dict[str, Any], **goals: float) -> list[dict[str, Any]]:
    """The goals in the file; a breach must be an error too."""
    Path("reports/summary.json").write_text(json.dumps(summary))
    params = Params(gate=Gate(**goals))
    try:
        gate.main(params)
        raised = False
    except InputError:
        raised = True
    report = json.loads(Path("reports/gate.json").read_text())
    assert report["passed"] == (not raised) == all(goal["met"] for goal in report["goals"])
    return report["goals"]


def test_no_goal_is_met_by_anything(summary):
    assert judged(summary) == []


@pytest.mark.parametrize(
    ("goal", "met", "missed", "measured", "of"),
    [
        ("min_accuracy", 0.96, 0.961, 0.96, "resnet8"),
        ("max_drop_from_teacher", 0.02, 0.0199, 0.02, "resnet8"),
        ("max_p90_ms", 0.2, 0.19, 0.2, "int8"),
        ("max_size_mb", 0.3, 0.29, 0.3, "fp32"),
    ],
)
def test_a_goal_is_met_up_to_its_value(summary, goal, met, missed, measured, of):
    for wanted, expected in ((met, True), (missed, False)):
        (found,) = judged(summary, **{goal: wanted})
        assert found == {
            "goal": goal,
            "of": of,
            "wanted": wanted,
            "measured": pytest.approx(measured),
            "met": expected,
        }


def test_every_export_has_its_own_drop(summary):
    found = judged(summary, max_export_drop=0.005)
    assert [(goal["of"], goal["met"]) for goal in found] == [
        ("fp32", True),
        ("fp16", True),
        ("int8", False),
    ]


def test_what_failed_its_validation_never_counts(summary):
    summary["exports"]["int8"]["status"] = "failed"
    summary["exports"]["fp32"]["status"] = "skipped"
    found = judged(summary, max_export_drop=0.02, max_p90_ms=0.3, max_size_mb=0.2)
    assert [(goal["goal"], goal["of"], goal["met"]) for goal in found] == [
        ("max_export_drop", "fp16", True),
        ("max_p90_ms", "fp16", False),
        ("max_size_mb", "fp16", True),
    ]


def test_what_was_not_measured_is_missed(summary):
    for each in summary["exports"].values():
        each["p90_ms"] = each["drop"] = None
    found = judged(summary, max_p90_ms=100, max_export_drop=1)
    assert all(goal["measured"] is None and not goal["met"] for goal in found)
    assert len(found) == 4


def test_goals_are_missed_where_no_export_passed(summary):
    for each in summary["exports"].values():
        each["status"] = "failed"
    found = judged(summary, max_p90_ms=100, max_export_drop=1, max_size_mb=100)
    assert [(goal["of"], goal["met"]) for goal in found] == [(None, False)] * 3


def test_the_error_names_every_breach(summary):
    summary["exports"]["fp16"]["drop"] = None
    Path("reports/summary.json").write_text(json.dumps(summary))
    goals = Gate(min_accuracy=0.97, max_drop_from_teacher=0.5, max_export_drop=0.005)
    with pytest.raises(InputError) as error:
        gate.main(Params(gate=goals))
    message = str(error.value)
    assert "reports/gate.json: 3 of 5 goals are missed" in message
    assert "min_accuracy of resnet8 is 0.96, expected at least 0.97" in message
    assert "max_export_drop of fp16 was not measured" in message
    assert "max_export_drop of int8 is 0.01, expected at most 0.005" in message
    assert "max_drop_from_teacher" not in message
    assert "\n" not in message


def test_a_missed_goal_fails_the_process_without_a_traceback(summary):
    Path("reports/summary.json").write_text(json.dumps(summary))
    Path("params.yaml").write_text("gate: {min_accuracy: 0.99}\n")
    assert str(exit_of("gate")).startswith("error: reports/gate.json: 1 of 1 goals")
    assert json.loads(Path("reports/gate.json").read_text())["passed"] is False


def test_without_a_summary_the_error_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"reports/summary\.json: no such file; run `dvc repro`"):
        gate.main(Params())
    assert not Path("reports").exists()
