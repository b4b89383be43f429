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


def standardize(logits: Tensor) -> Tensor:
    """``(z - mean) / (1e-7 + std)`` over the classes of each sample (Sun et al. 2024, Algorithm 1).

    The student then learns how the teacher's logits relate to each other, not how large they are.
    As in the authors' code, the variance is over K - 1.

    Args:
        logits: ``[B, K]``.
    """
    logits = at_least_float32(logits)
    deviation = logits.std(1, keepdim=True)
    return (logits - logits.mean(1, keepdim=True)) / (1e-7 + deviation)


def target_classes(batch: Batch, teacher_logits: Tensor) -> Tensor:
    """``[B]``: each sample's class; the one that the teacher puts first where there is no label.

    Of a mixed image it is the class of the larger share.
    """
    own = batch.labels if batch.targets is None else batch.targets.argmax(1)
    return torch.where(batch.labels < 0, teacher_logits.argmax(1), own)


def binary_divergence(
    student_logits: Tensor,
    student_classes: Tensor,
    teacher_logits: Tensor,
    teacher_classes: Tensor,
    temperature: float,
) -> Tensor:
    """``T^2 / B * sum_b KL`` between two answers: "this class" and "another one".

    Args:
        student_logits: ``[B, K]``.
        student_classes: ``[B]``, which class is "this" one in the student's answer.
        teacher_logits: ``[B, K]``.
        teacher_classes: ``[B]``, the same in the teacher's.
        temperature: T, of the softmax over all classes.
    """
    log_p = _this_or_another(student_logits, student_classes, temperature)
    log_q = _this_or_another(teacher_logits, teacher_classes, temperature)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * temperature**2


def _this_or_another(logits: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """Log probabilities ``[B, 2]``."""
    log_p = F.log_softmax(at_least_float32(logits) / temperature, dim=1)
    this = classes.unsqueeze(1)
    another = log_p.scatter(1, this, -math.inf).logsumexp(1, keepdim=True)
    return torch.cat([log_p.gather(1, this), another], dim=1)


def divergence_without(
    masked: Tensor, student_logits: Tensor, teacher_logits: Tensor, temperature: float
) -> Tensor:
    """:func:`kl_divergence` over the classes that are left of each sample, 0 where none is.

    Args:
        masked: ``[B, K]`` bool, the classes to leave out.
        student_logits: ``[B, K]``.
        teacher_logits: ``[B, K]``.
        temperature: T.
    """
    # Not -inf: the difference of two of them is nan.
    student_logits = at_least_float32(student_logits).masked_fill(masked, -1e9)
    teacher_logits = at_least_float32(teacher_logits).masked_fill(masked, -1e9)
    return kl_divergence(student_logits, teacher_logits, temperature)


def linear_ramp(epoch: int, share: float, epochs: int) -> float:
    """``min((t + 1) / R, 1)`` in epoch t, counted from 0.

    Args:
        epoch: t.
        share: R as a share of all epochs; with 0 there is no ramp.
        epochs: of the training.
    """
    length = share * epochs
    return min((epoch + 1) / length, 1.0) if length > 0 else 1.0


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
