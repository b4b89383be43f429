"""KD against its formula in numpy."""

import numpy as np
import pytest
import torch

import models
from models import distillers
from models.distillers.base import Batch, TeacherOutputs
from models.distillers.losses import kl_divergence
from models.errors import InputError
from tests.models.distillers.tiny import losses_of
from tests.setting import make_setting


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def kl(teacher: np.ndarray, student: np.ndarray, temperature: float) -> float:
    """T^2 times the mean over the batch of KL(teacher || student)."""
    q, p = softmax(teacher / temperature), softmax(student / temperature)
    return float(temperature**2 * (q * (np.log(q) - np.log(p))).sum(1).mean())


def ce(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(softmax(logits)[np.arange(len(labels)), labels]).mean())


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_divergence(temperature):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 5, 7)).astype(np.float32) * 3
    measured = kl_divergence(torch.from_numpy(student), torch.from_numpy(teacher), temperature)
    wanted = kl(teacher.astype(float), student.astype(float), temperature)
    assert float(measured) == pytest.approx(wanted, rel=1e-5)
    # The direction matters: the reverse is another number.
    assert kl(student.astype(float), teacher.astype(float), temperature) != pytest.approx(
        wanted, rel=1e-2
    )


def test_total():
    student = models.build("resnet8", 6)
    options = {"temperature": 4.0, "ce_weight": 0.1, "kd_weight": 0.9}
    kd = distillers.build("kd", student, make_setting(), options).eval()
    images, labels, teacher = (
        torch.randn(5, 3, 32, 32),
        torch.tensor([0, 3, 5, 1, 1]),
        torch.randn(5, 6),
    )
    losses = losses_of(
        kd, Batch(images, labels, torch.arange(len(labels))), TeacherOutputs(teacher)
    )
    z = student(images).detach().double().numpy()
    wanted = 0.1 * ce(z, labels.numpy()) + 0.9 * kl(teacher.double().numpy(), z, 4.0)
    assert losses["total"].item() == pytest.approx(wanted, rel=1e-5)
    assert set(losses) == {"total", "ce", "kd"}


def test_an_unknown_method_is_refused():
    with pytest.raises(InputError, match="method 'kdd' is not known: use one of scratch, kd, dkd"):
        distillers.build("kdd", models.build("resnet8", 6), make_setting(), {})
