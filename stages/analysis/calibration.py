"""Measure whether a network is right as often as its confidence claims."""

from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 15


def confidence(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Return the probability of each predicted class: ``[N, K]`` to ``[N]``."""
    exact = logits.astype(np.float64)
    return np.asarray(1 / np.exp(exact - exact.max(1, keepdims=True)).sum(1))


def calibration(
    confidences: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    """Compute the expected calibration error and its reliability diagram.

    ``ECE = sum_b n_b/N |accuracy_b - confidence_b|`` over 15 bins of equal width (Naeini et al.
    2015; Guo et al. 2017, Eq. 3-5). As in torchmetrics, a bin includes its lower edge; the last one
    also includes confidence 1, for which torchmetrics has a sixteenth.

    Args:
        confidences: ``[N]``, of the predicted classes.
        right: ``[N]``, whether each prediction is the label.

    Returns:
        ``error``, and for each bin that is not empty its lower edge ``from``, its number of
        ``images``, and their mean ``confidence`` and ``accuracy``.
    """
    edges = np.linspace(0, 1, BINS + 1)
    index = np.digitize(confidences, edges[1:-1])
    counts = np.bincount(index, minlength=BINS)
    claimed = np.bincount(index, confidences, minlength=BINS)
    kept = np.bincount(index, right, minlength=BINS)
    return {
        "error": float(np.abs(kept - claimed).sum() / len(right)),
        "bins": [
            {
                "from": round(i / BINS, 6),
                "images": int(counts[i]),
                "confidence": float(claimed[i] / counts[i]),
                "accuracy": float(kept[i] / counts[i]),
            }
            for i in np.flatnonzero(counts).tolist()
        ],
    }
