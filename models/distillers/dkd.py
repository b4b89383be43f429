"""Decoupled knowledge distillation (Zhao et al. 2022)."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from models.distillers.base import Batch, Distiller, Needs, TeacherOutputs
from models.distillers.losses import (
    binary_divergence,
    cross_entropy,
    divergence_without,
    linear_ramp,
    standardize,
    target_classes,
)


class Dkd(Distiller):
    """``ce_weight * CE(z_s, y) + w(t) * (alpha * TCKD + beta * NCKD)``.

    KD is ``TCKD + (1 - p_t(y)) NCKD``, so the more confident the teacher is, the less its other
    probabilities count. DKD weights the two parts separately.

    * ``TCKD = T^2 KL`` of the binary probabilities of class y and of all other classes.
    * ``NCKD = T^2 KL`` of the probabilities of the classes other than y, renormalised.

    Zhao, Cui, Song, Qiu & Liang, *Decoupled Knowledge Distillation*, CVPR 2022, Eq. 7. On CIFAR-100
    they use ce 1, alpha 1 and T = 4, with beta 2 for thin ResNets, 6 for VGG and wide ResNets, and
    8 for others. In their code, ``w`` rises linearly to 1 over the first 20 of 240 epochs; here
    over the same fraction of all epochs. Without a label, y is the teacher's top class.
    """

    needs: ClassVar[Needs] = "logits"
    temperature: float  # T
    ce_weight: float  # of the cross entropy
    alpha: float  # weight of TCKD
    beta: float  # weight of NCKD
    ramp_up: float  # fraction of all epochs in which w rises
    standardize: bool
    """As in :class:`models.distillers.kd.Kd`; published with nine times alpha and beta at T = 2."""

    def losses(self, outputs: Tensor, batch: Batch, teacher: TeacherOutputs) -> dict[str, Tensor]:
        assert teacher.logits is not None
        ours, theirs, temperature = outputs, teacher.logits, self.temperature
        classes = target_classes(batch, theirs)
        if self.standardize:
            ours, theirs = standardize(ours), standardize(theirs)
        this = F.one_hot(classes, ours.shape[1]).to(torch.bool)
        ce = cross_entropy(outputs, batch)
        tckd = binary_divergence(ours, classes, theirs, classes, temperature)
        nckd = divergence_without(this, ours, theirs, temperature)
        ramp = linear_ramp(self.epoch, self.ramp_up, self.epochs)
        total = self.ce_weight * ce + ramp * (self.alpha * tckd + self.beta * nckd)
        return {"total": total, "ce": ce, "tckd": tckd, "nckd": nckd}
