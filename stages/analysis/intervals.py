"""95 % confidence intervals of accuracies and of their differences.

For differences, half an image or a whole one is added to each cell of the contingency table before
the Wald interval is taken. It then holds for classes with few images, even if all are right.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Right = npt.NDArray[np.bool_]

_Z = 1.959964


class Gain(NamedTuple):
    """A gain in accuracy: a difference of fractions with its interval."""

    gain: float
    low: float
    high: float


class _Estimate(NamedTuple):
    """A difference, its adjusted value, and the variance of the latter."""

    gain: float
    centre: float
    variance: float


def share_interval(share: float, images: float) -> dict[str, float]:
    """Return ``value``, ``low`` and ``high`` of a fraction of ``images`` (Wilson 1927)."""
    weight = _Z**2 / images
    centre = share + weight / 2
    half = math.sqrt(weight * (share * (1 - share) + weight / 4))
    low, high = (max(0.0, min(1.0, x / (1 + weight))) for x in (centre - half, centre + half))
    return {"value": share, "low": min(low, share), "high": max(high, share)}


def gain(ours: Right, theirs: Right, paired: bool) -> Gain:
    """Compute the gain in accuracy on one class.

    Args:
        ours: ``[N]``, whether each prediction is right.
        theirs: ``[M]``, the same for the other; if ``paired``, on the same images in order.
        paired: use Agresti and Min (2005), on images that only one of the two gets right;
            otherwise Agresti and Caffo (2000).
    """
    return _interval(_estimate(ours, theirs, paired))


def mean_gain(classes: Sequence[tuple[Right, Right, bool]]) -> Gain:
    """Compute the unweighted mean gain over classes, each given by the arguments of :func:`gain`.

    Its variance follows from those of the classes' estimates.
    """
    found = [_estimate(*one) for one in classes]
    mean = sum(estimate.gain for estimate in found) / len(found)
    variance = sum(estimate.variance for estimate in found) / len(found) ** 2
    return _interval(_Estimate(mean, mean, variance))


def _estimate(ours: Right, theirs: Right, paired: bool) -> _Estimate:
    raw = float(ours.mean() - theirs.mean())
    if paired:
        count = len(ours) + 2
        won, lost = (ours & ~theirs).sum() + 0.5, (theirs & ~ours).sum() + 0.5
        centre = (won - lost) / count
        return _Estimate(raw, centre, ((won + lost) / count - centre**2) / count)
    shares = [(right.sum() + 1) / (len(right) + 2) for right in (ours, theirs)]
    variances = [
        share * (1 - share) / (len(right) + 2)
        for share, right in zip(shares, (ours, theirs), strict=True)
    ]
    return _Estimate(raw, shares[0] - shares[1], sum(variances))


def _interval(estimate: _Estimate) -> Gain:
    half = _Z * math.sqrt(estimate.variance)
    # Clip to the range of a difference, and include the gain, which may lie at its end.
    low = max(min(estimate.centre - half, estimate.gain), -1.0)
    high = min(max(estimate.centre + half, estimate.gain), 1.0)
    return Gain(estimate.gain, float(low), float(high))
