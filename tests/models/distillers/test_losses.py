"""What the shared loss terms compute in."""

import numpy as np
import pytest
import torch

from models.distillers.losses import at_least_float32, kl_divergence
from tests.models.distillers.test_kd import kl


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_a_loss_is_float32_or_more(given, wanted):
    assert at_least_float32(torch.ones(2, dtype=given)).dtype == wanted
    logits = torch.ones(2, 3, dtype=given)
    assert kl_divergence(logits, logits, 4.0).dtype == wanted


def test_divergence_in_float64():
    student, teacher = np.random.default_rng(0).normal(size=(2, 5, 7)) * 3
    measured = kl_divergence(torch.from_numpy(student), torch.from_numpy(teacher), 4.0)
    assert measured.item() == pytest.approx(kl(teacher, student, 4.0), abs=1e-10)
    logits = torch.from_numpy(student).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: kl_divergence(z, torch.from_numpy(teacher), 4.0), [logits]
    )
