"""How images reach a network: batches in the epoch's order, augmented and normalised."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.distillers.base import Batch
from models.errors import InputError
from stages.data.arrays import DataSet
from stages.data.augmentation import augment, epoch_order, pad
from stages.sections.data import Augmentation


class Normalize:
    """``[B, H, W, 3]`` uint8 to ``[B, 3, H, W]`` float32 of mean 0 and deviation 1.

    What it returns keeps the channels innermost in memory, which is what convolutions like best.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        self.device = device
        # (x / 255 - mean) / std as one multiplication and one addition.
        std_tensor = torch.tensor(std, dtype=torch.float64)
        self.scale = (1 / (255 * std_tensor)).float().to(device)
        self.shift = (-torch.tensor(mean, dtype=torch.float64) / std_tensor).float().to(device)

    def __call__(self, images: npt.NDArray[np.uint8] | Tensor) -> Tensor:
        if isinstance(images, np.ndarray):
            # torch takes no read-only memory, which is what a memory-mapped file is.
            images = torch.from_numpy(images if images.flags.writeable else images.copy())
        pixels = images.to(self.device).to(torch.float32)
        return pixels.mul_(self.scale).add_(self.shift).permute(0, 3, 1, 2)


class Share(NamedTuple):
    """One process's part of a global batch.

    Attributes:
        batch: its samples.
        weight: what its mean loss must be multiplied by, so that the mean over all processes is
            the mean over the global batch; 1 where all have the same number of samples.
    """

    batch: Batch
    weight: float


class Feed:
    """The training images of a process, epoch by epoch.

    What it gives is a function of the data seed, the epoch and the sample index alone. Each global
    batch is cut into as many parts as there are processes. The last batch of an epoch may be
    smaller; a rest that would not give two images to every process joins the batch before it,
    because BatchNorm cannot learn from a single 1x1 map.

    Args:
        data: the data set.
        augmentation: padding, flip and seed.
        batch_size: of the global batch.
        device: where the batches go.
        process: this process's number, from 0.
        processes: how many there are.
        full_batches: leave out the rest of an epoch's images that does not fill a batch.

    Raises:
        InputError: an epoch would not fill one batch, or a batch not all processes.
    """

    def __init__(
        self,
        data: DataSet,
        augmentation: Augmentation,
        batch_size: int,
        device: torch.device,
        process: int = 0,
        processes: int = 1,
        full_batches: bool = False,
    ) -> None:
        count = data.count("train")
        if batch_size > count:
            raise InputError(
                f"batch_size is {batch_size}, but there are {count} training images;"
                " use a smaller batch_size or more images"
            )
        if batch_size < 2 * processes:
            raise InputError(
                f"batch_size is {batch_size}, too small for {processes} processes, which need two"
                " images each; use a larger batch_size or fewer processes"
            )
        if full_batches and batch_size % processes:
            raise InputError(
                f"batch_size is {batch_size}, which {processes} processes cannot share evenly, as"
                " this method needs; use a multiple of their number"
            )
        if augmentation.pad_mode == "reflect" and augmentation.crop_padding >= data.image_size:
            raise InputError(
                f"augmentation.crop_padding is {augmentation.crop_padding}, which cannot be"
                f" reflected in images of {data.image_size} pixels; use fewer or pad_mode: zero"
            )
        self.augmentation = augmentation
        self.image_size = data.image_size
        self.batch_size = batch_size
        self.full_batches = full_batches
        self.process, self.processes = process, processes
        self.labels = torch.from_numpy(np.array(data.labels("train")))
        self.normalize = Normalize(data.mean, data.std, device)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        full, rest = divmod(len(self), self.batch_size)
        return full if self.full_batches or rest < 2 * self.processes else full + 1

    @property
    def seen(self) -> int:
        """Images an epoch."""
        return self.steps * self.batch_size if self.full_batches else len(self)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Share]:
        """The process's shares of an epoch's batches.

        Args:
            epoch: counted from 0.
            start_step: the batches before it are left out.
        """
        order = epoch_order(self.augmentation.seed, epoch, len(self))[: self.seen]
        cuts = [step * self.batch_size for step in range(1, self.steps)]
        batches = order.tensor_split(cuts)[start_step:]
        parts = [batch[self.process :: self.processes] for batch in batches]
        device = self.normalize.device
        for indices, batch, images in zip(parts, batches, self._images(parts, epoch), strict=True):
            weight = len(indices) * self.processes / len(batch)
            labels = self.labels[indices].to(device)
            yield Share(Batch(self.normalize(images), labels, indices.to(device)), weight)

    def _images(self, parts: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        """The augmented uint8 images ``[B, H, W, 3]`` of each part, in turn."""
        raise NotImplementedError


class MemoryFeed(Feed):
    """All training images lie padded in the device's memory and are augmented there."""

    def __init__(
        self,
        data: DataSet,
        augmentation: Augmentation,
        batch_size: int,
        device: torch.device,
        process: int = 0,
        processes: int = 1,
        full_batches: bool = False,
    ) -> None:
        super().__init__(data, augmentation, batch_size, device, process, processes, full_batches)
        images = torch.from_numpy(data.split("train").images.with_margin()[:])
        self.padded = pad(images, augmentation.crop_padding, augmentation.pad_mode).to(device)

    def _images(self, parts: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        for indices in parts:
            yield augment(self.padded, indices, indices, self.augmentation, self.image_size, epoch)
