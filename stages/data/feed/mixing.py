"""Mixup and CutMix, which combine pairs of images, keyed by (seed, epoch, step)."""

import math
from typing import NamedTuple

import numpy as np
from torch import Tensor

from stages.sections.data import Augmentation

_PURPOSE = 0x6D6978  # keeps these numbers apart from others of the same seed


class Mix(NamedTuple):
    """How to mix the pixels and targets of a batch with those of their partners."""

    kept: float  # weight of an image's own target and, with mixup, of its pixels
    box: tuple[int, int, int, int] | None
    """Top, left, bottom and right, in pixels, of the part that CutMix takes from the partner; None
    for mixup."""

    def images(self, own: Tensor, partners: Tensor) -> Tensor:
        """Mix two batches of images ``[B, 3, H, W]``."""
        if self.box is None:
            return own * self.kept + partners * (1 - self.kept)
        mixed = own.clone()
        top, left, bottom, right = self.box
        mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
        return mixed

    def targets(self, own: Tensor, partners: Tensor) -> Tensor:
        """Mix two batches of targets ``[B, K]``."""
        return own * self.kept + partners * (1 - self.kept)


def draw_mix(settings: Augmentation, epoch: int, step: int, size: int) -> Mix:
    """Draw mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019) for images of ``size`` pixels."""
    generator = np.random.default_rng((settings.seed % 2**64, epoch, step, _PURPOSE))
    cuts = generator.random() < 0.5 if settings.mixup and settings.cutmix else settings.cutmix > 0
    alpha = settings.cutmix if cuts else settings.mixup
    kept = float(generator.beta(alpha, alpha))
    if not cuts:
        return Mix(kept, None)
    # A square with area 1 - kept around a random centre, clipped to the image.
    half = math.sqrt(1 - kept) * size / 2
    row, column = generator.integers(size), generator.integers(size)
    top, bottom, left, right = (
        int(min(max(round(edge), 0), size))
        for edge in (row - half, row + half, column - half, column + half)
    )
    return Mix(1 - (bottom - top) * (right - left) / size**2, (top, left, bottom, right))
