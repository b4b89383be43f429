"""Properties of all methods, through ``distill`` and ``prune``."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

import models
from models import distillers
from models.learners import load_learners
from models.networks.backbone import Backbone
from stages import distill, prune
from stages.display import Display
from stages.params import Params
from stages.sections.methods import Distill

METHODS = get_args(Distill.model_fields["method"].annotation)
STUDENT = Path("artifacts/distilled/model.safetensors")
METRICS = Path("reports/distill/metrics.json")
# The modules that each trains besides the student, and its learners.
HELPERS = {
    "cc": {"incongruence"},
    "vid": {"predictors"},
    "crd": {"embed_student", "embed_teacher"},
    "semckd": {"keys", "queries", "regressors"},
    "reviewkd": {"fusions"},
    "one": {"learners.0", "learners.1", "gate"},
    "ackd": {"learners.0", "learners.1", "attention", "discriminators.0", "discriminators.1"},
}
LEARNERS = {"one": ["D3B1", "D3B1#2"], "ackd": ["D3B1", "D2B2"]}


@pytest.mark.usefixtures("distillable")
@pytest.mark.parametrize("method", METHODS)
def test_interrupted_trainings_give_the_same_weights_and_a_plain_student(
    method, monkeypatch, capsys
):
    settings = {"method": method, "epochs": 2, "batch_size": 12, "learning_rate": 0.01}
    content = {
        "augmentation": {"crop_padding": 1},
        "training": {"precision": "fp32", "checkpoint_minutes": 1e-9},
        "distill": settings | {"network": "resnet8", "seed": 5},
    }
    params = Params.model_validate(content)
    begun: list[dict[str, torch.Tensor]] = []
    build = distillers.build

    def see(name: str, student: Backbone, *given: Any) -> Any:
        begun.append({name: tensor.clone() for name, tensor in student.state_dict().items()})
        return build(name, student, *given)

    monkeypatch.setattr(distillers, "build", see)
    distill.main(params)
    wanted, measured = STUDENT.read_bytes(), METRICS.read_bytes()
    STUDENT.unlink()
    # With one seed, all methods start from the same student.
    torch.manual_seed(5)
    fresh = models.build("resnet8", 3).state_dict()
    assert all(torch.equal(begun[0][name], tensor) for name, tensor in fresh.items())

    steps = []
    show = Display.step

    def stop(display: Display, losses: Any) -> None:
        show(display, losses)
        steps.append(losses)
        if len(steps) == 6:  # the second of epoch 2, before its checkpoint
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Display, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            distill.main(params)
    assert not STUDENT.exists()
    distill.main(params)
    assert "resuming an interrupted training at epoch 2, step 2" in capsys.readouterr().out
    assert STUDENT.read_bytes() == wanted
    assert METRICS.read_bytes() == measured

    prune.main(params)
    metrics = json.loads(measured)
    dropped = json.loads(Path("reports/prune.json").read_text())["dropped"]
    learners = LEARNERS.get(method, [])
    assert metrics["method"] == method
    assert list(metrics.get("learners", {})) == [*learners, *(["ensemble"] if learners else [])]
    assert set(dropped) == HELPERS.get(method, set())
    assert load_learners(STUDENT).names == learners
