"""Correlation congruence (Peng et al. 2019), as compared in benchmarks and as published."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.distillers.base import Batch, Setting
from models.distillers.feature import FeatureDistiller, probe_both
from models.distillers.losses import at_least_float32
from models.networks.backbone import Backbone, Features

# Of the benchmark's linear embeddings, and of the paper's kernel.
_EMBEDDING = 128
_GAMMA = 0.4
_ORDER = 2


class Cc(FeatureDistiller):
    """How samples relate to each other in the teacher, they shall in the student.

    Peng et al. 2019, section 3, print ``L_feature = ||K(f_s) - K(f_t)||_F^2 / B^2`` on the pooled
    embeddings. The code that they gave to RepDistiller, which most comparisons ran, the one in the
    ACKD paper among them, computes something else; hence two variants.

    * ``repdistiller``: ``mean_{i<B} sum_j d_ij d_{i+1,j}`` with ``d = |e_s - e_t|``, where ``e`` is
      a trained linear embedding of 128 numbers for either network. Each sample is paired with the
      next of the batch, so the loss depends on the order. As both embeddings are trained, they
      lower most of it by themselves, whatever the student does; this is kept, because it is what
      was compared. Weights ce 1, kd 0, feature 0.02.
    * ``rbf``: the printed loss with the Gaussian kernel, expanded to order P = 2: ``K_ij = sum_{p
      <= P} exp(-2g) (2g)^p / p! (f_i . f_j)^p`` for ``f`` of norm 1 and g = 0.4. Nothing is
      trained beside the student. A public code of it takes ce 1, kd 0, feature 100.

    Width, resolution and number of stages are free in both. The batch is what one process sees.

    Attributes:
        variant: which of the two.
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
    """The loss of ``repdistiller``; embeddings ``[B, student_width]``, ``[B, teacher_width]``."""

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.embed_student = nn.Linear(student_width, _EMBEDDING)
        self.embed_teacher = nn.Linear(teacher_width, _EMBEDDING)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        distance = (self.embed_student(student) - self.embed_teacher(teacher)).abs()
        products: Tensor = distance[:-1] * distance[1:]
        return products.sum() / len(products)


class Kernels(nn.Module):
    """The loss of ``rbf``; embeddings ``[B, D]`` of any two D."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return F.mse_loss(_kernel(student), _kernel(teacher))


def _kernel(embedding: Tensor) -> Tensor:
    """``[B, D]`` to ``[B, B]``."""
    unit = F.normalize(embedding, dim=1)
    cosines = unit @ unit.T
    terms = [(2 * _GAMMA * cosines) ** p / math.factorial(p) for p in range(_ORDER + 1)]
    return math.exp(-2 * _GAMMA) * torch.stack(terms).sum(0)
