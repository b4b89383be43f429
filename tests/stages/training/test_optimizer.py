"""The learning rate, step by step."""

import math

import pytest
import torch

from stages.sections.training import Training
from stages.training.optimizer import build_optimizer


def rates(settings: Training, steps_per_epoch: int) -> list[float]:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer, schedule = build_optimizer([weight], settings, steps_per_epoch)
    seen = []
    for _ in range(settings.epochs * steps_per_epoch):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_multi_step_falls_after_its_milestones() -> None:
    settings = Training(epochs=6, learning_rate=0.1, schedule="multi_step", milestones=[2, 4])
    assert rates(settings, 3) == pytest.approx([0.1] * 6 + [0.01] * 6 + [0.001] * 6)


def test_one_cycle_rises_and_falls() -> None:
    seen = rates(Training(epochs=10, learning_rate=0.2), 10)
    assert seen[0] == pytest.approx(0.04 * 0.2)
    assert max(seen) == pytest.approx(0.2) == seen[30]
    assert seen == sorted(seen[:31]) + sorted(seen[31:], reverse=True)
    middle = 0.2 * (1e-4 + (1 - 1e-4) * 0.5 * (1 + math.cos(math.pi * 0.5)))
    assert seen[65] == pytest.approx(middle)


def test_momentum_and_decay_are_those_of_sgd() -> None:
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    settings = Training(
        epochs=1, learning_rate=0.1, schedule="multi_step", momentum=0.9, weight_decay=0.01
    )
    optimizer, _ = build_optimizer([weight], settings, 3)
    value, velocity = 2.0, 0.0
    for _ in range(3):
        optimizer.zero_grad()
        (3 * weight).sum().backward()
        optimizer.step()
        velocity = 0.9 * velocity + 3 + 0.01 * value
        value -= 0.1 * velocity
    assert float(weight.detach()) == pytest.approx(value, rel=1e-6)
