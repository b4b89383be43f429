import math

import pytest
import torch
from torch import Tensor, nn

import models
from models.distillers import build
from models.distillers.base import Setting
from models.errors import InputError
from stages.sections.training import Training
from stages.training.optimizer import build_optimizer


def module_of(weight: Tensor) -> nn.Module:
    module = nn.Module()
    module.register_parameter("weight", nn.Parameter(weight))
    return module


def rates(settings: Training, steps_per_epoch: int) -> list[float]:
    optimizer, schedule = build_optimizer(module_of(torch.ones(1)), settings, steps_per_epoch)
    seen = []
    for _ in range(settings.epochs * steps_per_epoch):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_multi_step_falls_after_its_milestones():
    settings = Training(epochs=6, learning_rate=0.1, schedule="multi_step", milestones=[2, 4])
    assert rates(settings, 3) == pytest.approx([0.1] * 6 + [0.01] * 6 + [0.001] * 6)


def test_one_cycle_rises_and_falls():
    seen = rates(Training(epochs=10, learning_rate=0.2), 10)
    assert seen[0] == pytest.approx(0.04 * 0.2)
    assert max(seen) == pytest.approx(0.2) == seen[30]
    assert seen == sorted(seen[:31]) + sorted(seen[31:], reverse=True)
    middle = 0.2 * (1e-4 + (1 - 1e-4) * 0.5 * (1 + math.cos(math.pi * 0.5)))
    assert seen[65] == pytest.approx(middle)


def test_momentum_and_decay_are_those_of_sgd():
    module = module_of(torch.tensor([2.0]))
    settings = Training(learning_rate=0.1, schedule="multi_step", momentum=0.9, weight_decay=0.01)
    optimizer, _ = build_optimizer(module, settings, 3)
    value, velocity = 2.0, 0.0
    for _ in range(3):
        optimizer.zero_grad()
        (3 * module.weight).sum().backward()
        optimizer.step()
        velocity = 0.9 * velocity + 3 + 0.01 * value
        value -= 0.1 * velocity
    assert float(module.weight.detach()) == pytest.approx(value, rel=1e-6)


def test_cosine_warms_up_and_falls_to_nothing():
    settings = Training(epochs=10, learning_rate=0.2, schedule="cosine", warmup=0.1)
    seen = rates(settings, 10)
    assert seen[:10] == pytest.approx([0.2 * step / 11 for step in range(1, 11)])
    assert seen[10] == pytest.approx(0.2)
    assert seen[55] == pytest.approx(0.1)
    assert seen[99] == pytest.approx(0.1 * (1 + math.cos(math.pi * 89 / 90)))


def distiller_of(network: str) -> nn.Module:
    setting = Setting(None, 32, torch.zeros(4, dtype=torch.int64), 2, 1)
    options = {"temperature": 3, "ce_weight": 1, "kd_weight": 1, "branches": 2, "ramp_up": 0.5}
    return build("one", models.build(network, 10), setting, options)


def test_adamw_spares_norms_and_biases():
    distiller = distiller_of("resnet8")
    settings = Training(optimizer="adamw", learning_rate=0.01, weight_decay=0.1)
    optimizer, _ = build_optimizer(distiller, settings, 1)
    decays = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    wanted = {p: 0.1 if p.ndim > 1 else 0.0 for p in distiller.parameters()}
    assert decays == wanted
    # The first step of AdamW is the rate, whatever the gradient's size (Loshchilov & Hutter 2019).
    module = module_of(torch.tensor([[2.0]]))
    constant = settings.model_copy(update={"schedule": "multi_step"})
    optimizer, _ = build_optimizer(module, constant, 1)
    (1000 * module.weight).sum().backward()
    optimizer.step()
    assert float(module.weight.detach()) == pytest.approx(2 * (1 - 0.01 * 0.1) - 0.01)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_lower_layers_take_smaller_steps(name):
    distiller = distiller_of("timm:test_resnet")
    constant = {"learning_rate": 0.5, "schedule": "multi_step"}
    settings = Training(optimizer=name, layer_decay=0.5, **constant)
    optimizer, _ = build_optimizer(distiller, settings, 1)
    assert sorted(p.numel() for group in optimizer.param_groups for p in group["params"]) == sorted(
        p.numel() for p in distiller.parameters()
    )
    rate_of = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    rate = {name: rate_of[p] for name, p in distiller.named_parameters()}
    assert rate["student.fc.weight"] == rate["gate.weigh.weight"] == 0.5
    assert rate["student.layer4.0.conv1.weight"] == 0.25
    assert rate["student.conv1.0.weight"] < rate["student.layer1.0.conv1.weight"] < 0.25


def test_layers_that_are_not_known_are_refused():
    with pytest.raises(InputError, match="layer_decay is 0.5, but the layers of resnet8 are"):
        build_optimizer(distiller_of("resnet8"), Training(layer_decay=0.5), 1)
