"""Serve the project's images through torchvision's CIFAR-100, which both peers read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision import datasets

from benchmarks.worker import Clock


def serve_images(folder: Path) -> None:
    """Make ``torchvision.datasets.CIFAR100`` return the images that ``prepare_data`` wrote."""

    def initialize(
        self: Any,
        root: str = "",
        train: bool = True,
        transform: Callable[..., Any] | None = None,
        target_transform: Callable[..., Any] | None = None,
        download: bool = False,
    ) -> None:
        del root, download
        split = "train" if train else "test"
        self.data = np.load(folder / f"{split}_images.npy")
        self.targets = np.load(folder / f"{split}_labels.npy").tolist()
        self.transform, self.target_transform = transform, target_transform

    datasets.CIFAR100.__init__ = initialize


class PacedLoader:
    """A loader whose epoch length is set by the clock; batches are ``(images, labels, ...)``."""

    def __init__(self, loader: torch.utils.data.DataLoader[Any], clock: Clock) -> None:
        self.loader, self.clock = loader, clock

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        again = itertools.chain.from_iterable(itertools.repeat(self.loader))
        return self.clock.pace(again, lambda batch: len(batch[1]))
