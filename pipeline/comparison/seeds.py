"""Several seeds of the same training: mean, spread, and paired differences."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping
from typing import NamedTuple

_CONFIDENCE = 0.95


class Spread(NamedTuple):
    """Of a value over so many seeds, in its own unit."""

    mean: float
    low: float
    high: float
    seeds: int


class Paired(NamedTuple):
    """The mean difference over the seeds that both have, with its interval.

    Attributes:
        low: end of Student's 95 % interval; None where a single pair gives none.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: int


def spread(values: Collection[float]) -> Spread:
    """Mean, smallest and largest of one value or more."""
    low, high = min(values), max(values)
    # The mean of equal values may be rounded away from them, and would then seem to be better.
    return Spread(min(max(statistics.fmean(values), low), high), low, high, len(values))


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Paired | None:
    """Ours minus theirs, both by seed; None where no seed is in both.

    A seed gives both the same initial weights and images, so much of what it does to one it does to
    the other, and the difference is surer than the two means are.
    """
    differences = [ours[seed] - theirs[seed] for seed in sorted(ours) if seed in theirs]
    count = len(differences)
    if not count:
        return None
    mean = statistics.fmean(differences)
    if count == 1:
        return Paired(mean, None, None, 1)
    from scipy import stats  # takes a second to import, and one seed needs none

    error = statistics.stdev(differences) / count**0.5
    reach = float(stats.t.ppf((1 + _CONFIDENCE) / 2, count - 1)) * error
    return Paired(mean, mean - reach, mean + reach, count)
