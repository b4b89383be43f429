"""Similarity-preserving knowledge distillation (Tung & Mori 2019)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from models.distillers.base import Batch
from models.distillers.feature import FeatureDistiller
from models.distillers.losses import at_least_float32
from models.networks.backbone import Features


class Sp(FeatureDistiller):
    """Images that are alike for the teacher shall be alike for the student.

    ``L_feature = ||G_s - G_t||_F^2 / B^2``, where ``G = f f^T`` is ``[B, B]`` with each row scaled
    to norm 1, and ``f`` is the last stage's map, flattened. Number of stages, width and resolution
    of the two networks are free, as their matrices have one shape.

    Tung & Mori 2019, section 3. The paper adds up any set of pairs of layers; the benchmark codes
    of the field and this one take the last stage alone, with the weights ce 1, kd 0, feature 3000.
    The batch is what one process sees.
    """

    def feature_loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        return F.mse_loss(_similarities(student.stages[-1]), _similarities(teacher.stages[-1]))


def _similarities(feature_map: Tensor) -> Tensor:
    """``[B, C, H, W]`` to ``[B, B]`` with rows of norm 1."""
    flat = at_least_float32(feature_map).flatten(1)
    # The products of whole maps pass the end of float16: 2e5 for 512 channels of 7x7 pixels.
    with torch.autocast(flat.device.type, enabled=False):
        return F.normalize(flat @ flat.T, dim=1)
