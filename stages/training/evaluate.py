"""Run a network on a whole split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stages.data.arrays import Images
from stages.data.feed.normalize import Normalize

if TYPE_CHECKING:
    from models.distillers.base import Observation

_BATCH = 256


def batches(split: Images, normalize: Normalize) -> Iterator[Tensor]:
    """Yield the split's images in order, normalised."""
    for start in range(0, len(split), _BATCH):
        yield normalize(split.images[start : start + _BATCH])


@torch.no_grad()
def predict(network: Callable[[Tensor], Tensor], split: Images, normalize: Normalize) -> Tensor:
    """Return logits ``[N, K]`` float32 on the CPU; the network must be in eval mode."""
    return torch.cat([network(images).float().cpu() for images in batches(split, normalize)])


@torch.no_grad()
def observe(
    look: Callable[[Tensor], Observation], split: Images, normalize: Normalize
) -> Observation:
    """Collect a method's observations on a split, ``[N, ...]`` on the CPU."""
    seen = [look(images) for images in batches(split, normalize)]
    return type(seen[0])(*(_joined(parts) for parts in zip(*seen, strict=True)))


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name].float().cpu() for part in parts]) for name in parts[0]}


def accuracy(logits: Tensor, split: Images) -> float:
    """Return the top-1 accuracy of logits ``[N, K]`` as a fraction."""
    right = logits.argmax(1) == torch.from_numpy(np.array(split.labels))
    return float(right.double().mean())
