"""Refined logit distillation (Sun et al. 2024)."""

from __future__ import annotations

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

    * sample confidence, ``SCD = KL`` at T = 1 between "the class that I put first" of the teacher
      and "class y" of the student, each against all others: the student learns how sure to be, of
      the right class;
    * masked correlation, ``MCD = T^2 KL`` between the probabilities of the classes that the teacher
      puts below y, among themselves; y and what the teacher puts above it are left out.

    Sun, Chen, Lyu, Chen, Chen & Wang, *Knowledge Distillation with Refined Logits*, 2024 (arXiv
    2408.07703). Their code weighs ce 1, alpha 1, beta 8 at T = 4, with the ``w`` of DKD. Without a
    label, the teacher's first class stands for y.

    It was chosen before multi-level logit distillation (CVPR 2023), whose figures come from two
    views of each image and twice the epochs, while this one costs what KD does, reads the same
    store of logits, and is reported above KD and DKD at KD's schedule.

    Attributes:
        temperature: T of MCD.
        ce_weight: of the cross entropy.
        alpha: of SCD.
        beta: of MCD.
        ramp_up: the share of all epochs in which w rises.
    """

    needs: ClassVar[Needs] = "logits"
    temperature: float
    ce_weight: float
    alpha: float
    beta: float
    ramp_up: float

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
