"""Mixup and CutMix: batches whose images are made of two, keyed by (seed, epoch, step)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from torch import Tensor

from stages.sections.data import Augmentation

_PURPOSE = 0x6D6978  # keeps these numbers apart from others of the same seed


class Box(NamedTuple):
    """Of an image, in pixels."""

    top: int
    left: int
    bottom: int
    right: int


class Mix(NamedTuple):
    """How the images of one batch are mixed with their partners, pixels and targets alike.

    Attributes:
        kept: the share of each image's own target; mixup keeps as much of its pixels.
        box: what CutMix takes from the partner; None for mixup.
    """

    kept: float
    box: Box | None

    def images(self, own: Tensor, partners: Tensor) -> Tensor:
        """``[B, 3, H, W]`` of two such batches."""
        if self.box is None:
            return own * self.kept + partners * (1 - self.kept)
        mixed = own.clone()
        top, left, bottom, right = self.box
        mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
        return mixed

    def targets(self, own: Tensor, partners: Tensor) -> Tensor:
        """``[B, K]`` of two such batches."""
        return own * self.kept + partners * (1 - self.kept)


def draw_mix(settings: Augmentation, epoch: int, step: int, size: int) -> Mix:
    """Zhang et al. 2018 (mixup) or Yun et al. 2019 (CutMix), for a batch of ``size`` pixels."""
    generator = np.random.default_rng((settings.seed, epoch, step, _PURPOSE))
    cuts = generator.random() < 0.5 if settings.mixup and settings.cutmix else settings.cutmix > 0
    alpha = settings.cutmix if cuts else settings.mixup
    kept = float(generator.beta(alpha, alpha))
    if not cuts:
        return Mix(kept, None)
    # A square of the share that is not kept about a random centre, less what leaves the image.
    half = math.sqrt(1 - kept) * size / 2
    row, column = generator.integers(size), generator.integers(size)
    top, bottom, left, right = (
        int(min(max(round(edge), 0), size))
        for edge in (row - half, row + half, column - half, column + half)
    )
    return Mix(1 - (bottom - top) * (right - left) / size**2, Box(top, left, bottom, right))
