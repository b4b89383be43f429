"""Distillation from a stronger teacher (Huang et al. 2022)."""

from typing import ClassVar

import torch
from torch import Tensor

from models.distillers.base import Batch, Distiller, Needs, TeacherOutputs
from models.distillers.losses import at_least_float32, cross_entropy


class Dist(Distiller):
    """``ce_weight * CE(z_s, y) + beta * L_inter + gamma * L_intra``.

    The student matches the relations between the teacher's probabilities instead of their values,
    which are hard to match for a strong teacher, with ``p = softmax(z / T)`` and Pearson's
    correlation ``rho``:

    * ``L_inter = T^2 (1 - mean_b rho(p_s[b, :], p_t[b, :]))`` over the classes of each sample;
    * ``L_intra = T^2 (1 - mean_k rho(p_s[:, k], p_t[:, k]))`` over the batch for each class.

    Huang, You, Wang, Qian & Xu, *Knowledge Distillation from A Stronger Teacher*, NeurIPS 2022,
    section 4. The factor T^2, the 1e-8 in rho's denominator and the weights (ce 1, beta 2, gamma 2;
    T = 4 on CIFAR-100, 1 on ImageNet) come from their code. The batch is that of one process.
    """

    needs: ClassVar[Needs] = "logits"
    temperature: float  # T
    ce_weight: float  # of the cross entropy
    beta: float  # weight of L_inter
    gamma: float  # weight of L_intra

    def losses(self, outputs: Tensor, batch: Batch, teacher: TeacherOutputs) -> dict[str, Tensor]:
        assert teacher.logits is not None
        ours, theirs = (
            torch.softmax(at_least_float32(logits) / self.temperature, dim=1)
            for logits in (outputs, teacher.logits)
        )
        ce = cross_entropy(outputs, batch)
        inter = self.temperature**2 * (1 - _correlation(ours, theirs))
        intra = self.temperature**2 * (1 - _correlation(ours.T, theirs.T))
        total = self.ce_weight * ce + self.beta * inter + self.gamma * intra
        return {"total": total, "ce": ce, "inter": inter, "intra": intra}


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean Pearson correlation between corresponding rows of two matrices."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    lengths = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    correlations: Tensor = (a * b).sum(1) / (lengths + 1e-8)
    return correlations.mean()
