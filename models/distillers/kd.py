"""Knowledge distillation (Hinton, Vinyals & Dean 2015)."""

from typing import ClassVar

from torch import Tensor

from models.distillers.base import Batch, Distiller, Needs, TeacherOutputs
from models.distillers.losses import cross_entropy, kl_divergence, standardize


class Kd(Distiller):
    """``ce_weight * CE(z_s, y) + kd_weight * T^2 KL(p_t || p_s)``.

    The usual benchmarks use the weights .1 and .9 at T = 4.
    """

    needs: ClassVar[Needs] = "logits"
    temperature: float  # T
    ce_weight: float  # of the cross entropy
    kd_weight: float  # of the divergence
    standardize: bool = False
    """Standardize the logits of both networks to mean 0 and variance 1 (Sun et al., *Logit
    Standardization in Knowledge Distillation*, CVPR 2024). Its weights on CIFAR-100 are .1 and 9 at
    T = 2."""

    def losses(self, outputs: Tensor, batch: Batch, teacher: TeacherOutputs) -> dict[str, Tensor]:
        assert teacher.logits is not None
        ce = cross_entropy(outputs, batch)
        ours, theirs = outputs, teacher.logits
        if self.standardize:
            ours, theirs = standardize(ours), standardize(theirs)
        kd = kl_divergence(ours, theirs, self.temperature)
        return {"total": self.ce_weight * ce + self.kd_weight * kd, "ce": ce, "kd": kd}
