"""Distillation by knowledge review (Chen et al. 2021)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.distillers.base import Batch, Setting
from models.distillers.feature import FeatureDistiller, average_pool, probe_both
from models.distillers.losses import at_least_float32, linear_ramp
from models.networks.backbone import Backbone, Features

_MAX_WIDTH = 512


class Fusion(nn.Module):
    """A level of the student joined with what the levels above it gave, ABF in the paper."""

    def __init__(self, own: int, width: int, teacher: int, topmost: bool) -> None:
        super().__init__()
        self.reduce = _convolution(own, width, 1)
        self.expand = _convolution(width, teacher, 3)
        self.gate = None if topmost else nn.Conv2d(2 * width, 2, 1)

    def forward(self, own: Tensor, above: Tensor | None, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """What is compared with the teacher's map, and what the next level below gets.

        Args:
            own: the student's map.
            above: what the level above gave; None for the topmost.
            teacher: its map of this level.
        """
        fused: Tensor = self.reduce(own)
        if self.gate is not None:
            assert above is not None
            above = F.interpolate(above, fused.shape[2:])
            shares = self.gate(torch.cat([fused, above], dim=1)).sigmoid()
            fused = fused * shares[:, :1] + above * shares[:, 1:]
        if fused.shape[2:] != teacher.shape[2:]:
            fused = F.interpolate(fused, teacher.shape[2:])
        return self.expand(fused), fused


class ReviewKd(FeatureDistiller):
    """``L_feature = w(t) sum_i H(E_i(g_i), f_t^i)``: every level learns from those above it too.

    The levels are the stages that both networks have, stage i with stage i, and on top of them the
    embeddings as maps of one pixel. From the top down, ``g_i`` joins the student's level i, reduced
    to at most 512 channels, with ``g_{i+1}``, enlarged to its size, by two gates for each position;
    ``E_i`` brings it to the teacher's channels. ``H`` is the mean squared error of the maps and of
    both pooled to those of 4x4, 2x2 and 1x1 pixels that are smaller, weighted 1, 1/2, 1/4 and so
    on, over the sum of the weights.

    Chen, Liu, Zhao & Jia, *Distilling Knowledge via Knowledge Review*, CVPR 2021, section 3. Their
    code compares with the teacher's maps before the last ReLU of a stage, this one after it, as all
    methods here do. Its weights are ce 1, kd 0 and feature .6 to 1 for thin ResNets on CIFAR-100, 5
    to 8 for wide ones; ``w`` rises linearly to 1 over the first 20 of 240 epochs, here over as
    large a share.

    It was chosen before SimKD (CVPR 2022), whose student carries the teacher's classifier and a
    projector of convolutions for good. What is trained here beside the student is dropped, and of
    the feature methods that Zhao et al. 2022 (DKD) compare, it is the strongest.

    Attributes:
        ramp_up: the share of all epochs in which w rises.
    """

    ramp_up: float

    def __init__(self, student: Backbone, setting: Setting, **options: Any) -> None:
        super().__init__(student, setting, **options)
        levels = _levels(*probe_both(student, setting))
        width = min(_MAX_WIDTH, levels[0][0].shape[1])
        self.fusions = nn.ModuleList(
            Fusion(own.shape[1], width, other.shape[1], topmost=i == 0)
            for i, (own, other) in enumerate(levels)
        )

    def feature_loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        losses, above = [], None
        for fusion, (own, other) in zip(self.fusions, _levels(student, teacher), strict=True):
            compared, above = fusion(own, above, other)
            losses.append(_context_loss(at_least_float32(compared), at_least_float32(other)))
        ramp = linear_ramp(self.epoch, self.ramp_up, self.epochs)
        return ramp * torch.stack(losses).sum()


def _convolution(channels: int, wanted: int, size: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, wanted, size, padding=size // 2, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return nn.Sequential(conv, nn.BatchNorm2d(wanted))


def _levels(student: Features, teacher: Features) -> list[tuple[Tensor, Tensor]]:
    """The maps ``[B, C, H, W]`` of both, from the top down."""
    stages = list(zip(student.stages, teacher.stages, strict=False))
    top = tuple(f.embedding.unsqueeze(2).unsqueeze(3) for f in (student, teacher))
    return [(top[0], top[1]), *reversed(stages)]


def _context_loss(ours: Tensor, theirs: Tensor) -> Tensor:
    """``H`` of two maps of one shape."""
    loss, weight, weights = F.mse_loss(ours, theirs), 1.0, 1.0
    for side in (4, 2, 1):
        if side < min(ours.shape[2:]):
            weight /= 2
            pooled = average_pool(ours, side, side), average_pool(theirs, side, side)
            loss, weights = loss + weight * F.mse_loss(*pooled), weights + weight
    return loss / weights
