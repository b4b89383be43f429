"""Correlation congruence (Peng et al. 2019), in its benchmark variant and as published."""

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.distillers.base import Batch, Setting
from models.distillers.feature import FeatureDistiller, probe_both
from models.distillers.losses import at_least_float32
from models.networks.backbone import Backbone, Features

# Size of the benchmark variant's embeddings, and parameters of the published kernel.
_EMBEDDING = 128
_GAMMA = 0.4
_ORDER = 2


class Cc(FeatureDistiller):
    """Match the relations between samples in the student to those in the teacher.

    Peng et al. 2019, section 3, define ``L_feature = ||K(f_s) - K(f_t)||_F^2 / B^2`` on the pooled
    embeddings. Their code in RepDistiller, which most comparisons use, including that of the ACKD
    paper, computes a different loss. We therefore have two variants:

    * ``repdistiller``: ``mean_{i<B} sum_j d_ij d_{i+1,j}`` with ``d = |e_s - e_t|``, where ``e`` is
      a trained linear embedding of size 128 for each network. Each sample is paired with the next
      one in the batch, so the loss depends on their order. As both embeddings are trained, they
      reduce most of the loss without the student; we keep this, because published comparisons use
      it. Weights ce 1, kd 0, feature 0.02.
    * ``rbf``: the published loss with the Gaussian kernel, expanded to order P = 2:
      ``K_ij = sum_{p <= P} exp(-2g) (2g)^p / p! (f_i . f_j)^p`` with ``f`` normalised to 1 and g =
      0.4. Only the student is trained. A public implementation uses ce 1, kd 0, feature 100.

    Both variants work with any width, resolution and number of stages. The batch is that of one
    process.
    """

    compares_maps: ClassVar[bool] = False
    variant: Literal["repdistiller", "rbf"]

    def __init__(self, student: Backbone, setting: Setting, **options: Any) -> None:
        super().__init__(student, setting, **options)
        self.incongruence: nn.Module = Kernels()
        if self.variant == "repdistiller":
            both = probe_both(student, setting)
            self.incongruence = Neighbours(*(f.embedding.shape[1] for f in both))

    def feature_loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        ours, theirs = at_least_float32(student.embedding), at_least_float32(teacher.embedding)
        with torch.autocast(ours.device.type, enabled=False):
            loss: Tensor = self.incongruence(ours, theirs)
        return loss


class Neighbours(nn.Module):
    """The loss of ``repdistiller``, on embeddings ``[B, D]`` with the given widths D."""

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.embed_student = nn.Linear(student_width, _EMBEDDING)
        self.embed_teacher = nn.Linear(teacher_width, _EMBEDDING)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        distance = (self.embed_student(student) - self.embed_teacher(teacher)).abs()
        products: Tensor = distance[:-1] * distance[1:]
        return products.sum() / len(products)


class Kernels(nn.Module):
    """The loss of ``rbf`` on embeddings ``[B, D]``; D may differ between the networks."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return F.mse_loss(_kernel(student), _kernel(teacher))


def _kernel(embedding: Tensor) -> Tensor:
    """Compute the kernel matrix ``[B, B]`` of embeddings ``[B, D]``."""
    unit = F.normalize(embedding, dim=1)
    cosines = unit @ unit.T
    terms = [(2 * _GAMMA * cosines) ** p / math.factorial(p) for p in range(_ORDER + 1)]
    return math.exp(-2 * _GAMMA) * torch.stack(terms).sum(0)
