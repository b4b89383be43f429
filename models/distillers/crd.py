"""Contrastive representation distillation (Tian, Krishnan & Isola 2020)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.distillers.base import Batch, Setting
from models.distillers.feature import FeatureDistiller, probe_both
from models.distillers.losses import at_least_float32
from models.errors import InputError
from models.networks.backbone import Backbone, Features

_EPSILON = 1e-7
_INT64 = torch.iinfo(torch.int64)
# 2^64 divided by the golden ratio, as int64 holds its bits: an odd number, by which to multiply is
# a bijection that carries every bit upwards.
_SCATTER = 0x9E3779B97F4A7C15 - (1 << 64)


class Memory(nn.Module):
    """One network's embeddings of all N training samples, as they were when last seen.

    Attributes:
        embeddings: ``[N, D]``, random at first, with an expected squared length of 1.
        normaliser: Z of :class:`Crd`, a scalar; 0 until it is set.
    """

    embeddings: Tensor
    normaliser: Tensor

    def __init__(self, samples: int, size: int) -> None:
        super().__init__()
        bound = math.sqrt(3 / size)
        self.register_buffer("embeddings", torch.empty(samples, size).uniform_(-bound, bound))
        self.register_buffer("normaliser", torch.zeros(()))

    def likeness(self, anchors: Tensor, temperature: float) -> Tensor:
        """``exp(m_j . v_b / t)`` of ``[B, D]`` anchors with all that is remembered, ``[B, N]``."""
        # Of a copy, because the backward pass must not meet the rows that change before it. To
        # gather the thousands of rows that an anchor is compared with would cost far more.
        return torch.exp(anchors @ self.embeddings.clone().T / temperature)

    def update(self, indices: Tensor, embeddings: Tensor, momentum: float) -> None:
        """``m_i <- normalise(momentum * m_i + (1 - momentum) * v_i)``."""
        mixed = momentum * self.embeddings[indices] + (1 - momentum) * embeddings
        self.embeddings[indices] = F.normalize(mixed)


class Crd(FeatureDistiller):
    """``L_feature = L_s + L_t``, each a noise-contrastive estimation over K negatives.

    ``L_side = -1/B sum_b [log(P_b / (P_b + K/N)) + sum_k log((K/N) / (P_bk + K/N))]``, where
    ``P_bj = exp(m_j . v_b / t) / Z``. ``v_b`` is the pooled embedding of sample b, passed through a
    linear layer that is trained for either network, and L2-normalised. ``L_s`` compares the
    student's with the memory of the teacher's, ``m_j``, and ``L_t`` the other way round: ``P_b`` is
    that of the sample itself, the ``P_bk`` those of K samples of other classes. Z is N times the
    mean of the first batch's exponentials, for either side, and constant from then on. After each
    batch the memories of its samples follow, ``m <- normalise(momentum * m + (1 - momentum) * v)``.

    The authors' code is followed. Unlike the paper's critic (Eq. 19) it has Z, and it adds 1e-7 to
    each denominator. It ships the negatives' indices from the loader; here they are drawn where
    the images are. Where there are fewer than K samples of other classes, it draws with
    replacement; here each of them counts as often as it would be drawn on average. The reference's
    weights are ``ce_weight`` 1, ``kd_weight`` 0 (1 for its CRD+KD) and ``feature_weight`` .8.

    What is drawn is a function of the seed, the epoch and the sample alone. Several processes have
    equal memories, because each is told all embeddings.

    Attributes:
        embedding_size: D; 128 in the reference.
        negatives: K; 16384 in the reference.
        contrast_temperature: t; .07 in the reference.
        momentum: of the memories; .5 in the reference.

    Raises:
        InputError: all samples are of one class.
    """

    compares_maps: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True

    embedding_size: int
    negatives: int
    contrast_temperature: float
    momentum: float
    labels: Tensor
    noise: Tensor
    seed: Tensor

    def __init__(self, student: Backbone, setting: Setting, **options: Any) -> None:
        super().__init__(student, setting, **options)
        if bool((setting.labels == setting.labels[0]).all()):
            raise InputError(
                "crd sets samples of different classes apart, but all training images are of one;"
                " use another method"
            )
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
        # Asked here, because to ask the device in each step would make it wait.
        self.normalised = bool(self.memory_teacher.normaliser > 0)

    def feature_loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        # exp(1 / .07) is 1.6e6, which is too much for less than float32.
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
        """Which samples each of the batch is contrasted with, ``[B, N]`` bool.

        K samples of other classes without replacement, every set of K as likely as any other, or
        all of them where they are fewer.
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
        """``L_s`` or ``L_t``."""
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
        # The logarithms of numbers next to 1, of which there are thousands, as float32 needs them.
        negative = -torch.log1p((likeness + _EPSILON) / noise) * drawn
        loss: Tensor = -(positive + self.negatives * negative.sum(1) / count).mean()
        return loss

    @torch.no_grad()
    def _remember(self, indices: Tensor, of_student: Tensor, of_teacher: Tensor) -> None:
        indices = self.gather(indices)
        of_student, of_teacher = self.gather(torch.cat([of_student, of_teacher], 1)).chunk(2, 1)
        self.memory_student.update(indices, of_student, self.momentum)
        self.memory_teacher.update(indices, of_teacher, self.momentum)
