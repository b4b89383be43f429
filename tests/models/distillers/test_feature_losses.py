"""AT, SP, CC and VID against their formulas in numpy."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from models.distillers.at import At
from models.distillers.cc import Cc
from models.distillers.feature import FeatureDistiller, at_common_size
from models.distillers.sp import Sp
from models.distillers.vid import Vid
from models.networks.backbone import Features
from tests.models.distillers import tiny
from tests.models.distillers.tiny import WEIGHTS, Array, Tiny, array, convolve, linear, pool_pair
from tests.setting import make_setting

# Maps of 6, 3 and 2 pixels against 3, 2 and 1; the teacher has an extra stage.
STUDENT, TEACHER = Tiny(2, 3, 2).double(), Tiny(3, 2, 4, 5, stride=2).double()
SETTING = make_setting(teacher=TEACHER, image_size=6)


def attention(feature_map: Array) -> Array:
    energy = (feature_map**2).mean(1).reshape(len(feature_map), -1)
    return energy / np.sqrt((energy**2).sum(1, keepdims=True))


def at(_: At, student: list[Array], teacher: Features) -> float:
    total = 0.0
    for pair in zip(student, map(array, teacher.stages), strict=False):
        ours, theirs = pool_pair(*pair)
        total += ((attention(ours) - attention(theirs)) ** 2).mean()
    return float(total)


def similarities(feature_map: Array) -> Array:
    flat = feature_map.reshape(len(feature_map), -1)
    gram = np.array([[(a * b).sum() for b in flat] for a in flat])
    return gram / np.sqrt((gram**2).sum(1, keepdims=True))


def sp(_: Sp, student: list[Array], teacher: Features) -> float:
    difference = similarities(student[0]) - similarities(array(teacher.stages[-1]))
    return float((difference**2).sum() / len(difference) ** 2)


def neighbours(method: Cc, student: list[Array], teacher: Features) -> float:
    e_s = linear(method.incongruence.embed_student, student[0])
    e_t = linear(method.incongruence.embed_teacher, array(teacher.embedding))
    d = np.abs(e_s - e_t)
    return float(np.mean([(d[i] * d[i + 1]).sum() for i in range(len(d) - 1)]))


def kernel(embedding: Array) -> Array:
    unit = embedding / np.sqrt((embedding**2).sum(1, keepdims=True))
    cosine = np.array([[(a * b).sum() for b in unit] for a in unit])
    return math.exp(-0.8) * (1 + 0.8 * cosine + 0.32 * cosine**2)


def kernels(_: Cc, student: list[Array], teacher: Features) -> float:
    difference = kernel(student[0]) - kernel(array(teacher.embedding))
    return float((difference**2).sum() / len(difference) ** 2)


def vid(method: Vid, given: list[Array], teacher: Features) -> float:
    """Compute VID; ``given`` are the student's maps, then each predictor's rho."""
    total, maps, rhos = 0.0, given[:3], given[3:]
    pairs = map(pool_pair, maps, map(array, teacher.stages[:3]))
    for predictor, (ours, theirs), rho in zip(method.predictors, pairs, rhos, strict=True):
        first, second, third = (array(layer.weight) for layer in predictor.mean[::2])
        mu = np.maximum(convolve(ours, first), 0)
        mu = convolve(np.maximum(convolve(mu, second), 0), third)
        for c, value in enumerate(rho):
            variance = np.log(1 + np.exp(value)) + 1e-5
            terms = 0.5 * ((mu[:, c] - theirs[:, c]) ** 2 / variance + np.log(variance))
            total += terms.mean() / len(rho)
    return float(total)


def make(kind: type[FeatureDistiller], **options: str) -> FeatureDistiller:
    torch.manual_seed(0)
    method = kind(STUDENT, SETTING, **WEIGHTS, **options).double()
    for predictor in getattr(method, "predictors", ()):
        torch.nn.init.uniform_(predictor.rho, -2, 2)  # different variances
    return method


def draw(samples: int = 5) -> tuple[Features, Features]:
    student = tiny.make_features(STUDENT, 6, samples, seed=0)
    return student, tiny.detach(tiny.make_features(TEACHER, 6, samples, seed=1))


METHODS: dict[str, tuple[FeatureDistiller, Callable[..., float]]] = {
    "at": (make(At), at),
    "sp": (make(Sp), sp),
    "cc": (make(Cc, variant="repdistiller"), neighbours),
    "cc_rbf": (make(Cc, variant="rbf"), kernels),
    "vid": (make(Vid), vid),
}


def leaves(name: str, student: Features) -> list[Tensor]:
    """Return the tensors that the method compares or trains."""
    if name.startswith("cc"):
        return [student.embedding]
    if name == "sp":
        return [student.stages[-1]]
    predictors = METHODS[name][0].predictors if name == "vid" else ()
    return [*student.stages, *(predictor.rho for predictor in predictors)]


@pytest.mark.parametrize("name", METHODS)
def test_loss_and_gradient(name):
    method, equation = METHODS[name]
    student, teacher = draw(2 if name in ("at", "vid") else 5)
    compared = leaves(name, student)
    given = [array(leaf).copy() for leaf in compared]
    loss = method.feature_loss(student, teacher, None)
    assert loss.item() == pytest.approx(equation(method, given, teacher), abs=1e-10)
    loss.backward()
    wanted = tiny.numerical_gradients(lambda *moved: equation(method, [*moved], teacher), given)
    for leaf, gradient in zip(compared, wanted, strict=True):
        np.testing.assert_allclose(array(leaf.grad), gradient, rtol=1e-5, atol=1e-8)
    if name == "sp":
        assert all(feature_map.grad is None for feature_map in student.stages[:-1])


def test_at_has_no_nan_for_a_dead_stage():
    student, teacher = draw(2)
    dead = tuple(torch.zeros_like(m, requires_grad=True) for m in student.stages)
    METHODS["at"][0].feature_loss(student._replace(stages=dead), teacher, None).backward()
    assert all(feature_map.grad.isfinite().all() for feature_map in dead)


def test_products_of_whole_maps_do_not_overflow_sp_in_half_precision():
    features = []
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        last = 3 * torch.randn(4, 512, 7, 7, generator=generator).abs()
        features.append(tiny.make_features(STUDENT, 6, 4, seed)._replace(stages=(last.half(),)))
    flat = features[0].stages[-1].flatten(1)
    assert (flat @ flat.T).isinf().any()  # the overflow to avoid
    method = METHODS["sp"][0]
    with torch.autocast("cpu", torch.float16):
        loss = method.feature_loss(*features, None)
    assert loss.dtype == torch.float32
    student, teacher = features
    assert loss.item() == pytest.approx(sp(method, [array(student.stages[-1])], teacher), rel=1e-3)


def test_the_initial_variance_of_vid_is_five():
    for predictor in Vid(STUDENT, SETTING, **WEIGHTS).predictors:
        variance = np.log1p(np.exp(array(predictor.rho))) + 1e-5
        np.testing.assert_allclose(variance, 5, rtol=1e-6)


def test_both_maps_get_the_smaller_height_and_width():
    student, teacher = at_common_size(torch.randn(2, 3, 8, 4), torch.randn(2, 5, 6, 6))
    assert (student.shape, teacher.shape) == ((2, 3, 6, 4), (2, 5, 6, 4))
