"""What stays in float, so that an int8 model answers nearly as well as its fp32 model does.

Decided by images that train no weights and calibrate no range, in a fixed order and without a
clock, so that two exports of one student on one machine are byte-identical.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import TensorsData
from scipy.special import log_softmax

from stages.analysis.intervals import gain
from stages.data.arrays import DataSet, spread
from stages.quantization.int8 import kinds, quantize
from stages.runtimes.base import Job
from stages.runtimes.onnx_runtime import OnnxRuntime

_BATCH = 64
_IMAGES = 1000
#: Without entropy, whose ranges took ten times as long to find for a MobileNetV3.
_RANGES = ("minmax", "percentile")


@dataclass(frozen=True)
class Trial:
    """A way to quantize, and how it did on the images held back.

    Attributes:
        ranges: the calibration method.
        in_float: kinds of operators that are not quantized, see
            :func:`stages.quantization.int8.kinds`.
        lost: images that fp32 answers rightly and it does not, less those the other way round.
        drop_low: accuracy that it loses at least, the lower end of a 95 % interval.
        divergence: mean KL divergence of its predictions from fp32's, in nats.
    """

    ranges: str
    in_float: tuple[str, ...]
    lost: int
    drop_low: float
    divergence: float


def held_back(
    data: DataSet, calibration: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """At most :data:`_IMAGES` images ``[N, H, W, 3]`` that train no weights, and labels ``[N]``.

    Where the validation images are those of the test, which must decide nothing, it is training
    images instead, and if possible none of the ``calibration`` that ranges are calibrated on.
    """
    splits = data.manifest["splits"]
    own = splits["val"]["images_sha256"] != splits["test"]["images_sha256"]
    split = data.split("val" if own else "train")
    rows = np.arange(len(split))
    if not own and calibration < len(split):
        rows = np.setdiff1d(rows, spread(len(split), calibration))
    rows = rows[spread(len(rows), _IMAGES)]
    return split.images[rows], split.labels[rows]


class Search:
    """Tries of one fp32 model with a dynamic batch.

    Args:
        model: as exported by :func:`stages.export_onnx.export_network`.
        images: ``[N, H, W, 3]``, and
        labels: ``[N]``, by :func:`held_back`.
        max_drop: accuracy that may be lost on them; a single image always may.
        ranges: gives what :func:`stages.quantization.int8.calibrate` finds by a method.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int64],
        max_drop: float,
        ranges: Callable[[str], TensorsData],
    ) -> None:
        self._model, self._images, self._labels, self._ranges = model, images, labels, ranges
        self._max_drop, self._allowed = max_drop, max(1, int(max_drop * len(images)))
        self._log_probabilities = self._predict(model)
        self._right = self._log_probabilities.argmax(1) == labels

    def run(self, precision: str, method: str) -> list[Trial]:
        """All tries in order, of which the last is to be exported.

        ``method`` comes first, and stays unless it loses too much by more than chance. Other ranges
        are next. Then each kind of operator is kept in float alone, and after that more and more of
        them, the most helpful first, until the model is good enough; what was not needed for that
        is quantized again. If it never is good enough, the last is the one of the least divergence.
        """
        tried: list[Trial] = []

        def good_enough(ranges: str, in_float: Iterable[str] = ()) -> bool:
            tried.append(self._try(precision, ranges, tuple(in_float)))
            return tried[-1].lost <= self._allowed

        for ranges in dict.fromkeys((method, *_RANGES)):
            if good_enough(ranges) or tried[0].drop_low <= self._max_drop:
                return tried
        start = best(tried).ranges
        for kind in kinds(self._model.graph):
            good_enough(start, [kind])
        alone = sorted((t for t in tried if t.in_float), key=lambda trial: trial.divergence)
        in_float: list[str] = []
        for trial in alone:
            in_float += trial.in_float
            if good_enough(start, in_float):
                break
        else:
            return [*tried, best(tried)]
        chosen = tried[-1]
        for kind in in_float[:-1]:
            fewer = [other for other in chosen.in_float if other != kind]
            if good_enough(start, fewer):
                chosen = tried[-1]
        return [*tried, chosen]

    def outcome(self, tried: list[Trial]) -> str:
        """A clause about what was found."""
        first, last, total = tried[0], tried[-1], len(self._labels)
        kept = f", with {' and '.join(last.in_float)} in float" if last.in_float else ""
        return (
            f"loses {last.lost} of {total} images held back, {first.lost} before: {last.ranges}"
            f" ranges{kept}, the best of {len(tried)} tries"
        )

    def _try(self, precision: str, ranges: str, in_float: tuple[str, ...]) -> Trial:
        model = quantize(self._model, precision, self._ranges(ranges), in_float)
        log_probabilities = self._predict(model)
        right = log_probabilities.argmax(1) == self._labels
        reference = self._log_probabilities
        divergence = (np.exp(reference) * (reference - log_probabilities)).sum(1).mean()
        lost = int(self._right.sum() - right.sum())
        drop_low = gain(self._right, right, paired=True).low
        return Trial(ranges, in_float, lost, drop_low, float(divergence))

    def _predict(self, model: onnx.ModelProto) -> npt.NDArray[np.float64]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            onnx.save(model, path)
            (logits,) = OnnxRuntime().run(path, [Job(self._images, _BATCH)]).logits
        found: npt.NDArray[np.float64] = log_softmax(logits.astype(np.float64), axis=1)
        return found


def best(trials: Iterable[Trial]) -> Trial:
    """The one of the least divergence; the first of several."""
    return min(trials, key=lambda trial: trial.divergence)
