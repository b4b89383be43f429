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
def summary(here):
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
    """Return the goals in the file, after checking that a breach is an error."""
    Path("reports/summary.json").write_text(json.dumps(summary))
    try:
        gate.main(Params(gate=Gate(**goals)))
        passed = True
    except InputError:
        passed = False
    report = json.loads(Path("reports/gate.json").read_text())
    assert report["passed"] == passed == all(goal["met"] for goal in report["goals"])
    return report["goals"]


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
    assert judged(summary) == []
    for wanted, expected in ((met, True), (missed, False)):
        (found,) = judged(summary, **{goal: wanted})
        assert found.pop("measured") == pytest.approx(measured)
        assert found == {"goal": goal, "of": of, "wanted": wanted, "met": expected}


def verdicts(summary: dict[str, Any], **goals: float) -> list[tuple[str, str, bool]]:
    found = judged(summary, **goals)
    return [(goal["goal"].removeprefix("max_"), goal["of"], goal["met"]) for goal in found]


def test_every_export_that_passed_its_validation_counts(summary):
    drops = [("export_drop", "fp32", True), ("export_drop", "fp16", True)]
    assert verdicts(summary, max_export_drop=0.005) == [*drops, ("export_drop", "int8", False)]
    summary["exports"]["int8"]["status"] = "failed"
    summary["exports"]["fp32"]["status"] = "skipped"
    goals = {"max_export_drop": 0.02, "max_p90_ms": 0.3, "max_size_mb": 0.2}
    wanted = [("export_drop", "fp16", True), ("p90_ms", "fp16", False), ("size_mb", "fp16", True)]
    assert verdicts(summary, **goals) == wanted
    summary["exports"]["fp16"].update(p90_ms=None, drop=None)
    found = judged(summary, max_p90_ms=100, max_export_drop=1)
    assert [(goal["measured"], goal["met"]) for goal in found] == [(None, False)] * 2
    summary["exports"]["fp16"]["status"] = "failed"
    goals = {"max_export_drop": 1.0, "max_p90_ms": 100.0, "max_size_mb": 100.0}
    assert [met for _, _, met in verdicts(summary, **goals)] == [False] * 3


def test_one_sentence_names_every_breach(summary):
    summary["exports"]["fp16"]["drop"] = None
    Path("reports/summary.json").write_text(json.dumps(summary))
    goals = "{min_accuracy: 0.97, max_drop_from_teacher: 0.5, max_export_drop: 0.005}"
    Path("params.yaml").write_text(f"gate: {goals}\n")
    message = str(exit_of("gate"))
    assert message.startswith("error: reports/gate.json: 3 of 5 goals are missed")
    assert "min_accuracy of resnet8 is 0.96, expected at least 0.97" in message
    assert "max_export_drop of fp16 was not measured" in message
    assert "max_export_drop of int8 is 0.01, expected at most 0.005" in message
    assert "max_drop_from_teacher" not in message
    assert "\n" not in message
    assert json.loads(Path("reports/gate.json").read_text())["passed"] is False
