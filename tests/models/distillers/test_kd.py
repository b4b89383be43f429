"""KD and plain supervision against their formulas in numpy, and the precision of their terms."""

from typing import Any

import numpy as np
import pytest
import torch

import models
from models import distillers
from models.distillers.base import Batch, TeacherOutputs
from models.distillers.losses import at_least_float32, kl_divergence
from models.errors import InputError
from tests.models.distillers.tiny import losses_of
from tests.setting import make_setting


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(teacher: np.ndarray, student: np.ndarray, temperature: float) -> float:
    """Compute T^2 times the mean over the batch of KL(teacher || student)."""
    q, p = softmax(teacher / temperature), softmax(student / temperature)
    return float(temperature**2 * (q * (np.log(q) - np.log(p))).sum(1).mean())


def ce(logits: np.ndarray, labels: np.ndarray) -> Any:
    return -np.log(softmax(logits)[np.arange(len(labels)), labels]).mean()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_divergence(temperature):
    student, teacher = np.random.default_rng(0).normal(size=(2, 5, 7)) * 3
    given, targets = torch.from_numpy(student).requires_grad_(), torch.from_numpy(teacher)
    wanted = kl(teacher, student, temperature)
    exact = kl_divergence(given, targets, temperature)
    single = kl_divergence(given.float(), targets.float(), temperature)
    assert exact.item() == pytest.approx(wanted, abs=1e-10)
    assert single.item() == pytest.approx(wanted, rel=1e-5)
    # The reverse divergence has another value.
    assert kl(student, teacher, temperature) != pytest.approx(wanted, rel=1e-2)
    assert torch.autograd.gradcheck(lambda z: kl_divergence(z, targets, temperature), [given])


@pytest.mark.parametrize("given", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_loss_is_float32_or_more(given):
    wanted = torch.promote_types(given, torch.float32)
    assert at_least_float32(torch.ones(2, dtype=given)).dtype == wanted
    logits = torch.ones(2, 3, dtype=given)
    assert kl_divergence(logits, logits, 4.0).dtype == wanted


@pytest.mark.parametrize("method", ["kd", "scratch"])
def test_total(method):
    student = models.build("resnet8", 6)
    options = {"temperature": 4.0, "ce_weight": 0.1, "kd_weight": 0.9} if method == "kd" else {}
    distiller = distillers.build(method, student, make_setting(), options).eval()
    batch = Batch(torch.randn(5, 3, 32, 32), torch.tensor([0, 3, 5, 1, 1]), torch.arange(5))
    teacher = torch.randn(5, 6)
    losses = losses_of(distiller, batch, TeacherOutputs(teacher))
    z = student(batch.images).detach().double().numpy()
    wanted = ce(z, batch.labels.numpy())
    if method == "kd":
        wanted = 0.1 * wanted + 0.9 * kl(teacher.double().numpy(), z, 4.0)
    assert losses["total"].item() == pytest.approx(wanted, rel=1e-5)
    assert set(losses) == {"total", *(("ce", "kd") if method == "kd" else ())}
    assert set(distiller.state_dict()) == {f"student.{name}" for name in student.state_dict()}


def test_an_unknown_method_is_refused():
    with pytest.raises(InputError, match="method 'kdd' is not known: use one of scratch, kd, dkd"):
        distillers.build("kdd", models.build("resnet8", 6), make_setting(), {})
