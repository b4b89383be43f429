"""Random resized crops (Szegedy et al. 2015).

The ranges are those of the usual ImageNet recipes: from ``crop_area`` (8 % by default) to all of
the area, and aspect ratios from 3:4 to 4:3 with uniform logarithm. Parts that do not fit are drawn
again.

Integer arithmetic makes the result the same on every device and in every batch.
"""

import functools
import math
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from stages.data.feed.random_bits import ATTEMPTS, FLIP, LEFT, TOP, random_bits, shift_right
from stages.sections.data import Augmentation

_LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))
_WEIGHT_BITS = 14


_Part: TypeAlias = tuple[int, int, int, int]  # top, left, height and width, in pixels


def resized_crops(
    images: Tensor, indices: Tensor, settings: Augmentation, size: int, epoch: int
) -> Tensor:
    """Resize a random part of each image to ``size``, and mirror half of them if so set.

    ``images`` are ``[B, H, H, 3]`` uint8, and their sample indices ``[B]`` key the random choices.
    The result is ``[B, size, size, 3]`` uint8 on their device.
    """
    indices = indices.cpu()
    parts = choose_parts(images.shape[1], indices, settings, epoch)
    flips = (random_bits(settings.seed, epoch, indices, FLIP) < 0).tolist()
    pieces = []
    for image, (top, left, height, width), flip in zip(images, parts, flips, strict=True):
        piece = image[top : top + height, left : left + width]
        piece = _resize(_resize(piece, size).transpose(0, 1), size).transpose(0, 1)
        pieces.append(piece.flip(1) if flip and settings.horizontal_flip else piece)
    return torch.stack(pieces)


def choose_parts(side: int, indices: Tensor, settings: Augmentation, epoch: int) -> list[_Part]:
    """Choose the part of each image of ``side`` pixels that an epoch shows."""

    def drawn(purpose: int) -> list[float]:
        """Draw a uniform number in [0, 1) for each sample."""
        bits = random_bits(settings.seed, epoch, indices, purpose)
        return (shift_right(bits, 11) * 2.0**-53).tolist()

    attempts = [drawn(purpose) for purpose in ATTEMPTS]
    parts = []
    for number, (top, left) in enumerate(zip(drawn(TOP), drawn(LEFT), strict=True)):
        height = width = side  # if no attempt fits, about once in 10^8 draws
        for areas, ratios in zip(attempts[::2], attempts[1::2], strict=True):
            area = side**2 * _between((settings.crop_area, 1.0), areas[number])
            ratio = math.exp(_between(_LOG_RATIO, ratios[number]))
            wanted = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if min(wanted) > 0 and max(wanted) <= side:
                height, width = wanted
                break
        parts.append(
            (int(top * (side - height + 1)), int(left * (side - width + 1)), height, width)
        )
    return parts


def _between(ends: tuple[float, float], share: float) -> float:
    low, high = ends
    return low + share * (high - low)


def _resize(image: Tensor, size: int) -> Tensor:
    """Resize ``[L, M, 3]`` to ``[size, M, 3]`` by antialiased linear interpolation."""
    places, weights = _taps(image.shape[0], size)
    image = image.contiguous()  # makes index_select fast
    sums = torch.full((), 1 << (_WEIGHT_BITS - 1), dtype=torch.int32, device=image.device)
    for place, weight in zip(places.to(image.device), weights.to(image.device), strict=True):
        lines = image.index_select(0, place).to(torch.int32)
        sums = lines.mul_(weight[:, None, None]).add_(sums)
    return (sums >> _WEIGHT_BITS).to(torch.uint8)


@functools.lru_cache(maxsize=1024)
def _taps(length: int, size: int) -> tuple[Tensor, Tensor]:
    """Return which of ``length`` old lines make up each of ``size`` new ones, with weights.

    Returns:
        Indices int64 and weights int32, both ``[T, size]``; the weights are in units of 2^-14 and
        sum to 1 for each new line.
    """
    scale = length / size
    reach = max(scale, 1)
    centre = (np.arange(size) + 0.5) * scale
    places = np.floor(centre - reach) + np.arange(2 * math.ceil(reach) + 1)[:, None]
    share = np.maximum(0, 1 - np.abs(places + 0.5 - centre) / reach)
    share *= (places >= 0) & (places < length)
    # Differences of rounded cumulative sums, so the weights sum to 1 exactly.
    sums = np.cumsum(share, axis=0)
    steps = np.rint(sums / sums[-1] * 2**_WEIGHT_BITS)
    weights = np.diff(steps, axis=0, prepend=0)
    used = weights.any(axis=1)
    return (
        torch.from_numpy(places[used].clip(0, length - 1).astype(np.int64)),
        torch.from_numpy(weights[used].astype(np.int32)),
    )
