"""How alike two networks see the same images."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of two embeddings of the same N images.

    ``||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F)`` with centred columns (Kornblith et al. 2019, Eq. 3), in
    float64; 1 for equal representations up to rotation and scale. A representation that is constant
    over the images has no similarity to any other: 0.

    Args:
        x: ``[N, D1]``.
        y: ``[N, D2]``.
    """
    x, y = (e.to(torch.float64) - e.to(torch.float64).mean(0) for e in (x, y))
    norms = torch.linalg.matrix_norm(x.T @ x) * torch.linalg.matrix_norm(y.T @ y)
    if norms == 0:
        return 0.0
    return float(torch.linalg.matrix_norm(y.T @ x) ** 2 / norms)
