"""Variational information distillation (Ahn et al. 2019)."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.distillers.base import Batch, Setting
from models.distillers.feature import FeatureDistiller, at_common_size, probe_both
from models.distillers.losses import at_least_float32
from models.networks.backbone import Backbone, Features

_INITIAL_VARIANCE = 5.0
_MIN_VARIANCE = 1e-5


class Vid(FeatureDistiller):
    """Maximise a lower bound on the mutual information of the student's and the teacher's maps.

    ``L_feature = sum_i mean_{b,c,hw} -log q(f_t^i | f_s^i)``, without the constant. ``i`` runs over
    the stages that both networks have; the larger of the two maps is pooled to the size of the
    smaller. Each stage has its own :class:`Gaussian` ``q``, trained with the student.

    Ahn, Hu, Damianou, Lawrence & Dai 2019, section 2. The paper sums over channels and positions,
    with a weight per layer. Like the authors' code and the usual benchmarks, this code takes the
    mean and a single weight: ce 1, kd 0, feature 1.
    """

    def __init__(self, student: Backbone, setting: Setting, **options: Any) -> None:
        super().__init__(student, setting, **options)
        ours, theirs = probe_both(student, setting)
        self.predictors = nn.ModuleList(
            Gaussian(own.shape[1], other.shape[1])
            for own, other in zip(ours.stages, theirs.stages, strict=False)
        )

    def feature_loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        pairs = zip(self.predictors, student.stages, teacher.stages, strict=False)
        losses = [predictor(*at_common_size(ours, theirs)) for predictor, ours, theirs in pairs]
        return torch.stack(losses).sum()


class Gaussian(nn.Module):
    """``q(f_t | f_s)`` with a mean per position and a variance per channel of the teacher.

    The mean is ``W3 relu(W2 relu(W1 f_s))`` with 1x1 convolutions as wide as the teacher's map; the
    variance is ``softplus(rho_c) + 1e-5``, initially 5.
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(student_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
        )
        rho = math.log(math.expm1(_INITIAL_VARIANCE - _MIN_VARIANCE))
        self.rho = nn.Parameter(torch.full((teacher_channels,), rho))

    def forward(self, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        """Compute the mean of ``-log q`` over maps ``[B, C, H, W]``, without ``log(2 pi) / 2``."""
        mean = at_least_float32(self.mean(student_map))
        variance = (F.softplus(self.rho) + _MIN_VARIANCE).unsqueeze(1).unsqueeze(2)
        return ((mean - teacher_map).square() / variance + variance.log()).mean() / 2
