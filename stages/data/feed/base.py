"""The contract of a feed: batches in the epoch's order, augmented and normalised."""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.distillers.base import Batch
from models.errors import InputError
from stages.data.arrays import DataSet, ImageFile
from stages.data.feed.augmentation import epoch_order, in_rounds
from stages.data.feed.mixing import draw_mix
from stages.data.feed.normalize import Normalize
from stages.sections.data import Augmentation


class Shard(NamedTuple):
    """One process's part of a global batch."""

    batch: Batch  # its samples
    weight: float
    """Factor for its mean loss, so that the mean over processes is the mean over the global batch;
    1 if all have the same number of samples."""


@dataclass(frozen=True)
class FeedPlan:
    """Which images a process trains on, and how they are augmented and cut into batches.

    Raises:
        InputError: there are too few images for a batch, or too few in a batch for all processes.
    """

    data: DataSet
    augmentation: Augmentation
    batch_size: int  # of the global batch
    device: torch.device
    process: int = 0
    processes: int = 1
    full_batches: bool = False  # drop the last images of an epoch if they do not fill a batch
    min_batch: int = 2  # images per step that each process needs
    label_smoothing: float = 0.0  # fraction of each target that is spread over all classes
    unlabeled: int = 0  # images without label in each batch
    sampling: Literal["uniform", "balanced"] = "uniform"  # of labeled images; see data.sampling
    class_weights: Literal["none", "balanced"] = "none"  # of the targets; see data.class_weights

    @property
    def labeled(self) -> int:
        """Images with label in each batch."""
        return self.batch_size - self.unlabeled

    def files(self) -> list[ImageFile]:
        """Return the files of labeled and unlabeled images, with their margins."""
        files = [self.data.split("train").images]
        files += [self.data.images("unlabeled")] if self.unlabeled else []
        return [file.with_margin() for file in files]

    def __post_init__(self) -> None:
        size, count, processes = self.batch_size, self.data.count("train"), self.processes
        if self.labeled > count:
            raise InputError(
                f"batch_size needs {self.labeled} labeled images per step, more than the {count}"
                " training images; lower it"
            )
        if size < self.min_batch * processes:
            raise InputError(
                f"batch_size is {size}, expected at least {self.min_batch} images for each of"
                f" {processes} processes; use a larger batch_size or fewer processes"
            )
        if self.full_batches and size % processes:
            raise InputError(
                f"batch_size is {size}, which this method cannot divide evenly among {processes}"
                " processes; use a multiple of their number"
            )


