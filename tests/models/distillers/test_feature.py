"""Maps of different sizes meet."""

import pytest
import torch
from torch.nn import functional as F

from models.distillers.feature import at_common_size, average_pool


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((8, 8), (4, 4)), ((7, 9), (4, 5)), ((5, 6), (3, 6)), ((7, 7), (1, 7)), ((3, 3), (3, 3))],
)
def test_windows_are_those_of_adaptive_pooling(size, wanted):
    feature_map = torch.randn(2, 3, *size, dtype=torch.double, requires_grad=True)
    pooled = average_pool(feature_map, *wanted)
    reference = F.adaptive_avg_pool2d(feature_map, wanted)
    assert torch.allclose(pooled, reference, rtol=0, atol=1e-14)
    upstream = torch.randn_like(pooled)
    ours = torch.autograd.grad(pooled, feature_map, upstream)[0]
    theirs = torch.autograd.grad(reference, feature_map, upstream)[0]
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-14)


def test_pooling_is_done_in_float32_at_least():
    half = torch.randn(2, 3, 8, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        pooled = average_pool(half, 4, 4)
        assert average_pool(half.float(), 4, 4).dtype == torch.float32
    assert pooled.dtype == torch.float32
    assert torch.allclose(pooled, F.adaptive_avg_pool2d(half.float(), 4), rtol=1e-6, atol=1e-7)


def test_both_maps_get_the_smaller_height_and_width():
    student, teacher = at_common_size(torch.randn(2, 3, 8, 4), torch.randn(2, 5, 6, 6))
    assert student.shape == (2, 3, 6, 4)
    assert teacher.shape == (2, 5, 6, 4)
