"""Order and augmentation as a pure function of (data seed, epoch, sample index).

Random numbers are counter-based: a hash of what they are for, not the next of a stream. They are
therefore the same whatever the batch, the worker, the process, the device, the method or the
interruption.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.params import Augmentation

# What a number is drawn for; a new use takes a new number, so that the old ones keep theirs.
_ORDER, _TOP, _LEFT, _FLIP = range(4)


def _signed(number: int) -> int:
    """The 64 bits of an unsigned number as torch's int64 holds them."""
    return number - (1 << 64) if number >= 1 << 63 else number


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _shift_right(bits: Tensor, places: int) -> Tensor:
    """A logical shift: torch's own repeats the sign."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _mix(state: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014), a bijection that scatters bits.

    torch's int64 multiplies and adds modulo 2^64.
    """
    state = state + _GOLDEN
    state = (state ^ _shift_right(state, 30)) * _FIRST
    state = (state ^ _shift_right(state, 27)) * _SECOND
    return state ^ _shift_right(state, 31)


def random_bits(seed: int, epoch: int, indices: Tensor, purpose: int) -> Tensor:
    """64 random bits for each sample index, ``[N]`` int64, on the indices' device."""
    state = torch.zeros(1, dtype=torch.int64, device=indices.device)
    for key in (seed, purpose, epoch):
        state = _mix(state ^ key)
    return _mix(state ^ indices)


def _uniform(bits: Tensor, below: int) -> Tensor:
    """An integer of 0 to ``below - 1`` from the upper half of the bits."""
    return _shift_right(bits, 32) % below


def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """The order in which ``count`` samples are seen in an epoch, ``[count]`` int64 on the CPU."""
    return torch.argsort(random_bits(seed, epoch, torch.arange(count), _ORDER), stable=True)


def pad(images: Tensor, padding: int, mode: str) -> Tensor:
    """``[N, H, W, 3]`` with a border of black (``zero``) or mirrored (``reflect``) pixels."""
    if padding == 0:
        return images
    if mode == "zero":
        return F.pad(images, (0, 0, padding, padding, padding, padding))
    height, width = images.shape[1:3]
    rows, columns = (_reflected(size, padding, images.device) for size in (height, width))
    return images[:, rows][:, :, columns]


def _reflected(size: int, padding: int, device: torch.device) -> Tensor:
    """Indices of 0 to ``size - 1`` with ``padding`` more on either side, mirrored."""
    places = torch.arange(-padding, size + padding, device=device).abs()
    return torch.where(places < size, places, 2 * (size - 1) - places)


def crop_and_flip(
    padded: Tensor, rows_of: Tensor, indices: Tensor, settings: Augmentation, epoch: int
) -> Tensor:
    """A random window of each padded image, mirrored every second time where that is set.

    Args:
        padded: ``[N, H + 2 p, W + 2 p, 3]``, where p is ``settings.crop_padding``.
        rows_of: ``[B]``, where in ``padded`` the wanted samples are.
        indices: ``[B]``, their sample indices, which the random choices are keyed by.
        settings: padding, flip and data seed.
        epoch: counted from 0.

    Returns:
        ``[B, H, W, 3]``, on the device of ``padded``.
    """
    padding, seed, device = settings.crop_padding, settings.seed, padded.device
    indices = indices.to(device)
    height, width = padded.shape[1] - 2 * padding, padded.shape[2] - 2 * padding
    top = _uniform(random_bits(seed, epoch, indices, _TOP), 2 * padding + 1)
    left = _uniform(random_bits(seed, epoch, indices, _LEFT), 2 * padding + 1)
    rows = top[:, None] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(len(indices), -1)
    if settings.horizontal_flip:
        mirrored = random_bits(seed, epoch, indices, _FLIP) < 0
        columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
    columns = columns + left[:, None]
    return padded[rows_of.to(device)[:, None, None], rows[:, :, None], columns[:, None, :]]
