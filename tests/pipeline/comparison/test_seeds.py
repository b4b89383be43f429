"""Seeds against results worked out by hand and by scipy's own test."""

import pytest
from scipy import stats

from pipeline.comparison.seeds import Paired, paired, spread


def test_pairs_are_made_by_seed_and_the_interval_is_students():
    # Mean 2, standard deviation 1, and 4.3027 of it for two degrees of freedom.
    found = paired({0: 1.0, 1: 2.0, 2: 3.0}, dict.fromkeys(range(3), 0.0))
    reach = 4.30265 / 3**0.5
    assert found == pytest.approx((2, 2 - reach, 2 + reach, 3), rel=1e-5)
    found = paired({3: 0.75, 0: 0.71, 1: 0.74, 7: 0.1}, {0: 0.70, 1: 0.71, 3: 0.70, 4: 0.9})
    expected = stats.ttest_rel([0.71, 0.74, 0.75], [0.70, 0.71, 0.70]).confidence_interval(0.95)
    assert found == pytest.approx((0.03, *expected, 3))


def test_one_pair_has_no_interval_and_none_has_no_difference():
    assert paired({0: 0.5}, {0: 0.25, 1: 0.3}) == Paired(0.25, None, None, 1)
    assert paired({0: 0.5}, {1: 0.25}) is None


def test_the_spread_counts_its_seeds_and_the_mean_of_equal_figures_is_theirs():
    assert spread([0.5, 0.25, 0.75]) == (0.5, 0.25, 0.75, 3)
    results = [n / 1000 for n in range(1, 1000)]
    assert [spread([one] * 3).mean for one in results] == results
