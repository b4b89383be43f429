"""Search which operators must stay in float for an int8 model to keep its accuracy.

The search uses images that neither train weights nor calibrate ranges. Its order is fixed and does
not depend on time, so exports of the same student on the same machine are byte-identical.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from scipy.special import log_softmax

from stages.analysis.intervals import gain
from stages.data.arrays import DataSet, spread
from stages.quantization.int8 import Calibration, kinds, quantize
from stages.runtimes.base import Job
from stages.runtimes.onnx_runtime import OnnxRuntime

_BATCH = 64
_IMAGES = 1000
#: Without entropy, which takes ten times as long to calibrate (measured on a MobileNetV3).
_RANGES = ("minmax", "percentile")


@dataclass(frozen=True)
class Trial:
    """A quantization, and its result on the held-back images."""

    ranges: str  # the calibration method
    in_float: tuple[str, ...]
    """Kinds of operators that are not quantized; see :func:`stages.quantization.int8.kinds`."""
    lost: int  # images that only fp32 classifies correctly, minus those that only int8 does
    drop_low: float  # lower end of the 95 % interval of its drop in accuracy
    divergence: float  # mean KL divergence of its predictions from fp32's, in nats


def held_back(
    data: DataSet, calibration: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Choose at most :data:`_IMAGES` validation images ``[N, H, W, 3]`` with labels ``[N]``.

    If validation uses the test images, training images are chosen instead, if possible none of the
    ``calibration`` images for ranges.
    """
    own = not data.validates_on_test
    split = data.split("val" if own else "train")
    rows = np.arange(len(split))
    if not own and calibration < len(split):
        rows = np.setdiff1d(rows, spread(len(split), calibration))
    rows = rows[spread(len(rows), _IMAGES)]
    return split.images[rows], split.labels[rows]


class Search:
    """Trials of quantizing an fp32 model with a dynamic batch.

    Args:
        max_drop: accuracy that may be lost on the held-back images; a single image always may.
        calibrations: returns the result of :func:`stages.quantization.int8.calibrate` for a method.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int64],
        max_drop: float,
        calibrations: Callable[[str], Calibration],
    ) -> None:
        self._model, self._images, self._labels = model, images, labels
        self._calibrations = calibrations
        self._max_drop, self._allowed = max_drop, max(1, int(max_drop * len(images)))
        self._log_probabilities = self._predict(model)
        self._right = self._log_probabilities.argmax(1) == labels

    def run(self, precision: str, method: str) -> list[Trial]:
        """Return all trials in order; the last one is to be exported.

        Ranges do not change the speed, so those of ``method`` and others are all tried, and the
        least divergence decides, which is less noisy than accuracy. If the best ranges lose too
        much, and significantly, each kind of operator is kept in float alone, then more and more
        kinds together, the most helpful first, until the model is good enough; kinds that turn out
        to be unnecessary are quantized again. If no model is good enough, the last trial is the one
        with the least divergence.
        """
        tried: list[Trial] = []

        def good_enough(ranges: str, in_float: Iterable[str] = ()) -> bool:
            tried.append(self._try(precision, ranges, tuple(in_float)))
            return tried[-1].lost <= self._allowed

        for ranges in dict.fromkeys((method, *_RANGES)):
            good_enough(ranges)
        quantized = best(tried)
        if quantized.lost <= self._allowed or quantized.drop_low <= self._max_drop:
            return [*tried, quantized]
        start = quantized.ranges
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
        """Summarise the search as a clause."""
        last, kept, whole = tried[-1], "", ""
        if last.in_float:
            kept = f" with {' and '.join(last.in_float)} in float"
            whole = f", {best(t for t in tried if not t.in_float).lost} with nothing in float"
        return (
            f"has {last.ranges} ranges{kept}, the best of {len(set(tried))} trials: loses"
            f" {last.lost} of {len(self._labels)} held-back images{whole}"
        )

    def _try(self, precision: str, ranges: str, in_float: tuple[str, ...]) -> Trial:
        model = quantize(self._model, precision, self._calibrations(ranges), in_float)
        log_probabilities = self._predict(model)
        right = log_probabilities.argmax(1) == self._labels
        reference = self._log_probabilities
        divergence = (np.exp(reference) * (reference - log_probabilities)).sum(1).mean()
        lost = int(self._right.sum() - right.sum())
        drop_low = gain(self._right, right, paired=True).low
        return Trial(ranges, in_float, lost, drop_low, float(divergence))

    def _predict(self, model: onnx.ModelProto) -> npt.NDArray[np.float64]:
        # Not from a file, whose temporary path would be in the reason of a failure.
        content = model.SerializeToString()
        (logits,) = OnnxRuntime().run(content, [Job(self._images, _BATCH)]).logits
        found: npt.NDArray[np.float64] = log_softmax(logits.astype(np.float64), axis=1)
        return found


def best(trials: Iterable[Trial]) -> Trial:
    """Return the trial with the least divergence; the first of several."""
    return min(trials, key=lambda trial: trial.divergence)
