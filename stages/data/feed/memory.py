"""Training images that stay in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from stages.data.feed.augmentation import augment, pad
from stages.data.feed.base import Feed, FeedPlan


class MemoryFeed(Feed):
    """All training images lie padded in the device's memory and are augmented there."""

    def __init__(self, plan: FeedPlan) -> None:
        super().__init__(plan)
        images = torch.from_numpy(plan.data.split("train").images.with_margin()[:])
        padding, mode = plan.augmentation.crop_padding, plan.augmentation.pad_mode
        self.padded = pad(images, padding, mode).to(plan.device)

    def _images(self, parts: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        settings, size = self.plan.augmentation, self.plan.data.image_size
        for indices in parts:
            yield augment(self.padded, indices, indices, settings, size, epoch)
