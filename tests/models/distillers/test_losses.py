"""What the shared loss terms compute in."""

import pytest
import torch

from models.distillers.losses import at_least_float32, kl_divergence


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_a_loss_is_float32_or_more(given: torch.dtype, wanted: torch.dtype) -> None:
    assert at_least_float32(torch.ones(2, dtype=given)).dtype == wanted
    logits = torch.ones(2, 3, dtype=given)
    assert kl_divergence(logits, logits, 4.0).dtype == wanted
