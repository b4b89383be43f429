"""Stream training images from disk, for data sets that do not fit into memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.multiprocessing.reductions import shared_cache
from torch.utils.data import DataLoader, Dataset

from models.errors import InputError
from stages.data.arrays import ImageFile
from stages.data.feed.augmentation import augment, pad
from stages.data.feed.base import Feed, FeedPlan
from stages.sections.data import Augmentation

_Indices: TypeAlias = npt.NDArray[np.int64]

_PREFETCH = 2  # parts that each worker reads ahead; bounds the memory


class StreamFeed(Feed):
    """Reads and augments images in worker processes; gives the same batches as MemoryFeed.

    The workers live for one epoch, and end if this process dies; with 0, this one reads.
    """

    def __init__(self, plan: FeedPlan, workers: int = 0) -> None:
        super().__init__(plan)
        self.workers = workers

    def _images(self, parts: Sequence[Tensor], indices: Tensor, epoch: int) -> Iterator[Tensor]:
        loader = DataLoader(
            _Parts(
                self.files,
                [part.numpy() for part in parts],
                indices.numpy(),
                self.plan.augmentation,
                self.plan.data.image_size,
                epoch,
            ),
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=_PREFETCH if self.workers else None,
            pin_memory=self.normalize.device.type == "cuda",
            # The loader draws a seed, which must not come from the methods' generator.
            generator=torch.Generator(),
        )
        for images in loader:
            if isinstance(images, InputError):
                raise images
            # torch keeps a few bytes for each of the last 128 batches from workers. They fragment
            # the heap so that freed batches cannot be reused: 1.1 GB for batches of 32 images of
            # 160 pixels.
            shared_cache.free_dead_references()  # type: ignore[no-untyped-call]
            yield images


@dataclass
class _Parts(Dataset[Tensor | InputError]):
    """The augmented images of each part, ``[B, H, W, 3]``."""

    files: Sequence[ImageFile]
    parts: Sequence[_Indices]
    indices: _Indices
    settings: Augmentation
    size: int
    epoch: int

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> Tensor | InputError:
        slots = self.parts[number]
        try:
            images = torch.from_numpy(self._read(self.indices[slots]))
        except InputError as error:
            return error  # torch would add the worker's traceback to the message
        padded = pad(images, self.settings.crop_padding, self.settings.pad_mode)
        rows = torch.arange(len(slots))
        return augment(padded, rows, torch.from_numpy(slots), self.settings, self.size, self.epoch)

    def _read(self, indices: _Indices) -> npt.NDArray[np.uint8]:
        """Read images by an index that runs through all files in order."""
        first, *others = self.files
        if not others:
            return first[indices]
        images = np.empty((len(indices), *first.shape[1:]), np.uint8)
        start = 0
        for file in self.files:
            here = (indices >= start) & (indices < start + len(file))
            images[here] = file[indices[here] - start]
            start += len(file)
        return images
