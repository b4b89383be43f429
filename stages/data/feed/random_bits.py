"""Counter-based random numbers: a hash of their purpose, not the next number of a stream.

They do not depend on batch, worker, process, device, method or interruptions.
"""

import torch
from torch import Tensor

# The purposes of numbers. A new purpose takes a new value, so existing numbers stay the same.
ORDER, TOP, LEFT, FLIP = range(4)
ATTEMPTS = range(4, 24)  # area and sides of a resized crop, in turn
RECOLOR = 24
ROUND = 25


def _signed(number: int) -> int:
    """Reinterpret an unsigned 64-bit number as torch's int64."""
    return number - (1 << 64) if number >= 1 << 63 else number


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def shift_right(bits: Tensor, places: int) -> Tensor:
    """Shift logically; torch's own shift repeats the sign."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _mix(state: Tensor) -> Tensor:
    """Apply the finaliser of SplitMix64 (Steele, Lea & Flood 2014), a bijection.

    torch's int64 arithmetic is modulo 2^64.
    """
    state = state + _GOLDEN
    state = (state ^ shift_right(state, 30)) * _FIRST
    state = (state ^ shift_right(state, 27)) * _SECOND
    return state ^ shift_right(state, 31)


def random_bits(seed: int, epoch: int, indices: Tensor, purpose: int) -> Tensor:
    """Return 64 random bits for each sample index, ``[N]`` int64, on the indices' device."""
    state = torch.zeros(1, dtype=torch.int64, device=indices.device)
    for key in (seed, purpose, epoch):
        state = _mix(state ^ key)
    return _mix(state ^ indices)


def uniform(bits: Tensor, below: int) -> Tensor:
    """Return an integer from 0 to ``below - 1``, from the upper half of the bits."""
    return shift_right(bits, 32) % below
