"""Cross-layer distillation with semantic calibration (Chen et al. 2021)."""

from collections.abc import Sequence
from itertools import product
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.distillers.base import Batch, Setting
from models.distillers.feature import FeatureDistiller, at_common_size, probe_both
from models.distillers.losses import at_least_float32
from models.networks.backbone import Backbone, Features


class Projection(nn.Module):
    """Maps the rows of a similarity matrix ``[B, B]`` to unit vectors ``[B, D]``."""

    def __init__(self, batch_size: int, size: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(batch_size, 2 * size)
        self.project = nn.Linear(2 * size, size)

    def forward(self, similarity: Tensor) -> Tensor:
        return F.normalize(self.project(F.relu(self.hidden(similarity))))


class Regressor(nn.Sequential):
    """Maps a student's map to the channels of a teacher's, with twice as many hidden channels."""

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        hidden = 2 * teacher_channels
        super().__init__(
            nn.Conv2d(student_channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, teacher_channels, 1, bias=False),
        )


class SemCkd(FeatureDistiller):
    """``L_feature = 1/(B S) sum_b sum_ij alpha_bij * mean_chw (R_ij(f_i^s) - f_j^t)^2``.

    Each of the student's S stages i learns from every stage j of the teacher; ``R_ij`` is a
    convolutional regressor, and the larger of the two maps is first pooled to the size of the
    smaller. The weight of a pair for a sample is learned: ``alpha_bi = softmax_j(q_bi . k_bj)``,
    where perceptrons compute queries and keys from the similarities of the sample to the batch:
    ``q_i = MLP_i(M_i M_i')`` and ``k_j = MLP_j(M_j M_j')``, where ``M`` is the map as ``[B, CHW]``.
    The similarities are not normalised. Queries and keys are normalised to unit length, so the
    weights stay close to uniform.

    Follows the authors' code. The input of the perceptrons has the size of the batch of one
    process, so an incomplete last batch is dropped. The reference's weights are ``ce_weight`` 1,
    ``kd_weight`` 1 at T = 4, and ``feature_weight`` 400, or 50 on ImageNet. They assume its
    learning rate of .05: the regressors do not end with a normalisation, so the product of rate and
    weight limits the stability of their last convolutions. On CIFAR-100, they diverged with 400
    when the rate exceeded .06; with 100, 75 steps at rates of up to .2 stayed finite.
    """

    needs_full_batches: ClassVar[bool] = True
    min_batch: ClassVar[int] = 4  # the size of queries and keys is a quarter of it

    def __init__(self, student: Backbone, setting: Setting, **options: Any) -> None:
        super().__init__(student, setting, **options)
        size = setting.batch_size // 4
        both = probe_both(student, setting)
        widths = [[stage.shape[1] for stage in features.stages] for features in both]
        self.queries, self.keys = (
            nn.ModuleList(Projection(setting.batch_size, size) for _ in stages) for stages in widths
        )
        self.regressors = nn.ModuleList(Regressor(own, other) for own, other in product(*widths))

    def feature_loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        # Sums over whole maps overflow in fp16.
        with torch.autocast(batch.images.device.type, enabled=False):
            queries = _project(self.queries, student.stages)
            keys = _project(self.keys, teacher.stages)
            weights = F.softmax(torch.einsum("ibd,jbd->bij", queries, keys), dim=2)
        pairs = zip(self.regressors, product(student.stages, teacher.stages), strict=True)
        distances = [_distance(regressor, own, other) for regressor, (own, other) in pairs]
        weighted = weights.flatten(1) * torch.stack(distances, dim=1)
        return weighted.sum(1).mean() / len(student.stages)


def _project(projections: nn.ModuleList, maps: Sequence[Tensor]) -> Tensor:
    """Compute queries or keys, ``[stages, B, D]``."""
    flat = [at_least_float32(feature_map).flatten(1) for feature_map in maps]
    return torch.stack(
        [project(rows @ rows.T) for project, rows in zip(projections, flat, strict=True)]
    )


def _distance(regressor: nn.Module, student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Compute the mean squared error over channels and positions, ``[B]``."""
    own, other = at_common_size(student_map, teacher_map)
    return (at_least_float32(regressor(own)) - other).square().mean((1, 2, 3))
