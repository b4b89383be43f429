"""Distillation by knowledge review (Chen et al. 2021)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.distillers.base import Batch, Setting
from models.distillers.feature import FeatureDistiller, probe_both
from models.distillers.losses import at_least_float32, linear_ramp
from models.networks.backbone import Backbone, Features
from models.networks.pooling import average_pool

_MAX_WIDTH = 512


class Fusion(nn.Module):
    """Fuses a level of the student with the levels above it; ABF in the paper."""

    def __init__(self, own: int, width: int, teacher: int, topmost: bool) -> None:
        super().__init__()
        self.reduce = _convolution(own, width, 1)
        self.expand = _convolution(width, teacher, 3)
        self.gate = None if topmost else nn.Conv2d(2 * width, 2, 1)

    def forward(self, own: Tensor, above: Tensor | None, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map to compare with the teacher's, and the fused map for the level below.

        ``above`` is the fused map of the level above; None for the topmost level.
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
    """``L_feature = w(t) sum_i H(E_i(g_i), f_t^i)``, where each level includes those above it.

    The levels are the stages that both networks have, paired by number, and on top of them the
    embeddings as maps of one pixel. From the top down, ``g_i`` fuses the student's level i, reduced
    to at most 512 channels, with the upsampled ``g_{i+1}`` by two gates per position; ``E_i`` maps
    it to the teacher's channels. ``H`` is the mean squared error of the maps, plus that of both
    maps pooled to each smaller size of 4x4, 2x2 and 1x1, weighted 1, 1/2, 1/4 and so on and divided
    by the sum of the weights.

    Chen, Liu, Zhao & Jia, *Distilling Knowledge via Knowledge Review*, CVPR 2021, section 3. Their
    code uses the teacher's maps before the last ReLU of a stage; like all methods here, this code
    uses them after it. Their weights are ce 1, kd 0 and feature .6 to 1 for thin ResNets on
    CIFAR-100, 5 to 8 for wide ones. ``w`` rises linearly to 1 over the first 20 of 240 epochs; here
    over the same fraction of all epochs.

    We chose it over SimKD (CVPR 2022), whose student keeps the teacher's classifier and a
    convolutional projector after training. Here all auxiliary modules are dropped. In the
    comparison of Zhao et al. 2022 (DKD), it is the strongest feature method.
    """

    ramp_up: float  # fraction of all epochs in which w rises

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
    """Return pairs of the student's and the teacher's maps ``[B, C, H, W]``, from the top down."""
    stages = list(zip(student.stages, teacher.stages, strict=False))
    top = tuple(f.embedding.unsqueeze(2).unsqueeze(3) for f in (student, teacher))
    return [(top[0], top[1]), *reversed(stages)]


def _context_loss(ours: Tensor, theirs: Tensor) -> Tensor:
    """Compute ``H`` of two maps of equal shape."""
    loss, weight, weights = F.mse_loss(ours, theirs), 1.0, 1.0
    for side in (4, 2, 1):
        if side < min(ours.shape[2:]):
            weight /= 2
            pooled = average_pool(ours, side, side), average_pool(theirs, side, side)
            loss, weights = loss + weight * F.mse_loss(*pooled), weights + weight
    return loss / weights
