"""Feed training images from memory."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from stages.data.feed.augmentation import augment, pad
from stages.data.feed.base import Feed, FeedPlan


class MemoryFeed(Feed):
    """Keeps all training images, padded, in the device's memory and augments them there."""

    def __init__(self, plan: FeedPlan) -> None:
        super().__init__(plan)
        padding, mode = plan.augmentation.crop_padding, plan.augmentation.pad_mode
        images = [torch.from_numpy(file[:]) for file in self.files]
        padded = [pad(part, padding, mode).to(plan.device) for part in images]
        self.padded = torch.cat(padded) if len(padded) > 1 else padded[0]

    def _images(self, parts: Sequence[Tensor], indices: Tensor, epoch: int) -> Iterator[Tensor]:
        settings, size = self.plan.augmentation, self.plan.data.image_size
        for slots in parts:
            yield augment(self.padded, indices[slots], slots, settings, size, epoch)
