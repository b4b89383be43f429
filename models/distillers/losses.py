"""Loss terms that several methods share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def at_least_float32(tensor: Tensor) -> Tensor:
    """``tensor`` in float32 where autocast has given it less; float64 stays float64."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """``T^2 / B * sum_b KL(softmax(z_t / T) || softmax(z_s / T))`` (Hinton et al. 2015).

    The factor ``T^2`` keeps the gradient's size independent of the temperature. The ACKD paper
    prints the divergence the other way round (Eq. 2) yet calls it "the common KD approach", which
    is this direction; so do the codes that it builds on.

    Args:
        student_logits: ``[B, K]``.
        teacher_logits: ``[B, K]``.
        temperature: T.
    """
    log_p = F.log_softmax(at_least_float32(student_logits) / temperature, dim=1)
    log_q = F.log_softmax(at_least_float32(teacher_logits) / temperature, dim=1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * temperature**2
