"""SP against its formula in numpy."""

import numpy as np
import pytest
import torch

from models.distillers.sp import Sp
from tests.models.distillers.tiny import (
    Array,
    Tiny,
    array,
    detach,
    make_features,
    numerical_gradients,
)
from tests.setting import make_setting

STUDENT, TEACHER = Tiny(2, 3, 2).double(), Tiny(3, 2, 4, 3, stride=2).double()
OPTIONS = {"temperature": 4.0, "ce_weight": 1.0, "kd_weight": 0.0, "feature_weight": 3000.0}
METHOD = Sp(STUDENT, make_setting(teacher=TEACHER, image_size=6), **OPTIONS)


def similarities(feature_map: Array) -> Array:
    flat = feature_map.reshape(len(feature_map), -1)
    gram = np.array([[(a * b).sum() for b in flat] for a in flat])
    return gram / np.sqrt((gram**2).sum(1, keepdims=True))


def wanted(student: Array, teacher: Array) -> float:
    difference = similarities(student) - similarities(teacher)
    return float((difference**2).sum() / len(student) ** 2)


def test_loss_and_gradient():
    student, teacher = make_features(STUDENT, 6, 5, seed=0), make_features(TEACHER, 6, 5, seed=1)
    loss = METHOD.feature_loss(student, detach(teacher), None)
    last, target = array(student.stages[-1]), array(teacher.stages[-1])
    assert loss.item() == pytest.approx(wanted(last, target), abs=1e-10)
    loss.backward()
    (gradient,) = numerical_gradients(lambda moved: wanted(moved, target), [last])
    np.testing.assert_allclose(array(student.stages[-1].grad), gradient, rtol=1e-5, atol=1e-9)
    assert all(feature_map.grad is None for feature_map in student.stages[:-1])


def test_products_of_whole_maps_do_not_overflow_in_half_precision():
    features = []
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        last = 3 * torch.randn(4, 512, 7, 7, generator=generator).abs()
        features.append(make_features(STUDENT, 6, 4, seed)._replace(stages=(last.half(),)))
    flat = features[0].stages[-1].flatten(1)
    assert (flat @ flat.T).isinf().any()  # what would happen
    with torch.autocast("cpu", torch.float16):
        loss = METHOD.feature_loss(*features, None)
    assert loss.dtype == torch.float32
    student, teacher = (array(f.stages[-1]) for f in features)
    assert loss.item() == pytest.approx(wanted(student, teacher), rel=1e-3)
