"""Statistics over seeds of the same training: mean, spread, and paired differences."""

import statistics
from collections.abc import Collection, Mapping
from typing import NamedTuple

_CONFIDENCE = 0.95


class Spread(NamedTuple):
    """Mean, smallest and largest value over a number of seeds."""

    mean: float
    low: float
    high: float
    seeds: int


class Paired(NamedTuple):
    """The mean difference over shared seeds, with Student's 95 % interval if there are several."""

    mean: float
    low: float | None
    high: float | None
    pairs: int


def spread(values: Collection[float]) -> Spread:
    """Return the mean, smallest and largest of at least one value."""
    low, high = min(values), max(values)
    # Rounding may push the mean of equal values outside their range, which would look better.
    return Spread(min(max(statistics.fmean(values), low), high), low, high, len(values))


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Paired | None:
    """Return ours minus theirs, paired by seed, or None without a shared seed.

    A seed gives both the same initial weights and images, which correlates their results, so the
    paired difference varies less than the two means.
    """
    differences = [ours[seed] - theirs[seed] for seed in sorted(ours) if seed in theirs]
    count = len(differences)
    if not count:
        return None
    mean = statistics.fmean(differences)
    if count == 1:
        return Paired(mean, None, None, 1)
    from scipy import stats  # takes a second to import

    error = statistics.stdev(differences) / count**0.5
    reach = float(stats.t.ppf((1 + _CONFIDENCE) / 2, count - 1)) * error
    return Paired(mean, mean - reach, mean + reach, count)
