"""Random numbers that are a hash of what they are for, not the next of a stream.

They are therefore the same whatever the batch, the worker, the process, the device, the method or
the interruption.
"""

from __future__ import annotations

import torch
from torch import Tensor

# What a number is drawn for; a new use takes a new number, so that the old ones keep theirs.
ORDER, TOP, LEFT, FLIP = range(4)
ATTEMPTS = range(4, 24)  # area and sides of a resized crop, in turn
RECOLOR = 24
ROUND = 25


def _signed(number: int) -> int:
    """The 64 bits of an unsigned number as torch's int64 holds them."""
    return number - (1 << 64) if number >= 1 << 63 else number


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def shift_right(bits: Tensor, places: int) -> Tensor:
    """A logical shift: torch's own repeats the sign."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _mix(state: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014), a bijection that scatters bits.

    torch's int64 multiplies and adds modulo 2^64.
    """
    state = state + _GOLDEN
    state = (state ^ shift_right(state, 30)) * _FIRST
    state = (state ^ shift_right(state, 27)) * _SECOND
    return state ^ shift_right(state, 31)


def random_bits(seed: int, epoch: int, indices: Tensor, purpose: int) -> Tensor:
    """64 random bits for each sample index, ``[N]`` int64, on the indices' device."""
    state = torch.zeros(1, dtype=torch.int64, device=indices.device)
    for key in (seed, purpose, epoch):
        state = _mix(state ^ key)
    return _mix(state ^ indices)


def uniform(bits: Tensor, below: int) -> Tensor:
    """An integer of 0 to ``below - 1`` from the upper half of the bits."""
    return shift_right(bits, 32) % below
