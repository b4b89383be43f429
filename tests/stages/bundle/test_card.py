"""How the card says that teacher and student were trained; the rest is in test_package."""

from typing import Any

import pytest

from stages.bundle.card import making
from stages.params import Params

_SLOW = {"schedule": "multi_step", "epochs": 240, "milestones": [150, 180]}


def row(name: str, **params: Any) -> list[str | None] | None:
    rows = making(Params.model_validate(params), "resnet44").rows
    return next(([*cells[1:]] for cells in rows if cells[0] == name), None)


@pytest.mark.parametrize(
    ("proxy", "expected"),
    [
        ({}, "resnet44"),
        ({"early_stopped": {"epochs": 7}}, "resnet44, trained again for 7 epochs"),
        (
            {"assistants": {"networks": ["resnet56", "resnet44"]}},
            "resnet44, the last of the assistants resnet56, resnet44",
        ),
        (
            {"assistants": {"candidates": ["resnet8", "resnet44"]}},
            "the assistant resnet44, chosen from resnet8, resnet44",
        ),
    ],
)
def test_whom_the_student_learned_from(proxy, expected):
    method = next(iter(proxy), "teacher")
    assert row("learned from", proxy={"method": method} | proxy) == ["", expected]


def test_the_settings_of_both_trainings():
    assert row("learned from", distill={"method": "scratch"}) is None
    assert row("method", distill={"method": "scratch"}) == ["supervised", "supervised"]
    assert row("schedule", distill=_SLOW) == ["one_cycle", "multi_step"]
    assert row("milestones", distill=_SLOW) == ["", "150, 180"]
    assert row("ema", teacher={"ema": 0.99}) == ["0.99", ""]
    assert row("momentum", distill={"optimizer": "adamw"}) == ["0.9", ""]
    assert row("warmup") is None
    assert row("starts from") is None
    loaded = {"weights": "weights/resnet_110.pth", "train": "none"}
    assert row("method", teacher=loaded) == ["not trained here", "ACKD"]
    assert row("starts from", teacher=loaded) == ["resnet_110.pth", "random weights"]
    assert row("epochs", teacher=loaded, distill=_SLOW) == ["", "240"]
    published = {"weights": "pretrained", "train": "head"}
    assert row("method", teacher=published) == ["supervised, only the classifier", "ACKD"]
    origins = ["the library's pretrained weights", "random weights"]
    assert row("starts from", teacher=published) == origins
