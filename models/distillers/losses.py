"""Loss terms that several methods share."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


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
    log_p = F.log_softmax(student_logits.float() / temperature, dim=1)
    log_q = F.log_softmax(teacher_logits.float() / temperature, dim=1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * temperature**2
