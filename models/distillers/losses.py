"""Loss terms shared by several methods."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from models.distillers.base import Batch


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert a tensor of lower precision to float32; float64 stays float64."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Compute ``-1/B sum_b sum_k t_bk log softmax(z_b)_k`` of logits ``z``, ``[B, K]``."""
    targets = batch.labels if batch.targets is None else batch.targets
    return F.cross_entropy(at_least_float32(logits), targets)


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Compute ``T^2 / B * sum_b KL(softmax(z_t / T) || softmax(z_s / T))`` (Hinton et al. 2015).

    The logits are ``[B, K]``. The factor ``T^2`` makes the scale of the gradient independent of the
    temperature. The ACKD paper prints the divergence in the opposite direction (Eq. 2), but calls
    it "the common KD approach", which is this direction and that of the code it builds on.
    """
    log_p = F.log_softmax(at_least_float32(student_logits) / temperature, dim=1)
    log_q = F.log_softmax(at_least_float32(teacher_logits) / temperature, dim=1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * temperature**2


def standardize(logits: Tensor) -> Tensor:
    """Compute ``(z - mean) / (1e-7 + std)`` of logits ``[B, K]`` (Sun et al. 2024, Algorithm 1).

    The student then learns how the teacher's logits relate to each other, not their magnitude. As
    in the authors' code, the variance is divided by K - 1.
    """
    logits = at_least_float32(logits)
    deviation = logits.std(1, keepdim=True)
    return (logits - logits.mean(1, keepdim=True)) / (1e-7 + deviation)


def target_classes(batch: Batch, teacher_logits: Tensor) -> Tensor:
    """Return each sample's class, ``[B]``; without a label, the teacher's top class.

    For a mixed image it is the class with the larger share.
    """
    own = batch.labels if batch.mixed_classes is None else batch.mixed_classes
    return torch.where(own < 0, teacher_logits.argmax(1), own)


def binary_divergence(
    student_logits: Tensor,
    student_classes: Tensor,
    teacher_logits: Tensor,
    teacher_classes: Tensor,
    temperature: float,
) -> Tensor:
    """Compute ``T^2 / B * sum_b KL`` of the binary probabilities of one class against all others.

    Logits are ``[B, K]``; the classes ``[B]`` are those in each network's own distribution. T is
    the temperature of the softmax over all classes.
    """
    log_p = _this_or_another(student_logits, student_classes, temperature)
    log_q = _this_or_another(teacher_logits, teacher_classes, temperature)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * temperature**2


def _this_or_another(logits: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """Return the log probabilities of a class and of all others, ``[B, 2]``."""
    log_p = F.log_softmax(at_least_float32(logits) / temperature, dim=1)
    this = classes.unsqueeze(1)
    another = log_p.scatter(1, this, -math.inf).logsumexp(1, keepdim=True)
    return torch.cat([log_p.gather(1, this), another], dim=1)


def divergence_without(
    masked: Tensor, student_logits: Tensor, teacher_logits: Tensor, temperature: float
) -> Tensor:
    """Compute :func:`kl_divergence` without the ``masked`` classes, ``[B, K]``; 0 if all are."""
    # Not -inf, because -inf minus -inf is nan.
    student_logits = at_least_float32(student_logits).masked_fill(masked, -1e9)
    teacher_logits = at_least_float32(teacher_logits).masked_fill(masked, -1e9)
    return kl_divergence(student_logits, teacher_logits, temperature)


def linear_ramp(epoch: int, share: float, epochs: int) -> float:
    """Compute ``min((t + 1) / R, 1)`` for epoch t, counted from 0.

    ``share`` is R as a fraction of all epochs; 0 disables the ramp.
    """
    length = share * epochs
    return min((epoch + 1) / length, 1.0) if length > 0 else 1.0


def sigmoid_ramp(epoch: int, share: float, epochs: int) -> float:
    """Compute ``exp(-5 (1 - t/R)^2)`` for t < R, then 1, with t and R of :func:`linear_ramp`."""
    length = share * epochs
    done = min(epoch / length, 1.0) if length > 0 else 1.0
    return math.exp(-5 * (1 - done) ** 2)
