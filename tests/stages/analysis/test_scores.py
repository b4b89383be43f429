"""Scores against scikit-learn's, and their intervals."""

import numpy as np
import pytest
from sklearn import metrics

from stages.analysis.intervals import share_interval
from stages.analysis.scores import ranks, scores


def test_uneven_classes_against_scikit_learn():
    random = np.random.default_rng(3)
    labels = np.repeat(np.arange(7), [40, 3, 9, 20, 5, 1, 12])
    logits = random.normal(size=(len(labels), 7)) + 2 * np.eye(7)[labels]
    found = scores(logits, labels)
    answers = logits.argmax(1)
    expected = {
        "accuracy": metrics.accuracy_score(labels, answers),
        "top5_accuracy": metrics.top_k_accuracy_score(labels, logits, k=5),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, answers),
        "macro_f1": metrics.f1_score(labels, answers, average="macro"),
    }
    assert {name: score["value"] for name, score in found.items()} == pytest.approx(expected)
    for score in found.values():
        assert 0 < score["low"] < score["value"] < score["high"] <= 1
    # The few images of some classes widen the interval of their mean.
    widths = {name: score["high"] - score["low"] for name, score in found.items()}
    assert widths["balanced_accuracy"] > 1.5 * widths["accuracy"]


def test_classes_without_images_do_not_count_and_few_classes_have_no_top5():
    labels, answers = np.array([0, 0, 2, 2]), np.array([0, 1, 2, 2])
    found = scores(np.eye(4)[answers], labels)
    assert found["top5_accuracy"] is None
    assert found["balanced_accuracy"]["value"] == 0.75
    assert found["macro_f1"]["value"] == pytest.approx((2 / 3 + 1) / 2)
    # For even classes this is the accuracy and its interval.
    assert found["balanced_accuracy"] == found["accuracy"]


def test_equal_logits_are_ranked_as_argmax_does():
    logits = np.array([[1.0, 2.0, 2.0, 0.0]] * 4)
    assert ranks(logits, np.arange(4)).tolist() == [2, 0, 1, 3]


def test_wilsons_interval_by_its_published_values():
    """Newcombe (1998), Table I: 81 of 263, 15 of 148, none of 20."""
    for share, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)):
        found = share_interval(share / count, count)
        assert (found["low"], found["high"]) == pytest.approx((low, high), abs=5e-5)
    none = {"value": 0, "low": 0, "high": 0.1611}
    assert share_interval(0.0, 20) == pytest.approx(none, abs=5e-5)
