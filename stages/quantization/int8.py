"""The int8 models of an export: calibrated, and fine-tuned where calibration alone lost too much.

What is decided is decided on validation images. Where those are the test images, which must not
decide anything, training images take their place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnxruntime.quantization import TensorsData

from models.networks.checkpoint import load_network
from stages.data.arrays import DataSet, ImageFile
from stages.data.feed.base import FeedPlan
from stages.data.feed.choice import build_feed
from stages.data.feed.normalize import Normalize
from stages.params import Params
from stages.quantization.finetune import finetune
from stages.quantization.network import QuantizedNetwork, with_weights
from stages.quantize import calibrate, quantize
from stages.runtimes.base import Job
from stages.runtimes.onnx_runtime import OnnxRuntime
from stages.training.device import prepare_device
from stages.training.inference import FrozenNetwork

Models = dict[str, onnx.ModelProto]

#: Training images to decide on, where there are no validation images: more say little more.
_TRAINING_IMAGES = 5000
_BATCH = 64
# Drops are differences: 0.98 - 0.975 shall not be more than 0.005.
_ROUNDING = 1e-9


class Made(NamedTuple):
    """One precision: its models by shape, and how they came about, for ``model.json``."""

    models: Models
    description: dict[str, Any]


@dataclass(frozen=True)
class Referees:
    """Labelled images ``[N, H, W, 3]`` that decide whether a model is good enough."""

    split: str
    images: ImageFile | npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def __str__(self) -> str:
        kind = {"val": "validation", "train": "training"}[self.split]
        return f"{len(self.labels):,} {kind} images"


@dataclass(frozen=True)
class Answers:
    """A model's logits ``[N, K]`` on the referees, and the share that is right."""

    logits: npt.NDArray[np.float32]
    accuracy: float


class Int8Maker:
    """Makes the int8 models of a student.

    Args:
        float32: its fp32 models by shape.
        student: its weights.
        calibration: training images ``[N, H, W, 3]``.
        data: what it was trained on.
        params: ``export``, and how training images are augmented.
        scratch: a folder for what is not kept.
    """

    def __init__(
        self,
        float32: Mapping[str, onnx.ModelProto],
        student: Path,
        calibration: npt.NDArray[np.uint8],
        data: DataSet,
        params: Params,
        scratch: Path,
    ) -> None:
        self.float32, self.student, self.calibration = float32, student, calibration
        self.data, self.params, self.scratch = data, params, scratch

    def make(self, precision: str) -> Made:
        """``int8_u8s8`` or ``int8_s8s8``.

        Raises:
            NotImplementedError: fine-tuning is needed, but does not know the network's operators.
            FloatingPointError: its loss is not finite.
            Exception: what onnxruntime raises where it cannot quantise the network.
        """
        export = self.params.export
        calibrated = self._quantize(precision, self.float32)
        description: dict[str, Any] = {
            "made_by": "calibration",
            "calibration": {"method": export.calibration_method, "images": len(self.calibration)},
            "decided_on": None,
        }
        if export.finetune.when == "never":
            return Made(calibrated, description)

        before = self._answers(calibrated["dynamic"])
        drop = self._fp32.accuracy - before.accuracy
        decided = {
            "split": self._referees.split,
            "images": len(self._referees.labels),
            "fp32": self._fp32.accuracy,
            "calibrated": before.accuracy,
            "finetuned": None,
        }
        description["decided_on"] = decided
        too_much = drop > export.finetune.max_drop + _ROUNDING
        _say(
            f"{precision}: calibrated, {before.accuracy:.2%} of {self._referees} against"
            f" {self._fp32.accuracy:.2%} in fp32; a drop of {100 * drop:.2f} points is"
            f" {'more than' if too_much else 'within'} export.finetune.max_drop,"
            f" {100 * export.finetune.max_drop:.2f}"
        )
        if not too_much:
            return Made(calibrated, description)
        tuned = self._finetune(precision, calibrated["dynamic"], before)
        after = self._answers(tuned["dynamic"])
        decided["finetuned"] = after.accuracy
        # Of two that are equally often right, the one whose answers are nearer to the student's.
        better = (after.accuracy, -self._distance(after)) > (
            before.accuracy,
            -self._distance(before),
        )
        recovered = 100 * (after.accuracy - before.accuracy)
        _say(
            f"{precision}: fine-tuned, {after.accuracy:.2%}: recovered {recovered:+.2f} of"
            f" {100 * drop:.2f} points"
            + ("" if better else "; that is no better, so the calibrated model is kept")
        )
        if not better:
            return Made(calibrated, description)
        return Made(tuned, description | {"made_by": "fine-tuning"})

    def _quantize(self, precision: str, models: Mapping[str, onnx.ModelProto]) -> Models:
        """With the ranges of the student as it is, which fine-tuning was done with too."""
        return {
            shape: quantize(model, precision, self._ranges[shape])
            for shape, model in models.items()
        }

    def _finetune(self, precision: str, calibrated: onnx.ModelProto, before: Answers) -> Models:
        settings = self.params.export.finetune
        device = prepare_device()
        network = QuantizedNetwork(self.float32["dynamic"], calibrated, device)
        student = FrozenNetwork(load_network(self.student).to(device))
        plan = FeedPlan(self.data, self.params.augmentation, settings.batch_size, device)
        feed = build_feed(plan, self.params.data.feed)
        normalize = Normalize(self.data.mean, self.data.std, device)

        def watch(epoch: int, loss: float) -> None:
            with torch.no_grad():
                job = Job(self._referees.images, _BATCH)
                answers = [network(normalize(part)).argmax(1).cpu() for part in job.batches()]
            accuracy = float((torch.cat(answers).numpy() == self._referees.labels).mean())
            _say(
                f"{precision}: fine-tuning, epoch {epoch} of {settings.epochs}: loss {loss:.5f},"
                f" {accuracy:.2%}, recovered {100 * (accuracy - before.accuracy):+.2f} points"
            )

        finetune(network, student, feed, settings, watch)
        weights = network.trained()
        return self._quantize(
            precision, {shape: with_weights(m, weights) for shape, m in self.float32.items()}
        )

    @cached_property
    def _ranges(self) -> dict[str, TensorsData]:
        method = self.params.export.calibration_method
        return {
            shape: calibrate(model, self.calibration, method)
            for shape, model in self.float32.items()
        }

    @cached_property
    def _referees(self) -> Referees:
        splits = self.data.manifest["splits"]
        if splits["val"]["images_sha256"] != splits["test"]["images_sha256"]:
            val = self.data.split("val")
            return Referees("val", val.images, val.labels)
        train = self.data.split("train")
        count = min(_TRAINING_IMAGES, len(train))
        rows = np.arange(count) * len(train) // count
        return Referees("train", train.images[rows], train.labels[rows])

    @cached_property
    def _fp32(self) -> Answers:
        return self._answers(self.float32["dynamic"])

    def _answers(self, model: onnx.ModelProto) -> Answers:
        """In onnxruntime, as they will be on a device."""
        path = self.scratch / "referees.onnx"
        onnx.save(model, path)
        (logits,) = OnnxRuntime().run(path, [Job(self._referees.images, _BATCH)]).logits
        return Answers(logits, float((logits.argmax(1) == self._referees.labels).mean()))

    def _distance(self, answers: Answers) -> float:
        """From the student's logits, the mean square."""
        return float(np.square(answers.logits - self._fp32.logits, dtype=np.float64).mean())


def _say(text: str) -> None:
    print(f"export: {text}", flush=True)
