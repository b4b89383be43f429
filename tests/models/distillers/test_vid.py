"""VID against its formula in numpy."""

import numpy as np
import pytest
import torch

from models.distillers.vid import Vid
from tests.models.distillers.tiny import (
    Array,
    Tiny,
    array,
    detach,
    make_features,
    numerical_gradients,
    pool_pair,
)
from tests.setting import make_setting

# 6, 3 and 2 pixels meet 3, 2 and 1.
STUDENT, TEACHER = Tiny(2, 3, 2).double(), Tiny(3, 2, 4, 2, stride=2).double()
OPTIONS = {"temperature": 4.0, "ce_weight": 1.0, "kd_weight": 0.0, "feature_weight": 1.0}


def make() -> Vid:
    torch.manual_seed(0)
    method = Vid(STUDENT, make_setting(teacher=TEACHER, image_size=6), **OPTIONS).double()
    for predictor in method.predictors:
        torch.nn.init.uniform_(predictor.rho, -2, 2)  # variances unlike each other
    return method


def conv1x1(layer: torch.nn.Conv2d, x: Array) -> Array:
    return np.einsum("oc,bchw->bohw", array(layer.weight)[:, :, 0, 0], x)


def wanted(method: Vid, student: list[Array], teacher: list[Array], rhos: list[Array]) -> float:
    total = 0.0
    pairs = map(pool_pair, student, teacher)
    for predictor, (ours, theirs), rho in zip(method.predictors, pairs, rhos, strict=True):
        first, _, second, _, third = predictor.mean
        mu = np.maximum(conv1x1(first, ours), 0)
        mu = conv1x1(third, np.maximum(conv1x1(second, mu), 0))
        for c, value in enumerate(rho):
            variance = np.log(1 + np.exp(value)) + 1e-5
            terms = 0.5 * ((mu[:, c] - theirs[:, c]) ** 2 / variance + np.log(variance))
            total += terms.mean() / len(rho)
    return float(total)


def test_loss_and_gradient():
    method = make()
    student, teacher = make_features(STUDENT, 6, 2, seed=0), make_features(TEACHER, 6, 2, seed=1)
    loss = method.feature_loss(student, detach(teacher), None)
    maps, targets = [array(m) for m in student.stages], [array(m) for m in teacher.stages[:3]]
    rhos = [array(predictor.rho).copy() for predictor in method.predictors]
    assert loss.item() == pytest.approx(wanted(method, maps, targets, rhos), abs=1e-10)
    loss.backward()
    leaves = [*student.stages, *(predictor.rho for predictor in method.predictors)]
    gradients = numerical_gradients(
        lambda *moved: wanted(method, moved[:3], targets, moved[3:]), [*maps, *rhos]
    )
    for leaf, gradient in zip(leaves, gradients, strict=True):
        np.testing.assert_allclose(array(leaf.grad), gradient, rtol=1e-5, atol=1e-9)


def test_the_variance_is_five_at_first_and_is_trained_and_saved():
    method = Vid(STUDENT, make_setting(teacher=TEACHER, image_size=6), **OPTIONS)
    parameters, state = dict(method.named_parameters()), method.state_dict()
    for i, predictor in enumerate(method.predictors):
        variance = np.log1p(np.exp(array(predictor.rho))) + 1e-5
        np.testing.assert_allclose(variance, 5, rtol=1e-6)
        assert f"predictors.{i}.rho" in parameters
        assert f"predictors.{i}.rho" in state
