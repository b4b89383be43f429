"""Estimates of training time: the arithmetic, and real timed steps."""

from pathlib import Path
from typing import Any

import pytest

from models.networks.backbone import Backbone
from pipeline import forecast
from stages.files import write_json
from stages.params import Params
from stages.prepare_data import REPORT
from stages.training.loop import Trainer

STAGES = ["prepare_data", "train_teacher", "train_proxy", "distill"]
SHORT = {"network": "resnet8", "batch_size": 20}


def params(**changes: dict[str, Any]) -> Params:
    content = {
        "data": {"image_size": 8, "train_per_class": 9, "unlabeled": "digits"},
        "teacher": SHORT | {"epochs": 10},
        "distill": SHORT | {"epochs": 4, "method": "kd"},
    }
    return Params.model_validate(content | changes)


def test_training_time_is_images_divided_by_measured_throughput(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rates = {"teacher": 10.0, "assistant resnet14": 5.0, "kd": 1.0}
    timed: list[Any] = []

    def rate(training: Any, *_: Any) -> float:
        timed.append(training)
        return rates[training.what]

    monkeypatch.setattr(forecast, "_images_per_second", rate)
    assistants = {"method": "assistants", "assistants": {"networks": ["resnet14"]}}
    *lines, total = forecast.forecast(params(proxy=assistants), STAGES)
    # 90 labelled images, and for the student as many unlabelled ones, 10 per batch of 20.
    assert lines == [
        "teacher: about 1.5 min for 10 epochs of 90 images, at 10 images/s",
        "assistant resnet14: about 3 min for 10 epochs of 90 images, at 5 images/s",
        "kd: about 12 min for 4 epochs of 180 images, at 1 images/s",
    ]
    assert total.startswith("training: about 16 min in total without validation, estimated from 3")
    assert [training.teacher for training in timed] == [None, "resnet8", "resnet14"]
    # Prepared images are counted from their report.
    write_json(REPORT, {"splits": {"train": {"count": 7}}, "classes": ["a", "b"], "image_size": 8})
    line, _ = forecast.forecast(params(), ["train_teacher"])
    assert line == "teacher: about 7 s for 10 epochs of 7 images, at 10 images/s"
    assert list(forecast.forecast(params(), ["report"])) == []
    unknown = params(data={"source": "hf:some/where"})
    (line,) = forecast.forecast(unknown, STAGES)
    assert line.endswith("is unknown until prepare_data has run")


@pytest.mark.parametrize("method", ["kd", "ackd"])
def test_real_steps_are_timed(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    step, sizes = Trainer.step, list[int]()

    def counted(self: Trainer, shard: Any) -> Any:
        sizes.append(len(shard.batch.images))
        return step(self, shard)

    monkeypatch.setattr(Trainer, "step", counted)
    data = {"image_size": 16, "unlabeled": "digits" if method == "kd" else None}
    distill = SHORT | {"method": method}
    lines = list(forecast.forecast(params(data=data, distill=distill), STAGES))
    assert [line.partition(":")[0] for line in lines] == ["teacher", method, "training"]
    assert sizes == [20] * 8


def test_only_the_head_is_trained_where_the_chain_trains_only_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frozen: list[str] = []
    monkeypatch.setattr(Backbone, "freeze_trunk", lambda network: frozen.append(network.name))
    head = SHORT | {"epochs": 10, "weights": "own.pt", "train": "head"}
    stopped = {"method": "early_stopped", "early_stopped": {"epochs": 5}}
    list(forecast.forecast(params(teacher=head, proxy=stopped), STAGES))
    assert frozen == ["resnet8", "resnet8"]
    assistants = {"method": "assistants", "assistants": {"networks": ["resnet14"]}}
    list(forecast.forecast(params(teacher=head, proxy=assistants), ["prepare_data", "train_proxy"]))
    assert frozen == ["resnet8", "resnet8"]
    pretrained = head | {"weights": "pretrained"}
    list(
        forecast.forecast(
            params(teacher=pretrained, proxy=assistants), ["prepare_data", "train_proxy"]
        )
    )
    assert frozen[2:] == ["resnet14"]
