"""Attention transfer (Zagoruyko & Komodakis 2017)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from models.distillers.base import Batch
from models.distillers.feature import FeatureDistiller, at_common_size
from models.networks.backbone import Features


class At(FeatureDistiller):
    """Match the student's spatial attention maps to the teacher's.

    ``L_feature = sum_i mean_{b,hw} (A(f_s^i) - A(f_t^i))^2`` with the attention map ``A(f) =
    vec(mean_c f^2) / ||vec(mean_c f^2)||_2`` of each sample. ``i`` runs over the stages that both
    networks have; the larger of the two maps is pooled to the size of the smaller.

    Zagoruyko & Komodakis 2017, section 3.1, Eq. 2, with the sum of squares over channels. The paper
    sums half the norms, not squared; its public code, the usual benchmarks and this code take the
    mean of the squares. The benchmarks' weights are ce 1, kd 0, feature 1000.
    """

    def feature_loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        losses = []
        for student_map, teacher_map in zip(student.stages, teacher.stages, strict=False):
            ours, theirs = at_common_size(student_map, teacher_map)
            losses.append(F.mse_loss(_attention(ours), _attention(theirs)))
        return torch.stack(losses).sum()


def _attention(feature_map: Tensor) -> Tensor:
    """Map ``[B, C, H, W]`` to ``[B, H*W]`` with norm 1 for each sample."""
    return F.normalize(feature_map.square().mean(1).flatten(1), dim=1)
