"""Compute the usual measures of accuracy, each with its 95 % interval."""

from typing import Any

import numpy as np
import numpy.typing as npt

from stages.analysis.intervals import share_interval

Labels = npt.NDArray[np.integer[Any]]

#: The k of top-k accuracy, which is computed only if there are more classes.
TOP5 = 5

_RESAMPLES = 1000


def ranks(logits: npt.NDArray[np.floating[Any]], labels: Labels) -> Labels:
    """Count the classes ranked before the label, of equal ones the first: ``[N, K]`` to ``[N]``."""
    own = logits[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    before: Labels = ((logits > own) | ((logits == own) & earlier)).sum(1)
    return before


def balanced_accuracy(right: npt.NDArray[np.bool_], labels: Labels) -> float:
    """Return the mean over classes of the fraction of their images that are ``right``."""
    counts = np.bincount(labels)
    return float((np.bincount(labels, right)[counts > 0] / counts[counts > 0]).mean())


def scores(logits: npt.NDArray[np.floating[Any]], labels: Labels) -> dict[str, Any]:
    """Compute each measure as ``{"value", "low", "high"}``; top-5 is None up to five classes.

    Classes without images are ignored. The interval of the balanced accuracy is that of an accuracy
    on the effective number of images, which would give the mean its variance if all classes were
    equally hard. That of macro F1 is a bootstrap within each class.
    """
    place, classes = ranks(logits, labels), logits.shape[1]
    counts = np.bincount(labels, minlength=classes)
    counts = counts[counts > 0]
    balanced = balanced_accuracy(place == 0, labels)
    top5 = share_interval(float((place < TOP5).mean()), len(labels)) if classes > TOP5 else None
    return {
        "accuracy": share_interval(float((place == 0).mean()), len(labels)),
        "top5_accuracy": top5,
        "balanced_accuracy": share_interval(balanced, len(counts) ** 2 / (1 / counts).sum()),
        "macro_f1": _macro_f1_interval(logits.argmax(1), labels),
    }


def _macro_f1(answers: Labels, labels: Labels) -> float:
    size = int(max(answers.max(), labels.max())) + 1
    kept, given, counts = (
        np.bincount(found, minlength=size) for found in (labels[answers == labels], answers, labels)
    )
    present = counts > 0
    return float((2 * kept[present] / (given + counts)[present]).mean())


def _macro_f1_interval(answers: Labels, labels: Labels) -> dict[str, float]:
    order = np.argsort(labels, kind="stable")
    answers, labels = answers[order], labels[order]
    counts = np.bincount(labels)
    first, count = (np.cumsum(counts) - counts)[labels], counts[labels]
    random = np.random.default_rng(0)
    drawn = [
        _macro_f1(answers[first + (random.random(len(labels)) * count).astype(np.int64)], labels)
        for _ in range(_RESAMPLES)
    ]
    value = _macro_f1(answers, labels)
    low, high = np.quantile(drawn, (0.025, 0.975)).tolist()
    return {"value": value, "low": min(low, value), "high": max(high, value)}
