"""Similarity-preserving knowledge distillation (Tung & Mori 2019)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from models.distillers.base import Batch
from models.distillers.feature import FeatureDistiller
from models.distillers.losses import at_least_float32
from models.networks.backbone import Features


class Sp(FeatureDistiller):
    """Match the similarities between images in the student to those in the teacher.

    ``L_feature = ||G_s - G_t||_F^2 / B^2``, where ``G = f f^T`` is ``[B, B]`` with each row
    normalised to 1, and ``f`` is the flattened map of the last stage. As the matrices always have
    the same shape, the networks may differ in number of stages, width and resolution.

    Tung & Mori 2019, section 3. The paper sums over any set of layer pairs; the usual benchmarks
    and this code use only the last stage, with weights ce 1, kd 0, feature 3000. The batch is that
    of one process.
    """

    def feature_loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        return F.mse_loss(_similarities(student.stages[-1]), _similarities(teacher.stages[-1]))


def _similarities(feature_map: Tensor) -> Tensor:
    """Compute similarities ``[B, B]`` of maps ``[B, C, H, W]``, with rows of norm 1."""
    flat = at_least_float32(feature_map).flatten(1)
    # Products of whole maps overflow in float16: 2e5 for 512 channels of 7x7 pixels.
    with torch.autocast(flat.device.type, enabled=False):
        return F.normalize(flat @ flat.T, dim=1)
