"""Find the classes that a network confuses, and its most confident errors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.grad_cam import CELL_INCHES, INK, panel, shortened

Labels = npt.NDArray[np.integer[Any]]

_PAIRS = 20
_PICTURES = 12
_COLUMNS = 4


def confused_pairs(answers: Labels, labels: Labels, classes: Sequence[str]) -> list[dict[str, Any]]:
    """List wrong predictions, the most frequent first; ``share`` is that of the class's images."""
    of_class = np.bincount(labels, minlength=len(classes))
    wrong = answers != labels
    pairs, counts = np.unique(np.stack([labels, answers])[:, wrong], axis=1, return_counts=True)
    return [
        {
            "class": classes[pairs[0, n]],
            "answer": classes[pairs[1, n]],
            "count": int(counts[n]),
            "share": float(counts[n] / of_class[pairs[0, n]]),
        }
        for n in np.argsort(-counts, kind="stable")[:_PAIRS]
    ]


def confident_errors(
    confidences: npt.NDArray[np.float64], answers: Labels, labels: Labels, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the most confident errors; ``image`` is an index into the test split."""
    wrong = np.flatnonzero(answers != labels)
    return [
        {
            "image": int(n),
            "class": classes[labels[n]],
            "answer": classes[answers[n]],
            "confidence": float(confidences[n]),
        }
        for n in wrong[np.argsort(-confidences[wrong], kind="stable")][:_PICTURES]
    ]


def draw_errors(
    path: Path, images: npt.NDArray[np.uint8], errors: Sequence[dict[str, Any]]
) -> None:
    """Write a PNG of the ``images`` of :func:`confident_errors`, at least one.

    Below each are its label and the prediction. Equal arguments give equal bytes.
    """
    rows = -(-len(errors) // _COLUMNS)
    size = 1.3 * CELL_INCHES
    with panel(path, rows, _COLUMNS, (_COLUMNS * size, rows * 1.3 * size)) as (figure, grid):
        for axes, image, error in zip(grid.flat, images, errors, strict=False):
            axes.imshow(image, interpolation="nearest")
            label, answer = (shortened(error[key], 14) for key in ("class", "answer"))
            caption = f"{label}\n{answer} {error['confidence']:.0%}"
            axes.set_xlabel(caption, color=INK, labelpad=3)
        figure.subplots_adjust(left=0.01, right=0.99, top=0.99, bottom=0.22 / rows, hspace=0.35)