class Feed:
    """The training images of a process, epoch by epoch.

    An epoch has a slot for each labeled image, then one for each unlabeled image that it shows. A
    slot's content depends only on data seed, epoch and slot, and with mixing also on the step:
    each batch is mixed with itself in reversed order, labeled images with labeled ones. Each global
    batch is divided among the processes. The last batch of an epoch may be smaller; a remainder of
    fewer than two images per process joins the batch before it, because BatchNorm cannot learn from
    a single 1x1 map.
    """

    def __init__(self, plan: FeedPlan) -> None:
        self.plan = plan
        if plan.augmentation.recolors:
            # Imported only now, and before a checkpoint's fingerprint is taken of what is imported.
            importlib.import_module("stages.data.feed.recolor")
        self.labels = torch.from_numpy(np.array(plan.data.labels("train")))
        self.normalize = Normalize(plan.data.mean, plan.data.std, plan.device)
        self.files = plan.files()
        unlabeled = sum(map(len, self.files)) - len(self.labels)
        # The mean over all images is 1.
        self._class_weights = torch.ones(len(plan.data.classes))
        if plan.class_weights == "balanced":
            counts = self.labels.bincount(minlength=len(plan.data.classes))
            self._class_weights = len(self) / ((counts > 0).sum() * counts.clamp(min=1))
        self._labels = F.pad(self.labels, (0, unlabeled), value=-1) if unlabeled else self.labels

    def __len__(self) -> int:
        """Return the number of labeled images."""
        return len(self.labels)

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        full, rest = divmod(len(self), self.plan.labeled)
        return full if self.plan.full_batches or rest < 2 * self.plan.processes else full + 1

    @property
    def slots(self) -> int:
        """Slots per epoch."""
        return len(self) + self.steps * self.plan.unlabeled

    @property
    def seen(self) -> int:
        """Images per epoch."""
        return self.steps * self.plan.batch_size if self.plan.full_batches else self.slots

    def identity(self) -> dict[str, Any]:
        """Return everything that determines the images of all slots, JSON-serializable."""
        plan, train = self.plan, self.plan.data.manifest["splits"]["train"]
        found = {
            "data_sha256": train["images_sha256"],
            "image_size": plan.data.image_size,
            "augmentation": plan.augmentation.model_dump(),
        }
        if plan.sampling == "balanced":
            found["balanced_sha256"] = train["labels_sha256"]
        if plan.unlabeled:
            found["unlabeled_sha256"] = plan.data.manifest["unlabeled"]["images_sha256"]
        if plan.unlabeled or plan.augmentation.mixes:
            found["batches"] = [plan.batch_size, plan.unlabeled, self.steps]
        return found

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Shard]:
        """Yield this process's shard of each batch of an epoch."""
        indices = self._indices(epoch)
        batches = self._batches(epoch)[start_step:]
        shown = [slots[self._own] for slots in batches]
        if self._partners_are_elsewhere:
            shown = [
                torch.cat([slots[self._own], self._mirrored(slots, slots)[self._own]])
                for slots in batches
            ]
        images = self._images(shown, indices, epoch)
        for step, (slots, pixels) in enumerate(zip(batches, images, strict=True), start_step):
            yield self._shard(pixels, slots, indices, epoch, step)

    def _indices(self, epoch: int) -> Tensor:
        """Return the image index of each slot of the epoch."""
        seed, count = self.plan.augmentation.seed, len(self)
        shown = [torch.arange(count)]
        if self.plan.sampling == "balanced":
            classes = [torch.nonzero(self.labels == k)[:, 0] for k in torch.unique(self.labels)]
            sizes = [len(part) for part in shown[0].tensor_split(len(classes))]
            shown = [
                in_rounds(seed, members, epoch * size, size)
                for members, size in zip(classes, sizes, strict=True)
            ]
        if more := self.slots - count:
            unlabeled = torch.arange(count, len(self._labels))
            shown.append(in_rounds(seed, unlabeled, epoch * more, more))
        return torch.cat(shown)

    def _batches(self, epoch: int) -> Sequence[Tensor]:
        """Return the slots of each batch, labeled ones first."""
        plan, count = self.plan, len(self)
        order = epoch_order(plan.augmentation.seed, epoch, count)
        order = order[: self.seen - self.steps * plan.unlabeled]
        labeled = order.tensor_split([step * plan.labeled for step in range(1, self.steps)])
        if not plan.unlabeled:
            return labeled
        unlabeled = torch.arange(count, self.slots).view(self.steps, plan.unlabeled)
        return [torch.cat(pair) for pair in zip(labeled, unlabeled, strict=True)]

    @property
    def _own(self) -> slice:
        """The rows of a batch for this process."""
        return slice(self.plan.process, None, self.plan.processes)

    def _mirrored(self, slots: Tensor, rows: Tensor) -> Tensor:
        """Reverse the rows of a batch's slots, labeled and unlabeled ones separately."""
        labeled = int((slots < len(self)).sum())
        return torch.cat([kind.flip(0) for kind in rows.tensor_split([labeled])])

    @property
    def _partners_are_elsewhere(self) -> bool:
        return self.plan.augmentation.mixes and self.plan.processes > 1

    def _shard(
        self, pixels: Tensor, slots: Tensor, indices: Tensor, epoch: int, step: int
    ) -> Shard:
        """Normalise and mix a part of a batch; other processes' partners may follow its pixels."""
        plan, settings, device = self.plan, self.plan.augmentation, self.normalize.device
        images, own = self.normalize(pixels), slots[self._own]
        every_label = self._labels[indices[slots]]
        labels, targets, mixed_classes = every_label[self._own], None, None
        weighted = plan.unlabeled or plan.class_weights == "balanced"
        if settings.mixes or plan.label_smoothing or weighted:
            every = self._targets(every_label)
            targets = every[self._own]
            if settings.mixes:
                mix = draw_mix(settings, epoch, step, images.shape[2])
                if self._partners_are_elsewhere:
                    images, partners = images.chunk(2)
                else:
                    partners = self._mirrored(slots, images)
                images = mix.images(images, partners)
                targets = mix.targets(targets, self._mirrored(slots, every)[self._own])
                others = self._mirrored(slots, every_label)[self._own]
                mixed_classes = (labels if mix.kept >= 0.5 else others).to(device)
            targets = targets.to(device)
        batch = Batch(
            images, labels.to(device), indices[own].to(device), targets, own, mixed_classes
        )
        return Shard(batch, len(own) * plan.processes / len(slots))

    def _targets(self, labels: Tensor) -> Tensor:
        """Return target probabilities ``[B, K]``, weighted as in :class:`Batch`."""
        classes, smoothing = len(self.plan.data.classes), self.plan.label_smoothing
        labeled = (labels >= 0).float()
        targets = F.one_hot(labels.clamp(min=0), classes).float()
        targets = targets * (1 - smoothing) + smoothing / classes
        weights = self._class_weights[labels] * labeled / labeled.mean()
        return targets * weights[:, None]

    def _images(self, parts: Sequence[Tensor], indices: Tensor, epoch: int) -> Iterator[Tensor]:
        """Yield the augmented uint8 images ``[B, H, W, 3]`` of each part's slots."""
        raise NotImplementedError
