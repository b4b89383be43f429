import numpy as np
import pytest

from stages.analysis.intervals import gain, mean_gain


def answers(won: int, lost: int, both: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    ours = [True] * won + [False] * lost + [True] * both + [False] * neither
    theirs = [False] * won + [True] * lost + [True] * both + [False] * neither
    return np.array(ours), np.array(theirs)


def test_a_paired_gain_by_the_published_formula():
    """Add one half to each of the four cells (Agresti & Min 2005)."""
    ours, theirs = answers(12, 5, 70, 13)
    won, lost, count = 12.5, 5.5, 102
    centre = (won - lost) / count
    half = 1.959964 * np.sqrt(won + lost - (won - lost) ** 2 / count) / count
    found = gain(ours, theirs, paired=True)
    assert found == pytest.approx((0.07, centre - half, centre + half), abs=1e-12)


def test_an_unpaired_gain_by_the_published_formula():
    """Add a correct and a wrong answer to each sample (Agresti & Caffo 2000)."""
    ours, theirs = np.arange(10) < 8, np.arange(40) < 20
    p, q = 9 / 12, 21 / 42
    half = 1.959964 * np.sqrt(p * (1 - p) / 12 + q * (1 - q) / 42)
    found = gain(ours, theirs, paired=False)
    assert found == pytest.approx((0.3, p - q - half, p - q + half), abs=1e-12)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("count", [20, 100])
def test_95_of_100_intervals_contain_the_true_value(paired, count):
    random = np.random.default_rng(count)
    held, tries = 0, 2000
    for _ in range(tries):
        hard = random.uniform(size=count)
        harder = hard if paired else random.uniform(size=count)
        # Ours is correct on 80 % of the images. The other one is wrong on a tenth of these and
        # correct on half of the rest, so it has 82 %.
        ours = hard < 0.8
        theirs = (harder < 0.72) | (harder > 0.9)
        found = gain(ours, theirs, paired)
        held += found.low <= -0.02 <= found.high
    assert held / tries > 0.94


def test_no_gain_is_beyond_its_interval_or_certain():
    for cells in ((10, 0, 0, 0), (0, 10, 0, 0), (0, 0, 10, 0), (0, 0, 0, 1)):
        for paired in (True, False):
            found = gain(*answers(*cells), paired)
            assert -1 <= found.low <= found.gain <= found.high <= 1
            assert found.low < found.high


def test_every_class_has_the_same_weight_in_the_mean():
    few, many = answers(1, 0, 1, 0), answers(0, 100, 300, 0)
    found = mean_gain([(*few, True), (*many, False)])
    assert found.gain == pytest.approx((0.5 - 0.25) / 2)
    same = answers(12, 5, 70, 13)
    alone, four = gain(*same, True), mean_gain([(*same, True)] * 4)
    # Four times the images: half the width.
    assert four.high - four.low == pytest.approx((alone.high - alone.low) / 2)
