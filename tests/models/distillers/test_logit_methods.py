"""KD with standardized logits, DKD, DIST and RLD against their formulas in numpy."""

import numpy as np
import pytest
import torch

import models
from models import distillers
from models.distillers.base import Batch, TeacherOutputs
from models.distillers.losses import linear_ramp
from tests.models.distillers.test_kd import ce, softmax
from tests.models.distillers.tiny import array, exact_gradient
from tests.setting import make_setting

CLASSES = 7
LABELS = np.array([0, 3, 6, 1, 1])
Z, TEACHER = np.random.default_rng(0).normal(size=(2, 5, CLASSES)) * 3
# In this order, the teacher is right, wrong, and certain of a wrong class.
for row, answer in enumerate((0, 2, 5)):
    TEACHER[row, answer] = TEACHER[row].max() + 1
TEACHER[2, 6] = TEACHER[2].min() - 1


def kl(q, p):
    return (q * np.log(q / p)).sum()


def binary(q, p):
    return kl(np.array([q, 1 - q]), np.array([p, 1 - p]))


def standard(z):
    centred = z - z.mean()
    return centred / (1e-7 + np.sqrt((centred**2).sum() / (CLASSES - 1)))


def kd(z, labels):
    pairs = zip(z, TEACHER, strict=True)
    return sum(4 * kl(softmax(standard(t) / 2), softmax(standard(s) / 2)) for s, t in pairs) / 5


def dkd(z, labels, change=lambda z: z):
    total = 0
    for s, t, k in zip(z, TEACHER, labels, strict=True):
        p, q = softmax(change(s) / 4), softmax(change(t) / 4)
        p_rest, q_rest = (np.delete(x, k) / np.delete(x, k).sum() for x in (p, q))
        total += 16 * (1.5 * binary(q[k], p[k]) + 8 * kl(q_rest, p_rest))
    return total / len(z)


def rld(z, labels):
    total = 0
    for s, t, k in zip(z, TEACHER, labels, strict=True):
        total += 1.5 * binary(softmax(t).max(), softmax(s)[k])
        below = t < t[k]
        if below.any():
            total += 8 * 16 * kl(softmax(t[below] / 4), softmax(s[below] / 4))
    return total / len(z)


def dist(z, labels):
    p, q = softmax(z / 4), softmax(TEACHER / 4)

    def distance(a, b):
        rows = []
        for x, y in zip(a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True), strict=True):
            rows.append((x * y).sum() / (np.sqrt((x**2).sum()) * np.sqrt((y**2).sum()) + 1e-8))
        return 1 - sum(rows) / len(rows)

    return 16 * (1.5 * distance(p, q) + 2.5 * distance(p.T, q.T))


def dkd_standardized(z, labels):
    return dkd(z, labels, standard)


SHARED = {"temperature": 4.0, "ce_weight": 0.8}
DECOUPLED = SHARED | {"alpha": 1.5, "beta": 8.0, "ramp_up": 0.25}
STANDARDIZED = {"standardize": True}
METHODS = {
    "kd_standardized": ("kd", SHARED | STANDARDIZED | {"temperature": 2.0, "kd_weight": 1.0}, kd),
    "dkd": ("dkd", DECOUPLED | {"standardize": False}, dkd),
    "dkd_standardized": ("dkd", DECOUPLED | STANDARDIZED, dkd_standardized),
    "rld": ("rld", DECOUPLED, rld),
    "dist": ("dist", SHARED | {"beta": 1.5, "gamma": 2.5}, dist),
}
OUTPUTS = TeacherOutputs(torch.from_numpy(TEACHER))
every_method = pytest.mark.parametrize("name", METHODS)


def make(name):
    """Build a method after its ramp of two of 8 epochs, of which the first has half the weight."""
    kind, options, _ = METHODS[name]
    method = distillers.build(kind, models.build("resnet8", CLASSES), make_setting(), options)
    method.begin_epoch(1)
    return method


def make_batch(labels, targets=None):
    given = torch.from_numpy(labels)
    soft = None if targets is None else torch.from_numpy(targets)
    return Batch(torch.zeros(len(labels), 3, 8, 8), given, torch.arange(len(labels)), soft)


@every_method
def test_loss_and_gradient(name):
    logits = torch.from_numpy(Z.copy()).requires_grad_()
    losses = make(name).losses(logits, make_batch(LABELS), OUTPUTS)

    def wanted(z):
        return 0.8 * ce(z, LABELS) + METHODS[name][2](z, LABELS)

    assert losses["total"].item() == pytest.approx(wanted(Z), abs=1e-10)
    assert losses["ce"].item() == pytest.approx(ce(Z, LABELS), abs=1e-10)
    losses["total"].backward()
    np.testing.assert_allclose(array(logits.grad), exact_gradient(wanted, Z), rtol=0, atol=1e-10)


@every_method
def test_unlabelled_images_use_the_teachers_top_class(name):
    labels = np.array([0, -1, -1, 1, 1])
    targets = np.eye(CLASSES)[labels] * (labels >= 0)[:, None] * 5 / 3
    losses = make(name).losses(torch.from_numpy(Z), make_batch(labels, targets), OUTPUTS)
    known = labels >= 0
    stands = np.where(known, labels, TEACHER.argmax(1))
    wanted = 0.8 * ce(Z[known], labels[known]) + METHODS[name][2](Z, stands)
    assert losses["total"].item() == pytest.approx(wanted, abs=1e-10)


@pytest.mark.parametrize("name", ["dkd", "rld"])
def test_a_mixed_image_has_the_class_of_its_larger_part(name):
    others, method = np.full(5, 2), make(name)
    # With class weights the smaller part may have the larger target.
    targets = 0.9 * np.eye(CLASSES)[LABELS] + 0.7 * np.eye(CLASSES)[others]
    batch = make_batch(LABELS, targets)._replace(mixed_classes=torch.from_numpy(others))
    mixed = method.losses(torch.from_numpy(Z), batch, OUTPUTS)
    whole = method.losses(torch.from_numpy(Z), make_batch(others), OUTPUTS)
    for key in mixed.keys() - {"total", "ce"}:
        assert torch.equal(mixed[key], whole[key]), key


@pytest.mark.parametrize("name", ["dkd", "rld"])
def test_the_teachers_weight_ramps_up(name):
    method, totals = make(name), []
    for epoch in range(3):
        method.begin_epoch(epoch)
        losses = method.losses(torch.from_numpy(Z), make_batch(LABELS), OUTPUTS)
        totals.append(losses["total"].item() - 0.8 * losses["ce"].item())
    assert totals[0] == pytest.approx(totals[1] / 2)
    assert totals[1] == totals[2]


def test_ramp():
    assert [linear_ramp(epoch, 0.5, 8) for epoch in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert linear_ramp(0, 0.0833, 240) == pytest.approx(1 / 20, rel=1e-3)
    assert linear_ramp(0, 0.0, 240) == 1


@every_method
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_losses_are_float32_and_finite_for_logits_of_any_size(name, half):
    method = make(name)
    teacher = torch.from_numpy(TEACHER).float() * 100
    logits = (torch.from_numpy(Z) * 100).to(half).requires_grad_()
    losses = method.losses(logits, make_batch(LABELS), TeacherOutputs(teacher))
    losses["total"].backward()
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert all(loss.isfinite() for loss in losses.values())
    assert logits.grad.isfinite().all()
