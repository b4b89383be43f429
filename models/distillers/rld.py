"""Refined logit distillation (Sun et al. 2024)."""

from typing import ClassVar

from torch import Tensor

from models.distillers.base import Batch, Distiller, Needs, TeacherOutputs
from models.distillers.losses import (
    binary_divergence,
    cross_entropy,
    divergence_without,
    linear_ramp,
    target_classes,
)


class Rld(Distiller):
    """``ce_weight * CE(z_s, y) + w(t) * (alpha * SCD + beta * MCD)``.

    The teacher's mistakes are not passed on:

    * sample confidence, ``SCD = KL`` at T = 1 of binary probabilities: those of the teacher's top
      class against all others, and those of class y against all others in the student. The student
      learns the teacher's confidence, but for the correct class;
    * masked correlation, ``MCD = T^2 KL`` of the renormalised probabilities of the classes that the
      teacher ranks below y; y and all classes ranked above it are left out.

    Sun, Chen, Lyu, Chen, Chen & Wang, *Knowledge Distillation with Refined Logits*, 2024 (arXiv
    2408.07703). On CIFAR-100 they use ce 1, alpha 1, beta 8 and T = 4, with the ``w`` of DKD; on
    ImageNet beta .5 or 2 and T = 1, without ``w``. Without a label, y is the teacher's top class.

    We chose it over multi-level logit distillation (CVPR 2023), whose results need two views of
    each image and twice the epochs. RLD costs the same as KD, uses the same stored logits, and is
    reported to outperform KD and DKD with KD's schedule.
    """

    needs: ClassVar[Needs] = "logits"
    temperature: float  # T of MCD
    ce_weight: float  # of the cross entropy
    alpha: float  # weight of SCD
    beta: float  # weight of MCD
    ramp_up: float  # fraction of all epochs in which w rises

    def losses(self, outputs: Tensor, batch: Batch, teacher: TeacherOutputs) -> dict[str, Tensor]:
        theirs = teacher.logits
        assert theirs is not None
        classes = target_classes(batch, theirs)
        not_below = theirs >= theirs.gather(1, classes.unsqueeze(1))
        ce = cross_entropy(outputs, batch)
        scd = binary_divergence(outputs, classes, theirs, theirs.argmax(1), 1.0)
        mcd = divergence_without(not_below, outputs, theirs, self.temperature)
        ramp = linear_ramp(self.epoch, self.ramp_up, self.epochs)
        total = self.ce_weight * ce + ramp * (self.alpha * scd + self.beta * mcd)
        return {"total": total, "ce": ce, "scd": scd, "mcd": mcd}
