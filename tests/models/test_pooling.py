import pytest
import torch
from torch.nn import functional as F

from models.networks.pooling import average_pool


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
