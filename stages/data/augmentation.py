"""Order and augmentation as a pure function of (data seed, epoch, sample index).

Random numbers are counter-based: a hash of what they are for, not the next of a stream. They are
therefore the same whatever the batch, the worker, the process, the method or the interruption.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]

# What a number is drawn for; a new use takes a new number, so that the old ones keep theirs.
_ORDER, _TOP, _LEFT, _FLIP = range(4)


def _mix(state: U64) -> U64:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014), a bijection that scatters bits."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def random_bits(seed: int, epoch: int, indices: Indices, purpose: int) -> U64:
    """64 random bits for each sample index, ``[N]``."""
    state = np.zeros(1, dtype=np.uint64)
    for key in (seed, purpose, epoch):
        state = _mix(state ^ np.uint64(key))
    return _mix(state ^ indices.astype(np.uint64))


def epoch_order(seed: int, epoch: int, count: int) -> Indices:
    """The order in which ``count`` samples are seen in an epoch."""
    keys = random_bits(seed, epoch, np.arange(count), _ORDER)
    return np.argsort(keys, kind="stable")


def pad(images: npt.NDArray[np.uint8], padding: int, mode: str) -> npt.NDArray[np.uint8]:
    """``[N, H, W, 3]`` with a border of black (``zero``) or mirrored (``reflect``) pixels."""
    if padding == 0:
        return np.asarray(images)
    border = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return np.pad(images, border, "constant" if mode == "zero" else "reflect")


def crop_and_flip(
    padded: npt.NDArray[np.uint8],
    indices: Indices,
    padding: int,
    flip: bool,
    seed: int,
    epoch: int,
) -> npt.NDArray[np.uint8]:
    """A random window of each padded image, mirrored every second time where ``flip`` is set.

    Args:
        padded: ``[N, H + 2 p, W + 2 p, 3]``, all samples.
        indices: ``[B]``, the samples wanted.
        padding: p.
        flip: whether images may be mirrored left to right.
        seed: the data seed.
        epoch: counted from 0.

    Returns:
        ``[B, H, W, 3]``.
    """
    height, width = padded.shape[1] - 2 * padding, padded.shape[2] - 2 * padding
    places = np.uint64(2 * padding + 1)
    top = (random_bits(seed, epoch, indices, _TOP) % places).astype(np.int64)
    left = (random_bits(seed, epoch, indices, _LEFT) % places).astype(np.int64)
    rows = top[:, None] + np.arange(height)
    columns = left[:, None] + np.arange(width)
    if flip:
        mirrored = (random_bits(seed, epoch, indices, _FLIP) >> np.uint64(63)).astype(bool)
        columns[mirrored] = columns[mirrored, ::-1]
    return padded[indices[:, None, None], rows[:, :, None], columns[:, None, :]]
