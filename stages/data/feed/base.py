"""How images reach a network: batches in the epoch's order, augmented and normalised."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.distillers.base import Batch
from models.errors import InputError
from stages.data.arrays import DataSet
from stages.data.feed.augmentation import epoch_order
from stages.data.feed.mixing import draw_mix
from stages.data.feed.normalize import Normalize
from stages.sections.data import Augmentation


class Shard(NamedTuple):
    """One process's part of a global batch.

    Attributes:
        batch: its samples.
        weight: what its mean loss must be multiplied by, so that the mean over all processes is
            the mean over the global batch; 1 where all have the same number of samples.
    """

    batch: Batch
    weight: float


@dataclass(frozen=True)
class FeedPlan:
    """Which images a process trains on, and how they are augmented and cut into batches.

    Attributes:
        data: the data set.
        augmentation: what is changed, and the seed of order and changes.
        batch_size: of the global batch.
        device: where the batches go.
        process: this process's number, from 0.
        processes: how many there are.
        label_smoothing: the share of each target that is spread over all classes.
        full_batches: leave out the rest of an epoch's images that does not fill a batch.

    Raises:
        InputError: an epoch would not fill one batch, or a batch not all processes.
    """

    data: DataSet
    augmentation: Augmentation
    batch_size: int
    device: torch.device
    process: int = 0
    processes: int = 1
    full_batches: bool = False
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        size, count, processes = self.batch_size, self.data.count("train"), self.processes
        if size > count:
            raise InputError(
                f"batch_size is {size}, but there are {count} training images;"
                " use a smaller batch_size or more images"
            )
        if size < 2 * processes:
            raise InputError(
                f"batch_size is {size}, too small for {processes} processes, which need two"
                " images each; use a larger batch_size or fewer processes"
            )
        if self.full_batches and size % processes:
            raise InputError(
                f"batch_size is {size}, which {processes} processes cannot share evenly, as"
                " this method needs; use a multiple of their number"
            )
        padding = self.augmentation.crop_padding
        if self.augmentation.pad_mode == "reflect" and padding >= self.data.image_size:
            raise InputError(
                f"augmentation.crop_padding is {padding}, which cannot be reflected in images of"
                f" {self.data.image_size} pixels; use fewer or pad_mode: zero"
            )


class Feed:
    """The training images of a process, epoch by epoch.

    An image is a function of the data seed, the epoch and the sample index alone; where images are
    mixed, of the step too, whose batch is mixed with itself in reversed order. Each global
    batch is cut into as many parts as there are processes. The last batch of an epoch may be
    smaller; a rest that would not give two images to every process joins the batch before it,
    because BatchNorm cannot learn from a single 1x1 map.
    """

    def __init__(self, plan: FeedPlan) -> None:
        self.plan = plan
        self.labels = torch.from_numpy(np.array(plan.data.labels("train")))
        self.normalize = Normalize(plan.data.mean, plan.data.std, plan.device)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        full, rest = divmod(len(self), self.plan.batch_size)
        return full if self.plan.full_batches or rest < 2 * self.plan.processes else full + 1

    @property
    def seen(self) -> int:
        """Images an epoch."""
        return self.steps * self.plan.batch_size if self.plan.full_batches else len(self)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Shard]:
        """The process's shards of an epoch's batches.

        Args:
            epoch: counted from 0.
            start_step: the batches before it are left out.
        """
        order = epoch_order(self.plan.augmentation.seed, epoch, len(self))[: self.seen]
        cuts = [step * self.plan.batch_size for step in range(1, self.steps)]
        batches = order.tensor_split(cuts)[start_step:]
        parts = [self._own_part(batch) for batch in batches]
        shown = parts
        if self._partners_are_elsewhere:
            partners = [self._own_part(batch.flip(0)) for batch in batches]
            shown = [torch.cat(pair) for pair in zip(parts, partners, strict=True)]
        numbered = enumerate(zip(parts, batches, self._images(shown, epoch), strict=True))
        for number, (indices, batch, images) in numbered:
            weight = len(indices) * self.plan.processes / len(batch)
            yield Shard(self._batch(images, indices, batch, epoch, start_step + number), weight)

    def _own_part(self, batch: Tensor) -> Tensor:
        return batch[self.plan.process :: self.plan.processes]

    @property
    def _partners_are_elsewhere(self) -> bool:
        return self.plan.augmentation.mixes and self.plan.processes > 1

    def _batch(
        self, images: Tensor, indices: Tensor, whole: Tensor, epoch: int, step: int
    ) -> Batch:
        """A shard's batch: its images, normalised and mixed, and what is to be learnt of them.

        Args:
            images: of the shard's samples, and where they are elsewhere of their partners.
            indices: the shard's samples.
            whole: the samples of the global batch.
            epoch: counted from 0.
            step: counted from 0.
        """
        device, settings = self.normalize.device, self.plan.augmentation
        normalized = self.normalize(images)
        labels = self.labels[indices].to(device)
        if not settings.mixes and not self.plan.label_smoothing:
            return Batch(normalized, labels, indices.to(device))
        targets = self._targets(indices)
        if settings.mixes:
            mix = draw_mix(settings, epoch, step, normalized.shape[2])
            own, partners = normalized, normalized.flip(0)
            if self._partners_are_elsewhere:
                own, partners = normalized.chunk(2)
            normalized = mix.images(own, partners)
            targets = mix.targets(targets, self._targets(self._own_part(whole.flip(0))))
        return Batch(normalized, labels, indices.to(device), targets)

    def _targets(self, indices: Tensor) -> Tensor:
        """``[B, K]``, the classes' probabilities."""
        classes = len(self.plan.data.classes)
        smoothing = self.plan.label_smoothing
        targets = F.one_hot(self.labels[indices], classes).float()
        return (targets * (1 - smoothing) + smoothing / classes).to(self.normalize.device)

    def _images(self, parts: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        """The augmented uint8 images ``[B, H, W, 3]`` of each part, in turn."""
        raise NotImplementedError
