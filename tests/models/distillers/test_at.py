"""AT against its formula in numpy."""

import numpy as np
import pytest
import torch

from models.distillers.at import At
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
OPTIONS = {"temperature": 4.0, "ce_weight": 1.0, "kd_weight": 0.0, "feature_weight": 1000.0}
METHOD = At(STUDENT, make_setting(teacher=TEACHER, image_size=6), **OPTIONS)


def attention(feature_map: Array) -> Array:
    energy = (feature_map**2).mean(1).reshape(len(feature_map), -1)
    return energy / np.sqrt((energy**2).sum(1, keepdims=True))


def wanted(student: list[Array], teacher: list[Array]) -> float:
    total = 0.0
    for pair in zip(student, teacher, strict=False):
        ours, theirs = pool_pair(*pair)
        total += ((attention(ours) - attention(theirs)) ** 2).mean()
    return float(total)


def test_loss_and_gradient():
    student, teacher = (
        make_features(net, 6, 2, seed) for seed, net in enumerate((STUDENT, TEACHER))
    )
    loss = METHOD.feature_loss(student, detach(teacher), None)
    maps, targets = ([array(m) for m in f.stages] for f in (student, teacher))
    assert loss.item() == pytest.approx(wanted(maps, targets), abs=1e-10)
    loss.backward()
    gradients = numerical_gradients(lambda *moved: wanted(moved, targets), maps)
    for feature_map, gradient in zip(student.stages, gradients, strict=True):
        np.testing.assert_allclose(array(feature_map.grad), gradient, rtol=1e-5, atol=1e-9)


def test_a_dead_stage_is_no_reason_for_nan():
    student, teacher = make_features(STUDENT, 6, 2, seed=0), make_features(TEACHER, 6, 2, seed=1)
    dead = tuple(torch.zeros_like(m, requires_grad=True) for m in student.stages)
    loss = METHOD.feature_loss(student._replace(stages=dead), detach(teacher), None)
    loss.backward()
    assert loss.isfinite()
    assert all(feature_map.grad.isfinite().all() for feature_map in dead)
