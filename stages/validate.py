"""Prove that the exported models answer as torch does: on the golden batch and on the test split.

A precision fails where either of its shapes fails in any runtime; one that ``export.required`` does
not name is then left out of what follows. A dynamic model is judged on the whole test split; a
static one, which takes images one by one, on the first :data:`STATIC_IMAGES` of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.errors import InputError
from stages.devices.runner import outcome, statistics
from stages.entry import run_stage
from stages.files import write_json
from stages.params import Params
from stages.progress import track
from stages.runtimes.base import Job, Runtime, RuntimeFailureError, Times
from stages.runtimes.exported import SHAPES, Exported, load_exported
from stages.runtimes.onnx_runtime import OnnxRuntime
from stages.runtimes.parity import (
    BATCH,
    OF_ANSWERS,
    Reference,
    accuracy,
    breaches,
    figures,
    read_reference,
)
from stages.runtimes.tensorrt_runtime import TensorRtRuntime
from stages.sections.export import Validate

REPORT = Path("reports/validation.json")

STATIC_IMAGES = 1000


def main(params: Params) -> None:
    settings = params.validate_
    tensorrt = TensorRtRuntime()
    absent = tensorrt.left_out(settings)
    exported = load_exported()
    for precision in params.export.required:
        if precision in exported.failed:
            raise InputError(
                f"params.yaml: export.required names {precision}, which was"
                f" {exported.failed[precision]}; take it out, or choose another student"
            )
    reference = read_reference(exported, "validate")
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
    torch_accuracy = accuracy(reference.test_logits, reference.test.labels)
    write_json(
        REPORT,
        {"torch": {"accuracy": torch_accuracy, "images": len(reference.test)}, "results": results},
    )
    failures: dict[str, list[str]] = {}
    for result in results:
        if result["status"] == "failed":
            failure = f"{result['file']} in {result['runtime']} ({result['reason']})"
            failures.setdefault(result["precision"], []).append(failure)
    for name, found in failures.items():
        if name not in params.export.required:
            print(f"validate: {name} is left out: {'; '.join(found)}", flush=True)
    missed = [found for name in params.export.required for found in failures.get(name, [])]
    if missed:
        raise InputError(
            f"{REPORT}: {len(missed)} of {len(results)} failed: {'; '.join(missed)};"
            f" export.required needs {', '.join(params.export.required)}: change that in"
            " params.yaml, or the limits of validate"
        )


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
        **dict.fromkeys((*OF_ANSWERS, "agreement", "images")),
        "latency": None,
    }
    if absent:
        return row
    golden = len(reference.golden_images)
    sizes = settings.batch_sizes if shape == "dynamic" else [1]
    batch_sizes = list(dict.fromkeys(min(size, golden) for size in sizes))
    images = len(reference.test) if shape == "dynamic" else min(STATIC_IMAGES, len(reference.test))
    jobs = [Job(reference.golden_images, size) for size in batch_sizes]
    test = reference.test.images.first(images)
    jobs.append(Job(test, BATCH if shape == "dynamic" else 1))
    try:
        execution = runtime.run(exported.file(precision, shape), jobs)
    except RuntimeFailureError as error:
        return row | outcome(str(error))
    row |= {
        "provider": execution.provider,
        "dtypes": execution.dtypes,
        "layers": execution.layers,
        "latency": _latency(execution.times),
    }
    row |= figures(execution, batch_sizes, reference, images)
    return row | outcome(", ".join(breaches(row, precision, settings)) or None)


def _latency(times: Times | None) -> dict[str, Any] | None:
    if times is None:
        return None
    return {"batch_size": 1, "gpu": statistics(times.gpu_ms), "wall": statistics(times.wall_ms)}


if __name__ == "__main__":
    run_stage(main)
