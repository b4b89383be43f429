"""Order and augmentation as a pure function of (data seed, epoch, sample index)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.data.feed.random_bits import FLIP, LEFT, ORDER, ROUND, TOP, random_bits, uniform
from stages.data.feed.resized_crop import resized_crops
from stages.sections.data import Augmentation


def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """Return the order of ``count`` samples in an epoch, ``[count]`` int64 on the CPU."""
    return torch.argsort(random_bits(seed, epoch, torch.arange(count), ORDER), stable=True)


def in_rounds(seed: int, members: Tensor, start: int, count: int) -> Tensor:
    """Return ``count`` members, starting at position ``start`` of an endless sequence of rounds.

    Each round has all ``[M]`` members in a new order.
    """
    first, last = start // len(members), (start + count - 1) // len(members)
    rounds = [
        members[torch.argsort(random_bits(seed, number, members, ROUND), stable=True)]
        for number in range(first, last + 1)
    ]
    return torch.cat(rounds)[start - first * len(members) :][:count]


def pad(images: Tensor, padding: int, mode: str) -> Tensor:
    """Pad ``[N, H, W, 3]`` with black (``zero``) or mirrored (``reflect``) pixels."""
    if padding == 0:
        return images
    if mode == "zero":
        return F.pad(images, (0, 0, padding, padding, padding, padding))
    height, width = images.shape[1:3]
    rows, columns = (_reflected(size, padding, images.device) for size in (height, width))
    return images[:, rows][:, :, columns]


def _reflected(size: int, padding: int, device: torch.device) -> Tensor:
    """Return the indices 0 to ``size - 1``, extended on both sides by ``padding`` mirrored ones."""
    places = torch.arange(-padding, size + padding, device=device).abs()
    return torch.where(places < size, places, 2 * (size - 1) - places)


def augment(
    padded: Tensor, rows_of: Tensor, indices: Tensor, settings: Augmentation, size: int, epoch: int
) -> Tensor:
    """Augment images for an epoch.

    Args:
        padded: ``[N, H, W, 3]`` uint8, with the border of :func:`pad`.
        rows_of: ``[B]``, the wanted samples' rows in ``padded``.
        indices: ``[B]``, their sample indices, which key the random choices.

    Returns:
        ``[B, size, size, 3]`` uint8, on the device of ``padded``.
    """
    if settings.crop == "shift":
        images = crop_and_flip(padded, rows_of, indices, settings, size, epoch)
    else:
        whole = padded[rows_of.to(padded.device)]
        images = resized_crops(whole, indices, settings, size, epoch)
    if settings.recolors:
        from stages.data.feed.recolor import recolor  # torchvision's transforms import slowly

        images = recolor(images, indices, settings, epoch)
    return images


def crop_and_flip(
    padded: Tensor, rows_of: Tensor, indices: Tensor, settings: Augmentation, size: int, epoch: int
) -> Tensor:
    """Crop a random window of each padded image, and mirror half of them if so set."""
    seed, device = settings.seed, padded.device
    indices = indices.to(device)
    top = uniform(random_bits(seed, epoch, indices, TOP), padded.shape[1] - size + 1)
    left = uniform(random_bits(seed, epoch, indices, LEFT), padded.shape[2] - size + 1)
    rows = top[:, None] + torch.arange(size, device=device)
    columns = torch.arange(size, device=device).expand(len(indices), -1)
    if settings.horizontal_flip:
        mirrored = random_bits(seed, epoch, indices, FLIP) < 0
        columns = torch.where(mirrored[:, None], size - 1 - columns, columns)
    columns = columns + left[:, None]
    return padded[rows_of.to(device)[:, None, None], rows[:, :, None], columns[:, None, :]]
