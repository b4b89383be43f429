"""Knowledge distillation (Hinton, Vinyals & Dean 2015)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from models.distillers.base import Batch, Distiller, Needs, Setting, TeacherOutputs
from models.distillers.losses import cross_entropy, kl_divergence
from models.networks.backbone import Backbone


class Kd(Distiller):
    """``ce_weight * CE(z_s, y) + kd_weight * T^2 KL(p_t || p_s)``.

    The reference benchmarks of the field weigh the two .1 and .9 at T = 4.
    """

    needs: ClassVar[Needs] = "logits"

    def __init__(
        self,
        student: Backbone,
        setting: Setting,
        *,
        temperature: float,
        ce_weight: float,
        kd_weight: float,
    ) -> None:
        super().__init__(student, setting)
        self.temperature = temperature
        self.ce_weight = ce_weight
        self.kd_weight = kd_weight

    def losses(self, outputs: Tensor, batch: Batch, teacher: TeacherOutputs) -> dict[str, Tensor]:
        assert teacher.logits is not None
        ce = cross_entropy(outputs, batch)
        kd = kl_divergence(outputs, teacher.logits, self.temperature)
        return {"total": self.ce_weight * ce + self.kd_weight * kd, "ce": ce, "kd": kd}
