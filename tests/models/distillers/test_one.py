"""ONE against its formula in numpy."""

import math
from typing import Any

import numpy as np
import pytest
import torch

import models
from models.distillers.base import Batch
from models.distillers.losses import sigmoid_ramp
from models.distillers.one import One
from tests.models.distillers.test_kd import ce, kl, softmax
from tests.models.distillers.tiny import (
    Array,
    array,
    linear,
    losses_of,
    numerical_gradients,
    settle,
)
from tests.setting import make_setting

OPTIONS: dict[str, Any] = {"temperature": 3.0, "ce_weight": 1.0, "kd_weight": 1.0}
OPTIONS |= {"branches": 3, "ramp_up": 0.25}
BATCH = Batch(torch.randn(6, 3, 16, 16), torch.tensor([0, 3, 4, 1, 1, 2]), torch.arange(6))


def make(network: str = "resnet8", **options: Any) -> One:
    torch.manual_seed(0)
    method = One(models.build(network, 5), make_setting(), **(OPTIONS | options))
    settle(method)
    return method


def in_double(method: One) -> tuple[One, Batch]:
    return method.double().eval(), BATCH._replace(images=BATCH.images.double())


def gate(method: One, shared_map: Array, *, training: bool) -> Array:
    module = method.gate
    scores = linear(module.weigh, shared_map.mean((2, 3)))
    mean, var = array(module.norm.running_mean), array(module.norm.running_var)
    if training:
        mean, var = scores.mean(0), scores.var(0)
    scores = (scores - mean) / np.sqrt(var + 1e-5) * array(module.norm.weight)
    return softmax(np.maximum(scores + array(module.norm.bias), 0))


def wanted_losses(logits: list[Array], weights: Array, labels: Array, teacher: Array | None) -> Any:
    """Compute the unweighted losses; ``teacher`` is the ensemble if it is held fixed."""
    ensemble = sum(weights[:, [k]] * z for k, z in enumerate(logits))
    divergences = [kl(ensemble if teacher is None else teacher, z, 3.0) for z in logits]
    return {
        "ce_target": ce(logits[0], labels),
        "ce_learners": sum(ce(z, labels) for z in logits[1:]),
        "ce_ensemble": ce(ensemble, labels),
        "kd": sum(divergences),
    }


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("network", "branches"), [("resnet8", 3), ("wrn_10_1", 2)])
def test_losses(network, branches, training):
    method, batch = in_double(make(network, branches=branches, ce_weight=0.7, kd_weight=0.3))
    method.gate.train(training)
    method.begin_epoch(1)
    group = method(batch.images)
    logits = [array(z) for z in group.logits]
    weights = gate(method, array(group.target.stages[-2]), training=training)
    assert len(logits) == branches
    np.testing.assert_allclose(array(group.weights), weights, rtol=1e-12)
    wanted = wanted_losses(logits, weights, batch.labels.numpy(), None)
    supervised = wanted["ce_target"] + wanted["ce_learners"] + wanted["ce_ensemble"]
    # Epoch 1 of 8, with a ramp of 2.
    wanted["total"] = 0.7 * supervised + 0.3 * math.exp(-1.25) * wanted["kd"]
    measured = {name: loss.item() for name, loss in losses_of(method, batch).items()}
    assert measured == pytest.approx(wanted, rel=1e-10)


def test_the_gradient_equals_the_numerical_one_for_a_fixed_ensemble():
    method, batch = in_double(make())
    method.begin_epoch(8)
    losses_of(method, batch)["total"].backward()
    group = method(batch.images)
    shared, teacher = array(group.target.stages[-2]), array(group.ensemble)
    branches = [method.student, *method.learners]
    embeddings = [array(f.embedding) for f in (group.target, *group.learners)]
    parameters = [branch.fc.weight for branch in branches]
    parameters += [method.gate.weigh.weight, method.gate.norm.bias]

    def total(*moved: Array) -> float:  # numpy shares the parameters' memory
        logits = [linear(b.fc, e) for b, e in zip(branches, embeddings, strict=True)]
        weights = gate(method, shared, training=False)
        return float(sum(wanted_losses(logits, weights, batch.labels.numpy(), teacher).values()))

    numerical = numerical_gradients(total, [p.detach().numpy() for p in parameters])
    for parameter, wanted in zip(parameters, numerical, strict=True):
        np.testing.assert_allclose(array(parameter.grad), wanted, rtol=1e-6, atol=1e-8)
        assert np.abs(wanted).max() > 1e-4


def test_ramp():
    ramp = [sigmoid_ramp(epoch, 80 / 300, 300) for epoch in (0, 40, 79, 80, 299)]
    wanted = [math.exp(-5), math.exp(-1.25), math.exp(-5 / 6400), 1.0, 1.0]
    assert ramp == pytest.approx(wanted, rel=1e-12)
    assert sigmoid_ramp(0, 0.0, 300) == 1


def test_losses_are_float32_under_autocast():
    method = make().eval()
    with torch.autocast("cpu", torch.float16):
        losses = losses_of(method, BATCH)
        group = method(BATCH.images)
    assert group.target.logits.dtype == torch.float16
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert group.ensemble.dtype == group.weights.dtype == torch.float32


def test_branches_are_last_stages():
    assert make("resnet18_cifar").learner_names == ["D4B1", "D4B1#2"]
