"""Contrastive representation distillation (Tian, Krishnan & Isola 2020)."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.distillers.base import Batch, Setting
from models.distillers.feature import FeatureDistiller, probe_both
from models.distillers.losses import at_least_float32
from models.networks.backbone import Backbone, Features

_EPSILON = 1e-7
_INT64 = torch.iinfo(torch.int64)
# The bits of 2^64 divided by the golden ratio, as int64. Multiplication by this odd number is a
# bijection that propagates every bit upwards.
_SCATTER = 0x9E3779B97F4A7C15 - (1 << 64)


class Memory(nn.Module):
    """A network's embeddings of all N training samples, as of the last time each was seen."""

    embeddings: Tensor  # [N, D], initially random with an expected squared norm of 1
    normaliser: Tensor  # Z of :class:`Crd`, a scalar; 0 until it is set

    def __init__(self, samples: int, size: int) -> None:
        super().__init__()
        bound = math.sqrt(3 / size)
        self.register_buffer("embeddings", torch.empty(samples, size).uniform_(-bound, bound))
        self.register_buffer("normaliser", torch.zeros(()))

    def likeness(self, anchors: Tensor, temperature: float) -> Tensor:
        """Compute ``exp(m_j . v_b / t)`` of anchors ``[B, D]`` and all memories, ``[B, N]``."""
        # Use a copy, because the memory is updated before the backward pass. Gathering the
        # thousands of rows that each anchor is compared with would be far more expensive.
        return torch.exp(anchors @ self.embeddings.clone().T / temperature)

    def update(self, indices: Tensor, embeddings: Tensor, momentum: float) -> None:
        """Update ``m_i <- normalise(momentum * m_i + (1 - momentum) * v_i)``."""
        mixed = momentum * self.embeddings[indices] + (1 - momentum) * embeddings
        self.embeddings[indices] = F.normalize(mixed)


class Crd(FeatureDistiller):
    """``L_feature = L_s + L_t``, each a noise-contrastive estimation with K negatives.

    ``L_side = -1/B sum_b [log(P_b / (P_b + K/N)) + sum_k log((K/N) / (P_bk + K/N))]``, where
    ``P_bj = exp(m_j . v_b / t) / Z``. ``v_b`` is the pooled embedding of sample b after a trained
    linear layer and L2 normalisation. ``L_s`` compares the student's embeddings ``v_b`` with the
    memory ``m_j`` of the teacher's, and ``L_t`` vice versa. ``P_b`` belongs to the sample itself,
    the ``P_bk`` to K samples of other classes. For each side, Z is N times the mean of the first
    batch's exponentials, and constant from then on. After each batch its samples are updated in the
    memories, ``m <- normalise(momentum * m + (1 - momentum) * v)``.

    Follows the authors' code, which differs from the paper's critic (Eq. 19) in having Z and in
    adding 1e-7 to each denominator. Their loader provides the indices of negatives; here they are
    drawn on the training device. With fewer than K samples of other classes, their code draws with
    replacement; here each of these samples is weighted by the expected number of draws. The
    reference's weights are ``ce_weight`` 1, ``kd_weight`` 0 (1 for CRD+KD) and ``feature_weight``
    .8.

    Negatives are a function of seed, epoch and sample. All processes have equal memories, because
    they exchange their embeddings.
    """

    compares_maps: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True

    embedding_size: int  # D; 128 in the reference
    negatives: int  # K; 16384 in the reference
    contrast_temperature: float  # t; .07 in the reference
    momentum: float  # of the memories; .5 in the reference
    labels: Tensor
    noise: Tensor
    seed: Tensor

    def __init__(self, student: Backbone, setting: Setting, **options: Any) -> None:
        super().__init__(student, setting, **options)
        samples, size = len(setting.labels), self.embedding_size
        ours, theirs = probe_both(student, setting)
        self.embed_student = nn.Linear(ours.embedding.shape[1], size)
        self.embed_teacher = nn.Linear(theirs.embedding.shape[1], size)
        self.memory_student = Memory(samples, size)
        self.memory_teacher = Memory(samples, size)
        self.gather = setting.gather
        self.register_buffer("seed", torch.randint(1 << 31, ()))
        self.register_buffer("labels", setting.labels, persistent=False)
        self.register_buffer("noise", torch.empty(2, samples, dtype=torch.int64), persistent=False)
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        generator = torch.Generator().manual_seed(int(self.seed) + epoch)
        shape = self.noise.shape
        self.noise.copy_(torch.randint(_INT64.min, _INT64.max, shape, generator=generator))
        # Read once per epoch, because reading in each step would synchronise the device.
        self.normalised = bool(self.memory_teacher.normaliser > 0)

    def feature_loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        # exp(1 / .07) is 1.6e6, which needs float32.
        with torch.autocast(batch.images.device.type, enabled=False):
            of_student = F.normalize(self.embed_student(at_least_float32(student.embedding)))
            of_teacher = F.normalize(self.embed_teacher(at_least_float32(teacher.embedding)))
            drawn = self.draw_negatives(batch)
            loss = self._contrast(of_student, self.memory_teacher, batch.indices, drawn)
            loss = loss + self._contrast(of_teacher, self.memory_student, batch.indices, drawn)
            self.normalised = True
            if self.training:
                self._remember(batch.indices, of_student.detach(), of_teacher.detach())
        return loss

    def draw_negatives(self, batch: Batch) -> Tensor:
        """Draw the samples that each sample of the batch is contrasted with, ``[B, N]`` bool.

        Draws K samples of other classes uniformly without replacement, or all if there are fewer.
        """
        others = self.labels != batch.labels.unsqueeze(1)
        anchors, samples = self.noise
        keys = (anchors[batch.indices].unsqueeze(1) ^ samples) * _SCATTER
        keys.masked_fill_(~others, _INT64.max)
        count = min(self.negatives, len(self.labels))
        lowest = keys.topk(count, largest=False, sorted=False).values
        drawn: Tensor = others & (keys <= lowest.amax(1, keepdim=True))
        return drawn

    def _contrast(self, anchors: Tensor, memory: Memory, indices: Tensor, drawn: Tensor) -> Tensor:
        """Compute ``L_s`` or ``L_t``."""
        likeness = memory.likeness(anchors, self.contrast_temperature)
        own = likeness.gather(1, indices.unsqueeze(1)).squeeze(1)
        count = drawn.sum(1)
        if not self.normalised:
            others = self.negatives * (likeness * drawn).sum(1) / count
            mean = self.gather(((own + others) / (1 + self.negatives)).detach()).mean()
            memory.normaliser.copy_(mean * len(self.labels))
        own, likeness = own / memory.normaliser, likeness / memory.normaliser
        noise = self.negatives / len(self.labels)
        positive = torch.log(own / (own + noise + _EPSILON))
        # log1p, because logarithms of numbers close to 1 are inaccurate in float32, and there are
        # thousands of them.
        negative = -torch.log1p((likeness + _EPSILON) / noise) * drawn
        loss: Tensor = -(positive + self.negatives * negative.sum(1) / count).mean()
        return loss

    @torch.no_grad()
    def _remember(self, indices: Tensor, of_student: Tensor, of_teacher: Tensor) -> None:
        indices = self.gather(indices)
        of_student, of_teacher = self.gather(torch.cat([of_student, of_teacher], 1)).chunk(2, 1)
        self.memory_student.update(indices, of_student, self.momentum)
        self.memory_teacher.update(indices, of_teacher, self.momentum)
