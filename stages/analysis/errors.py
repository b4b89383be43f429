"""Where a network errs: the classes that it confuses, and the errors that it is surest of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from stages.grad_cam import CELL_INCHES, INK

Labels = npt.NDArray[np.integer[Any]]

_PAIRS = 20
_PICTURES = 12
_COLUMNS = 4


def confused_pairs(answers: Labels, labels: Labels, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The class of an image and the wrong answer, the most frequent pairs first.

    ``share`` is that of the images of the class.
    """
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
    """The wrong answers of the greatest confidence; ``image`` counts in the test split from 0."""
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

    Below each is its label, then the answer. Equal arguments give equal bytes.
    """
    rows = -(-len(errors) // _COLUMNS)
    # A class may be called "$".
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 9, "text.parse_math": False}):
        size = 1.3 * CELL_INCHES
        figure = Figure(figsize=(_COLUMNS * size, rows * 1.3 * size), dpi=160)
        grid = figure.subplots(rows, _COLUMNS, squeeze=False)
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for axes, image, error in zip(grid.flat, images, errors, strict=False):
            axes.imshow(image, interpolation="nearest")
            label, answer = (_short(error[key]) for key in ("class", "answer"))
            caption = f"{label}\n{answer} {error['confidence']:.0%}"
            axes.set_xlabel(caption, color=INK, labelpad=3)
        figure.subplots_adjust(left=0.01, right=0.99, top=0.99, bottom=0.22 / rows, hspace=0.35)
        figure.savefig(path, format="png", transparent=True, metadata={"Software": None})


def _short(name: str) -> str:
    return name if len(name) <= 14 else f"{name[:13]}…"
