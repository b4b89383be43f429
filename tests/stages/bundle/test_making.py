from __future__ import annotations

from typing import Any

import pytest

from stages.bundle.making import Making, data_section, making_section
from stages.sections.data import Augmentation, Data
from stages.sections.methods import Assistants, Distill, EarlyStopped, Proxy
from stages.sections.training import Teacher

REPORT = {
    "source": "hf:uoft-cs/cifar100@abc",
    "image_size": 32,
    "classes": ["a", "b"],
    "val_images_also_in_train": 0,
    "test_images_also_in_train": 3,
    "splits": {name: {"count": 20, "per_class": [10, 10]} for name in ("train", "val", "test")},
}


def made(**given: Any) -> Making:
    return Making(
        report=REPORT,
        environment={},
        data=Data(val_fraction=0.0),
        augmentation=Augmentation(),
        teacher=given.get("teacher", Teacher()),
        proxy=given.get("proxy", Proxy()),
        distill=given.get("distill", Distill()),
    )


def row(name: str, **given: Any) -> list[str]:
    section = making_section(made(**given), "resnet44")
    (found,) = [line for line in section.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in found.strip("|").split("|")[1:]]


def test_the_data_and_how_they_were_split() -> None:
    section = data_section(made())
    assert (
        "uoft-cs/cifar100 of the hub, revision abc: images of 32x32 pixels, 2 classes." in section
    )
    assert "| test | 20 | 10 | 3 |" in section
    assert "`val_fraction` 0.0" in section


@pytest.mark.parametrize(
    ("proxy", "told"),
    [
        (Proxy(), "resnet44"),
        (
            Proxy(method="early_stopped", early_stopped=EarlyStopped(epochs=7)),
            "resnet44, trained anew for 7 epochs",
        ),
        (
            Proxy(method="assistants", assistants=Assistants(networks=["resnet56", "resnet44"])),
            "resnet44, the last of the assistants resnet56, resnet44",
        ),
        (
            Proxy(method="assistants", assistants=Assistants(candidates=["resnet8", "resnet44"])),
            "the assistant resnet44, chosen from resnet8, resnet44",
        ),
    ],
)
def test_whom_the_student_learned_from(proxy: Proxy, told: str) -> None:
    assert row("learned from", proxy=proxy) == ["", told]


def test_a_student_that_nobody_taught() -> None:
    section = making_section(made(distill=Distill(method="scratch")), "resnet20")
    assert "learned from" not in section
    assert row("method", distill=Distill(method="scratch")) == ["supervised", "supervised"]


def test_the_settings_of_both_trainings() -> None:
    slow = Distill(schedule="multi_step", epochs=240, milestones=[150, 180])
    assert row("schedule", distill=slow) == [
        "one_cycle",
        "multi_step, a tenth after epochs 150, 180",
    ]
    loaded = Teacher(checkpoint="weights/resnet_110.pth")
    assert row("method", teacher=loaded)[0] == "loaded from resnet_110.pth"
    assert row("epochs", teacher=loaded, distill=slow) == ["", "240"]
    assert row("method", teacher=Teacher(checkpoint="pretrained"))[0].startswith("weights that its")
