"""Loss terms that several methods share."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from models.distillers.base import Batch


def at_least_float32(tensor: Tensor) -> Tensor:
    """``tensor`` in float32 where autocast has given it less; float64 stays float64."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """``-1/B sum_b sum_k t_bk log softmax(z_b)_k`` with the batch's targets, or its labels.

    Args:
        logits: ``[B, K]``.
        batch: of the same samples.
    """
    targets = batch.labels if batch.targets is None else batch.targets
    return F.cross_entropy(at_least_float32(logits), targets)


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


def sigmoid_ramp(epoch: int, share: float, epochs: int) -> float:
    """``exp(-5 (1 - t/R)^2)`` in epoch t, counted from 0, where ``t < R``; 1 from then on.

    Args:
        epoch: t.
        share: R as a share of all epochs; with 0 there is no ramp.
        epochs: of the training.
    """
    length = share * epochs
    done = min(epoch / length, 1.0) if length > 0 else 1.0
    return math.exp(-5 * (1 - done) ** 2)
