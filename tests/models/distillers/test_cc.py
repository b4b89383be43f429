"""Both variants of CC against their formulas in numpy."""

import math

import numpy as np
import pytest
import torch

from models.distillers.cc import Cc, Neighbours
from tests.models.distillers.tiny import (
    Array,
    Tiny,
    array,
    detach,
    make_features,
    numerical_gradients,
)
from tests.setting import make_setting

STUDENT, TEACHER = Tiny(2, 3, 2).double(), Tiny(3, 2, 4, 5, stride=2).double()


def make(variant: str) -> Cc:
    torch.manual_seed(0)
    setting = make_setting(teacher=TEACHER, image_size=6)
    weights = {"temperature": 4.0, "ce_weight": 1.0, "kd_weight": 0.0, "feature_weight": 1.0}
    return Cc(STUDENT, setting, variant=variant, **weights).double()


METHODS = {variant: make(variant) for variant in ("repdistiller", "rbf")}


def neighbours(student: Array, teacher: Array) -> float:
    embed_student, embed_teacher = (
        METHODS["repdistiller"].incongruence.embed_student,
        METHODS["repdistiller"].incongruence.embed_teacher,
    )
    e_s = student @ array(embed_student.weight).T + array(embed_student.bias)
    e_t = teacher @ array(embed_teacher.weight).T + array(embed_teacher.bias)
    d = np.abs(e_s - e_t)
    pairs = [(d[i] * d[i + 1]).sum() for i in range(len(d) - 1)]
    return float(np.mean(pairs))


def kernel(embedding: Array) -> Array:
    unit = embedding / np.sqrt((embedding**2).sum(1, keepdims=True))
    cosine = np.array([[(a * b).sum() for b in unit] for a in unit])
    return math.exp(-0.8) * (1 + 0.8 * cosine + 0.32 * cosine**2)


def kernels(student: Array, teacher: Array) -> float:
    return float(((kernel(student) - kernel(teacher)) ** 2).sum() / len(student) ** 2)


WANTED = {"repdistiller": neighbours, "rbf": kernels}
every_variant = pytest.mark.parametrize("variant", WANTED)


@every_variant
def test_loss_and_gradient(variant):
    student, teacher = make_features(STUDENT, 6, 5, seed=0), make_features(TEACHER, 6, 5, seed=1)
    loss = METHODS[variant].feature_loss(student, detach(teacher), None)
    ours, theirs = array(student.embedding), array(teacher.embedding)
    wanted = WANTED[variant]
    assert loss.item() == pytest.approx(wanted(ours, theirs), abs=1e-10)
    loss.backward()
    (gradient,) = numerical_gradients(lambda moved: wanted(moved, theirs), [ours])
    np.testing.assert_allclose(array(student.embedding.grad), gradient, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("variant", "depends"), [("repdistiller", True), ("rbf", False)])
def test_whether_the_order_of_samples_counts(variant, depends):
    student, teacher = make_features(STUDENT, 6, 5, seed=0), make_features(TEACHER, 6, 5, seed=1)
    method, order = METHODS[variant], torch.tensor([3, 1, 4, 0, 2])
    loss = method.feature_loss(student, teacher, None).item()
    student, teacher = (f._replace(embedding=f.embedding[order]) for f in (student, teacher))
    again = method.feature_loss(student, teacher, None).item()
    wanted = WANTED[variant](array(student.embedding), array(teacher.embedding))
    assert again == pytest.approx(wanted, abs=1e-10)
    assert (abs(again - loss) > 0.01 * loss) == depends
    # Backwards each sample still has the same neighbours.
    turned = (f._replace(embedding=f.embedding.flip(0)) for f in (student, teacher))
    assert method.feature_loss(*turned, None).item() == pytest.approx(again, abs=1e-10)


def test_trained_embeddings_lower_the_loss_by_shrinking():
    """The known weakness of the variant that comparisons have run; nothing hides it."""
    student, teacher = make_features(STUDENT, 6, 5, seed=0), make_features(TEACHER, 6, 5, seed=1)
    method = make("repdistiller")
    loss = method.feature_loss(student, teacher, None).item()
    assert isinstance(method.incongruence, Neighbours)
    with torch.no_grad():
        for parameter in method.incongruence.parameters():
            parameter.mul_(0.1)
    assert method.feature_loss(student, teacher, None).item() == pytest.approx(0.01 * loss)


def test_rbf_is_a_gaussian_kernel_up_to_what_is_left_of_its_series():
    embedding = array(make_features(TEACHER, 6, 5, seed=1).embedding)
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    squared = ((unit[:, None] - unit[None]) ** 2).sum(2)
    left = np.abs(np.exp(-0.4 * squared) - kernel(embedding))
    assert left.max() <= math.exp(-0.8) * (math.exp(0.8) - 1 - 0.8 - 0.32) + 1e-12
