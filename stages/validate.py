"""Prove that the exported models answer as torch does: on the golden batch and on the test split.

A dynamic model is judged on the whole test split; a static one, which takes images one by one, on
the first :data:`STATIC_IMAGES` of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.checkpoint import load_network
from models.errors import InputError
from stages.analysis.calibration import calibration, confidence
from stages.analysis.intervals import gain
from stages.data.arrays import Images, load_data
from stages.devices.runner import compare, statistics
from stages.entry import run_stage
from stages.files import sha256, write_json
from stages.params import Params, Validate
from stages.progress import track
from stages.runtimes.base import Execution, Job, Runtime, RuntimeFailureError, Times
from stages.runtimes.exported import SHAPES, Exported, load_exported
from stages.runtimes.onnx_runtime import OnnxRuntime
from stages.runtimes.tensorrt_runtime import TensorRtRuntime
from stages.runtimes.torch_runtime import DeployedNetwork, run_torch

STUDENT = Path("artifacts/student/model.safetensors")
REPORT = Path("reports/validation.json")

STATIC_IMAGES = 1000
_BATCH = 128
_OF_ANSWERS = ("accuracy", "drop", "drop_low", "drop_high", "calibration_error")


@dataclass(frozen=True)
class Reference:
    """What every runtime is compared with: torch's logits on the test split and the golden batch.

    Attributes:
        test_logits: float32 ``[N, K]``.
        golden_images: uint8 ``[G, H, W, 3]``.
        golden_logits: float32 ``[G, K]``.
    """

    test: Images
    test_logits: npt.NDArray[np.float32]
    golden_images: npt.NDArray[np.uint8]
    golden_logits: npt.NDArray[np.float32]


def main(params: Params) -> None:
    settings = params.validate_
    tensorrt = TensorRtRuntime()
    absent = "validate.tensorrt is off" if settings.tensorrt == "off" else tensorrt.unavailable()
    if settings.tensorrt == "required" and absent:
        raise InputError(
            f"params.yaml: validate.tensorrt is required, but {absent}; set it to auto or off"
        )
    exported = load_exported()
    reference = _reference(exported, settings)
    runtimes: list[tuple[Runtime, str | None]] = [(OnnxRuntime(), None), (tensorrt, absent)]
    work = [
        (runtime, reason, precision, shape)
        for runtime, reason in runtimes
        for precision in exported.precisions
        if precision in runtime.precisions
        for shape in SHAPES
    ]
    results = [
        validate(runtime, reason, exported, precision, shape, reference, settings)
        for runtime, reason, precision, shape in track(work, "validate")
    ]
    torch_accuracy = _accuracy(reference.test_logits, reference.test.labels)
    write_json(
        REPORT,
        {"torch": {"accuracy": torch_accuracy, "images": len(reference.test)}, "results": results},
    )
    failures = [
        f"{result['file']} in {result['runtime']} ({result['reason']})"
        for result in results
        if result["status"] == "failed"
    ]
    if failures:
        raise InputError(
            f"{REPORT}: {len(failures)} of {len(results)} failed: {'; '.join(failures)}"
        )


def _reference(exported: Exported, settings: Validate) -> Reference:
    """Torch's answers.

    Raises:
        InputError: the exports are of another student, or the golden batch is too small.
    """
    if sha256(STUDENT) != exported.description["student_sha256"]:
        raise InputError(
            f"{STUDENT}: not the student that was exported; run `dvc repro export_onnx`"
        )
    golden_images, golden_logits = exported.golden_batch()
    if max(settings.batch_sizes) > len(golden_images):
        raise InputError(
            f"params.yaml: validate.batch_sizes has {max(settings.batch_sizes)}, more than the"
            f" {len(golden_images)} images of the golden batch; lower it, or raise"
            " export.golden_images"
        )
    data = load_data()
    network = DeployedNetwork(load_network(STUDENT), data.mean, data.std).eval()
    test = data.split("test")
    parts = [
        run_torch(network, Job(test.images[start : start + _BATCH], _BATCH))
        for start in track(range(0, len(test), _BATCH), "validate torch")
    ]
    return Reference(test, np.concatenate(parts), golden_images, golden_logits)


def validate(
    runtime: Runtime,
    absent: str | None,
    exported: Exported,
    precision: str,
    shape: str,
    reference: Reference,
    settings: Validate,
) -> dict[str, Any]:
    """One row of ``reports/validation.json``.

    Args:
        absent: why the runtime cannot run here; the row is then ``skipped``.
    """
    row: dict[str, Any] = {
        "runtime": runtime.name,
        "version": runtime.version(),
        "provider": None,
        "dtypes": None,
        "layers": None,
        "precision": precision,
        "shape": shape,
        "made_by": exported.made_by(precision),
        "file": exported.file(precision, shape).name,
        "status": "skipped",
        "reason": absent,
        "golden": None,
        **dict.fromkeys((*_OF_ANSWERS, "agreement", "images")),
        "latency": None,
    }
    if absent:
        return row
    batch_sizes = settings.batch_sizes if shape == "dynamic" else [1]
    images = len(reference.test) if shape == "dynamic" else min(STATIC_IMAGES, len(reference.test))
    jobs = [Job(reference.golden_images, size) for size in batch_sizes]
    test = reference.test.images.first(images)
    jobs.append(Job(test, _BATCH if shape == "dynamic" else 1))
    try:
        execution = runtime.run(exported.file(precision, shape), jobs)
    except RuntimeFailureError as error:
        return row | {"status": "failed", "reason": str(error)}
    row |= {
        "provider": execution.provider,
        "dtypes": execution.dtypes,
        "layers": execution.layers,
        "latency": _latency(execution.times),
    }
    row |= _figures(execution, batch_sizes, reference, images)
    breaches = list(_breaches(row, precision, settings))
    return row | {
        "status": "failed" if breaches else "passed",
        "reason": ", ".join(breaches) or None,
    }


def _latency(times: Times | None) -> dict[str, Any] | None:
    if times is None:
        return None
    return {"batch_size": 1, "gpu": statistics(times.gpu_ms), "wall": statistics(times.wall_ms)}


def _figures(
    execution: Execution, batch_sizes: list[int], reference: Reference, images: int
) -> dict[str, Any]:
    """The figures of a row; the golden batch's are the worst of its batch sizes."""
    *golden, logits = execution.logits
    parities = [compare(found, reference.golden_logits) for found in golden]
    theirs = reference.test_logits[:images]
    whole = compare(logits, theirs)
    figures: dict[str, Any] = {"images": images, "agreement": whole["top1_agreement"]}
    figures |= dict.fromkeys(_OF_ANSWERS)
    if figures["agreement"] is not None:
        labels = reference.test.labels[:images]
        figures["accuracy"] = _accuracy(logits, labels)
        right = logits.argmax(1) == labels
        lost = gain(theirs.argmax(1) == labels, right, paired=True)
        figures |= {"drop": lost.gain, "drop_low": lost.low, "drop_high": lost.high}
        figures["calibration_error"] = calibration(confidence(logits), right)["error"]
    worst: dict[str, Any] = {}
    for key, choose in (("max_relative_error", max), ("cosine", min), ("top1_agreement", min)):
        values = [parity[key] for parity in parities]
        worst[key] = (
            None if None in values else choose(value for value in values if value is not None)
        )
    figures["golden"] = {**worst, "batch_sizes": batch_sizes}
    return figures


def _breaches(row: dict[str, Any], precision: str, settings: Validate) -> Iterator[str]:
    error, agreement = row["golden"]["max_relative_error"], row["agreement"]
    if error is None or agreement is None:
        yield "logits of another shape than torch's, or not finite"
        return
    limits = {"fp32": settings.max_relative_error_fp32, "fp16": settings.max_relative_error_fp16}
    limit = limits.get(precision)
    if limit is not None and error > limit:
        yield f"relative error {error:.1e} is above {limit:.1e}"
    if limit is None and agreement < settings.min_agreement_int8:
        yield f"agreement with torch {agreement:.3f} is below {settings.min_agreement_int8}"


def _accuracy(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    return float((logits.argmax(1) == labels).mean())


if __name__ == "__main__":
    run_stage(main)
