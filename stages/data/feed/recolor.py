"""Apply torchvision's transforms to pixels, keyed by (seed, epoch, sample)."""

import torch
from torch import Tensor
from torchvision.transforms import v2

from stages.data.feed.random_bits import RECOLOR, random_bits
from stages.sections.data import Augmentation


def recolor(images: Tensor, indices: Tensor, settings: Augmentation, epoch: int) -> Tensor:
    """Apply policy, colour jitter and erasing to images uint8 ``[B, H, W, 3]``.

    The transforms draw from torch's global generator, so it is seeded for each image by
    (seed, epoch, sample) and restored afterwards.
    """
    transform = _transform(settings)
    seeds = random_bits(settings.seed, epoch, indices.cpu(), RECOLOR).tolist()
    changed = torch.empty_like(images)
    with torch.random.fork_rng(devices=[]):
        for row, (image, seed) in enumerate(zip(images.permute(0, 3, 1, 2), seeds, strict=True)):
            torch.default_generator.manual_seed(seed)
            changed[row] = transform(image).permute(1, 2, 0)
    return changed


def _transform(settings: Augmentation) -> v2.Transform:
    strength = settings.color_jitter
    parts: list[v2.Transform] = []
    if settings.policy == "trivial":
        parts.append(v2.TrivialAugmentWide())
    elif settings.policy == "rand":
        parts.append(v2.RandAugment())
    if strength:
        parts.append(v2.ColorJitter(strength, strength, strength))
    if settings.erasing:
        parts.append(v2.RandomErasing(settings.erasing))
    return v2.Compose(parts)
