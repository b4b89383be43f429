import numpy as np
import pytest

from stages.analysis.calibration import calibration, confidence


def test_confidence_is_the_probability_of_the_prediction():
    logits = np.random.default_rng(0).normal(size=(50, 7)) * 5
    exact = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(confidence(logits), exact.max(1), rtol=1e-12)
    assert confidence(np.array([[1e4, -1e4]], np.float32)) == 1


def test_the_error_is_the_weighted_gap_of_confidence_and_accuracy():
    random = np.random.default_rng(1)
    claimed = random.uniform(0.1, 1, 2000)
    right = random.uniform(size=2000) < claimed**2
    found = calibration(claimed, right)
    expected = 0.0
    for b in range(15):
        inside = (claimed * 15 >= b) & (claimed * 15 < b + 1)
        if inside.any():
            gap = abs(right[inside].mean() - claimed[inside].mean())
            expected += inside.mean() * gap
    assert found["error"] == pytest.approx(expected, abs=1e-12)
    assert 0.1 < found["error"] < 0.3
    assert sum(b["images"] for b in found["bins"]) == 2000
    assert found["bins"][0]["from"] == 0.066667  # nothing below 0.1


def test_edges_lie_in_the_bin_above_and_certainty_in_the_last():
    found = calibration(np.array([3 / 15, 1.0, 14.5 / 15]), np.array([True, True, False]))
    assert [(b["from"], b["images"]) for b in found["bins"]] == [(0.2, 1), (0.933333, 2)]
    assert found["bins"][1]["accuracy"] == 0.5
