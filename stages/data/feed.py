"""How images reach a network: batches in the epoch's order, augmented and normalised."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.distillers.base import Batch
from models.errors import InputError
from stages.data.arrays import DataSet
from stages.data.augmentation import crop_and_flip, epoch_order, pad
from stages.params import Augmentation


class Normalize:
    """``[B, H, W, 3]`` uint8 to ``[B, 3, H, W]`` float32 of mean 0 and deviation 1."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        self.device = device
        # (x / 255 - mean) / std as one multiplication and one addition.
        std_tensor = torch.tensor(std, dtype=torch.float64)
        self.scale = (1 / (255 * std_tensor)).float().view(1, 3, 1, 1).to(device)
        shift = -torch.tensor(mean, dtype=torch.float64) / std_tensor
        self.shift = shift.float().view(1, 3, 1, 1).to(device)

    def __call__(self, images: npt.NDArray[np.uint8]) -> Tensor:
        # torch takes no read-only memory, which is what a memory-mapped file is.
        batch = torch.from_numpy(images if images.flags.writeable else images.copy())
        planes = batch.to(self.device).permute(0, 3, 1, 2)
        scaled = planes.to(torch.float32, memory_format=torch.contiguous_format)
        return scaled * self.scale + self.shift


class TrainFeed:
    """The training images, held in memory as uint8.

    What it gives is a function of the data seed, the epoch and the sample index alone. The last
    batch of an epoch may be smaller.

    Raises:
        InputError: an epoch would not fill one batch.
    """

    def __init__(
        self, data: DataSet, augmentation: Augmentation, batch_size: int, device: torch.device
    ) -> None:
        split = data.split("train")
        if batch_size > len(split):
            raise InputError(
                f"batch_size is {batch_size}, but there are {len(split)} training images;"
                " use a smaller batch_size or more images"
            )
        if augmentation.pad_mode == "reflect" and augmentation.crop_padding >= data.image_size:
            raise InputError(
                f"augmentation.crop_padding is {augmentation.crop_padding}, which cannot be"
                f" reflected in images of {data.image_size} pixels; use fewer or pad_mode: zero"
            )
        self.augmentation = augmentation
        self.batch_size = batch_size
        self.padded = pad(split.images, augmentation.crop_padding, augmentation.pad_mode)
        self.labels = torch.from_numpy(np.array(split.labels))
        self.normalize = Normalize(data.mean, data.std, device)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return -(-len(self) // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0."""
        settings = self.augmentation
        order = epoch_order(settings.seed, epoch, len(self))
        for start in range(0, len(self), self.batch_size):
            indices = order[start : start + self.batch_size]
            images = crop_and_flip(
                self.padded,
                indices,
                settings.crop_padding,
                settings.horizontal_flip,
                settings.seed,
                epoch,
            )
            labels = self.labels[torch.from_numpy(indices)].to(self.normalize.device)
            yield Batch(self.normalize(images), labels)
