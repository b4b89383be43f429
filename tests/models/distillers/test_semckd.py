"""SemCKD against its formula in numpy."""

import numpy as np
import pytest
import torch
from torch import nn

from models.distillers.base import Batch
from models.distillers.semckd import SemCkd
from models.networks.backbone import Backbone, Features
from tests.models.distillers import tiny
from tests.models.distillers.test_kd import softmax
from tests.models.distillers.tiny import Array, Tiny, array, convolve, linear, normalise, pool_pair
from tests.setting import make_setting

BATCH = Batch(*torch.zeros(3, 6))  # only states its position


def make(student: Backbone, teacher: Backbone, batch_size: int = 6, size: int = 8) -> SemCkd:
    setting = make_setting(teacher=teacher, image_size=size, batch_size=batch_size)
    return SemCkd(student, setting, **tiny.WEIGHTS)


def project(perceptron: nn.Module, feature_map: Array) -> Array:
    flat = feature_map.reshape(len(feature_map), -1)
    out = linear(perceptron.project, np.maximum(linear(perceptron.hidden, flat @ flat.T), 0))
    return out / np.sqrt((out**2).sum(1, keepdims=True))


def regress(regressor: nn.Module, x: Array) -> Array:
    for conv, norm in ((0, 1), (3, 4)):
        x = convolve(x, array(regressor[conv].weight))
        x = np.maximum(normalise(regressor[norm], x), 0)
    return convolve(x, array(regressor[6].weight))


def reference(method: SemCkd, student: list[Array], teacher: list[Array]) -> float:
    queries = [project(p, f) for p, f in zip(method.queries, student, strict=True)]
    keys = [project(p, f) for p, f in zip(method.keys, teacher, strict=True)]
    loss, samples = 0.0, len(student[0])
    for i, own in enumerate(student):
        alpha = softmax(np.stack([(queries[i] * key).sum(1) for key in keys], axis=1))
        for j, other in enumerate(teacher):
            ours, theirs = pool_pair(own, other)
            error = regress(method.regressors[i * len(teacher) + j], ours) - theirs
            loss += (alpha[:, j] * (error**2).mean((1, 2, 3))).sum()
    return loss / (samples * len(student))


def draw(student: Backbone, teacher: Backbone, size: int) -> tuple[Features, Features]:
    own, other = tiny.make_features(student, size, 6, 0), tiny.make_features(teacher, size, 6, 1)
    return own, tiny.detach(other)


@pytest.mark.parametrize(
    ("widths", "stride", "size"),
    [
        (((2, 3, 2), (3, 2, 4)), 1, 8),
        (((2, 3, 2), (3, 2, 4, 5)), 1, 8),  # three stages and four
        (((2, 3, 2, 4), (3, 2, 4)), 2, 8),  # four and three, the teacher's maps smaller
        (((3, 2), (2, 4, 3)), 2, 9),  # 9 and 5 pixels against 5, 3 and 2
    ],
)
def test_loss(widths, stride, size):
    torch.manual_seed(0)
    student, teacher = Tiny(*widths[0]), Tiny(*widths[1], stride=stride)
    method = make(student, teacher, size=size).double()
    assert [len(p) for p in (method.queries, method.keys)] == [len(w) for w in widths]
    tiny.settle(method)
    own, other = draw(student, teacher, size)
    loss = method.feature_loss(own, other, BATCH)
    wanted = reference(method, [array(f) for f in own.stages], [array(f) for f in other.stages])
    assert loss.item() == pytest.approx(wanted, rel=1e-10)


def test_shapes_are_inferred():
    method = make(Tiny(2, 3, 2), Tiny(3, 2, 4, 5), batch_size=10)
    assert method.needs_full_batches
    # d = B // 4, and twice that between.
    assert {tuple(p.hidden.weight.shape) for p in method.queries} == {(4, 10)}
    assert {tuple(p.project.weight.shape) for p in method.keys} == {(2, 4)}
    channels = [(r[0].in_channels, r[3].out_channels, r[6].out_channels) for r in method.regressors]
    assert channels == [(own, 2 * other, other) for own in (2, 3, 2) for other in (3, 2, 4, 5)]
    assert all(c.bias is None for c in method.regressors.modules() if isinstance(c, nn.Conv2d))


def test_similarities_beyond_fp16_are_float32_under_autocast():
    torch.manual_seed(0)
    student, teacher = Tiny(2, 3, 2), Tiny(3, 2, 4)
    method = make(student, teacher).eval()
    own, other = draw(student, teacher, 8)
    large, theirs = (tuple(1000 * m.half() for m in f.stages) for f in (own, other))
    assert max(f.float().flatten(1).square().sum(1).max() for f in large) > 1e6
    with torch.autocast("cpu", torch.float16):
        loss = method.feature_loss(own._replace(stages=large), other._replace(stages=theirs), BATCH)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
